//! Keys in SoftHSM.

mod ca;
mod docs;
mod faults;
mod issuer;
mod sessions;
mod tls;

use std::sync::Arc;

use super::softhsm::{SoftHsm, alone, tool};
use super::*;

/// A token with a key that pkcs11-tool made, as people do.
fn token_with_key(hsm: &SoftHsm) -> (Arc<Token>, TokenKey) {
    let token = Token::new(hsm.init("mesh"));
    keygen("EC:prime256v1", "web-key", "01");
    let key = TokenKey::find(&token, "web-key").unwrap();
    (token, key)
}

fn keygen(kind: &str, label: &str, id: &str) {
    tool("mesh", &["--keypairgen", "--key-type", kind, "--label", label, "--id", id, "--usage-sign"]);
}

/// Does aws-lc take the signature?
fn verifies(key: &TokenKey, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &dyn aws_lc_rs::signature::VerificationAlgorithm = match key.curve() {
        Curve::P256 => &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        Curve::P384 => &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1,
    };
    let public =
        aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, rcgen::PublicKeyData::der_bytes(key));
    public.verify(message, signature).is_ok()
}

#[test]
fn a_key_that_others_made_signs_what_its_public_key_verifies() {
    alone(|hsm| {
        let (_, key) = token_with_key(hsm);
        let signature = key.sign_message(b"hello").unwrap();
        assert!(verifies(&key, b"hello", &signature));
        assert!(!verifies(&key, b"hallo", &signature));
        let start = std::time::Instant::now();
        for _ in 0..200 {
            key.sign_message(b"hello").unwrap();
        }
        println!("one signature by SoftHSM, verified: {:?}", start.elapsed() / 200);
    });
}

#[test]
fn a_key_is_made_once_in_the_token_and_never_leaves_it() {
    alone(|hsm| {
        let token = Token::new(hsm.init("mesh"));
        for curve in [Curve::P256, Curve::P384] {
            let label = format!("{curve:?}");
            let made = TokenKey::find_or_make(&token, &label, curve).unwrap();
            let again = TokenKey::find_or_make(&token, &label, curve).unwrap();
            assert_eq!((made.curve(), made.spki()), (curve, again.spki()));
            assert!(verifies(&again, b"hello", &made.sign_message(b"hello").unwrap()));
        }
        let listed = tool("mesh", &["--list-objects", "--type", "privkey"]);
        assert_eq!(listed.matches("Private Key Object").count(), 2, "{listed}");
        assert_eq!(
            listed.matches("sensitive, always sensitive, never extractable, local").count(),
            2,
            "{listed}"
        );
    });
}

#[test]
fn many_threads_that_miss_one_key_make_it_once() {
    alone(|hsm| {
        let token = Token::new(hsm.init("mesh"));
        let made: Vec<_> = std::thread::scope(|scope| {
            let make = || TokenKey::find_or_make(&token, "ca", Curve::P256).unwrap().spki();
            let threads: Vec<_> = (0..12).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.iter().all(|spki| *spki == made[0]));
    });
}

#[test]
fn equal_settings_are_one_token() {
    alone(|hsm| {
        let settings = hsm.settings("mesh", "1234");
        assert!(Arc::ptr_eq(&Token::new(settings.clone()), &Token::new(settings.clone())));
        let other = TokenSettings { token: "other".into(), ..settings.clone() };
        assert!(!Arc::ptr_eq(&Token::new(settings), &Token::new(other)));
    });
}
