//! Opening records in place (RFC 8446, section 5.2).

use aws_lc_rs::aead::Aad;
use rustls::ProtocolVersion;
use rustls::crypto::cipher::{self, InboundOpaqueMessage};

use super::cipher::AtHand;
use super::content::ContentType;
use super::error::ChannelError;
use super::seal::HEADER;
use crate::handshake::RecordSecrets;

/// Largest length that a record may state (RFC 8446, section 5.2).
const MAX_LENGTH: usize = 16 * 1024 + 256;
/// Largest record.
pub const MAX_RECORD: usize = HEADER + MAX_LENGTH;

/// The length of the record that begins here, header included; `None` while its header is not complete.
///
/// # Errors
/// When it is none that may come now. Its version means nothing (RFC 8446, section 5.1).
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, ChannelError> {
    let Some(&[kind, _, _, high, low]) = bytes.first_chunk() else { return Ok(None) };
    if ContentType::from(kind) != ContentType::ApplicationData {
        return Err(ChannelError::InPlain(kind));
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length > MAX_LENGTH => Err(ChannelError::RecordOverflow),
        length => Ok(Some(HEADER + length)),
    }
}

/// Opens what the peer sends, with one key after the other.
pub struct Opener {
    /// To be [there](AtHand::fetch) before anything is opened.
    pub(super) cipher: AtHand,
    sequence: u64,
}

impl Opener {
    /// Records that this key has opened.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// `sequence`: how many records these secrets have opened before.
    ///
    /// # Errors
    /// For a key of the wrong length.
    pub fn new(sequence: u64, secrets: &RecordSecrets) -> Result<Self, ChannelError> {
        Ok(Self { cipher: AtHand::new(secrets)?, sequence })
    }

    /// Opens one whole record, which [`record_length`] has measured. What it carries lies behind [`HEADER`] bytes, this
    /// many.
    ///
    /// # Errors
    /// When it is not authentic, holds nothing that may be in a record, or the cipher is not there.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(ContentType, usize), ChannelError> {
        let next = self.sequence.checked_add(1).ok_or(ChannelError::BadRecord)?;
        let sealed = record.get_mut(HEADER..).ok_or(ChannelError::NotARecord)?;
        let aad = Aad::from(cipher::make_tls13_aad(sealed.len()));
        let cipher = self.cipher.get().ok_or(ChannelError::BadRecord)?;
        let nonce = cipher.nonce(self.sequence);
        let opened = cipher.key.open_in_place(nonce, aad, sealed).map_err(|_| ChannelError::BadRecord)?;
        self.sequence = next;
        // rustls takes the padding off and finds the type.
        let inner =
            InboundOpaqueMessage::new(rustls::ContentType::ApplicationData, ProtocolVersion::TLSv1_2, opened);
        match inner.into_tls13_unpadded_message() {
            Ok(plain) => Ok((ContentType::from(u8::from(plain.typ)), plain.payload.len())),
            Err(rustls::Error::PeerSentOversizedRecord) => Err(ChannelError::RecordOverflow),
            Err(_) => Err(ChannelError::NoContentType),
        }
    }
}
