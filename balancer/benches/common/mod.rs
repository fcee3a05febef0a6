//! A balancer and packets for it: what is timed (`benches/balancer.rs`) and what is counted (`examples/balancer_instructions.rs`).

#![allow(dead_code, reason = "both use most of it, and neither all")]

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use ringlet_balancer::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// Packets in a burst.
pub const BURST: usize = 32;
/// Bytes in front of a frame, as the driver has them.
const ROOM: usize = 128;
/// When everything happens.
pub const NOW: Instant = Instant::from_secs(1);

/// What the balancer balances.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Connections there is room for.
    pub connections: u32,
    pub forward: Forward,
    pub scheduler: Scheduler,
    pub flags: ServiceFlags,
    /// Real servers.
    pub servers: u32,
}

impl Setup {
    /// One server, by NAT.
    pub const PLAIN: Self = Setup {
        connections: 1 << 20,
        forward: Forward::Masquerade,
        scheduler: Scheduler::RoundRobin,
        flags: ServiceFlags::empty(),
        servers: 1,
    };
}

/// Collects whom the balancer asks for.
#[derive(Default)]
struct Asked(Vec<[u8; 4]>);

impl Sink for Asked {
    fn transmit(&mut self, frame: &[u8]) {
        if let (Some(&[8, 6]), Some(target)) = (frame.get(12..14), frame.get(38..42)) {
            self.0.push(target.try_into().expect("four bytes"));
        }
    }
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Udp,
    /// The first segment of a connection.
    Syn,
    /// Any other one.
    Ack,
    /// One that breaks it off.
    Rst,
}

/// A frame of a client to the service. There are 2^32 flows that differ in the client's address and port.
pub fn frame(flow: u32, kind: Kind) -> Vec<u8> {
    let [_, _, high, low] = flow.to_be_bytes();
    let builder = PacketBuilder::ethernet2(NEIGHBOUR, MAC).ipv4([10, 9, high, low], VIRTUAL.octets(), 64);
    let (mut frame, port) = (Vec::with_capacity(64), 1024_u16.wrapping_add((flow >> 16) as u16));
    let written = match kind {
        Kind::Udp => builder.udp(port, 80).write(&mut frame, b"payload"),
        Kind::Syn => builder.tcp(port, 80, 0, 1000).syn().write(&mut frame, b""),
        Kind::Ack => builder.tcp(port, 80, 1, 1000).ack(1).write(&mut frame, b"payload"),
        Kind::Rst => builder.tcp(port, 80, 1, 1000).rst().write(&mut frame, b""),
    };
    written.expect("a frame");
    frame
}

/// An answer to the balancer's question for an address.
fn answer(address: [u8; 4]) -> Vec<u8> {
    let hardware = ArpHardwareId::ETHERNET;
    let reply = ArpOperation::REPLY;
    let arp = ArpPacket::new(hardware, EtherType::IPV4, reply, &NEIGHBOUR, &address, &MAC, &ADDRESS.octets());
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(NEIGHBOUR, MAC);
    builder.arp(arp.expect("an answer")).write(&mut frame).expect("an answer");
    frame
}

/// A balancer with a service over TCP and one over UDP, that knows its neighbours. A single server is a neighbour, more are
/// behind the gateway.
pub fn balancer(setup: &Setup) -> Balancer {
    let mut balancer = Balancer::new(Config {
        addresses: vec![Cidr::new(ADDRESS.into(), 24).expect("an address")],
        gateways: vec![GATEWAY.into()],
        connections: setup.connections,
        connections_v6: 0,
        ..Config::new(MAC, [1, 2])
    });
    let virtual_address = IpAddr::V4(VIRTUAL);
    for key in [ServiceKey::tcp(virtual_address, 80), ServiceKey::udp(virtual_address, 80)] {
        let config = ServiceConfig { flags: setup.flags, ..ServiceConfig::new(Family::V4, setup.scheduler) };
        balancer.add_service(key, config).expect("a service");
        for nth in 0..setup.servers {
            let [_, _, high, low] = nth.to_be_bytes();
            let address = if setup.servers == 1 { [10, 0, 0, 11] } else { [192, 168, high, low] };
            let server = DestinationKey { address: IpAddr::from(address), port: 80 };
            // Of different weights, for the schedulers that look at them.
            let config = DestinationConfig::new(setup.forward, 1 + nth as i32 % 7);
            balancer.add_destination(&key, server, config).expect("a destination");
        }
    }
    meet(&mut balancer, NOW);
    balancer
}

/// Has the balancer send a packet, and whom it asks for on that occasion answer.
pub fn meet(balancer: &mut Balancer, now: Instant) {
    let mut asked = Asked::default();
    burst(&mut [frame(u32::MAX, Kind::Udp)], |packets| balancer.process(packets, now, &mut asked));
    for address in asked.0 {
        balancer.process(&mut [Packet::new(&mut answer(address))], now, &mut Asked::default());
    }
}

/// Hears nothing.
pub struct Deaf;

impl Sink for Deaf {
    fn transmit(&mut self, _: &[u8]) {}
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

/// Gives a burst of frames to the balancer by way of `process`, which is what is measured. Returns how many of it are to be sent.
pub fn burst<T>(frames: &mut [Vec<u8>], process: impl FnOnce(&mut [Packet<'_>]) -> T) -> (usize, T) {
    let mut rooms = [[0; ROOM]; BURST];
    let mut packets: Vec<_> =
        frames.iter_mut().zip(&mut rooms).map(|(frame, room)| Packet::with_room(room, frame)).collect();
    let result = process(&mut packets);
    (packets.iter().filter(|packet| packet.verdict == Verdict::Transmit).count(), result)
}

/// Lets connections of flows come about, or go on.
pub fn play(balancer: &mut Balancer, flows: std::ops::Range<u32>, kind: Kind) {
    let end = flows.end;
    for first in flows.step_by(BURST) {
        let mut frames: Vec<_> = (first..end.min(first + BURST as u32)).map(|flow| frame(flow, kind)).collect();
        burst(&mut frames, |packets| balancer.process(packets, NOW, &mut Deaf));
    }
}
