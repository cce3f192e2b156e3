//! OCSP (RFC 6960): asking a CA whether a certificate is still good, and believing only an answer that the CA has signed.
//!
//! [`Ocsp`] knows the answers and what is to be asked; it never asks itself. `lifecycle::ocsp` does, in the background.

mod book;
mod due;
mod leaf;
mod question;
mod request;
mod response;
mod rules;

pub use book::{Ocsp, Stapled};
pub use due::{Ask, Failed, MAX_ASKING, MAX_ASKING_ONE, MAX_RESPONDERS};
pub use question::{IssuerId, Question, responder_url};
pub use request::request;
pub use response::{Answer, MAX_RESPONSE, OcspError, Status};
pub use rules::{Responder, Rules};

#[cfg(test)]
mod book_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
