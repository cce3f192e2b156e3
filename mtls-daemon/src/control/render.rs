//! Answers of the daemon as text for people.
//!
//! Parts of an answer come from peers (names in certificates, alerts), so nothing is shown that a terminal would
//! take as a command.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::view::{
    ClusterStatus, KtlsStatus, ReloadReport, ResourceStatus, Status, VerifyReport, WorkloadStatus,
};
use crate::diagnose::PathReport;
use crate::identity::CaStatus;
use crate::identity::alarm::Level;
use crate::identity::ca::admin::Listing;
use crate::observe::connection::ConnectionRecord;
use crate::observe::explain::{Explanation, Outcome};

/// So many services that are left to kube-proxy are told to people.
const LEFT_SHOWN: usize = 10;

fn cluster(out: &mut String, cluster: &ClusterStatus) {
    let count = |resource: &ResourceStatus| {
        let age =
            resource.age_seconds.map_or_else(|| "never heard".to_owned(), |age| format!("heard {age} s ago"));
        format!("{} {} ({age})", resource.objects, resource.resource)
    };
    let resources: Vec<_> = cluster.resources.iter().map(count).collect();
    line(out, format_args!("Kubernetes node {}: {}", cluster.node, resources.join(", ")));
    for resource in &cluster.resources {
        if let Some(trouble) = &resource.trouble {
            line(out, format_args!("  {} not current: {trouble}", resource.resource));
        }
        for refused in &resource.refused {
            line(out, format_args!("  {} not read: {refused}", resource.resource));
        }
    }
    if !cluster.mixed_services.is_empty() {
        let services = cluster.mixed_services.join(", ");
        line(
            out,
            format_args!("  not mTLS by their address, since some pods behind are not enrolled: {services}"),
        );
    }
    if let Some(services) = &cluster.services {
        line(
            out,
            format_args!(
                "  {} services resolved at connect(), {} left to kube-proxy",
                services.resolved,
                services.left.len()
            ),
        );
        for left in services.left.iter().take(LEFT_SHOWN) {
            line(out, format_args!("    {}: {}", left.service, left.why));
        }
        if services.left.len() > LEFT_SHOWN {
            line(out, format_args!("    and {} more", services.left.len().saturating_sub(LEFT_SHOWN)));
        }
    }
    for policy in cluster.policies.iter().filter(|policy| !policy.accepted) {
        line(out, format_args!("  {} REFUSED: {}", policy.policy, policy.detail));
    }
}

/// `mtlsd status`.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "mtlsd {} (process {}), trust domain {}, since {}",
            status.version,
            status.pid,
            status.trust_domain,
            date(status.started)
        ),
    );
    if status.ready() {
        line(&mut out, format_args!("Ready."));
    } else {
        line(&mut out, format_args!("NOT READY: {}", status.not_ready.join("; ")));
    }
    for alarm in &status.alarms {
        let level = alarm.level.as_str().to_uppercase();
        line(&mut out, format_args!("{level}: {}: {}", alarm.about, alarm.detail));
    }
    let config = &status.config;
    line(
        &mut out,
        format_args!(
            "Configuration: {}, generation {}, in force since {}",
            config.file.display(),
            config.generation,
            date(config.loaded)
        ),
    );
    if let Some(refusal) = &config.last_refusal {
        line(&mut out, format_args!("The last attempt to replace it was REFUSED: {refusal}"));
    }
    if let Some(kubernetes) = &status.kubernetes {
        cluster(&mut out, kubernetes);
    }
    let sums = status.connections;
    line(
        &mut out,
        format_args!(
            "Connections: {} live, {} opened, {} refused, {} accepted in plaintext",
            sums.live, sums.opened, sums.refused, sums.plaintext
        ),
    );
    if sums.overdue > 0 {
        line(
            &mut out,
            format_args!(
                "OVERDUE: {} live connections would not be let in any more (docs/policy.md)",
                sums.overdue
            ),
        );
    }
    if let Some(ca) = &status.embedded_ca {
        out.push_str(&certificate_authority(ca));
    }
    let rows = status
        .abilities
        .iter()
        .map(|a| vec![a.name.clone(), if a.available { "yes" } else { "no" }.to_owned(), a.detail.clone()]);
    out.push_str(&table(&["ability", "available", "detail"], rows, ""));
    for ability in &status.abilities {
        if let Some(ktls) = ability.ktls.as_ref().filter(|ktls| ktls.available) {
            kernel_tls(&mut out, &ability.name, ktls);
        }
    }
    out
}

/// The embedded CA, for `mtlsd status` and `mtlsd ca list`.
#[must_use]
pub fn certificate_authority(ca: &CaStatus) -> String {
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "Embedded CA: {}, rotation {}, roots {}; the root{} ends {}, the intermediate {}{} ends {}",
            ca.directory.display(),
            ca.phase,
            ca.roots.join(", "),
            match (ca.signed_elsewhere, ca.root_offline) {
                (true, _) => " (of your PKI)",
                (false, true) => " (its key is elsewhere)",
                (false, false) => "",
            },
            date(ca.root_not_after),
            ca.intermediate,
            ca.key_in_token.as_ref().map(|key| format!(" (key {key})")).unwrap_or_default(),
            date(ca.intermediate_not_after)
        ),
    );
    for alarm in &ca.alarms {
        line(&mut out, format_args!("ALARM: {alarm}"));
    }
    out
}

/// `mtlsd ca list`.
#[must_use]
pub fn certificates(listing: &Listing) -> String {
    let mut out = certificate_authority(&listing.ca);
    let rows = listing.certificates.iter().map(|listed| {
        let state = match (listed.revoked, listed.expired) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => "valid",
        };
        let entry = &listed.entry;
        vec![
            entry.serial.clone(),
            entry.spiffe_id.clone(),
            date(entry.not_after),
            state.to_owned(),
            entry.issuer.clone(),
            entry.requested_by.clone(),
        ]
    });
    let header = ["serial", "SPIFFE ID", "not after", "state", "issuer", "requested by"];
    out.push_str(&table(&header, rows, "Nothing was issued."));
    if listing.unreadable_lines > 0 {
        line(&mut out, format_args!("{} lines of the log cannot be read", listing.unreadable_lines));
    }
    out
}

/// What the kernel was found to do; why it cannot is in the table.
fn kernel_tls(out: &mut String, name: &str, ktls: &KtlsStatus) {
    line(out, format_args!("{name}, as tried on this kernel:"));
    line(out, format_args!("  suites: {}", ktls.suites.join(", ")));
    for missing in &ktls.missing {
        line(out, format_args!("  left out: {missing}"));
    }
    match &ktls.why_no_rekey {
        None => line(out, format_args!("  keys can be changed on a live connection")),
        Some(why) => line(out, format_args!("  keys cannot be changed on a live connection: {why}")),
    }
    for defect in &ktls.defects {
        line(out, format_args!("  defect: {}; {}", defect.what, defect.remedy));
    }
}

/// `mtlsd connections`.
#[must_use]
pub fn connections(records: &[ConnectionRecord]) -> String {
    let rows = records.iter().map(|r| {
        vec![
            r.id.to_string(),
            date(r.time),
            event(r),
            r.direction.to_string(),
            r.workload.to_string(),
            r.peer_identity
                .clone()
                .or_else(|| r.destination_name.as_deref().map(str::to_owned))
                .unwrap_or_default(),
            format!("{} → {}", r.source, r.destination),
            r.datapath.map(|d| d.to_string()).unwrap_or_default(),
            format!("{}/{}", r.bytes.sent, r.bytes.received),
        ]
    });
    let header =
        ["id", "time", "event", "direction", "workload", "peer", "addresses", "datapath", "sent/received"];
    table(&header, rows, "No connections.")
}

/// What happened to a connection; of a live one that would not be let in any more, what will.
fn event(record: &ConnectionRecord) -> String {
    let event = record.event.as_str();
    match (&record.reason, &record.overdue) {
        (Some(reason), _) => format!("{event}: {}", reason.code),
        (None, Some(overdue)) => format!("{event}, {}", overdue.words(date)),
        (None, None) => event.to_owned(),
    }
}

/// `mtlsd workloads`.
#[must_use]
pub fn workloads(workloads: &[WorkloadStatus]) -> String {
    let rows = workloads.iter().map(|w| {
        let certificate = w.certificate.as_ref().map_or_else(
            || "none".to_owned(),
            |certificate| format!("{} until {}", certificate.serial, date(certificate.not_after)),
        );
        let alarm = (w.identity_alarm != Level::Ok).then(|| format!("identity {}", w.identity_alarm));
        let trouble = [alarm.as_deref(), Some(w.detail.as_str()), w.identity_error.as_deref()];
        let trouble: Vec<_> = trouble.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        vec![
            w.name.clone(),
            w.state.as_str().to_owned(),
            w.mode.clone(),
            w.spiffe_id.clone(),
            w.selector.clone(),
            format!("{}, {certificate}", w.identity_source),
            format!("{}/{}", w.connections.live, w.connections.refused),
            trouble.join("; "),
        ]
    });
    let header =
        ["workload", "state", "mode", "SPIFFE ID", "selector", "certificate", "live/refused", "trouble"];
    table(&header, rows, "No workloads are configured.")
}

/// `mtlsd explain`.
#[must_use]
pub fn explanation(explanation: &Explanation) -> String {
    let mut out = String::new();
    let Some((mend, sentences)) = explanation.sentences.split_last() else { return out };
    for sentence in sentences.iter().filter(|s| !s.starts_with("Checked in order")) {
        line(&mut out, format_args!("{sentence}"));
    }
    let rows = explanation.checks.iter().map(|check| {
        let outcome = match check.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Open => "not concluded",
            Outcome::Skipped => "not asked for",
        };
        vec![outcome.to_owned(), check.step.clone()]
    });
    out.push_str(&table(&["outcome", "checked, in order"], rows, ""));
    line(&mut out, format_args!("{mend}"));
    out
}

/// `mtlsd explain --from --to`.
#[must_use]
pub fn path(report: &PathReport) -> String {
    let mut out = String::new();
    for sentence in &report.sentences {
        line(&mut out, format_args!("{sentence}"));
    }
    out
}

/// `mtlsd verify`.
#[must_use]
pub fn verify(report: &VerifyReport) -> String {
    let rows = report.checks.iter().map(|check| {
        vec![
            if check.ok { "ok" } else { "FAILED" }.to_owned(),
            check.workload.clone().unwrap_or_else(|| "(node)".to_owned()),
            check.name.clone(),
            check.detail.clone(),
            check.mend.clone(),
        ]
    });
    let mut out =
        table(&["result", "workload", "check", "found", "what to do"], rows, "Nothing was checked.");
    let failed = report.checks.iter().filter(|check| !check.ok).count();
    match (report.holds(), failed) {
        (true, _) => line(&mut out, format_args!("All {} checks hold.", report.checks.len())),
        (false, 0) => {
            line(&mut out, format_args!("Having checked nothing proves nothing; see `mtlsd status`."))
        }
        (false, _) => line(&mut out, format_args!("{failed} of {} checks FAILED.", report.checks.len())),
    }
    out
}

/// `mtlsd reload`.
#[must_use]
pub fn reload(report: &ReloadReport) -> String {
    let mut out = String::new();
    for message in &report.messages {
        line(&mut out, format_args!("{message}"));
    }
    let outcome = if report.applied {
        format!("In force: generation {}.", report.generation)
    } else {
        format!("REFUSED; generation {} stays in force.", report.generation)
    };
    line(&mut out, format_args!("{outcome}"));
    out
}

/// A text with every character made visible that a terminal would obey.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional overrides reorder what a reader sees.
        if c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ok = writeln!(out, "{}", visible(&text.to_string()));
}

pub(super) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>, empty: &str) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    table.add_rows(rows.map(|row| row.iter().map(|cell| visible(cell)).collect::<Vec<_>>()));
    match table.is_empty() {
        true if empty.is_empty() => String::new(),
        true => format!("{empty}\n"),
        false => format!("{}\n", table.trim_fmt()),
    }
}

/// RFC 3339 to the second, UTC.
pub(super) fn date(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_else(|_| "(a year that RFC 3339 cannot write)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::admin::tests::Fake;
    use super::super::view::{DaemonView, VerifyReport};
    use super::*;
    use crate::observe::explain::explain;

    fn records(fake: &Fake) -> Vec<ConnectionRecord> {
        fake.recorder.list(None, 10).iter().map(|r| (**r).clone()).collect()
    }

    #[test]
    fn status_tells_readiness_configuration_and_why_an_ability_is_missing() {
        let good = status(&Fake::new(true).status());
        for part in ["mtlsd 1.2.3", "Ready.", "generation 2", "1970-01-01T00:00:00Z", "1 live", "2 suites"] {
            assert!(good.contains(part), "{part}:\n{good}");
        }
        for part in [
            "  suites: TLS_AES_128_GCM_SHA256\n",
            "  left out: TLS_CHACHA20_POLY1305_SHA256: no such cipher\n",
            "  keys cannot be changed on a live connection: EBUSY\n",
            "  defect: it loses bytes; mtlsd minds\n",
        ] {
            assert!(good.contains(part), "{part}:\n{good}");
        }
        for part in [
            "Kubernetes node n1: 3 pods (heard 400 s ago)",
            "pods not current: it is away",
            "pods not read: shop/odd: bad",
            "some pods behind are not enrolled: shop/web",
            "PeerAuthentication shop/all REFUSED: bad",
        ] {
            assert!(good.contains(part), "{part}: {good}");
        }
        assert!(
            good.contains("Embedded CA: /var/lib/mtlsd/ca, rotation begun, roots old root, new root"),
            "{good}"
        );
        assert!(good.contains("(its key is elsewhere)") && !good.contains("ALARM"), "{good}");
        let bad = status(&Fake::new(false).status());
        assert!(!good.contains("CRITICAL"), "{good}");
        assert!(bad.contains("CRITICAL: workload db: the certificate expires in 3 min"), "{bad}");
        assert!(bad.contains("ALARM: renew the intermediate\n"), "{bad}");
        assert!(bad.contains("NOT READY: db has no certificate") && bad.contains("REFUSED: line 3"), "{bad}");
        assert!(bad.contains("this kernel has no tls module") && !bad.contains("suites"), "{bad}");
    }

    #[test]
    fn connections_are_one_line_each_and_none_is_said_to_be_none() {
        let text = connections(&records(&Fake::new(true)));
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.contains("refused: policy_denied") && text.contains("10.0.0.2:41000 → 10.1.0.7:5432"),
            "{text}"
        );
        assert_eq!(connections(&[]), "No connections.\n");
    }

    #[test]
    fn a_live_connection_that_would_not_be_let_in_any_more_says_what_becomes_of_it() {
        let mut open = records(&Fake::new(true)).into_iter().find(|r| r.reason.is_none()).unwrap();
        for (until, want) in [
            (None, "open, kept: revoked"),
            (Some(OffsetDateTime::UNIX_EPOCH), "open, draining until 1970-01-01T00:00:00Z: revoked"),
        ] {
            let refusal = crate::observe::Refusal::from(crate::observe::Reason::Revoked);
            open.event = crate::observe::connection::Event::Open;
            open.overdue = Some(crate::observe::standing::Overdue { until, reason: refusal.into() });
            let text = connections(std::slice::from_ref(&open));
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn workloads_show_their_state_and_trouble() {
        let text = workloads(&Fake::new(false).workloads());
        for part in [
            "failed",
            "identity critical",
            "strict",
            "spiffe://example.org/db",
            "netns db",
            "embedded CA, none",
            "no certificate",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert_eq!(workloads(&[]), "No workloads are configured.\n");
    }

    #[test]
    fn an_explanation_ends_with_the_mend() {
        let fake = Fake::new(true);
        let explained = explain(&fake.recorder.last_refused().unwrap());
        let text = explanation(&explained);
        assert!(text.trim_end().ends_with(crate::observe::Reason::PolicyDenied.mend()), "{text}");
        assert!(text.lines().any(|l| l.trim_start().starts_with("FAILED") && l.contains("policy")), "{text}");
        assert!(
            text.contains("spiffe://example.org/web") && text.contains("spiffe://example.org/db"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn verify_says_what_failed_and_never_takes_nothing_for_success() {
        let good = verify(&Fake::new(true).verify().await);
        assert!(good.contains("All 1 checks hold."), "{good}");
        let bad = verify(&Fake::new(false).verify().await);
        assert!(bad.contains("1 of 1 checks FAILED.") && bad.contains("restart mtlsd"), "{bad}");
        let nothing = VerifyReport::default();
        assert!(!nothing.holds() && verify(&nothing).contains("proves nothing"));
    }

    #[tokio::test]
    async fn reload_says_which_generation_is_in_force() {
        assert!(reload(&Fake::new(true).reload().await).contains("In force: generation 2."));
        let refused = reload(&Fake::new(false).reload().await);
        assert!(refused.contains("line 3") && refused.contains("REFUSED; generation 2 stays"), "{refused}");
    }

    #[test]
    fn what_a_peer_wrote_cannot_command_the_terminal() {
        assert_eq!(visible("a\u{1b}[31m\r\n\u{9b}\u{202e}é→"), "a\\u{1b}[31m\\r\\n\\u{9b}\\u{202e}é→");
        let fake = Fake::new(true);
        let mut record = (*fake.recorder.last_refused().unwrap()).clone();
        record.peer_identity = Some("\u{1b}]0;owned\u{7}\nfake line".into());
        let text = connections(std::slice::from_ref(&record)) + &explanation(&explain(&record));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("fake line")));
    }

    #[test]
    fn times_are_shown_to_the_second_in_utc() {
        let time = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1500);
        assert_eq!(date(time.to_offset(time::UtcOffset::from_hms(2, 0, 0).unwrap())), "1970-01-01T00:00:01Z");
    }
}
