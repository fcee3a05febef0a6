//! Full NAT: clients come from addresses of ours, and so replies come back whatever the routes are.

use super::super::errors::{error, families, port_unreachable, related};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn pool(v6: bool, count: u8, ports: (u16, u16)) -> Extras {
    let (first, last) = match v6 {
        false => (ip("10.0.0.200"), ip(&std::format!("10.0.0.{}", 199 + count))),
        true => (ip("fd00::200"), ip(&std::format!("fd00::{:x}", 0x1ff + u32::from(count)))),
    };
    Extras { pool: Some(LocalPool { first, last, ports }), ..Extras::default() }
}

/// One server for every service, and full NAT with as many addresses and these ports.
fn world(count: u8, ports: (u16, u16)) -> World {
    let mut world = World::new(Forward::Masquerade);
    for key in services() {
        set(&mut world, &key, pool(key.family() == Family::V6, count, ports));
    }
    world
}

fn is_local(address: IpAddr) -> bool {
    let text = std::format!("{address}");
    text.starts_with("10.0.0.20") || text.starts_with("fd00::20")
}

#[test]
fn the_server_sees_an_address_of_ours_and_the_client_the_service() {
    for (client, virtual_end, server, _) in families() {
        for is_tcp in [true, false] {
            let mut world = world(4, (5000, 5999));
            let flags = |flags| is_tcp.then_some(flags);
            let request = Segment { from: client, to: virtual_end, flags: flags(SYN) };
            let sent = world.send(request).unwrap();
            assert_eq!((sent.to, sent.flags), (server, request.flags));
            assert!(is_local(sent.from.0) && (5000..6000).contains(&sent.from.1), "{sent:?}");
            assert_eq!(world.hop, Some(server.0));
            let reply = world.send(sent.back(flags(SYN_ACK))).unwrap();
            assert_eq!(reply, request.back(flags(SYN_ACK)));
            assert_eq!(world.hop, Some(ip(if client.0.is_ipv6() { "fd00::1" } else { "10.0.0.1" })), "to the client");
            let again = Segment { flags: flags(ACK), ..request };
            assert_eq!(
                world.send(again).unwrap(),
                Segment { flags: flags(ACK), ..sent },
                "the same, as long as it lasts"
            );
            let info = world.balancer.connection_list(world.now).next().unwrap();
            assert_eq!((info.local, info.client), (Some(sent.from), client.0));
            assert_eq!(info.words().1, if is_tcp { "ESTABLISHED" } else { "UDP" });
            let stats = world.balancer.total();
            assert_eq!((stats.connections, stats.in_packets, stats.out_packets), (1, 2, 1));
        }
    }
}

#[test]
fn a_reply_to_the_client_itself_or_to_another_port_is_nobodys() {
    let mut world = world(1, (5000, 5999));
    let request = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN);
    let sent = world.send(request).unwrap();
    assert_eq!(world.drops(tcp(sent.to, end(CLIENT, 4000), SYN_ACK)), Reason::NotOurs);
    let other = (sent.from.0, if sent.from.1 == 5000 { 5001 } else { 5000 });
    assert_eq!(world.send(tcp(sent.to, other, SYN_ACK)), Err(Verdict::Local), "an address of ours all the same");
    assert_eq!(world.send(tcp(end("10.0.0.12", 8080), sent.from, SYN_ACK)), Err(Verdict::Local));
}

#[test]
fn the_pool_is_answered_for() {
    let mut world = World::new(Forward::Masquerade);
    let generation = world.balancer.generation();
    set(&mut world, &services()[0], pool(false, 2, LocalPool::PORTS));
    let list: Vec<_> = world.balancer.virtual_addresses().collect();
    assert_eq!(list, [ip(VIRTUAL), ip("10.0.0.200"), ip("10.0.0.201"), ip(VIRTUAL_V6)]);
    assert_ne!(world.balancer.generation(), generation, "the local stack hears of it");
    assert_eq!(world.drops(udp(end("10.0.0.200", 4000), end(VIRTUAL, 80))), Reason::BadSource);
    set(&mut world, &services()[0], Extras::default());
    assert_eq!(world.balancer.virtual_addresses().count(), 2);
}

#[test]
fn every_port_of_every_address_is_used_before_there_is_none() {
    let mut world = world(2, (7000, 7009));
    let key = services()[1];
    let mut seen = BTreeSet::new();
    for client in 0..20u16 {
        seen.insert(world.send(udp(end(CLIENT, 4000 + client), end(VIRTUAL, 80))).unwrap().from);
    }
    assert_eq!(seen.len(), 20);
    assert_eq!(world.drops(udp(end(CLIENT, 5000), end(VIRTUAL, 80))), Reason::PoolExhausted);
    assert_eq!(world.balancer.extras().find(|info| info.service == Some(key)).unwrap().counters.exhausted, 1);
    // To another server the same pairs are free.
    let other = DestinationKey { address: ip("10.0.0.12"), port: 8080 };
    world.balancer.add_destination(&key, other, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    let sent = (0..4).filter_map(|n| world.send(udp(end(CLIENT, 5001 + n), end(VIRTUAL, 80))).ok());
    let there: Vec<_> = sent.filter(|sent| sent.to.0 == other.address).collect();
    assert!(there.len() >= 2 && there.iter().all(|sent| seen.contains(&sent.from)), "{there:?}");
    // And here, as soon as a connection is gone, and not before.
    world.seconds(299);
    world.balancer.delete_destination(&key, &other).unwrap();
    assert_eq!(world.drops(udp(end(CLIENT, 5000), end(VIRTUAL, 80))), Reason::PoolExhausted);
    world.seconds(10);
    assert!(world.send(udp(end(CLIENT, 5000), end(VIRTUAL, 80))).is_ok());
    world.balancer.zero(Some(&key)).unwrap();
    assert_eq!(world.balancer.extras().find(|info| info.service == Some(key)).unwrap().counters.exhausted, 0);
}

#[test]
fn a_port_is_free_when_its_connection_has_left_its_last_state() {
    let mut world = world(1, (7000, 7000));
    let client = |port| tcp(end(CLIENT, port), end(VIRTUAL, 80), SYN);
    let sent = world.send(client(4000)).unwrap();
    world.send(sent.back(Some(SYN_ACK))).unwrap();
    for flags in [ACK, FIN] {
        world.send(Segment { flags: Some(flags), ..client(4000) }).unwrap();
    }
    world.send(sent.back(Some(FIN))).unwrap();
    assert_eq!(world.state().0, TcpState::TimeWait);
    assert_eq!(world.drops(client(4001)), Reason::PoolExhausted);
    world.seconds(121);
    assert_eq!(world.send(client(4001)).unwrap().from, sent.from);
}

#[test]
fn errors_are_translated_both_ways_at_both_ends() {
    for (client, virtual_end, server, router) in families() {
        let mut world = world(4, (5000, 5999));
        let sent = world.send(udp(client, virtual_end)).unwrap();
        let kind = port_unreachable(client.0);
        // About the reply, from the client: the server hears of it from where it sent the reply to.
        let about = udp(virtual_end, client).frame(b"reply");
        let got = related(&mut world, error(client.0, virtual_end.0, kind, 64, &about)).unwrap();
        let about = udp(server, sent.from).frame(b"reply");
        assert_eq!(got, error(sent.from.0, server.0, kind, 63, &about)[12..]);
        assert_eq!(world.hop, Some(server.0));
        // About the request, from a router behind us: the client hears of what it sent, from the service.
        let about = sent.frame(b"request");
        let got = related(&mut world, error(router, sent.from.0, kind, 64, &about)).unwrap();
        let about = udp(client, virtual_end).frame(b"request");
        assert_eq!(got, error(virtual_end.0, client.0, kind, 63, &about)[12..]);
    }
}

#[test]
fn who_waits_in_vain_is_told_of_what_it_sent() {
    let mut world = world(1, (5000, 5999));
    let request = udp(end(CLIENT, 4000), end(VIRTUAL, 80));
    let frame = world.frame(request.frame(b"hello")).unwrap();
    let mut whole = frame.clone();
    let mut packet = Packet::new(&mut whole);
    world.balancer.undeliverable(&mut packet, world.now, &mut world.said);
    let told = world.said.frames.last().unwrap();
    // The error quotes the packet with the client's and the service's address.
    assert_eq!(told[30..34], [10, 9, 0, 1]);
    assert_eq!(told[42 + 12..42 + 20], [10, 9, 0, 1, 10, 0, 0, 100]);
    assert_eq!(told[62..66], [15, 160, 0, 80]);
}

#[test]
fn what_cannot_be_together_is_refused() {
    let mut world = World::new(Forward::Masquerade);
    let [tcp, udp, tcp_v6, _] = services();
    let set = |world: &mut World, key: &ServiceKey, first: &str, last: &str| {
        let pool = LocalPool { first: ip(first), last: ip(last), ports: LocalPool::PORTS };
        world.balancer.set_extras(Some(key), Extras { pool: Some(pool), ..Extras::default() })
    };
    for (first, last) in [
        ("0.0.0.0", "255.255.255.255"),
        ("fd01::", "fd01::ffff:fffe"),
        ("10.0.0.0", "10.0.0.0"),
        ("10.0.0.254", "10.0.0.255"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3"),
        ("10.0.0.99", "10.0.0.100"),
        ("10.0.0.10", "10.0.0.11"),
        ("fd00::200", "fd00::200"),
        ("10.0.0.201", "10.0.0.200"),
    ] {
        assert_eq!(
            set(&mut world, &tcp, first, last),
            Err(Errno::Invalid),
            "own, virtual, a server's, or none: {first}"
        );
    }
    assert_eq!(set(&mut world, &ServiceKey::tcp(ip(VIRTUAL), 81), "10.0.0.200", "10.0.0.200"), Err(Errno::NoService));
    assert_eq!(set(&mut world, &tcp_v6, "10.0.0.200", "10.0.0.200"), Err(Errno::Invalid));
    assert_eq!(world.balancer.extras().count(), 0, "nothing of it has stayed");

    set(&mut world, &tcp, "10.0.0.200", "10.0.0.201").unwrap();
    set(&mut world, &udp, "10.0.0.200", "10.0.0.201").unwrap();
    let plain = ServiceConfig::new(Family::V4, Scheduler::RoundRobin);
    let local = ServiceKey::tcp(ip("10.0.0.201"), 80);
    assert_eq!(world.balancer.add_service(local, plain), Err(Errno::Invalid));
    let server = |address| DestinationKey { address: ip(address), port: 80 };
    for (address, forward, expected) in [
        ("10.0.0.12", Forward::Direct, Errno::NotSupported),
        ("10.0.0.12", Forward::Tunnel, Errno::NotSupported),
        ("10.0.0.200", Forward::Masquerade, Errno::Invalid),
    ] {
        let config = DestinationConfig::new(forward, 1);
        assert_eq!(world.balancer.add_destination(&tcp, server(address), config), Err(expected));
    }
    let there = DestinationKey { address: ip("10.0.0.11"), port: 8080 };
    let direct = DestinationConfig::new(Forward::Direct, 1);
    assert_eq!(world.balancer.edit_destination(&tcp, &there, direct), Err(Errno::NotSupported));
    let alone = ServiceConfig { flags: ServiceFlags::ONE_PACKET, ..plain };
    assert_eq!(world.balancer.edit_service(&udp, alone), Err(Errno::NotSupported));
    // And the other way round.
    world.balancer.set_extras(Some(&udp), Extras::default()).unwrap();
    world.balancer.edit_service(&udp, alone).unwrap();
    assert_eq!(set(&mut world, &udp, "10.0.0.200", "10.0.0.200"), Err(Errno::NotSupported));
    let ftp = ServiceKey::tcp(ip(VIRTUAL), 21);
    world.balancer.add_service(ftp, plain).unwrap();
    assert_eq!(set(&mut world, &ftp, "10.0.0.200", "10.0.0.200"), Err(Errno::NotSupported));
    let mut direct = World::new(Forward::Direct);
    assert_eq!(set(&mut direct, &tcp, "10.0.0.200", "10.0.0.200"), Err(Errno::NotSupported));
}

#[test]
fn an_address_stays_ours_as_long_as_a_connection_has_it() {
    let mut world = world(1, (7000, 7000));
    let sent = world.send(udp(end(CLIENT, 4000), end(VIRTUAL, 80))).unwrap();
    let is_ours = |world: &World| world.balancer.virtual_addresses().any(|address| address == sent.from.0);
    for key in [services()[0], services()[1]] {
        set(&mut world, &key, Extras::default());
    }
    assert!(is_ours(&world), "the server has to find it");
    assert_eq!(world.send(sent.back(None)).unwrap().to, end(CLIENT, 4000));
    let plain = ServiceConfig::new(Family::V4, Scheduler::RoundRobin);
    assert_eq!(world.balancer.add_service(ServiceKey::tcp(sent.from.0, 80), plain), Err(Errno::Invalid));
    world.seconds(400);
    assert!(!is_ours(&world));
    world.balancer.add_service(ServiceKey::tcp(sent.from.0, 80), plain).unwrap();
}

#[test]
fn all_pools_together_are_bounded_and_a_mark_is_at_no_address_of_one() {
    let mut world = World::new(Forward::Masquerade);
    let pool =
        |n: u8, last: &str| LocalPool { first: ip(&std::format!("10.1.{}.0", 4 * n)), last: ip(last), ports: (1, 2) };
    let with = |pool| Extras { pool: Some(pool), ..Extras::default() };
    let plain = ServiceConfig::new(Family::V4, Scheduler::RoundRobin);
    for n in 0..5u8 {
        let key = ServiceKey::tcp(ip(VIRTUAL), 100 + u16::from(n));
        world.balancer.add_service(key, plain).unwrap();
        let full = pool(n, &std::format!("10.1.{}.255", 4 * n + 3));
        let done = world.balancer.set_extras(Some(&key), with(full));
        assert_eq!(done, if n < 4 { Ok(()) } else { Err(Errno::OutOfMemory) });
    }
    let rule = MarkRule { destination: "10.1.0.7".parse().unwrap(), ..MarkRule::new(Family::V4, 7) };
    assert_eq!(world.balancer.add_mark_rule(rule), Err(Errno::Invalid));
    world.balancer.flush();
    assert_eq!(world.balancer.virtual_addresses().count(), 0);
    world.balancer.add_mark_rule(rule).unwrap();
}

#[test]
fn a_port_is_not_free_after_a_reset_that_the_server_may_not_have_taken() {
    let mut world = world(1, (7000, 7000));
    let client = |port, flags| tcp(end(CLIENT, port), end(VIRTUAL, 80), flags);
    let sent = world.send(client(4000, SYN)).unwrap();
    world.send(sent.back(Some(SYN_ACK))).unwrap();
    world.send(client(4000, ACK)).unwrap();
    world.send(client(4000, RST)).unwrap();
    world.seconds(100);
    assert_eq!(world.drops(client(4001, SYN)), Reason::PoolExhausted);
    world.seconds(21);
    assert!(world.send(client(4001, SYN)).is_ok());
}

#[test]
fn there_is_room_for_as_many_as_were_asked_for() {
    let mut world = World::with(|config| config.extras = 3);
    world.add_servers(Forward::Masquerade);
    set(&mut world, &services()[1], pool(false, 1, LocalPool::PORTS));
    let request = |port| udp(end(CLIENT, port), end(VIRTUAL, 80));
    (0..3).for_each(|port| assert!(world.send(request(4000 + port)).is_ok()));
    assert_eq!(world.drops(request(5000)), Reason::TableFull);
    world.seconds(301);
    assert!(world.send(request(5000)).is_ok());
    let mut poor = World::with(|config| config.table_memory = 50);
    assert_eq!(
        poor.balancer.set_extras(Some(&services()[1]), pool(false, 1, LocalPool::PORTS)),
        Err(Errno::OutOfMemory)
    );
    assert_eq!(poor.balancer.extras().count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Request {
        client: u8,
        v6: bool,
        udp: bool,
        flags: u8,
    },
    Reply {
        which: usize,
        flags: u8,
    },
    Pass(u64),
    /// On, with so many ports, or off.
    Pool {
        service: usize,
        ports: Option<u16>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let flags = || prop_oneof![Just(SYN), Just(ACK), Just(FIN), Just(RST)].prop_map(|flags| flags.bits());
    prop_oneof![
        6 => (0u8..30, any::<bool>(), any::<bool>(), flags())
            .prop_map(|(client, v6, udp, flags)| Step::Request { client, v6, udp, flags }),
        6 => (any::<usize>(), flags()).prop_map(|(which, flags)| Step::Reply { which, flags }),
        1 => prop_oneof![0u64..20_000, 0u64..400_000].prop_map(Step::Pass),
        1 => (0usize..4, proptest::option::of(1u16..20)).prop_map(|(service, ports)| Step::Pool { service, ports }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// No two connections to a server have the same local end, a reply always finds its connection, what comes out of both
    /// directions is as if nothing had been rewritten, and every checksum is right (`World::frame` looks).
    #[test]
    fn replies_find_their_connection(steps in prop::collection::vec(step(), 1..300)) {
        let mut world = World::with(|config| config.extras = 40);
        world.add_servers(Forward::Masquerade);
        for step in steps {
            match step {
                Step::Request { client, v6, udp, flags } => {
                    let from = (ip(&std::format!("{}{client}", if v6 { "fd09::" } else { "10.9.0." })), 4000);
                    let to = end(if v6 { VIRTUAL_V6 } else { VIRTUAL }, 80);
                    let flags = (!udp).then_some(TcpFlags::from_bits_retain(flags));
                    let _ = world.send(Segment { from, to, flags });
                }
                Step::Reply { which, flags } => {
                    let list: Vec<_> = world.balancer.connection_list(world.now).collect();
                    let Some(c) = list.get(which % list.len().max(1)) else { continue };
                    let flags = (c.protocol == Protocol::Tcp).then_some(TcpFlags::from_bits_retain(flags));
                    let client = (c.client, c.client_port);
                    let reply = Segment { from: (c.destination, c.destination_port), to: c.local.unwrap_or(client), flags };
                    let sent = world.send(reply);
                    prop_assert_eq!(sent, Ok(Segment { from: (c.virtual_address, c.virtual_port), to: client, flags }));
                }
                Step::Pass(milliseconds) => world.pass(Duration::from_millis(milliseconds)),
                Step::Pool { service, ports } => {
                    let key = services()[service];
                    let extras = ports.map(|n| pool(key.family() == Family::V6, 1 + n as u8 % 3, (7000, 7000 + n)));
                    set(&mut world, &key, extras.unwrap_or_default());
                }
            }
            let mut ends = BTreeMap::new();
            for c in world.balancer.connection_list(world.now) {
                let end = c.local.unwrap_or((c.client, c.client_port));
                let name = (c.protocol, c.destination, c.destination_port, end);
                prop_assert_eq!(ends.insert(name, (c.client, c.client_port)), None, "{:?}", name);
            }
        }
        world.seconds(1000);
        prop_assert_eq!(world.balancer.connections(), 0);
    }
}
