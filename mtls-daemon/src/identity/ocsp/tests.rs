//! Against OpenSSL's responder.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::response::MAX_RESPONSE;
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A CA of OpenSSL's with two certificates, of which the second is revoked, a responder that the CA has put in charge, and
/// one that has put itself there.
struct Ca(tempfile::TempDir);

impl Ca {
    fn new() -> Self {
        let ca = Self(tempfile::tempdir().unwrap());
        std::fs::write(ca.at("index.txt"), "").unwrap();
        std::fs::write(ca.at("ext"), EXTENSIONS).unwrap();
        std::fs::write(ca.at("ca.cnf"), CONFIG.replace("DIR", &ca.0.path().display().to_string())).unwrap();
        ca.key("ca");
        ca.run("req -new -x509 -key ca.key -out ca.pem -days 5 -subj /CN=ca -config ca.cnf -extensions root");
        for (name, section) in
            [("good", "leaf"), ("revoked", "leaf"), ("responder", "responder"), ("impostor", "leaf")]
        {
            ca.key(name);
            ca.run(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name} -config ca.cnf"));
            ca.run(&format!(
                "ca -batch -notext -config ca.cnf -in {name}.csr -out {name}.pem -days 3 -extfile ext -extensions {section}"
            ));
        }
        ca.run("ca -config ca.cnf -revoke revoked.pem");
        ca.key("other");
        ca.run(
            "req -new -x509 -key other.key -out other.pem -days 5 -subj /CN=ca -config ca.cnf -extensions root",
        );
        ca
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, name: &str) {
        self.run(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"));
    }

    fn run(&self, words: &str) {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.at(&format!("{name}.pem"))).unwrap()
    }

    fn id(&self, name: &str) -> IssuerId {
        IssuerId::of(&self.certificate(name), &self.certificate("ca")).unwrap()
    }

    /// What OpenSSL's responder answers to our own question.
    fn answer(&self, about: &str, signer: &str, more: &str) -> Vec<u8> {
        std::fs::write(self.at("request.der"), request(&self.id(about)).unwrap()).unwrap();
        self.run(&format!(
            "ocsp -index index.txt -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key -reqin request.der -respout \
             response.der {more}"
        ));
        std::fs::read(self.at("response.der")).unwrap()
    }

    fn read(&self, about: &str, der: &[u8], now: SystemTime) -> Result<Answer, OcspError> {
        Answer::read(der, &self.id(about), &self.certificate("ca"), now)
    }
}

const EXTENSIONS: &str = "[leaf]\nauthorityInfoAccess=caIssuers;URI:http://ca/ca.der,OCSP;URI:http://ocsp.example/a\n\
                          [responder]\nextendedKeyUsage=OCSPSigning\nkeyUsage=digitalSignature\n";
const CONFIG: &str = "[ca]\ndefault_ca=d\n[d]\ndir=DIR\ndatabase=DIR/index.txt\nnew_certs_dir=DIR\ncertificate=DIR/ca.pem\n\
                      private_key=DIR/ca.key\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nunique_subject=no\n\
                      [p]\ncommonName=supplied\n[req]\ndistinguished_name=n\n[n]\n\
                      [root]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign,digitalSignature\n";

fn now() -> SystemTime {
    SystemTime::now()
}

#[test]
fn good_revoked_and_unknown_are_told_apart_signed_by_the_ca_or_by_its_responder() {
    let ca = Ca::new();
    for signer in ["ca", "responder"] {
        let good = ca.read("good", &ca.answer("good", signer, "-ndays 1"), now()).unwrap();
        assert_eq!(good.status, Status::Good, "{signer}");
        assert!(good.this_update <= now() && good.until > now() + DAY / 2);
        let revoked = ca.read("revoked", &ca.answer("revoked", signer, "-ndays 1"), now()).unwrap();
        assert!(matches!(revoked.status, Status::Revoked(at) if at <= now()), "{revoked:?}");
    }
    // Another CA's certificate: the responder has never heard of its serial.
    let stranger = IssuerId::of(&ca.certificate("other"), &ca.certificate("ca")).unwrap();
    std::fs::write(ca.at("request.der"), request(&stranger).unwrap()).unwrap();
    ca.run(
        "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -respout r.der -ndays 1",
    );
    let der = std::fs::read(ca.at("r.der")).unwrap();
    let answer = Answer::read(&der, &stranger, &ca.certificate("ca"), now()).unwrap();
    assert_eq!(answer.status, Status::Unknown);
}

#[test]
fn an_answer_that_the_ca_did_not_sign_is_not_believed() {
    let ca = Ca::new();
    for (signer, why) in [("impostor", "RequiredEkuNotFound"), ("other", "InvalidSignature")] {
        let error = ca.read("good", &ca.answer("good", signer, "-ndays 1"), now()).unwrap_err();
        assert!(matches!(&error, OcspError::Signature(_)), "{signer}: {error}");
        assert!(error.to_string().contains("not signed by the issuer"), "{why}: {error}");
    }
    let good = ca.answer("good", "ca", "-ndays 1 -resp_no_certs");
    let mut refused = 0;
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        // Padding of the envelope aside, every bit matters: no changed answer says anything else.
        match ca.read("good", &changed, now()) {
            Ok(answer) => assert_eq!(answer.status, Status::Good, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused * 10 > good.len() * 9, "{refused} of {}", good.len());
}

#[test]
fn an_answer_about_another_certificate_or_of_another_time_does_not_count() {
    let ca = Ca::new();
    let der = ca.answer("good", "ca", "-ndays 1");
    assert_eq!(ca.read("revoked", &der, now()), Err(OcspError::OtherCertificate));
    assert!(matches!(ca.read("good", &der, now() - DAY / 2), Err(OcspError::NotYetValid(_))));
    let late = ca.read("good", &der, now() + 2 * DAY).unwrap_err();
    assert!(matches!(&late, OcspError::Expired(_)) && late.to_string().contains("expired"), "{late}");
    // Without nextUpdate it counts for a day.
    let der = ca.answer("good", "ca", "");
    assert!(ca.read("good", &der, now() + DAY / 2).is_ok());
    assert!(matches!(ca.read("good", &der, now() + 2 * DAY), Err(OcspError::Expired(_))));
}

#[test]
fn what_is_no_answer_says_which_part_is_wrong() {
    let ca = Ca::new();
    for (der, part) in [
        (vec![], "OCSPResponse of the OCSP response"),
        (b"<html>".to_vec(), "OCSPResponse of the OCSP response"),
        (vec![0x30, 3, 0x0a, 1, 3], "says tryLater"),
        (vec![0x30, 3, 0x0a, 1, 6], "says unauthorized"),
        (vec![0x30, 3, 0x0a, 1, 0], "responseBytes of the OCSP response"),
        (vec![0; MAX_RESPONSE + 1], "65537 bytes, and at most 65536"),
    ] {
        let error = ca.read("good", &der, now()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let good = ca.answer("good", "ca", "-ndays 1");
    for length in 0..good.len() {
        assert!(ca.read("good", &good[..length], now()).is_err(), "cut at {length}");
    }
}

#[test]
fn the_responder_is_the_one_that_the_certificate_names() {
    let ca = Ca::new();
    let url = responder_url(&ca.certificate("good")).unwrap();
    assert_eq!(url.as_deref(), Some("http://ocsp.example/a"));
    assert_eq!(responder_url(&ca.certificate("ca")).unwrap(), None);
    assert!(matches!(responder_url(&CertificateDer::from(vec![1, 2])), Err(OcspError::Certificate(_))));
}
