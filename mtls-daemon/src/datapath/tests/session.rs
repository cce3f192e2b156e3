//! From the first byte of the handshake to the pump, with a server whose every message is in pieces.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ends::{Peer, fresh_records, fresh_records_in_fragments, in_time, next, observed, run, tcp};
use crate::datapath::relay::carrier::Carrier;
use crate::datapath::relay::pump::Pump;
use crate::datapath::relay::session::{Session, SessionError};
use crate::handshake::{Preface, Records};
use crate::observe::Refusal;

/// Shakes hands as the server and returns what it still has to send: its last flight.
async fn accept(server: &mut Peer, cuts: &[usize]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while server.records.is_handshaking() {
        for piece in std::mem::take(&mut wire).chunks(*cuts.next().unwrap()) {
            server.tcp.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        in_time(server.tcp.read_buf(&mut server.incoming)).await.unwrap();
        let (done, progress) = server.records.advance(&mut server.incoming, &mut Vec::new(), &mut wire);
        progress.unwrap();
        server.incoming.drain(..done);
    }
    wire
}

async fn peers(records: (Records, Records)) -> (Session, Peer) {
    let (to_server, tcp) = tcp().await;
    tcp.set_nodelay(true).unwrap();
    let server = Peer { tcp, records: records.1, incoming: Vec::new() };
    (Session::new(to_server, records.0, Vec::new()), server)
}

#[test]
fn messages_in_any_number_of_records_and_chunks_are_understood_and_bytes_may_go_out_in_between() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cuts = proptest::collection::vec(1..400_usize, 1..6);
    proptest!(ProptestConfig::with_cases(12), |(cuts in cuts, early in 1..140_usize)| {
        runtime.block_on(in_time(async {
            let (mut session, mut server) = peers(fresh_records_in_fragments()).await;
            let (mut application, at_pump) = tcp().await;
            let client = tokio::spawn(async move {
                session.handshake().await.unwrap();
                let (peer, codec, incoming, to_application, to_peer) = session.into_parts();
                let observed = observed();
                let pump = Pump::new(at_pump, peer, codec, &observed, incoming, to_application, to_peer);
                run(Carrier::Other(pump), None).await
            });
            // The ticket: a message in several records, of which only some are there when the client speaks.
            let ticket = accept(&mut server, &cuts).await;
            assert!(ticket.len() > 140, "{} bytes", ticket.len());
            server.tcp.write_all(&ticket[..early]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            application.write_all(b"request").await.unwrap();
            in_time(server.tcp.readable()).await.unwrap();
            server.tcp.write_all(&ticket[early..]).await.unwrap();
            server.send(b"reply").await;
            let mut reply = [0; 5];
            in_time(application.read_exact(&mut reply)).await.unwrap();
            assert_eq!(&reply, b"reply");
            application.shutdown().await.unwrap();
            assert_eq!(server.read_all().await, Ok(b"request".to_vec()));
            let end = server.close_notify();
            server.tcp.write_all(&end).await.unwrap();
            client.await.unwrap().unwrap();
        }));
    });
}

#[tokio::test]
async fn a_refusal_by_preface_arrives_whole_though_the_server_closes_behind_it() {
    let (to_client, from_server) = tcp().await;
    let (client, server) = fresh_records();
    let (mut client, mut server) =
        (Session::new(to_client, client, Vec::new()), Session::new(from_server, server, Vec::new()));
    let refusing = Preface::refusing(&Refusal::new(crate::observe::Reason::PolicyDenied, "rule a"));
    let said = refusing.clone();
    let server = tokio::spawn(async move {
        server.handshake().await.unwrap();
        server.send_preface(&said).await.unwrap();
        server.close().await;
    });
    in_time(client.handshake()).await.unwrap();
    assert!(client.records().speaks_mtlsd());
    // Bytes that the server never reads must not turn its close into RST before we have read why.
    client.send_preface(&Preface::Refused(1, "x".repeat(1000))).await.unwrap();
    assert_eq!(in_time(client.read_preface()).await.unwrap(), refusing);
    assert!(matches!(in_time(client.read_preface()).await, Err(SessionError::Closed)));
    drop(client);
    in_time(server).await.unwrap();
}

#[tokio::test]
async fn no_message_of_a_handshake_waits_for_an_acknowledgement() {
    let (session, _server) = peers(fresh_records()).await;
    assert!(session.into_socket().nodelay().unwrap());
}

#[tokio::test]
async fn garbage_is_answered_with_an_alert_and_eof_is_told_apart() {
    let (mut peer, from_peer) = tcp().await;
    let mut session = Session::new(from_peer, fresh_records().1, b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(matches!(in_time(session.handshake()).await, Err(SessionError::Tls(_))));
    assert_eq!(next(&mut peer).await.unwrap(), Some(21), "content type alert (RFC 8446, section 5.1)");
    drop(session.into_socket());

    let (mut peer, from_peer) = tcp().await;
    let mut session = Session::new(from_peer, fresh_records().1, Vec::new());
    peer.shutdown().await.unwrap();
    assert!(matches!(in_time(session.handshake()).await, Err(SessionError::Closed)));
}

#[tokio::test]
async fn a_preface_of_another_version_is_refused() {
    let (session, mut server) = peers(fresh_records()).await;
    let mut session = session;
    let (handshake, rest) = tokio::join!(session.handshake(), accept(&mut server, &[10_000]));
    handshake.unwrap();
    server.tcp.write_all(&rest).await.unwrap();
    server.send(&[9, 0, 0, 0]).await;
    assert!(matches!(in_time(session.read_preface()).await, Err(SessionError::Preface(_))));
}
