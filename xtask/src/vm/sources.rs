//! Where this machine gets Debian's packages from.

use std::path::Path;

/// The archives, by their addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// The archive of the releases.
    pub main: String,
    /// The archive of the security updates.
    pub security: String,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self {
            main: "http://deb.debian.org/debian".to_owned(),
            security: "http://deb.debian.org/debian-security".to_owned(),
        }
    }
}

/// The mirrors that apt is set up with here; Debian's own where it names none (another distribution).
pub fn of_this_machine(etc_apt: &Path) -> Mirrors {
    let parts = std::fs::read_dir(etc_apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, etc_apt.join("sources.list"));
    let mut entries = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|ext| ext.to_str()) {
            Some("sources") => entries.extend(deb822(&text)),
            Some("list") => entries.extend(one_line(&text)),
            _ => {}
        }
    }
    choose(&entries)
}

/// An address and one of its suites.
type Entry = (String, String);

fn choose(entries: &[Entry]) -> Mirrors {
    const RELEASES: [&str; 9] =
        ["stable", "oldstable", "testing", "unstable", "bookworm", "trixie", "forky", "duke", "sid"];
    let mut mirrors = Mirrors::default();
    let is_release = |suite: &str| RELEASES.iter().any(|release| suite.starts_with(release));
    let web = |address: &str| address.starts_with("http://") || address.starts_with("https://");
    let debian = || entries.iter().filter(|(address, suite)| web(address) && is_release(suite));
    // An archive of someone else may have suites of Debian's names: the path of a full mirror ends in `debian`.
    let path = |address: &str, name: &str| address.trim_end_matches('/').ends_with(name);
    if let Some((address, _)) = debian().find(|(address, _)| path(address, "/debian")) {
        mirrors.main.clone_from(address);
    }
    if let Some((address, _)) = debian().find(|(address, _)| path(address, "/debian-security")) {
        mirrors.security.clone_from(address);
    }
    mirrors
}

/// `deb [options] ADDRESS SUITE COMPONENT…`
fn one_line(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

/// Stanzas with `Types`, `URIs` and `Suites`.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    for stanza in super::index::stanzas(&text) {
        let words = |name: &str| stanza.field(name).unwrap_or_default().split_whitespace();
        let enabled = stanza.field("Enabled").is_none_or(|word| !word.trim().eq_ignore_ascii_case("no"));
        if !enabled || !words("Types").any(|kind| kind == "deb") {
            continue;
        }
        for address in words("URIs") {
            entries.extend(words("Suites").map(|suite| (address.to_owned(), suite.to_owned())));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "# comment
deb [signed-by=/a arch=amd64] https://mirror.example/debian/ bookworm main contrib
deb-src http://src.example/debian bookworm main
deb\thttp://sec.example/debian-security bookworm-security main # trailing
deb https://other.example/apt bookworm main
";

    const SOURCES: &str = "Types: deb
# a comment inside
URIs: http://off.example/debian
Suites: trixie
Enabled: no

Types: deb deb-src
URIs: http://m.example/debian http://n.example/debian
Suites: trixie
 trixie-updates
Components: main
";

    #[test]
    fn both_formats_are_read() {
        let pair = |a: &str, s: &str| (a.to_owned(), s.to_owned());
        assert_eq!(
            one_line(LIST),
            [
                pair("https://mirror.example/debian/", "bookworm"),
                pair("http://sec.example/debian-security", "bookworm-security"),
                pair("https://other.example/apt", "bookworm"),
            ]
        );
        assert_eq!(
            deb822(SOURCES),
            [
                pair("http://m.example/debian", "trixie"),
                pair("http://m.example/debian", "trixie-updates"),
                pair("http://n.example/debian", "trixie"),
                pair("http://n.example/debian", "trixie-updates"),
            ]
        );
    }

    #[test]
    fn the_machines_mirror_is_used_and_debians_own_without_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of_this_machine(dir.path()), Mirrors::default());
        std::fs::write(dir.path().join("sources.list"), LIST).unwrap();
        let mirrors = of_this_machine(dir.path());
        assert_eq!(mirrors.main, "https://mirror.example/debian/");
        assert_eq!(mirrors.security, "http://sec.example/debian-security");
        std::fs::remove_file(dir.path().join("sources.list")).unwrap();
        std::fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        std::fs::write(dir.path().join("sources.list.d/debian.sources"), SOURCES).unwrap();
        std::fs::write(dir.path().join("sources.list.d/old.list.disabled"), LIST).unwrap();
        assert_eq!(of_this_machine(dir.path()).main, "http://m.example/debian");
    }

    #[test]
    fn another_distributions_archive_is_not_taken_for_debians() {
        let entries = one_line("deb http://archive.ubuntu.com/ubuntu noble main\n");
        assert_eq!(choose(&entries), Mirrors::default());
    }
}
