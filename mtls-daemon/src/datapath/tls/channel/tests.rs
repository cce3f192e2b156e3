//! Our records against rustls': each reads what the other writes.

use proptest::prelude::*;
use rustls::AlertDescription;

use super::super::open::{MAX_RECORD, record_length};
use super::super::seal::{HEADER, MAX_CONTENT, TRAILER};
use super::*;
use crate::datapath::ktls::Suite;
use crate::datapath::tests::ends::records_with;
use crate::handshake::Progress;

/// A channel of ours, and rustls at the other end.
fn pair(suite: Suite, limit: Option<u64>) -> (UserChannel, Records) {
    let (client, server) = records_with(suite);
    (UserChannel::new(server, limit).unwrap(), client)
}

fn say(channel: &mut UserChannel, bytes: &[u8]) -> Vec<u8> {
    let mut room = vec![0; HEADER];
    room.extend(bytes);
    room.extend([0; TRAILER]);
    channel.seal(&mut room).unwrap();
    room
}

/// What rustls makes of it; it must be whole records.
fn hear(records: &mut Records, wire: &mut [u8]) -> (Vec<u8>, Progress) {
    let mut plaintext = Vec::new();
    let (done, progress) = records.advance(wire, &mut plaintext, &mut Vec::new());
    assert_eq!(done, wire.len());
    (plaintext, progress.unwrap())
}

fn sealed(records: &mut Records, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    records.encrypt(bytes, &mut [], &mut wire).unwrap();
    wire
}

fn open_all(channel: &mut UserChannel, wire: &mut [u8]) -> Result<Vec<u8>, ChannelError> {
    let (mut data, mut at) = (Vec::new(), 0);
    while let Some(length) = record_length(&wire[at..])? {
        if let Opened::Data(count) = channel.open(&mut wire[at..at + length])? {
            data.extend(&wire[at + HEADER..at + HEADER + count]);
        }
        at += length;
    }
    assert_eq!(at, wire.len());
    Ok(data)
}

#[test]
fn both_directions_are_understood_with_every_suite_at_every_edge() {
    for suite in Suite::ALL {
        let (mut channel, mut rustls) = pair(suite, None);
        for length in [1, 2, 100, MAX_CONTENT - 1, MAX_CONTENT] {
            let bytes = vec![7; length];
            assert!(hear(&mut rustls, &mut say(&mut channel, &bytes)).0 == bytes, "{length}");
            assert!(open_all(&mut channel, &mut sealed(&mut rustls, &bytes)).unwrap() == bytes, "{length}");
        }
        let long = vec![8; 3 * MAX_CONTENT + 5];
        assert!(open_all(&mut channel, &mut sealed(&mut rustls, &long)).unwrap() == long);
        let mut end = Vec::new();
        channel.alert(AlertDescription::CloseNotify, &mut end).unwrap();
        assert_eq!(hear(&mut rustls, &mut end), (vec![], Progress::PeerClosed));
        let mut end = Vec::new();
        rustls.close(&mut [], &mut end).unwrap();
        assert_eq!(channel.open(&mut end).unwrap(), Opened::End);
    }
}

#[test]
fn what_is_too_long_or_has_no_place_is_not_sealed_and_takes_no_sequence_number() {
    let (mut channel, mut rustls) = pair(Suite::Aes128Gcm, None);
    for length in [0, HEADER + TRAILER - 1, HEADER + MAX_CONTENT + 1 + TRAILER] {
        assert!(matches!(channel.seal(&mut vec![0; length]), Err(ChannelError::Seal)), "{length}");
    }
    assert!(channel.sealer.append(ContentType::Alert, &[0; MAX_CONTENT + 1], &mut vec![1]).is_err());
    assert_eq!(channel.sealer.sequence(), 0);
    assert_eq!(hear(&mut rustls, &mut say(&mut channel, b"x")).0, b"x");
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let (mut channel, _) = pair(Suite::Aes256Gcm, None);
    let mut sealer = Sealer::new(u64::MAX - 1, &channel.schedule.next_tx().unwrap()).unwrap();
    let mut room = [0; HEADER + TRAILER];
    sealer.seal(ContentType::ApplicationData, &mut room).unwrap();
    assert!(matches!(sealer.seal(ContentType::ApplicationData, &mut room), Err(ChannelError::Seal)));
    let one = say(&mut channel, b"same");
    assert!(one != say(&mut channel, b"same"));
}

#[test]
fn a_key_that_has_sealed_enough_is_changed_and_rustls_follows() {
    let (mut channel, mut rustls) = pair(Suite::Aes128Gcm, Some(MARGIN + 3));
    let mut changes = 0;
    for n in 0..20_u8 {
        if channel.owes_key_update() {
            let mut wire = Vec::new();
            channel.update_key(&mut wire).unwrap();
            assert_eq!(hear(&mut rustls, &mut wire), (vec![], Progress::Open));
            changes += 1;
        }
        assert_eq!(hear(&mut rustls, &mut say(&mut channel, &[n])).0, [n]);
    }
    assert_eq!(changes, 6, "after every third record");
}

/// A record of rustls' peer with another content type than data, as a channel of ours says it.
fn message(channel: &mut UserChannel, kind: ContentType, content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    channel.sealer.append(kind, content, &mut wire).unwrap();
    wire
}

/// Two channels of ours.
fn channels() -> (UserChannel, UserChannel) {
    let (client, server) = records_with(Suite::ChaCha20Poly1305);
    (UserChannel::new(client, None).unwrap(), UserChannel::new(server, None).unwrap())
}

#[test]
fn key_updates_are_followed_and_answered_once_however_many_asked() {
    let (mut asks, mut answers) = channels();
    for requested in [true, true, false] {
        let mut wire = message(&mut asks, ContentType::Handshake, &encode_key_update(requested));
        asks.sealer = Sealer::new(0, &asks.schedule.next_tx().unwrap()).unwrap();
        assert_eq!(answers.open(&mut wire).unwrap(), Opened::Nothing);
    }
    assert!(answers.owes_key_update() && !answers.is_whole());
    let mut wire = Vec::new();
    answers.update_key(&mut wire).unwrap();
    assert!(!answers.owes_key_update() && answers.is_whole());
    wire.extend(say(&mut answers, b"with the next key"));
    assert_eq!(open_all(&mut asks, &mut wire).unwrap(), b"with the next key");
    assert_eq!(open_all(&mut answers, &mut say(&mut asks, b"so")).unwrap(), b"so");
    assert!(!asks.owes_key_update(), "an answer asks for nothing");
}

#[test]
fn floods_of_key_updates_and_empty_records_end() {
    let (mut floods, mut channel) = channels();
    let mut last = Ok(Opened::Nothing);
    for _ in 0..33 {
        last.unwrap();
        last = channel.open(&mut say(&mut floods, b""));
    }
    assert!(matches!(last, Err(ChannelError::TooManyEmptyRecords(33))));
    let (mut floods, mut channel) = channels();
    let mut last = Ok(Opened::Nothing);
    for _ in 0..33 {
        last.unwrap();
        let mut wire = message(&mut floods, ContentType::Handshake, &encode_key_update(false));
        floods.sealer = Sealer::new(0, &floods.schedule.next_tx().unwrap()).unwrap();
        last = channel.open(&mut wire);
    }
    assert!(matches!(last, Err(ChannelError::TooManyKeyUpdates(33))));
}

#[test]
fn what_may_not_come_is_refused_with_the_alert_of_the_standard() {
    let refused = |kind, content: &[u8]| {
        let (mut peer, mut channel) = channels();
        channel.open(&mut message(&mut peer, kind, content)).unwrap_err().alert()
    };
    assert_eq!(refused(ContentType::Other(24), b"heartbeat"), Some(AlertDescription::UnexpectedMessage));
    assert_eq!(refused(ContentType::Handshake, b""), Some(AlertDescription::UnexpectedMessage));
    assert_eq!(refused(ContentType::Handshake, &[1, 0, 0, 0]), Some(AlertDescription::UnexpectedMessage));
    assert_eq!(refused(ContentType::Alert, b"1"), Some(AlertDescription::DecodeError));
    assert_eq!(refused(ContentType::Alert, &[2, 40]), None, "it has said so itself");
    // Nothing but padding: a record whose type is 0.
    assert_eq!(refused(ContentType::Other(0), &[0; 30]), Some(AlertDescription::UnexpectedMessage));
    let (mut peer, mut channel) = channels();
    channel.open(&mut message(&mut peer, ContentType::Handshake, &[24, 0])).unwrap();
    let error = channel.open(&mut say(&mut peer, b"data")).unwrap_err();
    assert_eq!(error.alert(), Some(AlertDescription::UnexpectedMessage), "within a message");
}

#[test]
fn a_changed_dropped_repeated_or_shortened_record_is_not_opened() {
    let error = |change: fn(&mut UserChannel, &mut UserChannel) -> Vec<u8>| {
        let (mut peer, mut channel) = channels();
        let mut wire = change(&mut peer, &mut channel);
        channel.open(&mut wire).unwrap_err()
    };
    for changed in [
        |peer: &mut UserChannel, _: &mut UserChannel| {
            let mut wire = say(peer, b"changed");
            wire[HEADER] ^= 1;
            wire
        },
        |peer: &mut UserChannel, _: &mut UserChannel| {
            say(peer, b"dropped");
            say(peer, b"next")
        },
        |peer: &mut UserChannel, channel: &mut UserChannel| {
            let wire = say(peer, b"repeated");
            channel.open(&mut wire.clone()).unwrap();
            wire
        },
        |peer: &mut UserChannel, _: &mut UserChannel| {
            let mut wire = say(peer, b"shortened");
            wire.pop();
            wire
        },
        |_: &mut UserChannel, channel: &mut UserChannel| say(channel, b"our own"),
        |_: &mut UserChannel, _: &mut UserChannel| vec![23, 3, 3, 0, 3, 1, 2, 3],
    ] {
        let error = error(changed);
        assert!(matches!(error, ChannelError::BadRecord), "{error}");
        assert_eq!(error.alert(), Some(AlertDescription::BadRecordMac));
    }
}

#[test]
fn a_header_is_read_before_its_record_is_there() {
    assert_eq!(record_length(&[23, 3, 3, 0]).unwrap(), None);
    assert_eq!(record_length(&[23, 9, 9, 0x41, 0]).unwrap(), Some(MAX_RECORD), "the version means nothing");
    assert!(matches!(record_length(&[23, 3, 3, 0x41, 1]), Err(ChannelError::RecordOverflow)));
    for kind in [0, 20, 21, 22, 24, 71] {
        let error = record_length(&[kind, 3, 3, 0, 1]).unwrap_err();
        assert!(matches!(error, ChannelError::InPlain(seen) if seen == kind), "{error}");
        assert_eq!(error.alert(), Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn nothing_is_sealed_or_opened_without_a_cipher() {
    let (mut one, mut other) = channels();
    let mut wire = say(&mut other, b"x");
    one.rest();
    assert!(one.is_resting());
    assert!(matches!(
        one.sealer.seal(ContentType::Alert, &mut [0; HEADER + TRAILER]),
        Err(ChannelError::Seal)
    ));
    assert!(matches!(one.opener.open(&mut wire.clone()), Err(ChannelError::BadRecord)));
    assert_eq!((one.sealer.sequence(), one.opener.sequence()), (0, 0));
    assert_eq!(one.open(&mut wire).unwrap(), Opened::Data(1));
    assert!(!one.is_resting());
}

/// What one of two channels does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Speaks,
    UpdatesKey,
    Rests,
}

proptest! {
    /// Keys, sequence numbers and KeyUpdates are the same, however often the ciphers were given back.
    #[test]
    fn a_rest_at_any_time_changes_nothing(
        acts in proptest::collection::vec(
            (any::<bool>(), prop_oneof![Just(Act::Speaks), Just(Act::UpdatesKey), Just(Act::Rests)]), 1..40)
    ) {
        let (mut one, mut other) = channels();
        for (number, (by_one, act)) in (0_u8..).zip(acts) {
            let (speaker, hearer) = if by_one { (&mut one, &mut other) } else { (&mut other, &mut one) };
            match act {
                Act::Speaks => {
                    let mut wire = say(speaker, &[number]);
                    prop_assert_eq!(open_all(hearer, &mut wire).unwrap(), [number]);
                }
                Act::UpdatesKey => {
                    let mut wire = Vec::new();
                    speaker.update_key(&mut wire).unwrap();
                    // More than 32 without data between them are a flood.
                    wire.extend(say(speaker, &[number]));
                    prop_assert_eq!(open_all(hearer, &mut wire).unwrap(), [number]);
                }
                Act::Rests => speaker.rest(),
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_, mut channel) = channels();
        if let Ok(Some(length)) = record_length(&bytes) {
            prop_assert!(length >= HEADER);
        }
        prop_assert!(channel.open(&mut bytes).is_err());
    }
}

#[test]
fn another_carrier_goes_on_with_the_same_keys_and_numbers_also_after_key_updates() {
    let (mut one, mut other) = channels();
    for round in 0..3_u8 {
        let handed = one.hand_over().unwrap();
        one = UserChannel {
            sealer: Sealer::new(handed.tx.0, &handed.tx.1).unwrap(),
            opener: Opener::new(handed.rx.0, &handed.rx.1).unwrap(),
            schedule: handed.schedule,
            reader: Reader::new(handed.role),
            tally: Tally::default(),
            limit: None,
            answer_due: false,
        };
        assert_eq!(open_all(&mut other, &mut say(&mut one, &[round])).unwrap(), [round]);
        assert_eq!(open_all(&mut one, &mut say(&mut other, &[round])).unwrap(), [round]);
        let mut wire = Vec::new();
        one.update_key(&mut wire).unwrap();
        other.update_key(&mut wire).unwrap();
        let (mine, theirs) = wire.split_at_mut(HEADER + 5 + TRAILER);
        assert_eq!(
            (other.open(mine).unwrap(), one.open(theirs).unwrap()),
            (Opened::Nothing, Opened::Nothing)
        );
    }
}
