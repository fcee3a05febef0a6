//! Whether what came back is what was sent, translated and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use ringlet_driver::wire::NetHdr;

use super::shape::{IP, Shape, add, address, filler, flags, flow, fold, is_client};
use super::{LONGEST_FRAME, Load, ethernet};
use crate::backend::Scatter;

/// Bytes to look at to know a frame: Ethernet, IPv6 with a fragment header, ports.
pub(super) const HEADERS: usize = MOST_HEADERS - 40;
/// The same of a frame in a tunnel.
pub(super) const MOST_HEADERS: usize = IP + 40 + 40 + 8 + 4;
/// IPv6's extension header of a fragment.
const FRAGMENT: u8 = 44;

/// Knows forwarded frames.
#[derive(Debug)]
pub(super) struct Checker {
    guest: [u8; 6],
    servers: Vec<SocketAddr>,
    /// The service, where it stays in its place (direct routing, tunnels).
    service: Option<SocketAddr>,
    /// Where tunnels begin.
    tunnel: Option<IpAddr>,
    flows: u32,
    shape: Shape,
    /// Room for what is looked at.
    bytes: Vec<u8>,
}

/// Which part of an IP packet a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Where the IP header ends.
    end: usize,
    /// Where in the packet the frame's part begins, behind the IP header.
    offset: usize,
    /// It is not all of it.
    fragment: bool,
    /// More follows.
    more: bool,
}

impl Checker {
    pub(super) fn new(load: &Load) -> Self {
        Self {
            guest: load.guest,
            servers: load.servers.clone(),
            service: (load.direct || load.tunnel.is_some()).then_some(load.service),
            tunnel: load.tunnel,
            flows: load.flows,
            shape: Shape::new(load),
            bytes: Vec::new(),
        }
    }

    /// Whether a frame with these first bytes, up to [`HEADERS`], goes from a client to a server. Gives the number of bytes
    /// before its payload.
    #[inline]
    pub(super) fn forwarded(&self, head: &[u8]) -> Option<usize> {
        let front = self.front();
        if front > 0 {
            self.is_in_a_tunnel(head)?;
        }
        let head = head.get(front..)?;
        let (part, protocol) = self.part(head)?;
        let (source, destination) = self.shape.addresses(head)?;
        let is_it = |server: &&SocketAddr| match server.ip() {
            IpAddr::V4(ip) => ip.octets() == *destination,
            IpAddr::V6(ip) => ip.octets() == *destination,
        };
        let known = match &self.service {
            None => self.servers.iter().find(is_it),
            Some(service) => Some(service).filter(is_it).filter(|_| front > 0 || self.is_for_a_server(head)),
        }?;
        let transport = self.shape.payload - self.shape.transport;
        if part.offset == 0 {
            let port = head.get(part.end + 2..part.end + 4)?;
            if port != known.port().to_be_bytes() {
                return None;
            }
        }
        let headers = part.end + if part.offset == 0 { transport } else { 0 };
        (protocol == self.shape.protocol() && is_client(source)).then_some(front + headers)
    }

    /// Bytes of a tunnel's header, if frames are to come in one.
    #[inline]
    fn front(&self) -> usize {
        if self.tunnel.is_some() { self.shape.transport - IP } else { 0 }
    }

    /// Whether a frame is a tunnel's, to a server.
    #[inline]
    fn is_in_a_tunnel(&self, head: &[u8]) -> Option<()> {
        let shape = &self.shape;
        let (begins, at, number) =
            if shape.v6 { ([0x86, 0xdd, 0x60], IP + 6, 41) } else { ([0x08, 0x00, 0x45], IP + 9, 4) };
        ensure(head.get(12..=IP)? == begins && *head.get(at)? == number)?;
        let (_, destination) = shape.addresses(head)?;
        let server = self.servers.iter().find(|server| match server.ip() {
            IpAddr::V4(ip) => ip.octets() == *destination,
            IpAddr::V6(ip) => ip.octets() == *destination,
        })?;
        ensure(head[..6] == ethernet(server.ip()))
    }

    /// Whether the outer header of a tunnel's frame is right in all that [`Checker::is_in_a_tunnel`] does not look at.
    fn is_outer_right(&self, frame: &[u8], from: IpAddr) -> Option<()> {
        let shape = &self.shape;
        let outer = frame.get(IP..shape.transport)?;
        let (source, _) = shape.addresses(frame)?;
        ensure(address(source)? == from)?;
        let stated = usize::from(be16(frame, if shape.v6 { IP + 4 } else { IP + 2 }));
        ensure(stated == frame.len() - if shape.v6 { shape.transport } else { IP })?;
        match shape.v6 {
            true => ensure(outer[1..4] == [0; 3] && outer[7] == 63),
            // No fragment is to be made of it, and so it needs no identification.
            false => {
                let plain = outer[1] == 0 && outer[4..9] == [0, 0, 0x40, 0, 63];
                ensure(plain && fold(add(0, outer)) == 0xffff)
            }
        }
    }

    /// Whether a frame goes to the Ethernet address of a server.
    fn is_for_a_server(&self, frame: &[u8]) -> bool {
        self.servers.iter().any(|server| frame[..6] == ethernet(server.ip()))
    }

    /// Reads the IP header: which part of a packet it is of, and of which protocol.
    #[inline]
    fn part(&self, head: &[u8]) -> Option<(Part, u8)> {
        let end = self.shape.transport;
        if !self.shape.v6 {
            let ip = head.get(IP..end).filter(|ip| self.is_of_type(head, [0x08, 0x00]) && ip[0] == 0x45)?;
            let field = u16::from_be_bytes([ip[6], ip[7]]);
            let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
            return Some((Part { end, offset, fragment: more || offset > 0, more }, ip[9]));
        }
        let ip = head.get(IP..end).filter(|ip| self.is_of_type(head, [0x86, 0xdd]) && ip[0] >> 4 == 6)?;
        if ip[6] != FRAGMENT {
            return Some((Part { end, offset: 0, fragment: false, more: false }, ip[6]));
        }
        let extension = head.get(end..end + 8).filter(|bytes| bytes[1] == 0 && bytes[3] & 6 == 0)?;
        let field = u16::from_be_bytes([extension[2], extension[3]]);
        Some((
            Part { end: end + 8, offset: usize::from(field & !7), fragment: true, more: field & 1 != 0 },
            extension[0],
        ))
    }

    /// Whether there is this EtherType in front of a packet. There is none within a tunnel.
    #[inline]
    fn is_of_type(&self, head: &[u8], ether_type: [u8; 2]) -> bool {
        self.tunnel.is_some() || head[12..14] == ether_type
    }

    /// Checks a forwarded frame to its last byte. The time to live may have been counted down.
    pub(super) fn check(&mut self, frame: &Scatter<'_>) -> bool {
        if frame.len() > NetHdr::LEN + LONGEST_FRAME {
            return false;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(frame.len(), 0);
        let right = frame.read(0, &mut bytes) == bytes.len() && self.is_right(&bytes).is_some();
        self.bytes = bytes;
        right
    }

    fn is_right(&self, bytes: &[u8]) -> Option<()> {
        let shape = &self.shape;
        let (header, frame) = bytes.split_first_chunk::<{ NetHdr::LEN }>()?;
        let header = NetHdr::parse(header);
        self.forwarded(&frame[..frame.len().min(MOST_HEADERS)])?;
        let (front, whole) = (self.front(), frame);
        let frame = frame.get(front..)?;
        let (part, _) = self.part(frame)?;
        let (source, destination) = shape.addresses(frame)?;
        let (client, server) = (address(source)?, address(destination)?);
        let stated = usize::from(be16(frame, if shape.v6 { IP + 4 } else { IP + 2 }));
        let hops = frame[IP + if shape.v6 { 7 } else { 8 }];
        let service = if shape.v6 { frame[IP..IP + 4] == [0x60, 0, 0, 0] } else { frame[IP + 1] == 0 };
        let length = stated == frame.len() - if shape.v6 { shape.transport } else { IP };
        let sum = shape.v6 || fold(add(0, &frame[IP..shape.transport])) == 0xffff;
        let place = match self.tunnel {
            Some(from) => self.is_outer_right(whole, from).is_some(),
            None if self.service.is_some() => self.is_for_a_server(frame),
            None => frame[..6] == ethernet(server),
        };
        let link = place && whole[6..12] == self.guest;
        ensure(link && service && length && sum && (63..=if front > 0 { 63 } else { 64 }).contains(&hops))?;
        match part.fragment {
            true => self.fragment(&header, frame, part, client),
            false => self.packet(&header, frame, client),
        }
    }

    /// Checks what is behind the IP header of a whole packet: an ordinary frame, a whole round, a segment of one, or segments
    /// that follow each other.
    fn packet(&self, header: &NetHdr, frame: &[u8], client: IpAddr) -> Option<()> {
        let shape = &self.shape;
        let (segment, payload) = (&frame[shape.transport..], frame.get(shape.payload..)?);
        let known = flow(client, be16(segment, 0)).filter(|flow| *flow < self.flows)?;
        let (at, pseudo) = (shape.checksum(), shape.pseudo(frame, segment.len()));
        // A partial checksum holds the sum of the pseudo-header, a finished one makes the sum of everything all ones.
        let summed = match header.needs_csum() {
            true => {
                let place = (usize::from(header.csum_start), usize::from(header.csum_offset));
                place == (self.front() + shape.transport, at) && be16(segment, at) == fold(pseudo)
            }
            // No checksum is UDP's to say by zeroes; of TCP's, one in 65536 is zero.
            false => fold(add(fold(pseudo).into(), segment)) == 0xffff && (shape.tcp || segment[at..at + 2] != [0, 0]),
        };
        ensure(summed)?;
        let cut = payload.len() > shape.size;
        let gso = if cut { (shape.gso_type(), shape.size as u16, shape.payload as u16) } else { (0, 0, 0) };
        // Without a large load, several segments in one frame are what somebody has put together.
        let found = (header.gso_type, header.gso_size, header.hdr_len);
        let tcp = if shape.v6 { NetHdr::GSO_TCPV6 } else { NetHdr::GSO_TCPV4 };
        let put_together = (tcp, shape.size as u16, shape.payload as u16);
        ensure(found == gso || cut && shape.large.is_none() && shape.tcp && found == put_together)?;
        if shape.tcp {
            // Nothing is acknowledged, the window is as large as it can be, and nothing is urgent.
            ensure(segment[8..12] == [0; 4] && segment[14..16] == [0xff; 2] && segment[18..20] == [0; 2])?;
        }
        if shape.tcp && segment[13] & flags::SYN != 0 {
            ensure(segment[12..14] == [0x50, flags::SYN] && segment[4..8] == [0; 4])?;
            if shape.large.is_some() {
                return ensure(payload.is_empty());
            }
        }
        let (marked, round, piece) = shape.read_mark(payload)?;
        let offset = piece * shape.size;
        ensure(marked == known && offset < shape.total)?;
        if shape.tcp && segment[13] & flags::SYN == 0 {
            let (first, last) = (offset == 0, offset + payload.len() == shape.total);
            let psh = if shape.large.is_some() && last { flags::PSH } else { 0 };
            let cwr = if shape.ecn && first { flags::CWR } else { 0 };
            ensure(segment[12..14] == [0x50, flags::ACK | psh | cwr])?;
            ensure(segment[4..8] == shape.sequence(round, offset).to_be_bytes())?;
        }
        if !shape.tcp {
            ensure(usize::from(be16(segment, 4)) == segment.len())?;
        }
        // Segments of one stream may have been put together over the ends of its rounds.
        let (mut round, mut offset, mut rest) = (round, offset, payload);
        loop {
            let here = rest.len().min(shape.total - offset);
            ensure(self.carries(&rest[..here], marked, round, offset..offset + here))?;
            rest = &rest[here..];
            if rest.is_empty() {
                return Some(());
            }
            ensure(shape.tcp)?;
            (round, offset) = (round.wrapping_add(1), 0);
        }
    }

    /// Checks one of the fragments of a round.
    fn fragment(&self, header: &NetHdr, frame: &[u8], part: Part, client: IpAddr) -> Option<()> {
        let shape = &self.shape;
        let body = &frame[part.end..];
        // The datagram's own header is in the first one.
        let end = part.offset + body.len();
        let whole = shape.payload - shape.transport + shape.total;
        ensure(*header == NetHdr::default() && end <= whole && part.more == (end < whole))?;
        ensure(!part.more || body.len().is_multiple_of(8))?;
        let (payload, from) = match part.offset {
            0 => (body.get(8..)?, 0),
            offset => (body, offset - 8),
        };
        let mark = from.next_multiple_of(shape.size);
        let (marked, round, _) = shape.read_mark(payload.get(mark - from..)?)?;
        ensure(marked < self.flows && self.carries(payload, marked, round, from..from + payload.len()))?;
        if part.offset > 0 {
            return ensure(super::shape::client(marked, shape.v6).0 == client);
        }
        ensure(flow(client, be16(body, 0)) == Some(marked) && usize::from(be16(body, 4)) == whole)?;
        let mut sum = add(shape.pseudo(frame, whole), &body[..8]);
        let all: Vec<u8> = (0..shape.total).map(|at| self.byte(at, marked, round)).collect();
        sum = add(fold(sum).into(), &all);
        ensure(fold(sum) == 0xffff && body[6..8] != [0, 0])
    }

    /// What a round of a flow has at this offset.
    fn byte(&self, at: usize, flow: u32, round: u16) -> u8 {
        let (piece, inside) = (at / self.shape.size, at % self.shape.size);
        if inside < self.shape.mark_length() { self.shape.mark(flow, round, piece)[inside] } else { filler(at) }
    }

    /// Whether these bytes are what a round of a flow has there.
    fn carries(&self, bytes: &[u8], flow: u32, round: u16, at: Range<usize>) -> bool {
        bytes.len() == at.len() && at.zip(bytes).all(|(at, byte)| self.byte(at, flow, round) == *byte)
    }
}

fn ensure(right: bool) -> Option<()> {
    right.then_some(())
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
