//! What a frame is: Ethernet, IP and transport headers read in place, every access within bounds.
//!
//! Nothing here is believed: lengths that contradict each other make a frame [`Reason::Malformed`], and a header beyond
//! the contiguous head of the frame does too. What is read once here is all the balancer decides on.

mod ipv4;
mod ipv6;
pub(crate) mod transport;

use core::net::IpAddr;

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
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
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

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// An ARP packet, unread.
    Arp,
    /// TCP or UDP with its ports: a whole datagram or its first fragment.
    Flow(Ip, Transport),
    /// Any other IP packet, and later fragments.
    Other(Ip),
}

/// Whether a frame was sent to a group: multicast or broadcast.
pub(crate) fn is_group(head: &[u8]) -> bool {
    head.first().is_some_and(|byte| byte & 1 != 0)
}

/// Reads the headers of a frame of `len` bytes whose first bytes are `head`, and which was sent to `mac` or to a group.
pub(crate) fn parse(head: &[u8], len: usize, mac: &[u8; 6]) -> Result<Content, Reason> {
    let Some(ethernet) = head.first_chunk::<ETHERNET>() else { return Err(Reason::Malformed) };
    if ethernet[..6] != mac[..] && ethernet[0] & 1 == 0 {
        return Err(Reason::NotToUs);
    }
    let ip = match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        IPV4 => ipv4::parse(head, len)?,
        IPV6 => ipv6::parse(head, len)?,
        ARP => return Ok(Content::Arp),
        _ => return Err(Reason::EtherType),
    };
    if ip.fragment == Fragment::Later {
        return Ok(Content::Other(ip));
    }
    match transport::parse(head, &ip) {
        Some(transport) => Ok(Content::Flow(ip, transport?)),
        None => Ok(Content::Other(ip)),
    }
}

#[cfg(test)]
mod tests;
