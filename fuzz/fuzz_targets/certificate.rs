//! A peer's chain to an identity: whatever it sends, the answer is an identity or a reason that can be shown.
//!
//! The input is certificates one behind the other, each with two bytes of its length before it.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mtls_daemon::handshake::{ExpectedServer, PeerNameSettings, PeerRole, Trust, verify_peer};
use mtls_daemon::identity::{Bundle, TrustBundles};
use rustls::pki_types::CertificateDer;

/// The root of the chains in the corpus.
const ROOT: &[u8] = include_bytes!("../corpus/root.pem");

static TRUST: LazyLock<[Trust; 2]> = LazyLock::new(|| {
    let domain = || "example.org".parse().expect("a trust domain");
    let bundle = Bundle::from_pem(ROOT).expect("a root");
    let bundles = Arc::new(TrustBundles::from_iter([(domain(), bundle)]));
    [false, true].map(|legacy| Trust {
        bundles: Arc::clone(&bundles),
        trust_domain: domain(),
        names: PeerNameSettings { dns: legacy, common_name: legacy },
        max_certificates: 10,
        max_bytes: 65_536,
        clock_skew: Trust::CLOCK_SKEW,
        revocations: Arc::default(),
    })
});

fn chain(mut input: &[u8]) -> Vec<CertificateDer<'_>> {
    let mut chain = Vec::new();
    while let Some(([high, low], rest)) = input.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (certificate, rest) = rest.split_at(length);
        chain.push(CertificateDer::from(certificate));
        input = rest;
    }
    chain
}

fuzz_target!(|input: &[u8]| {
    let chain = chain(input);
    let expected = ExpectedServer {
        ids: vec!["spiffe://example.org/web".parse().expect("an ID")],
        dns_names: vec!["web.example.org".into()],
    };
    // While the corpus is valid; else nothing but its end would be found.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for trust in TRUST.iter() {
        for (role, expected) in [(PeerRole::Client, None), (PeerRole::Server, Some(&expected))] {
            match verify_peer(&chain, role, trust, expected, now) {
                Ok(peer) => {
                    assert!(peer.not_before <= now + Trust::CLOCK_SKEW && now <= peer.not_after);
                    assert!(expected.is_none_or(|_| peer.name.to_string().contains("web")));
                }
                Err(refusal) => {
                    assert!(refusal.detail.chars().all(|c| !c.is_control()), "{}", refusal.detail);
                    assert!(refusal.detail.len() < 16_384);
                }
            }
        }
    }
});
