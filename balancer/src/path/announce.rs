//! The bytes by which a server is told of its client, and the segments that carry them.

use core::net::IpAddr;

use super::sequence::{self, Options};
use crate::checksum::{Delta, Sum};
use crate::frame::transport::Transport;
use crate::frame::{ETHERNET, Ip, protocol};
use crate::packet::{Packet, Reason};

/// Bytes of the header of the PROXY protocol in front of IPv4 and IPv6 addresses and ports, and all together.
const PROXY_V4: usize = 16 + 12;
const PROXY_V6: usize = 16 + 36;
/// What every one of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, somebody else's connection.
const PROXY: u8 = 0x21;
/// A stream over IPv4, or over IPv6.
const STREAM_V4: u8 = 0x11;
const STREAM_V6: u8 = 0x21;

/// The kind of the option, one for experiments (RFC 4727, section 7.2), and its length with IPv4 and IPv6.
const TOA: u8 = 254;
const TOA_V4: usize = 8;
const TOA_V6: usize = 20;

/// The longest TCP header.
const HEADER_MAX: usize = 60;
/// Kind and length of a timestamp (RFC 7323), and what it takes with two fillers in front.
const TIMESTAMP: (u8, usize) = (8, 10);
const TIMESTAMP_ROOM: usize = 12;

/// The longest frame that is made again with an option in it.
pub(super) const FRAME: usize = 1514;

/// A few bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Bytes<N> {
    const fn new() -> Self {
        Bytes { bytes: [0; N], len: 0 }
    }

    /// Appends what there is room for.
    fn push(&mut self, more: &[u8]) {
        let room = &mut self.bytes[self.len..];
        let count = more.len().min(room.len());
        room[..count].copy_from_slice(&more[..count]);
        self.len += count;
    }

    fn push_address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.push(&a.octets()),
            IpAddr::V6(a) => self.push(&a.octets()),
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// No bytes yet.
pub(super) const fn nothing() -> Bytes<40> {
    Bytes::new()
}

/// How long the header for a client of this address is.
pub(super) const fn proxy_length(client: &IpAddr) -> u8 {
    if client.is_ipv4() { PROXY_V4 as u8 } else { PROXY_V6 as u8 }
}

/// The header that tells of a client and of the service it asked for (PROXY protocol, section 2.2).
pub(super) fn proxy(client: (IpAddr, u16), service: (IpAddr, u16)) -> Bytes<PROXY_V6> {
    let mut header = Bytes::new();
    let (family, length) =
        if client.0.is_ipv4() { (STREAM_V4, PROXY_V4 as u16 - 16) } else { (STREAM_V6, PROXY_V6 as u16 - 16) };
    header.push(&SIGNATURE);
    header.push(&[PROXY, family]);
    header.push(&length.to_be_bytes());
    header.push_address(client.0);
    header.push_address(service.0);
    header.push(&client.1.to_be_bytes());
    header.push(&service.1.to_be_bytes());
    header
}

/// The option that tells of a client.
pub(super) fn toa(client: (IpAddr, u16)) -> Bytes<40> {
    let mut option = Bytes::new();
    option.push(&[TOA, if client.0.is_ipv4() { TOA_V4 } else { TOA_V6 } as u8]);
    option.push(&client.1.to_be_bytes());
    option.push_address(client.0);
    option
}

/// Puts nothing in the place of what a client says of itself by this option.
pub(super) fn blank(packet: &mut Packet<'_>, ip: &Ip, transport: &Transport) -> Result<(), Reason> {
    let header = packet.head.get(ip.payload..ip.payload + transport.header).unwrap_or_default();
    if header.len() <= 20 || !Options::of(header).any(|(kind, _)| kind == TOA) {
        return Ok(());
    }
    sequence::edit(packet, ip, transport, |header| {
        for (_, at) in Options::of(header).filter(|(kind, _)| *kind == TOA) {
            header[at].fill(1);
        }
    })
}

/// The timestamp of a segment, as options that follow `first`: a server that has agreed to timestamps wants one on each.
pub(super) fn with_timestamp(mut first: Bytes<40>, header: &[u8]) -> Bytes<40> {
    let found = Options::of(header).find(|(kind, at)| (*kind, at.len()) == TIMESTAMP);
    if let Some((_, at)) = found
        && first.len + TIMESTAMP_ROOM <= 40
    {
        first.push(&[1, 1]);
        first.push(&header[at]);
    }
    first
}

/// Makes a segment again with an option in front of its others. `None` if it cannot be: it is a super-frame, not all of it is
/// here, or header or packet become too long.
pub(super) fn with_option(
    packet: &Packet<'_>,
    ip: &Ip,
    transport: &Transport,
    option: &[u8],
    mtu: u16,
) -> Option<Bytes<FRAME>> {
    let length = ip.len() + option.len();
    let header = transport.header + option.len();
    let whole = packet.head.get(..ip.end)?;
    if packet.offload.gso_size != 0 || header > HEADER_MAX || length > usize::from(mtu) || ETHERNET + length > FRAME {
        return None;
    }
    // Behind the fixed header.
    let (front, back) = whole.split_at_checked(ip.payload + 20)?;
    let mut made = Bytes::<FRAME>::new();
    made.push(front);
    made.push(option);
    made.push(back);
    let frame = &mut made.bytes[..made.len];
    // The length of the packet: of all of it, or of what is behind the fixed header.
    let at = ETHERNET + if ip.is_v6() { 4 } else { 2 };
    let old = word(frame, at)?;
    let new = old.checked_add(option.len() as u16)?;
    put(frame, at, new);
    if !ip.is_v6() {
        let checksum = word(frame, ETHERNET + 10)?;
        put(frame, ETHERNET + 10, Delta::ZERO.word(old, new).adjust(checksum));
    }
    let tcp = ip.payload;
    let flags = word(frame, tcp + 12)?;
    put(frame, tcp + 12, flags & 0xfff | ((header / 4) as u16) << 12);
    if packet.offload.partial.is_some_and(|partial| usize::from(partial.start) == tcp) {
        // Nobody completes it any more.
        put(frame, tcp + 16, 0);
        let (source, destination) = addresses(frame, ip)?;
        let len = (frame.len() - tcp) as u32;
        let sum = Sum::pseudo_header(source, destination, protocol::TCP, len).bytes(&frame[tcp..]).checksum();
        put(frame, tcp + 16, sum);
    } else {
        let words = option.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let segment = (ip.end - ip.payload) as u16;
        let delta = Delta::ZERO.word(flags, word(frame, tcp + 12)?).word(segment, segment + option.len() as u16);
        let delta = words.fold(delta, |delta, word| delta.word(0, word));
        let checksum = word(frame, tcp + 16)?;
        put(frame, tcp + 16, delta.adjust(checksum));
    }
    Some(made)
}

/// Source and destination address of a packet as they are now.
fn addresses(frame: &[u8], ip: &Ip) -> Option<(IpAddr, IpAddr)> {
    let packet = frame.get(ETHERNET..)?;
    if ip.is_v6() {
        let at = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes));
        Some((at(8)?, at(24)?))
    } else {
        let at = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes));
        Some((at(12)?, at(16)?))
    }
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    if let Some(field) = frame.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut::<2>()) {
        *field = word.to_be_bytes();
    }
}
