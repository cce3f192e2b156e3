//! What a command answers to a CSR: a chain, and then perhaps an identity.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use mtls_daemon::identity::X509Svid;
use mtls_daemon::identity::issuer::answer::{MAX_ANSWER, parse_chain};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Of the leaf in the corpus, so that what comes behind the match of the keys is reached too.
const KEY: &[u8] = include_bytes!("../corpus/key.der");

fuzz_target!(|answer: &[u8]| {
    let Ok(chain) = parse_chain(answer) else { return };
    assert!(!chain.is_empty() && answer.len() <= MAX_ANSWER);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
    if let Err(error) = X509Svid::from_der(chain, &key, SystemTime::now()) {
        assert!(error.to_string().chars().all(|c| !c.is_control()), "{error}");
    }
});
