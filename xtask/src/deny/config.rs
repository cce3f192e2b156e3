//! deny.toml: the part of cargo-deny's format that is enforced here.

use std::path::Path;

use anyhow::{Context, Result};
use semver::VersionReq;
use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub graph: GraphConfig,
    /// For cargo-deny alone.
    #[serde(rename = "advisories")]
    _advisories: toml::Table,
    pub licenses: Licenses,
    pub bans: Bans,
    pub sources: Sources,
}

/// Which dependencies count.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphConfig {
    /// Target triples.
    pub targets: Vec<String>,
}

/// Which licences a dependency may have.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Licenses {
    /// SPDX identifiers, with ` WITH exception` where the exception is part of what is allowed.
    pub allow: Vec<String>,
    /// For cargo-deny alone: a licence of the list that nobody uses is no mistake.
    #[serde(rename = "unused-allowed-license")]
    _unused_allowed_license: Option<String>,
}

/// Which crates and versions may not be in the tree.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bans {
    /// For cargo-deny alone: other duplicates only cost build time.
    #[serde(rename = "multiple-versions")]
    _multiple_versions: String,
    pub deny: Vec<Ban>,
}

/// One banned crate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ban {
    #[serde(rename = "crate")]
    pub spec: Spec,
    /// Why, and what to do.
    #[serde(default)]
    pub reason: String,
    /// The crate is allowed, but only once.
    #[serde(default)]
    pub deny_multiple_versions: bool,
}

/// `name` or `name:version-requirement`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Spec {
    pub name: String,
    pub versions: VersionReq,
}

impl TryFrom<String> for Spec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, versions) = match text.split_once(':') {
            None => (text.as_str(), VersionReq::STAR),
            Some((name, req)) => {
                let req = VersionReq::parse(req)
                    .map_err(|e| format!("`{text}`: `{req}` is no version requirement: {e}"))?;
                (name, req)
            }
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return Err(format!("`{text}`: `{name}` is no crate name; write `name` or `name:<1.2.3`"));
        }
        Ok(Self { name: name.to_owned(), versions })
    }
}

/// Where crates may come from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sources {
    /// Always enforced; the file must say so too.
    #[serde(rename = "unknown-registry")]
    _unknown_registry: Deny,
    #[serde(rename = "unknown-git")]
    _unknown_git: Deny,
    pub allow_registry: Vec<String>,
    #[serde(default)]
    pub allow_git: Vec<String>,
}

/// A lint level that may not be weakened without changing this program.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deny {
    Deny,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        toml::from_str(&text)
            .with_context(|| format!("{} holds something that is not enforced here", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repositorys_file_is_understood() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
        let config = Config::read(&file).unwrap();
        assert!(
            config
                .bans
                .deny
                .iter()
                .any(|ban| ban.spec.name == "ring" && ban.spec.versions == VersionReq::STAR)
        );
        assert!(!config.graph.targets.is_empty());
    }

    #[test]
    fn specs_are_names_with_or_without_versions() {
        let spec = Spec::try_from("rustls:<0.23.45".to_owned()).unwrap();
        assert_eq!((spec.name.as_str(), spec.versions.to_string().as_str()), ("rustls", "<0.23.45"));
        assert_eq!(Spec::try_from("ring".to_owned()).unwrap().versions, VersionReq::STAR);
        assert!(Spec::try_from("ring:old".to_owned()).unwrap_err().contains("no version requirement"));
        assert!(Spec::try_from(":<1".to_owned()).unwrap_err().contains("no crate name"));
        assert!(Spec::try_from("ring@1".to_owned()).unwrap_err().contains("no crate name"));
    }

    #[test]
    fn what_is_not_enforced_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.toml");
        let text = |extra: &str, level: &str| {
            format!(
                "graph.targets = []\nadvisories = {{}}\nlicenses.allow = []\nbans.multiple-versions = \"allow\"\n\
                 bans.deny = []\n{extra}\nsources.unknown-registry = \"{level}\"\nsources.unknown-git = \"deny\"\n\
                 sources.allow-registry = []\n"
            )
        };
        std::fs::write(&path, text("", "deny")).unwrap();
        Config::read(&path).unwrap();
        for broken in [text("bans.skip = []", "deny"), text("", "warn")] {
            std::fs::write(&path, broken).unwrap();
            let error = format!("{:#}", Config::read(&path).unwrap_err());
            assert!(error.contains("not enforced here"), "{error}");
        }
    }
}
