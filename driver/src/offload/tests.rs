//! Segments, put together again, are the frame; every checksum is right; nothing hostile does harm.

use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

use super::bytes::{fold, sum_slice};
use super::*;
use crate::wire::NetHdr;

/// A super-frame and its header.
#[derive(Debug, Clone)]
struct Super {
    header: NetHdr,
    frame: Vec<u8>,
    headers: Headers,
}

fn super_frame(v6: bool, tcp: bool, vlan: bool, options: usize, flags: u8, gso_size: u16, payload: Vec<u8>) -> Super {
    let mut frame = vec![2_u8; 12];
    if vlan {
        frame.extend([0x81, 0, 0, 7]);
    }
    let transport_length = if tcp { 20 + 4 * options } else { 8 };
    let after_ip = transport_length + payload.len();
    let network_start = frame.len() + 2;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        // One extension header, of 8 bytes: destination options.
        frame.extend(((after_ip + 8) as u16).to_be_bytes());
        frame.extend([60, 64]);
        frame.extend((0..32).map(|i| 0x20 + i));
        frame.extend([if tcp { 6 } else { 17 }, 0, 1, 4, 0, 0, 0, 0]);
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(((20 + after_ip) as u16).to_be_bytes());
        frame.extend([0xff, 0xfe, 0x40, 0, 64, if tcp { 6 } else { 17 }, 0, 0, 10, 9, 0, 1, 10, 0, 0, 100]);
    }
    let transport_start = frame.len();
    frame.extend([0x12, 0x34, 0, 80]);
    if tcp {
        frame.extend([0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4, ((5 + options) as u8) << 4, flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(vec![1; 4 * options]);
    } else {
        frame.extend(((8 + payload.len()) as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    let headers_length = frame.len();
    frame.extend(payload);
    let (kind, offset) = match (tcp, v6) {
        (true, false) => (NetHdr::GSO_TCPV4, 16),
        (true, true) => (NetHdr::GSO_TCPV6, 16),
        (false, _) => (NetHdr::GSO_UDP_L4, 6),
    };
    let header = NetHdr { gso_type: kind, gso_size, ..NetHdr::partial_checksum(transport_start as u16, offset) };
    let headers = Headers {
        network: if v6 { Network::V6 } else { Network::V4 },
        network_start,
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        transport_start,
        length: headers_length,
    };
    Super { header, frame, headers }
}

fn any_super() -> impl Strategy<Value = Super> {
    let shape = (any::<bool>(), any::<bool>(), any::<bool>(), 0_usize..=10, any::<u8>());
    (shape, 1_u16..3000, prop::collection::vec(any::<u8>(), 1..5000)).prop_map(
        |((v6, tcp, vlan, options, flags), size, payload)| super_frame(v6, tcp, vlan, options, flags, size, payload),
    )
}

/// The pseudo-header's sum and the transport's bytes, summed: 0xffff where the checksum is right.
fn transport_sum(headers: &Headers, segment: &[u8]) -> u16 {
    let addresses = match headers.network {
        Network::V4 => headers.network_start + 12..headers.network_start + 20,
        Network::V6 => headers.network_start + 8..headers.network_start + 40,
    };
    let rest = &segment[headers.transport_start..];
    let pseudo = sum_slice(&segment[addresses]) + rest.len() as u64 + u64::from(headers.transport.number());
    fold(pseudo + sum_slice(rest))
}

fn segments(super_frame: &Super, finish: Finish) -> Vec<(Vec<u8>, NetHdr)> {
    let frame = &super_frame.frame[..];
    let mut segmenter = Segmenter::new(&super_frame.header, frame, frame, finish).unwrap();
    let mut all = Vec::new();
    let count = segmenter.count();
    while let Some(length) = segmenter.next_len() {
        assert!(segmenter.write_next(frame, &mut vec![0; length - 1]).is_none(), "there was no room for it");
        let mut into = vec![0; length + 3];
        let (written, header) = segmenter.write_next(frame, &mut into).unwrap();
        assert_eq!(written, length);
        into.truncate(length);
        all.push((into, header));
    }
    assert_eq!(all.len(), count);
    all
}

proptest! {
    #[test]
    fn segments_are_the_frame_again(original in any_super(), partial: bool) {
        let Super { headers, frame, header } = &original;
        prop_assert_eq!(check(header, frame, frame.len()), Ok(Some(*headers)));
        let segments = segments(&original, if partial { Finish::Partial } else { Finish::Complete });
        let mut payload = Vec::new();
        for (i, (segment, sent_with)) in segments.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == segments.len());
            prop_assert_eq!(Headers::parse(segment), Some(*headers));
            let own = &segment[headers.length..];
            prop_assert!(own.len() == usize::from(header.gso_size) || last && own.len() <= usize::from(header.gso_size));
            let be16 = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
            let (network, transport) = (headers.network_start, headers.transport_start);
            if headers.network == Network::V4 {
                prop_assert_eq!(fold(sum_slice(&segment[network..network + 20])), 0xffff, "IPv4's checksum");
                prop_assert_eq!(usize::from(be16(network + 2)), segment.len() - network);
                prop_assert_eq!(be16(network + 4), 0xfffe_u16.wrapping_add(i as u16), "identification");
            } else {
                prop_assert_eq!(usize::from(be16(network + 4)), segment.len() - network - 40);
            }
            if headers.transport == Transport::Tcp {
                let sequence = u32::from_be_bytes(segment[transport + 4..transport + 8].try_into().unwrap());
                prop_assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(payload.len() as u32));
                let mut flags = frame[transport + 13];
                if !last { flags &= !0x09; }
                if !first { flags &= !0x80; }
                prop_assert_eq!(segment[transport + 13], flags);
            } else {
                prop_assert_eq!(usize::from(be16(transport + 4)), segment.len() - transport);
            }
            let mut finished = segment.clone();
            if partial {
                prop_assert!(sent_with.needs_csum() && !sent_with.is_gso());
                let sum = finish_checksum(&finished[..], sent_with.csum_start, sent_with.csum_offset);
                let field = usize::from(sent_with.csum_start + sent_with.csum_offset);
                finished[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            } else {
                prop_assert_eq!(*sent_with, NetHdr::default());
            }
            prop_assert_eq!(transport_sum(headers, &finished), 0xffff, "the transport's checksum");
            payload.extend_from_slice(own);
        }
        prop_assert_eq!(&payload[..], &frame[headers.length..]);
    }

    #[test]
    fn where_the_frame_is_cut_does_not_matter(
        original in any_super(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let Super { headers, frame, header } = &original;
        // All headers are in the first piece; pieces may be empty.
        let mut cuts: Vec<_> =
            cuts.iter().map(|cut| headers.length + cut.index(frame.len() - headers.length + 1)).collect();
        cuts.sort_unstable();
        cuts.push(frame.len());
        let starts = core::iter::once(0).chain(cuts.iter().copied());
        let pieces: Vec<&[u8]> = starts.zip(&cuts).map(|(from, &to)| &frame[from..to]).collect();
        let mut segmenter = Segmenter::new(header, pieces[0], &pieces[..], Finish::Complete).unwrap();
        for (expected, sent_with) in segments(&original, Finish::Complete) {
            let mut into = vec![0; expected.len()];
            prop_assert_eq!(segmenter.write_next(&pieces[..], &mut into), Some((expected.len(), sent_with)));
            prop_assert_eq!(into, expected);
        }
        prop_assert_eq!(segmenter.next_len(), None);
        let whole = finish_checksum(&frame[..], header.csum_start, header.csum_offset);
        prop_assert_eq!(finish_checksum(&pieces[..], header.csum_start, header.csum_offset), whole);
    }

    #[test]
    fn hostile_headers_do_no_harm(bytes: [u8; 12], frame in prop::collection::vec(any::<u8>(), 0..300), sound in any_super()) {
        let header = NetHdr::parse(&bytes);
        for frame in [&frame[..], &sound.frame[..]] {
            let _ = check(&header, frame, frame.len());
            let _ = Headers::parse(frame);
            if let Ok(mut segmenter) = Segmenter::new(&header, frame, frame, Finish::Complete) {
                let mut into = vec![0; 1 << 16];
                let mut count = 0;
                while segmenter.write_next(frame, &mut into).is_some() {
                    count += 1;
                }
                prop_assert_eq!(count, segmenter.count());
            }
        }
    }

    #[test]
    fn a_truncated_frame_is_refused_or_cut_as_it_is(sound in any_super(), keep in 0_usize..5000) {
        let frame = &sound.frame[..keep.min(sound.frame.len())];
        match Segmenter::new(&sound.header, frame, frame, Finish::Complete) {
            Ok(segmenter) => prop_assert!(frame.len() > sound.headers.length && segmenter.count() > 0),
            Err(_) => prop_assert!(frame.len() <= sound.headers.length),
        }
    }
}

#[test]
fn what_is_wrong_has_a_name() {
    let good = super_frame(false, true, false, 0, 0x18, 1000, vec![7; 3000]);
    let refused = |change: &dyn Fn(&mut NetHdr)| {
        let mut header = good.header;
        change(&mut header);
        Segmenter::new(&header, &good.frame, &good.frame[..], Finish::Complete).unwrap_err()
    };
    assert_eq!(refused(&|h| h.gso_size = 0), Invalid::GsoSize.into());
    assert_eq!(refused(&|h| h.gso_type = 2), Invalid::GsoType(2).into());
    assert_eq!(refused(&|h| h.flags = 0), Invalid::GsoWithoutChecksum.into());
    assert_eq!(refused(&|h| h.gso_type = NetHdr::GSO_TCPV6), Invalid::GsoHeaders.into());
    assert_eq!(refused(&|h| h.gso_type = NetHdr::GSO_UDP_L4), Invalid::GsoHeaders.into());
    assert_eq!(refused(&|h| h.csum_start = 35), Invalid::GsoHeaders.into());
    assert_eq!(refused(&|h| h.csum_start = 3060), Invalid::ChecksumRange.into());
    assert_eq!(refused(&|h| h.gso_size = 65_500), Unsegmentable::TooLarge);
    assert_eq!(refused(&|h| h.gso_type = 0), Unsegmentable::NotGso);
    let udp = super_frame(true, false, false, 0, 0, 1000, vec![7; 3000]);
    let fragments = NetHdr { gso_type: NetHdr::GSO_UDP, ..udp.header };
    let refused = Segmenter::new(&fragments, &udp.frame, &udp.frame[..], Finish::Complete).unwrap_err();
    assert_eq!(refused, Unsegmentable::Fragmentation);
}
