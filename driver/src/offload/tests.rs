//! Segments and fragments, put together again, are the frame; every checksum is right by the measure of another
//! implementation (etherparse); nothing hostile does harm.

use etherparse::defrag::IpDefragPool;
use etherparse::{IpNumber, NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::buffer::Pool;
use crate::fake::FakeHal;
use crate::wire::NetHdr;

mod tunnel;

/// What a super-frame looks like.
#[derive(Debug, Clone)]
struct Shape {
    v6: bool,
    kind: u8,
    vlan: bool,
    /// IPv4 options (words), or which IPv6 extension headers there are (bits).
    extra: usize,
    /// Words of TCP options.
    options: usize,
    flags: u8,
    dont_fragment: bool,
    gso_size: u16,
    payload: Vec<u8>,
}

/// A super-frame and its header.
#[derive(Debug, Clone)]
struct Super {
    header: NetHdr,
    frame: Vec<u8>,
    headers: Headers,
}

const IDENTIFICATION: u16 = 0xfffe;
/// What the caller gives for fragments.
const GIVEN: u32 = 0xdead_beef;
const SEQUENCE: u32 = 0xffff_ff00;
/// IPv4 options of two words: one that is copied (128 and up), one that is not, and the end.
const IPV4_OPTIONS: [u8; 8] = [0x94, 4, 0, 0, 0x44, 3, 5, 0];

fn extension(kind: u8, next: u8, words: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 + 8 * usize::from(words)];
    (bytes[0], bytes[1]) = (next, words);
    // A routing header of a kind for experiments with no stop left (RFC 8200, section 4.4), or PadN over the rest.
    (bytes[2], bytes[3]) = if kind == ROUTING { (253, 0) } else { (1, 4 + 8 * words) };
    bytes
}

/// IPv6's routing header.
const ROUTING: u8 = 43;

impl Shape {
    fn is_tcp(&self) -> bool {
        matches!(self.kind, NetHdr::GSO_TCPV4)
    }

    fn build(&self) -> Super {
        let tcp = self.is_tcp();
        let protocol = if tcp { 6 } else { 17 };
        let mut frame = vec![2_u8; 12];
        if self.vlan {
            frame.extend([0x81, 0, 0, 7]);
        }
        let transport_length = if tcp { 20 + 4 * self.options } else { 8 };
        let after_ip = transport_length + self.payload.len();
        let network_start = frame.len() + 2;
        if self.v6 {
            let kinds: Vec<u8> = [0, ROUTING, 60]
                .into_iter()
                .zip(0..)
                .filter(|(_, bit)| self.extra >> bit & 1 != 0)
                .map(|(kind, _)| kind)
                .collect();
            let mut extensions = vec![];
            for (i, &kind) in kinds.iter().enumerate() {
                extensions.extend(extension(kind, *kinds.get(i + 1).unwrap_or(&protocol), i as u8));
            }
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((after_ip + extensions.len()) as u16).to_be_bytes());
            frame.extend([*kinds.first().unwrap_or(&protocol), 64]);
            frame.extend((0..32).map(|i| 0x20 + i));
            frame.extend(extensions);
        } else {
            let options = &IPV4_OPTIONS[..(self.extra & 2) * 4];
            let length = 20 + options.len();
            frame.extend([0x08, 0x00, 0x40 | (length / 4) as u8, 0]);
            frame.extend(((length + after_ip) as u16).to_be_bytes());
            frame.extend(IDENTIFICATION.to_be_bytes());
            frame.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                64,
                protocol,
                0,
                0,
                10,
                9,
                0,
                1,
                10,
                0,
                0,
                100,
            ]);
            frame.extend(options);
            let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[network_start..]).unwrap().to_header();
            frame[network_start + 10..][..2].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        let transport_start = frame.len();
        frame.extend([0x12, 0x34, 0, 80]);
        if tcp {
            frame.extend(SEQUENCE.to_be_bytes());
            frame.extend([1, 2, 3, 4, ((5 + self.options) as u8) << 4, self.flags, 1, 0, 0, 0, 0, 0]);
            frame.extend(vec![1; 4 * self.options]);
        } else {
            frame.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
        let length = frame.len();
        frame.extend(&self.payload);
        let headers = Headers {
            network: if self.v6 { Network::V6 } else { Network::V4 },
            network_start,
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            transport_start,
            length,
        };
        let offset = headers.transport.checksum_offset();
        // The partial sum, as the specification has it, by the other implementation.
        let sum = pseudo(&headers, &frame, after_ip);
        let field = transport_start + usize::from(offset);
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        let gso_type = if tcp && self.v6 { NetHdr::GSO_TCPV6 } else { self.kind };
        let header =
            NetHdr { gso_type, gso_size: self.gso_size, ..NetHdr::partial_checksum(transport_start as u16, offset) };
        Super { header, frame, headers }
    }
}

/// The sum of the pseudo-header, word by word (RFC 1071).
fn pseudo(headers: &Headers, frame: &[u8], length: usize) -> u16 {
    let at = headers.network_start;
    let addresses = if headers.network == Network::V4 { at + 12..at + 20 } else { at + 8..at + 40 };
    let words = frame[addresses].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = words.sum::<u32>() + length as u32 + u32::from(headers.transport.number());
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn any_payload(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..most)
}

fn shape(kind: impl Strategy<Value = u8>, most: usize) -> impl Strategy<Value = Shape> {
    let flags = (any::<bool>(), any::<bool>(), 0_usize..8, 0_usize..=10, any::<u8>(), any::<bool>());
    (kind, flags, 1_u16..3000, any_payload(most)).prop_map(
        |(kind, (v6, vlan, extra, options, flags, dont_fragment), gso_size, payload)| Shape {
            v6,
            kind,
            vlan,
            extra,
            options,
            // No SYN and no RST: they carry no data.
            flags: flags & !0x06 | 0x10,
            dont_fragment,
            // All headers must fit into the first fragment.
            gso_size: if kind == NetHdr::GSO_UDP { gso_size + 64 } else { gso_size },
            payload,
        },
    )
}

fn any_super() -> impl Strategy<Value = Super> {
    let kinds = prop::sample::select(&[NetHdr::GSO_TCPV4, NetHdr::GSO_UDP_L4][..]);
    shape(kinds, 5000).prop_map(|shape| shape.build())
}

fn any_datagram() -> impl Strategy<Value = Super> {
    shape(Just(NetHdr::GSO_UDP), 9000).prop_map(|shape| shape.build())
}

fn anything() -> impl Strategy<Value = Super> {
    prop_oneof![any_super(), any_datagram()]
}

fn segmenter(original: &Super, finish: Finish) -> Segmenter {
    let frame = &original.frame[..];
    Segmenter::new(&original.header, frame, frame, finish).unwrap().identified(GIVEN)
}

fn segments(original: &Super, finish: Finish) -> Vec<(Vec<u8>, NetHdr)> {
    let frame = &original.frame[..];
    let mut segmenter = segmenter(original, finish);
    let mut all = Vec::new();
    let count = segmenter.count();
    while let Some(length) = segmenter.next_len() {
        assert_eq!(segmenter.left(), count - all.len());
        assert!(segmenter.write_next(frame, &mut vec![0; length - 1][..]).is_none(), "there was no room for it");
        let mut into = vec![0; length + 3];
        let (written, header) = segmenter.write_next(frame, &mut into[..]).unwrap();
        assert_eq!(written, length);
        into.truncate(length);
        all.push((into, header));
    }
    assert_eq!((all.len(), segmenter.left()), (count, 0));
    all
}

/// Completes a partial checksum, as a device does.
fn complete(mut frame: Vec<u8>, header: &NetHdr) -> Vec<u8> {
    if header.needs_csum() {
        let sum = finish_checksum(&frame[..], header.csum_start, header.csum_offset);
        let field = usize::from(header.csum_start + header.csum_offset);
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// A frame in the eyes of the other implementation, all of whose checksums and lengths are right.
struct Seen {
    /// IPv4's identification.
    identification: u16,
    tcp: Option<TcpHeader>,
    payload: Vec<u8>,
}

fn look(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (mut identification, mut v4) = (0, None);
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4's checksum");
            let ends = 14 + packet.link_exts.len() * 4 + usize::from(header.total_len);
            assert_eq!(ends, frame.len(), "IPv4's length");
            identification = header.identification;
            v4 = Some(header);
        }
        NetSlice::Ipv6(ip) => {
            let ends = 14 + packet.link_exts.len() * 4 + 40 + usize::from(ip.header().payload_length());
            assert_eq!(ends, frame.len(), "IPv6's length");
        }
        NetSlice::Arp(_) => unreachable!(),
    }
    let v6 = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv6(ip) => Some(ip.header().to_header()),
        _ => None,
    };
    match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let sum = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(ip, payload).unwrap(),
                (_, ip) => header.calc_checksum_ipv6(ip.as_ref().unwrap(), payload).unwrap(),
            };
            assert_eq!(header.checksum, sum, "TCP's checksum");
            Seen { identification, tcp: Some(header), payload: payload.to_vec() }
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let sum = match (&v4, &v6) {
                (Some(ip), _) => header.calc_checksum_ipv4(ip, payload).unwrap(),
                (_, ip) => header.calc_checksum_ipv6(ip.as_ref().unwrap(), payload).unwrap(),
            };
            assert_eq!(
                (header.checksum, usize::from(header.length)),
                (sum, 8 + payload.len()),
                "UDP's checksum, length"
            );
            Seen { identification, tcp: None, payload: payload.to_vec() }
        }
        _ => panic!("another protocol"),
    }
}

/// Puts fragments together, as RFC 791 and RFC 8200 have it.
fn reassemble(headers: &Headers, fragments: &[Vec<u8>]) -> Vec<u8> {
    let at = headers.network_start;
    let be16 = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut whole = Vec::new();
    let mut packet = Vec::new();
    for (i, fragment) in fragments.iter().enumerate() {
        let last = i + 1 == fragments.len();
        let (start, offset, more, identification) = match headers.network {
            Network::V4 => {
                let word = be16(fragment, at + 6);
                let identification = u32::from(be16(fragment, at + 4));
                (
                    at + usize::from(fragment[at] & 15) * 4,
                    usize::from(word & 0x1fff) * 8,
                    word & 0x2000 != 0,
                    identification,
                )
            }
            Network::V6 => {
                // Up to the fragment header, which is the last one in front of the fragment.
                let (mut next, mut start) = (fragment[at + 6], at + 40);
                while next != 44 {
                    assert!(next == 0 || next == 43, "{next} is not for routers");
                    next = fragment[start];
                    start += 8 * (usize::from(fragment[start + 1]) + 1);
                }
                let word = be16(fragment, start + 2);
                let identification = u32::from_be_bytes(fragment[start + 4..start + 8].try_into().unwrap());
                (start + 8, usize::from(word & !7), word & 1 != 0, identification)
            }
        };
        assert_eq!((more, identification), (!last, if i == 0 { identification } else { first_id(&whole) }));
        if i == 0 {
            whole.extend(identification.to_be_bytes());
            let prefix = if headers.network == Network::V4 { start } else { start - 8 };
            packet.extend_from_slice(&fragment[..prefix]);
            if headers.network == Network::V6 {
                // The header before the fragment header gets the number of what follows it.
                let mut next = at + 6;
                let mut place = at + 40;
                while fragment[next] != 44 {
                    next = place;
                    place += 8 * (usize::from(fragment[place + 1]) + 1);
                }
                packet[next] = fragment[start - 8];
            }
        }
        assert_eq!(offset, whole.len() - 4, "offset");
        assert!(last || (fragment.len() - start) % 8 == 0);
        whole.extend_from_slice(&fragment[start..]);
    }
    packet.extend_from_slice(&whole[4..]);
    let length = packet.len() - at;
    match headers.network {
        Network::V4 => {
            packet[at + 2..at + 4].copy_from_slice(&(length as u16).to_be_bytes());
            packet[at + 6] &= !0x20;
            let header = etherparse::Ipv4HeaderSlice::from_slice(&packet[at..]).unwrap().to_header();
            packet[at + 10..at + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        Network::V6 => packet[at + 4..at + 6].copy_from_slice(&((length - 40) as u16).to_be_bytes()),
    }
    packet
}

fn first_id(whole: &[u8]) -> u32 {
    u32::from_be_bytes(whole[..4].try_into().unwrap())
}

proptest! {
    #[test]
    fn segments_are_the_frame_again(original in any_super(), partial: bool) {
        let Super { headers, frame, header } = &original;
        prop_assert_eq!(check(header, frame, frame.len()), Ok(Some(*headers)));
        let segments = segments(&original, if partial { Finish::Partial } else { Finish::Complete });
        let whole = look(&complete(frame.clone(), header));
        let mut payload = Vec::new();
        for (i, (segment, sent_with)) in segments.iter().enumerate() {
            let (first, last) = (i == 0, i + 1 == segments.len());
            prop_assert_eq!(Headers::parse(segment), Some(*headers));
            prop_assert_eq!(sent_with.needs_csum(), partial);
            prop_assert!(!sent_with.is_gso() && sent_with.flags & !NetHdr::NEEDS_CSUM == 0);
            let seen = look(&complete(segment.clone(), sent_with));
            let size = usize::from(header.gso_size);
            prop_assert!(seen.payload.len() == size || last && seen.payload.len() <= size);
            if headers.network == Network::V4 {
                prop_assert_eq!(seen.identification, IDENTIFICATION.wrapping_add(i as u16));
            }
            if let Some(tcp) = &whole.tcp {
                let expected = TcpHeader {
                    sequence_number: SEQUENCE.wrapping_add(payload.len() as u32),
                    cwr: tcp.cwr && first,
                    fin: tcp.fin && last,
                    psh: tcp.psh && last,
                    checksum: seen.tcp.as_ref().unwrap().checksum,
                    ..tcp.clone()
                };
                prop_assert_eq!(seen.tcp.as_ref(), Some(&expected));
            }
            payload.extend_from_slice(&seen.payload);
        }
        prop_assert_eq!(payload, whole.payload);
    }

    #[test]
    fn fragments_are_the_datagram_again(original in any_datagram()) {
        let Super { headers, frame, header } = &original;
        prop_assert_eq!(check(header, frame, frame.len()), Ok(Some(*headers)));
        // Whether the device completes checksums does not matter: there is one for all fragments together.
        let all = segments(&original, Finish::Partial);
        prop_assert!(all.iter().all(|(_, header)| *header == NetHdr::default()));
        let fragments: Vec<_> = all.into_iter().map(|(fragment, _)| fragment).collect();
        let size = usize::from(header.gso_size) / 8 * 8;
        let prefix = fragments[0].len().min(frame.len()) - size.min(frame.len() - headers.payload_start(frame));
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= prefix + 8 + size));
        if headers.network == Network::V6 || fragments.len() > 1 {
            let mut expected = complete(frame.clone(), header);
            let at = headers.network_start;
            if headers.network == Network::V4 {
                let id = if frame[at + 6] & 0x40 != 0 { GIVEN as u16 } else { IDENTIFICATION };
                expected[at + 4..at + 6].copy_from_slice(&id.to_be_bytes());
                expected[at + 6] = 0;
                let ip = etherparse::Ipv4HeaderSlice::from_slice(&expected[at..]).unwrap().to_header();
                expected[at + 10..at + 12].copy_from_slice(&ip.calc_header_checksum().to_be_bytes());
            }
            prop_assert_eq!(reassemble(headers, &fragments), expected.clone());
            look(&expected);
        }
        // And by a reassembler that nobody here wrote. It does not know of headers inside of the fragmentable part.
        if headers.payload_start(frame) == headers.transport_start && fragments.len() > 1 {
            let mut pool = IpDefragPool::<(), ()>::new();
            let mut whole = None;
            for fragment in &fragments {
                let packet = SlicedPacket::from_ethernet(fragment).unwrap();
                prop_assert!(whole.is_none());
                whole = pool.process_sliced_packet(&packet, (), ()).unwrap();
            }
            let whole = whole.unwrap();
            prop_assert_eq!(whole.ip_number, IpNumber::UDP);
            prop_assert_eq!(&whole.payload[..], &complete(frame.clone(), header)[headers.transport_start..]);
        }
    }

    #[test]
    fn where_the_frame_is_cut_does_not_matter(
        original in anything(),
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
        let mut segmenter = Segmenter::new(header, pieces[0], &pieces[..], Finish::Complete).unwrap().identified(GIVEN);
        for (expected, sent_with) in segments(&original, Finish::Complete) {
            let mut into = vec![0; expected.len()];
            prop_assert_eq!(segmenter.write_next(&pieces[..], &mut into[..]), Some((expected.len(), sent_with)));
            prop_assert_eq!(into, expected);
        }
        prop_assert_eq!(segmenter.next_len(), None);
        let whole = finish_checksum(&frame[..], header.csum_start, header.csum_offset);
        prop_assert_eq!(finish_checksum(&pieces[..], header.csum_start, header.csum_offset), whole);
    }

    #[test]
    fn hostile_headers_do_no_harm(bytes: [u8; 12], frame in prop::collection::vec(any::<u8>(), 0..300), sound in anything()) {
        let header = NetHdr::parse(&bytes);
        // Types and places as they may be, so that something gets through.
        let likely = NetHdr { flags: header.flags | 1, gso_type: header.gso_type % 6, ..sound.header };
        let unlikely = NetHdr { gso_size: header.gso_size, ..sound.header };
        for frame in [&frame[..], &sound.frame[..]] {
            for header in [header, likely, unlikely] {
                let _ = check(&header, frame, frame.len());
                let _ = Headers::parse(frame);
                let mut copy = frame.to_vec();
                if let Ok(made) = coalesced(&header, &mut copy, frame.len()) {
                    prop_assert!(made.length <= frame.len());
                }
                if let Ok(mut segmenter) = Segmenter::new(&header, frame, frame, Finish::Complete) {
                    let mut into = vec![0; 1 << 17];
                    let mut count = 0;
                    while segmenter.write_next(frame, &mut into[..]).is_some() {
                        count += 1;
                    }
                    prop_assert_eq!(count, segmenter.count());
                }
            }
        }
    }

    #[test]
    fn a_truncated_frame_is_refused(sound in anything(), keep in 0_usize..9000) {
        let frame = &sound.frame[..keep.min(sound.frame.len())];
        let made = Segmenter::new(&sound.header, frame, frame, Finish::Complete);
        prop_assert_eq!(made.is_ok(), frame.len() == sound.frame.len());
    }

    #[test]
    fn what_was_coalesced_is_an_ordinary_super_frame(sound in anything(), duplicates: u16, sized: bool, tail in 0_usize..9) {
        let Super { headers, frame, header } = &sound;
        let payload = frame.len() - headers.length;
        let segments = payload.div_ceil(usize::from(header.gso_size)) as u16;
        // The counts are where the place of the checksum was, and the checksum may be anything.
        let counted = NetHdr {
            flags: header.flags | NetHdr::RSC_INFO,
            csum_start: segments,
            csum_offset: duplicates,
            gso_size: if sized { header.gso_size } else { 0 },
            hdr_len: 3,
            ..*header
        };
        let mut given = frame.clone();
        let field = usize::from(header.csum_start + header.csum_offset);
        given[field..field + 2].copy_from_slice(&[0x5a, 0xa5]);
        given.extend(vec![0xff; tail]);
        let length = given.len();
        let made = coalesced(&counted, &mut given, length).unwrap();
        prop_assert_eq!((made.segments, made.duplicate_acks, made.length), (segments, duplicates, frame.len()));
        given.truncate(made.length);
        prop_assert_eq!(&given, frame, "the pseudo-header's sum is where it was");
        prop_assert_eq!(made.header.flags, NetHdr::NEEDS_CSUM);
        prop_assert_eq!((made.header.csum_start, made.header.csum_offset), (header.csum_start, header.csum_offset));
        let size = made.header.gso_size;
        let as_it_was = size == header.gso_size;
        prop_assert!(as_it_was || !sized && 0 < size && size < header.gso_size);
        if header.gso_type != NetHdr::GSO_UDP {
            prop_assert!(payload.div_ceil(usize::from(size)) <= usize::from(segments));
            prop_assert_eq!(check(&made.header, &given, given.len()), Ok(Some(*headers)));
        }
    }

    #[test]
    fn segments_of_many_buffers_are_the_same(original in shape(Just(NetHdr::GSO_TCPV4), 30_000), size in 2000_u16..9000) {
        let original = Shape { gso_size: size, ..original }.build();
        let pool = Pool::allocate::<FakeHal>(40).unwrap();
        let frame = pool.frame_from(&original.frame).unwrap();
        let mut segmenter = Segmenter::new(&original.header, frame.head(), &frame, Finish::Complete).unwrap().identified(GIVEN);
        for (expected, sent_with) in segments(&original, Finish::Complete) {
            let mut segment = pool.frame(segmenter.next_len().unwrap()).unwrap();
            prop_assert_eq!(segmenter.write_next(&frame, &mut segment), Some((expected.len(), sent_with)));
            let mut bytes = vec![0; segment.len()];
            segment.copy_to_slice(&mut bytes);
            prop_assert!(bytes == expected);
        }
    }
}

fn sample(kind: u8, v6: bool, gso_size: u16) -> Shape {
    let payload = (0..3000_u32).map(|i| i as u8).collect();
    Shape { v6, kind, vlan: false, extra: 0, options: 0, flags: 0x18, dont_fragment: true, gso_size, payload }
}

fn good(kind: u8, v6: bool, gso_size: u16) -> Super {
    sample(kind, v6, gso_size).build()
}

/// Headers and nothing else.
fn bare(kind: u8, v6: bool) -> Super {
    Shape { payload: vec![], ..sample(kind, v6, 1000) }.build()
}

#[test]
fn what_is_wrong_has_a_name() {
    let refused = |good: &Super, change: &dyn Fn(&mut NetHdr, &mut Vec<u8>)| {
        let (mut header, mut frame) = (good.header, good.frame.clone());
        change(&mut header, &mut frame);
        Segmenter::new(&header, &frame, &frame[..], Finish::Complete).unwrap_err()
    };
    let tcp = good(NetHdr::GSO_TCPV4, false, 1000);
    assert_eq!(refused(&tcp, &|h, _| h.gso_size = 0), Invalid::GsoSize.into());
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = 2), Invalid::GsoType(2).into());
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = 0x21), Invalid::GsoType(0x21).into(), "a tunnel");
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = 0x85), Invalid::GsoType(0x85).into(), "ECN is TCP's");
    assert_eq!(refused(&tcp, &|h, _| h.flags = 0), Invalid::GsoWithoutChecksum.into());
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = NetHdr::GSO_TCPV6), Invalid::GsoHeaders.into());
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = NetHdr::GSO_UDP_L4), Invalid::GsoHeaders.into());
    assert_eq!(refused(&tcp, &|h, _| h.csum_start = 35), Invalid::GsoHeaders.into());
    assert_eq!(refused(&tcp, &|h, _| h.csum_start = 3060), Invalid::ChecksumRange.into());
    assert_eq!(refused(&tcp, &|h, _| h.gso_type = 0), Unsegmentable::NotGso);
    assert_eq!(refused(&tcp, &|_, f| f.push(0)), Invalid::Length.into());
    assert_eq!(refused(&tcp, &|_, f| f[23] = 4), Invalid::GsoHeaders.into(), "IPv4 in IPv4");
    assert_eq!(refused(&tcp, &|_, f| f[23] = 47), Invalid::GsoHeaders.into(), "GRE");
    assert_eq!(refused(&tcp, &|_, f| f[20] = 0x20), Invalid::GsoHeaders.into(), "a fragment already");
    let datagram = good(NetHdr::GSO_UDP, true, 1000);
    assert_eq!(refused(&datagram, &|h, _| h.gso_size = 7), Invalid::GsoSize.into());
    assert_eq!(refused(&datagram, &|_, f| f[20] = 41), Invalid::GsoHeaders.into(), "IPv6 in IPv6");
    // One byte more than IPv6 can tell, once there is a fragment header.
    let huge = Shape {
        v6: true,
        kind: NetHdr::GSO_UDP,
        vlan: false,
        extra: 0,
        options: 0,
        flags: 0,
        dont_fragment: false,
        gso_size: 65528,
        payload: vec![7; 65520],
    };
    assert_eq!(refused(&huge.build(), &|h, _| h.gso_size = 65535), Unsegmentable::TooLarge);
    let fits = Shape { gso_size: 65520, ..huge };
    assert_eq!(segments(&fits.build(), Finish::Complete).len(), 2);
}

#[test]
fn a_datagram_is_cut_as_the_specifications_show_it() {
    let v4 = good(NetHdr::GSO_UDP, false, 1480);
    let fragments = segments(&v4, Finish::Complete);
    let shown: Vec<_> = fragments.iter().map(|(f, _)| (f.len(), u16::from_be_bytes([f[20], f[21]]))).collect();
    assert_eq!(shown, [(1514, 0x2000), (1514, 0x2000 | 185), (14 + 20 + 48, 370)]);
    let v6 = good(NetHdr::GSO_UDP, true, 1452);
    let fragments = segments(&v6, Finish::Complete);
    let shown: Vec<_> =
        fragments.iter().map(|(f, _)| (f.len(), f[20], f[54], u16::from_be_bytes([f[56], f[57]]))).collect();
    assert_eq!(shown, [(1510, 44, 17, 1), (1510, 44, 17, 1448 | 1), (54 + 8 + 112, 44, 17, 2896)]);
    assert!(fragments.iter().all(|(f, _)| f[58..62] == GIVEN.to_be_bytes()));
}

/// RFC 791, section 3.1: an option whose copied flag is not set lies in the first fragment only.
#[test]
fn options_are_copied_into_fragments_as_they_say() {
    let mut whole = good(NetHdr::GSO_UDP, false, 1000);
    // Router alert, to be copied; a time stamp without room, not to be copied.
    let options = [0x94, 4, 0, 0, 0x44, 4, 5, 0];
    whole.frame.splice(34..34, options);
    whole.frame[14] = 0x47;
    let length = (whole.frame.len() - 14) as u16;
    whole.frame[16..18].copy_from_slice(&length.to_be_bytes());
    whole.header.csum_start += 8;
    let fragments = segments(&whole, Finish::Complete);
    let shown: Vec<_> = fragments.iter().map(|(fragment, _)| fragment[34..42].to_vec()).collect();
    let behind = [0x94, 4, 0, 0, 1, 1, 1, 1];
    assert_eq!(shown, [options, behind, behind, behind]);
    assert!(fragments.iter().all(|(fragment, _)| fragment[14] == 0x47), "the header stays as long as it is");
}

#[test]
fn counts_on_what_is_not_to_be_segmented_stay_or_go() {
    let counted = |flags, duplicates| NetHdr { flags, csum_start: 1, csum_offset: duplicates, ..NetHdr::default() };
    let repeated = counted(NetHdr::RSC_INFO | NetHdr::DATA_VALID, 2);
    let once = counted(NetHdr::RSC_INFO | NetHdr::DATA_VALID, 0);
    let plain = NetHdr { flags: NetHdr::DATA_VALID, ..NetHdr::default() };
    // An acknowledgement that stands for three, and one that stands for itself.
    let mut ack = bare(NetHdr::GSO_TCPV4, false).frame;
    let before = ack.clone();
    let made = coalesced(&repeated, &mut ack, before.len()).unwrap();
    assert_eq!((made.header, made.header.duplicate_acks()), (repeated, 2));
    assert_eq!(coalesced(&once, &mut ack, before.len()).unwrap().header, plain);
    assert_eq!(ack, before);
    // What has data is not sent again, nor what is not TCP.
    for mut frame in [good(NetHdr::GSO_TCPV4, false, 1000).frame, bare(NetHdr::GSO_UDP_L4, false).frame] {
        let length = frame.len();
        let made = coalesced(&repeated, &mut frame, length).unwrap();
        assert_eq!((made.header, made.duplicate_acks), (plain, 2));
    }
    let mut frame = good(NetHdr::GSO_TCPV4, false, 1000).frame;
    let length = frame.len();
    // Nothing was said of how long the segments were, nor how many they are.
    let unknown = NetHdr { gso_type: NetHdr::GSO_TCPV4, csum_start: 0, ..counted(5, 0) };
    assert_eq!(coalesced(&unknown, &mut frame, length), Err(Invalid::GsoSize));
    let wrong = NetHdr { gso_type: NetHdr::GSO_TCPV6, gso_size: 9, ..unknown };
    assert_eq!(coalesced(&wrong, &mut frame, length), Err(Invalid::GsoHeaders));
    frame[12] = 9;
    assert_eq!(coalesced(&wrong, &mut frame, length), Err(Invalid::Coalesced));
}

#[test]
fn an_acknowledgement_keeps_its_duplicates_whatever_type_it_comes_with() {
    for (v6, gso_type) in [(false, NetHdr::GSO_TCPV4), (true, NetHdr::GSO_TCPV6), (false, NetHdr::GSO_NONE)] {
        let Super { mut frame, header, .. } = bare(NetHdr::GSO_TCPV4, v6);
        let mut complete = frame.clone();
        let field = usize::from(header.csum_start + header.csum_offset);
        let sum = finish_checksum(&frame[..], header.csum_start, header.csum_offset);
        complete[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        frame[field..field + 2].copy_from_slice(&[0x5a, 0xa5]);
        // Of what was padded on the way nothing is checksummed.
        frame.extend([0xff; 6]);
        let flags = NetHdr::RSC_INFO | if gso_type == NetHdr::GSO_NONE { NetHdr::NEEDS_CSUM } else { 0 };
        let told = NetHdr { flags, gso_type, gso_size: 1000, csum_start: 3, csum_offset: 2, ..NetHdr::default() };
        let length = frame.len();
        let made = coalesced(&told, &mut frame, length).unwrap();
        frame.truncate(made.length);
        assert!(frame == complete, "the checksum is complete");
        let kept = NetHdr { flags: NetHdr::RSC_INFO, csum_start: 3, csum_offset: 2, ..NetHdr::default() };
        assert_eq!((made.header, made.header.duplicate_acks()), (kept, 2));
        // Without duplicates it is an ordinary segment, whose checksum is partial.
        let mut alone = complete.clone();
        let made = coalesced(&NetHdr { csum_offset: 0, ..told }, &mut alone, complete.len()).unwrap();
        assert_eq!(made.header, NetHdr::partial_checksum(header.csum_start, header.csum_offset));
    }
}

#[test]
fn a_packet_that_is_to_be_routed_further_is_not_understood() {
    let shape = Shape { extra: 0b111, ..sample(NetHdr::GSO_TCPV4, true, 1000) };
    let Super { mut frame, header, .. } = shape.build();
    // Behind the hop-by-hop options, which are 8 bytes long.
    let stops = 14 + 40 + 8 + 3;
    assert!(check(&header, &frame, frame.len()).is_ok());
    frame[stops] = 1;
    assert_eq!(Headers::parse(&frame), None);
    assert_eq!(check(&header, &frame, frame.len()), Err(Invalid::GsoHeaders));
    assert_eq!(Headers::parse(&frame[..stops]), None);
}
