//! The issuance log: a line for each certificate, or no certificate.

use std::io::Write;
use std::time::Instant;

use super::super::log::{Entry, IssuanceLog, Kind, LOG, OLD_LOG, whole};
use super::*;

fn entry(number: u64, not_after: SystemTime) -> Entry {
    Entry {
        time: whole(SystemTime::now()),
        kind: Kind::Leaf,
        serial: format!("{number:04x}"),
        spiffe_id: "spiffe://example.org/web".into(),
        dns_names: vec!["web".into()],
        not_after: whole(not_after),
        requested_by: "workload web".into(),
        issuer: "an intermediate".into(),
    }
}

fn serials(log: &IssuanceLog) -> Vec<String> {
    log.read().unwrap().entries.into_iter().map(|entry| entry.serial).collect()
}

#[test]
fn every_certificate_has_its_line() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    let svid = ca.plain(&id(), &["web.example.org".into()], now).unwrap();
    let text = fs::read_to_string(place.file(LOG)).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["kind"], &lines[1]["kind"]), (&"intermediate".into(), &"leaf".into()));
    assert_eq!(lines[1]["serial"], svid.serial);
    assert_eq!(lines[1]["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(lines[1]["dns_names"][0], "web.example.org");
    assert_eq!(lines[1]["not_after"], when::rfc3339(svid.not_after));
    assert_eq!(lines[1]["requested_by"], "a test");
    assert_eq!(lines[1]["issuer"], Leaf::read(&svid.chain[0]).unwrap().issuer);
    assert_eq!(lines[0]["serial"], Leaf::read(&svid.chain[1]).unwrap().serial);
}

#[test]
fn without_its_line_there_is_no_certificate_and_with_the_log_back_there_is() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    let aside = place.file("aside");
    fs::rename(place.file(LOG), &aside).unwrap();
    // Even root cannot append to a directory.
    fs::create_dir(place.file(LOG)).unwrap();
    let error = ca.plain(&id(), &[], now).unwrap_err();
    assert!(matches!(error, CaError::Log { action: "open", .. }), "{error}");
    assert!(error.to_string().contains("no certificate is issued without its line"), "{error}");
    fs::remove_dir(place.file(LOG)).unwrap();
    fs::rename(aside, place.file(LOG)).unwrap();
    ca.plain(&id(), &[], now).unwrap();
}

#[test]
fn a_full_disk_is_told() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join(LOG)).unwrap();
    let log = IssuanceLog::new(directory.path());
    let error = log.append(&entry(1, SystemTime::now()), false, SystemTime::now()).unwrap_err();
    assert!(matches!(error, CaError::Log { action: "write", .. }), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
}

#[test]
fn a_last_line_that_a_crash_has_cut_does_not_stop_the_ca_and_spoils_no_other() {
    let place = place();
    let now = SystemTime::now();
    let first = place.open().unwrap().plain(&id(), &[], now).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(place.file(LOG)).unwrap();
    file.write_all(b"{\"time\":\"2026-11-2").unwrap();
    let second = place.open().unwrap().plain(&id(), &[], now).unwrap();
    let lines = IssuanceLog::new(&place.settings.directory).read().unwrap();
    let serials: Vec<_> = lines.entries.iter().skip(1).map(|entry| entry.serial.as_str()).collect();
    assert_eq!(serials, [first.serial.as_str(), second.serial.as_str()]);
    assert_eq!(lines.unreadable, 1);
}

#[test]
fn what_has_expired_goes_to_the_old_log_and_what_is_valid_stays() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let log = IssuanceLog::with_limit(directory.path(), 3_000);
    log.append(&entry(0, now + DAY), false, now).unwrap();
    let mut number = 0_u16;
    while !directory.path().join(OLD_LOG).exists() {
        number += 1;
        assert!(number < 100, "it is never rotated");
        log.append(&entry(number.into(), now - HOUR), false, now).unwrap();
    }
    assert_eq!(serials(&log), ["0000"]);
    let old = fs::read_to_string(directory.path().join(OLD_LOG)).unwrap();
    assert_eq!(old.lines().count(), usize::from(number) + 1, "nothing is lost");
    log.append(&entry(500, now + HOUR), true, now).unwrap();
    assert_eq!(serials(&log), ["0000", "01f4"]);
    // Bounded: as often as one likes, two files of about the limit.
    for number in 0..200 {
        log.append(&entry(number, now - HOUR), false, now).unwrap();
    }
    let size = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
    assert!(size(LOG) < 3_500 && size(OLD_LOG) < 3_500, "{} {}", size(LOG), size(OLD_LOG));
}

#[test]
fn a_log_of_which_all_is_valid_is_not_rotated_at_every_line() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let log = IssuanceLog::with_limit(directory.path(), 2_000);
    let mut rotations = HashSet::new();
    for number in 0..100 {
        log.append(&entry(number, now + DAY), false, now).unwrap();
        rotations.extend(fs::metadata(directory.path().join(OLD_LOG)).map(|old| old.modified().unwrap()));
    }
    assert_eq!(serials(&log).len(), 100);
    assert!((1..=6).contains(&rotations.len()), "doubling: {}", rotations.len());
}

#[test]
fn writers_at_the_same_time_lose_no_line() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let log = IssuanceLog::with_limit(directory.path(), 20_000);
            scope.spawn(move || {
                for number in 0..50 {
                    log.append(&entry(writer * 50 + number, now + DAY), false, now).unwrap();
                }
            });
        }
    });
    let log = IssuanceLog::new(directory.path());
    let lines = log.read().unwrap();
    assert_eq!((lines.entries.len(), lines.unreadable), (400, 0));
}

#[test]
fn a_line_costs_little_beside_a_signature() {
    let place = place();
    let ca = place.open().unwrap();
    let now = SystemTime::now();
    let log = IssuanceLog::new(&place.settings.directory);
    let time = |what: &dyn Fn()| {
        let start = Instant::now();
        (0..200).for_each(|_| what());
        start.elapsed() / 200
    };
    let issue = time(&|| drop(ca.plain(&id(), &[], now).unwrap()));
    let line = time(&|| log.append(&entry(1, now + DAY), false, now).unwrap());
    let synced = time(&|| log.append(&entry(1, now + DAY), true, now).unwrap());
    println!("issue {issue:?}, of which line {line:?}; with sync {synced:?}");
    // Generous: this machine is shared.
    assert!(issue < Duration::from_millis(100), "{issue:?}");
}
