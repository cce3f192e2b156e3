//! The relay: the daemon stands between the application and the wire, in the workload's own namespace.
//!
//! [`outbound`] dials for a captured connect(), [`inbound`] receives a steered SYN, both end in [`convey`].

pub mod admission;
pub mod authorise;
mod boundary;
pub mod carrier;
pub mod context;
pub mod convey;
pub mod dial;
pub mod external;
mod gate;
pub mod hello;
pub mod inbound;
pub mod outbound;
pub mod place;
pub mod pump;
pub mod session;

pub use admission::Admission;
pub use context::{KernelTls, Other, Relay};
pub use gate::Gate;
pub use place::Place;
