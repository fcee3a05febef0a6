//! The header before each frame (virtio 1.3, section 5.1.6).

use super::le16;

/// `virtio_net_hdr_v1`: 12 bytes before each frame, in both directions. `num_buffers` is there whether or not MRG_RXBUF was
/// negotiated, since VERSION_1 was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetHdr {
    /// [`NetHdr::NEEDS_CSUM`], [`NetHdr::DATA_VALID`] and [`NetHdr::RSC_INFO`].
    pub flags: u8,
    /// One of the `GSO_` constants, perhaps with [`NetHdr::GSO_ECN`].
    pub gso_type: u8,
    /// Length in bytes of the headers (Ethernet to transport) of a frame that is to be segmented. Exact in what a driver sends
    /// with GUEST_HDRLEN; in what it receives a hint, not to be relied upon.
    pub hdr_len: u16,
    /// Bytes of transport payload in each segment; with [`NetHdr::GSO_UDP`], of IP payload in each fragment.
    pub gso_size: u16,
    /// Where the checksummed bytes begin, from the start of the Ethernet frame; valid with [`NetHdr::NEEDS_CSUM`]. With
    /// [`NetHdr::RSC_INFO`] how many segments were coalesced.
    pub csum_start: u16,
    /// Where the checksum lies, from `csum_start`; valid with [`NetHdr::NEEDS_CSUM`]. With [`NetHdr::RSC_INFO`] how many
    /// duplicate ACKs were coalesced.
    pub csum_offset: u16,
    /// Number of buffers that a received frame lies in. Zero in what is sent.
    pub num_buffers: u16,
}

impl NetHdr {
    /// Length in bytes.
    pub const LEN: usize = 12;

    /// The transport checksum holds only the sum of the pseudo-header and is to be finished.
    pub const NEEDS_CSUM: u8 = 1;
    /// The device has checked the checksums (receive only).
    pub const DATA_VALID: u8 = 2;
    /// `csum_start` and `csum_offset` hold coalescing counts instead (receive only, with RSC_EXT).
    pub const RSC_INFO: u8 = 4;

    /// Not to be segmented.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP, to be cut into IP fragments.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP, to be cut into datagrams.
    pub const GSO_UDP_L4: u8 = 5;
    /// Bit beside a TCP type: the segment has ECN's CWR set.
    pub const GSO_ECN: u8 = 0x80;
    /// Bits beside any type: the frame was put into a tunnel, and what is to be segmented is inside. The specification has a bit
    /// for UDP tunnels over either version of IP, and never both of them, so that no device can say this, or is told it: it is
    /// for the [`Segmenter`](crate::offload::Segmenter) alone. Without a type beside them it is the tunnel's own packet, of IPv4,
    /// that is to be cut into IP fragments of `gso_size` bytes of payload; its checksum may be partial.
    pub const ENCAPSULATED: u8 = 0x60;
    /// TCP over IPv4, with ECN's CWR set.
    pub const GSO_TCPV4_ECN: u8 = Self::GSO_TCPV4 | Self::GSO_ECN;
    /// TCP over IPv6, with ECN's CWR set.
    pub const GSO_TCPV6_ECN: u8 = Self::GSO_TCPV6 | Self::GSO_ECN;

    /// Reads the 12 bytes.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: le16(bytes, 2),
            gso_size: le16(bytes, 4),
            csum_start: le16(bytes, 6),
            csum_offset: le16(bytes, 8),
            num_buffers: le16(bytes, 10),
        }
    }

    /// Makes the 12 bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        let [i, j] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, i, j]
    }

    /// Makes the 12 bytes, as words whose bytes lie in memory in that order.
    #[inline]
    pub(crate) fn to_words(self) -> (u64, u32) {
        let word = |a: u16, b: u16| u32::from(a) | u32::from(b) << 16;
        let kind = u16::from(self.flags) | u16::from(self.gso_type) << 8;
        let first = u64::from(word(kind, self.hdr_len)) | u64::from(word(self.gso_size, self.csum_start)) << 32;
        (first.to_le(), word(self.csum_offset, self.num_buffers).to_le())
    }

    /// A header that asks for a checksum over everything from `start` (counted from the first byte of the Ethernet frame) to
    /// be put at `start + offset`.
    #[inline]
    #[must_use]
    pub fn partial_checksum(start: u16, offset: u16) -> Self {
        Self { flags: Self::NEEDS_CSUM, csum_start: start, csum_offset: offset, ..Self::default() }
    }

    /// How often the frame is to be taken as received again: the duplicate ACKs that the device has left out (RSC_EXT).
    #[inline]
    #[must_use]
    pub fn duplicate_acks(&self) -> u16 {
        if self.flags & Self::RSC_INFO != 0 { self.csum_offset } else { 0 }
    }

    /// Whether nothing is to be done with the frame, and nothing was: then the other fields mean nothing.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flags == 0 && self.gso_type == Self::GSO_NONE
    }

    /// Whether the checksum is to be finished.
    #[inline]
    #[must_use]
    pub fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether the frame is to be segmented.
    #[inline]
    #[must_use]
    pub fn is_gso(&self) -> bool {
        self.gso_type & !Self::GSO_ECN != Self::GSO_NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_lie_where_section_5_1_6_says() {
        let header = NetHdr::parse(&[1, 0x81, 0x42, 0x01, 0xb4, 0x05, 0x22, 0x00, 0x10, 0x00, 0x02, 0x03]);
        let expected = NetHdr {
            flags: NetHdr::NEEDS_CSUM,
            gso_type: NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN,
            hdr_len: 0x142,
            gso_size: 1460,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0x302,
        };
        assert_eq!(header, expected);
    }

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_to_bytes(bytes: [u8; 12]) {
            let header = NetHdr::parse(&bytes);
            prop_assert_eq!(header.to_bytes(), bytes);
            let (first, rest) = header.to_words();
            prop_assert_eq!([&first.to_ne_bytes()[..], &rest.to_ne_bytes()].concat(), bytes);
        }
    }
}
