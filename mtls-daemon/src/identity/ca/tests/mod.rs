//! The CA in its directory: made once, loaded again, refused when it is not whole.

mod admin;
mod constraints;
mod log;
mod revoke;
mod site;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use tempfile::TempDir;

use super::*;
use crate::handshake::{ExpectedServer, PeerNameSettings, PeerRole, Trust, verify_peer};
use crate::identity::TrustBundles;
use crate::identity::leaf::Leaf;
use crate::identity::{SpiffeId, Subject};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

struct Place {
    parent: TempDir,
    settings: EmbeddedCaSettings,
}

fn place() -> Place {
    let parent = tempfile::tempdir().unwrap();
    let settings = EmbeddedCaSettings {
        directory: parent.path().join("state/ca"),
        lifetime: HOUR,
        trust_domain: "example.org".parse().unwrap(),
        key: None,
    };
    Place { parent, settings }
}

impl Place {
    fn open(&self) -> Result<EmbeddedCa, CaError> {
        self.open_at(SystemTime::now())
    }

    fn open_at(&self, now: SystemTime) -> Result<EmbeddedCa, CaError> {
        EmbeddedCa::open(self.settings.clone(), now)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.settings.directory.join(name)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.file(name)).unwrap().permissions().mode() & 0o7777
    }
}

impl EmbeddedCa {
    /// Issues with nothing special about the subject.
    fn plain(&self, id: &SpiffeId, dns_names: &[String], now: SystemTime) -> Result<X509Svid, CaError> {
        self.issue(&Order { id, dns_names, subject: &Subject::default(), requested_by: "a test" }, now)
    }
}

fn plain_pem(ca: &EmbeddedCa, dns_names: &[String]) -> IssuedPem {
    let (id, subject) = (id(), Subject::default());
    let order = Order { id: &id, dns_names, subject: &subject, requested_by: "a test" };
    ca.issue_pem(&order, SystemTime::now()).unwrap()
}

fn id() -> SpiffeId {
    "spiffe://example.org/web".parse().unwrap()
}

/// Would a peer that believes this CA take the chain, as that of `web`?
pub(in crate::identity) fn accepted(
    ca: &EmbeddedCa,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), crate::observe::Refusal> {
    let trust = Trust {
        bundles: Arc::new(TrustBundles::from_iter([(ca.trust_domain().clone(), ca.bundle())])),
        trust_domain: ca.trust_domain().clone(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(crate::identity::Revocations::in_memory()),
        clock_skew: Trust::CLOCK_SKEW,
    };
    let expected = ExpectedServer { ids: vec![id()], dns_names: vec![] };
    verify_peer(chain, PeerRole::Server, &trust, Some(&expected), now)?;
    verify_peer(chain, PeerRole::Client, &trust, None, now).map(|_| ())
}

#[test]
fn what_it_issues_is_accepted_by_who_trusts_its_root() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    let svid = ca.plain(&id(), &["web".into(), "web.example.org".into()], now).unwrap();
    assert_eq!(svid.id, id());
    assert_eq!(svid.chain.len(), 2);
    assert!(svid.not_before <= now - CLOCK_SKEW);
    assert!(svid.not_after > now + HOUR - Duration::from_secs(2) && svid.not_after <= now + HOUR);
    accepted(&ca, &svid.chain, now).unwrap();
    let leaf = Leaf::read(&svid.chain[0]).unwrap();
    assert_eq!(leaf.dns, ["web", "web.example.org"]);
    assert!(leaf.wrong_usage().is_none());
    let extended = leaf.extended_usage.unwrap();
    assert!(extended.client && extended.server);
}

#[test]
fn every_certificate_has_a_key_and_a_serial_of_its_own() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let svid = ca.plain(&id(), &[], now).unwrap();
        assert!(svid.serial.len() > 24, "128 random bits: {}", svid.serial);
        let key = svid.key.public_key().unwrap().as_ref().to_vec();
        assert!(seen.insert(svid.serial.clone().into_bytes()) && seen.insert(key));
    }
}

#[test]
fn the_directory_keeps_its_keys_to_itself_and_no_workload_key_is_written() {
    let place = place();
    let ca = place.open().unwrap();
    ca.plain(&id(), &[], SystemTime::now()).unwrap();
    plain_pem(&ca, &[]);
    assert_eq!(place.mode(""), 0o700);
    for key in ["root.key", "intermediate.key"] {
        assert_eq!(place.mode(key), 0o600, "{key}");
    }
    let mut names: Vec<_> = fs::read_dir(&place.settings.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let issued = ["issued.jsonl", "issued.lock"];
    assert_eq!(names[2..4], issued);
    assert_eq!(
        [&names[..2], &names[4..]].concat(),
        ["intermediate.crt", "intermediate.key", "lock", "root.crt", "root.key"]
    );
    assert_eq!(place.mode("issued.jsonl"), 0o600);
}

#[test]
fn issued_pem_is_a_pair_that_files_can_serve() {
    let place = place();
    let ca = place.open().unwrap();
    let issued = plain_pem(&ca, &["web".into()]);
    assert!(!format!("{issued:?}").contains("PRIVATE"));
    let path = |name: &str| place.parent.path().join(name);
    fs::write(path("c"), &issued.chain).unwrap();
    fs::write(path("k"), issued.key.as_bytes()).unwrap();
    let files = crate::identity::IdentityFiles {
        certificate: path("c"),
        key: path("k"),
        bundle: Some(place.file("root.crt")),
    };
    let (svid, bundle) = files.read(SystemTime::now()).unwrap();
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(bundle.unwrap(), ca.bundle());
}

#[test]
fn opening_again_gives_the_same_ca() {
    let place = place();
    let first = place.open().unwrap();
    let svid = first.plain(&id(), &[], SystemTime::now()).unwrap();
    let second = place.open().unwrap();
    assert_eq!(first.root(), second.root());
    accepted(&second, &svid.chain, SystemTime::now()).unwrap();
}

#[test]
fn two_cas_of_one_trust_domain_have_different_names() {
    let (one, two) = (place(), place());
    let (one, two) = (one.open().unwrap(), two.open().unwrap());
    assert_ne!(one.bundle().roots()[0].subject(), two.bundle().roots()[0].subject());
    let svid = two.plain(&id(), &[], SystemTime::now()).unwrap();
    let refusal = accepted(&one, &svid.chain, SystemTime::now()).unwrap_err();
    assert_eq!(refusal.reason, crate::observe::Reason::UnknownIssuer);
}

#[test]
fn daemons_that_start_together_share_one_ca() {
    let place = place();
    let barrier = Barrier::new(8);
    let roots: HashSet<Vec<u8>> = std::thread::scope(|scope| {
        let open = || {
            barrier.wait();
            place.open().unwrap().root().to_vec()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(roots.len(), 1);
}

#[test]
fn a_crash_in_the_middle_of_making_it_is_made_good() {
    let place = place();
    let root = place.open().unwrap().root();
    fs::write(place.file("creating"), "").unwrap();
    fs::remove_file(place.file("intermediate.crt")).unwrap();
    fs::write(place.file("root.crt.new"), "half").unwrap();
    let second = place.open().unwrap();
    assert_ne!(root, second.root());
    assert!(!place.file("creating").exists());
    assert!(place.open().is_ok());
}

#[test]
fn a_missing_file_is_named_and_nothing_is_made_in_its_place() {
    for file in ["root.crt", "root.key", "intermediate.crt", "intermediate.key"] {
        let place = place();
        place.open().unwrap();
        fs::remove_file(place.file(file)).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(&error, CaError::Missing(path) if *path == place.file(file)), "{error}");
        assert!(error.to_string().contains("backup"));
        assert!(!place.file(file).exists());
    }
}

#[test]
fn keys_that_others_can_read_are_refused_with_the_mend() {
    for (file, mode, mend) in
        [("root.key", 0o644, "chmod 600"), ("intermediate.key", 0o640, "chmod 600"), ("", 0o770, "chmod 700")]
    {
        let place = place();
        place.open().unwrap();
        fs::set_permissions(place.file(file), fs::Permissions::from_mode(mode)).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(&error, CaError::TooOpen { mode: seen, .. } if *seen == mode), "{error}");
        assert!(error.to_string().contains(mend), "{error}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    for name in ["root", "intermediate"] {
        let (place, other) = (place(), place());
        place.open().unwrap();
        other.open().unwrap();
        let key = format!("{name}.key");
        fs::copy(other.file(&key), place.file(&key)).unwrap();
        let error = place.open().unwrap_err();
        assert!(
            matches!(&error, CaError::KeyMismatch { key: path, .. } if *path == place.file(&key)),
            "{error}"
        );
    }
}

#[test]
fn an_intermediate_of_another_root_is_refused() {
    let (place, other) = (place(), place());
    place.open().unwrap();
    other.open().unwrap();
    for file in ["intermediate.crt", "intermediate.key"] {
        fs::copy(other.file(file), place.file(file)).unwrap();
    }
    let error = place.open().unwrap_err();
    assert!(matches!(error, CaError::BrokenChain { .. }), "{error}");
}

#[test]
fn garbage_in_a_file_is_told_with_its_path() {
    for file in ["root.crt", "root.key", "intermediate.crt", "intermediate.key"] {
        for garbage in
            [&b""[..], b"garbage", b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"]
        {
            let place = place();
            place.open().unwrap();
            fs::write(place.file(file), garbage).unwrap();
            let error = place.open().unwrap_err();
            assert!(
                matches!(&error, CaError::Unreadable { path, .. } if *path == place.file(file)),
                "{error}"
            );
        }
        let place = place();
        place.open().unwrap();
        fs::write(place.file(file), vec![b'x'; 100_000]).unwrap();
        assert!(place.open().unwrap_err().to_string().contains("larger than"));
    }
}

#[test]
fn a_ca_of_another_trust_domain_is_refused_with_both_names() {
    let mut place = place();
    place.open().unwrap();
    place.settings.trust_domain = "other.example".parse().unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, CaError::OtherTrustDomain { .. }));
    assert!(error.to_string().contains("example.org") && error.to_string().contains("other.example"));
}

#[test]
fn a_foreign_root_is_not_taken_for_ours() {
    let place = place();
    place.open().unwrap();
    let foreign = crate::identity::testing::TestCa::root("foreign");
    fs::write(place.file("root.crt"), directory::pem(&foreign.der)).unwrap();
    let error = place.open().unwrap_err();
    assert!(error.to_string().contains("does not name its trust domain"), "{error}");
}

#[test]
fn an_expired_or_future_root_is_refused_with_by_how_much() {
    let place = place();
    let now = SystemTime::now();
    place.open_at(now).unwrap();
    let error = place.open_at(now + ROOT_LIFETIME + 2 * DAY).unwrap_err();
    assert!(
        matches!(error, CaError::Expired { .. }) && error.to_string().contains("expired 2 d ago"),
        "{error}"
    );
    let error = place.open_at(now - 3 * DAY).unwrap_err();
    assert!(matches!(error, CaError::NotYetValid { .. }), "{error}");
    assert!(error.to_string().contains("clock"));
}

#[test]
fn the_intermediate_is_renewed_at_half_of_its_life_and_when_it_has_expired() {
    for wait in [INTERMEDIATE_LIFETIME / 2 + DAY, INTERMEDIATE_LIFETIME + 30 * DAY] {
        let place = place();
        let now = SystemTime::now();
        let ca = place.open_at(now).unwrap();
        let old = ca.plain(&id(), &[], now).unwrap();
        let later = now + wait;
        // While it runs …
        let renewed = ca.plain(&id(), &[], later).unwrap();
        assert_ne!(old.chain[1], renewed.chain[1]);
        accepted(&ca, &renewed.chain, later).unwrap();
        assert_eq!(ca.plain(&id(), &[], later).unwrap().chain[1], renewed.chain[1], "once is enough");
        // … and for one that starts then.
        let fresh = place.open_at(later).unwrap();
        assert_eq!(fresh.plain(&id(), &[], later).unwrap().chain[1], renewed.chain[1]);
    }
}

#[test]
fn before_half_of_its_life_the_intermediate_stays() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let early = ca.plain(&id(), &[], now).unwrap();
    let later = ca.plain(&id(), &[], now + INTERMEDIATE_LIFETIME / 2 - DAY).unwrap();
    assert_eq!(early.chain[1], later.chain[1]);
}

#[test]
fn without_its_directory_the_ca_issues_nothing_and_makes_no_other() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let bundle = ca.bundle();
    fs::remove_dir_all(&place.settings.directory).unwrap();
    // Making a new CA here would change the root under everybody's feet.
    fs::write(&place.settings.directory, "not a directory").unwrap();
    let error = ca.plain(&id(), &[], now).unwrap_err();
    assert!(matches!(error, CaError::Log { .. }), "{error}");
    assert_eq!(ca.bundle(), bundle, "what was believed is still believed");
    assert!(!ca.status(now).alarms.is_empty());
}

#[test]
fn a_directory_that_is_broken_later_leaves_in_force_what_was_read() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let old = ca.plain(&id(), &[], now).unwrap();
    fs::write(place.file("intermediate.crt"), "garbage").unwrap();
    let still = ca.plain(&id(), &[], now).unwrap();
    assert_eq!(old.chain[1], still.chain[1]);
    assert!(ca.status(now).alarms[0].contains("intermediate.crt cannot be used"), "{:?}", ca.status(now));
}

#[test]
fn the_subject_says_what_was_asked_for() {
    let place = place();
    let ca = place.open().unwrap();
    let attribute = |text: &str| Some(text.parse().unwrap());
    let subject = Subject {
        organization: attribute("Shop"),
        organizational_unit: attribute("Zahlungen & Bücher"),
        common_name: attribute("web"),
    };
    let (id, now) = (id(), SystemTime::now());
    let order = Order { id: &id, dns_names: &[], subject: &subject, requested_by: "a test" };
    let svid = ca.issue(&order, now).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    assert_eq!(parsed.subject().to_string(), "O=Shop, OU=Zahlungen & Bücher, CN=web");
    accepted(&ca, &svid.chain, now).unwrap();
    let plain = ca.plain(&id, &[], now).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&plain.chain[0]).unwrap();
    assert_eq!(parsed.subject().to_string(), "O=example.org");
}

#[test]
fn no_certificate_outlives_the_intermediate() {
    let mut place = place();
    place.settings.lifetime = 10_000 * DAY;
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    assert!(ca.plain(&id(), &[], now).unwrap().not_after <= now + INTERMEDIATE_LIFETIME);
    // Nor does the last intermediate outlive its root.
    let late = now + ROOT_LIFETIME - 30 * DAY;
    let svid = ca.plain(&id(), &[], late).unwrap();
    assert!(svid.not_after <= now + ROOT_LIFETIME);
    assert!(Leaf::read(&svid.chain[1]).unwrap().not_after <= now + ROOT_LIFETIME);
}

#[test]
fn what_it_may_not_issue_is_refused() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    for id in ["spiffe://other.example/web", "spiffe://example.org"] {
        let error = ca.plain(&id.parse().unwrap(), &[], now).unwrap_err();
        assert!(matches!(error, CaError::ForeignId { .. }), "{error}");
    }
    for name in ["", "not a name", "*.example.org", "10.0.0.1", "a..b", "héllo"] {
        let error = ca.plain(&id(), &[name.into()], now).unwrap_err();
        assert!(matches!(error, CaError::DnsName(_)), "{name}: {error}");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let mut place = place();
    let file = place.parent.path().join("file");
    fs::write(&file, "").unwrap();
    place.settings.directory = file.join("ca");
    let error = place.open().unwrap_err();
    assert!(matches!(error, CaError::Io { action: "create the directory", .. }), "{error}");
}

#[test]
fn an_intermediate_that_ends_with_its_root_is_not_renewed_for_nothing() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let last = now + ROOT_LIFETIME - 30 * DAY;
    let clamped = ca.plain(&id(), &[], last).unwrap().chain[1].clone();
    let later = now + ROOT_LIFETIME - DAY;
    assert_eq!(ca.plain(&id(), &[], later).unwrap().chain[1], clamped);
}
