//! Frames made from a template: only what differs from flow to flow is written, checksums included.

use std::net::Ipv4Addr;

use ringlet_driver::wire::{ETHERNET_HEADER, NetHdr};

use super::{LONGEST_FRAME, Load, ethernet};
use crate::backend::options::Protocol;

/// Where the IPv4 header begins.
pub(super) const IP: usize = ETHERNET_HEADER;
/// Where the transport header begins.
pub(super) const TRANSPORT: usize = IP + 20;
/// Bytes to look at to know a frame: Ethernet, IPv4, ports.
pub(super) const HEADERS: usize = TRANSPORT + 4;
/// Clients on one port.
const CLIENTS: u32 = 60_000;
/// The first port of the clients.
const FIRST_PORT: u16 = 1024;
/// Flows that can be told apart.
pub(super) const MOST_FLOWS: u32 = CLIENTS * 1000;

/// The address of a flow's client, in 10.9.0.0/16, and its port.
pub(super) fn client(flow: u32) -> (Ipv4Addr, u16) {
    let host = flow % CLIENTS + 1;
    (Ipv4Addr::new(10, 9, (host >> 8) as u8, host as u8), FIRST_PORT + (flow / CLIENTS) as u16)
}

/// The flow of a client.
pub(super) fn flow(address: Ipv4Addr, port: u16) -> Option<u32> {
    let [10, 9, high, low] = address.octets() else { return None };
    let host = u32::from(high) << 8 | u32::from(low);
    let nth = u32::from(port.checked_sub(FIRST_PORT)?);
    (1..=CLIENTS).contains(&host).then(|| nth * CLIENTS + host - 1)
}

/// Where a transport protocol keeps what, from the start of its header.
pub(super) struct Transport {
    /// Its number.
    pub(super) number: u8,
    /// Length of its header.
    pub(super) header: usize,
    /// Where its checksum is.
    pub(super) checksum: usize,
}

impl Transport {
    pub(super) const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self { number: 17, header: 8, checksum: 6 },
            Protocol::Tcp => Self { number: 6, header: 20, checksum: 16 },
        }
    }
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

/// The sum of the pseudo-header but for its addresses.
pub(super) fn pseudo(number: u8, length: usize) -> u32 {
    u32::from(number) + length as u32
}

/// Bytes of a frame's mark: as many as fit into the smallest TCP frame.
pub(super) const MARK: usize = 6;

/// What a frame carries in its first payload bytes: its flow and round.
pub(super) fn mark(flow: u32, round: u32) -> [u8; MARK] {
    let [a, b, c, d] = flow.to_be_bytes();
    let [_, _, e, f] = round.to_be_bytes();
    [a, b, c, d, e, f]
}

/// What a frame carries in the payload byte at this offset, behind the mark.
pub(super) const fn filler(at: usize) -> u8 {
    // A period that no power of two divides, so that a misplaced piece is noticed.
    (at % 251) as u8
}

/// A frame with its virtio header, and the sums over what does not change in it.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    tcp: bool,
    partial: bool,
    ip_sum: u32,
    transport_sum: u32,
    /// Where the transport checksum lies, in the Ethernet frame.
    checksum: usize,
    /// Where the payload begins.
    payload: usize,
}

impl Template {
    /// Prepares frames of this load; `partial` leaves the transport checksum to be finished, as GUEST_CSUM allows.
    pub(super) fn new(load: &Load, partial: bool) -> Self {
        let transport = Transport::of(load.protocol);
        let mut frame = [0; LONGEST_FRAME];
        let frame = &mut frame[..load.frame];
        frame[..6].copy_from_slice(&load.guest);
        frame[6..12].copy_from_slice(&ethernet(load.gateway));
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let length = (load.frame - IP) as u16;
        let ip = &mut frame[IP..TRANSPORT];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = transport.number;
        ip[16..20].copy_from_slice(&load.service.ip().octets());
        let ip_sum = add(0, ip);
        let segment = load.frame - TRANSPORT;
        let payload = TRANSPORT + transport.header;
        frame[TRANSPORT + 2..TRANSPORT + 4].copy_from_slice(&load.service.port().to_be_bytes());
        match load.protocol {
            Protocol::Udp => {
                frame[TRANSPORT + 4..TRANSPORT + 6].copy_from_slice(&(segment as u16).to_be_bytes());
            }
            Protocol::Tcp => frame[TRANSPORT + 12..TRANSPORT + 16].copy_from_slice(&[0x50, 0, 0xff, 0xff]),
        }
        for (at, byte) in frame[payload..].iter_mut().enumerate().skip(MARK) {
            *byte = filler(at);
        }
        let addresses = add(0, &load.service.ip().octets()) + pseudo(transport.number, segment);
        let transport_sum = if partial { addresses } else { addresses + add(0, &frame[TRANSPORT..]) };
        let header = match partial {
            true => NetHdr { num_buffers: 1, ..NetHdr::partial_checksum(TRANSPORT as u16, transport.checksum as u16) },
            false => NetHdr { num_buffers: 1, ..NetHdr::default() },
        };
        Self {
            bytes: [&header.to_bytes()[..], frame].concat(),
            tcp: load.protocol == Protocol::Tcp,
            partial,
            ip_sum,
            transport_sum,
            checksum: TRANSPORT + transport.checksum,
            payload,
        }
    }

    /// The frame of a flow in a round.
    #[inline]
    pub(super) fn fill(&mut self, flow: u32, round: u32) -> &[u8] {
        let (address, port) = client(flow);
        let (address, port, mark) = (address.octets(), port.to_be_bytes(), mark(flow, round));
        let frame = &mut self.bytes[NetHdr::LEN..];
        frame[IP + 12..IP + 16].copy_from_slice(&address);
        let source = add(0, &address);
        frame[IP + 10..IP + 12].copy_from_slice(&(!fold(self.ip_sum + source)).to_be_bytes());
        frame[TRANSPORT..TRANSPORT + 2].copy_from_slice(&port);
        let mut sum = self.transport_sum + source;
        if self.tcp {
            // SYN alone first, then ACK with PSH.
            let flags = if round == 0 { 0x02 } else { 0x18 };
            let sequence = if round == 0 { 0 } else { 1 };
            frame[TRANSPORT + 7] = sequence;
            frame[TRANSPORT + 13] = flags;
            if !self.partial {
                sum += u32::from(sequence) + u32::from(flags);
            }
        }
        frame[self.payload..self.payload + MARK].copy_from_slice(&mark);
        if self.partial {
            frame[self.checksum..self.checksum + 2].copy_from_slice(&fold(sum).to_be_bytes());
        } else {
            sum += add(add(0, &mark), &port);
            // A UDP checksum of zero means that there is none (RFC 768).
            let checksum = match !fold(sum) {
                0 if !self.tcp => 0xffff,
                checksum => checksum,
            };
            frame[self.checksum..self.checksum + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        &self.bytes
    }
}
