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
/// Bytes in front of a frame, as the driver has them.
const ROOM: usize = 128;
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[derive(Arbitrary, Debug)]
struct Frame {
    v6: bool,
    /// UDP, TCP, SCTP, ESP, an ICMP error about one of them, or about one of them in a tunnel's packet of ours.
    kind: u8,
    from: u8,
    to: u8,
    ports: (u8, u8),
    flags: u8,
    /// Lines of FTP, one for each byte.
    says: Vec<u8>,
    changes: Vec<(u8, u8)>,
    mend: bool,
    cut: Option<u8>,
    beyond: u16,
    partial: Option<(u8, u8)>,
    gso_size: u16,
    /// It is a fragment: identification, offset in units of 8 bytes, whether more follow.
    fragment: Option<(u8, u8, bool)>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Burst(Vec<Frame>),
    Raw(Vec<u8>),
    /// What the local stack sends.
    Own(Frame),
    Pass(u32),
    AddService {
        service: u8,
        scheduler: u8,
        flags: u8,
    },
    EditService {
        service: u8,
        scheduler: u8,
        flags: u8,
    },
    Sysctl {
        which: u8,
        value: u8,
    },
    Extra {
        service: u8,
        count: u8,
        port: Option<u8>,
        limits: (u8, u8),
    },
    Mark {
        mark: u8,
        v6: bool,
        to: Option<u8>,
        udp: bool,
        delete: bool,
    },
    DeleteService(u8),
    AddDestination {
        service: u8,
        server: u8,
        forward: u8,
        weight: i8,
        upper: u8,
        lower: u8,
    },
    EditDestination {
        service: u8,
        server: u8,
        forward: u8,
        weight: i8,
        upper: u8,
        lower: u8,
    },
    DeleteDestination {
        service: u8,
        server: u8,
    },
    Timeouts(u32, u32, u32),
    Zero,
}

/// Addresses frames come from and go to: clients, servers, virtual ones, ours, some that are nobody's, and those of pools.
fn address(v6: bool, number: u8) -> IpAddr {
    let v4 = [
        "10.9.0.1",
        "10.9.0.2",
        "10.0.0.11",
        "10.0.0.12",
        "10.0.0.100",
        "10.0.0.2",
        "255.255.255.255",
        "0.0.0.0",
        // Of the pools of full NAT.
        "10.0.0.200",
        "10.0.0.201",
    ];
    let six =
        ["fd09::1", "fd09::2", "fd00::b", "fd00::c", "fd00::100", "fd00::2", "ff02::1", "::", "fd00::200", "fd00::201"];
    (if v6 { six } else { v4 })[usize::from(number) % 10].parse().unwrap()
}

const PORTS: [u16; 5] = [80, 8080, 4000, 20, 500];

/// What clients and servers of FTP say: it is listened to where the knob `ftp_port` is 80.
const LINES: [&str; 12] = [
    "payload",
    "PASV\r\n",
    "EPSV\r\n",
    "PORT 10,9,0,1,15,160\r\n",
    "PORT 10,9,0,",
    "2,0,80\r\n",
    "EPRT |2|fd09::1|4000|\r\n",
    "227 (10,0,0,11,31,144)\r\n",
    "227 (255,255,255,255,255,255)\r\n",
    "227 1,1,1,1,0,80\r\n",
    "229 (|||8080|)\r\n",
    "229 (|2|fd00::b|80|)\r\n",
];

fn transport(frame: &Frame, from: IpAddr, to: IpAddr, protocol: u8) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(OTHER, MAC);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("one family"),
    };
    let [source, destination] = [frame.ports.0, frame.ports.1].map(|p| PORTS[usize::from(p) % 5]);
    let mut bytes = Vec::new();
    if protocol == 3 {
        builder.write(&mut bytes, etherparse::IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &[frame.flags; 16]).unwrap();
    } else if protocol == 2 {
        let mut packet = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        packet.extend([0; 8]);
        // A chunk, and behind a cookie another.
        packet.extend([frame.flags % 16, 0, 0, 4, frame.flags / 16, 0, 0, 4]);
        builder.write(&mut bytes, etherparse::IpNumber::SCTP, &packet).unwrap();
    } else if protocol == 1 {
        let says: String = frame.says.iter().map(|&line| LINES[usize::from(line) % LINES.len()]).collect();
        builder.tcp(source, destination, 1, 2).write(&mut bytes, says.as_bytes()).unwrap();
        let at = if from.is_ipv6() { 54 + 13 } else { 34 + 13 };
        bytes[at] = frame.flags;
        let cookie = COOKIE.get();
        if frame.flags & 0x17 == 0x10 && frame.gso_size & 2 != 0 {
            // What a client would say that got our answer to its SYN.
            bytes[at - 9..at - 1].copy_from_slice(&[2u32.to_be_bytes(), cookie.wrapping_add(1).to_be_bytes()].concat());
        }
    } else {
        builder.udp(source, destination).write(&mut bytes, b"payload").unwrap();
    }
    bytes
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let (from, to) = (address(frame.v6, frame.from), address(frame.v6, frame.to));
    let mut bytes = match frame.kind % 12 {
        protocol @ 0..4 => transport(frame, from, to, protocol),
        kind => {
            let mut quoted = transport(frame, to, from, kind % 4).split_off(14);
            let (from, to) = if kind < 8 {
                (from, to)
            } else {
                quoted = tunnelled(frame, &quoted);
                (address(frame.v6, frame.to), address(frame.v6, 5))
            };
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
    if let Some(piece) = frame.fragment {
        fragment(&mut bytes, frame.v6, piece);
    }
    for &(at, value) in &frame.changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    if (frame.mend || frame.fragment.is_some()) && !frame.v6 {
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

/// Makes a fragment of a packet; the checksum of its header is yet to be mended. What the first would have does not matter to others.
fn fragment(bytes: &mut Vec<u8>, v6: bool, (id, offset, more): (u8, u8, bool)) {
    // Few of them, so that some belong together.
    let (id, offset) = (id % 4, u16::from(offset % 8) * 8);
    if v6 {
        let next = std::mem::replace(&mut bytes[20], 44);
        let field = (offset | u16::from(more)).to_be_bytes();
        bytes.splice(54..54, [next, 0, field[0], field[1], 0, 0, 0, id]);
        let len = (bytes.len() - 54) as u16;
        bytes[18..20].copy_from_slice(&len.to_be_bytes());
    } else {
        bytes[18..20].copy_from_slice(&[0, id]);
        bytes[20..22].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    }
    // All but the last have a multiple of eight bytes.
    let odd = (bytes.len() - if v6 { 62 } else { 34 }) % 8;
    if more && odd != 0 {
        bytes.resize(bytes.len() + 8 - odd, 0);
        let at = if v6 { 18 } else { 16 };
        let len = (bytes.len() - if v6 { 54 } else { 14 }) as u16;
        bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
    }
}

/// A frame as it comes, with or without room in front of it.
fn packet<'a>(head: &'a mut [u8], room: &'a mut [u8; ROOM], frame: &Frame) -> Packet<'a> {
    let room = &mut room[..if frame.beyond & 1 == 0 { ROOM } else { usize::from(frame.beyond) % ROOM }];
    let mut packet = Packet::with_room(room, head);
    packet.len += usize::from(frame.beyond);
    let partial = frame.partial.map(|(start, offset)| Partial { start: start.into(), offset: offset.into() });
    packet.offload =
        Offload { partial, gso_size: frame.gso_size, fragments: frame.gso_size & 1 != 0, data_valid: false };
    packet
}

/// A packet in a tunnel's packet from us to a server.
fn tunnelled(frame: &Frame, inner: &[u8]) -> Vec<u8> {
    let inner_v6 = inner.first().is_some_and(|first| first >> 4 == 6);
    let number = if inner_v6 { 41 } else { 4 };
    let (carried, mut between) = match frame.flags % 3 {
        0 => (number, vec![]),
        1 => (17, vec![0x99, 0x99, (PORTS[0] >> 8) as u8, PORTS[0] as u8, 0, 0, 0, 0, 0, number, 0, 0]),
        _ => (47, [&[0, 0][..], if inner_v6 { &[0x86, 0xdd] } else { &[8, 0] }].concat()),
    };
    let mut packet = Vec::new();
    match (address(frame.v6, 5), address(frame.v6, frame.from)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 63, carried, 0, 0]);
            packet.extend(from.octets().into_iter().chain(to.octets()));
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0, 0, 0, carried, 63]);
            packet.extend(from.octets().into_iter().chain(to.octets()));
        }
        _ => unreachable!("one family"),
    }
    packet.append(&mut between);
    packet.extend_from_slice(inner);
    packet
}

thread_local! {
    /// The number of the last SYN-ACK that the balancer has made.
    static COOKIE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[derive(Default)]
struct Network {
    resolved: Vec<NextHop>,
}

impl Sink for Network {
    fn transmit(&mut self, frame: &[u8]) {
        assert!(frame.len() >= 14 && frame.len() <= 1514);
        let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
        if frame.get(at + 13) == Some(&0x12) {
            COOKIE.set(u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap()));
        }
    }

    fn resolved(&mut self, next_hop: NextHop) {
        self.resolved.push(next_hop);
    }

    fn unreachable(&mut self, _: NextHop) {}
}

fn service(number: u8) -> ServiceKey {
    if number & 0xf0 == 0xf0 {
        let family = if number & 1 != 0 { Family::V6 } else { Family::V4 };
        return ServiceKey::Mark { family, mark: u32::from(number & 2) + 1 };
    }
    let address = address(number & 1 != 0, 4);
    let port = match number & 12 {
        12 => 0,
        8 => 500,
        _ => 80,
    };
    match (number & 2 != 0, number & 32 != 0) {
        (_, true) => ServiceKey::sctp(address, port),
        (true, _) => ServiceKey::tcp(address, port),
        _ => ServiceKey::udp(address, port),
    }
}

/// Any scheduler, and any flags and timeout.
fn config(key: ServiceKey, scheduler: u8, flags: u8) -> ServiceConfig {
    let scheduler = Scheduler::ALL[usize::from(scheduler) % Scheduler::ALL.len()];
    let timeout = u32::from(flags >> 5) * 40;
    let flags = ServiceFlags::from_bits_retain(u32::from(flags) & 0x1f);
    ServiceConfig { flags, timeout, ..ServiceConfig::new(key.family(), scheduler) }
}

fn destination(forward: u8, weight: i8, upper: u8, lower: u8) -> DestinationConfig {
    let (forward, kind) = match forward % 6 {
        0 => (Forward::Masquerade, 0),
        1 => (Forward::Direct, 0),
        kind => (Forward::Tunnel, kind - 2),
    };
    let tunnel = Tunnel { kind, port: PORTS[usize::from(upper) % 4], flags: u16::from(lower % 4) };
    DestinationConfig {
        upper_threshold: upper.into(),
        lower_threshold: lower.into(),
        tunnel,
        ..DestinationConfig::new(forward, weight.into())
    }
}

fn server(service: u8, server: u8) -> DestinationKey {
    // A tunnel may lead to the other family.
    DestinationKey { address: address((service & 1 != 0) ^ (server & 8 != 0), server), port: 8080 }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut balancer = Balancer::new(Config {
        addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
        gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        connections: 32,
        connections_v6: 12,
        extras: 20,
        sources: 16,
        neighbours: 8,
        fragments: 4,
        held_fragments: 3,
        ..Config::new(MAC, [1, 2])
    });
    let (mut now, mut network) = (Instant::from_secs(5), Network::default());
    for number in [0, 1, 2, 3, 32, 33] {
        let key = service(number);
        let scheduler = Scheduler::ALL[usize::from(number % 32)];
        balancer.add_service(key, ServiceConfig::new(key.family(), scheduler)).unwrap();
        balancer.add_destination(&key, server(number, 2), destination(0, 1, 0, 0)).unwrap();
    }
    balancer.set_sysctl("ftp_port", 80).unwrap();
    // One service is full NAT from the start: more of what follows gets somewhere.
    let pool = LocalPool { first: address(false, 8), last: address(false, 8), ports: (4000, 4000) };
    balancer.set_extras(Some(&service(2)), Extras { pool: Some(pool), ..Extras::default() }).unwrap();
    for step in steps {
        match step {
            Step::Burst(frames) => {
                let mut bytes: Vec<_> = frames.iter().map(bytes).collect();
                let mut rooms = vec![[0; ROOM]; frames.len()];
                let mut burst: Vec<_> = bytes
                    .iter_mut()
                    .map(Vec::as_mut_slice)
                    .zip(&mut rooms)
                    .zip(&frames)
                    .map(|((head, room), frame)| packet(head, room, frame))
                    .collect();
                balancer.process(&mut burst, now, &mut network);
                for packet in &mut burst {
                    let front = usize::from(packet.start.min(0).unsigned_abs());
                    assert!(front <= 60 && front <= packet.room.len());
                    if packet.start > 0 {
                        assert!(usize::from(packet.start.unsigned_abs()) + 42 <= packet.head.len());
                        continue;
                    }
                    if let Verdict::Wait(hop) = packet.verdict {
                        // As it lies in memory now.
                        let mut whole = [&packet.room[packet.room.len() - front..], &*packet.head].concat();
                        if balancer.complete(&mut whole, hop) != Verdict::Transmit {
                            let mut whole = Packet { offload: packet.offload, ..Packet::new(&mut whole) };
                            balancer.undeliverable(&mut whole, now, &mut network);
                        }
                    }
                }
            }
            Step::Raw(mut bytes) => balancer.process(&mut [Packet::new(&mut bytes)], now, &mut network),
            Step::Own(frame) => {
                let (mut bytes, mut room) = (bytes(&frame), [0; ROOM]);
                let mut packet = packet(&mut bytes, &mut room, &frame);
                balancer.process_own(&mut packet, now);
                assert_eq!(packet.start, 0);
            }
            Step::Pass(milliseconds) => {
                now = now + Duration::from_millis(milliseconds.into());
                // Every call does some of what is due.
                while balancer.poll(now, &mut network) <= now {}
            }
            Step::AddService { service: number, scheduler, flags } => {
                let key = service(number);
                let _ = balancer.add_service(key, config(key, scheduler, flags));
            }
            Step::EditService { service: number, scheduler, flags } => {
                let key = service(number);
                let _ = balancer.edit_service(&key, config(key, scheduler, flags));
            }
            Step::Sysctl { which, value } => {
                let name = Sysctls::NAMES[usize::from(which) % Sysctls::NAMES.len()];
                let _ = balancer.set_sysctl(name, value.into());
            }
            Step::Extra { service: number, count, port, limits } => {
                let key = service(number);
                let v6 = key.family() == Family::V6;
                // Few ports, so that replies are made up by chance, and pools are used up.
                let pool = port.map(|port| LocalPool {
                    first: address(v6, 8),
                    last: address(v6, 8 + count % 2),
                    ports: (
                        PORTS[usize::from(port) % 4],
                        PORTS[usize::from(port) % 4].saturating_add((count / 64).into()),
                    ),
                });
                let syn_cookies = (limits.0 & 32 != 0).then_some(u32::from(limits.0 & 16));
                let limits = SourceLimits {
                    connections: (limits.0 % 4).into(),
                    rate: (limits.1 % 4).into(),
                    burst: 1 + u32::from(limits.1 / 64),
                    prefix_v4: 24 + limits.0 % 9,
                    reset: limits.1 & 4 != 0,
                    ..SourceLimits::default()
                };
                let announce = Announce::ALL[usize::from(count / 2) % 3];
                let extras = Extras { pool, announce, syn_cookies, limits };
                let _ = balancer.set_extras((number != 255).then_some(&key), extras);
            }
            Step::Mark { mark, v6, to, udp, delete } => {
                let all = MarkRule::new(if v6 { Family::V6 } else { Family::V4 }, mark.into());
                let rule = MarkRule {
                    protocol: udp.then_some(Protocol::Udp),
                    destination: to.map_or(all.destination, |to| address(v6, to).to_string().parse().unwrap()),
                    ..all
                };
                let _ = if delete { balancer.delete_mark_rule(&rule) } else { balancer.add_mark_rule(rule) };
            }
            Step::DeleteService(number) => drop(balancer.delete_service(&service(number))),
            Step::AddDestination { service: number, server: to, forward, weight, upper, lower } => {
                let config = destination(forward, weight, upper, lower);
                let _ = balancer.add_destination(&service(number), server(number, to), config);
            }
            Step::EditDestination { service: number, server: to, forward, weight, upper, lower } => {
                let config = destination(forward, weight, upper, lower);
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
        let active = list.iter().filter(|c| !c.template && c.state.is_active()).count();
        assert_eq!(active, balancer.active_connections() as usize);
        let mut ends: Vec<_> = list
            .iter()
            .filter(|c| !c.template)
            .filter_map(|c| Some((c.protocol.number(), c.destination, c.destination_port, c.local?)))
            .collect();
        let count = ends.len();
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(ends.len(), count, "two connections with one local end");
        assert!(balancer.counters().held <= 3);
    }
});
