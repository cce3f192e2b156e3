use std::net::SocketAddr;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, digest};
use mtls_direct::FourTuple;
use nix::sys::socket::sockopt::TlsCryptoInfo;
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider};

use super::*;

const SUITES: [SupportedCipherSuite; 3] =
    [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];

fn id() -> ConnectionId {
    let tuple =
        FourTuple { client: "10.0.0.2:40000".parse().unwrap(), server: "10.0.0.3:5432".parse().unwrap() };
    ConnectionId { tuple, nonce: Nonce([7; 16]) }
}

/// HKDF-Expand-Label (RFC 8446, section 7.1).
fn expand(suite: SupportedCipherSuite, secret: &[u8], label: &[u8], context: &[u8], output: &mut [u8]) {
    let hkdf = suite.tls13().unwrap().hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let label = [b"tls13 ", label].concat();
    let byte = |length: usize| [u8::try_from(length).unwrap()];
    let length = u16::try_from(output.len()).unwrap().to_be_bytes();
    let info = [&length[..], &byte(label.len()), &label, &byte(context.len()), context];
    hkdf.expand_slice(&info, output).unwrap();
}

/// TLS-Exporter (RFC 8446, section 7.5) of an exporter secret whose every byte is 5.
fn exporter(suite: SupportedCipherSuite) -> impl Fn(&mut [u8], &[u8], &[u8]) -> Result<(), TlsError> {
    move |output, label, context| {
        let hash: &'static Algorithm = if suite == TLS13_AES_256_GCM_SHA384 { &SHA384 } else { &SHA256 };
        let mut derived = vec![0; output.len()];
        expand(suite, &vec![5; output.len()], label, digest(hash, b"").as_ref(), &mut derived);
        expand(suite, &derived, b"exporter", digest(hash, context).as_ref(), output);
        Ok(())
    }
}

/// Key and nonce as the kernel gets them; the sequence number is 0.
pub(in super::super) fn parts(keys: &RecordKeys) -> (Vec<u8>, Vec<u8>) {
    let (key, nonce, sequence) = match keys.info() {
        TlsCryptoInfo::Aes128Gcm(info) => {
            (info.key.to_vec(), [&info.salt[..], &info.iv].concat(), info.rec_seq)
        }
        TlsCryptoInfo::Aes256Gcm(info) => {
            (info.key.to_vec(), [&info.salt[..], &info.iv].concat(), info.rec_seq)
        }
        TlsCryptoInfo::Chacha20Poly1305(info) => (info.key.to_vec(), info.iv.to_vec(), info.rec_seq),
    };
    assert_eq!(sequence, [0; 8]);
    (key, nonce)
}

pub(in super::super) type Parts = (Vec<u8>, Vec<u8>);

fn keys(suite: SupportedCipherSuite, id: &ConnectionId, server: Nonce, end: Role) -> (Parts, Parts) {
    let keys = derive(suite, exporter(suite), id, server, end).unwrap();
    (parts(&keys.tx), parts(&keys.rx))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed with Python's hmac and hashlib from the text of RFC 8446.
#[test]
fn the_keys_are_those_that_another_implementation_derives() {
    let wanted = [
        [
            "16860806cbece514b8ccd87d42204e55 24bbccac227d841a5e275209",
            "c065f1132bc6074ba6af806448ea5920 6be80e87e868a1389103b748",
        ],
        [
            "c5b31ccd45fd76504aa8417a8d2144e65bce8cb169078ba0bc7394f4e653b2f1 ecc18db098c608d44759b589",
            "39d851e16b71231cbd96e4487dae7866eb3247f6016c9723fe2ebc9023b14f11 3cf3a121b913826c10172214",
        ],
        [
            "bad48912560083cae42521b0dc2ce3c5daca7df6b4f5f347569654c9ad271677 24bbccac227d841a5e275209",
            "936ab78fe5ed5416634378c80aac1a9ba88df894368c6e7395264e7b4c0844ff 6be80e87e868a1389103b748",
        ],
    ];
    for (suite, wanted) in SUITES.into_iter().zip(wanted) {
        let (tx, rx) = keys(suite, &id(), Nonce([8; 16]), Role::Client);
        let shown = |(key, nonce): &Parts| format!("{} {}", hex(key), hex(nonce));
        assert_eq!([shown(&tx), shown(&rx)], wanted, "{suite:?}");
    }
}

#[test]
fn what_one_end_sends_with_the_other_receives_with() {
    for suite in SUITES {
        let client = keys(suite, &id(), Nonce([8; 16]), Role::Client);
        let server = keys(suite, &id(), Nonce([8; 16]), Role::Server);
        assert_eq!((&client.0, &client.1), (&server.1, &server.0));
        assert!(client.0.0 != client.1.0 && client.0.1 != client.1.1, "directions differ: {suite:?}");
    }
}

/// The parts that keys are bound to, as bits to flip.
#[derive(Debug, Clone, Copy)]
enum Field {
    Client,
    Server,
    ClientPort,
    ServerPort,
    ClientNonce,
    ServerNonce,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_other_bit_makes_four_other_values(
        field in prop_oneof![Just(Field::Client), Just(Field::Server), Just(Field::ClientPort),
            Just(Field::ServerPort), Just(Field::ClientNonce), Just(Field::ServerNonce)],
        bit in any::<prop::sample::Index>(),
        v6 in any::<bool>(),
    ) {
        let mut before = id();
        if v6 {
            before.tuple.client = "[2001:db8::2]:40000".parse().unwrap();
            before.tuple.server = "[2001:db8::3]:5432".parse().unwrap();
        }
        let (mut after, mut server) = (before, Nonce([8; 16]));
        match field {
            Field::Client => flip_ip(&mut after.tuple.client, bit),
            Field::Server => flip_ip(&mut after.tuple.server, bit),
            Field::ClientPort => flip_port(&mut after.tuple.client, bit),
            Field::ServerPort => flip_port(&mut after.tuple.server, bit),
            Field::ClientNonce => after.nonce.0[bit.index(16)] ^= 1 << bit.index(8),
            Field::ServerNonce => server.0[bit.index(16)] ^= 1 << bit.index(8),
        }
        for suite in SUITES {
            let one = keys(suite, &before, Nonce([8; 16]), Role::Client);
            let other = keys(suite, &after, server, Role::Client);
            prop_assert!(one.0.0 != other.0.0 && one.0.1 != other.0.1, "{:?}", suite);
            prop_assert!(one.1.0 != other.1.0 && one.1.1 != other.1.1, "{:?}", suite);
        }
    }
}

fn flip_ip(address: &mut SocketAddr, bit: prop::sample::Index) {
    let ip = match address.ip() {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip) ^ 1 << bit.index(32)).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) ^ 1 << bit.index(128)).into(),
    };
    address.set_ip(ip);
}

fn flip_port(address: &mut SocketAddr, bit: prop::sample::Index) {
    address.set_port(address.port() ^ 1 << bit.index(16));
}

#[test]
fn what_cannot_be_derived_is_an_error_that_says_why() {
    let old = ALL_CIPHER_SUITES.iter().find(|suite| suite.tls13().is_none()).unwrap();
    let error = derive(*old, |_, _, _| Ok(()), &id(), Nonce([8; 16]), Role::Client).unwrap_err();
    assert!(matches!(&error, KeyError::Suite(name) if name.contains("TLS_ECDHE")), "{error}");
    let failing = |_: &mut [u8], _: &[u8], _: &[u8]| Err(TlsError::HandshakeNotComplete);
    let error = derive(SUITES[0], failing, &id(), Nonce([8; 16]), Role::Client).unwrap_err();
    assert_eq!(error, KeyError::Exporter(TlsError::HandshakeNotComplete));
}

#[test]
fn keys_are_never_shown_and_nonces_differ() {
    let keys = derive(SUITES[0], exporter(SUITES[0]), &id(), Nonce([8; 16]), Role::Client).unwrap();
    assert_eq!(format!("{keys:?}"), "SocketKeys { suite: Aes128Gcm, .. }");
    let random = default_provider().secure_random;
    assert_ne!(fresh_nonce(random).unwrap(), fresh_nonce(random).unwrap());
}
