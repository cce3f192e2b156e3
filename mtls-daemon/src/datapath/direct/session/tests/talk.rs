//! Two ends that both do what they should.

use mtls_direct::{Counts, Reason, Role};

use super::super::KeyError;
use super::super::keys::tests::{Parts, parts};
use super::*;

fn both(link: &Link, id: &ConnectionId, server: Nonce) -> (Parts, Parts) {
    let keys = link.keys(id, server).unwrap();
    (parts(&keys.tx), parts(&keys.rx))
}

#[tokio::test]
async fn both_ends_know_each_other_and_hear_what_the_other_says_in_order() {
    let w = world();
    let ((client, mut to_client), (server, mut to_server)) = w.session().await;
    assert_eq!(client.peer().name.to_string(), SERVER);
    assert_eq!(server.peer().name.to_string(), CLIENT);
    assert_eq!((client.destination(), server.destination()), (destination(), destination()));
    assert_eq!((client.end_here(), server.end_here()), (Role::Client, Role::Server));
    let said: Vec<Message> = [
        Body::Open,
        Body::Ready,
        Body::Abort(Reason::NoKernelTls),
        Body::Closed(Counts { sent: u64::MAX, received: 0 }),
    ]
    .into_iter()
    .zip(1..)
    .map(|(body, number)| message(number, body))
    .collect();
    for message in &said {
        client.send(*message).unwrap();
        server.send(*message).unwrap();
    }
    for message in said {
        assert_eq!(in_time(to_server.next()).await, Some(message));
        assert_eq!(in_time(to_client.next()).await, Some(message));
    }
    assert_eq!((client.over(), server.over()), (None, None));
}

#[tokio::test]
async fn both_ends_derive_keys_that_fit_and_no_two_sessions_the_same() {
    let w = world();
    let ((client, _to_client), (server, _to_server)) = w.session().await;
    let (id, nonce) = (message(7, Body::Open).id, Nonce([8; 16]));
    let (tx, rx) = both(&client, &id, nonce);
    assert_eq!(both(&server, &id, nonce), (rx.clone(), tx.clone()));
    let other = both(&client, &message(9, Body::Open).id, nonce);
    assert!(other.0 != tx && other.1 != rx);
    let ((another, _to_client), _server) = w.session().await;
    let same_words = both(&another, &id, nonce);
    assert!(same_words.0 != tx && same_words.1 != rx);
}

#[tokio::test]
async fn a_driver_that_is_slow_gets_everything_and_the_peer_waits() {
    let w = World { limits: Limits { incoming: 1, ..Limits::default() }, ..world() };
    let ((client, _to_client), (_server, mut to_server)) = w.session().await;
    for number in 0..=u8::MAX {
        client.send(message(number, Body::Ready)).unwrap();
    }
    for number in 0..=u8::MAX {
        assert_eq!(in_time(to_server.next()).await, Some(message(number, Body::Ready)));
    }
}

#[tokio::test]
async fn the_last_holder_ends_a_session_after_what_it_said() {
    let w = world();
    let ((client, mut to_client), (server, mut to_server)) = w.session().await;
    let (holder, weak) = (client.clone(), client.downgrade());
    drop(client);
    assert_eq!(weak.upgrade().unwrap().over(), None, "a connection still holds it");
    holder.send(message(1, Body::Ready)).unwrap();
    drop(holder);
    assert_eq!(in_time(weak.ended()).await, LinkEnd::Unused);
    assert!(weak.upgrade().is_none());
    assert_eq!(in_time(to_client.next()).await, None);
    assert_eq!(in_time(to_server.next()).await, Some(message(1, Body::Ready)));
    assert_eq!(in_time(to_server.next()).await, None);
    assert_eq!(ended(&server).await, LinkEnd::PeerClosed);
}

#[tokio::test]
async fn whoever_ends_it_is_heard_to_the_end_and_gets_neither_words_nor_keys_through_any_more() {
    let w = world();
    let ((client, _to_client), (server, mut to_server)) = w.session().await;
    let abort = message(1, Body::Abort(Reason::LeaseEnded));
    client.send(abort).unwrap();
    client.end(LinkEnd::LeaseEnded);
    client.end(LinkEnd::ShuttingDown);
    assert_eq!(client.over(), Some(LinkEnd::LeaseEnded), "the first reason stays");
    assert_eq!(client.send(abort), Err(LinkEnd::LeaseEnded));
    let error = client.keys(&abort.id, Nonce([8; 16])).unwrap_err();
    assert_eq!(error, KeyError::Over(LinkEnd::LeaseEnded));
    assert_eq!(in_time(to_server.next()).await, Some(abort));
    assert_eq!(in_time(to_server.next()).await, None);
    assert_eq!(ended(&server).await, LinkEnd::PeerClosed);
    assert_eq!(server.send(abort), Err(LinkEnd::PeerClosed));
}

#[tokio::test]
async fn a_driver_that_does_not_want_to_hear_any_more_ends_it() {
    let w = world();
    let ((client, to_client), (server, _to_server)) = w.session().await;
    drop(to_client);
    assert_eq!(ended(&client).await, LinkEnd::Unused);
    assert_eq!(ended(&server).await, LinkEnd::PeerClosed);
}
