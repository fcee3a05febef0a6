//! Packets of no connection.

use super::*;

#[test]
fn what_the_local_stack_is_to_answer() {
    let mut world = World::new(Forward::Masquerade);
    for segment in [
        tcp(end(CLIENT, 1), end(VIRTUAL, 80), ACK),
        tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN | RST),
        tcp(end(CLIENT, 1), end(VIRTUAL, 81), SYN),
        tcp(end(CLIENT, 20), end(VIRTUAL, 80), SYN),
        udp(end(CLIENT, 20), end(VIRTUAL, 80)),
        udp(end(CLIENT, 1), end(VIRTUAL, 81)),
        tcp(end(CLIENT, 1), end("10.0.0.2", 9100), SYN),
        udp(end(CLIENT_V6, 1), end("fd00::2", 53)),
    ] {
        assert_eq!(world.send(segment), Err(Verdict::Local), "{segment:?}");
    }
    assert_eq!(world.balancer.connections(), 0);
    assert_eq!(world.balancer.counters().local, 8);
}

#[test]
fn a_syn_with_ack_is_scheduled() {
    let mut world = World::new(Forward::Masquerade);
    assert!(world.send(tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN_ACK)).is_ok());
}

#[test]
fn what_is_not_ours_or_cannot_be_is_dropped() {
    let mut world = World::new(Forward::Masquerade);
    let to = end(VIRTUAL, 80);
    assert_eq!(world.drops(udp(end(CLIENT, 1), end("10.0.0.12", 80))), Reason::NotOurs);
    assert_eq!(world.drops(udp(end("10.0.0.11", 8080), end(CLIENT, 1))), Reason::NotOurs, "no request was made");
    assert_eq!(world.drops(udp(end(CLIENT, 1), end("255.255.255.255", 80))), Reason::NotOurs);
    for source in [VIRTUAL, "10.0.0.2", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.255", "0.0.0.0"] {
        assert_eq!(world.drops(udp(end(source, 1), to)), Reason::BadSource, "{source}");
    }
    for source in ["::1", "::", "ff02::1", VIRTUAL_V6] {
        assert_eq!(world.drops(udp(end(source, 1), end(VIRTUAL_V6, 80))), Reason::BadSource, "{source}");
    }
    let mut group = udp(end(CLIENT, 1), to).frame(&[]);
    group[..6].fill(0xff);
    assert_eq!(world.frame(group.clone()), Err(Verdict::Drop(Reason::NotToUs)));
    world.send(udp(end(CLIENT, 1), to)).unwrap();
    assert_eq!(world.frame(group), Err(Verdict::Drop(Reason::NotToUs)), "nor with a connection");
}

#[test]
fn without_a_destination_the_packet_is_dropped() {
    let mut world = World::empty();
    assert_eq!(world.drops(tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN)), Reason::NoDestination);
    world.add_servers(Forward::Masquerade);
    assert!(world.send(tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN)).is_ok());
    let drained = DestinationConfig::new(Forward::Masquerade, 0);
    world.balancer.edit_destination(&services()[0], &server(false), drained).unwrap();
    assert!(world.send(tcp(end(CLIENT, 1), end(VIRTUAL, 80), ACK)).is_ok(), "a drained one keeps its connections");
    assert_eq!(world.drops(tcp(end(CLIENT, 2), end(VIRTUAL, 80), SYN)), Reason::NoDestination);
}

/// Gives a frame with IPv4 other flags and another offset.
fn fragment(mut frame: Vec<u8>, flags: u16) -> Vec<u8> {
    frame[20..22].copy_from_slice(&flags.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = !naive_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_packet_that_is_not_taken_ends_no_connection() {
    let mut world = World::new(Forward::Masquerade);
    let request = |flags| tcp(end(CLIENT, 1), end(VIRTUAL, 80), flags);
    for flags in [SYN, ACK, RST] {
        world.send(request(flags)).unwrap();
    }
    let mut group = request(SYN).frame(&[]);
    group[0] |= 1;
    assert_eq!(world.frame(group), Err(Verdict::Drop(Reason::NotToUs)));
    assert_eq!(world.state().0, TcpState::Close);
    // No multiple of eight bytes.
    let mut first = fragment(request(SYN).frame(&[0; 63]), 0x2000);
    assert_eq!(world.process(&mut first, &mut Offload::default()), Err(Verdict::Drop(Reason::Malformed)));
    assert_eq!(world.state().0, TcpState::Close);
    world.send(request(SYN)).unwrap();
    assert_eq!(world.state().0, TcpState::SynReceived, "but one that is begins anew");
}

#[test]
fn echo_and_other_protocols_to_virtual_addresses_are_local() {
    let mut world = World::new(Forward::Masquerade);
    let mut echo = Vec::new();
    let ethernet = || PacketBuilder::ethernet2(OTHER_MAC, MAC);
    let IpAddr::V4(client) = ip(CLIENT) else { panic!() };
    let to = |to: &str| {
        let IpAddr::V4(to) = ip(to) else { panic!() };
        ethernet().ipv4(client.octets(), to.octets(), 64)
    };
    to(VIRTUAL).icmpv4_echo_request(1, 2).write(&mut echo, &[0; 8]).unwrap();
    assert_eq!(world.process(&mut echo, &mut Offload::default()), Err(Verdict::Local));
    let mut routed = Vec::new();
    to("10.0.0.12").icmpv4_echo_request(1, 2).write(&mut routed, &[0; 8]).unwrap();
    assert_eq!(world.process(&mut routed, &mut Offload::default()), Err(Verdict::Drop(Reason::NotOurs)));
    let mut gre = echo.clone();
    gre[23] = 47;
    let gre = fragment(gre, 0);
    assert_eq!(world.frame(gre), Err(Verdict::Local));
}

#[test]
fn a_full_table_drops_new_connections_only() {
    let mut world = World::with(|config| config.connections = 2);
    world.add_servers(Forward::Masquerade);
    let to = end(VIRTUAL, 80);
    assert!(world.send(udp(end(CLIENT, 1), to)).is_ok());
    assert!(world.send(udp(end(CLIENT, 2), to)).is_ok());
    assert_eq!(world.drops(udp(end(CLIENT, 3), to)), Reason::TableFull);
    assert!(world.send(udp(end(CLIENT, 1), to)).is_ok());
    assert_eq!(world.destination(&services()[1]).inactive, 2);
    // Without a poll, those that are over make room by themselves.
    world.now = world.now + Duration::from_secs(301);
    assert!(world.send(udp(end(CLIENT, 3), to)).is_ok());
    assert_eq!(world.destination(&services()[1]).inactive, 1);
}
