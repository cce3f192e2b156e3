//! What `direct` does with the kernel from user space: it takes a descriptor, moves threads, installs keys, lets go.

pub mod arm;
pub mod kick;
pub mod release;

mod holders;
mod inside;
mod taken;

pub use holders::{by_inode, of_inode};
pub use kick::{Emptied, KickError};
pub use taken::Taken;
