//! A software bill of materials in CycloneDX 1.5 (ECMA-424): what is in the program, under which licence, and with which hash.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::deny::graph::Linked;
use crate::run::Cmd;

/// What the bill is about.
pub struct Subject<'a> {
    /// Of mtlsd.
    pub version: &'a str,
    /// Of the program, in hexadecimal digits.
    pub sha256: &'a str,
    /// The crates.
    pub linked: &'a [Linked],
    /// What is no crate.
    pub others: &'a [Other],
}

/// A library that cargo does not know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    pub name: &'static str,
    pub version: String,
    /// An SPDX expression.
    pub license: &'static str,
    /// The package URL.
    pub purl: String,
}

/// What is linked into every static program of this machine: the C library, and Rust's own.
pub fn toolchain() -> Result<Vec<Other>> {
    let glibc = Cmd::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6-dev"]).read();
    let glibc = glibc.context("the version of the C library is asked of dpkg")?.trim().to_owned();
    let rustc = Cmd::new("rustc").arg("--version").read()?;
    let rustc = rustc.split(' ').nth(1).context("rustc says no version")?.to_owned();
    Ok(vec![
        Other {
            name: "glibc",
            license: "LGPL-2.1-or-later",
            purl: format!("pkg:deb/debian/libc6-dev@{glibc}?arch=amd64"),
            version: glibc,
        },
        Other {
            name: "rust-std",
            license: "MIT OR Apache-2.0",
            purl: format!("pkg:generic/rust-std@{rustc}"),
            version: rustc,
        },
    ])
}

/// The bill. The same program gives the same bill: there is no time and no random number in it.
pub fn bill(subject: &Subject<'_>) -> Value {
    let version = subject.version;
    let name = format!("pkg:generic/mtlsd@{version}");
    let crates = subject.linked.iter().filter(|linked| linked.package.source.is_some()).map(of_crate);
    let others = subject
        .others
        .iter()
        .map(|other| component(other.name, &other.version, &other.purl, Some(other.license), None));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": name, "name": "mtlsd", "version": version, "purl": name,
                "licenses": [{ "expression": "Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": subject.sha256 }],
            },
        },
        "components": crates.chain(others).collect::<Vec<_>>(),
    })
}

fn of_crate(linked: &Linked) -> Value {
    let package = &linked.package;
    let version = package.version.to_string();
    let purl = format!("pkg:cargo/{}@{version}", package.name);
    // Before SPDX expressions, cargo had a slash for OR.
    let license = package.license.as_deref().map(|text| text.replace('/', " OR "));
    component(&package.name, &version, &purl, license.as_deref(), linked.sha256.as_deref())
}

fn component(name: &str, version: &str, purl: &str, license: Option<&str>, sha256: Option<&str>) -> Value {
    let mut component =
        json!({ "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl });
    let licenses = license.map(|license| ("licenses", json!([{ "expression": license }])));
    let hashes = sha256.map(|sha256| ("hashes", json!([{ "alg": "SHA-256", "content": sha256 }])));
    if let Some(fields) = component.as_object_mut() {
        fields.extend(licenses.into_iter().chain(hashes).map(|(key, value)| (key.to_owned(), value)));
    }
    component
}

/// How many of what, in words.
pub fn summary(bill: &Value) -> String {
    let components = bill["components"].as_array().map_or(&[][..], Vec::as_slice);
    let with = |key: &str| components.iter().filter(|one| one.get(key).is_some()).count();
    format!(
        "{} components, {} with a licence, {} with a hash",
        components.len(),
        with("licenses"),
        with("hashes")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deny::graph::Graph;
    use crate::repo;

    #[test]
    fn every_crate_of_the_program_has_a_licence_and_a_hash_and_no_tool_is_among_them() {
        let root = repo::root().unwrap();
        let linked = Graph::linked(&root, "Cargo.toml", "mtls-daemon", "x86_64-unknown-linux-gnu").unwrap();
        let other = Other {
            name: "glibc",
            version: "2.36".into(),
            license: "LGPL-2.1-or-later",
            purl: "pkg:x".into(),
        };
        let bill = bill(&Subject { version: "1.2.3", sha256: "ab", linked: &linked, others: &[other] });
        let components = bill["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
        for there in ["rustls", "aws-lc-sys", "tokio", "aya", "glibc"] {
            assert!(names.contains(&there), "{there}");
        }
        for absent in ["mtls-daemon", "proptest", "criterion", "serde_derive", "cc", "ring"] {
            assert!(!names.contains(&absent), "{absent}");
        }
        for one in components.iter().filter(|one| one["name"] != "glibc") {
            let hash = one["hashes"][0]["content"].as_str().unwrap();
            assert!(hash.len() == 64 && one["licenses"][0]["expression"].is_string(), "{one}");
            assert!(!one["licenses"][0]["expression"].as_str().unwrap().contains('/'), "{one}");
        }
        let n = components.len();
        assert_eq!(summary(&bill), format!("{n} components, {n} with a licence, {} with a hash", n - 1));
        assert_eq!(bill["metadata"]["component"]["hashes"][0]["content"], "ab");
    }
}
