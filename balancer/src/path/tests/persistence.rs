//! Persistence and its templates, services of any port, one-packet scheduling.

use super::*;
use TcpState::{Established, SynReceived};

const A: &str = "10.0.0.11";
const B: &str = "10.0.0.12";

/// A service with the two servers, of which rr takes B first.
fn world(key: ServiceKey, flags: ServiceFlags, netmask: u32, port: u16) -> World {
    let mut world = World::empty();
    let config =
        ServiceConfig { flags, timeout: 100, netmask, ..ServiceConfig::new(key.family(), Scheduler::RoundRobin) };
    match world.balancer.add_service(key, config) {
        Err(Errno::Exists) => world.balancer.edit_service(&key, config).unwrap(),
        other => other.unwrap(),
    }
    for address in [A, B] {
        let server = DestinationKey { address: ip(address), port };
        world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    }
    world
}

fn web() -> ServiceKey {
    services()[0]
}

fn persistent() -> World {
    world(web(), ServiceFlags::PERSISTENT, u32::MAX, 8080)
}

fn from(client: &str, port: u16, flags: TcpFlags) -> Segment {
    tcp(end(client, port), end(VIRTUAL, 80), flags)
}

/// Where a SYN of a client goes.
fn goes(world: &mut World, client: &str, port: u16) -> IpAddr {
    world.send(from(client, port, SYN)).unwrap().to.0
}

fn weigh(world: &mut World, key: &ServiceKey, address: &str, weight: i32) {
    let server = DestinationKey { address: ip(address), port: 8080 };
    let config = DestinationConfig::new(Forward::Masquerade, weight);
    world.balancer.edit_destination(key, &server, config).unwrap();
}

fn templates(world: &World) -> Vec<ConnectionInfo> {
    world.balancer.connection_list(world.now).filter(|c| c.template).collect()
}

/// Active, other connections and templates of A and B.
fn counts(world: &World, key: &ServiceKey) -> [(u32, u32, u32); 2] {
    let of = |d: DestinationInfo| (d.active, d.inactive, d.persistent);
    let list: Vec<_> = world.balancer.destinations(key).unwrap().map(of).collect();
    [list[1], list[0]]
}

#[test]
fn connections_of_a_client_go_to_one_server() {
    let mut world = persistent();
    assert_eq!([1, 2, 3].map(|port| goes(&mut world, "10.9.0.1", 4000 + port)), [ip(B); 3]);
    assert_eq!([1, 2].map(|port| goes(&mut world, "10.9.0.2", 4000 + port)), [ip(A); 2]);
    assert_eq!(counts(&world, &web()), [(2, 0, 1), (3, 0, 1)]);
    assert_eq!(world.balancer.connections(), 7, "five and two templates");
    let mut template = templates(&world);
    template.sort_by_key(|c| c.client);
    let ConnectionInfo { protocol, client, client_port, virtual_address, virtual_port, .. } = template[0];
    assert_eq!((protocol, client, client_port), (Protocol::Tcp, ip("10.9.0.1"), 0));
    assert_eq!((virtual_address, virtual_port), (ip(VIRTUAL), 80));
    assert_eq!((template[0].destination, template[0].destination_port), (ip(B), 8080));
    assert_eq!((template[0].expires, template[0].assured), (100, false));
}

#[test]
fn the_netmask_says_who_is_one_client() {
    let mut world = world(web(), ServiceFlags::PERSISTENT, 0xffff_ff00, 8080);
    assert_eq!(["10.9.0.1", "10.9.0.200"].map(|client| goes(&mut world, client, 4000)), [ip(B); 2]);
    assert_eq!(goes(&mut world, "10.9.1.1", 4000), ip(A));
    assert_eq!(templates(&world).iter().map(|c| c.client).min(), Some(ip("10.9.0.0")));
}

#[test]
fn an_ipv6_netmask_is_a_prefix_length() {
    let key = services()[2];
    let mut world = World::empty();
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 100,
        netmask: 64,
        ..ServiceConfig::new(Family::V6, Scheduler::RoundRobin)
    };
    world.balancer.edit_service(&key, config).unwrap();
    for last in ["fd00::b", "fd00::c"] {
        let server = DestinationKey { address: ip(last), port: 8080 };
        world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    }
    let mut goes = |client| world.send(tcp(end(client, 4000), end(VIRTUAL_V6, 80), SYN)).unwrap().to.0;
    assert_eq!(
        ["fd09::1", "fd09::2:3:4", "fd09:0:0:1::1"].map(&mut goes),
        [ip("fd00::c"), ip("fd00::c"), ip("fd00::b")]
    );
    assert_eq!(templates(&world).iter().map(|c| c.client).min(), Some(ip("fd09::")));
}

#[test]
fn a_template_stays_while_it_has_connections_and_for_its_time_after_the_last_began() {
    let mut world = persistent();
    goes(&mut world, "10.9.0.1", 4000);
    world.seconds(50);
    goes(&mut world, "10.9.0.1", 4001);
    assert_eq!(templates(&world)[0].expires, 100, "each new connection renews it");
    // Both connections end after their 60 s; the template 100 s after the second began.
    world.seconds(99);
    assert_eq!((world.balancer.connections(), templates(&world).len()), (1, 1));
    world.seconds(2);
    assert_eq!(world.balancer.connections(), 0);
    assert_eq!(counts(&world, &web()), [(0, 0, 0); 2]);
    // An established one outlives the template's time: it has a minute more, and again.
    world.send(from(CLIENT, 4000, SYN)).unwrap();
    world.send(from(CLIENT, 4000, ACK)).unwrap();
    world.seconds(899);
    assert_eq!(templates(&world).len(), 1);
    world.seconds(1 + 61);
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn a_template_is_assured_when_a_connection_comes_about() {
    let mut world = persistent();
    goes(&mut world, CLIENT, 4000);
    assert!(!templates(&world)[0].assured);
    world.send(from(CLIENT, 4000, ACK)).unwrap();
    assert!(templates(&world)[0].assured);
    // UDP: when the server answers.
    let key = services()[1];
    let mut world = self::world(key, ServiceFlags::PERSISTENT, u32::MAX, 8080);
    let sent = world.send(udp(end(CLIENT, 4000), end(VIRTUAL, 80))).unwrap();
    world.send(udp(end(CLIENT, 4000), end(VIRTUAL, 80))).unwrap();
    assert!(!templates(&world)[0].assured);
    world.send(udp(sent.to, sent.from)).unwrap();
    assert!(templates(&world)[0].assured);
}

#[test]
fn drained_servers_keep_their_clients_unless_quiescent_templates_expire() {
    for (knob, expected) in [(0, B), (1, A)] {
        let mut world = persistent();
        world.balancer.set_sysctl("expire_quiescent_template", knob).unwrap();
        assert_eq!(goes(&mut world, CLIENT, 4000), ip(B));
        weigh(&mut world, &web(), B, 0);
        assert_eq!(goes(&mut world, CLIENT, 4001), ip(expected));
        assert_eq!(goes(&mut world, CLIENT, 4002), ip(expected));
        assert_eq!(templates(&world).len() as i32, 1 + knob, "the old one waits for its end");
    }
}

#[test]
fn clients_of_a_removed_server_find_another_and_the_old_template_is_found_no_more() {
    let mut world = persistent();
    assert_eq!(goes(&mut world, CLIENT, 4000), ip(B));
    let server = DestinationKey { address: ip(B), port: 8080 };
    world.balancer.delete_destination(&web(), &server).unwrap();
    assert_eq!(goes(&mut world, CLIENT, 4001), ip(A));
    let invalid = templates(&world).into_iter().find(|c| c.destination == ip(B)).unwrap();
    assert_eq!((invalid.virtual_port, invalid.destination_port), (65535, 65535));
    world.balancer.add_destination(&web(), server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    assert_eq!(goes(&mut world, CLIENT, 4002), ip(A), "it does not come back");
    world.seconds(1000);
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn a_service_of_port_0_has_every_port_and_the_client_keeps_its_server() {
    let key = ServiceKey::tcp(ip("10.0.0.101"), 0);
    let mut world = world(key, ServiceFlags::PERSISTENT, u32::MAX, 0);
    let mut send = |port| world.send(tcp(end(CLIENT, 4000), end("10.0.0.101", port), SYN)).unwrap().to;
    assert_eq!([80, 443, 65535].map(&mut send), [(ip(B), 80), (ip(B), 443), (ip(B), 65535)]);
    let template = templates(&world)[0];
    assert_eq!((template.virtual_port, template.destination_port, counts(&world, &key)[1]), (0, 0, (3, 0, 1)));
    assert!(world.balancer.connection_list(world.now).all(|c| c.service == key), "connections to any port");
    let bare = ServiceConfig::new(Family::V4, Scheduler::RoundRobin);
    let other = ServiceKey::tcp(ip("10.0.0.102"), 0);
    assert_eq!(world.balancer.add_service(other, bare), Err(Errno::Invalid), "not without persistence");
}

#[test]
fn a_service_of_a_port_goes_before_one_of_every_port() {
    let any = ServiceKey::tcp(ip(VIRTUAL), 0);
    let mut world = world(any, ServiceFlags::PERSISTENT, u32::MAX, 0);
    world.add_servers(Forward::Masquerade);
    assert_eq!(world.send(from(CLIENT, 4000, SYN)).unwrap().to, end(A, 8080));
    assert_eq!(templates(&world).len(), 0);
    world.balancer.delete_service(&web()).unwrap();
    world.balancer.set_sysctl("expire_nodest_conn", 1).unwrap();
    assert_eq!(world.send(from(CLIENT, 4000, SYN)).unwrap().to, end(B, 80));
    world.balancer.delete_service(&any).unwrap();
    assert_eq!(world.send(tcp(end(CLIENT, 4001), end(VIRTUAL, 99), SYN)), Err(Verdict::Local));
}

#[test]
fn data_connections_of_ftp_go_to_the_server_of_its_port() {
    let key = ServiceKey::tcp(ip(VIRTUAL), 21);
    let mut persistent = world(key, ServiceFlags::PERSISTENT, u32::MAX, 21);
    let to = |port| tcp(end(CLIENT, 4000), end(VIRTUAL, port), SYN);
    assert_eq!(persistent.send(to(21)).unwrap().to, end(B, 21));
    assert_eq!(persistent.send(to(20)).unwrap().to, end(B, 20));
    assert_eq!(persistent.send(to(50000)).unwrap().to, end(B, 50000), "passive data");
    assert_eq!(persistent.send(to(443)), Err(Verdict::Local), "no service, and no such port");
    assert_eq!((templates(&persistent).len(), templates(&persistent)[0].virtual_port), (1, 0));
    assert!(
        persistent.balancer.connection_list(persistent.now).all(|c| c.service == key),
        "data too, and the template"
    );
    let mut bare = world(key, ServiceFlags::empty(), u32::MAX, 21);
    assert_eq!(bare.send(to(50000)), Err(Verdict::Local));
    assert!(bare.said.frames.iter().all(|frame| frame[12..14] == [8, 6]), "no complaint, only ARP");
}

#[test]
fn one_packet_scheduling_takes_each_datagram_alone_and_leaves_nothing() {
    let key = services()[1];
    let mut world = world(key, ServiceFlags::ONE_PACKET, u32::MAX, 8080);
    let packet = udp(end(CLIENT, 4000), end(VIRTUAL, 80));
    let went: [IpAddr; 4] = core::array::from_fn(|_| world.send(packet).unwrap().to.0);
    assert_eq!(went, [ip(B), ip(A), ip(B), ip(A)]);
    assert_eq!((world.balancer.connections(), counts(&world, &key)), (0, [(0, 0, 0); 2]));
    let stats = world.balancer.service(&key).unwrap().stats;
    assert_eq!((stats.connections, stats.in_packets), (4, 4));
    assert_eq!(world.drops(udp(end(A, 8080), end(CLIENT, 4000))), Reason::NotOurs, "replies are nobody's");
    // TCP has connections all the same.
    let mut tcp_world = self::world(web(), ServiceFlags::ONE_PACKET, u32::MAX, 8080);
    goes(&mut tcp_world, CLIENT, 4000);
    assert_eq!(tcp_world.state().0, SynReceived);
    tcp_world.send(from(CLIENT, 4000, ACK)).unwrap();
    assert_eq!(tcp_world.state().0, Established);
}

#[test]
fn one_packet_scheduling_and_persistence_together_leave_the_template() {
    let key = services()[1];
    let mut world = world(key, ServiceFlags::ONE_PACKET | ServiceFlags::PERSISTENT, u32::MAX, 8080);
    let went: [IpAddr; 3] =
        core::array::from_fn(|n| world.send(udp(end(CLIENT, 4000 + n as u16), end(VIRTUAL, 80))).unwrap().to.0);
    assert_eq!((went, world.balancer.connections()), ([ip(B); 3], 1));
    world.seconds(101);
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn a_flood_takes_templates_that_no_connection_came_of() {
    let mut world = persistent();
    goes(&mut world, "10.9.0.1", 4000);
    goes(&mut world, "10.9.0.2", 4000);
    world.send(from("10.9.0.2", 4000, ACK)).unwrap();
    world.balancer.set_sysctl("drop_entry", 3).unwrap();
    world.seconds(40);
    let left: Vec<_> = templates(&world).iter().map(|c| c.client).collect();
    assert_eq!((left, world.balancer.connections()), ([ip("10.9.0.2")].to_vec(), 2));
}

#[test]
fn no_packet_is_taken_for_one_of_a_template() {
    let mut world = persistent();
    goes(&mut world, CLIENT, 4000);
    // A template has port 0 and its client's address: so has this packet.
    assert_eq!(world.send(from(CLIENT, 0, ACK)), Err(Verdict::Local));
    assert_eq!(goes(&mut world, CLIENT, 0), ip(B));
    assert_eq!((world.balancer.connections(), templates(&world).len()), (3, 1));
}

#[test]
fn a_table_without_room_for_both_makes_no_connection() {
    let mut world = World::with(|config| config.connections = 1);
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 100,
        ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin)
    };
    world.balancer.edit_service(&web(), config).unwrap();
    world.add_servers(Forward::Masquerade);
    assert_eq!(world.drops(from(CLIENT, 4000, SYN)), Reason::TableFull);
    assert_eq!((world.balancer.connections(), templates(&world).len()), (1, 1));
    world.seconds(101);
    assert_eq!((world.balancer.connections(), world.destination(&web()).persistent), (0, 0));
}

/// A datagram of a client to the service.
fn sip_message(client: &str, port: u16, payload: &[u8]) -> Vec<u8> {
    udp(end(client, port), end(VIRTUAL, 80)).frame(payload)
}

#[test]
fn with_sip_a_call_of_a_client_goes_to_one_server() {
    let key = services()[1];
    let mut world = world(key, ServiceFlags::PERSISTENT, 0xffff_ff00, 8080);
    let config = ServiceConfig {
        persistence_engine: Some(PersistenceEngine::Sip),
        ..world.balancer.service(&key).unwrap().config
    };
    world.balancer.edit_service(&key, config).unwrap();
    let mut call = |client, port, id: &str| {
        let message = std::format!("INVITE sip:x SIP/2.0\r\nCall-ID: {id}\r\n\r\n");
        read(&world.frame(sip_message(client, port, message.as_bytes())).unwrap()).to.0
    };
    assert_eq!([4000, 4001].map(|port| call("10.9.0.1", port, "one@a")), [ip(B); 2]);
    assert_eq!(call("10.9.0.1", 4002, "two@a"), ip(A), "another call, the same client");
    assert_eq!(call("10.9.0.200", 4000, "one@a"), ip(B), "of its network");
    assert_eq!(call("10.9.1.1", 4000, "one@a"), ip(B), "the same call of another client: the next in turn");
    assert_eq!(call("10.9.0.1", 4003, "one@a"), ip(B));
    assert_eq!(templates(&world).len(), 3);
    let mut none = sip_message("10.9.0.1", 4004, b"INVITE sip:x SIP/2.0\r\nTo: nobody\r\n\r\n");
    assert_eq!(
        world.process(&mut none, &mut Offload::default()),
        Err(Verdict::Drop(Reason::PersistenceEngine)),
        "what has no Call-ID is dropped"
    );
    world.seconds(1000);
    assert_eq!((world.balancer.connections(), counts(&world, &key)), (0, [(0, 0, 0); 2]));
}

#[test]
fn tables_take_no_more_memory_than_there_is() {
    let mut world = World::with(|config| config.table_memory = 40_000);
    let [a, b, c, _] = services();
    let scheduled = |key: ServiceKey, scheduler| ServiceConfig::new(key.family(), scheduler);
    let maglev = |world: &mut World, key| world.balancer.edit_service(&key, scheduled(key, Scheduler::Maglev));
    assert_eq!((maglev(&mut world, a), maglev(&mut world, b)), (Ok(()), Ok(())));
    assert_eq!(maglev(&mut world, c), Err(Errno::OutOfMemory));
    assert_eq!(world.balancer.service(&c).unwrap().config.scheduler, Scheduler::RoundRobin, "it stays as it was");
    let sip = ServiceConfig { persistence_engine: Some(PersistenceEngine::Sip), ..scheduled(c, Scheduler::RoundRobin) };
    assert_eq!(world.balancer.edit_service(&c, sip), Ok(()), "for a few calls there is room");
    let mark = ServiceKey::Mark { family: Family::V4, mark: 1 };
    let lblc = scheduled(mark, Scheduler::LocalityLeastConnections);
    assert_eq!(world.balancer.add_service(mark, lblc), Err(Errno::OutOfMemory));
    world.balancer.delete_service(&a).unwrap();
    world.balancer.edit_service(&b, scheduled(b, Scheduler::RoundRobin)).unwrap();
    assert_eq!(maglev(&mut world, c), Ok(()), "what is given back can be had again");
}

#[test]
fn a_service_that_is_refused_takes_no_memory_for_calls() {
    let mut world = World::with(|config| config.table_memory = 10_000);
    let [a, ..] = services();
    let other = |port| ServiceKey::udp(ip(VIRTUAL), port);
    let sip = |scheduler| ServiceConfig {
        persistence_engine: Some(PersistenceEngine::Sip),
        ..ServiceConfig::new(Family::V4, scheduler)
    };
    let round_robin = sip(Scheduler::RoundRobin);
    let add = |world: &mut World, key, config| {
        let answer = world.balancer.add_service(key, config);
        (answer, world.balancer.table.has_call_ids(), world.balancer.services().count())
    };
    assert_eq!(add(&mut world, a, round_robin), (Err(Errno::Exists), false, 4));
    assert_eq!(add(&mut world, other(0), round_robin), (Err(Errno::Invalid), false, 4));
    let large = sip(Scheduler::LocalityReplicated);
    assert_eq!(add(&mut world, other(1), large), (Err(Errno::OutOfMemory), false, 4));
    assert_eq!(world.balancer.edit_service(&other(1), round_robin), Err(Errno::NoService));
    assert_eq!(world.balancer.edit_service(&a, large), Err(Errno::OutOfMemory));
    assert!(!world.balancer.table.has_call_ids());
    assert_eq!(add(&mut world, other(1), round_robin), (Ok(()), true, 5));
    // With no memory for calls there is no such service.
    let mut world = World::with(|config| config.table_memory = 0);
    assert_eq!(add(&mut world, other(1), round_robin), (Err(Errno::OutOfMemory), false, 4));
    assert_eq!(world.balancer.edit_service(&a, round_robin), Err(Errno::OutOfMemory));
    assert_eq!(world.balancer.service(&a).unwrap().config.persistence_engine, None);
}

#[test]
fn as_many_calls_are_kept_as_there_is_room_for() {
    let key = services()[1];
    let mut world = World::with(|config| config.call_ids = 2);
    world.add_servers(Forward::Masquerade);
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 10,
        persistence_engine: Some(PersistenceEngine::Sip),
        ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin)
    };
    world.balancer.edit_service(&key, config).unwrap();
    let send = |world: &mut World, id: u8, port| {
        let message = [b"x\ni: ", &[b'a' + id][..], b"\n"].concat();
        world.process(&mut sip_message(CLIENT, port, &message), &mut Offload::default())
    };
    for id in 0..2 {
        assert_eq!(send(&mut world, id, 4000 + u16::from(id)), Ok(()));
    }
    assert_eq!(send(&mut world, 2, 4002), Err(Verdict::Drop(Reason::TableFull)));
    // Their connections end, and a minute later they.
    world.seconds(400);
    assert_eq!(world.balancer.connections(), 0);
    for id in 2..4 {
        assert_eq!(send(&mut world, id, 4000 + u16::from(id)), Ok(()));
    }
}

#[test]
fn a_timeout_of_nothing_is_over_with_the_next_tick_and_not_before() {
    let mut world = World::with(|config| config.connections = 2);
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 0,
        ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin)
    };
    world.balancer.edit_service(&web(), config).unwrap();
    world.add_servers(Forward::Masquerade);
    world.send(from(CLIENT, 4000, SYN)).unwrap();
    // There is no room for another connection, not even at the cost of the template.
    assert_eq!(world.drops(from(CLIENT, 4001, SYN)), Reason::TableFull);
    assert_eq!((world.balancer.connections(), templates(&world).len()), (2, 1));
    world.seconds(200);
    assert_eq!(world.balancer.connections(), 0);
}
