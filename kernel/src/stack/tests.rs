//! The stack against another smoltcp, over a wire made of a list.

use super::*;
use ringlet_driver::features::Features;
use smoltcp::socket::tcp;
use smoltcp::wire::{Ipv4Packet, TcpPacket};
use std::collections::VecDeque;

#[derive(Default)]
struct Wire(VecDeque<(Vec<u8>, NetHdr)>);

impl Outlet for Wire {
    fn is_ready(&mut self) -> bool {
        self.0.len() < 64
    }

    fn send(&mut self, frame: &[u8], header: NetHdr) {
        self.0.push_back((frame.to_vec(), header));
    }
}

fn stack(mac: u8, address: &str, features: Features) -> Stack {
    let facts = LinkFacts::new(features, [2, 0, 0, 0, 0, mac], 1500);
    let (address, prefix) = address.split_once('/').unwrap();
    let cidr = Cidr { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() };
    Stack::new(facts, &[cidr], None, None, 7, 0)
}

fn socket(stack: &mut Stack) -> smoltcp::iface::SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    // Large segments from the beginning.
    socket.set_congestion_control(tcp::CongestionControl::None);
    stack.sockets().add(socket)
}

/// Carries frames between two stacks until both are quiet; returns the largest `gso_size` marked frame seen.
fn exchange(a: &mut Stack, b: &mut Stack, now: &mut u64) -> usize {
    let (mut to_a, mut to_b) = (Wire::default(), Wire::default());
    let mut largest = 0;
    for _ in 0..1000 {
        *now += 100_000;
        a.poll(*now, &mut to_b);
        b.poll(*now, &mut to_a);
        while let Some((frame, header)) = to_b.0.pop_front() {
            if header.is_gso() {
                largest = largest.max(frame.len());
            }
            b.receive(&frame, &header, *now, &mut to_a);
        }
        while let Some((frame, header)) = to_a.0.pop_front() {
            a.receive(&frame, &header, *now, &mut to_b);
        }
    }
    largest
}

/// Sends `data` from one stack to the other and returns what arrived, and the longest segment that was left to the device.
fn transfer(features: Features, ip: [&str; 2]) -> (usize, usize) {
    let (mut a, mut b) = (stack(1, ip[0], features), stack(2, ip[1], features));
    let (sa, sb) = (socket(&mut a), socket(&mut b));
    b.sockets().get_mut::<tcp::Socket>(sb).listen(80).unwrap();
    let target: IpAddr = ip[1].split('/').next().unwrap().parse().unwrap();
    let Stack { interface, sockets, .. } = &mut a;
    sockets.get_mut::<tcp::Socket>(sa).connect(interface.context(), (target, 80), 1234).unwrap();
    let mut now = 0;
    exchange(&mut a, &mut b, &mut now);
    let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let sent = a.sockets().get_mut::<tcp::Socket>(sa).send_slice(&data).unwrap();
    let largest = exchange(&mut a, &mut b, &mut now);
    let mut received = vec![0; data.len()];
    let n = b.sockets().get_mut::<tcp::Socket>(sb).recv_slice(&mut received).unwrap();
    assert_eq!(received[..n], data[..sent]);
    (n, largest)
}

#[test]
fn data_arrives_with_and_without_offloads() {
    let v4 = ["10.0.0.1/24", "10.0.0.2/24"];
    assert_eq!(transfer(Features::empty(), v4), (100_000, 0));
    assert_eq!(transfer(Features::CSUM, v4), (100_000, 0));
    let (n, largest) = transfer(Features::CSUM | Features::HOST_TSO4, v4);
    assert_eq!(n, 100_000);
    assert!(largest > 30_000, "{largest}");
    let v6 = ["fd00::1/64", "fd00::2/64"];
    assert_eq!(transfer(Features::empty(), v6), (100_000, 0));
    let (n, largest) = transfer(Features::CSUM | Features::HOST_TSO4 | Features::HOST_TSO6, v6);
    assert_eq!(n, 100_000);
    assert!(largest > 30_000, "{largest}");
}

/// An ARP request from 10.0.0.1 for `target`.
fn arp_request(target: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(target);
    frame
}

#[test]
fn arp_is_answered_for_every_address_of_ours_and_no_other() {
    let mut stack = stack(2, "10.0.0.2/24", Features::empty());
    stack.set_service_addresses(["10.0.0.100".parse().unwrap(), "192.0.2.1".parse().unwrap()].into_iter());
    for (target, answered) in
        [([10, 0, 0, 2], true), ([10, 0, 0, 100], true), ([192, 0, 2, 1], true), ([10, 0, 0, 3], false)]
    {
        let mut wire = Wire::default();
        stack.receive(&arp_request(target), &NetHdr::default(), 1, &mut wire);
        assert_eq!(wire.0.len(), usize::from(answered), "{target:?}");
        if let Some((frame, _)) = wire.0.pop_front() {
            assert_eq!((&frame[28..32], &frame[22..28]), (&target[..], &[2, 0, 0, 0, 0, 2][..]));
        }
    }
}

/// An echo request, or a SYN to a port where nobody listens, from 10.0.0.1.
fn probe(target: [u8; 4], tcp: bool) -> Vec<u8> {
    let payload: &[u8] = if tcp {
        &[0x30, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0]
    } else {
        &[8, 0, 0, 0, 1, 2, 0, 3, 9, 9]
    };
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([0x45, 0, 0, 20 + payload.len() as u8, 0, 0, 0, 0, 64, if tcp { 6 } else { 1 }, 0, 0, 10, 0, 0, 1]);
    frame.extend(target);
    frame.extend(payload);
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
    if tcp {
        let (source, target) = ([10, 0, 0, 1].into(), core::net::Ipv4Addr::from(target));
        let source = IpAddr::V4(source);
        TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&source.into(), &IpAddr::V4(target).into());
    } else {
        smoltcp::wire::Icmpv4Packet::new_unchecked(packet.payload_mut()).fill_checksum();
    }
    frame
}

#[test]
fn services_answer_pings_and_refuse_connections_that_are_not_balanced() {
    let mut stack = stack(2, "10.0.0.2/24", Features::empty());
    stack.set_service_addresses(["10.0.0.100".parse().unwrap()].into_iter());
    for target in [[10, 0, 0, 2], [10, 0, 0, 100]] {
        let mut wire = Wire::default();
        stack.receive(&arp_request(target), &NetHdr::default(), 1, &mut wire);
        wire.0.clear();
        stack.receive(&probe(target, false), &NetHdr::default(), 2, &mut wire);
        let (pong, _) = wire.0.pop_front().expect("an echo reply");
        assert_eq!((&pong[26..30], pong[34]), (&target[..], 0));
        stack.receive(&probe(target, true), &NetHdr::default(), 2, &mut wire);
        let (reset, _) = wire.0.pop_front().expect("a reset");
        assert_eq!(reset[47] & 4, 4);
        let mut damaged = probe(target, true);
        damaged[40] ^= 1;
        stack.receive(&damaged, &NetHdr::default(), 2, &mut wire);
        assert!(wire.0.is_empty());
    }
}
