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
pub(super) struct Waiting<W = Waits>(Mutex<All<W>>);

struct All<W> {
    last: u64,
    batches: HashMap<PairKey, Batch<W>>,
}

/// Those that wait for the same session.
struct Batch<W> {
    number: u64,
    waits: Vec<W>,
}

/// One of them.
pub(super) struct Waits {
    place: Arc<Place>,
    held: Held,
}

/// What became of one that shall wait.
#[derive(Debug, PartialEq, Eq)]
enum Added<W> {
    /// It is the first of this batch.
    First(u64),
    Also,
    /// There are too many.
    TooMany(W),
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self(Mutex::new(All { last: 0, batches: HashMap::new() }))
    }
}

impl<W> Waiting<W> {
    fn add(&self, pair: PairKey, waits: W) -> Added<W> {
        let mut all = lock(&self.0);
        let All { last, batches } = &mut *all;
        let batch = batches.entry(pair).or_insert_with(|| {
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
    fn take(&self, pair: PairKey, batch: Option<u64>) -> Vec<W> {
        let mut all = lock(&self.0);
        let wanted = all.batches.get(&pair).is_some_and(|of| batch.is_none_or(|batch| batch == of.number));
        if !wanted {
            return Vec::new();
        }
        all.batches.remove(&pair).map(|batch| batch.waits).unwrap_or_default()
    }

    fn any(&self, wanted: impl Fn(&W) -> bool) -> bool {
        lock(&self.0).batches.values().flat_map(|batch| &batch.waits).any(wanted)
    }
}

impl Waiting {
    /// Whether this socket's does.
    pub fn has(&self, socket: Socket) -> bool {
        self.any(|waits| waits.held.socket == socket)
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
        let batch = match self.waiting.add(key, Waits { place: Arc::clone(place), held }) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(port: u16) -> PairKey {
        (7, ([10, 0, 0, 3], port).into())
    }

    #[test]
    fn a_batch_goes_whole_and_its_timer_does_not_reach_the_next_one() {
        let waiting = Waiting::default();
        let Added::First(first) = waiting.add(pair(80), 1) else { panic!("the first") };
        assert_eq!(waiting.add(pair(80), 2), Added::Also);
        assert!(matches!(waiting.add(pair(81), 3), Added::First(_)));
        assert!(waiting.any(|waits| *waits == 2));
        assert_eq!(waiting.take(pair(80), None), [1, 2]);
        let Added::First(second) = waiting.add(pair(80), 4) else { panic!("a new batch") };
        assert!(waiting.take(pair(80), Some(first)).is_empty(), "that is over");
        assert_eq!(waiting.take(pair(80), Some(second)), [4]);
        assert!(waiting.take(pair(80), None).is_empty() && !waiting.any(|waits| *waits == 4));
        assert_eq!(waiting.take(pair(81), None), [3]);
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let waiting = Waiting::default();
        for number in 0..MOST {
            assert!(!matches!(waiting.add(pair(80), number), Added::TooMany(_)));
        }
        assert_eq!(waiting.add(pair(80), MOST), Added::TooMany(MOST));
        assert!(!matches!(waiting.add(pair(81), 0), Added::TooMany(_)), "each pair by itself");
        assert_eq!(waiting.take(pair(80), None).len(), MOST);
    }
}
