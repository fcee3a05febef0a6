//! Limits of connections, and of new ones a second, for each source.

use super::*;
use proptest::prelude::*;

fn limits(connections: u32, rate: u32, burst: u32) -> SourceLimits {
    SourceLimits { connections, rate, burst, ..SourceLimits::default() }
}

fn world(service: Option<&ServiceKey>, limits: SourceLimits) -> World {
    let mut world = World::new(Forward::Masquerade);
    world.balancer.set_extras(service, Extras { limits, ..Extras::default() }).unwrap();
    world
}

fn syn(client: &str, port: u16) -> Segment {
    tcp(end(client, port), end(VIRTUAL, 80), SYN)
}

fn limited(world: &World, service: Option<ServiceKey>) -> u64 {
    world.balancer.extras().find(|info| info.service == service).unwrap().counters.limited
}

#[test]
fn a_client_has_so_many_connections_and_its_packets_go_on() {
    let key = services()[0];
    let mut world = world(Some(&key), limits(2, 0, 1));
    let first = world.send(syn(CLIENT, 4000)).unwrap();
    world.send(syn(CLIENT, 4001)).unwrap();
    world.said.frames.clear();
    assert_eq!(world.drops(syn(CLIENT, 4002)), Reason::SourceLimit);
    assert!(world.said.frames.is_empty(), "it is not told");
    assert!(world.send(syn("10.9.0.2", 4000)).is_ok(), "another client");
    assert!(world.send(udp(end(CLIENT, 4000), end(VIRTUAL, 80))).is_ok(), "another service");
    // Packets of connections that are there do not count, whatever their flags.
    for flags in [SYN, ACK, FIN] {
        assert!(world.send(Segment { flags: Some(flags), ..syn(CLIENT, 4000) }).is_ok());
    }
    assert!(world.send(first.back(Some(FIN))).is_ok());
    assert_eq!(limited(&world, Some(key)), 1);
    world.seconds(61);
    assert!(world.send(syn(CLIENT, 4002)).is_ok(), "the second was never answered and is over");
    assert_eq!(world.drops(syn(CLIENT, 4003)), Reason::SourceLimit);
    world.balancer.set_extras(Some(&key), Extras::default()).unwrap();
    assert!(world.send(syn(CLIENT, 4003)).is_ok(), "off again");
}

#[test]
fn new_connections_a_second_are_limited_by_network() {
    let key = services()[1];
    let mut world = world(Some(&key), SourceLimits { prefix_v4: 24, ..limits(0, 10, 2) });
    let pass = |world: &mut World, client: &str| {
        (0..5)
            .filter(|n| {
                world
                    .send(udp(
                        end(client, 5000 + n + (world.now.nanos() / 1_000_000) as u16 % 10_000 * 5),
                        end(VIRTUAL, 80),
                    ))
                    .is_ok()
            })
            .count()
    };
    assert_eq!((pass(&mut world, CLIENT), pass(&mut world, "10.9.0.77"), pass(&mut world, "10.9.1.1")), (2, 0, 2));
    world.pass(Duration::from_millis(100));
    assert_eq!(pass(&mut world, "10.9.0.77"), 1);
    world.seconds(10);
    assert_eq!(pass(&mut world, CLIENT), 2);
}

#[test]
fn limits_of_all_services_count_together() {
    let mut world = world(None, limits(3, 0, 1));
    for request in [syn(CLIENT, 4000), udp(end(CLIENT, 4000), end(VIRTUAL, 80)), syn(CLIENT, 4001)] {
        assert!(world.send(request).is_ok());
    }
    assert_eq!(world.drops(udp(end(CLIENT, 4001), end(VIRTUAL, 80))), Reason::SourceLimit);
    assert!(world.send(tcp(end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), SYN)).is_ok());
    assert_eq!(limited(&world, None), 1);
    let pool = LocalPool { first: ip("10.0.0.200"), last: ip("10.0.0.200"), ports: LocalPool::PORTS };
    let extras = Extras { pool: Some(pool), ..Extras::default() };
    assert_eq!(world.balancer.set_extras(None, extras), Err(Errno::Invalid), "a pool is a service's");
    world.balancer.zero(None).unwrap();
    assert_eq!(limited(&world, None), 0);
}

#[test]
fn who_is_over_is_told_if_that_is_wished_for() {
    let key = services();
    let mut world = world(None, SourceLimits { reset: true, ..limits(1, 0, 1) });
    for (client, virtual_address, key) in [(CLIENT, VIRTUAL, key[0]), (CLIENT_V6, VIRTUAL_V6, key[2])] {
        let request = |port| tcp(end(client, port), end(virtual_address, 80), SYN);
        world.send(request(4000)).unwrap();
        world.said.frames.clear();
        assert_eq!(world.drops(request(4001)), Reason::SourceLimit, "{key:?}");
        let frame = world.said.frames.pop().unwrap();
        verify(&frame);
        assert_eq!(read(&frame), request(4001).back(Some(RST | ACK)));
        assert_eq!(frame[..12], [OTHER_MAC, MAC].concat());
        let at = transport_at(&frame);
        // The SYN and the 13 bytes it carries, from 1000 on.
        assert_eq!(frame[at + 4..at + 12], [0u32.to_be_bytes(), 1014u32.to_be_bytes()].concat());
        // To a group nobody answers.
        let mut frame = request(4002).frame(b"");
        frame[6] |= 1;
        assert_eq!(world.frame(frame), Err(Verdict::Drop(Reason::SourceLimit)));
        assert!(world.said.frames.is_empty());
        let datagram = udp(end(client, 4001), end(virtual_address, 80));
        assert_eq!(world.drops(datagram), Reason::SourceLimit);
        let frame = world.said.frames.pop().unwrap();
        assert_eq!(
            if client == CLIENT { frame[23] } else { frame[20] },
            if client == CLIENT { 1 } else { 58 },
            "an ICMP error"
        );
    }
}

#[test]
fn nonsense_is_refused_and_memory_is_taken_once() {
    let mut world = World::new(Forward::Masquerade);
    for bad in [SourceLimits { prefix_v4: 33, ..limits(1, 0, 1) }, limits(1, 1, 0)] {
        let extras = Extras { limits: bad, ..Extras::default() };
        assert_eq!(world.balancer.set_extras(None, extras), Err(Errno::Invalid));
        assert_eq!(world.balancer.set_extras(Some(&services()[0]), extras), Err(Errno::Invalid));
    }
    let mut poor = World::with(|config| config.table_memory = 1000);
    let extras = Extras { limits: limits(1, 0, 1), ..Extras::default() };
    assert_eq!(poor.balancer.set_extras(None, extras), Err(Errno::OutOfMemory));
    assert_eq!(poor.balancer.extras().count(), 0);
    assert!(
        !poor.balancer.table.has_counted() && !poor.balancer.table.sources.is_reserved(),
        "nothing was taken by halves"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// As many connections are on accounts as there are of services with limits, however they come and go.
    #[test]
    fn accounts_are_right(steps in prop::collection::vec((0u8..8, 0u8..10, any::<bool>(), 0u64..90_000), 1..200)) {
        let mut world = world(Some(&services()[0]), limits(3, 0, 1));
        world.balancer.set_extras(None, Extras { limits: limits(0, 100, 50), ..Extras::default() }).unwrap();
        for (what, client, other, milliseconds) in steps {
            let to = end(VIRTUAL, 80);
            let from = (ip(&std::format!("10.9.0.{}", client % 4)), 4000 + u16::from(client) + u16::from(other));
            match what {
                0 => world.pass(Duration::from_millis(milliseconds)),
                1 => {
                    world.balancer.delete_destination(&services()[0], &server(false)).unwrap();
                    let config = DestinationConfig::new(Forward::Masquerade, 1);
                    world.balancer.add_destination(&services()[0], server(false), config).unwrap();
                }
                2 => _ = world.send(udp(from, to)),
                3 => _ = world.send(tcp(from, to, RST)),
                _ => _ = world.send(tcp(from, to, SYN)),
            }
            let list: Vec<_> = world.balancer.connection_list(world.now).collect();
            let web = list.iter().filter(|c| c.protocol == Protocol::Tcp).count();
            prop_assert_eq!(world.balancer.table.sources.connections() as usize, list.len() + web);
            for client in 0..4u8 {
                let of = |c: &&ConnectionInfo| c.client == ip(&std::format!("10.9.0.{client}")) && c.protocol == Protocol::Tcp;
                prop_assert!(list.iter().filter(of).count() <= 3);
            }
        }
        world.seconds(1000);
        prop_assert_eq!(world.balancer.table.sources.connections(), 0);
    }
}
