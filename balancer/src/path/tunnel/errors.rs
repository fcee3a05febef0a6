//! ICMP errors about a tunnel's packets: they come to us, who sent those, and are about what is inside.

use core::net::IpAddr;

use super::super::{Moment, tuple_of};
use super::header::{Carried, HEADER_V4, Kind, carried_by, source_port};
use crate::Balancer;
use crate::checksum::Sum;
use crate::connection::Direction;
use crate::frame::{ETHERNET, Ip, is_group, protocol};
use crate::icmp;
use crate::packet::{Packet, Reason, Verdict};

/// ICMP 3/4 and ICMPv6 2/0: a packet was too large.
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const TOO_BIG_V6: u8 = 2;

/// Whether an error is about a packet of a tunnel that is still configured so, and of a connection with this hash: where the
/// packet has what only those know who have seen it, that has to be right.
fn is_of(configured: Kind, carried: &Carried, hash: u32) -> bool {
    match (configured, carried.kind) {
        (Kind::Ipip, Kind::Ipip) | (Kind::Gre { .. }, Kind::Gre { .. }) => true,
        (Kind::Gue { port, .. }, Kind::Gue { port: to, .. }) => port == to && carried.source_port == source_port(hash),
        _ => false,
    }
}

impl Balancer {
    /// An ICMP message to one of our own addresses. What it tells of the MTU on the way to a destination is kept; as a packet
    /// that was in the tunnel had it, the error goes to the client (`ip_vs_in_icmp` in Linux). That is so for IPv4 in IPv4. Where
    /// the tunnel or what it carries is IPv6, the MTU is kept and nothing else, again as in Linux: the client is told when its next
    /// large packet comes. `None` if it is anything else, or nothing more is to be done.
    pub(in crate::path) fn tunnel_error(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        moment: &mut Moment<'_>,
    ) -> Result<Option<Verdict>, Reason> {
        let end = ip.end.min(packet.head.len());
        let message = packet.head.get(ip.payload..end).ok_or(Reason::Malformed)?;
        let Some((header, quote)) = icmp::error(message, ip.is_v6()) else { return Ok(None) };
        let Some(carried) = carried_by(quote).filter(|carried| carried.source == ip.destination) else {
            return Ok(None);
        };
        let inside = quote.get(carried.len..).unwrap_or_default();
        // Many routers quote no more than 8 bytes of what was in the tunnel's IP header.
        let Ok(Some(request)) = icmp::quoted(inside, carried.is_v6) else { return Ok(None) };
        let Some((place, Direction::Inbound)) = self.table.find(&tuple_of(&request)) else { return Ok(None) };
        let entry = self.table.get(place);
        let destination = entry.destination;
        let d = &self.services.pool[destination as usize];
        let is_ours = entry.is_tunnel()
            && d.key.address == carried.destination
            && is_of(Kind::of(&d.config.tunnel, false), &carried, entry.hashes[0]);
        if !is_ours || self.table.is_over(place, moment.now) || is_group(packet.head) {
            return Ok(None);
        }
        if ip.end > packet.head.len() || packet.offload.partial.is_some() {
            return Err(Reason::Malformed);
        }
        let pseudo = match ip.is_v6() {
            true => Sum::pseudo_header(ip.source, ip.destination, protocol::ICMPV6, message.len() as u32),
            false => Sum::ZERO,
        };
        if !pseudo.bytes(message).is_intact() {
            return Err(Reason::BadChecksum);
        }
        let [kind, code, _, _, info @ ..] = *header;
        let told = match (ip.is_v6(), kind, code) {
            (false, UNREACHABLE, FRAGMENTATION_NEEDED) => Some(u32::from(u16::from_be_bytes([info[2], info[3]]))),
            (true, TOO_BIG_V6, _) => Some(u32::from_be_bytes(info)),
            _ => None,
        };
        let dont_fragment = inside.get(6).is_some_and(|flags| flags & 0x40 != 0);
        if let Some(told) = told {
            let d = &mut self.services.pool[destination as usize];
            d.tunnel.learn_mtu(told, self.config.mtu, ip.is_v6(), moment.now);
            if !dont_fragment {
                return Ok(None);
            }
        }
        if ip.is_v6() || carried.is_v6 {
            return Ok(None);
        }
        let mut header = *header;
        if told.is_some() {
            let d = &mut self.services.pool[destination as usize];
            let mtu = d.tunnel.mtu(self.config.mtu, moment.now).saturating_sub(carried.kind.overhead(false) as u16);
            header[4..].copy_from_slice(&u32::from(mtu).to_be_bytes());
        }
        let service = inside.get(1).copied().unwrap_or(0);
        let bytes = ip.len() as u64;
        self.count(destination, |stats| {
            stats.out_packets += 1;
            stats.out_bytes += bytes;
        });
        self.relay(packet, ip, &carried, (header, service), (request.destination, request.source), moment).map(Some)
    }

    /// Makes an error about a tunnel's packet one about the packet in it, from the service to the client: what lies before the
    /// quote moves up to it.
    fn relay(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        carried: &Carried,
        (header, service): ([u8; icmp::HEADER], u8),
        (from, to): (IpAddr, IpAddr),
        moment: &mut Moment<'_>,
    ) -> Result<Verdict, Reason> {
        let way = self.routes.way(&to).ok_or(Reason::NoRoute)?;
        // The tunnel's headers are never shorter than those of the error.
        let start = (ip.payload + icmp::HEADER + carried.len)
            .checked_sub(ETHERNET + HEADER_V4 + icmp::HEADER)
            .ok_or(Reason::Malformed)?;
        let (old, frame) =
            packet.head.get_mut(..ip.end).and_then(|f| f.split_at_mut_checked(start)).ok_or(Reason::Malformed)?;
        let (Some(ethernet), Some(place), IpAddr::V4(from), IpAddr::V4(to_v4)) =
            (old.first_chunk::<ETHERNET>(), frame.first_chunk_mut::<ETHERNET>(), from, to)
        else {
            return Err(Reason::Malformed);
        };
        *place = *ethernet;
        if !self.errors.relay(&mut frame[ETHERNET..], header, service, (from, to_v4), moment.now, &mut self.counters) {
            return Err(Reason::Limited);
        }
        packet.start = start as i16;
        self.transmit(packet, way, &to, moment)
    }
}
