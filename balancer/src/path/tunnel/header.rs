//! What a tunnel puts in front of a packet: an IP header, and what GUE (draft-ietf-intarea-gue-09) and GRE (RFC 2784) have
//! between that and the packet.

use core::net::IpAddr;

use crate::checksum::Sum;
use crate::frame::{ETHERNET, IPV4, IPV6, protocol};
use crate::packet::{Offload, Partial, Reason};
use crate::service::Tunnel;

/// IP packets in an IP packet, by the version of the inner one (RFC 2003, RFC 2473, RFC 4213).
const IPIP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

pub(super) const HEADER_V4: usize = 20;
pub(super) const HEADER_V6: usize = 40;
const UDP: usize = 8;
/// GUE's header without optional fields, and with the private flags and remote checksum offload among them.
const GUE: usize = 4;
const GUE_REMOTE: usize = GUE + 8;
/// In GUE's flags: private flags follow; in these: remote checksum offload.
const GUE_PRIVATE: u16 = 1;
const GUE_PRIVATE_REMOTE: u16 = 0x8000;
/// GRE's header without a checksum, and with one.
const GRE: usize = 4;
const GRE_CHECKSUM: usize = 8;
/// In GRE's flags: there is a checksum.
const GRE_CHECKSUM_PRESENT: u16 = 0x8000;

/// The most bytes that are put in front of a packet.
pub(super) const MOST: usize = HEADER_V6 + UDP + GUE_REMOTE;

const DONT_FRAGMENT: u16 = 0x4000;

/// What lies between the two IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Ipip,
    /// UDP to this port, and GUE.
    Gue {
        port: u16,
        /// UDP has a checksum.
        checksum: bool,
        /// A transport checksum that is not complete is completed at the other end.
        remote: bool,
    },
    /// GRE.
    Gre {
        /// It has a checksum.
        checksum: bool,
    },
}

impl Kind {
    /// The kind of a configured tunnel, for a packet whose checksum is complete or not.
    #[inline]
    pub fn of(tunnel: &Tunnel, is_partial: bool) -> Self {
        match tunnel.kind {
            Tunnel::GUE => {
                let remote = tunnel.flags & Tunnel::REMOTE_CHECKSUM != 0;
                // Linux has UDP's checksum with it in any case.
                let checksum = remote || tunnel.flags & Tunnel::CHECKSUM != 0;
                Kind::Gue { port: tunnel.port, checksum, remote: remote && is_partial }
            }
            Tunnel::GRE => Kind::Gre { checksum: tunnel.flags & Tunnel::CHECKSUM != 0 },
            _ => Kind::Ipip,
        }
    }

    /// Bytes between the two IP headers.
    #[inline]
    const fn len(self) -> usize {
        match self {
            Kind::Ipip => 0,
            Kind::Gue { remote, .. } => UDP + if remote { GUE_REMOTE } else { GUE },
            Kind::Gre { checksum } => {
                if checksum {
                    GRE_CHECKSUM
                } else {
                    GRE
                }
            }
        }
    }

    /// Bytes that are put in front of a packet.
    #[inline]
    pub const fn overhead(self, is_v6: bool) -> usize {
        self.len() + if is_v6 { HEADER_V6 } else { HEADER_V4 }
    }
}

/// The ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// What is told of the packet to whoever carries it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    pub is_v6: bool,
    /// Bytes of the packet.
    pub len: usize,
    /// TTL or hop limit that it has now.
    pub hops: u8,
    /// TOS or traffic class.
    pub service: u8,
    /// The tunnel's packet may not be fragmented.
    pub dont_fragment: bool,
    /// Of a packet that may be.
    pub identification: u16,
    /// Of its connection.
    pub hash: u32,
}

/// The outer TOS or traffic class: the inner one, but that congestion already experienced stays inside (RFC 3168 section
/// 9.1.1, full functionality).
#[inline]
fn outer_service(service: u8) -> u8 {
    if service & 3 == 3 { service & !1 } else { service }
}

/// The number of a packet in an IP header.
#[inline]
fn carried(is_v6: bool) -> u8 {
    if is_v6 { IPV6_IN_IP } else { IPIP }
}

/// Writes Ethernet header, with these two addresses, and IPv4 header of a packet that carries another one of IPv4 directly, and
/// that may not be fragmented: what [`any`] writes too. The first lies in `room`, and the second in what is left of that and
/// `head`, the place of the inner packet's Ethernet header. The inner packet is told of by its length, TTL and TOS.
///
/// Most frames that come here come by this: all is stored where it is to lie, and in whole words.
#[inline(always)]
pub(super) fn ipip_v4(
    room: &mut [u8; HEADER_V4],
    head: &mut [u8; ETHERNET],
    addresses: [u8; 12],
    [source, destination]: [u32; 2],
    (len, hops, service): (usize, u8, u8),
) {
    let total = (HEADER_V4 + len).min(usize::from(u16::MAX)) as u32;
    let first = 0x4500_0000 | u32::from(outer_service(service)) << 16 | total;
    let second = u32::from(DONT_FRAGMENT);
    let third = u32::from(hops) << 24 | u32::from(IPIP) << 16;
    let sum = [first, second, third, source, destination].into_iter().fold(Sum::ZERO, Sum::long).checksum();
    room[..12].copy_from_slice(&addresses);
    room[12..14].copy_from_slice(&IPV4.to_be_bytes());
    room[14..18].copy_from_slice(&first.to_be_bytes());
    room[18..20].fill(0);
    head[..2].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    head[2..6].copy_from_slice(&(third | u32::from(sum)).to_be_bytes());
    head[6..10].copy_from_slice(&source.to_be_bytes());
    head[10..14].copy_from_slice(&destination.to_be_bytes());
}

/// A header in the making.
struct Writer {
    bytes: [u8; ETHERNET + MOST],
    len: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        // `MOST` is the most there is to put.
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn word(&mut self, word: u16) {
        self.put(&word.to_be_bytes());
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.put(&a.octets()),
            IpAddr::V6(a) => self.put(&a.octets()),
        }
    }

    fn set(&mut self, at: usize, word: u16) {
        if let Some(place) = self.bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// Puts the headers of any tunnel in front of a packet that lies in `head` behind its Ethernet header. Their first bytes go to
/// the end of `room`, which must be long enough, and the last ones over that Ethernet header. `len` is that of the frame.
/// `offload` becomes that of the new frame.
///
/// # Errors
/// [`Reason::Malformed`] if a checksum cannot be made: what it is about is not there, or the place of a partial checksum is
/// none; [`Reason::NoRoom`]. Nothing of the packet was changed then.
pub(super) fn any(
    room: &mut [u8],
    head: &mut [u8],
    len: usize,
    offload: &mut Offload,
    (kind, ends): (Kind, Ends),
    inner: &Inner,
) -> Result<(), Reason> {
    let is_v6 = ends.destination.is_ipv6();
    let overhead = kind.overhead(is_v6);
    let Some(ethernet) = head.first_chunk::<ETHERNET>() else { return Err(Reason::Malformed) };
    let mut w = Writer { bytes: [0; ETHERNET + MOST], len: 0 };
    w.put(&ethernet[..12]);
    w.word(if is_v6 { IPV6 } else { IPV4 });
    let number = match kind {
        Kind::Ipip => carried(inner.is_v6),
        Kind::Gue { .. } => protocol::UDP,
        Kind::Gre { .. } => protocol::GRE,
    };
    let transport_len = kind.len() + inner.len;
    let short = |len: usize| len.min(usize::from(u16::MAX)) as u16;
    let service = outer_service(inner.service);
    if is_v6 {
        w.put(&[0x60 | service >> 4, service << 4, 0, 0]);
        w.word(short(transport_len));
        w.put(&[number, inner.hops]);
    } else {
        w.put(&[0x45, service]);
        w.word(short(HEADER_V4 + transport_len));
        w.word(if inner.dont_fragment { 0 } else { inner.identification });
        w.word(if inner.dont_fragment { DONT_FRAGMENT } else { 0 });
        w.put(&[inner.hops, number, 0, 0]);
    }
    w.address(ends.source);
    w.address(ends.destination);
    if !is_v6 {
        let sum = Sum::ZERO.bytes(&w.bytes[ETHERNET..w.len]).checksum();
        w.set(ETHERNET + 10, sum);
    }
    let transport = w.len;
    let mut partial = offload.partial;
    let mut checksum = None;
    match kind {
        Kind::Ipip => {}
        Kind::Gue { port, checksum: is_summed, remote } => {
            w.word(source_port(inner.hash));
            w.word(port);
            w.word(short(transport_len));
            w.word(0);
            w.put(&[if remote { (GUE_REMOTE - GUE) as u8 / 4 } else { 0 }, carried(inner.is_v6)]);
            w.word(if remote { GUE_PRIVATE } else { 0 });
            if let Some(Partial { start, offset }) = offload.partial.filter(|_| remote) {
                // Counted from where the inner packet begins.
                let start = start.checked_sub(ETHERNET as u16).ok_or(Reason::Malformed)?;
                w.word(GUE_PRIVATE_REMOTE);
                w.word(0);
                w.word(start);
                w.word(start.checked_add(offset).ok_or(Reason::Malformed)?);
                // Each segment of a super-frame is still to have its own pseudo-header.
                partial = partial.filter(|_| offload.gso_size != 0);
            }
            checksum = is_summed.then_some((transport + 6, true));
        }
        Kind::Gre { checksum: is_summed } => {
            w.word(if is_summed { GRE_CHECKSUM_PRESENT } else { 0 });
            w.word(if inner.is_v6 { IPV6 } else { IPV4 });
            if is_summed {
                w.put(&[0; 4]);
                checksum = Some((transport + 4, false));
            }
        }
    }
    let end = w.len;
    // Offsets count from the start of the new frame.
    let shifted = |at: u16| at.checked_add(overhead as u16).ok_or(Reason::Malformed);
    let mut moved = match partial {
        Some(Partial { start, offset }) => Some(Partial { start: shifted(start)?, offset }),
        None => None,
    };
    if let Some((field, is_udp)) = checksum {
        let pseudo = match is_udp {
            true => Sum::pseudo_header(ends.source, ends.destination, protocol::UDP, transport_len as u32),
            false => Sum::ZERO,
        };
        let sum = pseudo.bytes(&w.bytes[transport..end]);
        let packet_end = ETHERNET + inner.len;
        if offload.gso_size != 0 {
            // Every segment has its own. That there is one is told by a field that is not zero.
            w.set(field, 0xffff);
        } else if let Some(Partial { start, offset }) = partial {
            // What is summed later adds up to the complement of what its field holds now (local checksum offload).
            let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
            let before =
                head.get(ETHERNET..start).filter(|before| before.len().is_multiple_of(2) && at + 2 <= packet_end);
            let (Some(before), Some(&[a, b])) = (before, head.get(at..).and_then(|field| field.first_chunk())) else {
                return Err(Reason::Malformed);
            };
            w.set(field, finished(sum.bytes(before).word(!u16::from_be_bytes([a, b])), is_udp));
        } else if let Some(packet) = head.get(ETHERNET..packet_end) {
            w.set(field, finished(sum.bytes(packet), is_udp));
        } else if len == packet_end {
            // Too long to be looked at here: whoever sends it sums it.
            w.set(field, pseudo.fold());
            let [start, offset] = [transport, field - transport].map(|at| at as u16);
            moved = Some(Partial { start, offset });
        } else {
            return Err(Reason::Malformed);
        }
    }
    let front = w.bytes.get(..end).and_then(|bytes| bytes.split_at_checked(overhead)).ok_or(Reason::NoRoom)?;
    let start = room.len().checked_sub(overhead).ok_or(Reason::NoRoom)?;
    room[start..].copy_from_slice(front.0);
    head[..ETHERNET].copy_from_slice(front.1);
    offload.partial = moved;
    Ok(())
}

/// A checksum as it is sent: UDP's is not zero, which would say that there is none.
fn finished(sum: Sum, is_udp: bool) -> u16 {
    match sum.checksum() {
        0 if is_udp => 0xffff,
        sum => sum,
    }
}

/// The source port of a connection's packets, in the range from which Linux takes its own: the same for all of them, so that
/// they stay in order on whatever paths there are, and another one for others.
pub(super) fn source_port(hash: u32) -> u16 {
    const FIRST: u16 = 32768;
    const LAST: u16 = 60999;
    let hash = hash ^ hash << 16;
    FIRST + ((u64::from(hash) * u64::from(LAST - FIRST)) >> 32) as u16
}

/// What a tunnel's packet carries, where it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub kind: Kind,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub is_v6: bool,
    /// GUE's source port, else 0.
    pub source_port: u16,
    /// Bytes before the inner packet.
    pub len: usize,
}

/// Reads the headers of a packet that a tunnel was made of: [`any`] the other way round. `None` if it is none, or a later fragment, or
/// has what is never put there.
pub(super) fn carried_by(packet: &[u8]) -> Option<Carried> {
    let first = *packet.first()?;
    let word = |at: usize| packet.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word));
    let (source, destination, number, at) = match first >> 4 {
        4 => {
            let h = packet.first_chunk::<HEADER_V4>()?;
            let len = usize::from(first & 0xf) * 4;
            if len < HEADER_V4 || word(6)? & 0x1fff != 0 {
                return None;
            }
            let address = |at: usize| IpAddr::from([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            (address(12), address(16), h[9], len)
        }
        6 => {
            let h = packet.first_chunk::<HEADER_V6>()?;
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&h[at..at + 16]);
                IpAddr::from(octets)
            };
            (address(8), address(24), h[6], HEADER_V6)
        }
        _ => return None,
    };
    let mut source_port = 0;
    let (kind, carried, len) = match number {
        IPIP | IPV6_IN_IP => (Kind::Ipip, number, at),
        protocol::UDP => {
            let &[a, carried] = packet.get(at + UDP..)?.first_chunk::<2>()?;
            let (remote, len) = match (a, word(at + UDP + 2)?) {
                (0, 0) => (false, GUE),
                (2, GUE_PRIVATE) => (true, GUE_REMOTE),
                _ => return None,
            };
            source_port = word(at)?;
            (Kind::Gue { port: word(at + 2)?, checksum: word(at + 6)? != 0, remote }, carried, at + UDP + len)
        }
        protocol::GRE => {
            let (checksum, len) = match word(at)? {
                0 => (false, GRE),
                GRE_CHECKSUM_PRESENT => (true, GRE_CHECKSUM),
                _ => return None,
            };
            let carried = match word(at + 2)? {
                IPV4 => IPIP,
                IPV6 => IPV6_IN_IP,
                _ => return None,
            };
            (Kind::Gre { checksum }, carried, at + len)
        }
        _ => return None,
    };
    let is_v6 = match carried {
        IPIP => false,
        IPV6_IN_IP => true,
        _ => return None,
    };
    Some(Carried { kind, source, destination, is_v6, source_port, len })
}
