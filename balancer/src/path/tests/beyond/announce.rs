//! What servers are told of their clients: TOA, and the PROXY protocol.

use super::super::errors::{error, families, port_unreachable};
use super::super::neighbours;
use super::*;
use proptest::prelude::*;
use std::vec;

/// A segment with all that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tcp {
    pub from: End,
    pub to: End,
    pub flags: TcpFlags,
    pub sequence: u32,
    pub acknowledgement: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Segment { from: self.from, to: self.to, flags: Some(self.flags) }.frame(&[]);
        let at = transport_at(&frame);
        frame[at + 4..at + 8].copy_from_slice(&self.sequence.to_be_bytes());
        frame[at + 8..at + 12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        frame[at + 12] = ((20 + self.options.len()) as u8 / 4) << 4;
        frame.extend_from_slice(&self.options);
        frame.extend_from_slice(&self.payload);
        let length = frame.len() - at;
        if at == 34 {
            frame[16..18].copy_from_slice(&((length + 20) as u16).to_be_bytes());
            frame[24..26].fill(0);
            let sum = !naive_sum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            frame[18..20].copy_from_slice(&(length as u16).to_be_bytes());
        }
        frame[at + 16..at + 18].fill(0);
        let sum = !naive_sum(&[&pseudo_header(&frame), &frame[at..]]);
        frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    pub fn read(frame: &[u8]) -> Tcp {
        verify(frame);
        let Segment { from, to, flags } = read(frame);
        let tcp = &frame[transport_at(frame)..];
        let long = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
        let header = usize::from(tcp[12] >> 4) * 4;
        Tcp {
            from,
            to,
            flags: flags.unwrap(),
            sequence: long(4),
            acknowledgement: long(8),
            options: tcp[20..header].to_vec(),
            payload: tcp[header..].to_vec(),
        }
    }
}

/// A client and its server.
struct Talk {
    world: World,
    client: End,
    service: End,
    /// Where the server sees its client.
    seen: End,
    server: End,
}

/// TCP segments that the balancer has made since it was last asked.
pub(super) fn made(world: &mut World) -> Vec<Tcp> {
    let frames = core::mem::take(&mut world.said.frames);
    frames
        .iter()
        .filter(|frame| frame[12..14] != [8, 6] && frame[if frame[12] == 8 { 23 } else { 20 }] == 6)
        .map(|frame| Tcp::read(frame))
        .collect()
}

impl Talk {
    /// After the client's SYN and the server's SYN-ACK.
    fn new(v6: bool, announce: Announce, full_nat: bool, starts: (u32, u32)) -> Talk {
        let mut world = World::new(Forward::Masquerade);
        let local = ip(if v6 { "fd00::200" } else { "10.0.0.200" });
        let pool = LocalPool { first: local, last: local, ports: (5000, 5000) };
        let extras = Extras { pool: full_nat.then_some(pool), announce, ..Extras::default() };
        set(&mut world, &services()[if v6 { 2 } else { 0 }], extras);
        let [v4, six] = families();
        let (client, service, server, _) = if v6 { six } else { v4 };
        // The server's Ethernet address is known, as it is after the first packet to it.
        let mut talk = Talk { world, client, service, seen: client, server };
        talk.resolve();
        let syn = talk.request(SYN, starts.0, 0, b"");
        let sent = Tcp::read(&talk.world.frame(syn.frame()).unwrap());
        talk.seen = sent.from;
        assert_eq!((sent.sequence, &sent.options), (starts.0, &vec![]));
        assert_eq!(talk.seen == client, !full_nat);
        let reply = talk.reply(SYN_ACK, starts.1, starts.0.wrapping_add(1), b"");
        let back = Tcp::read(&talk.world.frame(reply.frame()).unwrap());
        assert_eq!(back, Tcp { from: service, to: client, ..reply });
        made(&mut talk.world);
        talk
    }

    /// Lets the balancer learn the Ethernet address of the server.
    fn resolve(&mut self) {
        self.world.send(udp(self.client, self.service)).unwrap();
        let request = self.world.said.frames.pop().unwrap();
        let mut reply =
            if self.server.0.is_ipv4() { neighbours::arp_reply(&request) } else { neighbours::advertisement(&request) };
        assert_eq!(self.world.process(&mut reply, &mut Offload::default()), Err(Verdict::Local));
    }

    fn request(&self, flags: TcpFlags, sequence: u32, acknowledgement: u32, payload: &[u8]) -> Tcp {
        Tcp {
            from: self.client,
            to: self.service,
            flags,
            sequence,
            acknowledgement,
            options: vec![],
            payload: payload.to_vec(),
        }
    }

    fn reply(&self, flags: TcpFlags, sequence: u32, acknowledgement: u32, payload: &[u8]) -> Tcp {
        Tcp {
            from: self.server,
            to: self.seen,
            flags,
            sequence,
            acknowledgement,
            options: vec![],
            payload: payload.to_vec(),
        }
    }

    /// What the server gets when the client sends something: first what is made, then what is sent on.
    fn server_gets(&mut self, segment: &Tcp) -> Vec<Tcp> {
        let sent = self.world.frame(segment.frame());
        let mut all = made(&mut self.world);
        match sent {
            Ok(frame) => all.push(Tcp::read(&frame)),
            Err(verdict) => assert_eq!(verdict, Verdict::Drop(Reason::Replaced)),
        }
        all
    }

    fn client_gets(&mut self, segment: &Tcp) -> Tcp {
        Tcp::read(&self.world.frame(segment.frame()).unwrap())
    }
}

/// The header of the PROXY protocol, as haproxy's document has it.
pub(super) fn header(client: End, service: End) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let addresses = |a: End, b: End| match (a.0, b.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => [&[0x11, 0, 12][..], &a.octets(), &b.octets()].concat(),
        (IpAddr::V6(a), IpAddr::V6(b)) => [&[0x21, 0, 36][..], &a.octets(), &b.octets()].concat(),
        _ => panic!("two families"),
    };
    header.extend(addresses(client, service));
    header.extend([client.1.to_be_bytes(), service.1.to_be_bytes()].concat());
    header
}

#[test]
fn the_stream_begins_with_the_header_and_the_client_does_not_notice() {
    for (v6, full_nat, start) in
        [(false, true, 1000), (true, true, u32::MAX - 3), (false, false, u32::MAX), (true, false, 7)]
    {
        let mut talk = Talk::new(v6, Announce::Proxy, full_nat, (start, 77_000));
        let first = start.wrapping_add(1);
        let expected = header(talk.client, talk.service);
        let length = expected.len() as u32;
        let behind = first.wrapping_add(length);
        // The client's ACK, and its first bytes before the server has said anything: the header goes before each.
        for payload in [&b""[..], b"GET /"] {
            let ack = talk.request(ACK, first, 77_001, payload);
            let got = talk.server_gets(&ack);
            assert_eq!((got[0].sequence, got[0].acknowledgement, &got[0].payload), (first, 77_001, &expected));
            assert_eq!((got[0].from, got[0].to), (talk.seen, talk.server));
            // An ACK without anything goes as the header only, so that both are lost, or neither.
            let rest =
                (!payload.is_empty()).then_some(Tcp { from: talk.seen, to: talk.server, sequence: behind, ..ack });
            assert_eq!(got[1..], rest.into_iter().collect::<Vec<_>>());
        }
        // The server has got the header alone: the client has sent nothing that could be acknowledged.
        let reply = talk.reply(ACK, 77_001, behind, b"220 hello");
        assert_eq!(talk.client_gets(&reply).acknowledgement, first);
        // Once it has it, nothing is repeated.
        let data = talk.request(ACK, first, 77_010, b"GET /");
        assert_eq!(talk.server_gets(&data).len(), 1);
        let reply = talk.reply(ACK, 77_010, behind.wrapping_add(5), b"");
        assert_eq!(talk.client_gets(&reply).acknowledgement, first.wrapping_add(5));
        let fin = talk.request(FIN, first.wrapping_add(5), 77_010, b"");
        assert_eq!(talk.server_gets(&fin)[0].sequence, behind.wrapping_add(5));
    }
}

#[test]
fn a_syn_with_data_is_not_taken_and_a_second_one_begins_anew() {
    let mut talk = Talk::new(false, Announce::Proxy, true, (1000, 77_000));
    let early = talk.request(SYN, 1000, 0, b"early");
    assert_eq!(talk.world.frame(early.frame()), Err(Verdict::Drop(Reason::EarlyData)));
    let again = talk.request(SYN, 5000, 0, b"");
    assert_eq!(talk.server_gets(&again)[0].sequence, 5000);
    // The server says which of both counts.
    let first = talk.request(ACK, 1001, 77_001, b"");
    assert_eq!(talk.server_gets(&first).len(), 1);
    let reply = talk.reply(SYN_ACK, 77_000, 5001, b"");
    assert_eq!(talk.client_gets(&reply).acknowledgement, 5001);
    let ack = talk.request(ACK, 5001, 77_001, b"x");
    let got = talk.server_gets(&ack);
    assert_eq!((got[0].sequence, got[0].payload.len(), got[1].sequence), (5001, 28, 5029));
}

#[test]
fn a_client_cannot_put_its_own_in_the_place_of_what_is_put_in() {
    let mut talk = Talk::new(false, Announce::Proxy, true, (1000, 77_000));
    // A byte before the first, as a keepalive has it, is nothing; more would be the first the server takes.
    let keepalive = talk.request(ACK, 1000, 77_001, b"x");
    assert_eq!(talk.server_gets(&keepalive)[0].sequence, 1000);
    for (number, length) in [(1000, 2), (1000, 60), (900, 200)] {
        let forged = talk.request(ACK, number, 77_001, &vec![b'P'; length]);
        assert_eq!(talk.world.frame(forged.frame()), Err(Verdict::Drop(Reason::EarlyData)));
    }
    // Nor does what is to follow in another fragment.
    let mut frame = talk.request(ACK, 997, 77_001, b"PROX").frame();
    frame[20] = 0x20;
    frame[24..26].fill(0);
    let sum = !naive_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(talk.world.process(&mut frame, &mut Offload::default()), Err(Verdict::Drop(Reason::Fragment)));
    // A second SYN does not move the beginning away from where the server has it.
    let second = talk.request(SYN, 9000, 0, b"");
    talk.server_gets(&second);
    let ack = talk.request(ACK, 1001, 77_001, b"PROXY");
    assert_eq!(talk.server_gets(&ack)[0].payload, header(talk.client, talk.service));

    // Neither does it get an option of its own through, whether there is room for ours or not.
    let mut talk = Talk::new(false, Announce::Toa, true, (1000, 77_000));
    let forged = [254, 8, 1, 2, 3, 4, 5, 6];
    for options in [forged.to_vec(), [&forged[..], &[1; 32]].concat()] {
        let ack = Tcp { options, ..talk.request(ACK, 1001, 77_001, b"") };
        for got in talk.server_gets(&ack) {
            assert!(!got.options.windows(4).any(|option| option == &forged[..4]), "{got:?}");
        }
    }
}

#[test]
fn a_reset_has_the_number_the_server_waits_for_whether_it_has_the_header_or_not() {
    for flags in [RST, RST | ACK] {
        let mut talk = Talk::new(false, Announce::Proxy, true, (1000, 77_000));
        let reset = talk.request(flags, 1001, 77_001, b"");
        let got = talk.server_gets(&reset);
        let numbers: Vec<_> =
            got.iter().map(|segment| (segment.flags, segment.sequence, segment.payload.len())).collect();
        assert_eq!(numbers, [(flags, 1001, 0), (flags, 1029, 0)]);
    }
}

#[test]
fn no_segment_begins_a_connection_before_the_server_is_told() {
    for announce in [Announce::Toa, Announce::Proxy] {
        // The Ethernet address of the server is not known (any more), and what waits for it would go alone.
        let mut world = World::new(Forward::Masquerade);
        set(&mut world, &services()[0], Extras { announce, ..Extras::default() });
        let [(client, service, server, _), _] = families();
        let mut talk = Talk { world, client, service, seen: client, server };
        let syn = talk.request(SYN, 1000, 0, b"");
        talk.world.frame(syn.frame()).unwrap();
        let reply = talk.reply(SYN_ACK, 77_000, 1001, b"");
        talk.client_gets(&reply);
        for payload in [&b""[..], b"GET /"] {
            let ack = talk.request(ACK, 1001, 77_001, payload);
            assert_eq!(talk.world.frame(ack.frame()), Err(Verdict::Drop(Reason::Opening)));
        }
    }
}

#[test]
fn no_answer_to_nonsense_ends_the_telling() {
    let mut talk = Talk::new(false, Announce::Toa, true, (1000, 77_000));
    let early = talk.request(SYN, 1000, 0, b"early");
    assert_eq!(talk.world.frame(early.frame()), Err(Verdict::Drop(Reason::EarlyData)));
    // What is out of its window a server in SYN_RECV answers by an ACK that acknowledges the SYN.
    let far = talk.request(ACK, 1001 + (1 << 30), 77_001, b"");
    talk.server_gets(&far);
    let reply = talk.reply(ACK, 77_001, 1001, b"");
    talk.client_gets(&reply);
    let forged = [254, 8, 1, 2, 127, 0, 0, 1];
    let ack = Tcp { options: forged.to_vec(), ..talk.request(ACK, 1001, 77_001, b"") };
    let got = talk.server_gets(&ack);
    let IpAddr::V4(client) = talk.client.0 else { panic!("{:?}", talk.client) };
    assert_eq!(got[0].options[..8], [&[254, 8, 15, 160][..], &client.octets()].concat());
    assert_eq!(got[0].options[8..], [1; 8]);
    // Nor has it its way later, when the server has been told.
    let data = talk.request(ACK, 1001, 77_001, b"x");
    talk.server_gets(&data);
    let reply = talk.reply(ACK, 77_001, 1002, b"");
    talk.client_gets(&reply);
    let late = Tcp { options: forged.to_vec(), ..talk.request(ACK, 1002, 77_001, b"") };
    assert_eq!(talk.server_gets(&late)[0].options, [1; 8]);
}

#[test]
fn timestamps_are_on_what_is_put_in_too() {
    let mut talk = Talk::new(false, Announce::Proxy, true, (1000, 77_000));
    let stamp = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];
    let ack = Tcp { options: stamp.to_vec(), ..talk.request(ACK, 1001, 77_001, b"") };
    assert_eq!(talk.server_gets(&ack)[0].options, stamp);
}

#[test]
fn the_option_is_in_the_first_segments_until_the_server_answers() {
    for v6 in [false, true] {
        let mut talk = Talk::new(v6, Announce::Toa, true, (1000, 77_000));
        let option = match talk.client.0 {
            IpAddr::V4(a) => [&[254, 8, 15, 160][..], &a.octets()].concat(),
            IpAddr::V6(a) => [&[254, 20, 15, 160][..], &a.octets()].concat(),
        };
        let stamp = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];
        for payload in [&b""[..], b"GET /"] {
            let ack = Tcp { options: stamp.to_vec(), ..talk.request(ACK, 1001, 77_001, payload) };
            let got = talk.server_gets(&ack);
            let options = [&option[..], &stamp].concat();
            assert_eq!(got, [Tcp { from: talk.seen, to: talk.server, options, ..ack }], "it and nothing else");
        }
        // No room: a segment of its own goes before.
        let large = Tcp { options: stamp.to_vec(), ..talk.request(ACK, 1006, 77_001, &[7; 1460 - 12]) };
        let large = if v6 { Tcp { payload: vec![7; 1440 - 12], ..large } } else { large };
        let got = talk.server_gets(&large);
        assert_eq!(got.len(), 2);
        assert_eq!(
            (&got[0].payload, &got[0].options, got[0].sequence),
            (&vec![], &[&option[..], &stamp].concat(), 1006)
        );
        assert_eq!(got[1], Tcp { from: talk.seen, to: talk.server, ..large });
        // A reset tells nothing.
        let reset = talk.request(RST, 1006, 0, b"");
        assert_eq!(talk.server_gets(&reset).len(), 1);
        let reply = talk.reply(ACK, 77_001, 1006, b"200");
        assert_eq!(talk.client_gets(&reply), Tcp { from: talk.service, to: talk.client, ..reply });
        let data = talk.request(ACK, 1006, 77_004, b"more");
        assert_eq!(talk.server_gets(&data), [Tcp { from: talk.seen, to: talk.server, ..data }]);
    }
}

#[test]
fn a_header_that_is_full_has_no_option_put_in() {
    let mut talk = Talk::new(false, Announce::Toa, true, (1000, 77_000));
    let full = Tcp { options: vec![1; 36], ..talk.request(ACK, 1001, 77_001, b"x") };
    let got = talk.server_gets(&full);
    assert_eq!((got.len(), got[0].options.len(), got[1].options.len()), (2, 8, 36));
}

#[test]
fn a_checksum_left_to_the_device_is_completed_where_an_option_is_put_in() {
    let mut talk = Talk::new(false, Announce::Toa, true, (1000, 77_000));
    let ack = talk.request(ACK, 1001, 77_001, b"GET /");
    let mut frame = ack.frame();
    let sum = naive_sum(&[&pseudo_header(&frame)]);
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    let partial = Some(Partial { start: 34, offset: 16 });
    let mut offload = Offload { partial, ..Offload::default() };
    assert_eq!(talk.world.process(&mut frame, &mut offload), Err(Verdict::Drop(Reason::Replaced)));
    let got = made(&mut talk.world);
    assert_eq!((got.len(), got[0].options.len(), &got[0].payload), (1, 8, &b"GET /".to_vec()));
}

#[test]
fn errors_quote_the_number_their_receiver_knows() {
    let mut talk = Talk::new(false, Announce::Proxy, true, (1000, 77_000));
    talk.server_gets(&talk.request(ACK, 1001, 77_001, b""));
    let sent = talk.server_gets(&talk.request(ACK, 1001, 77_001, b"GET /")).pop().unwrap();
    let kind = port_unreachable(talk.client.0);
    let mut frame = error(ip("10.0.0.250"), talk.seen.0, kind, 64, &sent.frame());
    talk.world.process(&mut frame, &mut Offload::default()).unwrap();
    assert_eq!(naive_sum(&[&frame[34..]]), 0xffff, "the error's checksum");
    assert_eq!(frame[62 + 4..62 + 8], 1001u32.to_be_bytes());
    let quoted = [&[2; 12][..], &[8, 0], &frame[42..]].concat();
    let quoted = Tcp::read(&quoted);
    assert_eq!((quoted.from, quoted.to), (talk.client, talk.service));
}

#[test]
fn it_goes_with_nat_and_tcp_only() {
    let extras = Extras { announce: Announce::Proxy, ..Extras::default() };
    let mut direct = World::new(Forward::Direct);
    let [tcp, udp, ..] = services();
    assert_eq!(direct.balancer.set_extras(Some(&tcp), extras), Err(Errno::NotSupported));
    let mut world = World::new(Forward::Masquerade);
    assert_eq!(world.balancer.set_extras(Some(&udp), extras), Err(Errno::NotSupported));
    assert_eq!(world.balancer.set_extras(None, extras), Err(Errno::Invalid));
    set(&mut world, &tcp, extras);
    let other = DestinationKey { address: ip("10.0.0.12"), port: 80 };
    let tunnel = DestinationConfig::new(Forward::Tunnel, 1);
    assert_eq!(world.balancer.add_destination(&tcp, other, tunnel), Err(Errno::NotSupported));
    // In the middle of a connection it is too late.
    world.balancer.set_sysctl("sloppy_tcp", 1).unwrap();
    assert_eq!(world.drops(super::super::tcp(end(CLIENT, 4000), end(VIRTUAL, 80), ACK)), Reason::NotOurs);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is lost on the way to the server and sent again by the client, the server puts together the header and then
    /// the client's stream, and the client is never told of more than it has sent.
    #[test]
    fn the_server_gets_the_header_and_the_stream(
        v6: bool,
        full_nat: bool,
        start: u32,
        cuts in prop::collection::vec(1usize..40, 1..8),
        losses in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let mut talk = Talk::new(v6, Announce::Proxy, full_nat, (start, 9));
        let total: usize = cuts.iter().sum();
        let stream: Vec<u8> = (0..total).map(|n| n as u8 ^ 0x5a).collect();
        let expected = [header(talk.client, talk.service), stream.clone()].concat();
        let first = start.wrapping_add(1);
        let mut got: Vec<Option<u8>> = vec![None; expected.len()];
        let mut losses = losses.into_iter();
        let mut acknowledged = 0usize;
        for _ in 0..200 {
            // The client sends what is not acknowledged, from there on, in its pieces; and an ACK without anything.
            let mut at = 0;
            let mut pieces = vec![(acknowledged, acknowledged)];
            for cut in &cuts {
                pieces.push((at, at + cut));
                at += cut;
            }
            for (from, to) in pieces.into_iter().filter(|(from, to)| *to > acknowledged || from == to) {
                let segment = talk.request(ACK, first.wrapping_add(from as u32), 10, &stream[from..to]);
                for arrived in talk.server_gets(&segment) {
                    if losses.next().unwrap_or(false) {
                        continue;
                    }
                    let place = arrived.sequence.wrapping_sub(first) as usize;
                    for (n, byte) in arrived.payload.iter().enumerate() {
                        prop_assert_eq!(*byte, expected[place + n], "the same byte whenever it comes");
                        got[place + n] = Some(*byte);
                    }
                }
            }
            let have = got.iter().take_while(|byte| byte.is_some()).count();
            let reply = talk.reply(ACK, 10, first.wrapping_add(have as u32), b"");
            let told = talk.client_gets(&reply).acknowledgement.wrapping_sub(first) as usize;
            prop_assert!(told <= total && told >= acknowledged);
            acknowledged = told;
            if acknowledged == total {
                break;
            }
        }
        prop_assert_eq!(acknowledged, total);
        prop_assert!(got.iter().all(Option::is_some));
    }
}
