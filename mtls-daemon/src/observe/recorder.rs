//! The flight recorder: the connections that are live, and the last that ended or were refused.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{ConnectionId, ConnectionRecord, Direction, Event, LiveConnection};

/// Tasks that open and close connections at the same time rarely meet on one of these locks.
const SHARDS: usize = 16;

type Live = HashMap<ConnectionId, Arc<LiveConnection>>;

/// Keeps live connections and a bounded number of ended ones, in memory only.
#[derive(Debug)]
pub struct Recorder {
    capacity: usize,
    ended: Mutex<VecDeque<Arc<ConnectionRecord>>>,
    live: [Mutex<Live>; SHARDS],
}

impl Recorder {
    /// A recorder of the last `entries` ended connections.
    #[must_use]
    pub fn new(entries: NonZeroUsize) -> Self {
        Self { capacity: entries.get(), ended: Mutex::default(), live: Default::default() }
    }

    /// How many ended connections it keeps.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shows a connection as live until [`Recorder::record`] gets its record.
    pub fn open(&self, connection: Arc<LiveConnection>) {
        if let Some(shard) = self.shard(connection.id()) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.id(), connection);
        }
    }

    /// Keeps the record of a connection that ended or was refused, and drops the oldest one if full.
    pub fn record(&self, record: Arc<ConnectionRecord>) {
        let id = record.id;
        let mut ended = self.ended();
        while ended.len() >= self.capacity {
            ended.pop_front();
        }
        ended.push_back(record);
        drop(ended);
        // Only now: who asks in between finds it twice rather than not at all.
        if let Some(shard) = self.shard(id) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// Shows a connection no more, of whose end nobody will hear.
    pub fn forget(&self, id: ConnectionId) {
        if let Some(shard) = self.shard(id) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// How many connections are live.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// The connection with an id, live or ended.
    #[must_use]
    pub fn by_id(&self, id: ConnectionId) -> Option<Arc<ConnectionRecord>> {
        let live = self.shard(id).and_then(|shard| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|c| Arc::new(c.snapshot()))
        });
        live.or_else(|| self.ended().iter().rev().find(|record| record.id == id).cloned())
    }

    /// Live connections, then ended ones, each newest first; of one workload if one is named.
    #[must_use]
    pub fn list(&self, workload: Option<&str>, limit: usize) -> Vec<Arc<ConnectionRecord>> {
        let wanted = |name: &str| workload.is_none_or(|w| w == name);
        let mut live = self.live_where(|c| wanted(&c.opening().workload));
        live.sort_unstable_by_key(|c| std::cmp::Reverse(c.id()));
        let mut found: Vec<_> = live.iter().take(limit).map(|c| Arc::new(c.snapshot())).collect();
        let rest = limit.saturating_sub(found.len());
        found.extend(self.ended().iter().rev().filter(|r| wanted(&r.workload)).take(rest).cloned());
        found
    }

    /// The connections from one party to another that were opened last, live or ended, newest first.
    #[must_use]
    pub fn between(&self, from: &Party, to: &Party, limit: usize) -> Vec<Arc<ConnectionRecord>> {
        let matches = |record: &ConnectionRecord| from.is_source_of(record) && to.is_destination_of(record);
        let mut found: Vec<_> = self.ended().iter().filter(|r| matches(r)).cloned().collect();
        found.sort_unstable_by_key(|r| std::cmp::Reverse(r.id));
        found.truncate(limit);
        // Newest first, so that only the connections up to the last match that counts are copied.
        let oldest = found.get(limit.saturating_sub(1)).map(|r| r.id);
        let mut live = self.live_where(|c| oldest.is_none_or(|oldest| c.id() > oldest));
        live.sort_unstable_by_key(|c| std::cmp::Reverse(c.id()));
        found.extend(live.iter().map(|c| c.snapshot()).filter(|r| matches(r)).take(limit).map(Arc::new));
        found.sort_by_key(|r| std::cmp::Reverse(r.id));
        // One that has just ended may be there twice.
        found.dedup_by_key(|r| r.id);
        found.truncate(limit);
        found
    }

    /// The last connection that was refused.
    #[must_use]
    pub fn last_refused(&self) -> Option<Arc<ConnectionRecord>> {
        self.ended().iter().rev().find(|record| record.event == Event::Refused).cloned()
    }

    fn live_where(&self, keep: impl Fn(&LiveConnection) -> bool) -> Vec<Arc<LiveConnection>> {
        let mut found = Vec::new();
        for shard in &self.live {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(shard.values().filter(|c| keep(c)).cloned());
        }
        found
    }

    fn shard(&self, id: ConnectionId) -> Option<&Mutex<Live>> {
        // Ids are handed out one after the other, so their low bits spread evenly.
        self.live.get(usize::try_from(id.as_u64() % SHARDS as u64).unwrap_or_default())
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<Arc<ConnectionRecord>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One end of a connection, as a person names it: a SPIFFE ID, a workload, an address with or without port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// An address with its port.
    Address(SocketAddr),
    /// An address with any port.
    Ip(IpAddr),
    /// A SPIFFE ID, a workload's name or a directory entry's name.
    Name(String),
    /// A name with a port.
    Service(String, u16),
}

impl From<&str> for Party {
    fn from(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = text.parse() {
            Self::Address(address)
        } else if let Ok(ip) = bare.parse() {
            Self::Ip(ip)
        } else {
            match text.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
                Some((name, Ok(port))) => Self::Service(name.to_owned(), port),
                _ => Self::Name(text.to_owned()),
            }
        }
    }
}

impl Party {
    fn is_source_of(&self, record: &ConnectionRecord) -> bool {
        match self {
            Self::Address(address) => record.source == *address,
            Self::Ip(ip) => record.source.ip() == *ip,
            Self::Service(name, port) => {
                record.source.port() == *port && Self::Name(name.clone()).is_source_of(record)
            }
            Self::Name(name) => match record.direction {
                Direction::Outbound => self.is_local(name, record),
                Direction::Inbound => record.peer_identity.as_ref() == Some(name),
            },
        }
    }

    fn is_destination_of(&self, record: &ConnectionRecord) -> bool {
        match self {
            Self::Address(address) => record.destination == *address,
            Self::Ip(ip) => record.destination.ip() == *ip,
            Self::Service(name, port) => {
                record.destination.port() == *port && Self::Name(name.clone()).is_destination_of(record)
            }
            Self::Name(name) => match record.direction {
                Direction::Inbound => self.is_local(name, record),
                Direction::Outbound => {
                    record.peer_identity.as_ref() == Some(name)
                        || record.destination_name.as_deref() == Some(name)
                }
            },
        }
    }

    fn is_local(&self, name: &str, record: &ConnectionRecord) -> bool {
        *record.workload == *name || record.local_identity.as_deref() == Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Ending, Opening, tests::live};
    use super::super::reason::{Reason, Refusal};
    use super::*;

    fn recorder(entries: usize) -> Recorder {
        Recorder::new(NonZeroUsize::new(entries).unwrap())
    }

    fn outbound(id: u64) -> LiveConnection {
        let connection = LiveConnection::new(Opening {
            id: ConnectionId::from_u64(id),
            direction: Direction::Outbound,
            workload: "web".into(),
            local_identity: Some("spiffe://example.org/web".into()),
            source: "[fd00::2]:41000".parse().unwrap(),
            destination: "[fd00::7]:5432".parse().unwrap(),
        });
        connection.learn(|l| {
            l.destination_name = Some("db".into());
            l.peer_identity = Some("spiffe://example.org/db".into());
        });
        connection
    }

    fn close(recorder: &Recorder, connection: &LiveConnection, ending: Ending) {
        recorder.record(Arc::new(connection.ended(ending)));
    }

    #[test]
    fn the_ring_keeps_the_last_entries_and_no_more() {
        let recorder = recorder(3);
        for id in 0..10 {
            close(&recorder, &live(id), Ending::Closed);
        }
        let ids: Vec<_> = recorder.list(None, 100).iter().map(|r| r.id.as_u64()).collect();
        assert_eq!(ids, [9, 8, 7]);
        assert!(recorder.by_id(ConnectionId::from_u64(6)).is_none());
        assert!(recorder.by_id(ConnectionId::from_u64(7)).is_some());
    }

    #[test]
    fn a_connection_is_live_until_its_record_arrives() {
        let recorder = recorder(4);
        let connection = Arc::new(live(5));
        recorder.open(Arc::clone(&connection));
        connection.add_sent(3);
        assert_eq!(recorder.live_count(), 1);
        let seen = recorder.by_id(connection.id()).unwrap();
        assert_eq!((seen.event, seen.bytes.sent), (Event::Open, 3));
        close(&recorder, &connection, Ending::Closed);
        assert_eq!(recorder.live_count(), 0);
        assert_eq!(recorder.by_id(connection.id()).unwrap().event, Event::Closed);
    }

    #[test]
    fn a_list_shows_live_ones_first_newest_first_of_the_workload_and_up_to_the_limit() {
        let recorder = recorder(8);
        for id in 1..=3 {
            close(&recorder, &live(id), Ending::Closed);
        }
        close(&recorder, &outbound(4), Ending::Closed);
        recorder.open(Arc::new(live(6)));
        recorder.open(Arc::new(live(23)));
        let ids = |workload, limit| -> Vec<u64> {
            recorder.list(workload, limit).iter().map(|r| r.id.as_u64()).collect()
        };
        assert_eq!(ids(None, 100), [23, 6, 4, 3, 2, 1]);
        assert_eq!(ids(Some("db"), 100), [23, 6, 3, 2, 1]);
        assert_eq!(ids(Some("db"), 3), [23, 6, 3]);
        assert_eq!(ids(Some("db"), 1), [23]);
        assert!(ids(Some("none"), 100).is_empty());
    }

    #[test]
    fn parties_are_found_by_identity_name_and_address_in_both_directions() {
        let recorder = recorder(8);
        let inbound = live(1);
        inbound.learn(|l| l.peer_identity = Some("spiffe://example.org/web".into()));
        close(&recorder, &inbound, Ending::Closed);
        close(&recorder, &outbound(2), Ending::Closed);
        for (from, to, want) in [
            ("spiffe://example.org/web", "db", Some(2)),
            ("spiffe://example.org/web", "10.1.0.7:5432", Some(1)),
            ("10.0.0.2", "db", Some(1)),
            ("10.0.0.2", "spiffe://example.org/db", Some(1)),
            ("10.0.0.2:41000", "10.1.0.7", Some(1)),
            ("web", "db", Some(2)),
            ("web", "[fd00::7]:5432", Some(2)),
            ("fd00::2", "[fd00::7]", Some(2)),
            ("web", "spiffe://example.org/db", Some(2)),
            ("web", "web", None),
            ("db", "web", None),
            ("10.0.0.3", "db", None),
            ("10.0.0.2", "10.1.0.7:5433", None),
            ("web", "db:5432", Some(2)),
            ("web", "db:5433", None),
            ("web", "spiffe://example.org/db:5432", Some(2)),
        ] {
            let found = recorder.between(&from.into(), &to.into(), 1).first().map(|r| r.id.as_u64());
            assert_eq!(found, want, "{from} → {to}");
        }
    }

    #[test]
    fn the_connections_between_two_parties_are_those_that_were_opened_last() {
        let recorder = recorder(8);
        let (from, to) = ("web".into(), "db".into());
        recorder.open(Arc::new(outbound(1)));
        close(&recorder, &outbound(2), Ending::Closed);
        let ids = |limit| -> Vec<u64> {
            recorder.between(&from, &to, limit).iter().map(|r| r.id.as_u64()).collect()
        };
        assert_eq!((ids(1), ids(5)), (vec![2], vec![2, 1]));
        recorder.open(Arc::new(outbound(3)));
        close(&recorder, &outbound(4), Ending::Closed);
        assert_eq!((ids(3), ids(9), ids(0)), (vec![4, 3, 2], vec![4, 3, 2, 1], vec![]));
    }

    #[test]
    fn the_last_refused_is_neither_a_cut_nor_a_closed_one() {
        let recorder = recorder(8);
        assert!(recorder.last_refused().is_none());
        let refusal = Refusal::from(Reason::PolicyDenied);
        close(&recorder, &live(1), Ending::Refused(refusal.clone()));
        close(&recorder, &live(2), Ending::Refused(refusal.clone()));
        close(&recorder, &live(3), Ending::Cut(refusal));
        close(&recorder, &live(4), Ending::Closed);
        assert_eq!(recorder.last_refused().unwrap().id.as_u64(), 2);
    }
}
