//! Keys that live in a PKCS #11 token (OASIS PKCS #11 v2.40 and later): an HSM, a smart card, SoftHSM.
//!
//! A module is a C library that runs inside this process, as root. Only one that is configured is loaded, at its first
//! use, and it stays until the process ends: a module has one state per process, and few survive being unloaded.

mod error;
mod key;
mod module;
mod pin;
mod sign;
mod source;
mod token;

pub use error::Pkcs11Error;
pub use key::{Curve, TokenKey};
pub use source::{TokenIdentity, TokenKeySettings};
pub use token::{MAX_SESSIONS, SESSION_WAIT, Token, TokenSettings};

#[cfg(test)]
pub(crate) mod softhsm;
#[cfg(test)]
mod tests;
