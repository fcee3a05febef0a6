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
        self.receive_from(generator)
    }

    fn receive_from(&self, generator: &mut impl Backend) -> Option<Vec<u8>> {
        let piece = [self.0.piece(0x10_0000, 70_000).unwrap()];
        match generator.receive(&mut scatter(&piece)).unwrap() {
            Received::Frame(length) => {
                let mut bytes = vec![0; length];
                self.1.read(0x10_0000, &mut bytes).unwrap();
                Some(bytes)
            }
            _ => None,
        }
    }

    fn send(&self, generator: &mut Generator, bytes: &[u8]) {
        self.1.write(0x20_0000, bytes).unwrap();
        let piece = [self.0.piece(0x20_0000, bytes.len() as u32).unwrap()];
        assert_eq!(generator.send(&scatter(&piece)).unwrap(), Sent::Done);
        generator.publish();
    }
}

/// What a balancer does to a frame, the slow and sure way. The checksum comes out complete.
fn forwarded(frame: &[u8], server: u8) -> Vec<u8> {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    let frame = &frame[NetHdr::LEN..];
    let mut headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let mut out = NetHdr::default().to_bytes().to_vec();
    out.extend([0x52, 0x54, 0, 0x12, 0x34, server]);
    out.extend(Load::default().guest);
    let payload = headers.payload.slice();
    match headers.net.as_mut().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            ip.destination = [10, 0, 0, server];
            ip.time_to_live -= 1;
            ip.header_checksum = ip.calc_header_checksum();
            out.extend([8, 0]);
            ip.write(&mut out).unwrap();
            match headers.transport.as_mut().unwrap() {
                TransportHeader::Udp(udp) => udp.checksum = udp.calc_checksum_ipv4(ip, payload).unwrap(),
                TransportHeader::Tcp(tcp) => tcp.checksum = tcp.calc_checksum_ipv4(ip, payload).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        NetHeaders::Ipv6(ip, _) => {
            ip.destination[15] = server;
            ip.hop_limit -= 1;
            out.extend([0x86, 0xdd]);
            ip.write(&mut out).unwrap();
            match headers.transport.as_mut().unwrap() {
                TransportHeader::Udp(udp) => udp.checksum = udp.calc_checksum_ipv6(ip, payload).unwrap(),
                TransportHeader::Tcp(tcp) => tcp.checksum = tcp.calc_checksum_ipv6(ip, payload).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
    headers.transport.unwrap().write(&mut out).unwrap();
    out.extend(payload);
    out
}

/// The same with the virtio header that the frame came with, and so with a partial checksum if that says so.
fn forwarded_as_it_came(frame: &[u8], server: u8) -> Vec<u8> {
    let header = NetHdr::parse(frame.first_chunk().unwrap());
    let mut out = forwarded(frame, server);
    if header.needs_csum() {
        let ethernet = &out[NetHdr::LEN..];
        let start = usize::from(header.csum_start);
        let addresses = if start == 34 { 26..34 } else { 22..54 };
        let number = if start == 34 { ethernet[23] } else { ethernet[20] };
        let sum = shape::add((ethernet.len() - start) as u32 + u32::from(number), &ethernet[addresses]);
        let at = NetHdr::LEN + start + usize::from(header.csum_offset);
        out[at..at + 2].copy_from_slice(&shape::fold(sum).to_be_bytes());
        out[..NetHdr::LEN].copy_from_slice(&NetHdr { num_buffers: 0, ..header }.to_bytes());
    }
    out
}

/// Whether the generator finds a frame right.
fn is_right(room: &Room, generator: &mut Generator, bytes: &[u8]) -> bool {
    generator.checker.check(&scatter(&[piece(room, bytes)]))
}

/// That whichever of these bytes is changed, the frame is wrong.
fn every_byte_matters(room: &Room, generator: &mut Generator, right: &[u8], at: impl Iterator<Item = usize>) {
    assert!(is_right(room, generator, right));
    for at in at {
        let mut wrong = right.to_vec();
        wrong[at] ^= 0x10;
        assert!(!is_right(room, generator, &wrong), "byte {at} of {}", right.len());
    }
    assert!(!is_right(room, generator, &right[..right.len() - 1]));
}

#[test]
fn frames_are_right_and_are_known_again() {
    let room = Room::new();
    for (protocol, v6) in [Protocol::Udp, Protocol::Tcp].into_iter().flat_map(|one| [(one, false), (one, true)]) {
        for frame in [60, 61, 80, 81, 1514] {
            let load = Load { protocol, frame, flows: 100, ..Load::default() };
            let load = if v6 { load.over_ipv6() } else { load };
            let Ok((mut generator, meter)) = Generator::new(load) else {
                assert!(v6 && frame < 80);
                continue;
            };
            assert_eq!(room.receive(&mut generator), None, "not before it is told to");
            meter.start();
            let flags_at = NetHdr::LEN + if v6 { 67 } else { 47 };
            for nth in 0..SAMPLE as u8 * 4 {
                let bytes = room.receive(&mut generator).unwrap();
                assert_eq!(bytes.len(), NetHdr::LEN + frame);
                // The checksums are the ones that somebody else computes.
                let transport = NetHdr::LEN + if v6 { 54 } else { 34 };
                assert_eq!(forwarded(&bytes, 100)[transport..], bytes[transport..], "{protocol:?} {frame} {nth}");
                let flags = bytes[flags_at];
                assert!(protocol == Protocol::Udp || flags == if nth < 100 { 2 } else { 0x10 });
                room.send(&mut generator, &forwarded(&bytes, 11 + nth % 3));
            }
            let tally = meter.tally();
            assert_eq!((tally.forwarded, tally.verified, tally.wrong, tally.other), (SAMPLE * 4, 4, 0, 0));
            assert_eq!(tally.forwarded_bytes, tally.offered_bytes);
            meter.stop();
            assert_eq!(room.receive(&mut generator), None);
        }
    }
}

#[test]
fn partial_checksums_are_checked_likewise() {
    let room = Room::new();
    for load in [Load::default(), Load { frame: 68, ..Load::default().over_ipv6() }] {
        let (mut generator, meter) = Generator::new(Load { offloads: Features::GUEST_CSUM, ..load }).unwrap();
        generator.negotiated(Features::GUEST_CSUM).unwrap();
        meter.start();
        let bytes = room.receive(&mut generator).unwrap();
        assert!(NetHdr::parse(bytes.first_chunk().unwrap()).needs_csum());
        let (length, mark) = (bytes.len(), bytes.len() - generator.template.payload(0, 0));
        // Of which round a datagram is, only its checksum could tell.
        let known = (NetHdr::LEN..length).filter(|at| !(mark + 4..mark + 6).contains(at));
        every_byte_matters(&room, &mut generator, &forwarded_as_it_came(&bytes, 12), known);
        // The guest may have finished it.
        every_byte_matters(&room, &mut generator, &forwarded(&bytes, 12), NetHdr::LEN..length);
    }
}

#[test]
fn direct_routing_leaves_everything_but_the_ethernet_addresses() {
    let room = Room::new();
    for load in [Load::default(), Load { frame: 68, ..Load::default() }.over_ipv6()] {
        let (mut generator, meter) = Generator::new(Load { direct: true, ..load }).unwrap();
        meter.start();
        let bytes = room.receive(&mut generator).unwrap();
        let mut direct = forwarded(&bytes, 100);
        direct[NetHdr::LEN + 5] = 12;
        every_byte_matters(&room, &mut generator, &direct, NetHdr::LEN..direct.len());
        // By NAT it would be another's.
        assert!(!is_right(&room, &mut generator, &forwarded(&bytes, 12)));
    }
}

#[test]
fn a_tunnel_leaves_everything_but_a_hop_and_has_a_header_of_its_own() {
    let room = Room::new();
    let [v4, v6] = ["10.0.0.2", "fd00::2"].map(|address| address.parse::<IpAddr>().unwrap());
    for (load, guest) in [(Load::default(), v4), (Load { frame: 68, ..Load::default() }.over_ipv6(), v6)] {
        let server = load.servers[1].ip();
        let (mut generator, meter) = Generator::new(Load { tunnel: Some(guest), ..load }).unwrap();
        meter.start();
        let bytes = room.receive(&mut generator).unwrap();
        let mut inner = forwarded(&bytes, 100);
        let packet = NetHdr::LEN + 14;
        let length = (inner.len() - packet) as u16;
        let mut outer = Vec::new();
        if guest.is_ipv6() {
            inner[packet + 7] = 63;
            outer.extend([0x60, 0, 0, 0, (length >> 8) as u8, length as u8, 41, 63]);
            outer.extend(shape::octets(guest).into_iter().chain(shape::octets(server)));
        } else {
            inner[packet + 8] = 63;
            inner[packet + 10..packet + 12].fill(0);
            let sum = !shape::fold(shape::add(0, &inner[packet..packet + 20]));
            inner[packet + 10..packet + 12].copy_from_slice(&sum.to_be_bytes());
            outer.extend([0x45, 0, ((length + 20) >> 8) as u8, (length + 20) as u8, 0, 0, 0x40, 0, 63, 4, 0, 0]);
            outer.extend(shape::octets(guest).into_iter().chain(shape::octets(server)));
            let sum = !shape::fold(shape::add(0, &outer));
            outer[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let mut tunnelled = [&inner[..packet], &outer, &inner[packet..]].concat();
        tunnelled[NetHdr::LEN + 5] = ethernet(server)[5];
        every_byte_matters(&room, &mut generator, &tunnelled, NetHdr::LEN..tunnelled.len());
        // Without the tunnel it would be another's.
        assert!(!is_right(&room, &mut generator, &inner));
    }
}

/// Loads of every kind of super-frame.
fn large_loads() -> Vec<Load> {
    let mut loads = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for load in [Load { protocol, ..Load::default() }, Load { protocol, ..Load::default() }.over_ipv6()] {
            let load = Load { flows: 2, ..load }.large();
            if protocol == Protocol::Tcp {
                loads.push(Load { ecn: true, ..load.clone() });
            } else {
                loads.push(Load { frame: 60_000, large: Some(Large::Fragments(1440)), ..load.clone() });
            }
            // With whole pieces only, and with one that is shorter.
            loads.push(Load {
                frame: Shape::new(&load).payload + 20 * 1400,
                large: Some(Large::Segments(1400)),
                ..load.clone()
            });
            loads.push(load);
        }
    }
    loads
}

/// What a guest makes of a super-frame that it may not send as it is.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    use ringlet_driver::offload::{Finish, Segmenter};
    let (header, frame) = bytes.split_first_chunk().unwrap();
    let header = NetHdr::parse(header);
    let mut segmenter = Segmenter::new(&header, &frame[..128], frame, Finish::Complete).unwrap().identified(77);
    let mut all = Vec::new();
    while let Some(length) = segmenter.next_len() {
        let mut piece = vec![0; NetHdr::LEN + length];
        segmenter.write_next(frame, &mut piece[NetHdr::LEN..]).unwrap();
        all.push(piece);
    }
    all
}

#[test]
fn super_frames_are_known_whole_and_cut() {
    let room = Room::new();
    for load in large_loads() {
        let (mut generator, meter) = Generator::new(load.clone()).unwrap();
        generator.negotiated(Features::all()).unwrap();
        meter.start();
        if load.protocol == Protocol::Tcp {
            for _ in 0..2 {
                let opening = room.receive(&mut generator).unwrap();
                let right = forwarded_as_it_came(&opening, 13);
                every_byte_matters(&room, &mut generator, &right, NetHdr::LEN..right.len());
            }
        }
        for _ in 0..4 {
            let bytes = room.receive(&mut generator).unwrap();
            let header = NetHdr::parse(bytes.first_chunk().unwrap());
            assert_eq!(bytes.len(), NetHdr::LEN + load.frame);
            let sound = ringlet_driver::offload::check(&header, &bytes[NetHdr::LEN..][..128], load.frame);
            let headers = sound.unwrap().unwrap();
            assert_eq!(usize::from(header.hdr_len), headers.length);
            let whole = forwarded_as_it_came(&bytes, 11);
            let payload = NetHdr::LEN + headers.length;
            let some =
                (1..payload + 20).filter(|at| ![10, 11].contains(at)).chain((payload + 20..whole.len()).step_by(997));
            // Of the virtio header, what is said of segmentation.
            every_byte_matters(&room, &mut generator, &whole, some.chain([whole.len() - 1]));
            let pieces = cut(&whole);
            assert!(pieces.len() > 1);
            for (nth, piece) in pieces.iter().enumerate() {
                assert!(piece.len() <= NetHdr::LEN + LONGEST_ORDINARY);
                assert!(is_right(&room, &mut generator, piece), "piece {nth} of {load:?}");
                if nth == 0 || nth > pieces.len() - 2 {
                    // IPv6's number of a fragment may be anything, and so may the round of one that has no checksum.
                    let fragments = matches!(load.large, Some(Large::Fragments(_)));
                    let (number, round) = match (fragments, load.service.is_ipv6()) {
                        (true, true) => (NetHdr::LEN + 58..NetHdr::LEN + 62, NetHdr::LEN + 62 + 12),
                        (true, false) => (0..0, NetHdr::LEN + 34 + 12),
                        _ => (0..0, 0),
                    };
                    let round = if nth > 0 { round..round + 2 } else { 0..0 };
                    let at = (NetHdr::LEN..piece.len()).filter(|at| !number.contains(at) && !round.contains(at));
                    every_byte_matters(&room, &mut generator, piece, at);
                }
            }
        }
    }
}

#[test]
fn who_does_not_take_super_frames_is_given_pieces() {
    let room = Room::new();
    for (load, features) in
        large_loads().into_iter().flat_map(|load| [(load.clone(), Features::empty()), (load, Features::GUEST_CSUM)])
    {
        let (mut generator, meter) = Generator::new(load.clone()).unwrap();
        if matches!(load.large, Some(Large::Fragments(_))) {
            assert!(generator.negotiated(features).unwrap_err().to_string().contains("guest_ufo"));
            continue;
        }
        generator.negotiated(features).unwrap();
        meter.start();
        let (mut payload, wanted) = (0, 4 * Shape::new(&load).total);
        while payload < wanted {
            let bytes = room.receive(&mut generator).unwrap();
            let header = NetHdr::parse(bytes.first_chunk().unwrap());
            assert_eq!((header.is_gso(), header.needs_csum()), (false, !features.is_empty()));
            assert!(bytes.len() <= NetHdr::LEN + LONGEST_ORDINARY);
            payload += bytes.len() - NetHdr::LEN - Shape::new(&load).payload;
            assert!(is_right(&room, &mut generator, &forwarded_as_it_came(&bytes, 11)));
            room.send(&mut generator, &forwarded(&bytes, 12));
        }
        assert_eq!(payload, wanted);
        let tally = meter.tally();
        assert_eq!((tally.forwarded_bytes, tally.wrong, tally.other), (wanted as u64, 0, 0));
    }
}

#[test]
fn segments_that_somebody_put_together_are_known() {
    use crate::backend::coalesce::Coalesce;
    let room = Room::new();
    let load = Load { protocol: Protocol::Tcp, frame: 1514, flows: 3, ..Load::default() };
    for load in [load.clone(), load.over_ipv6()] {
        let (generator, meter) = Generator::new(load).unwrap();
        let mut network = Coalesce::new(generator, true);
        network.negotiated(Features::GUEST_CSUM | Features::GUEST_TSO4 | Features::GUEST_TSO6).unwrap();
        meter.start();
        let (mut large, mut flows) = (0, [0; 3]);
        for _ in 0..20 {
            let bytes = room.receive_from(&mut network).unwrap();
            let right = forwarded_as_it_came(&bytes, 11);
            assert!(is_right(&room, network.inner_mut(), &right));
            if NetHdr::parse(bytes.first_chunk().unwrap()).is_gso() {
                large += 1;
                every_byte_matters(&room, network.inner_mut(), &right, (12..90).chain((90..right.len()).step_by(1777)));
                for piece in cut(&right) {
                    assert!(is_right(&room, network.inner_mut(), &piece));
                }
            }
            flows[usize::from(bytes[NetHdr::LEN + if right[NetHdr::LEN + 12] == 8 { 29 } else { 37 }]) - 1] += 1;
        }
        assert!(large >= 15 && flows.iter().all(|count| *count >= 5), "{large} {flows:?}");
    }
}

#[test]
fn loads_that_cannot_be_made_are_refused() {
    let refused = |load: Load| Generator::new(load).map(drop).unwrap_err().to_string();
    let large = Load { protocol: Protocol::Tcp, ..Load::default() }.large();
    assert!(Generator::new(large.clone()).is_ok());
    assert!(refused(Load { flows: 0, ..Load::default() }).contains("flows"));
    assert!(refused(Load { frame: 59, ..Load::default() }).contains("expected 60 to 1514"));
    assert!(refused(Load { frame: 1515, ..Load::default() }).contains("expected 60 to 1514"));
    assert!(refused(Load { protocol: Protocol::Tcp, ..Load::default() }.over_ipv6()).contains("expected 80 to 1514"));
    assert!(refused(Load { frame: 65_550, ..large.clone() }).contains("to 65549"));
    assert!(refused(Load { large: Some(Large::Segments(15)), ..large.clone() }).contains("pieces of 15"));
    assert!(refused(Load { large: Some(Large::Segments(1461)), ..large.clone() }).contains("pieces of 1461"));
    assert!(refused(Load { large: Some(Large::Fragments(1400)), ..large }).contains("UDP"));
    assert!(refused(Load { ecn: true, ..Load::default() }).contains("ECN"));
}

fn piece(room: &Room, bytes: &[u8]) -> crate::virtio::memory::Piece {
    room.1.write(0x30_0000, bytes).unwrap();
    room.0.piece(0x30_0000, bytes.len() as u32).unwrap()
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
        let own = ethernet(Ipv4Addr::new(10, 0, 0, host).into());
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
fn solicitations_are_answered_too() {
    let room = Room::new();
    let (mut generator, meter) = Generator::new(Load { frame: 68, ..Load::default().over_ipv6() }).unwrap();
    let guest = Load::default().guest;
    for (host, known) in [(1, true), (11, true), (9, false)] {
        let mut question = vec![0; NetHdr::LEN];
        question.extend([0x33, 0x33, 0xff, 0, 0, host]);
        question.extend(guest);
        question.extend([0x86, 0xdd]);
        let mut target = [0; 16];
        (target[0], target[15]) = (0xfd, host);
        let mut own = target;
        own[15] = 2;
        let message = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
        let body = [&target[..], &[1, 1], &guest].concat();
        etherparse::PacketBuilder::ipv6(own, target, 255).icmpv6(message).write(&mut question, &body).unwrap();
        room.send(&mut generator, &question);
        let Some(answer) = room.receive(&mut generator) else {
            assert!(!known);
            continue;
        };
        assert!(known);
        let headers = etherparse::PacketHeaders::from_ethernet_slice(&answer[NetHdr::LEN..]).unwrap();
        let (Some(etherparse::NetHeaders::Ipv6(ip, _)), Some(etherparse::TransportHeader::Icmpv6(icmp))) =
            (headers.net, headers.transport)
        else {
            panic!("no ICMPv6")
        };
        assert_eq!((ip.source, ip.destination, ip.hop_limit), (target, own, 255));
        let payload = headers.payload.slice();
        assert_eq!(icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap(), icmp.checksum);
        assert_eq!(payload[payload.len() - 24..], [&target[..], &[2, 1], &ethernet(IpAddr::from(target))].concat());
    }
    assert_eq!((meter.tally().answered, meter.tally().other), (2, 1));
}

#[test]
fn flows_are_told_apart() {
    let mut seen = std::collections::HashSet::new();
    for nth in (0..1000).chain(59_990..60_010).chain(shape::MOST_FLOWS - 10..shape::MOST_FLOWS) {
        for v6 in [false, true] {
            let (address, port) = shape::client(nth, v6);
            assert!(seen.insert((address, port)));
            assert_eq!(shape::flow(address, port), Some(nth));
        }
    }
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
