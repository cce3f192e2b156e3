//! An open TLS 1.3 connection after its handshake: what both datapaths of the relay share, and its records where they are
//! sealed and opened in user space.

pub mod channel;
mod cipher;
pub mod content;
pub mod control;
pub mod error;
pub mod open;
pub mod pump;
pub mod seal;
pub mod tally;

pub use channel::UserChannel;
pub use content::ContentType;
pub use error::ChannelError;
