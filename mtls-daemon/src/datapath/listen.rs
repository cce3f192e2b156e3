//! What every listener of the daemon does about an accept(2) that failed.

use std::io;
use std::time::Duration;

/// accept(2) fails for a connection that is gone already (go on), or for want of descriptors (wait a little).
/// `what` was to be accepted.
pub async fn recover(error: &io::Error, what: &str) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, what, "cannot accept; trying again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
