//! How long to look for work before going to sleep.
//!
//! A sleep costs an exit, an interrupt, and on the host a thread that is woken: far more than the work that ends it. So looking on
//! pays where something comes soon. It never pays on a processor that somebody else wants meanwhile, least of all where that
//! somebody is who makes the work: a client, a server, the device's own thread. The host tells neither; both show in the time.

/// The first try, in nanoseconds, where there was none before.
const FIRST: u64 = 50_000;
/// Two looks in vain are less than a microsecond apart. Where it is longer than this, in nanoseconds, the processor was taken away
/// meanwhile; what an interrupt of the host takes is less.
const TAKEN: u64 = 25_000;
/// What is less, in nanoseconds, says nothing: sooner or later every processor is taken away for a moment.
const LITTLE: u64 = 100_000;
/// Shares of time are those of about so many nanoseconds.
const WINDOW: u64 = 10_000_000;
/// Where more than one in so many nanoseconds of looking was taken away, others want the processor.
const SHARE: u64 = 8;
/// For how long that is remembered, in nanoseconds: at first, and at most, where it is so again and again.
const PAUSE: u64 = 4_000_000;
const PAUSE_MOST: u64 = 256_000_000;

/// The state of looking for work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spin {
    limit: u64,
    /// How long to look, in nanoseconds.
    time: u64,
    /// When there was something to do last.
    busy_at: u64,
    /// When it was last looked in vain, if there was no work since.
    looked_at: Option<u64>,
    /// Of the time in which there was no work: what was had, and what was taken away.
    had: u64,
    taken: u64,
    /// Nothing is looked for before this time.
    not_before: u64,
    pause: u64,
}

impl Spin {
    /// At most `limit` nanoseconds will be spent looking, from `now` on.
    pub(crate) fn new(limit: u64, now: u64) -> Self {
        Self {
            limit,
            time: FIRST.min(limit),
            busy_at: now,
            looked_at: None,
            had: 0,
            taken: 0,
            not_before: 0,
            pause: PAUSE,
        }
    }

    /// There was something to do.
    #[inline]
    pub(crate) fn worked(&mut self, now: u64) {
        self.busy_at = now;
        self.looked_at = None;
    }

    /// There was nothing to do. Returns whether it is time to sleep.
    #[inline]
    pub(crate) fn in_vain(&mut self, now: u64) -> bool {
        if let Some(before) = self.looked_at.replace(now) {
            let gap = now.saturating_sub(before);
            if gap > TAKEN { self.was_taken(gap, now) } else { self.had += gap }
        }
        now.saturating_sub(self.busy_at) >= self.time || now < self.not_before
    }

    #[cold]
    fn was_taken(&mut self, gap: u64, now: u64) {
        self.taken += gap;
        if self.taken > LITTLE && self.taken.saturating_mul(SHARE) > self.had {
            // What was seen before the last time is long over.
            let again = now.saturating_sub(self.not_before) < PAUSE_MOST;
            self.pause = if again { (self.pause * 2).min(PAUSE_MOST) } else { PAUSE };
            self.not_before = now.saturating_add(self.pause);
            (self.time, self.had, self.taken) = (0, 0, 0);
        }
    }

    /// Something else was done than looking: what time that took, nobody took away.
    #[inline]
    pub(crate) fn interrupted(&mut self) {
        self.looked_at = None;
    }

    /// A sleep has ended that was not ended by a timer of our own: looking on would have found what ended it.
    pub(crate) fn woken(&mut self, now: u64) {
        if now.saturating_sub(self.busy_at) <= self.limit {
            if now >= self.not_before {
                self.time = (self.time * 2).max(FIRST).min(self.limit);
            }
        } else {
            self.time /= 2;
            if self.time < FIRST / 8 {
                self.time = 0;
            }
        }
        self.interrupted();
        if self.had > WINDOW {
            (self.had, self.taken) = (self.had / 2, self.taken / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_000_000;
    const LOOK: u64 = 500;

    /// Looks from `now` on until it is time to sleep, each look taking `look` nanoseconds. Returns for how long.
    fn look(spin: &mut Spin, now: u64, look: u64) -> u64 {
        (0..).map(|count| count * look).find(|&time| spin.in_vain(now + time)).unwrap()
    }

    /// Rounds of work, looking, and a sleep that something ends `gap` after the work.
    fn rounds(spin: &mut Spin, now: &mut u64, rounds: usize, gap: u64, step: u64) -> u64 {
        let mut looked = 0;
        for _ in 0..rounds {
            spin.worked(*now);
            looked = look(spin, *now + LOOK, step) + LOOK;
            *now += gap;
            if looked < gap {
                spin.woken(*now);
            }
        }
        looked
    }

    #[test]
    fn looking_is_as_long_as_it_pays() {
        let mut now = 5_000_000_000;
        let mut spin = Spin::new(LIMIT, now);
        assert_eq!(rounds(&mut spin, &mut now, 1, 500_000, LOOK), FIRST);
        // What comes within the limit is waited for in the end.
        assert!(rounds(&mut spin, &mut now, 10, 500_000, LOOK) >= 500_000);
        // What does not is not.
        assert_eq!(rounds(&mut spin, &mut now, 12, LIMIT + LOOK, LOOK), LOOK);
        assert_eq!(rounds(&mut spin, &mut now, 1, LIMIT / 2, LOOK), LOOK);
        assert_eq!(rounds(&mut spin, &mut now, 1, LIMIT / 2, LOOK), FIRST);
        let mut never = Spin::new(0, now);
        assert_eq!(rounds(&mut never, &mut now, 10, LOOK, LOOK), LOOK);
    }

    #[test]
    fn who_else_wants_the_processor_gets_it() {
        let mut now = 5_000_000_000;
        let mut spin = Spin::new(LIMIT, now);
        assert!(rounds(&mut spin, &mut now, 10, 500_000, LOOK) >= 500_000);
        // Each look takes so long that others must have run.
        rounds(&mut spin, &mut now, 4, 500_000, 2 * TAKEN);
        assert_eq!(rounds(&mut spin, &mut now, 1, 500_000, LOOK), LOOK, "it goes to sleep at once");
        // After a while it is tried again, and found to be the same: that is remembered for longer.
        let mut pauses = [0_u64; 2];
        for pause in &mut pauses {
            let from = now;
            while rounds(&mut spin, &mut now, 1, 500_000, LOOK) == LOOK {
                assert!(now - from <= 2 * PAUSE_MOST);
            }
            *pause = now - from;
            rounds(&mut spin, &mut now, 4, 500_000, 2 * TAKEN);
        }
        assert!(pauses[1] > pauses[0], "{pauses:?}");
        // Once nobody wants it any more, it is as before.
        now += 1_000_000_000;
        assert!(rounds(&mut spin, &mut now, 10, 500_000, LOOK) >= 500_000);
    }

    #[test]
    fn what_was_slept_or_done_is_not_taken_away() {
        let mut now = 5_000_000_000;
        let mut spin = Spin::new(LIMIT, now);
        assert!(rounds(&mut spin, &mut now, 10, 500_000, LOOK) >= 500_000);
        for _ in 0..100 {
            // A timer's turn, and the sleep until the next one.
            let time = look(&mut spin, now, LOOK);
            spin.interrupted();
            now += time + 17_000_000;
        }
        assert!(rounds(&mut spin, &mut now, 1, 500_000, LOOK) >= 500_000);
    }

    #[test]
    fn a_moment_now_and_then_is_no_reason() {
        let mut now = 5_000_000_000;
        let mut spin = Spin::new(LIMIT, now);
        rounds(&mut spin, &mut now, 10, 500_000, LOOK);
        for _ in 0..100 {
            // The host's timer, or its host's, once in some milliseconds.
            spin.worked(now);
            assert!(!spin.in_vain(now + LOOK) && !spin.in_vain(now + LOOK + 2 * TAKEN));
            now += 500_000;
            assert!(rounds(&mut spin, &mut now, 10, 500_000, LOOK) >= 500_000);
        }
    }
}
