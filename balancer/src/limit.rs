//! A token bucket: so many at once, and so many a second in the long run.

use core::time::Duration;

use crate::Instant;

/// A bucket that is full at the start. Counts in nanoseconds of credit: each token costs the time it takes to come in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    cost: u64,
    full: u64,
    credit: u64,
    filled: Instant,
}

impl TokenBucket {
    /// `rate` tokens a second, up to `burst` at once. A rate of 0 counts as 1.
    pub fn new(rate: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1).as_nanos() as u64 / u64::from(rate.max(1));
        let full = cost * u64::from(burst);
        TokenBucket { cost, full, credit: full, filled: Instant::ZERO }
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let gained = now.nanos().saturating_sub(self.filled.nanos());
        self.credit = self.credit.saturating_add(gained).min(self.full);
        self.filled = self.filled.max(now);
        match self.credit.checked_sub(self.cost) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_passes_then_one_for_each_interval() {
        let mut bucket = TokenBucket::new(10, 3);
        let taken = |bucket: &mut TokenBucket, ms| (0..10).filter(|_| bucket.take(Instant::from_millis(ms))).count();
        assert_eq!(taken(&mut bucket, 50), 3);
        assert_eq!(taken(&mut bucket, 149), 0);
        assert_eq!(taken(&mut bucket, 150), 1);
        assert_eq!(taken(&mut bucket, 350), 2);
        assert_eq!(taken(&mut bucket, 100_000), 3, "no more than the burst is saved up");
        assert_eq!(taken(&mut bucket, 0), 0, "a clock that steps back gives nothing");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_allow(rate in 1u32..2000, burst in 1u32..50, steps in prop::collection::vec(0u64..20, 1..300)) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut ms, mut taken) = (0, 0);
            for step in steps {
                ms += step;
                taken += u64::from(bucket.take(Instant::from_millis(ms)));
                // The cost is rounded down to nanoseconds, so allow one more.
                prop_assert!(taken <= u64::from(burst) + ms * u64::from(rate) / 1000 + 1);
            }
        }
    }
}
