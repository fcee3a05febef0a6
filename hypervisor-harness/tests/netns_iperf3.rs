//! Linux's TCP, by way of iperf3, against the guest's stack through a TAP interface and a bridge: IPv4 and IPv6, with each set
//! of offloads on the guest's side, and with and without them on the host's, so that Linux has to cut what the guest left
//! whole. Needs root and KVM.

mod common;

use common::iperf3::{self, Report};
use common::netns::{self, Host, ip};
use common::ringlet::Ringlet;

const MIB: u64 = 1 << 20;

/// Frames and bytes that the guest has sent.
fn transmitted(host: &Host) -> (u64, u64) {
    let text = host.inside(|| common::http::get("10.7.0.2:9100".parse().expect("an address"), "/metrics"));
    let text = text.expect("metrics");
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse::<u64>().expect("a number")
    };
    (value("ringlet_transmit_frames_total "), value("ringlet_transmit_bytes_total "))
}

fn run(host: &Host, arguments: &str) -> Report {
    host.inside(|| iperf3::run(arguments)).unwrap_or_else(|error| panic!("iperf3 {arguments}: {error}"))
}

/// A guest on the tap whose driver takes these features, with its iperf3 server at port 5333.
fn guest(features: &str) -> Ringlet {
    let features = format!("--features={features}");
    let addresses = ["--ip", "10.7.0.2/24", "--ip", "fd07::2/64"];
    let arguments = [&["run", "--net", "tap=iperf0"][..], &addresses, &[&features, "--append", "iperf3=5333"]].concat();
    Ringlet::start(&arguments)
}

#[test]
fn linux_and_the_guest_agree_with_every_set_of_offloads() {
    needs_kvm!();
    netns::inside(|| {
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        ip("tuntap add dev iperf0 mode tap");
        ip("link set iperf0 master bridge0 up");
        let host = Host::new();
        ip("link add client type veth peer name inner");
        host.adopt("inner");
        ip("link set client master bridge0 up");
        for words in [
            "link set lo up",
            "address add 10.7.0.1/24 dev inner",
            "address add fd07::1/64 dev inner nodad",
            "link set inner up",
        ] {
            host.ip(words);
        }
        host.inside(|| netns::ready("fd07::1".parse().expect("an address")));
        let file = std::env::temp_dir().join(format!("ringlet-iperf3-{}", std::process::id()));
        for (features, large) in [
            ("+csum", [true, true]),
            ("-host_tso6", [true, false]),
            ("-host_tso4", [false, true]),
            ("-csum,-host_tso4,-host_tso6,-host_ufo,-host_uso", [false, false]),
            (
                "-csum,-guest_csum,-host_tso4,-host_tso6,-host_ufo,-host_uso,-guest_tso4,-guest_tso6,-guest_ufo,-guest_uso4,\
                 -guest_uso6,-mrg_rxbuf",
                [false, false],
            ),
        ] {
            let ringlet = guest(features);
            for offloads in [true, false] {
                netns::checksum_offload("client", offloads);
                host.checksum_offload("inner", offloads);
                for (address, large) in [("10.7.0.2", large[0]), ("fd07::2", large[1])] {
                    let case = format!("{features}, {address}, Linux's offloads {offloads}");
                    let client = format!("-c {address} -p 5333");
                    let (sent, received) = run(&host, &format!("{client} -n 20M")).bytes();
                    assert!(sent >= 20 * MIB && received > 0 && received <= sent, "{case}: {sent} {received}");

                    let before = transmitted(&host);
                    let _ = std::fs::remove_file(&file);
                    let arguments = format!("{client} -n 20M -R --repeating-payload -F {}", file.display());
                    let (sent, received) = run(&host, &arguments).bytes();
                    assert!(received >= 20 * MIB && received <= sent, "{case}: {sent} {received}");
                    let after = transmitted(&host);
                    let mean = (after.1 - before.1) / (after.0 - before.0);
                    // Acknowledgements and the metrics' own frames lower it a little.
                    assert_eq!(mean > 3000, large, "{case}: {mean} bytes a frame");
                    let bytes = std::fs::read(&file).expect("what the client received");
                    assert!(bytes.len() as u64 >= 20 * MIB, "{case}: {} bytes", bytes.len());
                    let broken = bytes.iter().enumerate().find(|(nth, byte)| **byte != b'0' + (nth % 10) as u8);
                    assert_eq!(broken, None, "{case}");

                    let report = run(&host, &format!("{client} -u -b 20M -n 500K --bidir"));
                    assert!(report.number("sum_received", "bytes") > 0, "{case}");
                    assert!(report.number("sum_received_bidir_reverse", "bytes") > 0, "{case}");
                    assert_eq!(host.inside(netns::checksum_errors), 0, "{case}");
                }
            }
            run(&host, "-c fd07::2 -p 5333 -n 20M -P 4 --bidir");
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
        let _ = std::fs::remove_file(&file);
    });
}

#[test]
fn segments_are_no_larger_than_a_smaller_mtu_of_the_peer() {
    needs_kvm!();
    netns::inside(|| {
        ip("tuntap add dev iperf0 mode tap");
        for words in [
            "address add 10.7.0.1/24 dev iperf0",
            "address add fd07::1/64 dev iperf0 nodad",
            "link set iperf0 mtu 1300 up",
        ] {
            ip(words);
        }
        // A device that does not cut: what the guest sends is what there is.
        for features in ["+csum", "-host_tso4,-host_tso6"] {
            let ringlet = guest(features);
            for address in ["10.7.0.2", "fd07::2"] {
                let client = format!("-c {address} -p 5333 -n 10M");
                for arguments in [client.clone(), format!("{client} -R"), format!("{client} -R -M 600")] {
                    let report =
                        iperf3::run(&arguments).unwrap_or_else(|error| panic!("{features}, {arguments}: {error}"));
                    assert!(report.bytes().1 > 0, "{features}, {arguments}");
                }
            }
            assert_eq!(netns::checksum_errors(), 0, "{features}");
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
    });
}
