//! Random chunks, pauses and ends.

use std::io;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Runtime;

use super::ends::{
    Outcome, in_time, is_reset, observed, plain_pump, records, reset, run, rustls_pump, served, tcp, tls_pump,
};
use crate::datapath::PumpError;
use crate::datapath::relay::carrier::Carrier;
use crate::handshake::Records;
use crate::observe::Reason;

/// How an application ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// shutdown(SHUT_WR), then it reads to the end.
    Fin,
    /// RST as soon as everything is written.
    Rst,
}

/// What one application does.
#[derive(Debug, Clone)]
struct Script {
    writes: Vec<(usize, Pause)>,
    reads: Vec<(usize, Pause)>,
    end: End,
}

type Pause = Option<Duration>;

fn pause() -> impl Strategy<Value = Pause> {
    prop_oneof![6 => Just(None), 1 => (0..3_u64).prop_map(|ms| Some(Duration::from_millis(ms)))]
}

fn script() -> impl Strategy<Value = Script> {
    let size = prop_oneof![1..20_usize, 1..3_000_usize, 1..200_000_usize];
    let room = prop_oneof![1 => 50..300_usize, 3 => 300..70_000_usize];
    let end = prop_oneof![3 => Just(End::Fin), 1 => Just(End::Rst)];
    (vec((size, pause()), 0..8), vec((room, pause()), 1..8), end).prop_map(|(writes, reads, end)| Script {
        writes,
        reads,
        end,
    })
}

impl Script {
    fn length(&self) -> usize {
        self.writes.iter().map(|(length, _)| length).sum()
    }
}

/// The byte at a position of a stream; a lost, doubled or displaced one is noticed.
fn byte(seed: u8, position: usize) -> u8 {
    let low = u8::try_from(position % 251).unwrap();
    let high = u8::try_from((position / 251) % 241).unwrap();
    seed ^ low.wrapping_mul(31) ^ high
}

async fn rest(pause: Pause) {
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
}

async fn write_all(socket: &mut OwnedWriteHalf, seed: u8, script: &Script) -> io::Result<()> {
    let mut position = 0;
    for (length, pause) in &script.writes {
        let bytes: Vec<u8> = (position..position + length).map(|position| byte(seed, position)).collect();
        socket.write_all(&bytes).await?;
        position += length;
        rest(*pause).await;
    }
    Ok(())
}

/// What the reader saw: how many bytes, and whether a clean end.
#[derive(Debug)]
struct Seen {
    length: usize,
    end: io::Result<()>,
}

async fn read_all(socket: &mut OwnedReadHalf, seed: u8, script: &Script) -> Seen {
    let mut length = 0;
    let mut room = Vec::new();
    for (size, pause) in script.reads.iter().cycle() {
        room.resize(*size, 0);
        match socket.read(&mut room).await {
            Ok(0) => return Seen { length, end: Ok(()) },
            Ok(count) => {
                for got in &room[..count] {
                    assert_eq!(*got, byte(seed, length), "byte {length}");
                    length += 1;
                }
            }
            Err(error) => return Seen { length, end: Err(error) },
        }
        // A pause at every round of a small reader would take minutes.
        if *size > 10_000 {
            rest(*pause).await;
        }
    }
    unreachable!("a cycle")
}

/// Plays a script; the result is what was read, unless the script ended with RST.
async fn play(socket: TcpStream, script: Script, own_seed: u8, other_seed: u8) -> Option<Seen> {
    let (mut from, mut to) = socket.into_split();
    let reader = {
        let script = script.clone();
        async move {
            let seen = read_all(&mut from, other_seed, &script).await;
            (from, seen)
        }
    };
    let writer = async {
        // It may fail: the other end may have sent RST.
        let mut written = write_all(&mut to, own_seed, &script).await;
        if script.end == End::Fin {
            written = written.and(to.shutdown().await);
        }
        (to, written)
    };
    if script.end == End::Fin {
        let ((_from, mut seen), (_to, written)) = tokio::join!(reader, writer);
        // The kernel tells a socket's error once: to the writer, or to the reader.
        seen.end = seen.end.and(written);
        return Some(seen);
    }
    let reader = tokio::spawn(reader);
    let (to, _) = writer.await;
    SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    reader.abort();
    drop(reader.await);
    // Dropping it would send FIN first.
    to.forget();
    None
}

/// What carries the bytes.
enum Way {
    Plain,
    Tls(Records),
    Rustls(Records),
}

async fn both(left: Script, right: Script, ways: (Way, Way)) -> (Option<Seen>, Option<Seen>, [Outcome; 2]) {
    let (a, a_at_pump) = tcp().await;
    let (wire_a, wire_b) = tcp().await;
    let (b_at_pump, b) = tcp().await;
    let start = |application, peer, way| {
        tokio::spawn(async move {
            let observed = observed();
            let pump = match way {
                Way::Plain => plain_pump(application, peer, &observed),
                Way::Tls(records) => tls_pump(application, peer, records, &observed),
                Way::Rustls(records) => Carrier::Other(rustls_pump(application, peer, records, &observed)),
            };
            run(pump, None).await
        })
    };
    let outcomes = [start(a_at_pump, wire_a, ways.0), start(b_at_pump, wire_b, ways.1)];
    let left = tokio::spawn(play(a, left, 0x5a, 0xa5));
    let right = tokio::spawn(play(b, right, 0xa5, 0x5a));
    let (left, right) = tokio::join!(left, right);
    (left.unwrap(), right.unwrap(), outcomes)
}

fn check(runtime: &Runtime, left: &Script, right: &Script, ways: (Way, Way)) {
    runtime.block_on(in_time(async {
        let (seen_left, seen_right, outcomes) = both(left.clone(), right.clone(), ways).await;
        let whole = left.end == End::Fin && right.end == End::Fin;
        for (seen, other) in [(seen_left, right), (seen_right, left)] {
            let Some(seen) = seen else { continue };
            match (other.end, &seen.end) {
                (End::Fin, Ok(())) => assert_eq!(seen.length, other.length(), "all bytes, then EOF"),
                (End::Rst, Err(error)) => {
                    assert!(is_reset(error), "{error}");
                    assert!(seen.length <= other.length());
                }
                (end, seen) => panic!("the other end ended with {end:?}, and this one saw {seen:?}"),
            }
        }
        for outcome in outcomes {
            let outcome = outcome.await.unwrap();
            assert_eq!(outcome.is_ok(), whole, "{outcome:?}");
        }
    }));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn the_stream_is_byte_exact_until_its_end_and_rst_is_never_a_clean_end() {
    let runtime = runtime();
    proptest!(ProptestConfig::with_cases(40), |(left in script(), right in script())| {
        let (client, server) = records();
        check(&runtime, &left, &right, (Way::Tls(client), Way::Tls(server)));
    });
}

#[test]
fn so_is_a_stream_whose_records_one_end_leaves_to_rustls() {
    let runtime = runtime();
    proptest!(ProptestConfig::with_cases(40), |(left in script(), right in script(), first in any::<bool>())| {
        let (client, server) = records();
        let ways = match first {
            true => (Way::Rustls(client), Way::Tls(server)),
            false => (Way::Tls(client), Way::Rustls(server)),
        };
        check(&runtime, &left, &right, ways);
    });
}

#[test]
fn so_is_a_stream_that_is_passed_on_in_plain() {
    let runtime = runtime();
    proptest!(ProptestConfig::with_cases(40), |(left in script(), right in script())| {
        check(&runtime, &left, &right, (Way::Plain, Way::Plain));
    });
}

#[test]
fn records_arrive_whole_however_the_network_cuts_them() {
    let runtime = runtime();
    let cut = vec(prop_oneof![5..60_usize, 1..40_000_usize], 1..12);
    proptest!(ProptestConfig::with_cases(30), |(sizes in vec(1..60_000_usize, 1..5), cuts in cut)| {
        runtime.block_on(in_time(async {
            let (mut application, mut peer, outcome) = served(None).await;
            let bytes: Vec<u8> = (0..sizes.iter().sum()).map(|position| byte(7, position)).collect();
            let mut wire = Vec::new();
            let mut rest = bytes.as_slice();
            for size in &sizes {
                let (now, later) = rest.split_at(*size);
                wire.extend(peer.sealed(now));
                rest = later;
            }
            wire.extend(peer.close_notify());
            peer.tcp.set_nodelay(true).unwrap();
            let sender = async {
                let mut cuts = cuts.iter().cycle();
                let mut wire = wire.as_slice();
                while !wire.is_empty() {
                    let (now, later) = wire.split_at(wire.len().min(*cuts.next().unwrap()));
                    peer.tcp.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    wire = later;
                }
            };
            let mut received = Vec::new();
            let (read, ()) = tokio::join!(application.read_to_end(&mut received), sender);
            read.unwrap();
            assert!(received == bytes);
            drop(application);
            assert_eq!(peer.read_all().await, Ok(Vec::new()));
            outcome.await.unwrap().unwrap();
        }));
    });
}

#[test]
fn a_reset_in_the_middle_is_a_reset_at_the_other_end_and_says_whose_it_was() {
    let runtime = runtime();
    proptest!(ProptestConfig::with_cases(30), |(length in 0..100_000_usize, from_application in any::<bool>())| {
        runtime.block_on(in_time(async {
            let (application, mut peer, outcome) = served(None).await;
            let wire = peer.sealed(&vec![1; length]);
            let bytes = vec![1; length];
            let (mut sender, mut reader, bytes) = match from_application {
                true => (application, peer.tcp, bytes),
                false => {
                    application.set_nodelay(true).unwrap();
                    (peer.tcp, application, wire)
                }
            };
            let send = async {
                sender.write_all(&bytes).await.unwrap();
                reset(sender);
            };
            let mut received = Vec::new();
            let ((), end) = tokio::join!(send, reader.read_to_end(&mut received));
            assert!(is_reset(&end.unwrap_err()));
            let outcome = outcome.await.unwrap().unwrap_err();
            assert!(matches!(outcome, PumpError::Application(_)) == from_application, "{outcome:?}");
            assert_eq!(outcome.refusal().reason, Reason::Reset);
        }));
    });
}
