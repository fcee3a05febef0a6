//! How many frames a second go through: the load generator's against the guest's.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use ringlet_driver::features::Features;

use crate::backend::coalesce::Coalesce;
use crate::backend::generator::{Generator, Load, Tally};
use crate::backend::options::Protocol;
use crate::bench::case::Measured;
use crate::bench::guest::{Guest, Plan};
use crate::bench::{Args, stop};

/// What is forwarded, over which device.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// UDP or TCP.
    pub protocol: Protocol,
    /// Over IPv6 instead of IPv4.
    pub v6: bool,
    /// Clients.
    pub flows: u32,
    /// Bytes in a frame, without frame check sequence; of no account where frames are large.
    pub frame: usize,
    /// Super-frames of 64 KiB, where the device and the guest agree on them; else their segments.
    pub large: bool,
    /// By which method.
    pub method: Method,
    /// The device puts segments together.
    pub coalesce: bool,
    /// The offloads that the network offers.
    pub offloads: Features,
    /// Features that the device does not offer.
    pub without: Features,
    /// Features that the case is about: without them it fails.
    pub needs: Features,
    /// What is told of it.
    pub unit: Unit,
}

/// How frames get to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// NAT.
    Nat,
    /// Direct routing.
    Direct,
    /// A tunnel: IPIP.
    Ipip,
}

/// What is told of forwarded frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Millions of frames a second.
    Frames,
    /// Gigabits of payload a second: what TCP and UDP carry, whatever it is cut into.
    Payload,
}

impl Forward {
    /// The load of the case.
    fn load(&self) -> Load {
        let Self { protocol, flows, frame, offloads, method, .. } = *self;
        let tunnel = (method == Method::Ipip).then(|| own_address(self.v6));
        let direct = method == Method::Direct;
        let load = Load { protocol, flows, frame, offloads, direct, tunnel, ..Load::default() };
        let load = if self.v6 { load.over_ipv6() } else { load };
        if self.large { load.large() } else { load }
    }
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
    let Forward { flows, without, needs, .. } = *case;
    let load = case.load();
    let rules = rules(&load);
    let (generator, meter) = Generator::new(load)?;
    let plan = Plan { rules, without, ..with_room(args, flows) };
    let guest = Guest::boot(args, Coalesce::new(generator, case.coalesce), plan)?;
    let missing = needs - guest.device().negotiated();
    if !missing.is_empty() {
        guest.end()?;
        bail!("device and guest have not agreed on {missing}");
    }
    meter.start();
    let began = Instant::now();
    // Every flow has had its first frame, for which there is more to do, before the measurement.
    while meter.tally().forwarded < u64::from(flows) {
        if began.elapsed() > PATIENCE {
            let tally = meter.tally();
            guest.end()?;
            bail!("the guest forwards nothing, or too little: {tally:?}");
        }
        stop::pause(Duration::from_millis(1))?;
    }
    stop::pause(WARM_UP)?;
    let (before, device_before, from) = (meter.tally(), guest.device().counters(), Instant::now());
    stop::pause(args.time())?;
    let (after, device_after, time) = (meter.tally(), guest.device().counters(), from.elapsed().as_secs_f64());
    let negotiated = guest.device().negotiated();
    meter.stop();
    guest.end()?;
    check(&before, &after)?;
    let (frames, bytes) = (after.forwarded - before.forwarded, after.forwarded_bytes - before.forwarded_bytes);
    // In bytes of payload, since frames may come back cut or put together.
    let offered = after.offered_bytes - before.offered_bytes;
    let lost = offered.saturating_sub(bytes) as f64 / offered.max(1) as f64;
    let interrupts = (device_after.interrupts - device_before.interrupts) as f64 / time;
    let (mpps, gigabits) = (frames as f64 / time / 1e6, bytes as f64 * 8.0 / time / 1e9);
    let (value, other) = match case.unit {
        Unit::Frames => (mpps, format!("{gigabits:.2} Gbit/s of payload")),
        Unit::Payload => (gigabits, format!("{mpps:.3} Mpps of {} bytes", bytes / frames.max(1))),
    };
    let remark = format!("lost {:.1} %, {interrupts:.0} interrupts/s, {other}; {negotiated}", lost * 100.0);
    Ok(Measured::one(value, remark))
}

/// A guest that has room for so many connections: a table that they fill to three quarters at most, with its memory.
#[must_use]
pub fn with_room(args: &Args, flows: u32) -> Plan {
    let plan = Plan::new(args);
    let entries = (u64::from(flows) * 4 / 3).next_power_of_two();
    if entries <= 65_536 {
        return plan;
    }
    // 128 bytes each at most, beside what it has anyway.
    let memory = plan.memory.max(128 + ((entries * 128) >> 20) as u32);
    Plan { words: format!("{} connections={entries}", plan.words), memory, ..plan }
}

/// Whether what came back is right.
fn check(before: &Tally, after: &Tally) -> anyhow::Result<()> {
    ensure!(after.wrong == 0, "{} of {} frames looked at came back wrong", after.wrong, after.wrong + after.verified);
    ensure!(after.verified > before.verified, "too few frames came back to look at one: {after:?}");
    Ok(())
}

/// The guest's own address in a [`Plan`].
fn own_address(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).into() } else { Ipv4Addr::new(10, 0, 0, 2).into() }
}

/// The guest's rules: the service, by NAT, direct routing or tunnels to all servers in turn.
pub(super) fn rules(load: &Load) -> String {
    let flag = if load.protocol == Protocol::Tcp { "-t" } else { "-u" };
    let method = match load.tunnel {
        Some(_) => "-i",
        None if load.direct => "-g",
        None => "-m",
    };
    let mut rules = format!("-A {flag} {} -s rr\n", load.service);
    for server in &load.servers {
        // Writing to a String does not fail.
        let _ = writeln!(rules, "-a {flag} {} -r {server} {method} -w 1", load.service);
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
        let rules = super::rules(&Load { protocol: Protocol::Tcp, ..Load::default() }.over_ipv6());
        assert!(rules.starts_with("-A -t [fd00::64]:80 -s rr\n-a -t [fd00::64]:80 -r [fd00::b]:80 -m -w 1\n"));
    }
}
