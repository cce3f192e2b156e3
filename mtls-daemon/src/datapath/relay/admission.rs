//! Limits: how many connections and handshakes there may be at one time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::observe::{Reason, Refusal};

/// A count that a permit gives back when it is dropped.
type Count = Arc<AtomicU64>;

/// The daemon's limits. Made anew when they change; permits of the old one stay valid.
#[derive(Debug, Clone)]
pub struct Admission {
    live: Count,
    /// Two pools: strangers who knock must not keep our own workloads from going out.
    outbound: Arc<Semaphore>,
    inbound: Arc<Semaphore>,
    /// Most inbound handshakes of one source address, so that one stranger cannot take every place.
    share: usize,
    sources: Arc<Mutex<HashMap<IpAddr, Weak<Semaphore>>>>,
}

/// Leave to do one handshake.
#[derive(Debug)]
pub struct HandshakePermit {
    _places: [Option<OwnedSemaphorePermit>; 2],
}

/// Leave to have one connection.
#[derive(Debug)]
pub struct ConnectionPermit {
    counts: [Count; 2],
}

impl Admission {
    /// At most `handshakes` in each direction at a time. `before`: the admission that this one replaces.
    #[must_use]
    pub fn new(handshakes: u32, before: Option<&Self>) -> Self {
        let handshakes = usize::try_from(handshakes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            live: before.map(|before| Arc::clone(&before.live)).unwrap_or_default(),
            outbound: Arc::new(Semaphore::new(handshakes)),
            inbound: Arc::new(Semaphore::new(handshakes)),
            share: handshakes.div_ceil(2),
            sources: Arc::default(),
        }
    }

    /// Leave for one more connection of a workload.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn connection(
        &self,
        total_limit: u32,
        workload: &Count,
        workload_limit: u32,
    ) -> Result<ConnectionPermit, Refusal> {
        take(workload, workload_limit).map_err(|live| {
            Refusal::new(Reason::WorkloadLimit, format!("{live} of {workload_limit} are in use"))
        })?;
        take(&self.live, total_limit).map_err(|live| {
            workload.fetch_sub(1, Ordering::Relaxed);
            Refusal::new(Reason::TotalLimit, format!("{live} of {total_limit} are in use"))
        })?;
        Ok(ConnectionPermit { counts: [Arc::clone(&self.live), Arc::clone(workload)] })
    }

    /// Leave to do a handshake that we begin, once there is room.
    ///
    /// # Errors
    /// When there was none for `patience`.
    pub async fn outbound_handshake(&self, patience: Duration) -> Result<HandshakePermit, Refusal> {
        let place = Arc::clone(&self.outbound).acquire_owned();
        match tokio::time::timeout(patience, place).await {
            Ok(place) => Ok(HandshakePermit { _places: [place.ok(), None] }),
            Err(_) => Err(Refusal::new(Reason::HandshakeLimit, format!("no room for {patience:?}"))),
        }
    }

    /// Leave to do a handshake with a client, once there is room, in all and for its address.
    ///
    /// # Errors
    /// When there was none for `patience`.
    pub async fn inbound_handshake(
        &self,
        from: IpAddr,
        patience: Duration,
    ) -> Result<HandshakePermit, Refusal> {
        let own = self.source(from);
        let places = async {
            let own = own.acquire_owned().await.ok();
            [own, Arc::clone(&self.inbound).acquire_owned().await.ok()]
        };
        match tokio::time::timeout(patience, places).await {
            Ok(places) => Ok(HandshakePermit { _places: places }),
            Err(_) => {
                Err(Refusal::new(Reason::HandshakeLimit, format!("no room for {from} in {patience:?}")))
            }
        }
    }

    fn source(&self, from: IpAddr) -> Arc<Semaphore> {
        // Nothing panics while it holds the lock.
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sources.get(&from).and_then(Weak::upgrade) {
            return known;
        }
        if sources.len() >= MAX_IDLE_SOURCES {
            sources.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(self.share));
        sources.insert(from, Arc::downgrade(&new));
        new
    }
}

/// Addresses without a handshake under way that may be remembered before they are swept out.
const MAX_IDLE_SOURCES: usize = 4096;

fn take(count: &Count, limit: u32) -> Result<(), u64> {
    let room = |live| (live < u64::from(limit)).then_some(live + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map(drop)
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        for count in &self.counts {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_named_and_a_dropped_permit_makes_room() {
        let admission = Admission::new(1, None);
        let (a, b) = (Count::default(), Count::default());
        let first = admission.connection(2, &a, 1).unwrap();
        assert_eq!(admission.connection(2, &a, 1).unwrap_err().reason, Reason::WorkloadLimit);
        let _second = admission.connection(2, &b, 5).unwrap();
        assert_eq!(admission.connection(2, &b, 5).unwrap_err().reason, Reason::TotalLimit);
        assert_eq!(b.load(Ordering::Relaxed), 1, "a refusal gives the workload's place back");
        drop(first);
        assert!(admission.connection(2, &a, 1).is_ok());
    }

    #[tokio::test]
    async fn a_handshake_waits_for_room_and_then_gives_up() {
        let short = Duration::from_millis(10);
        let admission = Admission::new(1, None);
        let permit = admission.outbound_handshake(short).await.unwrap();
        let refusal = admission.outbound_handshake(short).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::HandshakeLimit);
        drop(permit);
        assert!(admission.outbound_handshake(short).await.is_ok());
    }

    #[tokio::test]
    async fn one_stranger_takes_neither_the_places_of_others_nor_ours() {
        let short = Duration::from_millis(10);
        let admission = Admission::new(4, None);
        let (stranger, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held = [
            admission.inbound_handshake(stranger, short).await.unwrap(),
            admission.inbound_handshake(stranger, short).await.unwrap(),
        ];
        let refusal = admission.inbound_handshake(stranger, short).await.unwrap_err();
        assert!(refusal.detail.contains("10.0.0.1"), "{}", refusal.detail);
        assert!(admission.inbound_handshake(other, short).await.is_ok());
        assert!(admission.outbound_handshake(short).await.is_ok());
        drop(held);
        assert!(admission.inbound_handshake(stranger, short).await.is_ok());
    }

    #[tokio::test]
    async fn many_addresses_are_not_remembered_for_ever() {
        let admission = Admission::new(4, None);
        for number in 0..3 * u32::try_from(MAX_IDLE_SOURCES).unwrap() {
            let from = IpAddr::from(number.to_be_bytes());
            admission.inbound_handshake(from, Duration::from_millis(10)).await.unwrap();
        }
        assert!(admission.sources.lock().unwrap().len() <= MAX_IDLE_SOURCES);
    }

    #[test]
    fn a_changed_limit_counts_the_connections_that_are_there_already() {
        let before = Admission::new(1, None);
        let count = Count::default();
        let first = before.connection(1, &count, 9).unwrap();
        let after = Admission::new(5, Some(&before));
        assert_eq!(after.connection(1, &count, 9).unwrap_err().reason, Reason::TotalLimit);
        let second = after.connection(2, &count, 9).unwrap();
        drop((first, second));
        assert_eq!((count.load(Ordering::Relaxed), after.live.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn however_many_threads_ask_no_more_than_the_limit_get_in() {
        let admission = Admission::new(1, None);
        let count = Count::default();
        let granted: usize = std::thread::scope(|scope| {
            let ask = || -> Vec<_> {
                (0..500).filter_map(|_| admission.connection(700, &count, 900).ok()).collect()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            let permits: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            permits.iter().map(Vec::len).sum()
        });
        assert_eq!(granted, 700);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
