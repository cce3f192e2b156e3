//! A change ends what it names, looks at nothing else, and leaves nothing behind.

mod changes;
mod properties;
mod time;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::time::OffsetDateTime;

use super::*;
use crate::identity::revocation::{CertificateMarks, Entry, Sha256, Target};
use crate::identity::verified::Fingerprint;
use crate::identity::{ChainMarks, Revocations};
use crate::observe::{Reason, Refusal};

const HANG: Duration = Duration::from_secs(30);

/// The chain of client `number` under one of ten issuers.
fn chain(number: usize) -> Arc<ChainMarks> {
    let bytes = |text: String| rustls::pki_types::CertificateDer::from(text.into_bytes());
    let hash = |text: &str| Sha256::of(text.as_bytes());
    let certificate = |serial: String, issuer: &str, key: String| CertificateMarks {
        serial: serial.parse().unwrap(),
        issuer: hash(issuer),
        key: hash(&key),
    };
    let issuer = format!("issuer {}", number % 10);
    Arc::new(ChainMarks {
        fingerprint: Fingerprint::of(1, &[bytes(format!("chain {number}"))]),
        id: Some(format!("spiffe://example.org/client/{number}").parse().unwrap()),
        certificates: [
            certificate(format!("{:06x}", number + 0x10_0000), &issuer, format!("key {number}")),
            certificate(format!("f{}", number % 10), "root", issuer.clone()),
        ]
        .into(),
        rooted: false,
        question: None,
    })
}

fn parties(workload: &str, peer: Option<Arc<ChainMarks>>) -> Parties {
    Parties::of_peer(workload, peer)
}

fn revoke(revocations: &Revocations, leases: &Leases, target: Target) -> Ended {
    let (reason, by, at) = (String::new(), String::new(), OffsetDateTime::UNIX_EPOCH);
    let now = SystemTime::now();
    revocations.revoke(Entry { target: target.clone(), reason, by, at, until: None }, now).unwrap();
    leases.end(Mark::from(&target), |parties| parties.revoked(revocations, now))
}

async fn is_over(lease: &mut Lease) -> bool {
    tokio::time::timeout(Duration::ZERO, lease.over()).await.is_ok()
}

#[tokio::test]
async fn of_ten_thousand_connections_a_revocation_looks_at_those_that_it_names_and_at_no_other() {
    let leases = Arc::new(Leases::default());
    let revocations = Revocations::in_memory();
    let mut all: Vec<_> =
        (0..10_000).map(|number| leases.join(parties("db", Some(chain(number / 2))))).collect();
    let serial = |text: &str| Target::Serial { serial: text.parse().unwrap(), issuer: None };
    let id = |number| Target::SpiffeId { id: chain(number).id.clone().unwrap() };
    let key = |number| Target::Key { sha256: chain(number).certificates[0].key };
    for (target, looked_at, connections) in [
        (serial("abcdef"), 0, 0),
        (id(5_000), 0, 0),
        (Target::Key { sha256: Sha256::of(b"no such key") }, 0, 0),
        (id(7), 1, 2),
        (key(8), 1, 2),
        (serial(&chain(9).certificates[0].serial.to_string()), 1, 2),
        // An intermediate: every tenth of the 5,000 clients, of whom one is gone.
        (serial("f7"), 499, 998),
    ] {
        assert_eq!(
            revoke(&revocations, &leases, target.clone()),
            Ended { connections, looked_at, ..Ended::default() },
            "{target}"
        );
    }
    let over: Vec<usize> = {
        let mut over = vec![];
        for (number, lease) in all.iter_mut().enumerate() {
            if is_over(lease).await {
                over.push(number / 2);
            }
        }
        over
    };
    assert_eq!(over.len(), 6 + 998);
    assert!(over.iter().all(|client| [8, 9].contains(client) || client % 10 == 7));
    drop(all);
    assert!(leases.is_empty(), "what has ended leaves nothing behind");
}

#[tokio::test]
async fn who_waits_is_woken_with_the_reason_and_whose_certificate_it_is() {
    let leases = Arc::new(Leases::default());
    let revocations = Revocations::in_memory();
    for (own, whose) in [(false, "the peer"), (true, "the workload itself")] {
        let marks = chain(usize::from(own));
        let target = Target::SpiffeId { id: marks.id.clone().unwrap() };
        let mut parties = parties("db", Some(if own { chain(77) } else { Arc::clone(&marks) }));
        parties.own = own.then(|| Own { marks, not_after: SystemTime::now() });
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut lease = leases.join(parties.clone());
                tokio::spawn(async move { lease.over().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(revoke(&revocations, &leases, target).connections, 3);
        for task in waiting {
            let refusal = tokio::time::timeout(HANG, task).await.unwrap().unwrap();
            assert_eq!(refusal.reason, Reason::Revoked);
            assert!(refusal.detail.contains(whose), "{}", refusal.detail);
        }
    }
}

#[tokio::test]
async fn a_serial_of_another_issuer_is_looked_at_and_left_alone() {
    let leases = Arc::new(Leases::default());
    let mut lease = leases.join(parties("db", Some(chain(3))));
    let serial = chain(3).certificates[0].serial.clone();
    let issuer =
        crate::identity::revocation::DistinguishedName { sha256: Sha256::of(b"x"), name: "x".into() };
    let target = Target::Serial { serial, issuer: Some(issuer) };
    let ended = revoke(&Revocations::in_memory(), &leases, target);
    assert_eq!(ended, Ended { looked_at: 1, ..Ended::default() });
    assert!(!is_over(&mut lease).await);
}

#[tokio::test]
async fn a_workload_ends_with_all_its_connections_and_begins_anew_under_its_name() {
    let leases = Arc::new(Leases::default());
    let mut plain = leases.join(parties("db", None));
    let mut tls = leases.join(parties("db", Some(chain(1))));
    let mut other = leases.join(parties("web", Some(chain(1))));
    let stop = |_: &Parties| Some(Reason::ShuttingDown.into());
    assert_eq!(leases.end(Mark::Workload("db"), stop).connections, 2);
    assert!(is_over(&mut plain).await && is_over(&mut tls).await && !is_over(&mut other).await);
    let mut again = leases.join(parties("db", None));
    assert!(!is_over(&mut again).await);
    drop((plain, tls));
    let ended = leases.end(Mark::Workload("db"), stop);
    assert_eq!(ended, Ended { connections: 1, looked_at: 1, ..Ended::default() });
}

#[tokio::test]
async fn one_connection_can_be_ended_without_its_neighbours() {
    let leases = Arc::new(Leases::default());
    let mut one = leases.join(parties("db", None));
    let mut two = leases.join(parties("db", None));
    one.end(Reason::Revoked.into());
    assert_eq!(one.over().await.reason, Reason::Revoked);
    assert!(!is_over(&mut two).await);
    drop((one, two));
    assert!(leases.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_reset_by_another_that_was_ended_with_it_hears_the_same_reason() {
    let leases = Arc::new(Leases::default());
    let all: Vec<_> = (0..100).map(|number| leases.join(parties("db", Some(chain(number))))).collect();
    let mut first = leases.join(parties("db", Some(chain(0))));
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let waiting = tokio::spawn(async move {
        first.over().await;
        told.send(all.iter().all(|lease| lease.refusal().is_some())).unwrap();
    });
    tokio::task::yield_now().await;
    leases.end(Mark::Workload("db"), |_| Some(Reason::ShuttingDown.into()));
    assert_eq!(tokio::time::timeout(HANG, hears.recv()).await.unwrap(), Some(true));
    waiting.await.unwrap();
}
