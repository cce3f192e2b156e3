//! What the pump promises, one by one.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use super::ends::{
    Peer, fresh_records, in_time, is_alert, is_forgery, is_reset, next, observed, plain_pump, records, reset,
    run, served, tcp, tls_pump,
};
use crate::datapath::PumpError;
use crate::datapath::buffer::Buffer;
use crate::datapath::relay::carrier::{Carrier, NotDirect};
use crate::datapath::relay::pump::{Codec, Pump};
use crate::datapath::relay::session::{Session, SessionError};
use crate::datapath::tls::ChannelError;
use crate::handshake::{Preface, Progress, Records};
use crate::lease::{Leases, Mark, Parties};
use crate::observe::connection::Ending;
use crate::observe::{Reason, Refusal};

#[tokio::test]
async fn half_close_leaves_the_other_direction_working() {
    let (mut application, mut peer, outcome) = served(None).await;
    peer.send(b"request").await;
    let end = peer.close_notify();
    peer.tcp.write_all(&end).await.unwrap();
    peer.tcp.shutdown().await.unwrap();
    let mut request = Vec::new();
    in_time(application.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"request");
    tokio::time::sleep(Duration::from_millis(20)).await;
    application.write_all(&[7; 300_000]).await.unwrap();
    drop(application);
    assert_eq!(peer.read_all().await, Ok(vec![7; 300_000]));
    in_time(outcome).await.unwrap().unwrap();

    let (mut application, mut peer, outcome) = served(None).await;
    application.write_all(b"greeting").await.unwrap();
    application.shutdown().await.unwrap();
    assert_eq!(peer.read_all().await, Ok(b"greeting".to_vec()));
    peer.send(b"answer").await;
    let end = peer.close_notify();
    peer.tcp.write_all(&end).await.unwrap();
    let mut answer = Vec::new();
    in_time(application.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer");
    in_time(outcome).await.unwrap().unwrap();
}

#[tokio::test]
async fn rst_after_half_close_reaches_the_other_end_though_that_end_is_not_read_any_more() {
    let (mut application, mut peer, outcome) = served(None).await;
    application.shutdown().await.unwrap();
    assert_eq!(peer.read_all().await, Ok(vec![]), "the half-close has gone through");
    reset(application);
    in_time(peer.tcp.ready(Interest::ERROR)).await.unwrap();
    assert!(is_reset(&peer.tcp.write_all(b"x").await.unwrap_err()));
    assert!(matches!(in_time(outcome).await.unwrap(), Err(PumpError::Application(_))));

    let (mut application, mut peer, outcome) = served(None).await;
    let end = peer.close_notify();
    peer.tcp.write_all(&end).await.unwrap();
    assert_eq!(next(&mut application).await.unwrap(), None);
    reset(peer.tcp);
    assert!(matches!(in_time(outcome).await.unwrap(), Err(PumpError::Peer(_))));
    in_time(application.ready(Interest::ERROR)).await.unwrap();
    assert!(is_reset(&application.write_all(b"x").await.unwrap_err()));
}

#[tokio::test]
async fn eof_without_close_notify_is_a_truncation_and_rst_for_the_application() {
    for sent in [b"".as_slice(), b"half a reply"] {
        let (mut application, mut peer, outcome) = served(None).await;
        if !sent.is_empty() {
            peer.send(sent).await;
            let mut got = vec![0; sent.len()];
            in_time(application.read_exact(&mut got)).await.unwrap();
        }
        peer.tcp.shutdown().await.unwrap();
        let error = next(&mut application).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let outcome = in_time(outcome).await.unwrap().unwrap_err();
        assert!(matches!(outcome, PumpError::Truncated));
        assert_eq!(outcome.refusal().reason, Reason::Truncated);
    }
}

#[tokio::test]
async fn half_a_record_and_eof_is_a_truncation_too() {
    let (mut application, mut peer, outcome) = served(None).await;
    let wire = peer.sealed(b"never seen");
    peer.tcp.write_all(&wire[..wire.len() - 1]).await.unwrap();
    peer.tcp.shutdown().await.unwrap();
    assert_eq!(next(&mut application).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(in_time(outcome).await.unwrap(), Err(PumpError::Truncated)));
}

#[tokio::test]
async fn a_forged_record_is_an_alert_to_the_peer_and_rst_for_the_application() {
    // With something behind it: unread bytes would turn the close into RST, which overtakes the alert.
    for behind in [0, 100_000] {
        let (mut application, mut peer, outcome) = served(None).await;
        peer.send(b"o").await;
        assert_eq!(next(&mut application).await.unwrap(), Some(b'o'));
        let mut wire = peer.sealed(b"forged");
        *wire.last_mut().unwrap() ^= 1;
        wire.extend(peer.sealed(&vec![0; behind]));
        peer.tcp.write_all(&wire).await.unwrap();
        assert_eq!(next(&mut application).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let outcome = in_time(outcome).await.unwrap().unwrap_err();
        assert!(is_forgery(&outcome), "{outcome}");
        assert_eq!(outcome.refusal().reason, Reason::RecordError);
        let said = peer.read_all().await.unwrap_err();
        assert!(said.to_lowercase().contains("bad") && said.to_lowercase().contains("mac"), "{said}");
        assert_eq!(next(&mut peer.tcp).await.unwrap(), None, "FIN, not RST");
    }
}

#[tokio::test]
async fn an_alert_of_the_peer_is_rst_for_the_application() {
    let (mut application, at_pump) = tcp().await;
    let (mut tcp, from_peer) = tcp().await;
    let (client, mut server) = records();
    let outcome = tokio::spawn(async move {
        let observed = observed();
        run(tls_pump(at_pump, from_peer, client, &observed), None).await
    });
    // What rustls says of a forged record is a fatal alert.
    let mut alert = Vec::new();
    let mut forged = vec![23, 3, 3, 0, 32];
    forged.extend([0; 32]);
    assert!(server.advance(&mut forged, &mut Vec::new(), &mut alert).1.is_err());
    tcp.write_all(&alert).await.unwrap();
    assert_eq!(next(&mut application).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let outcome = in_time(outcome).await.unwrap().unwrap_err();
    assert!(is_alert(&outcome), "{outcome}");
}

#[tokio::test]
async fn a_server_that_says_all_and_closes_in_its_first_flight_is_heard_in_full() {
    let (mut application, at_pump) = tcp().await;
    let (to_server, server_tcp) = tcp().await;
    let (client, server) = fresh_records();
    let client = tokio::spawn(async move {
        let mut session = Session::new(to_server, client, Vec::new());
        session.handshake().await.unwrap();
        assert_eq!(session.read_preface().await.unwrap(), Preface::Ready);
        let (peer, codec, incoming, to_application, to_peer) = session.into_parts();
        let observed = observed();
        let pump = Pump::new(at_pump, peer, codec, &observed, incoming, to_application, to_peer);
        run(Carrier::Other(pump), None).await
    });
    let mut server = Peer { tcp: server_tcp, records: server, incoming: Vec::new() };
    while server.records.is_handshaking() {
        in_time(server.tcp.read_buf(&mut server.incoming)).await.unwrap();
        let mut wire = Vec::new();
        let (done, progress) = server.records.advance(&mut server.incoming, &mut Vec::new(), &mut wire);
        progress.unwrap();
        server.incoming.drain(..done);
        server.tcp.write_all(&wire).await.unwrap();
    }
    let mut wire = server.sealed(&Preface::Ready.encode());
    wire.extend(server.sealed(b"220 ready\r\n"));
    wire.extend(server.close_notify());
    server.tcp.write_all(&wire).await.unwrap();
    server.tcp.shutdown().await.unwrap();
    let mut greeting = Vec::new();
    in_time(application.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"220 ready\r\n");
    application.write_all(b"thanks").await.unwrap();
    application.shutdown().await.unwrap();
    assert_eq!(server.read_all().await, Ok(b"thanks".to_vec()));
    in_time(client).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let (mut application, mut peer, outcome) = served(None).await;
    application.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let mut wire = [0; 200];
    let length = in_time(peer.tcp.read(&mut wire)).await.unwrap();
    let mut said = Vec::new();
    let (_, progress) = peer.records.advance(&mut wire[..length], &mut said, &mut Vec::new());
    assert_eq!((progress.unwrap(), said.as_slice()), (Progress::Open, b"SSH-2.0-x\r\n".as_slice()));
    let end = peer.close_notify();
    peer.tcp.write_all(&end).await.unwrap();
    assert_eq!(next(&mut application).await.unwrap(), None);
    drop(application);
    in_time(outcome).await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_for_longer_than_the_limit_ends_it_and_bytes_put_it_off() {
    let limit = Duration::from_millis(300);
    let started = Instant::now();
    let (mut application, mut peer, outcome) = served(Some(limit)).await;
    for _ in 0..6 {
        tokio::time::sleep(limit / 3).await;
        peer.send(b"x").await;
        assert_eq!(next(&mut application).await.unwrap(), Some(b'x'));
    }
    assert_eq!(next(&mut application).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let outcome = in_time(outcome).await.unwrap().unwrap_err();
    assert!(matches!(outcome, PumpError::Idle(idle) if idle == limit), "{outcome}");
    assert_eq!(outcome.refusal().reason, Reason::Idle);
    assert!(started.elapsed() >= limit * 3, "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_end_of_a_lease_is_rst_both_ways() {
    for (tls, reason) in
        [(true, Reason::ShuttingDown), (false, Reason::ShuttingDown), (true, Reason::Revoked)]
    {
        let (mut application, at_pump) = tcp().await;
        let (mut peer, from_peer) = tcp().await;
        let leases = Arc::new(Leases::default());
        let mut lease = leases.join(Parties::of_peer("web", None));
        let outcome = tokio::spawn(async move {
            let observed = observed();
            let mut pump = match tls {
                true => tls_pump(at_pump, from_peer, records().0, &observed),
                false => plain_pump(at_pump, from_peer, &observed),
            };
            let result = pump.run_until(None, &mut lease).await;
            pump.end(&result);
            result
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!outcome.is_finished());
        leases.end(Mark::Workload("web"), |_| Some(Refusal::new(reason, "a test")));
        for socket in [&mut application, &mut peer] {
            assert_eq!(next(socket).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        let outcome = in_time(outcome).await.unwrap().unwrap_err();
        assert!(matches!(outcome, PumpError::Over(_)), "{outcome}");
        assert_eq!(outcome.refusal(), Refusal::new(reason, "a test"));
    }
}

#[tokio::test]
async fn bytes_are_counted_in_both_directions() {
    let (mut application, at_pump) = tcp().await;
    let (mut peer, from_peer) = tcp().await;
    let counted = tokio::spawn(async move {
        let observed = observed();
        let none = Buffer::default;
        let early = Buffer::from(b"early".to_vec());
        let pump = Pump::new(at_pump, from_peer, Codec::Plain, &observed, none(), early, none());
        run(Carrier::Other(pump), None).await.unwrap();
        let record = observed.end(Ending::Closed);
        (record.bytes.sent, record.bytes.received)
    });
    application.write_all(&[1; 1000]).await.unwrap();
    application.shutdown().await.unwrap();
    peer.write_all(&[2; 70_000]).await.unwrap();
    peer.shutdown().await.unwrap();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    tokio::try_join!(in_time(application.read_to_end(&mut a)), in_time(peer.read_to_end(&mut b))).unwrap();
    assert_eq!((a.len(), b.len()), (70_005, 1000));
    assert!(a.starts_with(b"early"));
    assert_eq!(in_time(counted).await.unwrap(), (1000, 70_005));
}

#[tokio::test]
async fn nothing_can_be_said_before_the_handshake() {
    let (client, _) = fresh_records();
    let (tcp, _other) = tcp().await;
    let mut session = Session::new(tcp, client, Vec::new());
    assert!(matches!(session.send_preface(&Preface::Ready).await, Err(SessionError::Tls(_))));
}

#[tokio::test]
async fn a_connection_whose_keys_cannot_be_had_is_reset_at_both_ends() {
    let (mut application, at_pump) = tcp().await;
    let (mut peer, from_peer) = tcp().await;
    let (client, _server) = records();
    if let Records::Client(_, heard) = &client {
        heard.take().unwrap();
    }
    let session = Session::new(from_peer, client, Vec::new());
    let observed = observed();
    let lost = Carrier::new(session, at_pump, &observed, Err("a test".into()), None, NotDirect::NoSession);
    assert!(matches!(lost.err(), Some(ChannelError::Keys(_))));
    for socket in [&mut application, &mut peer] {
        assert_eq!(next(socket).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
