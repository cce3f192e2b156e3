//! The command issuer, run on real commands.

mod documented;

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::answer::{AnswerError, MAX_ANSWER, parse_chain};
use super::exec::{ExecIssuer, Program};
use super::*;
use crate::identity::Subject;
use crate::identity::testing::TestCa;

const LIMIT: Duration = Duration::from_secs(20);

fn request() -> Request {
    Request {
        workload: "web".into(),
        id: "spiffe://example.org/web".parse().unwrap(),
        dns_names: vec!["web.example.org".into()],
        subject: Subject { organizational_unit: Some("Shop".parse().unwrap()), ..Subject::default() },
        lifetime: Some(Duration::from_secs(3600)),
    }
}

fn source(program: Program, timeout: Duration) -> IssuerSource {
    IssuerSource {
        name: "script".into(),
        issuer: Arc::new(ExecIssuer { name: "script".into(), program, timeout }),
        request: request(),
        key: None,
        bundle: None,
    }
}

fn shell(line: &str) -> IssuerSource {
    source(Program::Shell(line.into()), LIMIT)
}

fn refused(source: &IssuerSource) -> String {
    source.fetch(SystemTime::now()).unwrap_err().to_string()
}

/// A CA of openssl's in a directory, and a script that signs with it as people write one.
fn openssl_ca() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/O=example.org/CN=script CA", "-keyout", &at("ca.key"), "-out", &at("ca.crt")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let script = at("sign");
    let text = format!(
        "#!/bin/sh -e\nopenssl x509 -req -CA {} -CAkey {} -days 1 -copy_extensions copyall 2>/dev/null\n",
        at("ca.crt"),
        at("ca.key")
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    (directory, script)
}

#[test]
fn a_script_with_openssl_signs_for_a_key_that_never_leaves() {
    let (directory, script) = openssl_ca();
    let root = directory.path().join("ca.crt");
    let mut source = source(Program::Command(vec![script]), LIMIT);
    source.bundle = Some(root.clone());
    let (first, second) =
        (source.fetch(SystemTime::now()).unwrap(), source.fetch(SystemTime::now()).unwrap());
    assert_eq!(first.svid.id, source.request.id);
    assert_ne!(first.svid.chain, second.svid.chain, "another key each time");
    assert_eq!(first.bundles.iter().count(), 1);
    assert!(first.bundles.get(first.svid.id.trust_domain()).is_some());
    assert_eq!((source.kind(), source.renews(), source.is_local()), ("exec", true, false));
    assert_eq!(source.watch_paths(), [root]);
}

#[test]
fn a_certificate_that_begins_when_it_is_signed_is_taken_however_long_that_took() {
    let (_directory, script) = openssl_ca();
    shell(&format!("sleep 2; {script}")).fetch(SystemTime::now()).unwrap();
}

#[test]
fn a_command_is_told_what_is_asked_for_and_nothing_else_of_the_environment() {
    let text =
        refused(&shell("env | sort | tr '\\n' ' ' >&2; openssl req -noout -verify -subject >&2; exit 3"));
    for part in [
        "ended with exit code 3",
        "MTLSD_DNS_NAMES=web.example.org MTLSD_LIFETIME_SECONDS=3600 MTLSD_SPIFFE_ID=spiffe://example.org/web",
        "MTLSD_WORKLOAD=web PATH=",
        "issuer script: `sh -c",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("CARGO") && !text.contains("HOME="), "{text}");
}

#[test]
fn a_program_is_run_without_a_shell() {
    let words = ["/bin/echo", "$(touch /tmp/mtlsd-never)", ";", "exit", "1"].map(String::from);
    let text = refused(&source(Program::Command(words.into()), LIMIT));
    assert!(text.contains("there is no certificate in it"), "{text}");
    assert!(!std::path::Path::new("/tmp/mtlsd-never").exists());
    let text = refused(&source(Program::Command(vec!["/no/such/program".into()]), LIMIT));
    assert!(text.contains("cannot run `/no/such/program`: No such file"), "{text}");
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_everything_that_it_started() {
    let marker = tempfile::NamedTempFile::new().unwrap();
    // The first closes its output and sleeps; the second leaves a child that keeps it open.
    for line in [
        "exec >&- 2>&-; sleep 60",
        &format!("echo waiting >&2; (sleep 3; echo alive > {}) & sleep 60", marker.path().display()),
    ] {
        let began = Instant::now();
        let text = refused(&source(Program::Shell(line.into()), Duration::from_millis(300)));
        assert!(text.contains("had not ended after 300ms and was killed"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
    let text =
        refused(&source(Program::Shell("echo no token >&2; sleep 9".into()), Duration::from_millis(300)));
    assert!(text.contains("(no token)"), "{text}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(std::fs::read_to_string(marker.path()).unwrap(), "");
}

#[test]
fn a_command_that_writes_without_end_is_stopped() {
    let text = refused(&shell("yes"));
    assert!(text.contains(&format!("wrote more than {MAX_ANSWER} bytes and was killed")), "{text}");
    // A long complaint is cut, and made safe to show.
    let text = refused(&shell("head -c 100000 /dev/zero | tr '\\0' '\\033' >&2; exit 1"));
    assert!(text.len() < 4_000 && !text.contains('\u{1b}'), "{} bytes", text.len());
}

#[test]
fn what_is_no_chain_or_not_ours_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let answer = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        refused(&shell(&format!("cat {}", path.display())))
    };
    let ca = TestCa::root("root");
    let leaf = ca.leaf(&crate::identity::testing::LeafSpec::id("spiffe://example.org/web"));
    let config = pem::EncodeConfig::default();
    let block = |kind: &str, der: &[u8]| pem::encode_config(&pem::Pem::new(kind, der), config);
    let good = block("CERTIFICATE", leaf.chain.first().unwrap());
    for (name, text, part) in [
        ("empty", String::new(), "there is no certificate in it"),
        ("html", "<html>503</html>".into(), "there is no certificate in it"),
        ("half", good.get(..100).unwrap().into(), "it is not valid PEM: a block has no END line"),
        ("key", block("PRIVATE KEY", b"secret"), "block 1 of it is a private key"),
        ("crl", format!("{good}{}", block("X509 CRL", b"crl")), "block 2 of it is a"),
        (
            "garbage",
            block("CERTIFICATE", b"garbage"),
            "what it signed cannot be used: certificate 1 of the chain",
        ),
        ("many", good.repeat(11), "it has more than 10 certificates"),
        ("of-another-key", good.clone(), "the private key does not belong to certificate"),
    ] {
        let refused = answer(name, &text);
        assert!(refused.contains(part), "{name}: {refused}");
    }
    assert_eq!(parse_chain(&vec![b'x'; MAX_ANSWER + 1]), Err(AnswerError::TooLarge(MAX_ANSWER + 1)));
}

#[test]
fn a_certificate_for_somebody_else_is_refused() {
    let (directory, script) = openssl_ca();
    std::fs::write(directory.path().join("ext"), "subjectAltName=URI:spiffe://example.org/admin\n").unwrap();
    let text = std::fs::read_to_string(&script).unwrap();
    let ext = directory.path().join("ext");
    let text = text.replace("-copy_extensions copyall", &format!("-extfile {}", ext.display()));
    std::fs::write(&script, text).unwrap();
    let refused = refused(&source(Program::Command(vec![script]), LIMIT));
    assert!(
        refused.contains(
            "signed a certificate for spiffe://example.org/admin, and spiffe://example.org/web was asked"
        ),
        "{refused}"
    );
}

#[test]
fn a_request_with_a_name_that_is_none_is_not_made() {
    let mut source = shell("cat");
    source.request.dns_names = vec!["*.example.org".into()];
    assert!(refused(&source).contains("is not a DNS name"));
}
