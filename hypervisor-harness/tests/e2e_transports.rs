//! What is between the driver and the device: the features that the device offers, and the ways on which they reach each
//! other.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::ringlet::{PATIENCE, Ringlet};
use ringlet::backend;
use ringlet::image;
use ringlet::virtio::{self, Transport};
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;
use ringlet::vmm::{Machine, layout};

#[test]
fn the_device_offers_what_it_is_told_to() {
    needs_kvm!();
    let run = |flags: &[&str]| {
        let ringlet = Ringlet::start(&[&["--publish", "0:10.0.0.100:80"], flags].concat());
        let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("a boot record");
        let (names, size) = (boot["feature_names"].to_string(), boot["queue_size"].clone());
        // And it works with that.
        let reply = common::http::get(ringlet.host("10.0.0.100:80"), "/").expect("a reply");
        assert!(reply.contains("10.0.0.1"), "{reply}");
        assert_eq!(ringlet.interrupt(), 0);
        (names, size)
    };
    let (all, size) = run(&[]);
    assert!(all.contains("mrg_rxbuf") && size == 1024, "{all}, {size}");
    let (fewer, _) = run(&["--device-features", "-mrg_rxbuf,-event_idx"]);
    assert!(!fewer.contains("mrg_rxbuf") && !fewer.contains("event_idx") && fewer.contains("csum"), "{fewer}");
    let (bare, size) = run(&["--device-features", "-all,+mac", "--queue-size", "100", "--transport", "pci"]);
    assert_eq!(size, 64, "a split ring has a power of two");
    assert!(bare.contains("version_1") && !bare.contains("csum"), "{bare}");
}

/// Bytes of an MSI-X entry, and its word that masks.
const ENTRY: u64 = 16;
const CONTROL: u64 = 12;
/// The vector of the receive queue, as our driver has it.
const RECEIVE: u64 = 1;

#[test]
fn a_vector_is_masked_and_unmasked_under_load() {
    needs_kvm!();
    const ROUNDS: usize = 100;
    let publish = vec!["0:10.0.0.2:9100".parse().unwrap()];
    let network = backend::open(&backend::Options { publish, ..Default::default() }).unwrap();
    let lan = network.lan.expect("lan has a handle");
    let mut machine = Machine::new(64).unwrap();
    let report = Box::new(|line: &str| panic!("{line}"));
    let options = virtio::Options { transport: Transport::Pci, ..virtio::Options::new(report) };
    let device = virtio::attach(&mut machine, network.backend, options).unwrap();
    // We reach the bus as the guest does: this test writes what another driver could.
    let pci = machine.pci().expect("a bus").clone();
    let (sender, said) = mpsc::channel();
    let start = Start {
        image: image::EMBEDDED.into(),
        command_line: "ip=10.0.0.2/24 gateway=10.0.0.1 console=ringlet status=60000 idle_spin=0".into(),
        module: None,
        said: Box::new(move |said| drop(sender.send(said))),
        ended: Box::new(|_| ()),
    };
    let running = machine.start(start).unwrap();
    while !matches!(said.recv_timeout(PATIENCE).expect("it boots"), Said::Record(Record::Ready(_))) {}

    assert_eq!(pci.lock().by_ports(), 0, "the guest has found configuration space in memory");
    let config = |register: u64| {
        let mut word = [0; 4];
        pci.ecam().read(1 << 15 | register, &mut word);
        u32::from_le_bytes(word)
    };
    assert_eq!(config(0), 0x1041_1af4);
    let bar = u64::from(config(0x10) & !0xf) - layout::PCI_WINDOW.start;
    let list = std::iter::successors(Some(config(0x34) & 0xff), |at| Some(config((*at).into()) >> 8 & 0xff));
    let msix = u64::from(list.take(48).find(|at| config((*at).into()) & 0xff == 0x11).expect("MSI-X"));
    let (table, pending) = (bar + u64::from(config(msix + 4) & !7), bar + u64::from(config(msix + 8) & !7));
    let mask = |mask: u32| pci.window().write(table + ENTRY * RECEIVE + CONTROL, &mask.to_le_bytes());
    let is_pending = || {
        let mut bits = [0; 8];
        pci.window().read(pending, &mut bits);
        bits[0] >> RECEIVE & 1 == 1
    };
    let metrics = lan.published()[0].host;
    let wakeups = || -> u64 {
        let text = common::http::get(metrics, "/metrics").expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix("ringlet_wakeups_total "));
        line.expect("a counter").parse().expect("a number")
    };
    let before = wakeups();
    let (over, seen_pending) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let answer = lan.ping("10.0.0.2".parse().unwrap(), Duration::from_secs(10));
                assert!(answer.is_ok(), "an interrupt was lost: {answer:?}");
            }
            over.store(true, Ordering::SeqCst);
        });
        let until = Instant::now() + PATIENCE;
        while !over.load(Ordering::SeqCst) {
            assert!(Instant::now() < until, "the pings do not end");
            mask(1);
            // Until one is held back by the mask, or something else has woken the guest.
            if (0..2000).any(|_| is_pending()) {
                seen_pending.store(true, Ordering::SeqCst);
            }
            mask(0);
            assert!(!is_pending());
        }
    });
    assert!(seen_pending.load(Ordering::SeqCst), "no interrupt met the mask");
    assert!(wakeups() > before + 3, "no interrupt came through");
    let counters = device.counters();
    assert_eq!((counters.misuses, counters.faults), (0, 0), "{counters:?}");
    running.stop();
    assert_eq!(running.join().exit_code(), 0);
    device.stop();
    device.join();
}
