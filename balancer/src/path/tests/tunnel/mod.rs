//! Tunnels: what comes out of one is what went in, less a hop, and whoever carries it is told what Linux tells.

mod errors;

use super::*;
use proptest::prelude::*;
use std::vec;

/// Bytes in front of a frame, as a driver has them.
const ROOM: usize = 128;

const IPIP: Tunnel = Tunnel { kind: Tunnel::IPIP, port: 0, flags: 0 };

fn gue(flags: u16) -> Tunnel {
    Tunnel { kind: Tunnel::GUE, port: 6080, flags }
}

fn gre(flags: u16) -> Tunnel {
    Tunnel { kind: Tunnel::GRE, port: 0, flags }
}

/// Every kind of tunnel there is.
fn kinds() -> [Tunnel; 6] {
    [IPIP, gue(0), gue(1), gue(2), gre(0), gre(1)]
}

/// Bytes that a tunnel puts in front, if the checksum of what it carries is complete.
fn overhead(tunnel: Tunnel, to: IpAddr) -> usize {
    let between = match (tunnel.kind, tunnel.flags) {
        (Tunnel::IPIP, _) => 0,
        (Tunnel::GUE, _) => 12,
        (_, 0) => 4,
        _ => 8,
    };
    between + if to.is_ipv6() { 40 } else { 20 }
}

/// Where a tunnel leads to, of both families: a neighbour and somebody beyond the gateway.
fn ends() -> [IpAddr; 4] {
    ["10.0.0.11", "10.7.0.1", "fd00::b", "fd07::1"].map(ip)
}

/// Clients and virtual addresses of both families.
fn requests() -> [(End, End); 2] {
    [(end(CLIENT, 4000), end(VIRTUAL, 80)), (end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80))]
}

fn world(tunnel: Tunnel, to: IpAddr) -> World {
    let mut world = World::empty();
    for key in services() {
        let config = DestinationConfig { tunnel, ..DestinationConfig::new(Forward::Tunnel, 1) };
        world.balancer.add_destination(&key, DestinationKey { address: to, port: 80 }, config).unwrap();
    }
    world
}

/// Gives a frame to the balancer that has room in front of it. What is sent.
fn forward(world: &mut World, frame: &[u8], offload: &mut Offload) -> Result<Vec<u8>, Verdict> {
    let mut buffer = vec![0xaa; ROOM];
    buffer.extend_from_slice(frame);
    let (room, head) = buffer.split_at_mut(ROOM);
    let mut packet = Packet { offload: *offload, ..Packet::with_room(room, head) };
    world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
    *offload = packet.offload;
    let (verdict, start) = (packet.verdict, packet.start);
    world.fragment = packet.fragment;
    match verdict {
        Verdict::Transmit => {}
        Verdict::Wait(NextHop(hop)) => world.hop = Some(hop),
        verdict => return Err(verdict),
    }
    let start = usize::try_from(ROOM as isize + isize::from(start)).unwrap();
    assert!(buffer[..start.min(ROOM)].iter().all(|&byte| byte == 0xaa), "no more is written than belongs to the frame");
    Ok(buffer.split_off(start))
}

fn plain(world: &mut World, frame: &[u8]) -> Result<Vec<u8>, Verdict> {
    forward(world, frame, &mut Offload::default())
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The headers that were put in front of a packet, taken apart as plainly as can be, every checksum in them verified.
#[derive(Debug, PartialEq, Eq)]
struct Outer {
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    service: u8,
    dont_fragment: bool,
    ports: Option<(u16, u16)>,
    /// UDP or GRE has a checksum.
    checksum: bool,
    /// Remote checksum offload: start and place of the field in the packet.
    remote: Option<(u16, u16)>,
}

/// Opens a tunnel's packet: its headers, and the frame that was in it.
fn open(frame: &[u8]) -> (Outer, Vec<u8>) {
    let packet = &frame[14..];
    let (mut outer, number, at, end) = if frame[12..14] == [8, 0] {
        assert_eq!((packet[0], naive_sum(&[&packet[..20]])), (0x45, 0xffff));
        let octets = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
        let (source, destination) = (octets(12).into(), octets(16).into());
        assert!(be16(packet, 6) & !0x4000 == 0);
        let dont_fragment = be16(packet, 6) & 0x4000 != 0;
        assert!(!dont_fragment || be16(packet, 4) == 0, "an identification means nothing then");
        let (hops, service) = (packet[8], packet[1]);
        let outer =
            Outer { source, destination, hops, service, dont_fragment, ports: None, checksum: false, remote: None };
        (outer, packet[9], 20, usize::from(be16(packet, 2)))
    } else {
        assert_eq!((&frame[12..14], packet[0] >> 4), (&[0x86, 0xdd][..], 6));
        assert_eq!((packet[1] & 15, be16(packet, 2)), (0, 0), "no flow label");
        let octets = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        let (source, destination) = (octets(8).into(), octets(24).into());
        let (hops, service) = (packet[7], packet[0] << 4 | packet[1] >> 4);
        let outer = Outer {
            source,
            destination,
            hops,
            service,
            dont_fragment: true,
            ports: None,
            checksum: false,
            remote: None,
        };
        (outer, packet[6], 40, 40 + usize::from(be16(packet, 4)))
    };
    let inside = &packet[at..end];
    let (number, skipped) = match number {
        17 => {
            outer.ports = Some((be16(inside, 0), be16(inside, 2)));
            outer.checksum = be16(inside, 6) != 0;
            assert_eq!(usize::from(be16(inside, 4)), inside.len());
            if outer.checksum {
                let addresses = if at == 20 { &packet[12..20] } else { &packet[8..40] };
                let length = (inside.len() as u32).to_be_bytes();
                assert_eq!(naive_sum(&[addresses, &[0, 17], &length, inside]), 0xffff, "UDP");
            }
            match (inside[8], be16(inside, 10)) {
                (0, 0) => (inside[9], 12),
                (2, 1) => {
                    assert_eq!(inside[12..16], [0x80, 0, 0, 0]);
                    outer.remote = Some((be16(inside, 16), be16(inside, 18)));
                    (inside[9], 20)
                }
                other => panic!("GUE {other:x?}"),
            }
        }
        47 => {
            let number = match be16(inside, 2) {
                0x0800 => 4,
                0x86dd => 41,
                other => panic!("GRE {other:x?}"),
            };
            outer.checksum = be16(inside, 0) != 0;
            if outer.checksum {
                assert_eq!((be16(inside, 0), be16(inside, 6), naive_sum(&[inside])), (0x8000, 0, 0xffff));
            }
            (number, if outer.checksum { 8 } else { 4 })
        }
        other => (other, 0),
    };
    let mut inner = frame[..12].to_vec();
    inner.extend_from_slice(match number {
        4 => &[8, 0],
        41 => &[0x86, 0xdd],
        other => panic!("{other}"),
    });
    inner.extend_from_slice(&inside[skipped..]);
    (outer, inner)
}

/// A frame with a hop less.
fn a_hop_less(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [8, 0] {
        frame[22] -= 1;
        frame[24..26].fill(0);
        let sum = !naive_sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[21] -= 1;
    }
    frame
}

/// Gives a frame other TOS or traffic class.
fn with_service(mut frame: Vec<u8>, service: u8) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        frame[15] = service;
        frame[24..26].fill(0);
        let sum = !naive_sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14] = 0x60 | service >> 4;
        frame[15] = service << 4;
    }
    frame
}

/// Allows an IPv4 packet to be fragmented, or not.
fn with_fragmentation(mut frame: Vec<u8>, dont: bool) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        frame[20] = if dont { 0x40 } else { 0 };
        frame[24..26].fill(0);
        let sum = !naive_sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

#[test]
fn what_goes_in_comes_out_less_a_hop_in_every_kind_and_family() {
    for tunnel in kinds() {
        for to in ends() {
            for (client, service) in requests() {
                for flags in [Some(SYN), None] {
                    let mut world = world(tunnel, to);
                    let frame = Segment { from: client, to: service, flags }.frame(b"odd");
                    let sent = plain(&mut world, &frame).unwrap();
                    assert_eq!(sent.len(), frame.len() + overhead(tunnel, to));
                    assert_eq!(sent[..12], frame[..12], "it waits with the addresses it came with");
                    let (outer, inner) = open(&sent);
                    assert_eq!(inner, a_hop_less(&frame));
                    let source = ip(if to.is_ipv6() { "fd00::2" } else { "10.0.0.2" });
                    assert_eq!((outer.source, outer.destination, outer.hops), (source, to, 63));
                    assert_eq!(outer.checksum, tunnel.flags != 0);
                    assert_eq!(outer.ports.map(|ports| ports.1), (tunnel.kind == Tunnel::GUE).then_some(6080));
                    assert_eq!(outer.remote, None, "its checksum is complete");
                    let hop = if to == ip("10.7.0.1") {
                        ip("10.0.0.1")
                    } else if to == ip("fd07::1") {
                        ip("fd00::1")
                    } else {
                        to
                    };
                    assert_eq!(world.hop, Some(hop), "a gateway will do");
                    let listed = world.balancer.connection_list(world.now).next().unwrap();
                    assert_eq!((listed.destination, listed.forward), (to, Forward::Tunnel));
                }
            }
        }
    }
}

#[test]
fn the_packets_of_a_connection_keep_one_source_port_and_others_have_theirs() {
    let mut world = world(gue(0), ends()[0]);
    let mut port = |client: u16| {
        let sent = plain(&mut world, &udp(end(CLIENT, client), end(VIRTUAL, 80)).frame(b"x")).unwrap();
        open(&sent).0.ports.unwrap().0
    };
    let first: Vec<u16> = (4000..4040).map(&mut port).collect();
    assert_eq!(first, (4000..4040).map(&mut port).collect::<Vec<_>>());
    let different: std::collections::BTreeSet<_> = first.iter().collect();
    assert!(different.len() > 30 && first.iter().all(|port| (32768..61000).contains(port)), "{first:?}");
}

#[test]
fn congestion_stays_inside_and_the_rest_of_the_service_is_told() {
    for to in ends() {
        for (client, service) in requests() {
            for (inside, outside) in [(0, 0), (0xb8, 0xb8), (0xb9, 0xb9), (0xba, 0xba), (0xbb, 0xba), (3, 2)] {
                let frame = with_service(udp(client, service).frame(b"x"), inside);
                let (outer, inner) = open(&plain(&mut world(IPIP, to), &frame).unwrap());
                assert_eq!((outer.service, inner), (outside, a_hop_less(&frame)));
            }
        }
    }
}

#[test]
fn only_an_ipv4_packet_that_may_not_be_fragmented_makes_the_outer_one_such() {
    let frame = udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(b"x");
    for dont in [true, false] {
        for tunnel in kinds() {
            let sent = plain(&mut world(tunnel, ends()[0]), &with_fragmentation(frame.clone(), dont)).unwrap();
            assert_eq!(open(&sent).0.dont_fragment, dont);
        }
    }
    let mut world = world(IPIP, ends()[0]);
    let v6 = udp(end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80)).frame(b"x");
    let identifications = [(); 3].map(|()| {
        let sent = plain(&mut world, &v6).unwrap();
        assert!(!open(&sent).0.dont_fragment, "as Linux has it");
        be16(&sent, 18)
    });
    assert!(identifications[0] != identifications[1] && identifications[1] != identifications[2]);
}

#[test]
fn what_does_not_fit_into_the_tunnel_is_answered_with_what_does() {
    for tunnel in kinds() {
        for to in ends() {
            for (client, service) in requests() {
                let inside = 1500 - overhead(tunnel, to);
                let headers = if client.0.is_ipv6() { 48 } else { 28 };
                let mut world = world(tunnel, to);
                let fits = with_fragmentation(udp(client, service).frame(&vec![1; inside - headers]), true);
                assert_eq!(open(&plain(&mut world, &fits).unwrap()).1, a_hop_less(&fits));
                world.said.frames.clear();
                let large = with_fragmentation(udp(client, service).frame(&vec![1; inside - headers + 1]), true);
                assert_eq!(plain(&mut world, &large), Err(Verdict::Drop(Reason::TooBig)));
                let error = world.said.frames.pop().unwrap();
                let at = transport_at(&error);
                assert_eq!((error[at], error[at + 1]), if client.0.is_ipv6() { (2, 0) } else { (3, 4) });
                assert_eq!(usize::from(be16(&error, at + 6)), inside);
            }
        }
    }
}

#[test]
fn what_may_be_fragmented_is_from_ipv4_to_ipv4() {
    let (client, service) = requests()[0];
    for tunnel in kinds() {
        for (to, fragment) in [(ends()[0], 1480), (ends()[2], 0)] {
            let mut world = world(tunnel, to);
            for dont in [false, true] {
                let frame = with_fragmentation(udp(client, service).frame(&[1; 1472]), dont);
                let fits = with_fragmentation(udp(client, service).frame(&[1; 1400]), dont);
                assert!(plain(&mut world, &fits).is_ok() && world.fragment == 0);
                for pmtu_disc in [1, 0] {
                    world.balancer.set_sysctl("pmtu_disc", pmtu_disc).unwrap();
                    let sent = plain(&mut world, &frame);
                    if fragment == 0 || dont && pmtu_disc == 1 {
                        assert_eq!(sent, Err(Verdict::Drop(Reason::TooBig)), "{tunnel:?} {to} {dont} {pmtu_disc}");
                        continue;
                    }
                    let (outer, inner) = open(&sent.unwrap());
                    assert_eq!((outer.dont_fragment, world.fragment, inner), (false, fragment, a_hop_less(&frame)));
                }
            }
        }
    }
    let mut world = world(IPIP, ends()[0]);
    world.balancer.set_sysctl("pmtu_disc", 0).unwrap();
    let v6 = udp(end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80)).frame(&[1; 1450]);
    assert_eq!(plain(&mut world, &v6), Err(Verdict::Drop(Reason::TooBig)), "IPv6 has no such packets");
}

#[test]
fn a_frame_without_hops_or_room_goes_nowhere() {
    let (client, service) = requests()[0];
    let mut world = world(IPIP, ends()[0]);
    let mut frame = udp(client, service).frame(b"x");
    for room in [0, 19] {
        let mut room = vec![0; room];
        let mut packet = Packet::with_room(&mut room, &mut frame);
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        assert_eq!((packet.verdict, packet.start), (Verdict::Drop(Reason::NoRoom), 0));
    }
    assert!(plain(&mut world, &frame).is_ok());
    frame[22] = 1;
    frame[24..26].fill(0);
    let sum = !naive_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(plain(&mut world, &frame), Err(Verdict::Drop(Reason::TtlExceeded)));
}

#[test]
fn replies_go_another_way_and_states_are_those_of_one_direction() {
    let (client, service) = requests()[0];
    let mut world = world(IPIP, ends()[0]);
    plain(&mut world, &tcp(client, service, SYN).frame(b"")).unwrap();
    assert_eq!(world.state().0, TcpState::SynReceived);
    plain(&mut world, &tcp(client, service, FIN).frame(b"")).unwrap();
    assert_eq!(world.state().0, TcpState::TimeWait, "as direct routing");
    assert_eq!(world.drops(tcp(end("10.0.0.11", 80), client, SYN_ACK)), Reason::NotOurs);
}

/// Makes the transport checksum of a frame partial.
fn make_partial(frame: &mut [u8], is_tcp: bool) -> Partial {
    let start = transport_at(frame);
    let offset = if is_tcp { 16 } else { 6 };
    let sum = naive_sum(&[&pseudo_header(frame)]);
    frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    Partial { start: start as u16, offset: offset as u16 }
}

/// Completes a partial checksum as a device does.
fn complete(frame: &mut [u8], partial: Option<Partial>) {
    if let Some(Partial { start, offset }) = partial {
        let (start, offset) = (usize::from(start), usize::from(offset));
        let sum = match !naive_sum(&[&frame[start..]]) {
            0 if offset == 6 => 0xffff,
            sum => sum,
        };
        frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn a_partial_checksum_is_completed_behind_the_tunnel_s_headers() {
    for tunnel in kinds() {
        for to in ends() {
            for (client, service) in requests() {
                for flags in [Some(ACK | SYN), None] {
                    let whole = Segment { from: client, to: service, flags }.frame(b"payload of an odd length!");
                    let mut frame = whole.clone();
                    let partial = make_partial(&mut frame, flags.is_some());
                    let mut offload = Offload { partial: Some(partial), ..Offload::default() };
                    let mut sent = forward(&mut world(tunnel, to), &frame, &mut offload).unwrap();
                    complete(&mut sent, offload.partial);
                    let (outer, mut inner) = open(&sent);
                    if tunnel.flags & Tunnel::REMOTE_CHECKSUM != 0 {
                        let (start, at) = outer.remote.unwrap();
                        assert_eq!(offload.partial, None, "it is left to the server");
                        assert_eq!(at - start, partial.offset);
                        complete(&mut inner, Some(Partial { start: start + 14, ..partial }));
                    }
                    assert_eq!(inner, a_hop_less(&whole));
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_long_frame_need_not_be_seen() {
    let (client, service) = requests()[0];
    let frame = tcp(client, service, SYN).frame(&[7; 3000]);
    for tunnel in kinds() {
        let mut world = World::with(|config| config.mtu = 9000);
        let config = DestinationConfig { tunnel, ..DestinationConfig::new(Forward::Tunnel, 1) };
        world
            .balancer
            .add_destination(&services()[0], DestinationKey { address: ends()[0], port: 80 }, config)
            .unwrap();
        let mut buffer = [&[0; ROOM], &frame[..]].concat();
        let (room, rest) = buffer.split_at_mut(ROOM);
        let mut packet = Packet { len: frame.len(), ..Packet::with_room(room, &mut rest[..2048]) };
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        let (verdict, start, partial) = (packet.verdict, packet.start, packet.offload.partial);
        assert_eq!(verdict, Verdict::Wait(NextHop(ends()[0])));
        assert_eq!(partial.is_some(), tunnel.flags != 0, "whoever sends it sums it");
        let mut sent = buffer.split_off(usize::try_from(ROOM as isize + isize::from(start)).unwrap());
        complete(&mut sent, partial);
        assert_eq!(open(&sent).1, a_hop_less(&frame));
    }
}

#[test]
fn hostile_checksum_places_are_refused() {
    let (client, service) = requests()[0];
    let frame = tcp(client, service, SYN).frame(b"x");
    for tunnel in kinds() {
        for (start, offset) in [(0, 0), (13, 1), (35, 16), (34, 4000), (u16::MAX, u16::MAX), (65500, 16)] {
            let mut offload = Offload { partial: Some(Partial { start, offset }), ..Offload::default() };
            // Whatever becomes of it: no panic, and nothing beyond what can be.
            if forward(&mut world(tunnel, ends()[0]), &frame, &mut offload).is_ok()
                && let Some(partial) = offload.partial
            {
                assert!(partial.start >= start, "{tunnel:?} {start} {offset}");
            }
        }
    }
}

#[test]
fn only_tunnels_there_are_can_be_configured() {
    let mut world = World::empty();
    let service = services()[0];
    let mut add = |tunnel, address: &str| {
        let config = DestinationConfig { tunnel, ..DestinationConfig::new(Forward::Tunnel, 1) };
        world.balancer.add_destination(&service, DestinationKey { address: ip(address), port: 80 }, config)
    };
    assert_eq!(add(Tunnel { kind: Tunnel::GUE, port: 0, flags: 0 }, "10.0.0.11"), Err(Errno::Invalid));
    assert_eq!(add(Tunnel { kind: 3, port: 0, flags: 0 }, "10.0.0.11"), Err(Errno::Invalid));
    assert_eq!(add(IPIP, "10.0.0.11"), Ok(()));
    assert_eq!(add(IPIP, "fd00::b"), Ok(()), "a tunnel leads from one family to the other");
    let direct = DestinationConfig::new(Forward::Direct, 1);
    let other = DestinationKey { address: ip("fd00::c"), port: 80 };
    assert_eq!(world.balancer.add_destination(&service, other, direct), Err(Errno::Invalid));
}

#[test]
fn what_waited_in_vain_is_taken_out_of_the_tunnel_for_who_sent_it() {
    for tunnel in kinds() {
        for to in [ends()[0], ends()[2]] {
            for (client, service) in requests() {
                let mut world = world(tunnel, to);
                let frame = udp(client, service).frame(b"hello");
                let mut sent = plain(&mut world, &frame).unwrap();
                world.seconds(4);
                world.said.frames.clear();
                world.balancer.undeliverable(&mut Packet::new(&mut sent), world.now, &mut world.said);
                let [error] = &world.said.frames[..] else { panic!("{:x?}", world.said.frames) };
                assert_eq!((&error[..6], &error[6..12]), (&OTHER_MAC[..], &MAC[..]));
                let at = transport_at(error);
                assert_eq!(error[at..at + 2], if client.0.is_ipv6() { [1, 3] } else { [3, 1] });
                assert_eq!(error[at + 8..], frame[14..], "as it came in");
            }
        }
    }
}

#[test]
fn a_tunnel_s_neighbour_may_answer_within_the_burst() {
    let (client, service) = requests()[0];
    let mut world = world(IPIP, ends()[0]);
    let (mut frame, mut room) = (udp(client, service).frame(b"x"), [0; ROOM]);
    let mut request = arp_reply([10, 0, 0, 11], [2, 0, 0, 0, 0, 11]);
    request[20..22].copy_from_slice(&[0, 1]);
    let mut burst = [Packet::with_room(&mut room, &mut frame), Packet::new(&mut request)];
    world.balancer.process(&mut burst, world.now, &mut world.said);
    assert_eq!((burst[0].verdict, burst[0].start), (Verdict::Transmit, -20));
    assert_eq!(room[ROOM - 20..ROOM - 8], [2, 0, 0, 0, 0, 11, 0x52, 0x54, 0, 0x12, 0x34, 2]);
}

/// Makes the ways to 10.0.0.11 and to the gateway known, so that frames are sent at once.
fn resolve(world: &mut World) {
    for address in [[10, 0, 0, 11], [10, 0, 0, 1]] {
        let mut request = arp_reply(address, [2, 0, 0, 0, 0, address[3]]);
        request[20..22].copy_from_slice(&[0, 1]);
        world.process(&mut request, &mut Offload::default()).unwrap_err();
    }
}

proptest! {
    #[test]
    fn an_encapsulated_frame_opened_is_itself(
        kind in 0usize..6, to in 0usize..4, v6: bool, is_tcp: bool, service: u8, dont: bool, partial: bool, fill: u8,
        len in 0usize..1380, padding in 0usize..20, known: bool,
    ) {
        let (client, virtual_end) = requests()[usize::from(v6)];
        let (tunnel, to) = (kinds()[kind], ends()[to]);
        let segment = Segment { from: client, to: virtual_end, flags: is_tcp.then_some(SYN) };
        let whole = with_fragmentation(with_service(segment.frame(&vec![fill; len]), service), dont);
        let mut frame = whole.clone();
        let mut offload = Offload::default();
        if partial {
            offload.partial = Some(make_partial(&mut frame, is_tcp));
        } else {
            // Padding of the link, which nothing counts.
            frame.resize(frame.len() + padding, 0x55);
        }
        let mut world = world(tunnel, to);
        if known {
            // The way is known, and was gone before.
            resolve(&mut world);
            let first = segment.frame(b"first");
            plain(&mut world, &first).unwrap();
            world.hop = None;
        }
        let mut sent = forward(&mut world, &frame, &mut offload).unwrap();
        prop_assert_eq!(world.hop.is_none(), known && !to.is_ipv6());
        if world.hop.is_none() {
            let neighbour = if to == ends()[0] { 11 } else { 1 };
            prop_assert_eq!(&sent[..12], &[&[2, 0, 0, 0, 0, neighbour][..], &MAC].concat()[..]);
            // The rest is told by the addresses it had.
            sent[..12].copy_from_slice(&whole[..12]);
        }
        complete(&mut sent, offload.partial);
        let (outer, mut inner) = open(&sent);
        let congestion = if service & 3 == 3 { service & !1 } else { service };
        prop_assert_eq!((outer.hops, outer.service, outer.destination), (63, congestion, to));
        if let Some((start, at)) = outer.remote {
            complete(&mut inner, Some(Partial { start: start + 14, offset: at - start }));
        }
        prop_assert_eq!(inner, a_hop_less(&whole));
    }
}
