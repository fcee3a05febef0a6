//! ICMP errors: those of others about balanced connections, and those made here.

use super::*;

/// Both families: client, virtual address, server, router behind the balancer.
pub(super) fn families() -> [(End, End, End, IpAddr); 2] {
    [
        (end(CLIENT, 4000), end(VIRTUAL, 80), end("10.0.0.11", 8080), ip("10.0.0.250")),
        (end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), end("fd00::b", 8080), ip("fd00::250")),
    ]
}

/// An error about a packet, with an MTU of 1400 where there is one.
pub(super) fn error(from: IpAddr, to: IpAddr, kind: [u8; 2], hops: u8, about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
    let ([kind, code], rest, quoted) = (kind, 1400u32.to_be_bytes(), &about[14..]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ip = ethernet.ipv4(from.octets(), to.octets(), hops);
            ip.icmpv4_raw(kind, code, rest).write(&mut frame, quoted).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = ethernet.ipv6(from.octets(), to.octets(), hops);
            ip.icmpv6_raw(kind, code, rest).write(&mut frame, quoted).unwrap();
        }
        _ => panic!("two families"),
    }
    frame
}

/// The ICMP and ICMPv6 type and code of one and the same thing.
fn kind(address: IpAddr, v4: [u8; 2], v6: [u8; 2]) -> [u8; 2] {
    if address.is_ipv4() { v4 } else { v6 }
}

pub(super) fn port_unreachable(address: IpAddr) -> [u8; 2] {
    kind(address, [3, 3], [1, 4])
}

fn too_big(address: IpAddr) -> [u8; 2] {
    kind(address, [3, 4], [2, 0])
}

/// Gives an error to the balancer; what goes on, but for Ethernet addresses.
pub(super) fn related(world: &mut World, mut frame: Vec<u8>) -> Result<Vec<u8>, Verdict> {
    world.process(&mut frame, &mut Offload::default())?;
    Ok(frame.split_off(12))
}

#[test]
fn an_error_about_a_reply_reaches_the_server_as_about_its_own() {
    for (client, virtual_end, server, _) in families() {
        let mut world = World::new(Forward::Masquerade);
        world.send(udp(client, virtual_end)).unwrap();
        let about = |from| udp(from, client).frame(b"reply");
        let kind = port_unreachable(client.0);
        let sent = related(&mut world, error(client.0, virtual_end.0, kind, 64, &about(virtual_end))).unwrap();
        assert_eq!(sent, error(client.0, server.0, kind, 63, &about(server))[12..]);
        assert_eq!(world.hop, Some(server.0));
        assert_eq!(world.destination(&services()[if client.0.is_ipv4() { 1 } else { 3 }]).stats.in_packets, 2);
    }
}

#[test]
fn an_error_about_a_request_reaches_the_client_as_from_the_virtual_address() {
    for (client, virtual_end, server, router) in families() {
        for from in [server.0, router] {
            let mut world = World::new(Forward::Masquerade);
            world.send(tcp(client, virtual_end, SYN)).unwrap();
            let about = |to| tcp(client, to, ACK).frame(b"request");
            let kind = too_big(client.0);
            let sent = related(&mut world, error(from, client.0, kind, 64, &about(server))).unwrap();
            assert_eq!(sent, error(virtual_end.0, client.0, kind, 63, &about(virtual_end))[12..]);
            assert_eq!(world.hop, Some(ip(if client.0.is_ipv4() { "10.0.0.1" } else { "fd00::1" })));
        }
    }
}

#[test]
fn an_error_reaches_a_server_with_direct_routing_as_it_is() {
    for (client, virtual_end, server, _) in families() {
        let mut world = World::new(Forward::Direct);
        world.send(tcp(client, virtual_end, SYN)).unwrap();
        let about = tcp(virtual_end, client, SYN_ACK).frame(b"");
        let make = |hops| error(client.0, virtual_end.0, too_big(client.0), hops, &about);
        assert_eq!(related(&mut world, make(64)).unwrap(), make(63)[12..]);
        assert_eq!(world.hop, Some(server.0));
    }
}

#[test]
fn an_error_does_not_go_round_by_a_gateway_to_a_server_with_direct_routing() {
    let (client, virtual_end) = (end(CLIENT, 4000), end(VIRTUAL, 80));
    let mut world = World::empty();
    let far = DestinationKey { address: ip("10.200.0.9"), port: 80 };
    world.balancer.add_destination(&services()[0], far, DestinationConfig::new(Forward::Direct, 1)).unwrap();
    assert_eq!(world.drops(tcp(client, virtual_end, SYN)), Reason::NoRoute);
    let about = tcp(virtual_end, client, SYN_ACK).frame(b"");
    let frame = error(client.0, virtual_end.0, too_big(client.0), 64, &about);
    assert_eq!(related(&mut world, frame), Err(Verdict::Drop(Reason::NoRoute)));
}

#[test]
fn errors_about_nothing_of_ours_are_the_local_stacks_or_nobodys() {
    for (client, virtual_end, server, router) in families() {
        let mut world = World::new(Forward::Masquerade);
        let kind = port_unreachable(client.0);
        let reply = udp(virtual_end, client).frame(b"reply");
        assert_eq!(related(&mut world, error(client.0, virtual_end.0, kind, 64, &reply)), Err(Verdict::Local));
        let request = udp(client, server).frame(b"request");
        let expected = Err(Verdict::Drop(Reason::NotOurs));
        assert_eq!(related(&mut world, error(router, client.0, kind, 64, &request)), expected);
    }
}

#[test]
fn errors_that_lie_are_dropped() {
    for (client, virtual_end, _, _) in families() {
        let mut world = World::new(Forward::Masquerade);
        world.send(udp(client, virtual_end)).unwrap();
        let reply = udp(virtual_end, client).frame(b"reply");
        let good = error(client.0, virtual_end.0, port_unreachable(client.0), 64, &reply);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        let counted = world.balancer.total();
        assert_eq!(related(&mut world, bad), Err(Verdict::Drop(Reason::BadChecksum)));
        assert_eq!(world.balancer.total(), counted, "nor are they counted");
        let cut = error(client.0, virtual_end.0, port_unreachable(client.0), 64, &reply[..transport_at(&reply) + 7]);
        assert_eq!(related(&mut world, cut), Err(Verdict::Drop(Reason::Malformed)));
        assert!(related(&mut world, good).is_ok());
    }
}

/// The type and code of the one error that was sent, after it is seen to be whole and to be about `frame`.
fn answer(world: &mut World, frame: &[u8], from: IpAddr) -> [u8; 2] {
    world.said.frames.retain(|frame| frame[12..14] != [8, 6] && (frame[12] == 8 || frame[54] != 135));
    let [sent] = &world.said.frames[..] else { panic!("{:x?}", world.said.frames) };
    assert_eq!((&sent[..6], &sent[6..12]), (&OTHER_MAC[..], &MAC[..]));
    let at = transport_at(sent);
    let (header, mut sums) = (sent[at], Vec::new());
    if from.is_ipv4() {
        assert_eq!(naive_sum(&[&sent[14..34]]), 0xffff);
    } else {
        sums = pseudo_header(sent);
    }
    assert_eq!(naive_sum(&[&sums, &sent[at..]]), 0xffff);
    let quoted = &sent[at + 8..];
    assert_eq!(quoted, &frame[14..][..quoted.len()], "as it came in");
    let source = match from {
        IpAddr::V4(from) => sent[26..30] == from.octets(),
        IpAddr::V6(from) => sent[22..38] == from.octets(),
    };
    assert!(source, "it comes from {from}");
    let code = sent[at + 1];
    world.said.frames.clear();
    [header, code]
}

#[test]
fn who_sends_what_cannot_go_on_is_told() {
    for (client, virtual_end, _, _) in families() {
        let mut world = World::empty();
        let frame = udp(client, virtual_end).frame(b"hello");
        assert_eq!(world.frame(frame.clone()), Err(Verdict::Drop(Reason::NoDestination)));
        assert_eq!(answer(&mut world, &frame, virtual_end.0), port_unreachable(client.0));

        world.add_servers(Forward::Masquerade);
        let mut last = frame.clone();
        if client.0.is_ipv4() {
            last[22] = 1;
            last[24..26].fill(0);
            let sum = !naive_sum(&[&last[14..34]]);
            last[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            last[21] = 1;
        }
        assert_eq!(world.frame(last.clone()), Err(Verdict::Drop(Reason::TtlExceeded)));
        assert_eq!(answer(&mut world, &last, virtual_end.0), kind(client.0, [11, 0], [3, 0]));

        let large = udp(client, virtual_end).frame(&[7; 1500]);
        assert_eq!(world.frame(large.clone()), Err(Verdict::Drop(Reason::TooBig)));
        assert_eq!(answer(&mut world, &large, virtual_end.0), too_big(client.0));
        assert_eq!(world.balancer.counters().icmp_sent, 3);
    }
}

#[test]
fn a_server_without_a_route_is_unreachable() {
    for (client, virtual_end, _, _) in families() {
        let mut world = World::with(|config| config.gateways.clear());
        let far = if client.0.is_ipv4() { "10.77.0.1" } else { "fd77::1" };
        let key = services()[if client.0.is_ipv4() { 1 } else { 3 }];
        let server = DestinationKey { address: ip(far), port: 80 };
        world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
        let frame = udp(client, virtual_end).frame(b"hello");
        assert_eq!(world.frame(frame.clone()), Err(Verdict::Drop(Reason::NoRoute)));
        assert_eq!(answer(&mut world, &frame, virtual_end.0), kind(client.0, [3, 1], [1, 3]));
    }
}
