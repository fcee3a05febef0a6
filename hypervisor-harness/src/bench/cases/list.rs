//! All cases.

use ringlet_driver::features::Features;

use super::forward::{Forward, Method, Unit, forward};
use super::iperf3::{Server, To, iperf3};
use super::latency::{Busy, latency};
use super::{boot, bulk, calls, connections, footprint, http, idle, iperf3 as own_iperf3, kernel, round_trip, testpmd};
use crate::backend::OFFLOADS;
use crate::backend::generator::{LEAST_FRAME, LONGEST_ORDINARY};
use crate::backend::options::Protocol;
use crate::bench::case::{Better, Case, Side, When};
use crate::bench::net::Way;
use crate::bench::peers::testpmd::Rings;

const PLAIN: Forward = Forward {
    protocol: Protocol::Udp,
    v6: false,
    flows: 1,
    frame: LEAST_FRAME,
    large: false,
    method: Method::Nat,
    coalesce: false,
    offloads: Features::empty(),
    without: Features::empty(),
    needs: Features::empty(),
    unit: Unit::Frames,
};
/// A frame of UDP over IPv6, without frame check sequence: 20 bytes of header more than IPv4 has.
const IPV6_FRAME: usize = LEAST_FRAME + 20;
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

const OF_KERNEL: &str =
    "destination NAT in the kernel, between namespaces, one processor for it and one for the sender";
const OF_IPVS: &str = "IPVS in the kernel, the same way";
const OF_TESTPMD: &str = "the guest by vhost-user, dpdk-testpmd making the frames and serving the queues";
const OF_GENERATOR: &str = "the guest, our device, frames made in the process";
const THROUGH_GUEST: &str = "the guest, at a tap on a bridge with client and server";
const BY_XDP: &str = "the guest, by AF_XDP at the end of a pair of interfaces whose other is on that bridge";

const GIGABITS: Case = Case { unit: "Gbit/s", ..Case::PLAIN };
const MPPS: Case = Case { unit: "Mpps", ..Case::PLAIN };

/// All of them.
pub static CASES: &[Case] = &[
    Case {
        name: "nat-1-flow",
        about: "UDP frames of 64 bytes of one client, by NAT to its server",
        when: When::Full,
        sides: &[
            Side { name: "ringlet", about: OF_GENERATOR, measure: |args| forward(args, &PLAIN) },
            Side { name: "ringlet-testpmd", about: OF_TESTPMD, measure: |args| testpmd::forward(args, 1) },
            Side { name: "nftables", about: OF_KERNEL, measure: |args| kernel::forward(args, Way::Nftables, 1) },
            Side { name: "ipvs", about: OF_IPVS, measure: |args| kernel::forward(args, Way::Ipvs, 1) },
        ],
        ..MPPS
    },
    Case {
        name: "nat-10k-flows",
        about: "the same of 10000 clients in turn",
        target: ">= 8 Mpps a vCPU, >= 10 x nftables",
        sides: &[
            Side {
                name: "ringlet",
                about: OF_GENERATOR,
                measure: |args| forward(args, &Forward { flows: 10_000, ..PLAIN }),
            },
            Side { name: "ringlet-testpmd", about: OF_TESTPMD, measure: |args| testpmd::forward(args, 10_000) },
            Side { name: "nftables", about: OF_KERNEL, measure: |args| kernel::forward(args, Way::Nftables, 10_000) },
            Side { name: "ipvs", about: OF_IPVS, measure: |args| kernel::forward(args, Way::Ipvs, 10_000) },
        ],
        ..MPPS
    },
    Case {
        name: "nat-1m-flows",
        about: "the same of a million clients in turn",
        target: ">= 5 Mpps a vCPU, >= 10 x nftables",
        when: When::Full,
        sides: &[
            Side {
                name: "ringlet",
                about: OF_GENERATOR,
                measure: |args| forward(args, &Forward { flows: 1_000_000, ..PLAIN }),
            },
            Side {
                name: "nftables",
                about: OF_KERNEL,
                measure: |args| kernel::forward(args, Way::Nftables, 1_000_000),
            },
            Side { name: "ipvs", about: OF_IPVS, measure: |args| kernel::forward(args, Way::Ipvs, 1_000_000) },
        ],
        ..MPPS
    },
    Case {
        name: "direct-10k-flows",
        about: "the same of 10000 clients by direct routing",
        target: ">= 1.0 x NAT",
        sides: &[
            Side {
                name: "ringlet",
                about: OF_GENERATOR,
                measure: |args| forward(args, &Forward { flows: 10_000, method: Method::Direct, ..PLAIN }),
            },
            Side {
                name: "nat",
                about: "nat-10k-flows again",
                measure: |args| forward(args, &Forward { flows: 10_000, ..PLAIN }),
            },
        ],
        ..MPPS
    },
    Case {
        name: "ipip-10k-flows",
        about: "the same of 10000 clients by tunnels, IP in IP, over IPv4",
        target: ">= 1.0 x NAT",
        sides: &[
            Side {
                name: "ringlet",
                about: OF_GENERATOR,
                measure: |args| forward(args, &Forward { flows: 10_000, method: Method::Ipip, ..PLAIN }),
            },
            Side {
                name: "nat",
                about: "nat-10k-flows again",
                measure: |args| forward(args, &Forward { flows: 10_000, ..PLAIN }),
            },
        ],
        ..MPPS
    },
    Case {
        name: "frames",
        about: "other frames than nat-10k-flows', of as many clients",
        sides: &[
            Side {
                name: "udp-64-bytes",
                about: "nat-10k-flows again",
                measure: |args| forward(args, &Forward { flows: 10_000, ..PLAIN }),
            },
            Side {
                name: "tcp-64-bytes",
                about: "TCP",
                measure: |args| forward(args, &Forward { flows: 10_000, protocol: Protocol::Tcp, ..PLAIN }),
            },
            Side {
                name: "udp6-84-bytes",
                about: "over IPv6",
                measure: |args| forward(args, &Forward { flows: 10_000, v6: true, frame: IPV6_FRAME, ..PLAIN }),
            },
            Side {
                name: "udp-1514-bytes",
                about: "the longest ordinary ones",
                measure: |args| forward(args, &Forward { flows: 10_000, frame: LONGEST_ORDINARY, ..PLAIN }),
            },
        ],
        ..MPPS
    },
    Case {
        name: "rings",
        about: "nat-1-flow over each kind of ring, and without features of rings",
        sides: &[
            Side {
                name: "packed",
                about: "",
                measure: |args| forward(args, &Forward { needs: Features::RING_PACKED, ..PLAIN }),
            },
            Side {
                name: "split",
                about: "",
                measure: |args| forward(args, &Forward { without: Features::RING_PACKED, ..PLAIN }),
            },
            Side {
                name: "no-event-idx",
                about: "without EVENT_IDX",
                measure: |args| forward(args, &Forward { without: Features::EVENT_IDX, ..PLAIN }),
            },
            Side {
                name: "no-mrg-rxbuf",
                about: "without MRG_RXBUF",
                measure: |args| forward(args, &Forward { without: Features::MRG_RXBUF, ..PLAIN }),
            },
            Side {
                name: "partial-checksum",
                about: "with partial checksums, as between machines of one host",
                measure: |args| forward(args, &Forward { offloads: CHECKSUM, ..PLAIN }),
            },
        ],
        ..MPPS
    },
    Case {
        name: "super-tcp4",
        about: "TCP over IPv4, of 4 connections, by NAT",
        sides: &[
            Side {
                name: "super-frames",
                about: "of 64 KiB",
                measure: |args| forward(args, &offloaded(TCP, Features::GUEST_TSO4.union(Features::HOST_TSO4))),
            },
            Side { name: "no-offloads", about: "frames of 1514 bytes", measure: |args| forward(args, &TCP) },
            Side {
                name: "coalesced",
                about: "frames of 1514 bytes, which the device puts together (RSC_EXT)",
                measure: |args| forward(args, &Forward { coalesce: true, needs: Features::RSC_EXT, ..STREAM }),
            },
            Side {
                name: "not-coalesced",
                about: "the same frames, one by one",
                measure: |args| forward(args, &STREAM),
            },
        ],
        ..GIGABITS
    },
    Case {
        name: "super-tcp6",
        about: "TCP over IPv6, of 4 connections, by NAT",
        when: When::Full,
        sides: &[
            Side {
                name: "super-frames",
                about: "of 64 KiB",
                measure: |args| {
                    let needs = Features::GUEST_TSO6.union(Features::HOST_TSO6);
                    forward(args, &Forward { v6: true, ..offloaded(TCP, needs) })
                },
            },
            Side {
                name: "no-offloads",
                about: "frames of 1514 bytes",
                measure: |args| forward(args, &Forward { v6: true, ..TCP }),
            },
        ],
        ..GIGABITS
    },
    Case {
        name: "super-udp",
        about: "UDP over IPv4, of 4 clients, by NAT",
        when: When::Full,
        sides: &[
            Side {
                name: "super-frames",
                about: "of 64 KiB (USO)",
                measure: |args| forward(args, &offloaded(UDP, Features::GUEST_USO4.union(Features::HOST_USO))),
            },
            Side { name: "no-offloads", about: "frames of 1514 bytes", measure: |args| forward(args, &UDP) },
        ],
        ..GIGABITS
    },
    Case {
        name: "roundtrip-split",
        about: "frames of 64 bytes between a driver and dpdk-testpmd's vhost port, over split virtqueues",
        target: ">= 1.0 x DPDK",
        when: When::Full,
        sides: &[
            Side { name: "ringlet", about: "the guest's driver", measure: |args| round_trip::ringlet(args, false) },
            Side {
                name: "dpdk",
                about: "DPDK's own driver (virtio-user) in another dpdk-testpmd",
                measure: |args| round_trip::dpdk(args, Rings::Split),
            },
        ],
        ..MPPS
    },
    Case {
        name: "roundtrip-packed",
        about: "the same over packed virtqueues",
        target: ">= 1.0 x DPDK",
        when: When::Full,
        sides: &[
            Side { name: "ringlet", about: "the guest's driver", measure: |args| round_trip::ringlet(args, true) },
            Side {
                name: "dpdk",
                about: "DPDK's own driver (virtio-user) in another dpdk-testpmd",
                measure: |args| round_trip::dpdk(args, Rings::Packed),
            },
            Side {
                name: "dpdk-vectors",
                about: "the same driver's code for AVX-512",
                measure: |args| round_trip::dpdk(args, Rings::Vectors),
            },
        ],
        ..MPPS
    },
    Case {
        name: "connections",
        about: "TCP connections, opened, one request, one answer, closed: seven frames each, made in the process",
        unit: "conn/s",
        target: ">= 1000000 a vCPU",
        sides: &[Side { name: "ringlet", about: OF_GENERATOR, measure: calls::calls }],
        ..Case::PLAIN
    },
    Case {
        name: "connections-tap",
        about: "TCP connections between namespaces: opened, one request, one answer, closed",
        unit: "conn/s",
        target: ">= 1.0 x nftables, >= 3 x HAProxy",
        sides: &[
            Side {
                name: "ringlet",
                about: THROUGH_GUEST,
                measure: |args| connections::connections(args, Way::Ringlet),
            },
            Side { name: "ringlet-xdp", about: BY_XDP, measure: |args| connections::connections(args, Way::Xdp) },
            Side {
                name: "nftables",
                about: "destination NAT in the kernel",
                measure: |args| connections::connections(args, Way::Nftables),
            },
            Side { name: "ipvs", about: "", measure: |args| connections::connections(args, Way::Ipvs) },
            Side {
                name: "haproxy",
                about: "mode tcp, splice-auto",
                measure: |args| connections::connections(args, Way::Haproxy),
            },
            Side { name: "nginx", about: "stream", measure: |args| connections::connections(args, Way::Nginx) },
            Side {
                name: "direct",
                about: "nothing in between",
                measure: |args| connections::connections(args, Way::Direct),
            },
        ],
        ..Case::PLAIN
    },
    Case {
        name: "bulk-tap",
        about: "4 TCP connections between namespaces that carry as much as they can",
        target: ">= 1.0 x nftables, >= 2 x HAProxy",
        sides: &[
            Side { name: "ringlet", about: THROUGH_GUEST, measure: |args| bulk::bulk(args, Way::Ringlet) },
            Side { name: "ringlet-xdp", about: BY_XDP, measure: |args| bulk::bulk(args, Way::Xdp) },
            Side {
                name: "nftables",
                about: "destination NAT in the kernel",
                measure: |args| bulk::bulk(args, Way::Nftables),
            },
            Side { name: "haproxy", about: "mode tcp, splice-auto", measure: |args| bulk::bulk(args, Way::Haproxy) },
            Side { name: "direct", about: "nothing in between", measure: |args| bulk::bulk(args, Way::Direct) },
        ],
        ..GIGABITS
    },
    Case {
        name: "iperf3-to-guest",
        about: "iperf3 from Linux through a tap to the guest's own server",
        target: ">= 1.0 x veth",
        when: When::Full,
        sides: &[
            Side { name: "ringlet", about: "", measure: |args| iperf3(args, To::Guest, Server::Guest) },
            Side {
                name: "veth",
                about: "iperf3's own server in another namespace",
                measure: |args| iperf3(args, To::Guest, Server::Linux),
            },
            Side {
                name: "qemu",
                about: "the same guest at QEMU's virtio-net",
                measure: |args| iperf3(args, To::Guest, Server::Qemu),
            },
            Side {
                name: "no-offloads",
                about: "the guest without any offload",
                measure: |args| iperf3(args, To::Guest, Server::Plain),
            },
        ],
        ..GIGABITS
    },
    Case {
        name: "iperf3-from-guest",
        about: "the same with -R: the server sends",
        target: ">= 1.0 x veth",
        when: When::Full,
        sides: &[
            Side { name: "ringlet", about: "", measure: |args| iperf3(args, To::Linux, Server::Guest) },
            Side {
                name: "veth",
                about: "iperf3's own server in another namespace",
                measure: |args| iperf3(args, To::Linux, Server::Linux),
            },
            Side {
                name: "qemu",
                about: "the same guest at QEMU's virtio-net",
                measure: |args| iperf3(args, To::Linux, Server::Qemu),
            },
            Side {
                name: "no-offloads",
                about: "the guest without any offload",
                measure: |args| iperf3(args, To::Linux, Server::Plain),
            },
        ],
        ..GIGABITS
    },
    Case {
        name: "iperf3-in-process",
        about: "iperf3 over 127.0.0.1 and the network inside the process",
        target: ">= 60 Gbit/s",
        when: When::Full,
        sides: &[
            Side { name: "to-guest", about: "", measure: |args| own_iperf3::in_process(args, To::Guest) },
            Side { name: "from-guest", about: "", measure: |args| own_iperf3::in_process(args, To::Linux) },
            Side {
                name: "loopback",
                about: "iperf3's own server, with nothing in between",
                measure: own_iperf3::loopback,
            },
        ],
        ..GIGABITS
    },
    Case {
        name: "latency-idle",
        about: "UDP round trips between namespaces, 2000 a second",
        target: "p50 within 2 x of nftables",
        sides: LATENCY_IDLE,
        ..LATENCY
    },
    Case {
        name: "latency-half-load",
        about: "the same at half the greatest rate that goes through",
        when: When::Full,
        sides: LATENCY_HALF,
        ..LATENCY
    },
    Case {
        name: "boot",
        about: "from the start of the process to the first byte of the guest's status page",
        unit: "ms",
        better: Better::Less,
        target: "<= 15 ms (for scale: Firecracker says 125 ms for a Linux guest)",
        sides: &[
            Side { name: "ringlet", about: "", measure: boot::status_page },
            Side {
                name: "qemu-microvm",
                about: "the same image in QEMU's smallest machine, by KVM",
                measure: boot::in_qemu,
            },
            Side {
                name: "balanced",
                about: "ringlet, to the first byte of an answer through the balancer",
                measure: boot::balanced,
            },
        ],
        ..Case::PLAIN
    },
    Case {
        name: "http",
        about: "HTTP connections from this host through the balancer to a server in the process",
        unit: "conn/s",
        sides: &[Side { name: "ringlet", about: "", measure: http::http }],
        ..Case::PLAIN
    },
    Case {
        name: "image",
        about: "the unikernel's image",
        unit: "KiB",
        better: Better::Less,
        target: "<= 1024 KiB",
        sides: &[Side { name: "ringlet", about: "", measure: footprint::image_size }],
        ..Case::PLAIN
    },
    Case {
        name: "memory",
        about: "the host's process with a guest that has so many connections",
        unit: "MiB",
        better: Better::Less,
        values: &["0", "10k", "1M", "10M"],
        target: "<= 128 bytes a connection",
        when: When::Full,
        sides: &[Side { name: "ringlet", about: "", measure: footprint::memory }],
    },
    Case {
        name: "idle",
        about: "the processor's time that all threads of an idle guest's process take",
        unit: "% of a core",
        better: Better::Less,
        target: "< 1 %",
        sides: &[Side { name: "ringlet", about: "", measure: idle::idle }],
        ..Case::PLAIN
    },
];

const LATENCY: Case = Case { unit: "us", better: Better::Less, values: &["p50", "p99", "p99.9"], ..Case::PLAIN };
const LATENCY_IDLE: &[Side] = &[
    Side { name: "ringlet", about: THROUGH_GUEST, measure: |args| latency(args, Way::Ringlet, Busy::Idle) },
    Side { name: "nftables", about: "", measure: |args| latency(args, Way::Nftables, Busy::Idle) },
    Side { name: "direct", about: "nothing in between", measure: |args| latency(args, Way::Direct, Busy::Idle) },
];
const LATENCY_HALF: &[Side] = &[
    Side { name: "ringlet", about: THROUGH_GUEST, measure: |args| latency(args, Way::Ringlet, Busy::Half) },
    Side { name: "nftables", about: "", measure: |args| latency(args, Way::Nftables, Busy::Half) },
    Side { name: "direct", about: "nothing in between", measure: |args| latency(args, Way::Direct, Busy::Half) },
];
