//! Every fenced `yaml` of the documents, as the daemon reads it.

use super::*;

/// What a snippet leaves out because it stands elsewhere on its page: page, where it is put, what.
const AROUND: [(&str, &str, &str); 1] = [(
    "docs/pkcs11.md",
    "identity:\n  embedded_ca:",
    "identity:\n  pkcs11: [{ name: hsm, module: /m.so, token: mesh, pin_file: /p }]\n  embedded_ca:",
)];

/// What names only workloads of a site gets them.
const WORKLOADS: &str =
    "workloads: [{ name: orders, select: { netns: orders } }, { name: db, select: { netns: db } }]\n";

/// Kubernetes' own objects and values of the Helm chart: the daemon does not read them.
const FOREIGN: [&str; 3] = ["apiVersion: v1\n", "apiVersion: apps/v1\n", "trustDomain:"];

fn read(page: &str, text: &str) -> Result<(), String> {
    if text.starts_with("tests:") {
        let source = Source { path: page.into(), text: text.to_owned() };
        return parse_policy_tests(&source).map(drop).map_err(|error| error.to_string());
    }
    let mut text = text.to_owned();
    for (path, place, with) in AROUND {
        if page == path {
            text = text.replace(place, with);
        }
    }
    let (main, drop_ins) =
        if text.contains("apiVersion:") { (String::new(), vec![text]) } else { (text, vec![]) };
    let has = |key: &str| main.lines().any(|line| line.starts_with(key));
    let domain = if has("trust_domain:") { "" } else { "trust_domain: example.org\n" };
    let workloads = if has("workloads:") || !has("policy_external:") { "" } else { WORKLOADS };
    let main = Source { path: page.into(), text: format!("{domain}{workloads}{main}") };
    let drop_ins: Vec<_> = drop_ins.into_iter().map(|text| Source { path: page.into(), text }).collect();
    Config::parse(&main, &drop_ins).map(drop).map_err(|error| error.to_string())
}

#[test]
fn every_snippet_of_configuration_in_the_documents_is_valid() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in mtls_documents::pages().unwrap() {
        let ours = page.blocks().into_iter().filter(|block| block.language == "yaml");
        for block in ours.filter(|block| !FOREIGN.iter().any(|kind| block.text.contains(kind))) {
            seen += 1;
            if let Err(error) = read(&page.path, &block.text) {
                wrong.push(format!("{}:{}: {error}", page.path, block.line));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen >= 20, "only {seen} were found");
}

#[test]
fn a_snippet_with_a_key_that_is_none_is_found() {
    assert!(read("x.md", "workload: []\n").unwrap_err().contains("workload"));
    assert!(read("x.md", "tests:\n  - { nam: x }\n").is_err());
    assert!(
        read("x.md", "apiVersion: security.istio.io/v1\nkind: Nothing\nmetadata: { name: x }\n").is_err()
    );
}
