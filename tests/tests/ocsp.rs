//! A real responder (OpenSSL's) decides over real connections, in the background, and what it says is stapled.

use std::fs;
use std::path::{Path, PathBuf};

use mtls_tests::certs::{Authority, Files, Leaf};
use mtls_tests::lab::{Cmd, Lab, Process, Record, free_port};
use mtls_tests::programs::{Identity, s_client, s_server};
use mtls_tests::{Pair, STRICT_PAIR, eventually, slow};

/// A CA of which OpenSSL's responder knows what is in `index`.
struct Site {
    authority: Authority,
    index: PathBuf,
}

impl Site {
    fn new(lab: &Lab) -> Self {
        let site = Self { authority: Authority::new(lab.dir(), "site"), index: lab.dir().join("index.txt") };
        site.knows(lab, &[]);
        site
    }

    fn issue(&self, name: &str) -> Files {
        self.authority.issue(name, &Leaf::good(&format!("spiffe://example.org/{name}")))
    }

    /// Each certificate and whether it is good; others are unknown.
    fn knows(&self, lab: &Lab, certificates: &[(&Files, bool)]) {
        let line = |(files, good): &(&Files, bool)| {
            let (flag, since) = if *good { ("V", "") } else { ("R", "250101000000Z") };
            // OpenSSL takes no two good ones with one name.
            let serial = serial(lab, &files.cert);
            format!("{flag}\t401231235959Z\t{since}\t{serial}\tunknown\t/CN={serial}\n")
        };
        let lines: String = certificates.iter().map(line).collect();
        fs::write(&self.index, lines).expect("lab directory is writable");
    }

    fn openssl(&self, lab: &Lab) -> Cmd {
        let command =
            lab.tool("openssl").args(["ocsp", "-ndays", "1", "-ignore_err", "-index"]).arg(&self.index);
        let command = command.arg("-CA").arg(&self.authority.root).arg("-rsigner").arg(&self.authority.root);
        command.arg("-rkey").arg(&self.authority.key_file)
    }

    /// Where the daemon runs, with what is in the index now.
    fn respond(&self, lab: &Lab, port: u16) -> Process {
        let mut responder = self.openssl(lab).args(["-port", &port.to_string()]).piped().spawn();
        responder.wait_for("ACCEPT");
        responder
    }

    /// An answer as a file, to be stapled.
    fn answer(&self, lab: &Lab, about: &Files) -> PathBuf {
        let (question, answer) = (lab.dir().join("question.der"), lab.dir().join("answer.der"));
        let ask = lab.tool("openssl").args(["ocsp", "-no_nonce", "-issuer"]).arg(&self.authority.root);
        ask.arg("-cert").arg(&about.cert).arg("-reqout").arg(&question).run().ok();
        self.openssl(lab).arg("-reqin").arg(&question).arg("-respout").arg(&answer).run().ok();
        answer
    }

    /// The strict pair with certificates of this CA, and this under `trust`.
    fn yaml(&self, [web, db]: [&Files; 2], trust: &str) -> String {
        let identity = |name: &str, files: &Files| {
            let (chain, key) = (files.chain.display(), files.key.display());
            format!("{{ name: {name}, identity: {{ certificate: {chain}, key: {key} }},")
        };
        let yaml = STRICT_PAIR.replacen("{ name: web,", &identity("web", web), 1);
        let yaml = yaml.replacen("{ name: db,", &identity("db", db), 1);
        let root = self.authority.root.display();
        format!("{yaml}trust:\n  bundles: [ {{ trust_domain: example.org, file: {root} }} ]\n{trust}")
    }
}

fn serial(lab: &Lab, certificate: &Path) -> String {
    let said =
        lab.tool("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(certificate).run().ok().text();
    said.trim_start_matches("serial=").to_owned()
}

fn ocsp(port: u16, policy: &str) -> String {
    format!(
        "  ocsp: [ {{ trust_domain: example.org, responder: 'http://127.0.0.1:{port}/', refresh: 1s }} ]\n  \
         ocsp_policy: {policy}\n"
    )
}

/// Until web reaches db.
fn wait_until_it_works(pair: &Pair) {
    eventually(slow::limit(30), "an answer about both ends", || {
        (pair.http().iter().all(|to| pair.curl(*to).code == Some(0))).then_some(())
    });
    pair.works();
}

fn refusal(pair: &Pair, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
    pair.daemon.wait_for_log(what, |record| record.refused() && wanted(record))
}

#[test]
fn a_responder_decides_over_new_and_live_connections_and_its_answer_is_stapled() {
    let lab = Pair::lab();
    let site = Site::new(&lab);
    let [web, db, guest] = ["web", "db", "guest"].map(|name| site.issue(name));
    site.knows(&lab, &[(&web, true), (&db, true), (&guest, true)]);
    let port = free_port();
    let responder = site.respond(&lab, port);
    let pair = Pair::configured(lab, &site.yaml([&web, &db], &ocsp(port, "require")));
    wait_until_it_works(&pair);

    // The first time nobody knows anything about the guest yet, and no handshake waits.
    let identity = Identity::from(&guest);
    let to = pair.db().at(80);
    let connect = || s_client(pair.out(), to, &site.authority.root, Some(&identity));
    connect().run().fails();
    let first = refusal(&pair, "the guest's first try", |r| {
        r.reason() == "revocation_unknown" && r.inbound() && r.peer().ends_with("/guest")
    });
    assert!(first.detail().contains("a retry succeeds"), "{first:?}");
    eventually(slow::limit(15), "the guest to be let in", || (connect().run().code == Some(0)).then_some(()));

    // Stapled to whoever asks for it.
    let status = || {
        let command = pair.out().cmd("openssl").args(["s_client", "-status", "-connect", &to.to_string()]);
        let command = command.arg("-CAfile").arg(&site.authority.root);
        let command = command.arg("-cert").arg(&guest.cert).arg("-key").arg(&guest.key);
        command.stdin("GET / HTTP/1.0\r\n\r\n").limit(slow::limit(20)).run().text()
    };
    let text = eventually(slow::limit(15), "a stapled answer", || {
        Some(status()).filter(|text| text.contains("OCSP Response Status: successful"))
    });
    let own = serial(&pair.lab, &db.cert);
    assert!(text.contains("Cert Status: good") && text.contains(&format!("Serial Number: {own}")), "{text}");

    // Revoked: the live connection ends, and no other begins.
    let _live = connect().piped().spawn();
    let is_guest =
        |c: &serde_json::Value| c["event"] == "open" && c["peer_identity"] == "spiffe://example.org/guest";
    eventually(slow::limit(15), "the guest's connection", || {
        pair.daemon.ask(&["connections"]).as_array()?.iter().any(is_guest).then_some(())
    });
    drop(responder);
    site.knows(&pair.lab, &[(&web, true), (&db, true), (&guest, false)]);
    let responder = site.respond(&pair.lab, port);
    let cut = pair.daemon.wait_for_log("the cut", |r| !r.refused() && r.inbound() && r.reason() == "revoked");
    assert!(cut.detail().contains(&format!("127.0.0.1:{port}")), "{cut:?}");
    pair.refuses("revoked", |to| {
        let output = s_client(pair.out(), to, &site.authority.root, Some(&identity)).run().fails();
        assert!(output.stderr.contains("certificate revoked"), "{output}");
        output
    });

    // Down: what is known stays.
    let labels = |result| [("trust_domain", "example.org"), ("result", result)];
    let failed = pair.daemon.metric("mtlsd_ocsp_questions_total", &labels("failed"));
    drop(responder);
    eventually(slow::limit(30), "a question that fails", || {
        (pair.daemon.metric("mtlsd_ocsp_questions_total", &labels("failed")) > failed).then_some(())
    });
    pair.works();
    assert!(pair.daemon.metric("mtlsd_ocsp_questions_total", &labels("answered")) > 3.5);
    assert!(pair.daemon.metric("mtlsd_ocsp_stale", &[("trust_domain", "example.org")]) < 0.5);
    assert!(pair.daemon.metric("mtlsd_ocsp_age_seconds", &[("trust_domain", "example.org")]) < 3600.0);
}

#[test]
fn without_an_answer_prefer_accepts_and_require_refuses_until_there_is_one() {
    let lab = Pair::lab();
    let site = Site::new(&lab);
    let [web, db] = ["web", "db"].map(|name| site.issue(name));
    let port = free_port();
    let mut pair = Pair::configured(lab, &site.yaml([&web, &db], &ocsp(port, "prefer")));
    pair.works();
    eventually(slow::limit(15), "the failure in the log", || {
        let said = pair.daemon.printed();
        (said.contains("no OCSP answer was taken") && said.contains(&format!("127.0.0.1:{port}")))
            .then_some(())
    });
    pair.daemon.configure(&pair.lab.expand(&site.yaml([&web, &db], &ocsp(port, "require"))));
    pair.daemon.sighup();
    let down = eventually(slow::limit(15), "a refusal", || {
        pair.curl(pair.http()[0]);
        pair.daemon.access_log().into_iter().find(|r| r.reason() == "revocation_unknown")
    });
    assert!(down.detail().contains("cannot be reached"), "{down:?}");
    // It is there, and knows nobody.
    let responder = site.respond(&pair.lab, port);
    eventually(slow::limit(30), "a refusal that says so", || {
        pair.curl(pair.http()[0]);
        pair.daemon.access_log().into_iter().find(|r| r.detail().contains("certStatus unknown"))
    });
    drop(responder);
    site.knows(&pair.lab, &[(&web, true), (&db, true)]);
    let _responder = site.respond(&pair.lab, port);
    wait_until_it_works(&pair);
}

#[test]
fn what_another_server_staples_counts() {
    let lab = Pair::lab();
    let site = Site::new(&lab);
    let partner =
        Site { authority: Authority::new(lab.dir(), "partner"), index: lab.dir().join("partner.txt") };
    let api = partner.authority.issue("api", &Leaf::good("spiffe://partner.example/api"));
    let [web, db] = ["web", "db"].map(|name| site.issue(name));
    // Nobody is there.
    let port = free_port();
    let more = format!(
        "  ocsp: [ {{ trust_domain: partner.example, responder: 'http://127.0.0.1:{port}/' }} ]\n  ocsp_policy: require\n\
         directory:\n  - {{ name: api, addresses: [\"$out.v4\"], ports: [4433, 4434], spiffe_ids: [\"spiffe://partner.example/api\"] }}\n"
    );
    let yaml = site.yaml([&web, &db], &more);
    let bundle = format!(
        "bundles: [ {{ trust_domain: partner.example, file: {} }}, ",
        partner.authority.root.display()
    );
    let pair = Pair::configured(lab, &yaml.replacen("bundles: [ ", &bundle, 1));
    let identity = Identity::from(&api);
    let root = &site.authority.root;
    for (port, good, code) in [(4433, true, true), (4434, false, false)] {
        partner.knows(&pair.lab, &[(&api, good)]);
        let staple = partner.answer(&pair.lab, &api);
        let staple = staple.to_str().expect("UTF-8");
        let _server = s_server(pair.out(), port, root, &identity, &["-status_file", staple]);
        let output = pair.curl(pair.out().at(port));
        assert_eq!(output.code == Some(0), code, "{output}");
    }
    let record = refusal(&pair, "the stapled revocation", |r| r.reason() == "revoked");
    assert!(record.detail().contains("stapled by the peer"), "{record:?}");
}
