//! The frames of a conversation.

use std::net::IpAddr;

use ringlet_driver::wire::NetHdr;

use super::super::shape::{IP, add, address, fold};
use super::super::{Load, ethernet};

/// Bytes that a request or an answer has: what fills the shortest frame.
pub(super) const MESSAGE: usize = 6;
/// Bytes of a frame, all of the same length: shorter ones are padded, as on any Ethernet.
pub(super) const LENGTH: usize = PAYLOAD + MESSAGE;
const TCP: usize = IP + 20;
const PAYLOAD: usize = TCP + 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// One end of a connection, as one sees it.
pub(super) type Address = (IpAddr, u16);

/// An end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

/// Which frame of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Syn,
    SynAck,
    Request,
    Answer,
    ClientFin,
    ServerFin,
    LastAck,
}

impl Step {
    /// All of them, in order.
    #[cfg(test)]
    pub(super) const ALL: [Self; 7] =
        [Self::Syn, Self::SynAck, Self::Request, Self::Answer, Self::ClientFin, Self::ServerFin, Self::LastAck];

    /// The one after it.
    pub(super) const fn next(self) -> Option<Self> {
        match self {
            Self::Syn => Some(Self::SynAck),
            Self::SynAck => Some(Self::Request),
            Self::Request => Some(Self::Answer),
            Self::Answer => Some(Self::ClientFin),
            Self::ClientFin => Some(Self::ServerFin),
            Self::ServerFin => Some(Self::LastAck),
            Self::LastAck => None,
        }
    }

    /// Who sends it.
    pub(super) const fn from(self) -> End {
        match self {
            Self::Syn | Self::Request | Self::ClientFin | Self::LastAck => End::Client,
            Self::SynAck | Self::Answer | Self::ServerFin => End::Server,
        }
    }

    /// The Ethernet address that it comes from: a client's is the gateway's.
    pub(super) fn sender(self, load: &Load, server: usize) -> [u8; 6] {
        match self.from() {
            End::Client => ethernet(load.gateway),
            End::Server => ethernet(load.servers[server].ip()),
        }
    }

    /// It, of the conversation whose client began with `isn`.
    pub(super) fn segment(self, from: Address, to: Address, isn: u32) -> Segment {
        const LENGTH: u32 = MESSAGE as u32;
        // The server's follows from the client's, so that both are known to both.
        let other = isn.rotate_left(7) ^ 0x5a5a_5a5a;
        let (flags, sequence, acknowledged) = match self {
            Self::Syn => (SYN, isn, other),
            Self::SynAck => (SYN | ACK, other, isn.wrapping_add(1)),
            Self::Request => (PSH | ACK, isn.wrapping_add(1), other.wrapping_add(1)),
            Self::Answer => (PSH | ACK, other.wrapping_add(1), isn.wrapping_add(1 + LENGTH)),
            Self::ClientFin => (FIN | ACK, isn.wrapping_add(1 + LENGTH), other.wrapping_add(1 + LENGTH)),
            Self::ServerFin => (FIN | ACK, other.wrapping_add(1 + LENGTH), isn.wrapping_add(2 + LENGTH)),
            Self::LastAck => (ACK, isn.wrapping_add(2 + LENGTH), other.wrapping_add(2 + LENGTH)),
        };
        let acknowledged = if flags & ACK == 0 { 0 } else { acknowledged };
        let mut payload = [0; MESSAGE];
        if flags & PSH != 0 {
            payload[0] = if self == Self::Request { b'?' } else { b'!' };
            payload[1..5].copy_from_slice(&isn.to_be_bytes());
        }
        Segment { from, to, flags, sequence, acknowledged, payload }
    }
}

/// What matters of a TCP segment here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: Address,
    pub(super) to: Address,
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    /// With PSH; else zeroes.
    payload: [u8; MESSAGE],
}

impl Segment {
    /// Reads a frame of TCP over IPv4 without options.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let headers = frame.get(..PAYLOAD)?;
        let ip = &headers[IP..TCP];
        if headers[12..14] != [8, 0] || ip[0] != 0x45 || ip[9] != 6 || headers[TCP + 12] != 0x50 {
            return None;
        }
        let half = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
        let word = |at: usize| u32::from_be_bytes([headers[at], headers[at + 1], headers[at + 2], headers[at + 3]]);
        let flags = headers[TCP + 13];
        let length = usize::from(half(IP + 2)).checked_sub(PAYLOAD - IP)?;
        let expected = if flags & PSH == 0 { 0 } else { MESSAGE };
        let mut payload = [0; MESSAGE];
        payload[..expected].copy_from_slice(frame.get(PAYLOAD..PAYLOAD + expected)?);
        (length == expected).then_some(Self {
            from: (address(&ip[12..16])?, half(TCP)),
            to: (address(&ip[16..20])?, half(TCP + 2)),
            flags,
            sequence: word(TCP + 4),
            acknowledged: word(TCP + 8),
            payload,
        })
    }

    /// Its frame, with its virtio header.
    pub(super) fn emit(&self, to: [u8; 6], from: [u8; 6]) -> [u8; NetHdr::LEN + LENGTH] {
        let mut bytes = [0; NetHdr::LEN + LENGTH];
        let (header, frame) = bytes.split_at_mut(NetHdr::LEN);
        // One buffer.
        header[10] = 1;
        let length = if self.flags & PSH == 0 { 0 } else { MESSAGE };
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame[12..14].copy_from_slice(&[8, 0]);
        let ip = &mut frame[IP..TCP];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((PAYLOAD - IP + length) as u16).to_be_bytes());
        (ip[6], ip[8], ip[9]) = (0x40, 64, 6);
        for (at, address) in [(12, self.from.0), (16, self.to.0)] {
            if let IpAddr::V4(address) = address {
                ip[at..at + 4].copy_from_slice(&address.octets());
            }
        }
        let sum = !fold(add(0, ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let tcp = &mut frame[TCP..];
        tcp[..2].copy_from_slice(&self.from.1.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledged.to_be_bytes());
        (tcp[12], tcp[13]) = (0x50, self.flags);
        tcp[14..16].copy_from_slice(&[0xff, 0xff]);
        tcp[20..].copy_from_slice(&self.payload);
        let sum = !fold(sum_of(frame, length));
        frame[TCP + 16..TCP + 18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// The sum of the pseudo-header and of a segment with so much payload.
fn sum_of(frame: &[u8], payload: usize) -> u32 {
    let length = PAYLOAD - TCP + payload;
    add(add(6 + length as u32, &frame[IP + 12..TCP]), &frame[TCP..TCP + length])
}

/// Whether a frame that could be read, with its virtio header, is right in what its segment does not tell: checksums, lifetime,
/// padding.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let Some((header, frame)) = bytes.split_first_chunk::<{ NetHdr::LEN }>() else { return false };
    let Some(segment) = Segment::parse(frame) else { return false };
    let payload = if segment.flags & PSH == 0 { 0 } else { MESSAGE };
    // There are no offloads.
    NetHdr::parse(header).gso_type == 0
        && !NetHdr::parse(header).needs_csum()
        && fold(add(0, &frame[IP..TCP])) == 0xffff
        && fold(sum_of(frame, payload)) == 0xffff
        && (63..=64).contains(&frame[IP + 8])
}
