//! Why a key in a token cannot be used.

use std::path::PathBuf;
use std::time::Duration;

use cryptoki::error::{Error, RvError};

use crate::identity::leaf::show;

/// Why a key in a token cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Pkcs11Error {
    /// The module cannot be loaded, or is none.
    #[error(
        "the PKCS #11 module {} cannot be used: {reason}; check that `module` names the library of your HSM's maker",
        path.display()
    )]
    Module {
        /// As configured.
        path: PathBuf,
        /// What the system or the module said.
        reason: String,
    },
    /// This program can load nothing.
    #[error(
        "the PKCS #11 module {} cannot be loaded: this mtlsd is linked statically, as the one of the container image is; use one that is \
         linked dynamically (the Debian package), or an issuer whose key is elsewhere (`identity.issuers`)",
        path.display()
    )]
    NoLoader {
        /// As configured.
        path: PathBuf,
    },
    /// Somebody other than root could put another library there, which would run as root.
    #[error(
        "the PKCS #11 module {} is not loaded: {} {reason}; chown root and chmod go-w it",
        path.display(), place.display()
    )]
    ModuleTooOpen {
        /// As configured.
        path: PathBuf,
        /// The file, or a directory above it.
        place: PathBuf,
        /// What is wrong with that.
        reason: String,
    },
    /// The PIN cannot be read, or others may read it.
    #[error("the PIN file {} cannot be used: {reason}", path.display())]
    PinFile {
        /// The file.
        path: PathBuf,
        /// Why, and the mend.
        reason: String,
    },
    /// The token does not take the PIN. It is not tried again before the file changes: a few more would lock the token.
    #[error(
        "token {token} does not take the PIN in {} ({reason}); write the right one there, it is not tried again before the \
         file changes",
        path.display()
    )]
    PinRefused {
        /// The token's label.
        token: String,
        /// The PIN's file.
        path: PathBuf,
        /// The module's answer.
        reason: String,
    },
    /// One more wrong PIN locks the token.
    #[error(
        "token {0} allows one more try of the PIN, which mtlsd does not take; log in once with the right PIN by other means \
         (pkcs11-tool --login --test), which resets the count"
    )]
    LastTry(String),
    /// The token is locked.
    #[error("the PIN of token {0} is locked; unlock it with the security officer's PIN")]
    PinLocked(String),
    /// No token with this label.
    #[error("there is no token {token} in {}; {there}: check the label, and that the HSM is connected; \
         restart mtlsd if the token was initialised after it began", module.display())]
    TokenAbsent {
        /// The label.
        token: String,
        /// The module.
        module: PathBuf,
        /// What there is instead.
        there: String,
    },
    /// Two tokens with this label.
    #[error("there are {count} tokens {token} in {}; give each a label of its own", module.display())]
    SeveralTokens {
        /// The label.
        token: String,
        /// The module.
        module: PathBuf,
        /// How many.
        count: usize,
    },
    /// No key with this label.
    #[error(
        "token {token} holds no {what} with the label {label}; check the label, or make the key (docs/pkcs11.md)"
    )]
    KeyAbsent {
        /// The token's label.
        token: String,
        /// The key's.
        label: String,
        /// "private key" or "public key".
        what: &'static str,
    },
    /// Two keys with this label.
    #[error("token {token} holds more than one {what} with the label {label}; relabel or delete the others")]
    SeveralKeys {
        /// The token's label.
        token: String,
        /// The key's.
        label: String,
        /// "private key" or "public key".
        what: &'static str,
    },
    /// A key of a kind that is not supported.
    #[error("key {label} of token {token} cannot be used: {reason}; make an ECDSA key on P-256 or P-384")]
    KeyKind {
        /// The token's label.
        token: String,
        /// The key's.
        label: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A signature that the public key does not verify.
    #[error(
        "what token {token} signs with key {label} does not verify with {public}: they are not one pair; check the label, \
         and whether the key was replaced"
    )]
    OtherKey {
        /// The token's label.
        token: String,
        /// The key's.
        label: String,
        /// Where the public key is from.
        public: &'static str,
    },
    /// The module answered with something that cannot be.
    #[error(
        "token {token} answered {action} with {reason}, which is a defect of its module; look for a newer one"
    )]
    Answer {
        /// The token's label.
        token: String,
        /// What was asked for.
        action: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A call failed.
    #[error("token {token} does not {action}: {reason}; look at the HSM and its module's log")]
    Call {
        /// The token's label.
        token: String,
        /// What was asked for.
        action: &'static str,
        /// The module's answer.
        reason: String,
    },
    /// The sessions were lost, and new ones are no better.
    #[error(
        "token {token} was lost and does not {action} in a new session either: {reason}; connect it again, and restart mtlsd \
         if it was initialised anew"
    )]
    Lost {
        /// The token's label.
        token: String,
        /// What was asked for.
        action: &'static str,
        /// The module's answer.
        reason: String,
    },
    /// Every session is busy, for too long.
    #[error(
        "all {sessions} sessions with token {token} were busy for {waited:?}; the HSM is too slow, or it hangs"
    )]
    Busy {
        /// The token's label.
        token: String,
        /// How many sessions there are.
        sessions: usize,
        /// How long a free one was waited for.
        waited: Duration,
    },
}

/// The name of an answer as in the standard, such as `CKR_PIN_INCORRECT`.
fn name(answer: RvError) -> String {
    let mut name = String::from("CKR");
    for letter in format!("{answer:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// What a module or the system said, short and safe to show.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Pkcs11(answer, function) => format!("C_{function:?} answers {}", name(*answer)),
        other => show(&other.to_string()),
    }
}

/// Does this say that the session, the login or the token is gone, so that a new session may help?
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::DeviceError
                | RvError::DeviceRemoved
                | RvError::GeneralError
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::SessionClosed
                | RvError::SessionHandleInvalid
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::UserNotLoggedIn,
            _
        )
    )
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    #[test]
    fn an_answer_has_the_name_that_people_look_for() {
        let error = Error::Pkcs11(RvError::PinIncorrect, Function::Login);
        assert_eq!(reason(&error), "C_Login answers CKR_PIN_INCORRECT");
        let error = Error::Pkcs11(RvError::VendorDefined(0x8000_0001), Function::Sign);
        assert_eq!(reason(&error), "C_Sign answers CKR_VENDOR_DEFINED(2147483649)");
    }

    #[test]
    fn only_what_a_new_session_may_mend_counts_as_lost() {
        for answer in [RvError::DeviceRemoved, RvError::SessionHandleInvalid, RvError::UserNotLoggedIn] {
            assert!(is_lost(&Error::Pkcs11(answer, Function::Sign)), "{answer:?}");
        }
        for answer in [RvError::PinIncorrect, RvError::MechanismInvalid, RvError::DeviceMemory] {
            assert!(!is_lost(&Error::Pkcs11(answer, Function::Sign)), "{answer:?}");
        }
        assert!(!is_lost(&Error::NullFunctionPointer));
    }
}
