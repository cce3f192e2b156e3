mod documented;
mod external;
mod faults;
mod files;
mod generate;
mod istio;
mod offered;
mod policy_tests;
mod properties;
mod rules;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::datapath::ktls::Suite;
use crate::identity::alarm::{Threshold, Thresholds};
use crate::identity::issuer::exec::Program;
use crate::identity::issuer::vault::{VaultAuth, VaultSettings};
use crate::identity::pkcs11::{TokenKeySettings, TokenSettings};

const EVERYTHING: &str = include_str!("../testdata/everything.yaml");

fn source(path: &str, text: impl Into<String>) -> Source {
    Source { path: PathBuf::from(path), text: text.into() }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(&source("F", text), &[])
}

#[test]
fn every_key_of_the_example_is_taken() {
    let config = parse(EVERYTHING).unwrap();
    assert_eq!(config.trust.bundles[0].trust_domain.as_str(), "partner.example");
    assert_eq!(config.trust.clock_skew, Duration::from_secs(45));
    let [file, url] = &config.trust.crls[..] else { panic!("{:?}", config.trust.crls) };
    assert_eq!(file.origin, CrlOrigin::File("/etc/mtlsd/partner.crl".into()));
    assert_eq!((file.refresh, &file.issuer_file), (Duration::from_secs(3600), &None));
    let ca_file = Some("/etc/mtlsd/web-roots.pem".into());
    assert_eq!(url.origin, CrlOrigin::Url { url: "https://ca.example.org/site.crl".into(), ca_file });
    assert_eq!(
        (url.refresh, &url.issuer_file),
        (Duration::from_secs(600), &Some("/etc/mtlsd/site.pem".into()))
    );
    assert_eq!((url.trust_domain.as_str(), config.trust.crl_policy), ("example.org", CrlPolicy::Require));
    let [certificate, url] = &config.trust.ocsp[..] else { panic!("{:?}", config.trust.ocsp) };
    assert_eq!(certificate.responder, OcspResponder::Certificate);
    assert_eq!((certificate.refresh, &certificate.ca_file), (Duration::from_secs(3600), &None));
    assert_eq!(url.responder, OcspResponder::Url("https://ocsp.partner.example/".into()));
    let ca_file = Some("/etc/mtlsd/web-roots.pem".into());
    assert_eq!((url.refresh, &url.ca_file), (Duration::from_secs(1200), &ca_file));
    assert_eq!(
        (url.trust_domain.as_str(), config.trust.ocsp_policy),
        ("partner.example", OcspPolicy::Require)
    );
    assert_eq!(config.access_log, AccessLog::File("/var/log/mtlsd/access.jsonl".into()));
    let web = config.workload("web").unwrap();
    assert_eq!(
        web.select,
        Selector { netns: Some("/run/netns/web".into()), cgroup: None, unit: None, uid: None, pod: None }
    );
    assert_eq!(web.mode_of_port(80), Mode::Strict);
    assert_eq!(web.mode_of_port(9000), Mode::Permissive);
    assert_eq!(web.mode_of_port(8080), Mode::Disabled);
    assert_eq!(web.max_connections, 1000);
    let WorkloadIdentity::Files(files) = &web.identity else { panic!("{:?}", web.identity) };
    assert_eq!(files.key, PathBuf::from("/p/tls.key"));
    let subject = &config.workload("shared").unwrap().subject;
    let attribute = |text: &str| Some(text.parse().unwrap());
    assert_eq!(subject.organization, attribute("Shop"));
    assert_eq!(subject.organizational_unit, attribute("Databases"));
    assert_eq!(subject.common_name, attribute("postgresql"));
    let token = TokenSettings {
        module: "/usr/lib/softhsm/libsofthsm2.so".into(),
        token: "mesh".into(),
        pin_file: "/etc/mtlsd/hsm.pin".into(),
    };
    assert_eq!(config.pkcs11, [Pkcs11Token { name: "hsm".into(), settings: token.clone() }]);
    let of_ca = TokenKeySettings { token: token.clone(), label: "ca-key".into() };
    assert_eq!(config.embedded_ca.key, Some(of_ca));
    let key = TokenKeySettings { token, label: "shared-key".into() };
    let of_shared = WorkloadIdentity::IssuerWithToken { issuer: "script".into(), key };
    assert_eq!(config.workload("shared").unwrap().identity, of_shared);
    let default = EVERYTHING.replace("identity: { issuer: script, pkcs11", "# identity: {");
    let of_shared = parse(&default).unwrap().workload("shared").unwrap().identity.clone();
    assert_eq!(of_shared, WorkloadIdentity::Issuer("script".into()));
    let issuer = &config.issuers[0];
    assert_eq!(
        (&issuer.bundle, issuer.lifetime),
        (&Some("/p/roots.pem".into()), Some(Duration::from_secs(3600)))
    );
    let program = Program::Command(["/usr/local/bin/sign", "--profile", "mesh"].map(String::from).into());
    assert_eq!(issuer.kind, IssuerKind::Exec { program, timeout: Duration::from_secs(30) });
    let vault = |index: usize| match &config.issuers[index].kind {
        IssuerKind::Vault(settings) => settings.clone(),
        other => panic!("{other:?}"),
    };
    let corp = VaultSettings {
        address: "https://vault.example.org:8200".into(),
        mount: "pki_int".into(),
        role: "mesh".into(),
        namespace: Some("team/a".into()),
        ca_file: Some("/p/vault-ca.pem".into()),
        timeout: Duration::from_secs(10),
        auth: VaultAuth::AppRole {
            role_id_file: "/p/role-id".into(),
            secret_id_file: "/p/secret-id".into(),
            mount: "approle".into(),
        },
    };
    assert_eq!(vault(1), corp);
    let (role, jwt_file, mount) = ("mtlsd".into(), "/p/jwt".into(), "kubernetes".into());
    assert_eq!(vault(2).auth, VaultAuth::Kubernetes { role, jwt_file, mount });
    assert_eq!((vault(3).mount.as_str(), vault(3).timeout), ("pki", Duration::from_secs(30)));
    assert_eq!(vault(3).auth, VaultAuth::Token { file: "/p/token".into() });
    let alarms =
        Thresholds { warning: Threshold::Share(25), critical: Threshold::Left(Duration::from_secs(3600)) };
    assert_eq!(config.alarms, alarms);
    assert_eq!(config.issuers[4].kind, IssuerKind::WorkloadApi { socket: "/run/spire/agent.sock".into() });
    assert_eq!(
        config.issuers[5].kind,
        IssuerKind::DelegatedIdentity { socket: "/run/spire/admin.sock".into() }
    );
    let WorkloadIdentity::Delegated { issuer, selectors } = &config.workload("jobs").unwrap().identity else {
        panic!("{:?}", config.workload("jobs"))
    };
    let selectors: Vec<_> = selectors.iter().map(|s| (s.kind(), s.value())).collect();
    assert_eq!(issuer, "node");
    assert_eq!(selectors, [("systemd", "id:jobs.service"), ("unix", "uid:1000")]);
    assert_eq!(config.workload("shared").unwrap().listen_ports, [5432].into());
    assert_eq!(config.directory[0].addresses.len(), 3);
    let peers = config.policy[0].peers.as_ref().unwrap();
    let ids: Vec<_> = peers[0].is.texts[&PeerTrait::SpiffeId].iter().map(ToString::to_string).collect();
    assert_eq!(ids, ["spiffe://example.org/web", "spiffe://example.org/shop/*"]);
    assert_eq!(peers[1].is.texts[&PeerTrait::ServiceAccount], ["shop/cart".parse().unwrap()].into());
    assert_eq!(peers[1].not.networks, ["10.9.0.0/16".parse().unwrap()].into());
    assert_eq!(config.policy[0].local.not_ports, [5433].into());
    assert!(config.policy[1].dry_run && config.policy[1].local.workloads == Some(["web".to_owned()].into()));
    assert_eq!(config.outbound_policy[0].local.workloads, Some(["web".to_owned()].into()));
    assert_eq!(config.workload("jobs").unwrap().mode, Mode::Permissive, "as `modes` says");
    assert_eq!(config.workload("jobs").unwrap().mode_of_port(9100), Mode::Disabled);
    assert_eq!(web.mode, Mode::Strict, "as it says itself");
    assert_eq!((web.policy_default, web.outbound_default), (PolicyDefault::Deny, OutboundDefault::Deny));
    let suites = [Suite::Aes256Gcm, Suite::Aes128Gcm, Suite::ChaCha20Poly1305];
    assert_eq!(config.tls.cipher_suites.as_deref(), Some(&suites[..]));
    assert_eq!((config.datapath, web.datapath), (DatapathChoice::Auto, DatapathChoice::RelayKtls));
    let listen = Some("10.0.0.9:15080".parse().unwrap());
    let direct = Direct { default: DirectChoice::Never, listen, unfit: UnfitSettings::DEFAULT };
    assert_eq!(config.direct, direct);
    assert_eq!(web.direct_of_port(80), DirectChoice::Auto);
    assert_eq!(web.direct_of_port(9000), DirectChoice::Never);
    assert_eq!(config.directory[0].node, Some("10.1.0.1:15080".parse().unwrap()));
    assert_eq!(config.files, [PathBuf::from("F")]);
    assert_eq!(config.drop_in_directories, [PathBuf::from("F.d")]);
}

#[test]
fn what_is_left_out_has_its_stated_default() {
    let config = parse("trust_domain: a.example\nworkloads: [{ name: w, select: { cgroup: x } }]").unwrap();
    assert_eq!(config.paths.runtime, PathBuf::from("/run/mtlsd"));
    assert_eq!(config.paths.bpffs, PathBuf::from("/sys/fs/bpf/mtlsd"));
    assert_eq!(config.embedded_ca.directory, PathBuf::from("/var/lib/mtlsd/ca"));
    assert_eq!(config.embedded_ca.lifetime, Duration::from_secs(3600));
    assert_eq!(config.embedded_ca.key, None);
    assert_eq!(config.cgroup_root, None);
    assert_eq!(config.trust.clock_skew, Duration::from_secs(60));
    let alarms = Thresholds { warning: Threshold::Share(25), critical: Threshold::Share(10) };
    assert_eq!(config.alarms, alarms);
    assert_eq!(config.exclude, Exclusions::default());
    let tls = Tls { min_version: TlsVersion::V1_3, cipher_suites: None, records_per_key: 16_777_216 };
    assert_eq!(config.tls, tls);
    assert_eq!(config.datapath, DatapathChoice::Auto);
    let ten_minutes = Duration::from_secs(600);
    let unfit =
        UnfitSettings { entries: 4096, retry: ten_minutes, retry_limit: Duration::from_secs(4 * 3600) };
    assert_eq!(config.direct, Direct { default: DirectChoice::Never, listen: None, unfit });
    assert_eq!(config.limits.handshakes, 1024);
    assert_eq!(config.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(config.timeouts.detect, Duration::from_millis(300));
    assert_eq!(config.timeouts.idle, None);
    assert_eq!(config.access_log, AccessLog::Stdout);
    assert_eq!(config.metrics, Some("127.0.0.1:9465".parse().unwrap()));
    assert_eq!(config.log, Log { level: LogLevel::Info, ebpf: EbpfLog::Off });
    assert_eq!(config.recorder.entries, 4096);
    assert_eq!(config.flows, Flows { entries: 65_536, keep: Some(Duration::from_secs(7 * 86_400)) });
    let w = config.workload("w").unwrap();
    assert_eq!(w.spiffe_id.as_str(), "spiffe://a.example/w");
    assert_eq!(w.dns_names, ["w"]);
    assert_eq!(w.subject, crate::identity::Subject::default());
    assert_eq!((w.mode, w.connect_hold), (Mode::Strict, ConnectHold::Ready));
    assert_eq!(w.unknown_destinations, UnknownDestinations::Passthrough);
    assert_eq!((w.direct, w.direct_of_port(80)), (DirectChoice::Never, DirectChoice::Never));
    assert_eq!(w.max_connections, 20_000);
    assert_eq!(config.warnings, []);
    let state =
        parse("trust_domain: a\npaths: { state: /srv/x }\nlimits: { connections_per_workload: 7 }").unwrap();
    assert_eq!(state.embedded_ca.directory, PathBuf::from("/srv/x/ca"));
}

#[test]
fn switched_off_is_off() {
    let config = parse("trust_domain: a\nmetrics: off\naccess_log: off\ntimeouts: { idle: off }").unwrap();
    assert_eq!((config.metrics, config.access_log, config.timeouts.idle), (None, AccessLog::Off, None));
    let config = parse(
        "trust_domain: a\nmetrics: { listen: '[::1]:1' }\ntimeouts: { idle: 1h30m }\ntls: { min_version: 1.2 }",
    );
    let config = config.unwrap();
    assert_eq!(config.metrics, Some("[::1]:1".parse().unwrap()));
    assert_eq!(config.timeouts.idle, Some(Duration::from_secs(5400)));
    assert_eq!(config.tls.min_version, TlsVersion::V1_2);
}

#[test]
fn a_workload_has_the_nodes_datapath_unless_it_has_its_own() {
    let config = parse(
        "trust_domain: a\ndatapath: relay-userspace\nworkloads:\n- { name: w, select: { netns: w } }\n\
         - { name: v, select: { netns: v }, datapath: relay-ktls }\n- { name: u, select: { netns: u }, datapath: auto }",
    );
    let config = config.unwrap();
    let of = |name| config.workload(name).unwrap().datapath;
    assert_eq!(config.datapath, DatapathChoice::RelayUserspace);
    assert_eq!(of("w"), DatapathChoice::RelayUserspace);
    assert_eq!((of("v"), of("u")), (DatapathChoice::RelayKtls, DatapathChoice::Auto));
}

#[test]
fn a_workload_has_the_nodes_direct_unless_it_or_its_port_has_its_own() {
    let config = parse(
        "trust_domain: a\ndirect: { default: auto, unfit: { retry: 6h } }\nworkloads:\n- { name: w, select: { netns: w } }\n\
         - { name: v, select: { netns: v }, direct: never, direct_ports: { 80: auto, 81: require } }",
    );
    let config = config.unwrap();
    let of = |name, port| config.workload(name).unwrap().direct_of_port(port);
    assert_eq!(
        (of("w", 1), of("v", 1), of("v", 80), of("v", 81)),
        (DirectChoice::Auto, DirectChoice::Never, DirectChoice::Auto, DirectChoice::Require)
    );
    let (retry, limit) = (config.direct.unfit.retry, config.direct.unfit.retry_limit);
    assert_eq!((retry, limit), (Duration::from_secs(6 * 3600), retry), "the limit is never less");
}

#[test]
fn a_directory_for_every_node_may_name_this_node() {
    let config = parse(
        "trust_domain: a\nworkloads: [{ name: w, select: { netns: w }, addresses: [10.0.0.2] }]\ndirectory:\n\
         - { name: x, addresses: [10.0.0.2, 10.0.0.3], spiffe_ids: ['spiffe://a/w'], node: '10.0.0.9:15080' }\n\
         - { name: host, addresses: [10.0.0.8], ports: [5432], spiffe_ids: ['spiffe://a/h'], node: '10.0.0.8:15080' }\n",
    );
    let nodes: Vec<_> =
        config.unwrap().directory.iter().map(|entry| entry.node.unwrap().to_string()).collect();
    assert_eq!(nodes, ["10.0.0.9:15080", "10.0.0.8:15080"]);
}

#[test]
fn cipher_suites_keep_their_order_and_only_aes_gcm_keys_have_a_limit() {
    let config = parse(
        "trust_domain: a\ntls:\n  records_per_key: 1024\n  cipher_suites: [TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256]",
    );
    let tls = config.unwrap().tls;
    assert_eq!(tls.cipher_suites, Some(vec![Suite::ChaCha20Poly1305, Suite::Aes128Gcm]));
    assert_eq!(tls.records_per_key(Suite::Aes128Gcm), Some(1024));
    assert_eq!(tls.records_per_key(Suite::ChaCha20Poly1305), None);
    let auto = parse("trust_domain: a\ntls: { cipher_suites: auto }").unwrap().tls;
    assert_eq!(auto.cipher_suites, None);
    assert_eq!(auto.records_per_key(Suite::Aes256Gcm), Some(1 << 24));
}

#[test]
fn what_is_probably_not_meant_is_a_warning_with_its_place() {
    let config = parse(EVERYTHING).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let [dns, workload] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(dns.contains("`dns_names` is not looked at"), "{dns}");
    assert!(workload.contains("no workload `db`"), "{workload}");
    let config = parse(
        "trust_domain: a\ndirectory: [{ name: x, addresses: [10.0.0.1], spiffe_ids: ['spiffe://b/x'] }]",
    );
    assert_eq!(
        config.unwrap().warnings[0].to_string(),
        "F:2:59: no roots are configured for the trust domain of `spiffe://b/x`, so that no such server can be \
         verified; add them to `trust.bundles`"
    );
}

#[test]
fn where_an_agent_brings_roots_their_lack_is_no_warning() {
    let with = |kind: &str, identity: &str| {
        let config = parse(&format!(
            "trust_domain: a\nidentity: {{ issuers: [{{ name: y, {kind} }}] }}\n\
             workloads: [{{ name: w, select: {{ netns: w }}, identity: {{ issuer: y{identity} }} }}]\n\
             directory: [{{ name: x, addresses: [10.0.0.1], spiffe_ids: ['spiffe://b/x'] }}]"
        ));
        config.unwrap().warnings.len()
    };
    assert_eq!(with("exec: { shell: x }", ""), 1);
    assert_eq!(with("workload_api: { socket: /s }", ""), 0);
    assert_eq!(with("delegated_identity: { socket: /s }", ", selectors: ['unix:uid:1']"), 0);
}

#[test]
fn ten_thousand_rules_are_read_in_seconds() {
    let mut text = String::from("trust_domain: a\npolicy:\n");
    for n in 0..10_000 {
        text += &format!(
            "  - name: r{n}\n    action: allow\n    to: {{ workloads: [w{n}], ports: [80, 443] }}\n"
        );
        text += &format!("    from: {{ spiffe_ids: ['spiffe://a/x{n}', 'spiffe://a/y{n}'] }}\n");
    }
    let start = std::time::Instant::now();
    assert_eq!(parse(&text).unwrap().policy.len(), 10_000);
    // Generous: this machine is shared; quadratic work would take minutes.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    println!("10,000 rules: {:?}", start.elapsed());
}

#[test]
fn a_directory_for_every_node_may_list_this_nodes_workloads_and_they_win() {
    let with = |id: &str| {
        parse(&format!(
            "trust_domain: a\nworkloads: [ {{ name: web, select: {{ netns: web }}, addresses: [10.0.0.2] }} ]\n\
             directory:\n- {{ name: web-everywhere, addresses: [10.0.0.2], spiffe_ids: [\"{id}\"] }}\n\
             - {{ name: far, addresses: [10.0.0.2, 10.0.1.2], spiffe_ids: [\"spiffe://a/web\"] }}\n"
        ))
    };
    let config = with("spiffe://a/web").unwrap();
    let names: Vec<_> = config.directory.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["far"], "an entry of which nothing is left goes");
    assert_eq!(config.directory[0].addresses, ["10.0.1.2/32".parse().unwrap()]);
    let error = with("spiffe://a/other").unwrap_err().to_string();
    assert!(error.contains("one address and port is one destination"), "{error}");
}
