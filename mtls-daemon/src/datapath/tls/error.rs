//! Why the TLS side of an open connection cannot go on, whoever does its records.

use std::io;

use nix::errno::Errno;
use rustls::crypto::tls13::OutputLengthError;
use rustls::{AlertDescription, Error as TlsError};

use super::control::ControlError;
use crate::handshake::UnsupportedSecrets;

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer broke the protocol or said that we did.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A record is not authentic (`EBADMSG`).
    #[error("a record of the peer is not authentic")]
    BadRecord,
    /// A record is longer than it may be (`EMSGSIZE`).
    #[error("a record of the peer is longer than 16,384 bytes")]
    RecordOverflow,
    /// A record that is none (`EINVAL` where no control record is).
    #[error("what the peer sent is not a TLS 1.3 record")]
    NotARecord,
    /// A record that is not encrypted, of this type.
    #[error("the peer sent a record of type {0} in plain")]
    InPlain(u8),
    /// The peer changed its key and the kernel cannot.
    #[error("the peer sent a KeyUpdate, and this kernel cannot change keys: {0}")]
    CannotFollow(Errno),
    /// KeyUpdates for nothing.
    #[error("the peer sent {0} KeyUpdates without data between them")]
    TooManyKeyUpdates(u32),
    /// Records for nothing.
    #[error("the peer sent {0} empty records one after another")]
    TooManyEmptyRecords(u32),
    /// Our key has protected as many records as it may, and the kernel cannot change it.
    #[error("{0} records were sent with one {1} key")]
    KeyLimit(u64, &'static str),
    /// rustls does not give the keys away.
    #[error("no keys: {0}")]
    Keys(#[from] TlsError),
    /// A key cannot be derived.
    #[error("a key cannot be derived: {0:?}")]
    Derive(OutputLengthError),
    /// A key is of no known form.
    #[error(transparent)]
    Secrets(#[from] UnsupportedSecrets),
    /// A record without content type, nothing but padding.
    #[error("the peer sent a record of nothing but padding")]
    NoContentType,
    /// A record of ours could not be made.
    #[error("a record could not be sealed")]
    Seal,
    /// The kernel did not take a key for another reason.
    #[error("installing a key: {0}")]
    Install(Errno),
}

impl From<OutputLengthError> for ChannelError {
    fn from(error: OutputLengthError) -> Self {
        Self::Derive(error)
    }
}

impl ChannelError {
    /// What the peer is told; `None` when it has said so itself.
    #[must_use]
    pub fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::Control(error) => error.alert(),
            Self::BadRecord => Some(AlertDescription::BadRecordMac),
            Self::RecordOverflow => Some(AlertDescription::RecordOverflow),
            Self::NotARecord => Some(AlertDescription::DecodeError),
            Self::TooManyKeyUpdates(_)
            | Self::TooManyEmptyRecords(_)
            | Self::InPlain(_)
            | Self::NoContentType => Some(AlertDescription::UnexpectedMessage),
            Self::CannotFollow(_)
            | Self::KeyLimit(..)
            | Self::Keys(_)
            | Self::Derive(_)
            | Self::Secrets(_)
            | Self::Seal
            | Self::Install(_) => Some(AlertDescription::InternalError),
        }
    }

    /// What an error of reading a kTLS socket means; `None`: it is TCP's.
    #[must_use]
    pub fn of_reading(error: &io::Error) -> Option<Self> {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBADMSG) => Some(Self::BadRecord),
            Some(Errno::EMSGSIZE) => Some(Self::RecordOverflow),
            Some(Errno::EINVAL | Errno::EIO) => Some(Self::NotARecord),
            _ => None,
        }
    }
}
