//! Sealing records in place (RFC 8446, section 5.2).

use aws_lc_rs::aead::Aad;
use rustls::crypto::cipher;

use super::cipher::AtHand;
use super::content::ContentType;
use super::error::ChannelError;
use crate::handshake::RecordSecrets;

/// Bytes of a record before its content.
pub const HEADER: usize = 5;
/// Bytes of a record behind its content: its type, and the tag.
pub const TRAILER: usize = 1 + TAG;
/// Largest content of a record.
pub const MAX_CONTENT: usize = 16 * 1024;
/// Largest record that we make.
pub const MAX_SEALED: usize = HEADER + MAX_CONTENT + TRAILER;
/// The tag of every cipher suite of ours.
const TAG: usize = 16;

/// Seals what we send, with one key after the other. No nonce comes twice: the sequence number is in it, which only grows,
/// and begins anew with another key only.
pub struct Sealer {
    /// To be [there](AtHand::fetch) before anything is sealed.
    pub(super) cipher: AtHand,
    sequence: u64,
}

impl Sealer {
    /// `sequence`: how many records these secrets have sealed before.
    ///
    /// # Errors
    /// For a key of the wrong length.
    pub fn new(sequence: u64, secrets: &RecordSecrets) -> Result<Self, ChannelError> {
        Ok(Self { cipher: AtHand::new(secrets)?, sequence })
    }

    /// Records that this key has sealed.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Makes a record of `room`, whose content lies behind [`HEADER`] bytes and before [`TRAILER`] bytes.
    ///
    /// # Errors
    /// When the content is longer than [`MAX_CONTENT`] or there is no place for it, no sequence number is left, or the cipher
    /// is not there.
    pub fn seal(&mut self, kind: ContentType, room: &mut [u8]) -> Result<(), ChannelError> {
        let next = self.sequence.checked_add(1).ok_or(ChannelError::Seal)?;
        let (header, rest) = room.split_first_chunk_mut::<HEADER>().ok_or(ChannelError::Seal)?;
        let (inner, tag) = rest.split_last_chunk_mut::<TAG>().ok_or(ChannelError::Seal)?;
        let (last, content) = inner.split_last_mut().ok_or(ChannelError::Seal)?;
        if content.len() > MAX_CONTENT {
            return Err(ChannelError::Seal);
        }
        *last = kind.number();
        // The header is the additional data.
        *header = cipher::make_tls13_aad(inner.len() + TAG);
        let cipher = self.cipher.get().ok_or(ChannelError::Seal)?;
        let nonce = cipher.nonce(self.sequence);
        let sealed = cipher.key.seal_in_place_separate_tag(nonce, Aad::from(*header), inner);
        let made = sealed.map_err(|_| ChannelError::Seal)?;
        let made: [u8; TAG] = made.as_ref().try_into().map_err(|_| ChannelError::Seal)?;
        *tag = made;
        self.sequence = next;
        Ok(())
    }

    /// Appends one record with this content.
    ///
    /// # Errors
    /// As [`Sealer::seal`]; nothing is appended then.
    pub fn append(
        &mut self,
        kind: ContentType,
        content: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), ChannelError> {
        let start = out.len();
        out.extend([0; HEADER]);
        out.extend(content);
        out.extend([0; TRAILER]);
        let sealed = self.seal(kind, out.get_mut(start..).unwrap_or_default());
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }
}
