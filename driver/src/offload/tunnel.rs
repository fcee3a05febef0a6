//! What a tunnel has put in front of a packet: IP in IP, GUE (draft-ietf-intarea-gue-09) in UDP, or GRE (RFC 2784).

use super::bytes::{fold, sum, sum_slice};
use super::headers::{IPV6_HEADER, UDP_CHECKSUM};
use super::segment::{finish_ipv4, get16, put16};
use super::{BytesMut, Headers, Network, Transport, finished};
use crate::wire::ETHERNET_HEADER;

const ETHER_TYPE_IPV4: u16 = 0x0800;
const ETHER_TYPE_IPV6: u16 = 0x86dd;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
const GRE: u8 = 47;
const UDP_HEADER: usize = 8;
/// Where GRE's checksum lies, and the flag that says that there is one.
const GRE_CHECKSUM: usize = 4;
const GRE_CHECKSUM_PRESENT: u8 = 0x80;
/// GUE: the length of its options in units of 4 bytes, of which there are none but those of remote checksum offload.
const GUE_OPTIONS: u8 = 0x1f;

/// The headers of a tunnel in front of a packet that is to be segmented, in bytes from the start of the frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tunnel {
    network: Network,
    /// Where the outer IP header ends.
    transport: usize,
    is_udp: bool,
    /// Where the outer checksum lies, if there is one.
    checksum: Option<usize>,
    /// The checksum of what is inside is left to the other end.
    remote: bool,
    inner_network: Network,
    /// Where the packet inside begins.
    pub inner: usize,
}

impl Tunnel {
    /// Reads the headers. `None` if they are not those of a tunnel, or do not lie in `head`.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let at = ETHERNET_HEADER;
        let byte = |at: usize| head.get(at).copied();
        let word = |at: usize| Some(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
        let (network, number, transport) = match word(at - 2)? {
            ETHER_TYPE_IPV4 => (Network::V4, byte(at + 9)?, at + usize::from(byte(at)? & 0xf) * 4),
            ETHER_TYPE_IPV6 => (Network::V6, byte(at + 6)?, at + IPV6_HEADER),
            _ => return None,
        };
        let (mut is_udp, mut checksum, mut remote) = (false, None, false);
        let (carried, inner) = match number {
            IPV4_IN_IP | IPV6_IN_IP => (number, transport),
            UDP => {
                is_udp = true;
                let field = transport + usize::from(UDP_CHECKSUM);
                checksum = (word(field)? != 0).then_some(field);
                let gue = transport + UDP_HEADER;
                let options = byte(gue)? & GUE_OPTIONS;
                remote = options != 0;
                (byte(gue + 1)?, gue + 4 + 4 * usize::from(options))
            }
            GRE => {
                checksum = (byte(transport)? & GRE_CHECKSUM_PRESENT != 0).then_some(transport + GRE_CHECKSUM);
                let carried = match word(transport + 2)? {
                    ETHER_TYPE_IPV4 => IPV4_IN_IP,
                    ETHER_TYPE_IPV6 => IPV6_IN_IP,
                    _ => return None,
                };
                (carried, transport + if checksum.is_some() { 8 } else { 4 })
            }
            _ => return None,
        };
        let inner_network = match carried {
            IPV4_IN_IP => Network::V4,
            IPV6_IN_IP => Network::V6,
            _ => return None,
        };
        (transport >= at + 20 && inner < head.len()).then_some(Self {
            network,
            transport,
            is_udp,
            checksum,
            remote,
            inner_network,
            inner,
        })
    }

    /// The headers of the packet inside, counted from the start of the frame too.
    pub fn headers(&self, head: &[u8]) -> Option<Headers> {
        Headers::parse_at(head, self.inner_network, self.inner)
    }

    /// Whether the checksum of what is inside is left to the other end.
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// What of a frame the outer IP header does not count in its length.
    pub fn uncounted(&self) -> usize {
        match self.network {
            Network::V4 => ETHERNET_HEADER,
            Network::V6 => ETHERNET_HEADER + IPV6_HEADER,
        }
    }

    /// Sets in a segment of `length` bytes, the `index`th, what differs between segments, but for the checksum over all of it.
    pub fn finish_headers(&self, head: &mut [u8], length: usize, index: u16) {
        let at = ETHERNET_HEADER;
        let counted = (length - self.uncounted()) as u16;
        match self.network {
            Network::V4 => {
                put16(head, at + 2, counted);
                // One that may not be fragmented needs no identification, and had none (RFC 6864, section 4.1).
                if get16(head, at + 6) & 0x4000 == 0 {
                    put16(head, at + 4, get16(head, at + 4).wrapping_add(index));
                }
                finish_ipv4(head, at, self.transport);
            }
            Network::V6 => put16(head, at + 4, counted),
        }
        if self.is_udp {
            put16(head, self.transport + 4, (length - self.transport) as u16);
        }
    }

    /// Sets the checksum over a segment of `length` bytes, if there is one. Last: all the rest is summed. Where the checksum
    /// inside is still to be completed, `partial` is where that begins and where it lies.
    pub fn finish_checksum(
        &self,
        segment: &mut (impl BytesMut + ?Sized),
        length: usize,
        partial: Option<(usize, usize)>,
    ) {
        let Some(field) = self.checksum else { return };
        let head = segment.head_mut();
        put16(head, field, 0);
        let mut total = 0;
        if self.is_udp {
            let addresses = match self.network {
                Network::V4 => &head[ETHERNET_HEADER + 12..ETHERNET_HEADER + 20],
                Network::V6 => &head[ETHERNET_HEADER + 8..ETHERNET_HEADER + IPV6_HEADER],
            };
            total = sum_slice(addresses) + (length - self.transport) as u64 + u64::from(Transport::Udp.number());
        }
        total += match partial {
            // What is completed later adds up to the complement of what its field holds now.
            Some((start, at)) => u64::from(!get16(head, at)) + u64::from(fold(sum_slice(&head[self.transport..start]))),
            None => sum(segment, self.transport..length),
        };
        let sum = finished(total, if self.is_udp { UDP_CHECKSUM } else { GRE_CHECKSUM as u16 });
        put16(segment.head_mut(), field, sum);
    }
}
