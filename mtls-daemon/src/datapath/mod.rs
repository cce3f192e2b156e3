//! How bytes travel once both ends are known. A datapath reads snapshots, never a source.

pub mod buffer;
pub mod direct;
pub mod ends;
pub mod error;
pub mod ktls;
pub mod relay;
pub mod tls;

pub use error::PumpError;

#[cfg(test)]
mod tests;
