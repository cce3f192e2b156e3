//! Every command in the documents is run by a test, or is named here with the reason why it is not.

use std::collections::BTreeSet;
use std::fs;

use mtls_documents::{chunks, pages, root};
use mtls_tests::documented::Machine;

/// How a command is known to work.
enum How {
    /// Typed by a test of this file.
    Here,
    /// Run as it stands there by this test: `suite::test`, or `path.rs::test` beside the code.
    By(&'static str),
    /// Not run. Its arguments are read by the real parser, if it is one of ours.
    Not(&'static str),
}

use How::{By, Here, Not};

const NO_MACHINES: &str =
    "needs Vagrant's virtual machines; suite systemd does the same with provision.sh under a real systemd";
const NO_SYSTEMD: &str = "needs systemd as the first program; suite systemd does it in a virtual machine";
const NO_CLUSTER: &str = "needs a Kubernetes cluster";
const LONG: &str = "builds or measures for minutes to hours, with more programs than are here";
const BUILT: &str = "an optimised build takes ten minutes; cargo xtask test packs the tests' own by the same code (suite package)";
const NO_VAULT: &str = "the program `vault` is not here; suite vault asks OpenBao for the same by its API";
const NO_SPIRE: &str = "SPIRE is not here; suite agent plays its APIs";

/// Page (or how its path begins), how the command begins, and how it is known to work. The first that fits counts.
const COMMANDS: &[(&str, &str, How)] = &[
    ("README.md", "cargo build --release", Not(BUILT)),
    ("README.md", "sudo install -m 0755", Here),
    ("README.md", "sudo install -d", Here),
    ("README.md", "sudo tee /etc/mtlsd/mtlsd.yaml", Here),
    ("README.md", "mtlsd config check", Here),
    ("README.md", "sudo mtlsd run", Here),
    ("README.md", "sudo mtlsd status", Here),
    ("README.md", "sudo mtlsd workloads", Here),
    ("README.md", "sudo mtlsd connections", Here),
    ("README.md", "sudo mtlsd explain --last-refused", Here),
    ("README.md", "sudo mtlsd diagnose db:5432 --as web", Here),
    ("README.md", "sudo mtlsd rollout status", Here),
    ("README.md", "sudo mtlsd verify", Here),
    ("README.md", "curl -s http://127.0.0.1:9465/metrics", Here),
    ("README.md", "sudo sh -c 'kill", Here),
    ("README.md", "sudo mtlsd uninstall", Here),
    ("docs/development.md", "cargo", Not(LONG)),
    ("docs/micro-benchmarks.md", "cargo", Not(LONG)),
    ("docs/performance.md", "cargo", Not(LONG)),
    (
        "docs/diagnose.md",
        "mtlsd diagnose far --as web",
        By("diagnose::what_the_other_nodes_policy_says_arrives_with_its_rule"),
    ),
    ("docs/embedded-ca.md", "mtlsd ca csr --trust-domain example.org --out ours.csr", Here),
    ("docs/embedded-ca.md", "mtlsd ca import", Here),
    ("docs/explain.md", "mtlsd explain --from web --to db:5432", Here),
    ("docs/guides/vm.md", "apt", Not(NO_SYSTEMD)),
    ("docs/guides/vm.md", "systemctl", Not(NO_SYSTEMD)),
    ("docs/guides/vm.md", "echo 'trust_domain: example.org'", Here),
    ("docs/guides/vm.md", "mtlsd config check", Here),
    ("docs/guides/vm.md", "mtlsd status", Here),
    ("docs/guides/vm.md", "mtlsd ca init --trust-domain example.org --directory /root/ca", Here),
    ("docs/guides/vm.md", "mtlsd enroll unit:nginx.service --dry-run", Here),
    ("docs/guides/vm.md", "mtlsd enroll unit:nginx.service --mode strict", Here),
    ("docs/guides/vm.md", "mtlsd enroll unit:nginx.service  ", Here),
    ("docs/guides/vm.md", "mtlsd workloads", Here),
    ("docs/guides/vm.md", "mtlsd connections --workload nginx", Here),
    ("docs/guides/vm.md", "mtlsd rollout status --workload nginx --since 1h", Here),
    ("docs/guides/vm.md", "mtlsd confirm", Here),
    ("docs/guides/vm.md", "mtlsd verify", Here),
    ("docs/guides/vm.md", "mtlsd explain --last-refused", Here),
    ("docs/guides/vm.md", "mtlsd list", Here),
    ("docs/guides/vm.md", "mtlsd unenroll nginx", Here),
    ("docs/guides/kernels.md", "uname -r", Here),
    ("docs/guides/kernels.md", "test -r /sys/kernel/btf/vmlinux", Here),
    ("docs/guides/kernels.md", "mtlsd status", Here),
    ("docs/guides/", "kubectl", Not(NO_CLUSTER)),
    ("deploy/kubernetes/", "kubectl", Not(NO_CLUSTER)),
    ("deploy/kubernetes/", "helm", Not(NO_CLUSTER)),
    ("docs/guides/migrating-from-sidecars.md", "mtlsd config check --config /tmp/new/mtlsd.yaml", Here),
    ("docs/guides/migrating-from-sidecars.md", "mtlsd policy check --config /tmp/new/mtlsd.yaml", Here),
    ("docs/guides/migrating-from-sidecars.md", "mtlsd policy test /tmp/new/tests.yaml", Here),
    ("docs/guides/migrating-from-sidecars.md", "mtlsd rollout status --since 24h", Here),
    (
        "docs/guides/migrating-from-sidecars.md",
        "mtlsd policy replay --since 24h --with /tmp/new/mtlsd.yaml",
        Here,
    ),
    ("docs/guides/migrating-from-ambient.md", "mtlsd workloads", Here),
    ("docs/guides/migrating-from-ambient.md", "mtlsd connections", Here),
    ("docs/guides/migrating-from-ambient.md", "mtlsd rollout status --since 24h", Here),
    ("docs/guides/troubleshooting.md", "journalctl", Not(NO_SYSTEMD)),
    ("docs/guides/troubleshooting.md", "systemctl", Not(NO_SYSTEMD)),
    ("docs/guides/troubleshooting.md", "mtlsd explain --last-refused", Here),
    ("docs/guides/troubleshooting.md", "mtlsd explain --from web --to db:5432", Here),
    ("docs/guides/troubleshooting.md", "mtlsd diagnose 10.0.0.3:5433 --as web", Here),
    ("docs/guides/troubleshooting.md", "mtlsd explain --from web --to 10.0.0.9:80", Here),
    ("docs/guides/troubleshooting.md", "mtlsd connections --workload web", Here),
    ("docs/guides/troubleshooting.md", "mtlsd connections --json | jq", Here),
    ("docs/guides/troubleshooting.md", "mtlsd workloads", Here),
    ("docs/guides/troubleshooting.md", "mtlsd status", Here),
    ("docs/guides/troubleshooting.md", "mtlsd verify", Here),
    ("docs/guides/troubleshooting.md", "mtlsd config check", Here),
    ("docs/guides/troubleshooting.md", "mtlsd reload", Here),
    ("docs/hosts.md", "apt install", Not(NO_SYSTEMD)),
    ("docs/hosts.md", "echo 'trust_domain: example.org'", Here),
    ("docs/hosts.md", "systemctl start mtlsd", Not(NO_SYSTEMD)),
    ("docs/hosts.md", "mtlsd enroll unit:nginx.service --dry-run", Here),
    ("docs/hosts.md", "mtlsd enroll unit:nginx.service  ", Here),
    ("docs/hosts.md", "mtlsd list", Here),
    ("docs/hosts.md", "mtlsd rollout status", Here),
    ("docs/hosts.md", "mtlsd enroll unit:nginx.service --mode strict", Here),
    ("docs/hosts.md", "mtlsd confirm", Here),
    ("docs/hosts.md", "mtlsd unenroll nginx", Here),
    ("docs/identity-exec.md", "install -d -m 0700 /etc/mtlsd/ca", Here),
    ("docs/identity-exec.md", "openssl req -x509", Here),
    (
        "docs/identity-exec.md",
        "#!/bin/sh\nset -eu\nca=/etc/mtlsd/ca",
        By("identity/issuer/tests/documented.rs::the_documented_script_for_openssl_signs"),
    ),
    (
        "docs/identity-exec.md",
        "#!/bin/sh\nset -eu\nexport AWS",
        By("identity/issuer/tests/documented.rs::the_documented_script_for_aws_asks_waits_and_fetches"),
    ),
    (
        "docs/identity-exec.md",
        "#!/bin/sh\nset -eu\nurl=",
        By(
            "identity/issuer/tests/documented.rs::the_documented_script_for_step_ca_takes_a_token_for_exactly_these_names",
        ),
    ),
    ("docs/identity-spiffe.md", "spire-server", Not(NO_SPIRE)),
    ("docs/identity-vault.md", "vault ", Not(NO_VAULT)),
    ("docs/identity-vault.md", "curl -sS --fail --cacert", Not(NO_VAULT)),
    ("docs/pkcs11.md", "", By("identity/pkcs11/tests/docs.rs::the_lines_of_the_documentation_work")),
    ("docs/revocation.md", "sudo mtlsd revoke --spiffe-id", Here),
    ("docs/revocation.md", "sudo mtlsd revoke --serial", Here),
    ("docs/revocation.md", "sudo mtlsd revoke --certificate", Here),
    ("docs/revocation.md", "sudo mtlsd revoke --key", Here),
    ("docs/revocation.md", "sudo mtlsd revoke --list", Here),
    ("docs/revocation.md", "sudo mtlsd unrevoke", Here),
    ("docs/revocation.md", "sudo mtlsd drill revoke", Here),
    ("docs/revocation.md", "csplit", Here),
    ("docs/rollout.md", "mtlsd rollout status --workload db --since 24h", Here),
    ("docs/rollout.md", "mtlsd policy replay --since 24h --with /tmp/new/mtlsd.yaml", Here),
    ("docs/runbooks/intermediate-rotation.md", "printf", Here),
    ("docs/runbooks/intermediate-rotation.md", "openssl x509 -req", Here),
    ("docs/runbooks/leaked-key.md", "jq", Here),
    ("docs/runbooks/vault-sealed.md", "mtlsd workloads --json | jq", Here),
    ("docs/verify.md", "sudo mtlsd verify", Here),
    ("vagrant/README.md", "cargo xtask package", Not(BUILT)),
    ("vagrant/README.md", "target/package/bin/mtlsd ca init", Here),
    ("vagrant/README.md", "cd vagrant && vagrant up", Not(NO_MACHINES)),
    ("vagrant/README.md", "vagrant", Not(NO_MACHINES)),
];

fn how(page: &str, command: &str) -> Option<&'static (&'static str, &'static str, How)> {
    COMMANDS.iter().find(|(path, begins, _)| page.starts_with(path) && command.starts_with(begins))
}

/// Every command: the page and the text. Not those of plans.
fn all() -> Vec<(String, String)> {
    let pages = pages().expect("the checkout is whole");
    let pages = pages.into_iter().filter(|page| !page.path.starts_with("docs/design/"));
    let commands = |page: mtls_documents::Page| {
        let scripts: Vec<_> = page.blocks().iter().filter_map(mtls_documents::Block::script).collect();
        let commands = scripts.into_iter().flat_map(|script| chunks(&script));
        commands.map(|command| (page.path.clone(), command)).collect::<Vec<_>>()
    };
    pages.flat_map(commands).collect()
}

#[test]
fn every_command_is_run_or_named_with_the_reason_why_not() {
    let all = all();
    let (mut here, mut by, mut not) = (0, 0, 0);
    let mut missing = Vec::new();
    for (page, command) in &all {
        match how(page, command) {
            Some((_, _, Here)) => here += 1,
            Some((_, _, By(_))) => by += 1,
            Some((_, _, Not(reason))) => {
                not += 1;
                println!("not run: {page}: {command}: {reason}");
            }
            None => missing.push(format!("{page}: {command}")),
        }
    }
    println!("{here} typed here, {by} run by other tests, {not} not run");
    assert!(missing.is_empty(), "say in COMMANDS how these are known to work:\n{}", missing.join("\n"));
    // Of a directory of pages not every one has each.
    for (page, begins, _) in COMMANDS.iter().filter(|(page, _, _)| !page.ends_with('/')) {
        let used = all
            .iter()
            .any(|(path, command)| how(path, command).is_some_and(|one| one.0 == *page && one.1 == *begins));
        assert!(used, "{page} has no command that begins with {begins:?}: take it out of COMMANDS");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    for (page, begins, how) in COMMANDS {
        let By(named) = how else { continue };
        let (place, function) = named.rsplit_once("::").expect("it names a function");
        let file = match place.ends_with(".rs") {
            true => root().join("mtls-daemon/src").join(place),
            false => root().join("tests/tests").join(format!("{place}.rs")),
        };
        let source =
            fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page} {begins}: {}: {e}", file.display()));
        assert!(source.contains(&format!("fn {function}(")), "{page} {begins}: there is no {named}");
    }
}

/// What an application of `web` does.
const ASK: &str = "probe connect 10.0.0.3:5432 --send x";

#[test]
fn the_commands_of_the_documents_work_as_they_are_written() {
    let mut machine = Machine::new();
    install(&mut machine);
    serve(&mut machine);
    first_look(&mut machine);
    trouble(&mut machine);
    enroll_a_unit(&mut machine);
    roll_out(&mut machine);
    revoke(&mut machine);
    authorities(&mut machine);
    uninstall(&mut machine);
    let wanted: BTreeSet<_> = COMMANDS
        .iter()
        .filter(|(_, _, how)| matches!(how, Here))
        .map(|(page, begins, _)| ((*page).to_owned(), (*begins).to_owned()))
        .collect();
    let missing: Vec<_> = wanted.difference(machine.typed()).collect();
    assert!(missing.is_empty(), "named as typed here, and not typed: {missing:?}");
}

fn install(machine: &mut Machine) {
    let page = "README.md";
    machine.types(page, "sudo install -m 0755").ok();
    machine.types(page, "sudo install -d").ok();
    machine.types("docs/hosts.md", "echo 'trust_domain: example.org'").ok();
    machine.types("docs/guides/vm.md", "echo 'trust_domain: example.org'").ok();
    machine.types("docs/guides/vm.md", "mtlsd config check").ok();
    machine.types(page, "sudo tee /etc/mtlsd/mtlsd.yaml").ok();
    machine.appends("/etc/mtlsd/mtlsd.yaml", &machine.lab_keys());
    let said = machine.types(page, "mtlsd config check").ok();
    assert!(said.contains("valid; 2 workloads"), "{said}");
    machine.leaves_running(page, "sudo mtlsd run");
    machine.waits_for("the daemon to be ready", "mtlsd status");
    machine.types("docs/guides/vm.md", "mtlsd status").ok();
    machine.types("docs/guides/vm.md", "mtlsd ca init --trust-domain example.org --directory /root/ca").ok();
}

/// What is behind `db` and the unit, and what comes to them.
fn serve(machine: &mut Machine) {
    machine.starts("db", Some("db"), "exec probe serve '[::]:5432' --greet hello");
    machine.starts("node", Some("system.slice/nginx.service"), "exec probe serve '[::]:80' --greet hello");
    machine.waits_for("the server", "ss -Hltn 'sport = :80' | grep -q .");
    let said = machine.within("web", "web", ASK);
    assert!(said.text.contains("hello"), "{}", said.text);
    let said = machine.on("out", "curl -sS --max-time 5 http://10.0.0.3:5432/");
    assert!(!said.good, "{}", said.text);
}

fn first_look(machine: &mut Machine) {
    let page = "README.md";
    for (begins, text) in [
        ("sudo mtlsd status", "Ready."),
        ("sudo mtlsd workloads", "spiffe://example.org/db"),
        ("sudo mtlsd connections", "plaintext"),
        ("sudo mtlsd explain --last-refused", "The client sent plain bytes"),
        ("sudo mtlsd diagnose db:5432 --as web", "works, with mutual TLS."),
        ("sudo mtlsd rollout status", "strict"),
        ("sudo mtlsd verify", "checks hold"),
        ("curl -s http://127.0.0.1:9465/metrics", "mtlsd_build_info"),
    ] {
        let said = machine.types(page, begins);
        assert!(said.text.contains(text), "{begins}: {}", said.text);
    }
    let said = machine.types("docs/verify.md", "sudo mtlsd verify").ok();
    assert!(said.contains("checks hold"), "{said}");
    let said = machine.types("docs/explain.md", "mtlsd explain --from web --to db:5432").ok();
    assert!(said.contains("would be allowed"), "{said}");
    let said = machine.types("docs/runbooks/vault-sealed.md", "mtlsd workloads --json | jq").ok();
    assert!(said.contains("web\t20"), "{said}");
    machine.writes(
        "/var/log/mtlsd/access.jsonl",
        "{\"direction\":\"inbound\",\"peer_proven\":true,\"peer_identity\":\"spiffe://example.org/web\",\"source\":\"10.0.0.2:41000\"}\n",
    );
    let said = machine.types("docs/runbooks/leaked-key.md", "jq").ok();
    assert!(said.contains("spiffe://example.org/web\t10.0.0.2"), "{said}");
}

/// What docs/guides/troubleshooting.md shows.
fn trouble(machine: &mut Machine) {
    let page = "docs/guides/troubleshooting.md";
    for (begins, text) in [
        ("mtlsd explain --last-refused", "sent plain bytes"),
        ("mtlsd explain --from web --to db:5432", "would be allowed"),
        ("mtlsd diagnose 10.0.0.3:5433 --as web", "stops at: May we connect at all?"),
        ("mtlsd explain --from web --to 10.0.0.9:80", "without mutual TLS"),
        ("mtlsd connections --workload web", "db"),
        ("mtlsd workloads", "enrolled"),
        ("mtlsd status", "Ready."),
        ("mtlsd verify", "checks hold"),
        ("mtlsd connections --json | jq", "relay-"),
    ] {
        let said = machine.types(page, begins);
        assert!(said.text.contains(text), "{begins}: {}", said.text);
    }
    let wrong = "/etc/mtlsd/mtlsd.yaml.d/wrong.yaml";
    machine.writes(wrong, "policy:\n  - { name: all, action: alow }\n");
    let said = machine.types(page, "mtlsd config check").fails();
    assert!(said.contains("wrong.yaml:2:"), "{said}");
    let said = machine.types(page, "mtlsd reload").fails();
    assert!(said.contains("wrong.yaml:2:"), "{said}");
    machine.does(&format!("rm {wrong} && mtlsd reload")).ok();
}

/// What was written by hand is the same unit's: one page after the other.
fn enroll_a_unit(machine: &mut Machine) {
    let page = "docs/hosts.md";
    let said = machine.types(page, "mtlsd enroll unit:nginx.service --dry-run").ok();
    assert!(said.contains("Nothing was changed"), "{said}");
    let said = machine.types(page, "mtlsd enroll unit:nginx.service  ").ok();
    assert!(said.contains("Enrolled nginx as spiffe://example.org/nginx, permissive."), "{said}");
    let said = machine.types(page, "mtlsd list").ok();
    assert!(said.contains("nginx.service"), "{said}");
    // Nobody has spoken to it: it cannot be told.
    let said = machine.types(page, "mtlsd rollout status").fails();
    assert!(said.contains("nginx"), "{said}");
    let said = machine.types(page, "mtlsd enroll unit:nginx.service --mode strict").ok();
    assert!(said.contains("mtlsd confirm"), "{said}");
    machine.types(page, "mtlsd confirm").ok();
    let said = machine.on("out", "curl -sS --max-time 5 http://10.0.0.1/");
    assert!(!said.good, "{}", said.text);
    machine.types(page, "mtlsd unenroll nginx").ok();

    let page = "docs/guides/vm.md";
    machine.types(page, "mtlsd enroll unit:nginx.service --dry-run").ok();
    let said = machine.types(page, "mtlsd enroll unit:nginx.service  ").ok();
    let shown = "Enrolled nginx as spiffe://example.org/nginx, permissive.\nIts ports: 80.\nWritten to /etc/mtlsd/mtlsd.yaml.d/enrolled-nginx.yaml.";
    assert!(said.contains(shown), "{said}");
    machine.on("out", "probe connect 10.0.0.1:80 --send x | grep hello").ok();
    let said = machine.types(page, "mtlsd workloads").ok();
    assert!(said.contains("spiffe://example.org/nginx"), "{said}");
    let said = machine.types(page, "mtlsd connections --workload nginx").ok();
    assert!(said.contains("plaintext"), "{said}");
    let said = machine.types(page, "mtlsd rollout status --workload nginx --since 1h").fails();
    assert!(said.contains("would be refused"), "{said}");
    machine.types(page, "mtlsd enroll unit:nginx.service --mode strict").ok();
    machine.types(page, "mtlsd confirm").ok();
    let said = machine.on("out", "probe connect 10.0.0.1:80 --send x");
    assert!(!said.text.contains("hello"), "{}", said.text);
    let said = machine.types(page, "mtlsd explain --last-refused").ok();
    assert!(said.contains("nginx"), "{said}");
    machine.types(page, "mtlsd verify").ok();
    let said = machine.types(page, "mtlsd list").ok();
    assert!(said.contains("strict"), "{said}");
    machine.types(page, "mtlsd unenroll nginx").ok();
    machine.has_said_what_is_shown(page);
    for begins in ["uname -r", "test -r /sys/kernel/btf/vmlinux", "mtlsd status"] {
        machine.types("docs/guides/kernels.md", begins).ok();
    }
}

fn roll_out(machine: &mut Machine) {
    let page = "docs/rollout.md";
    let said = machine.types(page, "mtlsd rollout status --workload db --since 24h");
    assert!(said.text.contains("db"), "{}", said.text);
    machine.does("mkdir -p /tmp/new && cp /etc/mtlsd/mtlsd.yaml /tmp/new/").ok();
    let said = machine.types(page, "mtlsd policy replay --since 24h --with /tmp/new/mtlsd.yaml").ok();
    assert!(said.contains("No decision would change"), "{said}");

    let page = "docs/guides/migrating-from-sidecars.md";
    machine.types(page, "mtlsd rollout status --since 24h");
    machine.types(page, "mtlsd policy replay --since 24h --with /tmp/new/mtlsd.yaml").ok();
    let [istio, tests] = [0, 1].map(|number| machine.snippet(page, number));
    machine.writes("/tmp/new/mtlsd.yaml", MIGRATED);
    machine.writes("/tmp/new/mtlsd.yaml.d/istio.yaml", &istio);
    machine.writes("/tmp/new/tests.yaml", &tests);
    let said = machine.types(page, "mtlsd config check --config /tmp/new/mtlsd.yaml").ok();
    assert!(said.contains("1 workloads") && said.contains("1 rules"), "{said}");
    machine.types(page, "mtlsd policy check --config /tmp/new/mtlsd.yaml").ok();
    let said = machine.types(page, "mtlsd policy test /tmp/new/tests.yaml").ok();
    assert!(said.contains('2'), "{said}");
    // What reads requests is refused by its name.
    machine.writes("/tmp/new/mtlsd.yaml.d/istio.yaml", &istio.replace("ports: [\"8080\"]", "methods: [GET]"));
    let said = machine.does("mtlsd config check --config /tmp/new/mtlsd.yaml").fails();
    assert!(said.contains("methods"), "{said}");
    let page = "docs/guides/migrating-from-ambient.md";
    machine.types(page, "mtlsd workloads").ok();
    machine.types(page, "mtlsd connections").ok();
    machine.types(page, "mtlsd rollout status --since 24h");
}

/// What the guides of migration presuppose.
const MIGRATED: &str = r#"
trust_domain: cluster.local
workloads:
  - { name: orders, select: { netns: orders }, spiffe_id: "spiffe://cluster.local/ns/shop/sa/orders", labels: { app: orders } }
"#;

fn revoke(machine: &mut Machine) {
    let page = "docs/revocation.md";
    machine.does("mtlsd ca issue --spiffe-id spiffe://example.org/laptop --out /tmp/leaf && cp /tmp/leaf/tls.crt leaf.pem").ok();
    for begins in [
        "sudo mtlsd revoke --spiffe-id",
        "sudo mtlsd revoke --serial",
        "sudo mtlsd revoke --certificate",
        "sudo mtlsd revoke --key",
    ] {
        machine.types(page, begins).ok();
    }
    let said = machine.within("web", "web", ASK);
    assert!(!said.text.contains("hello"), "{}", said.text);
    let said = machine.types(page, "sudo mtlsd revoke --list").ok();
    assert!(said.contains("laptop stolen"), "{said}");
    machine.types(page, "sudo mtlsd unrevoke").ok();
    machine.waits_for("web to be let in again", "mtlsd diagnose db:5432 --as web");
    let said = machine.types(page, "sudo mtlsd drill revoke").ok();
    assert!(said.contains("Revocation works on this node."), "{said}");
    machine.does("printf -- '-----BEGIN X509 CRL-----\\na\\n-----END X509 CRL-----\\n' >one && cat one one >all.crl").ok();
    machine.types(page, "csplit").ok();
    machine.does("test -s /etc/mtlsd/site-0.crl && test -s /etc/mtlsd/site-1.crl").ok();
}

/// What is done with CAs, by the commands of three pages.
fn authorities(machine: &mut Machine) {
    let page = "docs/embedded-ca.md";
    machine.does("mv /var/lib/mtlsd/ca /var/lib/mtlsd/ca.aside").ok();
    machine.types(page, "mtlsd ca csr --trust-domain example.org --out ours.csr").ok();
    machine
        .does("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=root -addext keyUsage=critical,keyCertSign,cRLSign -keyout root.key -out root.crt 2>&1")
        .ok();
    let runbook = "docs/runbooks/intermediate-rotation.md";
    machine.types(runbook, "printf").ok();
    machine.types(runbook, "openssl x509 -req").ok();
    machine.does("cat ours.crt >chain.pem && cp root.crt root.pem").ok();
    machine.types(page, "mtlsd ca import").ok();
    machine.does("rm -r /var/lib/mtlsd/ca && mv /var/lib/mtlsd/ca.aside /var/lib/mtlsd/ca").ok();
    machine.types("docs/identity-exec.md", "install -d -m 0700 /etc/mtlsd/ca").ok();
    machine.types("docs/identity-exec.md", "openssl req -x509").ok();
    machine.does("mkdir -p target/package/bin && cp target/release/mtlsd target/package/bin/").ok();
    machine.types("vagrant/README.md", "target/package/bin/mtlsd ca init").ok();
}

fn uninstall(machine: &mut Machine) {
    machine.types("README.md", "sudo sh -c 'kill").ok();
    machine.waits_for("the daemon to be gone", "! mtlsd status");
    let page = "docs/guides/troubleshooting.md";
    machine.types(page, "mtlsd status").fails();
    machine.has_said_what_is_shown(page);
    let said = machine.types("README.md", "sudo mtlsd uninstall").ok();
    assert!(said.contains("removed "), "{said}");
    machine.on("out", "curl -sS --max-time 5 --http0.9 http://10.0.0.3:5432/ | grep hello").ok();
}
