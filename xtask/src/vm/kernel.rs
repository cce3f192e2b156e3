//! A kernel's image and modules, unpacked below one directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::args::KernelName;
use super::sources;
use crate::run::Cmd;

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` prints in it.
    pub release: String,
    /// The compressed image.
    pub image: PathBuf,
    /// The directory that has `lib/modules/RELEASE`.
    pub base: PathBuf,
}

/// The kernel of this name, downloaded if it is not in `cache` yet.
pub fn get(name: &KernelName, cache: &Path, refresh: bool) -> Result<Kernel> {
    match name {
        KernelName::Series(series) => from_archive(series, cache, refresh),
        KernelName::Path(path) => from_path(path),
    }
}

fn from_archive(series: &str, cache: &Path, refresh: bool) -> Result<Kernel> {
    let place = cache.join("kernels").join(series);
    let parent = cache.join("kernels");
    std::fs::create_dir_all(&parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    // Two commands at once would unpack over one another.
    let lock =
        std::fs::File::create(parent.join(format!("{series}.lock"))).context("no lock file can be made")?;
    lock.lock().context("the kernel cache cannot be locked")?;
    if place.is_dir() && !refresh {
        return from_path(&place).with_context(|| format!("remove {} and try again", place.display()));
    }
    let mirrors = sources::of_this_machine(Path::new("/etc/apt"));
    // A directory for each series: apt locks its lists.
    let apt = cache.join("apt").join(series);
    let archive = Archive::new(&apt, mirrors)?;
    let (suite, choice) = archive.find(series)?;
    eprintln!("{suite} has {}", choice.release);
    let fresh = parent.join(format!("{series}.unpacking"));
    remove_dir(&fresh)?;
    for package in &choice.packages {
        let file = archive.download(package)?;
        Cmd::new("dpkg-deb").arg("-x").arg(&file).arg(&fresh).run().with_context(|| {
            format!("{} cannot be unpacked; is there room on {}?", package.name, cache.display())
        })?;
        // What is unpacked is not needed twice.
        std::fs::remove_file(&file).with_context(|| format!("{} cannot be removed", file.display()))?;
    }
    merge_usr(&fresh)?;
    Cmd::new("depmod").arg("-b").arg(&fresh).arg(&choice.release).run()?;
    remove_dir(&place)?;
    std::fs::rename(&fresh, &place).with_context(|| format!("{} cannot be put in place", place.display()))?;
    remove_dir(&apt)?;
    from_path(&place)
}

fn remove_dir(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Newer packages have usr/lib/modules; kmod looks in lib/modules.
fn merge_usr(base: &Path) -> Result<()> {
    if !base.join("lib").exists() && base.join("usr/lib").is_dir() {
        std::os::unix::fs::symlink("usr/lib", base.join("lib")).context("lib cannot be linked to usr/lib")?;
    }
    Ok(())
}

/// A kernel below a directory, or that of an image file.
fn from_path(path: &Path) -> Result<Kernel> {
    let path = path.canonicalize().with_context(|| format!("there is no kernel at {}", path.display()))?;
    let (base, image) = if path.is_dir() { (path, None) } else { (base_of(&path)?, Some(path)) };
    let mut found: Vec<Kernel> = Vec::new();
    let modules = base.join("lib/modules");
    let entries = std::fs::read_dir(&modules)
        .with_context(|| format!("{} has the kernel's modules, and cannot be read", modules.display()))?;
    for entry in entries.flatten() {
        let Ok(release) = entry.file_name().into_string() else { continue };
        let images = [
            base.join("boot").join(format!("vmlinuz-{release}")),
            base.join(format!("vmlinuz-{release}")),
            entry.path().join("vmlinuz"),
            base.join("vmlinuz"),
            base.join("bzImage"),
        ];
        let same = |file: &Path| image.is_none() || file.canonicalize().ok() == image;
        if let Some(image) = images.into_iter().find(|file| file.is_file() && same(file)) {
            found.push(Kernel { release, image, base: base.clone() });
        }
    }
    found.sort_by(|a, b| a.release.cmp(&b.release));
    match found.as_slice() {
        [kernel] if kernel.base.join("lib/modules").join(&kernel.release).join("modules.dep").is_file() => {
            Ok(kernel.clone())
        }
        [kernel] => bail!(
            "{} has no list of its modules; run `depmod -b {} {}`",
            kernel.release,
            base.display(),
            kernel.release
        ),
        [] => bail!(
            "no kernel image belongs to the modules in {}: it should be {}/boot/vmlinuz-RELEASE, or vmlinuz beside the \
             modules",
            modules.display(),
            base.display()
        ),
        [..] => {
            let names: Vec<_> = found.iter().map(|kernel| kernel.image.display().to_string()).collect();
            bail!("there are several kernels; name one image: {}", names.join(", "))
        }
    }
}

/// The directory that holds `lib/modules`, for an image in its usual places.
fn base_of(image: &Path) -> Result<PathBuf> {
    let up = image.ancestors().skip(1).take(6);
    match up.into_iter().find(|dir| dir.join("lib/modules").is_dir()) {
        Some(base) => Ok(base.to_owned()),
        None => bail!(
            "{} has no lib/modules in the directories above it; install the kernel's modules there \
             (`make modules_install INSTALL_MOD_PATH=DIR`)",
            image.display()
        ),
    }
}

impl Kernel {
    /// The files of modules and of those they need, in loading order. What is built in needs no file.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in names {
            let text = Cmd::new("modprobe")
                .arg("-d")
                .arg(&self.base)
                .args(["-S", &self.release, "--show-depends", name])
                .read()
                .with_context(|| format!("kernel {} cannot be used: no module {name}", self.release))?;
            for file in show_depends(&text) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

/// The files of `modprobe --show-depends`: lines of `insmod FILE [parameters]` and `builtin NAME`.
fn show_depends(text: &str) -> Vec<PathBuf> {
    let file = |line: &str| Some(PathBuf::from(line.strip_prefix("insmod ")?.split(' ').next()?));
    text.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(base: &Path, file: &str) {
        let path = base.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }

    fn error(path: &Path) -> String {
        format!("{:#}", from_path(path).unwrap_err())
    }

    #[test]
    fn modules_come_in_loading_order() {
        let text = "insmod /m/a/netfs.ko.xz \ninsmod /m/9pnet.ko.xz x=1\nbuiltin virtio_pci\n";
        assert_eq!(show_depends(text), [PathBuf::from("/m/a/netfs.ko.xz"), PathBuf::from("/m/9pnet.ko.xz")]);
    }

    #[test]
    fn a_kernel_is_found_by_directory_and_by_image() {
        for image in ["boot/vmlinuz-6.1.0-50-amd64", "usr/lib/modules/6.1.0-50-amd64/vmlinuz", "bzImage"] {
            let dir = tempfile::tempdir().unwrap();
            let base = dir.path().canonicalize().unwrap();
            touch(&base, "usr/lib/modules/6.1.0-50-amd64/modules.dep");
            touch(&base, image);
            merge_usr(&base).unwrap();
            let kernel = from_path(&base).unwrap();
            assert_eq!(kernel.release, "6.1.0-50-amd64");
            assert_eq!(kernel.base, base);
            assert_eq!(kernel.image.canonicalize().unwrap(), base.join(image));
            assert_eq!(from_path(&base.join(image)).unwrap().release, "6.1.0-50-amd64", "{image}");
        }
    }

    #[test]
    fn one_of_several_is_chosen_by_its_image() {
        let dir = tempfile::tempdir().unwrap();
        for release in ["6.1", "6.12"] {
            touch(dir.path(), &format!("lib/modules/{release}/modules.dep"));
            touch(dir.path(), &format!("boot/vmlinuz-{release}"));
        }
        assert!(error(dir.path()).contains("several kernels"), "{}", error(dir.path()));
        assert_eq!(from_path(&dir.path().join("boot/vmlinuz-6.1")).unwrap().release, "6.1");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(error(&dir.path().join("absent")).contains("there is no kernel at"));
        touch(dir.path(), "boot/vmlinuz-6.1");
        assert!(error(dir.path()).contains("has the kernel's modules"));
        std::fs::create_dir_all(dir.path().join("lib/modules/6.1")).unwrap();
        assert!(error(dir.path()).contains("run `depmod -b"));
        std::fs::remove_file(dir.path().join("boot/vmlinuz-6.1")).unwrap();
        assert!(error(dir.path()).contains("no kernel image belongs"));
    }
}
