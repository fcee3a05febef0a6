//! Services of marks, and the rules that give packets marks.

use super::*;

const A: &str = "10.0.0.11";
const B: &str = "10.0.0.12";

fn mark(mark: u32) -> ServiceKey {
    ServiceKey::Mark { family: Family::V4, mark }
}

/// A service of mark 7, of which rr takes B first, for some packets to 10.0.0.200 and 198.51.100.0/24.
fn world(flags: ServiceFlags, port: u16) -> World {
    let mut world = World::empty();
    let config = ServiceConfig { flags, timeout: 100, ..ServiceConfig::new(Family::V4, Scheduler::RoundRobin) };
    world.balancer.add_service(mark(7), config).unwrap();
    for address in [A, B] {
        let server = DestinationKey { address: ip(address), port };
        world.balancer.add_destination(&mark(7), server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    }
    for destination in ["10.0.0.200", "198.51.100.0/24"] {
        let rule = MarkRule { destination: destination.parse().unwrap(), ..MarkRule::new(Family::V4, 7) };
        world.balancer.add_mark_rule(MarkRule { destination_ports: (80, 443), ..rule }).unwrap();
    }
    world
}

fn to(address: &str, port: u16) -> Segment {
    tcp(end(CLIENT, 4000), end(address, port), SYN)
}

#[test]
fn packets_of_a_mark_go_to_its_service_whatever_their_address_and_port() {
    let mut world = world(ServiceFlags::empty(), 0);
    assert_eq!(world.send(to("10.0.0.200", 80)).unwrap().to, end(B, 80));
    assert_eq!(world.send(to("198.51.100.9", 443)).unwrap().to, end(A, 443));
    assert_eq!(world.send(udp(end(CLIENT, 4000), end("198.51.100.9", 443))).unwrap().to, end(B, 443));
    let reply = world.send(tcp(end(A, 443), end(CLIENT, 4000), SYN_ACK)).unwrap();
    assert_eq!((reply.from, reply.to), (end("198.51.100.9", 443), end(CLIENT, 4000)));
    assert_eq!(world.balancer.service(&mark(7)).unwrap().stats.connections, 3);
}

#[test]
fn a_server_with_a_port_gets_all_at_that() {
    let mut world = world(ServiceFlags::empty(), 8080);
    assert_eq!(world.send(to("10.0.0.200", 80)).unwrap().to, end(B, 8080));
    assert_eq!(world.send(to("10.0.0.200", 443)).unwrap().to, end(A, 8080));
}

#[test]
fn what_no_rule_fits_is_as_without_rules() {
    let mut world = world(ServiceFlags::empty(), 0);
    world.add_servers(Forward::Masquerade);
    assert_eq!(world.send(to("10.0.0.200", 22)), Err(Verdict::Local), "a host of ours, but not that port");
    assert_eq!(world.drops(to("198.51.100.9", 22)), Reason::NotOurs);
    assert_eq!(world.drops(tcp(end(CLIENT, 4000), end("198.51.100.9", 80), ACK)), Reason::NotOurs);
    assert_eq!(world.send(to(VIRTUAL, 80)).unwrap().to, end(A, 8080));
    // A mark goes before the address; one without a service is as none.
    let rule = |mark| MarkRule { destination: "10.0.0.100".parse().unwrap(), ..MarkRule::new(Family::V4, mark) };
    world.balancer.add_mark_rule(rule(7)).unwrap();
    let from = |port| tcp(end(CLIENT, port), end(VIRTUAL, 80), SYN);
    assert_eq!(world.send(from(5000)).unwrap().to, end(B, 80));
    world.balancer.add_mark_rule(rule(9)).unwrap();
    assert_eq!(world.send(from(5001)).unwrap().to, end(A, 8080));
}

#[test]
fn rules_are_asked_of_nothing_that_is_refused_anyway() {
    let mut world = world(ServiceFlags::empty(), 0);
    for port in [80, 22] {
        let mut group = to("198.51.100.9", port).frame(&[]);
        group[0] |= 1;
        assert_eq!(world.frame(group), Err(Verdict::Drop(Reason::NotToUs)));
        let from = |source, flags| tcp(end(source, 4000), end("198.51.100.9", port), flags);
        assert_eq!(world.drops(from("127.0.0.1", SYN)), Reason::BadSource);
        assert_eq!(world.drops(from("127.0.0.1", ACK)), Reason::NotOurs);
        assert_eq!(world.drops(tcp(end(CLIENT, 20), end("198.51.100.9", port), SYN)), Reason::NotOurs);
    }
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn a_host_of_a_rule_is_a_virtual_address_while_its_service_is_there() {
    let mut world = world(ServiceFlags::empty(), 0);
    let is_virtual = |world: &World| world.balancer.virtual_addresses().any(|a| a == ip("10.0.0.200"));
    assert!(is_virtual(&world) && !world.balancer.virtual_addresses().any(|a| a == ip("198.51.100.0")));
    let generation = world.balancer.generation();
    world.balancer.delete_service(&mark(7)).unwrap();
    assert!(!is_virtual(&world) && world.balancer.generation() != generation);
    assert_eq!(world.drops(to("10.0.0.200", 80)), Reason::NotOurs);
}

#[test]
fn persistence_of_a_mark_is_over_all_its_addresses_ports_and_protocols() {
    let mut world = world(ServiceFlags::PERSISTENT, 0);
    assert_eq!(world.send(to("10.0.0.200", 80)).unwrap().to, end(B, 80));
    assert_eq!(world.send(to("198.51.100.9", 443)).unwrap().to, end(B, 443));
    assert_eq!(world.send(udp(end(CLIENT, 4000), end("10.0.0.200", 443))).unwrap().to, end(B, 443));
    let template: Vec<_> = world.balancer.connection_list(world.now).filter(|c| c.template).collect();
    let [only] = &template[..] else { panic!("{template:?}") };
    assert_eq!((only.protocol, only.virtual_address, only.virtual_port), (Protocol::Ip, ip("0.0.0.7"), 0));
    assert_eq!((only.destination, only.destination_port, only.expires), (ip(B), 0, 100));
    let counts: Vec<_> =
        world.balancer.destinations(&mark(7)).unwrap().map(|d| (d.active, d.inactive, d.persistent)).collect();
    assert_eq!(counts, [(2, 1, 1), (0, 0, 0)]);
    assert_eq!(world.balancer.connection_list(world.now).filter(|c| c.service == mark(7)).count(), 4, "all are of it");
}

#[test]
fn marks_of_ipv6_are_others() {
    let mut world = world(ServiceFlags::empty(), 0);
    let key = ServiceKey::Mark { family: Family::V6, mark: 7 };
    let config = ServiceConfig {
        flags: ServiceFlags::PERSISTENT,
        timeout: 100,
        ..ServiceConfig::new(Family::V6, Scheduler::RoundRobin)
    };
    world.balancer.add_service(key, config).unwrap();
    world.balancer.add_mark_rule(MarkRule::new(Family::V6, 7)).unwrap();
    let server = DestinationKey { address: ip("fd00::b"), port: 0 };
    world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
    let sent = world.send(tcp(end(CLIENT_V6, 4000), end("2001:db8::9", 80), SYN)).unwrap();
    assert_eq!(sent.to, end("fd00::b", 80));
    let template = world.balancer.connection_list(world.now).find(|c| c.template).unwrap();
    assert_eq!((template.protocol, template.virtual_address), (Protocol::Ip, ip("0:7::")));
    assert_eq!(world.balancer.service(&mark(7)).unwrap().stats.connections, 0);
}

#[test]
fn lblc_keeps_an_address_of_a_mark_with_its_server() {
    let mut world = world(ServiceFlags::empty(), 0);
    let config = ServiceConfig::new(Family::V4, Scheduler::LocalityLeastConnections);
    world.balancer.edit_service(&mark(7), config).unwrap();
    let mut goes = |address: &str, port| world.send(udp(end(CLIENT, port), end(address, 80))).unwrap().to.0;
    assert_eq!([1, 2, 3].map(|port| goes("198.51.100.1", port)), [ip(B); 3]);
    assert_eq!([1, 2].map(|port| goes("198.51.100.2", port)), [ip(A); 2]);
    assert_eq!(goes("198.51.100.1", 4), ip(B));
}
