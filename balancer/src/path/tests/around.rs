//! Destinations that are this machine, and what goes around the balancer.

use super::*;

/// Our own address, and the port of something that listens there.
fn own(v6: bool) -> End {
    end(if v6 { "fd00::2" } else { "10.0.0.2" }, 8080)
}

fn ends(v6: bool) -> (End, End) {
    let (client, service) = if v6 { (CLIENT_V6, VIRTUAL_V6) } else { (CLIENT, VIRTUAL) };
    (end(client, 4000), end(service, 80))
}

fn serve_here(forward: Forward) -> World {
    let mut world = World::empty();
    for key in services() {
        let (address, port) = own(key.family() == Family::V6);
        let config = DestinationConfig::new(forward, 1);
        world.balancer.add_destination(&key, DestinationKey { address, port }, config).unwrap();
    }
    world
}

/// The frame that the local stack gets.
fn local(world: &mut World, segment: Segment) -> Segment {
    let mut frame = segment.frame(b"hello");
    assert_eq!(world.process(&mut frame, &mut Offload::default()), Err(Verdict::Local));
    verify(&frame);
    assert_eq!(frame[if segment.from.0.is_ipv4() { 22 } else { 21 }], 64, "no hop was taken");
    read(&frame)
}

/// The frame that leaves when the local stack sends one.
fn sent(world: &mut World, segment: Segment) -> Segment {
    let mut frame = segment.frame(b"hi");
    frame[..12].copy_from_slice(&[OTHER_MAC, MAC].concat());
    let mut packet = Packet::new(&mut frame);
    world.balancer.process_own(&mut packet, world.now);
    verify(&frame);
    assert_eq!(frame[..12], [OTHER_MAC, MAC].concat());
    read(&frame)
}

#[test]
fn under_nat_this_machine_serves_at_a_port_of_its_own() {
    for v6 in [false, true] {
        let mut world = serve_here(Forward::Masquerade);
        let (client, service) = ends(v6);
        let answer = tcp(own(v6), client, SYN_ACK);
        assert!(!world.balancer.serves_itself());
        assert_eq!(sent(&mut world, answer), answer);
        assert_eq!(local(&mut world, tcp(client, service, SYN)).to, own(v6));
        assert!(world.balancer.serves_itself());
        assert_eq!(sent(&mut world, answer).from, service);
        assert_eq!(local(&mut world, tcp(client, service, ACK)).to, own(v6));
        assert_eq!(world.state(), (TcpState::Established, 900));
        let stats = world.destination(&services()[if v6 { 2 } else { 0 }]).stats;
        assert_eq!((stats.in_packets, stats.out_packets), (2, 1));
        // What else this machine says stays as it is.
        for other in [tcp(own(v6), (client.0, 4001), ACK), udp(own(v6), client), tcp(service, client, ACK)] {
            assert_eq!(sent(&mut world, other), other);
        }
    }
}

#[test]
fn without_nat_this_machine_gets_what_the_service_would() {
    for (forward, v6) in [(Forward::Direct, false), (Forward::Tunnel, false), (Forward::Direct, true)] {
        let mut world = serve_here(forward);
        let (client, service) = ends(v6);
        assert_eq!(local(&mut world, tcp(client, service, SYN)), tcp(client, service, SYN));
        let answer = tcp(service, client, SYN_ACK);
        assert_eq!(sent(&mut world, answer), answer);
        assert_eq!(sent(&mut world, tcp(service, client, FIN)), tcp(service, client, FIN));
        assert_eq!(world.state().0, TcpState::TimeWait, "what was sent was seen");
    }
}

#[test]
fn a_destination_here_is_removed_as_any() {
    let mut world = serve_here(Forward::Masquerade);
    let (client, service) = ends(false);
    local(&mut world, tcp(client, service, SYN));
    let (address, port) = own(false);
    world.balancer.delete_destination(&services()[0], &DestinationKey { address, port }).unwrap();
    assert_eq!(world.drops(tcp(client, service, ACK)), Reason::DestinationGone);
    let config = DestinationConfig::new(Forward::Masquerade, 1);
    world.balancer.add_destination(&services()[0], DestinationKey { address, port }, config).unwrap();
    assert_eq!(local(&mut world, tcp(client, service, ACK)).to, own(false));
}

/// A world in which what goes to a network has mark 7, of which there is a service without destinations.
fn transparent() -> World {
    let mut world = World::empty();
    for (family, network) in [(Family::V4, "10.8.0.0/16"), (Family::V6, "fd08::/64")] {
        let rule = MarkRule { destination: network.parse().unwrap(), ..MarkRule::new(family, 7) };
        world.balancer.add_mark_rule(rule).unwrap();
        let key = ServiceKey::Mark { family, mark: 7 };
        world.balancer.add_service(key, ServiceConfig::new(family, Scheduler::RoundRobin)).unwrap();
    }
    world
}

#[test]
fn a_mark_without_a_destination_goes_around_with_cache_bypass() {
    for (client, origin) in [(CLIENT, "10.8.0.1"), (CLIENT_V6, "fd08::1")] {
        let mut world = transparent();
        let request = |flags| tcp(end(client, 4000), end(origin, 80), flags);
        assert_eq!(world.drops(request(SYN)), Reason::NoDestination);
        world.balancer.set_sysctl("cache_bypass", 1).unwrap();
        assert_eq!(world.send(request(SYN)), Ok(request(SYN)));
        assert_eq!(world.send(request(ACK)), Ok(request(ACK)));
        assert_eq!(world.hop, Some(ip(if client == CLIENT { "10.0.0.1" } else { "fd00::1" })));
        let only = world.balancer.connection_list(world.now).next().unwrap();
        assert_eq!((only.forward, only.words().1), (Forward::Bypass, "ESTABLISHED"));
        assert!(only.destination.is_unspecified() && only.destination_port == 0);
        assert_eq!(world.balancer.total(), Stats::default(), "it is counted nowhere");
        // It goes on like this, be there a destination or not, and ends as any.
        let key = ServiceKey::Mark { family: Family::of(&ip(client)), mark: 7 };
        let config = DestinationConfig::new(Forward::Direct, 1);
        world.balancer.add_destination(&key, server(client == CLIENT_V6), config).unwrap();
        world.balancer.set_sysctl("expire_nodest_conn", 1).unwrap();
        assert_eq!(world.send(request(ACK)), Ok(request(ACK)));
        world.balancer.delete_destination(&key, &server(client == CLIENT_V6)).unwrap();
        world.seconds(899);
        assert_eq!(world.balancer.connections(), 1);
        world.seconds(2);
        assert_eq!(world.balancer.connections(), 0);
    }
}

#[test]
fn only_a_mark_and_only_what_goes_elsewhere_goes_around() {
    let mut world = transparent();
    world.balancer.set_sysctl("cache_bypass", 1).unwrap();
    assert_eq!(world.drops(tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN)), Reason::NoDestination);
    let rule = MarkRule { destination: "10.0.0.0/24".parse().unwrap(), ..MarkRule::new(Family::V4, 7) };
    world.balancer.add_mark_rule(rule).unwrap();
    assert_eq!(world.drops(tcp(end(CLIENT, 1), end(VIRTUAL, 80), SYN)), Reason::NoDestination);
    assert_eq!(world.drops(tcp(end(CLIENT, 1), end("10.0.0.2", 80), SYN)), Reason::NoDestination);
    let elsewhere = tcp(end(CLIENT, 1), end("10.0.0.77", 80), SYN);
    assert_eq!(world.send(elsewhere), Ok(elsewhere));
}

#[test]
fn an_error_of_this_machine_is_about_what_the_client_sent() {
    for v6 in [false, true] {
        let mut world = serve_here(Forward::Masquerade);
        let (client, service) = ends(v6);
        let got = udp(client, own(v6)).frame(b"hello");
        let mut error = Vec::new();
        match (own(v6).0, client.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ethernet2(MAC, OTHER_MAC)
                .ipv4(from.octets(), to.octets(), 64)
                .icmpv4_raw(3, 3, [0; 4])
                .write(&mut error, &got[14..]),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ethernet2(MAC, OTHER_MAC)
                .ipv6(from.octets(), to.octets(), 64)
                .icmpv6_raw(1, 4, [0; 4])
                .write(&mut error, &got[14..]),
            _ => panic!("two families"),
        }
        .unwrap();
        let translated = |world: &mut World| {
            let mut frame = error.clone();
            world.balancer.process_own(&mut Packet::new(&mut frame), world.now);
            frame
        };
        assert_eq!(translated(&mut world), error, "of nothing that was rewritten");
        assert_eq!(local(&mut world, udp(client, service)).to, own(v6));
        let told = translated(&mut world);
        let at = transport_at(&told);
        let (source, quoted) = if v6 {
            (&told[22..38], &told[at + 8 + 24..at + 8 + 40])
        } else {
            (&told[26..30], &told[at + 8 + 16..at + 8 + 20])
        };
        assert_eq!(source, quoted);
        let address = |bytes: &[u8]| match v6 {
            true => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
            false => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
        };
        assert_eq!(address(source), service.0);
        let ports = at + 8 + if v6 { 40 } else { 20 };
        assert_eq!(told[ports..ports + 4], [client.1.to_be_bytes(), service.1.to_be_bytes()].concat());
        let pseudo = if v6 { pseudo_header(&told) } else { Vec::new() };
        assert_eq!(naive_sum(&[&pseudo, &told[at..]]), 0xffff);
        assert_eq!(world.destination(&services()[if v6 { 3 } else { 1 }]).stats.out_packets, 1);
    }
}
