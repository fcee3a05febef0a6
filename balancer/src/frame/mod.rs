//! What a frame is: Ethernet, IP and transport headers read in place, every access within bounds.
//!
//! Nothing here is believed: lengths that contradict each other make a frame [`Reason::Malformed`], and a header beyond
//! the contiguous head of the frame does too. What is read once here is all the balancer decides on.

pub(crate) mod fragment;
mod ipv4;
mod ipv6;
pub(crate) mod sctp;
pub(crate) mod transport;

use core::net::{IpAddr, Ipv4Addr};

use crate::packet::Reason;
use transport::Transport;

/// Bytes of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;

/// EtherType of IPv4.
pub(crate) const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub(crate) const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Protocol numbers of the IP header.
pub(crate) mod protocol {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    /// The encapsulating security payload, RFC 4303.
    pub const ESP: u8 = 50;
    /// The authentication header, RFC 4302. Of IPv6 it is an extension header, which is stepped over.
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// All of it.
    Whole,
    /// The first part, which has the transport header.
    First,
    /// Another part.
    Later,
}

/// An IP packet within a frame. Offsets are in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4: the packet may not be fragmented. Always true of IPv6.
    pub dont_fragment: bool,
    pub fragment: Fragment,
    /// The protocol after all extension headers.
    pub protocol: u8,
    /// Where the header of that protocol starts.
    pub payload: usize,
    /// Where the packet ends, link padding excluded; at most the length of the frame.
    pub end: usize,
}

impl Ip {
    /// Bytes of the whole IP packet.
    pub fn len(&self) -> usize {
        self.end - ETHERNET
    }

    pub fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }
}

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An ARP packet, unread.
    Arp,
    /// TCP, UDP or SCTP with its ports, as a whole.
    Flow,
    /// The same, but the first fragment of it alone, with the ports.
    First,
    /// Any other IP packet, and later fragments.
    Other,
}

/// The headers of a frame, as far as it has them. They are read into one place and stay there: what is moved about soon after
/// it was written, and was written field by field, a processor has to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    pub ip: Ip,
    pub transport: Transport,
}

impl Headers {
    /// Of nothing.
    pub const NONE: Self = Self {
        ip: Ip {
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            hops: 0,
            dont_fragment: false,
            fragment: Fragment::Whole,
            protocol: 0,
            payload: 0,
            end: 0,
        },
        transport: Transport {
            protocol: crate::service::Protocol::Udp,
            source_port: 0,
            destination_port: 0,
            flags: transport::TcpFlags::empty(),
            event: sctp::Event::Nothing,
            header: 0,
        },
    };
}

/// What a frame carries, for tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// An ARP packet, unread.
    Arp,
    /// TCP, UDP or SCTP with its ports: a whole datagram or its first fragment.
    Flow(Ip, Transport),
    /// Any other IP packet, and later fragments.
    Other(Ip),
}

/// Whether a frame was sent to a group: multicast or broadcast.
pub(crate) fn is_group(head: &[u8]) -> bool {
    head.first().is_some_and(|byte| byte & 1 != 0)
}

/// [`parse_into`] a place of its own.
#[cfg(test)]
pub(crate) fn parse(head: &[u8], len: usize, mac: &[u8; 6]) -> Result<Content, Reason> {
    let mut headers = Headers::NONE;
    let kind = parse_into(&mut headers, head, len, mac)?;
    Ok(match kind {
        Kind::Arp => Content::Arp,
        Kind::Flow | Kind::First => Content::Flow(headers.ip, headers.transport),
        Kind::Other => Content::Other(headers.ip),
    })
}

/// Reads the headers of a frame of `len` bytes whose first bytes are `head`, and which was sent to `mac` or to a group, into a
/// place of the caller's, of which only what belongs to that kind of frame means something.
#[inline(always)]
pub(crate) fn parse_into(headers: &mut Headers, head: &[u8], len: usize, mac: &[u8; 6]) -> Result<Kind, Reason> {
    let Some(ethernet) = head.first_chunk::<ETHERNET>() else { return Err(Reason::Malformed) };
    if ethernet[..6] != mac[..] && ethernet[0] & 1 == 0 {
        return Err(Reason::NotToUs);
    }
    let ip = &mut headers.ip;
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        IPV4 => ipv4::parse(ip, head, len)?,
        IPV6 => ipv6::parse(ip, head, len)?,
        ARP => return Ok(Kind::Arp),
        _ => return Err(Reason::EtherType),
    }
    if ip.fragment != Fragment::Whole {
        return part(headers, head);
    }
    let is_flow = transport::parse(&mut headers.transport, head, ip)?;
    Ok(if is_flow { Kind::Flow } else { Kind::Other })
}

/// Reads what a fragment has behind its IP headers.
#[cold]
fn part(headers: &mut Headers, head: &[u8]) -> Result<Kind, Reason> {
    let is_first = headers.ip.fragment == Fragment::First;
    let is_flow = is_first && transport::parse(&mut headers.transport, head, &headers.ip)?;
    Ok(if is_flow { Kind::First } else { Kind::Other })
}

#[cfg(test)]
mod tests;
