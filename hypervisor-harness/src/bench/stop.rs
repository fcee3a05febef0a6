//! Ctrl-C: the measurement that is under way is given up, and what was measured before it is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::peers;

static STOPPED: AtomicBool = AtomicBool::new(false);
/// How soon a wish to stop is noticed.
const SLICE: Duration = Duration::from_millis(20);

/// The user has had enough.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// Lets Ctrl-C and SIGTERM end the measurements; the second one ends the process at once.
///
/// # Errors
/// If the handler cannot be installed.
pub fn on_interrupt() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if STOPPED.swap(true, Ordering::SeqCst) {
            peers::process::end_all();
            std::process::exit(130);
        }
    })
}

/// Whether the user has had enough.
#[must_use]
pub fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Goes on only if the user has not had enough.
///
/// # Errors
/// [`Stopped`].
pub fn check() -> Result<(), Stopped> {
    if stopped() { Err(Stopped) } else { Ok(()) }
}

/// Sleeps for so long.
///
/// # Errors
/// [`Stopped`], soon after the user has had enough.
pub fn pause(time: Duration) -> Result<(), Stopped> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(SLICE));
    }
}
