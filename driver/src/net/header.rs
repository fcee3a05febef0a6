//! Whether a frame's header makes sense and keeps to what was agreed (virtio 1.3, sections 5.1.6.2 and 5.1.6.4).

use crate::features::Features;
use crate::wire::NetHdr;

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The checksum is to be finished, which was not agreed on.
    #[error("the checksum is not complete, and finishing it was not agreed on")]
    Checksum,
    /// The checksum lies outside of the frame, or not in its first buffer.
    #[error("the checksum lies outside of the frame")]
    ChecksumPosition,
    /// The frame is to be segmented in a way that was not agreed on.
    #[error("the frame is to be segmented (type {0:#04x}), which was not agreed on")]
    Segmentation(u8),
    /// The frame is to be segmented, but not into what, or without its checksum being finished.
    #[error("the frame is to be segmented, but the header does not tell how")]
    SegmentSize,
}

/// What headers may ask for in one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    checksum: bool,
    tcp4: bool,
    tcp6: bool,
}

impl Allowed {
    /// What the device may ask of the driver.
    pub(super) fn received(features: Features) -> Self {
        Self {
            checksum: features.contains(Features::GUEST_CSUM),
            tcp4: features.contains(Features::GUEST_TSO4),
            tcp6: features.contains(Features::GUEST_TSO6),
        }
    }

    /// What the driver may ask of the device.
    pub(super) fn transmitted(features: Features) -> Self {
        Self {
            checksum: features.contains(Features::CSUM),
            tcp4: features.contains(Features::HOST_TSO4),
            tcp6: features.contains(Features::HOST_TSO6),
        }
    }

    /// Checks a header before a frame whose first buffer has `head` bytes.
    #[inline]
    pub(super) fn check(self, header: &NetHdr, head: usize) -> Result<(), HeaderError> {
        if header.flags & NetHdr::NEEDS_CSUM == 0 && header.gso_type == NetHdr::GSO_NONE {
            return Ok(());
        }
        self.check_offload(header, head)
    }

    fn check_offload(self, header: &NetHdr, head: usize) -> Result<(), HeaderError> {
        let segmented = match header.gso_type {
            NetHdr::GSO_NONE => false,
            NetHdr::GSO_TCPV4 if self.tcp4 => true,
            NetHdr::GSO_TCPV6 if self.tcp6 => true,
            // With GSO_ECN too: neither direction of ECN is implemented.
            other => return Err(HeaderError::Segmentation(other)),
        };
        if segmented && (header.gso_size == 0 || !header.needs_csum()) {
            return Err(HeaderError::SegmentSize);
        }
        if !self.checksum {
            return Err(HeaderError::Checksum);
        }
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        if end > head {
            return Err(HeaderError::ChecksumPosition);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP4: NetHdr = NetHdr {
        flags: NetHdr::NEEDS_CSUM,
        gso_type: NetHdr::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };

    #[test]
    fn what_was_agreed_on_passes() {
        let all = Allowed::received(Features::IMPLEMENTED);
        assert_eq!(all.check(&NetHdr::default(), 14), Ok(()));
        assert_eq!(all.check(&TCP4, 54), Ok(()));
        assert_eq!(all.check(&NetHdr { gso_type: NetHdr::GSO_TCPV6, ..TCP4 }, 54), Ok(()));
        assert_eq!(all.check(&NetHdr::partial_checksum(34, 6), 42), Ok(()));
    }

    #[test]
    fn each_feature_is_asked_for() {
        for direction in [Allowed::received, Allowed::transmitted] {
            let without = |bits: Features| direction(Features::IMPLEMENTED - bits);
            let checksum = NetHdr::partial_checksum(34, 6);
            let no_checksum = without(Features::CSUM | Features::GUEST_CSUM);
            assert_eq!(no_checksum.check(&checksum, 60), Err(HeaderError::Checksum));
            let no_tso4 = without(Features::HOST_TSO4 | Features::GUEST_TSO4);
            assert_eq!(no_tso4.check(&TCP4, 60), Err(HeaderError::Segmentation(NetHdr::GSO_TCPV4)));
            assert_eq!(no_tso4.check(&NetHdr { gso_type: NetHdr::GSO_TCPV6, ..TCP4 }, 60), Ok(()));
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let all = Allowed::transmitted(Features::IMPLEMENTED);
        assert_eq!(all.check(&TCP4, 51), Err(HeaderError::ChecksumPosition));
        let far = NetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..TCP4 };
        assert_eq!(all.check(&far, 65535), Err(HeaderError::ChecksumPosition));
        assert_eq!(all.check(&NetHdr { gso_size: 0, ..TCP4 }, 60), Err(HeaderError::SegmentSize));
        assert_eq!(all.check(&NetHdr { flags: 0, ..TCP4 }, 60), Err(HeaderError::SegmentSize));
        for kind in [2, NetHdr::GSO_UDP, NetHdr::GSO_UDP_L4, NetHdr::GSO_ECN, NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN] {
            assert_eq!(all.check(&NetHdr { gso_type: kind, ..TCP4 }, 60), Err(HeaderError::Segmentation(kind)));
        }
    }
}
