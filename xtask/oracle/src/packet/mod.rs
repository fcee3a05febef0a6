//! Packets as a case names them, and frames as a report shows them.

mod build;
mod checksum;
mod comparable;
mod parse;
mod show;

use std::net::IpAddr;

pub use build::{frame, frames};
pub use comparable::{comparable, is_notice, offset, without_crc, without_hops};
pub use parse::{apply, chunks, flags, parse};
pub use show::{View, show, view};

/// The checksum of a message behind a pseudo-header.
pub fn internet_checksum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    checksum::internet(&[&checksum::pseudo_header(source, destination, protocol, message.len()), message])
}

/// IP protocol numbers.
pub mod protocol {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// TCP flags.
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub body: Body,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Identification, IPv4 only.
    pub id: u16,
    /// Don't fragment, IPv4 only.
    pub df: bool,
    /// Bytes of payload behind all headers.
    pub len: usize,
    /// The payload, instead of so many bytes.
    pub say: Option<String>,
    /// Sequence and acknowledgement number, TCP only.
    pub numbers: [u32; 2],
    /// The payload itself, instead.
    pub payload: Vec<u8>,
    /// The transport checksum is wrong.
    pub damaged: bool,
    /// It comes in fragments: where they begin but the first, in bytes after the IP header, in order.
    pub cut: Vec<usize>,
    /// Bytes of options of an IPv4 header, a multiple of four.
    pub options: usize,
    /// Extension headers of IPv6, by their numbers; a routing header with a segment left is [`SEGMENT_LEFT`].
    pub extensions: Vec<u8>,
    /// The order in which the fragments come, from 1 on; those that are not named do not come. All of them in order if it is empty.
    pub order: Vec<usize>,
}

/// Stands for a routing header, number 43, with a segment left.
pub const SEGMENT_LEFT: u8 = 253;

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Tcp {
        ports: [u16; 2],
        flags: u8,
    },
    Udp {
        ports: [u16; 2],
    },
    /// Chunks by their type numbers.
    Sctp {
        ports: [u16; 2],
        chunks: Vec<u8>,
    },
    /// IPsec: AH or ESP.
    Secured {
        protocol: u8,
    },
    /// An ICMP echo request, or the reply.
    Echo {
        reply: bool,
        id: u16,
    },
    /// An ICMP error about a packet.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        about: Box<Packet>,
    },
}

impl Packet {
    /// With what packets usually have.
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Packet {
            source,
            destination,
            body,
            ttl: 64,
            tos: 0,
            id: 0,
            df: true,
            len: 0,
            say: None,
            payload: Vec::new(),
            numbers: [1000, 2000],
            damaged: false,
            options: 0,
            extensions: Vec::new(),
            cut: Vec::new(),
            order: Vec::new(),
        }
    }

    /// The ports, if it has some.
    pub fn ports(&self) -> Option<[u16; 2]> {
        match self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports } | Body::Sctp { ports, .. } => Some(ports),
            Body::Secured { .. } | Body::Echo { .. } | Body::Error { .. } => None,
        }
    }
}
