use std::time::Duration;

use super::*;
use crate::config::{Mode, Source};
use crate::control::enroll::EnrolMode;

fn request(unit: &str) -> EnrolRequest {
    EnrolRequest {
        unit: unit.to_owned(),
        name: None,
        mode: EnrolMode::Strict,
        listen_ports: Vec::new(),
        managed_from: None,
        confirm_within: None,
        dry_run: false,
    }
}

fn parsed(request: &EnrolRequest) -> Config {
    let unit: UnitName = request.unit.parse().unwrap();
    let main = Source { path: "F".into(), text: "trust_domain: example.org\n".to_owned() };
    let name = request.name.clone().unwrap_or_else(|| name_of(&unit));
    let drop_in = Source { path: "D".into(), text: drop_in(request, &unit, &name) };
    Config::parse(&main, &[drop_in]).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_unit_gives_its_workload_a_name_that_may_be() {
    for (unit, name) in [
        ("nginx.service", "nginx"),
        ("Worker@1.service", "worker-1"),
        ("system-my\\x2dapp.slice", "system-my-x2dapp"),
        ("_a.b_.service", "a.b"),
        ("session-3.scope", "session-3"),
    ] {
        assert_eq!(name_of(&unit.parse().unwrap()), name);
        assert_eq!(parsed(&request(unit)).workloads[0].name, name);
    }
    let long = format!("{}.service", "a".repeat(100));
    assert_eq!(parsed(&request(&long)).workloads[0].name.len(), 63);
}

#[test]
fn the_drop_in_says_what_was_asked_and_leaves_alone_what_manages_the_host() {
    let plain = parsed(&request("a\\x2db@1.service"));
    let workload = &plain.workloads[0];
    assert_eq!(workload.select.unit.as_ref().unwrap().as_str(), "a\\x2db@1.service");
    assert_eq!((workload.mode, workload.listen_ports.len()), (Mode::Strict, 0));
    assert_eq!(workload.exclude.ports, BTreeSet::from([22, 53, 123]));
    assert!(workload.exclude.cidrs.is_empty());
    let asked = EnrolRequest {
        name: Some("dns".to_owned()),
        mode: EnrolMode::Permissive,
        listen_ports: vec![53, 853],
        managed_from: Some("::ffff:203.0.113.5".parse().unwrap()),
        ..request("named.service")
    };
    let config = parsed(&asked);
    let workload = &config.workloads[0];
    assert_eq!((workload.name.as_str(), workload.mode), ("dns", Mode::Permissive));
    assert_eq!(workload.listen_ports, BTreeSet::from([53, 853]));
    assert_eq!(workload.exclude.ports, BTreeSet::from([22, 123]), "53 is the unit's own");
    assert_eq!(workload.exclude.cidrs, ["203.0.113.5/32".parse().unwrap()]);
}

#[test]
fn a_name_cannot_say_anything_else_in_the_file() {
    for name in ["a' }\n  - name: b", "a\nmode: disabled", "../../x", "'", "a # b"] {
        let asked = EnrolRequest { name: Some(name.to_owned()), ..request("a.service") };
        let text = drop_in(&asked, &"a.service".parse().unwrap(), name);
        let main = Source { path: "F".into(), text: "trust_domain: example.org\n".to_owned() };
        let error = Config::parse(&main, &[Source { path: "D".into(), text }]).unwrap_err().to_string();
        assert!(error.contains("cannot be") || error.contains("not YAML"), "{name:?}: {error}");
    }
}

#[test]
fn what_was_there_before_is_put_back_and_the_note_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let (state, file) = (directory.path().join("state"), directory.path().join("d/enrolled-a.yaml"));
    assert_eq!(Unconfirmed::read(&state).unwrap(), None);
    for before in [None, Some("old".to_owned())] {
        write(&file, Some("new")).unwrap();
        let change = Unconfirmed::new("a", &file, before.clone(), 60);
        change.note(&state).unwrap();
        assert_eq!(Unconfirmed::read(&state).unwrap(), Some(change.clone()));
        change.put_back().unwrap();
        assert_eq!(read_if_there(&file).unwrap(), before);
        Unconfirmed::forget(&state);
        assert_eq!(Unconfirmed::read(&state).unwrap(), None);
    }
}

#[test]
fn a_change_waits_no_longer_than_it_was_to_and_a_broken_note_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let change = Unconfirmed::new("a", &directory.path().join("f"), None, 60);
    let now = SystemTime::now();
    assert!(change.left(now) > Duration::from_secs(50));
    assert_eq!(
        change.left(now - Duration::from_secs(86_400)),
        Duration::from_secs(60),
        "the clock was set back"
    );
    assert_eq!(change.left(now + Duration::from_secs(120)), Duration::ZERO);
    std::fs::write(directory.path().join("unconfirmed.json"), "{").unwrap();
    let error = Unconfirmed::read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("unconfirmed.json"), "{error}");
    assert!(Waiting::left_behind(directory.path()).is_none());
}

#[test]
fn at_the_start_only_what_is_overdue_is_put_back() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("trust_domain: a\npaths: {{ state: {} }}\n", directory.path().display());
    let config = Config::parse(&Source { path: "F".into(), text }, &[]).unwrap();
    let file = directory.path().join("enrolled-a.yaml");
    assert!(!put_back_overdue(&config), "there is none");
    write(&file, Some("new")).unwrap();
    Unconfirmed::new("a", &file, None, 60).note(directory.path()).unwrap();
    assert!(!put_back_overdue(&config), "it may be confirmed yet");
    assert!(Waiting::left_behind(directory.path()).unwrap().left() > 50);
    Unconfirmed::new("a", &file, None, 0).note(directory.path()).unwrap();
    assert!(put_back_overdue(&config));
    assert!(!file.exists() && !directory.path().join("unconfirmed.json").exists());
}
