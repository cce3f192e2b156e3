//! Invented runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::result::{
    Axis, Clock, CrossCheck, Curve, Environment, FORMAT, Latency, Memory, Point, Round, Row, Run, System,
    Work, Workload,
};

/// Every system, with how slow it is.
pub const SYSTEMS: [(&str, f64); 8] = [
    ("plain", 1.0),
    ("relay-userspace", 2.4),
    ("relay-ktls", 2.1),
    ("auto", 2.2),
    ("envoy", 7.5),
    ("stunnel", 3.5),
    ("haproxy", 3.2),
    ("ztunnel", 4.8),
];

/// A run in which nothing was measured.
pub fn empty() -> Run {
    Run {
        format: FORMAT,
        environment: Environment {
            date: "2026-11-22T10:00:00Z".to_owned(),
            command: "cargo xtask bench --rounds 3 | tee log".to_owned(),
            commit: "fdd04a3-dirty".to_owned(),
            kernel: "Linux 6.12.9".to_owned(),
            processor: "Some Processor @ 2.50GHz".to_owned(),
            cpus: 2,
            memory_mib: 24_000,
            clock: Clock::Wall,
            rounds: 3,
            seconds: 10.0,
            versions: [("envoy".to_owned(), "1.40.0".to_owned())].into(),
            notes: vec!["The machine is shared.".to_owned()],
        },
        systems: vec![],
        rows: vec![],
        work: vec![],
        curves: vec![],
        cross_checks: vec![],
    }
}

/// A run with every kind of workload.
pub fn full() -> Run {
    let mut run = empty();
    run.systems = SYSTEMS.map(|(name, _)| system(name)).into();
    for (name, slowness) in SYSTEMS {
        run.rows.extend(workloads().into_iter().map(|workload| row(name, workload, slowness)));
        run.curves.extend(
            [Axis::Workloads, Axis::Rules, Axis::Connections].map(|axis| curve(name, axis, slowness)),
        );
    }
    run.work = vec![Work {
        system: "direct".to_owned(),
        requests: 2_000,
        syscalls: Some(0),
        switches: 0,
        resting_syscalls: None,
        resting_switches: 3,
    }];
    run.cross_checks = vec![CrossCheck {
        system: "plain".to_owned(),
        what: "requests, 1 conn".to_owned(),
        tool: "wrk".to_owned(),
        unit: "requests/s".to_owned(),
        ours: 20_100.0,
        theirs: 20_000.0,
    }];
    run
}

/// One of every kind, and of requests some more.
pub fn workloads() -> Vec<Workload> {
    let mut all = vec![
        Workload::Paced { connections: 16, body: 1024 },
        Workload::Throughput { streams: 1 },
        Workload::Throughput { streams: 8 },
        Workload::Download { bytes: 8 << 20 },
        Workload::NewConnections { parallel: 4 },
        Workload::Wrk { connections: 8 },
        Workload::Idle { connections: 1000 },
    ];
    for connections in [1, 64] {
        all.extend([0, 65_536].map(|body| Workload::Requests { connections, body }));
    }
    all
}

/// A system that ran.
pub fn system(name: &str) -> System {
    System {
        name: name.to_owned(),
        title: format!("{name} 1.2 sidecars"),
        setting: "TLS_AES_256_GCM_SHA384, 2 threads".to_owned(),
        commands: vec![format!("{name} --config /tmp/{name}.yaml | cat")],
        readable: Some(name == "plain"),
        failure: None,
    }
}

/// A row of three rounds.
pub fn row(name: &str, workload: Workload, slowness: f64) -> Row {
    let rounds = [1.0, 1.03, 0.98].map(|noise| round(workload, slowness * noise)).into();
    Row { system: name.to_owned(), workload, rounds, failure: None }
}

/// One round.
pub fn round(workload: Workload, slowness: f64) -> Round {
    let (rate, cpu, nanoseconds) = match workload {
        Workload::Requests { .. } => (Some(20_000.0 / slowness), Some(40.0 * slowness), Some(50_000.0)),
        Workload::Paced { .. } => (Some(2000.0), Some(45.0 * slowness), Some(60_000.0)),
        Workload::Throughput { .. } => (Some(4e9 / slowness), Some(0.5 * slowness), None),
        Workload::Download { .. } => (Some(1e9 / slowness), Some(0.6 * slowness), Some(8e6)),
        Workload::NewConnections { .. } => (Some(5000.0 / slowness), Some(300.0 * slowness), Some(400_000.0)),
        Workload::Wrk { .. } => (Some(19_000.0 / slowness), None, Some(52_000.0)),
        Workload::Idle { .. } => (None, None, None),
    };
    let is_idle = matches!(workload, Workload::Idle { .. });
    let machine = 9000.0 * slowness;
    Round {
        per_second: rate,
        offered_per_second: matches!(workload, Workload::Paced { .. }).then_some(2000.0),
        latency: nanoseconds.map(|value| latency(value * slowness)),
        cpu,
        memory: is_idle.then_some(Memory { processes: machine / 2.0, machine, resting: 2e7 * slowness }),
        errors: 0,
    }
}

/// A distribution with a tail.
pub fn latency(median: f64) -> Latency {
    let tail = |nines: f64| format!("{:.0}", median * (1.0 + nines * nines * 0.3)).parse().unwrap();
    let curve =
        (0..=50).map(|step| f64::from(step) / 10.0).map(|nines| (1.0 - 10_f64.powf(-nines), tail(nines)));
    Latency {
        count: 100_000,
        p50: tail(0.3),
        p90: tail(1.0),
        p99: tail(2.0),
        p999: tail(3.0),
        max: tail(5.0),
        curve: curve.collect(),
    }
}

/// A curve of five points.
pub fn curve(name: &str, axis: Axis, slowness: f64) -> Curve {
    let point = |x: u32| Point {
        x,
        request: Some(latency(50_000.0 * slowness).p50),
        connection: Some(latency(400_000.0 * slowness + f64::from(x) * 90.0 * slowness).p50),
        memory: Some(2e7 * slowness + f64::from(x) * 9000.0),
    };
    Curve {
        system: name.to_owned(),
        axis,
        points: [1, 10, 100, 1000, 10_000].map(point).into(),
        failure: None,
    }
}

/// A directory that goes when the test is done.
pub struct Directory(PathBuf);

impl Directory {
    /// A new one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mtls-bench-report-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
