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
use crate::icmp::LEAST_MTU_V6;
use crate::packet::{Offload, Packet, Reason, Verdict};
use crate::service::Tunnel;
use crate::time::Instant;
use header::{Ends, Inner, Kind, carried_by};

/// What a router says to be less counts as this over IPv4 (net.ipv4.route.min_pmtu).
const LEAST_PATH_MTU_V4: u16 = 552;
/// The least that must fit into a tunnel's packet on the network here; else it is none (to Linux too).
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
    /// The MTU that a router has told of, less than that of the network here, and until when it is believed.
    path_mtu: Option<(u16, Instant)>,
    /// Of the last packet that may be fragmented.
    identification: u16,
}

impl TunnelEnd {
    /// The largest packet that gets there, if the network here takes `mtu`. What is not believed any more is forgotten.
    #[inline]
    fn mtu(&mut self, mtu: u16, now: Instant) -> u16 {
        self.path_mtu.take_if(|&mut (_, until)| now >= until);
        self.path_mtu.map_or(mtu, |(path, _)| mtu.min(path))
    }

    /// A router has told of the MTU on the way, where the network here takes `mtu`. It may have been less before, and then that is
    /// still true, for as long as it was.
    fn learn_mtu(&mut self, told: u32, mtu: u16, is_v6: bool, now: Instant) {
        let told = match u16::try_from(told) {
            Ok(told) if !is_v6 => told.max(LEAST_PATH_MTU_V4),
            // Less is not to be believed (RFC 8201 section 4).
            Ok(told) if told >= LEAST_MTU_V6 => told,
            _ => return,
        };
        if told < mtu && told <= self.mtu(mtu, now) {
            self.path_mtu = Some((told, now + PATH_MTU_EXPIRES));
        }
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
        self.tunnel_to(packet, ip, headers, (entry.destination as usize, entry.hashes[0]), moment)
    }

    /// Sends a packet by the tunnel to a destination. `hash` is that of its connection.
    #[inline(always)]
    pub(super) fn tunnel_to(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        headers: usize,
        (destination, hash): (usize, u32),
        moment: &mut Moment<'_>,
    ) -> Decision {
        if self.ipip(packet, ip, destination).is_some() {
            return Ok(Verdict::Transmit);
        }
        let d = &self.services.pool[destination];
        let to = d.key.address;
        // IP fragments of a datagram share its checksum, which only the first has.
        let is_partial = packet.offload.partial.is_some() && !packet.offload.fragments;
        let kind = Kind::of(&d.config.tunnel, is_partial);
        // The most is 60.
        let overhead = kind.overhead(to.is_ipv6()) as u16;
        let mut outside = self.services.pool[destination].tunnel.mtu(self.config.mtu, moment.now);
        if ip.is_v6() {
            // Who sends IPv6 sends so much whatever it is told. In IPv4 a router fragments it then (RFC 4213 section 3.2.1), and
            // no error, which anybody may have made, stops it.
            outside = outside.max(self.config.mtu.min(LEAST_MTU_V6 + overhead));
        }
        let inside = outside.saturating_sub(overhead);
        if inside < LEAST_INSIDE {
            return Err(Reason::TooBig);
        }
        let dont_fragment = !ip.is_v6() && ip.dont_fragment && self.sysctls.pmtu_disc != 0;
        // The tunnel's packet may be fragmented over IPv4 where the one in it might have been, or is as small as IPv6 can be made.
        let most = if ip.is_v6() { LEAST_MTU_V6 } else { u16::MAX - overhead };
        let in_fragments = !dont_fragment
            && !to.is_ipv6()
            && packet.offload.gso_size == 0
            && ip.len() > usize::from(inside)
            && ip.len() <= usize::from(most);
        let mtu = if in_fragments { most } else { inside };
        self.may_pass(packet, ip, headers, mtu, moment)?;
        let way = self.route_to(packet, ip, destination as u32, &to, moment)?;
        let Some(start) = packet.room.len().checked_sub(overhead.into()) else { return Err(Reason::NoRoom) };
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
        if let (Kind::Ipip, IpAddr::V4(source), IpAddr::V4(to)) = (kind, source, to) {
            tunnel.ipip = Some([source.to_bits(), to.to_bits()]);
        }
        // First, since it may be summed.
        nat::decrement_hops(packet.head, ip)?;
        let Packet { head, room, offload, len, .. } = packet;
        header::any(&mut room[start..], head, *len, offload, (kind, Ends { source, destination: to }), &inner)?;
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
            && ip.dont_fragment
            && self.sysctls.pmtu_disc != 0
            && ip.hops > 1
            && ip.len() + header::HEADER_V4 <= usize::from(self.config.mtu)
            && d.tunnel.path_mtu.is_none_or(|(path, _)| ip.len() + header::HEADER_V4 <= usize::from(path))
            && packet.offload == Offload { data_valid: packet.offload.data_valid, ..Offload::default() };
        if !is_plain || ip.is_v6() {
            return None;
        }
        let room = packet.room.last_chunk_mut()?;
        let (ethernet, rest) = packet.head.split_first_chunk_mut()?;
        let inside = rest.first_chunk_mut::<{ header::HEADER_V4 }>()?;
        let hops = ip.hops - 1;
        nat::set_hops_v4(inside, hops, Delta::ZERO);
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (mac, self.config.mac);
        let addresses = [a, b, c, d, e, f, g, h, i, j, k, l];
        header::ipip_v4(room, ethernet, addresses, ends, (ip.len(), hops, inside[1]));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_less_than_there_is_here_is_learnt_and_it_is_forgotten_in_time() {
        let at = |seconds: u64| Instant::from_secs(1000 + seconds);
        for (is_v6, least, nonsense) in [(false, 552, None), (true, 1280, Some(1279))] {
            let mut end = TunnelEnd::default();
            for told in [1500, 1501, 65535, 65536, u32::MAX].into_iter().chain(nonsense) {
                end.learn_mtu(told, 1500, is_v6, at(0));
                assert_eq!(end.path_mtu, None, "{told}");
            }
            end.learn_mtu(least, 1500, is_v6, at(0));
            // More than is believed does not make that last longer.
            end.learn_mtu(1400, 1500, is_v6, at(300));
            assert_eq!(u32::from(end.mtu(1500, at(599))), least);
            assert_eq!((end.mtu(1500, at(600)), end.path_mtu), (1500, None), "as if nothing had been said");
        }
        let mut end = TunnelEnd::default();
        end.learn_mtu(0, 1500, false, at(0));
        assert_eq!(end.mtu(1500, at(0)), 552);
    }
}
