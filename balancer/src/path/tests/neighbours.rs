//! Frames that wait for a neighbour.

use super::*;

const SERVER_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x0b];

#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    frames: Vec<Vec<u8>>,
    resolved: Vec<IpAddr>,
    unreachable: Vec<IpAddr>,
}

impl Sink for Heard {
    fn transmit(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn resolved(&mut self, hop: NextHop) {
        self.resolved.push(hop.0);
    }

    fn unreachable(&mut self, hop: NextHop) {
        self.unreachable.push(hop.0);
    }
}

fn process(world: &mut World, frame: &mut [u8], heard: &mut Heard) -> Verdict {
    let mut packet = Packet::new(frame);
    world.balancer.process(core::slice::from_mut(&mut packet), world.now, heard);
    packet.verdict
}

/// The reply of the server to a request of ours.
pub fn arp_reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[..6].copy_from_slice(&MAC);
    reply[6..12].copy_from_slice(&SERVER_MAC);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&SERVER_MAC);
    reply[28..32].copy_from_slice(&request[38..42]);
    reply[32..38].copy_from_slice(&MAC);
    reply[38..42].copy_from_slice(&request[28..32]);
    reply
}

/// The advertisement of the server for a solicitation of ours.
pub fn advertisement(request: &[u8]) -> Vec<u8> {
    let mut frame = request.to_vec();
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&SERVER_MAC);
    frame[22..38].copy_from_slice(&request[62..78]);
    frame[38..54].copy_from_slice(&request[22..38]);
    frame[54] = 136;
    frame[58] = 0x60;
    frame[78] = 2;
    frame[80..86].copy_from_slice(&SERVER_MAC);
    frame[56..58].fill(0);
    let sum = !naive_sum(&[&pseudo_header(&frame), &frame[54..]]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn a_frame_waits_until_its_neighbour_answers() {
    for v6 in [false, true] {
        let (mut world, mut heard) = (World::new(Forward::Masquerade), Heard::default());
        let (client, to) = if v6 { (CLIENT_V6, VIRTUAL_V6) } else { (CLIENT, VIRTUAL) };
        let hop = NextHop(server(v6).address);
        let mut frame = tcp(end(client, 4000), end(to, 80), SYN).frame(b"");
        assert_eq!(process(&mut world, &mut frame, &mut heard), Verdict::Wait(hop));
        assert_eq!(world.balancer.complete(&mut frame, hop), Verdict::Wait(hop), "not yet");
        let request = heard.frames.pop().unwrap();
        assert_eq!(heard, Heard::default(), "it asks once");
        let mut answer = if v6 { advertisement(&request) } else { arp_reply(&request) };
        assert_eq!(process(&mut world, &mut answer, &mut heard), Verdict::Local);
        assert_eq!(heard.resolved, [hop.0]);
        assert_eq!(world.balancer.complete(&mut frame, hop), Verdict::Transmit);
        assert_eq!((&frame[..6], &frame[6..12]), (&SERVER_MAC[..], &MAC[..]));
        verify(&frame);

        let mut next = tcp(end(client, 4000), end(to, 80), ACK).frame(b"");
        assert_eq!(process(&mut world, &mut next, &mut heard), Verdict::Transmit);
        assert_eq!(next[..6], SERVER_MAC);
        assert_eq!(world.balancer.counters().neighbour_requests, 1);
    }
}

#[test]
fn a_frame_whose_neighbour_stays_silent_is_given_up_after_three_requests() {
    let (mut world, mut heard) = (World::new(Forward::Masquerade), Heard::default());
    let hop = NextHop(server(false).address);
    let mut frame = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN).frame(b"");
    assert_eq!(process(&mut world, &mut frame, &mut heard), Verdict::Wait(hop));
    let start = world.now;
    loop {
        let next = world.balancer.poll(world.now, &mut heard);
        if !heard.unreachable.is_empty() {
            break;
        }
        assert!(next > world.now, "what is due is done");
        world.now = next;
    }
    assert_eq!((heard.frames.len(), &heard.unreachable[..]), (3, &[hop.0][..]));
    assert!((2900..3200).contains(&world.now.since(start).as_millis()));
    assert_eq!(world.balancer.complete(&mut frame, hop), Verdict::Drop(Reason::Unreachable));
}

/// Lets a frame wait in vain; the errors that are sent about it.
fn given_up(world: &mut World, mut frame: Vec<u8>, mut offload: Offload) -> Vec<Vec<u8>> {
    world.process(&mut frame, &mut offload).unwrap();
    world.seconds(4);
    world.said.frames.clear();
    let mut packet = Packet { offload, ..Packet::new(&mut frame) };
    world.balancer.undeliverable(&mut packet, world.now, &mut world.said);
    core::mem::take(&mut world.said.frames)
}

#[test]
fn who_sent_a_frame_that_waited_in_vain_is_told() {
    for forward in [Forward::Masquerade, Forward::Direct] {
        for (client, to, expected) in [(CLIENT, VIRTUAL, [3, 1]), (CLIENT_V6, VIRTUAL_V6, [1, 3])] {
            let (client, to) = (end(client, 4000), end(to, 80));
            for segment in [tcp(client, to, SYN), udp(client, to)] {
                let mut world = World::new(forward);
                let frame = segment.frame(b"hello");
                let sent = given_up(&mut world, frame.clone(), Offload::default());
                let [error] = &sent[..] else { panic!("{sent:x?}") };
                assert_eq!((&error[..6], &error[6..12]), (&OTHER_MAC[..], &MAC[..]));
                let at = transport_at(error);
                assert_eq!(error[at..at + 2], expected);
                assert_eq!(error[at + 8..], frame[14..], "as it came in");
            }
        }
    }
}

#[test]
fn a_server_whose_replies_wait_in_vain_is_told() {
    let (client, to) = (end(CLIENT, 4000), end(VIRTUAL, 80));
    let mut world = World::new(Forward::Masquerade);
    world.send(udp(client, to)).unwrap();
    let server = server(false);
    let frame = udp((server.address, server.port), client).frame(b"reply");
    let sent = given_up(&mut world, frame.clone(), Offload::default());
    let [error] = &sent[..] else { panic!("{sent:x?}") };
    assert_eq!((&error[34..36], &error[42..]), (&[3, 1][..], &frame[14..]));
    assert_eq!(error[30..34], [10, 0, 0, 11]);
}

#[test]
fn nobody_is_told_of_what_is_of_no_connection() {
    let mut world = World::new(Forward::Masquerade);
    let mut frame = udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(b"hello");
    for cut in [frame.len(), 40, 13, 0] {
        world.balancer.undeliverable(&mut Packet::new(&mut frame[..cut]), world.now, &mut world.said);
    }
    assert!(world.said.frames.is_empty());
}

#[test]
fn false_answers_are_dropped_and_change_nothing() {
    let (mut world, mut heard) = (World::new(Forward::Masquerade), Heard::default());
    let hop = NextHop(server(true).address);
    let mut frame = tcp(end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), SYN).frame(b"");
    assert_eq!(process(&mut world, &mut frame, &mut heard), Verdict::Wait(hop));
    let request = heard.frames.pop().unwrap();
    let mut routed = advertisement(&request);
    routed[21] = 254;
    assert_eq!(process(&mut world, &mut routed, &mut heard), Verdict::Drop(Reason::Malformed));
    let mut broken = advertisement(&request);
    broken[85] ^= 1;
    assert_eq!(process(&mut world, &mut broken, &mut heard), Verdict::Drop(Reason::BadChecksum));
    assert_eq!(heard, Heard::default());
    assert_eq!(world.balancer.complete(&mut frame, hop), Verdict::Wait(hop));
}

#[test]
fn whose_wait_ends_within_its_burst_does_not_wait() {
    let mut world = World::new(Forward::Masquerade);
    let mut frame = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN).frame(b"");
    // The server asks for us just then.
    let mut request = arp_reply(&[0; 42]);
    request[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request[28..32].copy_from_slice(&[10, 0, 0, 11]);
    request[38..42].copy_from_slice(&[10, 0, 0, 2]);
    let mut burst = [Packet::new(&mut frame), Packet::new(&mut request)];
    world.balancer.process(&mut burst, world.now, &mut Heard::default());
    assert_eq!(burst.map(|packet| packet.verdict), [Verdict::Transmit, Verdict::Local]);
    assert_eq!(frame[..6], SERVER_MAC);

    // Another neighbour takes the only place.
    let mut world = World::with(|config| config.neighbours = 1);
    world.add_servers(Forward::Masquerade);
    let mut frame = tcp(end(CLIENT, 4000), end(VIRTUAL, 80), SYN).frame(b"");
    let mut other = tcp(end(CLIENT_V6, 4000), end(VIRTUAL_V6, 80), SYN).frame(b"");
    let mut burst = [Packet::new(&mut frame), Packet::new(&mut other)];
    world.balancer.process(&mut burst, world.now, &mut Heard::default());
    let waits = Verdict::Wait(NextHop(server(true).address));
    assert_eq!(burst.map(|packet| packet.verdict), [Verdict::Drop(Reason::Unreachable), waits]);
}

/// Where the balancer sends a packet of the client, and where one of the server.
fn addressed(world: &mut World) -> [Result<Vec<u8>, Verdict>; 2] {
    let (client, server) = (end(CLIENT, 4000), end("10.0.0.11", 8080));
    [udp(client, end(VIRTUAL, 80)), udp(server, client)]
        .map(|segment| world.frame(segment.frame(b"")).map(|frame| frame[..6].to_vec()))
}

#[test]
fn a_neighbour_that_moves_is_followed_at_once() {
    let (gateway, before, after) = (OTHER_MAC, SERVER_MAC, [2, 0, 0, 0, 0, 9]);
    let mut world = World::new(Forward::Masquerade);
    // Asked for, and answered.
    let _ = addressed(&mut world);
    let _ = world.frame(super::arp_reply([10, 0, 0, 11], before));
    let _ = world.frame(super::arp_reply([10, 0, 0, 1], gateway));
    for _ in 0..2 {
        assert_eq!(addressed(&mut world), [Ok(before.to_vec()), Ok(gateway.to_vec())]);
    }
    let mut burst = [
        udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(b""),
        super::arp_reply([10, 0, 0, 11], after),
        udp(end(CLIENT, 4000), end(VIRTUAL, 80)).frame(b""),
        udp(end("10.0.0.11", 8080), end(CLIENT, 4000)).frame(b""),
    ];
    let mut packets: Vec<_> = burst.iter_mut().map(|frame| Packet::new(frame)).collect();
    world.balancer.process(&mut packets, world.now, &mut world.said);
    assert_eq!(
        [burst[0][..6].to_vec(), burst[2][..6].to_vec(), burst[3][..6].to_vec()],
        [before.to_vec(), after.to_vec(), gateway.to_vec()]
    );
    let _ = world.frame(super::arp_reply([10, 0, 0, 1], before));
    assert_eq!(addressed(&mut world), [Ok(after.to_vec()), Ok(before.to_vec())]);
}

#[test]
fn a_neighbour_in_use_is_asked_again_in_time() {
    let mut world = World::new(Forward::Masquerade);
    let _ = addressed(&mut world);
    let _ = world.frame(super::arp_reply([10, 0, 0, 11], SERVER_MAC));
    let _ = world.frame(super::arp_reply([10, 0, 0, 1], OTHER_MAC));
    let asked = |world: &World| world.balancer.counters().neighbour_requests;
    let before = asked(&world);
    // 30 seconds, and up to one more for as long as the way is remembered.
    for second in 1..=32 {
        world.seconds(1);
        for _ in 0..3 {
            assert!(addressed(&mut world).iter().all(Result::is_ok));
        }
        assert!(second > 29 || asked(&world) == before, "{second}");
    }
    assert!(asked(&world) >= before + 2, "each of the two");
}
