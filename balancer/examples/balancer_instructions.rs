//! What `cargo xtask test instructions` counts: bursts of packets through a balancer, under callgrind, which counts in
//! [`measured`] only. `balancer_instructions WORKLOAD PACKETS`.

use std::net::IpAddr;

use etherparse::{ArpOperation, ArpPacket, EtherType, PacketBuilder};
use ringlet_balancer::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BURST: usize = 32;
/// Clients that come again and again.
const FLOWS: u32 = 4096;

/// Bytes in front of a frame, as the driver has them.
const ROOM: usize = 128;

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn transmit(&mut self, _: &[u8]) {}
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

/// What is counted.
#[inline(never)]
fn measured(balancer: &mut Balancer, burst: &mut [Packet<'_>], now: Instant) {
    balancer.process(burst, now, &mut Deaf);
    // Callgrind must see this function end: the call is not to become a jump.
    std::hint::black_box(());
}

/// What a frame carries.
#[derive(Clone, Copy)]
enum Kind {
    Udp,
    /// The first segment of a connection.
    Syn,
    /// Any other one.
    Ack,
}

/// A frame of a client to the service.
fn frame(flow: u32, kind: Kind) -> Vec<u8> {
    let [_, _, high, low] = flow.to_be_bytes();
    let builder = PacketBuilder::ethernet2(NEIGHBOUR, MAC).ipv4([10, 9, high, low], [10, 0, 0, 100], 64);
    let (mut frame, port) = (Vec::new(), 1024 + (flow >> 16) as u16);
    let written = match kind {
        Kind::Udp => builder.udp(port, 80).write(&mut frame, b"payload"),
        Kind::Syn => builder.tcp(port, 80, 0, 1000).syn().write(&mut frame, b""),
        Kind::Ack => builder.tcp(port, 80, 1, 1000).ack(1).write(&mut frame, b"payload"),
    };
    written.expect("a frame");
    frame
}

/// The balancer, which knows its neighbours.
fn balancer(forward: Forward) -> Balancer {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let mut balancer = Balancer::new(Config {
        addresses: vec!["10.0.0.2/24".parse().expect("an address")],
        gateways: vec![address("10.0.0.1")],
        connections: 1 << 20,
        ..Config::new(MAC, [1, 2])
    });
    for key in [ServiceKey::tcp(address("10.0.0.100"), 80), ServiceKey::udp(address("10.0.0.100"), 80)] {
        balancer.add_service(key, ServiceConfig::new(Family::V4, Scheduler::RoundRobin)).expect("a service");
        let server = DestinationKey { address: address("10.0.0.11"), port: 80 };
        balancer.add_destination(&key, server, DestinationConfig::new(forward, 1)).expect("a destination");
    }
    // The first packet asks for the server, whose answer follows.
    process(&mut balancer, &[frame(0, Kind::Udp)], Instant::from_secs(1));
    let arp = ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &NEIGHBOUR,
        &[10, 0, 0, 11],
        &MAC,
        &[10, 0, 0, 2],
    )
    .expect("an answer");
    let mut answer = Vec::new();
    PacketBuilder::ethernet2(NEIGHBOUR, MAC).arp(arp).write(&mut answer).expect("an answer");
    process(&mut balancer, &[answer], Instant::from_secs(1));
    balancer
}

/// Frames with room in front of them.
fn burst_of<'a>(frames: &'a mut [Vec<u8>], rooms: &'a mut [[u8; ROOM]]) -> impl Iterator<Item = Packet<'a>> {
    frames.iter_mut().zip(rooms).map(|(frame, room)| Packet::with_room(room, frame))
}

/// Gives a burst to the balancer, uncounted. Returns how many of it are to be sent.
fn process(balancer: &mut Balancer, frames: &[Vec<u8>], now: Instant) -> usize {
    let mut copies = frames.to_vec();
    let mut rooms = vec![[0; ROOM]; frames.len()];
    let mut burst: Vec<_> = burst_of(&mut copies, &mut rooms).collect();
    balancer.process(&mut burst, now, &mut Deaf);
    burst.iter().filter(|packet| packet.verdict == Verdict::Transmit).count()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (workload, packets) = match &arguments[..] {
        [_, workload, packets] => (workload.as_str(), packets.parse::<u32>().expect("a number of packets")),
        _ => panic!("expected a workload and a number of packets"),
    };
    // What is counted, and what has gone before, if anything.
    let (kind, forward, before) = match workload {
        "nat-udp" => (Kind::Udp, Forward::Masquerade, Some(Kind::Udp)),
        "nat-tcp" => (Kind::Ack, Forward::Masquerade, Some(Kind::Syn)),
        "direct-udp" => (Kind::Udp, Forward::Direct, Some(Kind::Udp)),
        "ipip-udp" => (Kind::Udp, Forward::Tunnel, Some(Kind::Udp)),
        "new-udp" => (Kind::Udp, Forward::Masquerade, None),
        other => panic!("no workload is called {other}"),
    };
    let mut balancer = balancer(forward);
    let now = Instant::from_secs(1);
    if let Some(kind) = before {
        for flow in 0..FLOWS {
            process(&mut balancer, &[frame(flow, kind)], now);
        }
    }
    let (mut transmitted, mut rooms) = (0, [[0; ROOM]; BURST]);
    for first in (0..packets).step_by(BURST) {
        let flow = |nth: u32| if before.is_some() { (first + nth) % FLOWS } else { FLOWS + first + nth };
        let mut frames: Vec<_> = (0..BURST as u32).map(|nth| frame(flow(nth), kind)).collect();
        let mut burst: Vec<_> = burst_of(&mut frames, &mut rooms).collect();
        measured(&mut balancer, &mut burst, now);
        transmitted += burst.iter().filter(|packet| packet.verdict == Verdict::Transmit).count();
    }
    assert_eq!(transmitted, packets.next_multiple_of(BURST as u32) as usize, "each packet goes on");
    println!("{transmitted}");
}
