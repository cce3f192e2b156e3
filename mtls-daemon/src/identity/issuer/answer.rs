//! A certificate chain as an issuer answers it: PEM, from somebody who may be wrong or worse.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroize;

use crate::identity::bundle::pem_reason;
use crate::identity::svid::{MAX_OWN_CHAIN, MAX_OWN_CHAIN_BYTES};

/// Largest answer that is read, in bytes: the largest chain in base64, and room for comments.
pub const MAX_ANSWER: usize = 2 * MAX_OWN_CHAIN_BYTES;

/// Why an answer is not a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// More than [`MAX_ANSWER`].
    #[error(
        "it has {0} bytes, and at most {MAX_ANSWER} are read; answer with the leaf and its intermediates only"
    )]
    TooLarge(usize),
    /// No `CERTIFICATE` block.
    #[error("there is no certificate in it; answer with the leaf and then its intermediates as PEM")]
    NoCertificate,
    /// A PEM block that is broken.
    #[error("it is not valid PEM: {0}; answer with the leaf and then its intermediates as PEM")]
    Pem(String),
    /// Somebody's private key.
    #[error(
        "block {0} of it is a private key; mtlsd makes the key itself and none may travel: treat this one as leaked"
    )]
    PrivateKey(usize),
    /// A block of another kind.
    #[error("block {number} of it is a {kind}, not a certificate; answer with the chain only")]
    OtherBlock {
        /// Which block, counted from 1.
        number: usize,
        /// What it is.
        kind: String,
    },
    /// More certificates than a chain may have.
    #[error("it has more than {MAX_OWN_CHAIN} certificates; answer with the leaf and its intermediates only")]
    TooMany,
}

/// Reads `CERTIFICATE` blocks; text between them is a comment. What is in them is not looked at.
///
/// # Errors
/// For everything else.
pub fn parse_chain(answer: &[u8]) -> Result<Vec<CertificateDer<'static>>, AnswerError> {
    if answer.len() > MAX_ANSWER {
        return Err(AnswerError::TooLarge(answer.len()));
    }
    let mut chain = Vec::new();
    for (block, number) in <(SectionKind, Vec<u8>)>::pem_slice_iter(answer).zip(1..) {
        let (kind, mut der) = block.map_err(|error| AnswerError::Pem(pem_reason(&error)))?;
        match kind {
            SectionKind::Certificate if chain.len() == MAX_OWN_CHAIN => return Err(AnswerError::TooMany),
            SectionKind::Certificate => chain.push(CertificateDer::from(der)),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                der.zeroize();
                return Err(AnswerError::PrivateKey(number));
            }
            kind => return Err(AnswerError::OtherBlock { number, kind: format!("{kind:?}") }),
        }
    }
    if chain.is_empty() { Err(AnswerError::NoCertificate) } else { Ok(chain) }
}
