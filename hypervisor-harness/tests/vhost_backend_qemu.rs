//! Our device under our own driver, in QEMU (`-netdev vhost-user`): HTTP through the balancer and the network `lan` behind
//! `ringlet vhost-user-backend`, over split and packed rings, one guest after the other, and with QEMU as the one that listens.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use common::http::{get, get_bytes};
use common::program::Program;
use common::ringlet::{PROGRAM, Ringlet};
use common::rules::service;
use common::scratch::Scratch;

/// A guest of QEMU's on a socket. `chardev` are further properties of the socket, `device` of the network device.
fn guest(scratch: &Scratch, machine: &str, chardev: &str, device: &str) -> Program {
    let (image, rules) = (scratch.file("ringlet.elf"), scratch.file("rules"));
    let status = Command::new(PROGRAM).args(["image", "--out", &image]).status().expect("it starts");
    assert!(status.success());
    std::fs::write(&rules, service("-t", "10.0.0.100:80", 80, "rr")).expect("written");
    let (accel, cpu) = if !common::emulated() { ("kvm", "host,-arch-capabilities") } else { ("tcg", "max") };
    let (options, nic) = match machine {
        "microvm" => ("microvm,acpi=off", "virtio-net-device"),
        _ => ("q35", "virtio-net-pci,disable-legacy=on,romfile="),
    };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", &format!("{options},memory-backend=ram"), "-accel", accel, "-cpu", cpu, "-m", "128"]);
    command.args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"]);
    command.args("-nodefaults -no-reboot -display none -vga none -serial stdio".split(' '));
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", &image, "-initrd", &rules]);
    command.args(["-append", "ip=10.0.0.2/24 ip=fd00::2/64 gateway=10.0.0.1"]);
    command.args(["-chardev", &format!("socket,id=net,path={}{chardev}", scratch.file("socket"))]);
    command.args(["-netdev", "vhost-user,id=net0,chardev=net", "-device", &format!("{nic},netdev=net0{device}")]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    Program::start(&mut command)
}

/// A backend on `lan`, from which the guest's service can be reached.
fn backend(scratch: &Scratch, more: &[&str]) -> Ringlet {
    let socket = scratch.file("socket");
    let arguments = ["vhost-user-backend", "--socket", &socket, "--publish", "0:10.0.0.100:80"];
    let mut ringlet = Ringlet::begin(&[&arguments[..], more].concat());
    ringlet.wait("start");
    ringlet
}

/// Asks for pages through the balancer, small ones and a large one.
fn balance(ringlet: &Ringlet, case: &str) {
    let address = ringlet.host("10.0.0.100:80");
    let mut names = BTreeMap::<_, u32>::new();
    for _ in 0..30 {
        let body = get(address, "/").unwrap_or_else(|error| panic!("{case}: {error}"));
        *names.entry(body.split_once(' ').expect("a server's answer").0.to_owned()).or_default() += 1;
    }
    assert!(names.len() == 3 && names.values().all(|count| *count == 10), "{case}: {names:?}");
    let page = get_bytes(address, "/bytes/1000000").unwrap_or_else(|error| panic!("{case}: {error}"));
    let mut expected = vec![0; 1_000_000];
    ringlet::backend::lan::http::pattern(0, &mut expected);
    assert!(page == expected, "{case}: the pattern is broken");
}

#[test]
fn http_goes_through_our_device_in_qemu_with_each_ring() {
    let scratch = Scratch::new("vhost-qemu");
    let mut ringlet = backend(&scratch, &[]);
    // QEMU 7.2 without KVM crashes where a vhost-user device has MSI-X.
    let machines = if common::emulated() { &["microvm"][..] } else { &["microvm", "q35"] };
    for machine in machines {
        for device in ["", ",packed=on", ",packed=on,event_idx=off,indirect_desc=off,mrg_rxbuf=off", ",event_idx=off"] {
            let case = format!("{machine}{device}");
            let mut guest = guest(&scratch, machine, "", device);
            guest.wait_for("ready after");
            let started = ringlet.wait("started");
            let has =
                |name: &str| started["feature_names"].as_array().expect("names").iter().any(|other| other == name);
            assert_eq!(has("ring_packed"), device.contains("packed=on"), "{case}: {started}");
            assert_eq!(has("event_idx"), !device.contains("event_idx=off"), "{case}: {started}");
            balance(&ringlet, &case);
            drop(guest);
            let gone = ringlet.wait("gone");
            assert!(gone["fault"].is_null(), "{case}: {gone}");
        }
    }
    assert_eq!(ringlet.interrupt(), 0);
    assert!(!Path::new(&scratch.file("socket")).exists(), "the socket is removed");
}

#[test]
fn qemu_may_be_the_one_that_listens() {
    let scratch = Scratch::new("vhost-server");
    let mut ringlet = backend(&scratch, &["--client"]);
    for device in ["", ",packed=on"] {
        let mut guest = guest(&scratch, "microvm", ",server=on", device);
        guest.wait_for("ready after");
        ringlet.wait("started");
        balance(&ringlet, device);
        drop(guest);
        assert!(ringlet.wait("gone")["fault"].is_null());
    }
    assert_eq!(ringlet.interrupt(), 0);
}

#[test]
fn a_backend_that_ends_and_comes_back_is_found_again_by_qemu() {
    let scratch = Scratch::new("vhost-again");
    let mut ringlet = backend(&scratch, &[]);
    let mut guest = guest(&scratch, "microvm", ",reconnect=1", "");
    guest.wait_for("ready after");
    ringlet.wait("started");
    balance(&ringlet, "before");
    assert_eq!(ringlet.interrupt(), 0);
    guest.wait_for("the link is down");
    let mut ringlet = backend(&scratch, &[]);
    ringlet.wait("started");
    guest.wait_for("the link is up");
    balance(&ringlet, "after");
    assert_eq!(ringlet.interrupt(), 0);
}
