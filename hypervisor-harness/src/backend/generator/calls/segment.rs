//! The frames of a conversation.

use std::net::SocketAddr;

use ringlet_driver::wire::NetHdr;

use super::super::shape::{IP, add, fold};

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
///
/// The IPv4 address and the port as numbers: they are compared and put into frames, and nothing else.
pub(super) type Address = (u32, u16);

/// The address of a socket of IPv4.
pub(super) fn address_of(socket: &SocketAddr) -> Option<Address> {
    match socket {
        SocketAddr::V4(socket) => Some((socket.ip().to_bits(), socket.port())),
        SocketAddr::V6(_) => None,
    }
}

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
            from: (word(IP + 12), half(TCP)),
            to: (word(IP + 16), half(TCP + 2)),
            flags,
            sequence: word(TCP + 4),
            acknowledged: word(TCP + 8),
            payload,
        })
    }

    /// Its frame, with its virtio header. Made of whole words from values alone: nothing is read back that has just been written.
    pub(super) fn emit(&self, to: [u8; 6], from: [u8; 6]) -> Frame {
        let mac = |mac: [u8; 6]| mac.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (to, from) = (mac(to), mac(from));
        let (source, destination) = (u64::from(self.from.0), u64::from(self.to.0));
        let (source_port, port) = (u64::from(self.from.1), u64::from(self.to.1));
        let (sequence, acknowledged) = (u64::from(self.sequence), u64::from(self.acknowledged));
        let (payload, flags) = (mac(self.payload), 0x5000 | u64::from(self.flags));
        let message = if self.flags & PSH == 0 { 0 } else { MESSAGE as u64 };
        let (segment, total) = ((PAYLOAD - TCP) as u64 + message, (PAYLOAD - IP) as u64 + message);
        let words = |word: u64| (word >> 48) + (word >> 32 & 0xffff) + (word >> 16 & 0xffff) + (word & 0xffff);
        let addresses = words(source) + words(destination);
        let checksum = |sum: u64| u64::from(!fold(sum as u32));
        let ip_sum = checksum(0x4500 + total + 0x4000 + 0x4006 + addresses);
        let tcp = source_port + port + words(sequence) + words(acknowledged) + flags + 0xffff + words(payload);
        let tcp_sum = checksum(addresses + 6 + segment + tcp);
        // The virtio header, which says that there is one buffer, 12 bytes; then Ethernet's, IP's, TCP's.
        [
            0,
            0x0100 << 32 | to >> 16,
            (to & 0xffff) << 48 | from,
            0x0800_4500 << 32 | total << 16,
            0x4000_4006 << 32 | ip_sum << 16 | source >> 16,
            (source & 0xffff) << 48 | destination << 16 | source_port,
            port << 48 | sequence << 16 | acknowledged >> 16,
            (acknowledged & 0xffff) << 48 | flags << 32 | 0xffff << 16 | tcp_sum,
            payload,
        ]
        .map(u64::to_be_bytes)
    }
}

/// A frame with its virtio header, in words of eight bytes.
pub(super) type Frame = [[u8; 8]; (NetHdr::LEN + LENGTH) / 8];

const _: () = assert!(size_of::<Frame>() == NetHdr::LEN + LENGTH);

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
