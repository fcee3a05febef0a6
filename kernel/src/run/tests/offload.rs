//! Super-frames of every kind through the whole machine, whatever its device can do: what arrives is what was sent, and every
//! checksum is right by the measure of another implementation (etherparse).

use etherparse::defrag::IpDefragPool;
use etherparse::{IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice, ip_number};

use super::*;

pub(super) const RULES: &str = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m\n\
                     -A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.11:5353 -m\n\
                     -A -t [fd00::100]:80 -s rr\n-a -t [fd00::100]:80 -r [fd00::b]:80 -m\n\
                     -A -u [fd00::100]:53 -s rr\n-a -u [fd00::100]:53 -r [fd00::b]:5353 -m\n";
pub(super) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 11];
/// Bytes of payload in each segment.
const SIZE: u16 = 1400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp { cwr: bool },
    Datagrams,
    Fragments,
}

const KINDS: [Kind; 4] = [Kind::Tcp { cwr: false }, Kind::Tcp { cwr: true }, Kind::Datagrams, Kind::Fragments];

impl Kind {
    fn gso_type(self, v6: bool) -> u8 {
        match (self, v6) {
            (Kind::Tcp { cwr: false }, false) => NetHdr::GSO_TCPV4,
            (Kind::Tcp { cwr: false }, true) => NetHdr::GSO_TCPV6,
            (Kind::Tcp { cwr: true }, false) => NetHdr::GSO_TCPV4_ECN,
            (Kind::Tcp { cwr: true }, true) => NetHdr::GSO_TCPV6_ECN,
            (Kind::Datagrams, _) => NetHdr::GSO_UDP_L4,
            (Kind::Fragments, _) => NetHdr::GSO_UDP,
        }
    }
}

fn to_service(v6: bool) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], MAC);
    match v6 {
        false => ethernet.ip(IpHeaders::Ipv4(
            etherparse::Ipv4Header::new(0, 64, ip_number::TCP, [10, 9, 0, 5], [10, 0, 0, 100]).unwrap(),
            Default::default(),
        )),
        true => {
            let address = |text: &str| text.parse::<core::net::Ipv6Addr>().unwrap().octets();
            ethernet.ipv6(address("fd09::5"), address("fd00::100"), 64)
        }
    }
}

/// A frame from the client to the service, and the header it comes with.
pub(super) fn frame(kind: Kind, v6: bool, payload: &[u8], super_frame: bool) -> (NetHdr, Vec<u8>) {
    let mut bytes = vec![];
    let offset = match kind {
        Kind::Tcp { cwr } => {
            let mut tcp = etherparse::TcpHeader::new(4000, 80, 7, 1000);
            (tcp.syn, tcp.ack, tcp.psh) = (!super_frame, super_frame, super_frame);
            tcp.cwr = cwr && super_frame;
            to_service(v6).tcp_header(tcp).write(&mut bytes, payload).unwrap();
            16
        }
        Kind::Datagrams | Kind::Fragments => {
            to_service(v6).udp(4000, 53).write(&mut bytes, payload).unwrap();
            6
        }
    };
    if !super_frame {
        return (NetHdr::default(), bytes);
    }
    // The sum of the pseudo-header stands where the checksum will.
    let start = if v6 { 54 } else { 34 };
    let addresses = if v6 { 22..54 } else { 26..34 };
    let words = bytes[addresses].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let protocol = if offset == 16 { 6 } else { 17 };
    let sum = words.sum::<u32>() + (bytes.len() - start) as u32 + protocol;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    let header =
        NetHdr { gso_type: kind.gso_type(v6), gso_size: SIZE, ..NetHdr::partial_checksum(start as u16, offset as u16) };
    (header, bytes)
}

/// Checks what arrived with all of its checksums, and gives its payload. Fragments give theirs with the last one.
pub(super) fn arrived(header: &NetHdr, frame: &[u8], fragments: &mut IpDefragPool<(), ()>) -> Vec<u8> {
    content(header, frame, 5353, fragments)
}

/// The same of datagrams to another port.
fn content(header: &NetHdr, frame: &[u8], port: u16, fragments: &mut IpDefragPool<(), ()>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if header.needs_csum() {
        let sum = ringlet_driver::offload::finish_checksum(&frame[..], header.csum_start, header.csum_offset);
        let at = usize::from(header.csum_start + header.csum_offset);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    assert!(header.is_gso() || frame.len() <= 1514);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    if packet.is_ip_payload_fragmented() {
        let whole = fragments.process_sliced_packet(&packet, (), ()).unwrap();
        let Some(whole) = whole else { return vec![] };
        let udp = etherparse::UdpSlice::from_slice(&whole.payload).unwrap();
        assert_eq!(udp.checksum(), checksum(&packet, &udp.to_header(), udp.payload()));
        return udp.payload().to_vec();
    }
    match packet.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let sum = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                NetSlice::Arp(_) => unreachable!(),
            };
            assert_eq!((header.destination_port, header.checksum), (80, sum.unwrap()));
            payload.to_vec()
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            assert_eq!((header.destination_port, header.checksum), (port, checksum(&packet, &header, udp.payload())));
            udp.payload().to_vec()
        }
        other => panic!("{other:?}"),
    }
}

fn checksum(packet: &SlicedPacket<'_>, udp: &etherparse::UdpHeader, payload: &[u8]) -> u16 {
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            udp.calc_checksum_ipv4(&ip, payload).unwrap()
        }
        NetSlice::Ipv6(ip) => udp.calc_checksum_ipv6(&ip.header().to_header(), payload).unwrap(),
        NetSlice::Arp(_) => unreachable!(),
    }
}

/// A frame, with the header it was sent with.
type Sent = (NetHdr, Vec<u8>);

/// What reaches the server of one super-frame, and how long that was.
fn through(offered: Features, kind: Kind, v6: bool, payload: &[u8]) -> (World, Vec<Sent>, usize) {
    let protocol = if matches!(kind, Kind::Tcp { .. }) { 6 } else { 17 };
    let (world, seen) = sent(offered, RULES, kind, v6, payload, |frame| match frame[12..14] {
        [8, 0] => frame[23] == protocol,
        _ => frame[20] == protocol || frame[20] == 44,
    });
    let length = frame(kind, v6, payload, true).1.len();
    (world, seen, length)
}

/// What reaches the server of one super-frame under any rules, as far as it is of it.
fn sent(
    offered: Features,
    rules: &str,
    kind: Kind,
    v6: bool,
    payload: &[u8],
    is_ours: impl Fn(&[u8]) -> bool,
) -> (World, Vec<Sent>) {
    let mut world = World::new(offered, "", rules);
    world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
    let (header, opening) = frame(kind, v6, b"", false);
    world.device.inject(header, &opening);
    world.run(40);
    world.peers[1].seen.clear();
    let (header, large) = frame(kind, v6, payload, true);
    assert!(world.device.inject(header, &large));
    world.run(40);
    let seen =
        world.peers[1].seen.iter().filter(|(_, frame)| frame[..6] == SERVER && is_ours(frame)).cloned().collect();
    (world, seen)
}

#[test]
fn every_kind_of_super_frame_arrives_whatever_the_device_can_do() {
    let payload: Vec<u8> = (0..20_001_u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let each = [
        Features::empty(),
        Features::CSUM,
        Features::HOST_TSO4 | Features::HOST_TSO6,
        Features::HOST_ECN,
        Features::HOST_USO,
        Features::HOST_UFO,
        Features::MRG_RXBUF,
        Features::INDIRECT_DESC,
    ];
    for without in each {
        for (kind, v6) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let (world, seen, large) = through(ALL - without, kind, v6, &payload);
            let features = world.running.kernel.facts().features;
            let needed = match kind {
                Kind::Tcp { cwr } => {
                    let ecn = if cwr { Features::HOST_ECN } else { Features::empty() };
                    ecn | if v6 { Features::HOST_TSO6 } else { Features::HOST_TSO4 }
                }
                Kind::Datagrams => Features::HOST_USO,
                Kind::Fragments => Features::HOST_UFO,
            };
            let whole = features.contains(needed);
            let case = format!("{kind:?}, IPv6: {v6}, without {without}");
            let mut fragments = IpDefragPool::new();
            let got: Vec<u8> = seen.iter().flat_map(|(header, frame)| arrived(header, frame, &mut fragments)).collect();
            assert!(got == payload, "{case}: {} frames, {} bytes", seen.len(), got.len());
            let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
            assert_eq!(counters.lost_in_all(), 0, "{case}");
            assert_eq!(counters.software_offloads, u64::from(!whole), "{case}");
            if whole {
                let (header, frame) = &seen[0];
                assert_eq!((seen.len(), frame.len()), (1, large), "{case}");
                assert_eq!((header.gso_type, header.gso_size), (kind.gso_type(v6), SIZE), "{case}");
                let headers = frame.len() - payload.len();
                assert_eq!(usize::from(header.hdr_len), headers, "{case}");
            } else if kind == Kind::Fragments {
                assert!(seen.iter().all(|(header, _)| *header == NetHdr::default()), "{case}");
            } else {
                assert_eq!(seen.len(), payload.len().div_ceil(SIZE.into()), "{case}");
                let partial = features.contains(Features::CSUM);
                assert!(seen.iter().all(|(header, _)| header.needs_csum() == partial), "{case}");
                let cwr: Vec<bool> = seen.iter().map(|(_, f)| f[if v6 { 67 } else { 47 }] & 0x80 != 0).collect();
                assert!(kind != Kind::Tcp { cwr: true } || cwr[0] && !cwr[1..].contains(&true), "{case}");
            }
        }
    }
}

/// The rules, with tunnels of one kind instead of NAT. The servers listen at the services' ports then.
fn tunnels(options: &str) -> String {
    RULES.replace("5353", "53").replace(" -m", &format!(" -i {options}"))
}

/// Takes the headers of a tunnel off a frame, and the Ethernet header's addresses with it.
fn opened(header: &NetHdr, frame: &[u8]) -> (NetHdr, Vec<u8>) {
    let (mut header, mut frame) = (*header, frame.to_vec());
    let at = 34;
    assert_eq!((&frame[12..15], frame[22]), (&[8, 0, 0x45][..], 63));
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    assert_eq!(frame.len(), 14 + total, "the outer length");
    let (number, between) = match frame[23] {
        17 => (frame[at + 9], 12 + 4 * usize::from(frame[at + 8])),
        47 => (if frame[at + 2] == 8 { 4 } else { 41 }, if frame[at] == 0 { 4 } else { 8 }),
        number => (number, 0),
    };
    if between == 20 {
        // Remote checksum offload: completed here.
        assert_eq!(header, NetHdr::default());
        let [start, field] = [50, 52].map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]) + 54);
        header = NetHdr::partial_checksum(start, field - start);
    }
    let front = 20 + between;
    if header.needs_csum() {
        header.csum_start -= front as u16;
    }
    frame.drain(14..14 + front);
    frame[12..14].copy_from_slice(if number == 4 { &[8, 0] } else { &[0x86, 0xdd] });
    (header, frame)
}

#[test]
fn super_frames_go_into_tunnels_piece_by_piece() {
    // What fits: with 1400 bytes of payload, IPv6 in GUE with remote checksum offload has 1500 bytes.
    let payload: Vec<u8> = (0..20_001_u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let gue = "--tun-type gue --tun-port 6080";
    let kinds = ["", gue, &format!("{gue} --tun-csum"), &format!("{gue} --tun-remcsum"), "--tun-type gre --tun-csum"];
    for (options, without) in kinds.iter().flat_map(|kind| [(kind, Features::empty()), (kind, Features::CSUM)]) {
        for (kind, v6) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let rules = tunnels(options).replace("[fd00::b]", "10.0.0.11");
            let (world, seen) = sent(ALL - without, &rules, kind, v6, &payload, |frame| frame[12..14] == [8, 0]);
            let case = format!("{options}, {kind:?}, IPv6: {v6}, without {without}");
            let mut fragments = IpDefragPool::new();
            let frames = seen.iter().map(|(header, frame)| {
                assert!(!header.is_gso() && frame.len() <= 1514, "{case}");
                opened(header, frame)
            });
            let got: Vec<u8> =
                frames.flat_map(|(header, frame)| content(&header, &frame, 53, &mut fragments)).collect();
            assert!(got == payload, "{case}: {} frames, {} bytes", seen.len(), got.len());
            let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
            assert_eq!((counters.lost_in_all(), counters.software_offloads), (0, 1), "{case}");
        }
    }
}

#[test]
fn what_is_too_large_for_a_tunnel_goes_in_fragments_if_it_may() {
    let payload: Vec<u8> = (0..1472_u32).map(|i| (i * 7) as u8).collect();
    for without in [Features::empty(), Features::CSUM] {
        let mut world = World::new(ALL - without, "", &tunnels("--tun-type gue --tun-port 6080 --tun-csum"));
        world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
        let (_, mut small) = frame(Kind::Datagrams, false, b"first", false);
        let (header, mut large) = frame(Kind::Datagrams, false, &payload, true);
        for frame in [&mut small, &mut large] {
            frame[20] = 0;
            let sum = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header().calc_header_checksum();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        world.device.inject(NetHdr::default(), &small);
        world.run(40);
        world.peers[1].seen.clear();
        let header = NetHdr { gso_type: NetHdr::GSO_NONE, gso_size: 0, ..header };
        world.device.inject(header, &large);
        world.run(40);
        let seen: Vec<_> = world.peers[1].seen.iter().filter(|(_, f)| f[12..14] == [8, 0] && f[23] == 17).collect();
        assert!(seen.len() == 2 && seen.iter().all(|(header, f)| *header == NetHdr::default() && f.len() <= 1514));
        let mut pool = IpDefragPool::<(), ()>::new();
        let whole: Vec<_> = seen
            .iter()
            .filter_map(|(_, f)| pool.process_sliced_packet(&SlicedPacket::from_ethernet(f).unwrap(), (), ()).unwrap())
            .collect();
        let [whole] = &whole[..] else { panic!("{} packets", whole.len()) };
        // As if it had come in one piece: UDP's checksum is that of the whole.
        let mut outer = seen[0].1[..34].to_vec();
        outer[16..18].copy_from_slice(&(20 + whole.payload.len() as u16).to_be_bytes());
        outer.extend(&whole.payload);
        let pseudo = [&outer[26..34], &[0, 17], &(whole.payload.len() as u16).to_be_bytes()].concat();
        let sum = [pseudo, whole.payload.clone()].concat();
        assert_eq!(ringlet_driver::offload::finish_checksum(&sum[..], 0, 0), 0, "UDP's checksum");
        let (header, inner) = opened(&NetHdr::default(), &outer);
        assert!(content(&header, &inner, 53, &mut IpDefragPool::new()) == payload);
        world.run(3000);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn what_a_device_has_coalesced_is_forwarded_and_counted() {
    let payload: Vec<u8> = (0..5_000_u32).map(|i| i as u8).collect();
    for (offered, pieces) in [(ALL, 1), (ALL - Features::HOST_TSO4, 4)] {
        let mut world = World::new(offered, "", RULES);
        world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
        let kind = Kind::Tcp { cwr: false };
        let (header, opening) = frame(kind, false, b"", false);
        world.device.inject(header, &opening);
        world.run(40);
        world.peers[1].seen.clear();
        let (header, mut large) = frame(kind, false, &payload, true);
        // Four segments; the checksum is not there yet, and no place for it is told.
        large[50..52].copy_from_slice(&[0xab, 0xcd]);
        let counted = NetHdr { flags: header.flags | NetHdr::RSC_INFO, csum_start: 4, csum_offset: 0, ..header };
        world.device.inject(counted, &large);
        // An acknowledgement that stands for three.
        let (_, ack) = frame(kind, false, b"", true);
        let mut complete = ack.clone();
        let sum = ringlet_driver::offload::finish_checksum(&ack[..], 34, 16);
        complete[50..52].copy_from_slice(&sum.to_be_bytes());
        let again =
            NetHdr { flags: NetHdr::DATA_VALID | NetHdr::RSC_INFO, csum_start: 1, csum_offset: 2, ..NetHdr::default() };
        world.device.inject(again, &complete);
        world.run(40);
        let tcp: Vec<_> = world.peers[1].seen.iter().filter(|(_, f)| f[..6] == SERVER && f[23] == 6).cloned().collect();
        assert_eq!(tcp.len(), pieces + 3);
        let mut fragments = IpDefragPool::new();
        let got: Vec<u8> = tcp.iter().flat_map(|(header, frame)| arrived(header, frame, &mut fragments)).collect();
        assert!(got == payload);
        world.run(60_000);
        let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
        assert_eq!((counters.coalesced_frames, counters.coalesced_segments, counters.duplicate_acks), (1, 4, 2));
        // A reset does not make the counters forget, nor count twice.
        world.device.fail();
        world.run(60_000);
        let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
        assert_eq!((counters.resets, counters.coalesced_segments, counters.duplicate_acks), (1, 4, 2));
        world.device.inject(counted, &large);
        world.run(60_000);
        let page = world.http("GET /metrics HTTP/1.0\r\n\r\n");
        assert!(
            page.contains("\nringlet_coalesced_segments_total 8\n")
                && page.contains("\nringlet_duplicate_acks_total 2\n")
        );
    }
}

#[test]
fn a_device_that_tells_of_endless_duplicates_costs_frames_but_nothing_else() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
    let kind = Kind::Tcp { cwr: false };
    let (header, opening) = frame(kind, false, b"", false);
    world.device.inject(header, &opening);
    world.run(40);
    let again = NetHdr { flags: NetHdr::RSC_INFO, csum_offset: u16::MAX, ..NetHdr::default() };
    for _ in 0..50 {
        world.device.inject(again, &frame(kind, false, b"", true).1);
    }
    world.run(40);
    let lost = world.running.kernel.gauges(&*world.platform, 0).counters.lost;
    assert!(lost[Loss::TransmitFull as usize] + lost[Loss::NoBuffer as usize] > 50 * 60_000);
    world.peers[1].seen.clear();
    let page = world.http("GET / HTTP/1.0\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 "));
    world.run(3000);
    world.assert_nothing_is_lost();
}

#[test]
fn a_header_that_makes_no_sense_is_counted_among_the_losses() {
    let mut world = World::new(ALL, "", RULES);
    world.device.inject(NetHdr { gso_type: 77, ..NetHdr::default() }, &[0xff; 60]);
    world.device.inject(NetHdr::default(), &[0xff; 13]);
    world.run(60_000);
    let lost = world.running.kernel.gauges(&*world.platform, 0).counters.lost;
    assert_eq!((lost[Loss::BadHeader as usize], lost[Loss::BadLength as usize]), (1, 1));
}
