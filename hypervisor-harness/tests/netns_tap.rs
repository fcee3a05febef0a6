//! The network `tap`, and the network `lan` at its other end: Linux's own TCP talks through a TAP interface, in a network
//! namespace of this test's, to the built-in servers. Needs root.

mod common;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::netns::{self, ip};
use common::plug::{HEADER, converse, plug, with};
use ringlet::backend::coalesce::Coalesce;
use ringlet::backend::lan::{self, Lan};
use ringlet::backend::options::{Interface, Threaded};
use ringlet::backend::tap::{self, Tap};
use ringlet::backend::{Backend, Received, Sent};
use ringlet_driver::features::Features;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn linux_talks_to_the_built_in_servers_with_and_without_offloads() {
    netns::inside(|| {
        let mut tap = Tap::open("ringlet0").expect("a tap");
        assert!(!tap.is_up().expect("asked"));
        assert_eq!((tap.interface(), tap.mtu()), ("ringlet0", 1500));
        // nodad: the test need not wait until nobody else claims the address.
        for command in [
            "link set lo up",
            "address add 10.0.0.2/24 dev ringlet0",
            "address add fd00::2/64 dev ringlet0 nodad",
            "link set ringlet0 up",
        ] {
            ip(command);
        }
        netns::ready("fd00::2".parse().expect("an address"));
        let all = tap.offloads();
        assert!(all.contains(Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::CSUM), "{all:?}");
        let checksums = Features::CSUM | Features::GUEST_CSUM;
        for (from_linux, to_linux) in
            [(all, all), (all, Features::empty()), (Features::empty(), all), (checksums, checksums)]
        {
            let (mut lan, handle) = Lan::open(&lan::Config::default()).expect("a network");
            tap.negotiated(from_linux).expect("negotiated");
            lan.negotiated(to_linux).expect("negotiated");
            let stop = AtomicBool::new(false);
            let (up, down) = thread::scope(|scope| {
                let client = scope.spawn(|| {
                    // Whatever happens, the other thread ends.
                    let result = std::panic::catch_unwind(converse);
                    stop.store(true, Ordering::SeqCst);
                    result
                });
                let longest = plug(&mut tap, &mut lan, &stop);
                assert!(client.join().is_ok_and(|result| result.is_ok()), "{from_linux:?} {to_linux:?}");
                longest
            });
            assert_eq!(handle.statistics().bad_checksums, 0, "what Linux sent was wrong: {from_linux:?}");
            assert_eq!(netns::checksum_errors(), 0, "what the servers sent was wrong: {to_linux:?}");
            assert_eq!(up > 1514, from_linux.contains(Features::GUEST_TSO4), "{up} bytes from Linux");
            assert_eq!(down > 1514, to_linux.contains(Features::GUEST_TSO4), "{down} bytes to Linux");
        }
    });
}

#[test]
fn what_linux_sends_segment_by_segment_is_put_together() {
    netns::inside(|| {
        let tap = Tap::open("ringlet0").expect("a tap");
        for command in [
            "link set lo up",
            "address add 10.0.0.2/24 dev ringlet0",
            "address add fd00::2/64 dev ringlet0 nodad",
            // Linux cuts its segments itself then, whatever the interface can do.
            "link set ringlet0 gso_max_segs 1",
            "link set ringlet0 up",
        ] {
            ip(command);
        }
        netns::ready("fd00::2".parse().expect("an address"));
        let (mut lan, handle) = Lan::open(&lan::Config::default()).expect("a network");
        let mut tap = Coalesce::new(tap, true);
        let all = tap.offloads();
        // What `lan` is given is what a driver may send: no counts of segments.
        tap.negotiated(all - Features::RSC_EXT).expect("negotiated");
        lan.negotiated(Features::GUEST_CSUM).expect("negotiated");
        let stop = AtomicBool::new(false);
        let (longest, _) = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let result = std::panic::catch_unwind(converse);
                stop.store(true, Ordering::SeqCst);
                result
            });
            let longest = plug(&mut tap, &mut lan, &stop);
            assert!(client.join().is_ok_and(|result| result.is_ok()));
            longest
        });
        assert_eq!((handle.statistics().bad_checksums, netns::checksum_errors()), (0, 0));
        let merged = tap.merged();
        // How many come at a time is up to the two threads.
        assert!(merged.frames > 0 && longest > 1514, "{merged:?}, {longest} bytes");
    });
}

#[test]
fn a_frame_larger_than_the_room_waits() {
    netns::inside(|| {
        let mut tap = Tap::open("ringlet0").expect("a tap");
        // Linux has nothing of its own to say then.
        std::fs::write("/proc/sys/net/ipv6/conf/ringlet0/disable_ipv6", "1").expect("IPv6 is off");
        ip("address add 192.0.2.1/24 dev ringlet0");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev ringlet0");
        ip("link set ringlet0 up");
        tap.negotiated(Features::empty()).expect("negotiated");
        let socket = UdpSocket::bind("192.0.2.1:0").expect("bound");
        socket.send_to(&[7; 1000], "192.0.2.2:9").expect("sent");
        let whole = 12 + 14 + 20 + 8 + 1000;
        let mut room = vec![0; 100];
        for _ in 0..2 {
            assert_eq!(with(&mut room, |room| tap.receive(room)).expect("alive"), Received::TooSmall(whole));
        }
        let mut room = vec![0; 2000];
        assert_eq!(with(&mut room, |room| tap.receive(room)).expect("alive"), Received::Frame(whole));
        assert_eq!(room[12..18], [2, 0, 0, 0, 0, 2]);
        assert!(room[12 + 42..whole].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_driver_is_given_nothing_that_its_predecessor_ordered() {
    netns::inside(|| {
        let mut tap = Tap::open("ringlet0").expect("a tap");
        std::fs::write("/proc/sys/net/ipv6/conf/ringlet0/disable_ipv6", "1").expect("IPv6 is off");
        ip("address add 192.0.2.1/24 dev ringlet0");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev ringlet0");
        ip("link set ringlet0 up");
        let socket = UdpSocket::bind("192.0.2.1:0").expect("bound");
        let mut room = vec![0; 2000];
        for (features, unfinished) in [(Features::GUEST_CSUM, 1), (Features::empty(), 0), (Features::GUEST_CSUM, 1)] {
            tap.negotiated(features).expect("negotiated");
            // This one is left to the next driver.
            for _ in 0..2 {
                socket.send_to(&[7; 100], "192.0.2.2:9").expect("sent");
            }
            assert!(matches!(with(&mut room, |room| tap.receive(room)).expect("alive"), Received::Frame(_)));
            assert_eq!(room[0] & 1, unfinished, "{features:?}");
            if unfinished == 0 {
                with(&mut room, |room| tap.receive(room)).expect("alive");
            }
        }
    });
}

#[test]
fn what_cannot_be_had_is_explained() {
    netns::inside(|| {
        let held = Tap::open("ringlet0").expect("a tap");
        assert!(matches!(Tap::open("ringlet0"), Err(tap::Error::Busy(_))));
        drop(held);
        ip("link add veth0 type veth peer name veth1");
        let error = Tap::open("veth0").expect_err("refused");
        assert!(matches!(error, tap::Error::NotTap(_)), "{error}");
        ip("tuntap add dev tun0 mode tun");
        assert!(matches!(Tap::open("tun0"), Err(tap::Error::NotTap(_))));
        // One that the user made stays, and can be had again.
        ip("tuntap add dev tap0 mode tap");
        for _ in 0..2 {
            assert_eq!(Tap::open("tap0").expect("a tap").interface(), "tap0");
        }
    });
}

#[test]
fn an_interface_that_is_removed_is_gone_for_good() {
    netns::inside(|| {
        ip("tuntap add dev tap0 mode tap");
        let mut tap = Tap::open("tap0").expect("a tap");
        ip("link set tap0 up");
        ip("link delete tap0");
        let mut buffer = vec![0; 2000];
        let error = with(&mut buffer, |room| tap.receive(room)).expect_err("gone").to_string();
        assert!(error.contains("tap0 is gone"), "{error}");
        assert!(with(&mut buffer[..100], |frame| tap.send(frame)).is_err());
    });
}

#[test]
fn bulk_is_taken_on_by_a_thread_of_the_kernels_own() {
    netns::inside_with_sys(|| {
        const THREADED: &str = "/sys/class/net/tap0/threaded";
        let threaded =
            || std::fs::read_to_string(THREADED).expect("the kernel's switch (Linux 5.12)").trim().to_owned();
        ip("tuntap add dev tap0 mode tap");
        ip("link set tap0 up");
        let mut tap = Tap::open("tap0").expect("a tap");
        let mut fds = Vec::new();
        tap.wait_on(&mut fds);
        let mut bound: libc::c_int = 0;
        // SAFETY: the descriptor is the tap's, and TUNGETSNDBUF writes one `int`.
        assert_eq!(unsafe { libc::ioctl(fds[0], libc::TUNGETSNDBUF, &raw mut bound) }, 0);
        assert!((1 << 20..1 << 24).contains(&bound), "what waits is bounded: {bound}");
        // Of a kind that nobody takes, and as long as the interface takes them.
        let mut frame = vec![0; HEADER + 14 + 60_000];
        frame[HEADER..HEADER + 14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        let mut now = Instant::now();
        // Sends so many frames within 50 ms. Returns when the next turn is due.
        let mut run = |tap: &mut Tap, frames| {
            let until = Instant::now() + PATIENCE;
            for _ in 0..frames {
                // Later means that the kernel's thread has not got so far yet.
                while with(&mut frame, |frame| tap.send(frame)).expect("alive") == Sent::Later {
                    assert!(Instant::now() < until, "there is no more room");
                    thread::yield_now();
                }
            }
            now += Duration::from_millis(50);
            tap.turn(now).map(|due| due.saturating_duration_since(now))
        };
        let soon = Some(Duration::from_millis(50));
        for (frames, due, expected) in
            [(0, None, "0"), (100, None, "0"), (400, soon, "1"), (400, soon, "1"), (50, soon, "1"), (400, soon, "1")]
        {
            assert_eq!((run(&mut tap, frames), &threaded()[..]), (due, expected), "{frames}");
        }
        // It looks by itself, and not for ever.
        let quiet = (0..50).take_while(|_| run(&mut tap, 0) == soon).count();
        assert!((30..50).contains(&quiet), "{quiet}");
        assert_eq!(threaded(), "0", "a guest that has gone quiet needs no thread");
        for frames in [0; 50].into_iter().chain([400]) {
            run(&mut tap, frames);
        }
        assert_eq!(threaded(), "1");
        tap.rest();
        assert_eq!(threaded(), "0", "nobody uses the device");
        for frames in [0; 50].into_iter().chain([400]) {
            run(&mut tap, frames);
        }
        assert_eq!(threaded(), "1");
        assert_eq!(tap.counters().from_guest.dropped, 0);
        drop(tap);
        assert_eq!(threaded(), "0", "it is left as it was");
        // What was switched on beforehand stays so, and what is not to be touched stays as it is.
        for (beforehand, setting, under_load) in [
            ("1", Threaded::Auto, "1"),
            ("1", Threaded::Keep, "1"),
            ("0", Threaded::Keep, "0"),
            ("0", Threaded::Auto, "1"),
        ] {
            let held = Tap::open("tap0").expect("a tap");
            std::fs::write(THREADED, beforehand).expect("switched");
            drop(held);
            let mut tap = Tap::open_with(&Interface { name: "tap0".into(), threaded: setting }).expect("a tap");
            for _ in 0..4 {
                run(&mut tap, 400);
            }
            assert_eq!(threaded(), under_load, "{beforehand} {setting:?}");
            for _ in 0..50 {
                run(&mut tap, 0);
            }
            assert_eq!(threaded(), beforehand, "{setting:?}");
        }
    });
}
