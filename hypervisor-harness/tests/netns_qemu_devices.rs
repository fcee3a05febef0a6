//! Our driver on QEMU's virtio-net, with every property that changes what moves packets, between Linux hosts in network
//! namespaces (a TAP interface, since offloads need one): each byte is checked. Needs root.
//!
//! ```text
//!   client 10.2.0.9 ---- bridge ---- server 10.1.0.11 (default route: the guest)
//!                           |
//!                     tap0, QEMU's; the guest, 10.1.0.2 and 10.2.0.2, balances 10.2.0.100
//! ```

mod common;

use std::process::Command;

use common::netns::{self, Host, ip};
use common::program::Program;
use common::ringlet::PROGRAM;
use common::scratch::Scratch;
use common::traffic;

/// Bytes each way of a connection.
const LENGTH: usize = 1_000_001;

const RULES: &str = "\
-A -t 10.2.0.100:80 -s rr
-a -t 10.2.0.100:80 -r 10.1.0.11:8080 -m -w 1
-A -t [fd10:2::100]:80 -s rr
-a -t [fd10:2::100]:80 -r [fd10:1::11]:8080 -m -w 1
-A -u 10.2.0.100:53 -s rr
-a -u 10.2.0.100:53 -r 10.1.0.11:5353 -m -w 1
";

/// Machine, properties of the device, features that must have been agreed on, and features that must not.
type Case = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("pc", "", &["csum", "guest_csum", "guest_tso4", "host_tso4", "mrg_rxbuf", "event_idx", "indirect_desc"], &["ring_packed"]),
    ("pc", "packed=on", &["ring_packed", "event_idx", "indirect_desc", "mrg_rxbuf"], &[]),
    ("pc", "packed=on,event_idx=off", &["ring_packed"], &["event_idx"]),
    ("pc", "packed=on,indirect_desc=off", &["ring_packed"], &["indirect_desc"]),
    ("pc", "packed=on,event_idx=off,indirect_desc=off,mrg_rxbuf=off", &["ring_packed"], &["event_idx", "indirect_desc", "mrg_rxbuf"]),
    ("pc", "event_idx=off", &[], &["event_idx"]),
    ("pc", "indirect_desc=off", &[], &["indirect_desc"]),
    ("pc", "event_idx=off,indirect_desc=off", &[], &["event_idx", "indirect_desc"]),
    ("pc", "mrg_rxbuf=off", &["guest_tso4"], &["mrg_rxbuf"]),
    ("pc", "packed=on,mrg_rxbuf=off", &["ring_packed", "guest_tso4"], &["mrg_rxbuf"]),
    ("pc", "csum=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,gso=off", &["guest_csum"], &["csum", "host_tso4"]),
    ("pc", "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off", &["csum", "host_tso4"], &["guest_csum", "guest_tso4"]),
    ("pc", "packed=on,csum=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,mrg_rxbuf=off",
     &["ring_packed"], &["csum", "guest_csum", "guest_tso4", "host_tso4", "mrg_rxbuf"]),
    ("pc", "host_tso4=off", &["host_tso6", "guest_tso4"], &["host_tso4"]),
    ("pc", "host_tso6=off,guest_tso6=off", &["host_tso4", "guest_tso4"], &["host_tso6", "guest_tso6"]),
    ("pc", "guest_tso4=off,packed=on", &["guest_tso6", "host_tso4"], &["guest_tso4"]),
    ("pc", "host_ecn=off,guest_ecn=off", &["host_tso4"], &["host_ecn", "guest_ecn"]),
    ("pc", "host_ufo=off,guest_ufo=off", &["host_tso4"], &["host_ufo", "guest_ufo"]),
    ("pc", "iommu_platform=on,disable-legacy=on", &["access_platform"], &[]),
    ("q35", "iommu_platform=on,ats=on,packed=on,disable-legacy=on", &["access_platform", "ring_packed"], &[]),
    ("pc", "rx_queue_size=1024", &[], &[]),
    ("pc", "rx_queue_size=1024,packed=on", &["ring_packed"], &[]),
    ("pc", "queue_reset=off,packed=on", &["ring_packed"], &["ring_reset"]),
    ("pc", "page-per-vq=on,packed=on", &["ring_packed"], &[]),
    ("pc", "ioeventfd=off", &[], &[]),
    ("pc", "status=off,ctrl_vq=off,ctrl_rx=off,ctrl_vlan=off,ctrl_guest_offloads=off,ctrl_mac_addr=off,guest_announce=off", &[], &["status"]),
    ("pc", "guest_rsc_ext=on", &[], &[]),
    ("microvm", "packed=on", &["ring_packed"], &[]),
    ("microvm", "packed=on,event_idx=off,mrg_rxbuf=off", &["ring_packed"], &["event_idx", "mrg_rxbuf"]),
    // The last one: the hosts remember how small it was.
    ("pc", "host_mtu=1400", &["mtu"], &[]),
];

/// The two hosts, on a bridge that QEMU's tap has joined.
fn hosts() -> [Host; 2] {
    ip("link add bridge0 type bridge");
    ip("link set bridge0 up");
    ip("tuntap add dev tap0 mode tap vnet_hdr");
    ip("link set tap0 master bridge0 up");
    let host = |name: &str, addresses: [&str; 2]| {
        let host = Host::new();
        let inner = format!("in-{name}");
        ip(&format!("link add {name} type veth peer name {inner}"));
        host.adopt(&inner);
        ip(&format!("link set {name} master bridge0 up"));
        host.ip("link set lo up");
        host.ip(&format!("link set {inner} name eth0"));
        host.ip(&format!("address add {} dev eth0", addresses[0]));
        // No waiting for somebody else to claim the address: nobody is there.
        host.ip(&format!("address add {} dev eth0 nodad", addresses[1]));
        host.ip("link set eth0 up");
        host
    };
    let client = host("client", ["10.2.0.9/24", "fd10:2::9/64"]);
    let server = host("server", ["10.1.0.11/24", "fd10:1::11/64"]);
    server.ip("route add default via 10.1.0.2");
    server.ip("route add default via fd10:1::2");
    [client, server]
}

/// The guest, in QEMU by translation.
fn guest(scratch: &Scratch, machine: &str, device: &str) -> Program {
    let (machine, nic) = match machine {
        "microvm" => ("microvm,acpi=off", "virtio-net-device"),
        other => (other, "virtio-net-pci,romfile="),
    };
    let comma = if device.is_empty() { "" } else { "," };
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", machine, "-accel", "tcg", "-cpu", "max", "-m", "128"]);
    command.args("-nodefaults -no-reboot -display none -vga none -serial stdio".split(' '));
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-kernel", &scratch.file("ringlet.elf"), "-initrd", &scratch.file("rules")]);
    command.args(["-append", "ip=10.1.0.2/24 ip=10.2.0.2/24 ip=fd10:1::2/64 ip=fd10:2::2/64"]);
    command.args(["-netdev", "tap,id=net0,ifname=tap0,script=no,downscript=no"]);
    command.args(["-device", &format!("{nic},netdev=net0{comma}{device}")]);
    Program::start(&mut command)
}

#[test]
fn each_property_of_qemus_device_is_driven_right() {
    let scratch = Scratch::new("qemu-devices");
    let status = Command::new(PROGRAM).args(["image", "--out", &scratch.file("ringlet.elf")]).status();
    assert!(status.expect("it starts").success());
    std::fs::write(scratch.file("rules"), RULES).expect("written");
    netns::inside(|| {
        let [client, server] = hosts();
        traffic::serve("server", &server, 8080, 5353);
        let expected = traffic::bytes(LENGTH);
        for (machine, device, with, without) in CASES {
            let case = format!("{machine} {device}");
            // Shown if it fails.
            println!("{case}");
            let mut guest = guest(&scratch, machine, device);
            let line = guest.wait_for("agreed on");
            let agreed: Vec<_> = line.rsplit(' ').next().expect("a word").split(',').collect();
            with.iter().for_each(|name| assert!(agreed.contains(name), "{case}: no {name} in {line}"));
            without.iter().for_each(|name| assert!(!agreed.contains(name), "{case}: {name} in {line}"));
            guest.wait_for("ready after");
            for address in ["10.2.0.100:80", "[fd10:2::100]:80"] {
                assert_eq!(traffic::converse(&client, address, &expected), "server", "{case}");
            }
            let most = if device.contains("host_mtu") { 1372 } else { 1472 };
            for length in [1, 18, 1000, most] {
                traffic::echo(&client, "10.2.0.100:53", &expected[..length]);
            }
            for host in [&client, &server] {
                assert_eq!(host.inside(netns::checksum_errors), 0, "{case}");
            }
        }
    });
}
