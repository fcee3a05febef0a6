//! The wire that one connection's smoltcp sees: its own packets in, and packets out through the [`Fabric`].

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Instant;

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant as Micros;

use super::super::fabric::{Cut, Fabric};
use super::super::mode::Mode;
use super::super::packet::{Packet, TCP};

/// The largest IP packet.
const LARGEST: usize = 65_535;
/// What a peer takes that does not say it (RFC 9293, section 3.7.1).
pub const DEFAULT_MSS: u16 = 536;
/// No peer is believed that it takes less: the segments would be countless.
const LEAST_MSS: u16 = 64;

/// What is known of a connection beside its socket.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// The host that it is of.
    pub host: usize,
    /// Bytes of payload in a segment that the other side takes.
    pub mss: u16,
    /// The sequence number after the last that we sent.
    pub sent: u32,
    /// The sequence number that we acknowledged.
    pub acknowledged: u32,
}

/// What smoltcp may do on behalf of a connection whose remote address is like `remote`.
///
/// Where the guest takes large segments, smoltcp is told of a wire that carries 64 KiB packets, and what it sends is marked
/// for segmentation on the way out ([`Outbound`]). smoltcp's own marks are not used: its IPv6 side drops what is larger than
/// the wire carries.
pub fn capabilities(mode: Mode, mtu: u16, remote: IpAddr) -> DeviceCapabilities {
    let large = if remote.is_ipv4() { mode.tso4 } else { mode.tso6 };
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = if large { LARGEST } else { usize::from(mtu) };
    capabilities.checksum = ChecksumCapabilities::ignored();
    // Those of IPv4 headers are made here. All others are made, or left to the guest, and all are checked, outside.
    capabilities.checksum.ipv4 = Checksum::Tx;
    if large {
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LARGEST);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(LARGEST);
    }
    capabilities
}

/// The wire, for one call of smoltcp's.
pub struct Wire<'a> {
    /// Where packets go.
    pub fabric: &'a mut Fabric,
    /// The connection.
    pub link: &'a mut Link,
    /// A packet that came for the connection.
    pub inbound: Option<&'a [u8]>,
    /// What smoltcp is told.
    pub capabilities: DeviceCapabilities,
    /// The time.
    pub now: Instant,
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Inbound<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outbound<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Micros) -> Option<(Inbound<'_>, Outbound<'_>)> {
        // An answer is always taken: one for each packet that came is bounded by the sender.
        let packet = self.inbound.take()?;
        Some((Inbound(packet), Outbound { fabric: self.fabric, link: self.link, now: self.now }))
    }

    fn transmit(&mut self, _: Micros) -> Option<Outbound<'_>> {
        self.fabric.has_room().then_some(Outbound { fabric: self.fabric, link: self.link, now: self.now })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// A packet on its way in.
pub struct Inbound<'b>(&'b [u8]);

impl RxToken for Inbound<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The place for a packet on its way out.
pub struct Outbound<'b> {
    fabric: &'b mut Fabric,
    link: &'b mut Link,
    now: Instant,
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = self.fabric.frame(length);
        let result = f(frame.packet_mut());
        let segment = finish(frame.packet_mut(), self.link, self.fabric.mtu);
        self.fabric.send(self.link.host, frame, segment.map(Cut::Segments), self.now);
        result
    }
}

/// Notes what a packet says, corrects the maximum segment size that a SYN offers, and answers with the size of the segments
/// into which the packet is to be cut.
fn finish(packet: &mut [u8], link: &mut Link, mtu: u16) -> Option<u16> {
    let view = Packet::parse(packet).ok().filter(|view| view.protocol == TCP)?;
    let (ip, ipv4) = (view.header, view.source.is_ipv4());
    let header = Header::parse(view.payload())?;
    link.sent = header.sequence.wrapping_add(header.length());
    if header.acknowledges() {
        link.acknowledged = header.acknowledgment;
    }
    let room = mtu - if ipv4 { 40 } else { 60 };
    if header.is(SYN) {
        if let Some(at) = mss_option(view.payload()) {
            packet[ip + at..ip + at + 2].copy_from_slice(&room.to_be_bytes());
        }
        return None;
    }
    let options = header.data_offset - 20;
    let size = link.mss.min(room).max(LEAST_MSS).saturating_sub(options as u16);
    (header.payload > usize::from(size)).then_some(size)
}

/// FIN flag.
pub const FIN: u8 = 1;
/// SYN flag.
pub const SYN: u8 = 2;
/// RST flag.
pub const RST: u8 = 4;
/// ACK flag.
pub const ACK: u8 = 16;

/// The fields of a TCP header (RFC 9293, section 3.1) that are looked at outside of smoltcp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// The flags.
    pub flags: u8,
    /// Length of the header with its options, in bytes.
    pub data_offset: usize,
    /// Length of what follows, in bytes.
    pub payload: usize,
}

impl Header {
    /// Reads the header of a segment. `None` if there is not all of it.
    pub fn parse(segment: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = segment.first_chunk()?;
        let be16 = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let data_offset = usize::from(fixed[12] >> 4) * 4;
        let payload = segment.len().checked_sub(data_offset).filter(|_| data_offset >= 20)?;
        Some(Self {
            source: be16(0),
            destination: be16(2),
            sequence: be32(4),
            acknowledgment: be32(8),
            flags: fixed[13],
            data_offset,
            payload,
        })
    }

    /// Whether a flag is set.
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the acknowledgment number means something.
    pub fn acknowledges(&self) -> bool {
        self.is(ACK)
    }

    /// The sequence numbers that the segment takes up.
    pub fn length(&self) -> u32 {
        self.payload as u32 + u32::from(self.is(SYN)) + u32::from(self.is(FIN))
    }
}

/// Where in the segment the value of its maximum-segment-size option lies.
fn mss_option(segment: &[u8]) -> Option<usize> {
    let end = (usize::from(segment.get(12)? >> 4) * 4).min(segment.len());
    let mut at = 20;
    while at < end {
        match segment[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*segment.get(at + 1).filter(|_| at + 1 < end)?);
                if kind == 2 && length == 4 && at + 4 <= end {
                    return Some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
    None
}

/// The maximum segment size that a SYN offers.
pub fn offered_mss(segment: &[u8]) -> u16 {
    mss_option(segment).map_or(DEFAULT_MSS, |at| u16::from_be_bytes([segment[at], segment[at + 1]])).max(LEAST_MSS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_option_among_others() {
        let mut segment = vec![0; 20];
        segment[12] = 8 << 4;
        segment.extend([1, 3, 3, 7, 2, 4, 5, 0xb4, 4, 2, 0, 0]);
        assert_eq!(offered_mss(&segment), 1460);
        segment[12] = 6 << 4;
        assert_eq!(offered_mss(&segment), DEFAULT_MSS, "it lies behind the header's end");
    }

    proptest! {
        #[test]
        fn any_segment_can_be_read(segment in prop::collection::vec(any::<u8>(), 0..80)) {
            offered_mss(&segment);
            Header::parse(&segment);
        }
    }
}
