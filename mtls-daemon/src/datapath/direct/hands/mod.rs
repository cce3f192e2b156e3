//! What `direct` does with the kernel from user space: it takes a descriptor, moves threads, installs keys, lets go.

pub mod kick;

mod arm;
mod holders;
mod inside;
mod release;
mod taken;

pub use arm::{ArmError, arm};
pub use kick::{Emptied, KickError};
pub use release::{ReleaseError, release};
pub use taken::Taken;
