//! Failure drills of the life of identities: each breaks one thing, looks at what docs/runbooks says will be seen, and mends it
//! without a restart.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::NODE;
use mtls_tests::programs::{self, Identity, s_client};
use mtls_tests::volume::{self, Volume};
use mtls_tests::{Daemon, Lab, Pair, Record, STRICT_PAIR, eventually, slow};

const WEB: &str = "spiffe://example.org/web";
const GUEST: &str = "spiffe://example.org/guest";

/// `web` of the strict pair with more keys, and a CA that both believe.
fn pair_with(lab: Lab, site: &Authority, web: &str, more: &str) -> Pair {
    let yaml = STRICT_PAIR.replacen("{ name: web,", &format!("{{ name: web, {web},"), 1);
    let bundle = format!("{{ trust_domain: example.org, file: {} }}", site.root.display());
    Pair::configured(lab, &format!("{yaml}trust: {{ bundles: [ {bundle} ] }}\n{more}"))
}

/// A certificate of `web` that ends in so many seconds.
fn ends_in(seconds: u64) -> Leaf {
    let until = time::Duration::try_from(slow::limit(seconds)).expect("some seconds");
    Leaf { from: -time::Duration::SECOND, until, ..Leaf::good(WEB) }
}

/// Waits until the alarm of `web` is at that level, or beyond.
#[track_caller]
fn reaches(daemon: &Daemon, level: f64) {
    daemon_alarm(daemon, &format!("at least {level}"), |alarm| alarm > level - 0.1);
}

/// Waits until there is no alarm of `web`.
#[track_caller]
fn is_over(daemon: &Daemon) {
    daemon_alarm(daemon, "0", |alarm| alarm < 0.1);
}

#[track_caller]
fn daemon_alarm(daemon: &Daemon, what: &str, wanted: impl Fn(f64) -> bool) {
    let what = format!("the alarm of web to be {what}");
    let alarm = || daemon.metric("mtlsd_identity_alarm", &[("workload", "web")]);
    eventually(slow::limit(60), &what, || wanted(alarm()).then_some(()));
}

/// What `mtlsd status` says about an alarm.
fn told(daemon: &Daemon, about: &str) -> Option<(String, String)> {
    let alarms = daemon.ask(&["status"])["alarms"].as_array().cloned().unwrap_or_default();
    let alarm = alarms.into_iter().find(|alarm| alarm["about"] == about)?;
    let text = |key: &str| alarm[key].as_str().map(str::to_owned);
    text("level").zip(text("detail"))
}

/// The next refusal of `web`, by asking for one.
#[track_caller]
fn refused(pair: &Pair) -> Record {
    let before = pair.daemon.access_log().len();
    pair.curl(pair.http()[0]).fails();
    eventually(slow::limit(20), "the refusal's record", || {
        // `db` may have a record of its own, of a handshake that was not gone on with.
        pair.daemon.access_log().into_iter().skip(before).find(|r| r.refused() && r.workload() == "web")
    })
}

#[track_caller]
fn works_again(pair: &Pair) {
    eventually(slow::limit(90), "connections to work again", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();
}

#[test]
fn an_expired_certificate_closes_its_workload_with_that_reason_until_there_is_a_new_one() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let volume = Volume::new(lab.dir(), "web", &site, &ends_in(25));
    let pair = pair_with(lab, &site, &volume.identity(), "");
    pair.works();
    reaches(&pair.daemon, 3.0);

    let record = refused(&pair);
    assert_eq!((record.workload(), record.reason()), ("web", "no_identity"), "{record:?}");
    assert!(record.detail().contains("expired") && record.detail().contains("was not renewed"), "{record:?}");
    let explained = pair.daemon.ask(&["explain", record.id()]).to_string();
    assert!(explained.contains("was not renewed"), "{explained}");
    let (level, detail) = told(&pair.daemon, "workload web").expect("mtlsd status tells of it");
    assert!(level == "expired" && detail.contains("the certificate expired"), "{level}: {detail}");
    assert!(pair.daemon.ready(), "the daemon still serves its other workloads");
    // A workload with a good certificate goes on as before.
    let guest = Identity::from(&site.issue("guest", &Leaf::good(GUEST)));
    let answer = s_client(pair.out(), pair.http()[0], &pair.root(), Some(&guest)).run().text();
    assert!(answer.contains("hello from db"), "{answer}");

    volume.renew(&site, &Leaf::good(WEB));
    works_again(&pair);
    is_over(&pair.daemon);
    assert!(told(&pair.daemon, "workload web").is_none());
    for text in ["the certificate expired", "its connections are refused", "the alarm is over"] {
        assert!(pair.daemon.printed().contains(text), "{text}:\n{}", pair.daemon.printed());
    }
}

/// An issuer as small sites have it: OpenSSL behind a line of shell. It signs for `life`, unless there is a file `down`.
fn openssl_issuer(dir: &Path, site: &Authority, life: Duration) -> String {
    let config = dir.join("openssl.cnf");
    let text = format!(
        "[ca]\ndefault_ca = site\n[site]\ndatabase = {0}/index.txt\nnew_certs_dir = {0}\nrand_serial = yes\n\
         default_md = sha256\npolicy = any\nunique_subject = no\ncopy_extensions = copy\n\
         [any]\norganizationName = optional\ncommonName = optional\n",
        dir.display()
    );
    fs::write(dir.join("index.txt"), "")
        .and_then(|()| fs::write(&config, text))
        .expect("lab directory is writable");
    let script = dir.join("sign");
    let text = format!(
        "#!/bin/sh\nset -e\nif [ -e {dir}/down ]; then echo 'the signing service is away' >&2; exit 1; fi\n\
         cat > {dir}/csr.pem\n\
         openssl ca -batch -notext -config {config} -cert {root} -keyfile {key} -in {dir}/csr.pem -out {dir}/chain.pem \
         -startdate $(date -u +%y%m%d%H%M%SZ) -enddate $(date -u -d '+{life} seconds' +%y%m%d%H%M%SZ) >&2\n\
         cat {dir}/chain.pem\n",
        dir = dir.display(),
        config = config.display(),
        root = site.root.display(),
        key = site.key_file.display(),
        life = life.as_secs(),
    );
    fs::write(&script, text).expect("lab directory is writable");
    format!("exec: {{ command: [/bin/sh, {}] }}", script.display())
}

#[test]
fn an_issuer_that_is_down_is_alarmed_before_the_end_and_then_the_workload_is_closed() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let life = slow::limit(40);
    let dir = lab.dir().join("issuer");
    fs::create_dir(&dir).expect("lab directory is writable");
    let issuer = format!("{{ name: site, {} }}", openssl_issuer(&dir, &site, life));
    // Renewal at 20 s ± 2 s; the first alarm 18 s, the second 6 s before the end.
    let more = format!("identity: {{ issuers: [ {issuer} ], alarms: {{ warning: 45%, critical: 15% }} }}\n");
    let pair = pair_with(lab, &site, "identity: { issuer: site }", &more);
    pair.works();
    let first = pair.daemon.ask(&["workloads"]).to_string();
    fs::write(dir.join("down"), "").expect("lab directory is writable");

    // Longer than half of the life: attempts fail, and the certificate in force goes on serving.
    let failures = || pair.daemon.metric("mtlsd_identity_failures", &[("workload", "web")]);
    eventually(slow::limit(60), "an attempt to fail", || (failures() > 0.5).then_some(()));
    pair.works();
    reaches(&pair.daemon, 1.0);
    pair.works();
    let (level, detail) = told(&pair.daemon, "workload web").expect("mtlsd status tells of it");
    assert_ne!(level, "expired");
    for part in ["the certificate expires in", "attempts to renew it failed", "the signing service is away"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    reaches(&pair.daemon, 2.0);
    reaches(&pair.daemon, 3.0);
    let record = refused(&pair);
    assert_eq!((record.workload(), record.reason()), ("web", "no_identity"), "{record:?}");
    assert!(pair.daemon.ready());

    // It comes back, and nobody has to do anything.
    fs::remove_file(dir.join("down")).expect("it is there");
    works_again(&pair);
    is_over(&pair.daemon);
    assert_ne!(pair.daemon.ask(&["workloads"]).to_string(), first);
    let printed = pair.daemon.printed();
    let levels: Vec<_> = ["level=warning", "level=critical", "level=expired", "the alarm is over"]
        .map(|text| printed.find(text).unwrap_or_else(|| panic!("{text} is not in\n{printed}")))
        .into();
    assert!(levels.is_sorted(), "each level in its turn:\n{printed}");
}

/// What `db` makes of a client whose certificate is valid `from` … `until`, in seconds from now.
fn client_with(pair: &Pair, site: &Authority, from: i64, until: i64) -> Result<(), Record> {
    let seconds = time::Duration::seconds;
    let leaf = Leaf { from: seconds(from), until: seconds(until), ..Leaf::good(GUEST) };
    let identity = Identity::from(&site.issue("guest", &leaf));
    let before = pair.daemon.access_log().len();
    let answer = s_client(pair.out(), pair.http()[0], &pair.root(), Some(&identity)).run().text();
    if answer.contains("hello from db") {
        return Ok(());
    }
    Err(eventually(slow::limit(20), "the refusal's record", || {
        pair.daemon.access_log().into_iter().skip(before).find(Record::refused)
    }))
}

#[test]
fn clocks_that_differ_are_allowed_for_up_to_the_tolerance_and_then_named() {
    let (pair, site) = Pair::with_authority("");
    // The issuer's clock is ahead of this node's, or this node's is behind.
    assert!(client_with(&pair, &site, 37, 3600).is_ok(), "within trust.clock_skew");
    let record = client_with(&pair, &site, 300, 3600).expect_err("beyond it");
    assert_eq!(record.reason(), "certificate_not_yet_valid", "{record:?}");
    for part in ["not yet valid by ", " min (from ", "check the clocks of both nodes", "trust.clock_skew"] {
        assert!(record.detail().contains(part), "{part}: {record:?}");
    }
    // The issuer's clock is behind, or this node's is ahead: an end is an end.
    let record = client_with(&pair, &site, -3600, -37).expect_err("it has expired");
    assert_eq!(record.reason(), "certificate_expired", "{record:?}");
    assert!(record.detail().contains("expired") && record.detail().contains(" s ago"), "{record:?}");
    assert!(record.mend().contains("clocks"), "{record:?}");
    pair.works();
}

#[test]
fn without_a_tolerance_a_certificate_that_is_too_early_is_refused() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let bundle = format!("{{ trust_domain: example.org, file: {} }}", site.root.display());
    let trust = format!("trust: {{ clock_skew: 0s, bundles: [ {bundle} ] }}\n");
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}{trust}"));
    let record = client_with(&pair, &site, 37, 3600).expect_err("it is too early");
    assert!(record.detail().contains("not yet valid by"), "{record:?}");
    assert!(client_with(&pair, &site, -1, 3600).is_ok());
}

#[test]
fn an_own_certificate_that_is_too_early_is_used_when_its_time_has_come() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let from = time::Duration::try_from(slow::stretched(Duration::from_secs(60)) + Duration::from_secs(30))
        .expect("some seconds");
    let volume = Volume::new(lab.dir(), "web", &site, &Leaf { from, ..Leaf::good(WEB) });
    let yaml = STRICT_PAIR.replacen("{ name: web,", &format!("{{ name: web, {},", volume.identity()), 1);
    let bundle = format!("{{ trust_domain: example.org, file: {} }}", site.root.display());
    let mut daemon = lab.prepare(NODE, &format!("{yaml}trust: {{ bundles: [ {bundle} ] }}\n"));
    daemon.launch();
    let why = eventually(slow::limit(15), "the reason", || {
        let (_, text) = daemon.cli(&["workloads"]);
        text.contains("not yet valid by").then_some(text)
    });
    assert!(why.contains("check this node's clock"), "{why}");
    assert!(!daemon.ready(), "it never had an identity");
    let nginx = programs::nginx(lab.pod("db"), 80);
    let pair = Pair { daemon, nginx, lab };
    works_again(&pair);
    eventually(slow::limit(20), "the daemon to be ready", || pair.daemon.ready().then_some(()));
}

#[test]
fn a_wrong_trust_anchor_refuses_new_connections_by_name_and_its_mend_needs_no_restart() {
    let (pair, site) = Pair::with_authority("");
    let right = fs::read(&site.root).expect("a root");
    let guest = Identity::from(&site.issue("guest", &Leaf::good(GUEST)));
    let ask = || s_client(pair.out(), pair.http()[0], &pair.root(), Some(&guest)).run().text();
    assert!(ask().contains("hello from db"));

    // The root of another CA of the same name, as after a reinstallation.
    let other = Authority::new(&pair.lab.dir().join("elsewhere"), "site");
    volume::replace(&site.root, &fs::read(&other.root).expect("a root"));
    // One that was open when the root came into force is cut, and not refused.
    let refused = |r: &Record| r.refused() && r.peer() == GUEST;
    let record = eventually(slow::limit(20), "a refusal by the wrong root", || {
        ask();
        pair.daemon.access_log().into_iter().find(refused)
    });
    assert_eq!(record.reason(), "bad_signature", "{record:?}");
    // One of another name.
    let other = Authority::new(pair.lab.dir(), "unrelated");
    volume::replace(&site.root, &fs::read(&other.root).expect("a root"));
    let named = |r: &Record| r.reason() == "unknown_issuer" && r.detail().contains("lab CA unrelated");
    let record = eventually(slow::limit(20), "the refusal with the roots that are believed", || {
        ask();
        pair.daemon.access_log().into_iter().find(named)
    });
    assert!(record.detail().contains("lab CA site"), "it names the issuer: {record:?}");

    // What is no bundle is refused, and the last good one stays in force.
    let refusals = || pair.daemon.metric("mtlsd_config_reloads_total", &[("result", "refused")]);
    let before = refusals();
    volume::replace(&site.root, b"-----BEGIN CERTIFICATE-----\nMIIB");
    eventually(slow::limit(20), "the broken bundle to be refused", || (refusals() > before).then_some(()));
    assert!(!ask().contains("hello from db"));
    volume::replace(&site.root, &right);
    eventually(slow::limit(20), "the right root to be in force", || {
        ask().contains("hello from db").then_some(())
    });
    pair.works();
}

#[test]
fn a_bundle_that_is_a_link_to_elsewhere_is_followed() {
    let lab = Pair::lab();
    let (site, next) = (Authority::new(lab.dir(), "site"), Authority::new(lab.dir(), "next"));
    let (link, elsewhere) = (lab.dir().join("trust"), lab.dir().join("elsewhere"));
    for dir in [&link, &elsewhere] {
        fs::create_dir(dir).expect("lab directory is writable");
    }
    fs::copy(&site.root, elsewhere.join("roots.pem")).expect("lab directory is writable");
    std::os::unix::fs::symlink(elsewhere.join("roots.pem"), link.join("roots.pem"))
        .expect("lab directory is writable");
    let bundle = format!("{{ trust_domain: example.org, file: {}/roots.pem }}", link.display());
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}trust: {{ bundles: [ {bundle} ] }}\n"));
    let guest = Identity::from(&next.issue("guest", &Leaf::good(GUEST)));
    let ask = || s_client(pair.out(), pair.http()[0], &pair.root(), Some(&guest)).run().text();
    assert!(!ask().contains("hello from db"));
    fs::copy(&next.root, elsewhere.join("roots.pem")).expect("lab directory is writable");
    eventually(slow::limit(20), "the root behind the link to be believed", || {
        ask().contains("hello from db").then_some(())
    });
}

#[test]
fn dev_and_prod_speak_only_when_both_list_the_other() {
    let mut lab = Lab::new(&["web"]);
    lab.add_node("n2");
    lab.add_pod("n2", "db");
    let (dev, prod) = (Authority::new(lab.dir(), "dev"), Authority::new(lab.dir(), "prod"));
    let volume = |name: &str, ca, domain| {
        Volume::new(lab.dir(), name, ca, &Leaf::good(&format!("spiffe://{domain}/{name}")))
    };
    let (web, db) = (volume("web", &dev, "dev.example"), volume("db", &prod, "prod.example"));
    let bundle =
        |domain: &str, ca: &Authority| format!("{{ trust_domain: {domain}, file: {} }}", ca.root.display());
    let (dev_roots, prod_roots) = (bundle("dev.example", &dev), bundle("prod.example", &prod));
    let here = |bundles: &str| {
        lab.expand(&format!(
            "trust_domain: dev.example\ntrust: {{ bundles: [ {bundles} ] }}\n\
             workloads: [ {{ name: web, select: {{ netns: $web.netns }}, {} }} ]\n\
             directory: [ {{ name: db, addresses: [\"$db.v4\"], ports: [80], spiffe_ids: [\"spiffe://prod.example/db\"] }} ]\n",
            web.identity()
        ))
    };
    let there = |bundles: &str| {
        lab.expand(&format!(
            "trust_domain: prod.example\ntrust: {{ bundles: [ {bundles} ] }}\n\
             workloads: [ {{ name: db, select: {{ netns: $db.netns }}, {} }} ]\n\
             policy: [ {{ name: dev-too, action: allow, from: {{ trust_domains: [dev.example, prod.example] }} }} ]\n",
            db.identity()
        ))
    };
    let both = format!("{dev_roots}, {prod_roots}");
    let dev_node = lab.daemon_on(NODE, &here(&dev_roots));
    let prod_node = lab.daemon_on("n2", &there(&prod_roots));
    let _nginx = programs::nginx(lab.pod("db"), 80);
    let url = format!("http://{}/", lab.pod("db").at(80));
    let ask = || lab.pod("web").run(&["curl", "-sS", "--max-time", "20", &url]).text();
    let reload = |daemon: &Daemon, yaml: &str| {
        let applied = daemon.metric("mtlsd_config_reloads_total", &[("result", "applied")]);
        daemon.configure(yaml);
        daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "applied")], applied + 1.0);
    };
    let refused_at = |daemon: &Daemon, who: &str| {
        daemon.wait_for_log("the refusal", |r| r.reason() == "trust_domain" && r.peer().contains(who))
    };

    assert!(!ask().contains("hello"), "neither says so");
    refused_at(&dev_node, "prod.example");
    // Prod says so and dev does not: dev refuses.
    reload(&prod_node, &there(&both));
    assert!(!ask().contains("hello"), "only prod says so");
    // Dev says so and prod does not: prod refuses, with a policy that would allow it.
    reload(&prod_node, &there(&prod_roots));
    reload(&dev_node, &here(&both));
    assert!(!ask().contains("hello"), "only dev says so");
    refused_at(&prod_node, "dev.example");
    reload(&prod_node, &there(&both));
    assert_eq!(ask(), "hello from db");
}
