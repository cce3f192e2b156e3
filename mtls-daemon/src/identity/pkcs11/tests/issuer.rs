//! A key in a token, and an issuer that signs for it.

use std::time::SystemTime;

use rcgen::CertificateSigningRequestParams;

use super::*;
use crate::identity::issuer::{Csr, Issued, Request};
use crate::identity::testing::{LeafSpec, TestCa};
use crate::identity::{Identity, IdentityError, IdentitySource, Issuer, IssuerError, IssuerSource};

const ID: &str = "spiffe://example.org/web";

/// Signs for whatever key has signed the request.
struct Local(TestCa);

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Local")
    }
}

impl Issuer for Local {
    fn sign(&self, csr: &Csr, _now: SystemTime) -> Result<Issued, IssuerError> {
        // Refuses a request whose signature is wrong.
        let request = CertificateSigningRequestParams::from_pem(&csr.pem).unwrap();
        Ok(Issued { chain: self.0.leaf_for(&LeafSpec::id(ID), &request.public_key) })
    }

    fn kind(&self) -> &'static str {
        "local"
    }

    fn describe(&self) -> String {
        "local".into()
    }
}

fn source(token: TokenSettings) -> IssuerSource {
    let request = Request {
        workload: "web".into(),
        id: ID.parse().unwrap(),
        dns_names: vec![],
        subject: crate::identity::Subject::default(),
        lifetime: None,
    };
    let issuer = Arc::new(Local(TestCa::root("root")));
    let key = Some(TokenKeySettings { token, label: "web-key".into() });
    IssuerSource { name: "local".into(), issuer, request, key, bundle: None }
}

fn public_key(identity: &Identity) -> Vec<u8> {
    identity.svid.key.public_key().unwrap().to_vec()
}

#[test]
fn a_key_is_made_at_the_first_enrolment_and_kept_at_the_next() {
    alone(|hsm| {
        let source = source(hsm.init("mesh"));
        let first = source.fetch(SystemTime::now()).unwrap();
        let second = source.fetch(SystemTime::now()).unwrap();
        assert_eq!(first.svid.id.as_str(), ID);
        assert_eq!(public_key(&first), public_key(&second));
        assert_ne!(first.svid.chain, second.svid.chain);
        let listed = tool("mesh", &["--list-objects", "--type", "privkey"]);
        assert_eq!(listed.matches("Private Key Object").count(), 1, "{listed}");
        assert!(source.watch_paths().contains(&hsm.directory.join("mesh.pin")));
    });
}

#[test]
fn a_token_that_cannot_be_used_is_the_reason_and_not_the_issuer() {
    alone(|hsm| {
        hsm.init("mesh");
        let error = source(hsm.settings("mesh", "9999")).fetch(SystemTime::now()).unwrap_err();
        assert!(matches!(error, IdentityError::Issuer(IssuerError::Pkcs11(_))), "{error:?}");
        assert!(error.to_string().contains("token mesh does not take the PIN"), "{error}");
    });
}

#[test]
fn a_request_that_the_token_does_not_sign_says_why() {
    alone(|hsm| {
        let (token, key) = token_with_key(hsm);
        tool("mesh", &["--delete-object", "--type", "privkey", "--id", "01"]);
        token.with("log out", |open| Ok(open.session.logout()?)).unwrap();
        let key = crate::identity::key::OwnKey::Token(Arc::new(key));
        let error = rcgen::CertificateParams::default().serialize_request(&key).map(|_| ()).unwrap_err();
        let failure = key.failure(&error).unwrap();
        assert!(matches!(failure, Pkcs11Error::KeyAbsent { .. }), "{failure:?}");
    });
}
