//! Random valid configurations, and the document that says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::super::*;
use super::rules;
use crate::datapath::ktls::Suite;
use crate::identity::Subject;
use crate::identity::alarm::{Threshold, Thresholds};
use crate::identity::issuer::cert_manager::CertManagerSettings;
use crate::identity::issuer::exec::Program;
use crate::identity::issuer::vault::{VaultAuth, VaultSettings};
use crate::identity::pkcs11::{TokenIdentity, TokenKeySettings, TokenSettings};

fn mode() -> impl Strategy<Value = Mode> + Clone {
    select(vec![Mode::Strict, Mode::Permissive, Mode::Disabled])
}

fn ports() -> impl Strategy<Value = BTreeSet<u16>> + Clone {
    btree_set(1..=u16::MAX, 0..4)
}

pub(super) fn some_ports() -> impl Strategy<Value = BTreeSet<u16>> + Clone {
    btree_set(1..=u16::MAX, 1..4)
}

fn millis(max: u64) -> impl Strategy<Value = Duration> {
    (1..=max).prop_map(Duration::from_millis)
}

fn exclusions() -> impl Strategy<Value = Exclusions> {
    let cidr = (any::<[u8; 4]>(), 0..=32_u8)
        .prop_map(|(address, length)| ipnet::IpNet::new(address.into(), length).unwrap().trunc());
    (ports(), btree_set(cidr, 0..3))
        .prop_map(|(ports, cidrs)| Exclusions { ports, cidrs: cidrs.into_iter().collect() })
}

fn workload(index: usize) -> impl Strategy<Value = Workload> {
    let octet = u8::try_from(index).unwrap();
    let addresses: Vec<IpAddr> =
        vec![[10, 0, octet, 1].into(), [0xfd00, 0, 0, 0, 0, 0, octet.into(), 1].into()];
    (
        (
            "[a-z0-9][-a-z0-9.]{0,10}[a-z0-9]",
            mode(),
            btree_map(1..=u16::MAX, mode(), 0..4),
            ports(),
            exclusions(),
        ),
        (0..6_u8, 0..3_u8, 1..10_000_000_u32, 0..=addresses.len()),
        select(vec![ConnectHold::Ready, ConnectHold::Handshake, ConnectHold::Off]),
        select(vec![UnknownDestinations::Passthrough, UnknownDestinations::Deny]),
        datapath(),
    )
        .prop_map(
            move |(
                (name, mode, ports, listen, exclude),
                (kind, identity, max, count),
                hold,
                unknown,
                datapath,
            )| {
                Workload {
                    name: format!("w{index}-{name}"),
                    select: Selector {
                        netns: (kind != 1 && kind != 5)
                            .then(|| PathBuf::from(format!("/run/netns/n{index}"))),
                        cgroup: matches!(kind, 1 | 2).then(|| PathBuf::from(format!("k/c{index}"))),
                        unit: (kind == 3).then(|| format!("u@{index}.service").parse().unwrap()),
                        uid: (kind >= 4).then_some(u32::MAX - 1 - u32::from(octet)),
                        pod: None,
                    },
                    spiffe_id: format!("spiffe://{}/w{index}", if identity < 2 { "other" } else { "own" })
                        .parse()
                        .unwrap(),
                    dns_names: vec![format!("w{index}.example")],
                    subject: if identity < 2 { Subject::default() } else { subject(index) },
                    labels: if index == 1 {
                        BTreeMap::from([("app".to_owned(), name)])
                    } else {
                        BTreeMap::new()
                    },
                    mode,
                    ports,
                    probe_ports: if index == 1 { listen.clone() } else { BTreeSet::new() },
                    listen_ports: if kind == 1 { listen } else { BTreeSet::new() },
                    exclude,
                    policy_default: [PolicyDefault::Mode, PolicyDefault::Allow, PolicyDefault::Deny]
                        [index % 3],
                    outbound_default: [OutboundDefault::Allow, OutboundDefault::Deny][index % 2],
                    unknown_destinations: unknown,
                    connect_hold: hold,
                    datapath,
                    direct: [DirectChoice::Auto, DirectChoice::Never][index % 2],
                    direct_ports: direct_ports(index),
                    identity: match identity {
                        0 => WorkloadIdentity::Files(IdentityFiles {
                            certificate: "/p/c".into(),
                            key: "/p/k".into(),
                            bundle: Some("/p/b".into()),
                        }),
                        1 => WorkloadIdentity::Token(TokenIdentity {
                            certificate: "/p/c".into(),
                            key: token_key(index),
                            bundle: Some("/p/b".into()),
                        }),
                        _ => WorkloadIdentity::EmbeddedCa,
                    },
                    addresses: addresses.iter().take(count).copied().collect(),
                    max_connections: max,
                    lease: lease(index),
                }
            },
        )
}

/// Not `require`, which is refused.
fn direct_ports(index: usize) -> BTreeMap<u16, DirectChoice> {
    let choices = [(u16::MAX, DirectChoice::Auto), (1, DirectChoice::Never)];
    choices.into_iter().take(index % 3).collect()
}

fn lease(index: usize) -> LeaseSettings {
    let all = [AtEnd::Cut, AtEnd::Drain, AtEnd::Keep];
    let seconds = 1 + 86_399 * u64::try_from(index % 2).unwrap();
    LeaseSettings {
        expired: all[index % 3],
        revoked: all[(index + 1) % 3],
        policy: all[(index + 2) % 3],
        drain: Duration::from_secs(seconds),
    }
}

fn subject(index: usize) -> Subject {
    let attribute = |text: String| Some(text.parse().unwrap());
    Subject {
        organization: if index.is_multiple_of(2) { attribute(format!("Shop {index}")) } else { None },
        organizational_unit: attribute(format!("Ünit: {index}")),
        common_name: if index.is_multiple_of(3) { attribute(format!("w{index}")) } else { None },
    }
}

fn entry(index: usize) -> impl Strategy<Value = DirectoryEntry> {
    let octet = u8::try_from(index).unwrap();
    (8..=32_u8, option::of(some_ports()), 1..4_usize).prop_map(move |(length, ports, ids)| DirectoryEntry {
        name: format!("d{index}"),
        addresses: vec![ipnet::IpNet::new([20 + octet, 1, 2, 3].into(), length).unwrap().trunc()],
        ports,
        spiffe_ids: (0..ids).map(|id| format!("spiffe://own/d{index}/{id}").parse().unwrap()).collect(),
        dns_names: vec![format!("d{index}.example")],
        left_alone: BTreeSet::new(),
        node: index.is_multiple_of(2).then(|| format!("10.9.{octet}.1:15080").parse().unwrap()),
    })
}

fn token(index: usize) -> Pkcs11Token {
    let settings = TokenSettings {
        module: "/lib/m.so".into(),
        token: format!("Token {index}"),
        pin_file: "/p/pin".into(),
    };
    Pkcs11Token { name: format!("t{index}"), settings }
}

fn token_key(index: usize) -> TokenKeySettings {
    TokenKeySettings { token: token(0).settings, label: format!("key of w{index}") }
}

fn issuer(index: usize) -> impl Strategy<Value = Issuer> {
    let words = prop::collection::vec("[a-z $;-]{0,8}", 0..3);
    let program = prop_oneof![
        words.prop_map(|words| Program::Command([vec!["/bin/sign".to_owned()], words].concat())),
        "[a-z|]{1,9}".prop_map(Program::Shell),
    ];
    let exec = (program, 100..3_600_000_u64)
        .prop_map(|(program, timeout)| IssuerKind::Exec { program, timeout: Duration::from_millis(timeout) });
    let seconds = (1..86_400_u64).prop_map(Duration::from_secs);
    let signs = prop_oneof![
        exec,
        vault().prop_map(IssuerKind::Vault),
        cert_manager().prop_map(IssuerKind::CertManager)
    ];
    let signs = (signs, any::<bool>(), option::of(seconds)).prop_map(move |(kind, bundle, lifetime)| {
        Issuer { name: format!("i{index}"), kind, bundle: bundle.then(|| "/roots".into()), lifetime }
    });
    let agent = ("/[a-z]{1,9}", any::<bool>()).prop_map(move |(socket, delegated)| Issuer {
        name: format!("i{index}"),
        kind: match delegated {
            true => IssuerKind::DelegatedIdentity { socket: socket.into() },
            false => IssuerKind::WorkloadApi { socket: socket.into() },
        },
        bundle: None,
        lifetime: None,
    });
    prop_oneof![signs, agent]
}

fn cert_manager() -> impl Strategy<Value = CertManagerSettings> {
    ("[a-z]{1,9}", "[a-z]([a-z.-]{0,7}[a-z])?", "[A-Z][a-z]{1,9}", 100..3_600_000_u64).prop_map(
        |(namespace, issuer, kind, timeout)| CertManagerSettings {
            namespace: namespace.parse().unwrap(),
            issuer: issuer.parse().unwrap(),
            kind,
            group: "issuers.example.org".into(),
            service_account: "/account".into(),
            timeout: Duration::from_millis(timeout),
        },
    )
}

fn vault() -> impl Strategy<Value = VaultSettings> {
    let path = "[A-Za-z0-9_-]{1,8}(/[a-z.]{3,5})?";
    let auth = prop_oneof![
        Just(VaultAuth::Token { file: "/token".into() }),
        ("[a-z_.-]{3,8}", path).prop_map(|(role, mount)| VaultAuth::Kubernetes {
            role,
            jwt_file: "/jwt".into(),
            mount
        }),
        path.prop_map(|mount| VaultAuth::AppRole {
            role_id_file: "/role".into(),
            secret_id_file: "/secret".into(),
            mount
        }),
    ];
    let address = prop_oneof!["https://[a-z]{1,9}(:[1-9][0-9]{1,3})?", Just("http://[::1]:8100".to_owned())];
    let paths = (path, "[a-z_-]{1,8}", option::of(path), any::<bool>());
    (address, paths, 100..3_600_000_u64, auth).prop_map(
        |(address, (mount, role, namespace, ca_file), timeout, auth)| VaultSettings {
            address,
            mount,
            role,
            namespace,
            ca_file: ca_file.then(|| "/vault.pem".into()),
            timeout: Duration::from_millis(timeout),
            auth,
        },
    )
}

fn alarms() -> impl Strategy<Value = Thresholds> {
    let share = (2..=99_u8).prop_flat_map(|warning| (Just(warning), 1..warning));
    let share = share.prop_map(|(warning, critical)| (Threshold::Share(warning), Threshold::Share(critical)));
    let time = (2..86_400_u64).prop_flat_map(|warning| (Just(warning), 1..warning)).prop_map(
        |(warning, critical)| {
            (Threshold::Left(Duration::from_secs(warning)), Threshold::Left(Duration::from_secs(critical)))
        },
    );
    prop_oneof![share, time].prop_map(|(warning, critical)| Thresholds { warning, critical })
}

/// Gives workloads that have files an issuer instead, as far as there are any.
fn with_issuers(mut workloads: Vec<Workload>, issuers: &[Issuer]) -> Vec<Workload> {
    let with_files = |w: &&mut Workload| matches!(w.identity, WorkloadIdentity::Files(_));
    for (workload, issuer) in workloads.iter_mut().filter(with_files).zip(issuers) {
        let name = issuer.name.clone();
        workload.identity = match &issuer.kind {
            IssuerKind::DelegatedIdentity { .. } => {
                let selectors = ["unix:uid:1", "k8s:ns:x"].iter().take(1 + name.len() % 2);
                let selectors = selectors.map(|text| text.parse().unwrap()).collect();
                WorkloadIdentity::Delegated { issuer: name, selectors }
            }
            _ => WorkloadIdentity::Issuer(name),
        };
    }
    workloads
}

fn datapath() -> impl Strategy<Value = DatapathChoice> + Clone {
    select(vec![DatapathChoice::Auto, DatapathChoice::RelayUserspace, DatapathChoice::RelayKtls])
}

/// Each list of suites that may be written.
fn cipher_suites() -> impl Strategy<Value = Option<Vec<Suite>>> {
    option::of(subsequence(Suite::ALL.to_vec(), 1..=Suite::ALL.len()).prop_shuffle())
}

fn list<T: std::fmt::Debug, S: Strategy<Value = T>>(
    make: impl Fn(usize) -> S,
) -> impl Strategy<Value = Vec<T>> {
    (0..=4_usize).prop_flat_map(move |count| (0..count).map(&make).collect::<Vec<_>>())
}

/// Any valid configuration; `files`, `drop_in_directories` and `warnings` are empty.
pub(super) fn config() -> impl Strategy<Value = Config> {
    let node = (
        (exclusions(), any::<[bool; 3]>(), option::of(1..=u16::MAX), list(issuer), alarms()),
        (
            1..10_000_000_u32,
            1..10_000_000_u32,
            1..1_000_000_u32,
            1..=100_u32,
            1..=1_u32 << 20,
            1..1_000_000_u32,
        ),
        (millis(3_600_000), millis(3_600_000), option::of(millis(86_400_000)), millis(86_400_000)),
        select(vec![AccessLog::Stdout, AccessLog::Off, AccessLog::File("/x/y".into())]),
        select(vec![LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]),
        select(vec![EbpfLog::Off, EbpfLog::Info, EbpfLog::Debug]),
        (datapath(), cipher_suites(), Tls::MIN_RECORDS_PER_KEY..=Tls::MAX_RECORDS_PER_KEY),
    );
    let inbound = list(|n| rules::rule(format!("r{n}")));
    let outbound = list(|n| rules::rule(format!("o{n}")));
    (node, list(workload), list(entry), inbound, outbound).prop_map(
        |(node, workloads, directory, policy, outbound_policy)| {
            let (
                (exclude, [dns, common_name, old], port, issuers, alarms),
                limits,
                timeouts,
                access_log,
                level,
                ebpf,
                tls,
            ) = node;
            let (datapath, cipher_suites, records_per_key) = tls;
            let workloads = with_issuers(workloads, &issuers);
            Config {
                kubernetes: None,
                bystanders: Vec::new(),
                services: Vec::new(),
                inside: Inside::default(),
                verdicts: Vec::new(),
                trust_domain: "own".parse().unwrap(),
                paths: Paths { runtime: "/r".into(), state: "/s".into(), bpffs: "/b".into() },
                cgroup_root: old.then(|| "/sys/fs/cgroup".into()),
                embedded_ca: EmbeddedCa {
                    directory: "/ca".into(),
                    lifetime: timeouts.3 + Duration::from_secs(1),
                    key: old.then(|| TokenKeySettings { token: token(1).settings, label: "ca".into() }),
                },
                issuers,
                alarms,
                pkcs11: vec![token(0), token(1)],
                trust: Trust {
                    bundles: vec![TrustBundleFile {
                        trust_domain: "other".parse().unwrap(),
                        file: "/o".into(),
                    }],
                    crls: vec![
                        CrlSource {
                            trust_domain: "other".parse().unwrap(),
                            origin: CrlOrigin::File("/crl".into()),
                            issuer_file: dns.then(|| "/i".into()),
                            refresh: timeouts.0 + Duration::from_secs(1),
                        },
                        CrlSource {
                            trust_domain: "own".parse().unwrap(),
                            origin: CrlOrigin::Url {
                                url: "http://crl".into(),
                                ca_file: dns.then(|| "/r".into()),
                            },
                            issuer_file: None,
                            refresh: timeouts.1 + Duration::from_secs(1),
                        },
                    ],
                    crl_policy: if common_name { CrlPolicy::Require } else { CrlPolicy::Prefer },
                    ocsp: vec![
                        OcspSource {
                            trust_domain: "other".parse().unwrap(),
                            responder: OcspResponder::Certificate,
                            ca_file: dns.then(|| "/r".into()),
                            refresh: timeouts.0 + Duration::from_secs(1),
                        },
                        OcspSource {
                            trust_domain: "own".parse().unwrap(),
                            responder: OcspResponder::Url("http://ocsp".into()),
                            ca_file: None,
                            refresh: timeouts.1 + Duration::from_secs(1),
                        },
                    ],
                    ocsp_policy: if dns { OcspPolicy::Require } else { OcspPolicy::Prefer },
                    peer_names: PeerNames { dns, common_name },
                    clock_skew: timeouts.0.min(Duration::from_secs(300)),
                },
                exclude,
                unclassified: Unclassified {
                    cgroups: if common_name { vec!["/a.slice".into(), "/b/c".into()] } else { Vec::new() },
                    namespaces: match dns {
                        true => UnclassifiedNamespaces::Refuse,
                        false => UnclassifiedNamespaces::Allow,
                    },
                },
                probers: match (dns, common_name) {
                    (true, _) => vec![
                        Prober::Unit("kubelet.service".parse().unwrap()),
                        Prober::Cgroup("/kubelet".into()),
                    ],
                    (false, true) => vec![Prober::Cgroup("a/b".into())],
                    (false, false) => Vec::new(),
                },
                tls: Tls {
                    min_version: if old { TlsVersion::V1_2 } else { TlsVersion::V1_3 },
                    cipher_suites,
                    records_per_key,
                },
                datapath,
                direct: Direct {
                    default: if old { DirectChoice::Auto } else { DirectChoice::Never },
                    listen: dns.then(|| "[fd09::9]:1".parse().unwrap()),
                    unfit: UnfitSettings {
                        entries: limits.4.min(262_144),
                        retry: timeouts.0 + Duration::from_secs(1),
                        retry_limit: timeouts.0 + timeouts.1 + Duration::from_secs(1),
                    },
                },
                limits: Limits {
                    connections: limits.0,
                    connections_per_workload: limits.1,
                    handshakes: limits.2,
                    chain_certificates: limits.3,
                    chain_bytes: limits.4,
                },
                timeouts: Timeouts {
                    handshake: timeouts.0,
                    detect: timeouts.1,
                    idle: timeouts.2,
                    drain: timeouts.3,
                },
                access_log,
                metrics: port.map(|port| ([127, 0, 0, 1], port).into()),
                log: Log { level, ebpf },
                recorder: Recorder { entries: limits.5 },
                flows: Flows {
                    entries: limits.5.min(262_144),
                    keep: timeouts.2.map(|idle| idle + Duration::from_secs(3600)),
                },
                workloads,
                directory,
                policy,
                outbound_policy,
                // Its timeout must be less than that of handshakes, and at least 10 ms.
                policy_external: (timeouts.0 >= Duration::from_millis(20)).then(|| ExternalPolicy {
                    url: if dns { "https://opa/v1/data/a/b" } else { "http://[::1]:8181/v1/data/a" }.into(),
                    timeout: (timeouts.0 - Duration::from_millis(1)).min(Duration::from_secs(10)),
                    cache: ExternalCache {
                        allow: timeouts.1,
                        deny: if old { Duration::ZERO } else { timeouts.1 },
                        entries: limits.4.min(262_144),
                    },
                    on_failure: if old { OnFailure::Allow } else { OnFailure::Deny },
                    inbound: dns || !common_name,
                    outbound: common_name,
                    workloads: old.then(|| BTreeSet::from(["a".into(), "b".into()])),
                    ca_file: dns.then(|| "/roots".into()),
                    token_file: common_name.then(|| "/token".into()),
                }),
                files: Vec::new(),
                drop_in_directories: Vec::new(),
                warnings: Vec::new(),
            }
        },
    )
}

/// Lower-case name of a variant, as it is written.
pub(super) fn word(value: impl std::fmt::Debug) -> Value {
    json!(format!("{value:?}").to_lowercase())
}

fn kebab(datapath: DatapathChoice) -> Value {
    json!(match datapath {
        DatapathChoice::Auto => "auto",
        DatapathChoice::RelayUserspace => "relay-userspace",
        DatapathChoice::RelayKtls => "relay-ktls",
    })
}

/// Leaves out the keys whose value is null.
pub(super) fn given(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
    Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

pub(super) fn strings<T: ToString>(list: impl IntoIterator<Item = T>) -> Value {
    list.into_iter().map(|item| json!(item.to_string())).collect()
}

fn exclude(exclude: &Exclusions) -> Value {
    json!({ "ports": exclude.ports, "cidrs": strings(&exclude.cidrs) })
}

/// The document that says the same.
fn crl_document(crl: &CrlSource) -> Value {
    let (file, url, ca_file) = match &crl.origin {
        CrlOrigin::File(path) => (Some(path), None, None),
        CrlOrigin::Url { url, ca_file } => (None, Some(url), ca_file.as_ref()),
    };
    given(json!({
        "trust_domain": crl.trust_domain, "file": file, "url": url, "ca_file": ca_file,
        "issuer_file": crl.issuer_file, "refresh": super::super::scalar::show(crl.refresh),
    }))
}

fn ocsp_document(ocsp: &OcspSource) -> Value {
    let responder = match &ocsp.responder {
        OcspResponder::Certificate => "certificate",
        OcspResponder::Url(url) => url,
    };
    given(json!({
        "trust_domain": ocsp.trust_domain, "responder": responder, "ca_file": ocsp.ca_file,
        "refresh": super::super::scalar::show(ocsp.refresh),
    }))
}

fn external_document(external: &ExternalPolicy) -> Value {
    let time = |duration: Duration| json!(super::super::scalar::show(duration));
    let directions = [(external.inbound, "inbound"), (external.outbound, "outbound")];
    let directions: Vec<_> = directions.iter().filter(|(is, _)| *is).map(|(_, name)| name).collect();
    given(json!({
        "url": external.url,
        "timeout": time(external.timeout),
        "cache": {
            "allow": time(external.cache.allow),
            "deny": time(external.cache.deny),
            "entries": external.cache.entries,
        },
        "on_failure": word(external.on_failure),
        "directions": directions,
        "workloads": external.workloads,
        "ca_file": external.ca_file,
        "token_file": external.token_file,
    }))
}

fn issuer_document(issuer: &Issuer) -> Value {
    let time = |duration: Duration| json!(super::super::scalar::show(duration));
    let (kind, settings) = match &issuer.kind {
        IssuerKind::Exec { program, timeout } => {
            let (command, shell) = match program {
                Program::Command(words) => (Some(words), None),
                Program::Shell(line) => (None, Some(line)),
            };
            ("exec", given(json!({ "command": command, "shell": shell, "timeout": time(*timeout) })))
        }
        IssuerKind::Vault(settings) => {
            let settings = given(json!({
                "address": settings.address,
                "mount": settings.mount,
                "role": settings.role,
                "namespace": settings.namespace,
                "ca_file": settings.ca_file,
                "timeout": time(settings.timeout),
                "auth": match &settings.auth {
                    VaultAuth::Token { file } => json!({ "token": { "file": file } }),
                    VaultAuth::Kubernetes { role, jwt_file, mount } => json!({
                        "kubernetes": { "role": role, "jwt_file": jwt_file, "mount": mount },
                    }),
                    VaultAuth::AppRole { role_id_file, secret_id_file, mount } => json!({
                        "app_role": {
                            "role_id_file": role_id_file, "secret_id_file": secret_id_file, "mount": mount,
                        },
                    }),
                },
            }));
            ("vault", settings)
        }
        IssuerKind::CertManager(settings) => {
            let settings = json!({
                "namespace": settings.namespace,
                "issuer": settings.issuer,
                "kind": settings.kind,
                "group": settings.group,
                "service_account": settings.service_account,
                "timeout": time(settings.timeout),
            });
            ("cert_manager", settings)
        }
        IssuerKind::WorkloadApi { socket } => ("workload_api", json!({ "socket": socket })),
        IssuerKind::DelegatedIdentity { socket } => ("delegated_identity", json!({ "socket": socket })),
    };
    given(json!({
        "name": issuer.name,
        kind: settings,
        "bundle": issuer.bundle,
        "lifetime": issuer.lifetime.map(time),
    }))
}

fn threshold(threshold: Threshold) -> Value {
    match threshold {
        Threshold::Share(percent) => json!(format!("{percent}%")),
        Threshold::Left(time) => json!(super::super::scalar::show(time)),
    }
}

fn key_document(config: &Config, key: &TokenKeySettings) -> Value {
    let token = config.pkcs11.iter().find(|token| token.settings == key.token).unwrap();
    json!({ "token": token.name, "label": key.label })
}

fn token_document(token: &Pkcs11Token) -> Value {
    let settings = &token.settings;
    json!({
        "name": token.name, "module": settings.module, "token": settings.token, "pin_file": settings.pin_file,
    })
}

pub(super) fn document(config: &Config) -> Value {
    let time = |duration: Duration| json!(super::super::scalar::show(duration));
    let workloads: Vec<Value> = config
        .workloads
        .iter()
        .map(|w| {
            given(json!({
                "name": w.name,
                "select": given(json!({
                    "netns": w.select.netns,
                    "cgroup": w.select.cgroup,
                    "unit": w.select.unit.as_ref().map(UnitName::as_str),
                    "uid": w.select.uid,
                })),
                "spiffe_id": w.spiffe_id,
                "dns_names": w.dns_names,
                "certificate": (w.subject != Subject::default()).then(|| json!({ "subject": given(json!({
                    "organization": w.subject.organization.as_ref().map(ToString::to_string),
                    "organizational_unit": w.subject.organizational_unit.as_ref().map(ToString::to_string),
                    "common_name": w.subject.common_name.as_ref().map(ToString::to_string),
                })) })),
                "labels": (!w.labels.is_empty()).then_some(&w.labels),
                "mode": word(w.mode),
                "policy_default": word(w.policy_default),
                "outbound_default": word(w.outbound_default),
                "ports": w.ports.iter().map(|(port, mode)| (port.to_string(), word(mode))).collect::<Value>(),
                "listen_ports": (!w.listen_ports.is_empty()).then_some(&w.listen_ports),
                "probe_ports": w.probe_ports,
                "exclude": exclude(&w.exclude),
                "unknown_destinations": word(w.unknown_destinations),
                "connect_hold": word(w.connect_hold),
                "datapath": kebab(w.datapath),
                "direct": w.direct.to_string(),
                "direct_ports": w.direct_ports.iter()
                    .map(|(port, choice)| (port.to_string(), json!(choice.to_string())))
                    .collect::<Value>(),
                "identity": match &w.identity {
                    WorkloadIdentity::EmbeddedCa => Value::Null,
                    WorkloadIdentity::Issuer(name) => json!({ "issuer": name }),
                    WorkloadIdentity::Delegated { issuer, selectors } => {
                        json!({ "issuer": issuer, "selectors": strings(selectors) })
                    }
                    WorkloadIdentity::IssuerWithToken { issuer, key } => json!({
                        "issuer": issuer, "pkcs11": key_document(config, key),
                    }),
                    WorkloadIdentity::Token(identity) => given(json!({
                        "certificate": identity.certificate, "bundle": identity.bundle,
                        "pkcs11": key_document(config, &identity.key),
                    })),
                    WorkloadIdentity::Files(files) => given(json!({
                        "certificate": files.certificate, "key": files.key, "bundle": files.bundle,
                    })),
                },
                "addresses": strings(&w.addresses),
                "limits": { "connections": w.max_connections },
                "lease": {
                    "expired": word(w.lease.expired),
                    "revoked": word(w.lease.revoked),
                    "policy": word(w.lease.policy),
                    "drain": time(w.lease.drain),
                },
            }))
        })
        .collect();
    let directory: Vec<Value> = config
        .directory
        .iter()
        .map(|d| {
            given(json!({
                "name": d.name,
                "addresses": strings(&d.addresses),
                "ports": d.ports,
                "spiffe_ids": d.spiffe_ids,
                "dns_names": d.dns_names,
                "node": d.node.map(|node| node.to_string()),
            }))
        })
        .collect();
    let policy: Vec<Value> = config.policy.iter().map(|rule| rules::document(rule, "to", "from")).collect();
    let outbound: Vec<Value> =
        config.outbound_policy.iter().map(|rule| rules::document(rule, "from", "to")).collect();
    let (limits, timeouts) = (&config.limits, &config.timeouts);
    given(json!({
        "trust_domain": config.trust_domain,
        "paths": { "runtime": config.paths.runtime, "state": config.paths.state, "bpffs": config.paths.bpffs },
        "cgroup_root": config.cgroup_root,
        "identity": {
            "embedded_ca": given(json!({
                "directory": config.embedded_ca.directory,
                "lifetime": time(config.embedded_ca.lifetime),
                "key": config.embedded_ca.key.as_ref().map(|key| key_document(config, key)),
            })),
            "issuers": config.issuers.iter().map(issuer_document).collect::<Value>(),
            "alarms": { "warning": threshold(config.alarms.warning), "critical": threshold(config.alarms.critical) },
            "pkcs11": config.pkcs11.iter().map(token_document).collect::<Value>(),
        },
        "trust": {
            "bundles": config.trust.bundles.iter()
                .map(|bundle| json!({ "trust_domain": bundle.trust_domain, "file": bundle.file }))
                .collect::<Value>(),
            "clock_skew": time(config.trust.clock_skew),
            "crls": config.trust.crls.iter().map(crl_document).collect::<Value>(),
            "crl_policy": match config.trust.crl_policy {
                CrlPolicy::Prefer => "prefer",
                CrlPolicy::Require => "require",
            },
            "ocsp": config.trust.ocsp.iter().map(ocsp_document).collect::<Value>(),
            "ocsp_policy": match config.trust.ocsp_policy {
                OcspPolicy::Prefer => "prefer",
                OcspPolicy::Require => "require",
            },
            "peer_names": { "dns": config.trust.peer_names.dns, "common_name": config.trust.peer_names.common_name },
        },
        "exclude": exclude(&config.exclude),
        "unclassified": {
            "cgroups": config.unclassified.cgroups,
            "namespaces": match config.unclassified.namespaces {
                UnclassifiedNamespaces::Allow => "allow",
                UnclassifiedNamespaces::Refuse => "refuse",
            },
        },
        "probers": config.probers.iter()
            .map(|prober| match prober {
                Prober::Unit(unit) => json!({ "unit": unit.as_str() }),
                Prober::Cgroup(path) => json!({ "cgroup": path }),
            })
            .collect::<Value>(),
        "tls": {
            "min_version": config.tls.min_version.to_string(),
            "cipher_suites": config.tls.cipher_suites.as_ref().map_or_else(
                || json!("auto"),
                |suites| suites.iter().map(|suite| json!(suite.name())).collect::<Value>(),
            ),
            "records_per_key": config.tls.records_per_key,
        },
        "datapath": kebab(config.datapath),
        "direct": given(json!({
            "default": config.direct.default.to_string(),
            "listen": config.direct.listen.map(|listen| listen.to_string()),
            "unfit": {
                "entries": config.direct.unfit.entries,
                "retry": time(config.direct.unfit.retry),
                "retry_limit": time(config.direct.unfit.retry_limit),
            },
        })),
        "limits": {
            "connections": limits.connections,
            "connections_per_workload": limits.connections_per_workload,
            "handshakes": limits.handshakes,
            "chain_certificates": limits.chain_certificates,
            "chain_bytes": limits.chain_bytes,
        },
        "timeouts": {
            "handshake": time(timeouts.handshake),
            "detect": time(timeouts.detect),
            "idle": timeouts.idle.map_or_else(|| json!("off"), time),
            "drain": time(timeouts.drain),
        },
        "access_log": match &config.access_log {
            AccessLog::Stdout => json!("stdout"),
            AccessLog::Off => json!("off"),
            AccessLog::File(path) => json!({ "file": path }),
        },
        "metrics": config.metrics.map_or_else(|| json!("off"), |listen| json!({ "listen": listen })),
        "log": { "level": word(config.log.level), "ebpf": word(config.log.ebpf) },
        "recorder": { "entries": config.recorder.entries },
        "flows": {
            "entries": config.flows.entries,
            "keep": config.flows.keep.map_or_else(|| json!("off"), time),
        },
        "workloads": workloads,
        "directory": directory,
        "policy": policy,
        "outbound_policy": outbound,
        "policy_external": config.policy_external.as_ref().map(external_document),
    }))
}
