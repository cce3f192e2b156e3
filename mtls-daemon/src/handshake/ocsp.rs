//! Whole handshakes with OCSP answers: stapled, known before, and asked for.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::{AlertDescription, Error as TlsError};

use super::tests::{CLIENT, SERVER, expected, handshake, tls, trust};
use super::{TlsSettings, Trust, Verdict, WorkloadTls};
use crate::identity::ChainMarks;
use crate::identity::ocsp::testing::{Says, good, revoked};
use crate::identity::ocsp::{Responder, Rules, Status};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::verified::Fingerprint;
use crate::observe::Reason;

struct World {
    ca: TestCa,
    issuer: TestCa,
    client: TestLeaf,
    server: TestLeaf,
}

fn world() -> World {
    let ca = TestCa::root("root");
    let issuer = ca.intermediate("issuer");
    let (client, server) = (issuer.leaf(&LeafSpec::id(CLIENT)), issuer.leaf(&LeafSpec::id(SERVER)));
    World { ca, issuer, client, server }
}

impl World {
    /// Trust that asks about leaves, or would.
    fn asking(&self, required: bool) -> Arc<Trust> {
        let trust = trust(&self.ca);
        let responder = Responder { url: Some("http://ocsp.example/".into()), ca_file: None, refresh: HOUR };
        let responders = [("example.org".parse().unwrap(), responder)].into();
        trust.revocations.ocsp().set_rules(Rules { responders, own: None, required });
        trust
    }

    fn answer(&self, says: &Says, leaf: &TestLeaf) -> Vec<u8> {
        says.about(&leaf.chain[0], &self.issuer)
    }

    /// The server as mtlsd is one: with this answer about it in force, which is stapled if it is good.
    fn stapling(&self, answer: Vec<u8>) -> WorkloadTls {
        let trust = self.asking(false);
        let marks = ChainMarks::of(
            Fingerprint::of(0, &self.server.chain),
            Some(SERVER.parse().unwrap()),
            &self.server.chain,
            false,
        );
        let marks = Arc::new(marks.unwrap());
        let ocsp = trust.revocations.ocsp();
        ocsp.keep_own(&[Arc::clone(&marks)]);
        let ask = ocsp.due(Instant::now()).remove(0);
        ocsp.answered(&ask, Ok(answer), SystemTime::now());
        WorkloadTls::new(&self.server.svid(), Arc::clone(&trust), TlsSettings::default()).stapling(marks)
    }

    /// A server that staples whatever it likes, as another implementation may.
    fn careless(&self, staple: Vec<u8>) -> Arc<rustls::ServerConfig> {
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert_with_ocsp(self.server.chain.clone(), self.server.private_key(), staple);
        Arc::new(config.unwrap())
    }

    /// What a client with this trust makes of a server that staples this.
    fn meets(&self, trust: &Arc<Trust>, staple: &[u8]) -> Result<(), (Reason, String, Option<TlsError>)> {
        let (client, saw) = tls(&self.client, Arc::clone(trust)).client(expected(SERVER)).unwrap();
        let (client, server) = handshake(client, self.careless(staple.to_vec()));
        outcome(client.error, &saw).map_err(|(reason, detail)| (reason, detail, server.error))
    }
}

fn outcome(error: Option<TlsError>, saw: &Verdict) -> Result<(), (Reason, String)> {
    error.map_or(Ok(()), |error| {
        let refusal = saw.refusal_of(&error);
        Err((refusal.reason, refusal.detail))
    })
}

#[test]
fn a_good_answer_that_our_server_staples_is_all_that_a_client_needs() {
    let w = world();
    let trust = w.asking(true);
    let server = w.stapling(w.answer(&good(), &w.server));
    for _ in 0..2 {
        let (client, saw) = tls(&w.client, Arc::clone(&trust)).client(expected(SERVER)).unwrap();
        let (server, _) = server.server(true, None).unwrap();
        let (client, _) = handshake(client, server);
        outcome(client.error, &saw).unwrap();
    }
    assert!(trust.revocations.ocsp().due(Instant::now()).is_empty(), "there is nothing to ask");
    // What is not good is not stapled: the client hears nothing, and asks.
    let trust = w.asking(true);
    let server = w.stapling(w.answer(&Says { status: Status::Unknown, ..good() }, &w.server));
    let (client, saw) = tls(&w.client, Arc::clone(&trust)).client(expected(SERVER)).unwrap();
    let (client, _) = handshake(client, server.server(true, None).unwrap().0);
    let (reason, detail) = outcome(client.error, &saw).unwrap_err();
    assert!(reason == Reason::RevocationUnknown && detail.contains("a retry succeeds"), "{detail}");
    assert_eq!(trust.revocations.ocsp().due(Instant::now()).len(), 1);
}

#[test]
fn a_stapled_answer_that_says_revoked_always_refuses_and_cuts() {
    let w = world();
    for required in [false, true] {
        let trust = w.asking(required);
        let staple = w.answer(&revoked(), &w.server);
        let (reason, detail, alert) = w.meets(&trust, &staple).unwrap_err();
        assert_eq!(reason, Reason::Revoked);
        assert!(detail.contains("stapled by the peer"), "{detail}");
        assert_eq!(alert, Some(TlsError::AlertReceived(AlertDescription::CertificateRevoked)));
        assert_eq!(trust.revocations.ocsp().take_revoked().len(), 1);
        // A good one from before does not take it back, and neither does silence.
        let now = SystemTime::now();
        let old = Says::new(Status::Good, now - HOUR, now + HOUR);
        for staple in [w.answer(&old, &w.server), vec![]] {
            assert_eq!(w.meets(&trust, &staple).unwrap_err().0, Reason::Revoked);
        }
    }
}

#[test]
fn a_bad_stapled_answer_counts_for_nothing_and_is_named_where_one_is_required() {
    let w = world();
    let (now, other) = (SystemTime::now(), TestCa::root("other"));
    for (staple, part) in [
        (b"nothing of the kind".to_vec(), "OCSPResponse"),
        (vec![0x30, 3, 0x0a, 1, 3], "tryLater"),
        (good().about(&w.server.chain[0], &other), "signature"),
        (w.answer(&good(), &w.client), "certID"),
        (w.answer(&Says::new(Status::Good, now - 2 * HOUR, now - HOUR), &w.server), "nextUpdate"),
        (w.answer(&Says::new(Status::Good, now + HOUR, now + 2 * HOUR), &w.server), "thisUpdate"),
    ] {
        assert_eq!(w.meets(&w.asking(false), &staple), Ok(()), "{part}");
        let trust = w.asking(true);
        let (reason, detail, _) = w.meets(&trust, &staple).unwrap_err();
        assert_eq!(reason, Reason::RevocationUnknown);
        assert!(detail.contains("what it stapled was refused") && detail.contains(part), "{part}: {detail}");
        // The responder's own answer counts, whatever the server staples.
        let ocsp = trust.revocations.ocsp();
        let ask = ocsp.due(Instant::now()).remove(0);
        ocsp.answered(&ask, Ok(w.answer(&good(), &w.server)), SystemTime::now());
        assert_eq!(w.meets(&trust, &staple), Ok(()), "{part}");
        // Without OCSP nobody looks.
        assert_eq!(w.meets(&super::tests::trust(&w.ca), &staple), Ok(()));
    }
}

#[test]
fn a_client_is_judged_by_the_answer_about_it_also_where_its_chain_is_remembered() {
    let w = world();
    let trust = w.asking(true);
    let meet = || {
        let (client, _) = tls(&w.client, super::tests::trust(&w.ca)).client(expected(SERVER)).unwrap();
        let (server, saw) = tls(&w.server, Arc::clone(&trust)).server(true, None).unwrap();
        let (client, server) = handshake(client, server);
        outcome(server.error, &saw).map_err(|(reason, _)| (reason, client.error))
    };
    let alert = |alert| Some(TlsError::AlertReceived(alert));
    assert_eq!(meet(), Err((Reason::RevocationUnknown, alert(AlertDescription::CertificateUnknown))));
    let ocsp = trust.revocations.ocsp();
    let later = || Instant::now() + 24 * HOUR;
    let ask = ocsp.due(Instant::now()).remove(0);
    ocsp.answered(&ask, Ok(w.answer(&good(), &w.client)), SystemTime::now());
    assert_eq!(meet(), Ok(()));
    let ask = ocsp.due(later()).remove(0);
    ocsp.answered(&ask, Ok(w.answer(&revoked(), &w.client)), SystemTime::now());
    assert_eq!(meet(), Err((Reason::Revoked, alert(AlertDescription::CertificateRevoked))));
}
