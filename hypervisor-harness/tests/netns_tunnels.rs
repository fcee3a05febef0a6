//! Forwarding by tunnels to a real server that is Linux: Debian's cloud kernel in QEMU (by translation), since a host's own need
//! not have tunnels. It has every kind that IPVS has, with the virtual addresses on its loopback interface, and answers the
//! client directly. Needs root.
//!
//! ```text
//!   client 10.2.0.9 --+-- bridge --+-- ringlet 10.2.0.2
//!                                  +-- Linux 10.2.0.13, 10.2.0.14: ipip, sit, gre, ip6tnl, fou (GUE)
//! ```

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use common::linux::Linux;
use common::netns::{self, Host, ip};
use common::ringlet::Ringlet;
use common::rules::File;
use common::scratch::Scratch;
use common::traffic;

/// A service, and how it is forwarded.
struct Service {
    address: &'static str,
    server: &'static str,
    options: &'static str,
}

const fn service(address: &'static str, server: &'static str, options: &'static str) -> Service {
    Service { address, server, options }
}

const GUE: &str = "--tun-type gue --tun-port 6080";
const GUE_CSUM: &str = "--tun-type gue --tun-port 6080 --tun-csum";
const GUE_REMCSUM: &str = "--tun-type gue --tun-port 6080 --tun-remcsum";
const GRE: &str = "--tun-type gre";
const GRE_CSUM: &str = "--tun-type gre --tun-csum";

const SERVICES: [Service; 13] = [
    service("10.2.0.101", "10.2.0.13", ""),
    service("10.2.0.102", "10.2.0.13", GUE),
    service("10.2.0.103", "10.2.0.13", GUE_CSUM),
    service("10.2.0.104", "10.2.0.13", GUE_REMCSUM),
    service("10.2.0.105", "10.2.0.13", GRE),
    service("10.2.0.106", "10.2.0.14", GRE_CSUM),
    service("10.2.0.107", "[fd10:2::13]", ""),
    service("[fd10:2::101]", "[fd10:2::13]", ""),
    service("[fd10:2::102]", "10.2.0.13", ""),
    service("[fd10:2::103]", "10.2.0.13", GUE_CSUM),
    service("[fd10:2::104]", "10.2.0.13", GUE_REMCSUM),
    service("[fd10:2::105]", "10.2.0.13", GRE),
    service("[fd10:2::106]", "10.2.0.14", GRE_CSUM),
];

/// What Linux does: the other ends of the tunnels, a server that sends back what it is sent, and at last what it has counted.
const SCRIPT: &str = "\
set -e
# Not busybox's.
ip() { /bin/ip \"$@\"; }
echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
ip address add 10.2.0.13/24 dev eth0
ip address add 10.2.0.14/24 dev eth0
ip address add fd10:2::13/64 dev eth0 nodad
ip link set eth0 up
ip link add ipip1 type ipip local 10.2.0.13 remote 10.2.0.2
ip link add sit1 type sit local 10.2.0.13 remote 10.2.0.2
ip link add gre1 type gre local 10.2.0.13 remote 10.2.0.2
ip link add gre2 type gre local 10.2.0.14 remote 10.2.0.2 icsum
ip link add six1 type ip6tnl mode any local fd10:2::13 remote fd10:2::2
ip fou add port 6080 gue
for device in ipip1 sit1 gre1 gre2 six1; do ip link set $device up; done
for host in 101 102 103 104 105 106 107; do
  ip address add 10.2.0.$host/32 dev lo
  ip address add fd10:2::$host/128 dev lo nodad
done
nc -ll -p 80 -e /bin/cat &
until grep -q ':0050 .* 0A ' /proc/net/tcp6; do sleep 0.1; done
echo LINUX: ready
set +e
nc -l -p 9999
for device in ipip1 sit1 gre1 gre2 six1; do
  cd /sys/class/net/$device/statistics; echo LINUX: $device $(cat rx_packets) $(cat rx_errors)
done
echo LINUX: checksums $(grep -E '^(Tcp|Udp): [0-9]' /proc/net/snmp | tr '\\n' '|') $(grep InCsumErrors /proc/net/snmp6 | tr '\\n' '|')
";

/// The rules: every service for TCP and UDP.
fn rules() -> String {
    let lines = SERVICES.iter().flat_map(|Service { address, server, options }| {
        [("-t", 80), ("-u", 5353)].map(|(flag, port)| {
            format!(
                "-A {flag} {address}:{port} -s rr\n-a {flag} {address}:{port} -r {server}:{port} -i -w 1 {options}\n"
            )
        })
    });
    lines.collect()
}

/// Sends bytes, and gets them back.
fn echo(client: &Host, address: &str, expected: &[u8]) {
    let patience = Some(Duration::from_secs(60));
    let mut stream = client.inside(|| TcpStream::connect(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(patience).expect("a timeout");
    stream.set_write_timeout(patience).expect("a timeout");
    let mut back = Vec::new();
    thread::scope(|scope| {
        let mut writer = stream.try_clone().expect("another descriptor");
        scope.spawn(move || {
            writer.write_all(expected).unwrap_or_else(|error| panic!("{address}: {error}"));
            writer.shutdown(Shutdown::Write).unwrap_or_else(|error| panic!("{address}: {error}"));
        });
        stream.read_to_end(&mut back).unwrap_or_else(|error| panic!("{address}: {error}"));
    });
    assert!(back == expected, "{address}: {} of {} bytes came back", back.len(), expected.len());
}

/// Sends a datagram to a port on which nobody listens: Linux says so, if it was whole and its checksum right.
fn refused(client: &Host, address: &str, length: usize) {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = client.inside(|| UdpSocket::bind(any)).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    socket.connect(address).expect("connected");
    socket.send(&traffic::bytes(length)).expect("sent");
    let error = socket.recv(&mut [0; 10]).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{address}: {error}");
}

#[test]
fn linux_takes_out_of_every_tunnel_what_was_put_in() {
    needs_kvm!();
    let Some(linux) = Linux::find() else { return };
    let Some(linux) = linux.with(&[("ip", "iproute2")], &["ipip", "sit", "ip_gre", "ip6_tunnel", "fou"]) else {
        return;
    };
    netns::inside(|| {
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        for tap in ["balancer0", "linux0"] {
            ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"));
            ip(&format!("link set {tap} master bridge0 up"));
        }
        let client = Host::new();
        ip("link add client type veth peer name in-client");
        client.adopt("in-client");
        ip("link set client master bridge0 up");
        client.ip("link set lo up");
        client.ip("link set in-client name eth0");
        client.ip("address add 10.2.0.9/24 dev eth0");
        client.ip("address add fd10:2::9/64 dev eth0 nodad");
        client.ip("link set eth0 up");
        client.inside(|| netns::ready("fd10:2::9".parse().expect("an address")));

        let scratch = Scratch::new("tunnels");
        let network = "-netdev tap,id=n,ifname=linux0,script=no,downscript=no -device virtio-net-pci,netdev=n,romfile=";
        let arguments: Vec<_> =
            format!("-machine q35 -m 256 {network}").split_whitespace().map(str::to_owned).collect();
        let mut guest = linux.boot(scratch.path(), SCRIPT, &arguments);
        guest.wait_for("LINUX: ready");

        let rules = File::new("netns-tunnels.rules", rules());
        let addresses = ["--ip", "10.2.0.2/24", "--ip", "fd10:2::2/64"];
        let expected = traffic::bytes(300_001);
        // With offloads what comes are super-frames, which the guest cuts; without, it is segments whose checksums are complete.
        for features in ["--features=+csum", "--features=-csum,-guest_csum,-mrg_rxbuf"] {
            let arguments = ["run", "--net", "tap=balancer0", "--rules", rules.path(), features];
            let ringlet = Ringlet::start(&[&arguments[..], &addresses].concat());
            for Service { address, .. } in &SERVICES {
                echo(&client, &format!("{address}:80"), &expected);
                // What fits into any tunnel.
                refused(&client, &format!("{address}:5353"), 1380);
            }
            assert_eq!(client.inside(netns::checksum_errors), 0, "{features}");
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
        drop(client.inside(|| TcpStream::connect("10.2.0.13:9999")).expect("Linux waits for that"));
        for device in ["ipip1", "sit1", "gre1", "gre2", "six1"] {
            let line = guest.wait_for(&format!("LINUX: {device}"));
            let [packets, errors] = [1, 0].map(|back| line.split_whitespace().rev().nth(back).expect("a number"));
            assert!(packets.parse::<u32>().expect("a number") > 10 && errors == "0", "{line}");
        }
        let line = guest.wait_for("LINUX: checksums");
        // Tcp: ... InCsumErrors is the last column, Udp's the last but two; in snmp6 it is the number after each name.
        let column = |name: &str, back: usize| {
            let line = line.split('|').find(|line| line.contains(&format!("{name}: "))).expect("a line of values");
            line.split_whitespace().rev().nth(back).expect("a column").to_owned()
        };
        assert_eq!((&*column("Tcp", 0), &*column("Udp", 2)), ("0", "0"), "{line}");
        let six = line.split('|').filter(|part| part.contains("InCsumErrors"));
        assert!(
            six.clone().count() > 0 && six.clone().all(|part| part.trim().ends_with(" 0") || part.ends_with("\t0")),
            "{line}"
        );
        guest.wait_for("LINUX: done");
        assert!(guest.end().success(), "{}", guest.seen.join("\n"));
    });
}
