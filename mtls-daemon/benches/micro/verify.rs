//! The verification of a peer's certificate, without the signature of the handshake.

use std::time::SystemTime;

use mtls_daemon::handshake::{ExpectedServer, PeerRole, verify_peer};
use mtls_daemon::identity::{Bundle, PeerIdentity};
use rustls::pki_types::CertificateDer;

use crate::suite::Suite;
use crate::world::{World, trust};

const COUNTED: u32 = 200;

pub fn add(suite: &mut Suite) {
    suite.bench("verify/client/chain-1", COUNTED, || {
        let world = World::new();
        // Whoever trusts the intermediate itself needs the leaf alone.
        let (leaf, intermediates) = world.web.chain.split_first().unwrap();
        let roots = Bundle::from_der(intermediates.to_vec()).unwrap();
        verify(vec![leaf.clone()], roots, PeerRole::Client, None, true)
    });
    suite.bench("verify/client/chain-2", COUNTED, || {
        let world = World::new();
        verify(world.web.chain, world.root, PeerRole::Client, None, true)
    });
    suite.bench("verify/client/remembered", COUNTED, || {
        let world = World::new();
        verify(world.web.chain, world.root, PeerRole::Client, None, false)
    });
    suite.bench("verify/server/chain-2", COUNTED, || {
        let world = World::new();
        let expected = ExpectedServer::clone(&world.expected());
        verify(world.db.chain, world.root, PeerRole::Server, Some(expected), true)
    });
}

/// `first`: each operation is the first under its roots; otherwise the chain is remembered from the one before.
fn verify(
    chain: Vec<CertificateDer<'static>>,
    roots: Bundle,
    role: PeerRole,
    expected: Option<ExpectedServer>,
    first: bool,
) -> impl FnMut() -> PeerIdentity {
    let kept = trust(roots.clone());
    let now = SystemTime::now();
    let length = chain.len();
    let verify = move || {
        // A merged bundle remembers nothing.
        let fresh = first.then(|| trust(roots.clone().merged(&roots)));
        verify_peer(&chain, role, fresh.as_ref().unwrap_or(&kept), expected.as_ref(), now).unwrap()
    };
    assert_eq!(verify().chain_len, length);
    verify
}
