//! Files that a guest reads often. Each opening of a file of the host takes several messages to QEMU; a program with
//! five libraries starts three times as fast from the guest's own memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::run::{Cmd, find_program};

/// What every script and every dynamic program opens.
const ALWAYS: [&str; 7] = ["sh", "cat", "ip", "mount", "sleep", "setpriv", "modprobe"];
const CACHE: &str = "/etc/ld.so.cache";

/// The programs (by name or path) that are there, and the libraries they load.
pub fn files(programs: &[&str]) -> Vec<PathBuf> {
    let mut files: BTreeSet<PathBuf> = [PathBuf::from(CACHE)].into();
    for program in ALWAYS.iter().chain(programs) {
        let path = if program.contains('/') { Some(PathBuf::from(program)) } else { find_program(program) };
        let Some(path) = path.filter(|path| path.is_file()) else { continue };
        // A script or a static program has no libraries, and ldd says so with an error.
        let text = Cmd::new("ldd").arg(&path).read().unwrap_or_default();
        files.extend(libraries(&text));
        files.insert(path);
    }
    // By their own names: a link is no file to be copied.
    let own: BTreeSet<_> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    own.into_iter().filter(|file| is_plain(file)).collect()
}

/// The list goes to `xargs` line by line.
fn is_plain(file: &Path) -> bool {
    file.to_str().is_some_and(|name| !name.contains(['\n', '\'', '"', '\\', ' ', '\t']))
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`
fn libraries(ldd: &str) -> Vec<PathBuf> {
    let library = |line: &str| {
        let (path, _) = line.trim().rsplit_once(" (0x")?;
        let path = path.rsplit(" => ").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    ldd.lines().filter_map(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f16)\n\
                    \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f17)\n";
        assert_eq!(
            libraries(text),
            [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn programs_that_are_missing_are_left_out_and_links_followed() {
        let files = files(&["no-such-program-here", "/no/such/file"]);
        let shell = find_program("sh").unwrap().canonicalize().unwrap();
        assert!(files.contains(&shell), "{files:?}");
        assert!(files.iter().all(|file| file.is_file() && !file.is_symlink()), "{files:?}");
    }
}
