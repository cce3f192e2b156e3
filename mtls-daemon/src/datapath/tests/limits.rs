//! What a connection holds at most.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ends::{Peer, Watched, in_time, observed, records, rustls_pump, tcp, user_pump};
use crate::datapath::buffer::{Buffer, READ_SIZE};
use crate::datapath::tls::open::MAX_RECORD;
use crate::handshake::{Progress, Records};
use crate::observe::observer::Observed;

type Make = for<'a> fn(TcpStream, TcpStream, Records, &'a Observed) -> Box<dyn Watched + Send + 'a>;

fn user(
    application: TcpStream,
    peer: TcpStream,
    records: Records,
    observed: &Observed,
) -> Box<dyn Watched + Send + '_> {
    Box::new(user_pump(application, peer, records, observed))
}

fn rustls(
    application: TcpStream,
    peer: TcpStream,
    records: Records,
    observed: &Observed,
) -> Box<dyn Watched + Send + '_> {
    Box::new(rustls_pump(application, peer, records, observed))
}

/// Sends until the socket takes no more for a while; returns how much it took.
async fn fill(socket: &TcpStream, bytes: &[u8]) -> usize {
    let mut taken = 0;
    loop {
        match socket.try_write(bytes.get(taken..).expect("more bytes than this are taken")) {
            Ok(length) => taken += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let patience = Duration::from_millis(300);
                if tokio::time::timeout(patience, socket.writable()).await.is_err() {
                    return taken;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Makes the kernel's buffers small; returns what they hold together.
fn small_buffers(sockets: &[&TcpStream]) -> usize {
    let mut sum = 0;
    for socket in sockets {
        let socket = SockRef::from(*socket);
        socket.set_send_buffer_size(32_768).unwrap();
        socket.set_recv_buffer_size(32_768).unwrap();
        sum += socket.send_buffer_size().unwrap() + socket.recv_buffer_size().unwrap();
    }
    sum
}

/// Most bytes that may wait in a direction: one read and what was left of a record, or the records that one
/// read makes.
const MOST: usize = READ_SIZE + MAX_RECORD;

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer_after_the_socket_buffers_and_one_read() {
    back_pressure(user).await;
    back_pressure(rustls).await;
}

async fn back_pressure(make: Make) {
    let (application, at_pump) = tcp().await;
    let (tcp, from_peer) = tcp().await;
    let limit = small_buffers(&[&application, &at_pump, &tcp, &from_peer]) + MOST;
    let (client, server) = records();
    let probe = Arc::new(Mutex::new((0, 0)));
    let most = Arc::clone(&probe);
    let task = tokio::spawn(async move {
        let observed = observed();
        let mut pump = make(at_pump, from_peer, server, &observed);
        poll_fn(|cx| {
            let result = pump.step(cx);
            let mut most = most.lock().unwrap();
            for buffer in pump.buffers() {
                most.0 = most.0.max(buffer.waiting().len());
                most.1 = most.1.max(buffer.capacity());
            }
            result
        })
        .await
    });
    let taken = in_time(fill(&application, &vec![3; 4 * limit])).await;
    assert!(taken > 32_768 && taken < limit, "application to peer: {taken} of at most {limit}");
    // The other direction, while the first one is stuck.
    let mut peer = Peer { tcp, records: client, incoming: Vec::new() };
    let wire = peer.sealed(&vec![4; 4 * limit]);
    let taken = in_time(fill(&peer.tcp, &wire)).await;
    assert!(taken > 32_768 && taken < limit, "peer to application: {taken} of at most {limit}");
    let (waiting, capacity) = *probe.lock().unwrap();
    assert!(waiting > 0 && waiting <= MOST, "{waiting} bytes wait in one buffer");
    assert!(capacity <= 4 * READ_SIZE, "{capacity} bytes of memory in one buffer");
    task.abort();
}

#[tokio::test]
async fn an_idle_pump_owns_no_memory_for_bytes() {
    idle(user).await;
    idle(rustls).await;
}

async fn idle(make: Make) {
    let (mut application, at_pump) = tcp().await;
    let (tcp, from_peer) = tcp().await;
    let (client, server) = records();
    let observed = observed();
    let mut pump = make(at_pump, from_peer, server, &observed);
    let owned = |pump: &dyn Watched| -> usize { pump.buffers().map(Buffer::capacity).iter().sum() };
    assert_eq!(owned(&*pump), 0, "before the first byte");
    let mut peer = Peer { tcp, records: client, incoming: Vec::new() };
    for round in 1..4 {
        let request = peer.sealed(&vec![2; round * 20_000]);
        let answer = vec![1; round * 30_000];
        let exchange = async {
            application.write_all(&answer).await.unwrap();
            peer.tcp.write_all(&request).await.unwrap();
            let mut got = vec![0; round * 20_000];
            in_time(application.read_exact(&mut got)).await.unwrap();
            let mut plaintext = Vec::new();
            while plaintext.len() < answer.len() {
                in_time(peer.tcp.read_buf(&mut peer.incoming)).await.unwrap();
                let (done, progress) =
                    peer.records.advance(&mut peer.incoming, &mut plaintext, &mut Vec::new());
                assert_eq!(progress.unwrap(), Progress::Open);
                peer.incoming.drain(..done);
            }
        };
        tokio::select! {
            () = exchange => {}
            result = poll_fn(|cx| pump.step(cx)) => panic!("{result:?}"),
        }
        assert_eq!(owned(&*pump), 0, "after {round} rounds");
    }
}
