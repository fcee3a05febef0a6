//! The headers of an Ethernet frame that carries TCP or UDP.

/// The longest headers that are understood, in bytes: Ethernet, one VLAN tag, IPv6 with extension headers, TCP with options.
pub const MAX_HEADERS: usize = 256;

const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const ETHER_TYPE_VLAN: u16 = 0x8100;
const IPV6_HEADER: usize = 40;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// IPv6 extension headers that may stand before the transport header: hop-by-hop options, routing, destination options.
const EXTENSIONS: [u8; 3] = [0, 43, 60];

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
    /// IPv6, and for headers that do not lie in `head` as a whole, are longer than [`MAX_HEADERS`], or contradict themselves.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut network_start = ETHERNET;
        let mut ether_type = be16(head, 12)?;
        if ether_type == ETHER_TYPE_VLAN {
            ether_type = be16(head, 16)?;
            network_start += VLAN_TAG;
        }
        let (network, protocol, transport_start) = match ether_type {
            ETHER_TYPE_IPV4 => {
                let first = *head.get(network_start)?;
                let length = usize::from(first & 0xf) * 4;
                // More fragments, or not the first one: a transport header cannot be relied upon.
                let fragment = be16(head, network_start + 6)? & 0x3fff != 0;
                if first >> 4 != 4 || length < 20 || fragment {
                    return None;
                }
                (Network::V4, *head.get(network_start + 9)?, network_start + length)
            }
            ETHER_TYPE_IPV6 => {
                if head.get(network_start)? >> 4 != 6 {
                    return None;
                }
                let (protocol, transport) =
                    skip_extensions(head, *head.get(network_start + 6)?, network_start + IPV6_HEADER)?;
                (Network::V6, protocol, transport)
            }
            _ => return None,
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
}

/// Skips IPv6 extension headers. The loop ends because each is at least 8 bytes long and all lie in `head`.
fn skip_extensions(head: &[u8], mut protocol: u8, mut at: usize) -> Option<(u8, usize)> {
    while EXTENSIONS.contains(&protocol) {
        protocol = *head.get(at)?;
        at += 8 * (usize::from(*head.get(at + 1)?) + 1);
    }
    Some((protocol, at))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
