//! Time as the caller tells it: the balancer owns no clock.

use core::ops::{Add, Sub};
use core::time::Duration;

/// A point of a monotonic clock, in nanoseconds since an arbitrary start (the boot of the guest, say).
///
/// Every call that depends on the time takes one. A caller whose clock steps back does no harm: timers then fire late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Instant = Instant(0);

    /// The instant `seconds` after the start of the clock.
    pub const fn from_secs(seconds: u64) -> Self {
        Instant(seconds.saturating_mul(1_000_000_000))
    }

    /// The instant `milliseconds` after the start of the clock.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Instant(milliseconds.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start of the clock.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if `earlier` is later than `self`.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of the clock (584 years).
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Saturates at zero.
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}
