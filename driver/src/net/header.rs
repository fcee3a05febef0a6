//! Whether a frame's header makes sense and keeps to what was agreed (virtio 1.3, sections 5.1.6.2 and 5.1.6.4).

use crate::features::Features;
use crate::offload::{self, Headers, Invalid, Network};
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
    /// The frame is to be segmented, but is not what its header says.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What headers may ask for in one direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    checksum: bool,
    tcp4: bool,
    tcp6: bool,
    ecn: bool,
    /// UDP cut into IP fragments.
    ufo: bool,
    /// UDP cut into datagrams, over IPv4.
    uso4: bool,
    /// The same over IPv6.
    uso6: bool,
}

impl Allowed {
    /// What the device may ask of the driver.
    pub(super) fn received(features: Features) -> Self {
        Self {
            checksum: features.contains(Features::GUEST_CSUM),
            tcp4: features.contains(Features::GUEST_TSO4),
            tcp6: features.contains(Features::GUEST_TSO6),
            ecn: features.contains(Features::GUEST_ECN),
            ufo: features.contains(Features::GUEST_UFO),
            uso4: features.contains(Features::GUEST_USO4),
            uso6: features.contains(Features::GUEST_USO6),
        }
    }

    /// What the driver may ask of the device.
    pub(super) fn transmitted(features: Features) -> Self {
        let uso = features.contains(Features::HOST_USO);
        Self {
            checksum: features.contains(Features::CSUM),
            tcp4: features.contains(Features::HOST_TSO4),
            tcp6: features.contains(Features::HOST_TSO6),
            ecn: features.contains(Features::HOST_ECN),
            ufo: features.contains(Features::HOST_UFO),
            uso4: uso,
            uso6: uso,
        }
    }

    /// Checks a header before a frame that begins with `head`.
    #[inline]
    pub(super) fn check(self, header: &NetHdr, head: &[u8]) -> Result<(), HeaderError> {
        if header.flags & NetHdr::NEEDS_CSUM == 0 && header.gso_type == NetHdr::GSO_NONE {
            return Ok(());
        }
        self.check_offload(header, head)
    }

    fn check_offload(self, header: &NetHdr, head: &[u8]) -> Result<(), HeaderError> {
        let segmented = match header.gso_type {
            NetHdr::GSO_NONE => false,
            NetHdr::GSO_TCPV4 if self.tcp4 => true,
            NetHdr::GSO_TCPV6 if self.tcp6 => true,
            NetHdr::GSO_TCPV4_ECN if self.tcp4 && self.ecn => true,
            NetHdr::GSO_TCPV6_ECN if self.tcp6 && self.ecn => true,
            NetHdr::GSO_UDP if self.ufo => true,
            NetHdr::GSO_UDP_L4 if self.may_cut_datagrams(head) => true,
            other => return Err(HeaderError::Segmentation(other)),
        };
        if segmented && (header.gso_size == 0 || !header.needs_csum()) {
            return Err(HeaderError::SegmentSize);
        }
        if !self.checksum {
            return Err(HeaderError::Checksum);
        }
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        if end > head.len() {
            return Err(HeaderError::ChecksumPosition);
        }
        Ok(())
    }

    /// One segmentation type stands for both versions of IP, which are agreed on apart.
    fn may_cut_datagrams(self, head: &[u8]) -> bool {
        if self.uso4 == self.uso6 {
            return self.uso4;
        }
        let only = if self.uso4 { Network::V4 } else { Network::V6 };
        Headers::parse(head).is_some_and(|headers| headers.network == only)
    }
}

/// Makes the header of a frame that is to be segmented exact, whoever it came from (virtio 1.3, section 5.1.6.2): `hdr_len` is
/// the length of the frame's headers, as GUEST_HDRLEN promises, and [`NetHdr::GSO_ECN`] is there if CWR is.
pub(super) fn exact(header: &mut NetHdr, head: &[u8], length: usize) -> Result<(), HeaderError> {
    let Some(headers) = offload::check_exact(header, head, length)? else {
        return Err(HeaderError::Segmentation(header.gso_type));
    };
    // At most MAX_HEADERS.
    header.hdr_len = headers.length as u16;
    header.gso_type &= !NetHdr::GSO_ECN;
    if headers.has_cwr(head) {
        header.gso_type |= NetHdr::GSO_ECN;
    }
    Ok(())
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
        assert_eq!(all.check(&NetHdr::default(), &[0; 14]), Ok(()));
        assert_eq!(all.check(&TCP4, &[0; 54]), Ok(()));
        assert_eq!(all.check(&NetHdr { gso_type: NetHdr::GSO_TCPV6, ..TCP4 }, &[0; 54]), Ok(()));
        assert_eq!(all.check(&NetHdr::partial_checksum(34, 6), &[0; 42]), Ok(()));
    }

    #[test]
    fn each_feature_is_asked_for() {
        for direction in [Allowed::received, Allowed::transmitted] {
            let without = |bits: Features| direction(Features::IMPLEMENTED - bits);
            let checksum = NetHdr::partial_checksum(34, 6);
            let no_checksum = without(Features::CSUM | Features::GUEST_CSUM);
            assert_eq!(no_checksum.check(&checksum, &[0; 60]), Err(HeaderError::Checksum));
            let no_tso4 = without(Features::HOST_TSO4 | Features::GUEST_TSO4);
            assert_eq!(no_tso4.check(&TCP4, &[0; 60]), Err(HeaderError::Segmentation(NetHdr::GSO_TCPV4)));
            assert_eq!(no_tso4.check(&NetHdr { gso_type: NetHdr::GSO_TCPV6, ..TCP4 }, &[0; 60]), Ok(()));
        }
    }

    #[test]
    fn each_kind_of_segmentation_has_its_feature() {
        let cases = [
            (NetHdr::GSO_TCPV4, Features::GUEST_TSO4, Features::HOST_TSO4),
            (NetHdr::GSO_TCPV6, Features::GUEST_TSO6, Features::HOST_TSO6),
            (NetHdr::GSO_TCPV4_ECN, Features::GUEST_ECN, Features::HOST_ECN),
            (NetHdr::GSO_TCPV6_ECN, Features::GUEST_ECN, Features::HOST_ECN),
            (NetHdr::GSO_UDP, Features::GUEST_UFO, Features::HOST_UFO),
            (NetHdr::GSO_UDP_L4, Features::GUEST_USO4 | Features::GUEST_USO6, Features::HOST_USO),
        ];
        for (kind, guest, host) in cases {
            let header = NetHdr { gso_type: kind, ..TCP4 };
            for (direction, feature) in
                [(Allowed::received as fn(Features) -> Allowed, guest), (Allowed::transmitted, host)]
            {
                assert_eq!(direction(Features::IMPLEMENTED).check(&header, &[0; 60]), Ok(()), "{kind}");
                let refused = direction(Features::IMPLEMENTED - feature).check(&header, &[0; 60]);
                assert_eq!(refused, Err(HeaderError::Segmentation(kind)));
            }
        }
    }

    #[test]
    fn datagrams_over_one_version_of_ip_only() {
        let header = NetHdr { gso_type: NetHdr::GSO_UDP_L4, ..NetHdr { csum_offset: 6, ..TCP4 } };
        let mut v4 = [0; 60];
        (v4[12], v4[14], v4[23]) = (8, 0x45, 17);
        let mut v6 = [0; 70];
        (v6[12], v6[13], v6[14], v6[20]) = (0x86, 0xdd, 0x60, 17);
        for (missing, passes, stops) in [(Features::GUEST_USO6, &v4[..], &v6[..]), (Features::GUEST_USO4, &v6, &v4)] {
            let allowed = Allowed::received(Features::IMPLEMENTED - missing);
            assert_eq!(allowed.check(&header, passes), Ok(()));
            assert_eq!(allowed.check(&header, stops), Err(HeaderError::Segmentation(NetHdr::GSO_UDP_L4)));
            assert_eq!(allowed.check(&header, &[0; 60]), Err(HeaderError::Segmentation(NetHdr::GSO_UDP_L4)));
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let all = Allowed::transmitted(Features::IMPLEMENTED);
        assert_eq!(all.check(&TCP4, &[0; 51]), Err(HeaderError::ChecksumPosition));
        let far = NetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..TCP4 };
        assert_eq!(all.check(&far, &[0; 65535]), Err(HeaderError::ChecksumPosition));
        assert_eq!(all.check(&NetHdr { gso_size: 0, ..TCP4 }, &[0; 60]), Err(HeaderError::SegmentSize));
        assert_eq!(all.check(&NetHdr { flags: 0, ..TCP4 }, &[0; 60]), Err(HeaderError::SegmentSize));
        for kind in
            [2, 0x21, 0x41, NetHdr::GSO_ECN, NetHdr::GSO_UDP | NetHdr::GSO_ECN, NetHdr::GSO_UDP_L4 | NetHdr::GSO_ECN]
        {
            assert_eq!(all.check(&NetHdr { gso_type: kind, ..TCP4 }, &[0; 60]), Err(HeaderError::Segmentation(kind)));
        }
    }
}
