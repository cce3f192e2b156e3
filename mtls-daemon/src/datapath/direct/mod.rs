//! `direct`: the application's own socket becomes the TLS socket (docs/design/direct.md).

pub mod hands;
