//! Identities from a real Vault (OpenBao): logins, renewal of its token, and what happens while it is sealed.

use mtls_tests::programs::{
    self,
    openbao::{self, OpenBao},
};
use mtls_tests::{Lab, Pair, STRICT_PAIR, could_not_run, eventually, slow};
use serde_json::{Value, json};

const WORKLOADS: &str = r#"
workloads:
  - { name: web, select: { netns: $web.netns }, identity: { issuer: first } }
  - { name: db, select: { netns: $db.netns }, addresses: ["$db.v4", "$db.v6"], identity: { issuer: second } }
policy:
  - { name: everyone-here, action: allow, from: { trust_domains: [example.org] } }
"#;

/// `web` logs in as the first says, `db` as the second. Both read the roots from files of their own, which the test may
/// write again: then they ask for a certificate at once.
fn pair(lab: Lab, bao: &OpenBao, logins: [&str; 2]) -> Pair {
    pair_with(lab, bao, logins, "")
}

/// As [`pair`], with more top-level keys.
fn pair_with(lab: Lab, bao: &OpenBao, logins: [&str; 2], more: &str) -> Pair {
    let issuer = |name: &str, login: &str| {
        let bundle = lab.dir().join(format!("{name}-roots.pem"));
        std::fs::copy(bao.root(), &bundle).expect("lab directory is writable");
        format!(
            "    - {{ name: {name}, bundle: {}, lifetime: 30m, vault: {{ address: '{}', mount: pki_int, role: mesh, ca_file: \
             {}, auth: {{ {login} }} }} }}\n",
            bundle.display(),
            bao.url(),
            bao.ca_file.display()
        )
    };
    let issuers = issuer("first", logins[0]) + &issuer("second", logins[1]);
    Pair::configured(lab, &format!("identity:\n  issuers:\n{issuers}{WORKLOADS}{more}"))
}

fn ask_again(pair: &Pair, bao: &OpenBao) {
    for name in ["first", "second"] {
        std::fs::copy(bao.root(), pair.lab.dir().join(format!("{name}-roots.pem")))
            .expect("lab directory is writable");
    }
}

fn workload(pair: &Pair, name: &str) -> Value {
    let all = pair.daemon.ask(&["workloads"]);
    let list = all.as_array().expect("a list").clone();
    list.into_iter().find(|workload| workload["name"] == name).expect("it is configured")
}

/// Waits until the status of both says so.
#[track_caller]
fn both(pair: &Pair, what: &str, holds: impl Fn(&Value) -> bool) -> [Value; 2] {
    ["web", "db"].map(|name| {
        eventually(slow::limit(60), &format!("{name}: {what}"), || {
            Some(workload(pair, name)).filter(|workload| holds(workload))
        })
    })
}

fn has_identity(workload: &Value) -> bool {
    workload["identity_error"].is_null() && workload["certificate"]["serial"].is_string()
}

#[test]
fn workloads_with_identities_of_a_real_vault_talk_and_outlive_its_seal() {
    let test = workloads_with_identities_of_a_real_vault_talk_and_outlive_its_seal;
    let program = match openbao::program() {
        Ok(program) => program,
        Err(reason) => return could_not_run(test, &reason),
    };
    let lab = Pair::lab();
    let bao = OpenBao::start(&lab, &program);
    let (app_role, kubernetes) = (bao.app_role(&lab, 1200), bao.kubernetes(&lab));
    let pair = pair(lab, &bao, [&app_role, &kubernetes]);
    let first = both(&pair, "an identity", has_identity);
    assert!(first.iter().all(|workload| workload["identity_source"] == "vault"), "{first:?}");
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);

    bao.seal(&pair.lab);
    ask_again(&pair, &bao);
    let sealed = both(&pair, "the seal in its status", |workload| {
        workload["identity_error"].as_str().is_some_and(|error| error.contains("Vault is sealed"))
    });
    for (before, now) in first.iter().zip(&sealed) {
        assert_eq!(before["certificate"], now["certificate"], "the last good one stays");
    }
    pair.works();

    bao.unseal(&pair.lab);
    let renewed = both(&pair, "another certificate", has_identity);
    for (before, now) in first.iter().zip(&renewed) {
        assert_ne!(before["certificate"]["serial"], now["certificate"]["serial"]);
    }
    pair.works();
}

#[test]
fn a_token_is_renewed_while_no_certificate_is_due_and_replaced_when_it_was_revoked() {
    let test = a_token_is_renewed_while_no_certificate_is_due_and_replaced_when_it_was_revoked;
    let program = match openbao::program() {
        Ok(program) => program,
        Err(reason) => return could_not_run(test, &reason),
    };
    let lab = Pair::lab();
    let bao = OpenBao::start(&lab, &program);
    let (app_role, token) = (bao.app_role(&lab, 45), bao.token(&lab, "token", 3600));
    let pair = pair(lab, &bao, [&app_role, &token]);
    let first = both(&pair, "an identity", has_identity);
    let renewed = eventually(slow::limit(180), "the token to be renewed", || {
        let tokens = bao.tokens(&pair.lab, "approle");
        tokens.into_iter().find(|token| !token["last_renewal"].is_null())
    });
    assert_eq!(workload(&pair, "web")["certificate"], first[0]["certificate"], "no certificate was due");

    bao.revoke(&pair.lab, std::slice::from_ref(&renewed));
    ask_again(&pair, &bao);
    let serials =
        |workloads: &[Value; 2]| workloads.clone().map(|workload| workload["certificate"]["serial"].clone());
    let [old_web, old_db] = serials(&first);
    both(&pair, "another certificate", |workload| {
        let serial = &workload["certificate"]["serial"];
        has_identity(workload) && *serial != old_web && *serial != old_db
    });
    let tokens = bao.tokens(&pair.lab, "approle");
    assert!(
        tokens.iter().all(|token| token["accessor"] != renewed["accessor"]) && !tokens.is_empty(),
        "{tokens:?}"
    );
    pair.works();

    // A policy that forbids: said, and no reason to log in again and again.
    let before = tokens.len();
    bao.allow(&pair.lab, "pki_int/sign/other");
    ask_again(&pair, &bao);
    both(&pair, "the policy in its status", |workload| {
        let error = workload["identity_error"].as_str().unwrap_or_default();
        error.contains("permission denied; give the token a policy with `path \"pki_int/sign/mesh\"")
    });
    assert!(bao.tokens(&pair.lab, "approle").len() <= before);
    bao.allow(&pair.lab, "pki_int/sign/mesh");
    both(&pair, "an identity again", has_identity);
    pair.works();
    // Neither the daemon's log nor its status may hold what it logs in with.
    let secret = std::fs::read_to_string(pair.lab.dir().join("openbao/secret-id")).expect("it was written");
    let token = std::fs::read_to_string(pair.lab.dir().join("openbao/token")).expect("it was written");
    for secret in [secret, token] {
        assert!(!pair.daemon.printed().contains(&secret), "{}", pair.daemon.printed());
    }
}

#[test]
fn what_is_revoked_in_a_real_vault_is_cut_and_refused_by_its_list() {
    let test = what_is_revoked_in_a_real_vault_is_cut_and_refused_by_its_list;
    let program = match openbao::program() {
        Ok(program) => program,
        Err(reason) => return could_not_run(test, &reason),
    };
    let lab = Pair::lab();
    let bao = OpenBao::start(&lab, &program);
    let token = bao.token(&lab, "token", 3600);
    let intermediate = lab.dir().join("pki_int.pem");
    std::fs::write(&intermediate, bao.public(&lab, "pki_int/ca/pem")).expect("lab directory is writable");
    let list = |mount: &str| {
        format!(
            "{{ trust_domain: example.org, url: '{}/v1/{mount}/crl', ca_file: {}, issuer_file: {}, refresh: 1s }}",
            bao.url(),
            bao.ca_file.display(),
            intermediate.display()
        )
    };
    let trust = format!("trust: {{ crl_policy: require, crls: [ {}, {} ] }}\n", list("pki_int"), list("pki"));
    let pair = pair_with(lab, &bao, [&token, &token], &trust);
    let [web, _] = both(&pair, "an identity", has_identity);
    eventually(slow::limit(60), "both lists to be there", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();

    let _server = programs::probe(pair.db(), 7000, &[]);
    let mut client =
        pair.web().own("probe").args(["connect", &pair.db().at(7000).to_string(), "--ask"]).piped().spawn();
    client.wait_for(r#""connect":"ok""#);
    let serial = web["certificate"]["serial"].as_str().expect("a serial").to_owned();
    bao.ask(&pair.lab, "pki_int/revoke", Some(json!({ "serial_number": with_colons(&serial) })));
    for inbound in [false, true] {
        let cut = pair
            .daemon
            .wait_for_log("the cut", |r| r.inbound() == inbound && !r.refused() && r.reason() == "revoked");
        assert!(cut.detail().contains("/v1/pki_int/crl") && cut.detail().contains(&serial), "{cut:?}");
    }
    pair.curl(pair.http()[0]).fails();
    pair.daemon.wait_for_log("a refusal", |r| r.refused() && r.reason() == "revoked");

    ask_again(&pair, &bao);
    eventually(slow::limit(60), "web to work with another certificate", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();
}

#[test]
fn lists_of_a_namespace_of_a_real_vault_are_found_by_its_name_in_the_path() {
    let test = lists_of_a_namespace_of_a_real_vault_are_found_by_its_name_in_the_path;
    let program = match openbao::program() {
        Ok(program) => program,
        Err(reason) => return could_not_run(test, &reason),
    };
    let lab = Pair::lab();
    let bao = OpenBao::start(&lab, &program);
    bao.ask(&lab, "sys/namespaces/team", Some(json!({})));
    bao.ask(&lab, "team/sys/mounts/pki", Some(json!({ "type": "pki" })));
    let root = json!({ "common_name": "team root", "key_type": "ec", "ttl": "100h" });
    let root = bao.ask(&lab, "team/pki/root/generate/internal", Some(root))["data"]["certificate"].clone();
    let roots = lab.dir().join("team.pem");
    std::fs::write(&roots, root.as_str().expect("PEM")).expect("lab directory is writable");
    let yaml = |path: &str| {
        let url = format!("{}/v1/{path}/crl", bao.url());
        let source = format!(
            "{{ trust_domain: team.example, url: '{url}', ca_file: {}, refresh: 1s }}",
            bao.ca_file.display()
        );
        let bundle = format!("{{ trust_domain: team.example, file: {} }}", roots.display());
        let trust = format!("trust: {{ bundles: [ {bundle} ], crls: [ {source} ] }}\n");
        (lab.expand(&format!("{STRICT_PAIR}{trust}")), url)
    };
    // Without the namespace it is another mount: that of the root namespace, whose list nobody here has signed.
    let (wrong, _) = yaml("pki");
    let daemon = lab.daemon(&wrong);
    eventually(slow::limit(30), "the wrong list to be refused", || {
        let printed = daemon.printed();
        (printed.contains("the CRL was refused") && printed.contains("lab root")).then_some(())
    });
    let (right, url) = yaml("team/pki");
    daemon.configure(&right);
    let fresh = || daemon.metric("mtlsd_crl_age_seconds", &[("source", &url)]) > 0.0;
    eventually(slow::limit(30), "the list of the namespace", || fresh().then_some(()));
    assert!(daemon.metric("mtlsd_crl_stale", &[("source", &url)]) < 0.5);
}

/// As Vault writes a serial.
fn with_colons(hex: &str) -> String {
    let pairs: Vec<_> = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]).collect();
    pairs.join(":")
}
