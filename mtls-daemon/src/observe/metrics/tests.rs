//! The metrics, against their guide and against what was counted.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::super::connection::{Datapath, Direction};
use super::super::reason::Reason;
use super::*;

#[test]
fn every_metric_is_in_the_guide_and_no_other() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `mtlsd_"));
    let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
    let text = Metrics::example().encode().unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = types.map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    });
    assert_eq!(told, names.collect::<BTreeSet<_>>().iter().map(String::as_str).collect());
}

#[test]
fn the_text_is_whole_openmetrics_with_the_values_that_were_counted() {
    let text = Metrics::example().encode().unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for line in [
        r#"mtlsd_build_info{version="1.2.3"} 1"#,
        r#"mtlsd_config_reloads_total{result="applied"} 1"#,
        r#"mtlsd_config_reloads_total{result="refused"} 1"#,
        "mtlsd_access_log_lost_total 1",
        r#"mtlsd_crl_age_seconds{trust_domain="example.org",source="/site.crl"} 90"#,
        r#"mtlsd_crl_stale{trust_domain="example.org",source="/site.crl"} 1"#,
        r#"mtlsd_ocsp_questions_total{trust_domain="example.org",result="answered"} 3"#,
        r#"mtlsd_ocsp_questions_total{trust_domain="example.org",result="failed"} 2"#,
        r#"mtlsd_ocsp_stale{trust_domain="example.org"} 1"#,
        r#"mtlsd_ocsp_age_seconds{trust_domain="example.org"} 80"#,
        r#"mtlsd_ebpf_events_total{event="captured"} 12"#,
        r#"mtlsd_handshakes_total{workload="web",side="client",result="ok",reason="none"} 1"#,
        r#"mtlsd_handshakes_total{workload="web",side="server",result="failed",reason="plaintext"} 1"#,
        r#"mtlsd_handshake_duration_seconds_count{workload="web",side="client"} 1"#,
        r#"mtlsd_connections_opened_total{workload="web",direction="outbound",datapath="direct"} 1"#,
        r#"mtlsd_connections_live{workload="web",direction="outbound",datapath="direct"} 0"#,
        r#"mtlsd_connection_bytes_total{workload="web",direction="inbound",datapath="plaintext",flow="received"} 2"#,
        r#"mtlsd_policy_denials_total{workload="web",rule="default of strict"} 1"#,
        r#"mtlsd_plaintext_accepted_total{workload="web"} 1"#,
        r#"mtlsd_certificate_expiry_timestamp_seconds{workload="web"} 1800000000"#,
        r#"mtlsd_identity_alarm{workload="web"} 2"#,
        r#"mtlsd_identity_failures{workload="web"} 4"#,
        r#"mtlsd_embedded_ca_alarm{certificate="intermediate",name="mtlsd intermediate CA 0a1b2c3d"} 2"#,
        r#"mtlsd_embedded_ca_expiry_timestamp_seconds{certificate="intermediate",name="mtlsd intermediate CA 0a1b2c3d"} 1850000000"#,
        r#"mtlsd_leases_ended_total{workload="web",cause="revoked"} 3"#,
        r#"mtlsd_leases_overdue{workload="web",state="kept"} 5"#,
        r#"mtlsd_leases_overdue{workload="web",state="draining"} 6"#,
        r#"mtlsd_trust_roots_alarm{trust_domain="example.org"} 1"#,
        r#"mtlsd_trust_roots_expiry_timestamp_seconds{trust_domain="example.org"} 1900000000"#,
        r#"mtlsd_external_decisions_total{result="allowed"} 1"#,
        r#"mtlsd_external_decisions_total{result="denied"} 0"#,
        r#"mtlsd_external_decisions_total{result="denied_unavailable"} 1"#,
        r#"mtlsd_external_calls_total{result="answered"} 1"#,
        r#"mtlsd_external_calls_total{result="failed"} 1"#,
        "mtlsd_external_call_duration_seconds_count 2",
        "mtlsd_external_failing 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[test]
fn a_removed_workload_leaves_no_series_even_while_its_connections_drain() {
    let metrics = Metrics::example();
    let open = metrics.workload("web").opened(Direction::Inbound, Datapath::RelayUserspace);
    let handle = metrics.workload("web");
    metrics.remove_workload("web");
    open.add_sent(9);
    drop(open);
    handle.refused(Reason::Idle);
    assert!(!metrics.encode().unwrap().contains("workload="));
    // One of the same name starts at zero.
    assert_eq!(metrics.workload("web").opened_total(), 0);
}

#[test]
fn live_connections_are_those_whose_guard_lives() {
    let metrics = Metrics::new("1");
    let web = metrics.workload("web");
    let first = web.opened(Direction::Outbound, Datapath::RelayUserspace);
    let second = web.opened(Direction::Outbound, Datapath::RelayUserspace);
    assert_eq!((web.live(), web.opened_total()), (2, 2));
    drop(first);
    assert_eq!((web.live(), web.opened_total()), (1, 2));
    drop(second);
    assert_eq!(web.live(), 0);
}

#[test]
fn a_connection_that_moves_is_live_and_counted_where_it_is() {
    let metrics = Metrics::new("1");
    let web = metrics.workload("web");
    let open = web.opened(Direction::Outbound, Datapath::RelayUserspace);
    open.add_sent(1);
    open.move_to(Datapath::RelayKtls);
    open.add_sent(2);
    let of = |datapath: Datapath| {
        let traffic = web.traffic(Direction::Outbound, datapath as usize).unwrap();
        (traffic.live(), traffic.opened.load(Ordering::Relaxed), traffic.sent.load(Ordering::Relaxed))
    };
    assert_eq!((of(Datapath::RelayUserspace), of(Datapath::RelayKtls)), ((0, 1, 1), (1, 0, 2)));
    assert_eq!((web.live(), web.opened_total()), (1, 1));
    let text = metrics.encode().unwrap();
    for (datapath, live) in [("relay-userspace", 0), ("relay-ktls", 1)] {
        let labels = format!(r#"{{workload="web",direction="outbound",datapath="{datapath}"}}"#);
        assert!(text.contains(&format!("mtlsd_connections_live{labels} {live}")), "{text}");
    }
    drop(open);
    assert_eq!((of(Datapath::RelayUserspace), of(Datapath::RelayKtls)), ((0, 1, 1), (0, 0, 2)));
}

#[test]
fn without_a_certificate_there_is_no_expiry() {
    let metrics = Metrics::new("1");
    let web = metrics.workload("web");
    assert!(!metrics.encode().unwrap().contains("expiry_timestamp_seconds{"));
    web.set_certificate_expiry(Some(0));
    assert!(metrics.encode().unwrap().contains("expiry_timestamp_seconds{workload=\"web\"} 0"));
    web.set_certificate_expiry(None);
    assert!(!metrics.encode().unwrap().contains("expiry_timestamp_seconds{"));
}

#[test]
fn one_workload_has_one_handle_and_a_hostile_name_stays_a_label() {
    let metrics = Metrics::new("1");
    let (one, two) = (metrics.workload("web"), metrics.workload("web"));
    assert!(Arc::ptr_eq(&one, &two));
    one.denied("a\"} 1\nevil_metric{x=\"");
    let text = metrics.encode().unwrap();
    assert!(!text.lines().any(|line| line.starts_with("evil_metric")), "{text}");
}
