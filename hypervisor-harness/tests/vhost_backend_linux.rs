//! Our device under Linux's driver (Debian's cloud kernel, in QEMU by translation), through `ringlet vhost-user-backend` on a
//! TAP interface: iperf3 both ways, and files compared byte for byte, with each kind of ring and with and without offloads.
//! Needs root.

mod common;

use std::io::{BufWriter, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use common::linux::Linux;
use common::netns::{self, ip};
use common::program::Program;
use common::ringlet::Ringlet;
use common::scratch::Scratch;
use serde_json::Value;

/// Lines of the file that goes both ways: `seq 1 LINES`, about 7 MB.
const LINES: u32 = 1_000_000;

/// What Linux does in the guest. The last line of each part begins with `LINUX:`.
const SCRIPT: &str = "\
ip address add 192.0.2.2/24 dev eth0
ip link set eth0 up
echo LINUX: features $(cat /sys/class/net/eth0/device/features)
for way in '' -R; do
  echo LINUX: iperf begins
  iperf3 -c 192.0.2.1 -t 2 -J $way
  echo LINUX: iperf ends
done
echo LINUX: iperf begins
iperf3 -c 192.0.2.1 -u -b 20M -t 1 -J
echo LINUX: iperf ends
seq 1 1000000 > /tmp/file
nc 192.0.2.1 7001 < /dev/null > /tmp/copy
cmp /tmp/file /tmp/copy && echo LINUX: received
nc 192.0.2.1 7002 < /tmp/file && echo LINUX: sent
echo LINUX: checksums $(grep -E '^(Tcp|Udp): [0-9]' /proc/net/snmp | tr '\\n' '|')
";

/// The file, as a host makes it.
fn lines() -> Vec<u8> {
    let mut out = BufWriter::new(Vec::new());
    for line in 1..=LINES {
        writeln!(out, "{line}").expect("into memory");
    }
    out.into_inner().expect("into memory")
}

/// The two servers of the file: one gives it, the other wants it.
fn serve() -> thread::JoinHandle<bool> {
    let giver = TcpListener::bind("192.0.2.1:7001").expect("bound");
    let taker = TcpListener::bind("192.0.2.1:7002").expect("bound");
    thread::spawn(move || {
        let expected = lines();
        let (mut stream, _) = giver.accept().expect("a client");
        stream.write_all(&expected).expect("given");
        drop(stream);
        let (mut stream, _) = taker.accept().expect("a client");
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).expect("taken");
        found == expected
    })
}

/// The report of an iperf3 client, and the bytes that the receiver has.
fn report(guest: &mut Program, case: &str) -> (Value, u64) {
    let text = guest.between("LINUX: iperf begins", "LINUX: iperf ends");
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{case}: {error}: {text}"));
    assert!(report["error"].is_null(), "{case}: {report}");
    let received = report["end"]["sum_received"]["bytes"].as_u64();
    (report, received.unwrap_or_default())
}

/// One boot of Linux on our device. `device` are properties of QEMU's, `mask` features that our device does not offer.
fn run(linux: &Linux, device: &str, mask: &str, expected: &[(u32, bool)], large: bool) {
    let case = format!("{device} {mask}");
    let scratch = Scratch::new("linux");
    let socket = scratch.file("socket");
    let mask = format!("--device-features={mask}");
    let mut ringlet = Ringlet::begin(&["vhost-user-backend", "--socket", &socket, "--net", "tap=tap0", &mask]);
    ringlet.wait("start");
    ip("address add 192.0.2.1/24 dev tap0");
    ip("link set tap0 up");
    let mut server = Program::start(Command::new("iperf3").args(["-s", "-B", "192.0.2.1", "--forceflush"]));
    server.wait_for("Server listening");
    let files = serve();
    let arguments = [
        "-machine q35,memory-backend=ram -m 256 -object memory-backend-memfd,id=ram,size=256M,share=on -vga none",
        &format!("-chardev socket,id=net,path={socket} -netdev vhost-user,id=net0,chardev=net"),
        // QEMU 7.2 without KVM crashes where a vhost-user device has MSI-X.
        &format!("-device virtio-net-pci,netdev=net0,disable-legacy=on,romfile=,vectors=0,{device}"),
    ];
    let arguments: Vec<_> = arguments.join(" ").split_whitespace().map(str::to_owned).collect();
    let mut guest = linux.boot(scratch.path(), SCRIPT, &arguments);
    // A string of ones and zeroes, the lowest bit first.
    let line = guest.wait_for("LINUX: features");
    let bits = line.rsplit(' ').next().expect("a word").as_bytes().to_vec();
    for &(bit, on) in expected {
        assert_eq!(bits[bit as usize] == b'1', on, "{case}: bit {bit} of {line}");
    }
    let (_, up) = report(&mut guest, &case);
    let sent = ringlet.wait_for_status("frames", |status| status["tx_bytes"].as_u64() >= Some(up));
    let (_, down) = report(&mut guest, &case);
    let both = ringlet.wait_for_status("frames", |status| status["rx_bytes"].as_u64() >= Some(down));
    assert!(up > 1 << 20 && down > 1 << 20, "{case}: {up} and {down} bytes");
    // Frames much larger than the wire's, in the direction of the data, or none at all.
    let mean = |status: &Value, way: &str| {
        let number = |what: &str| status[format!("{way}_{what}")].as_u64().expect("a number");
        number("bytes") / number("packets").max(1)
    };
    assert_eq!(mean(&sent, "tx") > 1514, large, "{case}: {sent}");
    assert_eq!(mean(&both, "rx") > 1514, large, "{case}: {both}");
    let (datagrams, _) = report(&mut guest, &case);
    assert!(datagrams["end"]["sum"]["packets"].as_u64() > Some(100), "{case}: {datagrams}");
    guest.wait_for("LINUX: received");
    guest.wait_for("LINUX: sent");
    assert!(files.join().expect("the servers"), "{case}: what Linux sent is broken");
    let line = guest.wait_for("LINUX: checksums");
    // Tcp: ... InCsumErrors is the last column, Udp's the last but two.
    let column = |name: &str, back: usize| {
        let line = line.split('|').find(|line| line.contains(&format!("{name}: "))).expect("a line of values");
        line.split_whitespace().rev().nth(back).expect("a column").to_owned()
    };
    assert_eq!((&*column("Tcp", 0), &*column("Udp", 2)), ("0", "0"), "{case}: {line}");
    assert_eq!(netns::checksum_errors(), 0, "{case}: what the guest sent");
    guest.wait_for("LINUX: done");
    assert!(guest.end().success(), "{case}: {}", guest.seen.join("\n"));
    let gone = ringlet.wait("gone");
    assert!(gone["fault"].is_null(), "{case}: {gone}");
    assert_eq!(ringlet.interrupt(), 0, "{case}");
}

const CSUM: u32 = 0;
const GUEST_TSO4: u32 = 7;
const HOST_TSO4: u32 = 11;
const MRG_RXBUF: u32 = 15;
const INDIRECT: u32 = 28;
const EVENT_IDX: u32 = 29;
const PACKED: u32 = 34;

#[test]
fn linux_carries_iperf3_over_split_and_packed_rings() {
    let Some(linux) = Linux::find() else { return };
    for packed in [false, true] {
        netns::inside(|| {
            let device = if packed { "packed=on" } else { "packed=off" };
            let all = [CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, INDIRECT, EVENT_IDX].map(|bit| (bit, true));
            run(&linux, device, "+csum", &[&all[..], &[(PACKED, packed)]].concat(), true);
        });
    }
}

#[test]
fn linux_carries_iperf3_with_hardly_any_feature() {
    let Some(linux) = Linux::find() else { return };
    netns::inside(|| {
        let none = [CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF, INDIRECT, EVENT_IDX].map(|bit| (bit, false));
        let expected = [&none[..], &[(PACKED, true)]].concat();
        run(&linux, "packed=on", "-all,+ring_packed", &expected, false);
    });
}
