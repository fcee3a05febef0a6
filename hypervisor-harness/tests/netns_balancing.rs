//! The whole program on a TAP interface, between real Linux hosts in network namespaces: NAT and direct routing, IPv4 and
//! IPv6, TCP and UDP (also in fragments), with each set of offloads on the guest's side and with and without them on the hosts'.
//! Needs root and KVM.
//!
//! ```text
//!   client 10.2.0.9 --+                     +-- alpha 10.1.0.11, beta 10.1.0.12 (default route: the balancer)
//!                     +-- bridge -- ringlet |
//!   gamma 10.2.0.13 --+   (one segment)     +   (direct routing: gamma, with 10.2.0.101 on its loopback interface)
//! ```

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::netns::{self, Host, ip};
use common::ringlet::Ringlet;
use common::rules::File;
use common::traffic;

/// Bytes each way of each connection.
const LENGTH: usize = 3_000_001;

const RULES: &str = "\
-A -t 10.2.0.100:80 -s rr
-a -t 10.2.0.100:80 -r 10.1.0.11:8080 -m -w 1
-a -t 10.2.0.100:80 -r 10.1.0.12:8080 -m -w 1
-A -t [fd10:2::100]:80 -s rr
-a -t [fd10:2::100]:80 -r [fd10:1::11]:8080 -m -w 1
-a -t [fd10:2::100]:80 -r [fd10:1::12]:8080 -m -w 1
-A -u 10.2.0.100:53 -s rr
-a -u 10.2.0.100:53 -r 10.1.0.11:5353 -m -w 1
-A -u [fd10:2::100]:53 -s rr
-a -u [fd10:2::100]:53 -r [fd10:1::11]:5353 -m -w 1
-A -t 10.2.0.101:80 -s rr
-a -t 10.2.0.101:80 -r 10.2.0.13:80 -g -w 1
-A -t [fd10:2::101]:80 -s rr
-a -t [fd10:2::101]:80 -r [fd10:2::13]:80 -g -w 1
";

/// The balancer's addresses.
#[rustfmt::skip]
const ADDRESSES: [&str; 8] =
    ["--ip", "10.1.0.2/24", "--ip", "10.2.0.2/24", "--ip", "fd10:1::2/64", "--ip", "fd10:2::2/64"];

/// The hosts, on a bridge that `balancer0` is to join.
struct Segment {
    client: Host,
    servers: Vec<(&'static str, Host)>,
}

impl Segment {
    fn new() -> Self {
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        ip("tuntap add dev balancer0 mode tap");
        ip("link set balancer0 master bridge0 up");
        let host = |name: &str, addresses: &[&str], routes: &[&str]| {
            let host = Host::new();
            let inner = format!("in-{name}");
            ip(&format!("link add {name} type veth peer name {inner}"));
            host.adopt(&inner);
            ip(&format!("link set {name} master bridge0 up"));
            host.ip("link set lo up");
            host.ip(&format!("link set {inner} name eth0"));
            for address in addresses {
                // No waiting for somebody else to claim the address: nobody is there.
                let nodad = if address.contains(':') { "nodad" } else { "" };
                host.ip(&format!("address add {address} dev eth0 {nodad}"));
            }
            host.ip("link set eth0 up");
            for address in addresses.iter().filter_map(|address| address.split('/').next()?.parse().ok()) {
                host.inside(|| netns::ready(address));
            }
            routes.iter().for_each(|route| host.ip(&format!("route add {route}")));
            host
        };
        let through_the_balancer = ["default via 10.1.0.2", "default via fd10:1::2"];
        let client = host("client", &["10.2.0.9/24", "fd10:2::9/64"], &[]);
        let alpha = host("alpha", &["10.1.0.11/24", "fd10:1::11/64"], &through_the_balancer);
        let beta = host("beta", &["10.1.0.12/24", "fd10:1::12/64"], &through_the_balancer);
        let gamma = host("gamma", &["10.2.0.13/24", "fd10:2::13/64"], &[]);
        // It has the virtual addresses, and keeps quiet about them.
        gamma.write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
        gamma.ip("address add 10.2.0.101/32 dev lo");
        gamma.ip("address add fd10:2::101/128 dev lo nodad");
        Self { client, servers: vec![("alpha", alpha), ("beta", beta), ("gamma", gamma)] }
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.client).chain(self.servers.iter().map(|(_, host)| host))
    }

    /// Starts the servers.
    fn serve(&self) {
        for (name, host) in &self.servers {
            traffic::serve(name, host, if *name == "gamma" { 80 } else { 8080 }, 5353);
        }
    }
}

fn names(client: &Host, address: &str, expected: &[u8]) -> Vec<String> {
    (0..2).map(|_| traffic::converse(client, address, expected)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Python's web server on a host, serving one file that says which host it is and one large one.
struct WebServer(Child, PathBuf);

impl WebServer {
    fn start(name: &str, host: &Host, port: &str, large: &[u8]) -> Self {
        let directory = std::env::temp_dir().join(format!("ringlet-web-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("name"), name).expect("written");
        std::fs::write(directory.join("large"), large).expect("written");
        let mut command = Command::new("python3");
        command.args(["-u", "-m", "http.server", "--bind", "::", port]).current_dir(&directory);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let started = host.inside(|| command.spawn());
        let mut child = started.unwrap_or_else(|error| panic!("cannot run python3: {error}\nInstall it."));
        // It says "Serving HTTP on ..." once it listens.
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        output.read_line(&mut line).expect("a line");
        assert!(line.starts_with("Serving HTTP"), "{line}");
        Self(child, directory)
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

/// What `curl` on a host gets from there.
fn curl(host: &Host, url: &str) -> Vec<u8> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--globoff", "--noproxy", "*", "--max-time", "60", url]);
    let output = host.inside(|| command.output());
    let output = output.unwrap_or_else(|error| panic!("cannot run curl: {error}\nInstall it (Debian: curl)."));
    assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn curl_and_pythons_web_server_are_balanced() {
    needs_kvm!();
    netns::inside(|| {
        let segment = Segment::new();
        let large = traffic::bytes(20_000_003);
        let port = |name: &str| if name == "gamma" { "80" } else { "8080" };
        let servers: Vec<_> =
            segment.servers.iter().map(|(name, host)| WebServer::start(name, host, port(name), &large)).collect();
        let rules = File::new("netns-programs.rules", RULES);
        for features in ["--features=+csum", "--features=-csum,-guest_csum,-mrg_rxbuf"] {
            let arguments = ["run", "--net", "tap=balancer0", "--rules", rules.path(), features];
            let ringlet = Ringlet::start(&[&arguments[..], &ADDRESSES].concat());
            let client = &segment.client;
            for (service, names) in [
                ("10.2.0.100", &["alpha", "beta"][..]),
                ("[fd10:2::100]", &["alpha", "beta"]),
                ("10.2.0.101", &["gamma"]),
                ("[fd10:2::101]", &["gamma"]),
            ] {
                let found: BTreeSet<_> = (0..4).map(|_| curl(client, &format!("http://{service}/name"))).collect();
                let names: BTreeSet<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
                assert_eq!(found, names, "{features}, {service}");
                assert!(curl(client, &format!("http://{service}/large")) == large, "{features}, {service}");
            }
            for host in segment.hosts() {
                assert_eq!(host.inside(netns::checksum_errors), 0, "{features}");
            }
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
        drop(servers);
    });
}

#[test]
fn linux_hosts_are_balanced_with_every_set_of_offloads() {
    needs_kvm!();
    netns::inside(|| {
        let segment = Segment::new();
        segment.serve();
        let rules = File::new("netns.rules", RULES);
        let expected = traffic::bytes(LENGTH);
        for features in [
            "",
            // The guest finishes checksums, and cuts what it was given whole.
            "-host_tso4,-host_tso6",
            "-csum,-host_tso4,-host_tso6",
            "-guest_csum,-guest_tso4,-guest_tso6",
            "-csum,-guest_csum,-host_tso4,-host_tso6,-guest_tso4,-guest_tso6,-mrg_rxbuf",
        ] {
            let features_option = format!("--features={features}");
            let mut arguments = vec!["run", "--net", "tap=balancer0", "--rules", rules.path()];
            arguments.extend(ADDRESSES);
            if !features.is_empty() {
                arguments.push(&features_option);
            }
            let ringlet = Ringlet::start(&arguments);
            // With the hosts' checksums in software what the guest left unfinished is finished before it is checked.
            for offloads in [true, false] {
                segment.hosts().for_each(|host| host.checksum_offload("eth0", offloads));
                for name in ["client", "alpha", "beta", "gamma"] {
                    netns::checksum_offload(name, offloads);
                }
                let client = &segment.client;
                let case = format!("features {features:?}, hosts' offloads {offloads}");
                assert_eq!(names(client, "10.2.0.100:80", &expected), ["alpha", "beta"], "{case}");
                assert_eq!(names(client, "[fd10:2::100]:80", &expected), ["alpha", "beta"], "{case}");
                assert_eq!(names(client, "10.2.0.101:80", &expected), ["gamma"], "{case}");
                assert_eq!(names(client, "[fd10:2::101]:80", &expected), ["gamma"], "{case}");
                for address in ["10.2.0.100:53", "[fd10:2::100]:53"] {
                    traffic::echo(client, address, &expected[..1400]);
                    // In fragments, both ways.
                    traffic::echo(client, address, &expected[..20_000]);
                }
                for host in segment.hosts() {
                    assert_eq!(host.inside(netns::checksum_errors), 0, "{case}");
                }
            }
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
    });
}
