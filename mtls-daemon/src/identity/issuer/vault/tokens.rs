//! The token in use: had when it is first needed, renewed in time, and replaced when it is gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::api::{Api, Grant};
use super::auth::VaultAuth;
use super::error::VaultError;
use super::secret::Secret;

/// Pause after a renewal that Vault did not answer.
const RETRY: Duration = Duration::from_secs(10);

/// The token of one issuer, shared by all its workloads.
#[derive(Debug)]
pub(super) struct Tokens {
    auth: VaultAuth,
    /// Held while Vault is asked: a hundred workloads need one login.
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    token: Arc<Secret>,
    /// When Vault forgets it; `None`: never.
    expires: Option<Instant>,
    /// When to renew it; `None`: it cannot be renewed (any longer).
    renew_at: Option<Instant>,
    /// The longest life that Vault gave it.
    longest: Duration,
}

impl Held {
    fn new(token: Secret, ttl: Duration, renewable: bool, now: Instant) -> Self {
        let mut held =
            Self { token: Arc::new(token), expires: None, renew_at: None, longest: Duration::ZERO };
        held.given(ttl, renewable, now);
        held
    }

    /// Vault has given it this life from now on.
    fn given(&mut self, ttl: Duration, renewable: bool, now: Instant) {
        // Close to the end of its longest life Vault renews for ever shorter times.
        let shrinks = ttl < self.longest / 2;
        self.longest = self.longest.max(ttl);
        let lasts = !ttl.is_zero();
        self.expires = lasts.then(|| now.checked_add(ttl)).flatten();
        let wait = ttl.saturating_mul(2) / 3;
        self.renew_at = (lasts && renewable && !shrinks).then(|| now.checked_add(wait)).flatten();
    }

    fn has_run_out(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

impl Tokens {
    pub(super) fn new(auth: VaultAuth) -> Self {
        Self { auth, held: Mutex::default() }
    }

    /// The token to ask with.
    pub(super) fn current(&self, api: &Api, now: Instant) -> Result<Arc<Secret>, VaultError> {
        let mut held = self.lock();
        let in_file = self.auth.token().transpose()?;
        let usable = held.as_ref().filter(|held| match &in_file {
            Some(token) => *held.token == *token,
            None => !held.has_run_out(now),
        });
        match usable {
            Some(held) => Ok(Arc::clone(&held.token)),
            None => self.login(&mut held, api, now),
        }
    }

    /// Another token than one that was denied, if it was the token; the denial, if it was not.
    pub(super) fn instead_of(
        &self,
        old: &Arc<Secret>,
        denied: VaultError,
        api: &Api,
        now: Instant,
    ) -> Result<Arc<Secret>, VaultError> {
        let mut held = self.lock();
        if let Some(held) = held.as_ref().filter(|held| !Arc::ptr_eq(&held.token, old)) {
            return Ok(Arc::clone(&held.token));
        }
        match self.auth.lookup(api, old) {
            Ok(_) => return Err(denied),
            Err(VaultError::Denied { .. } | VaultError::TokenGone { .. }) => {}
            Err(other) => return Err(other),
        }
        *held = None;
        self.login(&mut held, api, now)
    }

    fn login(&self, held: &mut Option<Held>, api: &Api, now: Instant) -> Result<Arc<Secret>, VaultError> {
        let Grant { token, ttl, renewable } = self.auth.login(api)?;
        let Some(token) = token else {
            let (url, reason) = (api.url(""), "is missing".to_owned());
            return Err(VaultError::Field { url, field: "auth.client_token", reason });
        };
        if let VaultAuth::Token { file } = &self.auth
            && !ttl.is_zero()
            && !renewable
        {
            tracing::warn!(
                vault = %api.address, file = %file.display(), seconds = ttl.as_secs(),
                "this token cannot be renewed; write another one to the file before it has run out"
            );
        }
        let new = held.insert(Held::new(token, ttl, renewable, now));
        Ok(Arc::clone(&new.token))
    }

    /// Is it time to renew it? False while somebody is at it.
    pub(super) fn need_renewal(&self, now: Instant) -> bool {
        let held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        held.as_ref().and_then(|held| held.renew_at).is_some_and(|renew_at| now >= renew_at)
    }

    /// Renews it if it is time. What Vault does not renew is forgotten: the next request logs in.
    pub(super) fn renew(&self, api: &Api, now: Instant) -> Result<(), VaultError> {
        let mut slot = self.lock();
        let Some(held) = slot.as_mut().filter(|held| held.renew_at.is_some_and(|at| now >= at)) else {
            return Ok(());
        };
        // Written by somebody who looks after it: the old one may die.
        if self.auth.token().is_some_and(|in_file| in_file.is_ok_and(|token| token != *held.token)) {
            let renewed = self.login(&mut slot, api, now).map(drop);
            if let (Err(_), Some(held)) = (&renewed, slot.as_mut()) {
                held.renew_at = now.checked_add(RETRY);
            }
            return renewed;
        }
        let reply = api.post("auth/token/renew-self", Some(&held.token), b"{}");
        match reply.and_then(super::api::Reply::auth) {
            Ok(Grant { ttl, renewable, .. }) => {
                held.given(ttl, renewable, now);
                if held.renew_at.is_none()
                    && let VaultAuth::Token { file } = &self.auth
                {
                    tracing::warn!(
                        vault = %api.address, file = %file.display(), seconds = ttl.as_secs(),
                        "this token is near the end of its longest life; write another one to the file before"
                    );
                }
                Ok(())
            }
            Err(error) => {
                if error.is_final() {
                    *slot = None;
                } else {
                    held.renew_at = now.checked_add(RETRY);
                }
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        // Whatever panicked, what is inside is whole at every step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
