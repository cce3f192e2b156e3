//! The documentation, run as it is.

use std::process::Command;
use std::time::SystemTime;

use super::*;
use crate::identity::IdentitySource;

const PAGE: &str = include_str!("../../../../../docs/pkcs11.md");

fn block(language: &str) -> &str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
fn the_lines_of_the_documentation_work() {
    alone(|hsm| {
        let output =
            Command::new("sh").args(["-euc", block("sh")]).current_dir(&hsm.directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = TokenSettings {
            module: softhsm::MODULE.into(),
            token: "mesh".into(),
            pin_file: hsm.directory.join("hsm.pin"),
        };
        let source = TokenIdentity {
            certificate: hsm.directory.join("web.crt"),
            key: TokenKeySettings { token, label: "web-key".into() },
            bundle: Some(hsm.directory.join("ca.crt")),
        };
        let identity = source.fetch(SystemTime::now()).unwrap();
        assert_eq!(identity.svid.id.as_str(), "spiffe://example.org/web");
    });
}

#[test]
fn the_configuration_of_the_documentation_is_valid() {
    let text = format!("trust_domain: example.org\n{}", block("yaml"));
    let source = crate::config::Source { path: "docs/pkcs11.md".into(), text };
    let config = crate::config::Config::parse(&source, &[]).unwrap();
    let of = |name| &config.workload(name).unwrap().identity;
    assert!(matches!(of("web"), crate::config::WorkloadIdentity::Token(_)));
    assert!(matches!(of("db"), crate::config::WorkloadIdentity::IssuerWithToken { .. }));
}
