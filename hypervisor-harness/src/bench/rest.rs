//! Waiting until what a measurement has left behind is over: the kernel takes namespaces apart in its own time, and one whose packet
//! filter knows a million connections for seconds. Who has its turn next would pay for it.

use std::fs;
use std::time::{Duration, Instant};

use super::stop::{self, Stopped};

/// The processors' time is looked at over so long: the kernel counts it in hundredths of a second.
const WINDOW: Duration = Duration::from_millis(100);
/// The host rests if less than one in so many of that was used.
const SHARE: u64 = 10;
/// A host that does not come to rest within this, for the first time, does so for other reasons.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the host.
#[derive(Debug)]
pub struct Rest {
    patience: Duration,
}

impl Rest {
    /// How long it waits at most: not at all where a look is all that is wanted, which is to be had in a minute.
    pub fn new(quick: bool) -> Self {
        Self { patience: if quick { Duration::ZERO } else { PATIENCE } }
    }

    /// Waits until the host does nothing else. Once that was in vain, it is not tried for long again.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn wait(&mut self) -> Result<(), Stopped> {
        let began = Instant::now();
        let Some(mut before) = used() else { return Ok(()) };
        while began.elapsed() < self.patience {
            stop::pause(WINDOW)?;
            let Some(now) = used() else { return Ok(()) };
            if is_rest(before, now) {
                return Ok(());
            }
            before = now;
        }
        self.patience = self.patience.min(2 * WINDOW);
        Ok(())
    }
}

/// The time of all processors since the start of the host, in ticks: what was used, and all.
fn used() -> Option<(u64, u64)> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse(stat: &str) -> Option<(u64, u64)> {
    let times = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = times.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // User, nice, system, idle, waiting for disks, interrupts, soft ones; what others have taken from this host is not its own.
    let [user, nice, system, idle, disk, hard, soft, ..] = times[..] else { return None };
    let used = user + nice + system + hard + soft;
    Some((used, used + idle + disk))
}

/// Whether little was used from one look to the next.
fn is_rest((used_before, all_before): (u64, u64), (used, all): (u64, u64)) -> bool {
    let (used, all) = (used.saturating_sub(used_before), all.saturating_sub(all_before));
    all > 0 && used * SHARE < all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_time_is_read() {
        assert_eq!(parse("cpu  10 2 30 400 5 6 7 800 0 0\ncpu0 1 1 1 1\n"), Some((55, 460)));
        for other in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu a b c d e f g h"] {
            assert_eq!(parse(other), None, "{other}");
        }
        let (used, all) = used().expect("Linux tells");
        assert!(0 < used && used < all);
    }

    #[test]
    fn little_use_is_rest() {
        let before = (1000, 5000);
        for (used, all, rest) in [(0, 20, true), (1, 20, true), (2, 20, false), (20, 20, false), (0, 0, false)] {
            assert_eq!(is_rest(before, (1000 + used, 5000 + all)), rest, "{used} of {all}");
        }
    }
}
