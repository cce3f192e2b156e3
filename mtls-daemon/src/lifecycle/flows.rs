//! The memory of flows: read at the start, written while the daemon runs and when it stops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::daemon::{Daemon, lock};
use crate::config::Config;
use crate::flows::{FlowFile, Flows, Moment};

/// After so long a flow that is new is on disk, and those that were new meanwhile with it.
const SOON: Duration = Duration::from_secs(1);
/// After so long every count is.
const INTERVAL: Duration = Duration::from_secs(60);
/// After a write it rests for so many times as long as that took.
const REST: u32 = 50;

/// Writes the flows to their file.
#[derive(Debug)]
pub(super) struct Keeper {
    flows: Arc<Flows>,
    file: FlowFile,
    /// One at a time.
    writing: Mutex<()>,
    failed: AtomicBool,
}

impl Keeper {
    /// What the last daemon knew goes on.
    pub(super) fn open(config: &Config) -> Self {
        let file = FlowFile::of(&config.paths.state);
        let record = match config.flows.keep {
            Some(_) => file.read_or_set_aside(),
            // Else a later daemon would take this time for one without connections.
            None => {
                if let Err(error) = file.remove() {
                    tracing::warn!(%error, "flows are not recorded, and a record from before is still there");
                }
                None
            }
        };
        let flows = Arc::new(Flows::new(config.flows, record));
        flows.watch(config);
        Self { flows, file, writing: Mutex::default(), failed: AtomicBool::new(false) }
    }

    pub(super) fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// Writes what has changed, or leaves a sign of life. Blocks.
    pub(super) fn write(&self) {
        if !self.flows.is_on() {
            return;
        }
        let _one = lock(&self.writing);
        let outcome = if self.flows.take_dirty() {
            self.flows.expire();
            self.file.write(&self.flows.record(Moment::default()))
        } else {
            self.file.touch()
        };
        let failed = outcome.is_err();
        if failed {
            self.flows.set_dirty();
        }
        match (outcome, self.failed.swap(failed, Ordering::Relaxed)) {
            (Err(error), false) => {
                tracing::warn!(%error, "what connections there were is not on disk, and lost with the daemon; trying again");
            }
            (Ok(()), true) => tracing::info!("what connections there were is on disk again"),
            _ => {}
        }
    }
}

/// Writes until the daemon ends.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let keeper = Arc::clone(&daemon.keeper);
    if !keeper.flows.is_on() {
        return;
    }
    loop {
        // News are written soon, and everything else once in a while.
        if tokio::time::timeout(INTERVAL, keeper.flows.news()).await.is_ok() {
            tokio::time::sleep(SOON).await;
        }
        let (writer, started) = (Arc::clone(&keeper), Instant::now());
        if let Err(error) = tokio::task::spawn_blocking(move || writer.write()).await {
            tracing::error!(%error, "writing the flows failed");
        }
        tokio::time::sleep(started.elapsed() * REST).await;
    }
}
