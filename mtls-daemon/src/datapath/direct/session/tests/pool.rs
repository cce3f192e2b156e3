//! Sessions by pair: made, kept, renewed, ended.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc};

use super::super::pool::{Connecting, Event, Pair, Pool, Terms};
use super::*;
use crate::observe::Reason;

/// The network, the other node, and what the pool does with them.
struct Net {
    world: World,
    /// How often the pool called.
    calls: AtomicUsize,
    broken: AtomicBool,
    /// A call waits for one of these.
    gate: Semaphore,
    /// The other node's ends.
    servers: Mutex<Vec<(Link, Incoming)>>,
}

fn net(open: usize) -> Arc<Net> {
    let (calls, broken, servers) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::default());
    Arc::new(Net { world: world(), calls, broken, gate: Semaphore::new(open), servers })
}

impl Net {
    fn pool(self: &Arc<Self>, terms: Terms) -> (Pool, mpsc::Receiver<Event>) {
        let (events, heard) = mpsc::channel(16);
        let net = Arc::clone(self);
        let connector = move |_pair: Pair| -> Connecting {
            net.calls.fetch_add(1, Ordering::SeqCst);
            let net = Arc::clone(&net);
            Box::pin(async move {
                net.gate.acquire().await.unwrap().forget();
                if net.broken.load(Ordering::SeqCst) {
                    return Err(Refusal::new(Reason::DialTimeout, "no way"));
                }
                let (client, server) = net.world.meet(&net.world.call()).await;
                net.servers.lock().unwrap().push(server?);
                client
            })
        };
        (Pool::new(Box::new(connector), events, terms), heard)
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The other node's end of session `number`.
    fn server(&self, number: usize) -> Link {
        self.servers.lock().unwrap()[number].0.clone()
    }
}

fn terms() -> Terms {
    let hour = Duration::from_secs(3_600);
    Terms { back_off: hour, longest_back_off: hour, ..Terms::default() }
}

fn pair(own: &str) -> Pair {
    Pair { own: own.into(), destination: destination() }
}

async fn opened(heard: &mut mpsc::Receiver<Event>) -> (Pair, WeakLink, Incoming) {
    match in_time(heard.recv()).await.unwrap() {
        Event::Opened { pair, link, incoming } => (pair, link, incoming),
        Event::Failed { refusal, .. } => panic!("{refusal}"),
    }
}

async fn failed(heard: &mut mpsc::Receiver<Event>) -> Duration {
    match in_time(heard.recv()).await.unwrap() {
        Event::Failed { pause, refusal, .. } => {
            assert_eq!(refusal.reason, Reason::DialTimeout);
            pause
        }
        Event::Opened { link, .. } => panic!("{link:?}"),
    }
}

#[tokio::test]
async fn the_first_connection_finds_none_and_the_next_ones_share_one() {
    let net = net(9);
    let (pool, mut heard) = net.pool(terms());
    for _ in 0..3 {
        assert!(pool.get(&pair("web")).is_none());
    }
    let (whose, link, _incoming) = opened(&mut heard).await;
    assert_eq!((whose, net.calls()), (pair("web"), 1));
    let (one, other) = (pool.get(&pair("web")).unwrap(), pool.get(&pair("web")).unwrap());
    assert!(one.is_same(&other) && one.is_same(&link.upgrade().unwrap()));
    assert!(pool.get(&pair("api")).is_none(), "another workload has its own");
    opened(&mut heard).await;
    assert_eq!(net.calls(), 2);
}

#[tokio::test]
async fn after_a_failure_nothing_is_tried_for_a_time_that_doubles() {
    let net = net(9);
    net.broken.store(true, Ordering::SeqCst);
    let (pool, mut heard) = net.pool(terms());
    assert!(pool.get(&pair("web")).is_none());
    failed(&mut heard).await;
    assert!(pool.get(&pair("web")).is_none());
    assert_eq!(net.calls(), 1);
    // A new identity may be what was missing.
    pool.renew("web");
    net.broken.store(false, Ordering::SeqCst);
    assert!(pool.get(&pair("web")).is_none());
    let _session = opened(&mut heard).await;
    assert!(pool.get(&pair("web")).is_some());

    let quick =
        Terms { back_off: Duration::from_nanos(1), longest_back_off: Duration::from_nanos(5), ..terms() };
    let (pool, mut heard) = net.pool(quick);
    net.broken.store(true, Ordering::SeqCst);
    for nanos in [1, 2, 4, 5, 5] {
        assert!(pool.get(&pair("web")).is_none());
        assert_eq!(failed(&mut heard).await, Duration::from_nanos(nanos));
    }
}

#[tokio::test]
async fn a_renewed_identity_takes_new_connections_and_the_old_session_keeps_its_own() {
    let net = net(9);
    let (pool, mut heard) = net.pool(terms());
    assert!(pool.get(&pair("web")).is_none());
    let (_, _, _first) = opened(&mut heard).await;
    let connection = pool.get(&pair("web")).unwrap();
    pool.renew("other");
    pool.renew("web");
    assert!(pool.get(&pair("web")).unwrap().is_same(&connection), "until the new one is there");
    let (_, _, _second) = opened(&mut heard).await;
    assert_eq!(net.calls(), 2);
    let new = pool.get(&pair("web")).unwrap();
    assert!(!new.is_same(&connection));
    // The old one still carries words and keys.
    let said = message(1, Body::Ready);
    connection.send(said).unwrap();
    let (old_server, mut old_heard) = net.servers.lock().unwrap().remove(0);
    assert_eq!(in_time(old_heard.next()).await, Some(said));
    assert!(connection.keys(&said.id, Nonce([8; 16])).is_ok());
    drop(connection);
    assert_eq!(ended(&old_server).await, LinkEnd::PeerClosed);
    assert_eq!(new.over(), None);
}

#[tokio::test]
async fn an_identity_that_changes_while_a_session_is_made_has_it_made_again() {
    let net = net(0);
    let (pool, mut heard) = net.pool(terms());
    assert!(pool.get(&pair("web")).is_none());
    pool.renew("web");
    net.gate.add_permits(1);
    let (_, _first, _incoming) = opened(&mut heard).await;
    assert_eq!(net.calls(), 2);
    net.gate.add_permits(1);
    let (_, second, _incoming) = opened(&mut heard).await;
    assert!(pool.get(&pair("web")).unwrap().is_same(&second.upgrade().unwrap()));
    assert_eq!(net.calls(), 2);
}

#[tokio::test]
async fn a_session_that_ended_is_not_given_out_and_made_anew() {
    let net = net(9);
    let (pool, mut heard) = net.pool(terms());
    assert!(pool.get(&pair("web")).is_none());
    let (_, first, _incoming) = opened(&mut heard).await;
    net.server(0).end(LinkEnd::ShuttingDown);
    assert_eq!(in_time(first.ended()).await, LinkEnd::PeerClosed);
    assert!(pool.get(&pair("web")).is_none());
    let (_, second, _incoming) = opened(&mut heard).await;
    assert!(pool.get(&pair("web")).unwrap().is_same(&second.upgrade().unwrap()));
}

#[tokio::test]
async fn a_lease_that_ends_takes_its_sessions_with_it_and_those_under_way() {
    let net = net(1);
    let (pool, mut heard) = net.pool(terms());
    assert!(pool.get(&pair("web")).is_none());
    let (_, web, _incoming) = opened(&mut heard).await;
    assert!(pool.get(&pair("api")).is_none());
    pool.end(|pair| &*pair.own == "web" || &*pair.own == "api", &LinkEnd::LeaseEnded);
    assert_eq!(in_time(web.ended()).await, LinkEnd::LeaseEnded);
    // A later wish is another attempt: what the first one brings is not its answer.
    assert!(pool.get(&pair("api")).is_none());
    assert_eq!(net.calls(), 3);
    net.gate.add_permits(1);
    let server = in_time(async {
        loop {
            if let Some((server, _)) = net.servers.lock().unwrap().get(1) {
                return server.clone();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(ended(&server).await, LinkEnd::PeerClosed);
    assert!(heard.try_recv().is_err() && pool.get(&pair("api")).is_none());
    net.gate.add_permits(1);
    let (_, api, _incoming) = opened(&mut heard).await;
    assert!(pool.get(&pair("api")).unwrap().is_same(&api.upgrade().unwrap()));
}

#[tokio::test]
async fn the_number_of_pairs_is_bounded_and_dead_ones_make_room() {
    let net = net(9);
    let (pool, mut heard) = net.pool(Terms { pairs: 1, ..terms() });
    assert!(pool.get(&pair("web")).is_none());
    let (_, _web, _incoming) = opened(&mut heard).await;
    assert!(pool.get(&pair("api")).is_none());
    assert_eq!(net.calls(), 1, "no room");
    net.server(0).end(LinkEnd::ShuttingDown);
    assert_eq!(in_time(_web.ended()).await, LinkEnd::PeerClosed);
    assert!(pool.get(&pair("api")).is_none());
    assert_eq!((opened(&mut heard).await.0, net.calls()), (pair("api"), 2));
}
