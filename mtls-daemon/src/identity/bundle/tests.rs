//! A bundle is read whole or refused with what is wrong in which block.

use rcgen::IsCa;

use super::*;
use crate::identity::testing::{LeafSpec, TestCa};

fn pem_of(ders: &[&CertificateDer<'_>]) -> String {
    ders.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()))).collect()
}

// The name `pem` is the parser's module in the parent; here the encoder is meant.
use ::pem;

#[test]
fn every_root_is_read_once_with_comments_around_it() {
    let (a, b) = (TestCa::root("a"), TestCa::root("b"));
    let text = format!("# our roots\n{}trailing text\n", pem_of(&[&a.der, &b.der, &a.der]));
    let bundle = Bundle::from_pem(text.as_bytes()).unwrap();
    let subjects: Vec<_> = bundle.roots().iter().map(Root::subject).collect();
    assert_eq!(subjects, ["a", "b"]);
    assert_eq!(bundle.anchors().len(), 2);
    for (root, anchor) in bundle.roots().iter().zip(bundle.anchors()) {
        assert_eq!(bundle.root_of(anchor), Some(root));
    }
}

#[test]
fn each_bad_bundle_has_its_own_error() {
    let root = TestCa::root("root");
    let good = pem_of(&[&root.der]);
    let leaf = root.leaf(&LeafSpec { common_name: Some("web".into()), ..LeafSpec::default() });
    let no_ca = root.leaf(&LeafSpec { is_ca: IsCa::ExplicitNoCa, ..LeafSpec::default() });
    let garbage = CertificateDer::from(vec![1, 2, 3]);

    assert_eq!(Bundle::from_pem(b"").unwrap_err(), BundleError::Empty);
    assert_eq!(Bundle::from_pem(b"no PEM at all").unwrap_err(), BundleError::Empty);
    assert!(matches!(
        Bundle::from_pem(pem_of(&[&root.der, &leaf.chain[0]]).as_bytes()).unwrap_err(),
        BundleError::NotCa { number: 2, subject } if subject == "web"
    ));
    assert!(matches!(
        Bundle::from_pem(pem_of(&[&no_ca.chain[0]]).as_bytes()).unwrap_err(),
        BundleError::NotCa { number: 1, .. }
    ));
    assert!(matches!(
        Bundle::from_pem(pem_of(&[&root.der, &garbage]).as_bytes()).unwrap_err(),
        BundleError::Unreadable { number: 2, .. }
    ));
    let key = format!("{good}{}", root.key.serialize_pem());
    assert!(matches!(
        Bundle::from_pem(key.as_bytes()).unwrap_err(),
        BundleError::OtherBlock { number: 2, kind } if kind == "PrivateKey"
    ));
    let half = &good[..good.len() / 2];
    assert_eq!(
        Bundle::from_pem(half.as_bytes()).unwrap_err(),
        BundleError::Pem("a block has no END line".into())
    );
    let bad = "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    assert_eq!(
        Bundle::from_pem(bad.as_bytes()).unwrap_err(),
        BundleError::Pem("a block is not base64".into())
    );
    let large = vec![b'#'; MAX_BUNDLE_BYTES + 1];
    assert_eq!(Bundle::from_pem(&large).unwrap_err(), BundleError::TooLarge(MAX_BUNDLE_BYTES + 1));
    let tiny = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n".repeat(MAX_BUNDLE_ROOTS + 1);
    assert_eq!(Bundle::from_pem(tiny.as_bytes()).unwrap_err(), BundleError::TooManyRoots);
}

#[test]
fn bundles_of_one_trust_domain_are_merged_and_others_stay_apart() {
    let (a, b, c) = (TestCa::root("a"), TestCa::root("b"), TestCa::root("c"));
    let one: TrustDomain = "one.example".parse().unwrap();
    let two: TrustDomain = "two.example".parse().unwrap();
    let all: TrustBundles =
        [(one.clone(), a.bundle()), (two.clone(), c.bundle()), (one.clone(), b.bundle().merged(&a.bundle()))]
            .into_iter()
            .collect();
    let subjects =
        |domain| -> Vec<&str> { all.get(domain).unwrap().roots().iter().map(Root::subject).collect() };
    assert_eq!(subjects(&one), ["a", "b"]);
    assert_eq!(subjects(&two), ["c"]);
    assert!(all.get(&"three.example".parse().unwrap()).is_none());
    assert_eq!(all.iter().count(), 2);
}
