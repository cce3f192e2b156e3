//! Alarms come in time, name what is wrong, and are told once.

use super::*;
use crate::identity::testing::{HOUR, TestCa};

const MINUTE: Duration = Duration::from_secs(60);

fn life(now: SystemTime, before: Duration, after: Duration) -> Validity {
    Validity { from: now - before, until: now + after }
}

/// The status of an identity that began `before` and ends `after` now.
fn status(now: SystemTime, before: Duration, after: Duration) -> IdentityStatus {
    IdentityStatus {
        workload: "web".into(),
        source: "told",
        spiffe_id: Some("spiffe://example.org/web".into()),
        serial: Some("01".into()),
        not_before: Some(now - before),
        not_after: Some(now + after),
        chain_not_after: Some(now + after),
        ends_first: None,
        life_from: Some(now - before),
        valid: true,
        next_renewal: None,
        fetched: 1,
        failures: 0,
        last_error: None,
        last_error_at: None,
    }
}

#[test]
fn the_level_follows_the_share_that_is_left() {
    let (now, thresholds) = (SystemTime::now(), Thresholds::default());
    for (left, want) in [
        (100, Level::Ok),
        (50, Level::Ok),
        (26, Level::Ok),
        (25, Level::Warning),
        (11, Level::Warning),
        (10, Level::Critical),
        (0, Level::Critical),
    ] {
        assert_eq!(thresholds.level(life(now, (100 - left) * MINUTE, left * MINUTE), now), want, "{left} %");
    }
    assert_eq!(thresholds.level(life(now - HOUR, HOUR, MINUTE), now), Level::Expired);
    let ahead = Validity { from: now + MINUTE, until: now + HOUR };
    assert_eq!(thresholds.level(ahead, now), Level::Expired, "not valid yet");
}

#[test]
fn a_threshold_may_be_a_time() {
    let now = SystemTime::now();
    let thresholds = Thresholds { warning: Threshold::Left(6 * HOUR), critical: Threshold::Share(10) };
    assert_eq!(thresholds.level(life(now, HOUR, 7 * HOUR), now), Level::Ok);
    assert_eq!(thresholds.level(life(now, HOUR, 6 * HOUR), now), Level::Warning);
    assert_eq!(thresholds.level(life(now, 9 * HOUR, HOUR), now), Level::Critical);
}

#[test]
fn levels_are_in_the_order_of_the_metric() {
    for (number, level) in Level::ALL.into_iter().enumerate() {
        assert_eq!(level as usize, number);
        assert_eq!(serde_json::to_value(level).unwrap(), level.as_str());
    }
    assert!(Level::ALL.is_sorted());
}

#[test]
fn an_alarm_says_when_the_certificate_ends_and_what_failed_last() {
    let now = SystemTime::now();
    let mut status = status(now, 59 * MINUTE, MINUTE * 3 / 2);
    status.failures = 7;
    status.last_error = Some("the issuer is away".into());
    let standing = of_workload(&status, Thresholds::default(), now);
    assert_eq!(standing.level, Level::Critical);
    for part in ["expires in 1 min (", "7 attempts to renew it failed", "the issuer is away"] {
        assert!(standing.detail.contains(part), "{}", standing.detail);
    }
    let later = now + 4 * MINUTE;
    status.valid = false;
    let standing = of_workload(&status, Thresholds::default(), later);
    assert!(
        standing.level == Level::Expired && standing.detail.contains("expired 2 min ago"),
        "{standing:?}"
    );
}

#[test]
fn a_clock_that_is_behind_is_told_as_such() {
    let now = SystemTime::now();
    let status = IdentityStatus { valid: false, ..status(now, HOUR, HOUR) };
    let standing = of_workload(&status, Thresholds::default(), now - HOUR - MINUTE);
    assert_eq!(standing.level, Level::Expired);
    assert!(standing.detail.contains("check"), "{}", standing.detail);
    // A little too early is valid, and not an alarm.
    let status = IdentityStatus { valid: true, ..status };
    assert_eq!(of_workload(&status, Thresholds::default(), now - HOUR - MINUTE / 2).level, Level::Ok);
}

#[test]
fn no_certificate_is_an_alarm_once_an_attempt_has_failed() {
    let now = SystemTime::now();
    let none = IdentityStatus {
        not_before: None,
        not_after: None,
        chain_not_after: None,
        life_from: None,
        valid: false,
        ..status(now, HOUR, HOUR)
    };
    assert_eq!(of_workload(&none, Thresholds::default(), now).level, Level::Ok);
    let failed = IdentityStatus { failures: 1, last_error: Some("refused".into()), ..none };
    let standing = of_workload(&failed, Thresholds::default(), now);
    assert_eq!((standing.level, standing.until), (Level::Expired, None));
    assert!(standing.detail.starts_with("there is no certificate") && standing.detail.contains("refused"));
}

fn domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

fn root(name: &str, now: SystemTime, before: Duration, after: Duration) -> Bundle {
    TestCa::root_valid(name, now - before, now + after).bundle()
}

fn roots(
    configured: &TrustBundles,
    brought: &[TrustBundles],
    now: SystemTime,
) -> BTreeMap<TrustDomain, Standing> {
    of_roots(configured, brought.iter(), Thresholds::default(), now)
}

#[test]
fn of_the_roots_of_a_trust_domain_the_longest_counts() {
    let now = SystemTime::now();
    let old = root("old", now, 100 * DAY, DAY);
    let bundles: TrustBundles = [(domain("a"), old.clone())].into_iter().collect();
    let standing = &roots(&bundles, &[], now)[&domain("a")];
    assert_eq!(standing.level, Level::Critical);
    assert!(
        standing.detail.contains("old") && standing.detail.contains("expires in 2"),
        "{}",
        standing.detail
    );
    let both = [(domain("a"), old.merged(&root("new", now, DAY, 100 * DAY)))].into_iter().collect();
    let standing = &roots(&both, &[], now)[&domain("a")];
    assert!(standing.level == Level::Ok && standing.detail.contains("new"), "{standing:?}");
    let gone = [(domain("a"), root("gone", now, 9 * DAY, DAY))].into_iter().collect();
    let standing = &roots(&gone, &[], now + 2 * DAY)[&domain("a")];
    assert!(
        standing.level == Level::Expired && standing.detail.contains("none of its roots"),
        "{standing:?}"
    );
}

#[test]
fn a_root_of_many_years_is_an_alarm_in_its_last_month_and_a_short_one_by_its_share() {
    let now = SystemTime::now();
    for (life, left, want) in [
        (3_650, 800, Level::Ok),
        (3_650, 31, Level::Ok),
        (3_650, 29, Level::Warning),
        (3_650, 6, Level::Critical),
        // Two days, of which more than a quarter is left.
        (2, 1, Level::Ok),
    ] {
        let bundles = [(domain("a"), root("r", now, (life - left) * DAY, left * DAY))].into_iter().collect();
        assert_eq!(roots(&bundles, &[], now)[&domain("a")].level, want, "{left} of {life} days");
    }
}

#[test]
fn a_workload_that_lacks_the_new_root_is_not_hidden_by_one_that_has_it() {
    let now = SystemTime::now();
    let (old, new) = (root("old", now, 100 * DAY, DAY), root("new", now, DAY, 100 * DAY));
    let of = |bundle: &Bundle| -> TrustBundles { [(domain("a"), bundle.clone())].into_iter().collect() };
    let behind = roots(&TrustBundles::new(), &[of(&new), of(&old), of(&new)], now);
    assert_eq!(behind[&domain("a")].level, Level::Critical);
    // What is configured is believed by every workload besides.
    let helped = roots(&of(&new), &[of(&old)], now);
    assert_eq!(helped[&domain("a")].level, Level::Ok);
    assert_eq!(roots(&of(&old), &[of(&new)], now)[&domain("a")].level, Level::Ok);
}

#[test]
fn each_change_of_a_level_is_told_once() {
    let now = SystemTime::now();
    let mut told = Told::default();
    let mut at = |level| -> Vec<(Level, Level)> {
        let standing = Standing { level, until: Some(now), detail: String::new() };
        let all = [(Subject::Workload("web".into()), standing)].into();
        told.changes(&all).into_iter().map(|(_, standing, before)| (before, standing.level)).collect()
    };
    assert_eq!(at(Level::Ok), []);
    assert_eq!(at(Level::Warning), [(Level::Ok, Level::Warning)]);
    assert_eq!(at(Level::Warning), []);
    assert_eq!(at(Level::Expired), [(Level::Warning, Level::Expired)]);
    assert_eq!(at(Level::Ok), [(Level::Expired, Level::Ok)]);
    // What is gone and comes back is new.
    assert_eq!(at(Level::Critical), [(Level::Ok, Level::Critical)]);
    assert!(told.changes(&BTreeMap::new()).is_empty());
}

#[test]
fn the_end_of_an_intermediate_before_that_of_the_certificate_counts_and_is_named() {
    let now = SystemTime::now();
    let early = IdentityStatus {
        chain_not_after: Some(now + 5 * MINUTE),
        ends_first: Some("Site issuing".into()),
        ..status(now, HOUR, HOUR)
    };
    let standing = of_workload(&early, Thresholds::default(), now);
    assert_eq!((standing.level, standing.until), (Level::Critical, Some(now + 5 * MINUTE)));
    assert!(
        standing.detail.starts_with("the intermediate Site issuing of its chain expires in"),
        "{}",
        standing.detail
    );
    let standing = of_workload(&early, Thresholds::default(), now + 6 * MINUTE);
    assert_eq!(standing.level, Level::Expired, "peers refuse it");
    assert!(standing.detail.contains("Site issuing of its chain expired"), "{}", standing.detail);
}

#[test]
fn the_certificates_of_the_embedded_ca_are_alarms_by_their_share_and_roots_late_in_their_life() {
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let of = |kind, before: u32, after: u32| CaCertificate {
        kind,
        name: "one".into(),
        not_before: (now - day * before).into(),
        not_after: (now + day * after).into(),
    };
    let level = |certificate: CaCertificate, at: SystemTime| {
        let standings = of_ca(&[certificate], Thresholds::default(), at);
        let (subject, standing) = standings.into_iter().next().unwrap();
        (subject.to_string(), standing)
    };
    let intermediate = |after| level(of(CertificateKind::Intermediate, 365 - after, after), now);
    assert_eq!(intermediate(183).1.level, Level::Ok, "it is renewed at half");
    assert_eq!(intermediate(90).1.level, Level::Warning);
    let (subject, standing) = intermediate(36);
    assert_eq!((subject.as_str(), standing.level), ("embedded CA: intermediate one", Level::Critical));
    assert!(standing.detail.starts_with("it expires in "), "{}", standing.detail);
    let root = |after| level(of(CertificateKind::Root, 3650 - after, after), now).1.level;
    assert_eq!(
        [root(365), root(31), root(29), root(6)],
        [Level::Ok, Level::Ok, Level::Warning, Level::Critical]
    );
    let (_, late) = level(of(CertificateKind::Root, 10, 1), now + 2 * day);
    assert_eq!(late.level, Level::Expired);
    assert!(late.detail.contains("expired"), "{}", late.detail);
}
