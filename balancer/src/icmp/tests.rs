use super::*;
use crate::balancer::Counters;
use crate::checksum::Sum;
use crate::frame::{self, Content, ETHERNET};
use crate::neighbour::Outlet;
use crate::packet::{NextHop, Packet, Partial, Sink};
use crate::route::Routes;
use crate::service::Protocol;
use crate::{Config, Instant, Reason};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use std::vec::Vec;

const US: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
const THEM: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(THEM, US)
}

fn with_ip(from: IpAddr, to: IpAddr, ttl: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet().ipv4(a.octets(), b.octets(), ttl),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet().ipv6(a.octets(), b.octets(), ttl),
        _ => panic!("mixed families"),
    }
}

/// A TCP or UDP frame from THEM to US.
fn flow(protocol: Protocol, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = with_ip(from.0, to.0, 9);
    match protocol {
        Protocol::Tcp => packet.tcp(from.1, to.1, 7, 1000).write(&mut frame, payload).unwrap(),
        _ => packet.udp(from.1, to.1).write(&mut frame, payload).unwrap(),
    }
    frame
}

/// An ICMP error from `from` to `to` that quotes bytes.
fn error(from: IpAddr, to: IpAddr, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let rest = [0, 0, 5, 0];
    match from {
        IpAddr::V4(_) => with_ip(from, to, 60).icmpv4_raw(kind, code, rest).write(&mut frame, quoted).unwrap(),
        IpAddr::V6(_) => with_ip(from, to, 60).icmpv6_raw(kind, code, rest).write(&mut frame, quoted).unwrap(),
    }
    frame
}

fn read(frame: &[u8]) -> Ip {
    match frame::parse(frame, frame.len(), &US).unwrap() {
        Content::Flow(ip, _) | Content::Other(ip) => ip,
        Content::Arp => panic!("ARP"),
    }
}

/// Whether IP header and ICMP checksum are right, by summing anew.
fn is_intact(frame: &[u8]) -> bool {
    let mut addressed = frame.to_vec();
    addressed[..6].copy_from_slice(&US);
    let Ok(Content::Other(ip)) = frame::parse(&addressed, addressed.len(), &US) else { return false };
    let message = &frame[ip.payload..ip.end];
    let start = match ip.is_v6() {
        true => Sum::pseudo_header(ip.source, ip.destination, 58, message.len() as u32),
        false => Sum::ZERO,
    };
    start.bytes(message).is_intact()
}

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Sink for Sent {
    fn transmit(&mut self, frame: &[u8]) {
        self.0.push(frame.to_vec());
    }
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

struct Fixture {
    errors: Errors,
    routes: Routes,
    sent: Sent,
    counters: Counters,
}

impl Fixture {
    fn new() -> Self {
        let config = Config {
            addresses: ["10.0.0.2/24", "fd00::2/64"].map(|a| a.parse().unwrap()).to_vec(),
            gateways: ["10.0.0.1", "fd00::1"].map(ip).to_vec(),
            ..Config::new(US, [1, 2])
        };
        let (errors, routes) = (Errors::new(&config), Routes::new(&config));
        Fixture { errors, routes, sent: Sent::default(), counters: Counters::default() }
    }

    fn complain(&mut self, packet: &Packet<'_>, problem: Problem, is_to_us: bool, now: Instant) {
        let ip = read(packet.head);
        let mut outlet = Outlet { routes: &self.routes, sink: &mut self.sent, counters: &mut self.counters };
        self.errors.send(packet, &ip, problem, is_to_us, now, &mut outlet);
    }

    /// The error about a frame to a virtual address, if one is sent.
    fn about(&mut self, frame: &mut [u8], problem: Problem) -> Option<Vec<u8>> {
        self.complain(&Packet::new(frame), problem, true, Instant::from_secs(1));
        self.sent.0.pop()
    }
}

const VIP: &str = "10.0.0.100";
const VIP_V6: &str = "fd00::100";
const CLIENT: &str = "10.9.0.7";
const CLIENT_V6: &str = "fd09::7";

fn families() -> [(IpAddr, IpAddr); 2] {
    [(ip(CLIENT), ip(VIP)), (ip(CLIENT_V6), ip(VIP_V6))]
}

#[test]
fn each_problem_has_its_type_and_code() {
    let all = [
        (Problem::PortUnreachable, [3, 3], [1, 4], 0),
        (Problem::HostUnreachable, [3, 1], [1, 3], 0),
        (Problem::TimeExceeded, [11, 0], [3, 0], 0),
        (Problem::TooBig { mtu: 1400 }, [3, 4], [2, 0], 1400),
    ];
    for (problem, v4, v6, mtu) in all {
        for (client, vip) in families() {
            let mut frame = flow(Protocol::Tcp, (client, 4000), (vip, 80), b"hello");
            let sent = Fixture::new().about(&mut frame, problem).unwrap();
            assert!(is_intact(&sent));
            assert_eq!((&sent[..6], &sent[6..12]), (&THEM[..], &US[..]), "back where it came from");
            let mut addressed = sent.clone();
            addressed[..6].copy_from_slice(&US);
            let outer = read(&addressed);
            assert_eq!((outer.source, outer.destination, outer.end), (vip, client, sent.len()));
            assert_eq!(sent[outer.payload..outer.payload + 2], if outer.is_v6() { v6 } else { v4 });
            assert_eq!(sent[outer.payload + 4..outer.payload + 8], u32::to_be_bytes(mtu));
            assert_eq!(sent[outer.payload + 8..], frame[ETHERNET..], "all of it is quoted");
        }
    }
}

#[test]
fn long_packets_are_quoted_up_to_576_and_1280_bytes() {
    for ((client, vip), longest) in families().into_iter().zip([576, 1280]) {
        let mut frame = flow(Protocol::Udp, (client, 4000), (vip, 80), &[7; 1400]);
        let sent = Fixture::new().about(&mut frame, Problem::PortUnreachable).unwrap();
        assert!(is_intact(&sent));
        assert_eq!(sent.len() - ETHERNET, longest);
    }
}

#[test]
fn an_error_about_what_was_sent_elsewhere_comes_from_our_address() {
    let mut f = Fixture::new();
    let mut frame = flow(Protocol::Tcp, (ip("10.0.0.11"), 80), (ip(CLIENT), 4000), b"");
    f.complain(&Packet::new(&mut frame), Problem::TimeExceeded, false, Instant::ZERO);
    assert_eq!(f.sent.0[0][26..34], [10, 0, 0, 2, 10, 0, 0, 11]);
}

#[test]
fn verify_rfc_1122_3_2_2_no_errors_about_errors_groups_and_later_fragments() {
    let mut f = Fixture::new();
    let mut none =
        |mut frame: Vec<u8>, why: &str| assert_eq!(f.about(&mut frame, Problem::TimeExceeded), None, "{why}");
    for (client, vip) in families() {
        let good = flow(Protocol::Udp, (client, 4000), (vip, 80), b"hello");
        let (error_type, redirect) = if vip.is_ipv4() { (3, 5) } else { (1, 137) };
        none(error(client, vip, error_type, 0, &good[ETHERNET..]), "an error");
        none(error(client, vip, redirect, 0, &good[ETHERNET..]), "a redirect");
        let mut group = good.clone();
        group[0] |= 1;
        none(group, "to an Ethernet group");
        let mut group = good.clone();
        group[6] |= 1;
        none(group, "from an Ethernet group");
    }
    for (from, to) in [
        (CLIENT, "224.0.0.1"),
        (CLIENT, "10.0.0.255"),
        ("10.0.0.255", VIP),
        ("255.255.255.255", VIP),
        ("0.0.0.0", VIP),
        ("127.0.0.1", VIP),
        ("10.0.0.2", VIP),
        (CLIENT_V6, "ff02::1"),
        ("ff02::1", VIP_V6),
        ("::", VIP_V6),
        ("::1", VIP_V6),
        ("fd00::2", VIP_V6),
    ] {
        none(flow(Protocol::Udp, (ip(from), 4000), (ip(to), 80), b""), from);
    }
    let mut fragment = flow(Protocol::Udp, (ip(CLIENT), 4000), (ip(VIP), 80), b"hello");
    fragment[20..22].copy_from_slice(&[0, 1]);
    fragment[24..26].fill(0);
    let sum = crate::checksum::ipv4_header(&fragment[14..34]);
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    none(fragment, "a later fragment");
    let (mut echo, mut echo_v6) = (Vec::new(), Vec::new());
    with_ip(ip(CLIENT), ip(VIP), 1).icmpv4_echo_request(1, 2).write(&mut echo, b"").unwrap();
    with_ip(ip(CLIENT_V6), ip(VIP_V6), 1).icmpv6_echo_request(1, 2).write(&mut echo_v6, b"").unwrap();
    for mut echo in [echo, echo_v6] {
        assert!(f.about(&mut echo, Problem::TimeExceeded).is_some(), "an echo request is no error");
    }
}

#[test]
fn errors_are_limited_and_path_mtu_discovery_apart_from_the_others() {
    let mut f = Fixture::new();
    let mut frame = flow(Protocol::Udp, (ip(CLIENT), 4000), (ip(VIP), 80), b"");
    for _ in 0..80 {
        f.complain(&Packet::new(&mut frame), Problem::PortUnreachable, true, Instant::from_secs(1));
    }
    assert_eq!((f.sent.0.len(), f.counters.icmp_sent, f.counters.icmp_limited), (50, 50, 30));
    f.complain(&Packet::new(&mut frame), Problem::TooBig { mtu: 1500 }, true, Instant::from_secs(1));
    assert_eq!(f.counters.icmp_sent, 51);
    f.complain(&Packet::new(&mut frame), Problem::TimeExceeded, true, Instant::from_millis(1001));
    assert_eq!(f.counters.icmp_sent, 52, "one a millisecond");
}

#[test]
fn a_checksum_left_to_the_device_is_complete_in_the_quote() {
    for (client, vip) in families() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let good = flow(protocol, (client, 4000), (vip, 80), b"hello");
            let outer = read(&good);
            let offset = frame::transport::checksum_offset(protocol);
            let len = (outer.end - outer.payload) as u32;
            let partial = Sum::pseudo_header(client, vip, protocol.number(), len).fold();
            let mut frame = good.clone();
            frame[outer.payload + offset..][..2].copy_from_slice(&partial.to_be_bytes());
            let mut packet = Packet::new(&mut frame);
            packet.offload.partial = Some(Partial { start: outer.payload as u16, offset: offset as u16 });
            let mut f = Fixture::new();
            f.complain(&packet, Problem::PortUnreachable, true, Instant::ZERO);
            assert_eq!(f.sent.0[0][outer.payload + 8..], good[ETHERNET..]);
        }
    }
}

/// The server behind the virtual address, and a router on the way to it.
fn behind(family: IpAddr) -> (IpAddr, IpAddr) {
    if family.is_ipv4() { (ip("10.0.0.11"), ip("10.0.0.250")) } else { (ip("fd00::b"), ip("fd00::250")) }
}

#[test]
fn an_error_about_a_reply_goes_to_the_server_as_about_its_own() {
    for (client, vip) in families() {
        let (server, _) = behind(vip);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let seen = flow(protocol, (vip, 80), (client, 4000), b"reply");
            let own = flow(protocol, (server, 8080), (client, 4000), b"reply");
            let (kind, code) = if vip.is_ipv4() { (3, 3) } else { (1, 4) };
            let mut frame = error(client, vip, kind, code, &seen[ETHERNET..]);
            let quote = parse(&frame, &read(&frame)).unwrap().unwrap();
            assert_eq!((quote.protocol, quote.source, quote.source_port), (protocol, vip, 80));
            assert_eq!((quote.destination, quote.destination_port), (client, 4000));
            quote.for_server(&mut frame, server, 8080).unwrap();
            assert_eq!(frame, error(client, server, kind, code, &own[ETHERNET..]));
        }
    }
}

#[test]
fn an_error_about_a_request_comes_to_the_client_as_from_the_virtual_address() {
    for (client, vip) in families() {
        let (server, router) = behind(vip);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let seen = flow(protocol, (client, 4000), (server, 8080), b"request");
            let own = flow(protocol, (client, 4000), (vip, 80), b"request");
            let (kind, code) = if vip.is_ipv4() { (3, 4) } else { (2, 0) };
            let mut frame = error(router, client, kind, code, &seen[ETHERNET..]);
            let quote = parse(&frame, &read(&frame)).unwrap().unwrap();
            quote.for_client(&mut frame, vip, 80).unwrap();
            assert_eq!(frame, error(vip, client, kind, code, &own[ETHERNET..]));
        }
    }
}

#[test]
fn what_is_no_translatable_error_is_left_alone() {
    let seen = flow(Protocol::Tcp, (ip(VIP), 80), (ip(CLIENT), 4000), b"");
    let quoting = |kind, quoted: &[u8]| {
        let frame = error(ip(CLIENT), ip(VIP), kind, 0, quoted);
        parse(&frame, &read(&frame))
    };
    for kind in [0, 5, 8, 12, 13] {
        assert_eq!(quoting(kind, &seen[ETHERNET..]), Ok(None), "type {kind}");
    }
    for kind in [3, 4, 11] {
        assert!(quoting(kind, &seen[ETHERNET..]).unwrap().is_some(), "type {kind}");
    }
    let mut other = seen[ETHERNET..].to_vec();
    other[9] = 47;
    assert_eq!(quoting(3, &other), Ok(None), "GRE");
    let mut fragment = seen[ETHERNET..].to_vec();
    fragment[7] = 9;
    assert_eq!(quoting(3, &fragment), Ok(None), "a later fragment");
    for cut in [0, 19, 20, 27] {
        assert_eq!(quoting(3, &seen[ETHERNET..ETHERNET + cut]), Err(Reason::Malformed), "{cut} bytes");
    }
    assert!(quoting(3, &seen[ETHERNET..ETHERNET + 28]).unwrap().is_some(), "8 bytes of the datagram are enough");
    let v6 = flow(Protocol::Tcp, (ip(VIP_V6), 80), (ip(CLIENT_V6), 4000), b"");
    assert_eq!(quoting(3, &v6[ETHERNET..]), Err(Reason::Malformed), "another family");
}

#[test]
fn extension_headers_of_a_quoted_packet_are_stepped_over() {
    let seen = flow(Protocol::Udp, (ip(VIP_V6), 80), (ip(CLIENT_V6), 4000), b"x");
    let with = |next: u8, extension: [u8; 8]| {
        let mut quoted = seen[ETHERNET..ETHERNET + 40].to_vec();
        quoted[6] = next;
        quoted.extend(extension);
        quoted.extend(&seen[ETHERNET + 40..]);
        let frame = error(ip(CLIENT_V6), ip(VIP_V6), 1, 4, &quoted);
        parse(&frame, &read(&frame)).unwrap().map(|quote| quote.destination_port)
    };
    assert_eq!(with(0, [17, 0, 1, 4, 0, 0, 0, 0]), Some(4000), "hop-by-hop options");
    assert_eq!(with(44, [17, 0, 0, 1, 0, 0, 0, 9]), Some(4000), "the first fragment");
    assert_eq!(with(44, [17, 0, 0, 9, 0, 0, 0, 9]), None, "a later fragment");
    assert_eq!(with(43, [17, 0, 0, 0, 0, 0, 0, 0]), Some(4000), "routing, arrived");
    assert_eq!(with(43, [17, 0, 0, 1, 0, 0, 0, 0]), None, "routing, on its way");
}

#[test]
fn wrong_checksums_and_mixed_families_are_refused_and_nothing_is_changed() {
    let seen = flow(Protocol::Tcp, (ip(VIP), 80), (ip(CLIENT), 4000), b"");
    let good = error(ip(CLIENT), ip(VIP), 3, 3, &seen[ETHERNET..]);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    let quote = parse(&bad, &read(&bad)).unwrap().unwrap();
    assert_eq!((quote.check(&bad), quote.check(&good)), (Err(Reason::BadChecksum), Ok(())));
    quote.for_server(&mut bad, ip("10.0.0.11"), 80).unwrap();
    assert_eq!(quote.check(&bad), Err(Reason::BadChecksum), "it does not come out better than it was");
    let mut frame = good.clone();
    assert_eq!(quote.for_server(&mut frame, ip("fd00::b"), 80), Err(Reason::Malformed));
    let cut = frame.len() - 1;
    assert_eq!(quote.for_client(&mut frame[..cut], ip(VIP), 80), Err(Reason::Malformed));
    assert_eq!(frame, good);
}

fn host_v4() -> impl Strategy<Value = IpAddr> {
    any::<u32>().prop_map(|a| Ipv4Addr::from(a).into())
}

fn host_v6() -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(|a| Ipv6Addr::from(a).into())
}

fn hosts() -> impl Strategy<Value = [IpAddr; 3]> {
    prop_oneof![[host_v4(), host_v4(), host_v4()], [host_v6(), host_v6(), host_v6()]]
}

proptest! {
    /// Translating gives the error that would have been made about the translated packet, however much is quoted.
    #[test]
    fn translating_is_making_it_anew(
        [client, vip, server] in hosts(), tcp: bool, ports: [u16; 3], payload in prop::collection::vec(any::<u8>(), 0..60),
        cut: prop::sample::Index, toward_client: bool,
    ) {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let [cport, vport, dport] = ports;
        let (client, vip, server) = ((client, cport), (vip, vport), (server, dport));
        let (seen, own) = match toward_client {
            true => (flow(protocol, client, server, &payload), flow(protocol, client, vip, &payload)),
            false => (flow(protocol, vip, client, &payload), flow(protocol, server, client, &payload)),
        };
        let least = if vip.0.is_ipv4() { 28 } else { 48 };
        // Not through the middle of a checksum.
        let end = ETHERNET + least + cut.index(seen.len() - ETHERNET - least + 1) / 2 * 2;
        let kind = if vip.0.is_ipv4() { 3 } else { 1 };
        let (from, to, new_from, new_to) = match toward_client {
            true => (server.0, client.0, vip.0, client.0),
            false => (client.0, vip.0, client.0, server.0),
        };
        let mut frame = error(from, to, kind, 1, &seen[ETHERNET..end]);
        let quote = parse(&frame, &read(&frame)).unwrap().unwrap();
        match toward_client {
            true => quote.for_client(&mut frame, vip.0, vip.1).unwrap(),
            false => quote.for_server(&mut frame, server.0, server.1).unwrap(),
        }
        prop_assert!(is_intact(&frame));
        prop_assert_eq!(frame, error(new_from, new_to, kind, 1, &own[ETHERNET..end]));
    }

    /// Nothing that can be in a frame does harm; what is translated is intact.
    #[test]
    fn hostile_errors_do_no_harm(
        v6: bool, kind: u8, quoted in prop::collection::vec(any::<u8>(), 0..120), first in 0x40u8..0x70, next in 0u8..61,
    ) {
        let (client, vip) = families()[usize::from(v6)];
        let mut quoted = quoted;
        for (at, value) in [(0, first), (if v6 { 6 } else { 9 }, next)] {
            if let Some(byte) = quoted.get_mut(at) {
                *byte = value;
            }
        }
        let mut frame = error(client, vip, kind, 0, &quoted);
        let outer = read(&frame);
        if let Ok(Some(quote)) = parse(&frame, &outer) {
            quote.for_server(&mut frame, behind(vip).0, 80).unwrap();
            prop_assert!(is_intact(&frame));
            quote.for_client(&mut frame, behind(vip).1, 80).ok();
        }
        let mut again = error(client, vip, kind, 0, &quoted);
        if let Some(sent) = Fixture::new().about(&mut again, Problem::PortUnreachable) {
            prop_assert!(is_intact(&sent));
        }
    }

    /// A cut frame whose headers claim the whole does not panic either.
    #[test]
    fn cut_heads_do_no_harm(v6: bool, cut: prop::sample::Index) {
        let (client, vip) = families()[usize::from(v6)];
        let seen = flow(Protocol::Tcp, (vip, 80), (client, 4000), b"x");
        let frame = error(client, vip, if v6 { 1 } else { 3 }, 0, &seen[ETHERNET..]);
        let outer = read(&frame);
        let mut head = frame[..cut.index(frame.len())].to_vec();
        if let Ok(Some(quote)) = parse(&head, &outer) {
            prop_assert_eq!(quote.for_server(&mut head, behind(vip).0, 80), Err(Reason::Malformed));
        }
        let mut f = Fixture::new();
        let len = frame.len();
        let packet = Packet { len, ..Packet::new(&mut head) };
        let mut outlet = Outlet { routes: &f.routes, sink: &mut f.sent, counters: &mut f.counters };
        f.errors.send(&packet, &outer, Problem::TimeExceeded, true, Instant::ZERO, &mut outlet);
    }
}

#[test]
fn an_ethernet_header_without_a_packet_is_refused() {
    let frame = flow(Protocol::Tcp, (ip(CLIENT), 1), (ip(VIP), 2), b"");
    let outer = read(&frame);
    assert_eq!(parse(&frame[..ETHERNET], &outer), Err(Reason::Malformed));
    assert_eq!(parse(&[], &outer), Err(Reason::Malformed));
}
