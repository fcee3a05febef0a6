//! FTP through NAT: what is said of data connections, and how they find their way.

use super::*;
use crate::path::sequence;
use core::ops::Range;
use proptest::prelude::*;
use std::string::String;
use std::vec;

/// Room in front of frames.
const ROOM: usize = 64;

/// One side of the control connection: what it sends is numbered from here.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    sequence: u32,
    acknowledgement: u32,
}

/// What leaves the balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seg {
    segment: Segment,
    sequence: u32,
    acknowledgement: u32,
    payload: String,
}

/// A control connection through a balancer.
struct Ftp {
    world: World,
    client: End,
    service: End,
    server: End,
    offload: Offload,
}

impl Ftp {
    /// FTP at port 80 of the usual services, servers at 8080. What the server says after its greeting begins at 500.
    fn new(v6: bool) -> Self {
        Self::at(v6, 500)
    }

    /// The same, at another number.
    fn at(v6: bool, number: u32) -> Self {
        let mut world = World::new(Forward::Masquerade);
        world.balancer.set_sysctl("ftp_port", 80).unwrap();
        let (client, service) = if v6 { (CLIENT_V6, VIRTUAL_V6) } else { (CLIENT, VIRTUAL) };
        let DestinationKey { address, port } = server(v6);
        let (client, service) = (end(client, 4000), end(service, 80));
        let mut ftp = Ftp { world, client, service, server: (address, port), offload: Offload::default() };
        ftp.world.send(tcp(client, service, SYN)).unwrap();
        ftp.world.send(tcp(ftp.server, client, SYN_ACK)).unwrap();
        ftp.world.send(tcp(client, service, ACK)).unwrap();
        let greeting = "220 hi\r\n";
        ftp.answers((number.wrapping_sub(len(greeting)), 100), greeting);
        ftp
    }

    fn through(&mut self, segment: Segment, numbers: Numbers, payload: &[u8]) -> Result<Seg, Verdict> {
        let mut frame = segment.frame(payload);
        let at = transport_at(&frame);
        frame[at + 4..at + 8].copy_from_slice(&numbers.sequence.to_be_bytes());
        frame[at + 8..at + 12].copy_from_slice(&numbers.acknowledgement.to_be_bytes());
        frame[at + 16..at + 18].fill(0);
        let pseudo = naive_sum(&[&pseudo_header(&frame)]);
        let sum = match self.offload.partial {
            Some(_) => pseudo,
            None => !naive_sum(&[&pseudo_header(&frame), &frame[at..]]),
        };
        frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
        let mut bytes = vec![0; ROOM];
        bytes.extend(frame);
        let (room, head) = bytes.split_at_mut(ROOM);
        let mut packet = Packet { offload: self.offload, ..Packet::with_room(room, head) };
        let World { balancer, now, said, .. } = &mut self.world;
        balancer.process(core::slice::from_mut(&mut packet), *now, said);
        match packet.verdict {
            Verdict::Transmit | Verdict::Wait(_) => {}
            verdict => return Err(verdict),
        }
        let begin = (ROOM as isize + isize::from(packet.start)) as usize;
        let mut frame = bytes.split_off(begin);
        if self.offload.partial.is_some() {
            // As the device would.
            let sum = !naive_sum(&[&frame[at..]]);
            frame[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
        }
        verify(&frame);
        let Ok(Content::Flow(ip, transport)) = parse(&frame, frame.len(), frame[..6].try_into().unwrap()) else {
            panic!("{frame:02x?}")
        };
        assert_eq!(ip.end, frame.len(), "the lengths are right");
        Ok(Seg {
            segment: read(&frame),
            sequence: sequence::sequence(&frame, &ip),
            acknowledgement: sequence::acknowledgement(&frame, &ip),
            payload: String::from_utf8_lossy(&frame[ip.payload + transport.header..]).into_owned(),
        })
    }

    fn says(&mut self, numbers: (u32, u32), payload: &str) -> Seg {
        let numbers = Numbers { sequence: numbers.0, acknowledgement: numbers.1 };
        self.through(tcp(self.client, self.service, ACK), numbers, payload.as_bytes()).unwrap()
    }

    fn answers(&mut self, numbers: (u32, u32), payload: &str) -> Seg {
        let numbers = Numbers { sequence: numbers.0, acknowledgement: numbers.1 };
        self.through(tcp(self.server, self.client, ACK), numbers, payload.as_bytes()).unwrap()
    }

    /// The data connections: client, service and server, and state.
    fn data(&self) -> Vec<(End, End, End, &'static str, u32)> {
        let list = self.world.balancer.connection_list(self.world.now);
        let data = list.filter(|c| (c.client, c.client_port) != self.client);
        data.map(|c| {
            let ends =
                [(c.client, c.client_port), (c.virtual_address, c.virtual_port), (c.destination, c.destination_port)];
            (ends[0], ends[1], ends[2], c.words().1, c.expires)
        })
        .collect()
    }
}

/// A payload's range.
fn len(text: &str) -> u32 {
    text.len() as u32
}

#[test]
fn the_client_of_a_passive_server_is_led_to_the_service() {
    let mut ftp = Ftp::new(false);
    let asked = ftp.says((100, 500), "PASV\r\n");
    assert_eq!((asked.payload.as_str(), asked.sequence), ("PASV\r\n", 100));
    let told = ftp.answers((500, 106), "227 Entering Passive Mode (10,0,0,11,19,136).\r\n");
    assert_eq!(told.payload, "227 Entering Passive Mode (10,0,0,100,19,136).\r\n");
    assert_eq!((told.sequence, told.acknowledgement), (500, 106));
    let service = (ftp.service.0, 5000);
    assert_eq!(ftp.data(), [((ftp.client.0, 0), service, (ftp.server.0, 5000), "LISTEN", 120)]);
    // The stream has a byte more from here on.
    let end = 500 + len("227 Entering Passive Mode (10,0,0,11,19,136).\r\n");
    let acked = ftp.says((106, end + 1), "RETR x\r\n");
    assert_eq!((acked.sequence, acked.acknowledgement), (106, end));
    let next = ftp.answers((end, 114), "150 Here\r\n");
    assert_eq!((next.sequence, next.acknowledgement, next.payload.as_str()), (end + 1, 114, "150 Here\r\n"));
    // What comes again is changed again, and only once.
    let again = ftp.answers((500, 106), "227 Entering Passive Mode (10,0,0,11,19,136).\r\n150 H");
    assert_eq!(
        (again.sequence, again.payload.as_str()),
        (500, "227 Entering Passive Mode (10,0,0,100,19,136).\r\n150 H")
    );
    assert_eq!(ftp.answers((end, 114), "150 Here\r\n").sequence, end + 1);
    // The data connection, from whatever port, and back.
    let data = (ftp.client.0, 4567);
    assert_eq!(ftp.world.send(tcp(data, service, SYN)).unwrap().to, (ftp.server.0, 5000));
    assert_eq!(ftp.world.send(tcp((ftp.server.0, 5000), data, SYN_ACK)).unwrap().from, service);
    assert_eq!(ftp.world.send(tcp(data, service, ACK)).unwrap().to, (ftp.server.0, 5000));
    assert_eq!(ftp.data(), [(data, service, (ftp.server.0, 5000), "ESTABLISHED", 900)]);
    assert_eq!(ftp.world.send(tcp((ftp.client.0, 4568), service, SYN)), Err(Verdict::Local), "one is enough");
    let info = ftp.world.destination(&services()[0]);
    assert_eq!((info.active, info.inactive, info.stats.connections), (2, 0, 1), "nobody scheduled it");
}

#[test]
fn the_extended_answer_has_no_address() {
    for v6 in [false, true] {
        let mut ftp = Ftp::new(v6);
        ftp.says((100, 500), "epsv\r\n");
        let told = ftp.answers((500, 106), "229 Extended (|||5000|)\r\n");
        assert_eq!(told.payload, "229 Extended (|||5000|)\r\n");
        ftp.says((106, 525), if v6 { "EPSV 2\r\n" } else { "EPSV 1\r\n" });
        let line = if v6 { "229 Extended (|2|fd00::b|5001|)\r\n" } else { "229 Extended (|1|10.0.0.11|5001|)\r\n" };
        let told = ftp.answers((525, 114), line);
        assert_eq!(told.payload, "229 Extended (|||5001|)\r\n", "it is shorter");
        let shorter = len(line) - len(&told.payload);
        assert_eq!(ftp.answers((525 + len(line), 114), "x").sequence, 525 + len(line) - shorter);
        assert_eq!(ftp.says((114, 525 + len(&told.payload)), "y").acknowledgement, 525 + len(line));
        let mut ports: Vec<u16> = ftp.data().iter().map(|(_, service, ..)| service.1).collect();
        ports.sort_unstable();
        assert_eq!(ports, [5001], "one at a time");
    }
}

#[test]
fn an_active_server_comes_from_the_service() {
    for v6 in [false, true] {
        let mut ftp = Ftp::new(v6);
        let line = if v6 { "EPRT |2|fd09::1|4567|\r\n" } else { "PORT 10,9,0,1,17,215\r\n" };
        assert_eq!(ftp.says((100, 500), line).payload, line);
        let (data, service, server) = ((ftp.client.0, 4567), (ftp.service.0, 79), (ftp.server.0, 8079));
        assert_eq!(ftp.data(), [(data, service, server, "LISTEN", 120)]);
        assert_eq!(ftp.world.send(tcp(server, data, SYN)).unwrap().from, service);
        assert_eq!(ftp.world.send(tcp(data, service, SYN_ACK)).unwrap().to, server);
        assert_eq!(ftp.world.send(tcp(server, data, ACK)).unwrap().from, service);
        assert_eq!(ftp.data()[0].3, "ESTABLISHED");
        // Once more, for the next file.
        ftp.says((100 + len(line), 500), line);
        assert_eq!(ftp.data(), [(data, service, server, "LISTEN", 120)]);
    }
}

#[test]
fn commands_come_in_pieces_and_several_at_once() {
    let mut ftp = Ftp::new(false);
    ftp.says((100, 500), "TYPE I\r\nPORT 10,9,0");
    assert_eq!(ftp.data(), []);
    ftp.says((119, 500), ",1,17,215\r");
    ftp.says((129, 500), "\nPORT 10,9,0,1,17,216\r\nSTOR x\r\n");
    assert_eq!(ftp.data().iter().map(|(client, ..)| client.1).collect::<Vec<_>>(), [4567], "one a segment");
    ftp.says((160, 500), "STOR x\r\nPORT 10,9,0,1,17,216\r\n");
    assert_eq!(ftp.data().iter().map(|(client, ..)| client.1).collect::<Vec<_>>(), [4568], "one at a time");
    // A piece that does not follow is none.
    ftp.says((200, 500), "PORT 10,9,0,1,");
    ftp.says((300, 500), "17,217\r\n");
    assert_eq!(ftp.data().len(), 1);
    // An answer behind others.
    ftp.says((400, 500), "NOOP\r\nPASV\r\n");
    let told = ftp.answers((500, 412), "200 fine\r\n227 (10,0,0,11,19,137)\r\nmore");
    assert_eq!(told.payload, "200 fine\r\n227 (10,0,0,100,19,137)\r\nmore");
    assert_eq!(ftp.answers((500, 412), "200 fine\r\n").sequence, 500);
    let again = ftp.answers((510, 412), "227 (10,0,0,11,19,137)\r\nmore");
    assert_eq!(again.payload, "227 (10,0,0,100,19,137)\r\nmore");
    assert_eq!(ftp.answers((534, 412), "more").sequence, 535);
    // Nobody asked for this one.
    let line = "227 (10,0,0,11,19,138)\r\n";
    assert_eq!(ftp.answers((538, 412), line).payload, line);
}

#[test]
fn nobody_opens_what_is_not_his() {
    let mut ftp = Ftp::new(false);
    let mut number = 500;
    let mut tell = |ftp: &mut Ftp, line: &str| {
        ftp.says((100, number), "PASV\r\n");
        let told = ftp.answers((number, 106), line);
        number += len(line);
        assert_eq!(told.payload, line);
        assert_eq!(ftp.data(), []);
    };
    // Another host, a privileged port, another service's.
    tell(&mut ftp, "227 (10,0,0,99,19,136)\r\n");
    tell(&mut ftp, "227 (10,0,0,11,3,255)\r\n");
    let other = ServiceKey::tcp(ftp.service.0, 5000);
    ftp.world.balancer.add_service(other, ServiceConfig::new(Family::V4, Scheduler::RoundRobin)).unwrap();
    tell(&mut ftp, "227 (10,0,0,11,19,136)\r\n");
    ftp.world.balancer.delete_service(&other).unwrap();
    // What is no line of the server's own, wherever segments are cut.
    tell(&mut ftp, "500 'x ");
    tell(&mut ftp, "227 (10,0,0,11,19,136)' not understood\r\n");
    // Somebody else, and what somebody else has announced.
    ftp.says((106, number), "PORT 10,9,0,2,17,215\r\n");
    assert_eq!(ftp.data(), []);
    // What is missing before it is waited for.
    let early = Numbers { sequence: number + 1, acknowledgement: 106 };
    let segment = tcp(ftp.server, ftp.client, ACK);
    assert_eq!(ftp.through(segment, early, b"x"), Err(Verdict::Drop(Reason::OutOfOrder)));
    // Only what begins a connection is the data connection.
    tell_one(&mut ftp, number);
    let (data, service) = ((ftp.client.0, 4567), (ftp.service.0, 5000));
    for (from, flags) in [(data, ACK), (data, FIN), (data, RST), ((data.0, 0), SYN)] {
        let _ = ftp.world.send(tcp(from, service, flags));
        assert_eq!(ftp.data()[0].3, "LISTEN");
    }
    ftp.world.send(tcp(data, service, SYN)).unwrap();
    assert_eq!((ftp.data().len(), ftp.data()[0].3), (1, "SYN_RECV"));
}

fn tell_one(ftp: &mut Ftp, number: u32) {
    ftp.says((100, number), "PASV\r\n");
    ftp.answers((number, 106), "227 (10,0,0,11,19,136)\r\n");
    assert_eq!(ftp.data().len(), 1);
}

#[test]
fn the_control_connection_outlives_its_data_connections() {
    let mut ftp = Ftp::new(false);
    ftp.says((100, 500), "PASV\r\n");
    ftp.answers((500, 106), "227 (10,0,0,11,19,136)\r\n");
    let (data, service) = ((ftp.client.0, 4567), (ftp.service.0, 5000));
    ftp.world.send(tcp(data, service, SYN)).unwrap();
    ftp.world.send(tcp((ftp.server.0, 5000), data, SYN_ACK)).unwrap();
    ftp.world.send(tcp(data, service, ACK)).unwrap();
    ftp.world.send(tcp(ftp.client, ftp.service, RST)).unwrap();
    ftp.world.seconds(600);
    assert_eq!(ftp.world.balancer.connections(), 2, "not after the ten seconds of CLOSE");
    // Its ports are used again: both are there until the data connection ends.
    ftp.world.send(tcp(ftp.client, ftp.service, SYN)).unwrap();
    assert_eq!(ftp.world.balancer.connections(), 3);
    ftp.world.seconds(301 + 60);
    assert_eq!(ftp.world.balancer.connections(), 0);
    let info = ftp.world.destination(&services()[0]);
    assert_eq!((info.active, info.inactive), (0, 0));
}

#[test]
fn only_what_is_to_be_listened_to_is() {
    for (port, forward) in [(0, Forward::Masquerade), (21, Forward::Masquerade), (80, Forward::Direct)] {
        let mut world = World::new(forward);
        world.balancer.set_sysctl("ftp_port", port).unwrap();
        let (client, service) = (end(CLIENT, 4000), end(VIRTUAL, 80));
        world.send(tcp(client, service, SYN)).unwrap();
        world.send(tcp(client, service, ACK)).unwrap();
        world.frame(tcp(client, service, ACK).frame(b"PORT 10,9,0,1,17,215\r\n")).unwrap();
        assert_eq!(world.balancer.connections(), 1);
    }
}

#[test]
fn who_finds_no_room_is_carried_on_unheard() {
    let mut ftp = Ftp::new(false);
    ftp.world = World::with(|config| config.ftp_connections = 1);
    ftp.world.add_servers(Forward::Masquerade);
    ftp.world.balancer.set_sysctl("ftp_port", 80).unwrap();
    for port in [4000, 4001] {
        ftp.client.1 = port;
        let (client, service, server) = (ftp.client, ftp.service, ftp.server);
        ftp.world.send(tcp(client, service, SYN)).unwrap();
        ftp.world.send(tcp(server, client, SYN_ACK)).unwrap();
        ftp.world.send(tcp(client, service, ACK)).unwrap();
        ftp.answers((492, 100), "220 hi\r\n");
    }
    ftp.says((100, 500), "PORT 10,9,0,1,17,215\r\n");
    assert_eq!(ftp.world.balancer.connections(), 2);
    ftp.client.1 = 4000;
    ftp.says((100, 500), "PORT 10,9,0,1,17,215\r\n");
    assert_eq!(ftp.world.balancer.connections(), 3);
}

/// The bytes of a frame that are lines.
fn lines() -> impl Strategy<Value = String> {
    let line = prop::sample::select(&[
        "PASV\r\n",
        "EPSV\r\n",
        "PORT 10,9,0,1,17,215\r\n",
        "EPRT |2|fd09::1|77|\r\n",
        "227 (10,0,0,11,19,136)\r\n",
        "227 (255,255,255,255,255,255)\r\n",
        "227 1,1,1,1,1,1\r\n",
        "229 (|||5000|)\r\n",
        "229 (|2|fd00::b|65535|)\r\n",
        "229 (|1|10.0.0.11|65535|)\r\n",
        "22",
        "\n",
        "noop\r\n",
        "x",
    ]);
    prop::collection::vec(line, 0..5).prop_map(|lines| lines.concat())
}

proptest! {
    /// Whatever is said in whatever order, checksums and lengths are right, and numbers come back as they went.
    #[test]
    fn streams_stay_whole(
        v6: bool,
        partial: bool,
        super_frame: bool,
        steps in prop::collection::vec((any::<bool>(), lines()), 1..20),
        start: (u32, u32),
    ) {
        let mut ftp = Ftp::at(v6, start.1);
        let at = if v6 { 54 } else { 34 };
        if partial {
            ftp.offload.partial = Some(Partial { start: at, offset: 16 });
            ftp.offload.gso_size = if super_frame { 1000 } else { 0 };
        }
        let (mut client, mut server) = start;
        // What the client has got up to now, by its own count.
        let mut got = server;
        for (by_client, text) in steps {
            if by_client {
                let said = ftp.says((client, got), &text);
                prop_assert_eq!((said.sequence, said.acknowledgement, &said.payload), (client, server, &text));
                client = client.wrapping_add(len(&text));
            } else {
                let told = ftp.answers((server, client), &text);
                prop_assert_eq!((told.sequence, told.acknowledgement), (got, client));
                server = server.wrapping_add(len(&text));
                got = got.wrapping_add(len(&told.payload));
            }
        }
        let connections = ftp.world.balancer.connections();
        ftp.world.seconds(1800);
        prop_assert_eq!(ftp.world.balancer.connections(), 0, "of {}", connections);
        let info = ftp.world.destination(&services()[if v6 { 2 } else { 0 }]);
        prop_assert_eq!((info.active, info.inactive), (0, 0));
    }
}

/// A checksum that is wrong does not become right when a reply is changed.
#[test]
fn what_is_damaged_stays_damaged() {
    for line in ["227 (10,0,0,11,19,136)\r\nand more of it", "227 (110,110,110,111,19,136)\r\n"] {
        let mut ftp = Ftp::at(false, 1000);
        ftp.says((100, 1000), "PASV\r\n");
        let mut frame = tcp(ftp.server, ftp.client, ACK).frame(line.as_bytes());
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let mut bytes = vec![0; ROOM];
        bytes.extend(frame);
        let (room, head) = bytes.split_at_mut(ROOM);
        let mut packet = Packet::with_room(room, head);
        ftp.world.balancer.process(core::slice::from_mut(&mut packet), ftp.world.now, &mut ftp.world.said);
        let begin: Range<usize> = (ROOM as isize + isize::from(packet.start)) as usize..bytes.len();
        let frame = &bytes[begin];
        assert_ne!(naive_sum(&[&pseudo_header(frame), &frame[34..]]), 0xffff);
    }
}

/// What follows the first fragment of a reply could not be moved: so it stays as it is.
#[test]
fn a_reply_in_fragments_is_not_changed() {
    let mut ftp = Ftp::new(false);
    ftp.says((100, 500), "PASV\r\n");
    let line = b"227 Entering Passive Mode (10,0,0,11,19,136).\r\n";
    let mut frame = tcp(ftp.server, ftp.client, ACK).frame(line);
    frame.truncate(34 + 64);
    frame[16..18].copy_from_slice(&(20u16 + 64).to_be_bytes());
    frame[20..22].copy_from_slice(&[0x20, 0]);
    frame[24..26].fill(0);
    let sum = !naive_sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![0; ROOM];
    bytes.extend(frame);
    let (room, head) = bytes.split_at_mut(ROOM);
    let mut packet = Packet::with_room(room, head);
    ftp.world.balancer.process(core::slice::from_mut(&mut packet), ftp.world.now, &mut ftp.world.said);
    assert!(matches!(packet.verdict, Verdict::Transmit | Verdict::Wait(_)), "{:?}", packet.verdict);
    assert_eq!((packet.start, &packet.head[54..]), (0, &line[..44]));
    assert_eq!(ftp.data(), []);
    // And nothing is moved after it, nor missed.
    assert_eq!(ftp.answers((600, 106), "x").sequence, 600);
}
