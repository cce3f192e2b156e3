//! Hearing of changes, many at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The shortest time between two notifications: what changes meanwhile comes as one, so that a rolling update costs at most
/// five looks a second.
pub const MIN_GAP: Duration = Duration::from_millis(200);

/// Says when a copy has changed.
#[derive(Debug)]
pub struct Changes {
    version: watch::Receiver<u64>,
    not_before: Instant,
}

impl Changes {
    pub(super) fn new(version: watch::Receiver<u64>) -> Self {
        Self { version, not_before: Instant::now() }
    }

    /// Waits for a change since the last call; the first call waits for the first change since this was made. `false`: there
    /// will be none any more. It can be dropped while it waits.
    pub async fn next(&mut self) -> bool {
        if self.version.changed().await.is_err() {
            return false;
        }
        // Until it is over, the change counts as not told.
        self.version.mark_changed();
        sleep_until(self.not_before).await;
        self.version.mark_unchanged();
        self.not_before = Instant::now() + MIN_GAP;
        true
    }
}
