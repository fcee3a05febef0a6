//! What is between the driver and the device: the features that the device offers, and the ways on which they reach each
//! other.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::msix::Vector;
use common::ringlet::{PATIENCE, Ringlet};
use ringlet::backend;
use ringlet::image;
use ringlet::virtio::{self, Transport};
use ringlet::vmm::Machine;
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;

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
    let vector = Vector::of(&machine);
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

    let metrics = lan.published()[0].host;
    let wakeups = || common::ringlet::wakeups(metrics);
    let before = wakeups();
    vector.is_masked_and_unmasked_during(|| {
        for _ in 0..ROUNDS {
            let answer = lan.ping("10.0.0.2".parse().unwrap(), Duration::from_secs(10));
            assert!(answer.is_ok(), "an interrupt was lost: {answer:?}");
        }
    });
    assert!(wakeups() > before + 3, "no interrupt came through");
    let counters = device.counters();
    assert_eq!((counters.misuses, counters.faults), (0, 0), "{counters:?}");
    running.stop();
    assert_eq!(running.join().exit_code(), 0);
    device.stop();
    device.join();
}
