//! A strict port is standard TLS to anybody with an accepted certificate, and mtlsd's clients talk to standard servers.

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::programs::{self, Identity, s_client, s_server};
use mtls_tests::{Pair, STRICT_PAIR};

#[test]
fn openssl_with_a_certificate_of_the_ca_is_served() {
    let pair = Pair::strict();
    let identity = pair.issue("partner");
    for to in pair.http() {
        let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).run().ok();
        assert!(output.text().contains("hello from db"), "{output}");
    }
    let record = pair.daemon.wait_for_log("openssl's connection", |r| r.inbound());
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/partner", true));
    assert_eq!((record.tls_version(), record.reason()), ("TLSv1.3", ""));
}

#[test]
fn curl_with_a_certificate_is_served_whatever_alpn_it_offers() {
    let pair = Pair::strict();
    let identity = pair.issue("partner");
    // `h2` and `http/1.1`; `http/1.1`; nothing: what the application speaks is its own affair.
    for version in ["--http2", "--http1.1", "--no-alpn"] {
        // The certificate carries the workload's name as a DNS name: the client verifies it, as it would anywhere.
        let url = "https://db:80/";
        let resolve = format!("db:80:[{}]", pair.db().v6);
        let curl = pair.out().cmd("curl").args([
            "-sS",
            "--max-time",
            "20",
            version,
            "--resolve",
            &resolve,
            "--cacert",
        ]);
        let curl = curl.arg(pair.root()).arg("--cert").arg(&identity.chain).arg("--key").arg(&identity.key);
        assert_eq!(curl.arg(url).run().ok().text(), "hello from db", "{version}");
    }
}

#[test]
fn a_certificate_longer_than_a_tls_record_is_served() {
    let (pair, authority) = Pair::with_authority("");
    let dns = (0..700).map(|n| format!("name-number-{n}.example.org")).collect();
    let leaf = Leaf { dns, ..Leaf::good("spiffe://example.org/many") };
    let identity = Identity::from(&authority.issue("many", &leaf));
    for to in pair.http() {
        let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).run().ok();
        assert!(output.text().contains("hello from db"), "{output}");
    }
}

#[test]
fn curl_with_a_certificate_that_policy_denies_is_told_so() {
    let yaml =
        STRICT_PAIR.replace("trust_domains: [example.org]", "spiffe_ids: [\"spiffe://example.org/web\"]");
    let pair = Pair::configured(Pair::lab(), &yaml);
    let identity = pair.issue("partner");
    let curl = pair.out().cmd("curl").args(["-sS", "--max-time", "20", "--resolve"]);
    let curl = curl.arg(format!("db:80:{}", pair.db().v4)).arg("--cacert").arg(pair.root());
    let curl = curl.arg("--cert").arg(&identity.chain).arg("--key").arg(&identity.key).arg("https://db:80/");
    let output = curl.run().fails();
    assert!(output.stderr.contains("alert access denied"), "{output}");
}

#[test]
fn a_workload_is_a_client_of_a_standard_tls_server_in_the_directory() {
    let lab = Pair::lab();
    let partner = Authority::new(lab.dir(), "partner");
    let server = partner.issue("api", &Leaf::good("spiffe://partner.example/api"));
    let more = format!(
        r#"
trust: {{ bundles: [ {{ trust_domain: partner.example, file: {} }} ] }}
directory:
  - {{ name: api, addresses: ["$out.v4", "$out.v6"], ports: [4433], spiffe_ids: ["spiffe://partner.example/api"] }}
"#,
        partner.root.display()
    );
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}{more}"));
    let _server = s_server(pair.out(), 4433, &pair.root(), &Identity::from(&server), &[]);
    let capture = pair.lab.capture();
    for to in [pair.out().at(4433), pair.out().at6(4433)] {
        let page = pair.curl(to).ok().text();
        assert!(page.contains("TLSv1.3") && page.contains("Client certificate"), "{page}");
    }
    let record = pair.daemon.wait_for_log("web's connection", |r| !r.inbound() && r.workload() == "web");
    assert_eq!((record.peer(), record.reason()), ("spiffe://partner.example/api", ""));
    capture.stop().assert_only_tls(4433);
}

#[test]
fn a_client_without_a_certificate_is_told_that_one_is_required() {
    let pair = Pair::strict();
    pair.refuses("no_certificate", |to| {
        let output = s_client(pair.out(), to, &pair.root(), None).run().fails();
        assert!(output.stderr.contains("certificate required"), "{output}");
        output
    });
}

#[test]
fn a_client_of_another_ca_is_refused_although_it_claims_the_right_name() {
    let pair = Pair::strict();
    let other = Authority::new(pair.lab.dir(), "other");
    let files = other.issue("liar", &Leaf::good("spiffe://example.org/web"));
    let record = pair.refuses("unknown_issuer", |to| {
        let output = s_client(pair.out(), to, &pair.root(), Some(&Identity::from(&files))).run().fails();
        assert!(output.stderr.contains("unknown ca"), "{output}");
        output
    });
    assert!(record.policy().is_empty(), "policy is not asked about an unproved name: {record:?}");
}

#[test]
fn a_client_of_another_trust_domain_is_refused() {
    let pair = Pair::strict();
    let other = Authority::new(pair.lab.dir(), "elsewhere");
    let files = other.issue("stranger", &Leaf::good("spiffe://elsewhere.example/web"));
    let record = pair.refuses("trust_domain", |to| {
        s_client(pair.out(), to, &pair.root(), Some(&Identity::from(&files))).run().fails()
    });
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://elsewhere.example/web", false));
}

#[test]
fn a_ca_of_one_trust_domain_cannot_vouch_for_another() {
    let lab = Pair::lab();
    let partner = Authority::new(lab.dir(), "partner");
    let forged = partner.issue("forged", &Leaf::good("spiffe://example.org/web"));
    let honest = partner.issue("honest", &Leaf::good("spiffe://partner.example/shop"));
    let more = format!(
        r#"
  - {{ name: partner, action: allow, from: {{ spiffe_ids: ["spiffe://partner.example/shop"] }} }}
trust: {{ bundles: [ {{ trust_domain: partner.example, file: {} }} ] }}
"#,
        partner.root.display()
    );
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}{}", more.trim_start_matches('\n')));
    pair.refuses("unknown_issuer", |to| {
        s_client(pair.out(), to, &pair.root(), Some(&Identity::from(&forged))).run().fails()
    });
    for to in pair.http() {
        s_client(pair.out(), to, &pair.root(), Some(&Identity::from(&honest))).run().ok();
    }
}

#[test]
fn tls_1_2_is_refused_unless_it_is_configured() {
    let pair = Pair::strict();
    let identity = pair.issue("old");
    pair.refuses("tls_version", |to| {
        let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).arg("-tls1_2").run().fails();
        assert!(output.stderr.contains("protocol version"), "{output}");
        output
    });

    let pair = Pair::with("tls: { min_version: \"1.2\" }\n");
    let identity = pair.issue("old");
    for to in pair.http() {
        let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).arg("-tls1_2").run().ok();
        assert!(output.text().contains("hello from db"), "{output}");
    }
    let record = pair.daemon.wait_for_log("the old client", |r| r.inbound());
    assert_eq!(record.tls_version(), "TLSv1.2");
    // Our own two ends still choose the newest.
    pair.works();
    pair.daemon.wait_for_log("curl's connection", |r| r.tls_version() == "TLSv1.3");
}

#[test]
fn a_client_that_shares_no_key_exchange_group_is_refused() {
    let pair = Pair::strict();
    let identity = pair.issue("odd");
    pair.refuses("no_common_parameters", |to| {
        let client = s_client(pair.out(), to, &pair.root(), Some(&identity));
        client.args(["-groups", "P-521"]).run().fails()
    });
}

#[test]
fn the_application_never_hears_of_a_client_that_was_refused() {
    let pair = Pair::strict();
    let server = programs::probe(pair.db(), 7000, &[]);
    s_client(pair.out(), pair.db().at(7000), &pair.root(), None).run().fails();
    pair.daemon.wait_for_log("the refusal", mtls_tests::Record::refused);
    assert!(!server.printed().contains("accept"), "{}", server.printed());
}
