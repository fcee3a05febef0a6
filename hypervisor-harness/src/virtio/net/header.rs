//! What the guest may say in the header of a frame that it sends (virtio 1.3, section 5.1.6.2.1).

use ringlet_driver::features::Features;
use ringlet_driver::offload::{self, MAX_HEADERS};
use ringlet_driver::wire::{ETHERNET_HEADER, MAX_GSO_FRAME, NetHdr};

/// Bytes that a frame may be longer than the network's maximum transmission unit: the Ethernet header and one VLAN tag.
const LINK_LAYER: usize = ETHERNET_HEADER + 4;

/// What the headers of one guest's frames may say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    features: Features,
    /// The longest frame that is not to be segmented, and the longest segment of one that is.
    limit: usize,
}

impl Rules {
    /// The rules for a driver that negotiated `features`, on a network of this maximum transmission unit.
    pub(super) fn new(features: Features, mtu: u16) -> Self {
        Self { features, limit: usize::from(mtu) + LINK_LAYER }
    }

    /// Checks the header of a frame of `length` bytes, and returns it with all that has no meaning zeroed and with the
    /// `hdr_len` that the frame has, whatever the guest said. `None` if the frame is to be dropped. `head` copies the frame's
    /// first bytes; it is asked only where the frame is to be segmented.
    ///
    /// The frame itself stays the guest's to change: a backend that relies on more than the header copies first.
    #[inline]
    pub(super) fn check(
        &self,
        header: &NetHdr,
        length: usize,
        head: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<NetHdr> {
        if header.gso_type != NetHdr::GSO_NONE {
            return self.check_segmentation(header, length, head);
        }
        if !(ETHERNET_HEADER..=self.limit).contains(&length) {
            return None;
        }
        // The device ignores flags that it does not know or that are the other direction's.
        if !header.needs_csum() {
            return Some(NetHdr::default());
        }
        // Beyond the end of the frame there is nothing to finish, and inside the Ethernet header no checksum.
        let end = usize::from(header.csum_start) + usize::from(header.csum_offset) + 2;
        let inside = usize::from(header.csum_start) >= ETHERNET_HEADER && end <= length;
        (inside && self.features.contains(Features::CSUM))
            .then(|| NetHdr::partial_checksum(header.csum_start, header.csum_offset))
    }

    fn check_segmentation(
        &self,
        header: &NetHdr,
        length: usize,
        head: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<NetHdr> {
        let kind = header.gso_type & !NetHdr::GSO_ECN;
        let ecn = header.gso_type & NetHdr::GSO_ECN != 0;
        let (needed, tcp) = match kind {
            NetHdr::GSO_TCPV4 => (Features::HOST_TSO4, true),
            NetHdr::GSO_TCPV6 => (Features::HOST_TSO6, true),
            NetHdr::GSO_UDP => (Features::HOST_UFO, false),
            NetHdr::GSO_UDP_L4 => (Features::HOST_USO, false),
            _ => return None,
        };
        let needed = if ecn { needed | Features::HOST_ECN } else { needed } | Features::CSUM;
        if !self.features.contains(needed) || ecn && !tcp || length > MAX_GSO_FRAME {
            return None;
        }
        // Fragments begin at multiples of eight bytes (RFC 791, section 3.2).
        if kind == NetHdr::GSO_UDP && !header.gso_size.is_multiple_of(8) {
            return None;
        }
        let mut bytes = [0; MAX_HEADERS];
        let read = head(&mut bytes);
        // Sizes, that the checksum is partial, and that the headers are of the kind that the type says.
        let headers = offload::check(header, &bytes[..read], length).ok()??;
        let repeated = if kind == NetHdr::GSO_UDP { headers.transport_start } else { headers.length };
        if repeated + usize::from(header.gso_size) > self.limit {
            return None;
        }
        // No longer than MAX_HEADERS.
        let exact = headers.length as u16;
        if self.features.contains(Features::GUEST_HDRLEN) && header.hdr_len != exact {
            return None;
        }
        Some(NetHdr {
            gso_type: header.gso_type,
            gso_size: header.gso_size,
            hdr_len: exact,
            ..NetHdr::partial_checksum(header.csum_start, header.csum_offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::OFFLOADS;

    const NONE: Features = Features::VERSION_1;
    const ALL: Features = OFFLOADS.union(Features::GUEST_HDRLEN);

    /// The header of a frame of the kind `gso_type`, and the frame's headers.
    fn large(gso_type: u8) -> (NetHdr, Vec<u8>) {
        let v6 = matches!(gso_type, NetHdr::GSO_TCPV6);
        large_of(gso_type, v6)
    }

    fn large_of(gso_type: u8, v6: bool) -> (NetHdr, Vec<u8>) {
        let tcp = !matches!(gso_type, NetHdr::GSO_UDP | NetHdr::GSO_UDP_L4);
        let mut frame = vec![2; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, if tcp { 6 } else { 17 }, 64]);
            frame.extend([1; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, if tcp { 6 } else { 17 }, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        }
        let start = frame.len();
        frame.extend(vec![0; if tcp { 20 } else { 8 }]);
        if tcp {
            frame[start + 12] = 5 << 4;
        }
        let partial = NetHdr::partial_checksum(start as u16, if tcp { 16 } else { 6 });
        (NetHdr { gso_type, gso_size: 1400, hdr_len: frame.len() as u16, ..partial }, frame)
    }

    /// Says in a frame's IP header how long the frame is.
    fn state_length(frame: &mut [u8], length: usize) {
        let (at, before) = if frame.get(12) == Some(&8) { (16, 14) } else { (18, 54) };
        if let Some(field) = frame.get_mut(at..at + 2) {
            field.copy_from_slice(&(length.saturating_sub(before) as u16).to_be_bytes());
        }
    }

    /// Checks a frame that is as long as it says.
    fn check(header: &NetHdr, frame: &[u8], length: usize, features: Features, mtu: u16) -> Option<NetHdr> {
        let mut frame = frame.to_vec();
        state_length(&mut frame, length);
        check_as_is(header, &frame, length, features, mtu)
    }

    fn check_as_is(header: &NetHdr, frame: &[u8], length: usize, features: Features, mtu: u16) -> Option<NetHdr> {
        Rules::new(features, mtu).check(header, length, |head| {
            let count = head.len().min(frame.len());
            head[..count].copy_from_slice(&frame[..count]);
            count
        })
    }

    #[test]
    fn plain_frames_need_no_feature() {
        let noise =
            NetHdr { hdr_len: 9, gso_size: 8, csum_start: 7, csum_offset: 6, num_buffers: 5, flags: 6, gso_type: 0 };
        assert_eq!(check(&noise, &[], 60, NONE, 1500), Some(NetHdr::default()));
        for (length, good) in [(13, false), (14, true), (1518, true), (1519, false), (65550, false)] {
            assert_eq!(check(&NetHdr::default(), &[], length, ALL, 1500).is_some(), good, "{length}");
        }
    }

    #[test]
    fn checksums_must_lie_in_the_frame() {
        for (start, offset, length, good) in
            [(34, 16, 52, true), (34, 16, 51, false), (13, 16, 60, false), (65535, 65535, 60, false)]
        {
            let header = NetHdr::partial_checksum(start, offset);
            assert_eq!(check(&header, &[], length, ALL, 1500), good.then_some(header));
            assert_eq!(check(&header, &[], length, NONE, 1500), None);
        }
    }

    #[test]
    fn each_kind_of_segmentation_needs_its_feature() {
        for (kind, feature) in [
            (NetHdr::GSO_TCPV4, Features::HOST_TSO4),
            (NetHdr::GSO_TCPV6, Features::HOST_TSO6),
            (NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN, Features::HOST_ECN),
            (NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN, Features::HOST_TSO4),
            (NetHdr::GSO_UDP, Features::HOST_UFO),
            (NetHdr::GSO_UDP_L4, Features::HOST_USO),
        ] {
            let (header, frame) = large(kind);
            assert_eq!(check(&header, &frame, 60_000, ALL, 1500), Some(header), "{kind:#x}");
            assert_eq!(check(&header, &frame, 60_000, ALL - feature, 1500), None, "{kind:#x}");
            assert_eq!(check(&header, &frame, 60_000, ALL - Features::CSUM, 1500), None, "{kind:#x}");
            assert_eq!(check(&header, &frame, MAX_GSO_FRAME + 1, ALL, 1500), None, "{kind:#x}");
        }
        for kind in [NetHdr::GSO_UDP, NetHdr::GSO_UDP_L4] {
            let (header, frame) = large_of(kind, true);
            assert_eq!(check(&header, &frame, 60_000, ALL, 1500), Some(header), "UDP's types are of both versions");
            let (header, frame) = large(kind);
            let ecn = NetHdr { gso_type: kind | NetHdr::GSO_ECN, ..header };
            assert_eq!(check(&ecn, &frame, 60_000, ALL, 1500), None, "ECN is TCP's");
        }
        let (header, frame) = large(NetHdr::GSO_TCPV4);
        for gso_type in [2, 6, 0x7f, NetHdr::GSO_ECN, NetHdr::GSO_TCPV6, NetHdr::GSO_UDP_L4] {
            assert_eq!(check(&NetHdr { gso_type, ..header }, &frame, 60_000, ALL, 1500), None, "{gso_type:#x}");
        }
    }

    #[test]
    fn sizes_must_make_segments_that_the_network_takes() {
        let (tcp, frame) = large(NetHdr::GSO_TCPV4);
        for (gso_size, good) in [(0, false), (1, true), (1464, true), (1465, false), (u16::MAX, false)] {
            let header = NetHdr { gso_size, ..tcp };
            assert_eq!(check(&header, &frame, 60_000, ALL, 1500).is_some(), good, "{gso_size}");
        }
        assert_eq!(check(&tcp, &frame, frame.len(), ALL, 1500), None, "nothing to be cut");
        assert_eq!(check(&NetHdr { flags: 0, ..tcp }, &frame, 60_000, ALL, 1500), None);
        let (udp, frame) = large(NetHdr::GSO_UDP);
        for (gso_size, good) in [(0, false), (8, true), (1481, false), (1480, true), (1484, false), (1488, false)] {
            let header = NetHdr { gso_size, ..udp };
            assert_eq!(check(&header, &frame, 60_000, ALL, 1500).is_some(), good, "{gso_size}");
        }
    }

    #[test]
    fn the_length_of_the_headers_is_exact_where_that_was_promised_and_known_anyway() {
        for kind in [NetHdr::GSO_TCPV4, NetHdr::GSO_TCPV6, NetHdr::GSO_UDP, NetHdr::GSO_UDP_L4] {
            let (header, frame) = large(kind);
            for hdr_len in [0, header.hdr_len - 1, header.hdr_len + 1, u16::MAX] {
                let wrong = NetHdr { hdr_len, ..header };
                assert_eq!(check(&wrong, &frame, 60_000, ALL, 1500), None);
                assert_eq!(check(&wrong, &frame, 60_000, ALL - Features::GUEST_HDRLEN, 1500), Some(header));
            }
        }
    }

    proptest! {
        #[test]
        fn what_passes_makes_sense(
            bytes: [u8; 12],
            // Something near to a sound header, as often as none.
            sound in prop::option::of((0_usize..4, any::<bool>(), 0_u16..2000)),
            noise in prop::collection::vec((0_usize..80, any::<u8>()), 0..2),
            length in prop_oneof![0_usize..100, 0_usize..70_000],
            features: u64,
            mtu in prop_oneof![Just(1500_u16), any::<u16>()],
        ) {
            let (mut header, mut frame) = (NetHdr::parse(&bytes), Vec::new());
            if let Some((kind, v6, size)) = sound {
                let kinds = [NetHdr::GSO_TCPV4, NetHdr::GSO_TCPV6, NetHdr::GSO_UDP, NetHdr::GSO_UDP_L4];
                (header, frame) = large_of(kinds[kind], v6);
                header.gso_size = size;
                state_length(&mut frame, length);
            }
            for (at, byte) in noise {
                if let Some(place) = frame.get_mut(at) { *place = byte; }
            }
            let frame = &frame[..frame.len().min(length)];
            let features = Features::from_bits_retain(features);
            if let Some(clean) = check_as_is(&header, frame, length, features, mtu) {
                prop_assert!(length >= 14 && (length <= usize::from(mtu) + 18 || clean.is_gso() && length <= MAX_GSO_FRAME));
                prop_assert!(!clean.needs_csum() || features.contains(Features::CSUM));
                prop_assert!(!clean.needs_csum() || usize::from(clean.csum_start) + usize::from(clean.csum_offset) + 2 <= length);
                prop_assert!(clean.flags & !NetHdr::NEEDS_CSUM == 0 && clean.num_buffers == 0);
                if clean.is_gso() {
                    prop_assert!(clean.needs_csum() && clean.gso_size > 0);
                    prop_assert!(usize::from(clean.gso_size) <= usize::from(mtu) + 18);
                    let parsed = offload::Headers::parse(frame).map(|headers| headers.length);
                    prop_assert_eq!(parsed, Some(usize::from(clean.hdr_len)), "the length is the frame's own");
                } else {
                    prop_assert_eq!((clean.gso_type, clean.gso_size, clean.hdr_len), (0, 0, 0));
                }
                prop_assert_eq!(check_as_is(&clean, frame, length, features, mtu), Some(clean));
            }
        }

        #[test]
        fn whatever_is_sound_passes(kind in 0_usize..4, v6: bool, size in 1_u16..180, more in 1_usize..60_000) {
            let kind = [NetHdr::GSO_TCPV4, NetHdr::GSO_TCPV6, NetHdr::GSO_UDP, NetHdr::GSO_UDP_L4][kind];
            let (mut header, frame) = if kind == NetHdr::GSO_UDP || kind == NetHdr::GSO_UDP_L4 {
                large_of(kind, v6)
            } else {
                large(kind)
            };
            header.gso_size = size * 8;
            prop_assert_eq!(check(&header, &frame, frame.len() + more, ALL, 1500), Some(header));
        }
    }
}
