//! From the command line over the socket to the deny list, and back as text and as JSON.

use std::path::Path;

use clap::Parser;

use super::*;
use crate::control::admin::tests::serve;
use crate::control::cli::{AskError, Cli, Command, EXIT_HOLDS, EXIT_USAGE};
use crate::identity::testing::{LeafSpec, TestCa};

const KEY: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const WEB: &str = "spiffe://example.org/web";

async fn ask(arguments: &str, socket: &Path) -> Result<String, AskError> {
    let line = format!("mtlsd {arguments} --socket {}", socket.display());
    let Command::Ask(ask) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
        panic!("{arguments} is not a question")
    };
    let mut out = Vec::new();
    assert_eq!(ask.run(&mut out).await?, EXIT_HOLDS);
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_command_line_names_one_thing() {
    for good in [
        "revoke --serial 0A:BC --reason stolen --for 2h --json",
        "revoke --spiffe-id spiffe://example.org/web",
        "revoke --certificate /x.pem",
        "revoke --list --json",
        "unrevoke --serial 0abc",
    ] {
        let line = format!("mtlsd {good}");
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
    for bad in [
        "revoke",
        "unrevoke",
        "revoke --reason stolen",
        "revoke --serial xyz",
        "revoke --key abcd",
        "revoke --spiffe-id http://x",
        "revoke --serial 0a --spiffe-id spiffe://example.org/web",
        "revoke --serial 0a --for 1y",
        "revoke --list --serial 0a",
        "unrevoke --list",
        "unrevoke --serial 0a --reason x",
    ] {
        let line = format!("mtlsd {bad}");
        let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{bad}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_revoked_is_told_with_its_cuts_listed_and_taken_back() {
    let served = serve(true);
    let nothing = ask("revoke --list", &served.path).await.unwrap();
    assert_eq!(nothing, "Nothing is revoked on this node.\n");
    let told =
        ask(&format!("revoke --spiffe-id {WEB} --reason stolen --for 1h"), &served.path).await.unwrap();
    assert!(
        told.contains("Live connections cut: 2.") && told.contains(WEB) && told.contains("until"),
        "{told}"
    );
    assert!(told.contains("By `lease.revoked`, 1 have some time to end, and 0 go on."), "{told}");
    let json = ask(&format!("revoke --key {KEY} --json"), &served.path).await.unwrap();
    let report: RevokeReport = serde_json::from_str(&json).unwrap();
    assert_eq!((report.connections_cut, report.entry.until), (2, None));
    let uid = nix::unistd::geteuid();
    assert_eq!(report.entry.by, format!("uid {uid}"));
    let list = ask("revoke --list", &served.path).await.unwrap();
    for part in [WEB, KEY, "stolen", "taken back", &format!("uid {uid}")] {
        assert!(list.contains(part), "{part} is not in\n{list}");
    }
    let list: Vec<Entry> =
        serde_json::from_str(&ask("revoke --list --json", &served.path).await.unwrap()).unwrap();
    assert_eq!(list.len(), 2);
    let back = ask(&format!("unrevoke --spiffe-id {WEB}"), &served.path).await.unwrap();
    assert!(back.contains("No longer revoked") && back.contains(WEB), "{back}");
    let again = ask(&format!("unrevoke --spiffe-id {WEB}"), &served.path).await.unwrap_err();
    assert!(again.to_string().contains("is not on the deny list"), "{again}");
    let back = ask(&format!("unrevoke --key {KEY} --json"), &served.path).await.unwrap();
    assert_eq!(serde_json::from_str::<UnrevokeReport>(&back).unwrap().entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_certificate_file_is_revoked_by_its_serial_and_issuer_and_taken_back_by_its_serial() {
    let served = serve(true);
    let directory = tempfile::tempdir().unwrap();
    let leaf = TestCa::root("a root").leaf(&LeafSpec::default());
    let (pem, der) = (directory.path().join("pem"), directory.path().join("der"));
    std::fs::write(&pem, leaf.chain_pem()).unwrap();
    std::fs::write(&der, leaf.chain[0].as_ref()).unwrap();
    for file in [&pem, &der] {
        let json =
            ask(&format!("revoke --json --certificate {}", file.display()), &served.path).await.unwrap();
        let report: RevokeReport = serde_json::from_str(&json).unwrap();
        let Target::Serial { serial, issuer: Some(issuer) } = report.entry.target else { panic!("{json}") };
        assert_eq!(issuer.name, "a root");
        ask(&format!("unrevoke --serial {serial}"), &served.path).await.unwrap();
    }
    let none = directory.path().join("none");
    let broken = directory.path().join("broken");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, "nothing of the kind").unwrap();
    for (file, part) in [(&none, "cannot read"), (&broken, "PEM"), (&garbage, "no certificate")] {
        let error = ask(&format!("revoke --certificate {}", file.display()), &served.path)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part) && error.contains(&file.display().to_string()), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_the_daemon_does_not_take_is_said_and_changes_nothing() {
    let served = serve(true);
    for (line, part) in [
        (format!("revoke --serial 0a --reason {}", "x".repeat(300)), "300 characters"),
        ("revoke --serial 0a --for 999999d".to_owned(), "at most"),
    ] {
        let error = ask(&line, &served.path).await.unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("nothing was changed"), "{error}");
    }
    assert!(ask("revoke --list", &served.path).await.unwrap().starts_with("Nothing"));
}
