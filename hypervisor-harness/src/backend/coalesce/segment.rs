//! What is looked at in a TCP segment that may be merged with others of its connection.

use ringlet_driver::offload::{Headers, Network, Transport, finish_checksum};
use ringlet_driver::wire::NetHdr;

/// The flags that an ordinary segment of data may have.
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;
/// Ethernet addresses: nothing that is merged differs in them.
const LINK: usize = 12;

/// Whom a frame is about, as far as its order matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// TCP, between these addresses and ports.
    Connection(Flow),
    /// Something that is no TCP: nothing that is merged waits for it or is waited for by it.
    Free,
    /// A part of an IP packet, or one with headers that are not read here: it may belong to any connection.
    Unknown,
}

/// A TCP connection in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// 16 bytes each; those of IPv4 in the first four, with zeroes after them.
    addresses: [[u8; 16]; 2],
    v6: bool,
    ports: [u8; 4],
}

/// Tells whom a frame is about, from its first bytes (Ethernet header first).
pub(super) fn order(head: &[u8]) -> (Order, Option<Headers>) {
    let Some(headers) = Headers::parse(head) else {
        let tag = head.get(12..14) == Some(&[0x81, 0]);
        let ethertype = if tag { head.get(16..18) } else { head.get(12..14) };
        let ip = matches!(ethertype, Some([0x08, 0x00] | [0x86, 0xdd] | [0x81, 0x00] | [0x88, 0xa8]));
        let start = if tag { 18 } else { 14 };
        // Of all that cannot be read, the protocols that are not TCP are the harmless ones.
        let other = match head.get(start).map(|first| first >> 4) {
            Some(4) => head.get(start + 9).is_some_and(|protocol| *protocol != 6),
            Some(6) => head.get(start + 6).is_some_and(|next| matches!(next, 17 | 58 | 59)),
            _ => false,
        };
        return (if ip && !other { Order::Unknown } else { Order::Free }, None);
    };
    if headers.transport != Transport::Tcp {
        return (Order::Free, Some(headers));
    }
    let (v6, network) = (headers.network == Network::V6, headers.network_start);
    let mut addresses = [[0; 16]; 2];
    for (nth, address) in addresses.iter_mut().enumerate() {
        let (start, length) = if v6 { (8 + 16 * nth, 16) } else { (12 + 4 * nth, 4) };
        address[..length].copy_from_slice(&head[network + start..network + start + length]);
    }
    let at = headers.transport_start;
    let ports = [head[at], head[at + 1], head[at + 2], head[at + 3]];
    (Order::Connection(Flow { addresses, v6, ports }), Some(headers))
}

/// What a segment is to the coalescer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data that others may follow or that may follow others.
    Data,
    /// Nothing but an acknowledgment.
    Acknowledgment,
}

/// A segment whose checksums are right, without its virtio header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'f> {
    frame: &'f [u8],
    headers: Headers,
    kind: Kind,
    /// The checksum is still to be finished.
    partial: bool,
}

impl<'f> Segment<'f> {
    /// Looks at a whole frame. `None` for all that is never merged: other flags than ACK, PSH, ECE and CWR, IP options and
    /// extension headers, padding after data, and wrong checksums.
    pub(super) fn new(header: &NetHdr, frame: &'f [u8], headers: Headers) -> Option<Self> {
        let Headers { network, network_start, transport_start, length, .. } = headers;
        if header.is_gso() || header.flags & NetHdr::RSC_INFO != 0 {
            return None;
        }
        let plain = network_start + if network == Network::V4 { 20 } else { 40 };
        let stated = match network {
            Network::V4 => be16(frame, network_start + 2),
            Network::V6 => be16(frame, network_start + 4) + 40,
        };
        let end = network_start + stated;
        if plain != transport_start || end < length || end > frame.len() {
            return None;
        }
        let kind = if end == length { Kind::Acknowledgment } else { Kind::Data };
        let flags = frame[transport_start + 13];
        let (wanted, allowed) = match kind {
            Kind::Data => (ACK, ACK | PSH | ECE | CWR),
            Kind::Acknowledgment => (ACK, ACK),
        };
        if flags & wanted != wanted || flags & !allowed != 0 || frame[transport_start + 12] & 0x0f != 0 {
            return None;
        }
        // Padding is noise after an acknowledgment, as Ethernet demands it, and not expected after data.
        if end != frame.len() && kind == Kind::Data {
            return None;
        }
        let segment = Self { frame, headers, kind, partial: header.needs_csum() };
        segment.is_right(header, &frame[..end]).then_some(segment)
    }

    /// Whether the checksums are right; one that is still to be finished, whether it will be.
    fn is_right(&self, header: &NetHdr, packet: &[u8]) -> bool {
        let Headers { network, network_start, transport_start, .. } = self.headers;
        if network == Network::V4 && finish_checksum(&packet[..transport_start], network_start as u16, 10) != 0 {
            return false;
        }
        let pseudo = pseudo_header(packet, &self.headers);
        if self.partial {
            let place = (usize::from(header.csum_start), header.csum_offset);
            return place == (transport_start, 16) && same(be16(packet, transport_start + 16) as u16, pseudo);
        }
        // Over what is right, the sum with the pseudo-header is all ones.
        let rest = !finish_checksum(packet, transport_start as u16, 16);
        same(fold(u32::from(rest) + u32::from(pseudo)), 0xffff)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its payload.
    pub(super) fn payload(&self) -> &'f [u8] {
        &self.frame[self.headers.length..]
    }

    /// Where its parts are.
    pub(super) fn headers(&self) -> Headers {
        self.headers
    }

    pub(super) fn is_partial(&self) -> bool {
        self.partial
    }

    fn flags(&self) -> u8 {
        self.frame[self.headers.transport_start + 13]
    }

    /// Nothing is to follow it in the same frame.
    pub(super) fn is_last(&self) -> bool {
        self.flags() & PSH != 0
    }

    /// The sender has answered to congestion (RFC 3168).
    pub(super) fn has_cwr(&self) -> bool {
        self.flags() & CWR != 0
    }

    pub(super) fn sequence(&self) -> u32 {
        let at = self.headers.transport_start + 4;
        u32::from_be_bytes([self.frame[at], self.frame[at + 1], self.frame[at + 2], self.frame[at + 3]])
    }

    /// IPv4's identification.
    pub(super) fn identification(&self) -> u16 {
        be16(self.frame, self.headers.network_start + 4) as u16
    }

    /// Whether IPv4's identification means nothing (RFC 6864, section 4.1), or there is none.
    pub(super) fn is_atomic(&self) -> bool {
        self.headers.network == Network::V6 || self.frame[self.headers.network_start + 6] & 0x40 != 0
    }

    /// Whether all headers are those of the segment that `first` begins with, but for what is different in every segment:
    /// lengths, identification, checksums, the sequence number, PSH.
    pub(super) fn continues(&self, first: &[u8], headers: &Headers) -> bool {
        let Headers { network, network_start, transport_start, length, .. } = self.headers;
        if self.headers != *headers || first.len() < length {
            return false;
        }
        let (own, first) = (&self.frame[..length], &first[..length]);
        let equal = |from: usize, to: usize| own[from..to] == first[from..to];
        let (n, t) = (network_start, transport_start);
        let network = match network {
            // Version and type of service; then, after length and identification, fragmentation, time to live, protocol; then,
            // after the checksum, the addresses.
            Network::V4 => equal(n, n + 2) && equal(n + 6, n + 10) && equal(n + 12, t),
            Network::V6 => equal(n, n + 4) && equal(n + 6, t),
        };
        let flags = (own[t + 13] ^ first[t + 13]) & !(PSH | CWR) == 0;
        // Ports; acknowledgment and length of the header; window; options, time stamps among them.
        let transport = equal(t, t + 4) && equal(t + 8, t + 13) && equal(t + 14, t + 16) && equal(t + 18, length);
        equal(0, LINK) && equal(LINK, n) && network && flags && transport
    }

    /// Whether it says nothing that the acknowledgment `first` has not said, down to the padding.
    pub(super) fn repeats(&self, first: &[u8], headers: &Headers) -> bool {
        let (n, t) = (headers.network_start, headers.transport_start);
        if self.headers != *headers || self.frame.len() != first.len() {
            return false;
        }
        let equal = |from: usize, to: usize| self.frame[from..to] == first[from..to];
        let network = match headers.network {
            Network::V4 => equal(n, n + 4) && equal(n + 6, n + 10) && equal(n + 12, t),
            Network::V6 => equal(n, t),
        };
        // Its checksum is right, so it is the same unless one is unfinished.
        equal(0, n) && network && equal(t, t + 16) && equal(t + 18, first.len())
    }
}

/// The sum of the pseudo-header of a frame, whose length counts.
pub(super) fn pseudo_header(frame: &[u8], headers: &Headers) -> u16 {
    let addresses = match headers.network {
        Network::V4 => headers.network_start + 12..headers.network_start + 20,
        Network::V6 => headers.network_start + 8..headers.network_start + 40,
    };
    let words = frame[addresses].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let length = (frame.len() - headers.transport_start) as u32;
    fold(words.sum::<u32>() + length + u32::from(headers.transport.number()))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether two sums mean the same: zero has two forms.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
