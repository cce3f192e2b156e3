//! Services and their endpoints in the kernel.

use mtls_common::{BackendKey, Service};

use super::*;
use crate::capture::address::endpoint;

fn at(text: &str) -> Endpoint {
    endpoint(text.parse().unwrap())
}

fn services(all: &[(&str, &[&str])]) -> Tables {
    let of = |endpoints: &&[&str]| endpoints.iter().map(|text| at(text)).collect::<Vec<_>>();
    let services = all.iter().map(|(address, endpoints)| (at(address), of(endpoints))).collect();
    Tables { services, ..Tables::default() }
}

fn sets(real: &Real) -> (Map<Endpoint, Service>, Map<BackendKey, Endpoint>) {
    let map = |name| AnyMap::HashMap(MapData::from_pin(real.pins.map(name)).unwrap());
    (Map::try_from(map("SERVICES")).unwrap(), Map::try_from(map("BACKENDS")).unwrap())
}

#[test]
fn a_service_that_changes_gets_a_set_of_a_new_number_and_the_others_keep_theirs() {
    let mut real = Real::new("services");
    let (numbers, backends) = sets(&real);
    let same: (&str, &[&str]) = ("10.96.0.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    let mut highest = 0;
    for changing in
        [&["[fd00::1]:1"][..], &["[fd00::1]:1", "[fd00::2]:1"], &["[fd00::2]:1"], &["[fd00::1]:1"]]
    {
        let wanted = services(&[same, ("[fd00:96::1]:443", changing)]);
        let kept = numbers.get(&at(same.0), 0).ok();
        for _ in 0..2 {
            let base = real.tables.apply(&wanted).unwrap();
            let differences = real.tables.differences(&wanted, base).unwrap();
            assert!(differences.tables.is_empty(), "{differences:?}");
            for (address, endpoints) in &wanted.services {
                assert_eq!(real.tables.services.of(address).as_ref(), Some(endpoints));
            }
            assert_eq!(contents(&backends).len(), 2 + changing.len());
        }
        assert!(kept.is_none_or(|kept| numbers.get(&at(same.0), 0).unwrap() == kept));
        let now = numbers.get(&at("[fd00:96::1]:443"), 0).unwrap().set;
        assert!(now > highest, "a number is not given again");
        highest = now;
    }
    real.tables.apply(&Tables::default()).unwrap();
    assert!(contents(&numbers).is_empty() && contents(&backends).is_empty());
}

#[test]
fn what_somebody_changes_behind_a_service_is_found_and_put_back() {
    let mut real = Real::new("services-spoilt");
    let wanted = services(&[("10.96.0.1:80", &["10.0.0.1:80"]), ("10.96.0.2:80", &["10.0.0.2:80"])]);
    let base = real.tables.apply(&wanted).unwrap();
    let (mut numbers, mut backends) = sets(&real);
    let set = numbers.get(&at("10.96.0.1:80"), 0).unwrap().set;
    backends.insert(BackendKey { set, index: 0 }, at("10.6.6.6:80"), 0).unwrap();
    backends.insert(BackendKey { set: 4242, index: 0 }, at("10.6.6.6:80"), 0).unwrap();
    numbers.remove(&at("10.96.0.2:80")).unwrap();
    numbers.insert(at("10.96.0.3:80"), Service { set, backends: 1 }, 0).unwrap();
    let differences = real.tables.differences(&wanted, base).unwrap();
    let told: Vec<_> = differences.tables.iter().map(ToString::to_string).collect();
    for words in ["10.96.0.1:80 is changed", "10.96.0.2:80 is missing", "10.96.0.3:80 is not mtlsd's", "4242"]
    {
        assert!(told.iter().any(|told| told.contains(words)), "{words}: {told:?}");
    }
    let base = real.tables.apply(&wanted).unwrap();
    assert!(real.tables.differences(&wanted, base).unwrap().tables.is_empty());
}

/// As `service.rs` of the programs does it. A set that went away in between is looked for once more.
#[test]
fn while_endpoints_are_replaced_one_of_before_or_after_is_found() {
    let mut real = Real::new("services-window");
    let (numbers, backends) = sets(&real);
    let address = "10.96.0.1:80";
    let generations: [&[&str]; 2] =
        [&["10.0.0.1:80", "10.0.0.2:80"], &["10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"]];
    let all: Vec<Tables> = generations.iter().map(|endpoints| services(&[(address, endpoints)])).collect();
    real.tables.apply(&all[0]).unwrap();
    let stop = AtomicBool::new(false);
    let known: Vec<Endpoint> = generations.iter().flat_map(|all| all.iter().map(|text| at(text))).collect();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut looks, mut found) = (0_u32, 0_u32);
            while !stop.load(Ordering::Relaxed) {
                let service = numbers.get(&at(address), 0).unwrap();
                looks += 1;
                let key = BackendKey { set: service.set, index: looks % service.backends };
                if let Ok(backend) = backends.get(&key, 0) {
                    assert!(
                        known.contains(&backend),
                        "{}",
                        crate::capture::address::socket_address(&backend)
                    );
                    found += 1;
                }
            }
            found
        });
        for round in 0..400 {
            real.tables.apply(&all[round % 2]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 100);
    });
}
