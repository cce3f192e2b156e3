//! The application's connect() tells the truth, as if mtlsd were not there.

use std::net::SocketAddr;

use mtls_tests::lab::Output;
use mtls_tests::{Pair, STRICT_PAIR};

/// What connect() said, blocking and non-blocking; both must agree.
#[track_caller]
fn connect(pair: &Pair, to: SocketAddr) -> String {
    let probe =
        |more: &[&str]| pair.web().own("probe").args(["connect", &to.to_string()]).args(more).run().ok();
    let said = |output: Output| {
        let text = output.text();
        let first: serde_json::Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        first["connect"].as_str().expect("a text").to_owned()
    };
    let (blocking, non_blocking) = (said(probe(&[])), said(probe(&["--nonblocking"])));
    assert_eq!(blocking, non_blocking, "blocking and non-blocking connect() differ on {to}");
    blocking
}

#[test]
fn success_is_success() {
    let pair = Pair::strict();
    for to in pair.http() {
        assert_eq!(connect(&pair, to), "ok");
    }
}

#[test]
fn a_port_on_which_no_application_listens_is_refused() {
    let pair = Pair::strict();
    for to in [pair.db().at(9999), pair.db().at6(9999)] {
        assert_eq!(connect(&pair, to), "ECONNREFUSED");
        let record = pair.daemon.wait_for_log("web's record", |r| {
            !r.inbound() && r.refused() && r.destination() == to.to_string()
        });
        let reasons = [record.reason(), record.remote_reason()];
        assert!(reasons.contains(&"application_refused") || reasons.contains(&"dial_refused"), "{record:?}");
    }
}

#[test]
fn a_host_of_the_directory_without_any_daemon_or_listener_is_refused() {
    let directory = "directory: [ { name: gone, addresses: [\"$out.v4\", \"$out.v6\"], spiffe_ids: [\"spiffe://example.org/gone\"] } ]\n";
    let pair = Pair::with(directory);
    for to in [pair.out().at(9999), pair.out().at6(9999)] {
        assert_eq!(connect(&pair, to), "ECONNREFUSED");
    }
    let labels = [("workload", "web"), ("reason", "dial_refused")];
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 4.0);
}

#[test]
fn an_address_without_a_host_is_unreachable() {
    let directory = "directory: [ { name: nobody, addresses: [10.77.0.99, \"fd00:77::99\"], spiffe_ids: [\"spiffe://example.org/nobody\"] } ]\n";
    let pair = Pair::with(directory);
    // Three neighbour probes a second apart are the default: the same answer comes sooner.
    for family in ["ipv4", "ipv6"] {
        pair.web().sysctl(&format!("net.{family}.neigh.eth0.retrans_time_ms"), "100");
    }
    for to in ["10.77.0.99:80", "[fd00:77::99]:80"] {
        assert_eq!(connect(&pair, to.parse().expect("an address")), "EHOSTUNREACH", "{to}");
    }
    let labels = [("workload", "web"), ("reason", "dial_unreachable")];
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 4.0);
    // And without mtlsd it is the same: the address next to it is in no directory.
    assert_eq!(connect(&pair, "10.77.0.98:80".parse().expect("an address")), "EHOSTUNREACH");
}

#[test]
fn a_host_that_answers_nothing_at_all_is_a_timeout() {
    let directory = "directory: [ { name: hole, addresses: [10.77.0.97, \"fd00:77::97\"], spiffe_ids: [\"spiffe://example.org/hole\"] } ]\n";
    let pair = Pair::with(directory);
    // A neighbour by decree, whom nobody is: packets go out and nothing comes back.
    for address in ["10.77.0.97", "fd00:77::97"] {
        let lladdr = "02:77:00:00:00:97";
        pair.web()
            .run(&["ip", "neigh", "replace", address, "lladdr", lladdr, "dev", "eth0", "nud", "permanent"])
            .ok();
    }
    // 3 s instead of 2 min.
    pair.web().sysctl("net.ipv4.tcp_syn_retries", "1");
    for to in ["10.77.0.97:80", "[fd00:77::97]:80"] {
        assert_eq!(connect(&pair, to.parse().expect("an address")), "ETIMEDOUT", "{to}");
    }
    let labels = [("workload", "web"), ("reason", "dial_timeout")];
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 4.0);
}

#[test]
fn a_server_that_takes_the_connection_and_says_nothing_is_unreachable() {
    let directory = "directory: [ { name: mute, addresses: [\"$out.v4\", \"$out.v6\"], spiffe_ids: [\"spiffe://example.org/mute\"] } ]\n";
    let pair = Pair::with(&format!("timeouts: {{ handshake: 1s }}\n{directory}"));
    let _mute = mtls_tests::programs::probe(pair.out(), 7000, &[]);
    for to in [pair.out().at(7000), pair.out().at6(7000)] {
        assert_eq!(connect(&pair, to), "EHOSTUNREACH", "{to}");
    }
    let labels = [("workload", "web"), ("reason", "handshake_timeout")];
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 4.0);
}

#[test]
fn a_destination_that_policy_denies_on_the_same_node_is_a_permission_error() {
    let rule = "  - { name: not-db, action: deny, to: { workloads: [db], ports: [80] } }\n";
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{rule}"));
    for to in pair.http() {
        let said = connect(&pair, to);
        assert!(said == "EACCES" || said == "EPERM", "{said}");
    }
    // Only that port is denied.
    for to in [pair.db().at(81), pair.db().at6(81)] {
        assert_eq!(connect(&pair, to), "ok");
    }
    pair.daemon.wait_metric("mtlsd_policy_denials_total", &[("rule", "not-db")], 1.0);
}

#[test]
fn a_destination_outside_the_directory_is_a_permission_error_if_the_workload_may_not_leave_it() {
    let yaml = STRICT_PAIR.replacen("{ name: web,", "{ name: web, unknown_destinations: deny,", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    for to in [pair.out().at(80), pair.out().at6(80)] {
        let said = connect(&pair, to);
        assert!(said == "EACCES" || said == "EPERM", "{said}");
    }
    pair.works();
    pair.daemon.wait_for_log("the denial", |r| r.reason() == "unknown_destination" && r.workload() == "web");
}

#[test]
fn a_server_that_refuses_us_fails_the_connect_in_the_default_mode() {
    let yaml =
        STRICT_PAIR.replace("trust_domains: [example.org]", "spiffe_ids: [\"spiffe://example.org/web\"]");
    let mut lab = mtls_tests::Lab::new(&["web"]);
    lab.add_node("n2");
    lab.add_pod("n2", "db");
    lab.add_pod("n2", "out");
    // Another node's daemon decides, so the client's node cannot know beforehand.
    let mut there = lab.prepare(
        "n2",
        &yaml.replace(
            "  - { name: web, select: { netns: $web.netns }, addresses: [\"$web.v4\", \"$web.v6\"] }\n",
            "",
        ),
    );
    let here = lab.prepare(
        mtls_tests::lab::NODE,
        r#"
workloads: [ { name: other, select: { netns: $web.netns } } ]
directory: [ { name: db, addresses: ["$db.v4", "$db.v6"], spiffe_ids: ["spiffe://example.org/db"] } ]
"#,
    );
    here.ca_init();
    there.share_ca(&here);
    there.start();
    let nginx = mtls_tests::programs::nginx(lab.pod("db"), 80);
    let mut here = here;
    here.start();
    let pair = Pair { daemon: here, nginx, lab };
    for to in pair.http() {
        let said = connect(&pair, to);
        // ICMP has no "permission denied" for IPv4: administratively prohibited is EHOSTUNREACH there.
        let wanted = if to.is_ipv4() { "EHOSTUNREACH" } else { "EACCES" };
        assert_eq!(said, wanted);
    }
    let record = pair.daemon.wait_for_log("the client's record", |r| !r.inbound() && r.refused());
    assert!([record.reason(), record.remote_reason()].contains(&"policy_default"), "{record:?}");
    there.stop();
}
