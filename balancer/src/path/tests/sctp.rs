//! SCTP: what begins an association, its states, and its checksum, which is over the whole packet.

use super::*;
use etherparse::IpNumber;
use proptest::prelude::*;

const DATA: u8 = 0;
pub const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

/// CRC32c bit by bit, as RFC 9260 appendix A has it.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// The checksum a packet should have.
pub fn right(packet: &[u8]) -> [u8; 4] {
    crc32c(&[&packet[..8], &[0; 4], &packet[12..]].concat()).to_le_bytes()
}

/// An SCTP packet with one chunk and a payload.
pub fn packet(from: u16, to: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 9, 0, 0, 0, 0]].concat();
    packet.extend([chunk, 0]);
    packet.extend((4 + payload.len() as u16).to_be_bytes());
    packet.extend(payload);
    let sum = right(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

pub fn frame(from: End, to: End, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2(OTHER_MAC, MAC);
    match (from.0, to.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            ethernet.ipv4(a.octets(), b.octets(), 64).write(&mut frame, IpNumber::SCTP, packet)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            ethernet.ipv6(a.octets(), b.octets(), 64).write(&mut frame, IpNumber::SCTP, packet)
        }
        _ => panic!("two families"),
    }
    .unwrap();
    frame
}

fn key(v6: bool) -> ServiceKey {
    ServiceKey::sctp(ip(if v6 { VIRTUAL_V6 } else { VIRTUAL }), 5000)
}

const SERVER_PORT: u16 = 6000;

fn server(v6: bool) -> End {
    end(if v6 { "fd00::b" } else { "10.0.0.11" }, SERVER_PORT)
}

fn client(v6: bool) -> End {
    end(if v6 { CLIENT_V6 } else { CLIENT }, 1000)
}

fn service(v6: bool) -> End {
    end(if v6 { VIRTUAL_V6 } else { VIRTUAL }, 5000)
}

fn world(forward: Forward) -> World {
    let mut world = World::empty();
    for v6 in [false, true] {
        let (address, port) = server(v6);
        world.balancer.add_service(key(v6), ServiceConfig::new(key(v6).family(), Scheduler::RoundRobin)).unwrap();
        let server = DestinationKey { address, port: if forward == Forward::Masquerade { port } else { 5000 } };
        world.balancer.add_destination(&key(v6), server, DestinationConfig::new(forward, 1)).unwrap();
    }
    world
}

/// Gives a frame to the balancer, with a partial checksum or not.
fn pass(world: &mut World, mut frame: Vec<u8>, partial: bool) -> Result<Vec<u8>, Verdict> {
    let mut offload = Offload::default();
    if partial {
        let start = transport_at(&frame);
        frame[start + 8..start + 12].fill(0);
        offload.partial = Some(Partial { start: start as u16, offset: 8 });
    }
    world.process(&mut frame, &mut offload)?;
    assert_eq!(offload, Offload::default(), "nobody else could complete it");
    Ok(frame)
}

fn request(world: &mut World, chunk: u8) -> Result<Vec<u8>, Verdict> {
    let packet = packet(1000, 5000, chunk, b"four");
    pass(world, frame(client(false), service(false), &packet), false)
}

fn reply(world: &mut World, chunk: u8) -> Result<Vec<u8>, Verdict> {
    let packet = packet(SERVER_PORT, 1000, chunk, b"four");
    pass(world, frame(server(false), client(false), &packet), false)
}

fn state(world: &World) -> (SctpState, u32, (u32, u32)) {
    let only = world.balancer.connection_list(world.now).next().unwrap();
    let State::Sctp(state) = only.state else { panic!("{only:?}") };
    let d = world.destination(&key(false));
    (state, only.expires, (d.active, d.inactive))
}

#[test]
fn an_association_lives_and_ends() {
    use SctpState::*;
    let mut world = world(Forward::Masquerade);
    for (is_request, chunk, expected) in [
        (true, INIT, (Init1, 4, (0, 1))),
        (false, INIT_ACK, (CookieSent, 61, (0, 1))),
        (true, COOKIE_ECHO, (CookieReplied, 61, (0, 1))),
        (false, COOKIE_ACK, (Established, 900, (1, 0))),
        (true, DATA, (Established, 900, (1, 0))),
        (true, SHUTDOWN, (ShutdownReceived, 61, (0, 1))),
        (false, SHUTDOWN_ACK, (ShutdownAckSent, 61, (0, 1))),
        (true, SHUTDOWN_COMPLETE, (Closed, 61, (0, 1))),
    ] {
        let sent = if is_request { request(&mut world, chunk) } else { reply(&mut world, chunk) }.unwrap();
        assert_eq!(sent[34 + 8..34 + 12], right(&sent[34..]), "checksum");
        assert_eq!(state(&world), expected, "after {chunk}");
    }
    assert_eq!(world.destination(&key(false)).stats.connections, 1);
    // A closed one gives way to a new one.
    request(&mut world, INIT).unwrap();
    assert_eq!((state(&world).0, world.destination(&key(false)).stats.connections), (Init1, 2));
    request(&mut world, INIT).unwrap();
    assert_eq!((state(&world).0, world.destination(&key(false)).stats.connections), (Init, 2));
    world.seconds(62);
    assert_eq!(world.balancer.connections(), 0);
}

#[test]
fn what_begins_an_association() {
    let mut world = world(Forward::Masquerade);
    for chunk in [DATA, INIT_ACK, COOKIE_ECHO, ABORT] {
        assert_eq!(request(&mut world, chunk), Err(Verdict::Local), "{chunk}");
    }
    let nothing = frame(client(false), service(false), &packet(1000, 5000, INIT, &[])[..12]);
    assert_eq!(pass(&mut world, nothing.clone(), false), Err(Verdict::Drop(Reason::Malformed)));
    world.balancer.set_sysctl("sloppy_sctp", 1).unwrap();
    assert_eq!(request(&mut world, ABORT), Err(Verdict::Local));
    assert_eq!(pass(&mut world, nothing.clone(), false), Err(Verdict::Drop(Reason::Malformed)));
    request(&mut world, DATA).unwrap();
    assert_eq!(state(&world).0, SctpState::Established);
    // One that says nothing changes nothing, and is sent on.
    assert!(pass(&mut world, nothing, false).is_ok());
    assert_eq!(state(&world).0, SctpState::Established);
    let cut = frame(client(false), service(false), &packet(1000, 5000, DATA, &[])[..11]);
    assert_eq!(pass(&mut world, cut, false), Err(Verdict::Drop(Reason::Malformed)));
}

#[test]
fn a_checksum_left_to_the_device_is_completed_whatever_the_way() {
    for forward in [Forward::Masquerade, Forward::Direct] {
        let mut world = world(forward);
        let whole = packet(1000, 5000, INIT, &[7; 600]);
        let sent = pass(&mut world, frame(client(false), service(false), &whole), true).unwrap();
        assert_eq!(sent[42..46], right(&sent[34..]));
        // Not all of it is here.
        let mut head = frame(client(false), service(false), &whole);
        let len = head.len();
        head.truncate(300);
        let mut packet = Packet { len, ..Packet::new(&mut head) };
        packet.offload.partial = Some(Partial { start: 34, offset: 8 });
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        assert_eq!(packet.verdict, Verdict::Drop(Reason::PartialChecksum));
        let mut whole = frame(client(false), service(false), &whole);
        let mut packet = Packet::new(&mut whole);
        packet.offload = Offload { gso_size: 100, ..Offload::default() };
        world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
        assert_eq!(packet.verdict, Verdict::Drop(Reason::Malformed), "virtio has no such super-frames");
    }
}

#[test]
fn only_the_head_of_a_frame_is_needed() {
    let mut world = world(Forward::Masquerade);
    let whole = frame(client(false), service(false), &packet(1000, 5000, INIT, &[7; 1400]));
    let mut head = whole.clone();
    let rest = head.split_off(200);
    let mut packet = Packet { len: whole.len(), ..Packet::new(&mut head) };
    world.balancer.process(core::slice::from_mut(&mut packet), world.now, &mut world.said);
    assert!(matches!(packet.verdict, Verdict::Wait(_)));
    let sent = [head, rest].concat();
    assert_eq!((&sent[36..38], &sent[42..46]), (&SERVER_PORT.to_be_bytes()[..], &right(&sent[34..])[..]));
}

#[test]
fn an_error_about_an_association_comes_to_who_is_meant() {
    for (cut, is_first) in [(1400, false), (12, false), (8, false), (1400, true)] {
        let mut world = world(Forward::Masquerade);
        let sent = pass(&mut world, frame(client(false), service(false), &packet(1000, 5000, INIT, &[7; 900])), false);
        let sent = sent.unwrap();
        let mut quote = sent[14..].to_vec();
        if is_first {
            quote[6] |= 0x20;
        }
        quote.truncate(20 + cut);
        let mut error = Vec::new();
        let (IpAddr::V4(from), IpAddr::V4(to)) = (server(false).0, client(false).0) else { panic!() };
        let builder = PacketBuilder::ethernet2(OTHER_MAC, MAC).ipv4(from.octets(), to.octets(), 64);
        builder.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &quote).unwrap();
        world.process(&mut error, &mut Offload::default()).unwrap();
        assert_eq!(naive_sum(&[&error[34..]]), 0xffff, "the error's own checksum");
        let asked = frame(client(false), service(false), &packet(1000, 5000, INIT, &[7; 900]));
        let ports = &error[62..66];
        assert_eq!(ports, &asked[34..38]);
        if cut >= 12 && !is_first {
            assert_eq!(error[70..74], asked[42..46], "as the client had made it");
        }
        if is_first {
            assert_eq!(error[70..74], sent[42..46], "of what it is a part is not known");
        }
    }
}

proptest! {
    /// Requests and replies: right where it was right, and as wrong as it was where it was not.
    #[test]
    fn the_checksum_is_as_right_as_it_came(
        v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..1300), port in 1u16.., wrong in prop_oneof![Just(0u32), any::<u32>()],
        partial: bool, padding in 0usize..20,
    ) {
        prop_assume!(port != 20);
        let mut world = world(Forward::Masquerade);
        let mut send = |from: End, to: End, chunk: u8| {
            let mut packet = packet(from.1, to.1, chunk, &payload);
            for (byte, wrong) in packet[8..12].iter_mut().zip(wrong.to_le_bytes()) {
                *byte ^= wrong;
            }
            let mut whole = frame(from, to, &packet);
            whole.resize(whole.len() + padding, 0xee);
            let end = whole.len() - padding;
            let sent = pass(&mut world, whole, partial).unwrap();
            let at = transport_at(&sent);
            let off = u32::from_le_bytes(sent[at + 8..at + 12].try_into().unwrap()) ^ u32::from_le_bytes(right(&sent[at..end]));
            (read(&sent), off)
        };
        let wrong = if partial { 0 } else { wrong };
        let asker = (client(v6).0, port);
        let (sent, off) = send(asker, service(v6), INIT);
        prop_assert_eq!((sent.from, sent.to, off), (asker, server(v6), wrong));
        let (sent, off) = send(server(v6), asker, INIT_ACK);
        prop_assert_eq!((sent.from, sent.to, off), (service(v6), asker, wrong));
    }
}
