//! What the guest may say in the header of a frame that it sends (virtio 1.3, section 5.1.6.2.1).

use ringlet_driver::features::Features;
use ringlet_driver::wire::{ETHERNET_HEADER, MAX_GSO_FRAME, NetHdr};

/// Bytes that a frame may be longer than the network's maximum transmission unit: the Ethernet header and one VLAN tag.
const LINK_LAYER: usize = ETHERNET_HEADER + 4;

/// Checks the header of a frame of `length` bytes, and returns it with all that has no meaning zeroed: a backend can
/// rely on what it reads. `None` if the frame is to be dropped.
#[inline]
pub(super) fn check(header: &NetHdr, length: usize, features: Features, mtu: u16) -> Option<NetHdr> {
    let mut clean = NetHdr::default();
    let mut limit = usize::from(mtu) + LINK_LAYER;
    if header.needs_csum() {
        // Beyond the end of the frame there is nothing to finish, and inside the Ethernet header no checksum.
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        let inside = usize::from(header.csum_start) >= ETHERNET_HEADER && end <= length;
        if !features.contains(Features::CSUM) || !inside {
            return None;
        }
        clean = NetHdr::partial_checksum(header.csum_start, header.csum_offset);
    }
    if header.is_gso() {
        let feature = match header.gso_type & !NetHdr::GSO_ECN {
            NetHdr::GSO_TCPV4 => Features::HOST_TSO4,
            NetHdr::GSO_TCPV6 => Features::HOST_TSO6,
            NetHdr::GSO_UDP => Features::HOST_UFO,
            NetHdr::GSO_UDP_L4 => Features::HOST_USO,
            _ => return None,
        };
        let ecn = header.gso_type & NetHdr::GSO_ECN != 0;
        let ecn_allowed = feature.intersects(Features::HOST_TSO4 | Features::HOST_TSO6);
        // Windows' and BSD's way of saying "this flow uses ECN" is no harm without the feature, but the rule is clear.
        if !features.contains(feature) || ecn && !(ecn_allowed && features.contains(Features::HOST_ECN)) {
            return None;
        }
        if header.gso_size == 0 || !header.needs_csum() {
            return None;
        }
        clean = NetHdr { gso_type: header.gso_type, gso_size: header.gso_size, hdr_len: header.hdr_len, ..clean };
        limit = MAX_GSO_FRAME;
    } else if header.gso_type != NetHdr::GSO_NONE {
        return None;
    }
    (ETHERNET_HEADER..=limit).contains(&length).then_some(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Features = Features::IMPLEMENTED;
    const NONE: Features = Features::VERSION_1;

    #[test]
    fn plain_frames_need_no_feature() {
        let noise =
            NetHdr { hdr_len: 9, gso_size: 8, csum_start: 7, csum_offset: 6, num_buffers: 5, flags: 6, gso_type: 0 };
        assert_eq!(check(&noise, 60, NONE, 1500), Some(NetHdr::default()));
        for (length, good) in [(13, false), (14, true), (1518, true), (1519, false), (65550, false)] {
            assert_eq!(check(&NetHdr::default(), length, ALL, 1500).is_some(), good, "{length}");
        }
    }

    #[test]
    fn checksums_must_lie_in_the_frame() {
        for (start, offset, length, good) in
            [(34, 16, 52, true), (34, 16, 51, false), (13, 16, 60, false), (65535, 65535, 60, false)]
        {
            let header = NetHdr::partial_checksum(start, offset);
            assert_eq!(check(&header, length, ALL, 1500), good.then_some(header));
            assert_eq!(check(&header, length, NONE, 1500), None);
        }
    }

    #[test]
    fn segmentation_needs_its_feature_a_size_and_a_checksum() {
        let good =
            NetHdr { gso_type: NetHdr::GSO_TCPV4, gso_size: 1448, hdr_len: 66, ..NetHdr::partial_checksum(34, 16) };
        assert_eq!(check(&good, 65549, ALL, 1500), Some(good));
        assert_eq!(check(&good, 65551, ALL, 1500), None);
        assert_eq!(check(&good, 9000, ALL - Features::HOST_TSO4, 1500), None);
        for bad in [
            NetHdr { gso_size: 0, ..good },
            NetHdr { flags: 0, ..good },
            NetHdr { gso_type: NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN, ..good },
            NetHdr { gso_type: NetHdr::GSO_ECN, ..good },
            NetHdr { gso_type: NetHdr::GSO_UDP_L4, ..good },
            NetHdr { gso_type: 2, ..good },
        ] {
            assert_eq!(check(&bad, 9000, ALL, 1500), None, "{bad:?}");
        }
        let ecn = NetHdr { gso_type: NetHdr::GSO_TCPV6 | NetHdr::GSO_ECN, ..good };
        assert_eq!(check(&ecn, 9000, ALL | Features::HOST_ECN, 1500), Some(ecn));
        let udp = NetHdr { gso_type: NetHdr::GSO_UDP_L4 | NetHdr::GSO_ECN, ..good };
        assert_eq!(check(&udp, 9000, Features::all(), 1500), None, "ECN is TCP's");
    }

    proptest! {
        #[test]
        fn what_passes_makes_sense(bytes: [u8; 12], length in 0_usize..70000, features: u64, mtu: u16) {
            let features = Features::from_bits_retain(features);
            if let Some(clean) = check(&NetHdr::parse(&bytes), length, features, mtu) {
                prop_assert!(length >= 14 && (length <= usize::from(mtu) + 18 || clean.is_gso() && length <= MAX_GSO_FRAME));
                prop_assert!(!clean.needs_csum() || usize::from(clean.csum_start) + usize::from(clean.csum_offset) + 2 <= length);
                prop_assert!(!clean.is_gso() || clean.needs_csum() && clean.gso_size > 0);
                prop_assert_eq!(check(&clean, length, features, mtu), Some(clean));
            }
        }
    }
}
