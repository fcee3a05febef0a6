//! Errors made here (RFC 792, RFC 1812 section 4.3, RFC 4443).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::is_error;
use crate::balancer::Counters;
use crate::checksum::{Sum, ipv4_header};
use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::frame::{ETHERNET, Fragment, Ip, protocol};
use crate::limit::TokenBucket;
use crate::neighbour::Outlet;
use crate::packet::Packet;
use crate::{Config, Instant};

/// Longest IPv4 error in bytes (RFC 1812 section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// Longest IPv6 error in bytes: the least MTU (RFC 4443 section 2.4 c).
const LONGEST_V6: usize = LEAST_MTU_V6 as usize;
/// Every link takes so much of IPv6 (RFC 8200 section 5).
pub(crate) const LEAST_MTU_V6: u16 = 1280;

const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
/// Bytes of an ICMP error before what it quotes.
const HEADER: usize = 8;
/// TTL and hop limit of errors.
const HOPS: u8 = 64;

/// Errors a second, and at once, as Linux's icmp_msgs_per_sec and icmp_msgs_burst.
const RATE: u32 = 1000;
const BURST: u32 = 50;

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// ICMP 3/3, ICMPv6 1/4: nobody serves the port.
    PortUnreachable,
    /// ICMP 3/1, ICMPv6 1/3: the next hop does not answer.
    HostUnreachable,
    /// ICMP 11/0, ICMPv6 3/0: TTL or hop limit ran out.
    TimeExceeded,
    /// ICMP 3/4, ICMPv6 2/0: the packet is larger than `mtu` bytes and must not be fragmented.
    TooBig {
        /// The largest IP packet in bytes.
        mtu: u16,
    },
}

impl Problem {
    /// The first 8 bytes of the message, without checksum.
    fn header(self, is_v6: bool) -> [u8; HEADER] {
        let (kind, code) = match (self, is_v6) {
            (Problem::PortUnreachable, false) => (3, 3),
            (Problem::PortUnreachable, true) => (1, 4),
            (Problem::HostUnreachable, false) => (3, 1),
            (Problem::HostUnreachable, true) => (1, 3),
            (Problem::TimeExceeded, false) => (11, 0),
            (Problem::TimeExceeded, true) => (3, 0),
            (Problem::TooBig { .. }, false) => (3, 4),
            (Problem::TooBig { .. }, true) => (2, 0),
        };
        let [a, b] = match self {
            // Nobody is to believe in less (RFC 8201 section 4).
            Problem::TooBig { mtu } if is_v6 => mtu.max(LEAST_MTU_V6).to_be_bytes(),
            Problem::TooBig { mtu } => mtu.to_be_bytes(),
            _ => [0, 0],
        };
        // The MTU has 16 bits in ICMP and 32 in ICMPv6, at the same end.
        [kind, code, 0, 0, 0, 0, a, b]
    }
}

/// Makes errors, not more of them than is good.
#[derive(Debug)]
pub(crate) struct Errors {
    mac: [u8; 6],
    /// Of the last IPv4 error.
    identification: u16,
    limit: TokenBucket,
    /// Path MTU discovery has its own, so that no flood of other errors stops it.
    limit_too_big: TokenBucket,
    /// Errors of others that are sent on: a client can make as many as it likes about its own packets in a tunnel, and is not
    /// to use up what others need.
    limit_relayed: TokenBucket,
}

impl Errors {
    /// None made yet.
    pub fn new(config: &Config) -> Self {
        let limit = TokenBucket::new(RATE, BURST);
        Errors {
            mac: config.mac,
            identification: config.seed[0] as u16,
            limit,
            limit_too_big: limit,
            limit_relayed: limit,
        }
    }

    /// Sends an error about a packet to its source, if one may be sent about it (RFC 1122 section 3.2.2, RFC 4443
    /// section 2.4 e) and not too many were sent.
    ///
    /// The packet must be as it came in, and `ip` what was read of it. The error goes back to the Ethernet address the
    /// packet came from. It is sent from the address the packet was sent to if that is one of ours or a virtual one
    /// (`is_to_us`), else from ours.
    #[cold]
    pub fn send(
        &mut self,
        about: &Packet<'_>,
        ip: &Ip,
        problem: Problem,
        is_to_us: bool,
        now: Instant,
        outlet: &mut Outlet<'_>,
    ) {
        let Some(ethernet) = about.head.first_chunk::<ETHERNET>() else { return };
        let source = if is_to_us { Some(ip.destination) } else { outlet.routes.source(ip.source) };
        let Some(source) = source.filter(|_| may_be_about(about.head, ip, outlet)) else { return };
        let limit = match problem {
            Problem::TooBig { .. } => &mut self.limit_too_big,
            _ => &mut self.limit,
        };
        if !limit.take(now) {
            outlet.counters.icmp_limited += 1;
            return;
        }
        let mut frame = [0; ETHERNET + LONGEST_V6];
        let [_, _, _, _, _, _, from @ .., _, _] = ethernet;
        frame[..6].copy_from_slice(from);
        frame[6..12].copy_from_slice(&self.mac);
        frame[12..14].copy_from_slice(&ethernet[12..14]);
        let packet = &mut frame[ETHERNET..];
        let len = match (source, ip.source) {
            (IpAddr::V4(source), IpAddr::V4(to)) => self.fill_v4(packet, about, ip, problem, (source, to)),
            (IpAddr::V6(source), IpAddr::V6(to)) => fill_v6(packet, about, ip, problem, (source, to)),
            _ => return,
        };
        outlet.sink.transmit(&frame[..ETHERNET + len]);
        outlet.counters.icmp_sent += 1;
    }

    /// Makes an error of somebody else about a packet of ours one about a packet of somebody else: writes the headers in front
    /// of the quote in an IPv4 packet, which is cut to what errors may have. `header` is that of the error, `service` the TOS of
    /// the quoted packet. Whether one may be sent, so many as were.
    pub fn relay(
        &mut self,
        packet: &mut [u8],
        header: [u8; HEADER],
        service: u8,
        ends: (Ipv4Addr, Ipv4Addr),
        now: Instant,
        counters: &mut Counters,
    ) -> bool {
        if packet.len() < HEADER_V4 + HEADER || !self.limit_relayed.take(now) {
            counters.icmp_limited += 1;
            return false;
        }
        let len = packet.len().min(LONGEST_V4);
        packet[HEADER_V4..HEADER_V4 + HEADER].copy_from_slice(&header);
        self.finish_v4(&mut packet[..len], service, ends);
        counters.icmp_sent += 1;
        true
    }

    fn fill_v4(
        &mut self,
        packet: &mut [u8],
        about: &Packet<'_>,
        ip: &Ip,
        problem: Problem,
        ends: (Ipv4Addr, Ipv4Addr),
    ) -> usize {
        let message = &mut packet[HEADER_V4..LONGEST_V4];
        let len = HEADER + quote(&mut message[HEADER..], about, ip);
        message[..HEADER].copy_from_slice(&problem.header(false));
        let service = about.head.get(ETHERNET + 1).copied().unwrap_or(0);
        self.finish_v4(&mut packet[..HEADER_V4 + len], service, ends);
        HEADER_V4 + len
    }

    /// Writes the IP header in front of a message, and the checksum of that.
    fn finish_v4(&mut self, packet: &mut [u8], service: u8, (source, to): (Ipv4Addr, Ipv4Addr)) {
        let (header, message) = packet.split_at_mut(HEADER_V4);
        let len = message.len();
        message[2..4].fill(0);
        let sum = Sum::ZERO.bytes(message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());

        self.identification = self.identification.wrapping_add(1);
        header[0] = 0x45;
        // Internetwork control, with the service that was asked for (RFC 1812 section 4.3.2.5).
        header[1] = 0xc0 | service & 0x1e;
        header[2..4].copy_from_slice(&((HEADER_V4 + len) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&self.identification.to_be_bytes());
        header[6..8].fill(0);
        header[8] = HOPS;
        header[9] = protocol::ICMP;
        header[12..16].copy_from_slice(&source.octets());
        header[16..20].copy_from_slice(&to.octets());
        let sum = ipv4_header(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn fill_v6(
    packet: &mut [u8],
    about: &Packet<'_>,
    ip: &Ip,
    problem: Problem,
    (source, to): (Ipv6Addr, Ipv6Addr),
) -> usize {
    let (header, message) = packet[..LONGEST_V6].split_at_mut(HEADER_V6);
    let len = HEADER + quote(&mut message[HEADER..], about, ip);
    let message = &mut message[..len];
    message[..HEADER].copy_from_slice(&problem.header(true));
    let pseudo = Sum::pseudo_header(source.into(), to.into(), protocol::ICMPV6, len as u32);
    let sum = pseudo.bytes(message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    header[0] = 0x60;
    header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    header[6] = protocol::ICMPV6;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&to.octets());
    HEADER_V6 + len
}

/// Whether an error may be sent about a packet: not about errors, not to or because of groups, and not about fragments
/// but the first.
fn may_be_about(head: &[u8], ip: &Ip, outlet: &Outlet<'_>) -> bool {
    let host = |address| match address {
        IpAddr::V4(a) => is_unicast_v4(a) && !outlet.routes.is_broadcast(a),
        IpAddr::V6(a) => is_unicast_v6(a),
    };
    let is_icmp = ip.protocol == if ip.is_v6() { protocol::ICMPV6 } else { protocol::ICMP };
    // A message without a type may be anything.
    let is_about_error = is_icmp && head.get(ip.payload).is_none_or(|&kind| ip.payload >= ip.end || is_error(kind, ip));
    let groups = [0, 6].into_iter().any(|at| head.get(at).is_none_or(|byte| byte & 1 != 0));
    ip.fragment != Fragment::Later
        && host(ip.source)
        && host(ip.destination)
        && !outlet.routes.is_own(ip.source)
        && !groups
        && !is_about_error
}

/// Copies the IP packet, as much as there is and fits. A checksum left to the device is completed in the copy, as it
/// would have been sent.
fn quote(room: &mut [u8], about: &Packet<'_>, ip: &Ip) -> usize {
    let packet = about.head.get(ETHERNET..ip.end.min(about.head.len())).unwrap_or_default();
    let len = packet.len().min(room.len());
    room[..len].copy_from_slice(&packet[..len]);
    if let Some(partial) = about.offload.partial
        && about.offload.gso_size == 0
        && let Some(bytes) = about.head.get(usize::from(partial.start)..ip.end)
        && let Some(at) = (usize::from(partial.start) + usize::from(partial.offset)).checked_sub(ETHERNET)
        && let Some(field) = room[..len].get_mut(at..at + 2)
    {
        let sum = match Sum::ZERO.bytes(bytes).checksum() {
            0 if ip.protocol == protocol::UDP => 0xffff,
            sum => sum,
        };
        field.copy_from_slice(&sum.to_be_bytes());
    }
    len
}
