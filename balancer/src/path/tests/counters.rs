//! What is counted.

use super::*;

#[test]
fn packets_and_bytes_are_counted_for_all_three() {
    let mut world = World::new(Forward::Masquerade);
    let key = services()[1];
    world.send(udp(end(CLIENT, 1), end(VIRTUAL, 80))).unwrap();
    world.send(udp(end(CLIENT, 1), end(VIRTUAL, 80))).unwrap();
    world.send(udp(end("10.0.0.11", 8080), end(CLIENT, 1))).unwrap();
    let bytes = 20 + 8 + 13;
    let expected = Stats { connections: 1, in_packets: 2, out_packets: 1, in_bytes: 2 * bytes, out_bytes: bytes };
    assert_eq!(world.destination(&key).stats, expected);
    assert_eq!(world.balancer.service(&key).unwrap().stats, expected);
    assert_eq!(world.balancer.total(), expected);
    assert_eq!(world.balancer.service(&services()[0]).unwrap().stats, Stats::default());
    world.balancer.zero(None).unwrap();
    assert_eq!(world.balancer.total(), Stats::default());
}

#[test]
fn rates_are_estimated_every_two_seconds() {
    let mut world = World::new(Forward::Masquerade);
    world.seconds(0);
    for _ in 0..2000 {
        world.send(udp(end(CLIENT, 1), end(VIRTUAL, 80))).unwrap();
    }
    world.seconds(1);
    assert_eq!(world.balancer.rates().in_packets, 0);
    world.seconds(1);
    assert_eq!(world.balancer.rates().in_packets, 250);
    assert_eq!(world.destination(&services()[1]).rates.in_packets, 250);
    world.seconds(2);
    assert_eq!(world.balancer.rates().in_packets, 187);
}

#[test]
fn every_frame_is_counted_once() {
    let mut world = World::new(Forward::Masquerade);
    let _ = world.send(udp(end(CLIENT, 1), end(VIRTUAL, 80)));
    let _ = world.send(udp(end(CLIENT, 1), end(VIRTUAL, 81)));
    let _ = world.send(udp(end(CLIENT, 1), end("10.0.0.9", 80)));
    let _ = world.process(&mut [], &mut Offload::default());
    let c = *world.balancer.counters();
    assert_eq!((c.frames, c.forwarded + c.waiting, c.local), (4, 1, 1));
    assert_eq!((c.dropped[Reason::NotOurs as usize], c.dropped[Reason::Malformed as usize]), (1, 1));
}
