//! What is revoked is over: live connections at once and on both sides, new ones with their reason, and after a
//! restart.

use std::time::{Duration, Instant};

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::{Process, Record};
use mtls_tests::programs::{self, Identity, s_client};
use mtls_tests::volume::Volume;
use mtls_tests::{Pair, STRICT_PAIR, eventually, slow};
use serde_json::Value;

const PORT: u16 = 7000;
const WEB: &str = "spiffe://example.org/web";

/// A server in `db` that echoes, and a client in `web` that has spoken once and stays.
fn stream(pair: &Pair, said: &str) -> (Process, Process) {
    let mut server = programs::probe(pair.db(), PORT, &[]);
    let to = pair.db().at(PORT).to_string();
    let mut client = pair.web().own("probe").args(["connect", &to, "--ask"]).piped().spawn();
    client.wait_for(r#""connect":"ok""#);
    client.write(format!("{said}\n").as_bytes());
    server.wait_for(r#""accept""#);
    eventually(slow::limit(15), "the first bytes on both sides", || {
        (live(pair, |c| c["bytes"]["received"].as_u64() > Some(0) || c["bytes"]["sent"].as_u64() > Some(0))
            == 2)
            .then_some(())
    });
    (server, client)
}

fn live(pair: &Pair, wanted: impl Fn(&Value) -> bool) -> usize {
    let connections = pair.daemon.ask(&["connections"]);
    let all = connections.as_array().expect("a list");
    all.iter().filter(|c| c["event"] == "open" && wanted(c)).count()
}

/// The certificate that `web` has now, as a target of each kind.
fn targets(pair: &Pair) -> Vec<Vec<String>> {
    let workloads = pair.daemon.ask(&["workloads"]);
    let web = workloads.as_array().expect("a list").iter().find(|w| w["name"] == "web").expect("web");
    let serial = web["certificate"]["serial"].as_str().expect("a serial").to_owned();
    let intermediate = pair.daemon.ca().join("intermediate.crt").display().to_string();
    vec![
        vec!["--serial".to_owned(), serial],
        vec!["--spiffe-id".to_owned(), WEB.to_owned()],
        vec!["--key".to_owned(), key_of(pair, &intermediate)],
        vec!["--certificate".to_owned(), intermediate],
    ]
}

/// As docs/revocation.md says to find it.
fn key_of(pair: &Pair, file: &str) -> String {
    let line = format!(
        "openssl x509 -in {file} -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum | cut -d' ' -f1"
    );
    pair.lab.tool("sh").args(["-c", &line]).run().ok().text().trim().to_owned()
}

fn with(words: &[&str], target: &[String]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).chain(target.iter().cloned()).collect()
}

#[track_caller]
fn ask(pair: &Pair, words: &[String]) -> Value {
    pair.daemon.ask(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn is_cut(record: &Record, inbound: bool) -> bool {
    record.inbound() == inbound && !record.refused() && record.reason() == "revoked"
}

#[test]
fn a_live_stream_is_cut_on_both_sides_by_each_kind_of_target_and_a_new_one_is_refused() {
    let pair = Pair::strict();
    pair.works();
    for target in targets(&pair) {
        let known = pair.daemon.access_log().len();
        let (mut server, mut client) = stream(&pair, "hello");
        let start = Instant::now();
        let report = ask(&pair, &with(&["revoke", "--reason", "stolen"], &target));
        assert_eq!(report["connections_cut"], 2, "web's side and db's: {report}");
        // The promise is a second; a slow machine only makes this program and the log slow.
        server.wait_for("ECONNRESET");
        let took = start.elapsed();
        assert!(took < slow::stretched(Duration::from_secs(1)), "{target:?} took {took:?}");
        // The client reads only once its input has ended.
        client.close_stdin();
        let end = client.output(slow::limit(15)).text();
        assert!(end.contains(r#""receive":"ECONNRESET""#), "{target:?}: {end}");
        for inbound in [false, true] {
            let new = || pair.daemon.access_log().into_iter().skip(known);
            let record =
                eventually(slow::limit(15), "the record of the cut", || new().find(|r| is_cut(r, inbound)));
            assert!(record.detail().contains("stolen"), "{record:?}");
            // Where the kernel has TLS, what is cut is in it.
            assert_eq!(record.datapath(), pair.daemon.best_relay(), "{record:?}");
        }
        drop(server);

        let known = pair.daemon.access_log().len();
        let refused = pair.curl(pair.http()[0]);
        assert_ne!(refused.code, Some(0), "{target:?}: {refused}");
        let what = "the refusal of a new one";
        let new = || pair.daemon.access_log().into_iter().skip(known);
        eventually(slow::limit(15), what, || new().find(|r| r.refused() && r.reason() == "revoked"));
        ask(&pair, &with(&["unrevoke"], &target));
        pair.works();
    }
}

#[test]
fn a_revoked_client_that_is_not_mtlsd_hears_it_by_the_alert_and_after_a_restart_too() {
    let (mut pair, authority) = Pair::with_authority("");
    let guest = "spiffe://example.org/guest";
    let identity = Identity::from(&authority.issue("guest", &Leaf::good(guest)));
    s_client(pair.out(), pair.db().at(80), &pair.root(), Some(&identity)).run().ok();
    let report = pair.daemon.ask(&["revoke", "--spiffe-id", guest]);
    assert_eq!(report["connections_cut"], 0, "{report}");
    for restarted in [false, true] {
        if restarted {
            pair.daemon.restart();
        }
        let record = pair.refuses("revoked", |to| {
            let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).run().fails();
            assert!(output.stderr.contains("certificate revoked"), "{output}");
            output
        });
        assert_eq!((record.peer(), record.peer_proven()), (guest, false), "{record:?}");
        let explained = pair.daemon.ask(&["explain", record.id()]).to_string();
        assert!(explained.contains("deny list") && explained.contains("mtlsd unrevoke"), "{explained}");
    }
    let list = pair.daemon.ask(&["revoke", "--list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    pair.daemon.ask(&["unrevoke", "--spiffe-id", guest]);
    s_client(pair.out(), pair.db().at(80), &pair.root(), Some(&identity)).run().ok();
}

#[test]
fn a_leaked_key_is_closed_at_once_and_its_workload_goes_on_with_a_new_one() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let volume = Volume::new(lab.dir(), "web", &site, &Leaf::good(WEB));
    let stolen = lab.dir().join("stolen");
    std::fs::create_dir(&stolen).expect("lab directory is writable");
    let copy = |name: &str| {
        std::fs::copy(lab.dir().join("volume-web").join(name), stolen.join(name)).expect("it is there");
        stolen.join(name)
    };
    let thief = Identity::from((copy("tls.crt"), copy("tls.key")));
    let yaml = STRICT_PAIR.replacen("{ name: web,", &format!("{{ name: web, {},", volume.identity()), 1);
    let bundle = format!("{{ trust_domain: example.org, file: {} }}", site.root.display());
    let pair = Pair::configured(lab, &format!("{yaml}trust: {{ bundles: [ {bundle} ] }}\n"));
    pair.works();
    let to = pair.db().at(80);
    let as_thief = || s_client(pair.out(), to, &pair.root(), Some(&thief));
    assert!(as_thief().run().text().contains("hello from db"), "whoever has the key is web");
    let _live = as_thief().piped().spawn();
    eventually(slow::limit(15), "the thief's connection", || {
        (live(&pair, |c| c["peer_identity"] == WEB && c["direction"] == "inbound") == 1).then_some(())
    });

    // As the page says: by the key, so that a certificate that somebody has renewed with it is closed too.
    let key = key_of(&pair, &thief.chain.display().to_string());
    let report = pair.daemon.ask(&["revoke", "--key", &key, "--reason", "leaked"]);
    assert_eq!(report["connections_cut"], 1, "{report}");
    pair.daemon.wait_for_log("the cut of the thief", |r| is_cut(r, true) && r.detail().contains("leaked"));
    assert!(!as_thief().run().text().contains("hello from db"));
    // The workload itself is closed as well, and its own page of status says why.
    pair.curl(to).fails();
    let closed = |r: &Record| r.refused() && r.workload() == "web" && r.reason() == "revoked";
    pair.daemon.wait_for_log("web's own refusal", closed);

    volume.renew(&site, &Leaf::good(WEB));
    eventually(slow::limit(30), "web to work with its new key", || {
        (pair.curl(to).code == Some(0)).then_some(())
    });
    pair.refuses("revoked", |to| {
        let output = s_client(pair.out(), to, &pair.root(), Some(&thief)).run().fails();
        assert!(output.stderr.contains("certificate revoked"), "{output}");
        output
    });
}

#[test]
fn a_daemon_whose_deny_list_is_broken_does_not_start() {
    let mut pair = Pair::strict();
    pair.daemon.stop();
    let list = pair.daemon.ca().with_file_name("revoked.json");
    std::fs::write(&list, "{ \"version\": 1, ").expect("lab directory is writable");
    let output = pair.daemon.run_to_end().fails();
    assert!(output.stderr.contains("revoked.json") && output.stderr.contains("does not start"), "{output}");
    std::fs::remove_file(&list).expect("lab directory is writable");
    pair.daemon.start();
    pair.works();
}

#[test]
fn a_crl_cuts_what_it_names_and_a_broken_one_changes_nothing() {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "site");
    let list = lab.dir().join("site.crl");
    authority.revoke(&[], time::Duration::hours(2), &list);
    let yaml = format!(
        "{STRICT_PAIR}trust:\n  bundles: [ {{ trust_domain: example.org, file: {} }} ]\n  \
         crls: [ {{ trust_domain: example.org, file: {} }} ]\n",
        authority.root.display(),
        list.display()
    );
    let pair = Pair::configured(lab, &yaml);
    let guest = authority.issue("guest", &Leaf::good("spiffe://example.org/guest"));
    let other = Identity::from(&authority.issue("other", &Leaf::good("spiffe://example.org/other")));
    let serial = pair
        .lab
        .tool("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(&guest.cert)
        .run()
        .ok()
        .text();
    let serial = serial.trim().trim_start_matches("serial=").to_owned();
    let guest = Identity::from(&guest);
    let to = pair.db().at(80);
    let _live = s_client(pair.out(), to, &pair.root(), Some(&guest)).piped().spawn();
    eventually(slow::limit(15), "the guest's connection", || {
        (live(&pair, |c| c["peer_identity"] == "spiffe://example.org/guest") == 1).then_some(())
    });
    authority.revoke(&[&serial], time::Duration::HOUR, &list);
    let record = pair.daemon.wait_for_log("the cut by the CRL", |r| is_cut(r, true));
    assert!(record.detail().contains("site.crl"), "{record:?}");
    let refused = |to| s_client(pair.out(), to, &pair.root(), Some(&guest)).run().fails();
    pair.refuses("revoked", refused);
    s_client(pair.out(), to, &pair.root(), Some(&other)).run().ok();
    let labels = [("source", list.to_str().expect("UTF-8"))];
    assert!(pair.daemon.metric("mtlsd_crl_age_seconds", &labels) > 3000.0);
    assert!(pair.daemon.metric("mtlsd_crl_stale", &labels) < 0.5);

    std::fs::write(&list, "nothing of the kind").expect("lab directory is writable");
    eventually(slow::limit(15), "the refusal of the broken CRL in the log", || {
        let said = pair.daemon.printed();
        (said.contains("the CRL was refused") && said.contains("site.crl")).then_some(())
    });
    pair.refuses("revoked", refused);
}

#[test]
fn the_drill_holds_on_a_running_daemon_and_leaves_nothing_behind() {
    let pair = Pair::strict();
    let (code, text) = pair.daemon.cli(&["drill", "revoke"]);
    assert_eq!(code, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let steps = report["steps"].as_array().expect("steps");
    assert!(steps.len() == 6 && steps.iter().all(|step| step["ok"] == true), "{report}");
    assert_eq!(pair.daemon.ask(&["revoke", "--list"]).as_array().map(Vec::len), Some(0));
    assert!(!pair.daemon.metrics().contains("mtlsd drill"));
    let drills = pair.daemon.access_log().into_iter().filter(|r| r.workload() == "mtlsd drill");
    assert_eq!(drills.filter(|r| r.reason() == "revoked").count(), 2);
    pair.works();
}
