//! Which suite two ends agree on, for each pair of kernels.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, Connection, ServerConfig, SupportedCipherSuite};

use super::config::SuiteOrder;
use super::tests::{SERVER, World, expected, handshake, trust, world};
use super::{MinVersion, TlsSettings, WorkloadTls};
use crate::datapath::ktls::{Abilities, Suite};
use crate::identity::testing::TestLeaf;
use Suite::{Aes128Gcm, Aes256Gcm, ChaCha20Poly1305};

fn kernel(suites: &[Suite], rekey: bool) -> Abilities {
    Abilities { suites: suites.to_vec(), missing: vec![], rekey, why_no_rekey: None, defects: vec![] }
}

/// Rekeys, does not, has no kTLS.
fn kernels() -> [(&'static str, SuiteOrder); 3] {
    [
        ("rekey", SuiteOrder::auto(Some(&kernel(&Suite::ALL, true)))),
        ("no rekey", SuiteOrder::auto(Some(&kernel(&Suite::ALL, false)))),
        ("no kTLS", SuiteOrder::auto(None)),
    ]
}

fn tls(w: &World, leaf: &TestLeaf, suites: SuiteOrder) -> WorkloadTls {
    let settings = TlsSettings { suites, ..TlsSettings::default() };
    WorkloadTls::new(&leaf.svid(), trust(&w.ca), settings)
}

fn client(w: &World, suites: SuiteOrder) -> Arc<ClientConfig> {
    tls(w, &w.client, suites).client(expected(SERVER)).unwrap().0
}

fn server(w: &World, suites: SuiteOrder) -> Arc<ServerConfig> {
    tls(w, &w.server, suites).server(true, None).unwrap().0
}

fn agreed(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Option<Suite> {
    let (client, server) = handshake(client, server);
    let suite = |end: &Connection| end.negotiated_cipher_suite().and_then(Suite::of);
    assert_eq!(suite(&client.connection), suite(&server.connection));
    assert_eq!(client.error.is_some() || server.error.is_some(), suite(&client.connection).is_none());
    suite(&client.connection)
}

#[test]
fn a_connection_with_a_kernel_that_cannot_rekey_has_a_suite_without_a_limit() {
    let w = world();
    for (client_name, client_order) in kernels() {
        for (server_name, server_order) in kernels() {
            let suite = agreed(client(&w, client_order.clone()), server(&w, server_order)).unwrap();
            let without_limit = suite.records_per_key().is_none();
            let stuck = [client_name, server_name].contains(&"no rekey");
            assert_eq!(without_limit, stuck, "{client_name} to {server_name}: {suite:?}");
            assert!(without_limit || suite == Aes128Gcm, "{client_name} to {server_name}: {suite:?}");
        }
    }
}

#[test]
fn a_foreign_peer_that_knows_only_aes_is_served_by_every_kernel() {
    let w = world();
    let only_aes = || SuiteOrder::configured(vec![Aes128Gcm]);
    for (name, order) in kernels() {
        // As client its order decides nothing: there is only one.
        assert_eq!(agreed(client(&w, only_aes()), server(&w, order.clone())), Some(Aes128Gcm), "{name}");
        assert_eq!(agreed(client(&w, order), server(&w, only_aes())), Some(Aes128Gcm), "{name}");
    }
}

#[test]
fn what_the_kernel_cannot_do_comes_last_but_is_still_spoken() {
    for (abilities, order) in [
        (kernel(&[Aes256Gcm], true), [Aes256Gcm, Aes128Gcm, ChaCha20Poly1305]),
        (kernel(&[Aes128Gcm, Aes256Gcm], false), [Aes128Gcm, Aes256Gcm, ChaCha20Poly1305]),
        (kernel(&[ChaCha20Poly1305], true), [ChaCha20Poly1305, Aes128Gcm, Aes256Gcm]),
        (kernel(&Suite::ALL, true), [Aes128Gcm, Aes256Gcm, ChaCha20Poly1305]),
        (kernel(&Suite::ALL, false), [ChaCha20Poly1305, Aes128Gcm, Aes256Gcm]),
    ] {
        assert_eq!(provided(&SuiteOrder::auto(Some(&abilities))), order, "{abilities:?}");
    }
}

#[test]
fn a_configured_order_is_offered_as_it_is_and_wins_at_the_server() {
    let w = world();
    let order = || SuiteOrder::configured(vec![Aes128Gcm, ChaCha20Poly1305]);
    assert_eq!(provided(&order()), [Aes128Gcm, ChaCha20Poly1305]);
    assert_eq!(agreed(client(&w, SuiteOrder::default()), server(&w, order())), Some(Aes128Gcm));
    let chacha_first = SuiteOrder::configured(vec![ChaCha20Poly1305, Aes128Gcm]);
    assert_eq!(agreed(client(&w, chacha_first), server(&w, order())), Some(Aes128Gcm));
    // A server without an opinion of its own takes the client's.
    assert_eq!(agreed(client(&w, order()), server(&w, SuiteOrder::default())), Some(Aes128Gcm));
    let none_in_common = SuiteOrder::configured(vec![Aes256Gcm]);
    assert_eq!(agreed(client(&w, none_in_common), server(&w, order())), None);
}

#[test]
fn tls_1_2_keeps_its_suites_whatever_the_order_of_1_3() {
    let mut provider = aws_lc_rs::default_provider();
    SuiteOrder::configured(vec![Aes128Gcm]).apply(&mut provider);
    let of_1_2 = |suites: &[SupportedCipherSuite]| -> Vec<_> {
        suites.iter().copied().filter(|suite| suite.tls13().is_none()).collect()
    };
    let usual = of_1_2(&aws_lc_rs::default_provider().cipher_suites);
    assert!(!usual.is_empty());
    assert_eq!(of_1_2(&provider.cipher_suites), usual);
    let w = world();
    let old = TlsSettings { min_version: MinVersion::Tls12, ..TlsSettings::default() };
    assert!(WorkloadTls::new(&w.client.svid(), trust(&w.ca), old).client(expected(SERVER)).is_ok());
}

fn provided(order: &SuiteOrder) -> Vec<Suite> {
    let mut provider = aws_lc_rs::default_provider();
    order.apply(&mut provider);
    provider.cipher_suites.iter().filter_map(|suite| Suite::of(*suite)).collect()
}
