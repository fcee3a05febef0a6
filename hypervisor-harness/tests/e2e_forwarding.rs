//! The image forwards a generator's load by NAT, to the last byte, over every device that it may meet.

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringlet::backend::generator::{Generator, Load, Tally};
use ringlet::backend::options::Protocol;
use ringlet::image;
use ringlet::virtio::{self, Counters, Transport};
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;
use ringlet::vmm::{Machine, Outcome};
use ringlet_driver::features::Features;

/// Frames that must have been looked at to the last byte.
const VERIFIED: u64 = 20;
/// Longer than any of this takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Boots the image on a device without some features, and loads it until enough frames came back.
fn forward(load: Load, without: Features, transport: Transport) -> (Tally, Counters, Features) {
    let flag = if load.protocol == Protocol::Tcp { "-t" } else { "-u" };
    let mut rules = format!("-A {flag} {} -s rr\n", load.service);
    load.servers.iter().for_each(|server| rules += &format!("-a {flag} {} -r {server} -m -w 1\n", load.service));
    let (generator, meter) = Generator::new(load).unwrap();
    let mut machine = Machine::new(64).unwrap();
    let report = Box::new(|line: &str| panic!("{line}"));
    let options = virtio::Options { transport, mask: Features::all() - without, ..virtio::Options::new(report) };
    let device = virtio::attach(&mut machine, generator, options).unwrap();
    let (sender, said) = mpsc::channel();
    let words = device.command_line();
    let start = Start {
        image: image::EMBEDDED.into(),
        command_line: format!("ip=10.0.0.2/24 gateway=10.0.0.1 {words} console=ringlet status=60000 connections=4096"),
        module: Some(rules.into_bytes()),
        said: Box::new(move |said| drop(sender.send(said))),
        ended: Box::new(|_| ()),
    };
    let running = machine.start(start).unwrap();
    let mut lines = Vec::new();
    loop {
        match said.recv_timeout(PATIENCE) {
            Ok(Said::Record(Record::Ready(ready))) => {
                assert_eq!((ready.services, ready.destinations, ready.rules_failed), (1, 3, 0));
                break;
            }
            Ok(Said::Record(_)) => {}
            Ok(Said::Line(line) | Said::Complaint(line)) => lines.push(line),
            Err(_) => panic!("the guest is not up: {lines:#?}"),
        }
    }
    meter.start();
    let until = Instant::now() + PATIENCE;
    while meter.tally().verified < VERIFIED && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (tally, negotiated) = (meter.tally(), device.negotiated());
    running.stop();
    assert!(matches!(running.join(), Outcome::Stopped));
    device.stop();
    (tally, device.join(), negotiated)
}

/// What must hold of every run.
fn check(tally: &Tally, counters: &Counters) {
    assert!(tally.verified >= VERIFIED, "{tally:?}");
    assert_eq!(tally.wrong, 0, "{tally:?}");
    assert!(tally.answered >= 3, "each server was asked for: {tally:?}");
    assert_eq!((counters.faults, counters.from_guest.dropped, counters.to_guest.dropped), (0, 0, 0), "{counters:?}");
    // Status bits are only added, queues placed once, nothing accessed that does not exist.
    assert_eq!(counters.misuses, 0, "{counters:?}");
}

const TRANSPORTS: [Transport; 2] = [Transport::Mmio, Transport::Pci];
const CHECKSUM: Features = Features::CSUM.union(Features::GUEST_CSUM);

#[test]
fn every_feature_can_be_missing() {
    needs_kvm!();
    let load = || Load { flows: 50, offloads: CHECKSUM, ..Load::default() };
    // Without MAC the guest takes an address of its own choice, which the generator does not know.
    let bare = Features::all() - Features::VERSION_1 - Features::MAC;
    let mut masks = vec![Features::empty(), bare];
    masks.extend([Features::EVENT_IDX, Features::INDIRECT_DESC, Features::MRG_RXBUF, Features::CSUM]);
    masks.extend([Features::GUEST_CSUM, Features::MTU, Features::STATUS]);
    for (without, transport) in masks.into_iter().flat_map(|mask| TRANSPORTS.map(|transport| (mask, transport))) {
        let (tally, counters, negotiated) = forward(load(), without, transport);
        check(&tally, &counters);
        assert!(!negotiated.intersects(without), "{negotiated}");
        let all = Features::VERSION_1 | Features::EVENT_IDX | Features::MRG_RXBUF | Features::GUEST_CSUM;
        assert!(negotiated.contains(all - without), "{negotiated}");
    }
}

#[test]
fn frames_of_every_size_and_kind() {
    needs_kvm!();
    for (protocol, frame) in [(Protocol::Udp, 61), (Protocol::Udp, 1514), (Protocol::Tcp, 60), (Protocol::Tcp, 1513)] {
        for (offloads, transport) in [Features::empty(), CHECKSUM].into_iter().zip(TRANSPORTS) {
            let load = Load { protocol, frame, offloads, flows: 200, ..Load::default() };
            let (tally, counters, _) = forward(load, Features::empty(), transport);
            check(&tally, &counters);
        }
    }
}
