//! A small world around a balancer: clients behind the gateway, servers on the local network.

mod around;
mod beyond;
mod checksums;
mod counters;
mod errors;
mod forward;
mod fragments;
mod ftp;
mod hostile;
mod marks;
mod miss;
mod neighbours;
mod persistence;
mod properties;
mod sctp;
mod secured;
mod states;
mod sync;
mod sysctls;
mod tunnel;

use std::vec::Vec;

use core::net::IpAddr;
use core::time::Duration;

use etherparse::PacketBuilder;

use crate::frame::transport::TcpFlags;
use crate::frame::{Content, parse};
use crate::*;

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
pub const OTHER_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 1];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// One end of a packet.
pub type End = (IpAddr, u16);

pub fn end(address: &str, port: u16) -> End {
    (ip(address), port)
}

/// What a test says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: End,
    pub to: End,
    /// `None` for UDP.
    pub flags: Option<TcpFlags>,
}

pub const SYN: TcpFlags = TcpFlags::SYN;
pub const SYN_ACK: TcpFlags = TcpFlags::SYN.union(TcpFlags::ACK);
pub const ACK: TcpFlags = TcpFlags::ACK;
pub const FIN: TcpFlags = TcpFlags::FIN.union(TcpFlags::ACK);
pub const RST: TcpFlags = TcpFlags::RST;

pub fn tcp(from: End, to: End, flags: TcpFlags) -> Segment {
    Segment { from, to, flags: Some(flags) }
}

pub fn udp(from: End, to: End) -> Segment {
    Segment { from, to, flags: None }
}

impl Segment {
    /// The other way round.
    pub fn back(self, flags: Option<TcpFlags>) -> Segment {
        Segment { from: self.to, to: self.from, flags }
    }

    /// As a frame to the balancer, every checksum complete.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
        let builder = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("two families"),
        };
        let mut frame = Vec::new();
        match self.flags {
            None => builder.udp(self.from.1, self.to.1).write(&mut frame, payload).unwrap(),
            Some(flags) => {
                let mut tcp = builder.tcp(self.from.1, self.to.1, 1000, 4096);
                if flags.contains(TcpFlags::SYN) {
                    tcp = tcp.syn();
                }
                if flags.contains(TcpFlags::ACK) {
                    tcp = tcp.ack(2000);
                }
                if flags.contains(TcpFlags::FIN) {
                    tcp = tcp.fin();
                }
                if flags.contains(TcpFlags::RST) {
                    tcp = tcp.rst();
                }
                tcp.write(&mut frame, payload).unwrap();
            }
        }
        frame
    }
}

/// Reads a frame back as the balancer would, whoever it was sent to.
pub fn read(frame: &[u8]) -> Segment {
    let mac: [u8; 6] = frame[..6].try_into().unwrap();
    match parse(frame, frame.len(), &mac) {
        Ok(Content::Flow(ip, t)) => Segment {
            from: (ip.source, t.source_port),
            to: (ip.destination, t.destination_port),
            flags: (t.protocol == Protocol::Tcp).then_some(t.flags),
        },
        other => panic!("{other:?}"),
    }
}

/// The Internet checksum of what the words of `parts` add up to, written down as plainly as can be.
pub fn naive_sum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The pseudo-header of a frame with a transport protocol, as bytes.
pub fn pseudo_header(frame: &[u8]) -> Vec<u8> {
    let mut pseudo = Vec::new();
    if frame[12..14] == [8, 0] {
        pseudo.extend_from_slice(&frame[26..34]);
        pseudo.extend_from_slice(&[0, frame[23]]);
        pseudo.extend_from_slice(&(u16::from_be_bytes([frame[16], frame[17]]) - 20).to_be_bytes());
    } else {
        pseudo.extend_from_slice(&frame[22..54]);
        pseudo.extend_from_slice(&[0, 0, frame[18], frame[19], 0, 0, 0, frame[20]]);
    }
    pseudo
}

/// Where transport headers start in frames without options.
pub fn transport_at(frame: &[u8]) -> usize {
    if frame[12..14] == [8, 0] { 34 } else { 54 }
}

/// Fails unless every checksum of a frame without options, complete and without padding, is right.
pub fn verify(frame: &[u8]) {
    let at = transport_at(frame);
    if at == 34 {
        assert_eq!(naive_sum(&[&frame[14..34]]), 0xffff, "IPv4 header");
    }
    if frame[at - 11] == 17 && frame[at + 6..at + 8] == [0, 0] && at == 34 {
        return;
    }
    assert_eq!(naive_sum(&[&pseudo_header(frame), &frame[at..]]), 0xffff, "transport");
}

/// An ARP reply to the balancer.
pub fn arp_reply(from: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType};
    let to = [10, 0, 0, 2];
    let arp = ArpPacket::new(ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation::REPLY, &mac, &from, &MAC, &to);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac, MAC).arp(arp.unwrap()).write(&mut frame).unwrap();
    frame
}

/// What a balancer said.
#[derive(Debug, Default)]
pub struct Said {
    pub frames: Vec<Vec<u8>>,
}

impl Sink for Said {
    fn transmit(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn resolved(&mut self, _: NextHop) {}

    fn unreachable(&mut self, _: NextHop) {}
}

/// A balancer with services 10.0.0.100 and fd00::100, TCP and UDP port 80, and its time.
pub struct World {
    pub balancer: Balancer,
    pub now: Instant,
    pub said: Said,
    /// The address the last frame was sent to on the local network.
    pub hop: Option<IpAddr>,
    /// Into what fragments the last frame is to be cut that went into a tunnel.
    pub fragment: u16,
}

pub const CLIENT: &str = "10.9.0.1";
pub const VIRTUAL: &str = "10.0.0.100";
pub const CLIENT_V6: &str = "fd09::1";
pub const VIRTUAL_V6: &str = "fd00::100";

pub fn services() -> [ServiceKey; 4] {
    [
        ServiceKey::tcp(ip(VIRTUAL), 80),
        ServiceKey::udp(ip(VIRTUAL), 80),
        ServiceKey::tcp(ip(VIRTUAL_V6), 80),
        ServiceKey::udp(ip(VIRTUAL_V6), 80),
    ]
}

/// The one server of every service, port 8080.
pub fn server(v6: bool) -> DestinationKey {
    DestinationKey { address: ip(if v6 { "fd00::b" } else { "10.0.0.11" }), port: 8080 }
}

impl World {
    /// With services and no servers.
    pub fn empty() -> World {
        World::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> World {
        let mut config = Config {
            addresses: ["10.0.0.2/24", "fd00::2/64"].iter().map(|a| a.parse().unwrap()).collect(),
            gateways: [ip("10.0.0.1"), ip("fd00::1")].to_vec(),
            connections: 256,
            connections_v6: 128,
            ..Config::new(MAC, [11, 12])
        };
        change(&mut config);
        let mut balancer = Balancer::new(config);
        for key in services() {
            balancer.add_service(key, ServiceConfig::new(key.family(), Scheduler::RoundRobin)).unwrap();
        }
        World { balancer, now: Instant::from_secs(1000), said: Said::default(), hop: None, fragment: 0 }
    }

    /// With one server for each service.
    pub fn new(forward: Forward) -> World {
        let mut world = World::empty();
        world.add_servers(forward);
        world
    }

    pub fn add_servers(&mut self, forward: Forward) {
        for key in services() {
            let config = DestinationConfig::new(forward, 1);
            self.balancer.add_destination(&key, server(key.family() == Family::V6), config).unwrap();
        }
    }

    /// Gives one frame to the balancer. `Ok` if it was forwarded, once its next hop is known.
    pub fn process(&mut self, frame: &mut [u8], offload: &mut Offload) -> Result<(), Verdict> {
        let mut packet = Packet { offload: *offload, ..Packet::new(frame) };
        self.balancer.process(core::slice::from_mut(&mut packet), self.now, &mut self.said);
        *offload = packet.offload;
        match packet.verdict {
            Verdict::Transmit => Ok(()),
            Verdict::Wait(NextHop(hop)) => {
                self.hop = Some(hop);
                Ok(())
            }
            verdict => Err(verdict),
        }
    }

    /// What becomes of a frame.
    pub fn frame(&mut self, mut frame: Vec<u8>) -> Result<Vec<u8>, Verdict> {
        self.process(&mut frame, &mut Offload::default())?;
        verify(&frame);
        Ok(frame)
    }

    /// What becomes of a packet.
    pub fn send(&mut self, segment: Segment) -> Result<Segment, Verdict> {
        Ok(read(&self.frame(segment.frame(b"hello, world!"))?))
    }

    pub fn drops(&mut self, segment: Segment) -> Reason {
        match self.send(segment) {
            Err(Verdict::Drop(reason)) => reason,
            other => panic!("{segment:?}: {other:?}"),
        }
    }

    /// Lets time pass, and the balancer do what is due in it.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.balancer.poll(self.now, &mut self.said);
            if next > end {
                break;
            }
            self.now = next.max(self.now);
        }
        self.now = end;
        self.balancer.poll(end, &mut self.said);
    }

    pub fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    pub fn destination(&self, service: &ServiceKey) -> DestinationInfo {
        self.balancer.destinations(service).unwrap().next().unwrap()
    }

    /// The state and the seconds left of the only connection, which is one of TCP.
    pub fn state(&self) -> (TcpState, u32) {
        let mut list = self.balancer.connection_list(self.now);
        let only = list.next().unwrap();
        assert_eq!(list.next(), None);
        let State::Tcp(state) = only.state else { panic!("{only:?}") };
        (state, only.expires)
    }
}
