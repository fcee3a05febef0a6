//! The cases, by name.

use ringlet_driver::features::Features;

use super::forward::{Forward, Unit, forward};
use super::iperf3::{Iperf3, iperf3};
use super::{Args, Measured, boot, http, round_trip};
use crate::backend::OFFLOADS;
use crate::backend::generator::{LEAST_FRAME, LONGEST_ORDINARY};
use crate::backend::options::Protocol;

/// Something that can be measured.
#[derive(Debug)]
pub struct Case {
    /// How it is called.
    pub name: &'static str,
    /// What it is, for `--help`.
    pub about: &'static str,
    /// The unit of its value.
    pub unit: &'static str,
    /// Measures it once.
    pub measure: fn(&Args) -> anyhow::Result<Measured>,
}

const PLAIN: Forward = Forward {
    protocol: Protocol::Udp,
    v6: false,
    flows: 1,
    frame: LEAST_FRAME,
    large: false,
    coalesce: false,
    offloads: Features::empty(),
    without: Features::empty(),
    needs: Features::empty(),
    unit: Unit::Frames,
};
const CHECKSUM: Features = Features::CSUM.union(Features::GUEST_CSUM);
/// All that the generator can do.
const EVERYTHING: Features = OFFLOADS.difference(Features::RSC_EXT);
const UDP: Forward = Forward { large: true, unit: Unit::Payload, flows: 4, ..PLAIN };
const TCP: Forward = Forward { protocol: Protocol::Tcp, ..UDP };
/// A stream of ordinary segments, as from a network that knows no offloads.
const STREAM: Forward = Forward { large: false, frame: LONGEST_ORDINARY, offloads: EVERYTHING, ..TCP };

/// The same with all offloads, which it is about.
const fn offloaded(case: Forward, needs: Features) -> Forward {
    Forward { offloads: EVERYTHING, needs, ..case }
}

/// All of them.
pub static CASES: &[Case] = &[
    Case {
        name: "forward-1-flow",
        about: "UDP frames of 64 bytes of one client, by NAT to its server",
        unit: "Mpps",
        measure: |args| forward(args, &PLAIN),
    },
    Case {
        name: "forward-split",
        about: "the same over split rings",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { without: Features::RING_PACKED, ..PLAIN }),
    },
    Case {
        name: "forward-packed",
        about: "the same over packed rings",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { needs: Features::RING_PACKED, ..PLAIN }),
    },
    Case {
        name: "forward-10k-flows",
        about: "the same, of 10000 clients in turn",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { flows: 10_000, ..PLAIN }),
    },
    Case {
        name: "forward-tcp-10k-flows",
        about: "TCP frames of 64 bytes of 10000 connections in turn",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { flows: 10_000, protocol: Protocol::Tcp, ..PLAIN }),
    },
    Case {
        name: "forward-1514-bytes",
        about: "UDP frames of 1514 bytes of one client",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { frame: 1514, ..PLAIN }),
    },
    Case {
        name: "forward-checksum-offload",
        about: "forward-1-flow with partial checksums, as between machines of one host",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { offloads: CHECKSUM, ..PLAIN }),
    },
    Case {
        name: "forward-no-event-idx",
        about: "forward-1-flow without EVENT_IDX",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { without: Features::EVENT_IDX, ..PLAIN }),
    },
    Case {
        name: "forward-no-mrg-rxbuf",
        about: "forward-1-flow without MRG_RXBUF",
        unit: "Mpps",
        measure: |args| forward(args, &Forward { without: Features::MRG_RXBUF, ..PLAIN }),
    },
    Case {
        name: "super-tcp4",
        about: "TCP over IPv4 in super-frames of 64 KiB, of 4 connections",
        unit: "Gbit/s",
        measure: |args| forward(args, &offloaded(TCP, Features::GUEST_TSO4.union(Features::HOST_TSO4))),
    },
    Case {
        name: "super-tcp4-off",
        about: "the same without any offload, in frames of 1514 bytes",
        unit: "Gbit/s",
        measure: |args| forward(args, &TCP),
    },
    Case {
        name: "super-tcp6",
        about: "super-tcp4 over IPv6",
        unit: "Gbit/s",
        measure: |args| {
            forward(args, &Forward { v6: true, ..offloaded(TCP, Features::GUEST_TSO6.union(Features::HOST_TSO6)) })
        },
    },
    Case {
        name: "super-tcp6-off",
        about: "the same without any offload",
        unit: "Gbit/s",
        measure: |args| forward(args, &Forward { v6: true, ..TCP }),
    },
    Case {
        name: "super-udp",
        about: "UDP over IPv4 in super-frames of 64 KiB (USO), of 4 clients",
        unit: "Gbit/s",
        measure: |args| forward(args, &offloaded(UDP, Features::GUEST_USO4.union(Features::HOST_USO))),
    },
    Case {
        name: "super-udp-off",
        about: "the same without any offload",
        unit: "Gbit/s",
        measure: |args| forward(args, &UDP),
    },
    Case {
        name: "stream-coalesced",
        about: "TCP in frames of 1514 bytes, of 4 connections, which the device puts together (RSC_EXT)",
        unit: "Gbit/s",
        measure: |args| forward(args, &Forward { coalesce: true, needs: Features::RSC_EXT, ..STREAM }),
    },
    Case { name: "stream", about: "the same, one by one", unit: "Gbit/s", measure: |args| forward(args, &STREAM) },
    Case {
        name: "roundtrip-split",
        about: "frames of 64 bytes between the guest's driver and dpdk-testpmd's vhost port, over split virtqueues",
        unit: "Mpps",
        measure: |args| round_trip::ringlet(args, false),
    },
    Case {
        name: "roundtrip-split-dpdk",
        about: "the same frames, the same port, and DPDK's own driver (virtio-user) in another dpdk-testpmd",
        unit: "Mpps",
        measure: |args| round_trip::dpdk(args, false),
    },
    Case {
        name: "roundtrip-packed",
        about: "roundtrip-split over packed virtqueues",
        unit: "Mpps",
        measure: |args| round_trip::ringlet(args, true),
    },
    Case {
        name: "roundtrip-packed-dpdk",
        about: "roundtrip-split-dpdk over packed virtqueues",
        unit: "Mpps",
        measure: |args| round_trip::dpdk(args, true),
    },
    Case {
        name: "boot",
        about: "from the start of the process to the first byte of an HTTP answer through the balancer",
        unit: "ms",
        measure: boot::boot,
    },
    Case {
        name: "http",
        about: "HTTP connections, each with one request, from this host through the balancer to a server in the process",
        unit: "conn/s",
        measure: http::http,
    },
];

const TO_GUEST: Iperf3 = Iperf3 { reverse: false, without: Features::empty() };
const FROM_GUEST: Iperf3 = Iperf3 { reverse: true, ..TO_GUEST };

/// Those that need root and programs of this host: only measured if they are named.
pub static PRIVILEGED: &[Case] = &[
    Case {
        name: "iperf3-to-guest",
        about: "iperf3 from Linux through a tap to the guest's server, of what it does between two namespaces",
        unit: "of veth",
        measure: |args| iperf3(args, &TO_GUEST),
    },
    Case {
        name: "iperf3-to-guest-off",
        about: "the same without any offload",
        unit: "of veth",
        measure: |args| iperf3(args, &Iperf3 { without: OFFLOADS, ..TO_GUEST }),
    },
    Case {
        name: "iperf3-from-guest",
        about: "iperf3-to-guest with -R: the guest sends",
        unit: "of veth",
        measure: |args| iperf3(args, &FROM_GUEST),
    },
    Case {
        name: "iperf3-from-guest-off",
        about: "the same without any offload",
        unit: "of veth",
        measure: |args| iperf3(args, &Iperf3 { without: OFFLOADS, ..FROM_GUEST }),
    },
];

/// All there are.
pub fn all() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(PRIVILEGED)
}

/// The names, for messages.
pub fn names() -> String {
    all().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

/// What `--help` says about them.
pub fn help() -> String {
    let mut text = "Cases:\n".to_owned();
    for Case { name, about, unit, .. } in CASES {
        text += &format!("  {name:26} {about} ({unit})\n");
    }
    text += "Cases that need root, ip and iperf3, only measured if they are named:\n";
    for Case { name, about, unit, .. } in PRIVILEGED {
        text += &format!("  {name:26} {about} ({unit})\n");
    }
    text
}
