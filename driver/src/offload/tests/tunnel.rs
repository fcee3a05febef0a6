//! What is cut inside of a tunnel is what is cut outside of one, each piece with the tunnel's headers, which are right.

use super::*;

/// What is in front of the packet.
#[derive(Debug, Clone, Copy)]
struct Around {
    v6: bool,
    /// 0 nothing, 1 GUE, 2 GRE.
    kind: u8,
    checksum: bool,
    remote: bool,
    dont_fragment: bool,
}

fn around() -> impl Strategy<Value = Around> {
    (any::<bool>(), 0_u8..3, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(v6, kind, checksum, remote, dont_fragment)| {
            let remote = remote && kind == 1;
            Around { v6, kind, checksum: kind != 0 && (checksum || remote), remote, dont_fragment }
        },
    )
}

const OUTER_ID: u16 = 0xfffd;

impl Around {
    /// The headers, Ethernet's included, lengths left out and a checksum of nothing where there is to be one.
    fn headers(&self, inner: &Super) -> Vec<u8> {
        let is_v6 = inner.headers.network == Network::V6;
        let (number, ether_type) = if is_v6 { (41, [0x86, 0xdd]) } else { (4, [8, 0]) };
        let between = match self.kind {
            0 => vec![],
            1 => {
                let sum = if self.checksum { 0xff } else { 0 };
                let mut gue = vec![0x99, 0x99, 0x17, 0xc0, 0, 0, sum, sum];
                gue.extend([if self.remote { 2 } else { 0 }, number, 0, u8::from(self.remote)]);
                if self.remote {
                    let start = inner.header.csum_start - 14;
                    gue.extend([0x80, 0, 0, 0]);
                    gue.extend(start.to_be_bytes());
                    gue.extend((start + inner.header.csum_offset).to_be_bytes());
                }
                gue
            }
            _ => {
                let mut gre = vec![if self.checksum { 0x80 } else { 0 }, 0];
                gre.extend(ether_type);
                gre.extend(if self.checksum { vec![0xff, 0xff, 0, 0] } else { vec![] });
                gre
            }
        };
        let carried = match self.kind {
            0 => number,
            1 => 17,
            _ => 47,
        };
        let mut front = vec![3_u8; 12];
        if self.v6 {
            front.extend([0x86, 0xdd, 0x6b, 0xb0, 0, 0, 0, 0, carried, 63]);
            front.extend((0..32).map(|i| 0x40 + i));
        } else {
            front.extend([8, 0, 0x45, 0xbb, 0, 0]);
            front.extend(if self.dont_fragment { [0; 2] } else { OUTER_ID.to_be_bytes() });
            front.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 63, carried, 0, 0, 10, 0, 0, 2, 10, 0, 0, 11]);
        }
        front.extend(between);
        front
    }
}

/// The sum of all words (RFC 1071).
fn words(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Checks the headers in front of a piece that is complete, and takes them off.
fn open(around: &Around, front: &[u8], index: usize, piece: &[u8]) -> Vec<u8> {
    let be16 = |at: usize| u16::from_be_bytes([piece[at], piece[at + 1]]);
    assert_eq!(piece[..16], front[..16]);
    let transport = if around.v6 {
        assert_eq!(usize::from(be16(18)), piece.len() - 54);
        assert_eq!((&piece[14..18], &piece[20..54]), (&front[14..18], &front[20..54]));
        54
    } else {
        assert_eq!((usize::from(be16(16)), words(&piece[14..34])), (piece.len() - 14, 0xffff));
        assert_eq!(be16(18), if around.dont_fragment { 0 } else { OUTER_ID.wrapping_add(index as u16) });
        assert_eq!((&piece[20..24], &piece[26..34]), (&front[20..24], &front[26..34]));
        34
    };
    let carried = &piece[transport..];
    match around.kind {
        1 => {
            assert_eq!(
                (carried[..4].to_vec(), usize::from(be16(transport + 4))),
                (front[transport..][..4].to_vec(), carried.len())
            );
            let mut pseudo = if around.v6 { piece[22..54].to_vec() } else { piece[26..34].to_vec() };
            pseudo.extend((carried.len() as u32 + 17).to_be_bytes());
            pseudo.extend(carried);
            assert_eq!(carried[6..8] != [0, 0], around.checksum);
            assert!(!around.checksum || words(&pseudo) == 0xffff, "UDP's checksum");
            assert_eq!(carried[8..front.len() - transport], front[transport + 8..]);
        }
        2 => {
            assert!(!around.checksum || words(carried) == 0xffff, "GRE's checksum");
            assert_eq!(carried[..4], front[transport..][..4]);
        }
        _ => {}
    }
    piece[front.len()..].to_vec()
}

/// A super-frame in a tunnel, and the headers of that.
fn encapsulated(around: &Around, inner: &Super) -> (Super, Vec<u8>) {
    let front = around.headers(inner);
    let frame = [&front[..], &inner.frame[14..]].concat();
    let header = NetHdr {
        gso_type: inner.header.gso_type | NetHdr::ENCAPSULATED,
        csum_start: inner.header.csum_start + front.len() as u16 - 14,
        ..inner.header
    };
    (Super { header, frame, ..*inner }, front)
}

proptest! {
    #[test]
    fn segments_in_a_tunnel_are_those_outside_of_one(inner in any_super(), around in around(), partial: bool) {
        let finish = if partial { Finish::Partial } else { Finish::Complete };
        prop_assume!(inner.headers.network_start == 14);
        let (outer, front) = encapsulated(&around, &inner);
        prop_assert_eq!(check(&outer.header, &outer.frame, outer.frame.len()).is_err(), true, "no device's to do");
        let expected = segments(&inner, finish);
        let pieces = segments(&outer, finish);
        prop_assert_eq!(pieces.len(), expected.len());
        for (index, ((piece, sent_with), (segment, header))) in pieces.iter().zip(&expected).enumerate() {
            let mut right = complete(segment.clone(), header);
            if around.remote {
                prop_assert_eq!(*sent_with, NetHdr::default());
            } else {
                prop_assert_eq!(sent_with.needs_csum(), partial);
            }
            let opened = open(&around, &front, index, &complete(piece.clone(), sent_with));
            let mut packet = [&right[..14], &opened[..]].concat();
            if around.remote {
                // As the other end of the tunnel does it.
                packet = complete(packet, &NetHdr::partial_checksum(inner.header.csum_start, inner.header.csum_offset));
            }
            right.truncate(packet.len());
            prop_assert_eq!(packet, right);
        }
    }

    #[test]
    fn fragments_in_a_tunnel_are_those_outside_of_one(inner in any_datagram(), around in around()) {
        prop_assume!(inner.headers.network_start == 14);
        let around = Around { remote: false, ..around };
        let (outer, front) = encapsulated(&around, &inner);
        let expected = segments(&inner, Finish::Complete);
        let pieces = segments(&outer, Finish::Complete);
        prop_assert_eq!(pieces.len(), expected.len());
        for (index, ((piece, sent_with), (fragment, _))) in pieces.iter().zip(&expected).enumerate() {
            prop_assert_eq!(*sent_with, NetHdr::default());
            prop_assert_eq!(&open(&around, &front, index, piece)[..], &fragment[14..]);
        }
    }

    #[test]
    fn what_is_no_tunnel_is_refused_and_harms_nobody(
        inner in anything(), around in around(), at in 12_usize..120, with: u8, cut in 0_usize..200,
    ) {
        let (mut outer, _) = encapsulated(&around, &inner);
        let at = at.min(outer.frame.len() - 1);
        outer.frame[at] = with;
        if cut < 100 {
            outer.frame.truncate(outer.frame.len().saturating_sub(cut).max(1));
        }
        let frame = &outer.frame[..];
        if let Ok(mut segmenter) = Segmenter::new(&outer.header, frame, frame, Finish::Complete) {
            let mut into = vec![0; 1 << 17];
            while let Some(length) = segmenter.next_len() {
                prop_assert_eq!(segmenter.write_next(frame, &mut into[..]).map(|(length, _)| length), Some(length));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_tunnel_s_own_packet_in_fragments_is_itself_again(
        inner in shape(prop::sample::select(&[NetHdr::GSO_TCPV4, NetHdr::GSO_UDP_L4][..]), 5000), around in around(),
        size in 600_u16..1500, partial: bool,
    ) {
        let inner = Shape { vlan: false, extra: 0, ..inner }.build();
        let around = Around { v6: false, dont_fragment: false, ..around };
        let (mut outer, _) = encapsulated(&around, &inner);
        let length = outer.frame.len();
        outer.frame[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
        let flags = if partial { NetHdr::NEEDS_CSUM } else { 0 };
        outer.header = NetHdr { flags, gso_type: NetHdr::ENCAPSULATED, gso_size: size, ..outer.header };
        let fragments: Vec<_> = segments(&outer, Finish::Partial)
            .into_iter()
            .map(|(fragment, header)| {
                assert!(header == NetHdr::default() && fragment.len() <= 34 + usize::from(size));
                fragment
            })
            .collect();
        prop_assert_eq!(fragments.len(), (length - 34).div_ceil(usize::from(size) / 8 * 8));
        let headers = Headers { network_start: 14, network: Network::V4, ..outer.headers };
        let mut expected = complete(outer.frame.clone(), &outer.header);
        let sum = etherparse::Ipv4HeaderSlice::from_slice(&expected[14..]).unwrap().to_header().calc_header_checksum();
        expected[24..26].copy_from_slice(&sum.to_be_bytes());
        prop_assert_eq!(reassemble(&headers, &fragments), expected);
    }
}

#[test]
fn a_packet_that_cannot_be_fragmented_is_refused() {
    let (outer, _) = {
        let around = Around { v6: false, kind: 0, checksum: false, remote: false, dont_fragment: false };
        encapsulated(&around, &good(NetHdr::GSO_TCPV4, false, 1400))
    };
    let mut frame = outer.frame.clone();
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let header = NetHdr { gso_type: NetHdr::ENCAPSULATED, gso_size: 1000, ..outer.header };
    let refused = |header: &NetHdr, frame: &[u8]| Segmenter::new(header, frame, frame, Finish::Complete).err();
    assert_eq!(refused(&header, &frame), None);
    assert_eq!(refused(&NetHdr { gso_size: 7, ..header }, &frame), Some(Invalid::GsoSize.into()));
    assert_eq!(refused(&NetHdr { gso_size: 32, ..header }, &frame), Some(Invalid::ChecksumRange.into()));
    assert_eq!(refused(&NetHdr { csum_start: 33, ..header }, &frame), Some(Invalid::ChecksumRange.into()));
    assert_eq!(refused(&header, &frame[..1300]), Some(Invalid::Length.into()));
    for (at, with) in [(20, 0x40), (20, 0x20), (21, 1), (14, 0x46), (13, 6)] {
        let mut other = frame.clone();
        other[at] = with;
        assert_eq!(refused(&header, &other), Some(Invalid::GsoHeaders.into()), "{at}");
    }
}

#[test]
fn a_frame_that_is_in_no_tunnel_is_not_taken_for_one() {
    let original = good(NetHdr::GSO_TCPV4, false, 4000);
    let header = NetHdr { gso_type: original.header.gso_type | NetHdr::ENCAPSULATED, ..original.header };
    let frame = &original.frame[..];
    let refused = Segmenter::new(&header, frame, frame, Finish::Complete).unwrap_err();
    assert_eq!(refused, Unsegmentable::Invalid(Invalid::GsoHeaders));
}
