//! What a record carries.

/// What a record carries (RFC 8446, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// 21.
    Alert,
    /// 22.
    Handshake,
    /// 23.
    ApplicationData,
    /// Anything else: not allowed after the handshake.
    Other(u8),
}

impl From<u8> for ContentType {
    fn from(number: u8) -> Self {
        match number {
            21 => Self::Alert,
            22 => Self::Handshake,
            23 => Self::ApplicationData,
            other => Self::Other(other),
        }
    }
}

impl ContentType {
    /// As it is in a record.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
            Self::Other(number) => number,
        }
    }
}
