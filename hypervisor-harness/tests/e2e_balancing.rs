//! Real connections of this host, balanced by the image in KVM over the three servers of `lan`. Where there is no KVM, in QEMU,
//! with fewer connections: its user networking takes them one after the other.

mod common;

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::http::get;
use common::ringlet::{PATIENCE, Ringlet};
use common::rules::{File, service};
use common::{TRANSPORTS, emulated};

/// The management ports, on any free ports of this host.
const MANAGEMENT: [&str; 4] = ["--publish", "0:10.0.0.2:9100", "--publish", "0:10.0.0.2:9101"];
const VIP: &str = "10.0.0.100:80";

/// Asks `requests` times, on a connection each, with `workers` of them at a time. Returns how often each server answered.
fn ask(address: SocketAddr, requests: u32, workers: u32) -> BTreeMap<String, u32> {
    ask_up_to(address, &AtomicU32::new(requests), workers, &AtomicU32::new(0))
}

/// As [`ask`]; `begun` counts the requests as they are made, and how many there are to be may still change.
fn ask_up_to(address: SocketAddr, requests: &AtomicU32, workers: u32, begun: &AtomicU32) -> BTreeMap<String, u32> {
    let worker = || {
        let mut answers = BTreeMap::<String, u32>::new();
        while begun.fetch_add(1, Ordering::SeqCst) < requests.load(Ordering::SeqCst) {
            let body = get(address, "/").unwrap_or_else(|error| panic!("a request failed: {error}"));
            let name = body.split_once(" (").unwrap_or_else(|| panic!("not a server's answer: {body}")).0;
            let clients = if emulated() { " saw 10.8.0.1" } else { " saw 10.9." };
            assert!(body.contains(clients), "the server sees the client's own address: {body}");
            *answers.entry(name.to_owned()).or_default() += 1;
        }
        answers
    };
    let mut all = BTreeMap::<String, u32>::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            for (name, count) in worker.join().expect("no request fails") {
                *all.entry(name).or_default() += count;
            }
        }
    });
    all
}

#[test]
fn ten_thousand_requests_by_round_robin() {
    TRANSPORTS.iter().for_each(|transport| ten_thousand_requests(transport));
}

fn ten_thousand_requests(transport: &str) {
    let rules = File::new("rr.rules", service("-t", VIP, 80, "rr"));
    let publish = ["--transport", transport, "--rules", rules.path(), "--publish", "0:10.0.0.100:80"];
    let mut ringlet = Ringlet::start(&[&publish[..], &MANAGEMENT].concat());
    let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("it has booted");
    assert_eq!(boot["transport"], transport);
    let (requests, workers) = if emulated() { (1000, 4) } else { (10_000, 64) };
    let answers = ask(ringlet.host(VIP), requests, workers);
    let counts: Vec<_> = answers.values().copied().collect();
    // Each connection is scheduled in turn, so the order decides who gets the odd one.
    assert_eq!(counts.iter().sum::<u32>(), requests, "{answers:?}");
    assert_eq!(counts.len(), 3, "{answers:?}");
    assert!(counts.iter().all(|count| [requests / 3, requests / 3 + 1].contains(count)), "{answers:?}");
    let status = ringlet.wait_for_status("all connections", |status| status["connections"] == requests);
    assert!(status["rx_packets"].as_u64() > Some(6 * u64::from(requests)), "{status}");
    // The books agree.
    let table = ringlet.ipvsadm("-L -n --stats");
    let connections: Vec<u32> = table
        .lines()
        .filter(|line| line.trim_start().starts_with("-> 10."))
        .map(|line| line.split_whitespace().nth(2).expect("a column").parse().expect("a number"))
        .collect();
    assert_eq!(connections.iter().sum::<u32>(), requests, "{table}");
    ringlet.wait_for_wakeups();
    let metrics = get(ringlet.host("10.0.0.2:9100"), "/metrics").unwrap();
    assert!(metrics.contains("# TYPE") && metrics.contains("10.0.0.100"), "{metrics}");
    assert_eq!(ringlet.interrupt(), 0);
}

#[test]
fn the_demonstration_spreads_evenly_and_loses_a_server_without_losing_a_request() {
    let mut ringlet = Ringlet::start(&[&["--publish", "0:10.0.0.100:80"][..], &MANAGEMENT].concat());
    let address = ringlet.host(VIP);
    let workers = if emulated() { 4 } else { 64 };
    let before = ask(address, 900, workers);
    // By least connections, equal servers get about as much as each other.
    assert!(before.len() == 3 && before.values().all(|count| (200..=400).contains(count)), "{before:?}");

    // A server is taken out while requests go on, however long that takes; no longer than for ever.
    let (total, begun) = (AtomicU32::new(1_000_000), AtomicU32::new(0));
    let more = if emulated() { 500 } else { 2000 };
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| ask_up_to(address, &total, workers, &begun));
        let wait = |what: &str, holds: &dyn Fn() -> bool| {
            let until = Instant::now() + PATIENCE;
            while !holds() {
                assert!(Instant::now() < until, "{what} does not come");
                std::thread::yield_now();
            }
        };
        wait("traffic", &|| begun.load(Ordering::SeqCst) > 500);
        // Weight 0 lets its connections end; then it can go.
        ringlet.ipvsadm("-e -t 10.0.0.100:80 -r 10.0.0.12:80 -m -w 0");
        wait("the end of its connections", &|| {
            let table = ringlet.ipvsadm("-L -n");
            let row = table.lines().find(|line| line.contains("-> 10.0.0.12:80")).expect("a row");
            row.split_whitespace().nth(4) == Some("0")
        });
        ringlet.ipvsadm("-d -t 10.0.0.100:80 -r 10.0.0.12:80");
        // Nobody has begun more than that.
        let last = begun.load(Ordering::SeqCst) + more;
        total.store(last, Ordering::SeqCst);
        let answers = traffic.join().expect("no request fails");
        assert_eq!(answers.values().sum::<u32>(), last, "{answers:?}");
        assert!(answers["beta"] < answers["alpha"] && answers["beta"] < answers["gamma"], "{answers:?}");
    });
    let after = ask(address, 300, workers);
    assert!(!after.contains_key("beta"), "{after:?}");
    assert_eq!(after.values().sum::<u32>(), 300);
    // The program has seen the change too.
    ringlet.wait("configuration");

    ringlet.ipvsadm("-a -t 10.0.0.100:80 -r 10.0.0.12:80 -m -w 5");
    let again = ask(address, 300, workers);
    assert!(again["beta"] > 100, "{again:?}");
    let refused = ringlet.try_ipvsadm("-d -t 10.0.0.100:80 -r 10.0.0.99:80");
    assert!(!refused.status.success());
    assert_eq!(ringlet.interrupt(), 0);
}

#[test]
fn over_ipv6() {
    needs_kvm!();
    let rules = File::new("six.rules", service("-t", "[fd00::100]:80", 80, "wrr"));
    let ringlet =
        Ringlet::start(&[&["--rules", rules.path(), "--publish", "0:[fd00::100]:80"][..], &MANAGEMENT].concat());
    let address = ringlet.host("[fd00::100]:80");
    let mut names = BTreeMap::<_, u32>::new();
    for _ in 0..30 {
        let body = get(address, "/").unwrap();
        assert!(body.contains(" saw [fd09::"), "{body}");
        *names.entry(body.split_once(' ').unwrap().0.to_owned()).or_default() += 1;
    }
    assert!(names.len() == 3 && names.values().all(|count| *count == 10), "{names:?}");
}

#[test]
fn udp_is_echoed_through_the_service() {
    // QEMU's user networking forwards TCP over IPv4.
    needs_kvm!();
    let rules =
        File::new("udp.rules", service("-u", "10.0.0.100:7", 7, "rr") + &service("-u", "[fd00::100]:7", 7, "rr"));
    let publish = ["--rules", rules.path(), "--publish", "udp:0:10.0.0.100:7", "--publish", "udp:0:[fd00::100]:7"];
    let mut ringlet = Ringlet::start(&[&publish[..], &MANAGEMENT].concat());
    for target in ["10.0.0.100:7", "[fd00::100]:7"] {
        let address = ringlet.host(target);
        for client in 0..6 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for length in [1, 7, 512, 1400] {
                let sent: Vec<u8> = (0..length).map(|nth: u32| (nth * 7 + client) as u8).collect();
                let mut room = [0; 2048];
                // UDP promises nothing: a datagram may wait for a neighbour and be lost.
                let answer = (0..3).find_map(|_| {
                    socket.send(&sent).unwrap();
                    socket.recv(&mut room).ok()
                });
                assert_eq!(&room[..answer.expect("an answer")], &sent[..], "{target}");
            }
        }
    }
    ringlet.wait_for_status("connections of all clients", |status| status["connections"] == 12);
}

#[test]
fn with_an_address_and_a_server_of_ones_own() {
    // A server on this host, in the demonstration's service beside the built-in ones.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let real = format!("10.0.0.14:80={}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            common::http::answer(
                stream,
                if emulated() { "mine (here) saw 10.8.0.1" } else { "mine (here) saw 10.9.x.x" },
            );
        }
    });
    let ringlet = Ringlet::start(&[
        "--ip",
        "10.0.0.50/24",
        "--real",
        &real,
        "--publish",
        "0:10.0.0.100:80",
        "--publish",
        "0:10.0.0.50:9100",
        "--publish",
        "0:10.0.0.50:9101",
    ]);
    let answers = ask(ringlet.host(VIP), 80, if emulated() { 4 } else { 8 });
    // How many each gets depends on how long it holds its connections; each gets some.
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert!(get(ringlet.host("10.0.0.50:9100"), "/").unwrap().contains("10.0.0.50"));
}
