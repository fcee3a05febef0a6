//! Segments of TCP that are made here (RFC 9293, section 3.1).

use core::net::IpAddr;

use crate::checksum::{Sum, ipv4_header};
use crate::frame::transport::TcpFlags;
use crate::frame::{ETHERNET, IPV4, IPV6, protocol};
use crate::neighbour::Mac;
use crate::packet::Sink;

/// TTL and hop limit.
const HOPS: u8 = 64;
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const HEADER_TCP: usize = 20;
/// The longest options there can be.
const OPTIONS: usize = 40;
/// The most bytes of the stream that are sent so: a PROXY header of IPv6.
pub(super) const PAYLOAD: usize = 52;

/// A segment to be made. Numbers are in host order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    /// The Ethernet addresses: to whom, from whom.
    pub macs: [Mac; 2],
    pub from: (IpAddr, u16),
    /// Of the same family.
    pub to: (IpAddr, u16),
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: TcpFlags,
    pub window: u16,
    /// A multiple of four bytes, at most 40.
    pub options: &'a [u8],
    /// At most [`PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Sends it. What cannot be, its addresses being of two families or its parts too long, is not.
    pub fn send(&self, sink: &mut dyn Sink) {
        let mut frame = [0; ETHERNET + HEADER_V6 + HEADER_TCP + OPTIONS + PAYLOAD];
        if let Some(length) = self.write(&mut frame) {
            sink.transmit(&frame[..length]);
        }
    }

    fn write(&self, frame: &mut [u8; ETHERNET + HEADER_V6 + HEADER_TCP + OPTIONS + PAYLOAD]) -> Option<usize> {
        if self.options.len() > OPTIONS || !self.options.len().is_multiple_of(4) || self.payload.len() > PAYLOAD {
            return None;
        }
        let length = HEADER_TCP + self.options.len() + self.payload.len();
        frame[..6].copy_from_slice(&self.macs[0]);
        frame[6..12].copy_from_slice(&self.macs[1]);
        let packet = &mut frame[ETHERNET..];
        let (kind, header) = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let h = packet.first_chunk_mut::<HEADER_V4>()?;
                h[0] = 0x45;
                h[2..4].copy_from_slice(&((HEADER_V4 + length) as u16).to_be_bytes());
                // Not to be fragmented, and so without a number (RFC 6864).
                h[6] = 0x40;
                (h[8], h[9]) = (HOPS, protocol::TCP);
                h[12..16].copy_from_slice(&from.octets());
                h[16..20].copy_from_slice(&to.octets());
                let sum = ipv4_header(h);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                (IPV4, HEADER_V4)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let h = packet.first_chunk_mut::<HEADER_V6>()?;
                h[0] = 0x60;
                h[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                (h[6], h[7]) = (protocol::TCP, HOPS);
                h[8..24].copy_from_slice(&from.octets());
                h[24..40].copy_from_slice(&to.octets());
                (IPV6, HEADER_V6)
            }
            _ => return None,
        };
        let tcp = &mut packet[header..header + length];
        tcp[0..2].copy_from_slice(&self.from.1.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.1.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        tcp[12] = ((HEADER_TCP + self.options.len()) as u8 / 4) << 4;
        tcp[13] = self.flags.bits();
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        let rest = &mut tcp[HEADER_TCP..];
        rest[..self.options.len()].copy_from_slice(self.options);
        rest[self.options.len()..].copy_from_slice(self.payload);
        let sum = Sum::pseudo_header(self.from.0, self.to.0, protocol::TCP, length as u32).bytes(tcp).checksum();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        Some(ETHERNET + header + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::tests::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_made_is_read_as_it_was_meant(
            v6: bool,
            ports: (u16, u16),
            numbers: (u32, u32),
            window: u16,
            flags: u8,
            options in prop::collection::vec(any::<u8>(), 0..=40),
            payload in prop::collection::vec(any::<u8>(), 0..=PAYLOAD),
        ) {
            let options = &options[..options.len() / 4 * 4];
            let (from, to) = if v6 { (CLIENT_V6, VIRTUAL_V6) } else { (CLIENT, VIRTUAL) };
            let segment = super::Segment {
                macs: [MAC, OTHER_MAC],
                from: end(from, ports.0),
                to: end(to, ports.1),
                sequence: numbers.0,
                acknowledgement: numbers.1,
                flags: TcpFlags::from_bits_retain(flags),
                window,
                options,
                payload: &payload,
            };
            let mut said = Said::default();
            segment.send(&mut said);
            let frame = &said.frames[0];
            verify(frame);
            prop_assert_eq!((read(frame).from, read(frame).to, read(frame).flags), (segment.from, segment.to, Some(segment.flags)));
            let tcp = &frame[transport_at(frame)..];
            prop_assert_eq!(&tcp[4..8], &numbers.0.to_be_bytes());
            prop_assert_eq!(&tcp[8..12], &numbers.1.to_be_bytes());
            prop_assert_eq!(&tcp[14..16], &window.to_be_bytes());
            prop_assert_eq!(&tcp[20..20 + options.len()], options);
            prop_assert_eq!(&tcp[20 + options.len()..], &payload[..]);
        }
    }
}
