//! What the guest forwards when dpdk-testpmd makes the frames and serves its queues (vhost-user): nothing of the host's side is
//! ours.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::forward;
use super::round_trip::processors;
use crate::backend::generator::{Frames, Load};
use crate::bench::case::Measured;
use crate::bench::guest::{Elsewhere, Plan};
use crate::bench::peers::Scratch;
use crate::bench::peers::testpmd::{self, Testpmd};
use crate::bench::{Args, stop};

/// Everybody is awake, and all neighbours are known, after this time.
const WARM_UP: Duration = Duration::from_millis(500);
/// The fewest frames that are sent again and again.
const LEAST: u32 = 10_000;
/// A guest that forwards nothing by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures how many UDP frames of 64 bytes of so many clients come back to testpmd, in millions a second.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) if testpmd is not installed; or if nothing comes back.
pub fn forward(args: &Args, flows: u32) -> anyhow::Result<Measured> {
    let [theirs, ours] = processors(args)?;
    let load = Load { flows, ..Load::default() };
    let scratch = Scratch::new()?;
    let (file, socket) = (scratch.join("frames.pcap"), scratch.join("vhost.sock"));
    let made = frames(&load)?;
    testpmd::write_pcap(&file, &made).context("the frames for dpdk-testpmd")?;
    // The frames are read once, and sent again and again.
    let source = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let buffers = format!("--total-num-mbufs={}", 16_384 + 2 * made.len());
    let arguments = ["--forward-mode=io", "--nb-cores=1", &buffers, "--rxd=1024", "--txd=1024"];
    let mut other = Testpmd::start(&scratch, [theirs; 2], &[&source, &testpmd::vhost_port(&socket)], &arguments)?;
    let plan = Plan { rules: forward::rules(&load), ..forward::with_room(args, flows) };
    let guest = Elsewhere::boot(args, &socket, ours, plan)?;
    other.forward()?;
    let began = Instant::now();
    while other.packets(1)?.received <= u64::from(flows) {
        if began.elapsed() > PATIENCE {
            bail!("nothing comes back: {:?}", other.packets(1)?);
        }
        stop::pause(Duration::from_millis(10))?;
    }
    stop::pause(WARM_UP)?;
    let before = other.packets(1)?;
    stop::pause(args.time())?;
    let after = other.packets(1)?;
    let negotiated = guest.negotiated();
    guest.end();
    let time = (after.at - before.at).as_secs_f64();
    let (came, went) = (after.received - before.received, after.sent - before.sent);
    ensure!(came > 0, "nothing comes back any more");
    let remark = format!("{:.3} Mpps to the guest; {negotiated}", went as f64 / time / 1e6);
    Ok(Measured::one(came as f64 / time / 1e6, remark))
}

/// Frames of all flows in turn, and what the guest is to know of its neighbours, whom nobody else speaks for. That comes round with the
/// frames and goes nowhere, so that there must be many of these.
fn frames(load: &Load) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut frames = Frames::new(load)?;
    let neighbours = load.servers.iter().map(|server| server.ip()).chain([load.gateway]);
    let mut all: Vec<_> = neighbours.filter_map(|address| load.announcement(address, GUEST)).collect();
    all.extend((0..load.flows.max(LEAST)).map(|_| frames.next_frame().to_vec()));
    Ok(all)
}

/// The guest's own address.
const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_come_first() {
        let frames = frames(&Load { flows: 5, ..Load::default() }).unwrap();
        assert_eq!(frames.len(), 4 + 10_000, "neighbours are hardly ever told of");
        // ARP, an answer, from 10.0.0.11, to the guest.
        assert_eq!(frames[0][12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!((&frames[0][28..32], &frames[0][38..42]), (&[10, 0, 0, 11][..], &[10, 0, 0, 2][..]));
        assert!(frames[4..].iter().all(|frame| frame[12..14] == [8, 0]));
        // Addresses and ports.
        let flow = |nth: usize| &frames[nth][26..38];
        assert!(flow(4) == flow(9) && (5..9).all(|nth| flow(nth) != flow(4)), "five flows in turn");
    }
}
