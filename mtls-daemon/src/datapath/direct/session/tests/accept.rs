//! The listener: who gets in, and how many.

use tokio::sync::{mpsc, watch};

use super::super::accept::{Accepted, Bounds, Reception, serve};
use super::*;
use crate::datapath::relay::admission::Admission;
use crate::observe::Reason;

struct Node {
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

async fn node(w: &World, bounds: Bounds) -> Node {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = w.server.clone();
    let workloads = Arc::new(move |_: SocketAddr| Ok(server.clone()));
    let (sender, accepted) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(false);
    let reception = Reception { workloads, admission: Admission::new(64, None), bounds, accepted: sender };
    let task = tokio::spawn(serve(listener, reception, stopped));
    Node { address, accepted, stop, task }
}

async fn call(w: &World, node: &Node) -> Outcome {
    let tcp = TcpStream::connect(node.address).await.unwrap();
    in_time(connect(tcp, &w.call(), &w.limits)).await
}

async fn refusal(node: &mut Node) -> Refusal {
    match in_time(node.accepted.recv()).await.unwrap() {
        Accepted::Refused { refusal, from } => {
            assert!(from.ip().is_loopback());
            refusal
        }
        Accepted::Session { link, .. } => panic!("{link:?}"),
    }
}

#[tokio::test]
async fn sessions_go_to_the_driver_until_the_daemon_stops() {
    let w = world();
    let mut node = node(&w, Bounds::default()).await;
    let (client, _incoming) = call(&w, &node).await.unwrap();
    client.send(message(1, Body::Open)).unwrap();
    let Accepted::Session { link, mut incoming, .. } = in_time(node.accepted.recv()).await.unwrap() else {
        panic!("refused")
    };
    assert_eq!(link.peer().name.to_string(), CLIENT);
    assert_eq!(in_time(incoming.next()).await, Some(message(1, Body::Open)));
    node.stop.send_replace(true);
    in_time(node.task).await.unwrap();
    assert_eq!(link.over(), None, "sessions are the driver's");
    TcpStream::connect(node.address).await.unwrap_err();
}

#[tokio::test]
async fn a_driver_that_is_gone_stops_the_listener() {
    let w = world();
    let node = node(&w, Bounds::default()).await;
    drop(node.accepted);
    in_time(node.task).await.unwrap();
}

#[tokio::test]
async fn refusals_are_told() {
    let w = world();
    let mut node = node(&w, Bounds::default()).await;
    let tls = workload(&TestCa::root("theirs"), &w.ca, &LeafSpec::id(CLIENT));
    let tcp = TcpStream::connect(node.address).await.unwrap();
    let call = Call { tls, ..w.call() };
    assert!(in_time(connect(tcp, &call, &w.limits)).await.is_err());
    assert_eq!(refusal(&mut node).await.reason, Reason::UnknownIssuer);
}

#[tokio::test]
async fn strangers_have_a_bounded_number_of_places_and_give_them_back() {
    let w = world();
    let mut node = node(&w, Bounds { unproven: 1, ..Bounds::default() }).await;
    let silent = TcpStream::connect(node.address).await.unwrap();
    // The reset may come before connect() returns.
    if let Ok(tcp) = TcpStream::connect(node.address).await {
        in_time(connect(tcp, &w.call(), &w.limits)).await.unwrap_err();
    }
    let told = refusal(&mut node).await;
    assert_eq!(told.reason, Reason::HandshakeLimit);
    drop(silent);
    assert_eq!(refusal(&mut node).await.reason, Reason::HandshakeClosed);
    assert!(call(&w, &node).await.is_ok());
}

#[tokio::test]
async fn sessions_have_a_bounded_number_of_places_and_give_them_back() {
    for bounds in
        [Bounds { sessions: 1, ..Bounds::default() }, Bounds { sessions_of_a_node: 1, ..Bounds::default() }]
    {
        has_one_place(bounds).await;
    }
}

async fn has_one_place(bounds: Bounds) {
    let w = world();
    let mut node = node(&w, bounds).await;
    let _first = call(&w, &node).await.unwrap();
    let first = in_time(node.accepted.recv()).await.unwrap();
    assert!(matches!(first, Accepted::Session { .. }));
    if let Ok(tcp) = TcpStream::connect(node.address).await {
        in_time(connect(tcp, &w.call(), &w.limits)).await.unwrap_err();
    }
    assert_eq!(refusal(&mut node).await.reason, Reason::TotalLimit);
    drop(first);
    assert!(call(&w, &node).await.is_ok());
}
