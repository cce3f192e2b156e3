//! mtlsd of another revision, built to be measured beside this one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{Cmd, heading};

/// What is compared.
pub const SYSTEMS: &str = "relay-userspace,base";
/// What is asked of both.
pub const WORKLOADS: &str = "requests,download,connect";

/// Where both are built: as the tests are. What is compared is the change, and optimising everything takes longer than measuring.
pub const PROFILE: &str = "debug";
/// As this revision's manifest has it: with another value the base would build all dependencies anew.
const LTO: (&str, &str) = ("CARGO_PROFILE_DEV_LTO", "off");

/// The commit that a revision names.
pub fn commit(root: &Path, revision: &str) -> Result<String> {
    let name = format!("{revision}^{{commit}}");
    let asked = Cmd::new("git").dir(root).args(["rev-parse", "--verify", "--end-of-options", &name]).read();
    match asked {
        Ok(commit) => Ok(commit.trim().to_owned()),
        Err(error) => bail!(
            "git knows no revision `{revision}` here; a shallow clone or one of a single branch lacks it, and \
             `git fetch --unshallow` or `git fetch origin BRANCH` brings it ({error:#})"
        ),
    }
}

/// Builds mtlsd of a commit; returns where the binary is. The dependencies that both have in common
/// are built once, because the target directory is the same.
pub fn build(root: &Path, target: &Path, directory: &Path, commit: &str) -> Result<PathBuf> {
    heading(&format!("building mtlsd of {commit}"));
    let checkout = Checkout::new(root, &directory.join("base-src"), commit)?;
    let built = Cmd::cargo(&checkout.path).args(["build", "--package", "mtls-daemon"]);
    built
        .env("CARGO_TARGET_DIR", target)
        .env(LTO.0, LTO.1)
        .run()
        .with_context(|| format!("mtlsd of {commit}"))?;
    let binary = directory.join("mtlsd-base");
    std::fs::copy(target.join(PROFILE).join("mtlsd"), &binary)
        .with_context(|| format!("{} cannot be written", binary.display()))?;
    Ok(binary)
}

/// A worktree that goes when it is dropped.
struct Checkout {
    root: PathBuf,
    path: PathBuf,
}

impl Checkout {
    fn new(root: &Path, path: &Path, commit: &str) -> Result<Self> {
        let made = Self { root: root.to_owned(), path: path.to_owned() };
        // What a killed run left behind.
        made.remove();
        let add = Cmd::new("git").dir(root).args(["worktree", "add", "--quiet", "--force", "--detach"]);
        add.arg(path).arg(commit).run()?;
        Ok(made)
    }

    fn remove(&self) {
        if self.path.exists() {
            let remove =
                Cmd::new("git").dir(&self.root).args(["worktree", "remove", "--force"]).arg(&self.path);
            if remove.read().is_err() {
                // Not git's any more: then it is only a directory.
                let _ = std::fs::remove_dir_all(&self.path);
            }
        }
        let _ = Cmd::new("git").dir(&self.root).args(["worktree", "prune"]).read();
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository of one commit that holds the file `a`.
    fn repository() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let git = |words: &[&str]| {
            let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
            Cmd::new("git").dir(dir.path()).args(identity).args(words).read().unwrap();
        };
        git(&["init", "-q"]);
        std::fs::write(dir.path().join("a"), "old").unwrap();
        git(&["add", "a"]);
        git(&["commit", "-q", "-m", "one"]);
        std::fs::write(dir.path().join("a"), "new").unwrap();
        dir
    }

    fn worktrees(dir: &Path) -> usize {
        Cmd::new("git").dir(dir).args(["worktree", "list"]).read().unwrap().lines().count()
    }

    #[test]
    fn a_revision_is_a_commit_or_an_error_that_says_what_to_do() {
        let dir = repository();
        assert_eq!(commit(dir.path(), "HEAD").unwrap().len(), 40);
        for absent in ["origin/main", "HEAD^", "--help"] {
            let error = commit(dir.path(), absent).unwrap_err().to_string();
            assert!(error.contains(&format!("`{absent}`")) && error.contains("git fetch"), "{error}");
        }
    }

    #[test]
    fn the_checkout_has_the_commits_files_and_goes_also_after_an_error() {
        let dir = repository();
        let path = dir.path().join("target/base");
        let head = commit(dir.path(), "HEAD").unwrap();
        let failed = (|| -> Result<()> {
            let checkout = Checkout::new(dir.path(), &path, &head)?;
            assert_eq!(std::fs::read_to_string(checkout.path.join("a"))?, "old");
            assert_eq!(worktrees(dir.path()), 2);
            bail!("the build failed")
        })();
        assert!(failed.is_err());
        assert!(!path.exists());
        assert_eq!(worktrees(dir.path()), 1);
    }

    #[test]
    fn what_a_killed_run_left_behind_is_replaced() {
        let dir = repository();
        let path = dir.path().join("base");
        let head = commit(dir.path(), "HEAD").unwrap();
        std::mem::forget(Checkout::new(dir.path(), &path, &head).unwrap());
        std::fs::write(path.join("a"), "changed").unwrap();
        let again = Checkout::new(dir.path(), &path, &head).unwrap();
        assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "old");
        drop(again);
        std::fs::create_dir(&path).unwrap();
        let after = Checkout::new(dir.path(), &path, &head).unwrap();
        assert!(after.path.join("a").is_file());
    }
}
