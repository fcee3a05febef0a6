//! The cases, by name.

use ringlet_driver::features::Features;

use super::forward::{Forward, forward};
use super::{Args, Measured, boot, http};
use crate::backend::generator::LEAST_FRAME;
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
    flows: 1,
    frame: LEAST_FRAME,
    offloads: Features::empty(),
    without: Features::empty(),
};
const CHECKSUM: Features = Features::CSUM.union(Features::GUEST_CSUM);

/// All of them.
pub static CASES: &[Case] = &[
    Case {
        name: "forward-1-flow",
        about: "UDP frames of 64 bytes of one client, by NAT to its server",
        unit: "Mpps",
        measure: |args| forward(args, &PLAIN),
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

/// The names, for messages.
pub fn names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ")
}

/// What `--help` says about them.
pub fn help() -> String {
    let mut text = "Cases:\n".to_owned();
    for Case { name, about, unit, .. } in CASES {
        text += &format!("  {name:26} {about} ({unit})\n");
    }
    text
}
