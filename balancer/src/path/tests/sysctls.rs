//! The knobs of net.ipv4.vs, each in what it changes.

use super::*;
use TcpState::{Established, SynAck, SynReceived};

const SERVER: &str = "10.0.0.11";
const OTHER: &str = "10.0.0.12";

fn request(flags: TcpFlags) -> Segment {
    tcp(end(CLIENT, 4000), end(VIRTUAL, 80), flags)
}

fn reply(flags: TcpFlags) -> Segment {
    tcp(end(SERVER, 8080), end(CLIENT, 4000), flags)
}

fn set(world: &mut World, knobs: &[(&str, i32)]) {
    knobs.iter().for_each(|(name, value)| world.balancer.set_sysctl(name, *value).unwrap());
}

/// Adds a second server, which is the next one rr takes.
fn add_other(world: &mut World) {
    let key = DestinationKey { address: ip(OTHER), port: 8080 };
    let config = DestinationConfig::new(Forward::Masquerade, 1);
    world.balancer.add_destination(&services()[0], key, config).unwrap();
}

fn weigh(world: &mut World, address: &str, weight: i32) {
    let key = DestinationKey { address: ip(address), port: 8080 };
    let config = DestinationConfig::new(Forward::Masquerade, weight);
    world.balancer.edit_destination(&services()[0], &key, config).unwrap();
}

fn remove(world: &mut World, address: &str) {
    let key = DestinationKey { address: ip(address), port: 8080 };
    world.balancer.delete_destination(&services()[0], &key).unwrap();
}

#[test]
fn sloppy_tcp_lets_any_packet_but_a_reset_begin() {
    let mut world = World::new(Forward::Masquerade);
    assert_eq!(world.send(request(ACK)), Err(Verdict::Local));
    set(&mut world, &[("sloppy_tcp", 1)]);
    assert_eq!(world.send(request(RST)), Err(Verdict::Local));
    world.send(request(ACK)).unwrap();
    assert_eq!(world.state(), (Established, 900));
}

#[test]
fn conn_reuse_mode_says_when_a_client_may_use_its_port_again() {
    for (mode, forward, end_with, anew) in [
        (0, Forward::Masquerade, &[FIN, ACK][..], false),
        (1, Forward::Masquerade, &[RST], true),
        (0, Forward::Masquerade, &[RST], false),
        (1, Forward::Direct, &[FIN], false),
        (2, Forward::Direct, &[FIN], true),
        (3, Forward::Direct, &[FIN], true),
        (2, Forward::Direct, &[ACK], false),
    ] {
        let mut world = World::new(forward);
        set(&mut world, &[("conn_reuse_mode", mode)]);
        for &flags in [SYN, ACK].iter().chain(end_with) {
            world.send(request(flags)).unwrap();
        }
        world.send(request(SYN)).unwrap();
        let scheduled = world.destination(&services()[0]).stats.connections;
        assert_eq!(scheduled, if anew { 2 } else { 1 }, "mode {mode}, {end_with:?}");
        assert_eq!(world.balancer.connections(), 1);
    }
}

#[test]
fn a_client_of_a_drained_server_begins_elsewhere_with_expire_nodest_conn() {
    for (knob, expected) in [(0, SERVER), (1, OTHER)] {
        let mut world = World::new(Forward::Masquerade);
        set(&mut world, &[("expire_nodest_conn", knob)]);
        world.send(request(SYN)).unwrap();
        world.send(request(ACK)).unwrap();
        add_other(&mut world);
        weigh(&mut world, SERVER, 0);
        let sent = world.send(request(ACK)).unwrap();
        assert_eq!(sent.to, end(SERVER, 8080), "what is under way goes on");
        assert_eq!(world.send(request(SYN)).unwrap().to, end(expected, 8080));
    }
}

#[test]
fn connections_of_a_removed_server_end_at_once_with_expire_nodest_conn() {
    let mut world = World::new(Forward::Masquerade);
    world.send(request(SYN)).unwrap();
    add_other(&mut world);
    remove(&mut world, SERVER);
    assert_eq!(world.drops(request(SYN)), Reason::DestinationGone);
    set(&mut world, &[("expire_nodest_conn", 1)]);
    assert_eq!(world.send(request(SYN)).unwrap().to, end(OTHER, 8080), "scheduled anew by its own packet");
    assert_eq!(world.balancer.connections(), 1);
    remove(&mut world, OTHER);
    world.seconds(0);
    assert_eq!(world.balancer.connections(), 0, "and without any");
    assert_eq!(world.send(request(ACK)), Err(Verdict::Local));
}

#[test]
fn secure_tcp_wants_to_hear_the_server() {
    let mut world = World::new(Forward::Masquerade);
    set(&mut world, &[("secure_tcp", 3)]);
    let mut step = |segment: Segment, state: TcpState| {
        world.send(segment).unwrap();
        assert_eq!(world.state().0, state, "after {segment:?}");
    };
    step(request(SYN), SynReceived);
    step(request(ACK), SynReceived);
    step(reply(SYN_ACK), SynAck);
    step(request(ACK), SynAck);
    step(reply(ACK), Established);
    set(&mut world, &[("secure_tcp", 0)]);
    world.send(tcp(end(CLIENT, 4001), end(VIRTUAL, 80), SYN)).unwrap();
    world.send(tcp(end(CLIENT, 4001), end(VIRTUAL, 80), ACK)).unwrap();
    assert!(world.balancer.connection_list(world.now).all(|c| c.state == State::Tcp(Established)));
}

#[test]
fn drop_packet_drops_one_of_so_many_beginnings() {
    let mut world = World::new(Forward::Masquerade);
    set(&mut world, &[("am_droprate", 4), ("drop_packet", 3)]);
    let begin = |world: &mut World, port| world.send(tcp(end(CLIENT, port), end(VIRTUAL, 80), SYN));
    let dropped = (0..40).filter(|port| begin(&mut world, 5000 + port) == Err(Verdict::Drop(Reason::Defense))).count();
    assert_eq!(dropped, 10);
    assert_eq!(world.balancer.counters().dropped[Reason::Defense as usize], 10);
    let known = world.balancer.connection_list(world.now).next().unwrap().client_port;
    (0..40).for_each(|_| _ = world.send(tcp(end(CLIENT, known), end(VIRTUAL, 80), ACK)).unwrap());
}

#[test]
fn memory_is_scarce_when_the_table_has_few_places_left() {
    // 256 places are four pages, of which one is to be free.
    let mut world = World::new(Forward::Masquerade);
    set(&mut world, &[("drop_packet", 1)]);
    for port in 0..193 {
        world.send(tcp(end(CLIENT, 5000 + port), end(VIRTUAL, 80), SYN)).unwrap();
    }
    world.seconds(2);
    assert_eq!(world.balancer.sysctls().drop_packet, 2);
    world.seconds(60);
    assert_eq!((world.balancer.connections(), world.balancer.sysctls().drop_packet), (0, 1));
}

#[test]
fn drop_entry_takes_half_open_connections_first() {
    let mut world = World::new(Forward::Masquerade);
    let packet = |port, flags| tcp(end(CLIENT, port), end(VIRTUAL, 80), flags);
    for port in 0..20 {
        world.send(packet(5000 + port, SYN)).unwrap();
        world.send(packet(6000 + port, SYN)).unwrap();
        world.send(packet(6000 + port, ACK)).unwrap();
    }
    set(&mut world, &[("drop_entry", 3)]);
    // A thirty-second of the table each second, and one place more.
    world.seconds(32);
    let left: Vec<_> = world.balancer.connection_list(world.now).map(|c| (c.client_port / 1000, c.state)).collect();
    assert_eq!(left, [(6, State::Tcp(Established)); 20]);
    let before = world.destination(&services()[0]);
    assert_eq!((before.active, before.inactive), (20, 0));
    // Those with two packets that have been idle for a minute: every second of them at each turn.
    world.seconds(32);
    assert!(world.balancer.connections() < 20, "{}", world.balancer.connections());
    set(&mut world, &[("drop_entry", 0)]);
    let left = world.balancer.connections();
    world.seconds(64);
    assert_eq!(world.balancer.connections(), left);
    // Many packets make a connection safe.
    let mut world = World::new(Forward::Masquerade);
    for flags in [SYN, ACK, ACK, ACK, ACK, ACK, ACK, ACK, ACK] {
        world.send(packet(7000, flags)).unwrap();
    }
    set(&mut world, &[("drop_entry", 3)]);
    world.seconds(200);
    assert_eq!(world.balancer.connections(), 1);
}

#[test]
fn a_server_is_told_of_what_is_of_no_connection_with_nat_icmp_send() {
    for v6 in [false, true] {
        let mut world = World::new(Forward::Masquerade);
        let (client, service, other) = if v6 { (CLIENT_V6, VIRTUAL_V6, "fd00::c") } else { (CLIENT, VIRTUAL, OTHER) };
        let from = (server(v6).address, server(v6).port);
        let stray = tcp(from, end(client, 4000), ACK);
        assert_eq!(world.drops(stray), Reason::NotOurs);
        assert_eq!(world.balancer.counters().icmp_sent, 0);
        set(&mut world, &[("nat_icmp_send", 1)]);
        // To a client, or to us: even what would begin a connection.
        for (segment, told) in [
            (stray, true),
            (tcp(from, end(service, 80), SYN), true),
            (udp(from, end(client, 4000)), true),
            (tcp(from, end(client, 4000), RST), false),
            (tcp((from.0, 1), end(client, 4000), ACK), false),
            (tcp(end(other, 8080), end(client, 4000), ACK), false),
        ] {
            let before = world.balancer.counters().icmp_sent;
            assert_eq!(world.drops(segment), Reason::NotOurs, "{segment:?}");
            assert_eq!(world.balancer.counters().icmp_sent - before, u64::from(told), "{segment:?}");
        }
        // What is of a connection, goes.
        let request = tcp(end(client, 4000), end(service, 80), SYN);
        world.send(request).unwrap();
        assert_eq!(world.send(stray).unwrap().from, end(service, 80));
        for key in services() {
            world.balancer.delete_destination(&key, &server(key.family() == Family::V6)).unwrap();
        }
        let before = world.balancer.counters().icmp_sent;
        assert_eq!(world.drops(tcp(from, end(client, 4001), ACK)), Reason::NotOurs, "it is no server any more");
        assert_eq!(world.balancer.counters().icmp_sent, before);
    }
}

#[test]
fn servers_are_known_by_how_they_are_forwarded_to() {
    let mut world = World::new(Forward::Direct);
    set(&mut world, &[("nat_icmp_send", 1)]);
    let told = |world: &mut World| {
        let before = world.balancer.counters().icmp_sent;
        world.drops(reply(ACK));
        world.balancer.counters().icmp_sent - before
    };
    assert_eq!(told(&mut world), 0);
    weigh(&mut world, SERVER, 1);
    assert_eq!(told(&mut world), 1, "it is under NAT now");
    world.balancer.delete_service(&services()[0]).unwrap();
    assert_eq!(told(&mut world), 0, "the other services forward to it as before");
}

#[test]
fn rates_stay_as_they_are_without_run_estimation() {
    let mut world = World::new(Forward::Masquerade);
    world.seconds(2);
    world.send(request(SYN)).unwrap();
    world.seconds(2);
    let rates = world.destination(&services()[0]).rates;
    assert_ne!(rates, Rates::default());
    set(&mut world, &[("run_estimation", 0)]);
    world.seconds(60);
    assert_eq!(world.destination(&services()[0]).rates, rates);
    set(&mut world, &[("run_estimation", 1)]);
    world.seconds(60);
    assert_eq!(world.destination(&services()[0]).rates, Rates::default());
}
