//! relay-ktls: rustls shakes hands, the kernel seals and opens the records, the daemon splices.
//!
//! `probe` finds out what this kernel can do; `keys` brings rustls' secrets into the kernel's form; `socket` is
//! one TLS socket as the kernel sees it (RFC 8446 records in, records out); `channel` is what is left of TLS
//! 1.3 for user space after the handshake, with `datapath::tls`; `pump` moves the bytes.

mod channel;
mod keys;
mod pipe;
mod probe;
mod pump;
mod socket;

pub use channel::{Channel, Terms};
pub use keys::{RecordKeys, Suite};
pub use probe::{Abilities, Defect, Missing, Unavailable, listed, probe};
pub use pump::KernelPump;
pub use socket::{Received, TlsSocket, enable};
