//! Forwarding by a tunnel: the packet goes to its destination as it is, but for a hop, in a packet from us to there. The
//! destination may be anywhere, and of either family; replies go to the client on their own way (`ip_vs_tunnel_xmit` in Linux).

mod errors;
mod header;

use core::net::IpAddr;
use core::time::Duration;

use super::{Decision, Moment, nat};
use crate::Balancer;
use crate::checksum::Delta;
use crate::frame::{ETHERNET, IPV4, IPV6, Ip};
use crate::packet::{Offload, Packet, Reason, Verdict};
use crate::service::Tunnel;
use crate::time::Instant;
use header::{Ends, Inner, Kind, carried_by};

/// The least MTU that is believed in, by family of the tunnel: what is said to be less counts as this
/// (net.ipv4.route.min_pmtu, RFC 8200 section 5).
const LEAST_PATH_MTU: [u16; 2] = [552, 1280];
/// The least that must fit into a tunnel's packet; else it is none to Linux, which wants 1280 of a tunnel over IPv6: we do not,
/// or one forged error could stop a tunnel altogether.
const LEAST_INSIDE: u16 = 68;
/// How long an MTU is believed in that was told by a router (net.ipv4.route.mtu_expires, net.ipv6.route.mtu_expires).
const PATH_MTU_EXPIRES: Duration = Duration::from_secs(600);

/// What there is to know of the tunnel to a destination, beside what is configured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TunnelEnd {
    /// Our address on the way there, once it was looked for.
    source: Option<IpAddr>,
    /// Both ends, if they are IPv4, once there was a packet to it in IPv4 directly.
    ipip: Option<[u32; 2]>,
    /// The MTU that a router has told of, and until when it is believed.
    path_mtu: Option<(u16, Instant)>,
    /// Of the last packet that may be fragmented.
    identification: u16,
}

impl TunnelEnd {
    /// The largest packet that gets there, if the network here takes `mtu`.
    #[inline]
    fn mtu(&self, mtu: u16, now: Instant) -> u16 {
        match self.path_mtu {
            Some((path, until)) if now < until => mtu.min(path),
            _ => mtu,
        }
    }

    /// A router has told of the MTU on the way. It may have been less before, and then that is still true.
    fn learn_mtu(&mut self, told: u32, is_v6: bool, now: Instant) {
        let told = u16::try_from(told).unwrap_or(u16::MAX).max(LEAST_PATH_MTU[usize::from(is_v6)]);
        self.path_mtu = Some((self.mtu(told, now), now + PATH_MTU_EXPIRES));
    }
}

/// TOS or traffic class of a packet behind an Ethernet header.
#[inline]
fn service(head: &[u8], is_v6: bool) -> u8 {
    match head.get(ETHERNET..).and_then(|packet| packet.first_chunk()) {
        Some(&[a, b]) if is_v6 => a << 4 | b >> 4,
        Some(&[_, b]) => b,
        None => 0,
    }
}

impl Balancer {
    /// Sends a packet by the tunnel to its destination. `headers` is the length of what each segment of a super-frame repeats of
    /// it, `place` its connection's.
    pub(super) fn tunnel(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        headers: usize,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let entry = self.table.get(place);
        let (destination, hash) = (entry.destination as usize, entry.hashes[0]);
        if self.ipip(packet, ip, destination).is_some() {
            return Ok(Verdict::Transmit);
        }
        let d = &self.services.pool[destination];
        let to = d.key.address;
        // IP fragments of a datagram share its checksum, which only the first has.
        let is_partial = packet.offload.partial.is_some() && !packet.offload.fragments;
        let kind = Kind::of(&d.config.tunnel, is_partial);
        let overhead = kind.overhead(to.is_ipv6());
        let outside = d.tunnel.mtu(self.config.mtu, moment.now);
        // Both are far less than what is left.
        let mtu = outside.saturating_sub(overhead as u16);
        if mtu < LEAST_INSIDE {
            return Err(Reason::TooBig);
        }
        let dont_fragment = !ip.is_v6() && ip.dont_fragment && self.sysctls.pmtu_disc != 0;
        // Between IPv4 and IPv4 the tunnel's packet may be fragmented where the one in it might have been.
        let in_fragments = !dont_fragment
            && !ip.is_v6()
            && !to.is_ipv6()
            && packet.offload.gso_size == 0
            && ip.len() > usize::from(mtu)
            && ip.len() + overhead <= usize::from(u16::MAX);
        self.may_pass(packet, ip, headers, if in_fragments { u16::MAX } else { mtu }, moment)?;
        let way = self.route_to(packet, ip, destination as u32, &to, moment)?;
        let Some(start) = packet.room.len().checked_sub(overhead) else { return Err(Reason::NoRoom) };
        let tunnel = &mut self.services.pool[destination].tunnel;
        let source = match tunnel.source {
            Some(source) => source,
            None => {
                let source = self.routes.source(to).ok_or(Reason::NoRoute)?;
                *tunnel.source.insert(source)
            }
        };
        if !dont_fragment && !to.is_ipv6() {
            let packets = match packet.offload.gso_size {
                0 => 1,
                size => ip.len().div_ceil(size.into()) as u16,
            };
            tunnel.identification = tunnel.identification.wrapping_add(packets);
        }
        let inner = Inner {
            is_v6: ip.is_v6(),
            len: ip.len(),
            hops: ip.hops.saturating_sub(1),
            service: service(packet.head, ip.is_v6()),
            dont_fragment,
            identification: tunnel.identification ^ self.config.seed[1] as u16,
            hash,
        };
        let Packet { head, room, offload, len, .. } = packet;
        let room = &mut room[start..];
        match (kind, source, to, room.first_chunk_mut(), head.first_chunk_mut()) {
            (Kind::Ipip, IpAddr::V4(source), IpAddr::V4(to), Some(room), Some(ethernet)) => {
                if let Some(partial) = &mut offload.partial {
                    partial.start = partial.start.checked_add(overhead as u16).ok_or(Reason::Malformed)?;
                }
                let ethernet: &mut [u8; ETHERNET] = ethernet;
                let (ends, [addresses @ .., _, _]) = ([source.to_bits(), to.to_bits()], *ethernet);
                tunnel.ipip = Some(ends);
                header::ipip_v4(room, ethernet, addresses, ends, &inner);
                nat::decrement_hops(head, ip)?;
            }
            _ => {
                // First, since it may be summed.
                nat::decrement_hops(head, ip)?;
                header::any(room, head, *len, offload, (kind, Ends { source, destination: to }), &inner)?;
            }
        }
        packet.start = -(overhead as i16);
        if in_fragments {
            packet.fragment = (outside - header::HEADER_V4 as u16) & !7;
        }
        self.transmit_to(packet, destination as u32, way, &to, moment)
    }

    /// Sends a packet as most are: IPv4 in IPv4 directly, to a destination to which the way is known, and with nothing about it
    /// that is to be thought of. The same as [`Balancer::tunnel`] does, in a third of the steps; `None` for all else, and then
    /// nothing was done.
    #[inline(always)]
    fn ipip(&self, packet: &mut Packet<'_>, ip: &Ip, destination: usize) -> Option<()> {
        let d = &self.services.pool[destination];
        let ends = d.tunnel.ipip?;
        let (_, mac) = d.hop.get(self.neighbours.generation())?;
        let is_plain = d.config.tunnel.kind == Tunnel::IPIP
            && d.tunnel.path_mtu.is_none()
            && ip.dont_fragment
            && self.sysctls.pmtu_disc != 0
            && ip.hops > 1
            && ip.len() + header::HEADER_V4 <= usize::from(self.config.mtu)
            && packet.offload == Offload { data_valid: packet.offload.data_valid, ..Offload::default() };
        if !is_plain || ip.is_v6() {
            return None;
        }
        let room = packet.room.last_chunk_mut()?;
        let (ethernet, rest) = packet.head.split_first_chunk_mut()?;
        let inside = rest.first_chunk_mut::<{ header::HEADER_V4 }>()?;
        let hops = ip.hops - 1;
        nat::set_hops_v4(inside, hops, Delta::ZERO);
        let inner = Inner {
            is_v6: false,
            len: ip.len(),
            hops,
            service: inside[1],
            dont_fragment: true,
            identification: 0,
            hash: 0,
        };
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (mac, self.config.mac);
        header::ipip_v4(room, ethernet, [a, b, c, d, e, f, g, h, i, j, k, l], ends, &inner);
        packet.start = -(header::HEADER_V4 as i16);
        Some(())
    }

    /// Takes a packet out of the tunnel's packet that this balancer has put it into: `packet` begins with an Ethernet header of
    /// the same addresses then, and `offload` is about it. Whether it was one.
    pub(super) fn unwrap<'a>(&self, packet: &'a mut Packet<'_>) -> Option<Packet<'a>> {
        let carried = carried_by(packet.head.get(ETHERNET..)?)?;
        if !self.routes.is_own(carried.source) {
            return None;
        }
        let mut offload = packet.offload;
        offload.partial = match (offload.partial, carried.kind) {
            (Some(mut partial), _) => {
                // What does not reach into the inner packet was the tunnel's own.
                let start = usize::from(partial.start).checked_sub(carried.len).filter(|&start| start > ETHERNET);
                start.map(|start| {
                    partial.start = start as u16;
                    partial
                })
            }
            (None, _) => None,
        };
        let (addresses, head) = packet.head.split_at_mut_checked(carried.len)?;
        let ethernet = head.first_chunk_mut::<ETHERNET>()?;
        ethernet[..12].copy_from_slice(addresses.get(..12)?);
        ethernet[12..].copy_from_slice(&if carried.is_v6 { IPV6 } else { IPV4 }.to_be_bytes());
        let len = packet.len.saturating_sub(carried.len).max(head.len());
        Some(Packet { len, offload, ..Packet::new(head) })
    }
}
