//! Whatever is rewritten, checksums are those of a full computation, and back again everything is as it was.

use super::*;
use core::net::{Ipv4Addr, Ipv6Addr};
use proptest::prelude::*;

/// Any two hosts of one family: a client and a server.
fn hosts() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    // Of 100.64.0.0/10 and fc00::/8, where nothing of the world is.
    let v4 = |bits: u32| IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 | bits & 0x003f_ffff));
    let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(0xfc << 120 | bits >> 8));
    prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(move |(a, b)| (v4(a), v4(b))),
        (any::<u128>(), any::<u128>()).prop_map(move |(a, b)| (v6(a), v6(b))),
    ]
}

proptest! {
    #[test]
    fn requests_and_replies_stay_intact(
        (client, host) in hosts(),
        ports in (1u16.., 1u16..),
        tcp: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        partial: bool,
    ) {
        prop_assume!(client != host && ports.0 != 20);
        let v6 = client.is_ipv6();
        let mut world = World::empty();
        let key = services()[usize::from(!tcp) + 2 * usize::from(v6)];
        let server = DestinationKey { address: host, port: ports.1 };
        world.balancer.add_destination(&key, server, DestinationConfig::new(Forward::Masquerade, 1)).unwrap();
        let service = end(if v6 { VIRTUAL_V6 } else { VIRTUAL }, 80);
        let mut forward = |segment: Segment| {
            let mut frame = segment.frame(&payload);
            let mut offload = Offload::default();
            let (start, offset) = (transport_at(&frame), if tcp { 16 } else { 6 });
            if partial {
                // As a sender with checksum offload leaves it; completed as the device would.
                let sum = naive_sum(&[&pseudo_header(&frame)]);
                frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
                offload.partial = Some(Partial { start: start as u16, offset: offset as u16 });
            }
            world.process(&mut frame, &mut offload).unwrap();
            if let Some(partial) = offload.partial {
                let start = usize::from(partial.start);
                let sum = !naive_sum(&[&frame[start..]]);
                let sum = if sum == 0 && !tcp { 0xffff } else { sum };
                frame[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
            }
            verify(&frame);
            frame
        };
        let request = Segment { from: (client, ports.0), to: service, flags: tcp.then_some(SYN) };
        let sent = forward(request);
        prop_assert_eq!(read(&sent), Segment { to: (host, ports.1), ..request });
        let reply = Segment { from: (host, ports.1), to: request.from, flags: tcp.then_some(SYN_ACK) };
        let sent = forward(reply);
        // But for the Ethernet header and the hop it took, it is what the service itself would have said.
        let own = request.back(reply.flags).frame(&payload);
        let from = if v6 { 22 } else { 26 };
        prop_assert_eq!(&sent[from..], &own[from..]);
    }
}
