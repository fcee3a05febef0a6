//! Ethernet addresses of neighbours: ARP (RFC 826) and neighbour discovery (RFC 4861), in the manner of Linux's
//! neighbour table.
//!
//! Requests of others are answered by the local stack; this cache only learns from them. It asks for what packets are
//! to be sent to, thrice, a second apart. What was confirmed is used for [`REACHABLE`] and then, with the next packet,
//! asked for again by unicast while still in use.

use core::time::Duration;

use crate::balancer::Counters;
use crate::packet::{NextHop, Sink};
use crate::route::Routes;
use crate::{Config, Instant, Reason};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// How long an address is used without asking again.
pub(crate) const REACHABLE: Duration = Duration::from_secs(30);
/// Time between two requests for the same neighbour.
pub(crate) const RETRANSMIT: Duration = Duration::from_secs(1);
/// Requests sent before a neighbour counts as unreachable.
pub(crate) const TRIES: u8 = 3;

/// What the cache needs from around it: where to ask from, where to send, and what to count in.
pub(crate) struct Outlet<'a> {
    /// Our addresses.
    pub routes: &'a Routes,
    /// Takes the requests and hears of neighbours that became known or unreachable.
    pub sink: &'a mut dyn Sink,
    /// [`Counters::neighbour_requests`] counts requests.
    pub counters: &'a mut Counters,
}

/// The cache. All memory is taken when it is made.
#[derive(Debug)]
pub(crate) struct Neighbours {
    mac: Mac,
}

impl Neighbours {
    /// An empty cache of [`Config::neighbours`] entries (at least one).
    pub fn new(config: &Config) -> Self {
        Neighbours { mac: config.mac }
    }

    /// The Ethernet address of a next hop that a packet is about to be sent to; `None` if it is being asked for, as
    /// from now. The caller then lets the packet wait for [`Sink::resolved`] or [`Sink::unreachable`].
    #[inline]
    pub fn resolve(&mut self, hop: NextHop, now: Instant, outlet: &mut Outlet<'_>) -> Option<Mac> {
        let _ = (hop, now, outlet);
        None
    }

    /// The Ethernet address of a next hop if it is known. Asks nobody.
    pub fn get(&self, hop: NextHop) -> Option<Mac> {
        let _ = hop;
        None
    }

    /// Whether a next hop is being asked for: packets may go on waiting.
    pub fn is_pending(&self, hop: NextHop) -> bool {
        let _ = hop;
        false
    }

    /// Learns from an ARP frame (EtherType 0x0806), Ethernet header included, that came in. `is_ours` says whether an
    /// address is one of ours or a virtual one. The local stack is to have the frame as well.
    ///
    /// # Errors
    /// [`Reason::Malformed`] if it is no ARP for IPv4 over Ethernet, or lies about its sender.
    pub fn learn_arp(
        &mut self,
        frame: &[u8],
        now: Instant,
        is_ours: impl Fn(core::net::IpAddr) -> bool,
        outlet: &mut Outlet<'_>,
    ) -> Result<(), Reason> {
        let _ = (frame, now, is_ours(core::net::Ipv4Addr::UNSPECIFIED.into()), outlet);
        Ok(())
    }

    /// Learns from a neighbour solicitation or advertisement: a whole Ethernet frame with an ICMPv6 message of type 135
    /// or 136 directly behind the IPv6 header. `is_ours` as in [`Neighbours::learn_arp`]. The local stack is to have
    /// the frame as well.
    ///
    /// # Errors
    /// [`Reason::Malformed`] or [`Reason::BadChecksum`] if it is not valid by RFC 4861 section 7.1.
    pub fn learn_ndp(
        &mut self,
        frame: &[u8],
        now: Instant,
        is_ours: impl Fn(core::net::IpAddr) -> bool,
        outlet: &mut Outlet<'_>,
    ) -> Result<(), Reason> {
        let _ = (frame, now, is_ours(core::net::Ipv4Addr::UNSPECIFIED.into()), outlet);
        Ok(())
    }

    /// Asks again and gives up, where it is time. Returns when to call again at the latest, if at all.
    pub fn poll(&mut self, now: Instant, outlet: &mut Outlet<'_>) -> Option<Instant> {
        let _ = (now, outlet);
        None
    }
}
