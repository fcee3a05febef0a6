//! The whole machine, on a fake device, among neighbours.

mod offload;
mod room;
mod round_trip;
mod world;

use super::*;
use ringlet_balancer::{DestinationKey, ServiceKey};
use ringlet_driver::fake::{Device, FakeHal, FakeTransport, Mischief};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use std::format;
use std::string::{String, ToString};
use std::vec;

use world::{ALL, COMMAND_LINE, MAC, Peer, RULES, World};

/// The records of one type.
fn records(world: &World, kind: &str) -> Vec<serde_json::Value> {
    let said = world.platform.console();
    said.lines()
        .filter_map(|line| line.strip_prefix('\u{1e}'))
        .map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap())
        .filter(|record| record["type"] == kind)
        .collect()
}

#[test]
fn it_boots_with_rules_and_says_so() {
    let mut world = World::new(ALL, "", RULES);
    let boot = &records(&world, "boot")[0];
    assert_eq!(boot["mac"], "52:54:00:12:34:02");
    assert_eq!(boot["features"], ALL.bits());
    assert_eq!(boot["addresses"], serde_json::json!(["10.0.0.2/24", "fd00::2/64"]));
    assert_eq!(records(&world, "configuration")[0]["destinations"], 3);
    assert_eq!(records(&world, "service").len(), 3);
    assert_eq!(records(&world, "destination")[0]["forwarding"], "masq");
    let ready = &records(&world, "ready")[0];
    assert_eq!((&ready["services"], &ready["rules_failed"]), (&3.into(), &0.into()));
    world.run(40_000);
    assert!(records(&world, "status").len() >= 3);
    assert!(world.platform.idles() > 0, "it sleeps when there is nothing to do");
    assert_eq!(world.ended, None);
}

#[test]
fn interrupts_are_acknowledged_after_each_sleep() {
    let mut world = World::new(ALL, "", RULES);
    for _ in 0..10 {
        world.device.raise_interrupt();
        let slept = world.platform.idles();
        for _ in 0..100 {
            world.step();
            if world.platform.idles() > slept {
                break;
            }
        }
        assert!(world.platform.idles() > slept, "it sleeps when there is nothing to do");
        assert!(!world.device.interrupt_is_raised(), "an interrupt that is a level would not come again");
    }
}

#[test]
fn bad_lines_of_the_rule_file_are_named_and_the_rest_counts() {
    let rules = "-A -t 10.0.0.100:80 -s wlc\n-A -t nowhere\n-a -t 10.0.0.100:81 -r 10.0.0.11 -m\n-A -t 10.0.0.100:80\n";
    let world = World::new(ALL, "", rules);
    let said = world.platform.console();
    for line in ["rules: line 2: ", "rules: line 3: ", "rules: line 4: "] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(records(&world, "ready")[0]["rules_failed"], 3);
    assert_eq!(world.running.kernel.balancer.services().count(), 1);
    let many = "nonsense\n".repeat(100);
    let world = World::new(ALL, "", &many);
    assert!(world.platform.console().contains("rules: 80 more lines were refused"));
}

#[test]
fn features_that_are_refused_and_missing_are_reported() {
    let offered = ALL - Features::CSUM - Features::MTU;
    let world = World::new(offered, "virtio_net.features=-mrg_rxbuf,+mtu", RULES);
    let said = world.platform.console();
    assert!(said.contains("the device does not offer mtu"), "{said}");
    assert!(said.contains("for want of what it needs: host_tso4,host_tso6"), "{said}");
    assert!(!world.device.accepted().contains(Features::MRG_RXBUF));
}

/// A client behind the gateway gets data from and to the server through the service.
fn balanced_transfer(offered: Features, peers: Features, from: &str, to: &str) -> World {
    let mut world = World::new(offered, "", RULES);
    world.peers = vec![Peer::gateway(peers), Peer::server(peers)];
    let server = world.peers[1].listen(80);
    let client = world.peers[0].connect((from, 40000), (to, 80));
    world.run(100);
    assert!(world.peers[0].tcp(client).may_send(), "{from} over {offered}: {}", world.peers[0].tcp(client).state());
    let data: Vec<u8> = (0..200_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    world.peers[0].send(client, &data);
    world.peers[1].send(server, &data[..100_000]);
    world.run(800);
    assert!(world.peers[1].receive(server) == data, "to the server");
    assert!(world.peers[0].receive(client) == data[..100_000], "to the client");
    world
}

#[test]
fn tcp_is_balanced_with_all_offloads_and_with_none() {
    for (from, to) in [("10.9.0.5", "10.0.0.100"), ("fd09::5", "fd00::100")] {
        for offered in [
            ALL,
            ALL - Features::CSUM,
            Features::VERSION_1 | Features::MAC,
            ALL - Features::HOST_TSO4,
            ALL - Features::MRG_RXBUF,
        ] {
            let peers = Features::from_bits_retain(0);
            let world = balanced_transfer(offered, peers, from, to);
            assert_eq!(world.running.kernel.balancer.total().connections, 1);
        }
    }
}

#[test]
fn super_frames_pass_whole_where_both_sides_can_and_are_cut_where_not() {
    let large = Features::CSUM | Features::HOST_TSO4;
    let through = |offered| balanced_transfer(offered, large, "10.9.0.5", "10.0.0.100");
    let longest = |world: &World| world.peers[1].seen.iter().map(|(_, frame)| frame.len()).max().unwrap();
    assert!(longest(&through(ALL)) > 20_000);
    // In whole, out in pieces; checksums by the device or not.
    for offered in [ALL - Features::HOST_TSO4, ALL - Features::CSUM] {
        let world = through(offered);
        assert!(longest(&world) <= 1514);
        assert!(world.running.kernel.facts().features.contains(Features::GUEST_TSO4));
        let software = offered - Features::HOST_TSO4;
        assert!(software != ALL);
    }
}

/// An Ethernet frame with a UDP datagram over IPv4, checksums and all.
fn udp(to: [u8; 6], source: ([u8; 4], u16), target: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    use smoltcp::wire::{Ipv4Packet, UdpPacket};
    let mut frame = vec![0; 14 + 20 + 8 + payload.len()];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12] = 8;
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(28 + payload.len() as u16);
    ip.set_hop_limit(64);
    ip.set_next_header(smoltcp::wire::IpProtocol::Udp);
    ip.set_src_addr(source.0.into());
    ip.set_dst_addr(target.0.into());
    ip.fill_checksum();
    let mut datagram = UdpPacket::new_unchecked(ip.payload_mut());
    datagram.set_src_port(source.1);
    datagram.set_dst_port(target.1);
    datagram.set_len(8 + payload.len() as u16);
    datagram.payload_mut().copy_from_slice(payload);
    let (source, target) = (core::net::Ipv4Addr::from(source.0), core::net::Ipv4Addr::from(target.0));
    datagram.fill_checksum(&source.into(), &target.into());
    frame
}

#[test]
fn udp_waits_for_the_neighbour_and_is_rewritten() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
    for port in 0..3 {
        let frame = udp(MAC, ([10, 9, 0, 5], 5000 + port), ([10, 0, 0, 100], 53), b"query");
        assert!(world.device.inject(NetHdr::default(), &frame));
    }
    world.run(20);
    let arrived: Vec<_> = world.peers[1].seen.iter().filter(|(_, f)| f[12..14] == [8, 0] && f[23] == 17).collect();
    assert_eq!(arrived.len(), 3);
    for (_, frame) in arrived {
        let expected = udp([2, 0, 0, 0, 0, 11], ([10, 9, 0, 5], 0), ([10, 0, 0, 11], 53), b"query");
        assert_eq!(frame[..6], expected[..6]);
        assert_eq!(frame[26..34], expected[26..34]);
        let packet = smoltcp::wire::Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let datagram = smoltcp::wire::UdpPacket::new_checked(packet.payload()).unwrap();
        assert!(packet.verify_checksum());
        assert!(datagram.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
    }
}

#[test]
fn frames_for_neighbours_that_do_not_answer_are_bounded_and_dropped() {
    let rules = "-A -u 10.0.0.100:53 -s rr\n-a -u 10.0.0.100:53 -r 10.0.0.77:53 -m\n";
    let mut world = World::new(ALL, "", rules);
    for port in 0..200 {
        let frame = udp(MAC, ([10, 9, 0, 5], 5000 + port), ([10, 0, 0, 100], 53), b"query");
        world.device.inject(NetHdr::default(), &frame);
        world.step();
    }
    let gauges = world.running.kernel.gauges(&*world.platform, 0);
    assert!((1..=32).contains(&gauges.waiting), "{}", gauges.waiting);
    world.run(60_000);
    let gauges = world.running.kernel.gauges(&*world.platform, 0);
    assert_eq!(gauges.waiting, 0);
    let lost = gauges.counters.lost;
    assert!(lost[Loss::Unreachable as usize] > 0 && lost[Loss::WaitingFull as usize] > 0);
    assert_eq!(world.running.kernel.balancer.counters().icmp_sent, lost[Loss::Unreachable as usize], "each is told");
}

#[test]
fn the_status_page_and_the_metrics_are_served() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty())];
    let page = world.http("GET / HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("TCP  10.0.0.100:80 wlc\n  -> 10.0.0.11:80"), "{page}");
    assert!(page.contains("TCP  [fd00::100]:80 rr"), "{page}");
    let metrics = world.http("GET /metrics HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n");
    assert!(metrics.contains("Content-Type: text/plain; version=0.0.4"), "{metrics}");
    let line = "ringlet_destination_weight{protocol=\"tcp\",address=\"10.0.0.100\",port=\"80\",\
                destination=\"10.0.0.11\",destination_port=\"80\",forwarding=\"masq\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
    assert_eq!(metrics.matches("# TYPE ringlet_service_connections_total counter\n").count(), 1);
    assert!(world.http("GET /x HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(world.http("POST / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(world.http("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let head = world.http("HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    // More than any buffer holds.
    for i in 0..400 {
        let key = ServiceKey::tcp(format!("10.1.{}.{}", i / 200, 1 + i % 200).parse().unwrap(), 80);
        let balancer = &mut world.running.kernel.balancer;
        let config =
            ringlet_balancer::ServiceConfig::new(ringlet_balancer::Family::V4, ringlet_balancer::Scheduler::RoundRobin);
        balancer.add_service(key, config).unwrap();
    }
    let metrics = world.http("GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(metrics.matches("\nringlet_service_in_bytes_total{").count(), 403);
    assert!(metrics.ends_with('\n') && metrics.len() > 100_000);
}

#[test]
fn the_machine_itself_serves_behind_a_service() {
    let rules = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.2:9100 -m\n\
                 -A -t [fd00::100]:80 -s rr\n-a -t [fd00::100]:80 -r [fd00::2]:9100 -m\n\
                 -A -t 10.0.0.101:9100 -s rr\n-a -t 10.0.0.101:9100 -r 10.0.0.2 -g\n";
    for features in [ALL, Features::VERSION_1 | Features::MAC] {
        let mut world = World::new(features, "", rules);
        world.peers = vec![Peer::gateway(features)];
        // Long enough to come in super-frames.
        let page = world.http_at(("10.0.0.100", 80), "GET /metrics HTTP/1.0\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with('\n') && page.len() > 4000, "{page}");
        let total = world.running.kernel.balancer.total();
        assert!(total.connections == 1 && total.out_packets > 3, "{total:?}");
        // It serves at its first address only: whoever comes to another is turned away by whom he came to.
        for (from, to, port) in [("fd09::5", "fd00::100", 80), ("10.9.0.5", "10.0.0.101", 9100)] {
            let socket = world.peers[0].connect((from, 50000), (to, port));
            // Its stack asks for the client's neighbour first, and the client tries again after a second.
            let closed = (0..30_000).any(|_| {
                world.step();
                world.peers[0].tcp(socket).state() == smoltcp::socket::tcp::State::Closed
            });
            assert!(closed, "{to}");
        }
        assert_eq!(world.running.kernel.balancer.total().out_packets, total.out_packets + 2);
        world.assert_nothing_is_lost();
    }
}

#[test]
fn a_client_that_says_nothing_is_given_up() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty())];
    let sockets: Vec<_> =
        (0..12).map(|i| world.peers[0].connect(("10.9.0.5", 50000 + i), ("10.0.0.2", 9100))).collect();
    world.run(150_000);
    assert!(sockets.into_iter().all(|socket| !world.peers[0].tcp(socket).may_send()));
    assert!(world.http("GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_crowd_is_served_one_after_the_other() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty())];
    let sockets: Vec<_> =
        (0..30).map(|i| world.peers[0].connect(("10.9.0.5", 50000 + i), ("10.0.0.2", 9100))).collect();
    let mut served = 0;
    let mut asked = vec![false; sockets.len()];
    for _ in 0..60_000 {
        world.step();
        for (&socket, asked) in sockets.iter().zip(&mut asked) {
            if !*asked && world.peers[0].tcp(socket).may_send() {
                world.peers[0].send(socket, b"GET / HTTP/1.0\r\n\r\n");
                *asked = true;
            }
            served += usize::from(world.peers[0].receive(socket).starts_with(b"HTTP/1.1 200 "));
            if *asked && !world.peers[0].tcp(socket).may_recv() {
                world.peers[0].tcp(socket).close();
            }
        }
    }
    assert_eq!(served, sockets.len());
    assert!(world.running.kernel.gauges(&*world.platform, 0).stack.crowded > 0);
}

#[test]
fn control_changes_the_configuration_and_lists_it() {
    let mut world = World::new(ALL, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty())];
    let socket = world.peers[0].connect(("10.9.0.5", 42000), ("10.0.0.2", 9101));
    world.run(60);
    // IPVS_CMD_FLUSH and IPVS_CMD_GET_SERVICE with NLM_F_DUMP, by hand.
    let message = |command: u8, flags: u16| {
        let mut bytes = 20_u32.to_be_bytes().to_vec();
        bytes.extend(20_u32.to_ne_bytes());
        bytes.extend(ringlet_balancer::wire::FAMILY_ID.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, command, 1, 0, 0]);
        bytes
    };
    let frames = |bytes: &[u8]| {
        let (mut rest, mut frames) = (bytes, vec![]);
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(u16::from_ne_bytes([frame[4], frame[5]]));
            rest = after;
        }
        frames
    };
    world.peers[0].send(socket, &message(4, 0x301));
    world.run(60);
    let listed = frames(&world.peers[0].receive(socket));
    let family = ringlet_balancer::wire::FAMILY_ID;
    assert_eq!(listed, [family, family, family, 3], "three services and NLMSG_DONE");
    world.peers[0].send(socket, &message(17, 5));
    world.run(60);
    assert_eq!(frames(&world.peers[0].receive(socket)), [2], "acknowledged");
    assert_eq!(world.running.kernel.balancer.services().count(), 0);
    world.run(5000);
    assert_eq!(records(&world, "configuration").last().unwrap()["services"], 0);
    world.peers[0].send(socket, &[0xff; 16]);
    world.run(60);
    assert!(!world.peers[0].tcp(socket).may_recv(), "closed over nonsense");
    let gauges = world.running.kernel.gauges(&*world.platform, 0);
    assert_eq!((gauges.services.control_malformed, gauges.services.control_messages), (1, 2));
}

#[test]
fn a_device_that_lies_is_reset_and_given_up_when_it_does_not_stop() {
    let mut world = World::new(ALL - Features::RING_RESET, "", RULES);
    world.peers = vec![Peer::gateway(Features::empty())];
    for i in 0..5 {
        assert_eq!(world.ended, None, "{i}");
        world.device.misbehave(0, Mischief::Id(0xffff));
        world.device.inject(NetHdr::default(), &[0xff; 60]);
        world.run(5);
    }
    let page = world.http("GET / HTTP/1.0\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 "), "it works after the resets: {page}");
    world.device.misbehave(0, Mischief::Id(0xfffe));
    world.device.inject(NetHdr::default(), &[0xff; 60]);
    world.run(5);
    assert_eq!(world.ended, Some(DRIVER_FAILURE));
    let said = world.platform.console();
    assert!(said.contains("it is reset") && said.contains("given up"), "{said}");
}

#[test]
fn a_queue_in_which_the_device_lies_is_reset_alone() {
    for offered in [ALL, ALL - Features::RING_PACKED] {
        let mut world = World::new(offered, "", RULES);
        world.peers = vec![Peer::gateway(Features::empty())];
        let resets = world.device.resets();
        for queue in [0, 1, 0, 1] {
            world.device.misbehave(queue, if queue == 0 { Mischief::Id(0xffff) } else { Mischief::Replay });
            world.device.inject(NetHdr::default(), &[0xff; 60]);
            let page = world.http("GET / HTTP/1.0\r\n\r\n");
            assert!(page.starts_with("HTTP/1.1 200 "), "it works after the reset: {page}");
        }
        assert_eq!((world.ended, world.device.resets()), (None, resets), "the device itself was not reset");
        let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
        assert_eq!((counters.resets, counters.queue_resets), (0, 4));
        let said = world.platform.console();
        assert_eq!(said.matches("the queue is reset").count(), 4, "{said}");
        // One lie too many.
        for _ in 0..2 {
            world.device.misbehave(0, Mischief::Id(0xfffe));
            world.device.inject(NetHdr::default(), &[0xff; 60]);
            world.run(5);
        }
        assert_eq!(world.ended, Some(DRIVER_FAILURE));
    }
}

#[test]
fn queues_are_reset_under_load_when_asked_for_and_nothing_is_lost() {
    for offered in [ALL, ALL - Features::RING_PACKED, ALL - Features::IN_ORDER] {
        let mut world = World::new(offered, "reset_queues=1", RULES);
        world.peers = vec![Peer::gateway(Features::empty())];
        for _ in 0..5 {
            let page = world.http("GET /metrics HTTP/1.0\r\n\r\n");
            assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("ringlet_device_queue_resets_total"), "{page}");
        }
        let counters = world.running.kernel.gauges(&*world.platform, 0).counters;
        assert!(counters.queue_resets >= 20, "{}", counters.queue_resets);
        assert_eq!((counters.resets, counters.lost_in_all(), world.ended), (0, 0, None));
        world.assert_nothing_is_lost();
    }
    let mut world = World::new(ALL - Features::RING_RESET, "reset_queues=1", RULES);
    world.run(100);
    assert!(world.platform.console().contains("was not agreed on (ring_reset)"));
}

#[test]
fn a_device_that_asks_for_a_reset_gets_one() {
    let mut world = World::new(ALL, "", RULES);
    let before = world.device.resets();
    world.device.fail();
    world.run(60_000);
    assert_eq!(world.ended, None);
    // Once to stop it, once to begin anew.
    assert_eq!(world.device.resets(), before + 2);
    // As often as it asks, if it works in between: what stands behind it may have been started again.
    for _ in 0..8 {
        world.device.fail();
        world.run(20_000);
    }
    assert_eq!((world.ended, world.device.resets()), (None, before + 18));
    world.device.fail();
    world.device.set_stuck(true);
    world.run(60_000);
    assert_eq!(world.ended, Some(DRIVER_FAILURE));
}

#[test]
fn the_link_is_watched() {
    let mut world = World::new(ALL, "", RULES);
    world.device.set_link(false);
    // An interrupt without a frame behind it is reason enough to look; 100 microseconds a step.
    world.run(11_000);
    assert!(world.platform.console().contains("device: the link is down"));
}

#[test]
fn a_device_that_cannot_be_driven_ends_the_machine_with_a_reason() {
    let device = Device::new(ALL - Features::VERSION_1, MAC, 1500);
    let Err((code, said)) = World::with(device, COMMAND_LINE, RULES) else { panic!("it boots") };
    assert_eq!(code, DRIVER_FAILURE);
    assert!(said.contains("error: network device: the device is a legacy one"), "{said}");
}

#[test]
fn every_buffer_comes_back() {
    let mut world = balanced_transfer(ALL, Features::CSUM | Features::HOST_TSO4, "10.9.0.5", "10.0.0.100");
    world.run(3000);
    world.assert_nothing_is_lost();
}

#[test]
fn no_more_rules_are_taken_than_the_heap_holds() {
    let rules: String = (0..3000).map(|i| format!("-A -t 10.{}.{}.1:80\n", i / 200, i % 200)).collect();
    let world = World::new(ALL, "", &rules);
    let services = world.running.kernel.balancer.services().count() as u64;
    assert!((700..1500).contains(&services), "{services}");
    assert_eq!(records(&world, "ready")[0]["rules_failed"], 3000 - services);
    assert!(world.platform.console().contains("out of memory"));
}

#[test]
fn a_fault_on_purpose_is_made_after_boot() {
    let device = Device::new(ALL, MAC, 1500);
    let platform = crate::testing::TestPlatform::new();
    device.set_stuck(false);
    let command_line = format!("{COMMAND_LINE} crash=panic");
    let machine = world::machine(&device, &command_line, "");
    // It goes on where a fault cannot be made; the device that fails at once ends it.
    device.fail();
    let boxed: String = {
        device.set_stuck(true);
        let code = run::<FakeHal, FakeTransport, _>(machine, &platform);
        assert_eq!(code, DRIVER_FAILURE);
        platform.console().to_string()
    };
    assert!(boxed.contains("error: network device"), "{boxed}");
}

mod hostile {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = (NetHdr, Vec<u8>)> {
        let header = (any::<u8>(), 0..6u8, any::<[u16; 4]>()).prop_map(|(flags, gso_type, [a, b, c, d])| NetHdr {
            flags: flags & 3,
            gso_type,
            hdr_len: a,
            gso_size: b,
            csum_start: c % 128,
            csum_offset: d % 32,
            num_buffers: 1,
        });
        let kinds = prop_oneof![Just([8, 0]), Just([8, 6]), Just([0x86, 0xdd]), any::<[u8; 2]>()];
        let body = proptest::collection::vec(any::<u8>(), 0..200);
        (prop_oneof![Just(NetHdr::default()), header], kinds, body, any::<[bool; 4]>()).prop_map(
            |(header, kind, mut body, [to_us, sound, from_us, service])| {
                let mut frame = if to_us { MAC.to_vec() } else { vec![0xff; 6] };
                frame.extend([2, 0, 0, 0, 0, 1]);
                frame.extend(kind);
                if sound && kind == [8, 0] && body.len() >= 20 {
                    body[0] = 0x45;
                    let length = body.len() as u16;
                    body[2..4].copy_from_slice(&length.to_be_bytes());
                    body[6..8].fill(0);
                    let target = [10, 0, 0, if service { 100 } else { 2 }];
                    body[16..20].copy_from_slice(&target);
                    body[12..16].copy_from_slice(&[10, if from_us { 0 } else { 9 }, 0, 5]);
                    smoltcp::wire::Ipv4Packet::new_unchecked(&mut body[..]).fill_checksum();
                }
                frame.extend(body);
                (header, frame)
            },
        )
    }

    /// What a client sends while it asks for a page and over a control connection.
    fn conversation() -> Vec<Vec<u8>> {
        let mut world = World::new(ALL, "", RULES);
        world.peers = vec![Peer::gateway(Features::empty())];
        world.http("GET /metrics HTTP/1.0\r\n\r\n");
        let socket = world.peers[0].connect(("10.9.0.5", 42000), ("10.0.0.2", 9101));
        world.run(60);
        world.peers[0].send(socket, &[0, 0, 0, 20, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0]);
        world.run(60);
        core::mem::take(&mut world.injected)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn no_damaged_conversation_makes_it_panic(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), any::<bool>()), 0..60),
        ) {
            let mut frames = conversation();
            for (at, value, mend) in damage {
                let frame = at.get(&frames).clone();
                let place = frames.iter().position(|f| *f == frame).unwrap();
                let byte = usize::from(value) % frame.len();
                frames[place][byte] ^= value | 1;
                if mend && frame.len() > 34 && frames[place][12..15] == [8, 0, 0x45] {
                    smoltcp::wire::Ipv4Packet::new_unchecked(&mut frames[place][14..]).fill_checksum();
                }
            }
            let mut world = World::new(ALL, "", RULES);
            for frame in &frames {
                // The device says that it has looked at the checksum, so that the stack gets to see the damage.
                world.device.inject(NetHdr { flags: NetHdr::DATA_VALID, ..NetHdr::default() }, frame);
                world.step();
            }
            world.run(100);
            prop_assert_eq!(world.ended, None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn no_frames_make_it_panic_or_lose_buffers(
            frames in proptest::collection::vec(frame(), 1..100),
            offered in prop_oneof![
                Just(ALL),
                Just(ALL - Features::RING_PACKED),
                Just(Features::VERSION_1 | Features::MAC),
                Just(ALL - Features::CSUM),
            ],
        ) {
            let mut world = World::new(offered, "", RULES);
            for (header, frame) in &frames {
                world.device.inject(*header, frame);
                world.step();
            }
            world.run(100_000);
            prop_assert_eq!(world.ended, None);
            world.assert_nothing_is_lost();
        }
    }
}

#[test]
fn destinations_are_named_by_their_key() {
    let world = World::new(ALL, "", RULES);
    let web = ServiceKey::tcp("10.0.0.100".parse().unwrap(), 80);
    let server = DestinationKey { address: "10.0.0.11".parse().unwrap(), port: 80 };
    assert_eq!(world.running.kernel.balancer.destinations(&web).unwrap().next().unwrap().key, server);
}

#[test]
fn any_mtu_that_a_device_may_tell_is_lived_with() {
    for mtu in [68, 69, 80, 100, 576, 1279, 1280, 9000, 65535] {
        for offered in [ALL, ALL - Features::CSUM, ALL - Features::GUEST_LARGE - Features::MRG_RXBUF] {
            let device = Device::new(offered, MAC, mtu);
            let mut world =
                World::with(device, COMMAND_LINE, RULES).unwrap_or_else(|(_, said)| panic!("{mtu}: {said}"));
            world.peers = vec![Peer::gateway(Features::empty()), Peer::server(Features::empty())];
            let page = world.http("GET / HTTP/1.0\r\n\r\n");
            assert!(page.starts_with("HTTP/1.1 200 "), "an MTU of {mtu}, {offered}: {page}");
            world.peers[1].listen(80);
            let client = world.peers[0].connect(("fd09::5", 40000), ("fd00::100", 80));
            // smoltcp asks for one neighbour a second.
            world.run(20_000);
            let answered = world.peers[0].tcp(client).may_send();
            assert!(answered || mtu < 1280, "an MTU of {mtu}, {offered}");
            // IPv6 knows no MTU below 1280.
            let most = |frame: &[u8]| 14 + usize::from(if frame[12] == 0x86 { mtu.max(1280) } else { mtu });
            for (header, frame) in &world.peers[0].seen {
                assert!(header.is_gso() || frame.len() <= most(frame), "an MTU of {mtu}: {frame:x?}");
            }
            assert_eq!(world.ended, None);
        }
    }
}
