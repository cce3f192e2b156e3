//! Keys in a token (SoftHSM) while a daemon runs with them: the embedded CA's, and a workload's.

use mtls_tests::certs::Authority;
use mtls_tests::programs::softhsm::SoftHsm;
use mtls_tests::scenario::HTTP;
use mtls_tests::{Daemon, Pair, eventually, programs, slow};
use serde_json::Value;

const POLICY: &str =
    "policy: [ { name: everyone-here, action: allow, from: { trust_domains: [example.org] } } ]\n";

fn pair(lab: mtls_tests::Lab, hsm: &SoftHsm, yaml: &str) -> Pair {
    let nginx = programs::nginx(lab.pod("db"), HTTP);
    let mut daemon = lab.prepare(mtls_tests::lab::NODE, yaml);
    let (name, value) = hsm.environment();
    daemon.set_env(name, &value);
    daemon.start();
    Pair { daemon, nginx, lab }
}

fn workload(daemon: &Daemon, name: &str) -> Value {
    let all = daemon.ask(&["workloads"]);
    all.as_array()
        .and_then(|all| all.iter().find(|one| one["name"] == name))
        .cloned()
        .expect("it is configured")
}

#[track_caller]
fn becomes(daemon: &Daemon, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(slow::limit(90), &format!("{name}: {what}"), || {
        Some(workload(daemon, name)).filter(|workload| holds(workload))
    })
}

fn has_identity(workload: &Value) -> bool {
    workload["identity_error"].is_null() && workload["certificate"]["serial"].is_string()
}

#[test]
fn workloads_of_a_ca_whose_key_is_in_a_token_talk_and_outlive_the_loss_of_the_key() {
    let lab = Pair::lab();
    let hsm = SoftHsm::new(&lab);
    let life = slow::limit(40).as_secs();
    let workloads = r#"
workloads:
  - { name: web, select: { netns: $web.netns }, addresses: ["$web.v4", "$web.v6"] }
  - { name: db, select: { netns: $db.netns }, addresses: ["$db.v4", "$db.v6"] }
"#;
    let identity = format!(
        "identity: {{ embedded_ca: {{ lifetime: {life}s, key: {{ token: mesh, label: ca-key }} }}, pkcs11: [ {} ], alarms: \
         {{ warning: 45%, critical: 15% }} }}\n",
        hsm.entry()
    );
    let pair = pair(lab, &hsm, &format!("{identity}{workloads}{POLICY}"));
    let daemon = &pair.daemon;
    for name in ["web", "db"] {
        becomes(daemon, name, "an identity", has_identity);
    }
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(HTTP);
    let status = daemon.ask(&["status"])["embedded_ca"].clone();
    assert_eq!(status["key_in_token"], "ca-key of token mesh", "{status}");
    assert!(!daemon.ca().join("intermediate.key").exists());
    let name = status["intermediate"].as_str().expect("a name").to_owned();
    let labels = [("certificate", "intermediate"), ("name", name.as_str())];
    eventually(slow::limit(10), "the end of the intermediate in the metrics", || {
        (daemon.metric("mtlsd_embedded_ca_expiry_timestamp_seconds", &labels) > 1.7e9).then_some(())
    });

    hsm.delete_key(&pair.lab, "ca-key");
    let failed = becomes(daemon, "web", "the reason", |workload| workload["identity_error"].is_string());
    let reason = failed["identity_error"].as_str().unwrap_or_default();
    assert!(reason.contains("token mesh") && reason.contains("ca-key"), "{reason}");
    let serial = failed["certificate"]["serial"].clone();
    assert!(serial.is_string(), "the last good one stays: {failed}");
    pair.works();
    let alarm = eventually(slow::limit(60), "an alarm", || {
        let alarms = daemon.ask(&["status"])["alarms"].as_array().cloned().unwrap_or_default();
        alarms.into_iter().find(|alarm| alarm["about"] == "workload web")
    });
    let detail = alarm["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("attempts to renew it failed") && detail.contains("token mesh"), "{alarm}");
    assert_eq!(workload(daemon, "web")["certificate"]["serial"], serial);

    // A new key under a new root mends it, without a restart.
    hsm.with(daemon.ca_tool("rotate")).arg("--begin").run().ok();
    hsm.with(daemon.ca_tool("rotate")).arg("--switch").run().ok();
    for name in ["web", "db"] {
        becomes(daemon, name, "another identity", has_identity);
    }
    eventually(slow::limit(30), "connections to work again", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();
}

#[test]
fn a_workload_whose_own_key_is_in_a_token_talks_and_says_why_when_it_no_longer_signs() {
    let lab = Pair::lab();
    let hsm = SoftHsm::new(&lab);
    let site = Authority::new(lab.dir(), "site");
    let public = hsm.key(&lab, "db-key", "01");
    let file = |name: &str| lab.dir().join(name).to_string_lossy().into_owned();
    let extensions = "subjectAltName=URI:spiffe://example.org/db\nkeyUsage=critical,digitalSignature\n\
                      extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n";
    std::fs::write(file("db.ext"), extensions).expect("lab directory is writable");
    let sign = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=example.org -keyout /dev/null \
                -out any.csr && openssl x509 -req -in any.csr -force_pubkey \"$1\" -CA \"$2\" -CAkey \"$3\" -set_serial 7 \
                -days 1 -extfile db.ext -out db.crt";
    let sign = format!("cd {} && {sign}", lab.dir().display());
    lab.tool("sh").args(["-c", &sign, "sh"]).arg(&public).arg(&site.root).arg(&site.key_file).run().ok();
    let yaml = format!(
        "identity: {{ pkcs11: [ {} ] }}\ntrust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ] }}\nworkloads:\n\
         \x20 - {{ name: web, select: {{ netns: $web.netns }}, addresses: [\"$web.v4\", \"$web.v6\"] }}\n\
         \x20 - {{ name: db, select: {{ netns: $db.netns }}, addresses: [\"$db.v4\", \"$db.v6\"], identity: {{ certificate: {}, \
         pkcs11: {{ token: mesh, label: db-key }} }} }}\n{POLICY}",
        hsm.entry(),
        site.root.display(),
        file("db.crt"),
    );
    let pair = pair(lab, &hsm, &yaml);
    let ready = becomes(&pair.daemon, "db", "an identity", has_identity);
    assert_eq!(
        (&ready["identity_source"], &ready["certificate"]["serial"]),
        (&"pkcs11".into(), &"07".into())
    );
    pair.works();

    hsm.delete_key(&pair.lab, "db-key");
    let known = pair.daemon.access_log().len();
    pair.curl(pair.http()[0]).fails();
    let record = eventually(slow::limit(20), "the refusal's record", || {
        let new = pair.daemon.access_log().into_iter().skip(known);
        new.into_iter().find(|record| record.refused() && record.detail().contains("token mesh"))
    });
    assert!(record.detail().contains("db-key") || record.detail().contains("C_"), "{record:?}");
    assert_eq!(workload(&pair.daemon, "db")["certificate"]["serial"], "07", "the last good one stays");
}
