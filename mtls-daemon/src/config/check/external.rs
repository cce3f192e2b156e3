//! The external decision.

use std::time::Duration;

use crate::config::at::{At, Given};
use crate::config::error::{Fault, Quoted};
use crate::config::external::{ExternalCache, ExternalPolicy};
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::Workload;

use super::{Check, Seen, unless_refused};

const MIN_TIMEOUT: Duration = Duration::from_millis(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(500);
/// A decision that counts for longer is a rule, and belongs under `policy`.
const MAX_KEPT: Duration = Duration::from_secs(3_600);
/// At some 200 bytes each.
const MAX_ENTRIES: u32 = 262_144;
const ENTRIES: u32 = 16_384;

/// `Some(None)`: it is off; `None`: it was refused.
pub(super) fn check(
    check: &mut Check,
    given: &Given<raw::ExternalPolicy>,
    workloads: &[Workload],
    handshake: Duration,
) -> Option<Option<ExternalPolicy>> {
    unless_refused(given.0.as_ref().map(|at| one(check, at, workloads, handshake)))
}

fn one(
    check: &mut Check,
    at: &At<raw::ExternalPolicy>,
    workloads: &[Workload],
    handshake: Duration,
) -> Option<ExternalPolicy> {
    let raw = &at.value;
    let url = check.text(&raw.url, scalar::external_url, Fault::ExternalUrl);
    let timeout = match &raw.timeout.0 {
        None => Some(TIMEOUT),
        Some(_) => check.duration(&raw.timeout, MIN_TIMEOUT, MAX_TIMEOUT),
    };
    if timeout.is_some_and(|timeout| timeout >= handshake) {
        let spot = raw.timeout.0.as_ref().map_or(at.spot, |timeout| timeout.spot);
        check.fault(spot, Fault::ExternalTimeout);
    }
    let kept = |check: &mut Check, given: &Given<String>, default| match given.0 {
        None => Some(default),
        Some(_) => check.duration(given, Duration::ZERO, MAX_KEPT),
    };
    let allow = kept(check, &raw.cache.allow, Duration::from_secs(30));
    let deny = kept(check, &raw.cache.deny, Duration::from_secs(5));
    let entries = check.number(&raw.cache.entries, MAX_ENTRIES, ENTRIES);
    let (inbound, outbound) = directions(check, &raw.directions);
    let names = raw.workloads.0.as_ref().map(|at| names(check, at, workloads));
    let ca_file = check.optional_path(raw.ca_file.0.as_ref());
    let token_file = check.optional_path(raw.token_file.0.as_ref());
    Some(ExternalPolicy {
        url: url?,
        timeout: timeout?,
        cache: ExternalCache { allow: allow?, deny: deny?, entries },
        on_failure: raw.on_failure.0.as_ref().map(|at| at.value).unwrap_or_default(),
        inbound,
        outbound,
        workloads: names,
        ca_file: ca_file?,
        token_file: token_file?,
    })
}

fn directions(check: &mut Check, given: &Given<Vec<At<raw::Asked>>>) -> (bool, bool) {
    let Some(at) = &given.0 else { return (true, false) };
    if at.value.is_empty() {
        check.fault(at.spot, Fault::EmptyList("list inbound or outbound, or remove policy_external"));
    }
    let mut seen = Seen::new("direction", "write it once");
    let (mut inbound, mut outbound) = (false, false);
    for one in &at.value {
        let (is, name) = match one.value {
            raw::Asked::Inbound => (&mut inbound, "inbound"),
            raw::Asked::Outbound => (&mut outbound, "outbound"),
        };
        *is = true;
        seen.note(check, &one.value, name, one.spot);
    }
    (inbound, outbound)
}

/// They are taken as they are: the workload may be on another node that has the same file.
fn names(
    check: &mut Check,
    at: &At<Vec<At<String>>>,
    workloads: &[Workload],
) -> std::collections::BTreeSet<String> {
    if at.value.is_empty() {
        check.fault(at.spot, Fault::EmptyList("list workloads, or remove the key for all"));
    }
    for name in &at.value {
        if !workloads.iter().any(|workload| workload.name == name.value) {
            check.warn(name.spot, Fault::UnknownWorkload(Quoted::new(&name.value)));
        }
    }
    check.distinct("workload", &at.value, scalar::name, Fault::Name).into_iter().collect()
}
