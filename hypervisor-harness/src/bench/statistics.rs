//! What is told of several rounds: the middle, the spread, and how two sides compare.

/// A spread above this part of the median is called wide.
const WIDE: f64 = 0.2;

/// What is told of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle value, or the mean of the two in the middle.
    pub median: f64,
    /// The least one.
    pub least: f64,
    /// The greatest one.
    pub greatest: f64,
    /// How many there are.
    pub count: usize,
}

impl Summary {
    /// Of these values, if there are any. What is no number is none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&least, &greatest) = (values.first()?, values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Self { median, least, greatest, count: values.len() })
    }

    /// The distance from the least to the greatest value, as a part of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        if self.greatest > self.least { (self.greatest - self.least) / self.median.abs() } else { 0.0 }
    }

    /// Whether the spread is so wide that small differences mean nothing.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.spread() > WIDE
    }
}

/// How one side compares with another, round by round: each round has measured both, one right after the other, so that what
/// else the host was doing is the same for both. `None` without a round that has measured both.
#[must_use]
pub fn ratio(one: impl IntoIterator<Item = (u32, f64)>, other: &[(u32, f64)]) -> Option<Summary> {
    let pairs = one.into_iter().filter_map(|(round, value)| {
        let (_, against) = other.iter().find(|(at, against)| *at == round && *against != 0.0)?;
        Some(value / against)
    });
    Summary::of(pairs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Summary::of([]), None);
        assert_eq!(Summary::of([f64::NAN]), None);
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Some(Summary { median: 2.0, least: 1.0, greatest: 3.0, count: 3 }));
        assert_eq!(Summary::of([4.0, 1.0, 3.0, 2.0]).map(|summary| summary.median), Some(2.5));
    }

    #[test]
    fn a_wide_spread_is_noticed() {
        let of = |values: &[f64]| Summary::of(values.iter().copied()).unwrap();
        assert_eq!(of(&[2.0]).spread(), 0.0);
        assert!(!of(&[1.0, 1.05, 1.1]).is_wide());
        assert!(of(&[1.0, 1.05, 1.4]).is_wide());
        // Nothing but zeroes does not vary; something about zero varies without bounds.
        assert!(!of(&[0.0, 0.0]).is_wide());
        assert!(of(&[0.0, 0.0, 1.0]).is_wide());
    }

    #[test]
    fn sides_are_compared_within_their_rounds() {
        let other = [(0, 1.0), (2, 2.0), (3, 0.0)];
        let ratio = ratio([(0, 2.0), (1, 100.0), (2, 6.0), (3, 1.0)], &other).unwrap();
        assert_eq!((ratio.median, ratio.least, ratio.greatest, ratio.count), (2.5, 2.0, 3.0, 2));
        assert_eq!(super::ratio([(1, 1.0)], &other), None);
    }

    proptest! {
        #[test]
        fn the_median_is_between_the_extremes(values in prop::collection::vec(-1e9..1e9_f64, 1..40)) {
            let summary = Summary::of(values.clone()).unwrap();
            prop_assert!(summary.least <= summary.median && summary.median <= summary.greatest);
            prop_assert!(values.contains(&summary.least) && values.contains(&summary.greatest));
            let below = values.iter().filter(|value| **value <= summary.median).count();
            prop_assert!(2 * below >= values.len());
        }
    }
}
