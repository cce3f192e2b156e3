//! How long things took.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::result::Latency;

/// The longest time that is told apart, in nanoseconds: one minute.
const LONGEST: u64 = 60_000_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 3;
/// Steps of the plotted curve for each halving of the distance to 100 %.
const STEPS: u32 = 4;

/// Times, to three digits.
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    ///
    /// # Errors
    /// None that these bounds can give.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST, DIGITS)?))
    }

    /// One more; what is longer than a minute counts as one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST));
    }

    /// Adds all of another's.
    ///
    /// # Errors
    /// None between histograms of the same bounds.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// For the report; `None` when there is none.
    #[must_use]
    pub fn summary(&self) -> Option<Latency> {
        let at = |quantile| self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then(|| Latency {
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max(),
            curve: self
                .0
                .iter_quantiles(STEPS)
                .map(|step| (step.quantile(), step.value_iterated_to()))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_right_to_three_digits() {
        let mut times = Times::new().unwrap();
        assert!(times.summary().is_none());
        for micros in 1..=1000 {
            times.add(Duration::from_micros(micros));
        }
        let summary = times.summary().unwrap();
        assert_eq!(summary.count, 1000);
        for (got, wanted) in
            [(summary.p50, 500_000), (summary.p90, 900_000), (summary.p99, 990_000), (summary.max, 1_000_000)]
        {
            assert!(got.abs_diff(wanted) <= wanted / 500, "{got} {wanted}");
        }
        assert!(summary.curve.is_sorted() && summary.curve.len() > 10, "{:?}", summary.curve);
        assert!(summary.curve.iter().all(|(share, _)| (0.0..=1.0).contains(share)));
    }

    #[test]
    fn more_than_a_minute_is_not_lost() {
        let mut times = Times::new().unwrap();
        times.add(Duration::from_secs(3600));
        let summary = times.summary().unwrap();
        assert!(summary.count == 1 && summary.max >= LONGEST / 2);
    }
}
