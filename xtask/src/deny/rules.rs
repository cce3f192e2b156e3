//! The rules themselves: each broken one is a sentence that names the package and the mend.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::config::Config;
use super::graph::{Graph, Package};
use super::spdx;

/// Every broken rule, in words.
pub fn check(config: &Config, graph: &Graph, root: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for package in &graph.packages {
        versions.entry(&package.name).or_default().insert(package.version.to_string());
        broken.extend(source(config, package, root));
        broken.extend(banned(config, package));
        broken.extend(licence(config, package));
    }
    for ban in config.bans.deny.iter().filter(|ban| ban.deny_multiple_versions) {
        if let Some(found) = versions.get(ban.spec.name.as_str()).filter(|found| found.len() > 1) {
            let found: Vec<_> = found.iter().map(String::as_str).collect();
            broken.push(format!(
                "{} is in the tree in versions {}: `cargo tree -i {}` shows who wants which; {}",
                ban.spec.name,
                found.join(" and "),
                ban.spec.name,
                ban.reason
            ));
        }
    }
    broken
}

fn source(config: &Config, package: &Package, root: &Path) -> Option<String> {
    let name = format!("{} {}", package.name, package.version);
    match package.source.as_deref() {
        None if package.manifest_path.starts_with(root) => None,
        None => {
            Some(format!("{name} comes from {}, outside the repository", package.manifest_path.display()))
        }
        Some(source) => {
            let (kind, url) = source.split_once('+').unwrap_or(("", source));
            // A git source carries `?branch=…` and `#commit`.
            let url = url.split(['?', '#']).next().unwrap_or(url);
            let list = match kind {
                "registry" | "sparse" => &config.sources.allow_registry,
                _ => &config.sources.allow_git,
            };
            let known = list.iter().any(|allowed| allowed == url);
            (!known).then(|| format!("{name} comes from {source}, which [sources] does not allow"))
        }
    }
}

fn banned(config: &Config, package: &Package) -> Option<String> {
    let hit = |ban: &&super::config::Ban| {
        !ban.deny_multiple_versions
            && ban.spec.name == package.name
            && ban.spec.versions.matches(&package.version)
    };
    config.bans.deny.iter().find(hit).map(|ban| {
        format!(
            "{} {} is banned: {} (`cargo tree -i {}`)",
            package.name, package.version, ban.reason, package.name
        )
    })
}

fn licence(config: &Config, package: &Package) -> Option<String> {
    let name = format!("{} {}", package.name, package.version);
    let Some(expression) = &package.license else {
        return Some(format!("{name} states no licence in its manifest"));
    };
    match spdx::is_allowed(expression, &config.licenses.allow) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name} is under `{expression}`, which [licenses] does not allow")),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRATES_IO: &str = "https://github.com/rust-lang/crates.io-index";

    fn config() -> Config {
        toml::from_str(&format!(
            r#"
            graph.targets = ["x"]
            advisories = {{}}
            licenses.allow = ["MIT"]
            bans.multiple-versions = "allow"
            bans.deny = [
                {{ crate = "ring", reason = "no post-quantum groups" }},
                {{ crate = "rustls:<0.23.45", reason = "RUSTSEC-2026-0285" }},
                {{ crate = "rustls", deny-multiple-versions = true, reason = "one TLS stack" }},
            ]
            sources = {{ unknown-registry = "deny", unknown-git = "deny", allow-registry = ["{CRATES_IO}"] }}
            "#
        ))
        .unwrap()
    }

    /// `name version [source [licence]]`, one package a line.
    fn broken(packages: &[(&str, &str, Option<&str>, Option<&str>)]) -> Vec<String> {
        let registry = format!("registry+{CRATES_IO}");
        let packages = packages
            .iter()
            .map(|(name, version, source, licence)| {
                serde_json::from_value(serde_json::json!({
                    "name": name, "version": version, "license": licence,
                    "source": source.map(|s| if s == "crates.io" { registry.as_str() } else { s }),
                    "manifest_path": format!("/repo/{name}/Cargo.toml"),
                }))
                .unwrap()
            })
            .collect();
        check(&config(), &Graph { packages }, Path::new("/repo"))
    }

    const IO: Option<&str> = Some("crates.io");
    const MIT: Option<&str> = Some("MIT");

    #[test]
    fn a_clean_tree_breaks_nothing() {
        assert_eq!(
            broken(&[("mtlsd", "0.1.0", None, MIT), ("rustls", "0.23.45", IO, MIT)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_banned_crate_is_named_with_the_reason() {
        assert_eq!(
            broken(&[("ring", "0.17.1", IO, MIT)]),
            ["ring 0.17.1 is banned: no post-quantum groups (`cargo tree -i ring`)"]
        );
    }

    #[test]
    fn a_version_below_the_minimum_is_banned() {
        let found = broken(&[("rustls", "0.23.44", IO, MIT)]);
        assert!(matches!(found.as_slice(), [one] if one.contains("RUSTSEC-2026-0285")), "{found:?}");
    }

    #[test]
    fn two_versions_of_a_crate_that_must_be_one_are_named() {
        let found = broken(&[("rustls", "0.23.45", IO, MIT), ("rustls", "0.24.0", IO, MIT)]);
        assert!(matches!(found.as_slice(), [one] if one.contains("0.23.45 and 0.24.0")), "{found:?}");
    }

    #[test]
    fn git_other_registries_and_paths_outside_are_refused() {
        let git = broken(&[("a", "1.0.0", Some("git+https://example.org/a?branch=x#1f"), MIT)]);
        assert!(matches!(git.as_slice(), [one] if one.contains("[sources] does not allow")), "{git:?}");
        let registry = broken(&[("a", "1.0.0", Some("registry+https://example.org/index"), MIT)]);
        assert_eq!(registry.len(), 1, "{registry:?}");
        let graph = Graph {
            packages: vec![
                serde_json::from_str(
                    r#"{"name":"a","version":"1.0.0","license":"MIT","source":null,"manifest_path":"/elsewhere/Cargo.toml"}"#,
                )
                .unwrap(),
            ],
        };
        let path = check(&config(), &graph, Path::new("/repo"));
        assert!(matches!(path.as_slice(), [one] if one.contains("outside the repository")), "{path:?}");
    }

    #[test]
    fn a_licence_that_is_not_allowed_missing_or_unreadable_is_named() {
        for (licence, words) in [
            (Some("GPL-3.0"), "does not allow"),
            (None, "states no licence"),
            (Some("MIT OR"), "no licence expression"),
        ] {
            let found = broken(&[("a", "1.0.0", IO, licence)]);
            assert!(matches!(found.as_slice(), [one] if one.contains(words)), "{found:?}");
        }
    }
}
