//! The figures that a round has, and what they are called under each workload.

use super::figures::Spread;
use super::units;
use crate::result::{Latency, Memory, Round, Row, Workload};

/// A figure of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// [`Round::per_second`].
    Rate,
    /// [`Latency::p50`].
    P50,
    /// [`Latency::p90`].
    P90,
    /// [`Latency::p99`].
    P99,
    /// [`Latency::p999`].
    P999,
    /// [`Round::cpu`].
    Cpu,
    /// [`Memory::machine`].
    Machine,
    /// [`Memory::processes`].
    Processes,
    /// [`Memory::resting`].
    Resting,
    /// [`Round::errors`].
    Errors,
}

impl Measure {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Rate,
        Self::P50,
        Self::P90,
        Self::P99,
        Self::P999,
        Self::Cpu,
        Self::Machine,
        Self::Processes,
        Self::Resting,
        Self::Errors,
    ];

    /// The figure that a workload is there for.
    pub fn main(workload: Workload) -> Self {
        match workload {
            Workload::Requests { .. }
            | Workload::Throughput { .. }
            | Workload::Download { .. }
            | Workload::NewConnections { .. }
            | Workload::Wrk { .. } => Self::Rate,
            Workload::Paced { .. } => Self::P99,
            Workload::Idle { .. } => Self::Machine,
        }
    }

    /// This figure of one round.
    pub fn of(self, round: &Round) -> Option<f64> {
        let latency = |part: fn(&Latency) -> u64| round.latency.as_ref().map(|latency| part(latency) as f64);
        let memory = |part: fn(&Memory) -> f64| round.memory.as_ref().map(part);
        match self {
            Self::Rate => round.per_second,
            Self::P50 => latency(|l| l.p50),
            Self::P90 => latency(|l| l.p90),
            Self::P99 => latency(|l| l.p99),
            Self::P999 => latency(|l| l.p999),
            Self::Cpu => round.cpu,
            Self::Machine => memory(|m| m.machine),
            Self::Processes => memory(|m| m.processes),
            Self::Resting => memory(|m| m.resting),
            Self::Errors => Some(round.errors as f64),
        }
    }

    /// This figure of all rounds of a row.
    pub fn spread(self, row: &Row) -> Option<Spread> {
        Spread::of(row.rounds.iter().filter_map(|round| self.of(round)))
    }

    /// Whether more of it is better.
    pub fn grows(self) -> bool {
        self == Self::Rate
    }

    /// What it is called, with the unit if [`Measure::show`] does not give one.
    pub fn name(self, workload: Workload) -> &'static str {
        match (self, workload) {
            (Self::Rate, Workload::Throughput { .. } | Workload::Download { .. }) => "MB/s",
            (Self::Rate, Workload::NewConnections { .. }) => "connections/s",
            (Self::Rate, _) => "requests/s",
            (Self::P50, _) => "p50",
            (Self::P90, _) => "p90",
            (Self::P99, _) => "p99",
            (Self::P999, _) => "p99.9",
            (Self::Cpu, Workload::Throughput { .. } | Workload::Download { .. }) => "CPU, s/GiB",
            (Self::Cpu, Workload::NewConnections { .. }) => "CPU, µs/connection",
            (Self::Cpu, _) => "CPU, µs/request",
            (Self::Machine, _) => "memory/connection, machine",
            (Self::Processes, _) => "memory/connection, processes",
            (Self::Resting, _) => "memory at rest",
            (Self::Errors, _) => "errors",
        }
    }

    /// A value of it.
    pub fn show(self, workload: Workload, value: f64) -> String {
        match (self, workload) {
            (Self::Rate, Workload::Throughput { .. } | Workload::Download { .. }) => units::megabytes(value),
            (Self::Rate | Self::Cpu, _) => units::number(value),
            (Self::P50 | Self::P90 | Self::P99 | Self::P999, _) => units::duration(value),
            (Self::Machine | Self::Processes | Self::Resting, _) => units::bytes(value),
            (Self::Errors, _) => units::grouped(value, 0),
        }
    }
}
