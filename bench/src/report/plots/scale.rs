//! From figures to pixels.

/// An axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    is_log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A logarithmic axis over all positive figures, between two pixels; none if there are none.
    pub fn log(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Option<Self> {
        let (low, high) = bounds(values.into_iter().filter(|value| *value > 0.0))?;
        // A point on the frame would be cut in half.
        Some(Self { is_log: true, low: low / 1.25, high: high * 1.25, from, to })
    }

    /// A linear axis between two figures and two pixels.
    pub fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        Self { is_log: false, low, high, from, to }
    }

    /// The pixel of a figure.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if share.is_finite() { self.from + (self.to - self.from) * share.clamp(0.0, 1.0) } else { self.from }
    }

    /// Round figures along a logarithmic axis: fewer for each power if there are many powers.
    pub fn ticks(&self, powers: Powers) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let steps: &[f64] = match decades {
            d if d > 4.0 => &[1.0],
            d if d > 2.0 => &[1.0, 3.0],
            d if d > 0.7 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
        };
        let mut unit = 1.0;
        let mut ticks = vec![];
        while unit <= self.high {
            let factors =
                powers.factors.iter().flat_map(|factor| steps.iter().map(move |step| factor * step));
            ticks.extend(factors.map(|factor| factor * unit));
            unit *= powers.step;
        }
        ticks.retain(|tick| (self.low..=self.high).contains(tick));
        ticks
    }
}

/// The powers of the unit that figures are shown in, from one of it.
#[derive(Debug, Clone, Copy)]
pub struct Powers {
    step: f64,
    factors: &'static [f64],
}

/// Nanoseconds, and whatever is counted.
pub const TEN: Powers = Powers { step: 10.0, factors: &[1.0] };
/// Bytes.
pub const KIBI: Powers = Powers { step: 1024.0, factors: &[1.0, 10.0, 100.0] };

/// The least and the greatest of the finite figures.
pub fn bounds(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.into_iter().filter(|value| value.is_finite());
    values.fold(None, |bounds, value| {
        let (low, high) = bounds.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_to_their_pixels() {
        let scale = Scale::log([10.0, 1000.0, 0.0, -1.0, f64::NAN], 0.0, 100.0).unwrap();
        assert!((scale.at(100.0) - 50.0).abs() < 1e-9);
        assert_eq!(scale.ticks(TEN), [10.0, 30.0, 100.0, 300.0, 1000.0]);
        assert_eq!(scale.ticks(KIBI), [10.0, 30.0, 100.0, 300.0, 1024.0]);
        let scale = Scale::linear(0.0, 10.0, 100.0, 0.0);
        assert_eq!((scale.at(2.5), scale.at(99.0)), (75.0, 0.0));
    }

    #[test]
    fn one_figure_makes_an_axis_and_none_does_not() {
        let scale = Scale::log([7.0], 0.0, 10.0).unwrap();
        assert!((scale.at(7.0) - 5.0).abs() < 1e-9);
        assert!(!scale.ticks(TEN).is_empty());
        assert!(Scale::log([0.0, f64::INFINITY], 0.0, 10.0).is_none());
        assert_eq!(Scale::linear(0.0, 0.0, 0.0, 10.0).at(0.0), 0.0);
    }
}
