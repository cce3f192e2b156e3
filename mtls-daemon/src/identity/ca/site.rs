//! An intermediate that a PKI elsewhere signs: `mtlsd ca csr` and `mtlsd ca import`.
//!
//! The key is made here, in a file or in a token, and waits in the directory `requested`. What comes back is checked
//! whole before anything is replaced; it becomes the CA, or the second CA of a rotation. A renewal keeps key and name, so
//! that one rename puts it in force.

mod check;
pub(super) mod name;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use self::check::Chain;
use super::admin::{CaDirectory, by};
use super::directory::{Directory, INTERMEDIATE_CRT, ROOT_CRT};
use super::key::{self, NewKey};
use super::log::IssuanceLog;
use super::sign::ProbeRefused;
use super::{CaError, ImportError, Phase, authority, sign};
use crate::identity::key::OwnKey;
use crate::identity::leaf::show;
use crate::identity::svid::MAX_OWN_CHAIN;
use crate::identity::{Bundle, TrustDomain};

/// In the directory of a request.
const CSR: &str = "intermediate.csr";
/// Largest file that is imported, in bytes.
const MAX_FILE: u64 = 65_536;

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    /// As PEM (RFC 2986, RFC 7468).
    pub pem: String,
    /// Where it is kept; that of a renewal is not.
    pub kept: Option<PathBuf>,
    /// For which trust domain.
    pub trust_domain: TrustDomain,
}

/// What an import has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// There is a CA now.
    First,
    /// There is a second CA: a rotation has begun.
    Second,
    /// The intermediate is another one, for the same key.
    Renewed,
}

/// A chain and its root, as files.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The intermediate, then those above it; the root may be there too.
    pub chain: &'a Path,
    /// The root; may be left out for a renewal.
    pub root: Option<&'a Path>,
}

/// Makes a key and the request for its certificate. The trust domain is that of the CA, if there is one.
///
/// # Errors
/// When one waits already, the token cannot be used, or the directory cannot be written.
pub fn request(
    path: &Path,
    trust_domain: Option<&TrustDomain>,
    new: &NewKey,
    now: SystemTime,
) -> Result<Csr, CaError> {
    let exists = Directory::at(path).has_certificate()?;
    let domain = match (exists, trust_domain) {
        (true, None) => CaDirectory::open(path)?.trust_domain,
        (true, Some(wanted)) => {
            let found = CaDirectory::open(path)?.trust_domain;
            if found != *wanted {
                let (directory, wanted) = (path.to_owned(), wanted.clone());
                return Err(CaError::OtherTrustDomain { directory, found, wanted });
            }
            found
        }
        (false, Some(wanted)) => wanted.clone(),
        (false, None) => return Err(CaError::NoTrustDomain(path.to_owned())),
    };
    if let NewKey::Token(settings) = new {
        // Before anything is written: a token that cannot be used leaves nothing behind.
        drop(key::find_or_make(settings)?);
    }
    let directory = Directory::open(path)?;
    let _lock = directory.lock()?;
    if let Some(waiting) = directory.requested()? {
        let csr = waiting.path(CSR);
        return Err(CaError::AlreadyRequested { csr, directory: waiting.root().to_owned() });
    }
    let token = key::resolve(new, &directory.issuing(directory.phase()?))?;
    let pem = directory.add_request(|aside| {
        let key = key::make(aside, token.as_ref())?;
        let pem = sign::request(&domain, None, &key, now)?;
        aside.set_site_domain(&domain)?;
        aside.write_private(CSR, pem.as_bytes())?;
        Ok(pem)
    })?;
    let kept = directory.requested()?.map(|waiting| waiting.path(CSR));
    Ok(Csr { pem, kept, trust_domain: domain })
}

/// The request for another certificate of the key in force.
///
/// # Errors
/// When there is no CA, it is not of a PKI elsewhere, or its key cannot be used.
pub fn request_renewal(path: &Path, now: SystemTime) -> Result<Csr, CaError> {
    let ca = CaDirectory::open(path)?;
    let (directory, _lock) = ca.lock()?;
    let issuing = directory.issuing(directory.phase()?);
    if !issuing.is_of_site()? {
        return Err(CaError::NotOfSite(path.to_owned()));
    }
    let (intermediate, _) = issuing.intermediate()?;
    let key = key::of(&issuing, &intermediate)?;
    let pem = sign::request(&ca.trust_domain, Some(&intermediate), &key, now)?;
    Ok(Csr { pem, kept: None, trust_domain: ca.trust_domain })
}

/// Checks what a PKI elsewhere has signed and puts it in force: as the CA, as the second CA of a rotation, or as the
/// renewed intermediate, whichever key it is for.
///
/// # Errors
/// When something about the chain would not work, and then nothing has changed.
pub fn import(path: &Path, answer: &Answer<'_>, now: SystemTime) -> Result<Imported, CaError> {
    if !path.exists() {
        return Err(CaError::NothingRequested(path.to_owned()));
    }
    let directory = Directory::open(path)?;
    let _lock = directory.lock()?;
    directory.complete_rotation()?;
    let mut chain = read(answer.chain)?;
    let root = answer.root.map(read_root).transpose()?;
    let first = chain.first().cloned().ok_or_else(|| file(answer.chain, "it holds no certificate"))?;

    if let Some(waiting) = directory.requested()? {
        let key = key::without_certificate(&waiting)?;
        if key::fits(&key, &first) {
            let root = root.ok_or(ImportError::NoRoot)?;
            let domain = domain_of(&waiting)?;
            chain.retain(|der| *der != root);
            let checked = check::chain(&chain, &root, &domain, now)?;
            return begin(&directory, &waiting, &checked, &key, &domain, now);
        }
    }
    for home in in_force(&directory)? {
        let (old, _) = home.intermediate()?;
        let key = key::of(&home, &old)?;
        if home.is_of_site()? && key::fits(&key, &first) {
            let known = home.root_certificate()?;
            if let (Some(root), Some(path)) = (root, answer.root)
                && root != known
            {
                return Err(ImportError::OtherRoot(path.to_owned()).into());
            }
            let domain = domain_of(&home)?;
            chain.retain(|der| *der != known);
            let checked = check::chain(&chain, &known, &domain, now)?;
            checked.keeps_the_name_of(&old)?;
            proved(&checked, &key, &domain, now)?;
            let log = IssuanceLog::new(path);
            authority::note(&first, &domain, &log, &by("import"), now)?;
            home.write_chain(INTERMEDIATE_CRT, checked.certificates)?;
            return Ok(Imported::Renewed);
        }
    }
    let wanted = match directory.requested()? {
        Some(waiting) => format!("that of {}", waiting.path(CSR).display()),
        None => "any of this CA's that a PKI elsewhere signs, and no request waits".to_owned(),
    };
    Err(ImportError::OtherKey { path: answer.chain.to_owned(), wanted }.into())
}

/// The key that waited becomes a CA.
fn begin(
    directory: &Directory,
    waiting: &Directory,
    checked: &Chain<'_>,
    key: &OwnKey,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<Imported, CaError> {
    let second = directory.has_certificate()?;
    if second {
        let found = directory.phase()?;
        if found != Phase::Steady {
            let directory = directory.root().to_owned();
            return Err(CaError::Phase { directory, found, wanted: Phase::Steady });
        }
        checked.has_another_name_than(&directory.intermediate()?.0)?;
    }
    proved(checked, key, domain, now)?;
    let log = IssuanceLog::new(directory.root());
    if let Some(intermediate) = checked.certificates.first() {
        authority::note(intermediate, domain, &log, &by("import"), now)?;
    }
    waiting.write_certificate(ROOT_CRT, checked.root)?;
    waiting.write_chain(INTERMEDIATE_CRT, checked.certificates)?;
    directory.take_request()?;
    Ok(if second { Imported::Second } else { Imported::First })
}

/// What no rule has found: a leaf is signed and verified up to the root.
fn proved(checked: &Chain<'_>, key: &OwnKey, domain: &TrustDomain, now: SystemTime) -> Result<(), CaError> {
    if let OwnKey::Token(key) = key {
        key.prove()?;
    }
    let bundle = Bundle::from_der(vec![checked.root.clone()])?;
    sign::check_chain(checked.certificates, key, &bundle, domain, now).map_err(|refused| match refused {
        ProbeRefused::Unsigned(error) => key::explained(key, error),
        ProbeRefused::Refused(reason) => ImportError::Refused(reason).into(),
    })
}

/// The CA that issues, and the second one of a rotation.
fn in_force(directory: &Directory) -> Result<Vec<Directory>, CaError> {
    let mut homes = Vec::new();
    if directory.has_certificate()? {
        homes.push(Directory::at(directory.root()));
        if directory.phase()? != Phase::Steady {
            homes.push(directory.next());
        }
    }
    Ok(homes)
}

fn domain_of(home: &Directory) -> Result<TrustDomain, CaError> {
    home.site_domain()?.ok_or_else(|| CaError::Missing(home.path(super::directory::TRUST_DOMAIN)))
}

fn read_root(path: &Path) -> Result<CertificateDer<'static>, CaError> {
    match read(path)?.as_slice() {
        [root] => Ok(root.clone()),
        several => Err(file(path, &format!("it holds {} certificates, and one is the root", several.len()))),
    }
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    use std::io::Read;

    let io = |source| CaError::Io { action: "read", path: path.to_owned(), source };
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|input| input.take(MAX_FILE + 1).read_to_end(&mut content))
        .map_err(io)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(file(path, &format!("it is larger than {MAX_FILE} bytes")));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let all = all.map_err(|error| file(path, &show(&error.to_string())))?;
    match all.len() {
        0 => Err(file(path, "it holds no certificate")),
        // With the leaf before it and without the root it is what peers are sent.
        count if count > MAX_OWN_CHAIN => Err(file(path, &format!("it holds {count} certificates"))),
        _ => Ok(all),
    }
}

fn file(path: &Path, reason: &str) -> CaError {
    ImportError::File { path: path.to_owned(), reason: reason.to_owned() }.into()
}
