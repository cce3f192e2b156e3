//! An OCSP response, as a responder or a peer gives it: only one that the CA has signed, about the certificate that was asked
//! for, is an answer.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::ocsp::{MAX_RESPONSE, Question, Status};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Who signed the answers in the corpus, and whom they are about.
static QUESTION: LazyLock<Question> = LazyLock::new(|| {
    let certificate = |pem| CertificateDer::from_pem_slice(pem).expect("a certificate");
    let issuer = certificate(include_bytes!("../corpus/ocsp-root.pem"));
    Question::of(&certificate(include_bytes!("../corpus/ocsp-leaf.pem")), &issuer).expect("certificates")
});

fuzz_target!(|bytes: &[u8]| {
    // Within the time of the answers in the corpus.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    match QUESTION.read(bytes, now) {
        Ok(answer) => {
            assert!(bytes.len() <= MAX_RESPONSE && answer.is_fresh(now));
            assert!(matches!(answer.status, Status::Good | Status::Revoked(_) | Status::Unknown));
        }
        Err(error) => assert!(error.to_string().chars().all(|c| !c.is_control()), "{error}"),
    }
});
