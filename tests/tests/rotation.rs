//! Certificates and roots change under load, and no connection notices. For three minutes, or as many seconds as
//! `MTLSD_TEST_ROTATION` says; the rate and the number of streams follow `MTLSD_TEST_LIGHT`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::NODE;
use mtls_tests::programs::{self, Identity, s_client};
use mtls_tests::scenario::HTTP;
use mtls_tests::volume::{self, Volume};
use mtls_tests::{Daemon, Lab, Output, Process, slow};

/// Seconds under load.
const SECONDS: u64 = 180;
/// The least in which the root can be replaced in turn.
const LEAST: u64 = 60;
/// New connections in a second.
const RATE: u64 = 200;
/// Connections that live as long as the test.
const STREAMS: u64 = 50;
/// Life of a certificate; a new one comes at half of it.
const LIFE: Duration = Duration::from_secs(10);
const PORT: u16 = 7200;

fn seconds() -> u64 {
    let given = std::env::var("MTLSD_TEST_ROTATION").ok();
    let seconds =
        given.map_or(SECONDS, |text| text.parse().expect("MTLSD_TEST_ROTATION is a number of seconds"));
    seconds.max(LEAST)
}

fn life() -> Duration {
    slow::stretched(LIFE)
}

/// `load` in `web` against `db`.
struct Load {
    paced: Process,
    streams: Process,
    connections: u64,
}

impl Load {
    fn start(lab: &Lab, seconds: u64) -> Self {
        let (rate, streams) = (slow::scaled(RATE, 5), slow::scaled(STREAMS, 5));
        let connections = rate * seconds;
        let run = |args: [String; 4]| lab.pod("web").own("load").args(args).spawn();
        let [v4, v6] = [lab.pod("db").at(PORT), lab.pod("db").at6(PORT)].map(|to| to.to_string());
        Self {
            streams: run(["stream".into(), v6, streams.to_string(), seconds.to_string()]),
            paced: run(["paced".into(), v4, connections.to_string(), rate.to_string()]),
            connections,
        }
    }

    /// Every connection and every stream did what it should.
    #[track_caller]
    fn ends_well(mut self, seconds: u64) {
        let limit = slow::limit(4 * seconds);
        let [paced, streams] = [&mut self.paced, &mut self.streams].map(|load| load.output(limit));
        let verdict = |output: &Output| {
            let json = output.json();
            (json["failed"].as_u64(), json["total"].as_u64(), json["ms"].as_u64())
        };
        println!("connections: {}\nstreams: {}", paced.text(), streams.text());
        let (paced, streams) = (verdict(&paced), verdict(&streams));
        assert_eq!((paced.0, paced.1), (Some(0), Some(self.connections)));
        assert_eq!((streams.0, streams.1), (Some(0), Some(slow::scaled(STREAMS, 5))));
        let done = self.connections * 1000 / paced.2.unwrap_or(u64::MAX).max(1);
        println!("{done} connections a second");
    }
}

/// No handshake failed, no connection was refused, no configuration was; gives how many certificates `db` was shown.
#[track_caller]
fn nothing_failed(here: &Daemon, there: &Daemon) -> usize {
    for daemon in [here, there] {
        let refused: Vec<_> = daemon.access_log().into_iter().filter(|r| r.refused()).collect();
        assert!(refused.is_empty(), "{:#?}", refused.iter().take(5).collect::<Vec<_>>());
        for (metric, labels) in [
            ("mtlsd_handshakes_total", &[("result", "failed")][..]),
            ("mtlsd_connections_refused_total", &[]),
            ("mtlsd_config_reloads_total", &[("result", "refused")]),
        ] {
            assert!(daemon.metric(metric, labels) < 0.5, "{metric}:\n{}", daemon.metrics());
        }
        assert!(!daemon.printed().contains("panicked"), "{}", daemon.printed());
    }
    let serials: BTreeSet<String> =
        there.access_log().iter().filter(|r| r.inbound()).map(|r| r.peer_serial().to_owned()).collect();
    serials.len()
}

const DB: &str = r#"
policy: [ { name: web-only, action: allow, from: { spiffe_ids: ["spiffe://example.org/web", "spiffe://example.org/guest"] } } ]
"#;
const WEB: &str = r#"
directory: [ { name: db, addresses: ["$db.v4", "$db.v6"], ports: [7200], spiffe_ids: ["spiffe://example.org/db"] } ]
"#;

fn lab() -> Lab {
    let mut lab = Lab::new(&["web", "out"]);
    lab.add_node("n2");
    lab.add_pod("n2", "db");
    lab
}

#[test]
fn certificates_and_the_root_rotate_under_load_and_no_connection_notices() {
    let (seconds, lab) = (seconds(), lab());
    let (old, new) = (Authority::new(lab.dir(), "old"), Authority::new(lab.dir(), "new"));
    let until = time::Duration::try_from(life()).expect("some seconds");
    let leaf = |name: &str| Leaf {
        from: -time::Duration::SECOND,
        until,
        ..Leaf::good(&format!("spiffe://example.org/{name}"))
    };
    let volumes = ["web", "db"].map(|name| (name, Volume::new(lab.dir(), name, &old, &leaf(name))));
    let bundles: [PathBuf; 2] = ["n1-roots.pem", "n2-roots.pem"].map(|name| lab.dir().join(name));
    let trust = |roots: &[&Authority]| {
        let all: Vec<_> = roots.iter().map(|ca| fs::read(&ca.root).expect("a root")).collect();
        for bundle in &bundles {
            volume::replace(bundle, &all.concat());
        }
    };
    trust(&[&old]);
    let daemon = |node: &str, at: usize, more: &str| {
        let (name, volume) = &volumes[at];
        let workload =
            format!("{{ name: {name}, select: {{ netns: ${name}.netns }}, {} }}", volume.identity());
        let bundle = format!("{{ trust_domain: example.org, file: {} }}", bundles[at].display());
        let daemon = format!("workloads: [ {workload} ]\ntrust: {{ bundles: [ {bundle} ] }}\n{more}");
        lab.daemon_on(node, &daemon)
    };
    let (here, there) = (daemon(NODE, 0, WEB), daemon("n2", 1, DB));
    let _server = programs::load(lab.pod("db"), PORT);
    let _nginx = programs::nginx(lab.pod("db"), HTTP);

    let (load, start) = (Load::start(&lab, seconds), Instant::now());
    let third = Duration::from_secs(seconds / 3);
    // Added, used when everybody has it, and the old one removed when nobody uses it any more.
    let (mut added, mut removed, mut rotations) = (false, false, 0);
    let mut issuer = &old;
    while start.elapsed() < Duration::from_secs(seconds) {
        let now = start.elapsed();
        if now >= third && !added {
            trust(&[&old, &new]);
            added = true;
        }
        if now >= third + third / 2 {
            issuer = &new;
        }
        if now >= 2 * third && !removed {
            trust(&[&new]);
            removed = true;
        }
        for (name, volume) in &volumes {
            volume.renew(issuer, &leaf(name));
        }
        rotations += 1;
        std::thread::sleep((life() / 2 * rotations).saturating_sub(start.elapsed()));
    }
    // For connections that are still under way, and for the end.
    for (name, volume) in &volumes {
        volume.renew(&new, &Leaf { until: time::Duration::HOUR, ..leaf(name) });
    }
    load.ends_well(seconds);
    assert!(added && removed);

    let shown = nothing_failed(&here, &there);
    println!("{rotations} rotations, {shown} certificates seen");
    assert!(
        shown as u64 * 10 >= u64::from(rotations) * 7,
        "of {rotations} certificates only {shown} were used"
    );
    // The old root is no longer believed, and the new one is.
    let ask = |ca: &Authority| {
        let guest = Identity::from(&ca.issue("guest", &Leaf::good("spiffe://example.org/guest")));
        s_client(lab.pod("out"), lab.pod("db").at(HTTP), &new.root, Some(&guest)).run().text()
    };
    assert!(ask(&new).contains("hello from db"));
    assert!(!ask(&old).contains("hello from db"));
    let record = there.wait_for_log("the client of the old root", |r| r.refused());
    assert_eq!(record.reason(), "unknown_issuer", "{record:?}");
}

#[test]
fn the_embedded_ca_renews_short_lives_under_load_and_no_connection_notices() {
    let (seconds, lab) = (seconds() / 3, lab());
    let life = life().as_secs();
    let ca = format!("identity: {{ embedded_ca: {{ lifetime: {life}s }} }}\n");
    let workload =
        |name: &str| format!("workloads: [ {{ name: {name}, select: {{ netns: ${name}.netns }} }} ]\n{ca}");
    let mut here = lab.prepare(NODE, &format!("{}{WEB}", workload("web")));
    here.ca_init();
    let mut there = lab.prepare("n2", &format!("{}{DB}", workload("db")));
    there.share_ca(&here);
    here.start();
    there.start();
    let _server = programs::load(lab.pod("db"), PORT);
    Load::start(&lab, seconds).ends_well(seconds);
    let shown = nothing_failed(&here, &there);
    println!("{shown} certificates seen in {seconds} s");
    assert!(shown as u64 >= seconds / life, "only {shown} certificates were used");
}
