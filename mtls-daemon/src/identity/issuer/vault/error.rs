//! Why Vault gave no certificate.

use std::path::PathBuf;

use crate::fetch::FetchError;
use crate::identity::FilesError;
use crate::identity::issuer::answer::AnswerError;

/// Why Vault gave no certificate, or no CRL. No token or other secret is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file with a secret cannot be read.
    #[error(transparent)]
    File(#[from] FilesError),
    /// A file with a secret holds something else.
    #[error("the {what} in {} {reason}; write it again, alone in its file", path.display())]
    Secret {
        /// "token", "role ID", and so on.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Sealed: nothing works until somebody brings the unseal keys.
    #[error("{url}: Vault is sealed; unseal it (docs/runbooks/vault-sealed.md)")]
    Sealed {
        /// What was asked.
        url: String,
    },
    /// A standby that does not pass requests on (HTTP 307, and 429, 472, 473 where a load balancer shows them).
    #[error(
        "{url}: this Vault is not the active one (HTTP {status}); set `address` to the active node, or to a load balancer \
         that finds it"
    )]
    NotActive {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// HTTP 403: for a token that has run out as well as for one whose policy lacks the path.
    #[error(
        "{url}: permission denied{}; give the token a policy with `path \"{path}\" {{ capabilities = [\"{capability}\"] }}`",
        in_words(said)
    )]
    Denied {
        /// What was asked.
        url: String,
        /// As a policy names it.
        path: String,
        /// What the policy must allow.
        capability: &'static str,
        /// What Vault said beyond that.
        said: String,
    },
    /// The token of the file is not accepted (any more).
    #[error(
        "{url}: the token in {} is not accepted: it has run out, was revoked, or may not look itself up; write a new one \
         with the policy `default`",
        file.display()
    )]
    TokenGone {
        /// What was asked.
        url: String,
        /// Where the token is from.
        file: PathBuf,
    },
    /// The login was not accepted.
    #[error("{url}: the login was refused (HTTP {status}{}); {mend}", in_words(said))]
    LoginRefused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What Vault said.
        said: String,
        /// What to look at.
        mend: String,
    },
    /// A PKI role that is not there.
    #[error(
        "{url}: there is no role {role}{}; write it (docs/identity-vault.md), or check `role`",
        in_words(said)
    )]
    UnknownRole {
        /// What was asked.
        url: String,
        /// The role.
        role: String,
        /// What Vault said.
        said: String,
    },
    /// HTTP 404: no such mount or namespace.
    #[error("{url}: there is nothing{}; check `mount`, `namespace` and `address`", in_words(said))]
    NotFound {
        /// What was asked.
        url: String,
        /// What Vault said.
        said: String,
    },
    /// Any other refusal.
    #[error(
        "{url}: refused (HTTP {status}{}); check the settings of the role (docs/identity-vault.md) and Vault's log",
        in_words(said)
    )]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What Vault said.
        said: String,
    },
    /// Something that is not Vault's API.
    #[error(
        "{url}: the answer (HTTP {status}) is {found}, not JSON; check that `address` is Vault's API and that no proxy \
         answers for it"
    )]
    NotJson {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its media type, or where it stops being JSON.
        found: String,
    },
    /// JSON with a part that is missing or of another kind.
    #[error(
        "{url}: `{field}` of the answer {reason}; check the version of Vault, and that no proxy changes answers"
    )]
    Field {
        /// What was asked.
        url: String,
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate that is none.
    #[error("{url}: `{field}` of the answer cannot be used: {source}")]
    Chain {
        /// What was asked.
        url: String,
        /// Which part.
        field: &'static str,
        /// Why.
        source: AnswerError,
    },
}

impl VaultError {
    /// Was it the token, or what it may do?
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Did Vault itself say no, so that asking the same again gives the same answer?
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::NotFound { .. })
            || matches!(self, Self::Refused { status, .. } if (400..500).contains(status))
    }
}

/// `: "what Vault said"`, or nothing.
fn in_words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": \"{said}\"") }
}
