//! Any frames, in bursts, between any control operations and any steps of the clock: no panic, and the books are right.
//!
//! Frames start as valid ones and are changed byte by byte, so that the fuzzer gets past the checksums; `mend` repairs
//! that of the IPv4 header afterwards.

#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use arbitrary::Arbitrary;
use etherparse::PacketBuilder;
use libfuzzer_sys::fuzz_target;
use ringlet_balancer::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[derive(Arbitrary, Debug)]
struct Frame {
    v6: bool,
    /// UDP, TCP, an ICMP error about one of them, raw bytes.
    kind: u8,
    from: u8,
    to: u8,
    ports: (u8, u8),
    flags: u8,
    changes: Vec<(u8, u8)>,
    mend: bool,
    cut: Option<u8>,
    beyond: u16,
    partial: Option<(u8, u8)>,
    gso_size: u16,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Burst(Vec<Frame>),
    Raw(Vec<u8>),
    Pass(u32),
    AddService { service: u8, scheduler: u8 },
    EditService { service: u8, scheduler: u8 },
    DeleteService(u8),
    AddDestination { service: u8, server: u8, direct: bool, weight: i8, upper: u8, lower: u8 },
    EditDestination { service: u8, server: u8, direct: bool, weight: i8, upper: u8, lower: u8 },
    DeleteDestination { service: u8, server: u8 },
    Timeouts(u32, u32, u32),
    Zero,
}

/// Addresses frames come from and go to: clients, servers, virtual ones, ours, and some that are nobody's.
fn address(v6: bool, number: u8) -> IpAddr {
    let v4 = ["10.9.0.1", "10.9.0.2", "10.0.0.11", "10.0.0.12", "10.0.0.100", "10.0.0.2", "255.255.255.255", "0.0.0.0"];
    let six = ["fd09::1", "fd09::2", "fd00::b", "fd00::c", "fd00::100", "fd00::2", "ff02::1", "::"];
    (if v6 { six } else { v4 })[usize::from(number) % 8].parse().unwrap()
}

const PORTS: [u16; 4] = [80, 8080, 4000, 20];

fn transport(frame: &Frame, from: IpAddr, to: IpAddr, tcp: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(OTHER, MAC);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("one family"),
    };
    let [source, destination] = [frame.ports.0, frame.ports.1].map(|p| PORTS[usize::from(p) % 4]);
    let mut bytes = Vec::new();
    if tcp {
        builder.tcp(source, destination, 1, 2).write(&mut bytes, b"payload").unwrap();
        let at = if from.is_ipv6() { 54 + 13 } else { 34 + 13 };
        bytes[at] = frame.flags;
    } else {
        builder.udp(source, destination).write(&mut bytes, b"payload").unwrap();
    }
    bytes
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let (from, to) = (address(frame.v6, frame.from), address(frame.v6, frame.to));
    let mut bytes = match frame.kind % 4 {
        0 | 1 => transport(frame, from, to, frame.kind % 4 == 1),
        kind => {
            let quoted = transport(frame, to, from, kind == 2).split_off(14);
            let ethernet = PacketBuilder::ethernet2(OTHER, MAC);
            let mut bytes = Vec::new();
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4_raw(3, 4, [0; 4]).write(&mut bytes, &quoted)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6_raw(2, 0, [0; 4]).write(&mut bytes, &quoted)
                }
                _ => unreachable!("one family"),
            }
            .unwrap();
            bytes
        }
    };
    for &(at, value) in &frame.changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    if frame.mend && !frame.v6 {
        bytes[24..26].fill(0);
        let header = usize::from(bytes[14] & 15) * 4;
        let words = bytes[14..].chunks(2).take(header / 2);
        let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        bytes[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    if let Some(cut) = frame.cut {
        bytes.truncate(cut.into());
    }
    bytes
}

#[derive(Default)]
struct Network {
    resolved: Vec<NextHop>,
}

impl Sink for Network {
    fn transmit(&mut self, frame: &[u8]) {
        assert!(frame.len() >= 14 && frame.len() <= 1294);
    }

    fn resolved(&mut self, next_hop: NextHop) {
        self.resolved.push(next_hop);
    }

    fn unreachable(&mut self, _: NextHop) {}
}

fn service(number: u8) -> ServiceKey {
    let address = address(number & 1 != 0, 4);
    if number & 2 != 0 { ServiceKey::tcp(address, 80) } else { ServiceKey::udp(address, 80) }
}

/// Any scheduler, and in the high bits its flags.
fn config(key: ServiceKey, scheduler: u8) -> ServiceConfig {
    let flags = ServiceFlags::from_bits_retain(u32::from(scheduler >> 6) << 3);
    let scheduler = Scheduler::ALL[usize::from(scheduler & 63) % Scheduler::ALL.len()];
    ServiceConfig { flags, ..ServiceConfig::new(key.family(), scheduler) }
}

fn destination(direct: bool, weight: i8, upper: u8, lower: u8) -> DestinationConfig {
    DestinationConfig {
        upper_threshold: upper.into(),
        lower_threshold: lower.into(),
        ..DestinationConfig::new(if direct { Forward::Direct } else { Forward::Masquerade }, weight.into())
    }
}

fn server(service: u8, server: u8) -> DestinationKey {
    DestinationKey { address: address(service & 1 != 0, server), port: 8080 }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut balancer = Balancer::new(Config {
        addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        connections: 32,
        connections_v6: 12,
        neighbours: 8,
        ..Config::new(MAC, [1, 2])
    });
    let (mut now, mut network) = (Instant::from_secs(5), Network::default());
    for number in 0..4 {
        let key = service(number);
        balancer.add_service(key, ServiceConfig::new(key.family(), Scheduler::ALL[usize::from(number)])).unwrap();
        balancer.add_destination(&key, server(number, 2), destination(false, 1, 0, 0)).unwrap();
    }
    for step in steps {
        match step {
            Step::Burst(frames) => {
                let mut bytes: Vec<_> = frames.iter().map(bytes).collect();
                let packet = |(head, frame): (_, &Frame)| {
                    let mut packet = Packet::new(head);
                    packet.len += usize::from(frame.beyond);
                    let partial = frame.partial.map(|(start, offset)| Partial { start: start.into(), offset: offset.into() });
                    packet.offload = Offload { partial, gso_size: frame.gso_size, fragments: frame.gso_size & 1 != 0, data_valid: false };
                    packet
                };
                let mut burst: Vec<_> = bytes.iter_mut().map(Vec::as_mut_slice).zip(&frames).map(packet).collect();
                balancer.process(&mut burst, now, &mut network);
                for packet in &mut burst {
                    if let Verdict::Wait(hop) = packet.verdict
                        && balancer.complete(packet.head, hop) != Verdict::Transmit
                    {
                        balancer.undeliverable(packet, now, &mut network);
                    }
                }
            }
            Step::Raw(mut bytes) => balancer.process(&mut [Packet::new(&mut bytes)], now, &mut network),
            Step::Pass(milliseconds) => {
                now = now + Duration::from_millis(milliseconds.into());
                // Every call does some of what is due.
                while balancer.poll(now, &mut network) <= now {}
            }
            Step::AddService { service: number, scheduler } => {
                let key = service(number);
                let _ = balancer.add_service(key, config(key, scheduler));
            }
            Step::EditService { service: number, scheduler } => {
                let key = service(number);
                let _ = balancer.edit_service(&key, config(key, scheduler));
            }
            Step::DeleteService(number) => drop(balancer.delete_service(&service(number))),
            Step::AddDestination { service: number, server: to, direct, weight, upper, lower } => {
                let config = destination(direct, weight, upper, lower);
                let _ = balancer.add_destination(&service(number), server(number, to), config);
            }
            Step::EditDestination { service: number, server: to, direct, weight, upper, lower } => {
                let config = destination(direct, weight, upper, lower);
                let _ = balancer.edit_destination(&service(number), &server(number, to), config);
            }
            Step::DeleteDestination { service: number, server: to } => {
                let _ = balancer.delete_destination(&service(number), &server(number, to));
            }
            Step::Timeouts(tcp, tcp_fin, udp) => drop(balancer.set_timeouts(Timeouts { tcp, tcp_fin, udp })),
            Step::Zero => balancer.zero(None).unwrap(),
        }
        for hop in network.resolved.drain(..) {
            // Whatever the answer: the neighbour may have been evicted, and asked for again, since.
            balancer.complete(&mut [0; 60], hop);
        }
        let list: Vec<_> = balancer.connection_list(now).collect();
        assert_eq!(list.len(), balancer.connections() as usize);
        let active = list.iter().filter(|c| c.protocol == Protocol::Tcp && c.state.is_active()).count();
        assert_eq!(active, balancer.active_connections() as usize);
    }
});
