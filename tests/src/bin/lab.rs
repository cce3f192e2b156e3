//! `lab`: one setting of test-lab.md, measured for plain TCP and each datapath of the relay: nginx answers 64 bytes,
//! wrk asks with keep-alive over one connection and over eight, curl downloads 8 MiB, and connections stand idle.
//!
//! Meant for `cargo xtask vm --lab`, where one instruction is one nanosecond; prints one JSON line per system.
//! `lab [SYSTEM[:SUITE]…]`: plain, relay-userspace, relay-ktls; a suite such as `TLS_AES_128_GCM_SHA256`.

use std::fs;

use mtls_tests::programs;
use mtls_tests::{Daemon, Pair, Pod, Process, STRICT_PAIR, slow};
use serde_json::{Value, json};

const PORT: u16 = 8080;
const SECONDS: &str = "2s";
const IDLE: u64 = 200;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let usual = ["plain", "relay-userspace", "relay-ktls"].map(str::to_owned);
    for system in if asked.is_empty() { &usual[..] } else { &asked } {
        let (datapath, suite) = system.split_once(':').unwrap_or((system, ""));
        println!("{}", measure(datapath, suite));
    }
}

fn measure(system: &str, suite: &str) -> Value {
    let world = Pair::lab();
    let (web, db) = (world.pod("web"), world.pod("db"));
    let _nginx = server(db);
    let suites = if suite.is_empty() { "auto".to_owned() } else { format!("[{suite}]") };
    let more = format!("datapath: {system}\naccess_log: off\ntls: {{ cipher_suites: {suites} }}\n");
    let daemon = (system != "plain").then(|| world.daemon(&format!("{STRICT_PAIR}{more}")));
    let url = format!("http://{}/", db.at(PORT));
    let before = cpu();
    let one = wrk(web, &url, 1);
    let eight = wrk(web, &url, 8);
    let spent = cpu() - before;
    let download =
        web.cmd("curl").args(["-sS", "-o", "/dev/null", "-w", "%{speed_download}", &format!("{url}8m")]);
    let download = download.limit(slow::limit(60)).run().ok().text();
    let idle = daemon.as_ref().map(|daemon| idle(web, db, daemon));
    let requests = one["requests"].as_f64().unwrap_or(0.0) + eight["requests"].as_f64().unwrap_or(0.0);
    let used = daemon.as_ref().map(used);
    json!({
        "system": system, "used": used, "one": one, "eight": eight,
        "download_mb_s": download.parse::<f64>().unwrap_or(0.0) / 1e6,
        "cpu_us_per_request": spent * 1e6 / requests, "idle": idle,
    })
}

/// Datapath and suite of the last connection.
fn used(daemon: &Daemon) -> Value {
    let records = daemon.ask(&["connections"]);
    json!([records.pointer("/0/datapath"), records.pointer("/0/tls/suite")])
}

fn server(pod: &Pod) -> Process {
    let files = pod.files().join("lab");
    fs::create_dir_all(&files).expect("lab directory is writable");
    programs::random_file(pod, &files.join("8m"), 8);
    let configuration = format!(
        "daemon off; user root; worker_processes 1; pid {0}/pid; error_log stderr; events {{ }} http {{ access_log off; \
         keepalive_requests 1000000; sendfile on; server {{ listen {PORT}; root {0}; location = / {{ return 200 {1}; }} }} }}",
        files.display(),
        "x".repeat(64)
    );
    let path = files.join("nginx.conf");
    fs::write(&path, configuration).expect("lab directory is writable");
    let nginx = pod.cmd("nginx").args(["-e", "stderr", "-c"]).arg(path).spawn();
    pod.wait_port(PORT);
    nginx
}

fn wrk(pod: &Pod, url: &str, connections: u32) -> Value {
    let script = pod.files().join("report.lua");
    let report = r#"done = function(s, l, r) io.write(string.format(
        '{"requests":%d,"per_s":%.0f,"p50_us":%d,"p99_us":%d,"errors":%d}', s.requests, s.requests / s.duration * 1e6,
        l:percentile(50), l:percentile(99), s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout)) end"#;
    fs::write(&script, report).expect("lab directory is writable");
    let connections = connections.to_string();
    let wrk = pod.cmd("wrk").args(["-t", "1", "-c", &connections, "-d", SECONDS, "-s"]).arg(script).arg(url);
    let text = wrk.limit(slow::limit(60)).run().ok().text();
    let line = text.lines().find_map(|line| line.find('{').and_then(|at| line.get(at..))).unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("wrk said {text}: {error}"))
}

/// Seconds that the whole machine's processors were busy.
fn cpu() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("proc is mounted");
    let ticks: Vec<f64> =
        stat.lines().next().unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect();
    // user, nice, system, then idle and iowait, irq and softirq.
    ticks.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, n)| n).sum::<f64>() / 100.0
}

/// Memory of the machine that each of many idle connections binds, and of the daemon alone.
fn idle(web: &Pod, db: &Pod, daemon: &Daemon) -> Value {
    let _load = programs::load(db, 7200);
    let own =
        || status(u32::try_from(daemon.ask(&["status"])["pid"].as_u64().unwrap_or(0)).unwrap_or(0), "VmRSS:");
    let (free, resident) = (available(), own());
    let mut hold = web.own("load").args(["idle", &db.at(7200).to_string(), &IDLE.to_string()]).spawn();
    hold.wait_for("open");
    let per = |before: f64, after: f64| (after - before) * 1024.0 / IDLE as f64;
    json!({ "machine_bytes": per(available(), free), "daemon_bytes": per(resident, own()) })
}

fn available() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib(&text, "MemAvailable:")
}

fn status(pid: u32, field: &str) -> f64 {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), field)
}

fn kib(text: &str, field: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}
