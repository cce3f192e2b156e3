//! Peers that shook hands and then misbehave: each ends its session with its reason.

use socket2::SockRef;

use super::super::WireError;
use super::super::wire::{self, Frame};
use super::*;

fn frame(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write(frame, &mut bytes);
    bytes
}

/// What the server makes of a client that says this.
async fn said(w: &World, bytes: &[u8]) -> LinkEnd {
    let ((near, mut tls), (server, _incoming)) = w.raw_session().await;
    put(&near, &mut tls, bytes).await;
    let why = ended(&server).await;
    assert_eq!(server.send(message(1, Body::Ready)), Err(why.clone()));
    // The peer hears close_notify, not a reset.
    assert!(matches!(until_refused(&near, &mut tls).await, SessionError::Closed));
    let state = tls.process_new_packets().unwrap();
    assert!(state.peer_has_closed());
    why
}

#[tokio::test]
async fn what_is_no_frame_ends_it() {
    let w = world();
    assert_eq!(said(&w, &[0]).await, LinkEnd::Wire(WireError::Empty));
    assert_eq!(said(&w, &[200]).await, LinkEnd::Wire(WireError::TooLong(200)));
    // Its first byte is the length of a frame, its second a type.
    let http = [&b"GET / HTTP/1.1\r\nHost: "[..], &[b'x'; 80]].concat();
    assert_eq!(said(&w, &http).await, LinkEnd::Wire(WireError::UnknownType(b'E')));
    assert_eq!(said(&w, &frame(&Frame::Welcome)).await, LinkEnd::Unexpected);
}

#[tokio::test]
async fn a_message_for_another_destination_ends_it() {
    let w = world();
    let mut other = message(1, Body::Open);
    other.id.tuple.server = "10.0.0.3:80".parse().unwrap();
    let why = said(&w, &frame(&Frame::Message(other))).await;
    assert_eq!(why, LinkEnd::OtherDestination(other.id.tuple.server));
}

#[tokio::test]
async fn what_was_said_before_the_fault_is_heard() {
    let w = world();
    let ((near, mut tls), (server, mut incoming)) = w.raw_session().await;
    let good = message(1, Body::Open);
    put(&near, &mut tls, &[frame(&Frame::Message(good)), vec![0]].concat()).await;
    assert_eq!(in_time(incoming.next()).await, Some(good));
    assert_eq!(in_time(incoming.next()).await, None);
    assert_eq!(ended(&server).await, LinkEnd::Wire(WireError::Empty));
}

#[tokio::test]
async fn half_a_frame_and_then_the_end_is_told_apart_from_an_end() {
    let w = world();
    let whole = frame(&Frame::Message(message(1, Body::Open)));
    for (bytes, polite, why) in [
        (&whole[..20], true, LinkEnd::HalfFrame),
        (&whole[..], true, LinkEnd::PeerClosed),
        (&whole[..20], false, LinkEnd::Cut),
        (&whole[..], false, LinkEnd::Cut),
        (&[], true, LinkEnd::PeerClosed),
        (&[], false, LinkEnd::Cut),
    ] {
        let ((near, mut tls), (server, _incoming)) = w.raw_session().await;
        put(&near, &mut tls, bytes).await;
        if polite {
            tls.send_close_notify();
            in_time(flush(&near, &mut tls)).await.unwrap();
        }
        SockRef::from(&near).shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ended(&server).await, why);
    }
}

#[tokio::test]
async fn a_record_that_was_tampered_with_ends_it_with_an_alert() {
    let w = world();
    let ((near, mut tls), (server, _incoming)) = w.raw_session().await;
    let forged = [&[23, 3, 3, 0, 32][..], &[1; 32]].concat();
    in_time(near.writable()).await.unwrap();
    assert_eq!(near.try_write(&forged).unwrap(), forged.len());
    let why = ended(&server).await;
    assert!(matches!(&why, LinkEnd::Tls(error) if error.contains("decrypt")), "{why}");
    let error = until_refused(&near, &mut tls).await;
    assert!(matches!(error, SessionError::Tls(rustls::Error::AlertReceived(_))), "{error}");
}

#[tokio::test]
async fn a_reset_ends_it() {
    let w = world();
    let ((near, _tls), (server, _incoming)) = w.raw_session().await;
    crate::datapath::relay::outbound::reset(&near);
    drop(near);
    let why = ended(&server).await;
    assert!(matches!(why, LinkEnd::Io(_)), "{why}");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_in_ends_it_once_the_queue_is_full() {
    let w = World { limits: Limits { outgoing: 4, ..Limits::default() }, ..world() };
    let ((near, _tls), (server, _incoming)) = w.raw_session().await;
    let mut sent = 0_u32;
    let why = loop {
        // Far more than the buffers of two sockets hold, at some 90 bytes each.
        assert!(sent < 1_000_000, "nothing ended it");
        if let Err(why) = server.send(message(1, Body::Ready)) {
            break why;
        }
        sent += 1;
        tokio::task::yield_now().await;
    };
    assert_eq!(why, LinkEnd::QueueFull(4));
    assert!(sent > 4, "the task had its turn");
    assert_eq!(ended(&server).await, why);
    drop(near);
}

#[tokio::test]
async fn a_peer_that_is_gone_is_looked_for() {
    let (near, _far) = tcp().await;
    super::super::stream::watch_peer(&near).unwrap();
    let socket = SockRef::from(&near);
    assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
}
