//! The status page: plain text that reads well in a terminal and in a browser. The table is the one `ipvsadm -Ln` prints.

use alloc::string::String;
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};

use ringlet_balancer::{DestinationInfo, Family, Forward, Protocol, Reason, ServiceInfo, ServiceKey};

use super::Cursor;
use crate::record::Mac;
use crate::services::View;
use crate::status::{Loss, VERSION};

/// Appends the next part to `out`, about `piece` bytes of it. Returns whether that was all.
pub(crate) fn write(cursor: &mut Cursor, view: &View<'_>, out: &mut String, piece: usize) -> bool {
    // Writing to a `String` cannot fail, here and below.
    if cursor.section == 0 {
        let _ = summary(view, out);
        cursor.section = 1;
    }
    for service in view.balancer.services().skip(cursor.service) {
        if cursor.destination == 0 {
            let _ = service_line(&service, out);
        }
        let destinations = view.balancer.destinations(&service.key);
        for destination in destinations.into_iter().flatten().skip(cursor.destination) {
            let _ = destination_line(&destination, out);
            cursor.destination += 1;
            if out.len() >= piece {
                return false;
            }
        }
        cursor.service += 1;
        cursor.destination = 0;
        if out.len() >= piece {
            return false;
        }
    }
    true
}

fn summary(view: &View<'_>, out: &mut String) -> core::fmt::Result {
    let (facts, gauges, balancer) = (view.facts, view.gauges, &view.balancer);
    let counters = &gauges.counters;
    let seconds = gauges.now_ns / 1_000_000_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    writeln!(out, "Ringlet {VERSION} (build {})", facts.build_id)?;
    writeln!(out, "up        {days}d {hours:02}:{minutes:02}:{:02}", seconds % 60)?;
    write!(out, "addresses")?;
    for address in &facts.addresses {
        write!(out, " {address}")?;
    }
    let link = if gauges.link_up { "up" } else { "down" };
    let (mac, mtu) = (Mac(facts.mac), facts.mtu);
    writeln!(out, "\ndevice    virtio-net over {}, {mac}, mtu {mtu}, link {link}", facts.transport)?;
    writeln!(out, "features  {}", facts.features)?;
    writeln!(out, "received  {} frames, {} bytes", counters.rx_frames, counters.rx_bytes)?;
    writeln!(out, "sent      {} frames, {} bytes", counters.tx_frames, counters.tx_bytes)?;
    let (total, rates) = (balancer.total(), balancer.rates());
    writeln!(
        out,
        "balanced  {} connections, {} packets in, {} packets out",
        total.connections, total.in_packets, total.out_packets
    )?;
    writeln!(
        out,
        "rates     {} connections/s, {} packets/s in, {} packets/s out, {} bytes/s in, {} bytes/s out",
        rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes
    )?;
    writeln!(out, "table     {} of {} connections", balancer.connections(), balancer.capacity())?;
    writeln!(out, "buffers   {} of {} free", gauges.buffers_free, gauges.buffers)?;
    writeln!(out, "heap      {} of {} KiB used", gauges.heap.used >> 10, gauges.heap.total >> 10)?;
    let drops = Reason::ALL.iter().map(|&r| (r.label(), balancer.counters().dropped[r as usize]));
    let lost = Loss::ALL.iter().map(|&l| (l.label(), counters.lost[l as usize]));
    write!(out, "dropped  ")?;
    let mut any = false;
    for (label, count) in drops.chain(lost).filter(|&(_, count)| count != 0) {
        write!(out, " {label} {count}")?;
        any = true;
    }
    writeln!(out, "{}", if any { "" } else { " nothing" })?;
    writeln!(out, "\nProt LocalAddress:Port Scheduler")?;
    writeln!(out, "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")
}

fn service_line(service: &ServiceInfo, out: &mut String) -> core::fmt::Result {
    let scheduler = service.config.scheduler.name();
    match service.key {
        ServiceKey::Address { protocol, address, port } => {
            let protocol = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                _ => "SCTP",
            };
            writeln!(out, "{protocol}  {} {scheduler}", SocketAddr::new(address, port))
        }
        ServiceKey::Mark { family: Family::V4, mark } => writeln!(out, "FWM  {mark} {scheduler}"),
        ServiceKey::Mark { family: Family::V6, mark } => writeln!(out, "FWM  {mark} IPv6 {scheduler}"),
    }
}

fn destination_line(destination: &DestinationInfo, out: &mut String) -> core::fmt::Result {
    let address = EndPoint(destination.key.address, destination.key.port);
    let forward = match destination.config.forward {
        Forward::Masquerade => "Masq",
        Forward::Direct => "Route",
        Forward::Tunnel => "Tunnel",
        Forward::Local => "Local",
        Forward::Bypass => "Bypass",
    };
    writeln!(
        out,
        "  -> {address:<28} {forward:<7} {:<6} {:<10} {}",
        destination.config.weight, destination.active, destination.inactive
    )
}

/// An address with its port, which unlike [`SocketAddr`] minds the width.
struct EndPoint(IpAddr, u16);

impl core::fmt::Display for EndPoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Pads by itself: `SocketAddr` pads only with its own buffer, which is what is wanted.
        core::fmt::Display::fmt(&SocketAddr::new(self.0, self.1), f)
    }
}
