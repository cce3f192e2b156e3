//! The part of the configuration that is about the node itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtls_common::MAX_CGROUP_LEVEL;

use crate::config::at::{At, AutoOr, Given, Spot};
use crate::config::direct::Direct;
use crate::config::error::{Fault, Quoted};
use crate::config::kubernetes::Kubernetes;
use crate::config::raw;
use crate::config::scalar::{self, CgroupError};
use crate::config::types::{
    AccessLog, CrlOrigin, CrlPolicy, CrlSource, DatapathChoice, EmbeddedCa, Exclusions, Flows, Issuer,
    Limits, Log, OcspPolicy, OcspResponder, OcspSource, Paths, PeerNames, Pkcs11Token, Prober, Recorder,
    Timeouts, Tls, TlsVersion, Trust, TrustBundleFile, Unclassified, WorkloadIdentity,
};
use crate::datapath::ktls::Suite;
use crate::fetch::is_url;
use crate::flows::MAX_FLOWS;
use crate::handshake;
use crate::identity::TrustDomain;
use crate::identity::alarm::{Threshold, Thresholds};

use super::{Check, FileSpot, Seen, direct, issuer, kubernetes, pkcs11, probers};

/// Most cgroups below which every process must belong to a workload.
pub const MAX_ENCLOSED: usize = 1_000;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A clock that is further off is to be set.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Where metrics, health and readiness are served unless the file says otherwise.
const DEFAULT_METRICS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9465);

/// Everything but workloads, directory and policy.
pub(super) struct Node {
    /// `None`: it was refused, and follow-on errors would mislead.
    pub trust_domain: Option<TrustDomain>,
    pub paths: Paths,
    pub cgroup_root: Option<PathBuf>,
    pub embedded_ca: EmbeddedCa,
    pub issuers: Vec<Issuer>,
    pub alarms: Thresholds,
    pub pkcs11: Vec<Pkcs11Token>,
    /// Of workloads that do not say so themselves.
    pub identity: WorkloadIdentity,
    pub trust: Trust,
    pub exclude: Exclusions,
    pub unclassified: Unclassified,
    pub probers: Vec<Prober>,
    pub tls: Tls,
    pub datapath: DatapathChoice,
    pub direct: Direct,
    /// Where its `listen` stands.
    pub direct_listen: Option<FileSpot>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub access_log: AccessLog,
    pub metrics: Option<SocketAddr>,
    pub log: Log,
    pub recorder: Recorder,
    pub flows: Flows,
    pub kubernetes: Option<Kubernetes>,
}

pub(super) fn check(check: &mut Check, main: raw::Document) -> Node {
    let trust_domain = match &main.trust_domain.0 {
        Some(at) => check.trust_domain(at),
        None => {
            check.fault(Spot::START, Fault::MissingKey("trust_domain"));
            None
        }
    };
    let paths = Paths {
        runtime: check.path_or(&main.paths.runtime, "/run/mtlsd"),
        state: check.path_or(&main.paths.state, "/var/lib/mtlsd"),
        bpffs: check.path_or(&main.paths.bpffs, "/sys/fs/bpf/mtlsd"),
    };
    let alarms = alarms(check, &main.identity.alarms);
    let pkcs11 = pkcs11::check(check, &main.identity.pkcs11);
    let embedded_ca = embedded_ca(check, &main.identity.embedded_ca, &paths, &pkcs11);
    let (mut direct, direct_listen) = direct::check(check, &main.direct);
    let (issuers, identity) = issuer::check(check, main.identity);
    let kubernetes =
        main.kubernetes.0.as_ref().map(|at| kubernetes::check(check, &issuers, &identity, &at.value));
    if let (Some(kubernetes), Some(at), None) = (&kubernetes, &main.kubernetes.0, direct.listen) {
        let address = std::env::var(kubernetes::NODE_IP).ok();
        direct.listen = kubernetes::listen(check, &at.value, kubernetes, address.as_deref());
    }
    let probers = match (&kubernetes, main.probers.is_empty()) {
        (Some(_), true) => kubernetes::probers(),
        _ => probers::check(check, &main.probers, main.cgroup_root.0.as_ref()),
    };
    let mut unclassified = unclassified(check, main.unclassified, main.cgroup_root.0.as_ref());
    if let Some(kubernetes) = &kubernetes {
        let root = main.cgroup_root.0.as_ref().map(|at| at.value.as_str());
        unclassified.cgroups.extend(kubernetes::enclosures(kubernetes, root));
    }
    Node {
        trust_domain,
        cgroup_root: main.cgroup_root.0.as_ref().and_then(|at| check.path(at)),
        embedded_ca,
        issuers,
        alarms,
        pkcs11,
        identity,
        trust: trust(check, main.trust),
        exclude: check.exclusions(&main.exclude),
        unclassified,
        kubernetes,
        probers,
        tls: tls(check, main.tls),
        datapath: main.datapath.into_value().unwrap_or_default(),
        direct,
        direct_listen,
        limits: limits(check, &main.limits),
        timeouts: timeouts(check, &main.timeouts),
        access_log: access_log(check, main.access_log),
        metrics: metrics(check, main.metrics),
        log: Log {
            level: main.log.level.into_value().unwrap_or_default(),
            ebpf: main.log.ebpf.into_value().unwrap_or_default(),
        },
        recorder: Recorder { entries: check.number(&main.recorder.entries, 1_000_000, 4096) },
        flows: flows(check, &main.flows),
        paths,
    }
}

fn unclassified(check: &mut Check, raw: raw::Unclassified, root: Option<&At<String>>) -> Unclassified {
    let root = root.map(|at| Path::new(&at.value));
    let parse = |text: &str| {
        let cgroup = scalar::cgroup(text, root)?;
        // The root is one of the components.
        let level = u32::try_from(cgroup.components().count() - 1).unwrap_or(u32::MAX);
        if level > MAX_CGROUP_LEVEL { Err(CgroupError::Deep(MAX_CGROUP_LEVEL)) } else { Ok(cgroup) }
    };
    let distinct = check.distinct("cgroup", &raw.cgroups, parse, Fault::Cgroup);
    // As they were written: below a configured root or not, which is for the mount to say.
    let cgroups = raw.cgroups.iter().take(distinct.len()).map(|at| PathBuf::from(&at.value)).collect();
    if let Some(over) = raw.cgroups.get(MAX_ENCLOSED) {
        check.fault(over.spot, Fault::TooManyEnclosures(raw.cgroups.len()));
    }
    Unclassified { cgroups, namespaces: raw.namespaces.into_value().unwrap_or_default() }
}

fn flows(check: &mut Check, raw: &raw::Flows) -> Flows {
    // `off` is a duration that only this key and timeouts.idle take.
    let off = matches!(&raw.keep.0, Some(at) if at.value == "off");
    let keep = if off { None } else { Some(check.duration(&raw.keep, HOUR, 90 * DAY).unwrap_or(7 * DAY)) };
    Flows { entries: check.number(&raw.entries, MAX_FLOWS, 65_536), keep }
}

fn embedded_ca(
    check: &mut Check,
    raw: &raw::EmbeddedCa,
    paths: &Paths,
    tokens: &[Pkcs11Token],
) -> EmbeddedCa {
    let directory = raw.directory.0.as_ref().and_then(|at| check.path(at));
    EmbeddedCa {
        directory: directory.unwrap_or_else(|| paths.state.join("ca")),
        lifetime: check.duration(&raw.lifetime, SECOND, YEAR).unwrap_or(HOUR),
        // What was refused fails the load.
        key: raw.key.0.as_ref().and_then(|at| pkcs11::key(check, tokens, at)),
    }
}

fn alarms(check: &mut Check, raw: &raw::Alarms) -> Thresholds {
    let default = Thresholds::default();
    let alarms = Thresholds {
        warning: check.threshold(&raw.warning, default.warning),
        critical: check.threshold(&raw.critical, default.critical),
    };
    // A share and a time cannot be compared before there is a certificate.
    let late = match (alarms.warning, alarms.critical) {
        (Threshold::Share(warning), Threshold::Share(critical)) => critical >= warning,
        (Threshold::Left(warning), Threshold::Left(critical)) => critical >= warning,
        _ => false,
    };
    if late && let Some(at) = raw.critical.0.as_ref().or(raw.warning.0.as_ref()) {
        check.fault(at.spot, Fault::AlarmOrder);
    }
    alarms
}

fn trust(check: &mut Check, raw: raw::Trust) -> Trust {
    let mut seen = Seen::new("bundle", "write it once");
    let mut bundles = Vec::new();
    for at in raw.bundles {
        let trust_domain = check.trust_domain(&at.value.trust_domain);
        let file = check.path(&at.value.file);
        if let (Some(trust_domain), Some(file)) = (trust_domain, file) {
            seen.note(check, &(trust_domain.clone(), file.clone()), &at.value.file.value, at.spot);
            bundles.push(TrustBundleFile { trust_domain, file });
        }
    }
    let names = raw.peer_names;
    let peer_names = PeerNames {
        dns: names.dns.into_value().unwrap_or_default(),
        common_name: names.common_name.into_value().unwrap_or_default(),
    };
    let clock_skew = check.duration(&raw.clock_skew, Duration::ZERO, MAX_CLOCK_SKEW);
    let mut seen = Seen::new("CRL", "write it once");
    let crls: Vec<_> = raw.crls.iter().filter_map(|at| crl_source(check, &mut seen, at)).collect();
    let crl_policy = match raw.crl_policy.0 {
        Some(At { value: raw::CrlPolicy::Require, spot }) => {
            if raw.crls.is_empty() {
                check.fault(spot, Fault::CrlPolicyWithoutCrls);
            }
            CrlPolicy::Require
        }
        Some(At { value: raw::CrlPolicy::Prefer, .. }) | None => CrlPolicy::Prefer,
    };
    let mut seen = Seen::new("OCSP responder of trust domain", "write one for each trust domain");
    let ocsp: Vec<_> = raw.ocsp.iter().filter_map(|at| ocsp_source(check, &mut seen, at)).collect();
    let ocsp_policy = match raw.ocsp_policy.0 {
        Some(At { value: raw::OcspPolicy::Require, spot }) => {
            if raw.ocsp.is_empty() {
                check.fault(spot, Fault::OcspPolicyWithoutOcsp);
            }
            OcspPolicy::Require
        }
        Some(At { value: raw::OcspPolicy::Prefer, .. }) | None => OcspPolicy::Prefer,
    };
    Trust {
        bundles,
        crls,
        crl_policy,
        ocsp,
        ocsp_policy,
        peer_names,
        clock_skew: clock_skew.unwrap_or(handshake::Trust::CLOCK_SKEW),
    }
}

fn crl_source(
    check: &mut Check,
    seen: &mut Seen<(TrustDomain, CrlOrigin)>,
    at: &At<raw::CrlSource>,
) -> Option<CrlSource> {
    let raw = &at.value;
    let trust_domain = check.trust_domain(&raw.trust_domain);
    let origin = match (&raw.file.0, &raw.url.0, &raw.ca_file.0) {
        (Some(file), None, None) => check.path(file).map(CrlOrigin::File),
        (None, Some(url), ca_file) => {
            let ca_file = check.optional_path(ca_file.as_ref());
            crl_url(check, url).zip(ca_file).map(|(url, ca_file)| CrlOrigin::Url { url, ca_file })
        }
        _ => {
            check.fault(at.spot, Fault::CrlOrigin);
            None
        }
    };
    let issuer_file = check.optional_path(raw.issuer_file.0.as_ref());
    let refresh = match raw.refresh.0 {
        None => Some(HOUR),
        Some(_) => check.duration(&raw.refresh, SECOND, YEAR),
    };
    let (trust_domain, origin) = (trust_domain?, origin?);
    seen.note(check, &(trust_domain.clone(), origin.clone()), &origin.to_string(), at.spot);
    Some(CrlSource { trust_domain, origin, issuer_file: issuer_file?, refresh: refresh? })
}

fn crl_url(check: &mut Check, at: &At<String>) -> Option<String> {
    let url = &at.value;
    if is_url(url) {
        return Some(url.clone());
    }
    check.fault(at.spot, Fault::CrlUrl(Quoted::new(url)));
    None
}

fn ocsp_source(
    check: &mut Check,
    seen: &mut Seen<TrustDomain>,
    at: &At<raw::OcspSource>,
) -> Option<OcspSource> {
    let raw = &at.value;
    let trust_domain = check.trust_domain(&raw.trust_domain);
    let responder = match raw.responder.value.as_str() {
        "certificate" => Some(OcspResponder::Certificate),
        url if is_url(url) => Some(OcspResponder::Url(url.to_owned())),
        other => {
            check.fault(raw.responder.spot, Fault::OcspResponder(Quoted::new(other)));
            None
        }
    };
    let ca_file = check.optional_path(raw.ca_file.0.as_ref());
    let refresh = match raw.refresh.0 {
        None => Some(HOUR),
        Some(_) => check.duration(&raw.refresh, SECOND, YEAR),
    };
    let trust_domain = trust_domain?;
    seen.note(check, &trust_domain, trust_domain.as_str(), at.spot);
    Some(OcspSource { trust_domain, responder: responder?, ca_file: ca_file?, refresh: refresh? })
}

fn tls(check: &mut Check, raw: raw::Tls) -> Tls {
    Tls {
        min_version: match raw.min_version.into_value() {
            Some(raw::MinVersion::V1_2) => TlsVersion::V1_2,
            Some(raw::MinVersion::V1_3) | None => TlsVersion::V1_3,
        },
        cipher_suites: raw.cipher_suites.0.and_then(|at| cipher_suites(check, &at)),
        records_per_key: check.number_within(
            &raw.records_per_key,
            Tls::MIN_RECORDS_PER_KEY,
            Tls::MAX_RECORDS_PER_KEY,
            Tls::MAX_RECORDS_PER_KEY,
        ),
    }
}

fn cipher_suites(check: &mut Check, at: &At<AutoOr<Vec<At<raw::CipherSuite>>>>) -> Option<Vec<Suite>> {
    let list = match &at.value {
        AutoOr::Word(word) if word == "auto" => return None,
        AutoOr::Word(word) => {
            let expected = AutoOr::<()>::EXPECTED.to_owned();
            check.fault(at.spot, Fault::WrongType { found: Quoted::new(word), expected });
            return None;
        }
        AutoOr::Given(list) => list,
    };
    if list.is_empty() {
        check.fault(at.spot, Fault::EmptyList("write auto, or list at least one suite"));
    }
    let mut seen = Seen::new("cipher suite", "write it once");
    let suites = list.iter().map(|at| {
        let suite = match at.value {
            raw::CipherSuite::Aes128Gcm => Suite::Aes128Gcm,
            raw::CipherSuite::Aes256Gcm => Suite::Aes256Gcm,
            raw::CipherSuite::ChaCha20Poly1305 => Suite::ChaCha20Poly1305,
        };
        seen.note(check, &suite, suite.name(), at.spot);
        suite
    });
    Some(suites.collect())
}

// The upper bounds keep what is allocated from these numbers below a few hundred megabytes.
fn limits(check: &mut Check, raw: &raw::Limits) -> Limits {
    Limits {
        connections: check.number(&raw.connections, 10_000_000, 100_000),
        connections_per_workload: check.number(&raw.connections_per_workload, 10_000_000, 20_000),
        handshakes: check.number(&raw.handshakes, 1_000_000, 1024),
        chain_certificates: check.number(&raw.chain_certificates, 100, 10),
        chain_bytes: check.number(&raw.chain_bytes, 1 << 20, 65_536),
    }
}

fn timeouts(check: &mut Check, raw: &raw::Timeouts) -> Timeouts {
    // `off` is a duration that only this key takes.
    let idle_off = matches!(&raw.idle.0, Some(at) if at.value == "off");
    Timeouts {
        handshake: check.duration(&raw.handshake, MILLISECOND, HOUR).unwrap_or(10 * SECOND),
        detect: check.duration(&raw.detect, MILLISECOND, HOUR).unwrap_or(300 * MILLISECOND),
        idle: if idle_off { None } else { check.duration(&raw.idle, MILLISECOND, YEAR) },
        drain: check.duration(&raw.drain, MILLISECOND, DAY).unwrap_or(10 * SECOND),
    }
}

fn access_log(check: &mut Check, raw: Given<raw::AccessLog>) -> AccessLog {
    match raw.into_value() {
        None | Some(raw::AccessLog::Stdout) => AccessLog::Stdout,
        Some(raw::AccessLog::Off) => AccessLog::Off,
        Some(raw::AccessLog::File(at)) => check.path(&at).map_or(AccessLog::Off, AccessLog::File),
    }
}

fn metrics(check: &mut Check, raw: Given<raw::Metrics>) -> Option<SocketAddr> {
    match raw.into_value() {
        None => Some(DEFAULT_METRICS),
        Some(raw::Metrics::Off) => None,
        Some(raw::Metrics::Listen(at)) => {
            let address: SocketAddr = check.text(&at, str::parse, |text, _| Fault::SocketAddress(text))?;
            // Port 0 would be another port at every start: nobody could scrape it.
            if address.port() == 0 {
                check.fault(at.spot, Fault::SocketAddress(Quoted::new(&at.value)));
            }
            Some(address)
        }
    }
}
