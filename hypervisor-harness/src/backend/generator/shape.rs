//! What a load's frames look like: where things lie in them, and what they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringlet_driver::features::Features;
use ringlet_driver::wire::{ETHERNET_HEADER, NetHdr};

use super::{Large, Load};
use crate::backend::options::Protocol;

/// Where the IP header begins.
pub(super) const IP: usize = ETHERNET_HEADER;
/// Clients on one port.
const CLIENTS: u32 = 60_000;
/// The first port of the clients.
const FIRST_PORT: u16 = 1024;
/// Flows that can be told apart.
pub(super) const MOST_FLOWS: u32 = CLIENTS * 1000;
/// The network that the clients live in, of IPv6.
const CLIENTS_V6: [u8; 8] = [0xfd, 9, 0, 0, 0, 0, 0, 0];

/// The address of a flow's client, in 10.9.0.0/16 or fd09::/64, and its port.
pub(super) fn client(flow: u32, v6: bool) -> (IpAddr, u16) {
    let host = (flow % CLIENTS + 1) as u16;
    let address = match v6 {
        true => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, host).into(),
        false => Ipv4Addr::new(10, 9, (host >> 8) as u8, host as u8).into(),
    };
    (address, FIRST_PORT + (flow / CLIENTS) as u16)
}

/// [`client`] of IPv4, as numbers.
#[inline]
pub(super) fn client_v4(flow: u32) -> (u32, u16) {
    (u32::from_be_bytes([10, 9, 0, 0]) + flow % CLIENTS + 1, FIRST_PORT + (flow / CLIENTS) as u16)
}

/// [`flow`] of IPv4, of numbers.
#[inline]
pub(super) fn flow_v4((address, port): (u32, u16)) -> Option<u32> {
    let host = address.checked_sub(u32::from_be_bytes([10, 9, 0, 0]))?;
    let nth = u32::from(port.checked_sub(FIRST_PORT)?);
    (1..=CLIENTS).contains(&host).then(|| nth * CLIENTS + host - 1)
}

/// The flow of a client.
pub(super) fn flow(address: IpAddr, port: u16) -> Option<u32> {
    let host = match address {
        IpAddr::V4(address) => match address.octets() {
            [10, 9, high, low] => u16::from_be_bytes([high, low]),
            _ => return None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd09, 0, 0, 0, 0, 0, 0, host] => host,
            _ => return None,
        },
    };
    let nth = u32::from(port.checked_sub(FIRST_PORT)?);
    (1..=CLIENTS).contains(&host.into()).then(|| nth * CLIENTS + u32::from(host) - 1)
}

/// Whether these first bytes of an address are those of a client's.
pub(super) fn is_client(address: &[u8]) -> bool {
    address.starts_with(&CLIENTS_V6) || address.len() == 4 && address.starts_with(&[10, 9])
}

/// Adds bytes to a ones' complement sum (RFC 1071), as 16-bit big-endian words.
pub(super) fn add(sum: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let sum = words.by_ref().fold(sum, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])));
    words.remainder().first().map_or(sum, |last| sum + (u32::from(*last) << 8))
}

/// Folds a sum to 16 bits.
pub(super) const fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a frame carries in the payload byte at this offset of its round, but for the marks.
pub(super) const fn filler(at: usize) -> u8 {
    // A period that no power of two divides, so that a misplaced piece is noticed.
    (at % 251) as u8
}

/// The longest mark.
pub(super) const MARK: usize = 8;

/// The flags of TCP that are set here.
pub(super) mod flags {
    /// The first frame of a flow.
    pub(crate) const SYN: u8 = 0x02;
    /// The last segment of a round that has several.
    pub(crate) const PSH: u8 = 0x08;
    /// Every frame but the first of a flow.
    pub(crate) const ACK: u8 = 0x10;
    /// The first segment of a round with ECN.
    pub(crate) const CWR: u8 = 0x80;
}

/// What a load's frames look like.
///
/// Each flow goes on in rounds of [`Shape::total`] bytes of payload, which are cut at each multiple of [`Shape::size`] into
/// pieces, in one frame or in several. Each piece begins with a mark that tells flow, round and piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) v6: bool,
    pub(super) tcp: bool,
    pub(super) large: Option<Large>,
    pub(super) ecn: bool,
    /// Where the transport header begins in the Ethernet frame.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Bytes of payload in a piece, but for the last.
    pub(super) size: usize,
    /// Bytes of payload in a round.
    pub(super) total: usize,
}

impl Shape {
    /// The shape of a load's frames.
    pub(super) fn new(load: &Load) -> Self {
        let (v6, tcp) = (load.service.is_ipv6(), load.protocol == Protocol::Tcp);
        let transport = IP + if v6 { 40 } else { 20 };
        let payload = transport + if tcp { 20 } else { 8 };
        let total = load.frame.saturating_sub(payload);
        let size = match load.large {
            None => total,
            Some(Large::Segments(size) | Large::Fragments(size)) => usize::from(size),
        };
        Self { v6, tcp, large: load.large, ecn: load.ecn, transport, payload, size, total }
    }

    /// The number in the IP header.
    pub(super) const fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    /// Where the checksum is, from the start of the transport header.
    pub(super) const fn checksum(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    /// Pieces in a round.
    pub(super) const fn pieces(&self) -> usize {
        self.total.div_ceil(self.size)
    }

    /// Bytes of a mark: as many as fit into the smallest TCP frame, unless there are pieces to be told apart.
    pub(super) const fn mark_length(&self) -> usize {
        if self.large.is_some() { MARK } else { MARK - 2 }
    }

    /// What a piece begins with.
    pub(super) fn mark(&self, flow: u32, round: u16, piece: usize) -> [u8; MARK] {
        let ([a, b, c, d], [e, f], [g, h]) = (flow.to_be_bytes(), round.to_be_bytes(), (piece as u16).to_be_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// Reads a mark: flow, round and piece.
    pub(super) fn read_mark(&self, bytes: &[u8]) -> Option<(u32, u16, usize)> {
        let mark = bytes.get(..self.mark_length())?;
        let piece = if self.large.is_some() { u16::from_be_bytes([mark[6], mark[7]]) } else { 0 };
        let flow = u32::from_be_bytes([mark[0], mark[1], mark[2], mark[3]]);
        Some((flow, u16::from_be_bytes([mark[4], mark[5]]), piece.into()))
    }

    /// TCP's sequence number at an offset of a round.
    pub(super) const fn sequence(&self, round: u16, offset: usize) -> u32 {
        (round as u32).wrapping_mul(self.total as u32).wrapping_add(offset as u32 + 1)
    }

    /// How a frame with a whole round is to be segmented.
    pub(super) fn gso_type(&self) -> u8 {
        let ecn = if self.ecn { NetHdr::GSO_ECN } else { 0 };
        match (self.large, self.tcp) {
            (None, _) => NetHdr::GSO_NONE,
            (_, true) => ecn | if self.v6 { NetHdr::GSO_TCPV6 } else { NetHdr::GSO_TCPV4 },
            (Some(Large::Segments(_)), false) => NetHdr::GSO_UDP_L4,
            (Some(Large::Fragments(_)), false) => NetHdr::GSO_UDP,
        }
    }

    /// What the guest must have agreed to, to be given whole rounds.
    pub(super) fn needed(&self) -> Features {
        let kind = match self.gso_type() & !NetHdr::GSO_ECN {
            NetHdr::GSO_TCPV4 => Features::GUEST_TSO4,
            NetHdr::GSO_TCPV6 => Features::GUEST_TSO6,
            NetHdr::GSO_UDP_L4 if self.v6 => Features::GUEST_USO6,
            NetHdr::GSO_UDP_L4 => Features::GUEST_USO4,
            NetHdr::GSO_UDP => Features::GUEST_UFO,
            _ => Features::empty(),
        };
        let ecn = if self.ecn { Features::GUEST_ECN } else { Features::empty() };
        Features::GUEST_CSUM | kind | ecn
    }

    /// The addresses in a frame's IP header: source and destination.
    pub(super) fn addresses<'f>(&self, frame: &'f [u8]) -> Option<(&'f [u8], &'f [u8])> {
        let (at, length) = if self.v6 { (IP + 8, 16) } else { (IP + 12, 4) };
        Some(frame.get(at..at + 2 * length)?.split_at(length))
    }

    /// The sum of the pseudo-header of a segment of `length` bytes.
    pub(super) fn pseudo(&self, frame: &[u8], length: usize) -> u32 {
        let (source, destination) = self.addresses(frame).unwrap_or_default();
        add(add(u32::from(self.protocol()) + length as u32, source), destination)
    }
}

/// An address of bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
