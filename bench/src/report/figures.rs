//! Medians and spreads.

/// What the rounds of a row came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Of the smallest round.
    pub low: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// Of the largest round.
    pub high: f64,
}

impl Spread {
    /// Nothing if there is no number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self { low: *sorted.first()?, median: f64::midpoint(lower, upper), high: *sorted.last()? })
    }
}

/// The quotient, if it says something.
pub fn ratio(above: f64, below: f64) -> Option<f64> {
    (above > 0.0 && below > 0.0).then(|| above / below).filter(|ratio| ratio.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_odd_and_even_and_no_rounds() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { low: 1.0, median: 2.0, high: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { low: 1.0, median: 2.5, high: 4.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn a_ratio_needs_two_positive_numbers() {
        assert_eq!(ratio(6.0, 3.0), Some(2.0));
        assert_eq!(ratio(6.0, 0.0), None);
        assert_eq!(ratio(0.0, 3.0), None);
        assert_eq!(ratio(-1.0, 3.0), None);
        assert_eq!(ratio(f64::MAX, f64::MIN_POSITIVE), None);
    }
}
