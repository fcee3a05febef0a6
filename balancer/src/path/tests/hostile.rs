//! Frames of people who mean no good.

use super::*;
use proptest::prelude::*;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (client, service, own) in [(CLIENT, VIRTUAL, "10.0.0.2"), (CLIENT_V6, VIRTUAL_V6, "fd00::2")] {
        let (client, service, own) = (end(client, 4000), end(service, 80), end(own, 80));
        let server = end(if client.0.is_ipv6() { "fd00::b" } else { "10.0.0.11" }, 8080);
        for flags in [None, Some(SYN), Some(FIN), Some(RST)] {
            seeds.push(Segment { from: client, to: service, flags }.frame(b"payload"));
            seeds.push(Segment { from: server, to: client, flags }.frame(b"payload"));
            seeds.push(Segment { from: client, to: own, flags }.frame(b"payload"));
        }
        // An error about a reply, and one about a request.
        for (from, quoted) in [(client.0, udp(service, client)), (server.0, udp(client, server))] {
            let quoted = quoted.frame(b"payload of some length")[14..].to_vec();
            let to = if from == client.0 { service.0 } else { client.0 };
            let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
            let mut frame = Vec::new();
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4_raw(3, 3, [0; 4]).write(&mut frame, &quoted)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6_raw(1, 4, [0; 4]).write(&mut frame, &quoted)
                }
                _ => panic!(),
            }
            .unwrap();
            seeds.push(frame);
        }
    }
    seeds.push(arp_reply([10, 0, 0, 11], OTHER_MAC));
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_frame_does_harm(
        frames in proptest::collection::vec(
            (
                any::<prop::sample::Index>(),
                proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
                any::<prop::sample::Index>(),
                0usize..3,
                proptest::option::of((0u16..100, 0u16..20)),
                prop_oneof![Just(0u16), any::<u16>()],
            ),
            1..200,
        ),
        direct: bool,
    ) {
        let seeds = seeds();
        let mut world = World::new(if direct { Forward::Direct } else { Forward::Masquerade });
        for (n, (seed, changes, cut, what, partial, gso_size)) in frames.into_iter().enumerate() {
            let mut frame = seeds[seed.index(seeds.len())].clone();
            for (at, value) in changes {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if what == 0 {
                frame.truncate(cut.index(frame.len()));
            }
            let partial = partial.map(|(start, offset)| Partial { start, offset });
            let mut packet = Packet::new(&mut frame);
            packet.offload = Offload { partial, gso_size, fragments: gso_size & 1 != 0, data_valid: false };
            packet.len += what * 1000;
            world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
            if matches!(packet.verdict, Verdict::Wait(_)) {
                world.balancer.undeliverable(&mut packet, world.now, &mut world.said);
            }
            if n % 16 == 0 {
                world.seconds(30);
            }
        }
        let c = world.balancer.counters();
        prop_assert_eq!(c.frames, c.forwarded + c.waiting + c.local + c.held + c.dropped.iter().sum::<u64>());
    }
}
