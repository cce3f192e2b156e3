//! What a run measured: as `mtls-bench run --json` writes it and `mtls-bench report` reads it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Changes when the meaning of a field does.
pub const FORMAT: u32 = 1;

/// One run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Where and how.
    pub environment: Environment,
    /// In the order of the report; the first is plain TCP, the floor.
    pub systems: Vec<System>,
    /// One for each system and workload that was tried.
    pub rows: Vec<Row>,
    /// What the processes in between do for a request.
    #[serde(default)]
    pub work: Vec<Work>,
    /// How cost grows.
    pub curves: Vec<Curve>,
    /// The same figure by other people's tools.
    pub cross_checks: Vec<CrossCheck>,
}

/// Where and how it was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// RFC 3339.
    pub date: String,
    /// As it was typed.
    pub command: String,
    /// Of mtlsd; `-dirty` behind it when files were changed.
    pub commit: String,
    /// `uname -sr`.
    pub kernel: String,
    /// Its name in /proc/cpuinfo.
    pub processor: String,
    /// How many.
    pub cpus: usize,
    /// Of the machine.
    pub memory_mib: u64,
    /// What a second is.
    pub clock: Clock,
    /// Times that each row was measured, the systems by turns.
    pub rounds: u32,
    /// Of one measurement.
    pub seconds: f64,
    /// Program to its version, as it says itself.
    pub versions: BTreeMap<String, String>,
    /// What a reader has to know besides.
    pub notes: Vec<String>,
}

/// What a second is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The machine's.
    Wall,
    /// A virtual machine's: one nanosecond is one instruction of its one processor.
    Instructions,
}

/// One way for bytes between the two nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// As `--systems` has it: `plain`, `relay-userspace`, `relay-ktls`, `auto`, `direct`, `envoy`, `stunnel`, `haproxy`, `ztunnel`.
    pub name: String,
    /// For people: "Envoy 1.40 sidecars".
    pub title: String,
    /// Its configuration in a sentence: suite, threads, redirection.
    pub setting: String,
    /// The exact commands that started it.
    pub commands: Vec<String>,
    /// Whether the answer to a captured request was readable on the wire between the nodes; none if it did not run.
    pub readable: Option<bool>,
    /// Why it did not run.
    pub failure: Option<String>,
}

/// What one system did under one workload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// [`System::name`].
    pub system: String,
    /// What was asked of it.
    pub workload: Workload,
    /// One for each time; none if it failed.
    pub rounds: Vec<Round>,
    /// Why there is no figure, or why it is not to be trusted.
    pub failure: Option<String>,
}

/// What is asked of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Workload {
    /// Request and response, the next as soon as the last is answered.
    Requests {
        /// Open all the time.
        connections: u32,
        /// Bytes of the answer.
        body: u32,
    },
    /// Request and response at a rate that is the same for every system; latency counts from when the request was due.
    Paced {
        /// Open all the time.
        connections: u32,
        /// Bytes of the answer.
        body: u32,
    },
    /// Bytes in one direction.
    Throughput {
        /// At the same time.
        streams: u32,
    },
    /// Connect and read one long answer, again and again; the rate is bytes by the time from connect() to the last byte.
    Download {
        /// Of the answer.
        bytes: u32,
    },
    /// Connect, one request, close; full handshakes.
    NewConnections {
        /// At the same time.
        parallel: u32,
    },
    /// As [`Workload::Requests`] with answers of 64 bytes, by wrk: the setting of other people's figures.
    Wrk {
        /// Open all the time.
        connections: u32,
    },
    /// Connections that stand still.
    Idle {
        /// How many.
        connections: u32,
    },
}

impl Workload {
    /// Memory is measured in the first round only: afterwards the allocators give out what they kept.
    #[must_use]
    pub fn is_measured_in(self, round: u32) -> bool {
        round == 1 || !matches!(self, Self::Idle { .. })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { connections, body } => write!(f, "requests, {connections} conn, {body} B"),
            Self::Paced { connections, body } => {
                write!(f, "requests at a fixed rate, {connections} conn, {body} B")
            }
            Self::Throughput { streams } => write!(f, "one-way bytes, {streams} streams"),
            Self::Download { bytes } => write!(f, "download of {bytes} B with its connection"),
            Self::NewConnections { parallel } => write!(f, "new connections, {parallel} at a time"),
            Self::Wrk { connections } => write!(f, "requests by wrk, {connections} conn, 64 B"),
            Self::Idle { connections } => write!(f, "{connections} idle connections"),
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Requests, connections or bytes (by the workload) in one second.
    pub per_second: Option<f64>,
    /// What was to be done in one second, if the rate was fixed.
    pub offered_per_second: Option<f64>,
    /// Of a request, or from connect() to the first answer or to the end of a download.
    pub latency: Option<Latency>,
    /// Time that the whole machine's processors were busy, client, server and kernel included: microseconds for one
    /// request or connection, seconds for one GiB of a stream or of downloads.
    pub cpu: Option<f64>,
    /// What one idle connection binds.
    pub memory: Option<Memory>,
    /// Requests or connections that failed.
    pub errors: u64,
}

/// A distribution, in nanoseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half were faster.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
    /// For the plot: share (0 to 1, growing) and nanoseconds.
    pub curve: Vec<(f64, u64)>,
}

/// Memory for one idle connection, both ends together, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Resident memory of the system's processes.
    pub processes: f64,
    /// Of the whole machine, kernel, client and server included.
    pub machine: f64,
    /// Resident memory of the system's processes before there was a connection, in bytes, all together.
    pub resting: f64,
}

/// What a system's processes did, all together, while requests went through on one connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// [`System::name`].
    pub system: String,
    /// One after the other.
    pub requests: u32,
    /// System calls; none where the kernel does not count them.
    pub syscalls: Option<u64>,
    /// Context switches, wanted and unwanted.
    pub switches: u64,
    /// As `syscalls`, in the same time without a request.
    pub resting_syscalls: Option<u64>,
    /// As `switches`, in the same time without a request.
    pub resting_switches: u64,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls =
            |count: Option<u64>| count.map_or_else(|| "uncounted".to_owned(), |count| count.to_string());
        write!(
            f,
            "{} requests: {} system calls, {} context switches; {} and {} in the same time without",
            self.requests,
            calls(self.syscalls),
            self.switches,
            calls(self.resting_syscalls),
            self.resting_switches
        )
    }
}

/// How a system's cost grows with something.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// [`System::name`].
    pub system: String,
    /// What grows.
    pub axis: Axis,
    /// From few to many.
    pub points: Vec<Point>,
    /// Why it ends early.
    pub failure: Option<String>,
}

/// What grows along a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Enrolled workloads of a node.
    Workloads,
    /// Rules of the policy.
    Rules,
    /// Open connections.
    Connections,
}

/// One point of a curve.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// How many.
    pub x: u32,
    /// Nanoseconds of a request, the median.
    pub request: Option<u64>,
    /// Nanoseconds from connect() to the first answer, the median.
    pub connection: Option<u64>,
    /// Resident memory of the system's processes, in bytes.
    pub memory: Option<f64>,
}

/// One figure by our generator and by another tool, on the same system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossCheck {
    /// [`System::name`].
    pub system: String,
    /// What was measured.
    pub what: String,
    /// `wrk`, `iperf3`.
    pub tool: String,
    /// Unit of both.
    pub unit: String,
    /// By us.
    pub ours: f64,
    /// By the tool.
    pub theirs: f64,
}
