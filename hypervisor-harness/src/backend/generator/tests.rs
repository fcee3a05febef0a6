use super::*;
use crate::virtio::memory::{Memory, scatter};
use crate::vmm::GuestRam;

/// Guest memory for one frame.
struct Room(Memory, GuestRam);

impl Room {
    fn new() -> Self {
        let ram = GuestRam::new(32).unwrap();
        Self(Memory::new(ram.clone()), ram)
    }

    fn receive(&self, generator: &mut Generator) -> Option<Vec<u8>> {
        let piece = [self.0.piece(0x1000, 2048).unwrap()];
        match generator.receive(&mut scatter(&piece)).unwrap() {
            Received::Frame(length) => {
                let mut bytes = vec![0; length];
                self.1.read(0x1000, &mut bytes).unwrap();
                Some(bytes)
            }
            _ => None,
        }
    }

    fn send(&self, generator: &mut Generator, bytes: &[u8]) {
        self.1.write(0x2000, bytes).unwrap();
        let piece = [self.0.piece(0x2000, bytes.len() as u32).unwrap()];
        assert_eq!(generator.send(&scatter(&piece)).unwrap(), Sent::Done);
        generator.publish();
    }
}

/// What a balancer does to a frame, the slow and sure way.
fn forwarded(frame: &[u8], server: u8) -> Vec<u8> {
    use etherparse::{PacketHeaders, TransportHeader};
    let (header, frame) = frame.split_at(NetHdr::LEN);
    let mut headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = &mut headers.net else { panic!("not IPv4") };
    ip.destination = [10, 0, 0, server];
    ip.time_to_live -= 1;
    ip.header_checksum = ip.calc_header_checksum();
    let mut out = header.to_vec();
    out.extend(ethernet(Ipv4Addr::new(10, 0, 0, server)));
    out.extend(Load::default().guest);
    out.extend([8, 0]);
    ip.write(&mut out).unwrap();
    let payload = headers.payload.slice();
    match headers.transport.unwrap() {
        TransportHeader::Udp(mut udp) => {
            udp.checksum = udp.calc_checksum_ipv4(ip, payload).unwrap();
            udp.write(&mut out).unwrap();
        }
        TransportHeader::Tcp(mut tcp) => {
            tcp.checksum = tcp.calc_checksum_ipv4(ip, payload).unwrap();
            tcp.write(&mut out).unwrap();
        }
        other => panic!("{other:?}"),
    }
    out.extend(payload);
    out
}

#[test]
fn frames_are_right_and_are_known_again() {
    let room = Room::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for frame in [60, 61, 64, 1514] {
            let (mut generator, meter) =
                Generator::new(Load { protocol, frame, flows: 100, ..Load::default() }).unwrap();
            assert_eq!(room.receive(&mut generator), None, "not before it is told to");
            meter.start();
            for nth in 0..SAMPLE as u8 * 4 {
                let bytes = room.receive(&mut generator).unwrap();
                assert_eq!(bytes.len(), NetHdr::LEN + frame);
                // The checksums are the ones that somebody else computes.
                let same = forwarded(&bytes, 100);
                assert_eq!(same[NetHdr::LEN + 34..], bytes[NetHdr::LEN + 34..], "{protocol:?} {frame} {nth}");
                let flags = bytes[NetHdr::LEN + 47];
                assert!(protocol == Protocol::Udp || flags == if nth < 100 { 2 } else { 0x18 });
                room.send(&mut generator, &forwarded(&bytes, 11 + nth % 3));
            }
            let tally = meter.tally();
            assert_eq!((tally.forwarded, tally.verified, tally.wrong, tally.other), (SAMPLE * 4, 4, 0, 0));
            meter.stop();
            assert_eq!(room.receive(&mut generator), None);
        }
    }
}

#[test]
fn partial_checksums_are_checked_likewise() {
    let room = Room::new();
    let (mut generator, meter) = Generator::new(Load { offloads: Features::GUEST_CSUM, ..Load::default() }).unwrap();
    generator.negotiated(Features::GUEST_CSUM).unwrap();
    meter.start();
    let mut bytes = room.receive(&mut generator).unwrap();
    let header = NetHdr::parse(bytes.first_chunk().unwrap());
    assert!(header.needs_csum());
    // The sum of the pseudo-header alone, in either direction.
    let mut right = forwarded(&bytes, 12);
    let pseudo = template::add(template::pseudo(17, 26), &right[NetHdr::LEN + 26..NetHdr::LEN + 34]);
    right[NetHdr::LEN + 40..NetHdr::LEN + 42].copy_from_slice(&template::fold(pseudo).to_be_bytes());
    assert!(generator.checker.check(&scatter(&[piece(&room, &right)])));
    let finished = {
        bytes[0] = 0;
        forwarded(&bytes, 12)
    };
    assert!(generator.checker.check(&scatter(&[piece(&room, &finished)])), "the guest may have finished it");
    // Every byte matters, but for the time to live and what the header hints.
    for at in NetHdr::LEN..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 0x10;
        assert!(!generator.checker.check(&scatter(&[piece(&room, &wrong)])) || (46..72).contains(&at), "byte {at}");
    }
    for at in NetHdr::LEN..finished.len() {
        let mut wrong = finished.clone();
        wrong[at] ^= 0x10;
        assert!(!generator.checker.check(&scatter(&[piece(&room, &wrong)])), "byte {at}");
    }
}

fn piece(room: &Room, bytes: &[u8]) -> crate::virtio::memory::Piece {
    room.1.write(0x3000, bytes).unwrap();
    room.0.piece(0x3000, bytes.len() as u32).unwrap()
}

#[test]
fn questions_are_answered_for_the_gateway_and_the_servers() {
    let room = Room::new();
    let (mut generator, meter) = Generator::new(Load::default()).unwrap();
    let guest = Load::default().guest;
    let ask = |target: [u8; 4]| {
        let arp = [
            &[0; 12][..],
            &[255; 6],
            &guest,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &guest,
            &[10, 0, 0, 2],
            &[0; 6],
            &target,
        ];
        arp.concat()
    };
    for host in [1, 11, 13] {
        room.send(&mut generator, &ask([10, 0, 0, host]));
        let answer = room.receive(&mut generator).unwrap();
        let own = ethernet(Ipv4Addr::new(10, 0, 0, host));
        let arp = &answer[NetHdr::LEN..];
        assert_eq!(
            (&arp[..6], &arp[6..12], &arp[22..28], &arp[28..32]),
            (&guest[..], &own[..], &own[..], &[10, 0, 0, host][..])
        );
        assert_eq!((&arp[12..22], &arp[32..42]), (&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2][..], &ask([0; 4])[34..44]));
    }
    room.send(&mut generator, &ask([10, 0, 0, 9]));
    room.send(&mut generator, &ask([10, 0, 0, 1])[..30]);
    room.send(&mut generator, &[0; 12]);
    assert_eq!(room.receive(&mut generator), None);
    let tally = meter.tally();
    assert_eq!((tally.answered, tally.other), (3, 3));
}

#[test]
fn flows_are_told_apart() {
    let mut seen = std::collections::HashSet::new();
    for nth in (0..1000).chain(59_990..60_010).chain(template::MOST_FLOWS - 10..template::MOST_FLOWS) {
        let (address, port) = template::client(nth);
        assert!(seen.insert((address, port)));
        assert_eq!(template::flow(address, port), Some(nth));
    }
    assert!(Generator::new(Load { flows: 0, ..Load::default() }).is_err());
    assert!(Generator::new(Load { frame: 59, ..Load::default() }).is_err());
}

#[test]
fn a_start_just_before_the_sleep_ends_it() {
    let (mut generator, meter) = Generator::new(Load::default()).unwrap();
    let now = Instant::now();
    assert_eq!(generator.turn(now), None);
    // The device's thread has seen no load, and is about to sleep.
    meter.start();
    let mut fds = Vec::new();
    generator.wait_on(&mut fds);
    assert_eq!(fds, [generator.wake.as_raw_fd()]);
    assert_eq!(meter.wake.read().ok(), Some(1), "the descriptor is readable still");
    assert_eq!(generator.turn(now), Some(now));
    // What an earlier start has left does not end later sleeps.
    meter.start();
    meter.stop();
    assert_eq!(generator.turn(now), None);
    assert!(meter.wake.read().is_err());
}
