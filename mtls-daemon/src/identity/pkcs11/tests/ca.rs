//! The embedded CA with the key of its intermediate in a token.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use clap::Parser;

use super::*;
use crate::control::cli::{Cli, Command as Line};
use crate::identity::ca::admin::CaDirectory;
use crate::identity::ca::tests::accepted;
use crate::identity::ca::{INTERMEDIATE_LIFETIME, NewKey, Order};
use crate::identity::{
    CaError, EmbeddedCa, EmbeddedCaSettings, EmbeddedSource, IdentitySource, Subject, X509Svid,
};
use crate::lifecycle::commands::ca::run;

const ID: &str = "spiffe://example.org/web";

fn key(token: TokenSettings, label: &str) -> Option<TokenKeySettings> {
    Some(TokenKeySettings { token, label: label.into() })
}

fn open(directory: &Path, key: Option<TokenKeySettings>) -> Result<EmbeddedCa, CaError> {
    let settings = EmbeddedCaSettings {
        directory: directory.join("ca"),
        lifetime: Duration::from_secs(600),
        trust_domain: "example.org".parse().unwrap(),
        key,
    };
    EmbeddedCa::open(settings, SystemTime::now())
}

fn issue_at(ca: &EmbeddedCa, now: SystemTime) -> Result<X509Svid, CaError> {
    let (id, subject) = (ID.parse().unwrap(), Subject::default());
    ca.issue(&Order { id: &id, dns_names: &[], subject: &subject, requested_by: "a test" }, now)
}

fn issue(ca: &EmbeddedCa) -> Result<X509Svid, CaError> {
    issue_at(ca, SystemTime::now())
}

fn admin(hsm: &SoftHsm) -> CaDirectory {
    CaDirectory::open(&hsm.directory.join("ca")).unwrap()
}

fn file(hsm: &SoftHsm, name: &str) -> PathBuf {
    hsm.directory.join("ca").join(name)
}

fn private_keys() -> Vec<String> {
    let listed = tool("mesh", &["--list-objects", "--type", "privkey"]);
    let mut labels: Vec<_> = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("label:"))
        .map(|l| l.trim().to_owned())
        .collect();
    labels.sort();
    labels
}

#[test]
fn what_it_issues_is_accepted_and_its_key_is_in_no_file() {
    alone(|hsm| {
        let key = key(hsm.init("mesh"), "ca-key");
        let ca = open(&hsm.directory, key.clone()).unwrap();
        assert!(!file(hsm, "intermediate.key").exists());
        assert_eq!(
            fs::metadata(file(hsm, "intermediate.pkcs11")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let (now, svid) = (SystemTime::now(), issue(&ca).unwrap());
        accepted(&ca, &svid.chain, now).unwrap();
        // The directory says where the key is: nobody else has to.
        for again in [key.clone(), None] {
            let again = open(&hsm.directory, again).unwrap();
            assert_eq!(issue(&again).unwrap().chain[1], svid.chain[1], "the intermediate stays");
            assert_eq!(again.status(now).key_in_token.as_deref(), Some("ca-key of token mesh"));
            assert!(again.status(now).alarms.is_empty());
        }
        let listed = tool("mesh", &["--list-objects", "--type", "privkey"]);
        assert!(listed.contains("never extractable") && listed.contains("ca-key"), "{listed}");
        let source = EmbeddedSource {
            ca: Arc::new(ca),
            id: ID.parse().unwrap(),
            dns_names: vec![],
            subject: Subject::default(),
            workload: "web".into(),
        };
        assert!(!source.is_local(), "a token may hang");
        assert!(source.watch_paths().contains(&hsm.directory.join("mesh.pin")), "a new PIN is tried at once");
    });
}

#[test]
fn its_crl_is_signed_by_the_token() {
    alone(|hsm| {
        let ca = open(&hsm.directory, key(hsm.init("mesh"), "ca-key")).unwrap();
        issue(&ca).unwrap();
        let crls = admin(hsm).crl(None, Duration::from_secs(3600), SystemTime::now()).unwrap();
        assert_eq!(crls.issuers.len(), 2);
        let crl = hsm.directory.join("first.pem");
        // The intermediate's comes first.
        fs::write(&crl, &crls.pem).unwrap();
        let verified = Command::new("openssl")
            .args(["crl", "-noout", "-CAfile"])
            .arg(file(hsm, "intermediate.crt"))
            .arg("-in")
            .arg(&crl)
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&verified.stderr).contains("verify OK"), "{verified:?}");
        tool("mesh", &["--delete-object", "--type", "privkey", "--label", "ca-key"]);
        let error = admin(hsm).crl(None, Duration::from_secs(3600), SystemTime::now()).unwrap_err();
        assert!(matches!(error, CaError::Pkcs11(_)), "{error:?}");
    });
}

#[test]
fn a_rotation_makes_a_key_of_its_own_in_the_token_and_may_leave_it_and_come_back() {
    alone(|hsm| {
        let settings = hsm.init("mesh");
        let ca = open(&hsm.directory, key(settings.clone(), "ca-key")).unwrap();
        let now = SystemTime::now();
        let rotate = |new: &NewKey| {
            let old = issue(&ca).unwrap();
            admin(hsm).begin(None, new, now).unwrap();
            assert_eq!(issue(&ca).unwrap().chain[1], old.chain[1]);
            admin(hsm).switch(now).unwrap();
            let switched = issue(&ca).unwrap();
            assert_ne!(switched.chain[1], old.chain[1]);
            for svid in [&old, &switched] {
                accepted(&ca, &svid.chain, now).unwrap();
            }
            admin(hsm).finish(true, now).unwrap();
            let finished = issue(&ca).unwrap();
            assert_eq!(finished.chain[1], switched.chain[1]);
            ca.status(now).key_in_token
        };
        let second = rotate(&NewKey::AsBefore).unwrap();
        assert!(second.starts_with("ca-key-") && second.ends_with(" of token mesh"), "{second}");
        assert_eq!(private_keys().len(), 2, "keys are deleted by people: {:?}", private_keys());
        assert!(!file(hsm, "intermediate.key").exists());
        // The configuration still names the first one: that is said, and stops nothing.
        let alarms = ca.status(now).alarms;
        assert!(
            alarms
                .iter()
                .any(|alarm| alarm.contains("to be key ca-key of token mesh, and it is key ca-key-")),
            "{alarms:?}"
        );

        assert_eq!(rotate(&NewKey::File), None);
        assert!(file(hsm, "intermediate.key").exists() && !file(hsm, "intermediate.pkcs11").exists());
        assert!(!ca.signs_in_token());
        assert!(ca.status(now).alarms[0].contains("and it is a file"));
        let third = TokenKeySettings { token: settings, label: "third".into() };
        assert_eq!(rotate(&NewKey::Token(third.clone())).as_deref(), Some("third of token mesh"));
        assert!(!file(hsm, "intermediate.key").exists() && ca.signs_in_token());
        let error = admin(hsm).begin(None, &NewKey::Token(third), now).unwrap_err();
        assert!(matches!(error, CaError::KeyInForce(_)) && error.to_string().contains("--label"), "{error}");
        assert!(!file(hsm, "next").exists());
    });
}

#[test]
fn the_intermediate_is_renewed_without_the_token() {
    alone(|hsm| {
        let ca = open(&hsm.directory, key(hsm.init("mesh"), "ca-key")).unwrap();
        let first = issue(&ca).unwrap().chain[1].clone();
        let half = SystemTime::now() + INTERMEDIATE_LIFETIME / 2 + Duration::from_secs(86_400);
        let svid = issue_at(&ca, half).unwrap();
        assert_ne!(svid.chain[1], first);
        accepted(&ca, &svid.chain, half).unwrap();
        // Only its public half is signed.
        tool("mesh", &["--delete-object", "--type", "privkey", "--label", "ca-key"]);
        admin(hsm).renew_intermediate(None, half).unwrap();
        assert!(ca.status(half).alarms.is_empty());
    });
}

#[test]
fn a_token_that_cannot_be_used_is_said_and_leaves_nothing_behind() {
    alone(|hsm| {
        let refused = |settings: TokenSettings, label: &str| {
            let error = open(&hsm.directory, key(settings, label)).unwrap_err();
            assert!(!hsm.directory.join("ca").exists(), "{error}");
            match error {
                CaError::Pkcs11(error) => error,
                other => panic!("{other}"),
            }
        };
        let settings = hsm.init("mesh");
        let absent = refused(hsm.settings("absent", "1234"), "ca-key");
        assert!(matches!(absent, Pkcs11Error::TokenAbsent { .. }), "{absent}");
        keygen("rsa:2048", "rsa-key", "01");
        hsm.write_pin(&settings.pin_file, "9999");
        let wrong = refused(settings.clone(), "ca-key");
        assert!(matches!(wrong, Pkcs11Error::PinRefused { .. }), "{wrong}");
        hsm.write_pin(&settings.pin_file, "1234");
        let rsa = refused(settings.clone(), "rsa-key");
        assert!(matches!(rsa, Pkcs11Error::KeyKind { .. }) && rsa.to_string().contains("rsa-key"), "{rsa}");
        // A key that others made is taken; it is not made again.
        keygen("EC:secp384r1", "site-key", "02");
        let ca = open(&hsm.directory, key(settings, "site-key")).unwrap();
        accepted(&ca, &issue(&ca).unwrap().chain, SystemTime::now()).unwrap();
        assert_eq!(private_keys(), ["rsa-key", "site-key"]);
    });
}

#[test]
fn a_ca_without_its_key_opens_and_says_at_each_issue_what_is_wrong() {
    alone(|hsm| {
        let settings = hsm.init("mesh");
        let ca = open(&hsm.directory, key(settings.clone(), "ca-key")).unwrap();
        let good = issue(&ca).unwrap();
        let delete = || {
            for kind in ["privkey", "pubkey"] {
                tool("mesh", &["--delete-object", "--type", kind, "--label", "ca-key"]);
            }
        };
        let reason = |ca: &EmbeddedCa| match issue(ca).unwrap_err() {
            CaError::Pkcs11(error) => error,
            other => panic!("{other}"),
        };
        delete();
        let lost = reason(&ca);
        assert!(lost.to_string().contains("mesh"), "{lost}");
        let again = open(&hsm.directory, None).unwrap();
        let now = SystemTime::now();
        assert!(
            again.status(now).alarms.is_empty() && again.bundle().roots().len() == 1,
            "nobody asks the token"
        );
        let absent = reason(&again);
        assert!(matches!(absent, Pkcs11Error::KeyAbsent { .. }), "{absent}");
        let error = admin(hsm).begin(None, &NewKey::AsBefore, now).map(|()| admin(hsm).switch(now));
        assert!(error.unwrap().is_ok(), "a rotation mends it");
        fs::remove_dir_all(file(hsm, "next")).unwrap();

        // Other keys under its label, on its curve and on another one.
        for (curve, id) in [("EC:prime256v1", "05"), ("EC:secp384r1", "06")] {
            keygen(curve, "ca-key", id);
            let other = reason(&open(&hsm.directory, None).unwrap());
            assert!(
                matches!(&other, Pkcs11Error::OtherKey { public: "the certificate", .. }),
                "{curve}: {other}"
            );
            delete();
        }
        accepted(&again, &good.chain, now).unwrap();
        hsm.delete("mesh");
        let gone = reason(&open(&hsm.directory, None).unwrap());
        assert!(gone.to_string().contains("token mesh"), "{gone}");
    });
}

#[test]
fn a_file_that_names_no_key_or_that_others_may_write_is_refused() {
    alone(|hsm| {
        open(&hsm.directory, key(hsm.init("mesh"), "ca-key")).unwrap();
        let path = file(hsm, "intermediate.pkcs11");
        let good = fs::read_to_string(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        let error = open(&hsm.directory, None).unwrap_err();
        assert!(matches!(error, CaError::TooOpen { .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "{}", "{", &good.replace("label", "lable")] {
            fs::write(&path, bad).unwrap();
            let error = open(&hsm.directory, None).unwrap_err().to_string();
            assert!(error.contains("intermediate.pkcs11 cannot be used: it names no key"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = open(&hsm.directory, None).unwrap_err();
        assert!(
            matches!(&error, CaError::Missing(missing) if missing.ends_with("intermediate.key")),
            "{error}"
        );
    });
}

#[test]
fn the_commands_make_and_use_a_ca_in_a_token() {
    alone(|hsm| {
        let settings = hsm.init("mesh");
        let (ca, out) = (hsm.directory.join("ca"), hsm.directory.join("out"));
        let line = |text: &str| {
            let text = text.replace("CA", ca.to_str().unwrap()).replace("OUT", out.to_str().unwrap());
            let token = format!(
                "--pkcs11-module {} --token mesh --pin-file {}",
                settings.module.display(),
                settings.pin_file.display()
            );
            let text = format!("mtlsd ca {}", text.replace("TOKEN", &token));
            let Line::Ca(command) = Cli::try_parse_from(text.split_whitespace()).unwrap().command else {
                panic!("not ca")
            };
            let mut said = Vec::new();
            run(&command, &mut said).unwrap();
            String::from_utf8(said).unwrap()
        };
        let said = line("init --directory CA --trust-domain example.org TOKEN --label ca-key");
        assert!(said.contains("it issues with key ca-key of token mesh"), "{said}");
        line(&format!("issue --directory CA --spiffe-id {ID} --lifetime 10m --out OUT"));
        line("crl --directory CA --out OUT/crl.pem");
        let listed = line("list --directory CA");
        assert!(listed.contains("(key ca-key of token mesh)"), "{listed}");
        line("rotate --directory CA --begin TOKEN --label ca-key-2");
        let switched = line("rotate --directory CA --switch");
        assert!(switched.contains("(key ca-key-2 of token mesh)"), "{switched}");
        let files = crate::identity::IdentityFiles {
            certificate: out.join("tls.crt"),
            key: out.join("tls.key"),
            bundle: Some(out.join("ca.crt")),
        };
        assert_eq!(files.fetch(SystemTime::now()).unwrap().svid.id, ID.parse().unwrap());
        assert_eq!(private_keys(), ["ca-key", "ca-key-2"]);
    });
}
