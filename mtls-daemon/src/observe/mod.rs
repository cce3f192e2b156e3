//! What the daemon tells people: reasons, logs, metrics, the flight recorder.

pub mod access_log;
pub mod alert;
pub mod cause;
pub mod chain;
pub mod connection;
pub mod explain;
pub mod metrics;
pub mod observer;
pub mod reason;
pub mod recorder;
pub mod standing;

pub use connection::{
    ConnectionId, ConnectionIds, ConnectionRecord, Datapath, Direction, Ending, LiveConnection,
};
pub use metrics::{Metrics, Side, WorkloadMetrics};
pub use observer::{Captured, Observed, Observer};
pub use reason::{Reason, Refusal};
pub use recorder::Recorder;
