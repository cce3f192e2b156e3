//! What is wrong with an object.

use crate::kube::names::NameError;

/// What is wrong with an object. Texts are safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadObject {
    /// Not what the API says that it is.
    #[error("it is not of its form: {0}")]
    Json(String),
    /// A name that is none.
    #[error("{field} is {text:?}: {reason}")]
    Name {
        /// The field.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        reason: NameError,
    },
    /// An address that is none.
    #[error("{field} is {text:?}, which is no IP address or network")]
    Address {
        /// The field.
        field: &'static str,
        /// What it says.
        text: String,
    },
    /// A time that is none.
    #[error("{field} is {text:?}, which is no time of RFC 3339")]
    Time {
        /// The field.
        field: &'static str,
        /// What it says.
        text: String,
    },
    /// More than is kept of one object.
    #[error("{field} has {count} entries, and mtlsd takes {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// Most of them.
        max: usize,
    },
    /// Longer than is kept of one object.
    #[error("{field} has {bytes} bytes, and mtlsd takes {max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// The longest.
        max: usize,
    },
}
