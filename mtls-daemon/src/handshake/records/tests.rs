//! Two ends in memory, and a wire between them that cuts where it likes.

use proptest::prelude::*;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, InvalidMessage};

use super::*;
use crate::handshake::tests::{CLIENT, SERVER, World, expected, tls, trust, world};
use crate::handshake::{ALPN_MTLSD, Verdict};
use crate::identity::testing::{LeafSpec, TestLeaf};

/// Content types (RFC 8446, section 5.1): an alert in the clear, and anything that is encrypted.
const ALERT: u8 = 21;
const ENCRYPTED: u8 = 23;

/// One end, with its buffers as the datapath keeps them.
struct End {
    records: Records,
    incoming: Vec<u8>,
    plaintext: Vec<u8>,
    outgoing: Vec<u8>,
    progress: Progress,
    verdict: Verdict,
}

impl End {
    fn new(records: Records, verdict: Verdict) -> Self {
        Self {
            records,
            incoming: vec![],
            plaintext: vec![],
            outgoing: vec![],
            progress: Progress::Handshaking,
            verdict,
        }
    }

    fn advance(&mut self) -> Result<(), TlsError> {
        let (done, progress) =
            self.records.advance(&mut self.incoming, &mut self.plaintext, &mut self.outgoing);
        self.incoming.drain(..done);
        self.progress = progress?;
        Ok(())
    }

    /// Takes `bytes` in pieces of `sizes`, over and over.
    fn take(&mut self, bytes: &[u8], sizes: &[usize]) -> Result<(), TlsError> {
        let mut rest = bytes;
        let mut sizes = sizes.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            self.incoming.extend_from_slice(piece);
            self.advance()?;
            rest = after;
        }
        Ok(())
    }

    fn try_send(&mut self, plaintext: &[u8]) -> Result<(), TlsError> {
        self.records.encrypt(plaintext, &mut self.incoming, &mut self.outgoing)
    }

    fn send(&mut self, plaintext: &[u8]) {
        self.try_send(plaintext).unwrap();
    }

    fn close(&mut self) {
        self.records.close(&mut self.incoming, &mut self.outgoing).unwrap();
    }

    /// Asks for a KeyUpdate, which is sent before the next data.
    fn update_keys(&mut self) {
        fn refresh<C: Process>(connection: &mut C, incoming: &mut [u8]) {
            match connection.process(incoming).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => traffic.refresh_traffic_keys().unwrap(),
                other => panic!("not open: {:?}", other.err()),
            }
        }
        match &mut self.records {
            Records::Client(connection, _) => refresh(connection.as_mut(), &mut self.incoming),
            Records::Server(connection, _) => refresh(connection.as_mut(), &mut self.incoming),
        }
    }
}

const ALL: &[usize] = &[usize::MAX];

/// Carries what `from` has to say to `to`.
fn carry(from: &mut End, to: &mut End, sizes: &[usize]) -> Result<(), TlsError> {
    let bytes = std::mem::take(&mut from.outgoing);
    to.take(&bytes, sizes)
}

fn ends(w: &World) -> (End, End) {
    let (config, verdict) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let name = ServerName::try_from("db.example.org").unwrap();
    let client = End::new(Records::client(config, name).unwrap(), verdict);
    let (config, verdict) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    (client, End::new(Records::server(config).unwrap(), verdict))
}

fn shake_hands(client: &mut End, server: &mut End, sizes: &[usize]) {
    client.advance().unwrap();
    while !client.outgoing.is_empty() || !server.outgoing.is_empty() {
        carry(client, server, sizes).unwrap();
        carry(server, client, sizes).unwrap();
    }
}

fn open() -> (End, End) {
    let (mut client, mut server) = ends(&world());
    shake_hands(&mut client, &mut server, ALL);
    (client, server)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[test]
fn nothing_is_agreed_before_the_handshake_and_everything_after() {
    let (mut client, mut server) = ends(&world());
    assert_eq!((client.records.agreed(), server.records.agreed()), (None, None));
    assert!(client.records.is_handshaking() && !client.records.speaks_mtlsd());
    let error = client.try_send(b"early").unwrap_err();
    assert_eq!(error, TlsError::HandshakeNotComplete);
    shake_hands(&mut client, &mut server, ALL);
    for end in [&client, &server] {
        assert!(!end.records.is_handshaking() && end.records.speaks_mtlsd());
        assert_eq!(end.progress, Progress::Open);
        let agreed = end.records.agreed().unwrap();
        assert_eq!((agreed.version, agreed.group), ("TLSv1.3", "X25519MLKEM768"));
        assert!(agreed.suite.starts_with("TLS13_"), "{agreed:?}");
    }
    assert_eq!(client.verdict.peer().unwrap().name.to_string(), SERVER);
    assert_eq!(server.verdict.peer().unwrap().name.to_string(), CLIENT);
}

#[test]
fn a_client_without_alpn_does_not_speak_mtlsd() {
    let w = world();
    let (mut client, _) = ends(&w);
    let (config, verdict) = tls(&w.server, trust(&w.ca)).server(false, None).unwrap();
    let mut server = End::new(Records::server(config).unwrap(), verdict);
    shake_hands(&mut client, &mut server, ALL);
    assert!(!client.records.speaks_mtlsd() && !server.records.speaks_mtlsd());
}

#[test]
fn data_of_every_size_arrives_in_both_directions() {
    let (mut client, mut server) = open();
    for length in [0, 1, 16_383, 16_384, 16_385, 100_000] {
        let data = pattern(length);
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut client, &mut server];
            ends[from].send(&data);
            let sent = std::mem::take(&mut ends[from].outgoing);
            // No record is larger than 2^14 bytes of plaintext.
            assert!(sent.len() >= length + length.div_ceil(16_384) * 22, "{} for {length}", sent.len());
            ends[to].take(&sent, ALL).unwrap();
            assert_eq!(std::mem::take(&mut ends[to].plaintext), data, "{length} bytes");
            assert!(ends[to].incoming.is_empty() && ends[to].outgoing.is_empty());
        }
    }
}

#[test]
fn each_direction_ends_by_itself() {
    for first in [0, 1] {
        let (mut client, mut server) = open();
        let (early, late) = if first == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        early.send(b"last words");
        early.close();
        carry(early, late, ALL).unwrap();
        assert_eq!(
            (late.progress, late.plaintext.as_slice()),
            (Progress::PeerClosed, b"last words".as_slice())
        );

        late.send(b"and an answer");
        carry(late, early, ALL).unwrap();
        assert_eq!(
            (early.progress, early.plaintext.as_slice()),
            (Progress::Open, b"and an answer".as_slice())
        );
        late.close();
        carry(late, early, ALL).unwrap();
        assert_eq!(early.progress, Progress::PeerClosed);
    }
}

#[test]
fn what_follows_close_notify_is_never_data() {
    let (mut client, mut server) = open();
    client.close();
    client.send(b"a genuine record");
    client.outgoing.extend_from_slice(&[0x17, 3, 3, 0, 1, 0]);
    carry(&mut client, &mut server, ALL).unwrap();
    assert_eq!(server.progress, Progress::PeerClosed);
    assert!(server.plaintext.is_empty());
}

#[test]
fn keys_are_changed_in_both_directions_and_nothing_is_lost() {
    let (mut client, mut server) = open();
    for round in 0..3 {
        for (from, to) in [(0, 1), (1, 0)] {
            let ends = [&mut client, &mut server];
            ends[from].send(b"before");
            ends[from].update_keys();
            ends[from].send(b" after");
            let sent = std::mem::take(&mut ends[from].outgoing);
            ends[to].take(&sent, &[1, 7, 100]).unwrap();
            assert_eq!(std::mem::take(&mut ends[to].plaintext), b"before after", "round {round}");
            // The peer was asked to change its keys too: it does so before its next data.
            ends[to].send(b"answer");
            let answer = std::mem::take(&mut ends[to].outgoing);
            assert!(answer.len() > 6 + 22, "a KeyUpdate comes first");
            ends[from].take(&answer, ALL).unwrap();
            assert_eq!(std::mem::take(&mut ends[from].plaintext), b"answer");
        }
    }
}

#[test]
fn an_altered_record_is_an_error_with_an_alert_and_gives_no_plaintext() {
    let (mut client, mut server) = open();
    client.send(b"one");
    let genuine = client.outgoing.len();
    client.send(b"two");
    *client.outgoing.last_mut().unwrap() ^= 1;
    assert_eq!(carry(&mut client, &mut server, ALL), Err(TlsError::DecryptError));
    assert_eq!(server.plaintext, b"one", "what came before it is good");
    assert_eq!(server.incoming.len(), genuine, "the altered one is not done with");
    assert_eq!(server.outgoing.first(), Some(&ENCRYPTED), "the alert is encrypted");
    let alert = TlsError::AlertReceived(AlertDescription::BadRecordMac);
    assert_eq!(carry(&mut server, &mut client, ALL), Err(alert));
}

#[test]
fn garbage_in_place_of_a_hello_is_an_error_with_an_alert_in_the_clear() {
    for (garbage, alert) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), AlertDescription::DecodeError),
        (&[0x16, 3, 1, 0, 4, 9, 0, 0, 0], AlertDescription::UnexpectedMessage),
        (&[0x16, 3, 1, 0, 8, 1, 0, 0, 4, 0xee, 0xee, 0xee, 0xee], AlertDescription::DecodeError),
        (&[0x17, 3, 3, 0, 1, 0], AlertDescription::UnexpectedMessage),
    ] {
        let (_, mut server) = ends(&world());
        let error = server.take(garbage, ALL).unwrap_err();
        assert!(
            matches!(
                error,
                TlsError::InvalidMessage(_)
                    | TlsError::InappropriateMessage { .. }
                    | TlsError::InappropriateHandshakeMessage { .. }
            ),
            "{error:?}"
        );
        assert_eq!(server.outgoing.first(), Some(&ALERT), "{error:?}");
        assert_eq!(server.outgoing.last(), Some(&u8::from(alert)), "{error:?}: {:?}", server.outgoing);
        assert!(server.plaintext.is_empty() && server.records.is_handshaking());
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_by_its_header() {
    let (_, mut server) = ends(&world());
    let error = server.take(&[0x16, 3, 1, 0xff, 0xff, 1], ALL).unwrap_err();
    assert_eq!(error, TlsError::InvalidMessage(InvalidMessage::MessageTooLarge));
}

#[test]
fn an_error_in_the_middle_of_a_message_is_an_error_like_any_other() {
    // Four of the bytes of a ClientHello, and then a record that may not stand there.
    for rest in [[0x17, 3, 3, 0, 1, 0], [0x16, 9, 9, 0, 1, 0]] {
        let (_, mut server) = ends(&world());
        server.take(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0x40], ALL).unwrap();
        assert_eq!(server.progress, Progress::Handshaking);
        server.take(&rest, ALL).unwrap_err();
        assert!(server.plaintext.is_empty());
    }
}

#[test]
fn a_peers_alert_is_told() {
    let (mut client, mut server) = ends(&world());
    client.advance().unwrap();
    let error = server.take(&[ALERT, 3, 3, 0, 2, 2, u8::from(AlertDescription::InternalError)], ALL);
    let error = error.unwrap_err();
    assert_eq!(error, TlsError::AlertReceived(AlertDescription::InternalError));
}

/// A chain of more than a record and a half, which is good nevertheless.
fn long_chain(w: &World) -> TestLeaf {
    let dns = (0..900).map(|n| format!("name-number-{n}.example.org")).collect();
    w.ca.leaf(&LeafSpec { dns, ..LeafSpec::id(CLIENT) })
}

#[test]
fn a_message_longer_than_a_record_arrives_however_it_is_cut() {
    let mut w = world();
    w.client = long_chain(&w);
    let bytes: usize = w.client.chain.iter().map(|der: &CertificateDer<'_>| der.len()).sum();
    assert!(bytes > 20_000, "{bytes}");
    for sizes in [ALL, &[8192], &[1, 3000], &[16_000, 1, 1]] {
        let (mut client, mut server) = ends(&w);
        shake_hands(&mut client, &mut server, sizes);
        assert_eq!(server.verdict.peer().unwrap().name.to_string(), CLIENT);
    }
}

#[test]
fn one_byte_at_a_time_is_enough() {
    let (mut client, mut server) = ends(&world());
    shake_hands(&mut client, &mut server, &[1]);
    assert!(client.records.speaks_mtlsd());
    let data = pattern(20_000);
    client.send(&data);
    client.close();
    carry(&mut client, &mut server, &[1]).unwrap();
    assert_eq!((server.progress, server.plaintext == data), (Progress::PeerClosed, true));
    assert_eq!(ALPN_MTLSD, b"mtlsd/1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_stream_is_the_same_however_it_is_written_and_cut(
        writes in prop::collection::vec(0_usize..40_000, 1..6),
        hello in prop::collection::vec(1_usize..3000, 1..5),
        cuts in prop::collection::vec(1_usize..20_000, 1..5),
        updates in prop::collection::vec(any::<bool>(), 6),
    ) {
        let (mut client, mut server) = ends(&world());
        shake_hands(&mut client, &mut server, &hello);
        let mut expected = Vec::new();
        for (length, update) in writes.iter().zip(updates) {
            let data = pattern(*length);
            client.send(&data);
            if update {
                client.update_keys();
            }
            expected.extend(data);
        }
        client.close();
        carry(&mut client, &mut server, &cuts).unwrap();
        prop_assert_eq!(server.progress, Progress::PeerClosed);
        prop_assert!(server.plaintext == expected);
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(1_usize..50, 1..4),
        kind in 20_u8..25,
    ) {
        let (mut client, mut server) = open();
        let mut record = vec![kind, 3, 3, 0, u8::try_from(bytes.len().min(255)).unwrap()];
        record.extend(&bytes);
        for end in [&mut client, &mut server] {
            let _ = end.take(&record, &cuts);
            prop_assert!(end.plaintext.is_empty(), "nothing forged is ever plaintext");
        }
        let (_, mut server) = ends(&world());
        let _ = server.take(&record, &cuts);
        prop_assert!(server.records.is_handshaking());
    }
}
