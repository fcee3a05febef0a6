//! A frontend that comes and goes as fast as it can fills no terminal and no log.

use std::time::{Duration, Instant};

/// The most news that are shown in [`WHILE`].
const MOST: u32 = 100;
const WHILE: Duration = Duration::from_secs(1);

/// How much has been shown of late.
#[derive(Debug)]
pub(super) struct Flood {
    since: Instant,
    shown: u32,
    left_out: u64,
}

impl Flood {
    /// Nothing has been shown yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, shown: 0, left_out: 0 }
    }

    /// Whether one more may be shown. If not, it is counted.
    pub(super) fn lets_by(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WHILE {
            (self.since, self.shown) = (now, 0);
        }
        let by = self.shown < MOST;
        if by {
            self.shown += 1;
        } else {
            self.left_out += 1;
        }
        by
    }

    /// How many were left out since this was asked for last, if that can be told now: in each [`WHILE`] once. To be asked for before
    /// [`Flood::lets_by`], by which the next one may begin.
    pub(super) fn left_out(&mut self, now: Instant) -> Option<u64> {
        let over = now.saturating_duration_since(self.since) >= WHILE;
        if over { self.end() } else { None }
    }

    /// How many were left out since that was asked for last: nothing comes any more.
    pub(super) fn end(&mut self) -> Option<u64> {
        (self.left_out != 0).then(|| std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let shown = |flood: &mut Flood, now| (0..1000).filter(|_| flood.lets_by(now)).count();
        assert_eq!(shown(&mut flood, start), MOST as usize);
        assert_eq!(flood.left_out(start), None, "that would be one more line each time");
        let later = start + WHILE;
        assert_eq!((flood.left_out(later), flood.left_out(later)), (Some(1000 - u64::from(MOST)), None));
        assert_eq!(shown(&mut flood, later), MOST as usize);
    }

    #[test]
    fn while_a_flood_lasts_it_is_told_how_many_are_left_out() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let (mut shown, mut told, mut times) = (0, 0, 0);
        // Ten a millisecond, for five times as long as is counted together, in the order of the loop.
        let all = 10 * 5 * WHILE.as_millis() as u64;
        for nth in 0..all {
            let now = start + Duration::from_micros(nth * 100);
            if let Some(count) = flood.left_out(now) {
                (told, times) = (told + count, times + 1);
            }
            shown += u64::from(flood.lets_by(now));
        }
        assert_eq!(times, 4);
        assert_eq!(shown, 5 * u64::from(MOST));
        assert_eq!(shown + told + flood.end().unwrap_or_default(), all);
        assert_eq!(flood.end(), None);
    }
}
