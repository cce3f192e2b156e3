//! Which connections the kernel's TLS may carry: what the configuration says, what the kernel can do, and a module
//! that comes late.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mtls_tests::hold::ktls_is_listed as listed;
use mtls_tests::{Daemon, Pair, Record, STRICT_PAIR, could_not_run, eventually, lab, slow};
use serde_json::Value;

/// One test takes the module away: no other may use it meanwhile.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `mtlsd status` says of `relay-ktls`.
#[track_caller]
fn ktls(daemon: &Daemon) -> Value {
    let status = daemon.ask(&["status"]);
    let abilities = status["abilities"].as_array().expect("a list");
    let ability = abilities.iter().find(|ability| ability["name"] == "relay-ktls");
    let ability = ability.unwrap_or_else(|| panic!("no relay-ktls in {status}"));
    assert_eq!(ability["available"], ability["ktls"]["available"], "{ability}");
    ability["ktls"].clone()
}

/// The access log's line of a workload's side of the last good request.
#[track_caller]
fn last_of(pair: &Pair, workload: &str) -> Record {
    let known = pair.daemon.access_log().len();
    pair.works();
    let new = || pair.daemon.access_log().into_iter().skip(known).filter(|r| r.workload() == workload);
    eventually(slow::limit(15), &format!("a line of {workload} in the access log"), || new().next())
}

#[test]
fn status_agrees_with_the_kernel() {
    let _turn = turn();
    let pair = Pair::strict();
    let told = ktls(&pair.daemon);
    assert_eq!(told["available"], listed(), "the daemon has had the module loaded, if there is one: {told}");
    if listed() {
        assert_eq!(told["suites"].as_array().map(Vec::len), Some(3), "{told}");
        assert!(
            told["rekey"].is_boolean() && told["defects"].is_array() && told["why_not"].is_null(),
            "{told}"
        );
    } else {
        let why = told["why_not"].as_str().unwrap_or_default();
        assert!(why.contains("ENOENT") && why.contains("modprobe tls"), "{told}");
    }
}

#[test]
fn relay_userspace_is_obeyed_when_it_is_configured() {
    let _turn = turn();
    let pair = Pair::with("datapath: relay-userspace\n");
    for workload in ["web", "db"] {
        let record = last_of(&pair, workload);
        assert_eq!(record.datapath(), "relay-userspace", "{record:?}");
        assert_eq!(record.why_not_better(), "datapath: relay-userspace is configured", "{record:?}");
    }
}

#[test]
fn a_workload_has_its_own_datapath() {
    let _turn = turn();
    let own = "{ name: web, datapath: relay-userspace,";
    let yaml = STRICT_PAIR.replace("{ name: web,", own);
    assert!(yaml.contains(own));
    let pair = Pair::configured(Pair::lab(), &format!("{yaml}datapath: relay-ktls\n"));
    let web = last_of(&pair, "web");
    assert_eq!(web.datapath(), "relay-userspace", "{web:?}");
    assert_eq!(web.why_not_better(), "datapath: relay-userspace is configured", "{web:?}");
    // What cannot be had is said, and breaks nothing.
    let db = last_of(&pair, "db");
    assert!(!db.why_not_better().contains("is configured"), "{db:?}");
    if !listed() {
        assert_eq!(db.datapath(), "relay-userspace", "{db:?}");
        assert!(db.why_not_better().starts_with("no relay-ktls: this kernel has no kTLS"), "{db:?}");
        assert!(pair.daemon.printed().contains("relay-ktls is configured and cannot be had"));
    }
}

#[test]
fn the_configured_cipher_suites_are_spoken() {
    let _turn = turn();
    let pair = Pair::with("tls: { cipher_suites: [TLS_CHACHA20_POLY1305_SHA256] }\n");
    assert_eq!(last_of(&pair, "db").suite(), "TLS13_CHACHA20_POLY1305_SHA256");
    let other = "tls: { cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256] }\n";
    pair.daemon.configure(&pair.lab.expand(&format!("{STRICT_PAIR}{other}")));
    assert_eq!(pair.daemon.cli(&["reload"]).0, Some(0));
    assert_eq!(last_of(&pair, "db").suite(), "TLS13_AES_128_GCM_SHA256");
}

#[test]
fn a_module_that_is_loaded_later_is_used_by_new_connections() {
    let test = a_module_that_is_loaded_later_is_used_by_new_connections;
    if std::env::var_os("MTLSD_VM").is_none() {
        return could_not_run(test, "it takes the module `tls` from the kernel: only in `cargo xtask vm`");
    }
    let _turn = turn();
    let without = match WithoutModule::take() {
        Ok(without) => without,
        Err(why) => return could_not_run(test, &why),
    };
    let pair = Pair::strict();
    let told = ktls(&pair.daemon);
    assert_eq!(told["available"], false, "{told}");
    assert!(told["why_not"].as_str().is_some_and(|why| why.contains("modprobe tls")), "{told}");
    let record = last_of(&pair, "db");
    assert_eq!(record.datapath(), "relay-userspace", "{record:?}");
    assert!(record.why_not_better().starts_with("no relay-ktls: this kernel has no kTLS"), "{record:?}");

    drop(without);
    assert!(listed(), "the module is back");
    let what = "mtlsd status to say that relay-ktls is available";
    let told = eventually(slow::limit(60), what, || {
        let told = ktls(&pair.daemon);
        (told["available"] == true).then_some(told)
    });
    assert!(told["why_not"].is_null() && told["suites"].as_array().is_some_and(|s| !s.is_empty()), "{told}");
    let record = last_of(&pair, "db");
    assert!(!record.why_not_better().contains("no relay-ktls"), "{record:?}");
    let printed = pair.daemon.printed();
    assert_eq!(printed.matches("relay-ktls can be used from now on").count(), 1, "{printed}");
}

/// The kernel without its module `tls`, which it cannot load either, until this is dropped.
struct WithoutModule;

impl WithoutModule {
    const RULE: &str = "/etc/modprobe.d/mtlsd-test.conf";

    fn take() -> Result<Self, String> {
        if !listed() {
            run("modprobe", &["tls"])?;
        }
        if !Path::new("/sys/module/tls/initstate").exists() {
            return Err("kTLS is built into this kernel".to_owned());
        }
        fs::create_dir_all("/etc/modprobe.d")
            .and_then(|()| fs::write(Self::RULE, "install tls /bin/false\n"))
            .map_err(|error| format!("{}: {error}", Self::RULE))?;
        let without = Self;
        // Sockets of other tests may still be on their way out.
        let mut last = String::new();
        lab::within(slow::limit(20), || run("rmmod", &["tls"]).map_err(|why| last = why).ok())
            .map(|()| without)
            .ok_or(last)
    }
}

impl Drop for WithoutModule {
    fn drop(&mut self) {
        let _ = fs::remove_file(Self::RULE);
        let loaded = run("modprobe", &["tls"]);
        if !std::thread::panicking() {
            loaded.expect("the module can be loaded again");
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {}", said.trim())) }
}
