//! One system against another.

use super::figures::{Spread, ratio};
use super::measure::Measure;
use super::rows::{self, Kind, Role};
use crate::result::{Run, Workload};

/// How our figure stands against theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Our worst round is better than their best.
    Better,
    /// The rounds overlap; whether our median is the worse one.
    Alike {
        /// Our median is the worse one.
        behind: bool,
    },
    /// Our best round is worse than their worst.
    Worse,
}

/// How our figure stands against theirs.
pub fn verdict(measure: Measure, ours: Spread, theirs: Spread) -> Verdict {
    let (less, more) = if measure.grows() { (ours, theirs) } else { (theirs, ours) };
    if less.high < more.low {
        Verdict::Worse
    } else if less.low > more.high {
        Verdict::Better
    } else {
        Verdict::Alike { behind: less.median < more.median }
    }
}

/// How many times better we are: ours by theirs, or theirs by ours where less is better.
pub fn advantage(measure: Measure, ours: Spread, theirs: Spread) -> Option<f64> {
    if measure.grows() { ratio(ours.median, theirs.median) } else { ratio(theirs.median, ours.median) }
}

/// The datapath of mtlsd with the best main figure under a workload.
pub fn best(run: &Run, workload: Workload) -> Option<&str> {
    let measure = Measure::main(workload);
    let mut found: Option<(&str, f64)> = None;
    for name in rows::with_role(run, Role::Mtlsd) {
        let Some(spread) = rows::row(run, name, workload).ok().and_then(|row| measure.spread(row)) else {
            continue;
        };
        let is_better = |best: f64| if measure.grows() { spread.median > best } else { spread.median < best };
        if found.is_none_or(|(_, best)| is_better(best)) {
            found = Some((name, spread.median));
        }
    }
    found.map(|(name, _)| name)
}

/// One figure that both have.
#[derive(Debug, Clone, Copy)]
pub struct Duel<'a> {
    /// A datapath of mtlsd.
    pub ours: &'a str,
    /// Who it is compared with.
    pub peer: &'a str,
    /// What was asked of both.
    pub workload: Workload,
    /// What is compared.
    pub measure: Measure,
    /// Of the datapath.
    pub our: Spread,
    /// Of the peer.
    pub their: Spread,
}

impl Duel<'_> {
    /// How it ended.
    pub fn verdict(&self) -> Verdict {
        verdict(self.measure, self.our, self.their)
    }

    /// How many times better we are.
    pub fn advantage(&self) -> Option<f64> {
        advantage(self.measure, self.our, self.their)
    }
}

/// Every figure that a datapath of mtlsd and a peer both have.
///
/// Not the rate that was given to all of them: who falls behind it shows that in the latency, which counts from
/// when a request was due.
pub fn duels(run: &Run) -> Vec<Duel<'_>> {
    let mut all = vec![];
    for workload in Kind::ALL.into_iter().flat_map(|kind| rows::workloads(run, kind)) {
        for ours in rows::with_role(run, Role::Mtlsd) {
            for peer in rows::with_role(run, Role::Peer) {
                all.extend(pair(run, workload, ours, peer));
            }
        }
    }
    all
}

fn pair<'a>(run: &'a Run, workload: Workload, ours: &'a str, peer: &'a str) -> Vec<Duel<'a>> {
    let (Ok(our), Ok(their)) = (rows::row(run, ours, workload), rows::row(run, peer, workload)) else {
        return vec![];
    };
    let is_given = |measure| measure == Measure::Rate && Kind::of(workload) == Kind::Paced;
    let measures = Measure::ALL.into_iter().filter(|measure| !is_given(*measure));
    measures
        .filter_map(|measure| {
            let (our, their) = (measure.spread(our)?, measure.spread(their)?);
            Some(Duel { ours, peer, workload, measure, our, their })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(low: f64, median: f64, high: f64) -> Spread {
        Spread { low, median, high }
    }

    #[test]
    fn rounds_that_overlap_are_no_loss() {
        let (slow, fast) = (spread(90.0, 100.0, 110.0), spread(111.0, 120.0, 130.0));
        let overlapping = spread(105.0, 120.0, 130.0);
        assert_eq!(verdict(Measure::Rate, slow, fast), Verdict::Worse);
        assert_eq!(verdict(Measure::Rate, fast, slow), Verdict::Better);
        assert_eq!(verdict(Measure::P99, slow, fast), Verdict::Better);
        assert_eq!(verdict(Measure::P99, fast, slow), Verdict::Worse);
        assert_eq!(verdict(Measure::Rate, slow, overlapping), Verdict::Alike { behind: true });
        assert_eq!(verdict(Measure::Cpu, slow, overlapping), Verdict::Alike { behind: false });
        assert_eq!(verdict(Measure::Rate, slow, slow), Verdict::Alike { behind: false });
    }

    #[test]
    fn an_advantage_is_above_one() {
        let (less, more) = (spread(50.0, 50.0, 50.0), spread(100.0, 100.0, 100.0));
        assert_eq!(advantage(Measure::Rate, more, less), Some(2.0));
        assert_eq!(advantage(Measure::P50, less, more), Some(2.0));
        assert_eq!(advantage(Measure::Errors, spread(0.0, 0.0, 0.0), more), None);
    }
}
