//! What the kernel forwards: the same small frames as the guest is given, through a router made of a namespace. One processor
//! makes the frames, another one forwards them, as the device's thread and the vCPU do for the guest.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::round_trip::processors;
use crate::backend::generator::Load;
use crate::bench::case::{Measured, Missing};
use crate::bench::net::inject::Injector;
use crate::bench::net::path::{SERVER, SERVICE, ipvs, router};
use crate::bench::net::{Namespace, Way};
use crate::bench::peers::nftables;
use crate::bench::{Args, stop};

/// Tables are in the caches after this time.
const WARM_UP: Duration = Duration::from_millis(300);
/// A kernel that has not taken all flows by then will not.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most connections that the kernel tracks, for all namespaces together.
const LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// The servers, in turn: as many as the guest has.
const SERVERS: u8 = 3;

/// Measures how many UDP frames of 64 bytes of so many clients the kernel forwards, in millions a second.
///
/// # Errors
/// [`Missing`] without root, or what the way needs; or if too little arrives.
pub fn forward(args: &Args, way: Way, flows: u32) -> anyhow::Result<Measured> {
    let [sender, forwarder] = processors(args)?;
    let (client, server) = (Namespace::new()?, Namespace::new()?);
    let middle = router(&client, &server)?;
    let servers: Vec<SocketAddrV4> = (0..SERVERS)
        .map(|nth| {
            let [a, b, c, d] = SERVER.ip().octets();
            SocketAddrV4::new([a, b, c, d + nth].into(), SERVER.port())
        })
        .collect();
    match way {
        Way::Nftables => {
            limit(&middle, flows)?;
            nftables::balance(&middle, &SERVICE, &servers)?;
        }
        Way::Ipvs => ipvs(&middle, &SERVICE, &servers)?,
        other => bail!("{other:?} is not the kernel's"),
    }
    // Nobody answers for the other two servers: their frames are counted before they are looked at.
    server.ip("link set eth0 address 02:00:00:00:00:0b")?;
    for server in &servers {
        middle.ip(&format!("neighbour replace {} lladdr 02:00:00:00:00:0b dev server nud permanent", server.ip()))?;
    }
    nftables::count(&server, "eth0", SERVER.port())?;
    let load = Load {
        flows,
        service: SERVICE.into(),
        servers: servers.iter().map(|server| (*server).into()).collect(),
        ..Load::default()
    };
    let [a, b, c, d, e, f] = load.guest;
    middle.ip(&format!("link set client address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))?;
    // Where the kernel cannot, the processor that sends forwards as well.
    middle.steer("client", forwarder).context("the forwarder has no processor of its own")?;

    let injector = Injector::start(&client, "eth0", &load, sender)?;
    let began = Instant::now();
    while nftables::counted(&server)? < u64::from(flows) {
        if began.elapsed() > PATIENCE {
            let (sent, counted) = (injector.sent(), nftables::counted(&server)?);
            injector.end()?;
            bail!("too little is forwarded: {counted} of {sent} frames");
        }
        stop::pause(Duration::from_millis(20))?;
    }
    stop::pause(WARM_UP)?;
    let look = || anyhow::Ok((injector.sent(), nftables::counted(&server)?, Instant::now()));
    let before = look()?;
    stop::pause(args.time())?;
    let after = look()?;
    injector.end()?;
    let time = (after.2 - before.2).as_secs_f64();
    let (sent, forwarded) = (after.0 - before.0, after.1 - before.1);
    ensure!(forwarded > 0, "nothing is forwarded any more");
    let lost = sent.saturating_sub(forwarded) as f64 / sent.max(1) as f64 * 100.0;
    let limit = if lost < 1.0 { "; the sender was the limit" } else { "" };
    let remark = format!("lost {lost:.1} %, of {:.3} Mpps sent{limit}", sent as f64 / time / 1e6);
    Ok(Measured::one(forwarded as f64 / time / 1e6, remark))
}

/// Whether the kernel tracks that many connections. The limit is the whole host's: it is not for us to change.
fn limit(namespace: &Namespace, flows: u32) -> anyhow::Result<()> {
    let most = namespace.run(|| std::fs::read_to_string(LIMIT).with_context(|| format!("cannot read {LIMIT}")))?;
    let most: u64 = most.trim().parse().context("net.netfilter.nf_conntrack_max")?;
    let needed = u64::from(flows) + u64::from(flows) / 8;
    if most < needed {
        let to = needed.next_power_of_two();
        return Err(Missing(format!(
            "the host tracks {most} connections at most; to measure this: sysctl -w net.netfilter.nf_conntrack_max={to}"
        ))
        .into());
    }
    Ok(())
}
