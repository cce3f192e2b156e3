//! Tests: several trust domains, of which each is believed under its own roots only, and only where it is listed.

use std::sync::Arc;

use super::tests::{End, expected, handshake};
use super::*;
use crate::identity::testing::{LeafSpec, TestCa, TestLeaf};
use crate::identity::{Bundle, PeerName, TrustBundles};
use crate::observe::{Reason, Refusal};

const DEV: &str = "spiffe://dev.example/web";
const PROD: &str = "spiffe://prod.example/db";

/// What a workload of the trust domain `own` believes.
fn trust(own: &str, bundles: &[(&str, &TestCa)]) -> Arc<Trust> {
    let bundles = bundles.iter().map(|(domain, ca)| (domain.parse().unwrap(), ca.bundle()));
    Arc::new(Trust {
        bundles: Arc::new(bundles.collect()),
        trust_domain: own.parse().unwrap(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        clock_skew: Trust::CLOCK_SKEW,
        revocations: Arc::default(),
    })
}

fn tls(leaf: &TestLeaf, trust: &Arc<Trust>) -> WorkloadTls {
    WorkloadTls::new(&leaf.svid(), Arc::clone(trust), TlsSettings::default())
}

/// What each end made of the other: its name, or why not.
type Seen = Result<PeerName, Refusal>;

/// `client` connects to `server`, whom the directory expects to be `id`.
fn connect(client: (&TestLeaf, &Arc<Trust>), server: (&TestLeaf, &Arc<Trust>), id: &str) -> (Seen, Seen) {
    let (client, client_saw) = tls(client.0, client.1).client(expected(id)).unwrap();
    let (server, server_saw) = tls(server.0, server.1).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    let seen = |end: End<rustls::Connection>, verdict: &Verdict| match end.error {
        Some(error) => Err(verdict.refusal_of(&error)),
        None => Ok(verdict.peer().unwrap().name.clone()),
    };
    (seen(client, &client_saw), seen(server, &server_saw))
}

#[track_caller]
fn refused(seen: &Seen, reason: Reason, evidence: &[&str]) {
    let refusal = seen.as_ref().expect_err("it must be refused");
    assert_eq!(refusal.reason, reason, "{refusal}");
    for piece in evidence {
        assert!(refusal.detail.contains(piece), "{piece:?} is not in {:?}", refusal.detail);
    }
}

struct World {
    dev: TestCa,
    prod: TestCa,
    web: TestLeaf,
    db: TestLeaf,
}

impl World {
    /// Roots and intermediates of both sites have the same names, as two copies of one set-up do.
    fn new() -> Self {
        let (dev, prod) = (TestCa::root("site root"), TestCa::root("site root"));
        let web = dev.intermediate("issuing").leaf(&LeafSpec::id(DEV));
        let db = prod.intermediate("issuing").leaf(&LeafSpec::id(PROD));
        Self { dev, prod, web, db }
    }

    fn dev_alone(&self) -> Arc<Trust> {
        trust("dev.example", &[("dev.example", &self.dev)])
    }

    fn prod_alone(&self) -> Arc<Trust> {
        trust("prod.example", &[("prod.example", &self.prod)])
    }

    fn both(&self, own: &str) -> Arc<Trust> {
        trust(own, &[("dev.example", &self.dev), ("prod.example", &self.prod)])
    }
}

#[test]
fn two_trust_domains_speak_when_each_lists_the_other() {
    let w = World::new();
    let (dev, prod) = (w.both("dev.example"), w.both("prod.example"));
    let (client, server) = connect((&w.web, &dev), (&w.db, &prod), PROD);
    assert_eq!(client.unwrap(), PeerName::Spiffe(PROD.parse().unwrap()));
    assert_eq!(server.unwrap(), PeerName::Spiffe(DEV.parse().unwrap()));
    assert!(
        matches!(connect((&w.db, &prod), (&w.web, &dev), DEV), (Ok(_), Ok(_))),
        "the other way round too"
    );
}

#[test]
fn dev_never_speaks_to_prod_unless_both_say_so() {
    let w = World::new();
    let (dev, prod) = (w.both("dev.example"), w.both("prod.example"));
    let (dev_alone, prod_alone) = (w.dev_alone(), w.prod_alone());

    // Dev has listed prod, and prod has not listed dev: prod refuses, whichever side it is on.
    let (client, server) = connect((&w.web, &dev), (&w.db, &prod_alone), PROD);
    refused(
        &server,
        Reason::TrustDomain,
        &[DEV, "its trust domain is dev.example", "accepted here: prod.example"],
    );
    refused(&client, Reason::PeerAlert, &[]);
    let (client, server) = connect((&w.db, &prod_alone), (&w.web, &dev), DEV);
    refused(&client, Reason::TrustDomain, &[DEV, "accepted here: prod.example"]);
    refused(&server, Reason::PeerAlert, &[]);

    // And the other way round: it is dev that refuses.
    let (client, _) = connect((&w.web, &dev_alone), (&w.db, &prod), PROD);
    refused(&client, Reason::TrustDomain, &[PROD, "accepted here: dev.example"]);
    let (_, server) = connect((&w.db, &prod), (&w.web, &dev_alone), DEV);
    refused(&server, Reason::TrustDomain, &[PROD, "accepted here: dev.example"]);
}

#[test]
fn a_root_signs_for_its_own_trust_domain_only_even_if_another_has_the_same_name() {
    let w = World::new();
    let (dev, prod) = (w.both("dev.example"), w.both("prod.example"));
    // Prod's CA, which dev accepts for prod, signs an ID of dev.
    let forged = w.prod.intermediate("issuing").leaf(&LeafSpec::id(DEV));
    let (_, server) = connect((&forged, &prod), (&w.web, &dev), DEV);
    refused(&server, Reason::UnknownIssuer, &[DEV, "trusted roots: site root"]);
    let forged = w.dev.leaf(&LeafSpec::id(PROD));
    let (client, _) = connect((&w.web, &dev), (&forged, &dev), PROD);
    // Signed by the root itself: our root of that name has another key.
    refused(&client, Reason::BadSignature, &[PROD, "issued by \"site root\""]);
}

#[test]
fn roots_that_are_listed_in_two_places_add_up_for_one_trust_domain_and_stay_out_of_the_other() {
    let w = World::new();
    let next = TestCa::root("next root");
    let mut bundles = TrustBundles::new();
    for bundle in [w.prod.bundle(), next.bundle()] {
        bundles.add("prod.example".parse().unwrap(), bundle);
    }
    bundles.add("dev.example".parse().unwrap(), w.dev.bundle());
    let dev = Arc::new(Trust { bundles: Arc::new(bundles), ..(*w.dev_alone()).clone() });
    let prod = w.both("prod.example");
    for ca in [&w.prod, &next] {
        let db = ca.leaf(&LeafSpec::id(PROD));
        assert!(connect((&w.web, &dev), (&db, &prod), PROD).0.is_ok());
    }
    let forged = next.leaf(&LeafSpec::id(DEV));
    let (_, server) = connect((&forged, &prod), (&w.web, &dev), DEV);
    refused(&server, Reason::UnknownIssuer, &[DEV, "next root"]);
}

#[test]
fn a_root_that_two_trust_domains_share_is_found() {
    let (one, other) = (TestCa::root("corporate"), TestCa::root("own"));
    let bundle = |cas: &[&TestCa]| Bundle::from_der(cas.iter().map(|ca| ca.der.clone()).collect()).unwrap();
    let all: TrustBundles = [
        ("a.example".parse().unwrap(), bundle(&[&one])),
        ("b.example".parse().unwrap(), bundle(&[&other])),
        ("c.example".parse().unwrap(), bundle(&[&other, &one])),
    ]
    .into_iter()
    .collect();
    let shared: Vec<_> =
        all.shared_roots().map(|(root, a, b)| format!("{} {a} {b}", root.subject())).collect();
    assert_eq!(shared, ["corporate a.example c.example", "own b.example c.example"]);
}
