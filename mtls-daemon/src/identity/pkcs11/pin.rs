//! The PIN of a token, from a file that nobody else may read.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cryptoki::types::RawAuthPin;
use zeroize::Zeroizing;

use super::Pkcs11Error;

/// Longest PIN, in bytes; HSMs take far less.
const MAX_PIN: usize = 255;
/// Every permission of group and others.
const OTHERS: u32 = 0o077;

/// Enough of a file to notice that it is another one: device, inode, size, and change time in seconds and nanoseconds.
pub(super) type Stamp = (u64, u64, u64, i64, i64);

/// The PIN, wiped when dropped, and the stamp of its file.
pub(super) struct Pin {
    pub(super) secret: RawAuthPin,
    pub(super) stamp: Stamp,
}

/// Reads the PIN: the whole file but for one newline at its end.
pub(super) fn read(path: &Path) -> Result<Pin, Pkcs11Error> {
    let unusable = |reason: String| Pkcs11Error::PinFile { path: path.to_owned(), reason };
    let failed =
        |error: std::io::Error| unusable(format!("{error}; check the path and that mtlsd may read it"));
    // Asked before opening: to open a FIFO would block until somebody writes to it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unusable("it is not a regular file; name the file that holds the PIN".to_owned()));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(unusable(format!(
            "it has mode {mode:04o}, so that others can read the PIN; chmod 600 it"
        )));
    }
    if ![0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(unusable(format!("it belongs to user {}; chown root it", metadata.uid())));
    }
    // The whole limit at once: growing would leave unwiped copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_PIN + 2));
    let most = u64::try_from(MAX_PIN).unwrap_or(0) + 2;
    file.take(most).read_to_end(&mut content).map_err(failed)?;
    let pin = content.strip_suffix(b"\n").unwrap_or(&content);
    if pin.is_empty() || pin.len() > MAX_PIN || pin.contains(&b'\n') {
        return Err(unusable(format!(
            "it does not hold one line of 1 to {MAX_PIN} bytes; write the PIN and nothing else"
        )));
    }
    let stamp = (metadata.dev(), metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
    Ok(Pin { secret: RawAuthPin::new(Box::new(pin.to_vec())), stamp })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn file(directory: &tempfile::TempDir, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.path().join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn refused(path: &Path) -> String {
        read(path).map(|pin| pin.stamp).unwrap_err().to_string()
    }

    #[test]
    fn a_pin_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o602] {
            assert!(refused(&file(&directory, b"1234", mode)).contains("chmod 600"), "{mode:o}");
        }
        let path = file(&directory, b"1234", 0o600);
        assert!(read(&path).is_ok());
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(refused(&path).contains("belongs to user 65534; chown root it"));
    }

    #[test]
    fn what_is_not_one_line_is_no_pin() {
        let directory = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"\n", b"12\n34", b"1234\n\n", &[b'1'; 256], &[b'1'; 4096]] {
            assert!(refused(&file(&directory, content, 0o600)).contains("one line"), "{content:?}");
        }
        for content in [&b"1234"[..], b"1234\n", &[b'1'; 255]] {
            assert!(read(&file(&directory, content, 0o600)).is_ok(), "{content:?}");
        }
        assert!(refused(directory.path()).contains("not a regular file"));
        assert!(refused(&directory.path().join("absent")).contains("No such file"));
    }

    #[test]
    fn another_pin_in_the_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let first = read(&file(&directory, b"1234", 0o600)).unwrap().stamp;
        let path = file(&directory, b"5678", 0o600);
        assert_eq!(read(&path).unwrap().stamp, read(&path).unwrap().stamp);
        // A clock tick of the file system may be several milliseconds long.
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_ne!(first, read(&file(&directory, b"9999", 0o600)).unwrap().stamp);
    }
}
