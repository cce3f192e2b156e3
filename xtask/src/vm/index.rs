//! Debian's package index, and the kernel packages in it.

use std::collections::BTreeSet;

/// One paragraph of `Name: value` lines; a line that begins with a space continues the value before it.
#[derive(Debug, Clone, Copy)]
pub struct Stanza<'a>(&'a str);

/// The paragraphs of a text.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    text.split("\n\n").map(str::trim_start).filter(|stanza| !stanza.is_empty()).map(Stanza)
}

impl<'a> Stanza<'a> {
    /// A field's value, its continuation lines included.
    pub fn field(self, name: &str) -> Option<&'a str> {
        let mut at = 0;
        for line in self.0.split_inclusive('\n') {
            at += line.len();
            if let Some(value) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) {
                let rest = self.0.get(at..).unwrap_or_default();
                let more: usize =
                    rest.split_inclusive('\n').take_while(|l| l.starts_with(' ')).map(str::len).sum();
                let start = at - value.len();
                return self.0.get(start..at + more).map(str::trim);
            }
        }
        None
    }
}

/// A package that can be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Debian's version.
    pub version: String,
    /// Bytes of the package file.
    pub size: u64,
    /// SHA-256 of the package file, in hexadecimal.
    pub sha256: String,
}

/// The packages that together are one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What `uname -r` will print, e.g. `6.12.95+deb12-amd64`.
    pub release: String,
    /// What to download and unpack.
    pub packages: Vec<Package>,
}

/// What one index holds for a series.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The newest kernel of the series.
    Kernel(Choice),
    /// None; these series are there instead.
    Others(BTreeSet<String>),
    /// The index names a kernel, and not all of its packages: this one is missing.
    Incomplete(String),
}

/// The newest kernel of `series` for ordinary PCs.
pub fn find(index: &str, series: &str) -> Found {
    let mut others = BTreeSet::new();
    let mut best: Option<(Vec<u64>, &str, Stanza<'_>)> = None;
    for stanza in stanzas(index) {
        let Some(release) = stanza.field("Package").and_then(release) else { continue };
        match release.strip_prefix(series) {
            Some(rest) if rest.starts_with('.') => {
                let key = numbers(release.trim_end_matches("-amd64"));
                if best.as_ref().is_none_or(|(other, ..)| *other < key) {
                    best = Some((key, release, stanza));
                }
            }
            _ => {
                others.insert(release.splitn(3, '.').take(2).collect::<Vec<_>>().join("."));
            }
        }
    }
    let Some((_, release, image)) = best else { return Found::Others(others) };
    // Since 7.x the image package is a list of dependencies: the image, the modules, and the lists of modules are apart.
    let depends = image.field("Depends").unwrap_or_default().split([',', '|']);
    let parts = depends.filter_map(|word| word.split_whitespace().next()).filter(|name| {
        ["linux-base-", "linux-binary-", "linux-modules-"]
            .iter()
            .any(|prefix| name.strip_prefix(prefix) == Some(release))
    });
    let mut packages = Vec::new();
    let name = image.field("Package").unwrap_or_default();
    for part in std::iter::once(name).chain(parts) {
        match stanzas(index).find(|stanza| stanza.field("Package") == Some(part)).and_then(package) {
            Some(package) => packages.push(package),
            None => return Found::Incomplete(part.to_owned()),
        }
    }
    Found::Kernel(Choice { release: release.to_owned(), packages })
}

/// `6.12.95+deb12-amd64` of `linux-image-6.12.95+deb12-amd64`; nothing for the cloud, rt and unsigned kernels, nor for
/// the package that only names the newest.
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix("linux-image-")?;
    let version = release.strip_suffix("-amd64")?;
    let number = |part: &str| part.bytes().next().is_some_and(|b| b.is_ascii_digit());
    version.split('-').all(number).then_some(release)
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn package(stanza: Stanza<'_>) -> Option<Package> {
    let sha256 = stanza.field("SHA256")?.to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(Package {
        name: stanza.field("Package")?.to_owned(),
        version: stanza.field("Version")?.to_owned(),
        size: stanza.field("Size")?.parse().ok()?,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, depends: &str) -> String {
        format!(
            "Package: {name}\nSource: linux\nVersion: 1-1\nDepends: {depends}\nDescription: x\n more\nSize: 10\nSHA256: {}\n\n",
            "aB".repeat(32)
        )
    }

    fn names(found: Found) -> (String, Vec<String>) {
        match found {
            Found::Kernel(choice) => {
                (choice.release, choice.packages.into_iter().map(|package| package.name).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_are_found_whole_and_with_their_continuation() {
        let text = "Package: a\nDepends: b,\n c\nSize: 1\n\n\nPackage: b\nPackaged: no\n";
        let all: Vec<_> = stanzas(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].field("Depends"), Some("b,\n c"));
        assert_eq!(all[0].field("Size"), Some("1"));
        assert_eq!(all[1].field("Package"), Some("b"));
        assert_eq!(all[1].field("Pack"), None);
    }

    #[test]
    fn the_newest_kernel_of_the_series_is_chosen_by_number() {
        let index: String = [
            "linux-image-6.12.90+deb12-amd64",
            "linux-image-6.12.107+deb12-amd64",
            "linux-image-6.12.107+deb12.1-amd64",
            "linux-image-6.12.200+deb12-cloud-amd64",
            "linux-image-6.12.200+deb12-rt-amd64",
            "linux-image-6.12.200+deb12-amd64-unsigned",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.120.1-amd64",
            "linux-image-amd64",
        ]
        .iter()
        .map(|name| stanza(name, "kmod"))
        .collect();
        assert_eq!(
            names(find(&index, "6.12")),
            ("6.12.107+deb12.1-amd64".into(), vec!["linux-image-6.12.107+deb12.1-amd64".into()])
        );
        assert_eq!(names(find(&index, "6.1")).0, "6.1.0-50-amd64");
    }

    #[test]
    fn a_kernel_in_several_packages_is_put_together() {
        let depends = "linux-base-7.2.13-amd64 (= 1), linux-binary-7.2.13-amd64 (= 1), linux-modules-7.2.13-amd64 (= 1)";
        let image = stanza("linux-image-7.2.13-amd64", depends);
        let parts = ["linux-base-7.2.13-amd64", "linux-binary-7.2.13-amd64", "linux-modules-7.2.13-amd64"];
        let index = format!("{image}{}", parts.map(|name| stanza(name, "")).concat());
        assert_eq!(names(find(&index, "7.2")).1, [&["linux-image-7.2.13-amd64"], parts.as_slice()].concat());
        assert_eq!(find(&image, "7.2"), Found::Incomplete("linux-base-7.2.13-amd64".into()));
    }

    #[test]
    fn a_series_that_is_gone_tells_which_are_there() {
        let index = stanza("linux-image-7.3.1-amd64", "") + &stanza("linux-image-7.2.13-amd64", "");
        assert_eq!(find(&index, "7.1"), Found::Others(["7.2", "7.3"].map(str::to_owned).into()));
        assert_eq!(find("", "7.1"), Found::Others(BTreeSet::new()));
    }

    #[test]
    fn a_package_without_a_usable_checksum_is_none() {
        let index = stanza("linux-image-6.1.9-amd64", "").replace("SHA256: aB", "SHA256: zz");
        assert_eq!(find(&index, "6.1"), Found::Incomplete("linux-image-6.1.9-amd64".into()));
    }
}
