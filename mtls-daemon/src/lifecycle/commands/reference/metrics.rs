//! Metrics, their labels, and the values of those.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mtls_common::table::Counter;

use super::page::{Page, code, sentence};
use crate::lifecycle::verify::Part;
use crate::observe::cause::Cause;
use crate::observe::connection::{Datapath, Direction};
use crate::observe::metrics::{ExternalResult, Metrics, REPAIRS, Side};

const ABOUT: &str = "\
Every metric of `GET /metrics` with its labels. What to watch, when to alert and queries to start with: [metrics.md](../metrics.md).
The text is in the OpenMetrics format: of a histogram there are also `_bucket` (with the label `le`), `_sum` and `_count`.";

/// A metric.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Family {
    pub kind: String,
    pub help: String,
    pub labels: BTreeSet<String>,
}

/// Every metric that a daemon can have, by name.
pub(super) fn families() -> Result<BTreeMap<String, Family>, fmt::Error> {
    let text = Metrics::example().encode()?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut last, mut help) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.insert(name.to_owned(), text.to_owned());
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            last = format!("{name}{suffix}");
            families.insert(last.clone(), Family { kind: kind.to_owned(), ..Family::default() });
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = rest.rsplit_once('}').map_or("", |(labels, _)| labels);
            let keys = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
            let keys = keys.filter(|key| *key != "le").map(str::to_owned);
            families.entry(last.clone()).or_default().labels.extend(keys);
        }
    }
    // HELP comes before or after TYPE, and has the name without the suffix.
    for (name, family) in &mut families {
        let bare = name.strip_suffix("_total").or_else(|| name.strip_suffix("_info"));
        let text = help.get(name).or_else(|| help.get(bare.unwrap_or(name)));
        family.help = text.cloned().unwrap_or_default();
    }
    Ok(families)
}

/// A label.
pub(super) struct Label {
    pub key: &'static str,
    pub meaning: &'static str,
    /// Its values with what each means; none where they are names of the configuration or of certificates.
    pub values: Vec<(&'static str, &'static str)>,
}

/// Every label.
pub(super) fn labels() -> Vec<Label> {
    let free = |key, meaning| Label { key, meaning, values: Vec::new() };
    vec![
        Label {
            key: "cause",
            meaning: "Why a live connection was cut that would not be let in any more.",
            values: Cause::ALL.map(|cause| (cause.as_str(), told_cause(cause))).into(),
        },
        free("certificate", "Which certificate of the embedded CA: `root` or `intermediate`."),
        Label {
            key: "check",
            meaning: "A part of what `mtlsd verify` checks ([verify.md](../verify.md)).",
            values: Part::ALL.map(|part| (part.code(), part.title())).into(),
        },
        Label {
            key: "datapath",
            meaning: "How the bytes travel.",
            values: Datapath::ALL.map(|datapath| (datapath.as_str(), datapath.sentence())).into(),
        },
        Label {
            key: "direction",
            meaning: "Who opened the connection.",
            values: Direction::ALL.map(|direction| (direction.as_str(), told_direction(direction))).into(),
        },
        Label {
            key: "event",
            meaning: "What the eBPF programs count.",
            values: Counter::ALL.iter().map(|(counter, label)| (*label, told_event(*counter))).collect(),
        },
        Label {
            key: "flow",
            meaning: "Which way the bytes went, seen from the workload.",
            values: vec![("sent", "from the workload to its peer"), ("received", "from its peer to it")],
        },
        free("name", "The CN of a certificate of the embedded CA."),
        free(
            "reason",
            "Why a connection was refused or its handshake failed: a code of [access-log.md](access-log.md#reasons); `none` of handshakes that did not fail.",
        ),
        Label {
            key: "result",
            meaning: "What came of it. A metric has those that fit it.",
            values: vec![
                ("ok", "the handshake succeeded"),
                ("failed", "the handshake, question or call failed"),
                ("applied", "the configuration is in force"),
                ("refused", "the last good configuration is still in force"),
                ("answered", "the question or call was answered"),
                (ExternalResult::Allowed.as_str(), "the policy engine allows the connection"),
                (ExternalResult::Denied.as_str(), "the policy engine denies it"),
                (ExternalResult::AllowedUnavailable.as_str(), "without an answer it was allowed"),
                (ExternalResult::DeniedUnavailable.as_str(), "without an answer it was denied"),
            ],
        },
        free("rule", "The rule of `policy` that denied, or `default of MODE`."),
        Label {
            key: "side",
            meaning: "What the workload is in the handshake.",
            values: Side::ALL.map(|side| (side.as_str(), told_side(side))).into(),
        },
        free(
            "source",
            "The file or URL of a CRL, from `trust.crls`; of metrics of the cluster the resource, as RBAC writes it: `pods`.",
        ),
        Label {
            key: "state",
            meaning: "What becomes of a live connection that would not be let in any more.",
            values: vec![("kept", "it goes on until it ends"), ("draining", "it is cut after `lease.drain`")],
        },
        free("trust_domain", "A trust domain of the configuration."),
        free("version", "The version of mtlsd that runs."),
        Label {
            key: "what",
            meaning: "What somebody else changed and mtlsd put back.",
            values: REPAIRS.map(|what| (what, told_repair(what))).into(),
        },
        free("workload", "The name of a workload of this node."),
    ]
}

const fn told_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Expired => "a certificate has run out, and there is no newer one of the same identity",
        Cause::Revoked => "a certificate was revoked, or the root above it is trusted no longer",
        Cause::Policy => "rules, defaults or modes say no",
    }
}

const fn told_direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outbound => "the workload connected",
        Direction::Inbound => "the peer connected to the workload",
    }
}

const fn told_side(side: Side) -> &'static str {
    match side {
        Side::Client => "it connected",
        Side::Server => "it accepted",
    }
}

fn told_repair(what: &str) -> &'static str {
    match what {
        "program" => "a program was detached",
        "pin" => "a pin was removed",
        "table" => "an entry of a table was changed",
        "listener" => "a listener was not steered to, or dead",
        _ => "",
    }
}

const fn told_event(counter: Counter) -> &'static str {
    match counter {
        Counter::Captured => "outbound connections handed to the daemon",
        Counter::Untouched => "outbound connections of workloads that were left alone",
        Counter::DeniedPolicy => "connect() refused by policy",
        Counter::DeniedUnknown => "connect() refused because the destination is not in the directory",
        Counter::DaemonAway => "connect() of a strict workload refused because the daemon is away",
        Counter::Held => "SYNs held until the peer is verified",
        Counter::RingFull => {
            "SYNs dropped because the ring of events was full; the kernel sends them again. Grows: the daemon does not keep up"
        }
        Counter::GuardDropped => {
            "packets of a strict workload dropped because no captured connection accounts for them (reason `unaccounted`)"
        }
        Counter::Steered => "inbound connections steered to the daemon",
        Counter::SteerRefused => {
            "inbound connections refused because the daemon is away and the port is strict"
        }
        Counter::InboundUntouched => "inbound connections that were left alone",
        Counter::DeniedSource => "SYNs refused by policy, for the address that they come from",
        Counter::Unclassified => {
            "connections and packets refused because their process belongs to no workload"
        }
        Counter::Unrecorded => {
            "refusals without a record, because the ring of events was more than half full"
        }
        Counter::DirectCaptured => "outbound connections that kept their address, to become direct",
        Counter::DirectExpected => "inbound SYNs that were expected, and left to the application's listener",
        Counter::DirectGuardDropped => {
            "segments of direct connections dropped until they may pass; TCP sends them again"
        }
        Counter::DirectViolation => {
            "direct connections blocked, since something else than TLS records came first"
        }
        Counter::DirectZerocopy => {
            "SO_ZEROCOPY on a direct connection, where kernel TLS refuses MSG_ZEROCOPY ([direct.md](../direct.md))"
        }
        Counter::DirectBytesAsked => {
            "SIOCINQ or TCP_INQ on a direct connection, where encrypted bytes are counted ([direct.md](../direct.md))"
        }
        Counter::DirectRepair => "TCP_REPAIR on a direct connection, whose queues are encrypted",
        Counter::Probed => {
            "connections of probers, kubelet's for one, that went to a workload's own listener"
        }
        Counter::Resolved => {
            "connect() calls to a Service's address for which one of its endpoints was chosen"
        }
        Counter::DirectUnreported => {
            "connect() calls that could have become direct, but whose descriptor no program reported"
        }
    }
}

pub(super) fn page() -> Result<String, fmt::Error> {
    let mut page = Page::new("Reference: metrics", ABOUT);
    page.heading("Metrics");
    let row = |(name, family): (String, Family)| {
        let labels: Vec<_> = family.labels.iter().map(code).collect();
        let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
        [code(name), family.kind, labels, sentence(&family.help)]
    };
    page.table(["metric", "type", "labels", "meaning"], families()?.into_iter().map(row));

    page.heading("Labels");
    page.paragraph("What a peer can choose (its identity, its address) is never a label.");
    let rows = labels().into_iter().flat_map(|label| {
        let first = [code(label.key), String::new(), label.meaning.to_owned()];
        let values = label
            .values
            .into_iter()
            .map(move |(value, meaning)| [String::new(), code(value), meaning.to_owned()]);
        [first].into_iter().chain(values)
    });
    page.table(["label", "value", "meaning"], rows);
    Ok(page.text())
}
