//! `direct` from end to end: two nodes, two daemons, applications that know nothing of it.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct`).

use std::net::SocketAddr;

use mtls_kube_double::{Double, json};
use mtls_tests::direct::{Address, HTTP, World, direct_records, records};
use mtls_tests::hold::{App, ktls_is_listed, why_not_direct};
use mtls_tests::kube::{Cluster, MODE, Spec, account, show};
use mtls_tests::lab::{NODE, Output, program_beside_the_test};
use mtls_tests::{could_not_run, eventually, programs, slow};

fn get(world: &World) -> Output {
    world.get(world.far().at(HTTP))
}

#[test]
fn curl_and_nginx_talk_by_their_own_sockets_and_only_tls_is_on_the_wire() {
    if let Some(why) = why_not_direct() {
        return could_not_run(curl_and_nginx_talk_by_their_own_sockets_and_only_tls_is_on_the_wire, why);
    }
    let world = World::with_session();
    let capture = world.lab.capture();
    for _ in 0..5 {
        assert_eq!(get(&world).ok().text(), "hello from far", "{}", world.printed());
    }
    for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
        for record in direct_records(daemon, workload, 5) {
            assert_eq!(record.reason(), "", "{record:?}");
            assert!(record.peer_proven(), "{record:?}");
        }
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"hello from");
    traffic.assert_only_tls(80);
}

/// Bytes of a file that one `curl` gets, compared.
fn downloads(world: &World, name: &str, megabytes: u64) {
    let far = world.lab.pod("far");
    let source = programs::nginx_files(far).join(name);
    programs::random_file(far, &source, megabytes);
    let got = world.lab.dir().join(format!("{name}.got"));
    let url = format!("http://{}/files/{name}", far.at(80));
    let curl = world.lab.pod("web").cmd("curl").args(["-sS", "--max-time", "120", "-o"]).arg(&got).arg(&url);
    curl.run().ok();
    let (wanted, got) = (std::fs::read(source).expect("a file"), std::fs::read(got).expect("a file"));
    assert!(wanted == got, "{} bytes of {}", got.len(), wanted.len());
}

#[test]
fn a_large_download_arrives_whole() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_large_download_arrives_whole, why);
    }
    let world = World::with_session();
    downloads(&world, "large", 32);
    let record = eventually(slow::limit(20), "its record", || {
        records(&world.here, "web").into_iter().find(|record| record.datapath() == "direct")
    });
    assert_eq!(record.reason(), "", "{record:?}");
}

#[test]
fn an_armed_connection_outlives_both_daemons() {
    if let Some(why) = why_not_direct() {
        return could_not_run(an_armed_connection_outlives_both_daemons, why);
    }
    let mut world = World::with_session();
    let far = world.lab.pod("far");
    let source = programs::nginx_files(far).join("slow");
    programs::random_file(far, &source, 8);
    let got = world.lab.dir().join("slow.got");
    let url = format!("http://{}/files/slow", far.at(80));
    let curl =
        world.lab.pod("web").cmd("curl").args(["-sS", "--limit-rate", "1M", "--max-time", "120", "-o"]);
    let mut curl = curl.arg(&got).arg(&url).spawn();
    eventually(slow::limit(20), "the download to begin", || {
        std::fs::metadata(&got).is_ok_and(|file| file.len() > 0).then_some(())
    });
    // Whoever keeps more of a connection than it needs does so for each that is idle.
    let (_, said) = world.here.cli(&["status"]);
    assert!(said.contains("1 connections, 0 connecting, 1 sessions"), "{said}");
    world.here.kill9();
    world.there.kill9();
    let status = curl.ends_within(slow::limit(60)).expect("it ends");
    assert!(status.success(), "{}", curl.printed());
    assert!(std::fs::read(&source).expect("a file") == std::fs::read(&got).expect("a file"));
    // What is new fails closed.
    assert_ne!(get(&world).code, Some(0));
}

#[test]
fn whom_the_servers_policy_denies_is_refused_at_connect() {
    if let Some(why) = why_not_direct() {
        return could_not_run(whom_the_servers_policy_denies_is_refused_at_connect, why);
    }
    let world = World::with_session();
    let config = std::fs::read_to_string(world.there.config()).expect("a configuration");
    std::fs::write(world.there.config(), config.replace("action: allow", "action: deny")).expect("writable");
    assert_eq!(world.there.cli(&["reload"]).0, Some(0));
    let output = get(&world);
    assert_ne!(output.code, Some(0));
    let refused = eventually(slow::limit(20), "the refusal", || {
        records(&world.there, "far").into_iter().find(|record| record.reason() == "policy_denied")
    });
    assert!(refused.peer_proven(), "{refused:?}");
    let here = eventually(slow::limit(20), "the client's record", || {
        records(&world.here, "web").into_iter().find(|record| record.reason() == "policy_denied")
    });
    assert!(here.refused(), "{here:?}");
}

#[test]
fn a_connect_that_no_program_reports_goes_by_a_relay_whose_record_says_so() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_connect_that_no_program_reports_goes_by_a_relay_whose_record_says_so, why);
    }
    let world = World::with_session();
    let to = world.far().at(HTTP);
    let unreported = || world.here.metric("mtlsd_ebpf_events_total", &[("event", "direct_unreported")]);
    assert_eq!(unreported(), 0.0);
    let app = App::new(world.web());
    let answer = app.ask("main", &format!("uring-get {to}"));
    assert!(answer.contains("hello from far"), "{answer}");
    assert_eq!(unreported(), 1.0);
    let all = eventually(slow::limit(20), "both records", || {
        Some(records(&world.here, "web")).filter(|records| records.len() >= 2)
    });
    let [first, second] = &all[..] else { panic!("{all:?}") };
    assert!(first.why_not_better() != "" && !first.why_not_better().contains("io_uring"), "{first:?}");
    assert!(second.datapath().starts_with("relay"), "{second:?}");
    assert!(second.why_not_better().contains("no tracing program saw its connect()"), "{second:?}");
    // The same process by the system call.
    app.does("main", &format!("connect c {to}"), "ok");
    app.does("main", "close c", "ok");
    direct_records(&world.here, "web", 1);
}

#[test]
fn a_kernel_whose_sendfile_stalls_is_refused_with_the_reason_and_relays_carry_all() {
    let test = a_kernel_whose_sendfile_stalls_is_refused_with_the_reason_and_relays_carry_all;
    if !ktls_is_listed() {
        return could_not_run(test, "this kernel has no TLS");
    }
    let world = World::new();
    let stalls = why_not_direct().is_some();
    for daemon in [&world.here, &world.there] {
        let printed = daemon.printed();
        assert_eq!(printed.contains("sendfile() stalls on a TLS socket"), stalls, "{printed}");
        assert_eq!(printed.contains("direct connections can be had from now on"), !stalls, "{printed}");
    }
    if stalls {
        assert_eq!(get(&world).ok().text(), "hello from far");
        downloads(&world, "relayed", 32);
        for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
            let all = eventually(slow::limit(20), "two records", || {
                Some(records(daemon, workload)).filter(|records| records.len() >= 2)
            });
            assert!(
                all.iter().all(|record| record.datapath() != "direct" && record.reason() == ""),
                "{all:?}"
            );
        }
    }
}

#[test]
fn a_connection_to_a_services_address_is_direct_to_the_endpoint_that_was_chosen() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_connection_to_a_services_address_is_direct_to_the_endpoint_that_was_chosen,
            why,
        );
    }
    let double = Double::start();
    let kubernetes = "kubernetes: { node: n1, service_account: $dir/service-account, resolve_services: true, unclassified: allow }";
    let mut world = World::prepare(&[HTTP], kubernetes, "");
    account(&double, world.lab.dir());
    show(&double, &mut world.here);
    let service: SocketAddr = "10.96.0.9:8080".parse().expect("an address");
    let meta = json!({ "name": "far", "namespace": "shop", "uid": "far", "labels": { "kubernetes.io/service-name": "far" } });
    double.put(
        "services",
        json!({ "metadata": meta, "spec": { "clusterIP": service.ip().to_string(), "ports": [{ "port": service.port() }] } }),
    );
    let far = world.far().v4.to_string();
    double.put(
        "endpointslices",
        json!({ "metadata": meta, "addressType": "IPv4", "endpoints": [{ "addresses": [far] }],
                "ports": [{ "name": "", "port": HTTP }] }),
    );
    world.start();
    world.nginx = Some(programs::nginx(world.far(), HTTP));
    eventually(slow::limit(20), "the service to be resolved", || {
        (world.here.ask(&["status"])["kubernetes"]["services"]["resolved"] == 1).then_some(())
    });
    assert_eq!(world.get(service).ok().text(), "hello from far", "{}", world.printed());
    world.wait_session(world.far().at(HTTP));
    let capture = world.lab.capture();
    assert_eq!(world.get(service).ok().text(), "hello from far", "{}", world.printed());
    let probe = world.web().cmd(program_beside_the_test("probe")).args(["connect", &service.to_string()]);
    let said = probe.args(["--send", "GET / HTTP/1.0\r\n\r\n"]).run().ok().text();
    assert!(
        said.contains("hello from far") && said.contains(&format!("\"getpeername\":\"{service}\"")),
        "{said}"
    );
    for record in direct_records(&world.here, "web", 2) {
        assert_eq!(record.reason(), "", "{record:?}");
    }
    capture.stop().assert_only_tls(HTTP);
}

#[test]
fn pods_of_two_nodes_are_direct_and_nobody_wrote_a_directory() {
    if let Some(why) = why_not_direct() {
        return could_not_run(pods_of_two_nodes_are_direct_and_nobody_wrote_a_directory, why);
    }
    let address = Address::new();
    let mut cluster = Cluster::new();
    cluster.lab.add_node("n2");
    cluster.namespace("shop", json!({ MODE: "strict" }));
    let web = Spec::new("shop", "web");
    let db = Spec { more: json!({ "status": { "hostIP": address.0 } }), ..Spec::new("shop", "db") };
    cluster.pod(NODE, &web);
    cluster.pod("n2", &db);
    let yaml = "direct: { default: auto }\n\
                policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]\n";
    let mut daemons = [NODE, "n2"].map(|node| cluster.prepare(node, "direct_port: 15080", yaml));
    let [here, there] = &mut daemons;
    here.ca_init();
    there.share_ca(here);
    there.set_env("NODE_IP", &address.0);
    there.start();
    here.start();
    let _server = cluster.serve("n2", &db, HTTP, "from the other node");
    let to = cluster.lab.pod("db").at(HTTP);
    let ask = |cluster: &Cluster| {
        let probe = cluster.cmd(NODE, &web, program_beside_the_test("probe"));
        let said = probe.args(["connect", &to.to_string(), "--send", "hello"]).run().text();
        said.contains("from the other node").then_some(()).ok_or(said)
    };
    let capture = cluster.lab.capture();
    eventually(slow::limit(20), "both pods to be enrolled", || ask(&cluster).ok());
    eventually(slow::limit(20), "a session of the two daemons", || {
        ask(&cluster).unwrap_or_else(|said| panic!("{said}"));
        here.printed().contains("a session for direct connections is there").then_some(())
    });
    ask(&cluster).unwrap_or_else(|said| panic!("{said}"));
    for (daemon, workload) in [(&*here, "shop/web"), (&*there, "shop/db")] {
        for record in direct_records(daemon, workload, 1) {
            assert_eq!(record.reason(), "", "{record:?}");
        }
    }
    capture.stop().assert_only_tls(HTTP);
}
