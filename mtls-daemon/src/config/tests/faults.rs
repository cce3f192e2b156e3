//! Each fault, with its place, its offending text and its mend.

use super::super::*;
use super::{parse, source};

/// The rendered problems of a document that starts with `trust_domain: a` on line 1.
fn problems(rest: &str) -> Vec<String> {
    let error = parse(&format!("trust_domain: a\n{rest}")).expect_err(rest);
    error.to_string().lines().map(str::to_owned).collect()
}

fn workload(fields: &str) -> String {
    format!("workloads: [{{ name: w, select: {{ netns: w }}, {fields} }}]")
}

/// `F:line:column` of a marker in a document that comes after line 1.
fn place_of(marker: char, rest: &str) -> String {
    let before: String =
        rest.chars().take_while(|c| *c != marker).filter(|c| !matches!(c, '§' | '¤')).collect();
    let line = before.rsplit('\n').next().unwrap();
    format!("F:{}:{}", before.matches('\n').count() + 2, line.chars().count() + 1)
}

/// Checks that a document has exactly one problem, at the mark §, whose message has these parts; in them, ¤ stands
/// for the place of the mark ¤.
pub(super) fn one(marked: &str, parts: &[&str]) {
    assert!(marked.contains('§'), "{marked}");
    let rest = marked.replace(['§', '¤'], "");
    let found = problems(&rest);
    assert_eq!(found.len(), 1, "{rest}: {found:?}");
    assert!(found[0].starts_with(&format!("{}: ", place_of('§', marked))), "{marked}: {found:?}");
    for part in parts {
        let part = part.replace('¤', &place_of('¤', marked));
        assert!(found[0].contains(&part), "{rest}: {found:?} lacks {part:?}");
    }
}

#[test]
fn a_broken_document_is_refused_with_its_place() {
    for (text, want) in [
        ("", "F:1:1: the key `trust_domain` is missing; add it"),
        ("trust_domain: A", "F:1:15: the trust domain `A` cannot be: its trust domain has the character 'A'"),
        ("trust_domain:", "F:1:13: there is no value here; write text, or remove the key"),
        ("trust_domain: &x a", "F:1:18: anchors (`&`) and aliases (`*`) are not taken"),
        ("trust_domain: *x", "F:1:15: anchors (`&`) and aliases (`*`) are not taken"),
        ("trust_domain: !x a", "F:1:18: the tag on `a` is not taken; remove the `!"),
        ("trust_domain: [a]", "F:1:15: found `a list` where text is expected"),
        ("trust_domain: \"a", "F:1:15: this is not YAML: unclosed quote; mend it here"),
        ("trust_domain: a: b", "F:1:16: this is not YAML: mapping values are not allowed"),
        ("trust_domain: a\u{7}", "F:1:15: this is not YAML: unexpected character"),
        ("{", "F:1:1: this is not YAML: unclosed bracket"),
        ("null", "F:1:1: there is no value here; write a mapping"),
        ("- a", "F:1:1: found `a list` where a mapping (key: value) is expected"),
        ("a: 1\n---\nb: 1", "F:1:1: the key `a` is not known here"),
        ("trust_domain: a\n---\nx: 1", "F:3:1: a second document (`---`) starts here"),
        ("<<: {}", "F:1:1: the merge key `<<` is not taken"),
    ] {
        let found = parse(text).expect_err(text).to_string();
        assert!(found.starts_with(want), "{text:?}: {found}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_known_ones() {
    one("§modus: 1", &["the key `modus` is not known here", "known are: trust_domain, "]);
    one(
        &workload("§mod: strict"),
        &["`mod` is not known here, did you mean `mode`?", "unknown_destinations"],
    );
    one("paths: { §stat: /x }", &["did you mean `state`?; known are: runtime, state, bpffs"]);
    one("identity: { §embeded_ca: {} }", &["did you mean `embedded_ca`?"]);
}

#[test]
fn a_missing_or_doubled_key_is_refused() {
    one("workloads: [{ §name: w }]", &["the key `select` is missing; add it"]);
    one("§trust_domain: b", &["the key `trust_domain` stands twice in this mapping; remove one"]);
    one(&workload("ports: { 9000: strict, §9000: disabled }"), &["`9000` stands twice"]);
    one(&workload("ports: { 9000: strict, §0x2328: disabled }"), &["`0x2328` stands twice"]);
}

#[test]
fn a_wrong_type_is_refused_with_what_is_expected() {
    one("workloads: §{}", &["found `a mapping` where a list is expected"]);
    one("workloads:\n  §a: 1", &["found `a mapping` where a list is expected"]);
    one("workloads§:", &["there is no value here; write a list, or remove the key"]);
    one("exclude: { ports: [§'22'] }", &["found `'22'` where a whole number without quotes is expected"]);
    one("exclude: { ports: [§1.5] }", &["found `1.5` where a whole number"]);
    one("limits: { §connections: ~ }", &["there is no value here; write a whole number"]);
    one("trust: { peer_names: { dns: §yes } }", &["found `yes` where true or false is expected"]);
    one(
        &workload("mode: §stric"),
        &["`stric` may not stand here, did you mean `strict`?; write one of: strict"],
    );
    one("tls: { min_version: §'1.1' }", &["`1.1` may not stand here", "write one of: 1.2, 1.3"]);
    one("tls: { cipher_suites: §fast }", &["found `fast` where auto or a list is expected"]);
    one("tls: { §cipher_suites: ~ }", &["there is no value here; write auto or a list"]);
    one(
        "tls: { cipher_suites: [§TLS_AES_128_GCM_SHA265] }",
        &["`TLS_AES_128_GCM_SHA265` may not stand here, did you mean `TLS_AES_128_GCM_SHA256`?"],
    );
    one("tls: { cipher_suites: §[] }", &["this list is empty; write auto, or list at least one suite"]);
    one("datapath: §ktls", &["`ktls` may not stand here; write one of: auto, relay-userspace, relay-ktls"]);
    one(&workload("datapath: §relay-ktl"), &["did you mean `relay-ktls`?"]);
    one("access_log: { §fil: /x }", &["did you mean `file`?"]);
    one("log: { level: §loud }", &["write one of: error, warn, info, debug, trace"]);
}

#[test]
fn a_key_whose_lines_are_all_commented_out_does_not_mean_the_default() {
    one("policy:\n- name: r\n  action: allow\n  §from:\n  #  spiffe_ids: [x]", &["there is no value here"]);
    one("policy: [{ name: r, action: allow, from: §{} }]", &["this names nobody"]);
    one("policy: [{ name: r, action: allow, from: §[] }]", &["this names nobody"]);
    one("policy: [{ name: r, action: allow, from: [§{}] }]", &["this names nobody"]);
    one("policy: [{ name: r, action: allow, from: { not: §{} } }]", &["this names nobody"]);
    one("policy: [{ name: r, action: allow, from: { spiffe_ids: §[] } }]", &["this list is empty"]);
    one("policy: [{ name: r, action: deny, to: { workloads: §[] } }]", &["this list is empty"]);
    one("policy: [{ name: r, action: deny, to: { ports: §[] } }]", &["this list is empty"]);
    one(&workload("mode§:"), &["there is no value here; write one of: strict"]);
}

#[test]
fn a_number_out_of_range_is_refused() {
    let found = problems("exclude: { ports: [-1, 0, 65536, 1, 65535, 99999999999] }");
    let ports: Vec<_> = found.iter().map(|line| line.split(';').next().unwrap()).collect();
    let want = ["F:2:20: the port -1 does not exist", "F:2:24: the port 0 does not exist"];
    assert_eq!(ports[..2], want);
    assert_eq!(ports.len(), 4);
    for key in ["connections", "connections_per_workload", "handshakes", "chain_certificates", "chain_bytes"]
    {
        one(&format!("limits: {{ {key}: §0 }}"), &["0 is out of range; write a number from 1 to "]);
    }
    for value in ["1023", "16777217", "-1"] {
        let text = format!("tls: {{ records_per_key: §{value} }}");
        one(&text, &[&format!("{value} is out of range; write a number from 1024 to 16777216")]);
    }
    one("recorder: { entries: §2000000 }", &["2000000 is out of range; write a number from 1 to 1000000"]);
    one("flows: { entries: §300000 }", &["300000 is out of range; write a number from 1 to 262144"]);
    one("flows: { keep: §91d }", &["it is out of range; write one from 1h to 90d"]);
    one(&workload("limits: { connections: §0 }"), &["0 is out of range"]);
    one(&workload("listen_ports: §[1]"), &["`listen_ports` is for a workload that shares its namespace"]);
}

#[test]
fn a_subject_that_cannot_be_is_refused() {
    let subject = |fields: &str| workload(&format!("certificate: {{ subject: {{ {fields} }} }}"));
    one(&subject("organization: §''"), &["the subject's `` cannot be: it is empty"]);
    one(&subject("organizational_unit: §\"a\\nb\""), &["cannot be: it has a control character"]);
    one(
        &subject(&format!("common_name: §{}", "x".repeat(65))),
        &["it has 65 characters and X.520 allows 64"],
    );
    one(
        &workload("certificate: §{ subject: { organization: a } }, identity: { certificate: /c, key: /k }"),
        &["certificate comes from files, which have the subject that they have"],
    );
}

#[test]
fn a_duration_that_cannot_be_is_refused() {
    one("timeouts: { handshake: §off }", &["`off` cannot be: it may not be off here"]);
    one(&workload("lease: { drain: §999ms }"), &["`999ms` cannot be", "1s"]);
    one(&workload("lease: { drain: §25h }"), &["`25h` cannot be", "1d"]);
    one(
        &workload("lease: { policy: §reset }"),
        &["`reset` may not stand here", "write one of: cut, drain, keep"],
    );
    one("timeouts: { drain: §5 }", &["`5` cannot be: it is not whole numbers with units; write it as 300ms"]);
    one("timeouts: { detect: §0s }", &["it is out of range; write one from 1ms to 1h"]);
    one("timeouts: { idle: §1x }", &["it is not whole numbers with units"]);
    one("identity: { embedded_ca: { lifetime: §9000000h } }", &["write one from 1s to 365d"]);
}

#[test]
fn a_text_that_cannot_be_is_refused() {
    one("paths: { runtime: §run }", &["the path `run` cannot be: it is not absolute; start it with '/'"]);
    one("unclassified: { cgroups: [§/] }", &["root cgroup"]);
    one("unclassified: { cgroups: [/a.slice, §/sys/fs/cgroup/a.slice] }", &["cgroup", "write it once"]);
    one("unclassified: { namespaces: §maybe }", &["refuse"]);
    for uid in ["0", "4294967295", "-1", "99999999999"] {
        one(
            &format!("workloads: [{{ name: w, select: {{ uid: §{uid} }} }}]"),
            &[uid, "from 1 to 4294967294", "`unit`"],
        );
    }
    one("workloads: [{ name: w, select: { §uid: www-data } }]", &["a whole number"]);
    one("workloads: [{ name: w, select: { unit: a.service, uid: §7 } }]", &["`uid` goes with `netns` only"]);
    one(
        "workloads: [{ name: w, select: { uid: 7 } }, { name: v, select: { uid: §7 } }]",
        &["user ID", "one workload only"],
    );
    one("probers: [ §{} ]", &["either `unit` or `cgroup`"]);
    one("probers: [ §{ unit: kubelet.service, cgroup: /a } ]", &["either `unit` or `cgroup`"]);
    one("probers: [ { unit: §kubelet } ]", &["kubelet", "service"]);
    one("probers: [ { unit: §system.slice } ]", &["system.slice", "name the service"]);
    one("probers: [ { cgroup: §/ } ]", &["root cgroup"]);
    one("probers: [ { unit: a.service }, { unit: §a.service } ]", &["write it once"]);
    one("probers: [ { cgroup: /a }, { cgroup: §/sys/fs/cgroup/a } ]", &["write it once"]);
    one(&format!("unclassified: {{ cgroups: [§{}] }}", "/a".repeat(32)), &["more than 31 levels"]);
    one("cgroup_root: §/a/../b", &["it has a '..' segment"]);
    one("include: [§conf.d]", &["the path `conf.d` cannot be"]);
    one("exclude: { cidrs: [§10.0.0.1/8] }", &["it has bits set behind its length; write 10.0.0.0/8"]);
    one("exclude: { cidrs: [§home] }", &["the network `home` cannot be: it is neither"]);
    one("metrics: { listen: §localhost }", &["`localhost` is not an address with a port"]);
    one("metrics: { listen: §'127.0.0.1:0' }", &["`127.0.0.1:0` is not an address with a port"]);
    one("trust: { bundles: [{ trust_domain: §B, file: /b }] }", &["the trust domain `B` cannot be"]);
    one("workloads: [{ name: §W, select: { netns: w } }]", &["the name `W` cannot be", "use a-z"]);
    one("workloads: [{ name: w, select: §{} }]", &["the selector selects nothing; give `netns`"]);
    one("workloads: [{ name: w, select: { netns: §a/b } }]", &["the network namespace `a/b` cannot be"]);
    one(
        "workloads: [{ name: w, select: { unit: §nginx } }]",
        &["the unit `nginx` cannot be", "nginx.service"],
    );
    one(
        "workloads: [{ name: w, select: { unit: §worker@.service } }]",
        &["the unit `worker@.service` cannot be: it is a template"],
    );
    one(
        "workloads: [{ name: w, select: { cgroup: /k, unit: §a.service } }]",
        &["a unit is a cgroup, and `cgroup` names another one; remove one of the two"],
    );
    one("workloads: [{ name: w, select: { cgroup: §/ } }]", &["the cgroup `/` cannot be: it is the root"]);
    one(&workload("spiffe_id: §web"), &["the SPIFFE ID `web` cannot be: it does not start with spiffe://"]);
    one(&workload("spiffe_id: §'spiffe://b/w'"), &["the embedded CA issues for the trust domain `a` only"]);
    one(&workload("dns_names: [§'*.x']"), &["the DNS name `*.x` cannot be", "no wildcard"]);
    one(&workload("addresses: [§x]"), &["`x` is not an IP address"]);
    one(&workload("addresses: [§127.0.0.1]"), &["`127.0.0.1` is loopback", "never captured"]);
    one(&workload("addresses: [§255.255.255.255]"), &["broadcast", "never captured"]);
    assert!(parse(&format!("trust_domain: a\n{}", workload("addresses: [240.0.0.1]"))).is_ok(), "unicast");
    one(&workload("addresses: [§'::ffff:10.0.0.1']"), &["it is an IPv4 address inside IPv6"]);
    one(&workload("identity: { certificate: /c, key: §k, bundle: /b }"), &["the path `k` cannot be"]);
    for identity in
        ["{ certificate: /c }", "{ issuer: x, key: /k }", "{ certificate: /c, key: /k, selectors: ['a:b'] }"]
    {
        let text = workload(&format!("identity: §{identity}"));
        one(&text, &["either `issuer` with or without `selectors`, or `certificate` and `key`"]);
    }
    one(
        &workload("identity: { issuer: §x }"),
        &["no issuer `x` under `identity.issuers` (known: there is none)"],
    );
    one(
        "identity: { issuer: §x, issuers: [{ name: y, exec: { shell: s } }] }",
        &["no issuer `x`", "(known: y)"],
    );
    let issuer = |rest: &str| format!("identity: {{ issuers: [§{{ name: y, {rest} }}] }}");
    let inner = |rest: &str| format!("identity: {{ issuers: [{{ name: y, {rest} }}] }}");
    one(
        &issuer("bundle: /b"),
        &[
            "an issuer has exactly one kind; write one of `exec`, `vault`, `cert_manager`, `workload_api`, `delegated_identity`",
        ],
    );
    one(&issuer("exec: { shell: x }, workload_api: { socket: /s }"), &["an issuer has exactly one kind"]);
    one(&inner("workload_api: { socket: §agent.sock }"), &["the path `agent.sock` cannot be"]);
    one(&inner("workload_api: §{}"), &["the key `socket` is missing; add it"]);
    one(&inner("delegated_identity: { socket: §admin.sock }"), &["the path `admin.sock` cannot be"]);
    one(&inner("delegated_identity: { socket: /s }, bundle: §/b"), &["`bundle` is for issuers that sign"]);
    let with = |kind: &str, identity: &str| {
        let issuers = format!("identity: {{ issuers: [{{ name: y, {kind} }}] }}\n");
        issuers + &workload(&format!("identity: {{ {identity} }}"))
    };
    let delegated = "delegated_identity: { socket: /s }";
    one(&with(delegated, "issuer: §y"), &["the issuer `y` gives the SVIDs of workloads by their selectors"]);
    one(&with(delegated, "issuer: y, selectors: §[]"), &["this list is empty; write at least one selector"]);
    one(
        &with(delegated, "issuer: y, selectors: [§unix]"),
        &["the selector `unix` cannot be: it is not TYPE:VALUE"],
    );
    one(
        &with(delegated, "issuer: y, selectors: [¤'a:b', §'a:b']"),
        &["the selector `a:b` is taken already, at ¤"],
    );
    one(
        &with("workload_api: { socket: /s }", "issuer: y, selectors: §['a:b']"),
        &["`selectors` are for issuers of the kind `delegated_identity`, and `y` is of another"],
    );
    one(
        "identity: { issuer: §y, issuers: [{ name: y, delegated_identity: { socket: /s } }] }",
        &["the issuer `y` gives the SVIDs of workloads by their selectors, and there are none here"],
    );
    one(&inner("workload_api: { socket: /s }, bundle: §/b"), &["`bundle` is for issuers that sign"]);
    one(&inner("workload_api: { socket: /s }, lifetime: §1h"), &["`lifetime` is for issuers that sign"]);
    one("trust: { crls: [§{ trust_domain: b }] }", &["either a `file`, or a `url`"]);
    one(
        "trust: { crls: [§{ trust_domain: b, file: /c, url: 'http://c' }] }",
        &["either a `file`, or a `url`"],
    );
    one("trust: { crls: [§{ trust_domain: b, file: /c, ca_file: /r }] }", &["the roots for HTTPS"]);
    one("trust: { crls: [{ trust_domain: b, file: §c }] }", &["the path `c` cannot be"]);
    one("trust: { crls: [{ trust_domain: §B, file: /c }] }", &["the trust domain `B` cannot be"]);
    for url in ["ftp://c", "http://", "https:///c", "c", "'http://c d'"] {
        one(
            &format!("trust: {{ crls: [{{ trust_domain: b, url: §{url} }}] }}"),
            &["begins with http:// or https://"],
        );
    }
    one("trust: { crls: [{ trust_domain: b, url: 'http://c', ca_file: §r }] }", &["the path `r` cannot be"]);
    one("trust: { crls: [{ trust_domain: b, file: /c, issuer_file: §i }] }", &["the path `i` cannot be"]);
    one("trust: { crls: [{ trust_domain: b, file: /c, refresh: §1ms }] }", &["the duration `1ms` cannot be"]);
    one("trust: { crl_policy: §require }", &["there are none"]);
    one("trust: { crl_policy: §hard }", &["write one of: prefer, require"]);
    let crl = "{ trust_domain: b, file: /c }";
    one(&format!("trust: {{ crls: [¤{crl}, §{crl}] }}"), &["the CRL `/c` is taken already, at ¤"]);
    for responder in ["cert", "ftp://c", "''", "'http://'"] {
        one(
            &format!("trust: {{ ocsp: [{{ trust_domain: b, responder: §{responder} }}] }}"),
            &["is not an OCSP responder", "http:// or https://, or `certificate`"],
        );
    }
    let ocsp =
        |more: &str| format!("trust: {{ ocsp: [{{ trust_domain: b, responder: certificate, {more} }}] }}");
    one(&ocsp("ca_file: §r"), &["the path `r` cannot be"]);
    one(&ocsp("refresh: §1ms"), &["the duration `1ms` cannot be"]);
    one(
        "trust: { ocsp: [{ trust_domain: §B, responder: certificate }] }",
        &["the trust domain `B` cannot be"],
    );
    one("trust: { ocsp_policy: §require }", &["for the trust domains under `ocsp`", "there are none"]);
    one("trust: { ocsp_policy: §hard }", &["write one of: prefer, require"]);
    let (one_of_b, other_of_b) =
        ("{ trust_domain: b, responder: certificate }", "{ trust_domain: b, responder: 'http://o' }");
    one(
        &format!("trust: {{ ocsp: [¤{one_of_b}, §{other_of_b}] }}"),
        &["the OCSP responder of trust domain `b` is taken already, at ¤"],
    );
    one(&inner("exec: §{ timeout: 3s }"), &["either `command`", "or `shell`"]);
    one(&inner("exec: §{ command: [/x], shell: x }"), &["either `command`", "or `shell`"]);
    one(&inner("exec: { command: §[] }"), &["this list is empty; write the program and its arguments"]);
    one(&inner("exec: { command: [§sign] }"), &["the path `sign` cannot be"]);
    one(&inner("exec: { shell: §' ' }"), &["this text is empty; write the line that /bin/sh is to run"]);
    one(&inner("exec: { shell: x, timeout: §2h }"), &["the duration `2h` cannot be"]);
    one(&inner("exec: { shell: x }, lifetime: §0s"), &["the duration `0s` cannot be"]);
    one(&inner("exec: { shell: x }, bundle: §b"), &["the path `b` cannot be"]);
    one(
        "identity: { issuers: [{ name: y, exec: { shell: x } }, { name: §y, exec: { shell: x } }] }",
        &["the issuer name `y` is taken already"],
    );
    one(
        "trust: { clock_skew: §6m }",
        &["the duration `6m` cannot be: it is out of range; write one from 0s to 5m"],
    );
    let alarms = |rest: &str| format!("identity: {{ alarms: {{ {rest} }} }}");
    for wrong in ["0%", "100%", "+5%", "x%", "%"] {
        one(
            &alarms(&format!("warning: §'{wrong}'")),
            &["cannot be: write a whole percentage from 1% to 99%"],
        );
    }
    one(&alarms("critical: §soon"), &["the threshold `soon` cannot be: it is not whole numbers with units"]);
    one(&alarms("critical: §366d"), &["write one from 1s to 365d"]);
    one(&alarms("critical: §25%"), &["`critical` is not less than `warning`"]);
    one(&alarms("warning: §10%"), &["`critical` is not less than `warning`"]);
    one(&alarms("warning: 1h, critical: §2h"), &["`critical` is not less than `warning`"]);
    one(
        &workload("identity: §{ certificate: /c, key: /k, pkcs11: { token: t, label: l } }"),
        &["for a key in a token"],
    );
    one(
        &workload("identity: §{ pkcs11: { token: t, label: l } }"),
        &["either `issuer` with or without `selectors`, or `certificate`"],
    );
    one(
        &workload("identity: §{ certificate: /c, pkcs11: { token: t, label: l }, selectors: ['a:b'] }"),
        &["either `issuer` with or without `selectors`, or `certificate`"],
    );
    one(
        &workload("identity: { certificate: /c, pkcs11: { token: §t, label: l } }"),
        &["no token `t` under `identity.pkcs11` (known: there is none)"],
    );
    one(&workload("identity: { certificate: /c, pkcs11: { §token: t } }"), &["the key `label` is missing"]);
    let token = |rest: &str| format!("identity: {{ pkcs11: [{{ name: t, {rest} }}] }}");
    one(&token("module: §m.so, token: a, pin_file: /p"), &["the path `m.so` cannot be"]);
    one(&token("module: /m.so, token: a, pin_file: §p"), &["the path `p` cannot be"]);
    one(&token("module: /m.so, token: §'', pin_file: /p"), &["the label `` cannot be: it is empty"]);
    one(&token("module: /m.so, token: §' a', pin_file: /p"), &["a space at an end"]);
    let agent = "identity: { issuers: [{ name: y, workload_api: { socket: /s } }] }\n";
    let of_agent = workload("identity: { issuer: §y, pkcs11: { token: t, label: l } }");
    one(
        &format!("{agent}{of_agent}")
            .replace("issuers:", "pkcs11: [{ name: t, module: /m, token: a, pin_file: /p }], issuers:"),
        &["`pkcs11` is for issuers that sign"],
    );
    let long = "x".repeat(33);
    one(
        &token(&format!("module: /m.so, token: §{long}, pin_file: /p")),
        &["33 bytes long; this label has at most 32"],
    );
    one(
        "identity: { embedded_ca: { key: { token: §t, label: l } } }",
        &["no token `t` under `identity.pkcs11`"],
    );
    one("identity: { embedded_ca: { key: { §token: t } } }", &["the key `label` is missing"]);
    let long = "x".repeat(65);
    let of_key =
        workload(&format!("identity: {{ certificate: /c, pkcs11: {{ token: t, label: §{long} }} }}"));
    let known = token("module: /m, token: a, pin_file: /p");
    one(&format!("{known}\n{of_key}"), &["65 bytes long; this label has at most 64"]);
    let twice = |second: &str| {
        format!(
            "identity: {{ pkcs11: [{{ name: t, module: /m, token: a, pin_file: /p }}, {{ {second}, module: /m, pin_file: /p }}] }}"
        )
    };
    one(&twice("name: §t, token: b"), &["the token name `t` is taken already"]);
    one(&twice("name: u, token: §a"), &["the token `a` is taken already", "use one entry for both"]);
    let rule = |from: &str| format!("policy: [{{ name: r, action: allow, from: {{ {from} }} }}]");
    one(
        &rule("spiffe_id_prefixes: [§'spiffe://a/shop']"),
        &[
            "it does not end with '/'; write spiffe://a/shop/ for every ID below it, or list the ID in spiffe_ids",
        ],
    );
    one(&rule("spiffe_id_prefixes: [§'spiffe://a//']"), &["its path has an empty segment"]);
    one(&rule("trust_domains: [§A]"), &["the trust domain `A` cannot be"]);
    one(&rule("spiffe_ids: [§x]"), &["the SPIFFE ID `x` cannot be"]);
    let entry = |fields: &str| format!("directory: [{{ name: d, {fields} }}]");
    one(&entry("addresses: §[], spiffe_ids: ['spiffe://a/d']"), &["list at least one address"]);
    one(&entry("addresses: [10.0.0.1], spiffe_ids: §[]"), &["list at least one SPIFFE ID"]);
    one(&entry("addresses: [10.0.0.1], spiffe_ids: ['spiffe://a/d'], ports: §[]"), &["this list is empty"]);
    one(&entry("addresses: [§'fe80::/64'], spiffe_ids: ['spiffe://a/d']"), &["never captured"]);
}

#[test]
fn a_network_of_everything_may_be_a_destination() {
    let config = parse(
        "trust_domain: a\ndirectory: [{ name: all, addresses: [0.0.0.0/0, '::/0'], spiffe_ids: ['spiffe://a/gw'] }]",
    );
    assert_eq!(config.unwrap().directory[0].addresses.len(), 2);
}

#[test]
fn the_second_of_two_points_to_the_first() {
    let two = |first: &str, second: &str| {
        format!("workloads:\n- {{ name: w, {first} }}\n- {{ name: v, {second} }}\n")
    };
    one(
        "workloads:\n- { name: ¤w, select: { netns: w } }\n- { name: §w, select: { netns: v } }",
        &["the workload name `w` is taken already, at ¤; rename one"],
    );
    one(
        &two("select: { netns: ¤x }", "select: { netns: §/var/run/netns/x }"),
        &["the network namespace `/var/run/netns/x` is taken already, at ¤"],
    );
    one(
        &two("select: { cgroup: ¤/k/x }", "select: { cgroup: §/sys/fs/cgroup/k//x/ }"),
        &["the cgroup `/sys/fs/cgroup/k//x/` is taken already, at ¤"],
    );
    one(
        &two("select: { unit: ¤a.service }", "select: { netns: n, unit: §a.service }"),
        &["the unit `a.service` is taken already, at ¤"],
    );
    one(
        &two("select: { cgroup: ¤k/x/y }", "select: { cgroup: §/k/x }"),
        &["the cgroup `/k/x` and the cgroup `k/x/y` at ¤ lie one inside the other"],
    );
    one(
        &two("select: { cgroup: ¤k/x }", "select: { cgroup: §k/x/y/z }"),
        &["the cgroup `k/x/y/z` and the cgroup `k/x` at ¤ lie one inside the other"],
    );
    one(
        &two("select: { netns: a }, addresses: [¤10.0.0.1]", "select: { netns: b }, addresses: [§10.0.0.1]"),
        &["the address `10.0.0.1` is taken already, at ¤"],
    );
    one(
        "policy: [{ name: ¤r, action: deny }, { name: §r, action: allow }]",
        &["the rule name `r` is taken already, at ¤"],
    );
    one("exclude: { ports: [¤1, §1] }", &["the port `1` is taken already, at ¤; write it once"]);
    one(
        "exclude: { cidrs: [¤10.0.0.0/8, §10.0.0.0/8] }",
        &["the network `10.0.0.0/8` is taken already, at ¤"],
    );
    one(
        "tls: { cipher_suites: [¤TLS_AES_256_GCM_SHA384, §TLS_AES_256_GCM_SHA384] }",
        &["the cipher suite `TLS_AES_256_GCM_SHA384` is taken already, at ¤; write it once"],
    );
    one("include: [¤/a, §/a/]", &["the directory `/a/` is taken already, at ¤"]);
    let bundle = "{ trust_domain: b, file: /b }";
    one(
        &format!("trust: {{ bundles: [¤{bundle}, §{bundle}] }}"),
        &["the bundle `/b` is taken already, at ¤"],
    );
    one(
        &workload("ports: { ¤9000: strict, §\"9000\": disabled }"),
        &["the port `9000` is taken already, at ¤; give it one mode"],
    );
    let id = "'spiffe://a/x'";
    one(
        &format!("directory: [{{ name: d, addresses: [10.0.0.1], spiffe_ids: [¤{id}, §{id}] }}]"),
        &["the SPIFFE ID `spiffe://a/x` is taken already, at ¤"],
    );
    let entry =
        |name: &str, address: &str| format!("{{ name: {name}, addresses: [{address}], spiffe_ids: [{id}] }}");
    one(
        &format!("directory: [{}, {}]", entry("¤d", "10.0.0.1"), entry("§d", "10.0.0.2")),
        &["the directory name `d` is taken already, at ¤"],
    );
    // Siblings whose names merely start alike are not nested.
    let text = two("select: { cgroup: k/x }", "select: { cgroup: k/x-y }");
    parse(&format!("trust_domain: a\n{text}")).unwrap();
}

#[test]
fn an_address_may_be_two_destinations_only_on_different_ports() {
    let two = |first: &str, second: &str| {
        format!(
            "directory:\n- {{ name: x, spiffe_ids: ['spiffe://a/x'], addresses: [¤10.0.0.1], {first} }}\n\
             - {{ name: y, spiffe_ids: ['spiffe://a/y'], addresses: [§10.0.0.1], {second} }}\n"
        )
    };
    for (first, second) in [("ports: [1]", "ports: [2]"), ("ports: [1]", ""), ("", "ports: [1]")] {
        let text = two(first, second).replace(['§', '¤'], "");
        parse(&format!("trust_domain: a\n{text}")).unwrap();
    }
    for (first, second) in [("", ""), ("ports: [1, 2]", "ports: [2, 3]")] {
        one(&two(first, second), &["the address `10.0.0.1` is taken already, at ¤; one address and port"]);
    }
    let workload = workload("addresses: [¤10.0.0.1]");
    let entry = "directory: [{ name: x, spiffe_ids: ['spiffe://a/x'], addresses: [§10.0.0.1/32] }]";
    one(&format!("{workload}\n{entry}"), &["the address `10.0.0.1/32` is taken already, at ¤"]);
}

#[test]
fn every_problem_is_found_not_only_the_first() {
    let text = "trust_domain: A\npaths: { state: x }\nlimits: { handshakes: 0 }\nworkloads:\n\
                - { name: W, select: {}, dns_names: [A] }\npolicy:\n- { name: r, action: deny, to: { ports: [0] } }\n";
    let error = parse(text).unwrap_err();
    let places: Vec<_> =
        error.problems.iter().map(|problem| (problem.place.line, problem.place.column)).collect();
    assert_eq!(places, [(1, 15), (2, 17), (3, 23), (5, 11), (5, 22), (5, 38), (7, 42)], "{error}");
    assert_eq!(error.more, 0);
    let many = format!("exclude: {{ ports: [{}] }}", "0, ".repeat(500));
    let error = parse(&format!("trust_domain: a\n{many}")).unwrap_err();
    assert_eq!((error.problems.len(), error.more), (100, 400));
    assert!(error.to_string().ends_with("\nand 400 more"));
}

#[test]
fn problems_of_several_files_name_their_file() {
    let main = source("main", "trust_domain: a\nworkloads: [{ name: w, select: { netns: w } }]");
    let first = source("1.yaml", "workloads: [{ name: w, select: { netns: v } }]");
    let second = source("2.yaml", "trust_domain: b");
    let third = source("3.yaml", "policy: [{ name: R, action: deny }]");
    let error = Config::parse(&main, &[first, second, third]).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines[0], "1.yaml:1:21: the workload name `w` is taken already, at main:2:21; rename one");
    assert_eq!(
        lines[1],
        "2.yaml:1:1: the key `trust_domain` is not known here; known are: workloads, directory, modes, policy, outbound_policy"
    );
    assert!(lines[2].starts_with("3.yaml:1:18: the name `R` cannot be"), "{error}");
    assert_eq!(lines.len(), 3);
}

#[test]
fn offending_text_cannot_write_to_the_terminal_or_flood_it() {
    let found = problems("paths: { state: \"\\e[2J\\n\\u202e\" }");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains(r"`\u{1b}[2J\n\u{202e}`"), "{found:?}");
    let found = problems(&format!("paths: {{ state: {} }}", "x".repeat(100_000)));
    assert!(found[0].len() < 300, "{}", found[0].len());
    let found = problems(&format!("{}: 1", "k".repeat(900)));
    assert!(found[0].len() < 500, "{}", found[0].len());
}

#[test]
fn a_document_that_would_expand_is_refused() {
    let ports: Vec<String> = (1..=2000).map(|port| port.to_string()).collect();
    let ports = ports.join(", ");
    let addresses = |count: usize| {
        (0..count)
            .map(|n| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let entry = |name: &str, addresses: &str, ports: &str| {
        format!(
            "- {{ name: {name}, spiffe_ids: ['spiffe://a/x'], addresses: [{addresses}], ports: [{ports}] }}\n"
        )
    };
    let text = format!("directory:\n{}", entry("x", &addresses(1000), &ports));
    one(
        &text.replacen("- {", "- §{", 1),
        &["the directory expands to more than 65536 pairs of address and port"],
    );
    // Small by itself, large by what the nested networks inherit.
    let text =
        format!("directory:\n{}{}", entry("x", "10.0.0.0/8", &ports), entry("y", &addresses(2000), "9999"));
    let found = problems(&text);
    assert!(found[0].contains("the directory expands to more than"), "{found:?}");
    // The local part counts for each peer.
    let peers = "{ trust_domains: [a] }, ".repeat(600);
    let text = format!("policy: [§{{ name: r, action: deny, to: {{ ports: [{ports}] }}, from: [{peers}] }}]");
    one(&text, &["the policy names more than 1000000 workloads, ports and peers"]);
    let text = format!("exclude: {{ ports: [{}] }}", "1,".repeat(2_100_000));
    let found = problems(&text);
    assert!(found[0].contains("goes beyond a limit of the parser"), "{found:?}");
}

#[test]
fn a_rule_that_says_something_else_than_is_meant_is_refused() {
    let rule = |rest: &str| format!("policy: [{{ name: r, action: allow, {rest} }}]");
    let from = |peer: &str| rule(&format!("from: [{peer}]"));
    one(
        &rule("from: §{ spiffe_ids: ['spiffe://a/x'], trust_domains: [a] }"),
        &["several kinds of identity in one peer: write a list, [{ … }, { … }], if any one"],
    );
    one("policy: [{ name: r, action: audit, dry_run: §true }]", &["an audit rule decides nothing anyway"]);
    one(&from("{ namespaces: [§'a*b'] }"), &["the pattern `a*b` cannot be", "at its start or at its end"]);
    one(
        &from("{ service_accounts: [§cart] }"),
        &["the service account `cart` cannot be: write NAMESPACE/NAME"],
    );
    one(&from("{ extensions: [{ oid: §x }] }"), &["the OID `x` cannot be: write numbers with dots"]);
    one(&from("{ extensions: §[] }"), &["this list is empty"]);
    one(&from("{ extensions: [{ oid: ¤1.2 }, { oid: §1.2 }] }"), &["list its values in one place"]);
    one(&from("{ cidrs: [§10.0.0.1/8] }"), &["10.0.0.0/8"]);
    one(
        &from("{ namespaces: [a], not: { cidrs: [::/0], not: §{ cidrs: [10.0.0.0/8] } } }"),
        &["`not` within `not`"],
    );
    one(&rule("to: { not: { ports: [1], not: §{ ports: [2] } } }"), &["`not` within `not`"]);
    one(&rule("to: { not: §{} }"), &["list what is excluded, or remove `not`"]);
    one(&rule("to: { namespaces: §[] }"), &["this list is empty"]);
    one(&rule("to: { labels: { §'a b': c } }"), &["the label `a b` cannot be: it has the character ' '"]);
    let labels: String = (0..65).map(|n| format!("l{n}: x, ")).collect();
    let text = rule(&format!("to: {{ labels: {{ {} }} }}", labels.replace("l64", "§l64")));
    one(&text, &["more than 64 labels"]);
    one(
        "policy: [{ name: ¤r, action: deny }]\noutbound_policy: [{ name: §r, action: deny }]",
        &["the rule name `r` is taken already"],
    );
}

#[test]
fn modes_that_say_nothing_or_contradict_each_other_are_refused() {
    one("modes: [§{ namespaces: [shop] }]", &["this entry says no mode; give it `mode` or `ports`"]);
    let workload = "workloads: [{ name: w, select: { netns: w }, labels: { app: web } }]";
    let modes = |first: &str, second: &str| format!("modes: [{first}, {second}]\n{workload}");
    one(
        &modes("{ mode: strict }", "§{ mode: permissive }"),
        &["for workload `w` this says another mode than F:2:9, and neither describes it more closely"],
    );
    let closer =
        modes("{ mode: strict, ports: { 80: strict } }", "{ labels: { app: web }, mode: permissive }");
    let config = parse(&format!("trust_domain: a\n{closer}")).unwrap();
    assert_eq!(
        (config.workloads[0].mode, config.workloads[0].mode_of_port(80)),
        (Mode::Permissive, Mode::Strict)
    );
}

#[test]
fn what_cannot_be_direct_is_refused() {
    one(&workload("direct_ports: { ¤80: auto, §'80': never }"), &["the port `80` is taken already, at ¤"]);
    one(&workload("direct_ports: { §0: auto }"), &["the port 0 does not exist"]);
    one(&workload("direct: §allways"), &["`allways` may not stand here"]);
    one("direct: { unfit: { entries: §0 } }", &["write a number from 1 to 262144"]);
    one("direct: { unfit: { retry: §2d } }", &["the duration `2d` cannot be", "from 1s to 1d"]);
    one("direct: { unfit: { retry_limit: §8d } }", &["the duration `8d` cannot be", "from 1s to 7d"]);
    one("direct: { unfit: { retry: 1h, retry_limit: §59m } }", &["`retry_limit` is less than `retry`"]);
}

#[test]
fn a_node_is_where_a_daemon_can_listen() {
    one(
        "direct: { listen: §'10.0.0.9:0' }",
        &["the node's address `10.0.0.9:0` cannot be: there is no port 0"],
    );
    one("direct: { listen: §'224.0.0.1:1' }", &["it is loopback, link-local, multicast"]);
    one("direct: { listen: §'10.0.0.9' }", &["it is not an address with a port; write one such as"]);
    let ours = workload("addresses: [10.0.0.2]");
    one(
        &format!("direct: {{ listen: §'10.0.0.2:15080' }}\n{ours}"),
        &["the node's address `10.0.0.2:15080` is one of the workload `w`", "that no workload has"],
    );
    let entry = |rest: &str| {
        format!("directory: [{{ name: x, spiffe_ids: ['spiffe://a/x'], addresses: [10.1.0.0/24], {rest} }}]")
    };
    one(&entry("node: §'10.2.0.1:0'"), &["there is no port 0"]);
    one(&entry("node: §'[ff02::1]:1'"), &["it is loopback, link-local, multicast"]);
    one(
        &format!("{ours}\n{}", entry("node: §'10.0.0.2:15080'")),
        &["the node's address `10.0.0.2:15080` is one of the workload `w`"],
    );
    let both = ["the node's address `10.1.0.7:15080` is also the destination of this entry", "direct.listen"];
    one(&entry("node: §'10.1.0.7:15080'"), &both);
    one(&entry("ports: [15080], node: §'10.1.0.7:15080'"), &both);
    assert!(parse(&format!("trust_domain: a\n{}", entry("ports: [80], node: '10.1.0.7:15080'"))).is_ok());
}
