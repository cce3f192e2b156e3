//! A workload's certificate in a file, its key in a token.

use std::time::SystemTime;

use super::*;
use crate::handshake::tests::{CLIENT, SERVER, expected, handshake, trust};
use crate::handshake::{TlsSettings, WorkloadTls};
use crate::identity::testing::{LeafSpec, TestCa};
use crate::identity::{IdentityError, IdentitySource};

/// The source of a workload whose certificate a CA has signed for the key in the token.
fn source(hsm: &SoftHsm, ca: &TestCa, id: &str, key: &TokenKey, token: &Token) -> TokenIdentity {
    let certificate = hsm.directory.join("web.crt");
    let chain = ca.leaf_for(&LeafSpec::id(id), key);
    let pem: String =
        chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()))).collect();
    std::fs::write(&certificate, pem).unwrap();
    let key = TokenKeySettings { token: token.settings().clone(), label: "web-key".into() };
    TokenIdentity { certificate, key, bundle: None }
}

#[test]
fn both_sides_of_a_handshake_sign_with_a_key_in_a_token() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let ca = TestCa::root("root");
        let of = |id: &str| {
            let identity = source(hsm, &ca, id, &key, &token).fetch(SystemTime::now()).unwrap();
            assert_eq!(identity.svid.id.as_str(), id);
            WorkloadTls::new(&identity.svid, trust(&ca), TlsSettings::default())
        };
        let (client, client_saw) = of(CLIENT).client(expected(SERVER)).unwrap();
        let (server, server_saw) = of(SERVER).server(true, None).unwrap();
        let (client, server) = handshake(client, server);
        assert!(client.error.is_none() && server.error.is_none(), "{:?} {:?}", client.error, server.error);
        assert!(client_saw.peer().is_some() && server_saw.peer().is_some());
    });
}

#[test]
fn a_handshake_without_the_token_fails_with_the_reason() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let ca = TestCa::root("root");
        let identity = source(hsm, &ca, SERVER, &key, &token).fetch(SystemTime::now()).unwrap();
        let tls = WorkloadTls::new(&identity.svid, trust(&ca), TlsSettings::default());
        let client =
            WorkloadTls::new(&ca.leaf(&LeafSpec::id(CLIENT)).svid(), trust(&ca), TlsSettings::default());
        tool("mesh", &["--delete-object", "--type", "privkey", "--id", "01"]);
        let (client, _) = client.client(expected(SERVER)).unwrap();
        let (server, saw) = tls.server(true, None).unwrap();
        let (_, server) = handshake(client, server);
        let refusal = saw.refusal_of(&server.error.expect("the server cannot sign")).to_string();
        assert!(refusal.contains("token mesh holds no private key with the label web-key"), "{refusal}");
    });
}

#[test]
fn a_certificate_is_enough_where_the_token_has_no_public_key() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        tool("mesh", &["--delete-object", "--type", "pubkey", "--id", "01"]);
        let source = source(hsm, &TestCa::root("root"), CLIENT, &key, &token);
        assert_eq!(source.fetch(SystemTime::now()).unwrap().svid.id.as_str(), CLIENT);
    });
}

#[test]
fn a_certificate_of_another_key_is_refused() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let ca = TestCa::root("root");
        let source = source(hsm, &ca, CLIENT, &key, &token);
        std::fs::write(&source.certificate, ca.leaf(&LeafSpec::id(CLIENT)).chain_pem()).unwrap();
        let error = source.fetch(SystemTime::now()).unwrap_err().to_string();
        assert!(error.contains("does not verify with the certificate: they are not one pair"), "{error}");
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE", *b"nonsense"));
        std::fs::write(&source.certificate, pem).unwrap();
        let error = source.fetch(SystemTime::now()).unwrap_err().to_string();
        assert!(error.contains("its certificate cannot be parsed"), "{error}");
        std::fs::remove_file(&source.certificate).unwrap();
        assert!(matches!(source.fetch(SystemTime::now()), Err(IdentityError::Files(_))));
    });
}

#[test]
fn a_source_watches_its_certificate_and_its_pin() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        let source = source(hsm, &TestCa::root("root"), CLIENT, &key, &token);
        assert_eq!(source.watch_paths(), [source.certificate.clone(), token.settings().pin_file.clone()]);
        assert!(!source.is_local() && !source.renews());
    });
}
