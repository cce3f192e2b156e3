//! Lists from files and over HTTP: what is in force, what is refused, and what stays.

use std::net::TcpListener;
use std::sync::mpsc;

use rcgen::KeyUsagePurpose;

use super::*;
use crate::identity::ChainMarks;
use crate::identity::revocation::crl::MAX_CRL_ENTRIES;
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::verified::Fingerprint;
use crate::lease::Parties;

const WEB: &str = "spiffe://example.org/web";

/// A root and an intermediate that may sign lists, and where files can be.
struct World {
    root: TestCa,
    intermediate: TestCa,
    bundles: TrustBundles,
    directory: tempfile::TempDir,
}

fn signing(name: &str) -> rcgen::CertificateParams {
    let mut params = TestCa::params(name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn world() -> World {
    let root = TestCa::root_of(signing("root"));
    let intermediate = root.intermediate_with(signing("intermediate"));
    let bundles = TrustBundles::from_iter([("example.org".parse().unwrap(), root.bundle())]);
    World { root, intermediate, bundles, directory: tempfile::tempdir().unwrap() }
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn source(&self, origin: CrlOrigin) -> CrlSource {
        let issuers = self.path("issuers.pem");
        fs::write(&issuers, pem::encode(&pem::Pem::new("CERTIFICATE", self.intermediate.der.as_ref())))
            .unwrap();
        let trust_domain = "example.org".parse().unwrap();
        CrlSource { trust_domain, origin, issuer_file: Some(issuers), refresh: HOUR }
    }

    fn file(&self, crl: &[u8]) -> CrlSource {
        self.put(crl);
        self.source(CrlOrigin::File(self.path("crl")))
    }

    /// Another file each time, as those who replace one do: what is written twice in a moment has one time.
    fn put(&self, crl: &[u8]) {
        fs::write(self.path("new"), crl).unwrap();
        fs::rename(self.path("new"), self.path("crl")).unwrap();
    }

    /// The chain of a leaf, as it is verified: with its root.
    fn marks(&self, leaf: &TestLeaf) -> Arc<ChainMarks> {
        let path = leaf.chain.iter().chain([&self.root.der]);
        let print = Fingerprint::of(1, &leaf.chain);
        Arc::new(ChainMarks::of(print, Some(WEB.parse().unwrap()), path, true).unwrap())
    }
}

fn store(world: &World) -> CrlStore {
    CrlStore::new(&world.path("state"))
}

fn failure(store: &CrlStore) -> String {
    lock(&store.states)[0].failure.clone().expect("it is refused")
}

fn reason(lists: Crls, chain: &ChainMarks, now: SystemTime) -> Option<Reason> {
    let revocations = Revocations::in_memory();
    revocations.set_crls(lists);
    revocations.refusal_of(chain, now).map(|refusal| refusal.reason)
}

#[test]
fn a_list_of_the_issuer_revokes_what_it_names_and_nothing_else() {
    let (w, now) = (world(), SystemTime::now());
    let (good, bad) = (w.intermediate.leaf(&LeafSpec::default()), w.intermediate.leaf(&LeafSpec::default()));
    let crl = w.intermediate.crl(&[&bad.chain[0]], now - HOUR, now + HOUR);
    for bytes in [crl.clone(), pem::encode(&pem::Pem::new("X509 CRL", crl)).into_bytes()] {
        let store = store(&w);
        assert!(store.look(&[w.file(&bytes)], &w.bundles, now, true));
        let lists = || store.lists(CrlPolicy::Prefer);
        assert_eq!(reason(lists(), &w.marks(&bad), now), Some(Reason::Revoked));
        assert_eq!(reason(lists(), &w.marks(&good), now), None);
        // The serial of another issuer with the same name and another key.
        let namesake = w.root.intermediate_with(signing("intermediate"));
        let mut other = ChainMarks::clone(&w.marks(&bad));
        other.certificates[1].key =
            ChainMarks::clone(&w.marks(&namesake.leaf(&LeafSpec::default()))).certificates[1].key;
        assert_eq!(reason(lists(), &other, now), None);
        // Stale, it still revokes.
        assert_eq!(reason(lists(), &w.marks(&bad), now + 2 * HOUR), Some(Reason::Revoked));
        let health = &store.health(now)[0];
        assert!(!health.stale && health.age.unwrap().as_secs().abs_diff(3600) < 5, "{health:?}");
        assert!(store.health(now + 2 * HOUR)[0].stale);
    }
    // The root's list names the intermediate.
    let crl = w.root.crl(&[&w.intermediate.der], now - HOUR, now + HOUR);
    let store = store(&w);
    store.look(&[w.file(&crl)], &w.bundles, now, true);
    assert_eq!(reason(store.lists(CrlPolicy::Prefer), &w.marks(&good), now), Some(Reason::Revoked));
}

#[test]
fn where_lists_are_required_each_certificate_needs_a_fresh_one() {
    let (w, now) = (world(), SystemTime::now());
    let chain = w.marks(&w.intermediate.leaf(&LeafSpec::default()));
    let of_leaf = w.intermediate.crl(&[], now - HOUR, now + HOUR);
    let of_intermediate = w.root.crl(&[], now - HOUR, now + 2 * HOUR);
    let (one, two) = (w.path("one"), w.path("two"));
    fs::write(&one, of_leaf).unwrap();
    fs::write(&two, of_intermediate).unwrap();
    let sources = [w.source(CrlOrigin::File(one)), w.source(CrlOrigin::File(two))];
    for (sources, want) in [
        (&sources[..0], None),
        (&sources[..1], Some(Reason::RevocationUnknown)),
        (&sources[1..], Some(Reason::RevocationUnknown)),
        (&sources[..], None),
    ] {
        let store = store(&w);
        store.look(sources, &w.bundles, now, true);
        assert_eq!(reason(store.lists(CrlPolicy::Require), &chain, now), want, "{sources:?}");
        assert_eq!(reason(store.lists(CrlPolicy::Prefer), &chain, now), None);
        if sources.len() == 2 {
            let later = now + HOUR + HOUR / 2;
            assert_eq!(
                reason(store.lists(CrlPolicy::Require), &chain, later),
                Some(Reason::RevocationUnknown)
            );
            assert_eq!(reason(store.lists(CrlPolicy::Prefer), &chain, later), None);
            // Another trust domain requires nothing, and our own identity is for its peers to judge.
            let own = ChainMarks { rooted: false, ..ChainMarks::clone(&chain) };
            assert_eq!(reason(store.lists(CrlPolicy::Require), &own, later), None);
            let other = ChainMarks { id: Some("spiffe://b/x".parse().unwrap()), ..ChainMarks::clone(&chain) };
            assert_eq!(reason(store.lists(CrlPolicy::Require), &other, later), None);
        }
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_its_field_and_the_last_good_one_stays() {
    let (w, now) = (world(), SystemTime::now());
    let leaf = w.intermediate.leaf(&LeafSpec::default());
    let good = w.intermediate.crl(&[&leaf.chain[0]], now - HOUR, now + HOUR);
    let store = store(&w);
    let source = w.file(&good);
    assert!(store.look(std::slice::from_ref(&source), &w.bundles, now, true));
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    let stranger = TestCa::root_of(signing("stranger"));
    let unlisted = w.root.intermediate_with(signing("unlisted"));
    for (bytes, part) in [
        (b"".to_vec(), "cannot be parsed"),
        (b"nothing of the kind".to_vec(), "cannot be parsed"),
        (b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n".to_vec(), "cannot be parsed"),
        (good[..good.len() - 1].to_vec(), "cannot be parsed"),
        (leaf.chain[0].to_vec(), "cannot be parsed"),
        (altered, "signature"),
        (stranger.crl(&[], now - HOUR, now + HOUR), "no root of its trust domain"),
        (unlisted.crl(&[], now - HOUR, now + HOUR), "issuer_file"),
        (w.intermediate.crl(&[], now + HOUR, now + 2 * HOUR), "thisUpdate: the CRL is not yet valid by"),
        (w.intermediate.crl(&[], now - 2 * HOUR, now + HOUR), "older"),
        (vec![0; MAX_CRL_BYTES + 1], "at most"),
        (delta(&w.intermediate, now), "delta CRL"),
        (indirect(&w.intermediate, now), "indirect CRL"),
    ] {
        w.put(&bytes);
        assert!(!store.look(std::slice::from_ref(&source), &w.bundles, now, true), "{part}");
        let said = failure(&store);
        assert!(said.contains(part), "{part}: {said}");
        let lists = store.lists(CrlPolicy::Prefer);
        assert_eq!(
            reason(lists, &w.marks(&leaf), now),
            Some(Reason::Revoked),
            "the last good one stays: {said}"
        );
    }
    fs::remove_file(w.path("crl")).unwrap();
    store.look(std::slice::from_ref(&source), &w.bundles, now, true);
    assert!(failure(&store).contains("cannot be read"));
    w.put(&w.intermediate.crl(&[], now - HOUR / 2, now + HOUR));
    assert!(store.look(&[source], &w.bundles, now, true), "a good one is taken again");
    assert_eq!(reason(store.lists(CrlPolicy::Prefer), &w.marks(&leaf), now), None);
}

#[test]
fn a_source_that_is_taken_out_takes_its_list_along_and_one_without_roots_has_none() {
    let (w, now) = (world(), SystemTime::now());
    let source = w.file(&w.root.crl(&[], now - HOUR, now + HOUR));
    let store = store(&w);
    assert!(!store.look(std::slice::from_ref(&source), &TrustBundles::new(), now, true));
    assert!(failure(&store).contains("no roots are known for trust domain example.org"));
    assert!(store.health(now)[0].stale);
    let store = CrlStore::new(&w.path("state"));
    assert!(store.look(&[source], &w.bundles, now, true));
    assert_eq!(store.lists(CrlPolicy::Prefer).issuers().count(), 1);
    assert!(store.look(&[], &w.bundles, now, true));
    assert_eq!(store.lists(CrlPolicy::Prefer).issuers().count(), 0);
    const { assert!(MAX_CRL_ENTRIES >= 100_000) };
}

/// Answers each request with the next of these, then not at all.
fn serve(answers: Vec<(&'static str, Vec<u8>)>) -> (String, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/site.crl", listener.local_addr().unwrap());
    let (asked, was_asked) = mpsc::channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = io::Write::write_all(&mut stream, &[head.as_bytes(), &body].concat());
            let _ = asked.send(());
        }
    });
    (url, was_asked)
}

#[test]
fn a_list_over_http_is_kept_for_the_next_start_and_never_asked_for_locally() {
    let (w, now) = (world(), SystemTime::now());
    let leaf = w.intermediate.leaf(&LeafSpec::default());
    let crl = w.intermediate.crl(&[&leaf.chain[0]], now - HOUR, now + HOUR);
    let (url, asked) = serve(vec![("404 Not Found", b"no".to_vec()), ("200 OK", crl)]);
    let mut source = w.source(CrlOrigin::Url { url, ca_file: None });
    source.refresh = Duration::ZERO;
    let sources = [source];
    let store = store(&w);
    assert!(!store.look(&sources, &w.bundles, now, true));
    assert!(asked.try_recv().is_err(), "a local look asks nobody");
    assert!(!store.look(&sources, &w.bundles, now, false));
    assert!(failure(&store).contains("404"));
    assert!(store.look(&sources, &w.bundles, now, false));
    let revoked = |store: &CrlStore| reason(store.lists(CrlPolicy::Prefer), &w.marks(&leaf), now);
    assert_eq!(revoked(&store), Some(Reason::Revoked));
    // The server is gone: what there is stays, also after a restart.
    assert!(!store.look(&sources, &w.bundles, now, false));
    assert!(failure(&store).contains("cannot be reached"), "{}", failure(&store));
    assert_eq!(revoked(&store), Some(Reason::Revoked));
    let again = CrlStore::new(&w.path("state"));
    assert!(again.look(&sources, &w.bundles, now, true));
    assert_eq!(revoked(&again), Some(Reason::Revoked));
}

#[tokio::test]
async fn a_new_list_cuts_the_live_connections_whose_certificates_it_names() {
    let (w, now) = (world(), SystemTime::now());
    let (good, bad) = (w.intermediate.leaf(&LeafSpec::default()), w.intermediate.leaf(&LeafSpec::default()));
    let (leases, revocations) = (Arc::new(Leases::default()), Revocations::in_memory());
    let join = |leaf| leases.join(Parties::of_peer("db", Some(w.marks(leaf))));
    let (mut stays, mut goes) = (join(&good), join(&bad));
    let store = store(&w);
    let empty = w.file(&w.intermediate.crl(&[], now - HOUR, now + HOUR));
    store.look(std::slice::from_ref(&empty), &w.bundles, now, true);
    // Nobody is cut for what is only unknown.
    assert_eq!(publish(store.lists(CrlPolicy::Require), &revocations, &leases, now), 0);
    w.put(&w.intermediate.crl(&[&bad.chain[0]], now - HOUR / 2, now + HOUR));
    assert!(store.look(&[empty], &w.bundles, now, true));
    assert_eq!(publish(store.lists(CrlPolicy::Require), &revocations, &leases, now), 1);
    let refusal = goes.over().await;
    assert_eq!(refusal.reason, Reason::Revoked);
    assert!(refusal.detail.contains("the CRL of \"intermediate\""), "{}", refusal.detail);
    assert!(tokio::time::timeout(Duration::ZERO, stays.over()).await.is_err());
}

/// As the CA would sign it, with one more critical extension; rcgen makes no such lists itself.
fn delta(ca: &TestCa, now: SystemTime) -> Vec<u8> {
    // deltaCRLIndicator (RFC 5280 section 5.2.4) with BaseCRLNumber 1.
    with_extension(
        ca,
        now,
        &[0x30, 0x0d, 0x06, 0x03, 0x55, 0x1d, 0x1b, 0x01, 0x01, 0xff, 0x04, 0x03, 0x02, 0x01, 0x01],
    )
}

fn indirect(ca: &TestCa, now: SystemTime) -> Vec<u8> {
    // issuingDistributionPoint (section 5.2.5) with indirectCRL only.
    with_extension(
        ca,
        now,
        &[
            0x30, 0x0f, 0x06, 0x03, 0x55, 0x1d, 0x1c, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x84, 0x01,
            0xff,
        ],
    )
}

/// A list with one more extension in it. Its signature is that of the list without, which must not matter: what the
/// list is, is looked at first.
fn with_extension(ca: &TestCa, now: SystemTime, extension: &[u8]) -> Vec<u8> {
    let crl = ca.crl(&[], now - HOUR / 2, now + HOUR);
    let (_, parsed) = x509_parser::parse_x509_crl(&crl).unwrap();
    let content = parsed.tbs_cert_list.as_ref();
    let rest = &crl[crl.len() - (body(&crl).len() - content.len())..];
    // The extensions are last in the content: [0] { SEQUENCE { … } }.
    let inner = body(content);
    let at = (0..inner.len())
        .find(|at| inner[*at] == 0xa0 && *at + 2 + usize::from(inner[at + 1]) == inner.len())
        .expect("short extensions at the end");
    let list = body(body_at(inner, at));
    let extensions = tlv(0xa0, &tlv(0x30, &[list, extension].concat()));
    let content = tlv(0x30, &[&inner[..at], &extensions].concat());
    tlv(0x30, &[&content, rest].concat())
}

fn body_at(bytes: &[u8], at: usize) -> &[u8] {
    body(&bytes[at..])
}

/// The content of the one value that `der` is.
fn body(der: &[u8]) -> &[u8] {
    let more = if der[1] < 0x80 { 0 } else { usize::from(der[1] & 0x7f) };
    &der[2 + more..]
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(u8::try_from(length).unwrap()),
        0x80..0x100 => out.extend([0x81, u8::try_from(length).unwrap()]),
        _ => out.extend([0x82].into_iter().chain(length.to_be_bytes())),
    }
    out.extend(content);
    out
}
