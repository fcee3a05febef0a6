//! ICMP errors about the packets of tunnels: who is told of them, and what is believed.

use super::*;

/// An error of a router about a packet that was sent, to who sent it.
fn router_error(about: &[u8], kind: [u8; 2], info: u32, quoted: usize) -> Vec<u8> {
    let (mut frame, [kind, code], info) = (Vec::new(), kind, info.to_be_bytes());
    let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
    let quote = &about[14..about.len().min(14 + quoted)];
    if about[12..14] == [8, 0] {
        let to: [u8; 4] = about[26..30].try_into().unwrap();
        ethernet.ipv4([10, 8, 0, 1], to, 60).icmpv4_raw(kind, code, info).write(&mut frame, quote).unwrap();
    } else {
        let to: [u8; 16] = about[22..38].try_into().unwrap();
        let from = "fd08::1".parse::<core::net::Ipv6Addr>().unwrap().octets();
        ethernet.ipv6(from, to, 60).icmpv6_raw(kind, code, info).write(&mut frame, quote).unwrap();
    }
    frame
}

#[test]
fn an_error_about_a_tunnel_s_packet_reaches_the_client_as_about_its_own() {
    for tunnel in kinds() {
        for to in [ends()[0], ends()[1]] {
            for kind in [[3, 1], [3, 0], [11, 0], [3, 4]] {
                let (client, service) = requests()[0];
                let mut world = world(tunnel, to);
                let frame = with_fragmentation(udp(client, service).frame(&[5; 300]), true);
                let sent = plain(&mut world, &frame).unwrap();
                let error = router_error(&sent, kind, 1400, 500);
                let relayed = plain(&mut world, &error).unwrap();
                assert_eq!(world.hop, Some(ip("10.0.0.1")), "to the client");
                assert_eq!((&relayed[26..30], &relayed[30..34]), (&[10, 0, 0, 100][..], &[10, 9, 0, 1][..]));
                let end = 14 + usize::from(be16(&relayed, 16));
                assert_eq!((naive_sum(&[&relayed[14..34]]), naive_sum(&[&relayed[34..end]])), (0xffff, 0xffff));
                assert_eq!(relayed[34..36], kind);
                let mtu = if kind == [3, 4] { 1400 - overhead(tunnel, to) } else { 1400 };
                assert_eq!((be16(&relayed, 38), usize::from(be16(&relayed, 40))), (0, mtu));
                assert_eq!(relayed[42..end], a_hop_less(&frame)[14..][..end - 42], "what the client sent");
                assert!(end - 42 > 100);
                assert_eq!(world.destination(&services()[1]).stats.out_packets, 1);
            }
        }
    }
}

#[test]
fn the_mtu_that_a_router_told_of_is_kept_for_ten_minutes() {
    for to in [ends()[1], ends()[3]] {
        for (client, service) in requests() {
            let mut world = world(IPIP, to);
            let inside = |mtu| mtu - overhead(IPIP, to);
            let headers = if client.0.is_ipv6() { 48 } else { 28 };
            let of = |len: usize| with_fragmentation(udp(client, service).frame(&vec![1; len - headers]), true);
            let told = |world: &mut World| {
                world.said.frames.clear();
                match plain(world, &of(inside(1500))) {
                    Ok(_) => None,
                    Err(verdict) => {
                        assert_eq!(verdict, Verdict::Drop(Reason::TooBig));
                        let error = world.said.frames.pop().unwrap();
                        Some(usize::from(be16(&error, transport_at(&error) + 6)))
                    }
                }
            };
            let sent = plain(&mut world, &of(inside(1500))).unwrap();
            let kind = if to.is_ipv6() { [2, 0] } else { [3, 4] };
            for (mtu, expected) in [(1400, 1400), (1450, 1400), (60_000, 1400), (1350, 1350)] {
                // One in IPv6 is the local stack's as well.
                let _ = plain(&mut world, &router_error(&sent, kind, mtu, 500));
                assert_eq!(told(&mut world), Some(inside(expected)), "{to} {client:?} {mtu}");
            }
            assert!(plain(&mut world, &of(inside(1350))).is_ok());
            // What nobody can mean is not believed in IPv6 and counts as the least there is in IPv4; IPv6 has its own least.
            let _ = plain(&mut world, &router_error(&sent, kind, 100, 500));
            let least = match (to.is_ipv6(), client.0.is_ipv6()) {
                (true, _) => inside(1350),
                (false, true) => 1280,
                (false, false) => inside(552),
            };
            assert_eq!(told(&mut world), Some(least));
            world.seconds(299);
            let _ = plain(&mut world, &of(400));
            world.seconds(299);
            let _ = plain(&mut world, &of(400));
            world.seconds(3);
            assert_eq!(told(&mut world), None, "after ten minutes it is tried again");
        }
    }
}

#[test]
fn no_error_stops_what_ipv6_cannot_send_in_less() {
    let (client, service) = requests()[1];
    for tunnel in kinds() {
        for to in ends() {
            let mut world = world(tunnel, to);
            let least = udp(client, service).frame(&[1; 1280 - 48]);
            let sent = plain(&mut world, &least).unwrap();
            let (kind, mtus) = if to.is_ipv6() { ([2, 0], [1280, 1300]) } else { ([3, 4], [0, 1279]) };
            for mtu in mtus {
                let _ = plain(&mut world, &router_error(&sent, kind, mtu, 500));
                let (outer, inner) = open(&plain(&mut world, &least).unwrap());
                assert_eq!((world.fragment, inner), (0, a_hop_less(&least)), "{tunnel:?} {to} {mtu}");
                assert_eq!(outer.dont_fragment, to.is_ipv6(), "routers fragment it");
                world.said.frames.clear();
                let larger = udp(client, service).frame(&[1; 1281 - 48]);
                assert_eq!(plain(&mut world, &larger), Err(Verdict::Drop(Reason::TooBig)));
                let error = world.said.frames.pop().unwrap();
                assert_eq!(be16(&error, transport_at(&error) + 6), 1280);
            }
        }
    }
}

#[test]
fn ipv6_is_fragmented_over_ipv4_where_the_network_here_takes_less() {
    let (client, service) = requests()[1];
    for (to, len, fragment) in [
        (ends()[0], 1270, Ok(0)),
        (ends()[0], 1271, Ok(1264)),
        (ends()[0], 1280, Ok(1264)),
        (ends()[0], 1281, Err(())),
        (ends()[2], 1250, Ok(0)),
        (ends()[2], 1251, Err(())),
    ] {
        let mut world = World::with(|config| config.mtu = 1290);
        let config = DestinationConfig { tunnel: IPIP, ..DestinationConfig::new(Forward::Tunnel, 1) };
        world.balancer.add_destination(&services()[3], DestinationKey { address: to, port: 80 }, config).unwrap();
        let frame = udp(client, service).frame(&vec![1; len - 48]);
        match (plain(&mut world, &frame), fragment) {
            (Ok(sent), Ok(fragment)) => {
                assert_eq!((world.fragment, open(&sent).1), (fragment, a_hop_less(&frame)), "{to} {len}");
            }
            (Err(verdict), Err(())) => {
                assert_eq!(verdict, Verdict::Drop(Reason::TooBig));
                let error = world.said.frames.pop().unwrap();
                assert_eq!(be16(&error, transport_at(&error) + 6), 1280, "less would not be believed");
            }
            (sent, _) => panic!("{to} {len} {sent:x?}"),
        }
    }
}

#[test]
fn the_usual_tunnel_knows_of_the_mtu_on_the_way_too() {
    let (client, service) = requests()[0];
    let mut world = world(IPIP, ends()[0]);
    resolve(&mut world);
    let of = |len: usize| with_fragmentation(udp(client, service).frame(&vec![1; len - 28]), true);
    let sent = plain(&mut world, &of(1480)).unwrap();
    plain(&mut world, &router_error(&sent, [3, 4], 1400, 500)).unwrap();
    let passes = |world: &mut World, len: usize| {
        resolve(world);
        // The first finds the way again, and the second goes the short one.
        for _ in 0..2 {
            world.hop = None;
            let inner = open(&plain(world, &of(len)).unwrap()).1;
            assert_eq!((world.hop, &inner[..6]), (None, &[2, 0, 0, 0, 0, 11][..]));
            assert!(inner[12..] == a_hop_less(&of(len))[12..]);
        }
    };
    for _ in 0..3 {
        passes(&mut world, 1380);
        assert_eq!(plain(&mut world, &of(1381)), Err(Verdict::Drop(Reason::TooBig)));
        world.seconds(199);
    }
    world.seconds(4);
    passes(&mut world, 1480);
}

#[test]
fn errors_that_are_sent_on_leave_those_for_others_alone() {
    let [(client, service), (other, service_v6)] = requests();
    let mut world = world(IPIP, ends()[0]);
    let sent = plain(&mut world, &with_fragmentation(udp(client, service).frame(&[5; 300]), true)).unwrap();
    for kind in [[3, 4], [3, 1]] {
        let error = router_error(&sent, kind, 1400, 500);
        let limited = (0..200).filter(|_| plain(&mut world, &error) == Err(Verdict::Drop(Reason::Limited))).count();
        assert!(limited >= 100, "{limited}");
    }
    world.said.frames.clear();
    let large = udp(other, service_v6).frame(&[1; 1450]);
    assert_eq!(plain(&mut world, &large), Err(Verdict::Drop(Reason::TooBig)));
    assert_eq!(world.said.frames.len(), 1, "told that it is too big");
    let mut last = udp(client, service).frame(b"x");
    last[22] = 1;
    last[24..26].fill(0);
    let sum = !naive_sum(&[&last[14..34]]);
    last[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(plain(&mut world, &last), Err(Verdict::Drop(Reason::TtlExceeded)));
    assert_eq!(world.said.frames.len(), 2, "told that its time is over");
}

#[test]
fn errors_that_are_about_no_packet_of_ours_change_nothing() {
    let (client, service) = requests()[0];
    let mut world = world(gue(0), ends()[0]);
    let frame = with_fragmentation(udp(client, service).frame(&[5; 1400]), true);
    let sent = plain(&mut world, &frame).unwrap();
    let good = router_error(&sent, [3, 4], 1000, 500);
    let local = Err(Verdict::Local);
    // Where in the error which byte is another: our address in the quote, the server's, each of GUE's ports, of which the source
    // is what nobody guesses, GUE's header, a client.
    for at in [42 + 15, 42 + 19, 42 + 20, 42 + 21, 42 + 23, 42 + 28, 42 + 32 + 15] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad[36..38].fill(0);
        let sum = !naive_sum(&[&bad[34..]]);
        bad[36..38].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(plain(&mut world, &bad), local, "{at}");
    }
    assert_eq!(plain(&mut world, &router_error(&sent, [3, 4], 1000, 28)), local, "too little is quoted");
    assert_eq!(plain(&mut world, &router_error(&sent, [5, 1], 1000, 500)), local, "a redirect");
    let mut broken = good.clone();
    broken[41] ^= 1;
    assert_eq!(plain(&mut world, &broken), Err(Verdict::Drop(Reason::BadChecksum)));
    assert!(plain(&mut world, &frame).is_ok(), "nothing was learnt");
    assert!(plain(&mut world, &good).is_ok());
    assert_eq!(plain(&mut world, &frame), Err(Verdict::Drop(Reason::TooBig)));
    let limited = (0..200).filter(|_| plain(&mut world, &good) == Err(Verdict::Drop(Reason::Limited))).count();
    assert!((100..200).contains(&limited), "{limited}");
}

#[test]
fn an_error_of_the_client_goes_by_the_tunnel_too() {
    for (client, service) in requests() {
        let mut world = world(IPIP, ends()[1]);
        plain(&mut world, &udp(client, service).frame(b"request")).unwrap();
        let reply = udp(service, client).frame(b"reply");
        let mut error = Vec::new();
        let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
        match (client.0, service.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let builder = ethernet.ipv4(from.octets(), to.octets(), 64);
                builder.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &reply[14..]).unwrap();
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let builder = ethernet.ipv6(from.octets(), to.octets(), 64);
                builder.icmpv6_raw(1, 4, [0; 4]).write(&mut error, &reply[14..]).unwrap();
            }
            _ => panic!("two families"),
        }
        let (outer, inner) = open(&plain(&mut world, &error).unwrap());
        assert_eq!((outer.destination, inner), (ends()[1], a_hop_less(&error)));
    }
}
