//! AH and ESP go where their key exchange goes.

use super::*;
use etherparse::IpNumber;

const EXCHANGE: u16 = 500;

fn secured(from: &str, to: &str, number: IpNumber, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
    let mut frame = Vec::new();
    match (ip(from), ip(to)) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64).write(&mut frame, number, payload),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64).write(&mut frame, number, payload),
        _ => panic!("two families"),
    }
    .unwrap();
    frame
}

fn world(v6: bool, forward: Forward, port: u16) -> World {
    let mut world = World::empty();
    let key = ServiceKey::udp(ip(if v6 { VIRTUAL_V6 } else { VIRTUAL }), EXCHANGE);
    world.balancer.add_service(key, ServiceConfig::new(key.family(), Scheduler::RoundRobin)).unwrap();
    let to = DestinationKey { address: server(v6).address, port };
    world.balancer.add_destination(&key, to, DestinationConfig::new(forward, 1)).unwrap();
    world
}

#[test]
fn it_follows_its_key_exchange_both_ways() {
    for v6 in [false, true] {
        let (client, service, host) =
            if v6 { (CLIENT_V6, VIRTUAL_V6, "fd00::b") } else { (CLIENT, VIRTUAL, "10.0.0.11") };
        let mut world = world(v6, Forward::Masquerade, EXCHANGE);
        let send = |world: &mut World, from: &str, to: &str| {
            let mut frame = secured(from, to, IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &[7; 40]);
            world.process(&mut frame, &mut Offload::default())?;
            if !v6 {
                assert_eq!(naive_sum(&[&frame[14..34]]), 0xffff, "IPv4 header");
            }
            let at = if v6 { 22 } else { 26 };
            let len = if v6 { 16 } else { 4 };
            let address = |at: usize| -> IpAddr {
                match v6 {
                    true => <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into(),
                    false => <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into(),
                }
            };
            assert_eq!(frame[frame.len() - 40..], [7; 40]);
            Ok((address(at), address(at + len)))
        };
        assert_eq!(send(&mut world, client, service), Err(Verdict::Local), "nothing begins with it");
        world.send(udp((ip(client), EXCHANGE), (ip(service), EXCHANGE))).unwrap();
        assert_eq!(send(&mut world, client, service), Ok((ip(client), ip(host))));
        assert_eq!(send(&mut world, host, client), Ok((ip(service), ip(client))));
        // It keeps the connection, and is counted.
        world.seconds(299);
        assert!(send(&mut world, client, service).is_ok());
        world.seconds(299);
        assert_eq!(world.balancer.connections(), 1);
        let stats = world.balancer.total();
        assert_eq!((stats.in_packets, stats.out_packets), (3, 1));
        world.seconds(2);
        assert_eq!(send(&mut world, client, service), Err(Verdict::Local));
        assert_eq!(send(&mut world, host, client), Err(Verdict::Drop(Reason::NotOurs)));
    }
}

#[test]
fn a_destination_that_is_gone_gets_no_more() {
    let mut world = world(false, Forward::Direct, EXCHANGE);
    world.send(udp(end(CLIENT, EXCHANGE), end(VIRTUAL, EXCHANGE))).unwrap();
    let mut ah = secured(CLIENT, VIRTUAL, IpNumber::AUTHENTICATION_HEADER, &[59, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert!(world.process(&mut ah.clone(), &mut Offload::default()).is_ok());
    world.balancer.delete_service(&ServiceKey::udp(ip(VIRTUAL), EXCHANGE)).unwrap();
    let verdict = world.process(&mut ah, &mut Offload::default());
    assert_eq!(verdict, Err(Verdict::Drop(Reason::DestinationGone)));
}
