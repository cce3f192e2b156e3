//! What is known inside the cluster, in the kernel.

use mtls_common::{INSIDE_KNOWN, INSIDE_UNKNOWN};

use super::*;

fn key(length: u32, address: &str) -> (u32, [u8; 16]) {
    let address: IpAddr = address.parse().unwrap();
    (if address.is_ipv4() { 96 + length } else { length }, octets(address))
}

/// The network 10.0.0.0/8, and these in it.
fn known(addresses: &[&str]) -> Tables {
    let known = addresses.iter().map(|address| (key(32, address), INSIDE_KNOWN));
    let network = std::iter::once((key(8, "10.0.0.0"), INSIDE_UNKNOWN));
    Tables { inside: network.chain(known).collect(), ..Tables::default() }
}

fn there(real: &Real) -> HashMap<(u32, [u8; 16]), u32> {
    trie_contents(real.tables.inside.trie())
}

#[test]
fn generation_after_generation_the_kernel_knows_exactly_who_is_known() {
    let mut real = Real::new("inside");
    let generations: [&[&str]; 4] =
        [&["10.0.0.1", "10.0.0.2"], &["10.0.0.2"], &[], &["10.0.0.1", "10.0.0.3"]];
    for addresses in generations {
        let wanted = known(addresses);
        for _ in 0..2 {
            let base = real.tables.apply(&wanted).unwrap();
            assert_eq!(there(&real), wanted.inside);
            assert!(real.tables.differences(&wanted, base).unwrap().tables.is_empty());
        }
    }
    // A network that is one address, and then known.
    let mut wanted = known(&["10.0.0.1"]);
    for value in [INSIDE_UNKNOWN, INSIDE_KNOWN, INSIDE_UNKNOWN] {
        wanted.inside.insert(key(32, "10.0.0.1"), value);
        real.tables.apply(&wanted).unwrap();
        assert_eq!(there(&real), wanted.inside);
    }
    real.tables.apply(&Tables::default()).unwrap();
    assert!(there(&real).is_empty());
}

#[test]
fn only_what_has_changed_is_written_and_after_a_doubt_everything() {
    let mut real = Real::new("inside-spoilt");
    let base = real.tables.apply(&known(&["10.0.0.1", "10.0.0.2"])).unwrap();
    let data = MapData::from_pin(real.pins.map("INSIDE")).unwrap();
    let mut trie = LpmTrie::<_, [u8; 16], u32>::try_from(AnyMap::LpmTrie(data)).unwrap();
    let foreign = key(32, "10.6.6.6");
    trie.insert(&TrieKey::new(foreign.0, foreign.1), INSIDE_KNOWN, 0).unwrap();
    let wanted = known(&["10.0.0.2", "10.0.0.3"]);
    let differences = real.tables.differences(&known(&["10.0.0.1", "10.0.0.2"]), base).unwrap();
    assert!(differences.tables[0].to_string().starts_with("table INSIDE: 1 entries"), "{differences:?}");
    real.tables.apply(&wanted).unwrap();
    let mut with_foreign = wanted.inside.clone();
    with_foreign.insert(foreign, INSIDE_KNOWN);
    assert_eq!(there(&real), with_foreign, "the rest was not looked at");
    real.tables.doubt();
    real.tables.apply(&wanted).unwrap();
    assert_eq!(there(&real), wanted.inside);
}

#[test]
fn a_full_table_is_an_error_after_which_nothing_is_lost_and_less_fits_again() {
    let mut real = Real::new("inside-full");
    let few = known(&["10.0.0.1"]);
    real.tables.apply(&few).unwrap();
    let mut many = few.clone();
    let all = (0..=1_u32 << 17).map(|n| octets(std::net::Ipv4Addr::from((11 << 24) + n).into()));
    many.inside.extend(all.map(|address| ((128, address), INSIDE_KNOWN)));
    let error = real.tables.apply(&many).unwrap_err().to_string();
    assert!(error.contains("INSIDE"), "{error}");
    let there_now = there(&real);
    assert!(few.inside.iter().all(|(key, value)| there_now.get(key) == Some(value)));
    real.tables.apply(&few).unwrap();
    assert_eq!(there(&real), few.inside);
}
