use std::path::Path;

use super::*;
use crate::datapath::ktls::{Abilities, Suite, Unavailable};
use crate::identity::revocation::{Entry, Target};
use crate::observe::Reason;
use crate::snapshot::testing::config;

fn paths(directory: &Path) -> String {
    format!("paths: {{ runtime: {0}/run, state: {0}/state }}\n", directory.display())
}

#[test]
fn workloads_get_their_identity_from_the_ca_or_from_their_files() {
    let directory = tempfile::tempdir().unwrap();
    let text = paths(directory.path())
        + "tls: { min_version: '1.2' }\nworkloads:\n- { name: web, select: { netns: web } }\n\
           - { name: db, select: { netns: db }, identity: { certificate: /no/c, key: /no/k, bundle: /no/b } }\n";
    let prepared = prepare(config(&text)).unwrap();
    assert_eq!(prepared.sources["web"].kind(), "embedded_ca");
    assert_eq!(prepared.sources["db"].kind(), "files");
    let store = IdentityStore::new();
    let (metrics, mut registry) = (Metrics::new("0"), Registry::new(Arc::default(), Arc::default()));
    let none = Err(Unavailable::NoModule { may_load: true });

    let before = prepared.snapshot(1, &store, &none, &mut registry, &metrics);
    let web = before.by_name("web").unwrap();
    assert_eq!(web.usable_identity(SystemTime::now()).unwrap_err().reason, Reason::NoIdentity);

    let failures = store.apply(prepared.sources.clone());
    assert_eq!(failures.len(), 1, "{failures:?}");
    let snapshot = prepared.snapshot(2, &store, &none, &mut registry, &metrics);
    assert_eq!((snapshot.generation, snapshot.workloads.len()), (2, 2));
    let now = SystemTime::now();
    let (again, db) = (snapshot.by_name("web").unwrap(), snapshot.by_name("db").unwrap());
    let identity = again.usable_identity(now).unwrap();
    assert!(Arc::ptr_eq(&again.live, &web.live), "counts outlive a snapshot");
    let refusal = db.usable_identity(now).unwrap_err();
    assert!(refusal.reason == Reason::NoIdentity && refusal.detail.contains("/no/"), "{}", refusal.detail);

    let late = identity.not_after + std::time::Duration::from_secs(1);
    let refusal = again.usable_identity(late).unwrap_err();
    assert_eq!(refusal.reason, Reason::NoIdentity);
    assert!(refusal.detail.contains(&identity.certificate.serial), "{}", refusal.detail);
}

#[test]
fn an_own_identity_that_is_revoked_is_not_used_until_that_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let text = paths(directory.path()) + "workloads: [{ name: web, select: { netns: web } }]";
    let prepared = prepare(config(&text)).unwrap();
    let store = IdentityStore::new();
    assert!(store.apply(prepared.sources.clone()).is_empty());
    let (metrics, now) = (Metrics::new("0"), SystemTime::now());
    let mut registry = Registry::new(Arc::default(), Arc::default());
    let none = Err(Unavailable::NoModule { may_load: true });
    let snapshot = prepared.snapshot(1, &store, &none, &mut registry, &metrics);
    let web = snapshot.by_name("web").unwrap();
    let leaf = web.usable_identity(now).unwrap().marks.certificates[0].clone();
    let id = web.settings.spiffe_id.clone();
    for target in [
        Target::SpiffeId { id },
        Target::Key { sha256: leaf.key },
        Target::Serial { serial: leaf.serial, issuer: None },
    ] {
        let (reason, by, at) = ("stolen".to_owned(), String::new(), time::OffsetDateTime::UNIX_EPOCH);
        let entry = Entry { target: target.clone(), reason, by, at, until: None };
        registry.revocations().revoke(entry, now).unwrap();
        let refusal = web.usable_identity(now).unwrap_err();
        assert_eq!(refusal.reason, Reason::Revoked);
        for part in ["workload web", "stolen", &target.to_string()] {
            assert!(refusal.detail.contains(part), "{part} is not in {}", refusal.detail);
        }
        registry.revocations().unrevoke(&target, now).unwrap();
        web.usable_identity(now).unwrap();
    }
}

#[test]
fn workloads_of_an_agent_are_asked_for_over_its_socket_with_their_ids_and_selectors() {
    let text = "identity:\n  issuer: spire\n  issuers:\n  - { name: spire, workload_api: { socket: /a.sock } }\n\
                \x20 - { name: node, delegated_identity: { socket: /b.sock } }\nworkloads:\n\
                - { name: web, select: { netns: web } }\n\
                - { name: db, select: { netns: db }, identity: { issuer: node, selectors: [\"unix:uid:1\"] } }\n";
    let prepared = prepare(config(text)).unwrap();
    let of = |name: &str| {
        let source = &prepared.sources[name];
        (source.kind(), source.is_told(), source.describe())
    };
    let web = prepared.config.workload("web").unwrap().spiffe_id.to_string();
    assert_eq!(of("web"), ("workload_api", true, format!("/a.sock {web}")));
    let db = prepared.config.workload("db").unwrap().spiffe_id.to_string();
    let described = format!("/b.sock {db} {{SpireSelector(unix:uid:1)}}");
    assert_eq!(of("db"), ("delegated_identity", true, described));
}

#[test]
fn without_a_workload_that_needs_it_no_ca_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let text = paths(directory.path())
        + "workloads: [{ name: db, select: { netns: db }, identity: { certificate: /c, key: /k, bundle: /b } }]";
    prepare(config(&text)).unwrap();
    assert!(!directory.path().join("state").exists());
}

#[test]
fn a_ca_of_another_trust_domain_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca");
    let settings = EmbeddedCaSettings {
        directory: ca.clone(),
        lifetime: std::time::Duration::from_secs(600),
        trust_domain: "other.example".parse().unwrap(),
        key: None,
    };
    EmbeddedCa::open(settings, SystemTime::now()).unwrap();
    let text = format!(
        "identity: {{ embedded_ca: {{ directory: {} }} }}\nworkloads: [{{ name: w, select: {{ netns: w }} }}]",
        ca.display()
    );
    let error = prepare(config(&text)).err().unwrap();
    assert!(matches!(&error, PrepareError::Ca(_)) && error.to_string().contains("other.example"), "{error}");
}

#[test]
fn a_bundle_that_cannot_be_read_is_named() {
    let error =
        prepare(config("trust: { bundles: [{ trust_domain: b, file: /no/such.pem }] }")).err().unwrap();
    assert!(matches!(error, PrepareError::BundleFile(_)), "{error}");
    assert!(error.to_string().contains("/no/such.pem"), "{error}");
}

#[test]
fn two_names_with_one_number_are_refused_by_name() {
    let mut seen = HashMap::new();
    let (first, second) = (0..)
        .map(|n: u32| format!("w{n}"))
        .find_map(|name| seen.insert(number_of(&name), name.clone()).map(|other| (other, name)))
        .unwrap();
    let text = format!(
        "workloads:\n- {{ name: {first}, select: {{ netns: a }} }}\n- {{ name: {second}, select: {{ netns: b }} }}\n"
    );
    let error = prepare(config(&text)).err().unwrap();
    assert!(matches!(error, PrepareError::NumberCollision(..)));
    let error = error.to_string();
    assert!(error.contains(&first) && error.contains(&second) && error.contains("rename"), "{error}");
}

#[test]
fn each_workload_has_the_suites_that_suit_its_datapath_and_the_kernel() {
    let parsed = config(
        "workloads:\n- { name: auto, select: { netns: a } }\n\
         - { name: user, select: { netns: u }, datapath: relay-userspace }\n\
         - { name: kernel, select: { netns: k }, datapath: relay-ktls }\n",
    );
    let able = Abilities {
        suites: Suite::ALL.to_vec(),
        missing: vec![],
        rekey: false,
        why_no_rekey: None,
        defects: vec![],
    };
    let for_kernel = SuiteOrder::auto(Some(&able));
    assert_ne!(for_kernel, SuiteOrder::default());
    let rekeys = Abilities { suites: vec![Suite::ChaCha20Poly1305], rekey: true, ..able.clone() };
    let for_rekeying = SuiteOrder::auto(Some(&rekeys));
    assert_ne!(for_rekeying, SuiteOrder::default());
    let (able, rekeys) = (Ok(Arc::new(able)), Ok(Arc::new(rekeys)));
    let none = Err(Unavailable::NoModule { may_load: true });
    for (name, ktls, suites) in [
        // The daemon does its records: this kernel cannot change keys.
        ("auto", &able, &SuiteOrder::default()),
        ("auto", &rekeys, &for_rekeying),
        ("kernel", &able, &for_kernel),
        ("user", &able, &SuiteOrder::default()),
        ("auto", &none, &SuiteOrder::default()),
        ("user", &none, &SuiteOrder::default()),
    ] {
        let settings = tls_settings(&parsed, parsed.workload(name).unwrap(), ktls);
        assert_eq!(&settings.suites, suites, "{name}");
    }
    let chosen = config(
        "tls: { cipher_suites: [TLS_AES_128_GCM_SHA256] }\nworkloads: [{ name: w, select: { netns: w } }]",
    );
    let settings = tls_settings(&chosen, chosen.workload("w").unwrap(), &able);
    assert_eq!(settings.suites, SuiteOrder::configured(vec![Suite::Aes128Gcm]));
}

#[test]
fn every_workload_believes_each_root_of_a_rotation_without_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    // `db` does not get its identity from the CA that its neighbour has.
    let text = paths(directory.path())
        + "workloads:\n- { name: web, select: { netns: web } }\n\
           - { name: db, select: { netns: db }, identity: { certificate: /no/c, key: /no/k } }\n";
    let prepared = prepare(config(&text)).unwrap();
    let domain = "example.org".parse().unwrap();
    let roots = || prepared.believed().get(&domain).unwrap().roots().len();
    let path = prepared.ca.as_ref().unwrap().directory().to_owned();
    let admin = crate::identity::ca::admin::CaDirectory::open(&path).unwrap();
    let now = SystemTime::now();
    assert_eq!(roots(), 1);
    admin.begin(None, &crate::identity::ca::NewKey::AsBefore, now).unwrap();
    assert_eq!(roots(), 2);
    admin.switch(now).unwrap();
    assert_eq!(roots(), 2);
    admin.finish(true, now).unwrap();
    assert_eq!(roots(), 1);
}
