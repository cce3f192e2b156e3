//! OCSP (RFC 6960): asking a CA whether a certificate is still good, and believing only an answer that the CA has signed.

mod issuer;
mod request;
mod response;

pub use issuer::{IssuerId, responder_url};
pub use request::request;
pub use response::{Answer, OcspError, Status};

#[cfg(test)]
mod tests;
