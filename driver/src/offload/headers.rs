//! The headers of an Ethernet frame that carries TCP or UDP.

use super::bytes::{fold, sum_slice};

/// The longest headers that are understood, in bytes: Ethernet, one VLAN tag, IPv6 with extension headers, TCP with options.
pub const MAX_HEADERS: usize = 256;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
/// Length of an IPv6 header without extension headers.
pub(super) const IPV6_HEADER: usize = 40;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that may stand before the transport header: hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS];

/// Where a routing header tells how many of its stops are still to be visited (RFC 8200, section 4.4).
const SEGMENTS_LEFT: usize = 3;

/// TCP's flag "congestion window reduced" (RFC 3168, section 6.1), in the byte at offset 13.
const TCP_CWR: u8 = 0x80;
/// Where TCP's flags lie in its header.
pub(super) const TCP_FLAGS: usize = 13;

/// Where TCP's checksum lies in its header.
pub(super) const TCP_CHECKSUM: u16 = 16;
/// Where UDP's checksum lies in its header.
pub(super) const UDP_CHECKSUM: u16 = 6;

/// The network layer of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The transport layer of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where the checksum lies in the header, in bytes.
    #[must_use]
    pub const fn checksum_offset(self) -> u16 {
        match self {
            Transport::Tcp => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        }
    }

    /// The number in the IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }
    }
}

/// Where the headers of a frame lie, in bytes from its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// The network layer.
    pub network: Network,
    /// Where it begins.
    pub network_start: usize,
    /// The transport layer.
    pub transport: Transport,
    /// Where it begins.
    pub transport_start: usize,
    /// Where the payload begins: the length of all headers together, at most [`MAX_HEADERS`].
    pub length: usize,
}

impl Headers {
    /// Reads the headers from the first bytes of a frame. `None` for all that is not unfragmented TCP or UDP over IPv4 or
    /// IPv6, and for headers that do not lie in `head` as a whole, are longer than [`MAX_HEADERS`], or contradict themselves. Also
    /// for IPv6 packets that are to be routed further by a routing header: the destination that their checksum is about is not the
    /// one in the IPv6 header (RFC 8200, section 8.1).
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut network_start = ETHERNET;
        let mut ether_type = be16(head, 12)?;
        if ether_type == ETHER_TYPE_VLAN {
            ether_type = be16(head, 16)?;
            network_start += VLAN_TAG;
        }
        let network = match ether_type {
            ETHER_TYPE_IPV4 => Network::V4,
            ETHER_TYPE_IPV6 => Network::V6,
            _ => return None,
        };
        Self::parse_at(head, network, network_start)
    }

    /// Reads the headers of an IP packet that begins somewhere in `head`. As [`Headers::parse`].
    pub(super) fn parse_at(head: &[u8], network: Network, network_start: usize) -> Option<Self> {
        let (protocol, transport_start) = match network {
            Network::V4 => {
                let first = *head.get(network_start)?;
                let length = usize::from(first & 0xf) * 4;
                // More fragments, or not the first one: a transport header cannot be relied upon.
                let fragment = be16(head, network_start + 6)? & 0x3fff != 0;
                if first >> 4 != 4 || length < 20 || fragment {
                    return None;
                }
                (*head.get(network_start + 9)?, network_start + length)
            }
            Network::V6 => {
                if head.get(network_start)? >> 4 != 6 {
                    return None;
                }
                skip_extensions(head, *head.get(network_start + 6)?, network_start + IPV6_HEADER)?
            }
        };
        let (transport, transport_length) = match protocol {
            PROTOCOL_TCP => (Transport::Tcp, usize::from(head.get(transport_start + 12)? >> 4) * 4),
            PROTOCOL_UDP => (Transport::Udp, 8),
            _ => return None,
        };
        let length = transport_start + transport_length;
        let sound = (transport == Transport::Udp || transport_length >= 20) && length <= head.len().min(MAX_HEADERS);
        sound.then_some(Self { network, network_start, transport, transport_start, length })
    }

    /// Where the IP packet ends, from the first byte of the frame, by its own length field. `head` is what
    /// [`Headers::parse`] was given.
    #[must_use]
    pub fn packet_end(&self, head: &[u8]) -> usize {
        match self.network {
            Network::V4 => self.network_start + field(head, self.network_start + 2),
            Network::V6 => self.network_start + IPV6_HEADER + field(head, self.network_start + 4),
        }
    }

    /// Whether TCP's flag CWR is set: such a segment is to be cut in the way that ECN wants (HOST_ECN, GUEST_ECN).
    #[must_use]
    pub fn has_cwr(&self, head: &[u8]) -> bool {
        let flags = head.get(self.transport_start + TCP_FLAGS);
        self.transport == Transport::Tcp && flags.is_some_and(|flags| flags & TCP_CWR != 0)
    }

    /// The sum of the pseudo-header of a packet with `length` bytes from the transport header on, folded: what a checksum
    /// field holds that is to be finished.
    pub(super) fn pseudo_sum(&self, head: &[u8], length: usize) -> u16 {
        let at = self.network_start;
        let addresses = match self.network {
            Network::V4 => &head[at + 12..at + 20],
            Network::V6 => &head[at + 8..at + IPV6_HEADER],
        };
        fold(sum_slice(addresses) + length as u64 + u64::from(self.transport.number()))
    }

    /// Where what IP carries begins: all that is cut into fragments, if that is to be done.
    pub(super) fn payload_start(&self, head: &[u8]) -> usize {
        match self.network {
            Network::V4 => self.transport_start,
            Network::V6 => self.fragmentable(head).0,
        }
    }

    /// Where an IPv6 packet is cut in two when it is fragmented (RFC 8200, section 4.5): what lies before must be in front of
    /// each fragment. That is everything up to the last header that routers look at. Also, where the number of the header
    /// that follows lies.
    pub(super) fn fragmentable(&self, head: &[u8]) -> (usize, usize) {
        let mut next_header = self.network_start + 6;
        let mut at = self.network_start + IPV6_HEADER;
        let mut cut = (at, next_header);
        // All of these headers lie in `head`: `parse` has gone the same way.
        while at < self.transport_start {
            let kind = head[next_header];
            next_header = at;
            // Not beyond them, although whoever shares the memory may have changed them since.
            at = (at + 8 * (usize::from(head[at + 1]) + 1)).min(self.transport_start);
            if kind == HOP_BY_HOP || kind == ROUTING {
                cut = (at, next_header);
            }
        }
        cut
    }
}

fn field(head: &[u8], at: usize) -> usize {
    be16(head, at).map_or(0, usize::from)
}

/// Skips IPv6 extension headers. The loop ends because each is at least 8 bytes long and all lie in `head`.
fn skip_extensions(head: &[u8], mut protocol: u8, mut at: usize) -> Option<(u8, usize)> {
    while EXTENSIONS.contains(&protocol) {
        if protocol == ROUTING && *head.get(at + SEGMENTS_LEFT)? != 0 {
            return None;
        }
        protocol = *head.get(at)?;
        at += 8 * (usize::from(*head.get(at + 1)?) + 1);
    }
    Some((protocol, at))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
