//! The record beside the object: which source, which tools, which bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::MEND;

/// What `mtlsd.bpf.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Over the paths and contents of [`source_files`].
    pub source_sha256: String,
    /// Of `mtlsd.bpf.o`.
    pub object_sha256: String,
    /// What the object was made with.
    #[serde(flatten)]
    pub tools: Tools,
}

/// Everything outside the repository that decides the object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// `rustc --version`.
    pub rustc: String,
    /// rustc's host triple.
    pub host: String,
    /// rustc's LLVM, which bpf-linker also uses.
    pub llvm: String,
    /// Over the source of `core`, which is compiled in.
    pub rust_src_sha256: String,
    /// `bpf-linker --version`.
    pub bpf_linker: String,
}

impl Record {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a record of a build: {MEND}", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("the record cannot be written as JSON")?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Whether source and object are those that were recorded.
    pub fn verify(&self, source: &str, object: &str) -> Result<()> {
        if self.source_sha256 != source {
            bail!("the eBPF source is not the one that the committed object was built from: {MEND}");
        }
        if self.object_sha256 != object {
            bail!("the committed eBPF object is not the one in its record: {MEND}");
        }
        Ok(())
    }
}

/// SHA-256 in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of everything in the repository that goes into the object.
pub fn source_hash(root: &Path) -> Result<String> {
    let files = source_files(root)?;
    hash_files(root, &files)
}

fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(&root.join("mtls-ebpf"), &mut files)?;
    let built = root.join("mtls-ebpf/target");
    files.retain(|file| !file.starts_with(&built));
    walk(&root.join("mtls-common/src"), &mut files)?;
    files.push(root.join("mtls-common/Cargo.toml"));
    if !files.iter().any(|file| file.ends_with("mtls-ebpf/Cargo.lock")) {
        bail!("mtls-ebpf/Cargo.lock is missing, so the eBPF dependencies are not pinned: {MEND}");
    }
    Ok(files)
}

/// Every file below `dir`, in no particular order.
pub fn walk(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("{} cannot be read", dir.display()))?;
        let path = entry.path();
        if entry.file_type().with_context(|| format!("{} cannot be read", path.display()))?.is_dir() {
            walk(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// Over path (relative to `base`), length and content of each file, sorted by path.
pub fn hash_files(base: &Path, files: &[PathBuf]) -> Result<String> {
    let mut named = Vec::new();
    for file in files {
        let name =
            file.strip_prefix(base).with_context(|| format!("{} is not below the base", file.display()))?;
        named.push((name.to_string_lossy().into_owned(), file));
    }
    named.sort();
    let mut hash = Sha256::new();
    for (name, file) in named {
        let content = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        // Lengths between the parts: no two different trees give the same stream.
        hash.update(format!("{} {name} {} ", name.len(), content.len()));
        hash.update(&content);
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("mtls-ebpf/Cargo.toml", "m"),
            ("mtls-ebpf/Cargo.lock", "l"),
            ("mtls-ebpf/src/main.rs", "x"),
            ("mtls-ebpf/target/debug/junk", "j"),
            ("mtls-common/Cargo.toml", "c"),
            ("mtls-common/src/lib.rs", "y"),
        ] {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        dir
    }

    fn record() -> Record {
        Record {
            source_sha256: "s".into(),
            object_sha256: "o".into(),
            tools: Tools {
                rustc: "rustc 1".into(),
                host: "h".into(),
                llvm: "22".into(),
                rust_src_sha256: "r".into(),
                bpf_linker: "b".into(),
            },
        }
    }

    #[test]
    fn the_source_hash_changes_with_content_and_name_and_not_with_build_output() {
        let dir = tree();
        let before = source_hash(dir.path()).unwrap();
        std::fs::write(dir.path().join("mtls-ebpf/target/debug/junk"), "other").unwrap();
        assert_eq!(source_hash(dir.path()).unwrap(), before);
        std::fs::write(dir.path().join("mtls-common/src/lib.rs"), "z").unwrap();
        let content = source_hash(dir.path()).unwrap();
        assert_ne!(content, before);
        std::fs::rename(dir.path().join("mtls-common/src/lib.rs"), dir.path().join("mtls-common/src/a.rs"))
            .unwrap();
        assert_ne!(source_hash(dir.path()).unwrap(), content);
    }

    #[test]
    fn the_source_hash_is_the_same_in_another_directory() {
        assert_eq!(source_hash(tree().path()).unwrap(), source_hash(tree().path()).unwrap());
    }

    #[test]
    fn a_missing_lock_file_is_refused() {
        let dir = tree();
        std::fs::remove_file(dir.path().join("mtls-ebpf/Cargo.lock")).unwrap();
        let error = source_hash(dir.path()).unwrap_err().to_string();
        assert!(error.contains("Cargo.lock is missing"), "{error}");
    }

    #[test]
    fn verify_tells_a_changed_source_from_a_changed_object() {
        record().verify("s", "o").unwrap();
        let error = record().verify("t", "o").unwrap_err().to_string();
        assert!(
            error.contains("source is not the one") && error.contains("cargo xtask ebpf build"),
            "{error}"
        );
        let error = record().verify("s", "p").unwrap_err().to_string();
        assert!(error.contains("object is not the one"), "{error}");
    }

    #[test]
    fn a_record_survives_a_round_trip_and_junk_is_refused_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.json");
        record().write(&path).unwrap();
        assert_eq!(Record::read(&path).unwrap(), record());
        std::fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", Record::read(&path).unwrap_err());
        assert!(error.contains("cargo xtask ebpf build"), "{error}");
    }

    #[test]
    fn sha256_is_the_standard_one() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
