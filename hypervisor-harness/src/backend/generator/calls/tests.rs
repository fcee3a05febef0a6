use std::net::IpAddr;

use super::super::LEAST_FRAME;
use super::*;
use crate::virtio::memory::{Memory, scatter};
use crate::vmm::GuestRam;

/// Guest memory for one frame at a time.
struct Room(Memory, GuestRam);

impl Room {
    fn new() -> Self {
        let ram = GuestRam::new(32).unwrap();
        Self(Memory::new(ram.clone()), ram)
    }

    fn receive(&self, calls: &mut Calls) -> Option<Vec<u8>> {
        let piece = [self.0.piece(0x10_0000, 2048).unwrap()];
        let Received::Frame(length) = calls.receive(&mut scatter(&piece)).unwrap() else { return None };
        let mut bytes = vec![0; length];
        self.1.read(0x10_0000, &mut bytes).unwrap();
        Some(bytes)
    }

    fn send(&self, calls: &mut Calls, bytes: &[u8]) {
        self.1.write(0x20_0000, bytes).unwrap();
        let piece = [self.0.piece(0x20_0000, bytes.len() as u32).unwrap()];
        assert_eq!(calls.send(&scatter(&piece)).unwrap(), Sent::Done);
    }
}

/// What a balancer that always chooses the same server makes of a frame, the slow and sure way.
fn balanced(frame: &[u8], server: IpAddr) -> Vec<u8> {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    let headers = PacketHeaders::from_ethernet_slice(&frame[NetHdr::LEN..]).unwrap();
    let Some(NetHeaders::Ipv4(mut ip, _)) = headers.net else { panic!("not IPv4") };
    let Some(TransportHeader::Tcp(mut tcp)) = headers.transport else { panic!("not TCP") };
    let payload = headers.payload.slice();
    let IpAddr::V4(server) = server else { panic!("not IPv4") };
    if ip.source == server.octets() {
        ip.source = [10, 0, 0, 100];
    } else {
        assert_eq!(ip.destination, [10, 0, 0, 100]);
        ip.destination = server.octets();
    }
    // The segment's checksum was right.
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).unwrap();
    let mut out = NetHdr::default().to_bytes().to_vec();
    out.extend(&frame[NetHdr::LEN..][..14]);
    ip.write(&mut out).unwrap();
    tcp.write(&mut out).unwrap();
    out.extend(payload);
    out.resize(NetHdr::LEN + LEAST_FRAME, 0);
    out
}

fn checksums_are_right(frame: &[u8]) -> bool {
    let headers = etherparse::PacketHeaders::from_ethernet_slice(&frame[NetHdr::LEN..]).unwrap();
    let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Tcp(tcp))) =
        (headers.net, headers.transport)
    else {
        return false;
    };
    ip.header_checksum == ip.calc_header_checksum()
        && tcp.checksum == tcp.calc_checksum_ipv4(&ip, headers.payload.slice()).unwrap()
}

fn calls(flows: u32, conversations: u32) -> (Calls, Meter) {
    Calls::new(Load { flows, ..Load::default() }, conversations).unwrap()
}

#[test]
fn conversations_go_on_as_long_as_frames_come_back() {
    let (mut calls, meter) = calls(12, 4);
    let room = Room::new();
    assert!(room.receive(&mut calls).is_none());
    meter.start();
    let mut clients = std::collections::BTreeSet::new();
    let server = calls.load.servers[1].ip();
    let now = Instant::now();
    for _ in 0..1000 {
        let mut burst = Vec::new();
        while let Some(frame) = room.receive(&mut calls) {
            assert!(checksums_are_right(&frame), "{frame:x?}");
            if frame[NetHdr::LEN + 47] == 2 {
                clients.insert(frame[NetHdr::LEN + 26..NetHdr::LEN + 36].to_vec());
            }
            burst.push(balanced(&frame, server));
        }
        assert_eq!(burst.len(), 4);
        burst.iter().for_each(|frame| room.send(&mut calls, frame));
        calls.turn(now);
    }
    let tally = meter.tally();
    // Four at a time, seven frames each.
    assert_eq!((tally.done, tally.lost, tally.wrong), (4 * (1000 / 7), 0, 0));
    assert!(tally.verified >= 4000 / SAMPLE);
    assert_eq!(clients.len(), 12);
    meter.stop();
    for _ in 0..7 {
        while let Some(frame) = room.receive(&mut calls) {
            room.send(&mut calls, &balanced(&frame, server));
        }
    }
    assert!(room.receive(&mut calls).is_none());
    calls.turn(now);
    assert_eq!(meter.tally().done, 4 * (1000 / 7) + 4);
}

#[test]
fn what_does_not_come_back_is_given_up() {
    let (mut calls, meter) = calls(4, 4);
    let room = Room::new();
    meter.start();
    let lost: Vec<_> = std::iter::from_fn(|| room.receive(&mut calls)).collect();
    assert_eq!(lost.len(), 4);
    calls.turn(Instant::now() + PATIENCE / 2);
    assert_eq!(meter.tally().lost, 0);
    calls.turn(Instant::now() + 2 * PATIENCE);
    assert_eq!(meter.tally().lost, 4);
    // They begin anew, and what comes late is nobody's.
    let again = room.receive(&mut calls).unwrap();
    assert_ne!(again, lost[3]);
    calls.turn(Instant::now() + 2 * PATIENCE);
    assert_eq!(meter.tally().wrong, 0);
}

#[test]
fn wrong_frames_are_noticed() {
    let server = Load::default().servers[1].ip();
    let other = Load::default().servers[2].ip();
    // What is done to the second frame that goes to a server: a sequence number, a payload, another server.
    let flipped = |frame: &[u8], at: usize| {
        let mut frame = balanced(frame, server);
        frame[NetHdr::LEN + at] ^= 1;
        frame
    };
    for change in 0..3 {
        let (mut calls, meter) = calls(1, 1);
        let room = Room::new();
        meter.start();
        for _ in 0..2 {
            let frame = room.receive(&mut calls).unwrap();
            room.send(&mut calls, &balanced(&frame, server));
        }
        let request = room.receive(&mut calls).unwrap();
        let changed = match change {
            0 => flipped(&request, 41),
            1 => flipped(&request, 56),
            _ => balanced(&request, other),
        };
        room.send(&mut calls, &changed);
        calls.turn(Instant::now());
        assert_eq!((meter.tally().wrong, meter.tally().done), (1, 0));
        // It is not answered.
        assert!(room.receive(&mut calls).is_none());
    }
}

#[test]
fn each_frame_is_read_as_it_was_written() {
    let (client, server) = ((0x0a09_0001, 1024), (0x0a00_000b, 80));
    for isn in [0, u32::MAX, 77] {
        for step in Step::ALL {
            let segment = step.segment(client, server, isn);
            let frame = segment.emit([1; 6], [2; 6]);
            let bytes: [u8; NetHdr::LEN + LENGTH] = frame.as_flattened().try_into().unwrap();
            assert!(checksums_are_right(&bytes) && segment::is_whole(&bytes), "{step:?}");
            assert_eq!(Segment::parse(&bytes[NetHdr::LEN..]), Some(segment));
            assert_eq!(bytes[NetHdr::LEN..NetHdr::LEN + 12], [[1; 6], [2; 6]].concat());
            for at in [NetHdr::LEN + 24, NetHdr::LEN + 50] {
                let mut broken = bytes;
                broken[at] ^= 1;
                assert!(!segment::is_whole(&broken), "{step:?} {at}");
            }
        }
    }
}

#[test]
fn impossible_numbers_are_refused() {
    for (flows, conversations) in [(0, 0), (4, 0), (3, 4), (6, 4)] {
        assert!(Calls::new(Load { flows, ..Load::default() }, conversations).is_err(), "{flows} {conversations}");
    }
}

#[test]
fn a_client_is_the_same_in_numbers() {
    for flow in [0, 1, 59_999, 60_000, 196_607, shape::MOST_FLOWS - 1] {
        let (address, port) = shape::client(flow, false);
        let IpAddr::V4(address) = address else { panic!("not IPv4") };
        assert_eq!(shape::client_v4(flow), (address.to_bits(), port));
        assert_eq!(shape::flow_v4((address.to_bits(), port)), Some(flow));
    }
    for stranger in [(0x0a09_0000, 1024), (0x0a08_ffff, 1024), (0x0a0a_0000, 1024), (0x0a09_0001, 1023)] {
        let address = std::net::Ipv4Addr::from_bits(stranger.0);
        assert_eq!((shape::flow_v4(stranger), shape::flow(address.into(), stranger.1)), (None, None), "{stranger:?}");
    }
}
