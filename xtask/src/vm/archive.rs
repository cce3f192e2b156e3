//! Getting a kernel out of Debian's archive with a private apt: own sources, own lists, the machine's mirror and keys.
//! apt checks the index against Debian's signature and each file against the index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::index::{self, Choice, Found, Package};
use super::sources::Mirrors;
use crate::digest::sha256;
use crate::run::Cmd;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What decompresses an index as apt stores it.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// A suite, and whether it is in the archive of the security updates.
type Suite = (&'static str, bool);

/// Where a series is looked for, in this order: the small indexes first.
fn suites(series: &str) -> &'static [Suite] {
    match series {
        "6.1" => &[("bookworm-security", true), ("bookworm", false)],
        "6.12" => &[("bookworm-backports", false), ("trixie-security", true), ("trixie", false)],
        _ => &[("sid", false), ("forky", false), ("trixie-backports", false)],
    }
}

/// A private apt below one directory.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    mirrors: Mirrors,
}

impl Archive {
    /// Nothing is fetched yet.
    pub fn new(dir: &Path, mirrors: Mirrors) -> Result<Self> {
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is not there; `apt-get install debian-archive-keyring` brings it");
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        }
        Ok(Self { dir: dir.to_owned(), mirrors })
    }

    /// The newest kernel of a series, and a suite that has it.
    pub fn find(&self, series: &str) -> Result<(&'static str, Choice)> {
        let mut others = BTreeSet::new();
        let mut problems = Vec::new();
        for &(suite, security) in suites(series) {
            eprintln!("looking for a {series} kernel in Debian's {suite}");
            match self.index(suite, security).map(|text| index::find(&text, series)) {
                Ok(Found::Kernel(choice)) => return Ok((suite, choice)),
                Ok(Found::Others(found)) => others.extend(found),
                Ok(Found::Incomplete(package)) => {
                    problems.push(format!("{suite} names a kernel without its package {package}"));
                }
                Err(error) => problems.push(format!("{suite}: {error:#}")),
            }
        }
        let names: Vec<_> = suites(series).iter().map(|(suite, _)| *suite).collect();
        let others: Vec<_> = others.into_iter().collect();
        let mut text = format!("no {series} kernel can be had from Debian's {}", names.join(", "));
        if !others.is_empty() {
            text += &format!("; there are now: {} (try one of them with --kernel)", others.join(", "));
        }
        for problem in &problems {
            text += &format!("\n  {problem}");
        }
        if !problems.is_empty() {
            text += &format!(
                "\n  is {} reachable from here? A kernel of your own works without it: --kernel PATH",
                self.mirrors.main
            );
        }
        bail!("{text}")
    }

    /// Downloads a package file into this directory and checks it; returns its path.
    pub fn download(&self, package: &Package) -> Result<PathBuf> {
        let place = self.dir.join("packages");
        std::fs::create_dir_all(&place).with_context(|| format!("{} cannot be made", place.display()))?;
        eprintln!(
            "downloading {} {} ({} MB)",
            package.name,
            package.version,
            package.size.div_ceil(1_000_000)
        );
        let cmd = self.apt("apt-get").args(["download", &format!("{}={}", package.name, package.version)]);
        // Its progress is not what the command in the guest prints.
        let status = cmd.dir(&place).into_inner().stdout(std::io::stderr()).status();
        if !status.context("apt-get cannot be started")?.success() {
            bail!("{} {} cannot be had from {}", package.name, package.version, self.mirrors.main);
        }
        let file = downloaded(&place, &package.name)?;
        self.check(&file, package)?;
        Ok(file)
    }

    fn check(&self, file: &Path, package: &Package) -> Result<()> {
        let sum = sha256(file)?;
        if sum != package.sha256 {
            // Removed, or the next run would find it.
            std::fs::remove_file(file).with_context(|| format!("{} cannot be removed", file.display()))?;
            bail!(
                "{} has the SHA-256 {sum} and the index says {}: the file was removed; try again, and if it happens \
                 again, the mirror {} is broken",
                package.name,
                package.sha256,
                self.mirrors.main
            );
        }
        eprintln!("SHA-256 {sum} is right");
        Ok(())
    }

    /// The index of a suite, fresh.
    fn index(&self, suite: &str, security: bool) -> Result<String> {
        let address = if security { &self.mirrors.security } else { &self.mirrors.main };
        let sources = format!(
            "Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n\
             Signed-By: {KEYRING}\n"
        );
        self.write("debian.sources", &sources)?;
        self.write("apt.conf", &self.configuration())?;
        self.apt("apt-get")
            .args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"])
            .read()
            .context("the package index cannot be fetched")?;
        let files =
            self.apt("apt-get").args(["indextargets", "--format", "$(FILENAME)", "Created-By: Packages"]);
        let files = files.read()?;
        let Some(file) = files.lines().next() else { bail!("apt fetched no package index") };
        Cmd::new(HELPER).args(["cat-file", file]).read()
    }

    fn apt(&self, program: &str) -> Cmd {
        let conf = self.dir.join("apt.conf");
        Cmd::new(program).arg("-c").arg(conf).env("LC_ALL", "C")
    }

    /// The machine's own settings (a proxy, certificates) stay in force; what they do after an update does not.
    fn configuration(&self) -> String {
        let dir = self.dir.display();
        format!(
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
             #clear APT::Default-Release;\n#clear Acquire::IndexTargets::deb::DEP-11;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n#clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-large;\n\
             Dir::Etc::SourceList \"{dir}/debian.sources\";\nDir::Etc::SourceParts \"/dev/null\";\n\
             Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Dir::State::Lists \"{dir}/lists\";\nDir::Cache \"{dir}/cache\";\nDir::State::status \"/dev/null\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"root\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n"
        )
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

fn downloaded(dir: &Path, name: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let prefix = format!("{name}_");
    let mut files = entries.flatten().filter(|entry| {
        entry.file_name().to_str().is_some_and(|file| file.starts_with(&prefix) && file.ends_with(".deb"))
    });
    match files.next() {
        Some(file) => Ok(file.path()),
        None => bail!("apt downloaded {name}, and no file of it is in {}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(dir: &Path) -> Archive {
        let mirrors =
            Mirrors { main: "http://127.0.0.1:9/debian".into(), security: "http://127.0.0.1:9/sec".into() };
        std::fs::create_dir_all(dir.join("packages")).unwrap();
        Archive { dir: dir.to_owned(), mirrors }
    }

    #[test]
    fn every_series_is_looked_for_somewhere_and_security_updates_first() {
        assert_eq!(suites("6.1").first(), Some(&("bookworm-security", true)));
        assert_eq!(suites("6.12").first(), Some(&("bookworm-backports", false)));
        assert_eq!(suites("7.2").first(), Some(&("sid", false)));
        assert_eq!(suites("8.0"), suites("7.2"));
    }

    #[test]
    fn the_configuration_keeps_to_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let text = archive(dir.path()).configuration();
        let place = dir.path().display();
        for line in [
            format!("Dir::Etc::SourceList \"{place}/debian.sources\";"),
            format!("Dir::State::Lists \"{place}/lists\";"),
            format!("Dir::Cache \"{place}/cache\";"),
            "Dir::Etc::SourceParts \"/dev/null\";".to_owned(),
            "#clear APT::Update::Post-Invoke;".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_named_and_the_file_removed() {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path());
        let file = dir.path().join("packages/linux-image-x_1_amd64.deb");
        let package = |sha256: &str| Package {
            name: "linux-image-x".into(),
            version: "1".into(),
            size: 5,
            sha256: sha256.into(),
        };
        let right = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        std::fs::write(&file, "hello").unwrap();
        archive.check(&file, &package(right)).unwrap();
        let error = archive.check(&file, &package(&"0".repeat(64))).unwrap_err().to_string();
        assert!(error.contains(right) && error.contains("the file was removed"), "{error}");
        assert!(!file.exists());
    }

    #[test]
    fn the_downloaded_file_is_found_by_its_packages_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = downloaded(dir.path(), "linux-image-x").unwrap_err().to_string();
        assert!(error.contains("no file of it"), "{error}");
        for name in
            ["linux-image-x-unsigned_1_amd64.deb", "linux-image-x_1_amd64.deb", "linux-image-x_1.part"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            downloaded(dir.path(), "linux-image-x").unwrap(),
            dir.path().join("linux-image-x_1_amd64.deb")
        );
    }
}
