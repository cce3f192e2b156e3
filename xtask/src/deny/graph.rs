//! The packages that a target's build really uses, as `cargo metadata` resolves them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use semver::Version;
use serde::Deserialize;

use crate::run::Cmd;

/// Every package of one manifest's graph, for one target.
#[derive(Debug)]
pub struct Graph {
    pub packages: Vec<Package>,
}

/// One package.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: Version,
    /// An SPDX expression.
    pub license: Option<String>,
    /// `registry+…` or `git+…`; absent for a path.
    pub source: Option<String>,
    pub manifest_path: PathBuf,
}

/// A package that is in a program.
#[derive(Debug, Clone)]
pub struct Linked {
    pub package: Package,
    /// Of its archive, as the lock file has it; a path has none.
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Cargo.lock.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: Version,
    checksum: Option<String>,
}

impl Graph {
    /// Asks cargo. The lock file is taken as it is.
    pub fn load(root: &Path, manifest: &str, target: &str) -> Result<Self> {
        let cargo = |verb: &str| {
            let cmd = Cmd::cargo(root).args([verb, "--locked", "--manifest-path"]).arg(root.join(manifest));
            if verb == "tree" { cmd.args(["--workspace", "--target", target]) } else { cmd }
        };
        // `cargo metadata` knows sources and licences and lists packages that no enabled feature needs;
        // `cargo tree` knows what is really compiled.
        let all = cargo("metadata").args(["--format-version", "1", "--filter-platform", target]).read()?;
        let used = cargo("tree")
            .args(["--edges", "normal,build,dev", "--prefix", "none", "--no-dedupe", "--format", "{p}"])
            .read()?;
        Self::parse(&all, &used)
    }

    /// What is linked into a program of this package: no procedural macro, nothing of build scripts and tests.
    ///
    /// # Errors
    /// When cargo or the lock file says something unexpected.
    pub fn linked(root: &Path, manifest: &str, package: &str, target: &str) -> Result<Vec<Linked>> {
        let cargo = |verb: &str| {
            Cmd::cargo(root).args([verb, "--locked", "--manifest-path"]).arg(root.join(manifest))
        };
        let all = cargo("metadata").args(["--format-version", "1"]).read()?;
        let used = cargo("tree")
            .args(["--package", package, "--target", target, "--edges", "normal,no-proc-macro"])
            .args(["--prefix", "none", "--no-dedupe", "--format", "{p}"])
            .read()?;
        let lock = root.join(manifest).with_file_name("Cargo.lock");
        let lock =
            std::fs::read_to_string(&lock).with_context(|| format!("{} cannot be read", lock.display()))?;
        let lock: Lock = toml::from_str(&lock).context("the lock file is no list of packages")?;
        let hash = |one: &Package| {
            let mut locked = lock.package.iter();
            locked.find(|locked| locked.name == one.name && locked.version == one.version)?.checksum.clone()
        };
        let packages = Self::parse(&all, &used)?.packages.into_iter();
        Ok(packages.map(|package| Linked { sha256: hash(&package), package }).collect())
    }

    fn parse(all: &str, used: &str) -> Result<Self> {
        let metadata: Metadata =
            serde_json::from_str(all).context("cargo metadata printed something unexpected")?;
        // `name v1.2.3 (/path)`
        let used: HashSet<(&str, &str)> = used
            .lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?, words.next()?.strip_prefix('v')?))
            })
            .collect();
        if used.is_empty() {
            bail!("cargo tree printed something unexpected");
        }
        let is_used =
            |package: &Package| used.contains(&(package.name.as_str(), package.version.to_string().as_str()));
        Ok(Self { packages: metadata.packages.into_iter().filter(is_used).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> String {
        let package = |name: &str| {
            format!(
                r#"{{"name":"{name}","version":"1.0.0","license":"MIT","source":null,"manifest_path":"/m"}}"#
            )
        };
        format!(r#"{{"packages":[{},{}]}}"#, package("a"), package("b"))
    }

    #[test]
    fn packages_that_are_not_compiled_are_left_out() {
        let graph =
            Graph::parse(&metadata(), "a v1.0.0 (/repo/a)\nb v2.0.0\n\na v1.0.0 (/repo/a)\n").unwrap();
        assert_eq!(graph.packages.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(Graph::parse("{}", "a v1.0.0").is_err());
        assert!(Graph::parse(&metadata(), "").is_err());
    }
}
