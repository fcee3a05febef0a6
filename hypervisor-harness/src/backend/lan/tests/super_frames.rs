//! Super-frames in every form that the guest may want, and datagrams that come and go together.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::super::fabric::{Cut, Fabric, Host};
use super::super::mode::Mode;
use super::super::packet::{self, HEADROOM, Packet};
use super::super::{Backend, Config, Lan, plan};
use super::guest::{Guest, with};
use super::{PATIENCE, all, publishing};

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
const OFFLOADS: [Features; 7] = [
    Features::GUEST_CSUM,
    Features::GUEST_TSO4,
    Features::GUEST_TSO6,
    Features::GUEST_USO4,
    Features::GUEST_USO6,
    Features::GUEST_UFO,
    Features::GUEST_ECN,
];

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// An IP packet with a transport header of `transport` bytes before the payload.
fn fill(packet: &mut [u8], from: IpAddr, to: IpAddr, protocol: u8, transport: usize, payload: &[u8]) {
    let header = packet::header_length(from);
    packet::write_header(packet, from, to, protocol);
    let length = (packet.len() - header) as u16;
    let segment = &mut packet[header..];
    segment[..transport].fill(0);
    segment[..4].copy_from_slice(&[0x1f, 0x40, 0, 7]);
    match protocol {
        packet::TCP => (segment[12], segment[13]) = (5 << 4, 0x18),
        _ => segment[4..6].copy_from_slice(&length.to_be_bytes()),
    }
    segment[transport..].copy_from_slice(payload);
}

/// What of the whole payload a frame holds: from where, and the bytes. Its headers are checked.
fn part<'f>(frame: &'f [u8], header: &NetHdr, protocol: u8) -> (usize, &'f [u8]) {
    let packet = &frame[HEADROOM..];
    let be16 = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 && be16(6) & 0x3fff != 0 {
        assert_eq!(be16(2), packet.len());
        let at = (be16(6) & 0x1fff) * 8;
        return if at == 0 { (0, &packet[28..]) } else { (at - 8, &packet[20..]) };
    }
    if packet[0] >> 4 == 6 && packet[6] == 44 {
        assert_eq!(be16(4) + 40, packet.len());
        let at = be16(42) & !7;
        return if at == 0 { (0, &packet[56..]) } else { (at - 8, &packet[48..]) };
    }
    let parsed = Packet::parse(packet).expect("well-formed");
    assert_eq!(parsed.verify(header), Ok(()), "{header:?}");
    let segment = parsed.payload();
    if protocol == packet::TCP {
        (u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]) as usize, &segment[20..])
    } else {
        // Datagrams do not tell their places.
        (usize::MAX, &segment[8..])
    }
}

#[test]
fn every_guest_is_given_what_it_takes_and_all_of_it() {
    let now = Instant::now();
    let sent = payload(30_000);
    for chosen in 0_u32..1 << OFFLOADS.len() {
        let bits = (0..OFFLOADS.len()).filter(|bit| chosen >> bit & 1 == 1);
        let features = bits.fold(Features::empty(), |all, bit| all | OFFLOADS[bit]);
        let mode = Mode::from(features);
        for (version, cut) in (0..2).flat_map(|version| {
            [Cut::Segments(1400), Cut::Datagrams(1400), Cut::Fragments(1400)].map(|cut| (version, cut))
        }) {
            let mut fabric = Fabric::new(
                vec![Host::new([2, 0, 0, 0, 0, 9], plan::server(11).to_vec(), false)],
                plan::GUEST.to_vec(),
                1500,
            );
            fabric.plug(mode, now);
            let (from, to) = (plan::server(11)[version], plan::GUEST[version]);
            fabric.heard(0, to, GUEST_MAC, true, now);
            let (protocol, transport) = if let Cut::Segments(_) = cut { (packet::TCP, 20) } else { (packet::UDP, 8) };
            let mut frame = fabric.frame(packet::header_length(from) + transport + sent.len());
            fill(frame.packet_mut(), from, to, protocol, transport, &sent);
            fabric.send(0, frame, Some(cut), now);
            let (mut got, mut frames) = (Vec::new(), 0);
            while let Some(frame) = fabric.peek_guest() {
                let bytes = frame.bytes();
                let header = NetHdr::parse(bytes.first_chunk().expect("a header"));
                assert!(mode.takes(&header, version == 1), "{features:?} {cut:?}: {header:?}");
                assert!(header.is_gso() || bytes.len() <= HEADROOM + 1500, "{} bytes", bytes.len());
                let (at, piece) = part(bytes, &header, protocol);
                assert!(at == got.len() || at == usize::MAX, "{at} after {} bytes", got.len());
                got.extend_from_slice(piece);
                frames += 1;
                fabric.pop_guest();
            }
            assert!(got == sent, "{features:?} {cut:?}");
            assert!(frames == 1 || frames == 30_000_usize.div_ceil(1400), "{frames} frames");
            assert_eq!(fabric.counters.to_guest.dropped, 0);
        }
    }
}

/// A client, connected to a published port behind which the guest leads to a server's echo.
fn echo(features: Features) -> [(Guest, UdpSocket); 2] {
    ["udp:0:10.0.0.100:7", "udp:0:[fd00::64]:7"].map(|port| {
        let (mut guest, handle) = Guest::new(&publishing(&[port]), features, 11);
        guest.lan.negotiated(features).expect("negotiated");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.connect(handle.published()[0].host).expect("connected");
        // Everybody knows everybody's address after that.
        client.send(b"hello").expect("sent");
        settle(&mut guest);
        assert_eq!(client.recv(&mut [0; 10]).expect("an answer"), 5);
        (guest, client)
    })
}

/// Goes on until nothing more happens. What comes through the host's loopback is there as soon as it is sent.
fn settle(guest: &mut Guest) {
    let mut idle = 0;
    while idle < 4 {
        idle = if guest.turn() { 0 } else { idle + 1 };
    }
}

#[test]
fn datagrams_of_one_flow_travel_together() {
    let uso = Features::GUEST_USO4 | Features::GUEST_USO6;
    for features in [all(), all() - uso, Features::empty()] {
        for (mut guest, client) in echo(features) {
            let sizes = [1000; 20].into_iter().chain([999, 1000, 0, 1, 1, 2, 1400, 1400]);
            let sent: Vec<_> = sizes.enumerate().map(|(nth, size)| vec![nth as u8; size]).collect();
            for datagram in &sent {
                client.send(datagram).expect("sent");
            }
            settle(&mut guest);
            for datagram in &sent {
                let mut room = [0; 2000];
                let length = client.recv(&mut room).expect("an answer");
                assert_eq!(&room[..length], &datagram[..], "{features:?}");
            }
            let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst);
            assert_eq!(count(&guest.seen.wrong), 0);
            // 21 of about 1000 bytes, two of one, two of 1400: to the guest from the client, and from the server.
            let together = if features.contains(uso) { 6 } else { 0 };
            assert_eq!(count(&guest.seen.datagrams), together, "{features:?}");
            assert_eq!(guest.lan.counters().from_guest.dropped, 0);
        }
    }
}

#[test]
fn large_datagrams_travel_whole_or_in_fragments() {
    for (mut guest, client) in echo(all()) {
        for size in [1473, 9000, 60_000] {
            let sent = payload(size);
            client.send(&sent).expect("sent");
            settle(&mut guest);
            let mut room = vec![0; 65_536];
            let length = client.recv(&mut room).expect("an answer");
            assert!(room[..length] == sent);
        }
        assert!(guest.seen.unfragmented.load(Ordering::SeqCst) >= 4);
        assert_eq!((guest.seen.wrong.load(Ordering::SeqCst), guest.seen.datagrams.load(Ordering::SeqCst)), (0, 0));
    }
    for (mut guest, client) in echo(all() - Features::GUEST_UFO) {
        let before = guest.seen.frames.load(Ordering::SeqCst);
        client.send(&payload(9000)).expect("sent");
        settle(&mut guest);
        assert_eq!(
            guest.seen.frames.load(Ordering::SeqCst) - before,
            7,
            "fragments, which this guest does not lead on"
        );
        assert_eq!((guest.seen.wrong.load(Ordering::SeqCst), guest.seen.large.load(Ordering::SeqCst)), (0, 0));
    }
}

#[test]
fn what_the_guest_sends_together_reaches_real_servers_one_by_one() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let host: SocketAddr = server.local_addr().expect("bound");
    let real = ["10.0.0.11:7", "[fd00::b]:7"].map(|inner| format!("{inner}={host}").parse().expect("an option"));
    let config = Config { servers: Vec::new(), real: real.to_vec(), ..Config::default() };
    let (mut lan, _handle) = Lan::open(&config).expect("a network");
    lan.negotiated(all()).expect("negotiated");
    let sent = payload(5100);
    for version in 0..2 {
        for (gso_type, gso_size, pieces) in [(NetHdr::GSO_UDP_L4, 1000, 1000), (NetHdr::GSO_UDP, 1400, 5100)] {
            let (from, to) = (plan::GUEST[version], plan::server(11)[version]);
            let header = packet::header_length(from);
            let mut frame = vec![0; HEADROOM + header + 8 + sent.len()];
            fill(&mut frame[HEADROOM..], from, to, packet::UDP, 8, &sent);
            let partial = packet::write_checksum(&mut frame[HEADROOM..], true);
            let virtio = NetHdr { gso_type, gso_size, hdr_len: partial.csum_start + 8, ..partial };
            frame[..12].copy_from_slice(&virtio.to_bytes());
            frame[12..18].copy_from_slice(&plan::mac(to));
            let kind = if version == 0 { packet::IPV4 } else { packet::IPV6 };
            frame[24..26].copy_from_slice(&kind.to_be_bytes());
            with(&mut frame, |frame| lan.send(frame)).expect("taken");
            for piece in sent.chunks(pieces) {
                let mut room = [0; 9000];
                let length = server.recv(&mut room).expect("a datagram");
                assert_eq!(&room[..length], piece);
            }
        }
    }
    assert_eq!(lan.counters().from_guest.dropped, 0);
}
