//! ICMP echo: the guest's own addresses and its services' answer; what is no address of its does not.

mod common;

use std::sync::mpsc;
use std::time::Duration;

use common::ringlet::PATIENCE;
use common::rules::service;
use ringlet::backend;
use ringlet::image;
use ringlet::virtio;
use ringlet::vmm::Machine;
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;

#[test]
fn addresses_and_services_answer() {
    needs_kvm!();
    let network = backend::open(&backend::Options::default()).unwrap();
    let lan = network.lan.expect("lan has a handle");
    let mut machine = Machine::new(64).unwrap();
    let report = Box::new(|line: &str| eprintln!("{line}"));
    let device = virtio::attach(&mut machine, network.backend, virtio::Options::new(report)).unwrap();
    let (sender, said) = mpsc::channel();
    let rules = service("-t", "10.0.0.100:80", 80, "rr") + &service("-t", "[fd00::100]:80", 80, "rr");
    let start = Start {
        image: image::EMBEDDED.into(),
        command_line: format!(
            "ip=10.0.0.2/24 ip=fd00::2/64 gateway=10.0.0.1 gateway=fd00::1 {} console=ringlet status=60000",
            device.command_line()
        ),
        module: Some(rules.into_bytes()),
        said: Box::new(move |said| drop(sender.send(said))),
        ended: Box::new(|_| ()),
    };
    let running = machine.start(start).unwrap();
    while !matches!(said.recv_timeout(PATIENCE).expect("it boots"), Said::Record(Record::Ready(_))) {}
    for address in ["10.0.0.2", "10.0.0.100", "fd00::2", "fd00::100"] {
        let time = lan.ping(address.parse().unwrap(), Duration::from_secs(10));
        assert!(time.is_ok(), "{address}: {time:?}");
    }
    assert!(lan.ping("10.0.0.99".parse().unwrap(), Duration::from_millis(300)).is_err());
    assert_eq!(lan.statistics().bad_checksums, 0);
    running.stop();
    let outcome = running.join();
    assert_eq!(outcome.exit_code(), 0, "{outcome}");
    device.stop();
    device.join();
}
