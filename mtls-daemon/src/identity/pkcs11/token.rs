//! A token: found by its label, logged in to, and used through a few sessions at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;

use super::error::{Pkcs11Error, is_lost, reason};
use super::{module, pin};
use crate::identity::leaf::show;

/// Most sessions with one token, so most threads that wait for its answers.
pub const MAX_SESSIONS: usize = 8;
/// The most that a free session is waited for.
pub const SESSION_WAIT: Duration = Duration::from_secs(5);
/// Most labels of other tokens in a message.
const MAX_LISTED: usize = 8;

/// Which token, and how to get in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenSettings {
    /// The module, an absolute path to a shared library.
    pub module: PathBuf,
    /// The token's label (`CKA_LABEL` of C_GetTokenInfo, without the padding).
    pub token: String,
    /// The file that holds the user's PIN.
    pub pin_file: PathBuf,
}

/// Tokens by settings: which PIN was refused must outlast a reload of the configuration.
static TOKENS: Mutex<BTreeMap<TokenSettings, Arc<Token>>> = Mutex::new(BTreeMap::new());

/// One token. Nothing is loaded or opened before the first use.
pub struct Token {
    settings: TokenSettings,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// The PIN file whose PIN was refused, and how. Held during a login: two threads must not try one wrong PIN each.
    refused: Mutex<Option<(pin::Stamp, String)>>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Open>,
    /// How many are in use.
    out: usize,
    /// Counts how often all sessions were found lost.
    epoch: u64,
}

/// A session that is logged in.
pub(super) struct Open {
    pub(super) session: Session,
    private_keys: HashMap<String, ObjectHandle>,
    epoch: u64,
}

/// Why a step on a session failed.
pub(super) enum Failure {
    /// The module says no.
    Module(Error),
    /// We say no.
    Ours(Pkcs11Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<Pkcs11Error> for Failure {
    fn from(error: Pkcs11Error) -> Self {
        Self::Ours(error)
    }
}

impl Token {
    /// The token with these settings; the same one for equal settings.
    #[must_use]
    pub fn new(settings: TokenSettings) -> Arc<Self> {
        let mut tokens = lock(&TOKENS);
        let token = tokens.entry(settings).or_insert_with_key(|settings| {
            Arc::new(Self {
                settings: settings.clone(),
                pool: Mutex::default(),
                returned: Condvar::new(),
                refused: Mutex::default(),
            })
        });
        Arc::clone(token)
    }

    /// As configured.
    #[must_use]
    pub fn settings(&self) -> &TokenSettings {
        &self.settings
    }

    /// The label.
    pub(super) fn label(&self) -> String {
        self.settings.token.clone()
    }

    /// Runs `step` on a session, and once more on a new one if the first turns out to be lost.
    pub(super) fn with<T>(
        &self,
        action: &'static str,
        step: impl Fn(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, Pkcs11Error> {
        let first = match self.attempt(&step) {
            Err(Failure::Module(error)) if is_lost(&error) => error,
            other => return other.map_err(|failure| self.explain(action, failure)),
        };
        tracing::info!(token = %self.settings.token, reason = reason(&first), "a session with the token was lost; opening another");
        match self.attempt(&step) {
            Err(Failure::Module(error)) if is_lost(&error) => {
                Err(Pkcs11Error::Lost { token: self.label(), action, reason: reason(&error) })
            }
            other => other.map_err(|failure| self.explain(action, failure)),
        }
    }

    /// Runs `step` on a new session that may write, outside of the pool.
    pub(super) fn with_writer<T>(
        &self,
        action: &'static str,
        step: impl FnOnce(&Session) -> Result<T, Failure>,
    ) -> Result<T, Pkcs11Error> {
        self.connect(true, 0)
            .and_then(|open| step(&open.session))
            .map_err(|failure| self.explain(action, failure))
    }

    fn explain(&self, action: &'static str, failure: Failure) -> Pkcs11Error {
        match failure {
            Failure::Ours(error) => error,
            Failure::Module(error) => {
                Pkcs11Error::Call { token: self.label(), action, reason: reason(&error) }
            }
        }
    }

    fn attempt<T>(&self, step: impl Fn(&mut Open) -> Result<T, Failure>) -> Result<T, Failure> {
        let (place, idle) = self.take()?;
        let mut open = match idle {
            Some(open) => open,
            None => self.connect(false, place.epoch)?,
        };
        let result = step(&mut open);
        match &result {
            Ok(_) => place.put_back(open),
            Err(Failure::Module(error)) if is_lost(error) => self.forget(open.epoch),
            // Closed: an operation may still be under way in it.
            Err(_) => {}
        }
        result
    }

    /// A free place, and a session if one is idle.
    fn take(&self) -> Result<(Place<'_>, Option<Open>), Pkcs11Error> {
        let full = |pool: &mut Pool| pool.out >= MAX_SESSIONS;
        let (mut pool, waited) = self
            .returned
            .wait_timeout_while(lock(&self.pool), SESSION_WAIT, full)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Pkcs11Error::Busy {
                token: self.label(),
                sessions: MAX_SESSIONS,
                waited: SESSION_WAIT,
            });
        }
        pool.out += 1;
        let place = Place { token: self, epoch: pool.epoch };
        Ok((place, pool.idle.pop()))
    }

    /// How many sessions are idle, and how many in use.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> (usize, usize) {
        let pool = lock(&self.pool);
        (pool.idle.len(), pool.out)
    }

    /// Every session of this epoch is lost.
    fn forget(&self, epoch: u64) {
        let mut pool = lock(&self.pool);
        if pool.epoch == epoch {
            pool.epoch = pool.epoch.wrapping_add(1);
            let lost = std::mem::take(&mut pool.idle);
            // Closing them asks the module, which may take long.
            drop(pool);
            drop(lost);
        }
    }

    fn connect(&self, write: bool, epoch: u64) -> Result<Open, Failure> {
        let module = module::load(&self.settings.module)?;
        let slot = self.slot(&module)?;
        let session = if write { module.open_rw_session(slot)? } else { module.open_ro_session(slot)? };
        self.log_in(&module, slot, &session)?;
        Ok(Open { session, private_keys: HashMap::new(), epoch })
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, Failure> {
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for slot in module.get_slots_with_token()? {
            // Another token that does not answer is none of our business.
            let Ok(token) = module.get_token_info(slot) else { continue };
            if !token.token_initialized() {
                continue;
            }
            if token.label() == self.settings.token {
                found.push(slot)
            } else {
                others.push(show(token.label()))
            }
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => {
                others.truncate(MAX_LISTED);
                let there = match others.as_slice() {
                    [] => "it has none at all".to_owned(),
                    others => format!("it has {}", others.join(", ")),
                };
                let module = self.settings.module.clone();
                Err(Pkcs11Error::TokenAbsent { token: self.label(), module, there }.into())
            }
            several => Err(Pkcs11Error::SeveralTokens {
                token: self.label(),
                module: self.settings.module.clone(),
                count: several.len(),
            }
            .into()),
        }
    }

    /// Logs in, which counts for all sessions with the token; never with a PIN that was refused before.
    fn log_in(&self, module: &Pkcs11, slot: Slot, session: &Session) -> Result<(), Failure> {
        let mut refused = lock(&self.refused);
        let state = session.get_session_info()?.session_state();
        if matches!(state, SessionState::RoUser | SessionState::RwUser) {
            return Ok(());
        }
        let token = module.get_token_info(slot)?;
        if !token.login_required() {
            return Ok(());
        }
        let pin = pin::read(&self.settings.pin_file)?;
        let path = self.settings.pin_file.clone();
        if let Some((stamp, reason)) = &*refused
            && *stamp == pin.stamp
        {
            return Err(Pkcs11Error::PinRefused { token: self.label(), path, reason: reason.clone() }.into());
        }
        may_try(self.label(), token.user_pin_locked(), token.user_pin_final_try())?;
        match session.login_with_raw(UserType::User, &pin.secret) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(
                error @ Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _),
            ) => {
                let reason = reason(&error);
                *refused = Some((pin.stamp, reason.clone()));
                Err(Pkcs11Error::PinRefused { token: self.label(), path, reason }.into())
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(Pkcs11Error::PinLocked(self.label()).into()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Open {
    /// The one private key with this label.
    pub(super) fn private_key(&mut self, token: &Token, label: &str) -> Result<ObjectHandle, Failure> {
        if let Some(handle) = self.private_keys.get(label) {
            return Ok(*handle);
        }
        let class = Attribute::Class(ObjectClass::PRIVATE_KEY);
        let template = [class, Attribute::Label(label.as_bytes().to_vec())];
        let handle = one(&self.session, token, label, &template, "private key")?;
        self.private_keys.insert(label.to_owned(), handle);
        Ok(handle)
    }
}

/// The one object of this description.
pub(super) fn one(
    session: &Session,
    token: &Token,
    label: &str,
    template: &[Attribute],
    what: &'static str,
) -> Result<ObjectHandle, Failure> {
    let label = label.to_owned();
    let mut found = session.iter_objects(template)?;
    match (found.next().transpose()?, found.next().transpose()?) {
        (Some(handle), None) => Ok(handle),
        (None, _) => Err(Pkcs11Error::KeyAbsent { token: token.label(), label, what }.into()),
        _ => Err(Pkcs11Error::SeveralKeys { token: token.label(), label, what }.into()),
    }
}

/// Is the PIN worth a try? A PIN that is wrong must not be what locks the token.
fn may_try(token: String, locked: bool, last: bool) -> Result<(), Pkcs11Error> {
    match (locked, last) {
        (true, _) => Err(Pkcs11Error::PinLocked(token)),
        (false, true) => Err(Pkcs11Error::LastTry(token)),
        (false, false) => Ok(()),
    }
}

/// The right to one session; given back when dropped.
struct Place<'t> {
    token: &'t Token,
    epoch: u64,
}

impl Place<'_> {
    fn put_back(&self, open: Open) {
        let mut pool = lock(&self.token.pool);
        if pool.epoch == open.epoch {
            pool.idle.push(open);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.token.pool).out -= 1;
        self.token.returned.notify_one();
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// No code panics while it holds one of these locks, and what they guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_of_a_pin_is_left_to_people() {
        assert_eq!(may_try("hsm".into(), false, false), Ok(()));
        assert_eq!(may_try("hsm".into(), false, true), Err(Pkcs11Error::LastTry("hsm".into())));
        assert_eq!(may_try("hsm".into(), true, true), Err(Pkcs11Error::PinLocked("hsm".into())));
    }
}
