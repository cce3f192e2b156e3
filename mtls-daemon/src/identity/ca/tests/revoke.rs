//! Revocation and CRLs, as OpenSSL and webpki read them.

use std::process::Command;

use webpki::CertRevocationList;

use super::super::admin::{CaDirectory, Crls, Which};
use super::super::revoke::RevocationReason;
use super::*;

const WEEK: Duration = Duration::from_secs(7 * 86_400);

fn admin(place: &Place) -> CaDirectory {
    CaDirectory::open(&place.settings.directory).unwrap()
}

fn serial(svid: &X509Svid) -> Which {
    Which::Serial(svid.serial.clone())
}

fn ders(crls: &Crls) -> Vec<Vec<u8>> {
    pem::parse_many(&crls.pem).unwrap().into_iter().map(pem::Pem::into_contents).collect()
}

/// The verdict of webpki on a leaf, with the CRLs.
fn verdict(ca: &EmbeddedCa, svid: &X509Svid, crls: &Crls, now: SystemTime) -> Result<(), webpki::Error> {
    let ders = ders(crls);
    let lists: Vec<CertRevocationList<'_>> =
        ders.iter().map(|der| webpki::BorrowedCertRevocationList::from_der(der).unwrap().into()).collect();
    let lists: Vec<_> = lists.iter().collect();
    let options = webpki::RevocationOptionsBuilder::new(&lists).unwrap().build();
    let leaf = webpki::EndEntityCert::try_from(&svid.chain[0]).unwrap();
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        ca.bundle().anchors(),
        &svid.chain[1..],
        rustls::pki_types::UnixTime::since_unix_epoch(when::between(SystemTime::UNIX_EPOCH, now)),
        webpki::KeyUsage::server_auth(),
        Some(options),
        None,
    )
    .map(|_| ())
}

#[test]
fn a_revoked_certificate_is_in_the_next_crl_and_no_other_is() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let (bad, good) = (ca.plain(&id(), &[], now).unwrap(), ca.plain(&id(), &[], now).unwrap());
    let before = admin(&place).crl(None, WEEK, now).unwrap();
    assert_eq!((before.number, before.revoked, before.issuers.len()), (1, 0, 2), "intermediate and root");
    verdict(&ca, &bad, &before, now).unwrap();
    // As people copy it.
    let colons = format!("00:{}", bad.serial.to_uppercase());
    let revoked = admin(&place).revoke(&Which::Serial(colons), RevocationReason::KeyCompromise, now).unwrap();
    assert_eq!((revoked.len(), &revoked[0].serial), (1, &bad.serial));
    let after = admin(&place).crl(None, WEEK, now).unwrap();
    assert_eq!((after.number, after.revoked), (2, 1));
    assert_eq!(verdict(&ca, &bad, &after, now), Err(webpki::Error::CertRevoked));
    verdict(&ca, &good, &after, now).unwrap();
}

#[test]
fn openssl_reads_the_crl_with_its_number_reason_and_next_update() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let svid = ca.plain(&id(), &[], now).unwrap();
    admin(&place).revoke(&serial(&svid), RevocationReason::KeyCompromise, now).unwrap();
    let crls = admin(&place).crl(None, WEEK, now).unwrap();
    let file = place.parent.path().join("crl.pem");
    fs::write(&file, &crls.pem).unwrap();
    fs::write(place.parent.path().join("chain.pem"), directory::pem(&svid.chain[1])).unwrap();
    let output = Command::new("openssl")
        .args(["crl", "-noout", "-text", "-verify", "-CAfile"])
        .arg(place.parent.path().join("chain.pem"))
        .arg("-in")
        .arg(&file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("verify OK"), "{said}");
    assert!(text.contains(&svid.serial.to_uppercase()) && text.contains("Key Compromise"), "{text}");
    assert!(text.contains("X509v3 CRL Number") && text.contains("Next Update"), "{text}");
    assert!(text.contains(&crls.issuers[0]), "{text}");
}

#[test]
fn all_of_an_id_are_revoked_at_once_and_only_once() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    for _ in 0..3 {
        ca.plain(&id(), &[], now).unwrap();
    }
    let other = ca.plain(&"spiffe://example.org/db".parse().unwrap(), &[], now).unwrap();
    let which = Which::SpiffeId("spiffe://example.org/web".into());
    assert_eq!(admin(&place).revoke(&which, RevocationReason::Superseded, now).unwrap().len(), 3);
    assert_eq!(admin(&place).revoke(&which, RevocationReason::Superseded, now).unwrap().len(), 3);
    let crls = admin(&place).crl(None, WEEK, now).unwrap();
    assert_eq!(crls.revoked, 3);
    verdict(&ca, &other, &crls, now).unwrap();
    // The trust domain's own ID is the intermediate's, and not meant.
    let domain = Which::SpiffeId("spiffe://example.org".into());
    assert!(admin(&place).revoke(&domain, RevocationReason::Superseded, now).is_err());
}

#[test]
fn an_intermediate_is_revoked_by_the_roots_crl_and_an_offline_root_signs_it_elsewhere() {
    let place = place();
    let now = SystemTime::now();
    let usb = place.parent.path().join("usb");
    let ca = EmbeddedCa::init_offline(place.settings.clone(), &usb, now).unwrap();
    let svid = ca.plain(&id(), &[], now).unwrap();
    let intermediate = Which::Serial(Leaf::read(&svid.chain[1]).unwrap().serial);
    admin(&place).revoke(&intermediate, RevocationReason::KeyCompromise, now).unwrap();
    let without = admin(&place).crl(None, WEEK, now).unwrap();
    assert_eq!((without.issuers.len(), without.revoked), (1, 0));
    let with = admin(&place).crl(Some(&usb), WEEK, now).unwrap();
    assert_eq!((with.issuers.len(), with.revoked), (2, 1));
    assert_eq!(verdict(&ca, &svid, &with, now), Err(webpki::Error::CertRevoked));
    let other = self::place();
    EmbeddedCa::init_offline(other.settings.clone(), &other.parent.path().join("usb"), now).unwrap();
    let error = admin(&place).crl(Some(&other.parent.path().join("usb")), WEEK, now).unwrap_err();
    assert!(matches!(error, CaError::OtherRoot { .. }), "{error}");
}

#[test]
fn a_renewed_intermediate_and_a_second_ca_sign_for_their_own() {
    let place = place();
    let now = SystemTime::now();
    let ca = place.open_at(now).unwrap();
    let old = ca.plain(&id(), &[], now).unwrap();
    admin(&place).renew_intermediate(None, now).unwrap();
    admin(&place).begin(None, &NewKey::AsBefore, now).unwrap();
    admin(&place).switch(now).unwrap();
    let new = ca.plain(&id(), &[], now).unwrap();
    for svid in [&old, &new] {
        admin(&place).revoke(&serial(svid), RevocationReason::Unspecified, now).unwrap();
    }
    let crls = admin(&place).crl(None, WEEK, now).unwrap();
    assert_eq!((crls.issuers.len(), crls.revoked), (4, 2));
    for svid in [&old, &new] {
        assert_eq!(verdict(&ca, svid, &crls, now), Err(webpki::Error::CertRevoked));
    }
}

#[test]
fn what_was_never_issued_or_has_expired_cannot_be_revoked() {
    let place = place();
    let now = SystemTime::now();
    let svid = place.open_at(now).unwrap().plain(&id(), &[], now).unwrap();
    let admin = admin(&place);
    let unknown = Which::Serial("0123".into());
    let error = admin.revoke(&unknown, RevocationReason::Unspecified, now).unwrap_err();
    assert!(error.to_string().contains("mtlsd ca list"), "{error}");
    let late = now + 2 * HOUR;
    assert!(admin.revoke(&serial(&svid), RevocationReason::Unspecified, late).is_err());
}

#[test]
fn an_expired_certificate_leaves_the_crl_after_one_more() {
    let place = place();
    let now = SystemTime::now();
    let svid = place.open_at(now).unwrap().plain(&id(), &[], now).unwrap();
    admin(&place).revoke(&serial(&svid), RevocationReason::Unspecified, now).unwrap();
    assert_eq!(admin(&place).crl(None, WEEK, now + WEEK).unwrap().revoked, 1);
    assert_eq!(admin(&place).crl(None, WEEK, now + 2 * WEEK).unwrap().revoked, 0);
}

#[test]
fn a_damaged_list_of_revocations_is_named_and_not_written_over() {
    let place = place();
    let now = SystemTime::now();
    let svid = place.open_at(now).unwrap().plain(&id(), &[], now).unwrap();
    fs::write(place.file("revoked.json"), "{").unwrap();
    let admin = admin(&place);
    for error in [
        admin.revoke(&serial(&svid), RevocationReason::Unspecified, now).map(|_| ()).unwrap_err(),
        admin.crl(None, WEEK, now).map(|_| ()).unwrap_err(),
        admin.list(now).map(|_| ()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("revoked.json"), "{error}");
    }
    assert_eq!(fs::read(place.file("revoked.json")).unwrap(), b"{");
    fs::remove_file(place.file("revoked.json")).unwrap();
    fs::write(place.file("crl.number"), "-1").unwrap();
    let error = admin.crl(None, WEEK, now).unwrap_err();
    assert!(error.to_string().contains("crl.number cannot be used: it is not a number"), "{error}");
}
