//! Open vSwitch with DPDK serves the guests' queues: two guests and Linux on one bridge. OVS is the one that connects
//! (`dpdkvhostuserclient`), and Ringlet listens. Needs root, for a network namespace, and KVM.
//!
//! ```text
//!   client 10.0.0.1 (Linux) --+
//!   balancer 10.0.0.2, 10.1.0.2 --+-- br0 of OVS
//!   server 10.1.0.3 (another guest; its router is the balancer) --+
//! ```

mod common;

use std::net::SocketAddr;

use common::iperf3;
use common::netns::{self, ip};
use common::ovs::{self, Ovs};
use common::ringlet::Ringlet;
use common::rules;
use common::testpmd::Directory;

/// The server's own services, behind the balancer.
const RULES: &str = "\
-A -t 10.0.0.100:80 -s rr
-a -t 10.0.0.100:80 -r 10.1.0.3:9100 -m -w 1
-A -t 10.0.0.100:5201 -s rr
-a -t 10.0.0.100:5201 -r 10.1.0.3:5201 -m -w 1
";

/// Bytes that go each way.
const LENGTH: u64 = 20_000_000;

/// Starts a guest for which OVS has a port, and waits until it runs.
fn guest(ovs: &Ovs<'_>, directory: &Directory, name: &str, arguments: &[&str]) -> Ringlet {
    let socket = directory.path(&format!("{name}.sock"));
    let net = format!("vhost-user={socket},server");
    let mut ringlet = Ringlet::begin(&[&["run", "--net", &net], arguments].concat());
    ovs.add_port(name, &socket);
    ringlet.wait("ready");
    ringlet
}

/// The client and the server behind the balancer, over many connections, and with much data each way.
fn converse(directory: &Directory) {
    let metrics: SocketAddr = "10.0.0.100:80".parse().expect("an address");
    let before = iperf3::counted(metrics).0;
    let sent = iperf3::run(&format!("-c 10.0.0.100 -n {LENGTH}")).expect("to the server").bytes().0;
    assert!(sent >= LENGTH, "{sent} bytes");
    // What was still on its way when the client ended does not count.
    let received = iperf3::counted(metrics).0 - before;
    assert!((LENGTH / 2..=sent).contains(&received), "{received} of {sent} bytes have come to the server");

    let file = directory.path("received");
    let arguments = format!("-c 10.0.0.100 -n {LENGTH} -R --repeating-payload -F {file}");
    iperf3::run(&arguments).expect("from the server");
    let bytes = std::fs::read(&file).expect("what the client has received");
    std::fs::remove_file(&file).expect("it is there");
    assert!(bytes.len() as u64 >= LENGTH, "{} bytes", bytes.len());
    let broken = bytes.iter().enumerate().find(|(nth, byte)| **byte != b'0' + (nth % 10) as u8);
    assert_eq!(broken, None);
    assert_eq!(netns::checksum_errors(), 0);
}

#[test]
fn guests_and_linux_talk_through_a_bridge_that_may_be_restarted() {
    needs_kvm!();
    if !ovs::is_there() {
        return;
    }
    netns::inside(|| {
        let directory = Directory::new();
        ip("link set lo up");
        let mut ovs = Ovs::start(&directory);
        ip("address add 10.0.0.1/24 dev br0");
        ip("link set br0 up");
        let file = rules::File::new("ovs", RULES);
        let balancer = ["--ip", "10.0.0.2/24", "--ip", "10.1.0.2/24", "--rules", file.path()];
        let mut balancer = guest(&ovs, &directory, "balancer", &balancer);
        let server =
            ["--transport", "pci", "--mac", "52:54:00:12:34:03", "--ip", "10.1.0.3/24", "--gateway", "10.1.0.2"];
        let mut server = guest(&ovs, &directory, "server", &server);
        converse(&directory);

        ovs.kill_switch();
        for guest in [&mut balancer, &mut server] {
            let gone = guest.wait("complaint");
            assert!(gone["text"].as_str().is_some_and(|text| text.contains("has gone")), "{gone}");
        }
        ovs.start_switch();
        for guest in [&mut balancer, &mut server] {
            let back = guest.wait("complaint");
            assert!(back["text"].as_str().is_some_and(|text| text.contains("is there again")), "{back}");
        }
        // When this returns, the switch has the bridge again; the interface may have been made anew.
        ovs.vsctl(&["set", "bridge", "br0", "external_ids:started=again"]);
        ip("address replace 10.0.0.1/24 dev br0");
        ip("link set br0 up");
        converse(&directory);
        assert_eq!(balancer.interrupt(), 0);
        assert_eq!(server.interrupt(), 0);
    });
}
