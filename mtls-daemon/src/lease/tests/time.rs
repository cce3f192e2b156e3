//! What the clock brings: certificates that run out, are renewed, or are under a root that is gone.

use std::time::Instant;

use super::*;
use crate::handshake::tests::trust;
use crate::handshake::{PeerRole, TlsSettings, Trust, WorkloadTls, verify_peer};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::{PeerIdentity, TrustBundles};
use crate::observe::connection::CertificateInfo;
use crate::snapshot::testing::{config, snapshot};
use crate::snapshot::{OwnIdentity, Snapshot, number_of};

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";

/// A leaf that lasts so long from now on.
fn leaf(ca: &TestCa, id: &str, lasts: Duration) -> TestLeaf {
    ca.leaf(&LeafSpec { not_after: SystemTime::now() + lasts, ..LeafSpec::id(id) })
}

fn peer(ca: &TestCa, lasts: Duration) -> Arc<PeerIdentity> {
    let chain = leaf(ca, WEB, lasts).chain;
    Arc::new(verify_peer(&chain, PeerRole::Client, &trust(ca), None, SystemTime::now()).unwrap())
}

fn own(leaf: &TestLeaf) -> Own {
    let svid = leaf.svid();
    let fingerprint = Fingerprint::of(0, &svid.chain);
    let marks = ChainMarks::of(fingerprint, Some(svid.id.clone()), &svid.chain, false).unwrap();
    Own { marks: Arc::new(marks), not_after: svid.not_after }
}

/// `db` with this certificate, which believes these roots.
fn node(lease: &str, db: &TestLeaf, roots: &[&TestCa]) -> Snapshot {
    let text = format!(
        "workloads: [{{ name: db, select: {{ netns: db }}, lease: {lease} }}]\npolicy: [{{ name: all, action: allow }}]"
    );
    let mut snapshot = snapshot(config(&text));
    let bundles = roots.iter().map(|ca| ("example.org".parse().unwrap(), ca.bundle()));
    let bundles = Arc::new(bundles.collect::<TrustBundles>());
    let trust = Trust { bundles: Arc::clone(&bundles), ..Trust::clone(&trust(&TestCa::root("unused"))) };
    let Own { marks, not_after } = own(db);
    let identity = OwnIdentity {
        tls: WorkloadTls::new(&db.svid(), Arc::new(trust), TlsSettings::default()),
        bundles,
        certificate: Arc::new(CertificateInfo { serial: String::new(), not_after: not_after.into() }),
        not_after,
        marks,
        revocations: Arc::new(Revocations::in_memory()),
    };
    let state = snapshot.workloads.get_mut(&number_of("db")).unwrap();
    Arc::get_mut(state).unwrap().identity = Ok(identity);
    snapshot
}

struct World {
    leases: Arc<Leases>,
    snapshot: Snapshot,
    start: Now,
}

impl World {
    fn new(snapshot: Snapshot) -> Self {
        let world = Self { leases: Arc::default(), start: Now::read(), snapshot };
        world.set_terms();
        world
    }

    fn set_terms(&self) {
        let state = self.snapshot.by_name("db").unwrap();
        let terms = Terms { settings: state.settings.lease, metrics: Arc::clone(&state.metrics) };
        self.leases.set_terms([("db".into(), terms)].into());
    }

    fn connect(&self, own: Own, peer: Arc<PeerIdentity>) -> Lease {
        let marks = Arc::clone(&peer.marks);
        let parties = Parties { own: Some(own), peer: Some(peer), ..Parties::of_peer("db", Some(marks)) };
        let lease = self.leases.join(parties);
        let settled =
            self.leases.settle(&lease, |p, renewed| judge(&self.snapshot, p, renewed, self.start.wall));
        settled.unwrap();
        lease
    }

    /// What the clock brings, so much later.
    fn after(&self, time: Duration) -> Ended {
        let now = Now { wall: self.start.wall + time, monotonic: self.start.monotonic + time };
        self.leases.judge_due(|p, renewed| judge(&self.snapshot, p, renewed, now.wall), now)
    }

    fn change(&mut self, new: Snapshot) -> Ended {
        let covers = change::between(&self.snapshot, &new);
        let now = Now { monotonic: Instant::now(), ..self.start };
        let ended = self.leases.judge_again(&covers, |p, renewed| judge(&new, p, renewed, now.wall), now);
        self.snapshot = new;
        self.set_terms();
        ended
    }
}

fn cut(connections: usize, looked_at: usize) -> Ended {
    Ended { connections, looked_at, ..Ended::default() }
}

#[tokio::test]
async fn a_certificate_that_runs_out_and_is_not_renewed_ends_its_connections() {
    let ca = TestCa::root("root");
    for (theirs, ours, reason, part) in
        [(HOUR, 2 * HOUR, Reason::CertificateExpired, WEB), (2 * HOUR, HOUR, Reason::NoIdentity, "of db")]
    {
        let db = leaf(&ca, DB, ours);
        let world = World::new(node("{ expired: cut }", &db, &[&ca]));
        let lease = world.connect(own(&db), peer(&ca, theirs));
        assert_eq!(world.after(HOUR / 2), cut(0, 0));
        assert_eq!(world.after(HOUR + Duration::from_secs(5)), cut(1, 1));
        let refusal = lease.refusal().unwrap();
        assert_eq!(refusal.reason, reason);
        assert!(refusal.detail.contains(part) && refusal.detail.contains("expired"), "{refusal}");
        drop(lease);
        assert!(world.leases.is_empty());
    }
}

#[tokio::test]
async fn a_connection_outlives_its_certificates_where_both_are_renewed() {
    let ca = TestCa::root("root");
    let db = leaf(&ca, DB, HOUR);
    let mut world = World::new(node("{ expired: cut }", &db, &[&ca]));
    let lease = world.connect(own(&db), peer(&ca, HOUR));
    assert_eq!(world.change(node("{ expired: cut }", &leaf(&ca, DB, 5 * HOUR), &[&ca])), cut(0, 0));
    // It connects again with its newer certificate, and leaves.
    drop(world.connect(own(&db), peer(&ca, 4 * HOUR)));
    for (hours, looked_at) in [(2, 1), (3, 0)] {
        assert_eq!(world.after(hours * HOUR), cut(0, looked_at), "after {hours} h");
    }
    assert!(lease.refusal().is_none());
    assert_eq!(world.after(5 * HOUR), cut(1, 1));
    assert_eq!(lease.refusal().unwrap().reason, Reason::CertificateExpired);
}

#[tokio::test]
async fn by_default_it_goes_on_with_an_alarm_that_ends_when_a_newer_certificate_is_seen() {
    let ca = TestCa::root("root");
    let db = leaf(&ca, DB, 9 * HOUR);
    let world = World::new(node("{}", &db, &[&ca]));
    let lease = world.connect(own(&db), peer(&ca, HOUR));
    let kept = world.after(2 * HOUR);
    assert_eq!(kept, Ended { kept: 1, looked_at: 1, ..Ended::default() });
    assert_eq!(world.after(3 * HOUR), cut(0, 0), "it is told once");
    assert_eq!(world.leases.overdue()["db"], OverdueCounts { kept: 1, draining: 0 });
    let newer = world.connect(own(&db), peer(&ca, 6 * HOUR));
    assert_eq!(world.after(4 * HOUR), cut(0, 1));
    assert!(world.leases.overdue().is_empty() && lease.refusal().is_none());
    drop(newer);
    assert_eq!(world.after(7 * HOUR).kept, 1);
    drop(lease);
    assert!(world.leases.is_empty());
}

#[tokio::test]
async fn what_drains_is_cut_when_its_time_is_over_and_not_before() {
    let ca = TestCa::root("root");
    let db = leaf(&ca, DB, 9 * HOUR);
    let world = World::new(node("{ expired: drain, drain: 10m }", &db, &[&ca]));
    let lease = world.connect(own(&db), peer(&ca, HOUR));
    let minute = HOUR / 60;
    assert_eq!(world.after(61 * minute).draining, 1);
    assert_eq!(world.after(70 * minute), cut(0, 0));
    assert!(lease.refusal().is_none());
    assert_eq!(world.after(72 * minute), cut(1, 1));
    let refusal = lease.refusal().unwrap();
    assert!(refusal.detail.contains("it had 600s to end"), "{refusal}");
}

#[tokio::test]
async fn a_root_that_leaves_the_bundle_takes_along_who_was_not_verified_under_another() {
    let [old, new, newest] = ["old", "new", "newest"].map(TestCa::root);
    let db = leaf(&old, DB, 9 * HOUR);
    let under = |roots: &[&TestCa]| node("{}", &db, roots);
    let mut world = World::new(under(&[&old, &new]));
    let lease = world.connect(own(&db), peer(&old, HOUR));
    let of_new = world.connect(own(&db), peer(&new, HOUR / 2));
    let other = {
        let chain = leaf(&old, "spiffe://example.org/other", HOUR).chain;
        let other = verify_peer(&chain, PeerRole::Client, &trust(&old), None, SystemTime::now()).unwrap();
        world.connect(own(&db), Arc::new(other))
    };
    // Its newest certificate is the one under the old root; and the stranger's is the only one.
    assert_eq!(world.change(under(&[&old, &new, &newest])), cut(0, 0));
    drop(world.connect(own(&db), peer(&new, 2 * HOUR)));
    assert_eq!(world.change(under(&[&new, &newest])), cut(1, 2));
    assert_eq!(other.refusal().unwrap().reason, Reason::UnknownIssuer);
    assert!(other.refusal().unwrap().detail.contains("the root above it was removed"));
    assert!(lease.refusal().is_none() && of_new.refusal().is_none());
    // What holds it now goes, too.
    assert_eq!(world.change(under(&[&newest])), cut(2, 2));
    assert_eq!(lease.refusal().unwrap().reason, Reason::UnknownIssuer);

    let mut world = World::new(under(&[&old]));
    let lease = world.connect(own(&db), peer(&old, HOUR));
    assert_eq!(world.change(under(&[])), cut(1, 1));
    assert_eq!(lease.refusal().unwrap().reason, Reason::TrustDomain);
}
