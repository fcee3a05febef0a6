//! NAT and direct routing: what is rewritten, and that checksums are right in whatever form they come.

use super::*;

/// Client, virtual end and server of both families.
fn families() -> [(End, End, End); 2] {
    [
        (end(CLIENT, 4000), end(VIRTUAL, 80), end("10.0.0.11", 8080)),
        (end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), end("fd00::b", 8080)),
    ]
}

#[test]
fn nat_rewrites_requests_and_replies() {
    for (client, service, server) in families() {
        for flags in [Some(SYN), None] {
            let mut world = World::new(Forward::Masquerade);
            let request = Segment { from: client, to: service, flags };
            assert_eq!(world.send(request), Ok(Segment { to: server, ..request }));
            assert_eq!(world.hop, Some(server.0));
            let back = flags.map(|_| SYN_ACK);
            let reply = Segment { from: server, to: client, flags: back };
            assert_eq!(world.send(reply), Ok(request.back(back)));
            assert_eq!(world.hop, Some(ip(if client.0.is_ipv6() { "fd00::1" } else { "10.0.0.1" })));
            assert_eq!(world.balancer.connections(), 1);
        }
    }
}

#[test]
fn direct_routing_changes_a_hop_and_nothing_else() {
    for (client, service, server) in families() {
        let mut world = World::new(Forward::Direct);
        let before = tcp(client, service, SYN).frame(b"");
        let mut after = world.frame(before.clone()).unwrap();
        assert_eq!((world.hop, &after[..12]), (Some(server.0), &before[..12]), "the neighbour is still asked for");
        let hops = if client.0.is_ipv6() { 21 } else { 22 };
        assert_eq!((before[hops], after[hops]), (64, 63));
        assert_eq!(read(&after), read(&before));
        after[..24].copy_from_slice(&before[..24]);
        after[24..26].copy_from_slice(&before[24..26]);
        assert_eq!(after, before);
        assert_eq!(world.drops(tcp(server, client, SYN_ACK)), Reason::NotOurs, "replies go another way");
    }
}

#[test]
fn direct_routing_does_not_go_through_a_gateway() {
    let mut world = World::empty();
    let key = DestinationKey { address: ip("10.7.0.1"), port: 80 };
    world.balancer.add_destination(&services()[1], key, DestinationConfig::new(Forward::Direct, 1)).unwrap();
    assert_eq!(world.drops(udp(end(CLIENT, 4000), end(VIRTUAL, 80))), Reason::NoRoute);
    let nat = DestinationConfig::new(Forward::Masquerade, 1);
    world.balancer.edit_destination(&services()[1], &key, nat).unwrap();
    assert!(world.send(udp(end(CLIENT, 4001), end(VIRTUAL, 80))).is_ok(), "NAT may");
}

#[test]
fn a_server_without_a_port_is_reached_at_the_virtual_one() {
    let mut world = World::empty();
    let key = DestinationKey { address: ip("10.0.0.12"), port: 0 };
    world.balancer.add_destination(&services()[1], key, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    let request = udp(end(CLIENT, 4000), end(VIRTUAL, 80));
    assert_eq!(world.send(request).unwrap().to, end("10.0.0.12", 80));
}

#[test]
fn partial_checksums_stay_partial_and_complete_right() {
    for (client, service, _) in families() {
        for flags in [Some(SYN), None] {
            let mut world = World::new(Forward::Masquerade);
            let mut frame = Segment { from: client, to: service, flags }.frame(b"payload of an odd length!");
            let start = transport_at(&frame);
            let offset = if flags.is_some() { 16 } else { 6 };
            let sum = naive_sum(&[&pseudo_header(&frame)]);
            frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
            let partial = Partial { start: start as u16, offset: offset as u16 };
            let mut offload = Offload { partial: Some(partial), ..Offload::default() };
            world.process(&mut frame, &mut offload).unwrap();
            assert_eq!(offload.partial, Some(partial));
            let field = u16::from_be_bytes([frame[start + offset], frame[start + offset + 1]]);
            let expected = naive_sum(&[&pseudo_header(&frame)]);
            assert_eq!(field, expected, "the sum of the new pseudo-header");
        }
    }
}

#[test]
fn a_partial_checksum_of_an_inner_packet_is_not_ours() {
    let mut world = World::new(Forward::Masquerade);
    let mut frame = udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(&[7; 100]);
    let partial = Some(Partial { start: 60, offset: 16 });
    world.process(&mut frame, &mut Offload { partial, ..Offload::default() }).unwrap();
    verify(&frame);

    let mut frame = udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(&[7; 100]);
    let partial = Some(Partial { start: 34, offset: 16 });
    let verdict = world.process(&mut frame, &mut Offload { partial, ..Offload::default() });
    assert_eq!(verdict, Err(Verdict::Drop(Reason::Malformed)), "not where UDP has its checksum");
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut world = World::new(Forward::Masquerade);
    let mut frame = udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(b"x");
    frame[40..42].copy_from_slice(&[0, 0]);
    assert_eq!(world.frame(frame).unwrap()[40..42], [0, 0]);
}

#[test]
fn super_frames_pass_as_they_lie() {
    let mut world = World::new(Forward::Masquerade);
    let mut frame = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN).frame(&[1; 30_000]);
    let len = frame.len();
    frame.truncate(2048);
    let mut packet = Packet::new(&mut frame);
    (packet.len, packet.offload.gso_size) = (len, 1460);
    world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
    assert!(matches!(packet.verdict, Verdict::Wait(_) | Verdict::Transmit), "{:?}", packet.verdict);
    let mut frame = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), ACK).frame(&[1; 30_000]);
    let mut offload = Offload { gso_size: 1461, ..Offload::default() };
    assert_eq!(world.process(&mut frame, &mut offload), Err(Verdict::Drop(Reason::TooBig)), "each segment would be");
}

#[test]
fn datagrams_that_will_be_fragmented_pass_if_their_fragments_do() {
    // What IP carries in a fragment that fills 1500 bytes: IPv6 has a fragment header in each.
    for ((client, service, _), most) in families().into_iter().zip([1480, 1448]) {
        for (gso_size, expected) in [(most, true), (most + 8, false)] {
            let mut world = World::new(Forward::Masquerade);
            let mut frame = udp(client, service).frame(&[1; 30_000]);
            let mut offload = Offload { gso_size, fragments: true, ..Offload::default() };
            let result = world.process(&mut frame, &mut offload);
            assert_eq!(result.is_ok(), expected, "{gso_size}");
        }
    }
}

#[test]
fn too_large_or_out_of_hops_is_not_forwarded() {
    for (client, service, server) in families() {
        let mut world = World::new(Forward::Masquerade);
        let request = tcp(client, service, SYN);
        world.send(request).unwrap();
        for segment in [request, tcp(server, client, ACK)] {
            let large = segment.frame(&[0; 1600]);
            assert_eq!(world.frame(large).unwrap_err(), Verdict::Drop(Reason::TooBig));
            let mut last = segment.frame(&[]);
            if client.0.is_ipv6() {
                last[21] = 1;
            } else {
                let sum = u16::from_be_bytes([last[24], last[25]]) + 63 * 256;
                last[22] = 1;
                last[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(world.frame(last).unwrap_err(), Verdict::Drop(Reason::TtlExceeded));
        }
    }
}

#[test]
fn an_answer_in_the_same_burst_settles_what_waits() {
    let mut world = World::new(Forward::Masquerade);
    let mut request = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN).frame(&[]);
    let mut other = tcp(end("10.0.0.11", 8080), end(CLIENT, 4000), SYN).frame(&[]);
    let mut answer = arp_reply([10, 0, 0, 11], OTHER_MAC);
    let mut burst = [Packet::new(&mut request), Packet::new(&mut other), Packet::new(&mut answer)];
    world.balancer.process(&mut burst, world.now, &mut world.said);
    assert_eq!(
        burst.each_ref().map(|p| p.verdict),
        [Verdict::Transmit, Verdict::Wait(NextHop(ip("10.0.0.1"))), Verdict::Local]
    );
    assert_eq!(request[..6], OTHER_MAC);
    let c = world.balancer.counters();
    assert_eq!((c.forwarded, c.waiting, c.local, c.neighbour_requests), (1, 1, 1, 2));
}

#[test]
fn a_burst_sees_the_connections_made_within_it() {
    let mut world = World::new(Forward::Masquerade);
    let request = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN);
    let mut frames: Vec<_> = (0..70)
        .map(|n| match n {
            0 => request.frame(&[]),
            n if n % 2 == 1 => tcp(end("10.0.0.11", 8080), end(CLIENT, 4000), SYN_ACK).frame(&[]),
            _ => Segment { flags: Some(ACK), ..request }.frame(&[]),
        })
        .collect();
    let mut burst: Vec<_> = frames.iter_mut().map(|frame| Packet::new(frame)).collect();
    world.balancer.process(&mut burst, world.now, &mut world.said);
    assert!(burst.iter().all(|p| matches!(p.verdict, Verdict::Transmit | Verdict::Wait(_))));
    drop(burst);
    frames.iter().for_each(|frame| verify(frame));
    let stats = world.destination(&services()[0]).stats;
    assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 35, 35));
}
