//! `direct`: the application's own socket becomes the TLS socket (docs/design/direct.md).

pub mod drive;
pub mod hands;
pub mod session;
pub mod unfit;
