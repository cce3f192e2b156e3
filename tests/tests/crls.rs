//! Drills of revocation lists: the server of one is down, a list is stale, and a server that nobody vouches for.

use std::fs;
use std::path::{Path, PathBuf};

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::Process;
use mtls_tests::programs::lists::ListServer;
use mtls_tests::programs::{Identity, s_client};
use mtls_tests::{Lab, Pair, Record, STRICT_PAIR, eventually, slow};

const GOOD: &str = "spiffe://partner.example/good";
const BAD: &str = "spiffe://partner.example/bad";

/// A partner with a CA and a list of its own, two of its clients, and the strict pair that lets both in.
struct Partner {
    authority: Authority,
    list: PathBuf,
    good: Identity,
    bad: Identity,
    bad_serial: String,
}

impl Partner {
    fn new(lab: &Lab) -> Self {
        let authority = Authority::new(lab.dir(), "partner");
        let [good, bad] =
            [("good", GOOD), ("bad", BAD)].map(|(name, id)| authority.issue(name, &Leaf::good(id)));
        let serial = lab.tool("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&bad.cert).run().ok();
        let bad_serial = serial.text().trim().trim_start_matches("serial=").to_owned();
        let list = lab.dir().join("partner.crl");
        Self { authority, list, good: (&good).into(), bad: (&bad).into(), bad_serial }
    }

    /// A list that names `bad`, and is good for so many seconds more.
    fn names_bad(&self, seconds: u64) {
        let left = time::Duration::try_from(slow::limit(seconds)).expect("some seconds");
        self.authority.revoke(&[&self.bad_serial], time::Duration::DAY - left, &self.list);
    }

    /// The configuration with this source under `crls`.
    fn yaml(&self, source: &str, policy: &str) -> String {
        let yaml = STRICT_PAIR.replace("[example.org]", "[example.org, partner.example]");
        format!(
            "{yaml}trust:\n  bundles: [ {{ trust_domain: partner.example, file: {} }} ]\n  \
             crls: [ {{ trust_domain: partner.example, {source} }} ]\n  crl_policy: {policy}\n",
            self.authority.root.display()
        )
    }
}

fn welcome(pair: &Pair, who: &Identity) -> bool {
    let client = s_client(pair.out(), pair.http()[0], &pair.root(), Some(who));
    client.run().text().contains("hello from db")
}

#[track_caller]
fn refused(pair: &Pair, who: &Identity, reason: &str) -> Record {
    pair.refuses(reason, |to| s_client(pair.out(), to, &pair.root(), Some(who)).run().fails())
}

/// A connection of `who` that stays open.
#[track_caller]
fn live(pair: &Pair, who: &Identity, id: &str) -> Process {
    let process = s_client(pair.out(), pair.http()[0], &pair.root(), Some(who)).piped().spawn();
    eventually(slow::limit(15), "the connection that stays", || is_live(pair, id).then_some(()));
    process
}

fn is_live(pair: &Pair, id: &str) -> bool {
    let connections = pair.daemon.ask(&["connections"]);
    connections.as_array().expect("a list").iter().any(|c| c["event"] == "open" && c["peer_identity"] == id)
}

#[track_caller]
fn said(pair: &Pair, texts: &[&str]) {
    eventually(slow::limit(30), &format!("{texts:?} in the log"), || {
        let printed = pair.daemon.printed();
        texts.iter().all(|text| printed.contains(text)).then_some(())
    });
}

#[track_caller]
fn is_stale(pair: &Pair, source: &str, seconds: u64) {
    let stale = || pair.daemon.metric("mtlsd_crl_stale", &[("source", source)]) > 0.5;
    eventually(slow::limit(seconds), "the list to be stale", || stale().then_some(()));
}

#[track_caller]
fn is_welcome_again(pair: &Pair, who: &Identity) {
    eventually(slow::limit(30), "to be welcome again", || welcome(pair, who).then_some(()));
}

/// A certificate's time is compared by whole seconds, so this may be a second after the metric.
#[track_caller]
fn is_no_longer_welcome(pair: &Pair, who: &Identity) {
    eventually(slow::limit(30), "to be refused", || (!welcome(pair, who)).then_some(()));
}

#[test]
fn a_crl_server_that_is_down_changes_nothing_until_the_last_list_is_stale() {
    let lab = Pair::lab();
    let partner = Partner::new(&lab);
    let mut server = ListServer::http();
    partner.names_bad(60);
    server.hand_out(&partner.list);
    let source = format!("url: '{}', refresh: 1s", server.url());
    let mut pair = Pair::configured(lab, &partner.yaml(&source, "require"));
    is_welcome_again(&pair, &partner.good);
    refused(&pair, &partner.bad, "revoked");

    server.down();
    said(&pair, &["the CRL was refused; the last good one stays", "cannot be reached", &server.url()]);
    assert!(welcome(&pair, &partner.good), "the last good list is fresh");
    refused(&pair, &partner.bad, "revoked");
    // A restart does not forget it: there is a copy.
    pair.daemon.restart();
    assert!(welcome(&pair, &partner.good), "the kept copy is fresh");
    refused(&pair, &partner.bad, "revoked");
    let stays = live(&pair, &partner.good, GOOD);

    // Now nothing is known of anybody new, and who is named stays named.
    is_stale(&pair, &server.url(), 90);
    is_no_longer_welcome(&pair, &partner.good);
    let record = refused(&pair, &partner.good, "revocation_unknown");
    assert!(record.detail().contains(&server.url()) && record.detail().contains("expired"), "{record:?}");
    refused(&pair, &partner.bad, "revoked");
    assert!(is_live(&pair, GOOD), "a stale list cuts nobody");
    said(&pair, &["the CRL is stale: a newer one is overdue"]);
    drop(stays);

    partner.names_bad(3600);
    server.hand_out(&partner.list);
    server.up();
    // After a failure it is asked again in a second here, as `refresh` says.
    is_welcome_again(&pair, &partner.good);
    refused(&pair, &partner.bad, "revoked");
    assert!(pair.daemon.metric("mtlsd_crl_stale", &[("source", &server.url())]) < 0.5);
}

#[test]
fn a_stale_crl_is_an_alarm_with_prefer_and_closes_with_require() {
    let lab = Pair::lab();
    let partner = Partner::new(&lab);
    partner.names_bad(30);
    let source = format!("file: {}", partner.list.display());
    let pair = Pair::configured(lab, &partner.yaml(&source, "prefer"));
    let path = partner.list.display().to_string();
    assert!(welcome(&pair, &partner.good));
    refused(&pair, &partner.bad, "revoked");
    is_stale(&pair, &path, 60);
    said(&pair, &["the CRL is stale: a newer one is overdue", &path]);
    assert!(welcome(&pair, &partner.good), "prefer: who is not named is let in");
    refused(&pair, &partner.bad, "revoked");

    pair.daemon.configure(&pair.lab.expand(&partner.yaml(&source, "require")));
    is_no_longer_welcome(&pair, &partner.good);
    let record = refused(&pair, &partner.good, "revocation_unknown");
    assert!(record.detail().contains(&path), "{record:?}");
    let explained = pair.daemon.ask(&["explain", record.id()]).to_string();
    assert!(explained.contains("expired"), "{explained}");

    partner.names_bad(3600);
    is_welcome_again(&pair, &partner.good);
    refused(&pair, &partner.bad, "revoked");
    assert!(pair.daemon.metric("mtlsd_crl_stale", &[("source", &path)]) < 0.5);
}

#[test]
fn a_list_over_https_is_taken_only_from_a_server_that_ca_file_vouches_for() {
    let lab = Pair::lab();
    let partner = Partner::new(&lab);
    let (web, other) = (Authority::new(lab.dir(), "web-server"), Authority::new(lab.dir(), "other"));
    let server = ListServer::https(&web);
    partner.names_bad(3600);
    server.hand_out(&partner.list);
    // What is at this path is replaced below.
    let roots = lab.dir().join("server-roots.pem");
    fs::copy(&other.root, &roots).expect("lab directory is writable");
    let yaml = |roots: &Path| {
        partner
            .yaml(&format!("url: '{}', ca_file: {}, refresh: 1s", server.url(), roots.display()), "require")
    };
    let pair = Pair::configured(lab, &yaml(&roots));
    said(&pair, &["the CRL was refused; there is none", "UnknownIssuer", &server.url()]);
    assert_eq!(server.asked(), 0, "nothing is asked of a server that nobody vouches for");
    refused(&pair, &partner.good, "revocation_unknown");

    fs::copy(&web.root, &roots).expect("lab directory is writable");
    is_welcome_again(&pair, &partner.good);
    refused(&pair, &partner.bad, "revoked");
    assert!(server.asked() > 0);
}
