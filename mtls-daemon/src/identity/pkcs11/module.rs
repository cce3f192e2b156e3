//! Loading a module: who may, from where, and how often.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::error::{Pkcs11Error, reason};

/// Write permission of group and others.
const OTHERS_MAY_WRITE: u32 = 0o022;
/// In such a directory nobody but the owner replaces a file.
const STICKY: u32 = 0o1000;

/// Linked statically, as the program of the container image: the C library of such a program loads nothing.
const STATIC: bool = cfg!(target_feature = "crt-static");

/// What is loaded, by real path. PKCS #11 itself has one state per process (v2.40 section 5.4, C_Initialize).
static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

/// Loads and initialises the module, or gives the one that is loaded already.
pub(super) fn load(path: &Path) -> Result<Pkcs11, Pkcs11Error> {
    let unusable = |reason: String| Pkcs11Error::Module { path: path.to_owned(), reason };
    loadable(path, STATIC)?;
    let real = checked(path)?;
    // Held over C_Initialize, which must not run twice.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(&real) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(&real).map_err(|error| match error {
        Error::MissingSymbol(symbol) => unusable(format!("it is a library without {symbol}")),
        error => unusable(reason(&error)),
    })?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // Already: the same library under another name.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(unusable(reason(&error))),
    }
    tracing::info!(path = %real.display(), "PKCS #11 module loaded");
    loaded.insert(real, module.clone());
    Ok(module)
}

fn loadable(path: &Path, is_static: bool) -> Result<(), Pkcs11Error> {
    if is_static { Err(Pkcs11Error::NoLoader { path: path.to_owned() }) } else { Ok(()) }
}

/// The real path, if only root can change what is there.
fn checked(path: &Path) -> Result<PathBuf, Pkcs11Error> {
    let unusable =
        |error: std::io::Error| Pkcs11Error::Module { path: path.to_owned(), reason: error.to_string() };
    if !path.is_absolute() {
        return Err(unusable(std::io::Error::other("the path is not absolute")));
    }
    let real = path.canonicalize().map_err(unusable)?;
    if !fs::metadata(&real).map_err(unusable)?.is_file() {
        return Err(unusable(std::io::Error::other("it is not a regular file")));
    }
    for place in real.ancestors() {
        let metadata = fs::metadata(place).map_err(unusable)?;
        let too_open = |reason: String| Pkcs11Error::ModuleTooOpen {
            path: path.to_owned(),
            place: place.to_owned(),
            reason,
        };
        if metadata.uid() != 0 {
            return Err(too_open(format!("belongs to user {}", metadata.uid())));
        }
        let mode = metadata.mode() & 0o7777;
        let replaceable = !metadata.is_dir() || mode & STICKY == 0;
        if mode & OTHERS_MAY_WRITE != 0 && replaceable {
            return Err(too_open(format!("has mode {mode:04o}, so that others than root may write to it")));
        }
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(path: &Path) -> String {
        load(path).unwrap_err().to_string()
    }

    fn library(directory: &Path, mode: u32) -> PathBuf {
        let path = directory.join("module.so");
        fs::write(&path, b"not a library").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_static_program_says_that_it_loads_nothing() {
        let path = Path::new("/usr/lib/module.so");
        let said = loadable(path, true).unwrap_err().to_string();
        assert!(said.contains("/usr/lib/module.so") && said.contains("the Debian package"), "{said}");
        assert_eq!(loadable(path, false), Ok(()));
    }

    #[test]
    fn a_module_that_is_absent_or_no_library_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let absent = refused(&directory.path().join("absent.so"));
        assert!(absent.contains("absent.so cannot be used: No such file"), "{absent}");
        let text = refused(&library(directory.path(), 0o644));
        assert!(text.contains("module.so cannot be used") && text.contains("`module` names"), "{text}");
        assert!(refused(directory.path()).contains("not a regular file"));
        assert!(refused(Path::new("module.so")).contains("not absolute"));
    }

    #[test]
    fn a_library_that_is_no_pkcs11_module_is_refused() {
        let library = fs::read_to_string("/proc/self/maps").unwrap();
        let libc =
            library.lines().find_map(|line| line.split(' ').next_back().filter(|p| p.ends_with("libc.so.6")));
        let error = refused(Path::new(libc.unwrap()));
        assert!(error.contains("it is a library without C_GetFunctionList"), "{error}");
    }

    #[test]
    fn a_module_that_others_than_root_can_replace_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let error = refused(&library(directory.path(), 0o664));
        assert!(error.contains("module.so has mode 0664"), "{error}");
        let path = library(directory.path(), 0o644);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = refused(&path);
        assert!(error.contains("has mode 0777, so that others than root"), "{error}");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        let error = refused(&path);
        assert!(error.contains("module.so belongs to user 65534"), "{error}");
    }

    #[test]
    fn a_symlink_is_judged_by_where_it_leads() {
        let (safe, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = safe.path().join("link.so");
        std::os::unix::fs::symlink(library(open.path(), 0o666), &link).unwrap();
        assert!(refused(&link).contains("has mode 0666"));
    }
}
