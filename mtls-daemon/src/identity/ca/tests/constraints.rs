//! What the intermediate may sign, and what stands in for a name constraint.

use super::*;

#[test]
fn the_intermediate_may_sign_leaves_only_and_has_no_name_constraint() {
    let place = place();
    let ca = place.open().unwrap();
    let svid = ca.plain(&id(), &[], SystemTime::now()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&svid.chain[1]).unwrap();
    let basic = parsed.basic_constraints().unwrap().unwrap().value;
    assert_eq!((basic.ca, basic.path_len_constraint), (true, Some(0)));
    assert!(parsed.name_constraints().unwrap().is_none());
}

/// Why there is none: if this fails, webpki has learned them, and the intermediate should have one.
#[test]
fn webpki_still_refuses_every_chain_with_a_uri_constraint() {
    let domain = b"example.org";
    let length = |of: usize| u8::try_from(of).unwrap();
    // NameConstraints { permittedSubtrees [0] { GeneralSubtree { uniformResourceIdentifier [6] } } }
    let mut uri = vec![0x86, length(domain.len())];
    uri.extend(domain);
    for outer in [0x30, 0xa0, 0x30] {
        uri.splice(0..0, [outer, length(uri.len())]);
    }
    let constraint = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], uri);
    let now = SystemTime::now();
    for (constrained, verdict) in [(false, None), (true, Some(webpki::Error::NameConstraintViolation))] {
        let domain: TrustDomain = "example.org".parse().unwrap();
        let (root_key, root) = sign::root(&domain, now).unwrap();
        let key = SecretKey::generate().unwrap();
        let mut params = sign::intermediate_params(&domain, None, now).unwrap();
        if constrained {
            params.custom_extensions.push(constraint.clone());
        }
        let intermediate: CertificateDer<'static> =
            params.signed_by(&key, &sign::issuer(&root, &root_key).unwrap()).unwrap().into();
        let (id, subject) = (id(), Subject::default());
        let order = Order { id: &id, dns_names: &[], subject: &subject, requested_by: "" };
        let issuer = sign::issuer(&intermediate, &key).unwrap();
        let (leaf, _) = sign::leaf(&issuer, &order, now, now + HOUR).unwrap();
        let bundle = Bundle::from_der(vec![root]).unwrap();
        let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let result = leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            bundle.anchors(),
            std::slice::from_ref(&intermediate),
            rustls::pki_types::UnixTime::since_unix_epoch(when::between(SystemTime::UNIX_EPOCH, now)),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        );
        assert_eq!(result.err(), verdict);
    }
}

/// What the name constraint would do: the CA of one trust domain signs an ID of another.
#[test]
fn an_intermediate_vouches_for_nobody_in_another_trust_domain() {
    let (ours, theirs) = (place(), place());
    let mut settings = theirs.settings.clone();
    settings.trust_domain = "partner.example".parse().unwrap();
    let (ours, partner) = (ours.open().unwrap(), EmbeddedCa::open(settings, SystemTime::now()).unwrap());
    let now = SystemTime::now();
    // Signed past the check that `issue` makes.
    let state = partner.state(now);
    let (id, subject) = (id(), Subject::default());
    let order = Order { id: &id, dns_names: &[], subject: &subject, requested_by: "" };
    let issuer = state.issuing.intermediate.issuer().unwrap();
    let (forged, _) = sign::leaf(&issuer, &order, now, now + HOUR).unwrap();
    let chain = [forged, state.issuing.intermediate.der.clone()];
    let bundles =
        [(ours.trust_domain().clone(), ours.bundle()), (partner.trust_domain().clone(), partner.bundle())];
    let trust = Trust {
        bundles: Arc::new(TrustBundles::from_iter(bundles)),
        trust_domain: ours.trust_domain().clone(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(crate::identity::Revocations::in_memory()),
        clock_skew: Trust::CLOCK_SKEW,
    };
    let refusal = verify_peer(&chain, PeerRole::Client, &trust, None, now).unwrap_err();
    assert_eq!(refusal.reason, crate::observe::Reason::UnknownIssuer);
    let own = partner.plain(&"spiffe://partner.example/x".parse().unwrap(), &[], now).unwrap();
    verify_peer(&own.chain, PeerRole::Client, &trust, None, now).unwrap();
}
