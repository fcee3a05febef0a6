//! IP fragments: all of a datagram goes where its first part does, and comes together there as the whole would have come.

use super::*;
use etherparse::IpNumber;
use proptest::prelude::*;

/// Cuts a frame without options into fragments at such places, in bytes of the IP payload.
pub fn cut(frame: &[u8], at: &[usize], identification: u16) -> Vec<Vec<u8>> {
    let v6 = transport_at(frame) == 54;
    let (head, payload) = frame.split_at(transport_at(frame));
    let ends = at.iter().copied().chain([payload.len()]);
    let starts = [0].into_iter().chain(at.iter().copied());
    starts
        .zip(ends)
        .map(|(start, end)| {
            let mut part = head.to_vec();
            let more = u16::from(end != payload.len());
            if v6 {
                part[20] = 44;
                part[18..20].copy_from_slice(&((end - start + 8) as u16).to_be_bytes());
                part.extend([head[20], 0]);
                part.extend((start as u16 | more).to_be_bytes());
                part.extend(u32::from(identification).to_be_bytes());
            } else {
                part[16..18].copy_from_slice(&((end - start + 20) as u16).to_be_bytes());
                part[18..20].copy_from_slice(&identification.to_be_bytes());
                part[20..22].copy_from_slice(&((start as u16 / 8) | (more << 13)).to_be_bytes());
                part[24..26].fill(0);
                let sum = !naive_sum(&[&part[14..34]]);
                part[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            part.extend(&payload[start..end]);
            part
        })
        .collect()
}

/// Puts fragments of one datagram together, in whatever order they are; every header checksum has to be right.
fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let v6 = transport_at(&parts[0]) == 54;
    let mut pieces: Vec<_> = parts
        .iter()
        .map(|part| {
            let (at, field) = if v6 { (62, 56) } else { (34, 20) };
            if !v6 {
                assert_eq!(naive_sum(&[&part[14..34]]), 0xffff, "IPv4 header");
            }
            let field = u16::from_be_bytes([part[field], part[field + 1]]);
            let start = if v6 { field & !7 } else { (field & 0x1fff) * 8 };
            (usize::from(start), part[at..].to_vec())
        })
        .collect();
    pieces.sort();
    let mut whole = parts[0][..if v6 { 54 } else { 34 }].to_vec();
    if v6 {
        whole[20] = parts[0][54];
    }
    let at = whole.len();
    for (start, piece) in pieces {
        assert_eq!(whole.len() - at, start, "nothing twice and nothing missing");
        whole.extend(piece);
    }
    let len = whole.len();
    if v6 {
        whole[18..20].copy_from_slice(&((len - 54) as u16).to_be_bytes());
    } else {
        whole[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
        whole[20..22].fill(0);
        whole[24..26].fill(0);
        let sum = !naive_sum(&[&whole[14..34]]);
        whole[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    whole
}

/// A world that knows its neighbours' Ethernet addresses.
fn world(forward: Forward) -> World {
    let mut world = World::new(forward);
    settle(&mut world);
    world
}

fn settle(world: &mut World) {
    for packet in [
        udp(end(CLIENT, 9), end(VIRTUAL, 80)),
        udp(end("10.0.0.11", 8080), end(CLIENT, 9)),
        udp(end(CLIENT_V6, 9), end(VIRTUAL_V6, 80)),
        udp(end("fd00::b", 8080), end(CLIENT_V6, 9)),
    ] {
        // With room for a tunnel.
        let (mut room, mut frame) = ([0; 64], packet.frame(b"hello"));
        let mut packet = Packet::with_room(&mut room, &mut frame);
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
    }
    answer(world);
}

/// Answers what the balancer asks its neighbours.
fn answer(world: &mut World) {
    for asked in core::mem::take(&mut world.said.frames) {
        let mut answer = match asked[12..14] {
            [0x08, 0x06] => super::neighbours::arp_reply(&asked),
            [0x86, 0xdd] if asked[54] == 135 => super::neighbours::advertisement(&asked),
            _ => continue,
        };
        let _ = world.process(&mut answer, &mut Offload::default());
    }
}

/// What comes out of the balancer for these frames, be it at once or later.
fn pass(world: &mut World, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    world.said.frames.clear();
    let mut out = Vec::new();
    for frame in frames {
        let mut frame = frame.clone();
        match world.process(&mut frame, &mut Offload::default()) {
            Ok(()) => out.push(frame),
            Err(Verdict::Held | Verdict::Drop(_)) => {}
            Err(verdict) => panic!("{verdict:?}"),
        }
        out.append(&mut world.said.frames);
    }
    out
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + (at >> 8)) as u8).collect()
}

fn held(world: &World) -> u64 {
    world.balancer.counters().held
}

#[test]
fn a_datagram_and_its_answer_go_through_in_parts() {
    for v6 in [false, true] {
        let (client, service, host) = match v6 {
            true => (end(CLIENT_V6, 9), end(VIRTUAL_V6, 80), end("fd00::b", 8080)),
            false => (end(CLIENT, 9), end(VIRTUAL, 80), end("10.0.0.11", 8080)),
        };
        let mut world = world(Forward::Masquerade);
        let before = world.balancer.total();
        let request = udp(client, service).frame(&bytes(4000));
        let sent = pass(&mut world, &cut(&request, &[1400, 2800], 7));
        assert_eq!(sent.len(), 3);
        let joined = join(&sent);
        verify(&joined);
        assert_eq!(read(&joined), udp(client, host));
        let answer = udp(host, client).frame(&bytes(3000));
        let sent = pass(&mut world, &cut(&answer, &[1448, 2896], 8));
        let joined = join(&sent);
        verify(&joined);
        assert_eq!(read(&joined), udp(service, client));
        let after = world.balancer.total();
        let header = if v6 { 40 } else { 20 };
        assert_eq!(after.in_packets - before.in_packets, 1, "counted as the whole datagram");
        assert_eq!(after.in_bytes - before.in_bytes, header + 8 + 4000);
        assert_eq!(after.out_packets - before.out_packets, 1);
        assert_eq!(after.out_bytes - before.out_bytes, header + 8 + 3000);
        assert!(world.balancer.fragments.deadline().is_none(), "nothing is kept of what is through");
    }
}

#[test]
fn what_comes_before_the_first_is_held_for_it() {
    let mut world = world(Forward::Masquerade);
    let parts = cut(&udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(3000)), &[1000, 2000], 7);
    assert!(pass(&mut world, &[parts[2].clone(), parts[1].clone()]).is_empty());
    assert_eq!(held(&world), 2);
    let sent = pass(&mut world, &[parts[0].clone()]);
    assert_eq!((sent.len(), held(&world)), (3, 0));
    verify(&join(&sent));
    // And no longer than half a minute.
    assert!(pass(&mut world, &[parts[2].clone(), parts[1].clone()]).is_empty());
    world.seconds(29);
    assert_eq!(held(&world), 2);
    world.seconds(2);
    let lost = world.balancer.counters().dropped[Reason::FragmentLost as usize];
    assert_eq!((held(&world), lost), (0, 2));
}

#[test]
fn what_was_held_waits_for_its_neighbour_too() {
    for answered in [true, false] {
        let mut world = World::new(Forward::Masquerade);
        let parts = cut(&udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(2000)), &[1000], 7);
        assert_eq!(world.process(&mut parts[1].clone(), &mut Offload::default()), Err(Verdict::Held));
        assert_eq!(world.process(&mut parts[0].clone(), &mut Offload::default()), Ok(()));
        assert_eq!((world.hop, held(&world)), (Some(ip("10.0.0.11")), 1));
        if answered {
            answer(&mut world);
            assert_eq!((world.said.frames.len(), held(&world)), (1, 0));
            assert_eq!(world.said.frames[0][30..34], [10, 0, 0, 11]);
        } else {
            world.seconds(10);
            assert_eq!((held(&world), world.balancer.counters().dropped[Reason::Unreachable as usize]), (0, 1));
        }
    }
}

#[test]
fn what_is_not_taken_is_not_taken_in_parts() {
    let mut world = world(Forward::Masquerade);
    let mut verdicts = |packet: Segment| {
        let parts = cut(&packet.frame(&bytes(1000)), &[512], 7);
        parts.into_iter().map(|mut part| world.process(&mut part, &mut Offload::default())).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(udp(end(CLIENT, 10), end(VIRTUAL, 81))), [Err(Verdict::Local); 2], "no service");
    assert_eq!(verdicts(udp(end(CLIENT, 10), end("10.0.0.2", 81))), [Err(Verdict::Local); 2]);
    assert_eq!(verdicts(udp(end(CLIENT, 10), end("10.0.0.11", 81))), [Err(Verdict::Drop(Reason::NotOurs)); 2]);
    assert_eq!(verdicts(udp(end("127.0.0.1", 10), end(VIRTUAL, 80))), [Err(Verdict::Drop(Reason::BadSource)); 2]);
    let ping = {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(OTHER_MAC, MAC).ipv4([10, 9, 0, 1], [10, 0, 0, 100], 64);
        builder.write(&mut frame, IpNumber::ICMP, &[&[8, 0, 0, 0, 0, 0, 0, 0][..], &bytes(900)].concat()).unwrap();
        cut(&frame, &[512], 7)
    };
    for mut part in ping {
        assert_eq!(world.process(&mut part, &mut Offload::default()), Err(Verdict::Local));
    }
}

#[test]
fn parts_that_overlap_spoil_their_datagram() {
    let frame = udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(3000));
    let (a, b) = (cut(&frame, &[1000, 2000], 7), cut(&frame, &[1008, 1992], 7));
    let mut world = world(Forward::Masquerade);
    assert_eq!(pass(&mut world, &a[..1]).len(), 1);
    assert!(pass(&mut world, &b[2..]).len() == 1, "it touches nothing yet");
    assert!(pass(&mut world, &a[1..2]).is_empty());
    assert!(pass(&mut world, &b[1..2]).is_empty(), "from now on nothing of it goes on");
    assert_eq!(world.balancer.counters().dropped[Reason::Fragment as usize], 2);
    // Another first fragment begins anew.
    assert_eq!(pass(&mut world, &b).len(), 3);
    assert_eq!(
        pass(&mut world, &[a[0].clone(), a[1].clone(), a[1].clone(), a[2].clone()]).len(),
        3,
        "none goes on twice"
    );
}

#[test]
fn a_first_fragment_that_comes_twice_harms_nothing() {
    let mut world = world(Forward::Masquerade);
    let parts = cut(&udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(3000)), &[1000, 2000], 7);
    let [first, middle, last] = [0, 1, 2].map(|at: usize| parts[at].clone());
    let before = world.balancer.total().in_packets;
    let sent = pass(&mut world, &[middle, first.clone(), first, last]);
    verify(&join(&sent));
    assert_eq!(world.balancer.total().in_packets - before, 1);
    assert!(world.balancer.fragments.deadline().is_none());
    // Nor one that is held, as of SCTP.
    let key = ServiceKey::sctp(ip(VIRTUAL), 80);
    world.balancer.add_service(key, ServiceConfig::new(Family::V4, Scheduler::RoundRobin)).unwrap();
    world.balancer.add_destination(&key, super::server(false), DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    let packet = super::sctp::packet(10, 80, super::sctp::INIT, &bytes(3000));
    let whole = super::sctp::frame(end(CLIENT, 10), end(VIRTUAL, 80), &packet);
    let parts = cut(&whole, &[1000, 2000], 8);
    let [first, middle, last] = [0, 1, 2].map(|at: usize| parts[at].clone());
    let joined = join(&pass(&mut world, &[first.clone(), middle.clone(), first.clone(), last.clone()]));
    assert_eq!(joined[42..46], super::sctp::right(&joined[34..]));
    // Two that are not the same contradict each other, and nothing of them goes on.
    let other = cut(&whole, &[1008, 2000], 8);
    assert!(pass(&mut world, &[first, middle, other[0].clone(), last]).is_empty());
    assert_eq!(held(&world), 0);
}

#[test]
fn what_is_put_together_here_takes_no_place() {
    let mut world = world(Forward::Masquerade);
    let mut send = |from, to, expected: Verdict| {
        let parts = cut(&udp(end(from, 10), end(to, 81)).frame(&bytes(1000)), &[512], 7);
        assert_eq!(world.process(&mut parts[0].clone(), &mut Offload::default()), Err(expected));
        assert!(world.balancer.fragments.deadline().is_none());
    };
    send(CLIENT, "10.0.0.2", Verdict::Local);
    send("127.0.0.1", "10.0.0.2", Verdict::Drop(Reason::BadSource));
    send("127.0.0.1", VIRTUAL, Verdict::Drop(Reason::BadSource));
}

#[test]
fn every_other_part_of_the_largest_datagram_may_come_first() {
    let mut world = world(Forward::Masquerade);
    let cuts: Vec<_> = (1..54).map(|at| at * 1208).collect();
    let parts = cut(&udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(65_000)), &cuts, 7);
    let (even, odd): (Vec<_>, Vec<_>) = parts.into_iter().enumerate().partition(|(at, _)| at % 2 == 0);
    let order: Vec<_> = even.into_iter().chain(odd).map(|(_, part)| part).collect();
    verify(&join(&pass(&mut world, &order)));
    // More gaps than are remembered: that part alone is lost, and may come again.
    let cuts: Vec<_> = (1..80).map(|at| at * 16).collect();
    let parts = cut(&udp(end(CLIENT, 10), end(VIRTUAL, 80)).frame(&bytes(1272)), &cuts, 8);
    let even: Vec<_> = (0..80).step_by(2).map(|at: usize| parts[at].clone()).collect();
    let odd: Vec<_> = (1..80).step_by(2).map(|at: usize| parts[at].clone()).collect();
    let mut sent = pass(&mut world, &even);
    assert_eq!(sent.len(), 32);
    sent.extend(pass(&mut world, &odd));
    sent.extend(pass(&mut world, &even));
    verify(&join(&sent));
}

#[test]
fn full_nat_is_of_all_fragments() {
    let mut world = world(Forward::Masquerade);
    let address = ip("10.0.0.200");
    let pool = LocalPool { first: address, last: address, ports: (3000, 3000) };
    world.balancer.set_extras(Some(&services()[1]), Extras { pool: Some(pool), ..Extras::default() }).unwrap();
    let client = end(CLIENT, 77);
    let request = udp(client, end(VIRTUAL, 80)).frame(&bytes(3000));
    let sent = join(&pass(&mut world, &cut(&request, &[1000, 2000], 7)));
    verify(&sent);
    let (local, server) = ((address, 3000), end("10.0.0.11", 8080));
    assert_eq!(read(&sent), udp(local, server));
    let sent = join(&pass(&mut world, &cut(&udp(server, local).frame(&bytes(3000)), &[1000, 2000], 7)));
    verify(&sent);
    assert_eq!(read(&sent), udp(end(VIRTUAL, 80), client));
}

#[test]
fn every_method_forwards_fragments() {
    for forward in [Forward::Direct, Forward::Tunnel] {
        for v6 in [false, true] {
            let (client, service) = match v6 {
                true => (end(CLIENT_V6, 9), end(VIRTUAL_V6, 80)),
                false => (end(CLIENT, 9), end(VIRTUAL, 80)),
            };
            let mut world = world(forward);
            let parts = cut(&udp(client, service).frame(&bytes(3000)), &[1000, 2000], 7);
            let mut inner = Vec::new();
            for at in [1, 0, 2] {
                let mut room = [0; 64];
                let mut head = parts[at].clone();
                let mut packet = Packet::with_room(&mut room, &mut head);
                world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
                let (verdict, start) = (packet.verdict, packet.start);
                if verdict == Verdict::Held {
                    continue;
                }
                assert_eq!(verdict, Verdict::Transmit, "{forward:?} {v6}");
                let front = usize::from(start.unsigned_abs());
                inner.push([&room[64 - front..], &head[..]].concat());
            }
            inner.append(&mut world.said.frames);
            assert_eq!(inner.len(), 3);
            let overhead = match (forward, v6) {
                (Forward::Direct, _) => 0,
                (_, false) => 20,
                (_, true) => 40,
            };
            let inner: Vec<_> = inner.iter().map(|f| [&f[..14], &f[14 + overhead..]].concat()).collect();
            let joined = join(&inner);
            verify(&joined);
            assert_eq!(read(&joined), udp(client, service));
        }
    }
}

#[test]
fn one_packet_scheduling_is_of_whole_datagrams() {
    let mut world = world(Forward::Masquerade);
    let key = services()[1];
    let mut config = ServiceConfig::new(Family::V4, Scheduler::RoundRobin);
    config.flags = ServiceFlags::ONE_PACKET;
    world.balancer.edit_service(&key, config).unwrap();
    let other = DestinationKey { address: ip("10.0.0.12"), port: 8080 };
    world.balancer.add_destination(&key, other, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    world.said.frames.clear();
    for port in 1..3 {
        let _ = world.send(udp(end(CLIENT, port), end(VIRTUAL, 80)));
    }
    answer(&mut world);
    for id in 0..4 {
        let parts = cut(&udp(end(CLIENT, 77), end(VIRTUAL, 80)).frame(&bytes(3000)), &[1000, 2000], id);
        let sent = pass(&mut world, &parts);
        let to: Vec<_> = sent.iter().map(|part| part[30..34].to_vec()).collect();
        assert_eq!(to, [to[0].clone(), to[0].clone(), to[0].clone()]);
        verify(&join(&sent));
    }
}

#[test]
fn a_flood_of_parts_takes_no_more_than_there_is() {
    let mut world = World::with(|config| (config.fragments, config.held_fragments) = (64, 16));
    world.add_servers(Forward::Masquerade);
    settle(&mut world);
    let part =
        |id, which: usize| cut(&udp(end(CLIENT, 9), end(VIRTUAL, 80)).frame(&bytes(100)), &[48], id)[which].clone();
    for id in 0..100 {
        assert!(pass(&mut world, &[part(id, 1)]).is_empty());
        assert_eq!(held(&world), u64::from(id.min(3)) + 1);
    }
    assert_eq!(world.balancer.counters().dropped[Reason::FragmentLost as usize], 96);
    // Those that are followed are not given up for those that are held.
    pass(&mut world, &[part(200, 0)]);
    for id in 300..303 {
        pass(&mut world, &[part(id, 1)]);
    }
    assert_eq!(pass(&mut world, &[part(200, 1)]).len(), 1);
    assert_eq!(pass(&mut world, &[part(302, 0)]).len(), 2);
    // One that is too long to be held.
    let mut long = cut(&udp(end(CLIENT, 9), end(VIRTUAL, 80)).frame(&bytes(4000)), &[48], 9);
    assert_eq!(world.process(&mut long[1], &mut Offload::default()), Err(Verdict::Drop(Reason::Fragment)));
}

#[test]
fn nobody_takes_the_room_of_others() {
    let mut world = world(Forward::Masquerade);
    let parts = |from: &str, id| cut(&udp(end(from, 9), end(VIRTUAL, 80)).frame(&bytes(100)), &[48], id);
    // One that is followed, and one that is held for its first.
    assert_eq!(pass(&mut world, &parts(CLIENT, 7)[..1]).len(), 1);
    assert!(pass(&mut world, &parts(CLIENT, 8)[1..]).is_empty());
    for id in 0..5000 {
        let flood = parts("10.9.9.9", id);
        assert!(pass(&mut world, &flood[1..]).is_empty());
        assert!(held(&world) <= 65);
    }
    assert_eq!(pass(&mut world, &parts(CLIENT, 7)[1..]).len(), 1);
    assert_eq!(pass(&mut world, &parts(CLIENT, 8)[..1]).len(), 2);
    for id in 0..4000 {
        assert_eq!(pass(&mut world, &parts("10.9.9.9", id)[..1]).len(), 1);
        if id == 0 {
            assert_eq!(pass(&mut world, &parts(CLIENT, 9)[..1]).len(), 1);
        }
    }
    assert_eq!(pass(&mut world, &parts(CLIENT, 9)[1..]).len(), 1);
}

#[test]
fn what_waits_for_a_neighbour_gives_way_too() {
    let mut world = World::with(|config| config.held_fragments = 4);
    world.add_servers(Forward::Masquerade);
    let parts = |last: u8| {
        let from = (IpAddr::from([10, 9, 3, last]), 9);
        cut(&udp(from, end(VIRTUAL, 80)).frame(&bytes(100)), &[48], 7)
    };
    for last in 1..5 {
        let parts = parts(last);
        assert_eq!(world.process(&mut parts[1].clone(), &mut Offload::default()), Err(Verdict::Held));
        assert_eq!(world.process(&mut parts[0].clone(), &mut Offload::default()), Ok(()));
        assert_eq!((world.hop, held(&world)), (Some(ip("10.0.0.11")), u64::from(last)));
    }
    assert_eq!(world.process(&mut parts(9)[1].clone(), &mut Offload::default()), Err(Verdict::Held));
    assert_eq!((held(&world), world.balancer.counters().dropped[Reason::FragmentLost as usize]), (4, 1));
}

/// Fragments of fragments in a tunnel: what the tunnels' packets hold, each of which has come whole.
fn tunnelled(sent: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut by_id: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
    for frame in sent {
        assert!(frame.len() <= 1514);
        let id = frame[18..20].to_vec();
        match by_id.iter_mut().find(|(other, _)| *other == id) {
            Some((_, frames)) => frames.push(frame.clone()),
            None => by_id.push((id, [frame.clone()].into())),
        }
    }
    by_id.iter().map(|(_, frames)| join(frames)).map(|whole| [&whole[..14], &whole[34..]].concat()).collect()
}

#[test]
fn what_was_held_is_cut_for_a_tunnel() {
    for known in [true, false] {
        let mut world = World::new(Forward::Tunnel);
        if known {
            settle(&mut world);
        }
        let request = udp(end(CLIENT, 9), end(VIRTUAL, 80)).frame(&bytes(2950));
        let parts = cut(&request, &[1480], 7);
        assert!(pass(&mut world, &parts[1..]).is_empty());
        let (mut room, mut head) = ([0; 64], parts[0].clone());
        let mut packet = Packet::with_room(&mut room, &mut head);
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        assert!(packet.fragment != 0 && matches!(packet.verdict, Verdict::Transmit | Verdict::Wait(_)));
        if !known {
            answer(&mut world);
        }
        let later = tunnelled(&core::mem::take(&mut world.said.frames));
        assert_eq!((later.len(), held(&world)), (1, 0));
        let joined = join(&[parts[0].clone(), later[0].clone()]);
        verify(&joined);
        assert_eq!(read(&joined), udp(end(CLIENT, 9), end(VIRTUAL, 80)));
    }
}

#[test]
fn sctp_in_a_tunnel_waits_only_for_its_first() {
    let mut world = world(Forward::Tunnel);
    let key = ServiceKey::sctp(ip(VIRTUAL), 80);
    world.balancer.add_service(key, ServiceConfig::new(Family::V4, Scheduler::RoundRobin)).unwrap();
    world
        .balancer
        .add_destination(
            &key,
            DestinationKey { address: ip("10.0.0.11"), port: 80 },
            DestinationConfig::new(Forward::Tunnel, 1),
        )
        .unwrap();
    let frame = |chunk, len| {
        let packet = super::sctp::packet(10, 80, chunk, &bytes(len));
        super::sctp::frame(end(CLIENT, 10), end(VIRTUAL, 80), &packet)
    };
    let send = |world: &mut World, part: &Vec<u8>| {
        let (mut room, mut head) = ([0; 64], part.clone());
        let mut packet = Packet::with_room(&mut room, &mut head);
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        packet.verdict
    };
    // Only a scheduler says how the first of all goes on; it is held, and cut like all.
    let parts = cut(&frame(super::sctp::INIT, 2400), &[1480], 7);
    assert_eq!(send(&mut world, &parts[0]), Verdict::Held);
    world.said.frames.clear();
    assert_eq!(send(&mut world, &parts[1]), Verdict::Transmit);
    assert_eq!(world.said.frames.len(), 2);
    let first = tunnelled(&world.said.frames);
    assert_eq!((first.len(), &first[0][34..]), (1, &parts[0][34..]));
    for (id, chunk) in [(8, super::sctp::INIT), (9, 0)] {
        for part in cut(&frame(chunk, 2400), &[1480], id) {
            assert_eq!(send(&mut world, &part), Verdict::Transmit);
        }
    }
    assert!(world.balancer.fragments.deadline().is_none());
}

#[test]
fn a_part_with_an_unfinished_checksum_makes_no_sense() {
    let mut world = world(Forward::Masquerade);
    let mut parts = cut(&udp(end(CLIENT, 9), end(VIRTUAL, 80)).frame(&bytes(100)), &[48], 9);
    let mut offload = Offload { partial: Some(Partial { start: 34, offset: 6 }), ..Offload::default() };
    assert_eq!(world.process(&mut parts[0], &mut offload), Err(Verdict::Drop(Reason::Malformed)));
    let mut offload = Offload { gso_size: 8, ..Offload::default() };
    assert_eq!(world.process(&mut parts[1], &mut offload), Err(Verdict::Drop(Reason::Malformed)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any datagram, cut anywhere, its parts in any order: it comes out whole and right, with its checksum, or not at all.
    #[test]
    fn any_order_comes_out_whole(
        v6: bool,
        protocol in 0usize..3,
        len in 100usize..6000,
        cuts in proptest::collection::btree_set(4usize..180, 1..10),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 10),
        back: bool,
    ) {
        let mut world = world(Forward::Masquerade);
        let (client, service, host) = match v6 {
            true => (end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), end("fd00::b", 8080)),
            false => (end(CLIENT, 4000), end(VIRTUAL, 80), end("10.0.0.11", 8080)),
        };
        if protocol == 2 {
            let key = ServiceKey::sctp(service.0, 80);
            world.balancer.add_service(key, ServiceConfig::new(key.family(), Scheduler::RoundRobin)).unwrap();
            let config = DestinationConfig::new(Forward::Masquerade, 1);
            world.balancer.add_destination(&key, super::server(v6), config).unwrap();
        }
        let make = |from: End, to: End, len| match protocol {
            0 => udp(from, to).frame(&bytes(len)),
            1 => tcp(from, to, SYN).frame(&bytes(len)),
            _ => super::sctp::frame(from, to, &super::sctp::packet(from.1, to.1, super::sctp::INIT, &bytes(len))),
        };
        if back {
            let mut first = make(client, service, 100);
            world.process(&mut first, &mut Offload::default()).unwrap();
        }
        let (from, to, expected) = match back {
            true => (host, client, (service, client)),
            false => (client, service, (client, host)),
        };
        let whole = make(from, to, len);
        let at: Vec<_> = cuts.into_iter().map(|at| at * 8).filter(|at| *at < whole.len() - transport_at(&whole)).collect();
        prop_assume!(!at.is_empty());
        let mut parts = cut(&whole, &at, 99);
        // Those that have to be held must be as short as a frame can be.
        prop_assume!(parts.iter().all(|part| part.len() <= 1514));
        for i in (1..parts.len()).rev() {
            parts.swap(i, order[i % order.len()].index(i + 1));
        }
        let sent = pass(&mut world, &parts);
        prop_assert_eq!((sent.len(), held(&world)), (parts.len(), 0));
        let joined = join(&sent);
        let read = read(&joined);
        prop_assert_eq!((read.from, read.to), expected);
        if protocol == 2 {
            let start = transport_at(&joined);
            prop_assert_eq!(&joined[start + 8..start + 12], &super::sctp::right(&joined[start..]));
        } else {
            verify(&joined);
        }
        prop_assert!(world.balancer.fragments.deadline().is_none());
    }

    /// Whatever parts come: every frame is accounted for, and in the end nothing is held.
    #[test]
    fn hostile_parts_do_no_harm(
        parts in proptest::collection::vec((0u16..4, 0u16..40, 1u16..40, any::<bool>(), 0usize..3, any::<bool>(), 0u64..20), 1..200),
    ) {
        let mut world = World::with(|config| (config.fragments, config.held_fragments) = (5, 9));
        world.add_servers(Forward::Masquerade);
        settle(&mut world);
        for (id, start, len, more, protocol, v6, seconds) in parts {
            let (client, service) = match v6 {
                true => (end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80)),
                false => (end(CLIENT, 4000), end(VIRTUAL, 80)),
            };
            let whole = match protocol {
                0 => udp(client, service).frame(&bytes(700)),
                1 => tcp(client, service, SYN).frame(&bytes(700)),
                _ => super::sctp::frame(client, service, &super::sctp::packet(4000, 80, super::sctp::INIT, &bytes(700))),
            };
            // The third of three is what was asked for, the last or not.
            let (start, end) = (usize::from(start) * 8, usize::from(start + len) * 8);
            let at = transport_at(&whole);
            let cuts: Vec<_> = [start, end].into_iter().filter(|&cut| cut != 0).collect();
            let keep = if more { whole.len() } else { (at + end).min(whole.len()) };
            let mut all = cut(&whole[..keep.max(at + 8)], &cuts.into_iter().filter(|&cut| cut < keep - at).collect::<Vec<_>>(), id);
            let which = usize::from(start != 0).min(all.len() - 1);
            let _ = world.process(&mut all[which], &mut Offload::default());
            prop_assert!(held(&world) <= 6);
            world.pass(Duration::from_secs(seconds / 10));
            let c = world.balancer.counters();
            prop_assert_eq!(c.frames, c.forwarded + c.waiting + c.local + c.held + c.dropped.iter().sum::<u64>());
        }
        world.seconds(31);
        prop_assert_eq!((held(&world), world.balancer.fragments.deadline()), (0, None));
    }
}
