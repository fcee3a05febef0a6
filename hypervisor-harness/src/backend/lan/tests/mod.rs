//! The network on its own, with a guest that translates addresses and nothing else.

mod guest;
mod hostile;
mod super_frames;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ringlet_driver::features::Features;

use super::http::{Hash, pattern};
use super::{Backend, Config, Lan, PingError, sys};
use crate::backend::options::Publish;
use guest::World;

/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn all() -> Features {
    let (lan, _) = Lan::open(&Config::default()).expect("a network");
    lan.offloads()
}

/// Every set of offloads that changes what frames look like.
fn modes() -> [Features; 4] {
    [
        all(),
        all() - Features::GUEST_TSO4 - Features::GUEST_TSO6,
        Features::GUEST_CSUM | Features::GUEST_TSO6,
        Features::empty(),
    ]
}

fn publishing(ports: &[&str]) -> Config {
    let publish = ports.iter().map(|port| port.parse::<Publish>().expect("an option")).collect();
    Config { publish, ..Config::default() }
}

/// The HTTP ports of both virtual addresses, and UDP echo at both.
fn web() -> Config {
    publishing(&["0:10.0.0.100:80", "0:[fd00::64]:80", "udp:0:10.0.0.100:7", "udp:0:[fd00::64]:7"])
}

fn port(world: &World, at: usize) -> SocketAddr {
    world.handle.published()[at].host
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Sends a request that closes the connection. Returns head and body of the answer.
fn ask(address: SocketAddr, request: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = connect(address);
    let head = format!("{request} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).expect("written");
    stream.write_all(body).expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).expect("text"), body)
}

/// Nothing that the guest saw was wrong, nor anything that it sent.
fn all_was_right(world: &World) {
    assert_eq!(world.seen.wrong.load(Ordering::SeqCst), 0, "frames that the guest must not be given");
    assert_eq!(world.handle.statistics().bad_checksums, 0, "frames of the guest with a wrong checksum");
}

#[test]
fn servers_introduce_themselves() {
    for features in modes() {
        let world = World::new(&web(), features, 12);
        let (head, body) = ask(port(&world, 0), "GET /", b"");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert_eq!(String::from_utf8_lossy(&body), "beta (10.0.0.12) saw 10.9.0.1:40001, connection 1\n");
        let (_, body) = ask(port(&world, 1), "GET /", b"");
        assert_eq!(String::from_utf8_lossy(&body), "beta (fd00::c) saw [fd09::2]:40001, connection 2\n");
        all_was_right(&world);
    }
}

#[test]
fn large_transfers_arrive_whole() {
    const LENGTH: usize = 3_000_001;
    let mut expected = vec![0; LENGTH];
    pattern(0, &mut expected);
    let mut hash = Hash::default();
    hash.update(&expected);
    let receipt = format!("{LENGTH} {:016x}\n", hash.finish());
    for features in modes() {
        let world = World::new(&web(), features, 11);
        for at in [0, 1] {
            let (_, body) = ask(port(&world, at), &format!("GET /bytes/{LENGTH}"), b"");
            assert!(body == expected, "the pattern is broken");
            let (_, body) = ask(port(&world, at), "PUT /sink", &expected);
            assert_eq!(String::from_utf8_lossy(&body), receipt);
        }
        let large = world.seen.large.load(Ordering::SeqCst);
        assert_eq!(large > 0, features.intersects(Features::GUEST_TSO4 | Features::GUEST_TSO6), "{large} large frames");
        all_was_right(&world);
    }
}

#[test]
fn connections_are_kept_and_requests_follow_each_other() {
    let world = World::new(&web(), all(), 11);
    let mut stream = connect(port(&world, 0));
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\nHEAD /bytes/9 HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.0\r\n\r\n")
        .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let codes: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(codes, ["200", "200", "404"]);
    let expect = b"PUT /sink HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n";
    let mut stream = connect(port(&world, 0));
    stream.write_all(expect).expect("written");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).expect("an answer");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\r\n\r\n2 "), "{answer}");
}

#[test]
fn bad_requests_are_refused() {
    let world = World::new(&web(), all(), 11);
    for (request, code) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        ("DELETE / HTTP/1.1\r\n\r\n".to_owned(), "405"),
        ("PUT /sink HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), "411"),
        (format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(9000)), "431"),
    ] {
        let mut stream = connect(port(&world, 0));
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(std::str::from_utf8(&answer[9..]), Ok(code));
    }
}

#[test]
fn datagrams_come_back() {
    for features in [all(), Features::empty()] {
        let world = World::new(&web(), features, 13);
        for at in [2, 3] {
            let sockets: Vec<_> = (0..4).map(|_| UdpSocket::bind("127.0.0.1:0").expect("bound")).collect();
            for (number, socket) in sockets.iter().enumerate() {
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                socket.send_to(&[number as u8; 1400], port(&world, at)).expect("sent");
            }
            for (number, socket) in sockets.iter().enumerate() {
                let mut answer = [0; 2000];
                let (length, from) = socket.recv_from(&mut answer).expect("an answer");
                assert_eq!((length, from, answer[1399]), (1400, port(&world, at), number as u8));
            }
        }
        all_was_right(&world);
    }
}

#[test]
fn pings_come_back() {
    let world = World::new(&web(), all(), 11);
    for address in ["10.0.0.100", "fd00::64"] {
        let time = world.handle.ping(address.parse().expect("an address"), PATIENCE);
        assert!(time.is_ok_and(|time| time < PATIENCE), "{address}: {time:?}");
    }
    let nobody = world.handle.ping("10.0.0.77".parse().expect("an address"), Duration::from_millis(20));
    assert_eq!(nobody, Err(PingError::Timeout));
    let handle = world.handle.clone();
    drop(world);
    assert_eq!(handle.ping("10.0.0.100".parse().expect("an address"), PATIENCE), Err(PingError::Gone));
}

/// A network in which alpha is a server of this test's, at port 81 of both virtual addresses.
fn real() -> (World, TcpListener) {
    let server = TcpListener::bind("127.0.0.1:0").expect("bound");
    let host = server.local_addr().expect("bound");
    let real = ["10.0.0.11:81", "[fd00::b]:81"];
    let real = real.iter().map(|real| format!("{real}={host}").parse().expect("an option")).collect();
    let config = Config { real, ..publishing(&["0:10.0.0.100:81", "0:[fd00::64]:81"]) };
    (World::new(&config, all(), 11), server)
}

#[test]
fn half_closed_connections_stay_half_open() {
    let (world, server) = real();
    for at in [0, 1] {
        let mut client = connect(port(&world, at));
        let (mut inside, _) = server.accept().expect("accepted");
        client.write_all(b"all I have to say").expect("written");
        client.shutdown(Shutdown::Write).expect("shut");
        let mut said = String::new();
        inside.read_to_string(&mut said).expect("read to the end");
        assert_eq!(said, "all I have to say");
        inside.write_all(b"and a long answer").expect("written");
        drop(inside);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("read to the end");
        assert_eq!(answer, "and a long answer");
    }
    all_was_right(&world);
}

#[test]
fn resets_are_resets_on_the_other_side() {
    let (world, server) = real();
    let mut client = connect(port(&world, 0));
    let (inside, _) = server.accept().expect("accepted");
    sys::reset_on_close(&inside);
    drop(inside);
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let client = connect(port(&world, 0));
    let (mut inside, _) = server.accept().expect("accepted");
    inside.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    sys::reset_on_close(&client);
    drop(client);
    let error = inside.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn refusals_are_refusals() {
    let (world, server) = real();
    drop(server);
    let mut client = connect(port(&world, 0));
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_slower_side_sets_the_pace() {
    let (world, server) = real();
    let mut client = connect(port(&world, 0));
    let (mut inside, _) = server.accept().expect("accepted");
    inside.set_nonblocking(true).expect("set");
    // Nobody reads: at some point nothing more is taken.
    let (mut sent, mut refused) = (0_u64, 0);
    let piece = vec![7; 1 << 20];
    while refused < 1000 && sent < 1 << 30 {
        match inside.write(&piece) {
            Ok(count) => (sent, refused) = (sent + count as u64, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                refused += 1;
                thread::sleep(Duration::from_micros(200));
            }
        }
    }
    assert!(sent < 1 << 30, "something holds a gigabyte");
    drop(inside);
    let mut all = Vec::new();
    client.read_to_end(&mut all).expect("read to the end");
    assert_eq!(all.len() as u64, sent);
}

#[test]
fn real_servers_speak_udp_too() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bound");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let host = server.local_addr().expect("bound");
    let real = vec![format!("10.0.0.11:53={host}").parse().expect("an option")];
    let world = World::new(&Config { real, ..publishing(&["udp:0:10.0.0.100:53"]) }, all(), 11);
    let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.send_to(b"question", port(&world, 0)).expect("sent");
    let mut buffer = [0; 100];
    let (length, from) = server.recv_from(&mut buffer).expect("a question");
    assert_eq!(&buffer[..length], b"question");
    server.send_to(b"answer", from).expect("sent");
    let length = client.recv(&mut buffer).expect("an answer");
    assert_eq!(&buffer[..length], b"answer");
}

#[test]
fn many_at_a_time_and_many_in_a_row() {
    let world = World::new(&web(), all(), 11);
    let mut streams: Vec<_> = (0..300).map(|_| connect(port(&world, 0))).collect();
    for stream in &mut streams {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("written");
    }
    let mut seen = std::collections::HashSet::new();
    for mut stream in streams {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        seen.insert(answer.split(" saw ").nth(1).expect("an introduction").to_owned());
    }
    assert_eq!(seen.len(), 300, "each has an address of its own");
    for number in 0..2000 {
        let (head, _) = ask(port(&world, number % 2), "GET /", b"");
        assert!(head.starts_with("HTTP/1.1 200"));
    }
    // What is over is forgotten, as soon as the last segments have arrived.
    let patience = std::time::Instant::now() + PATIENCE;
    while world.handle.statistics().connections > 0 {
        assert!(std::time::Instant::now() < patience, "{:?}", world.handle.statistics());
        thread::yield_now();
    }
    all_was_right(&world);
}

#[test]
fn connections_survive_a_driver_that_starts_anew() {
    let world = World::new(&web(), all(), 11);
    let mut stream = connect(port(&world, 0));
    const LENGTH: usize = 2_000_000;
    write!(stream, "GET /bytes/{LENGTH} HTTP/1.0\r\n\r\n").expect("written");
    let mut start = vec![0; 100_000];
    stream.read_exact(&mut start).expect("the start");
    world.renegotiate();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the rest");
    start.extend(rest);
    let head = start.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let mut expected = vec![0; LENGTH];
    pattern(0, &mut expected);
    assert!(start[head..] == expected, "the pattern is broken");
    all_was_right(&world);
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let error = |config: &Config| Lan::open(config).map(drop).expect_err("refused").to_string();
    assert!(error(&Config { mtu: 1279, ..Config::default() }).contains("1280 to 9216"));
    let real = |text: &str| Config { real: vec![text.parse().expect("an option")], ..Config::default() };
    assert!(error(&real("10.0.0.2:80=9001")).contains("10.0.0.2"));
    assert!(error(&real("10.1.0.9:80=9001")).contains("10.0.0.0/24"));
    assert!(error(&real("10.0.0.11:80=9001")).contains("two servers stand at port 80"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("bound").port();
    assert!(error(&publishing(&[&format!("{port}:10.0.0.100:80")])).contains("cannot publish 127.0.0.1"));
}
