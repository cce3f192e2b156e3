//! A CRL, as a file or a server gives it: only one that its issuer has signed is taken, and what is taken is bounded.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::revocation::crl::{Crl, MAX_CRL_BYTES, MAX_CRL_ENTRIES};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Who signed the lists in the corpus.
static ISSUER: LazyLock<[CertificateDer<'static>; 1]> = LazyLock::new(|| {
    [CertificateDer::from_pem_slice(include_bytes!("../corpus/crl-root.pem")).expect("a root")]
});

fuzz_target!(|bytes: &[u8]| {
    // Within the time of the lists in the corpus.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    match Crl::read(bytes, &*ISSUER, "fuzz", now) {
        Ok(crl) => assert!(crl.entries() <= MAX_CRL_ENTRIES && bytes.len() <= MAX_CRL_BYTES),
        Err(error) => assert!(error.to_string().chars().all(|c| !c.is_control()), "{error}"),
    }
});
