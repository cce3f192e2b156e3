use std::net::IpAddr;

use clap::Parser;

use super::*;
use crate::control::cli::{Ask, Cli, Command};

/// What a daemon that is only an image of one answers.
pub(in crate::control) fn enroll(request: &EnrolRequest, healthy: bool) -> Result<EnrolReport, EnrolError> {
    if !healthy {
        return Err(EnrolError::Refused(
            "D:2:5: the workload name `nginx` is taken already, at F:3:5".to_owned(),
        ));
    }
    Ok(EnrolReport {
        name: request.name.clone().unwrap_or_else(|| "nginx".to_owned()),
        spiffe_id: "spiffe://example.org/nginx".to_owned(),
        mode: request.mode,
        file: "/etc/mtlsd/mtlsd.yaml.d/enrolled-nginx.yaml".into(),
        text: "workloads: []\n".to_owned(),
        state: WorkloadState::Enrolled,
        detail: String::new(),
        ports: if request.listen_ports.is_empty() { vec![80, 443] } else { request.listen_ports.clone() },
        warnings: vec!["F:1:1: so and so".to_owned()],
        undone_in: request.confirm_within,
        dry_run: request.dry_run,
    })
}

pub(in crate::control) fn list(healthy: bool) -> Vec<Enrolled> {
    let one = Enrolled {
        name: "nginx".to_owned(),
        selector: "unit nginx.service".to_owned(),
        mode: "strict".to_owned(),
        state: WorkloadState::Absent,
        detail: "unit nginx.service has no cgroup".to_owned(),
        file: "/etc/mtlsd/mtlsd.yaml.d/enrolled-nginx.yaml".into(),
        undone_in: Some(42),
    };
    if healthy { vec![one] } else { Vec::new() }
}

fn asked(line: &str, ssh: Option<&str>) -> EnrolRequest {
    match Cli::try_parse_from(line.split(' ')).unwrap().command {
        Command::Ask(Ask::Enroll(arguments)) => arguments.request(ssh),
        _ => panic!("{line}"),
    }
}

#[test]
fn strict_over_ssh_waits_to_be_confirmed_and_leaves_the_client_alone() {
    let ssh = Some("203.0.113.5 50022 192.0.2.1 22");
    let client: IpAddr = "203.0.113.5".parse().unwrap();
    let strict = asked("mtlsd enroll unit:a.service --mode strict", ssh);
    assert_eq!((strict.confirm_within, strict.managed_from), (Some(60), Some(client)));
    let permissive = asked("mtlsd enroll unit:a.service", ssh);
    assert_eq!((permissive.mode, permissive.confirm_within), (EnrolMode::Permissive, None));
    assert_eq!(permissive.managed_from, Some(client));
    let sure = asked("mtlsd enroll unit:a.service --mode strict --confirm-within off", ssh);
    assert_eq!(sure.confirm_within, None);
    let slow = asked("mtlsd enroll unit:a.service --confirm-within 5m", None);
    assert_eq!((slow.confirm_within, slow.managed_from), (Some(300), None));
    let here = asked("mtlsd enroll unit:a.service --mode strict", None);
    assert_eq!(here.confirm_within, None);
    for odd in ["", "garbage", "::1 1 ::1 22"] {
        assert_eq!(asked("mtlsd enroll unit:a.service --mode strict", Some(odd)).managed_from, None, "{odd}");
    }
}

#[test]
fn the_answer_says_what_was_done_or_would_be() {
    let request = asked("mtlsd enroll unit:nginx.service --mode strict --confirm-within 1m", None);
    let text = enrolled(&enroll(&request, true).unwrap());
    for part in [
        "Enrolled nginx as spiffe://example.org/nginx, strict.",
        "Its ports: 80, 443.",
        "warning: F:1:1",
        "Written to /etc/mtlsd/mtlsd.yaml.d/enrolled-nginx.yaml.",
        "Undone in 60 s unless you run `mtlsd confirm`.",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let dry = enrolled(&enroll(&EnrolRequest { dry_run: true, ..request.clone() }, true).unwrap());
    assert!(dry.contains("Would enrol nginx") && dry.contains("Nothing was changed."), "{dry}");
    assert!(dry.contains("workloads: []"), "{dry}");
    let absent = EnrolReport {
        state: WorkloadState::Absent,
        detail: "it does not run".to_owned(),
        ..enroll(&request, true).unwrap()
    };
    assert!(enrolled(&absent).contains("It is not there now: it does not run."));
    let quiet = EnrolReport { ports: Vec::new(), ..enroll(&request, true).unwrap() };
    assert!(enrolled(&quiet).contains("Its ports: none now."));
}

#[test]
fn the_list_says_how_each_is_found_and_what_waits() {
    let text = super::list(&list(true));
    for part in ["nginx", "unit nginx.service", "strict", "absent", "has no cgroup; undone in 42 s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(super::list(&[]).contains("Nothing was enrolled"));
}

#[test]
fn whoever_waits_is_told_why_it_was_in_vain() {
    let stood = |state, detail: &str| Waited { name: "a".to_owned(), state, detail: detail.to_owned() };
    for (stands, holds, text) in [
        (stood(Some(WorkloadState::Enrolled), ""), true, "a is enrolled."),
        (stood(Some(WorkloadState::Disabled), ""), true, "its mode is disabled"),
        (stood(Some(WorkloadState::Absent), "no cgroup"), false, "a is not enrolled: no cgroup."),
        (stood(Some(WorkloadState::Failed), "why"), false, "a is not enrolled: why."),
        (stood(None, ""), false, "There is no workload a"),
    ] {
        assert_eq!(stands.holds(), holds, "{stands:?}");
        assert!(waited(&stands).contains(text), "{}", waited(&stands));
    }
}

#[test]
fn every_refusal_says_what_to_do() {
    let file =
        EnrolError::File { what: "write", path: "/x".into(), source: std::io::ErrorKind::StorageFull.into() };
    for (error, part) in [
        (EnrolError::Unit("x".to_owned(), crate::config::UnitError::Kind), "nginx.service"),
        (EnrolError::Unconfirmed { name: "a".to_owned(), left: 7 }, "undone in 7 s"),
        (EnrolError::NothingToConfirm, "nothing waits"),
        (EnrolError::NotEnrolled("a".to_owned()), "\"a\" was not enrolled"),
        (EnrolError::Refused("why".to_owned()), "would be refused: why"),
        (file, "cannot write /x"),
    ] {
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.mend().is_empty());
    }
}
