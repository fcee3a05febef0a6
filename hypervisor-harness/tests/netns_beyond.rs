//! What IPVS cannot, between real Linux hosts in network namespaces: full NAT on one segment, where a server would answer its client
//! directly; limits of each source; servers that are told of their clients by the PROXY
//! protocol; and connections that are begun by SYN cookies. Needs root and KVM.
//!
//! ```text
//!   client 10.2.0.9 --+-- bridge --+-- ringlet 10.2.0.2, the pool 10.2.0.200 and 10.2.0.201
//!                     |            |
//!                     +------------+-- server 10.2.0.13: no route but to the segment
//! ```

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::netns::{self, Host, ip};
use common::ringlet::{PROGRAM, Ringlet};
use common::rules::File;
use common::traffic;

/// Bytes each way of each connection.
const LENGTH: usize = 1_000_001;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

const RULES: &str = "\
-A -t 10.2.0.100:80 -s rr
-a -t 10.2.0.100:80 -r 10.2.0.13:8080 -m -w 1
-A -t [fd10:2::100]:80 -s rr
-a -t [fd10:2::100]:80 -r [fd10:2::13]:8080 -m -w 1
-A -u 10.2.0.100:53 -s rr
-a -u 10.2.0.100:53 -r 10.2.0.13:5353 -m -w 1
extra set -t 10.2.0.100:80 --full-nat 10.2.0.200-10.2.0.201
extra set -t [fd10:2::100]:80 --full-nat fd10:2::200-fd10:2::201 --ports 20000-20999
extra set -u 10.2.0.100:53 --full-nat 10.2.0.200
";

/// The hosts, on a bridge that `balancer0` has joined.
struct Segment {
    client: Host,
    server: Host,
}

impl Segment {
    fn new() -> Self {
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        ip("tuntap add dev balancer0 mode tap");
        ip("link set balancer0 master bridge0 up");
        let host = |name: &str, last: &str| {
            let host = Host::new();
            let inner = format!("in-{name}");
            ip(&format!("link add {name} type veth peer name {inner}"));
            host.adopt(&inner);
            ip(&format!("link set {name} master bridge0 up"));
            host.ip("link set lo up");
            host.ip(&format!("link set {inner} name eth0"));
            host.ip(&format!("address add 10.2.0.{last}/24 dev eth0"));
            host.ip(&format!("address add fd10:2::{last}/64 dev eth0 nodad"));
            host.ip("link set eth0 up");
            host.inside(|| netns::ready(format!("fd10:2::{last}").parse().expect("an address")));
            host
        };
        Self { client: host("client", "9"), server: host("server", "13") }
    }
}

/// Runs `ringlet WORDS` on the balancer, from the client's place. Returns what it wrote.
fn control(client: &Host, words: &str) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(words.split_whitespace()).args(["--connect", "10.2.0.2:9101"]).stdin(Stdio::null());
    let output = client.inside(|| command.output()).expect("the program starts");
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Sends bytes, and gets them back.
fn echo(client: &Host, address: &str, expected: &[u8]) {
    let mut stream = client.inside(|| TcpStream::connect(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let mut back = Vec::new();
    thread::scope(|scope| {
        let mut writer = stream.try_clone().expect("another descriptor");
        scope.spawn(move || {
            writer.write_all(expected).unwrap_or_else(|error| panic!("{address}: {error}"));
            writer.shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("{address}: {error}"));
        });
        stream.read_to_end(&mut back).unwrap_or_else(|error| panic!("{address}: {error}"));
    });
    assert!(back == expected, "{address}: {} of {} bytes came back", back.len(), expected.len());
}

/// A server that sends back what it is sent, over TCP on port 8080 of both families and over UDP on 5353, and tells where it came
/// from. It listens when this returns, and ends with the test.
fn serve(server: &Host) -> mpsc::Receiver<SocketAddr> {
    let (tell, told) = mpsc::channel();
    for address in ["10.2.0.13:8080", "[fd10:2::13]:8080"] {
        let listener = server.inside(|| TcpListener::bind(address)).expect("bound");
        let tell = tell.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                if tell.send(stream.peer_addr().expect("connected")).is_err() {
                    return;
                }
                thread::spawn(move || {
                    let mut bytes = Vec::new();
                    // Whoever asked sees what is missing.
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = stream.read_to_end(&mut bytes);
                    let _ = stream.write_all(&bytes);
                });
            }
        });
    }
    let socket = server.inside(|| UdpSocket::bind("10.2.0.13:5353")).expect("bound");
    thread::spawn(move || {
        let mut bytes = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            if tell.send(from).is_err() || socket.send_to(&bytes[..length], from).is_err() {
                return;
            }
        }
    });
    told
}

#[test]
fn on_one_segment_servers_answer_through_the_balancer() {
    needs_kvm!();
    netns::inside(|| {
        let Segment { client, server } = Segment::new();
        let seen = serve(&server);
        let rules = File::new("netns-beyond.rules", RULES);
        let arguments = ["run", "--net", "tap=balancer0", "--rules", rules.path()];
        let addresses = ["--ip", "10.2.0.2/24", "--ip", "fd10:2::2/64"];
        let expected = traffic::bytes(LENGTH);
        for features in ["--features=+csum", "--features=-csum,-guest_csum"] {
            let ringlet = Ringlet::start(&[&arguments[..], &addresses, &[features]].concat());
            let mut local = BTreeSet::new();
            for _ in 0..8 {
                echo(&client, "10.2.0.100:80", &expected[..100_000]);
                local.insert(seen.recv_timeout(PATIENCE).expect("the server was reached").ip());
            }
            let pool: BTreeSet<IpAddr> = ["10.2.0.200", "10.2.0.201"].map(|a| a.parse().expect("an address")).into();
            assert!(local.is_subset(&pool), "{local:?}");
            echo(&client, "10.2.0.100:80", &expected);
            assert!(pool.contains(&seen.recv_timeout(PATIENCE).expect("the server was reached").ip()));
            echo(&client, "[fd10:2::100]:80", &expected);
            let from = seen.recv_timeout(PATIENCE).expect("the server was reached");
            assert!(from.to_string().starts_with("[fd10:2::20") && (20000..21000).contains(&from.port()), "{from}");

            let socket = client.inside(|| UdpSocket::bind("10.2.0.9:0")).expect("bound");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.connect("10.2.0.100:53").expect("connected");
            socket.send(b"a question").expect("sent");
            let mut answer = [0; 100];
            assert_eq!(socket.recv(&mut answer).expect("an answer"), 10);
            let from = seen.recv_timeout(PATIENCE).expect("the server was reached");
            assert_eq!(from.ip(), "10.2.0.200".parse::<IpAddr>().expect("an address"));
            // Nobody listens on that port of the server: its error comes to the client as one of the service's.
            control(&client, "ipvsadm -e -u 10.2.0.100:53 -r 10.2.0.13:5353 -m -w 0");
            control(&client, "ipvsadm -a -u 10.2.0.100:53 -r 10.2.0.13:5354 -m -w 1");
            let socket = client.inside(|| UdpSocket::bind("10.2.0.9:0")).expect("bound");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.connect("10.2.0.100:53").expect("connected");
            socket.send(b"a question").expect("sent");
            let error = socket.recv(&mut answer).expect_err("nobody listens");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");

            let listed = control(&client, "extra");
            assert_eq!(listed.lines().filter(|line| line.ends_with("# no port free: 0")).count(), 3, "{listed}");
            let saved = control(&client, "ipvsadm -S");
            let extras: String = saved.split_inclusive('\n').filter(|line| line.starts_with("extra set")).collect();
            let given: String = RULES.split_inclusive('\n').filter(|line| line.starts_with("extra set")).collect();
            assert_eq!(extras, given);
            // One connection a client, from now on.
            control(&client, "extra set -t 10.2.0.100:80 --full-nat 10.2.0.200 --source-connections 1 --source-reset");
            let first = client.inside(|| TcpStream::connect("10.2.0.100:80")).expect("the first of this client");
            let error = client.inside(|| TcpStream::connect("10.2.0.100:80")).expect_err("the second");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
            drop(first);
            seen.recv_timeout(PATIENCE).expect("the server was reached");
            let listed: serde_json::Value = serde_json::from_str(&control(&client, "extra --json")).expect("JSON");
            let of = |service: &str| {
                let list = listed["services"].as_array().expect("a list").iter();
                list.clone().find(|entry| entry["service"] == service).unwrap_or_else(|| panic!("{listed}"))
            };
            assert_eq!(of("10.2.0.100:80")["limits"]["limited"], 1, "{listed}");
            assert_eq!(of("10.2.0.100:53")["limits"], serde_json::Value::Null, "{listed}");
            for host in [&client, &server] {
                assert_eq!(host.inside(netns::checksum_errors), 0, "{features}");
            }
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
    });
}

const TOLD: &str = "\
-A -t 10.2.0.100:80 -s rr
-a -t 10.2.0.100:80 -r 10.2.0.13:8080 -m -w 1
-A -t [fd10:2::100]:80 -s rr
-a -t [fd10:2::100]:80 -r [fd10:2::13]:8080 -m -w 1
-A -t 10.2.0.101:80 -s rr
-a -t 10.2.0.101:80 -r 10.2.0.13:8081 -m -w 1
extra set -t 10.2.0.100:80 --full-nat 10.2.0.200 --client-address proxy
extra set -t [fd10:2::100]:80 --full-nat fd10:2::200 --client-address proxy
-A -t 10.2.0.102:80 -s rr
-a -t 10.2.0.102:80 -r 10.2.0.13:8080 -m -w 1
-A -t [fd10:2::101]:80 -s rr
-a -t [fd10:2::101]:80 -r [fd10:2::13]:8081 -m -w 1
extra set -t 10.2.0.101:80 --full-nat 10.2.0.200 --client-address toa
extra set -t 10.2.0.102:80 --full-nat 10.2.0.200 --client-address proxy --syn-cookies 0
extra set -t [fd10:2::101]:80 --full-nat fd10:2::200 --syn-cookies 0
";

/// What the PROXY protocol, version 2, says of a connection: client and service.
fn proxied(stream: &mut TcpStream) -> Result<(SocketAddr, SocketAddr), std::io::Error> {
    let mut start = [0; 16];
    stream.read_exact(&mut start)?;
    assert_eq!(start[..13], *b"\r\n\r\n\0\r\nQUIT\n\x21", "{start:?}");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([start[14], start[15]]))];
    stream.read_exact(&mut rest)?;
    let address = |at: usize| -> IpAddr {
        match start[13] {
            0x11 => <[u8; 4]>::try_from(&rest[at * 4..at * 4 + 4]).expect("four bytes").into(),
            0x21 => <[u8; 16]>::try_from(&rest[at * 16..at * 16 + 16]).expect("sixteen bytes").into(),
            family => panic!("{family}"),
        }
    };
    let ports = &rest[rest.len() - 4..];
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ok((SocketAddr::new(address(0), port(0)), SocketAddr::new(address(1), port(2))))
}

#[test]
fn servers_hear_of_their_clients() {
    needs_kvm!();
    netns::inside(|| {
        let Segment { client, server } = Segment::new();
        // A server that speaks first, as soon as it knows to whom, and then sends back what it is sent; and one that knows nothing of
        // TCP option 254, as Linux by itself does not.
        let (tell, told) = mpsc::channel();
        for address in ["10.2.0.13:8080", "[fd10:2::13]:8080", "10.2.0.13:8081", "[fd10:2::13]:8081"] {
            let listener = server.inside(|| TcpListener::bind(address)).expect("bound");
            let tell = tell.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { continue };
                    let tell = tell.clone();
                    thread::spawn(move || {
                        let _ = stream.set_read_timeout(Some(PATIENCE));
                        if address.ends_with('0') {
                            let Ok(names) = proxied(&mut stream) else { return };
                            let _ = tell.send((names, stream.peer_addr().expect("connected")));
                        }
                        let _ = stream.write_all(b"hello ");
                        let mut bytes = Vec::new();
                        // Whoever asked sees what is missing.
                        let _ = stream.read_to_end(&mut bytes);
                        let _ = stream.write_all(&bytes);
                    });
                }
            });
        }
        let rules = File::new("netns-beyond-told.rules", TOLD);
        let arguments = ["run", "--net", "tap=balancer0", "--rules", rules.path()];
        let addresses = ["--ip", "10.2.0.2/24", "--ip", "fd10:2::2/64"];
        let expected = traffic::bytes(LENGTH);
        for features in ["--features=+csum", "--features=-csum,-guest_csum"] {
            let ringlet = Ringlet::start(&[&arguments[..], &addresses, &[features]].concat());
            for service in ["10.2.0.100:80", "[fd10:2::100]:80", "10.2.0.101:80", "10.2.0.102:80", "[fd10:2::101]:80"] {
                let mut stream = client.inside(|| TcpStream::connect(service)).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
                let mut greeting = [0; 6];
                stream.read_exact(&mut greeting).unwrap_or_else(|error| panic!("{service}: {error}"));
                assert_eq!(&greeting, b"hello ", "{service}");
                if !service.contains("101") {
                    let ((from, to), peer) = told.recv_timeout(PATIENCE).expect("the server was told");
                    assert_eq!(from, stream.local_addr().expect("connected"), "{service}");
                    assert_eq!(to, service.parse().expect("an address"), "{service}");
                    assert_ne!(peer, from);
                }
                let mut back = Vec::new();
                thread::scope(|scope| {
                    let mut writer = stream.try_clone().expect("another descriptor");
                    let expected = &expected;
                    scope.spawn(move || {
                        writer.write_all(expected).unwrap_or_else(|error| panic!("{service}: {error}"));
                        writer.shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("{service}: {error}"));
                    });
                    stream.read_to_end(&mut back).unwrap_or_else(|error| panic!("{service}: {error}"));
                });
                assert!(back == expected, "{service}: {} of {} bytes came back", back.len(), expected.len());
            }
            let listed: serde_json::Value = serde_json::from_str(&control(&client, "extra --json")).expect("JSON");
            let entries = listed["services"].as_array().expect("a list").iter();
            let taken: u64 = entries.filter_map(|entry| entry["syn_cookies"]["taken"].as_u64()).sum();
            assert_eq!(taken, 2, "both services that are never without cookies: {listed}");
            for host in [&client, &server] {
                assert_eq!(host.inside(netns::checksum_errors), 0, "{features}");
            }
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
    });
}
