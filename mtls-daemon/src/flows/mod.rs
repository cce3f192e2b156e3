//! What connections there were: a bounded memory of distinct flows, for `mtlsd rollout status` and `mtlsd policy replay`.
//!
//! `store` keeps them while the daemon runs, `file` across restarts; `judge` asks what a configuration says of one,
//! `rollout` what strict would refuse, `replay` what other rules would change. Whatever was forgotten is counted, so
//! that an answer can say how much it knows.

mod file;
mod flow;
pub mod judge;
mod key;
mod moment;
mod record;
pub mod replay;
pub mod rollout;
mod store;
#[cfg(test)]
pub(crate) mod tests;

pub use file::{FlowFile, FlowFileError, MAX_BYTES};
pub use flow::{Channel, Decision, Flow, FlowError, FlowPeer};
pub use key::Tuple;
pub use moment::Moment;
pub use record::{Absence, Record, Watched};
pub use store::{BYTES_PER_FLOW, Flows, MAX_FLOWS, Outcome};
