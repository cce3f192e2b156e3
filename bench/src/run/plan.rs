//! What is measured, how often and for how long.

use anyhow::{Result, bail};
use nix::sys::resource::{Resource, getrlimit};

use super::Options;
use crate::result::{Axis, Workload};
use crate::systems::{Kind, server};

/// Idle connections that are opened where the machine allows it.
const IDLE: u32 = 10_000;
/// The same in a quick run, and on the clock that counts instructions, where each costs a millisecond of emulation.
const IDLE_QUICK: u32 = 500;
const IDLE_LAB: u32 = 1000;
/// Before each measurement, seconds.
const WARM_UP: f64 = 0.2;
const WARM_UP_LAB: f64 = 0.05;
/// Descriptors that a system needs for something else than connections.
const OTHER_DESCRIPTORS: u64 = 1000;

/// A kind of workload, by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// [`Workload::Requests`].
    Requests,
    /// [`Workload::Paced`].
    Paced,
    /// [`Workload::Throughput`].
    Stream,
    /// [`Workload::Download`].
    Download,
    /// [`Workload::NewConnections`].
    Connect,
    /// [`Workload::Wrk`]; only where it is asked for.
    Wrk,
    /// [`Workload::Idle`].
    Idle,
    /// [`crate::result::Work`].
    Work,
}

impl Part {
    fn of(workload: Workload) -> Self {
        match workload {
            Workload::Requests { .. } => Self::Requests,
            Workload::Paced { .. } => Self::Paced,
            Workload::Throughput { .. } => Self::Stream,
            Workload::Download { .. } => Self::Download,
            Workload::NewConnections { .. } => Self::Connect,
            Workload::Wrk { .. } => Self::Wrk,
            Workload::Idle { .. } => Self::Idle,
        }
    }
}

/// A checked choice.
#[derive(Debug, Clone)]
pub struct Plan {
    kinds: Vec<Kind>,
    workloads: Vec<Workload>,
    curves: bool,
    checks: bool,
    work: bool,
    rounds: u32,
    seconds: f64,
    warm_up: f64,
}

impl Plan {
    /// From what was typed.
    ///
    /// # Errors
    /// For numbers that make no measurement, and requests at a fixed rate without those that give the rate.
    pub fn new(options: &Options) -> Result<Self> {
        let lab = options.instructions;
        // Where instructions are counted, the next round would give the same figures.
        let (rounds, seconds) = match (lab, options.quick) {
            (true, true) => (1, 0.25),
            (true, false) => (1, 0.5),
            (false, true) => (1, 1.0),
            (false, false) => (3, 2.0),
        };
        let (rounds, seconds) = (options.rounds.unwrap_or(rounds), options.seconds.unwrap_or(seconds));
        if rounds == 0 {
            bail!("--rounds 0 measures nothing; 1 is the least");
        }
        if !(0.1..=600.0).contains(&seconds) {
            bail!("--seconds {seconds}: from 0.1 to 600");
        }
        let wanted = |kind: &Kind| {
            *kind == Kind::Plain
                || options.systems.contains(kind)
                || (options.systems.is_empty() && kind.is_usual())
        };
        let kinds = Kind::ALL.into_iter().filter(wanted).collect();
        let only = |part: &Part| options.only.is_empty() || options.only.contains(part);
        if only(&Part::Paced) && !only(&Part::Requests) {
            bail!("--only paced: the fixed rate is half of what the slowest did, so it needs `requests` too");
        }
        let mut workloads = workloads(options.quick, lab);
        workloads.retain(|workload| only(&Part::of(*workload)));
        if options.only.contains(&Part::Wrk) {
            workloads.extend([1, 8].map(|connections| Workload::Wrk { connections }));
        }
        Ok(Self {
            kinds,
            workloads,
            curves: !options.quick && !lab && options.only.is_empty(),
            checks: options.checks || (!lab && options.only.is_empty()),
            work: only(&Part::Work),
            rounds,
            seconds,
            warm_up: if lab { WARM_UP_LAB } else { WARM_UP },
        })
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

    /// Whether other people's tools measure too: they take whole seconds.
    #[must_use]
    pub fn checks(&self) -> bool {
        self.checks
    }

    /// Whether system calls and context switches are counted.
    #[must_use]
    pub fn work(&self) -> bool {
        self.work
    }

    /// Before each measurement, seconds.
    #[must_use]
    pub fn warm_up(&self) -> f64 {
        self.warm_up
    }

    /// The points of a curve; none in a quick run or where instructions are counted.
    #[must_use]
    pub fn curve(&self, axis: Axis) -> Vec<u32> {
        let points: &[u32] = match axis {
            _ if !self.curves => &[],
            Axis::Workloads => &[1, 10, 100, 500],
            Axis::Rules => &[10, 100, 1000, 10_000],
            Axis::Connections => &[100, 1000, 10_000, 50_000],
        };
        let most = if axis == Axis::Connections { most_connections(descriptors()) } else { u32::MAX };
        let mut points: Vec<u32> = points.iter().map(|&point| point.min(most)).collect();
        points.dedup();
        points
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

fn workloads(quick: bool, lab: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    let (connections, bodies): (&[u32], &[u32]) = match (quick, lab) {
        (true, _) => (&[1, 8], &[64]),
        (false, true) => (&[1, 8], &[64, 65536]),
        (false, false) => (&[1, 8, 64], &[64, 1024, 65536]),
    };
    for &body in bodies {
        all.extend(connections.iter().map(|&connections| Workload::Requests { connections, body }));
    }
    all.extend(connections.iter().map(|&connections| Workload::Paced { connections, body: 64 }));
    let parallel: &[u32] = if quick { &[1] } else { &[1, 8] };
    all.extend(parallel.iter().map(|&streams| Workload::Throughput { streams }));
    all.push(Workload::Download { bytes: server::DOWNLOAD });
    all.extend([1, 8].map(|parallel| Workload::NewConnections { parallel }));
    let idle = match (quick, lab) {
        (_, true) => IDLE_LAB,
        (true, false) => IDLE_QUICK,
        (false, false) => most_idle(descriptors()),
    };
    // First, before the others have filled the allocators of what is measured.
    all.insert(0, Workload::Idle { connections: idle });
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
            only: vec![],
            checks: false,
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
        let usual: Vec<_> = Plan::new(&options()).unwrap().kinds().collect();
        assert!(usual.len() == Kind::ALL.len() - 1 && !usual.contains(&Kind::Base), "{usual:?}");
    }

    #[test]
    fn only_what_was_asked_for_is_measured() {
        let only = |only: &[Part]| Plan::new(&Options { only: only.into(), ..options() });
        let plan = only(&[Part::Download, Part::Connect]).unwrap();
        let connect = [1, 8].map(|parallel| Workload::NewConnections { parallel });
        assert_eq!(plan.workloads(), [&[Workload::Download { bytes: 8 << 20 }], &connect[..]].concat());
        assert!(plan.curve(Axis::Rules).is_empty() && !plan.checks());
        assert!(only(&[Part::Paced]).unwrap_err().to_string().contains("needs `requests`"));
        only(&[Part::Paced, Part::Requests]).unwrap();
        assert!(workloads(false, false).iter().all(|workload| Part::of(*workload) != Part::Wrk));
        let wrk = [1, 8].map(|connections| Workload::Wrk { connections });
        assert_eq!(only(&[Part::Wrk]).unwrap().workloads(), wrk);
        assert!(!plan.work() && only(&[Part::Work]).unwrap().work() && only(&[]).unwrap().work());
    }

    #[test]
    fn where_instructions_are_counted_once_and_less_is_enough() {
        for quick in [true, false] {
            let plan = Plan::new(&Options { quick, instructions: true, ..options() }).unwrap();
            assert_eq!(plan.rounds(), 1);
            assert!(plan.seconds() <= 0.5 && plan.warm_up() < WARM_UP);
            assert!(plan.curve(Axis::Rules).is_empty() && !plan.checks());
            assert!(plan.workloads().contains(&Workload::Idle { connections: IDLE_LAB }));
        }
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
        let most = most_connections(descriptors());
        assert!(connections.is_sorted_by(|a, b| a < b), "{connections:?}");
        assert_eq!(connections.last(), Some(&most.min(50_000)));
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
