//! Held SYNs for which a session is being made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtls_direct::Socket;

use super::client::Held;
use super::host::Host;
use super::links::PairKey;
use crate::datapath::direct::session::pool::Pair;
use crate::datapath::relay::Place;
use crate::lifecycle::daemon::lock;
use crate::observe::{Reason, Refusal};
use crate::snapshot::WorkloadState;

/// Most SYNs that wait for one session.
const MOST: usize = 256;
/// Longer than dialling and the handshake may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// By pair.
#[derive(Default)]
pub(super) struct Waiting(Mutex<All>);

#[derive(Default)]
struct All {
    last: u64,
    batches: HashMap<PairKey, Batch>,
}

/// Those that wait for the same session.
struct Batch {
    number: u64,
    waits: Vec<Waits>,
}

/// One of them.
struct Waits {
    place: Arc<Place>,
    held: Held,
}

/// What became of one that shall wait.
enum Added {
    /// It is the first of this batch.
    First(u64),
    Also,
    /// There are too many.
    TooMany(Waits),
}

impl Waiting {
    fn add(&self, waits: Waits) -> Added {
        let mut all = lock(&self.0);
        let All { last, batches } = &mut *all;
        let batch = batches.entry(waits.held.pair()).or_insert_with(|| {
            *last += 1;
            Batch { number: *last, waits: Vec::new() }
        });
        if batch.waits.len() >= MOST {
            return Added::TooMany(waits);
        }
        batch.waits.push(waits);
        if batch.waits.len() == 1 { Added::First(batch.number) } else { Added::Also }
    }

    /// Those of a pair, which wait no more; of that batch only, if one is named.
    fn take(&self, pair: PairKey, batch: Option<u64>) -> Vec<Waits> {
        let mut all = lock(&self.0);
        let wanted = all.batches.get(&pair).is_some_and(|of| batch.is_none_or(|batch| batch == of.number));
        if !wanted {
            return Vec::new();
        }
        all.batches.remove(&pair).map(|batch| batch.waits).unwrap_or_default()
    }

    /// Whether this socket's does.
    pub fn has(&self, socket: Socket) -> bool {
        let all = lock(&self.0);
        all.batches.values().flat_map(|batch| &batch.waits).any(|waits| waits.held.socket == socket)
    }
}

impl Host {
    /// Of a workload whose connections must be direct, or where the pair's session ended a moment ago.
    pub(super) fn wait_for_session(
        self: &Arc<Self>,
        place: &Arc<Place>,
        held: Held,
        workload: &Arc<WorkloadState>,
    ) {
        let key = held.pair();
        let pair = Pair { own: workload.settings.name.as_str().into(), destination: held.to };
        // First: the session may be there before this returns.
        let batch = match self.waiting.add(Waits { place: Arc::clone(place), held }) {
            Added::First(batch) => batch,
            Added::Also => return,
            Added::TooMany(Waits { place, held }) => {
                let detail = format!("{MOST} connections wait for a session with {}", held.to);
                self.refuse_held(&place, &held, Refusal::new(Reason::DirectFailed, detail));
                return;
            }
        };
        if !self.makes_session(&pair) {
            self.fail_waiting(key, None, &Refusal::new(Reason::DirectFailed, no_session(&pair)));
            return;
        }
        let host = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE).await;
            let detail = format!("{} after {PATIENCE:?}", no_session(&pair));
            host.fail_waiting(key, Some(batch), &Refusal::new(Reason::DirectFailed, detail));
        });
    }

    /// Their session is there.
    pub(super) fn go_on_waiting(self: &Arc<Self>, key: PairKey) {
        for Waits { place, held } in self.waiting.take(key, None) {
            self.syn(&place, held);
        }
    }

    /// There will be none.
    pub(super) fn fail_waiting(&self, key: PairKey, batch: Option<u64>, refusal: &Refusal) {
        for Waits { place, held } in self.waiting.take(key, batch) {
            self.refuse_held(&place, &held, refusal.clone());
        }
    }
}

fn no_session(pair: &Pair) -> String {
    format!(
        "there is no session with the daemon of {}'s node, and direct connections need one; see the log and `mtlsd status`",
        pair.destination
    )
}
