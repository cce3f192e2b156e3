//! A cpio archive in the `newc` format, which the kernel unpacks as its first root (its
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use anyhow::{Context, Result};

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

impl Cpio {
    /// A directory. Parents come before what is in them.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY, &[])
    }

    /// A file that may be executed.
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, FILE, content)
    }

    /// The finished archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of an initramfs is smaller than 4 GiB")?;
        let name_size = u32::try_from(name.len() + 1).context("a name is shorter than 4 GiB")?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], field: usize) -> usize {
        let text = std::str::from_utf8(&bytes[6 + 8 * field..14 + 8 * field]).unwrap();
        usize::from_str_radix(text, 16).unwrap()
    }

    /// (name, mode, content) as Documentation/driver-api/early-userspace/buffer-format.rst lays them out.
    fn read(mut bytes: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let mut entries = Vec::new();
        while !bytes.is_empty() {
            assert!(bytes.starts_with(b"070701"));
            let (mode, size, name_size) = (number(bytes, 1), number(bytes, 6), number(bytes, 11));
            let start = (110 + name_size).next_multiple_of(4);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            entries.push((name, mode, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn entries_are_aligned_and_the_trailer_closes() {
        let mut cpio = Cpio::default();
        cpio.directory("a").unwrap();
        cpio.file("a/bcd", b"hello").unwrap();
        assert_eq!(
            read(&cpio.finish().unwrap()),
            [
                ("a".to_owned(), 0o040_755, vec![]),
                ("a/bcd".to_owned(), 0o100_755, b"hello".to_vec()),
                ("TRAILER!!!".to_owned(), 0, vec![]),
            ]
        );
    }
}
