//! Our device under dpdk's driver (the virtio-user PMD, in dpdk-testpmd), through `ringlet vhost-user-backend` on a TAP
//! interface: frames that Linux sends come back from dpdk, byte for byte. Needs root.

mod common;

use std::path::Path;
use std::time::Duration;

use common::netns::{self, ip};
use common::packets::{PROTOCOL, Packets};
use common::ringlet::Ringlet;
use common::testpmd::{Directory, Testpmd, is_there};

/// The usual MTU, and the greatest that is in use on Ethernet, in bytes of IP packet.
const MTU: usize = 1500;
const JUMBO: usize = 9000;
/// Frames that are on their way at a time, and how often.
const WINDOW: usize = 32;
const ROUNDS: usize = 20;

/// dpdk's driver on a vhost-user socket, which sends back whatever it receives. `driver` are further arguments of the
/// virtual device, `more` are testpmd's.
fn testpmd(directory: &Directory, socket: &str, driver: &str, more: &[&str]) -> Testpmd {
    let device = format!("net_virtio_user0,path={socket},queues=1,mac=02:00:00:00:00:01{driver}");
    let mut testpmd = Testpmd::start(directory, &[&device], &[&["--port-topology=loop"], more].concat());
    // Not before: frames that come while its driver begins are lost. It throws away whatever it finds.
    testpmd.forward();
    testpmd
}

/// A tap of this MTU, and a backend on it.
fn backend(directory: &Directory, mtu: usize, more: &[&str]) -> (Ringlet, String) {
    ip("link set lo up");
    ip("tuntap add dev tap0 mode tap");
    ip(&format!("link set tap0 mtu {mtu}"));
    std::fs::write("/proc/sys/net/ipv6/conf/tap0/disable_ipv6", "1").expect("Linux has nothing to say of its own");
    ip("link set tap0 up");
    let socket = directory.path("socket");
    let arguments = [&["vhost-user-backend", "--socket", &socket, "--net", "tap=tap0"][..], more].concat();
    let mut ringlet = Ringlet::begin(&arguments);
    ringlet.wait("start");
    (ringlet, socket)
}

/// Frames of all lengths up to the greatest, and of any content, come back as they went, in their order.
fn exchange(packets: &Packets, mtu: usize, seed: u64) {
    let longest = mtu + 14;
    let mut state = seed * 2 + 1;
    let mut next = || {
        // Knuth's generator (MMIX), of which the upper half is good enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for round in 0..ROUNDS {
        let frames: Vec<Vec<u8>> = (0..WINDOW)
            .map(|nth| {
                // The longest one is there in any case.
                let length = if nth == 0 { longest } else { 60 + next() % (longest - 59) };
                let mut frame: Vec<_> = (0..length).map(|_| next() as u8).collect();
                frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
                frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
                frame[12..14].copy_from_slice(&PROTOCOL.to_be_bytes());
                frame
            })
            .collect();
        frames.iter().for_each(|frame| packets.send(frame));
        for (nth, frame) in frames.iter().enumerate() {
            let back = packets.receive().unwrap_or_else(|| panic!("round {round}: frame {nth} never came back"));
            assert!(back == *frame, "round {round}: frame {nth} has changed: {} and {} bytes", frame.len(), back.len());
        }
    }
}

/// The names of what was negotiated.
fn agreed(ringlet: &mut Ringlet) -> Vec<String> {
    let started = ringlet.wait("started");
    started["feature_names"].as_array().expect("names").iter().map(|name| name.as_str().expect("text").into()).collect()
}

/// Frames come back over every kind of ring. `arguments` are testpmd's, with mergeable buffers or without.
fn over_every_kind_of_ring(mtu: usize, arguments: impl Fn(bool) -> &'static [&'static str]) {
    let directory = Directory::new();
    let (mut ringlet, socket) = backend(&directory, mtu, &[]);
    let packets = Packets::open("tap0", Duration::from_secs(60));
    let mut count = 0;
    for packed in [false, true] {
        for in_order in [false, true] {
            for mergeable in [false, true] {
                let [packed_vq, in_order_flag, mrg_rxbuf] = [packed, in_order, mergeable].map(u8::from);
                let driver = format!(",packed_vq={packed_vq},in_order={in_order_flag},mrg_rxbuf={mrg_rxbuf}");
                let testpmd = testpmd(&directory, &socket, &driver, arguments(mergeable));
                let agreed = agreed(&mut ringlet);
                for (name, wanted) in [("ring_packed", packed), ("in_order", in_order), ("mrg_rxbuf", mergeable)] {
                    assert_eq!(agreed.iter().any(|other| other == name), wanted, "{driver}: {agreed:?}");
                }
                exchange(&packets, mtu, count);
                testpmd.quit();
                assert!(ringlet.wait("gone")["fault"].is_null());
                count += 1;
            }
        }
    }
    let total = count * (WINDOW * ROUNDS) as u64;
    ringlet.wait_for_status("frames", |status| status["tx_packets"] == total && status["rx_packets"] == total);
    assert_eq!(ringlet.interrupt(), 0);
    assert!(!Path::new(&socket).exists(), "the socket is removed");
}

#[test]
fn frames_come_back_from_dpdk_over_every_kind_of_ring() {
    if !is_there() {
        return;
    }
    netns::inside(|| over_every_kind_of_ring(MTU, |_| &[]));
}

/// A frame lies in up to five of dpdk's usual buffers of 2 KiB, or, where they cannot be merged, in one that is large enough.
#[test]
fn jumbo_frames_come_back_from_dpdk_over_every_kind_of_ring() {
    if !is_there() {
        return;
    }
    let arguments = |mergeable: bool| -> &[&str] {
        if mergeable {
            &["--max-pkt-len=9018", "--enable-scatter"]
        } else {
            &["--max-pkt-len=9018", "--mbuf-size=9600"]
        }
    };
    netns::inside(|| over_every_kind_of_ring(JUMBO, arguments));
}

#[test]
fn dpdk_may_be_the_one_that_listens() {
    if !is_there() {
        return;
    }
    netns::inside(|| {
        let directory = Directory::new();
        let (mut ringlet, socket) = backend(&directory, MTU, &["--client"]);
        let packets = Packets::open("tap0", Duration::from_secs(60));
        for seed in 0..2 {
            let testpmd = testpmd(&directory, &socket, ",server=1,packed_vq=1", &[]);
            agreed(&mut ringlet);
            exchange(&packets, MTU, seed);
            drop(testpmd);
            assert!(ringlet.wait("gone")["fault"].is_null());
            // Killed, it leaves its socket there, and cannot make another one.
            let _ = std::fs::remove_file(&socket);
        }
        assert_eq!(ringlet.interrupt(), 0);
    });
}
