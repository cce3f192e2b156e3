//! Direct connections and the daemons' lives: what flows goes on without them, the next daemon finds it, and its lease
//! reaches it; with `direct: require` nothing else will do.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_life`).

use std::path::PathBuf;

use mtls_tests::direct::{HTTP, World, direct_records, records, require_direct};
use mtls_tests::hold::{App, why_not_direct};
use mtls_tests::lab::{Daemon, Process};
use mtls_tests::{could_not_run, eventually, programs, slow};
use nix::sys::signal::Signal;

/// More than what socket buffers hold.
const MEGABYTES: u64 = 24;
const WEB: &str = "spiffe://example.org/web";

/// A download that takes its time.
struct Download {
    curl: Process,
    source: PathBuf,
    got: PathBuf,
}

impl Download {
    /// It rests until [`Self::go_on`]: how long a daemon takes to start must not matter.
    fn begin(world: &World) -> Self {
        let (megabytes, rate) = (MEGABYTES, "2M");
        let far = world.far();
        let source = programs::nginx_files(far).join("slow");
        programs::random_file(far, &source, megabytes);
        let got = world.lab.dir().join("slow.got");
        let url = format!("http://{}/files/slow", far.at(HTTP));
        let curl = world.web().cmd("curl").args(["-sS", "--limit-rate", rate, "--max-time", "600", "-o"]);
        let curl = curl.arg(&got).arg(&url).spawn();
        let mut download = Self { curl, source, got };
        eventually(slow::limit(20), "the download to begin", || (download.length() > 0).then_some(()));
        download.curl.signal(Signal::SIGSTOP);
        assert!(download.length() < MEGABYTES << 20, "it was over already");
        download
    }

    fn go_on(&mut self) {
        self.curl.signal(Signal::SIGCONT);
    }

    fn length(&self) -> u64 {
        std::fs::metadata(&self.got).map_or(0, |file| file.len())
    }

    fn arrives_whole(mut self) {
        self.go_on();
        let status = self.curl.ends_within(slow::limit(120)).expect("it ends");
        assert!(status.success(), "{}", self.curl.printed());
        let read = |path| std::fs::read(path).expect("a file");
        assert!(read(&self.source) == read(&self.got), "{} bytes arrived", self.length());
    }

    fn expect_cut(mut self) {
        self.go_on();
        let status = self.curl.ends_within(slow::limit(30)).expect("the connection is cut");
        assert!(!status.success(), "{}", self.curl.printed());
    }
}

/// Waits until a daemon shows a live direct connection.
fn shows_direct(daemon: &Daemon) {
    eventually(slow::limit(20), "a live direct connection", || {
        let shown = daemon.ask(&["connections"]);
        let live = |c: &serde_json::Value| c["event"] == "open" && c["datapath"] == "direct";
        shown.as_array().is_some_and(|all| all.iter().any(live)).then_some(())
    });
}

fn both_start(world: &mut World) {
    world.there.start();
    world.here.start();
}

#[test]
fn a_daemon_that_starts_again_finds_armed_connections_and_its_lease_reaches_them() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_daemon_that_starts_again_finds_armed_connections_and_its_lease_reaches_them,
            why,
        );
    }
    let mut world = World::with_session();
    let download = Download::begin(&world);
    world.here.kill9();
    world.there.kill9();
    both_start(&mut world);
    shows_direct(&world.here);
    shows_direct(&world.there);
    world.there.ask(&["revoke", "--spiffe-id", WEB, "--reason", "stolen"]);
    download.expect_cut();
    let cut = direct_records(&world.there, "far", 1);
    let record = cut.last().expect("a record");
    assert_eq!((record.refused(), record.reason()), (false, "revoked"), "{record:?}");
    assert_eq!((record.peer(), record.peer_proven()), (WEB, true), "{record:?}");
    assert!(record.sent() > 0, "{record:?}");
}

#[test]
fn a_connection_that_outlives_a_stopped_daemon_is_recorded_once_by_the_next() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_connection_that_outlives_a_stopped_daemon_is_recorded_once_by_the_next, why);
    }
    let mut world = World::with_session();
    let download = Download::begin(&world);
    world.here.stop();
    world.there.stop();
    both_start(&mut world);
    shows_direct(&world.here);
    download.arrives_whole();
    for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
        let records = direct_records(daemon, workload, 1);
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(records[0].reason(), "", "{records:?}");
        assert!(records[0].bytes() > MEGABYTES << 20, "{records:?}");
    }
    // The next ones are direct as before.
    let to = world.far().at(HTTP);
    world.get(to).ok();
    eventually(slow::limit(60), "a direct connection of the new daemons", || {
        world.get(to).ok();
        (direct_records(&world.here, "web", 1).len() > 1).then_some(())
    });
}

#[test]
fn what_is_revoked_loses_its_direct_connections_and_their_session() {
    if let Some(why) = why_not_direct() {
        return could_not_run(what_is_revoked_loses_its_direct_connections_and_their_session, why);
    }
    let world = World::with_session();
    let download = Download::begin(&world);
    shows_direct(&world.there);
    world.there.ask(&["revoke", "--spiffe-id", WEB, "--reason", "stolen"]);
    download.expect_cut();
    let record = direct_records(&world.there, "far", 1).pop().expect("a record");
    assert_eq!((record.refused(), record.reason()), (false, "revoked"), "{record:?}");
    // Nor does the next one come in, by whatever datapath.
    assert_ne!(world.get(world.far().at(HTTP)).code, Some(0));
    let refused = |record: &mtls_tests::Record| record.refused() && record.reason() == "revoked";
    eventually(slow::limit(20), "the refusal", || {
        records(&world.there, "far").iter().any(refused).then_some(())
    });
    world.there.ask(&["unrevoke", "--spiffe-id", WEB]);
    world.get(world.far().at(HTTP)).ok();
}

#[test]
fn where_direct_is_required_the_first_connection_is_direct_and_none_is_relayed() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            where_direct_is_required_the_first_connection_is_direct_and_none_is_relayed,
            why,
        );
    }
    let mut world = World::new();
    require_direct(&world.here);
    world.here.restart();
    let to = world.far().at(HTTP);
    for _ in 0..3 {
        assert_eq!(world.get(to).ok().text(), "hello from far", "{}", world.printed());
    }
    let all = eventually(slow::limit(20), "three records", || {
        let all = records(&world.here, "web");
        (all.len() >= 3).then_some(all)
    });
    assert!(all.iter().all(|record| record.datapath() == "direct" && record.reason() == ""), "{all:?}");
    // What cannot be direct is refused, and the record says what was in the way.
    let app = App::new(world.web());
    app.does("main", &format!("uring-get {to}"), "ECONNREFUSED");
    let record = eventually(slow::limit(20), "the refusal of io_uring", || {
        records(&world.here, "web").into_iter().find(mtls_tests::Record::refused)
    });
    assert!(record.detail().contains("no tracing program saw its connect()"), "{record:?}");
    // Nobody to have a session with: connect() fails, and the record says why.
    world.there.kill9();
    let refused = world.get(to);
    assert_eq!(refused.code, Some(7), "curl's word for a failed connect(): {refused}");
    eventually(slow::limit(20), "the refusal", || {
        let mut all = records(&world.here, "web").into_iter();
        all.find(|record| record.refused() && record.detail().contains("the daemon at"))
    });
}

#[test]
fn a_port_that_requires_direct_refuses_everything_else() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_port_that_requires_direct_refuses_everything_else, why);
    }
    let mut world = World::new();
    require_direct(&world.there);
    world.there.restart();
    let to = world.far().at(HTTP);
    // The first one of a pair goes by relay, and has a session made.
    assert_ne!(world.get(to).code, Some(0));
    let refused = eventually(slow::limit(20), "the refusal", || {
        records(&world.there, "far").into_iter().find(mtls_tests::Record::refused)
    });
    assert_eq!(refused.reason(), "direct_failed", "{refused:?}");
    assert!(refused.detail().contains("port 80 takes only direct connections"), "{refused:?}");
    world.wait_session(to);
    assert_eq!(world.get(to).ok().text(), "hello from far", "{}", world.printed());
}

#[test]
fn a_key_that_has_protected_what_it_may_ends_its_connection_with_the_reason() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_key_that_has_protected_what_it_may_ends_its_connection_with_the_reason, why);
    }
    let mut world = World::new();
    // 1,024 full records: 16 MiB.
    let config = std::fs::read_to_string(world.there.config()).expect("a configuration");
    std::fs::write(
        world.there.config(),
        format!("{config}\ntls: {{ cipher_suites: [TLS_AES_128_GCM_SHA256], records_per_key: 1024 }}\n"),
    )
    .expect("writable");
    world.there.restart();
    world.get(world.far().at(HTTP)).ok();
    world.wait_session(world.far().at(HTTP));
    Download::begin(&world).expect_cut();
    let record = direct_records(&world.there, "far", 1).pop().expect("a record");
    assert_eq!((record.refused(), record.reason()), (false, "key_limit"), "{record:?}");
    assert!((15 << 20..17 << 20).contains(&record.sent()), "{record:?}");
}
