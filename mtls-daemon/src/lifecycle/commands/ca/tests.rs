//! The commands as they are typed.

use std::path::PathBuf;

use clap::Parser;
use serde_json::Value;

use super::super::tests::{Files, json, printed};
use super::*;
use crate::control::cli::{Cli, Command};
use crate::identity::CaError;

/// `CA` and `DIR` in a line stand for the CA's directory and the one around it.
fn ca(files: &Files, line: &str) -> (String, Result<(), CommandError>) {
    let at = |name: &str| files.path(name).to_str().unwrap().to_owned();
    let line = line.replace("CA", &at("ca")).replace("DIR", at(".").trim_end_matches("/."));
    let words = ["mtlsd", "ca"].into_iter().chain(line.split_whitespace());
    let Command::Ca(command) = Cli::try_parse_from(words).unwrap().command else { panic!("not ca") };
    printed(|out| run(&command, out))
}

fn done(files: &Files, line: &str) -> String {
    let (text, result) = ca(files, line);
    result.unwrap_or_else(|error| panic!("{line}: {error}"));
    text
}

fn refused(files: &Files, line: &str) -> CommandError {
    let (text, result) = ca(files, line);
    assert!(text.is_empty(), "{text}");
    result.unwrap_err()
}

fn made() -> Files {
    let files = Files::new();
    done(&files, "init --directory CA --trust-domain example.org");
    files
}

#[test]
fn a_ca_is_made_once_and_not_over_anything_else() {
    let files = Files::new();
    let text = done(&files, "init --directory CA --trust-domain example.org --json");
    let root = files.path("ca").join("root.crt");
    assert_eq!(json(&text)["root"], root.to_str().unwrap());
    let before = std::fs::read(&root).unwrap();
    let error = refused(&files, "init --directory CA --trust-domain example.org");
    assert!(matches!(&error, CommandError::NotEmpty(path) if *path == files.path("ca")));
    assert!(error.to_string().contains("mtlsd ca issue"), "{error}");
    assert_eq!(std::fs::read(root).unwrap(), before);
}

#[test]
fn every_command_without_a_ca_says_how_to_make_one() {
    let files = Files::new();
    for line in [
        "issue --directory CA --spiffe-id spiffe://example.org/web --out DIR/out",
        "renew-intermediate --directory CA",
        "list --directory CA",
        "revoke --directory CA --serial 01",
        "crl --directory CA",
        "rotate --directory CA --begin",
    ] {
        let error = refused(&files, line);
        assert!(matches!(&error, CommandError::NoCa(path) if *path == files.path("ca")), "{line}: {error}");
        assert!(error.to_string().contains("mtlsd ca init --directory"), "{error}");
        assert!(!files.path("ca").exists() && !files.path("out").exists(), "nothing is made by the way");
    }
}

#[test]
fn an_id_of_another_trust_domain_is_refused() {
    let files = made();
    let error = refused(&files, "issue --directory CA --spiffe-id spiffe://other.example/web --out DIR/out");
    assert!(matches!(error, CommandError::Ca(CaError::OtherTrustDomain { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("other.example") && text.contains("example.org"), "{text}");
    assert!(!files.path("out").exists());
}

#[test]
fn what_is_issued_is_whole_and_its_key_is_for_the_owner_only() {
    let files = made();
    let out = files.path("new/out");
    // A key that was there before, and readable by everyone.
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join("tls.key"), "x".repeat(10_000)).unwrap();
    std::fs::set_permissions(out.join("tls.key"), Permissions::from_mode(0o644)).unwrap();
    let text = done(
        &files,
        "issue --directory CA --spiffe-id spiffe://example.org/web --dns web.example.org --lifetime 10m \
         --organization Shop --organizational-unit Web --common-name web --out DIR/new/out --json",
    );
    let mode = |name: &str| std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("tls.key"), mode("tls.crt"), mode("ca.crt")), (0o600, 0o644, 0o644));
    let identity = crate::identity::IdentityFiles {
        certificate: out.join("tls.crt"),
        key: out.join("tls.key"),
        bundle: Some(out.join("ca.crt")),
    };
    let (svid, bundle) = identity.read(SystemTime::now()).unwrap();
    let answer = json(&text);
    assert_eq!(
        (&answer["id"], &answer["serial"]),
        (&svid.id.to_string().into(), &svid.serial.clone().into())
    );
    let (_, parsed) = x509_parser::parse_x509_certificate(&svid.chain[0]).unwrap();
    assert_eq!(parsed.subject().to_string(), "O=Shop, OU=Web, CN=web");
    assert_eq!(bundle.unwrap().to_pem(), std::fs::read_to_string(files.path("ca").join("root.crt")).unwrap());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let files = made();
    std::fs::write(files.path("file"), "").unwrap();
    let error = refused(&files, "issue --directory CA --spiffe-id spiffe://example.org/web --out DIR/file");
    assert!(matches!(&error, CommandError::Write { path, .. } if *path == files.path("file")), "{error}");
    let error = refused(&files, "crl --directory CA --out DIR/file/crl.pem");
    assert!(matches!(error, CommandError::Write { .. }), "{error}");
}

#[test]
fn an_offline_root_is_made_used_and_named() {
    let files = Files::new();
    let text = done(&files, "init --directory CA --trust-domain example.org --offline-root DIR/usb");
    assert!(text.contains("take it off this node") && text.contains("usb/root.key"), "{text}");
    let error = refused(&files, "renew-intermediate --directory CA");
    assert!(matches!(error, CommandError::Ca(CaError::RootElsewhere(_))), "{error}");
    let text = done(&files, "renew-intermediate --directory CA --root DIR/usb --json");
    assert!(json(&text)["intermediate_not_after"].as_str().unwrap().starts_with("20"), "{text}");
}

#[test]
fn what_was_issued_is_listed_revoked_and_in_the_crl() {
    let files = made();
    let issue = "issue --directory CA --spiffe-id spiffe://example.org/web --out DIR/out --json";
    let serial = json(&done(&files, issue))["serial"].as_str().unwrap().to_owned();
    let listed = |line: &str| -> Vec<Value> {
        let all = json(&done(&files, line))["certificates"].as_array().unwrap().clone();
        all.into_iter().filter(|one| one["kind"] == "leaf").collect()
    };
    let one = &listed("list --directory CA --json")[0];
    assert_eq!((&one["serial"], &one["revoked"]), (&serial.clone().into(), &false.into()));
    assert!(one["requested_by"].as_str().unwrap().starts_with("mtlsd ca issue, uid "), "{one}");

    let revoke = format!("revoke --directory CA --serial {serial} --reason superseded --json");
    assert_eq!(json(&done(&files, &revoke))["revoked"][0]["serial"], serial);
    let text = done(&files, "list --directory CA");
    assert!(text.contains(&serial) && text.contains("revoked") && text.contains("rotation steady"), "{text}");
    assert_eq!(listed("list --directory CA --json")[0]["revoked"], true);

    let answer = json(&done(&files, "crl --directory CA --out DIR/crl.pem --json"));
    assert_eq!((&answer["number"], &answer["revoked"]), (&1.into(), &1.into()));
    let file = std::fs::read_to_string(files.path("crl.pem")).unwrap();
    assert_eq!(file.matches("BEGIN X509 CRL").count(), 2);
    let answer = json(&done(&files, "crl --directory CA --json"));
    assert_eq!(answer["number"], 2);
    assert!(done(&files, "crl --directory CA").starts_with("-----BEGIN X509 CRL-----"));

    // What has expired is shown on demand.
    done(&files, "issue --directory CA --spiffe-id spiffe://example.org/db --out DIR/out --lifetime 1s");
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(listed("list --directory CA --json").len(), 1);
    assert_eq!(listed("list --directory CA --all --json").len(), 2);
}

#[test]
fn the_root_changes_in_three_steps_that_say_where_it_is() {
    let files = made();
    let phase = |text: &str| json(text)["phase"].clone();
    assert_eq!(phase(&done(&files, "rotate --directory CA --begin --json")), "begun");
    let error = refused(&files, "rotate --directory CA --begin");
    assert!(error.to_string().contains("in phase begun, and this step needs phase steady"), "{error}");
    done(&files, "issue --directory CA --spiffe-id spiffe://example.org/web --out DIR/out");
    let both: PathBuf = files.path("out/ca.crt");
    assert_eq!(std::fs::read_to_string(both).unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    assert!(done(&files, "rotate --directory CA --switch").contains("rotation switched"));
    let error = refused(&files, "rotate --directory CA --finish");
    assert!(matches!(error, CommandError::Ca(CaError::StillInUse { .. })), "{error}");
    let text = done(&files, "rotate --directory CA --finish --force --json");
    assert_eq!((phase(&text), json(&text)["roots"].as_array().unwrap().len()), ("steady".into(), 1));
}

#[test]
fn an_intermediate_of_the_sites_pki_is_asked_for_and_imported() {
    let files = Files::new();
    let openssl = |line: &str| {
        let directory = files.path("ca").parent().unwrap().to_owned();
        let output = std::process::Command::new("openssl")
            .args(line.split('|'))
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    };
    openssl(
        "req|-x509|-newkey|ec|-pkeyopt|ec_paramgen_curve:P-256|-nodes|-days|30|-subj|/CN=Site root|-addext|\
         keyUsage=critical,keyCertSign,cRLSign|-keyout|root.key|-out|root.crt",
    );
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";
    std::fs::write(files.path("ca.ext"), extensions).unwrap();
    let sign = |csr: &str| {
        openssl(&format!(
            "x509|-req|-in|{csr}|-CA|root.crt|-CAkey|root.key|-CAcreateserial|-days|20|-extfile|ca.ext|-out|ours.crt"
        ));
    };
    let error = refused(&files, "csr --directory CA");
    assert!(matches!(error, CommandError::Ca(CaError::NoTrustDomain(_))), "{error}");
    let error = refused(&files, "csr --directory CA --renew");
    assert!(matches!(error, CommandError::NoCa(_)), "{error}");
    let said = done(&files, "csr --directory CA --trust-domain example.org --out DIR/ours.csr");
    assert!(said.contains("then run `mtlsd ca import`"), "{said}");
    let error = refused(&files, "import --directory CA DIR/root.crt --root DIR/root.crt");
    assert!(matches!(error, CommandError::Ca(CaError::Import(_))), "{error}");
    sign("ours.csr");
    let said = json(&done(&files, "import --directory CA DIR/ours.crt --root DIR/root.crt --json"));
    assert_eq!(
        (&said["imported"], &said["embedded_ca"]["signed_elsewhere"]),
        (&"first".into(), &true.into())
    );
    done(&files, "issue --directory CA --spiffe-id spiffe://example.org/web --out DIR/out");

    let asked = json(&done(&files, "csr --directory CA --renew --json"));
    std::fs::write(files.path("again.csr"), asked["csr"].as_str().unwrap()).unwrap();
    sign("again.csr");
    let said = done(&files, "import --directory CA DIR/ours.crt");
    assert!(said.contains("the intermediate was renewed") && said.contains("(of your PKI)"), "{said}");
    let csr = done(&files, "csr --directory CA");
    assert!(csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{csr}");
    std::fs::write(files.path("second.csr"), csr).unwrap();
    sign("second.csr");
    let said = done(&files, "import --directory CA DIR/ours.crt --root DIR/root.crt");
    assert!(said.contains("a rotation has begun") && said.contains("mtlsd ca rotate --switch"), "{said}");
    done(&files, "rotate --directory CA --switch");
    done(&files, "rotate --directory CA --finish --force");
}
