//! How fast a driver's rings go round: frames in circulation between a driver and dpdk-testpmd's vhost port, which exchanges
//! their addresses and sends them back. The driver is the guest's, or DPDK's own (virtio-user): the other end, its arguments and
//! the number of frames are the same, and it is the other end that counts.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ringlet_driver::features::Features;

use crate::affinity;
use crate::bench::case::{Measured, Missing};
use crate::bench::guest::{Elsewhere, Plan};
use crate::bench::peers::Scratch;
use crate::bench::peers::testpmd::{self, Packets, Rings, Testpmd};
use crate::bench::{Args, stop};
use crate::run::events::{Event, Events};
use crate::vmm::console::{Record, Said};

/// Bursts of 32 frames in circulation.
const BURSTS: usize = 16;
const FRAMES: usize = 32 * BURSTS;
/// After this time everybody is awake.
const WARM_UP: Duration = Duration::from_millis(300);
/// If nothing has come back by then, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Milliseconds between two words of the guest.
const STATUS_MS: u32 = 100;

/// Measures the guest's driver.
///
/// # Errors
/// If testpmd or the guest does not come up, or a frame comes back wrong.
pub fn ringlet(args: &Args, packed: bool) -> anyhow::Result<Measured> {
    let [theirs, ours] = processors(args)?;
    let scratch = Scratch::new()?;
    let socket = scratch.join("vhost.sock");
    let mut other = start(&scratch, theirs, &testpmd::vhost_port(&socket), "macswap")?;
    other.forward()?;

    let without = if packed { Features::empty() } else { Features::RING_PACKED };
    let plan = Plan { words: format!("roundtrip={FRAMES}"), without, status_ms: STATUS_MS, ..Plan::new(args) };
    let guest = Elsewhere::boot(args, &socket, ours, plan)?;
    let mut measured = rate(args, &mut other)?;
    let negotiated = guest.negotiated();
    // The guest's own opinion of the frames, given after the measurement.
    let told = told(&guest.events);
    guest.end();
    ensure!(negotiated.contains(Features::RING_PACKED) == packed, "the rings are not what was asked for: {negotiated}");
    let told = told.context("the guest says nothing of its frames")?;
    ensure!(told.wrong == 0, "{} of {} frames came back wrong", told.wrong, told.returned);
    let refilled = told.injected.saturating_sub(FRAMES as u64);
    if refilled > 0 {
        measured.remark += &format!("{refilled} frames were lost and replaced; ");
    }
    measured.remark += &negotiated.to_string();
    Ok(measured)
}

/// Measures DPDK's driver.
///
/// # Errors
/// If one of both testpmds does not come up, or vectors are wanted of a processor that has none so wide.
pub fn dpdk(args: &Args, rings: Rings) -> anyhow::Result<Measured> {
    if rings == Rings::Vectors && !std::arch::is_x86_feature_detected!("avx512f") {
        return Err(Missing("a processor with AVX-512".to_owned()).into());
    }
    let [theirs, ours] = processors(args)?;
    let scratch = Scratch::new()?;
    let socket = scratch.join("vhost.sock");
    let mut other = start(&scratch, theirs, &testpmd::vhost_port(&socket), "macswap")?;
    other.forward()?;
    let mut driver = start(&scratch, ours, &testpmd::virtio_port(&socket, rings), "io")?;
    driver.say(&format!("start tx_first {BURSTS}"))?;
    rate(args, &mut other)
}

/// A testpmd with both of its threads on one processor: the one that listens to commands sleeps.
fn start(scratch: &Scratch, processor: usize, device: &str, mode: &str) -> anyhow::Result<Testpmd> {
    let mode = format!("--forward-mode={mode}");
    let arguments = [&mode, "--nb-cores=1", "--total-num-mbufs=16384", "--rxd=1024", "--txd=1024"];
    Testpmd::start(scratch, [processor; 2], &[device], &arguments)
}

/// The processors of the two ends: of the one that serves the rings, and of the driver's.
///
/// # Errors
/// If there is only one.
pub fn processors(args: &Args) -> anyhow::Result<[usize; 2]> {
    let allowed = affinity::allowed()?;
    let device = args.pin.device.or(allowed.iter().copied().find(|cpu| Some(*cpu) != args.pin.vcpu));
    let vcpu = args.pin.vcpu.or(allowed.iter().copied().find(|cpu| Some(*cpu) != device));
    match (device, vcpu) {
        (Some(device), Some(vcpu)) if device != vcpu => Ok([device, vcpu]),
        _ => bail!(
            "each end needs a processor of its own, and there is only one (or --pin-vcpu and --pin-device are the same)"
        ),
    }
}

/// How many packets a second come to the other end, once some do. In millions.
fn rate(args: &Args, other: &mut Testpmd) -> anyhow::Result<Measured> {
    let began = Instant::now();
    let at_first = other.packets(0)?.received;
    while other.packets(0)?.received <= at_first {
        if began.elapsed() > PATIENCE {
            bail!("no frame comes back");
        }
        stop::pause(Duration::from_millis(10))?;
    }
    stop::pause(WARM_UP)?;
    let before = other.packets(0)?;
    stop::pause(args.time())?;
    let after = other.packets(0)?;
    Ok(Measured::one(between(&before, &after)?, String::new()))
}

/// Millions of packets a second between two answers.
fn between(before: &Packets, after: &Packets) -> anyhow::Result<f64> {
    let packets = after.received.saturating_sub(before.received);
    ensure!(packets > 0, "the frames have stopped");
    Ok(packets as f64 / after.at.saturating_duration_since(before.at).as_secs_f64() / 1e6)
}

/// What the guest says next of the frames in circulation.
fn told(events: &Events) -> Option<crate::vmm::console::RoundTrip> {
    let until = Instant::now() + PATIENCE;
    let asked = Instant::now();
    loop {
        match events.next(until)? {
            Event::Said(at, Said::Record(Record::Roundtrip(told))) if at > asked => return Some(told),
            Event::Ended => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_what_came_in_between() {
        let at = Instant::now();
        let stats = |received, ms| Packets { received, sent: 0, at: at + Duration::from_millis(ms) };
        assert_eq!(between(&stats(1_000_000, 0), &stats(4_000_000, 500)).unwrap(), 6.0);
        assert!(between(&stats(5, 0), &stats(5, 500)).is_err());
    }
}
