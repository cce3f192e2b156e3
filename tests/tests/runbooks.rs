//! Every drill has a page, and every page names tests that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Every failure that must have been drilled, and its page.
const DRILLS: [(&str, &str); 12] = [
    ("an expired certificate", "expired-certificate.md"),
    ("an issuer that is down for longer than half a life", "issuer-down.md"),
    ("clocks that differ, both ways", "clock-skew.md"),
    ("a stale CRL", "stale-crl.md"),
    ("a CRL server that is down", "crl-server-down.md"),
    ("a leaked key", "leaked-key.md"),
    ("a wrong trust anchor", "wrong-trust-anchor.md"),
    ("a root that is replaced under load", "bundle-rotation.md"),
    ("a root of the embedded CA that is replaced", "root-rotation.md"),
    ("an intermediate that is replaced", "intermediate-rotation.md"),
    ("the socket of the Workload API is gone", "agent-gone.md"),
    ("Vault is sealed", "vault-sealed.md"),
];

const PARTS: [&str; 4] = ["## You see", "## Why", "## Do", "## Tested by"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page but the README, by its name.
fn pages() -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join("docs/runbooks")).expect("the checkout is whole");
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    let pages = paths.map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        (name, read(&path))
    });
    pages.filter(|(name, _)| name != "README.md").collect()
}

/// What stands between backticks in the part "Tested by" and names a function.
fn tests_of(page: &str) -> Vec<&str> {
    let part = page.split_once("## Tested by").map_or("", |(_, part)| part);
    part.split('`').skip(1).step_by(2).filter(|text| text.contains("::")).collect()
}

/// Is there such a test? `suite::test` is an integration test, `path.rs::test` one beside the daemon's code.
fn find(named: &str) -> Result<(), String> {
    let (place, function) = named.rsplit_once("::").ok_or("it names no function")?;
    let file = match place.strip_suffix(".rs") {
        Some(_) => root().join("mtls-daemon/src").join(place),
        None => root().join("tests/tests").join(format!("{place}.rs")),
    };
    let source = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut before = "";
    for line in source.lines().map(str::trim) {
        if line.contains(&format!("fn {function}(")) {
            let is_test = before.starts_with("#[test]") || before.starts_with("#[tokio::test");
            return if is_test { Ok(()) } else { Err("that function is no test".into()) };
        }
        before = line;
    }
    Err(format!("{} has no such function", file.display()))
}

#[test]
fn every_drill_has_a_page_and_every_page_is_listed() {
    let index = read(&root().join("docs/runbooks/README.md"));
    let pages = pages();
    for (drill, page) in DRILLS {
        assert!(pages.iter().any(|(name, _)| name == page), "{drill}: there is no {page}");
    }
    for (name, _) in &pages {
        assert!(index.contains(&format!("]({name})")), "README.md does not list {name}");
        assert!(DRILLS.iter().any(|(_, page)| page == name), "{name} belongs to no drill: add it to DRILLS");
    }
}

#[test]
fn every_page_has_its_parts_and_names_an_integration_test_that_exists() {
    for (name, page) in pages() {
        let places = PARTS.map(|part| page.find(part).unwrap_or_else(|| panic!("{name} has no part {part}")));
        assert!(places.is_sorted(), "{name}: the parts are {PARTS:?}, in this order");
        let tests = tests_of(&page);
        assert!(tests.iter().any(|test| !test.contains(".rs::")), "{name} names no test of whole daemons");
        for test in tests {
            find(test).unwrap_or_else(|why| panic!("{name}: `{test}`: {why}"));
        }
    }
}

#[test]
fn a_link_to_nothing_is_found() {
    assert_eq!(find("runbooks::a_link_to_nothing_is_found"), Ok(()));
    for wrong in
        ["runbooks::find", "runbooks::no_such_test", "no_such_suite::test", "identity/when.rs::rfc3339"]
    {
        assert!(find(wrong).is_err(), "{wrong}");
    }
    assert_eq!(tests_of("`a::b`\n## Tested by\n`c::d`, `no`,\n`e.rs::f`"), ["c::d", "e.rs::f"]);
}
