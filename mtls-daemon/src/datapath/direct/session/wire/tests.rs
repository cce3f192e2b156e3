use std::net::Ipv4Addr;

use mtls_direct::Reason;
use proptest::prelude::*;

use super::*;

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = |(ip, port): (u32, u16)| SocketAddr::new(Ipv4Addr::from(ip).into(), port);
    let v6 = |(ip, port): (u128, u16)| canonical(SocketAddr::new(Ipv6Addr::from(ip | 1 << 127).into(), port));
    let of_4 = || (any::<u32>(), 1..=u16::MAX).prop_map(v4);
    let of_6 = || (any::<u128>(), 1..=u16::MAX).prop_map(v6);
    prop_oneof![(of_4(), of_4()), (of_6(), of_6())]
}

fn reason() -> impl Strategy<Value = Reason> {
    (1..=18_u8).prop_map(|number| reasons::reason(number).unwrap())
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::Open),
        any::<[u8; 16]>().prop_map(|nonce| Body::Accept(Nonce(nonce))),
        reason().prop_map(Body::Refuse),
        Just(Body::Ready),
        reason().prop_map(Body::Abort),
        any::<(u64, u64)>().prop_map(|(sent, received)| Body::Closed(Counts { sent, received })),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (addresses(), any::<[u8; 16]>(), body()).prop_map(|((client, server), nonce, body)| Message {
        id: ConnectionId { tuple: FourTuple { client, server }, nonce: Nonce(nonce) },
        body,
    })
}

fn written(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    write(frame, &mut out);
    out
}

fn example(body: Body) -> Message {
    let tuple =
        FourTuple { client: "10.0.0.2:40000".parse().unwrap(), server: "10.0.0.3:5432".parse().unwrap() };
    Message { id: ConnectionId { tuple, nonce: Nonce([7; 16]) }, body }
}

/// Where the fields of a message begin, behind length and type.
const SERVER_IP: usize = 2 + 18;
const BODY: usize = 2 + CONNECTION;

proptest! {
    #[test]
    fn every_message_comes_back_as_it_was(message in message(), behind in proptest::collection::vec(any::<u8>(), 0..40)) {
        let frame = Frame::Message(message);
        let mut bytes = written(&frame);
        let length = bytes.len();
        prop_assert!(length <= 1 + MAX_FRAME);
        bytes.extend(behind);
        prop_assert_eq!(read(&bytes), Ok(Some((frame, length))));
        for cut in 0..length {
            prop_assert_eq!(read(&bytes[..cut]), Ok(None), "cut at {}", cut);
        }
    }

    /// What is read of any bytes is written as they were.
    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some((frame, length))) = read(&bytes) {
            prop_assert_eq!(written(&frame), &bytes[..length]);
        }
    }

    /// As above, but most of them get past the first looks.
    #[test]
    fn a_message_with_a_changed_byte_is_another_one_or_an_error(message in message(), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX) {
        let mut bytes = written(&Frame::Message(message));
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(Some((frame, length))) = read(&bytes) {
            prop_assert_ne!(frame, Frame::Message(message));
            prop_assert_eq!(written(&frame), &bytes[..length]);
        }
    }
}

#[test]
fn the_form_is_what_other_versions_read() {
    assert_eq!(written(&Frame::Welcome), [1, 0]);
    let bytes = written(&Frame::Message(example(Body::Closed(Counts { sent: 258, received: 3 }))));
    let mut wanted = vec![69, 6];
    wanted.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2, 0x9c, 0x40]);
    wanted.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 3, 0x15, 0x38]);
    wanted.extend([7; 16]);
    wanted.extend([0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(bytes, wanted);
    assert_eq!(written(&Frame::Message(example(Body::Refuse(Reason::NotCapable))))[BODY..], [2]);
}

#[test]
fn each_fault_has_its_own_error() {
    let refuse = written(&Frame::Message(example(Body::Refuse(Reason::Denied))));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = refuse.clone();
        change(&mut bytes);
        read(&bytes)
    };
    assert_eq!(read(&[0, 1, 2]), Err(WireError::Empty));
    assert_eq!(read(&[129]), Err(WireError::TooLong(129)), "without waiting for the rest");
    assert_eq!(read(&[1, 7]), Err(WireError::UnknownType(7)));
    assert_eq!(read(&[2, 0, 9]), Err(WireError::TrailingBytes { kind: 0, count: 1 }));
    assert_eq!(with(&|bytes| bytes[0] -= 1), Err(WireError::Short(REFUSE)));
    assert_eq!(
        with(&|bytes| {
            bytes[0] += 2;
            bytes.extend([0, 0]);
        }),
        Err(WireError::TrailingBytes { kind: REFUSE, count: 2 })
    );
    assert_eq!(with(&|bytes| bytes[BODY] = 21), Err(WireError::UnknownReason(21)));
    assert_eq!(with(&|bytes| bytes[SERVER_IP + 16..SERVER_IP + 18].fill(0)), Err(WireError::PortZero));
    let mixed = with(&|bytes| bytes[SERVER_IP] = 0x20).unwrap_err();
    assert!(matches!(mixed, WireError::MixedFamilies(IpAddr::V4(_), IpAddr::V6(_))), "{mixed}");
    for (error, part) in
        [(WireError::UnknownReason(21), "21"), (WireError::TooLong(200), "200"), (mixed, "10.0.0.2")]
    {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn addresses_have_one_form() {
    let mapped: SocketAddr = "[::ffff:10.0.0.3]:5432".parse().unwrap();
    let mut message = example(Body::Open);
    assert_eq!(canonical(mapped), message.id.tuple.server);
    let plain = written(&Frame::Message(message));
    message.id.tuple.server = mapped;
    assert_eq!(written(&Frame::Message(message)), plain);
    let scoped: SocketAddr = "[fe80::1%3]:5432".parse().unwrap();
    assert_eq!(canonical(scoped), "[fe80::1]:5432".parse().unwrap());
}
