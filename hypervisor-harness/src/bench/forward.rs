//! How many frames a second go through: the load generator's against the guest's.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use ringlet_driver::features::Features;

use super::guest::Guest;
use super::{Args, Measured};
use crate::backend::generator::{Generator, Load, Tally};
use crate::backend::options::Protocol;

/// What is forwarded, over which device.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// Clients.
    pub flows: u32,
    /// Bytes in a frame, without frame check sequence.
    pub frame: usize,
    /// The offloads that the network offers.
    pub offloads: Features,
    /// Features that the device does not offer.
    pub without: Features,
}

/// Frames are in their places, tables in the caches, and everybody is awake after this time.
const WARM_UP: Duration = Duration::from_millis(200);
/// A guest that forwards nothing in this time will not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures the rate of forwarded frames.
///
/// # Errors
/// If the guest does not boot or forwards nothing, or a frame comes back wrong.
pub fn forward(args: &Args, case: &Forward) -> anyhow::Result<Measured> {
    let Forward { protocol, flows, frame, offloads, without } = *case;
    let load = Load { protocol, flows, frame, offloads, ..Load::default() };
    let rules = rules(&load);
    let (generator, meter) = Generator::new(load)?;
    let guest = Guest::boot(args, generator, without, rules)?;
    meter.start();
    let began = Instant::now();
    // Every flow has had its first frame, for which there is more to do, before the measurement.
    while meter.tally().forwarded < u64::from(flows) {
        if began.elapsed() > PATIENCE {
            let tally = meter.tally();
            guest.end()?;
            bail!("the guest forwards nothing, or too little: {tally:?}");
        }
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(WARM_UP);
    let (before, device_before, from) = (meter.tally(), guest.device.counters(), Instant::now());
    thread::sleep(args.time());
    let (after, device_after, time) = (meter.tally(), guest.device.counters(), from.elapsed().as_secs_f64());
    let negotiated = guest.device.negotiated();
    meter.stop();
    guest.end()?;
    check(&before, &after)?;
    let forwarded = after.forwarded - before.forwarded;
    let offered = after.offered - before.offered;
    let lost = offered.saturating_sub(forwarded) as f64 / offered.max(1) as f64;
    let interrupts = (device_after.interrupts - device_before.interrupts) as f64 / time;
    let mut remark = format!("  lost {:.1} %, {interrupts:.0} interrupts/s", lost * 100.0);
    if frame >= 1000 {
        let gigabits = forwarded as f64 * frame as f64 * 8.0 / time / 1e9;
        // Writing to a String does not fail.
        let _ = write!(remark, ", {gigabits:.2} Gbit/s");
    }
    let _ = write!(remark, "; {negotiated}");
    Ok(Measured { value: forwarded as f64 / time / 1e6, remark })
}

/// Whether what came back is right.
fn check(before: &Tally, after: &Tally) -> anyhow::Result<()> {
    ensure!(after.wrong == 0, "{} of {} frames looked at came back wrong", after.wrong, after.wrong + after.verified);
    ensure!(after.verified > before.verified, "too few frames came back to look at one: {after:?}");
    Ok(())
}

/// The guest's rules: the service, by NAT to all servers in turn.
fn rules(load: &Load) -> String {
    let flag = if load.protocol == Protocol::Tcp { "-t" } else { "-u" };
    let mut rules = format!("-A {flag} {} -s rr\n", load.service);
    for server in &load.servers {
        // Writing to a String does not fail.
        let _ = writeln!(rules, "-a {flag} {} -r {server} -m -w 1", load.service);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_frames_fail_the_case() {
        let before = Tally { forwarded: 100, verified: 1, ..Tally::default() };
        let good = Tally { forwarded: 200, verified: 3, ..Tally::default() };
        assert!(check(&before, &good).is_ok());
        assert!(check(&before, &Tally { wrong: 1, ..good }).is_err());
        assert!(check(&before, &Tally { verified: 1, ..good }).is_err());
    }

    #[test]
    fn the_rules_are_ipvsadm_s() {
        let rules = rules(&Load::default());
        assert!(rules.starts_with("-A -u 10.0.0.100:80 -s rr\n-a -u 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1\n"));
    }
}
