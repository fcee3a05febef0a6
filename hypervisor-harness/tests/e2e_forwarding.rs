//! The image forwards a generator's load by NAT, to the last byte, over every device that it may meet.

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use ringlet::backend::OFFLOADS;
use ringlet::backend::coalesce::Coalesce;
use ringlet::backend::generator::{Generator, Large, Load, Tally};
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
    forward_coalesced(load, without, transport, false)
}

/// The same on a device that may put segments together.
fn forward_coalesced(
    load: Load,
    without: Features,
    transport: Transport,
    coalesce: bool,
) -> (Tally, Counters, Features) {
    let flag = if load.protocol == Protocol::Tcp { "-t" } else { "-u" };
    let mut rules = format!("-A {flag} {} -s rr\n", load.service);
    load.servers.iter().for_each(|server| rules += &format!("-a {flag} {} -r {server} -m -w 1\n", load.service));
    let (generator, meter) = Generator::new(load).unwrap();
    let mut machine = Machine::new(64).unwrap();
    let report = Box::new(|line: &str| panic!("{line}"));
    let options = virtio::Options { transport, mask: Features::all() - without, ..virtio::Options::new(report) };
    let device = virtio::attach(&mut machine, Coalesce::new(generator, coalesce), options).unwrap();
    let (sender, said) = mpsc::channel();
    let words = device.command_line();
    let start = Start {
        image: image::EMBEDDED.into(),
        command_line: format!(
            "ip=10.0.0.2/24 gateway=10.0.0.1 ip=fd00::2/64 gateway=fd00::1 {words} console=ringlet status=60000 connections=4096"
        ),
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

/// All that the generator can do.
const EVERYTHING: Features = OFFLOADS.difference(Features::RSC_EXT);

/// What the device may send to the guest, and what the guest may send to the device, for one kind of super-frame.
struct Kind {
    load: Load,
    guest: Features,
    host: Features,
}

fn kinds() -> Vec<Kind> {
    let load = |protocol| Load { protocol, flows: 20, offloads: EVERYTHING, ..Load::default() };
    let (tcp, udp) = (load(Protocol::Tcp), load(Protocol::Udp));
    let fragments = |load: Load| Load { frame: 60_000, large: Some(Large::Fragments(1440)), ..load };
    let ecn = Features::GUEST_ECN | Features::GUEST_TSO4;
    let ufo = (Features::GUEST_UFO, Features::HOST_UFO);
    [
        (tcp.clone().large(), Features::GUEST_TSO4, Features::HOST_TSO4),
        (tcp.clone().over_ipv6().large(), Features::GUEST_TSO6, Features::HOST_TSO6),
        (Load { ecn: true, ..tcp.large() }, ecn, Features::HOST_ECN),
        (udp.clone().large(), Features::GUEST_USO4, Features::HOST_USO),
        (udp.clone().over_ipv6().large(), Features::GUEST_USO6, Features::HOST_USO),
        (fragments(udp.clone()), ufo.0, ufo.1),
        (fragments(udp.over_ipv6()), ufo.0, ufo.1),
    ]
    .map(|(load, guest, host)| Kind { load, guest, host })
    .into()
}

#[test]
fn super_frames_go_through_whole_or_in_pieces_as_both_sides_have_agreed() {
    needs_kvm!();
    for Kind { load, guest, host } in kinds() {
        let whole = Features::CSUM | Features::GUEST_CSUM | guest | host;
        let fragments = matches!(load.large, Some(Large::Fragments(_)));
        // What the device does not take, the guest has to cut; what the guest does not take, the network has; and without
        // checksums, nobody sends anything large.
        for without in [Features::empty(), host, guest, Features::CSUM, Features::GUEST_CSUM, Features::MRG_RXBUF] {
            if fragments && without.intersects(guest | Features::GUEST_CSUM) {
                continue;
            }
            let (tally, counters, negotiated) = forward(load.clone(), without, Transport::Mmio);
            check(&tally, &counters);
            assert!(negotiated.contains((whole - without).without_unmet()), "{negotiated} without {without}");
            let mean = |bytes: u64, frames: u64| bytes / frames.max(1);
            let (sent, back) = (mean(tally.offered_bytes, tally.offered), mean(tally.forwarded_bytes, tally.forwarded));
            assert_eq!(
                sent > 1500,
                negotiated.contains(Features::GUEST_CSUM | guest),
                "{sent} bytes a frame to the guest"
            );
            let large = sent > 1500 && negotiated.contains(Features::CSUM | host);
            assert_eq!(back > 1500, large, "{back} bytes a frame back, without {without}");
        }
    }
}

#[test]
fn segments_that_the_device_puts_together_are_forwarded() {
    needs_kvm!();
    let load = Load { protocol: Protocol::Tcp, frame: 1514, flows: 4, offloads: EVERYTHING, ..Load::default() };
    for (load, tso) in [(load.clone(), Features::HOST_TSO4), (load.over_ipv6(), Features::HOST_TSO6)] {
        // With counts, without them, and cut again by the guest.
        for without in [Features::empty(), Features::RSC_EXT, tso] {
            let (tally, counters, negotiated) = forward_coalesced(load.clone(), without, Transport::Pci, true);
            check(&tally, &counters);
            assert_eq!(negotiated.contains(Features::RSC_EXT), !without.contains(Features::RSC_EXT), "{negotiated}");
            let mean = counters.to_guest.bytes / counters.to_guest.frames;
            assert!(mean > 3000, "{mean} bytes a frame to the guest: {negotiated}");
            let back = tally.forwarded_bytes / tally.forwarded;
            assert_eq!(back > 1500, !without.contains(tso), "{back} bytes a frame back, without {without}");
        }
    }
}
