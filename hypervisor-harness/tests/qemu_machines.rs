//! The same image on QEMU's machines: HTTP through the service by QEMU's user networking, and every way to end.

mod common;

use std::collections::BTreeMap;

use common::http::{get, get_bytes};
use common::ringlet::{Ringlet, run};

const PORTS: [&str; 6] =
    ["--publish", "0:10.0.0.100:80", "--publish", "0:10.0.0.2:9100", "--publish", "0:10.0.0.2:9101"];

/// Boots the demonstration and asks for pages, the metrics and the table of services.
fn balance(machine: &str, accel: &str, transport: &str) {
    let mut ringlet = Ringlet::start(&[&["qemu", "--machine", machine, "--accel", accel][..], &PORTS].concat());
    let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("it has booted");
    assert_eq!(boot["transport"], transport, "{boot}");
    let address = ringlet.host("10.0.0.100:80");
    let mut names = BTreeMap::<_, u32>::new();
    for _ in 0..30 {
        let body = get(address, "/").unwrap_or_else(|error| panic!("{machine}, {accel}: {error}"));
        *names.entry(body.split_once(' ').expect("a server's answer").0.to_owned()).or_default() += 1;
    }
    assert!(names.len() == 3 && names.values().all(|count| (5..=15).contains(count)), "{names:?}");
    let page = get_bytes(address, "/bytes/1000000").expect("much data");
    assert_eq!(page.len(), 1_000_000);
    assert!(get(ringlet.host("10.0.0.2:9100"), "/metrics").expect("metrics").contains("# TYPE"));
    ringlet.wait_for_wakeups();
    let table = ringlet.ipvsadm("-L -n");
    assert!(table.contains("10.0.0.13:80"), "{table}");
    ringlet.wait_for_status("connections", |status| status["connections"] == 31);
    assert_eq!(ringlet.interrupt(), 0);
}

#[test]
fn pc_by_translation() {
    balance("pc", "tcg", "pci");
}

#[test]
fn q35_by_translation() {
    balance("q35", "tcg", "pci");
}

#[test]
fn microvm_by_translation() {
    balance("microvm", "tcg", "mmio");
}

#[test]
fn microvm_in_kvm() {
    needs_kvm!();
    balance("microvm", "kvm", "mmio");
}

#[test]
fn faults_end_qemu_with_a_message() {
    for (kind, code, part) in [("panic", 0x11, "the guest panicked"), ("triple", 0x20, "triple fault")] {
        let arguments = ["qemu", "--accel", "tcg", "--append", &format!("crash={kind}"), "--for", "30"];
        let (status, text) = run(&[&arguments[..], &PORTS].concat());
        assert!(status == code && text.contains(part), "crash={kind}: {status}:\n{text}");
    }
}

#[test]
fn the_command_is_shown_and_can_be_had_alone() {
    let (status, text) =
        run(&["qemu", "--print", "--machine", "q35", "--accel", "tcg", "--publish", "18080:10.0.0.100:80"]);
    assert_eq!(status, 0, "{text}");
    for part in [
        "ringlet image --out ringlet.elf",
        "-a -t 10.0.0.100:80 -r 10.0.0.13:80 -m -w 1",
        "qemu-system-x86_64 \\\n  -machine q35 \\\n  -accel tcg \\\n",
        "hostfwd=tcp:127.0.0.1:18080-10.0.0.100:80",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}
