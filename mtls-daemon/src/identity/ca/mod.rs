//! The embedded CA: a root and an intermediate in a directory, for demos, tests and small sites.
//!
//! The root's key is read only to sign an intermediate and is not kept in memory; it may be kept elsewhere. The
//! intermediate is renewed at half of its life with its old key, so that one rename replaces it and a crash cannot
//! leave a pair that does not match. While roots change there are two CAs: both are believed, one issues.

pub mod admin;
mod authority;
mod directory;
mod error;
mod key;
pub mod log;
pub mod revoke;
mod sign;
pub mod site;
mod state;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use self::authority::INTERMEDIATE_WARNING;
use self::authority::{Authority, Intermediate};
use self::directory::Directory;
pub use self::error::{CaError, ImportError};
pub use self::key::NewKey;
use self::log::{Entry, IssuanceLog, Kind};
pub use self::sign::Order;
use self::state::State;
pub use self::state::{CaCertificate, CaStatus, CertificateKind, Phase, ROOT_WARNING};
use super::key::SecretKey;
use super::pkcs11::TokenKeySettings;
use super::{Bundle, TrustDomain, X509Svid, when};

/// Life of the root.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// Life of the intermediate.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How far `notBefore` lies in the past, for peers whose clock is behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// How often a running daemon repeats that something about its CA must be done.
const REMIND: Duration = Duration::from_secs(86_400);

/// Where the embedded CA lives and what it issues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedCaSettings {
    /// Directory of the root and the intermediate; created when it does not exist.
    pub directory: PathBuf,
    /// Life of a workload's certificate.
    pub lifetime: Duration,
    /// The trust domain that it issues for.
    pub trust_domain: TrustDomain,
    /// Where the intermediate's key is made if there is no CA yet; `None`: in a file. What the directory says of a CA that
    /// is there counts more.
    pub key: Option<TokenKeySettings>,
}

/// A certificate chain and its key as files hold them.
pub struct IssuedPem {
    /// The leaf, then the intermediate.
    pub chain: String,
    /// The key in PKCS #8; wiped when dropped.
    pub key: Zeroizing<String>,
    /// The leaf's line in the issuance log.
    pub entry: Entry,
}

impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPem").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// A CA that issues for the workloads of this node. What an administrator does to its directory is seen at the next
/// use.
pub struct EmbeddedCa {
    settings: EmbeddedCaSettings,
    log: IssuanceLog,
    state: ArcSwap<State>,
    care: Mutex<Care>,
}

#[derive(Default)]
struct Care {
    /// Why the directory could not be read again.
    problem: Option<String>,
    reminded: Option<SystemTime>,
}

impl EmbeddedCa {
    /// Opens the CA in the directory, and makes it on first use. Two daemons may do this at the same time.
    ///
    /// # Errors
    /// When the directory cannot be used, or holds something else than a whole CA of this trust domain.
    pub fn open(settings: EmbeddedCaSettings, now: SystemTime) -> Result<Self, CaError> {
        Self::open_or_make(settings, None, now)
    }

    /// Makes a CA whose root's key is written to `root` only.
    ///
    /// # Errors
    /// As [`Self::open`], and when `root` holds a root already.
    pub fn init_offline(settings: EmbeddedCaSettings, root: &Path, now: SystemTime) -> Result<Self, CaError> {
        let home = admin::empty_home(root, &settings.directory)?;
        Self::open_or_make(settings, Some(home), now)
    }

    fn open_or_make(
        settings: EmbeddedCaSettings,
        root: Option<Directory>,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        if let Some(key) = &settings.key
            && !Directory::at(&settings.directory).has_certificate()?
            && Directory::at(&settings.directory).requested()?.is_none()
        {
            // Before anything is written: a token that cannot be used leaves nothing behind.
            drop(key::find_or_make(key)?);
        }
        let directory = Directory::open(&settings.directory)?;
        let log = IssuanceLog::new(&settings.directory);
        let lock = directory.lock()?;
        directory.complete_rotation()?;
        if directory.begin(root.is_some())? {
            let token = settings.key.as_ref();
            authority::create(&directory, root.as_ref(), token, &settings.trust_domain, &log, now)?;
            directory.finish()?;
        }
        let state = State::load(&directory, &settings.trust_domain, &log, now)?;
        drop(lock);
        let ca = Self { settings, log, state: ArcSwap::from_pointee(state), care: Mutex::default() };
        ca.remind(&ca.state.load(), now);
        Ok(ca)
    }

    /// Does issuing need a token, which may be far away and may hang?
    #[must_use]
    pub fn signs_in_token(&self) -> bool {
        self.state.load().issuing.token.is_some()
    }

    /// The trust domain that it issues for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// The roots that peers must believe: one, or two while they change.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        self.state(SystemTime::now()).bundle.clone()
    }

    /// Life of the certificates it issues.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.settings.lifetime
    }

    /// The directory of the CA.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// Files whose change means that it issues otherwise, or that its bundle is another. With the PIN's: one that was
    /// refused is tried again as soon as there is another.
    #[must_use]
    pub fn watch_paths(&self) -> Vec<PathBuf> {
        let mut paths = Directory::at(&self.settings.directory).watched();
        paths.extend(self.state.load().issuing.token.as_ref().map(|key| key.token.pin_file.clone()));
        paths
    }

    /// The root certificate under which it issues.
    #[must_use]
    pub fn root(&self) -> CertificateDer<'static> {
        self.state(SystemTime::now()).issuing.root.clone()
    }

    /// For status pages, with what must be done about it.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> CaStatus {
        let state = self.state(now);
        let problem = lock(&self.care).problem.clone();
        state.status(&self.settings.directory, self.settings.key.as_ref(), problem, now)
    }

    /// Issues a certificate for a fresh key that exists only in memory.
    ///
    /// # Errors
    /// When it may not be issued, the intermediate has expired, or the issuance log cannot be written.
    pub fn issue(&self, order: &Order<'_>, now: SystemTime) -> Result<X509Svid, CaError> {
        let (leaf, key, intermediate, _) = self.sign(order, false, now)?;
        let chain = std::iter::once(leaf).chain(intermediate.chain().cloned()).collect();
        Ok(X509Svid::from_der(chain, &key.der(), now)?)
    }

    /// Issues a certificate with its key as PEM, for `mtlsd ca issue`.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_pem(&self, order: &Order<'_>, now: SystemTime) -> Result<IssuedPem, CaError> {
        let (leaf, key, intermediate, entry) = self.sign(order, true, now)?;
        let chain =
            std::iter::once(&leaf).chain(intermediate.chain()).map(|der| directory::pem(der)).collect();
        Ok(IssuedPem { chain, key: Zeroizing::new(key.pair().serialize_pem()), entry })
    }

    /// Signs and writes the line of the log: nobody gets the certificate without it.
    fn sign(
        &self,
        order: &Order<'_>,
        durable: bool,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SecretKey, Arc<Intermediate>, Entry), CaError> {
        if order.id.trust_domain() != self.trust_domain() || order.id.path().is_empty() {
            return Err(CaError::ForeignId { id: order.id.clone(), domain: self.trust_domain().clone() });
        }
        let state = self.state(now);
        let (issuing, last) = (&state.issuing, state.issuing.first_end.not_after);
        let intermediate = Arc::clone(&issuing.intermediate);
        if now > last {
            return Err(self.expired(issuing, now));
        }
        let home = Directory::at(&self.settings.directory).issuing(state.phase);
        issuing.prove(&home, self.trust_domain(), now)?;
        let end = now.checked_add(self.settings.lifetime).unwrap_or(last);
        let (leaf, key) = sign::leaf(&intermediate.issuer()?, order, now, end.min(last))
            .map_err(|error| key::explained(&intermediate.key, error))?;
        let entry = Entry::of(Kind::Leaf, &leaf, order.id.as_str(), order.requested_by, now)?;
        self.log.append(&entry, durable, now)?;
        Ok((leaf, key, intermediate, entry))
    }

    fn expired(&self, issuing: &Authority, now: SystemTime) -> CaError {
        let directory = self.settings.directory.clone();
        let path = directory.join(directory::INTERMEDIATE_CRT);
        let when = when::expired(issuing.first_end.not_after, now);
        match issuing.of_site {
            true => CaError::SiteExpired { path, name: issuing.first_end.name.clone(), directory, when },
            false => CaError::IntermediateExpired { path, directory, when },
        }
    }

    /// What is in force, read again if the directory has changed or the intermediate is to be renewed.
    fn state(&self, now: SystemTime) -> Arc<State> {
        let current = self.state.load_full();
        let state = if current.is_due(now) || current.changed(&self.settings.directory) {
            self.reload(&current, now)
        } else {
            current
        };
        self.remind(&state, now);
        state
    }

    fn reload(&self, seen: &Arc<State>, now: SystemTime) -> Arc<State> {
        let mut care = lock(&self.care);
        let current = self.state.load_full();
        if !Arc::ptr_eq(&current, seen) {
            return current;
        }
        match self.read_again(&current, now) {
            Ok(state) => {
                let state = Arc::new(state);
                self.state.store(Arc::clone(&state));
                care.problem = None;
                state
            }
            Err(error) => {
                // The old one still signs until it expires; the next use tries again.
                let error = error.to_string();
                if care.problem.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the CA cannot be read again; what was read before stays in force");
                }
                care.problem = Some(error);
                current
            }
        }
    }

    fn read_again(&self, current: &State, now: SystemTime) -> Result<State, CaError> {
        let directory = Directory::open(&self.settings.directory)?;
        let _lock = directory.lock()?;
        directory.complete_rotation()?;
        let mut state = State::load(&directory, &self.settings.trust_domain, &self.log, now)?;
        if state.phase != current.phase {
            tracing::info!(from = %current.phase, to = %state.phase, "the roots of the CA are changing");
        }
        if state.bundle == current.bundle {
            // Remembers which chains were verified.
            state.bundle = current.bundle.clone();
        }
        Ok(state)
    }

    /// Says once a day what must be done.
    fn remind(&self, state: &State, now: SystemTime) {
        let alarms = state.alarms(&self.settings.directory, self.settings.key.as_ref(), now);
        if alarms.is_empty() {
            return;
        }
        let mut care = lock(&self.care);
        if care.reminded.is_none_or(|last| when::between(last, now) >= REMIND) {
            care.reminded = Some(now);
            drop(care);
            for alarm in alarms {
                tracing::warn!("{alarm}");
            }
        }
    }
}

impl fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCa").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What these locks guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn crypto(action: &'static str) -> impl Fn(rcgen::Error) -> CaError {
    move |error| CaError::Crypto { action, reason: error.to_string() }
}

#[cfg(test)]
pub(super) mod tests;
