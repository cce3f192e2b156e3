//! What would become of a connection, and which rules nearly decided otherwise: by going through the rules as a person
//! would, only when somebody asks.
//!
//! Nothing here decides about a connection. What is not known is said to be unknown, never taken for a yes.

mod judge;
pub mod live;
mod near;
mod parties;
mod path;
mod report;
#[cfg(test)]
mod tests;

pub use judge::{Match, Ruling, judge};
pub use live::{Live, LiveError, LiveReport, LiveRequest, live};
pub use near::near_misses;
pub use parties::UnknownParty;
pub use path::{Ground, path};
pub use report::{Answer, PathReport, PathStep};
