//! How fast a driver's rings go round: frames in circulation between a driver and dpdk-testpmd's vhost port, which exchanges
//! their addresses and sends them back. The driver is the guest's, or DPDK's own (virtio-user): the other end, its arguments and
//! the number of frames are the same, and it is the other end that counts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ringlet_driver::features::Features;

use super::testpmd::{self, Directory, Stats, Testpmd};
use super::{Args, Measured, guest};
use crate::backend::options::VhostUser;
use crate::run::events::{Event, Events};
use crate::vhost_user::frontend;
use crate::vmm::console::{Record, Said};
use crate::vmm::machine::Start;
use crate::vmm::{GuestRam, Machine};
use crate::{image, virtio};

/// Bursts of 32 frames in circulation.
const BURSTS: usize = 16;
const FRAMES: usize = 32 * BURSTS;
/// After this time everybody is awake.
const WARM_UP: Duration = Duration::from_millis(300);
/// If nothing has come back by then, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);
/// Milliseconds between two words of the guest.
const STATUS_MS: u64 = 100;

/// Measures the guest's driver.
///
/// # Errors
/// If testpmd or the guest does not come up, or a frame comes back wrong.
pub fn ringlet(args: &Args, packed: bool) -> anyhow::Result<Measured> {
    let [theirs, _] = testpmd::processors()?;
    let directory = Directory::new()?;
    let socket = directory.join("vhost.sock");
    let mut other = Testpmd::start(&testpmd::vhost_port(&socket), "macswap", theirs)?;
    other.forward()?;

    let address = VhostUser { path: socket, server: false };
    let link = frontend::connect(&address, frontend::PATIENCE, &mut || false)?;
    let link = link.context("dpdk-testpmd does not listen")?;
    let image = image::load(args.kernel.as_deref())?;
    let mut machine = Machine::with_ram(GuestRam::shared(args.memory)?)?;
    let mask = if packed { Features::all() } else { Features::all() - Features::RING_PACKED };
    let device = virtio::Options { transport: args.transport, mask, ..virtio::Options::new(Box::new(|_| ())) };
    let device = frontend::attach(&mut machine, link, device)?;
    let events = Events::default();
    let command_line = format!("roundtrip={FRAMES} {} console=ringlet status={STATUS_MS}", device.command_line());
    let start = Start { image, command_line, module: None, said: events.sink(), ended: events.ended() };
    let running = machine.start(start)?;
    let measured = guest::until_ready(&events).and_then(|()| rate(args, &mut other));
    let negotiated = device.negotiated();
    // The guest's own opinion of the frames, given after the measurement.
    let told = measured.as_ref().ok().and_then(|_| told(&events));
    running.stop();
    let _ = running.join();
    device.end();
    let mut measured = measured?;
    ensure!(negotiated.contains(Features::RING_PACKED) == packed, "the rings are not what was asked for: {negotiated}");
    let told = told.context("the guest says nothing of its frames")?;
    ensure!(told.wrong == 0, "{} of {} frames came back wrong", told.wrong, told.returned);
    let refilled = told.injected.saturating_sub(FRAMES as u64);
    if refilled > 0 {
        measured.remark += &format!("  {refilled} frames were lost and replaced;");
    }
    measured.remark += &format!("  {negotiated}");
    Ok(measured)
}

/// Measures DPDK's driver.
///
/// # Errors
/// If one of both testpmds does not come up.
pub fn dpdk(args: &Args, packed: bool) -> anyhow::Result<Measured> {
    let [theirs, ours] = testpmd::processors()?;
    let directory = Directory::new()?;
    let socket = directory.join("vhost.sock");
    let mut other = Testpmd::start(&testpmd::vhost_port(&socket), "macswap", theirs)?;
    other.forward()?;
    let mut driver = Testpmd::start(&testpmd::virtio_port(&socket, packed), "io", ours)?;
    driver.forward_first(BURSTS)?;
    rate(args, &mut other)
}

/// How many packets a second come to the other end, once some do. In millions.
fn rate(args: &Args, other: &mut Testpmd) -> anyhow::Result<Measured> {
    let began = Instant::now();
    let at_first = other.stats()?.received;
    while other.stats()?.received <= at_first {
        if began.elapsed() > PATIENCE {
            bail!("no frame comes back");
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(WARM_UP);
    let before = other.stats()?;
    thread::sleep(args.time());
    let after = other.stats()?;
    Ok(Measured { value: between(&before, &after)?, remark: String::new() })
}

/// Millions of packets a second between two answers.
fn between(before: &Stats, after: &Stats) -> anyhow::Result<f64> {
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
        let stats = |received, ms| Stats { received, at: at + Duration::from_millis(ms) };
        assert_eq!(between(&stats(1_000_000, 0), &stats(4_000_000, 500)).unwrap(), 6.0);
        assert!(between(&stats(5, 0), &stats(5, 500)).is_err());
    }
}
