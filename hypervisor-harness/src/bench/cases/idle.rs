//! What a guest costs that has nothing to do.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::boot;
use crate::bench::case::Measured;
use crate::bench::peers::Process;
use crate::bench::{Args, stop};
use crate::run::guest::DEMO_SERVICE;

/// The shortest time that says anything.
const LEAST: Duration = Duration::from_secs(1);
/// What is to be done after the start has been done after this time.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures the time that all threads of `ringlet run` take of a processor, in percent of one, with the demonstration running
/// and nobody calling.
///
/// # Errors
/// If it does not start.
pub fn idle(args: &Args) -> anyhow::Result<Measured> {
    let address = boot::free_port()?;
    let mut command = boot::command(args, &[format!("{address}:{DEMO_SERVICE}")])?;
    let mut process = Process::start("ringlet run", &mut command)?;
    boot::until_it_answers(&mut process, address)?;
    stop::pause(SETTLE)?;
    // A processor's time is counted to the nanosecond, but a guest that wakes up once a second needs a few of these.
    let time = (args.time() * 3).max(LEAST);
    let (before, from) = (processor_time(process.id())?, Instant::now());
    stop::pause(time)?;
    let (used, took) = (processor_time(process.id())? - before, from.elapsed());
    process.alive()?;
    let percent = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    Ok(Measured::one(percent, format!("{:.2} ms in {:.1} s", used.as_secs_f64() * 1e3, took.as_secs_f64())))
}

/// The time that all threads of a process have had of processors, the guest's time included.
fn processor_time(process: u32) -> anyhow::Result<Duration> {
    let process = libc::pid_t::try_from(process).context("the number of a process")?;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the clock's number is written to a variable that lives longer than the call.
    let error = unsafe { libc::clock_getcpuclockid(process, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error)).context("the process has no clock");
    }
    // SAFETY: the time is written to a variable that lives longer than the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("the clock of the process cannot be read");
    }
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?);
    Ok(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_processor_s_time_is_counted() {
        let before = processor_time(std::process::id()).unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {}
        assert!(processor_time(std::process::id()).unwrap() > before);
        let sleeper = Process::start("sleep", Command::new("sleep").arg("100")).unwrap();
        assert!(processor_time(sleeper.id()).unwrap() < Duration::from_secs(10));
    }
}
