//! dpdk-testpmd's vhost port serves the guest's queues: by DPDK's own code, in another process.

mod common;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::msix::Vector;
use common::netns::{self, ip};
use common::ping::Pinger;
use common::ringlet::Ringlet;
use common::testpmd::{Directory, Testpmd, is_there, read_pcap, write_pcap};
use common::{TRANSPORTS, program, rules};
use etherparse::{PacketBuilder, SlicedPacket};
use ringlet::backend::options::VhostUser;
use ringlet::vhost_user::frontend;
use ringlet::virtio::{self, Transport};
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;
use ringlet::vmm::{GuestRam, Machine};
use ringlet_driver::features::Features;

/// The guest's Ethernet address.
const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
const CLIENT: [u8; 4] = [10, 0, 0, 50];
/// The Ethernet address of the host with that number.
fn mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, host]
}

/// A datagram of a client of its own, of a length of its own, from the shortest frame that there is to the longest.
fn datagram(nth: u16, from: [u8; 6], to: [u8; 6], address: [u8; 4], ttl: u8) -> Vec<u8> {
    let length = (usize::from(nth) * 53) % (1472 - 18 + 1) + 18;
    let payload: Vec<u8> = (0..length).map(|at| (at as u16).wrapping_mul(nth) as u8).collect();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to).ipv4(CLIENT, address, ttl).udp(10_000 + nth, 80);
    builder.write(&mut frame, &payload).expect("a frame");
    frame
}

/// "Who has the guest's address? Tell this host": from it the guest learns where the host is.
fn arp_request(host: u8) -> Vec<u8> {
    let mut frame = [[0xff; 6], mac(host)].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac(host));
    frame.extend([10, 0, 0, host]);
    frame.extend([0; 6]);
    frame.extend([10, 0, 0, 2]);
    frame
}

fn arp_reply(host: u8) -> Vec<u8> {
    let mut frame = [mac(host), GUEST].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(GUEST);
    frame.extend([10, 0, 0, 2]);
    frame.extend(mac(host));
    frame.extend([10, 0, 0, host]);
    frame
}

/// Lets testpmd send so many datagrams from a file to the guest, all at once, and compares each one that comes back. Without
/// the features in `without`, a list as on the command line; with all of `with`.
fn forward(transport: &str, datagrams: u16, without: &str, with: Features) {
    let directory = Directory::new();
    let [from, to, socket] = ["in.pcap", "out.pcap", "v.sock"].map(|name| directory.path(name));
    let mut frames: Vec<_> = rules::SERVERS.map(arp_request).into();
    frames.extend((0..datagrams).map(|nth| datagram(nth, mac(50), GUEST, [10, 0, 0, 100], 64)));
    write_pcap(&from, &frames);
    let file = format!("net_pcap0,rx_pcap={from},tx_pcap={to}");
    let mut testpmd = Testpmd::start(&directory, &[&file, &format!("net_vhost0,iface={socket}")], &[]);

    let rules = rules::File::new("vhost", rules::service("-u", "10.0.0.100:80", 80, "rr"));
    let net = format!("vhost-user={socket}");
    let mut arguments =
        vec!["run", "--net", &net, "--transport", transport, "--ip", "10.0.0.2/24", "--rules", rules.path()];
    let switches = without.split(',').map(|name| format!("-{name}")).collect::<Vec<_>>().join(",");
    if !without.is_empty() {
        arguments.extend(["--features", &switches]);
    }
    let ringlet = Ringlet::start(&arguments);
    testpmd.wait_for_driver();
    let boot = ringlet.seen.iter().find(|record| record["type"] == "boot").expect("it came before `ready`");
    assert_eq!(boot["transport"], transport);
    let agreed = Features::from_bits_retain(boot["features"].as_u64().expect("a number"));
    assert!(agreed.contains(with), "without {without:?}: {agreed}");
    for name in without.split(',').filter(|name| !name.is_empty()) {
        assert!(!agreed.to_string().split(',').any(|agreed| agreed == name), "{agreed}");
    }

    // Everything that is sent comes back, and is counted at the guest's side of testpmd.
    testpmd.forward();
    let expected = u64::from(datagrams) + rules::SERVERS.len() as u64;
    testpmd.wait_for_packets(1, |received, sent| received >= expected && sent == expected);
    testpmd.quit();
    assert_eq!(ringlet.interrupt(), 0);

    let came = read_pcap(&to);
    let (arp, forwarded): (Vec<_>, Vec<_>) = came.into_iter().partition(|frame| frame[12..14] == [8, 6]);
    for reply in rules::SERVERS.map(arp_reply) {
        assert!(arp.iter().any(|frame| frame.starts_with(&reply)), "{arp:02x?}");
    }
    let mut servers = BTreeMap::<u8, u16>::new();
    assert_eq!(forwarded.len(), usize::from(datagrams));
    for (nth, frame) in (0..datagrams).zip(&forwarded) {
        let address = SlicedPacket::from_ethernet(frame).expect("a packet").net.expect("IP");
        let server = address.ipv4_ref().expect("IPv4").header().destination()[3];
        // The order is kept, and every byte is as it must be, checksums included.
        assert_eq!(*frame, datagram(nth, GUEST, mac(server), [10, 0, 0, server], 63), "datagram {nth}");
        *servers.entry(server).or_default() += 1;
    }
    assert_eq!(servers, rules::SERVERS.map(|server| (server, datagrams / 3)).into());
}

fn forward_with_each_ring(transport: &str) {
    needs_kvm!();
    if !is_there() {
        return;
    }
    let rings = [
        ("ring_packed,in_order", Features::EVENT_IDX | Features::INDIRECT_DESC),
        ("ring_packed", Features::IN_ORDER),
        ("in_order", Features::RING_PACKED),
        ("", Features::RING_PACKED | Features::IN_ORDER | Features::EVENT_IDX),
    ];
    for (without, with) in rings {
        let all = |more: &str| if without.is_empty() { more.to_owned() } else { format!("{without},{more}") };
        forward(transport, 300, without, with | Features::MRG_RXBUF | Features::CSUM | Features::GUEST_CSUM);
        forward(transport, 300, &all("mrg_rxbuf,guest_tso4,guest_tso6,guest_ufo"), with);
        // Each buffer has to hold a super-frame then, in many pieces: there are few. Not with packed rings: DPDK's library takes
        // any four descriptors in a row for four buffers of one piece there (docs/vhost-user.md).
        if without.contains("ring_packed") {
            forward(transport, 21, &all("mrg_rxbuf"), with | Features::GUEST_TSO4);
        }
        let bare = with - Features::EVENT_IDX - Features::INDIRECT_DESC;
        forward(transport, 300, &all("event_idx,indirect_desc,csum,guest_csum"), bare);
    }
}

#[test]
fn frames_are_forwarded_to_the_last_byte_over_mmio() {
    forward_with_each_ring("mmio");
}

#[test]
fn frames_are_forwarded_to_the_last_byte_over_pci() {
    forward_with_each_ring("pci");
}

/// Waits until so many frames more have gone round.
fn go_round(ringlet: &mut Ringlet, more: u64) {
    let mut first = None;
    for _ in 0..1000 {
        let record = ringlet.wait("roundtrip");
        assert_eq!(record["wrong"], 0, "{record}");
        let returned = record["returned"].as_u64().expect("a number");
        if returned >= *first.get_or_insert(returned) + more {
            return;
        }
    }
    panic!("frames do not go round any more");
}

/// Kills testpmd while frames go round, and starts it again. `server`: whether it is Ringlet that listens.
fn restart(transport: &str, server: bool, without: &str) {
    let directory = Directory::new();
    let socket = directory.path("v.sock");
    let device = format!("net_vhost0,iface={socket}{}", if server { ",client=1" } else { "" });
    let start = || Testpmd::start(&directory, &[&device], &["--forward-mode=macswap"]);
    let net = format!("vhost-user={socket}{}", if server { ",server" } else { "" });
    let mut arguments = vec!["run", "--net", &net, "--transport", transport, "--ip", "10.0.0.2/24"];
    arguments.extend(["--append", "roundtrip=256"]);
    if !without.is_empty() {
        arguments.extend(["--features", without]);
    }
    let mut ringlet = Ringlet::begin(&arguments);
    let mut testpmd = start();
    for _ in 0..3 {
        testpmd.wait_for_driver();
        testpmd.forward();
        go_round(&mut ringlet, 10_000);
        drop(testpmd);
        let gone = ringlet.wait("complaint");
        assert!(gone["text"].as_str().is_some_and(|text| text.contains("has gone")), "{gone}");
        if !server {
            // Testpmd does not listen where something is left of itself.
            std::fs::remove_file(&socket).expect("it was listening there");
        }
        testpmd = start();
    }
    testpmd.wait_for_driver();
    testpmd.forward();
    go_round(&mut ringlet, 10_000);
    let record = ringlet.wait("roundtrip");
    let (injected, returned) = (record["injected"].as_u64(), record["returned"].as_u64());
    assert!(returned > injected, "{record}");
    assert_eq!(ringlet.interrupt(), 0);
    testpmd.quit();
}

#[test]
fn the_backend_may_be_killed_and_started_again() {
    needs_kvm!();
    if !is_there() {
        return;
    }
    for transport in TRANSPORTS {
        restart(transport, false, "-ring_packed");
        restart(transport, false, "");
    }
}

#[test]
fn the_backend_may_connect_to_us() {
    needs_kvm!();
    if !is_there() {
        return;
    }
    TRANSPORTS.into_iter().for_each(|transport| restart(transport, true, ""));
}

/// The backend writes what KVM makes an interrupt of, and knows nothing of masks. The guest sleeps whenever it has nothing to
/// do, and nothing but these interrupts wakes it.
#[test]
fn a_vector_is_masked_and_unmasked_while_the_backend_interrupts() {
    needs_kvm!();
    if !is_there() {
        return;
    }
    const ROUNDS: usize = 100;
    netns::inside(|| {
        let directory = Directory::new();
        let socket = directory.path("v.sock");
        let devices = ["net_tap0,iface=tap0", &format!("net_vhost0,iface={socket}")];
        let mut testpmd = Testpmd::start(&directory, &devices, &[]);
        ip("address add 10.0.0.1/24 dev tap0");
        ip("link set tap0 up");

        let address = VhostUser { path: socket.into(), server: false };
        // The socket is there before anybody listens at it.
        let until = Instant::now() + program::PATIENCE;
        let mut wait = || {
            std::thread::sleep(Duration::from_millis(5));
            Instant::now() < until
        };
        let link = frontend::connect(&address, frontend::PATIENCE, &mut wait).expect("a backend");
        let mut machine = Machine::with_ram(GuestRam::shared(64).expect("memory")).expect("a machine");
        let report = Box::new(|line: &str| panic!("{line}"));
        let options = virtio::Options { transport: Transport::Pci, ..virtio::Options::new(report) };
        let device = frontend::attach(&mut machine, link.expect("somebody listens"), options).expect("a device");
        let vector = Vector::of(&machine);
        let (sender, said) = mpsc::channel();
        let start = Start {
            image: ringlet::image::EMBEDDED.into(),
            command_line: "ip=10.0.0.2/24 console=ringlet status=60000 idle_spin=0".into(),
            module: None,
            said: Box::new(move |said| drop(sender.send(said))),
            ended: Box::new(|_| ()),
        };
        let running = machine.start(start).expect("it starts");
        while !matches!(said.recv_timeout(program::PATIENCE).expect("it boots"), Said::Record(Record::Ready(_))) {}
        testpmd.wait_for_driver();
        testpmd.forward();

        let metrics = "10.0.0.2:9100".parse().expect("an address");
        let wakeups = || common::ringlet::wakeups(metrics);
        let before = wakeups();
        vector.is_masked_and_unmasked_during(|| {
            let mut pinger = Pinger::new([10, 0, 0, 2].into(), Duration::from_secs(10));
            for round in 0..ROUNDS {
                pinger.ping().unwrap_or_else(|error| panic!("an interrupt was lost in round {round}: {error}"));
            }
        });
        assert!(wakeups() > before + 3, "no interrupt came through");
        running.stop();
        assert_eq!(running.join().exit_code(), 0);
        device.end();
        testpmd.quit();
    });
}
