//! The network `xdp`, and the network `lan` at its other end: Linux's own TCP talks through a pair of interfaces, in a network
//! namespace of this test's, to the built-in servers. Needs root, and a kernel with AF_XDP.

mod common;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::netns::{self, ip};
use common::plug::{HEADER, converse, plug, with};
use ringlet::backend::lan::{self, Lan};
use ringlet::backend::options::Queue;
use ringlet::backend::xdp::{self, Xdp};
use ringlet::backend::{Backend, Received, Sent};
use ringlet_driver::features::Features;

const PATIENCE: Duration = Duration::from_secs(60);

fn queue(name: &str, queue: Option<u32>) -> Queue {
    Queue { name: name.to_owned(), queue }
}

fn open(name: &str) -> Xdp {
    Xdp::open(&queue(name, None)).unwrap_or_else(|error| panic!("{error}"))
}

/// A pair of interfaces: Linux has `host`, and `inner` is for the guest. Checksums are those in the frames.
fn pair() {
    ip("link add host type veth peer name inner");
    netns::checksum_offload("host", false);
    for command in [
        "link set lo up",
        "address add 10.0.0.2/24 dev host",
        "address add fd00::2/64 dev host nodad",
        "link set host up",
        "link set inner up",
    ] {
        ip(command);
    }
}

/// A quiet pair, of which the other end's neighbour is known.
fn quiet_pair() -> UdpSocket {
    ip("link add host type veth peer name inner");
    for name in ["host", "inner"] {
        // Linux has nothing of its own to say then.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").expect("IPv6 is off");
        ip(&format!("link set {name} up"));
    }
    ip("address add 192.0.2.1/24 dev host");
    ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev host");
    UdpSocket::bind("192.0.2.1:0").expect("bound")
}

/// Waits for the next frame.
fn receive(xdp: &mut Xdp, room: &mut [u8]) -> Received {
    let until = Instant::now() + PATIENCE;
    loop {
        match with(room, |room| xdp.receive(room)).expect("alive") {
            Received::Empty => assert!(Instant::now() < until, "nothing comes"),
            received => return received,
        }
        thread::yield_now();
    }
}

#[test]
fn linux_talks_to_the_built_in_servers() {
    netns::inside(|| {
        pair();
        netns::ready("fd00::2".parse().expect("an address"));
        let mut xdp = open("inner");
        assert_eq!((xdp.is_native(), xdp.mtu(), xdp.offloads()), (true, 1500, Features::empty()));
        let (mut lan, handle) = Lan::open(&lan::Config::default()).expect("a network");
        xdp.negotiated(Features::empty()).expect("negotiated");
        lan.negotiated(Features::empty()).expect("negotiated");
        let stop = AtomicBool::new(false);
        let longest = thread::scope(|scope| {
            let client = scope.spawn(|| {
                // Whatever happens, the other thread ends.
                let result = std::panic::catch_unwind(converse);
                stop.store(true, Ordering::SeqCst);
                result
            });
            let longest = plug(&mut xdp, &mut lan, &stop);
            assert!(client.join().is_ok_and(|result| result.is_ok()));
            longest
        });
        assert_eq!((handle.statistics().bad_checksums, netns::checksum_errors()), (0, 0));
        assert_eq!(longest, (1514, 1514), "frames are those on the wire");
        let counters = xdp.counters();
        assert!(counters.from_guest.frames > 10_000 && counters.to_guest.frames > 10_000, "{counters:?}");
        // The interface is Linux's again.
        drop(xdp);
        drop(open("inner"));
    });
}

#[test]
fn a_driver_that_cannot_is_done_without() {
    netns::inside(|| {
        let socket = quiet_pair();
        // Longer frames than fit into a page.
        ip("link set host mtu 9000");
        ip("link set inner mtu 9000");
        let mut xdp = open("inner");
        assert_eq!((xdp.is_native(), xdp.mtu()), (false, 3822));
        socket.send_to(&[7; 3000], "192.0.2.2:9").expect("sent");
        let whole = HEADER + 14 + 20 + 8 + 3000;
        assert_eq!(receive(&mut xdp, &mut vec![0; 5000]), Received::Frame(whole));
    });
}

#[test]
fn a_frame_larger_than_the_room_waits() {
    netns::inside(|| {
        let socket = quiet_pair();
        let mut xdp = open("inner");
        for length in [1000, 500] {
            socket.send_to(&vec![7; length], "192.0.2.2:9").expect("sent");
        }
        let whole = |length| HEADER + 14 + 20 + 8 + length;
        let mut room = vec![9; 100];
        for _ in 0..2 {
            assert_eq!(receive(&mut xdp, &mut room), Received::TooSmall(whole(1000)));
        }
        xdp.discard();
        let mut room = vec![9; 2000];
        assert_eq!(receive(&mut xdp, &mut room), Received::Frame(whole(500)));
        assert_eq!((&room[..HEADER], &room[HEADER..18]), (&[0; HEADER][..], &[2, 0, 0, 0, 0, 2][..]));
        assert!(room[HEADER + 42..whole(500)].iter().all(|byte| *byte == 7));
        assert_eq!(with(&mut room, |room| xdp.receive(room)).expect("alive"), Received::Empty);
        let flow = xdp.counters().to_guest;
        assert_eq!((flow.frames, flow.bytes), (1, whole(500) as u64 - 12));
    });
}

#[test]
fn chunks_come_round_in_both_directions() {
    netns::inside(|| {
        let socket = quiet_pair();
        let mut xdp = open("inner");
        let (mut room, mut last) = (vec![0; 2000], 0);
        // More than there are chunks.
        for number in 0..10_000_u32 {
            socket.send_to(&number.to_be_bytes(), "192.0.2.2:9").expect("sent");
            assert_eq!(receive(&mut xdp, &mut room), Received::Frame(HEADER + 14 + 20 + 8 + 4));
            last = u32::from_be_bytes(room[HEADER + 42..][..4].try_into().expect("four bytes"));
            assert_eq!(last, number);
        }
        assert_eq!(last, 9999);
        // Of a kind that nobody takes: what counts is that Linux has them.
        let mut frame = vec![0; HEADER + 60];
        frame[HEADER..HEADER + 14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        let counted = || -> u64 {
            let devices = std::fs::read_to_string("/proc/thread-self/net/dev").expect("/proc");
            let line = devices.lines().find_map(|line| line.trim().strip_prefix("host:")).expect("the interface");
            line.split_whitespace().nth(1).and_then(|frames| frames.parse().ok()).expect("a number")
        };
        let before = counted();
        let until = Instant::now() + PATIENCE;
        // Not more at a time than Linux takes in before it looks at them.
        for batch in 1..=20 {
            for _ in 0..500 {
                while with(&mut frame, |frame| xdp.send(frame)).expect("alive") == Sent::Later {
                    assert!(Instant::now() < until, "there is no more room");
                    xdp.turn(Instant::now());
                }
            }
            while counted() < before + 500 * batch {
                assert!(Instant::now() < until, "{} of {} came", counted() - before, 500 * batch);
                xdp.turn(Instant::now());
                thread::yield_now();
            }
        }
        // Too short, and too long for a chunk.
        for length in [HEADER + 13, HEADER + 5000] {
            assert_eq!(with(&mut vec![0; length], |frame| xdp.send(frame)).expect("alive"), Sent::Done);
        }
        let flow = xdp.counters().from_guest;
        assert_eq!((flow.frames, flow.bytes, flow.dropped), (10_000, 600_000, 2));
    });
}

#[test]
fn what_cannot_be_had_is_explained() {
    netns::inside(|| {
        let refused = |name: &str, number| Xdp::open(&queue(name, number)).expect_err("refused");
        assert!(matches!(refused("nobody", None), xdp::Error::NoInterface(_)));
        ip("link add host type veth peer name inner");
        let held = open("inner");
        let error = refused("inner", None);
        assert!(matches!(error, xdp::Error::Busy { .. }), "{error}");
        drop(held);
        assert!(matches!(refused("inner", Some(1)), xdp::Error::NoQueue { queue: 1, count: 1, .. }));
        ip("link add name wide numrxqueues 2 numtxqueues 2 type veth peer name other");
        let error = refused("wide", None);
        assert!(matches!(error, xdp::Error::Queues { count: 2, .. }), "{error}");
        Xdp::open(&queue("wide", Some(1))).unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn an_interface_that_is_removed_is_gone_for_good() {
    netns::inside(|| {
        drop(quiet_pair());
        let mut xdp = open("inner");
        let now = Instant::now();
        let due = xdp.turn(now).expect("it is asked after");
        assert!(due > now && due <= now + Duration::from_secs(1), "and does not keep anybody awake for it");
        ip("link delete inner");
        xdp.turn(due);
        let mut buffer = vec![0; 2000];
        let error = with(&mut buffer, |room| xdp.receive(room)).expect_err("gone").to_string();
        assert!(error.contains("inner is gone"), "{error}");
        assert!(with(&mut buffer[..100], |frame| xdp.send(frame)).is_err());
    });
}
