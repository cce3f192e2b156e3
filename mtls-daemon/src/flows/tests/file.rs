//! What is on disk, and what is made of one that is broken.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn filled() -> Flows {
    let flows = flows(16);
    let db = Db(&flows);
    db.plain(1, open(), ago(50));
    db.plain(2, Outcome::refused("mode strict", Reason::Plaintext), ago(40));
    for name in [spiffe("spiffe://a/web"), PeerName::Dns("web".into()), PeerName::CommonName("Web é".into())]
    {
        db.proven(&name, 3, Outcome::allowed("web"), ago(30));
    }
    let attributes = CertificateAttributes {
        organizations: vec!["Shop".into()],
        organizational_units: vec!["Web".into()],
        extensions: vec![("1.2.3".into(), "hex:00".into())],
    };
    let name = spiffe("spiffe://a/db");
    let to = Tuple::unproven(Direction::Outbound, "web", 80, "fd00::1".parse().unwrap(), Channel::MutualTls);
    flows.note_at(&Tuple { name: Some(&name), attributes: &attributes, ..to }, &open(), ago(20));
    flows.watch_at(&config("workloads: [{ name: db, select: { netns: db } }]"), ago(60));
    flows
}

fn sorted(mut record: Record) -> Record {
    record.flows.sort_by_key(|flow| format!("{flow:?}"));
    record
}

#[test]
fn what_was_written_is_read_again_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = FlowFile::of(directory.path());
    assert_eq!(file.read().unwrap(), None, "none yet");
    let before = filled().record_at(Moment::default(), NOON);
    file.write(&before).unwrap();
    file.write(&before).unwrap();
    assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let read = file.read_or_set_aside().unwrap();
    assert_eq!(read, Record { taken: read.taken, ..before.clone() });
    let again = Flows::at(settings(16), Some(before.clone()), NOON).record_at(Moment::default(), NOON);
    let absences = vec![Absence { from: NOON, to: NOON }];
    assert_eq!(sorted(again), sorted(Record { begun: NOON.before(7 * DAY), absences, ..before }));
    file.remove().unwrap();
    file.remove().unwrap();
    assert_eq!(file.read().unwrap(), None);
}

#[test]
fn of_more_than_there_is_room_for_the_last_are_kept_and_the_others_counted() {
    let record = filled().record_at(Moment::default(), NOON);
    let few = Flows::at(settings(2), Some(record), NOON).record_at(Moment::default(), NOON);
    assert_eq!((few.flows.len(), few.evicted), (2, 4));
    assert!(few.flows.iter().any(|flow| flow.last_seen == ago(20)));
}

#[test]
fn times_in_the_future_are_those_of_now() {
    let mut record = filled().record_at(Moment::default(), NOON);
    record.begun = NOON;
    let flows = Flows::at(settings(16), Some(record), ago(45));
    let record = flows.record_at(Moment::default(), ago(45));
    assert_eq!(record.begun, ago(45));
    assert!(record.flows.iter().all(|flow| flow.first_seen <= flow.last_seen && flow.last_seen <= ago(45)));
}

#[test]
fn a_time_without_a_daemon_is_known_for_one_and_restarts_do_not_matter() {
    let restart = |flows: &Flows, stopped: Moment, started: Moment| {
        Flows::at(settings(16), Some(flows.record_at(Moment::default(), stopped)), started)
    };
    let mut flows = restart(&filled(), ago(10_000), ago(9_990));
    let gaps = |flows: &Flows, since| flows.record_at(since, NOON).gaps(since);
    assert!(gaps(&flows, NOON.before(DAY)).is_empty(), "ten seconds");
    flows = restart(&flows, ago(1_000), ago(600));
    let missed = gaps(&flows, NOON.before(DAY));
    assert!(missed[0].contains("for 6 min of that time no daemon was running"), "{missed:?}");
    assert!(gaps(&flows, ago(610)).is_empty(), "only what is in that time");
    for second in 0..70 {
        flows = restart(&flows, ago(100 - second), ago(100 - second));
    }
    let record = flows.record_at(Moment::default(), NOON);
    assert_eq!(
        (record.absences.len(), record.begun),
        (64, ago(95)),
        "what is not kept is not claimed to be known"
    );
}

#[test]
fn the_last_sign_of_life_is_when_the_file_was_touched() {
    let directory = tempfile::tempdir().unwrap();
    let file = FlowFile::of(directory.path());
    assert!(file.touch().is_err(), "there is none");
    let before = Moment::now();
    file.write(&Record::default()).unwrap();
    fs::File::options()
        .write(true)
        .open(file.path())
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH + DAY))
        .unwrap();
    assert_eq!(file.read().unwrap().unwrap().taken, Moment::from_millis(86_400_000));
    file.touch().unwrap();
    assert!(file.read().unwrap().unwrap().taken >= before.before(Duration::from_secs(1)));
}

fn written(path: &Path) -> Value {
    let file = FlowFile::of(path);
    file.write(&filled().record_at(Moment::default(), NOON)).unwrap();
    serde_json::from_slice(&fs::read(file.path()).unwrap()).unwrap()
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = FlowFile::of(directory.path());
    let good = written(directory.path());
    let flow = |flow: &Value, key: &str, value: Value| {
        let mut flow = flow.clone();
        flow[key] = value;
        flow
    };
    let proven =
        good["record"]["flows"].as_array().unwrap().iter().find(|f| f.get("peer").is_some()).unwrap();
    let plain = good["record"]["flows"].as_array().unwrap().iter().find(|f| f.get("peer").is_none()).unwrap();
    let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
    for (bad, why) in [
        (flow(proven, "peer", json!("spiffe://A/x")), "s name"),
        (flow(proven, "peer", json!("web")), "s name"),
        (flow(proven, "peer", json!("cn:")), "s name"),
        (flow(proven, "peer", json!(format!("dns:{}", "x".repeat(2049)))), "s name"),
        (flow(proven, "channel", json!("plaintext")), "proven by mutual TLS"),
        (flow(plain, "channel", json!("mutual-tls")), "proven by mutual TLS"),
        (flow(plain, "organizations", json!(["x"])), "proven by mutual TLS"),
        (flow(proven, "organizations", json!(many)), "more than 64 organizations"),
        (flow(proven, "organizational_units", json!(["x".repeat(600)])), "too long"),
        (flow(proven, "extensions", json!([["1.2", "x".repeat(600)]])), "too long"),
        (flow(plain, "workload", json!("x".repeat(2000))), "too long"),
        (flow(plain, "first_seen", json!("2100-01-01T00:00:00Z")), "seen last before"),
        (flow(plain, "first_seen", json!("1900-01-01T00:00:00Z")), "before 1970"),
        (flow(plain, "reason", json!("because")), "because"),
        (flow(plain, "port", json!(70_000)), "70000"),
        (flow(plain, "address", json!("here")), "IP address"),
        (flow(plain, "more", json!(1)), "unknown field"),
    ] {
        let mut content = good.clone();
        content["record"]["flows"] = json!([bad]);
        fs::write(file.path(), content.to_string()).unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("flows.json"), "{bad}: {error}");
    }
    let mut newer = good.clone();
    newer["version"] = json!(2);
    fs::write(file.path(), newer.to_string()).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("it has version 2, and 1 is understood"));
}

#[test]
fn a_broken_file_is_set_aside_and_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = FlowFile::of(directory.path());
    let whole = written(directory.path()).to_string();
    for broken in ["", "{", "\u{1b}[31m", &whole[..whole.len() / 2]] {
        fs::write(file.path(), broken).unwrap();
        assert_eq!(file.read_or_set_aside(), None);
        assert!(!file.path().exists());
        assert_eq!(fs::read_to_string(directory.path().join("flows.json.broken")).unwrap(), broken);
    }
    // Neither a pipe nor a link is followed.
    nix::unistd::mkfifo(&file.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("it is not a file"));
    fs::remove_file(file.path()).unwrap();
    fs::write(directory.path().join("elsewhere"), &whole).unwrap();
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), file.path()).unwrap();
    assert!(matches!(file.read(), Err(FlowFileError::Io { .. })));
    assert_eq!(file.read_or_set_aside(), None);
    file.write(&filled().record_at(Moment::default(), NOON)).unwrap();
    assert!(file.read().unwrap().is_some());
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = FlowFile::of(directory.path());
    fs::File::create(file.path()).unwrap().set_len(MAX_BYTES + 1).unwrap();
    assert!(file.read().unwrap_err().to_string().contains("more than 536870912 bytes"));
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let error = FlowFile::of(Path::new("/proc/mtlsd-no-such")).write(&Record::default()).unwrap_err();
    assert!(error.to_string().contains("/proc/mtlsd-no-such"), "{error}");
}
