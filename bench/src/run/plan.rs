//! What is measured, how often and for how long.

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit};

use super::Options;
use crate::result::{Axis, Workload};
use crate::systems::Kind;

/// Idle connections that are opened where the machine allows it.
const IDLE: u32 = 10_000;
/// Descriptors that a system needs for something else than connections.
const OTHER_DESCRIPTORS: u64 = 1000;

/// A checked choice.
#[derive(Debug, Clone)]
pub struct Plan {
    kinds: Vec<Kind>,
    workloads: Vec<Workload>,
    curves: bool,
    rounds: u32,
    seconds: f64,
}

impl Plan {
    /// From what was typed.
    ///
    /// # Errors
    /// For numbers that make no measurement.
    pub fn new(options: &Options) -> Result<Self> {
        let (rounds, seconds) = if options.quick { (1, 1.0) } else { (3, 2.0) };
        let (rounds, seconds) = (options.rounds.unwrap_or(rounds), options.seconds.unwrap_or(seconds));
        if rounds == 0 {
            bail!("--rounds 0 measures nothing; 1 is the least");
        }
        if !(0.1..=600.0).contains(&seconds) {
            bail!("--seconds {seconds}: from 0.1 to 600");
        }
        let wanted = |kind: &Kind| {
            *kind == Kind::Plain || options.systems.is_empty() || options.systems.contains(kind)
        };
        let kinds = Kind::ALL.into_iter().filter(wanted).collect();
        Ok(Self { kinds, workloads: workloads(options.quick), curves: !options.quick, rounds, seconds })
    }

    /// The systems, plain TCP first.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().copied()
    }

    /// In the order in which they are measured: requests before the paced ones like them.
    #[must_use]
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The points of a curve; none in a quick run.
    #[must_use]
    pub fn curve(&self, axis: Axis) -> Vec<u32> {
        let points: &[u32] = match axis {
            _ if !self.curves => &[],
            Axis::Workloads => &[1, 10, 100, 500],
            Axis::Rules => &[10, 100, 1000, 10_000],
            Axis::Connections => &[100, 1000, 10_000, 50_000],
        };
        let most = if axis == Axis::Connections { most_connections(descriptors()) } else { u32::MAX };
        points.iter().copied().filter(|&point| point <= most).collect()
    }

    /// Times that each is measured.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Of one measurement.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

fn workloads(quick: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    let (connections, bodies): (&[u32], &[u32]) =
        if quick { (&[1, 8], &[64]) } else { (&[1, 8, 64], &[64, 1024, 65536]) };
    for &body in bodies {
        all.extend(connections.iter().map(|&connections| Workload::Requests { connections, body }));
    }
    all.extend(connections.iter().map(|&connections| Workload::Paced { connections, body: 64 }));
    let parallel: &[u32] = if quick { &[1] } else { &[1, 8] };
    all.extend(parallel.iter().map(|&streams| Workload::Throughput { streams }));
    all.extend([1, 8].map(|parallel| Workload::NewConnections { parallel }));
    all.push(Workload::Idle { connections: if quick { 500 } else { most_idle(descriptors()) } });
    all
}

/// How many descriptors a process may have.
fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, most)| most)
}

/// A proxy needs two descriptors for each connection.
fn most_idle(descriptors: u64) -> u32 {
    most_connections(descriptors).clamp(1, IDLE)
}

fn most_connections(descriptors: u64) -> u32 {
    u32::try_from(descriptors.saturating_sub(OTHER_DESCRIPTORS) / 2).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            systems: vec![],
            quick: false,
            rounds: None,
            seconds: None,
            json: None,
            report: None,
            instructions: false,
        }
    }

    #[test]
    fn plain_is_always_there_and_first() {
        let chosen = Options { systems: vec![Kind::Envoy, Kind::RelayUserspace], ..options() };
        let kinds: Vec<_> = Plan::new(&chosen).unwrap().kinds().collect();
        assert_eq!(kinds, [Kind::Plain, Kind::RelayUserspace, Kind::Envoy]);
        assert_eq!(Plan::new(&options()).unwrap().kinds().count(), Kind::ALL.len());
    }

    #[test]
    fn requests_come_before_the_paced_ones_that_take_their_rate() {
        for quick in [true, false] {
            let plan = Plan::new(&Options { quick, ..options() }).unwrap();
            for (at, workload) in plan.workloads().iter().enumerate() {
                if let Workload::Paced { connections, body } = *workload {
                    let like = Workload::Requests { connections, body };
                    assert!(plan.workloads()[..at].contains(&like), "{workload}");
                }
            }
        }
    }

    #[test]
    fn no_more_idle_connections_than_the_machine_has_descriptors_for() {
        assert_eq!(most_idle(1_000_000), 10_000);
        assert_eq!(most_idle(20_000), 9500);
        assert_eq!(most_idle(10), 1);
    }

    #[test]
    fn a_curve_goes_from_few_to_as_many_as_the_machine_allows() {
        let plan = Plan::new(&options()).unwrap();
        assert_eq!(plan.curve(Axis::Rules), [10, 100, 1000, 10_000]);
        let connections = plan.curve(Axis::Connections);
        assert!(
            connections.is_sorted()
                && connections.iter().all(|&point| point <= most_connections(descriptors()))
        );
        assert!(Plan::new(&Options { quick: true, ..options() }).unwrap().curve(Axis::Rules).is_empty());
    }

    #[test]
    fn numbers_that_measure_nothing_are_refused() {
        assert!(Plan::new(&Options { rounds: Some(0), ..options() }).is_err());
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let error = Plan::new(&Options { seconds: Some(seconds), ..options() }).unwrap_err();
            assert!(error.to_string().contains("0.1 to 600"), "{error}");
        }
    }
}
