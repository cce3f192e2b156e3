//! The limits of a list, and of a file.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SerialNumber};

use super::*;
use crate::identity::testing::{HOUR, TestCa};

/// A list of `ca` with so many entries.
fn list_of(ca: &TestCa, entries: usize, now: SystemTime) -> Vec<u8> {
    let entry = |number: usize| RevokedCertParams {
        serial_number: SerialNumber::from(u64::try_from(number).unwrap()),
        revocation_time: now.into(),
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: (now - HOUR).into(),
        next_update: (now + HOUR).into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: (1..=entries).map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&ca.issuer()).unwrap().der().to_vec()
}

#[test]
fn a_list_may_have_as_many_entries_as_is_said_and_not_one_more() {
    let now = SystemTime::now();
    let mut params = TestCa::params("site");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = TestCa::root_of(params);
    let read = |der: &[u8]| Crl::read(der, std::slice::from_ref(&ca.der), "here", now);
    assert_eq!(read(&list_of(&ca, MAX_CRL_ENTRIES, now)).unwrap().entries(), MAX_CRL_ENTRIES);
    let error = read(&list_of(&ca, MAX_CRL_ENTRIES + 1, now)).unwrap_err();
    assert_eq!(error, CrlError::TooManyEntries);
    assert!(error.to_string().contains("more than 200000 entries"), "{error}");
}

#[test]
fn a_list_may_have_as_many_bytes_as_is_said_and_not_one_more() {
    let now = SystemTime::now();
    // What is not a list is refused for that, so long as it is not too large to look at.
    let error = Crl::read(&vec![0; MAX_CRL_BYTES], &[], "here", now).unwrap_err();
    assert!(matches!(error, CrlError::Malformed(_)), "{error}");
    let error = Crl::read(&vec![0; MAX_CRL_BYTES + 1], &[], "here", now).unwrap_err();
    assert_eq!(error, CrlError::TooLarge(MAX_CRL_BYTES + 1));
}

#[test]
fn a_file_of_several_lists_is_refused_rather_than_read_in_part() {
    let now = SystemTime::now();
    let mut params = TestCa::params("site");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = TestCa::root_of(params);
    let one = pem::encode(&pem::Pem::new("X509 CRL", list_of(&ca, 1, now)));
    let read = |text: &str| Crl::read(text.as_bytes(), std::slice::from_ref(&ca.der), "here", now);
    assert_eq!(read(&one).unwrap().entries(), 1);
    let error = read(&format!("{one}{one}")).unwrap_err();
    assert_eq!(error, CrlError::Several);
    assert!(error.to_string().contains("csplit"), "{error}");
}

#[test]
fn of_the_intermediates_as_many_are_looked_at_as_is_said() {
    let root = TestCa::root("root");
    let intermediates: Vec<_> = (0..=MAX_CRL_ISSUERS)
        .map(|number| root.intermediate(&format!("intermediate {number}")).der)
        .collect();
    let known = issuers(&root.bundle(), &intermediates, SystemTime::now());
    assert_eq!(known.len(), 1 + MAX_CRL_ISSUERS);
    assert!(!known.contains(&intermediates[MAX_CRL_ISSUERS]));
}
