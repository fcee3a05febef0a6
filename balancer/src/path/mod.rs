//! The way of a frame through the balancer.
//!
//! A burst goes through in phases, so that the cache misses of its packets overlap instead of adding up: all headers are
//! read and hashed, then all chains looked up, then all connections, and only then is anything decided, in order.

mod announce;
mod around;
mod beyond;
mod cookie;
mod defense;
mod flow;
mod fragments;
mod ftp;
mod limits;
mod nat;
mod openings;
mod persist;
mod related;
mod schedule;
mod secured;
mod segment;
mod sequence;
mod stray;
mod timers;
mod tunnel;
mod undeliverable;

use alloc::boxed::Box;
use core::net::IpAddr;

use crate::Balancer;
use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::connection::{Direction, Node, Tuple};
use crate::frame::transport::Transport;
use crate::frame::{self, Fragment, Headers, Ip, Kind, is_group, protocol};
use crate::icmp::{self, Problem};
use crate::neighbour::{Hop, Mac, Outlet};
use crate::packet::{NextHop, Packet, Reason, Sink, Verdict};
use crate::route::Way;
use crate::time::Instant;

pub(crate) use defense::{Defense, Scan};
pub(crate) use fragments::Fragments;
pub(crate) use openings::Openings;
pub(crate) use timers::Timers;
pub(crate) use tunnel::TunnelEnd;

/// Frames whose lookups overlap.
const BURST: usize = 32;

/// Length of a UDP header.
const UDP_HEADER: usize = 8;

/// ICMPv6 types of neighbour discovery, RFC 4861.
mod discovery {
    pub const SOLICITATION: u8 = 135;
    pub const ADVERTISEMENT: u8 = 136;
}

/// What a decision may end with early.
type Decision = Result<Verdict, Reason>;

/// When it is, and where to say what is to be said.
pub(crate) struct Moment<'a> {
    pub now: Instant,
    pub sink: &'a mut dyn Sink,
}

/// What is found out about a packet before anything is decided.
#[derive(Clone, Copy, Debug)]
struct Item {
    headers: Headers,
    kind: Result<Kind, Reason>,
    /// Of its tuple, and where connections of this hash begin.
    hash: u32,
    chain: Node,
    /// Its connection, if it has one.
    found: Option<(u32, Direction)>,
}

impl Item {
    const NONE: Self =
        Self { headers: Headers::NONE, kind: Err(Reason::Malformed), hash: 0, chain: Node::NONE, found: None };

    /// The tuple of a packet that has one.
    #[inline(always)]
    fn tuple(&self) -> Tuple {
        tuple(&self.headers.ip, &self.headers.transport)
    }
}

/// Where the headers of a burst and what is found of them are kept. In one place for good: it would be much to clear each time.
#[derive(Debug)]
pub(crate) struct Workbench([Item; BURST]);

impl Workbench {
    /// An empty one.
    pub fn new() -> Self {
        Self([Item::NONE; BURST])
    }
}

/// The tuple of a packet.
#[inline(always)]
fn tuple(ip: &Ip, transport: &Transport) -> Tuple {
    Tuple {
        protocol: transport.protocol,
        source: ip.source,
        source_port: transport.source_port,
        destination: ip.destination,
        destination_port: transport.destination_port,
    }
}

/// The tuple of a packet that an ICMP error quotes.
fn tuple_of(quoted: &icmp::Quoted) -> Tuple {
    Tuple {
        protocol: quoted.protocol,
        source: quoted.source,
        source_port: quoted.source_port,
        destination: quoted.destination,
        destination_port: quoted.destination_port,
    }
}

/// Whether a packet can go to a server as it is. A gateway would send it back to us: it is still addressed to the service.
fn direct(way: Way) -> Result<(), Reason> {
    if way == Way::Link { Ok(()) } else { Err(Reason::NoRoute) }
}

impl Balancer {
    /// Decides on any number of frames.
    pub(crate) fn run(&mut self, burst: &mut [Packet<'_>], moment: &mut Moment<'_>) {
        let waiting = self.counters.waiting;
        self.neighbours.at(moment.now);
        if self.is_passive() {
            self.run_passive(burst, moment);
        } else {
            for packets in burst.chunks_mut(BURST) {
                self.burst(packets, moment);
            }
        }
        if self.sync.is_waiting {
            self.send_due(moment);
        }
        if self.counters.waiting != waiting {
            self.settle(burst);
        }
    }

    /// Looks again at frames that wait: a later frame of the same burst may have brought the answer, and the caller, who
    /// has not seen them yet, would wait for another one.
    #[cold]
    fn settle(&mut self, burst: &mut [Packet<'_>]) {
        for packet in burst {
            let Verdict::Wait(hop) = packet.verdict else { continue };
            let Some(verdict) = packet.with_ethernet(|ethernet| self.complete(ethernet, hop)) else { continue };
            packet.verdict = verdict;
            match packet.verdict {
                Verdict::Wait(_) => continue,
                Verdict::Transmit => self.counters.forwarded += 1,
                _ => {}
            }
            self.counters.waiting -= 1;
        }
    }

    fn burst(&mut self, packets: &mut [Packet<'_>], moment: &mut Moment<'_>) {
        // It is put back below; nothing in between comes here.
        let mut bench = self.bench.take().unwrap_or_else(|| Box::new(Workbench::new()));
        let items = &mut bench.0[..packets.len()];
        for (packet, item) in packets.iter().zip(&mut *items) {
            let len = packet.len.max(packet.head.len());
            item.kind = frame::parse_into(&mut item.headers, packet.head, len, &self.config.mac);
            item.hash = match item.kind {
                Ok(Kind::Flow) => self.table.hash(&item.tuple()),
                _ => 0,
            };
        }
        for item in &mut *items {
            item.chain = self.table.first(item.hash);
        }
        for item in &mut *items {
            if let Ok(Kind::Flow) = item.kind {
                item.found = self.table.find_from(item.chain, item.hash, &item.tuple());
            }
        }
        let version = self.table.version();
        for (packet, item) in packets.iter_mut().zip(items) {
            if self.table.version() != version
                && let Ok(Kind::Flow) = item.kind
            {
                // A packet before this one has brought or ended a connection.
                item.found = self.table.find_from(self.table.first(item.hash), item.hash, &item.tuple());
            }
            let decision = match item.kind {
                Ok(kind) => self.decide(packet, kind, &item.headers, item.found, moment),
                Err(reason) => Err(reason),
            };
            self.conclude(packet, decision);
        }
        self.bench = Some(bench);
    }

    /// Says to a packet, and counts, what was decided.
    #[inline(always)]
    fn conclude(&mut self, packet: &mut Packet<'_>, decision: Decision) {
        self.counters.frames += 1;
        match decision {
            // The usual verdict is one byte; the largest is not to be moved about with it.
            Ok(Verdict::Transmit) => {
                packet.verdict = Verdict::Transmit;
                self.counters.forwarded += 1;
            }
            Ok(Verdict::Local) => {
                packet.verdict = Verdict::Local;
                self.counters.local += 1;
            }
            Ok(Verdict::Taken) => {
                packet.verdict = Verdict::Taken;
                self.counters.taken += 1;
            }
            Ok(Verdict::Wait(hop)) => {
                packet.verdict = Verdict::Wait(hop);
                self.counters.waiting += 1;
            }
            Ok(Verdict::Held) => {
                packet.verdict = Verdict::Held;
                self.counters.held += 1;
            }
            Ok(Verdict::Drop(reason)) | Err(reason) => {
                packet.verdict = Verdict::Drop(reason);
                self.counters.dropped[reason as usize] += 1;
            }
        }
    }

    /// Whether nothing is balanced for now, because this is a backup (sysctl `backup_only`).
    #[inline(always)]
    pub(super) fn is_passive(&self) -> bool {
        self.sysctls.backup_only != 0 && self.sync.is_backup()
    }

    /// Decides on frames while nothing is balanced: what is for one of our addresses is the local stack's, whole or in fragments.
    /// Replies of servers go on, and errors about what they were sent, as in Linux.
    #[cold]
    fn run_passive(&mut self, burst: &mut [Packet<'_>], moment: &mut Moment<'_>) {
        for packet in burst {
            let mut headers = Headers::NONE;
            let len = packet.len.max(packet.head.len());
            let decision = match frame::parse_into(&mut headers, packet.head, len, &self.config.mac) {
                Ok(kind @ (Kind::Flow | Kind::First)) => {
                    let Headers { ip, transport } = &headers;
                    let found = self.table.find(&tuple(ip, transport));
                    match found.filter(|&(place, _)| !self.table.is_over(place, moment.now)) {
                        Some((place, Direction::Outbound)) => {
                            self.decide(packet, kind, &headers, Some((place, Direction::Outbound)), moment)
                        }
                        _ if is_group(packet.head) => {
                            let is_taken = self.take_datagram(packet, ip, transport, moment);
                            if is_taken { Ok(Verdict::Taken) } else { Err(Reason::NotToUs) }
                        }
                        _ if self.is_ours(ip.destination) => Ok(Verdict::Local),
                        _ => Err(Reason::NotOurs),
                    }
                }
                Ok(Kind::Other) if headers.ip.fragment == Fragment::Later && self.is_ours(headers.ip.destination) => {
                    Ok(Verdict::Local)
                }
                Ok(kind) => self.decide(packet, kind, &headers, None, moment),
                Err(reason) => Err(reason),
            };
            self.conclude(packet, decision);
        }
    }

    #[inline(always)]
    fn decide(
        &mut self,
        packet: &mut Packet<'_>,
        kind: Kind,
        Headers { ip, transport }: &Headers,
        found: Option<(u32, Direction)>,
        moment: &mut Moment<'_>,
    ) -> Decision {
        match kind {
            Kind::Arp => {
                let Moment { now, sink } = moment;
                let (routes, services) = (&self.routes, &self.services);
                let is_ours = |a| routes.is_own(a) || services.is_virtual(&a);
                let mut outlet = Outlet { routes, sink: &mut **sink, counters: &mut self.counters };
                self.neighbours.learn_arp(packet.head, *now, is_ours, &mut outlet)?;
                self.resume_fragments(moment);
                Ok(Verdict::Local)
            }
            Kind::Flow => match found {
                Some((place, direction)) => self.flow(packet, ip, transport, (place, direction), moment),
                None => self.unknown(packet, ip, transport, moment),
            },
            Kind::First if self.is_followed(ip) => self.fragment(packet, ip, Some(transport), moment),
            Kind::First if is_group(packet.head) => Err(Reason::NotToUs),
            Kind::First if !self.is_source(ip.source) => Err(Reason::BadSource),
            // The local stack puts its own together.
            Kind::First => Ok(Verdict::Local),
            Kind::Other => self.other(packet, ip, moment),
        }
    }

    /// Whether an address is one of ours, virtual ones included.
    fn is_ours(&self, address: IpAddr) -> bool {
        self.services.is_virtual(&address) || self.routes.is_own(address)
    }

    /// Whether packets can come from an address: it names one host, and not us.
    fn is_source(&self, address: IpAddr) -> bool {
        let unicast = match address {
            IpAddr::V4(a) => is_unicast_v4(a) && !self.routes.is_broadcast(a),
            IpAddr::V6(a) => is_unicast_v6(a),
        };
        unicast && !self.is_ours(address)
    }

    /// What has no ports, or hides them.
    fn other(&mut self, packet: &mut Packet<'_>, ip: &Ip, moment: &mut Moment<'_>) -> Decision {
        if matches!(ip.protocol, protocol::ESP | protocol::AH)
            && let Some(verdict) = self.secured(packet, ip, moment)?
        {
            return Ok(verdict);
        }
        if ip.fragment == Fragment::Later && self.is_followed(ip) {
            return self.fragment(packet, ip, None, moment);
        }
        let icmp = if ip.is_v6() { protocol::ICMPV6 } else { protocol::ICMP };
        let is_icmp = ip.protocol == icmp && ip.fragment == Fragment::Whole;
        if is_icmp {
            let Some(&kind) = packet.head.get(ip.payload) else { return Err(Reason::Malformed) };
            if ip.is_v6() && matches!(kind, discovery::SOLICITATION | discovery::ADVERTISEMENT) {
                self.learn(packet, moment)?;
            } else if let Some(verdict) = self.related(packet, ip, moment)? {
                return Ok(verdict);
            } else if self.routes.is_own(ip.destination)
                && let Some(verdict) = self.tunnel_error(packet, ip, moment)?
            {
                return Ok(verdict);
            }
        }
        if self.sync.is_on() && is_group(packet.head) {
            self.hear_query(packet, ip, moment.now);
        }
        let is_local = match ip.destination {
            address if self.is_ours(address) => true,
            // Neighbour discovery talks to groups, and to link-local addresses the local stack may have.
            IpAddr::V6(a) => is_icmp && (a.is_multicast() || a.is_unicast_link_local()),
            IpAddr::V4(_) => false,
        };
        if is_local { Ok(Verdict::Local) } else { Err(Reason::NotOurs) }
    }

    /// Learns from neighbour discovery.
    fn learn(&mut self, packet: &Packet<'_>, moment: &mut Moment<'_>) -> Result<(), Reason> {
        let Moment { now, sink } = moment;
        let (routes, services) = (&self.routes, &self.services);
        let is_ours = |a| routes.is_own(a) || services.is_virtual(&a);
        let mut outlet = Outlet { routes, sink: &mut **sink, counters: &mut self.counters };
        self.neighbours.learn_ndp(packet.head, *now, is_ours, &mut outlet)?;
        self.resume_fragments(moment);
        Ok(())
    }

    /// Tells the source of a packet, which must be as it came in, about a problem.
    #[cold]
    fn complain(&mut self, packet: &Packet<'_>, ip: &Ip, problem: Problem, moment: &mut Moment<'_>) {
        let is_to_us = self.is_ours(ip.destination);
        let Moment { now, sink } = moment;
        let mut outlet = Outlet { routes: &self.routes, sink: &mut **sink, counters: &mut self.counters };
        self.errors.send(packet, ip, problem, is_to_us, *now, &mut outlet);
    }

    /// Whether a packet may go on: it has hops left and is not larger than `mtu`. If not, its source is told. `segment` is
    /// the length of the headers within the IP packet that each segment of a super-frame repeats.
    #[inline(always)]
    fn may_pass(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        segment: usize,
        mtu: u16,
        moment: &mut Moment<'_>,
    ) -> Result<(), Reason> {
        if ip.hops <= 1 {
            self.complain(packet, ip, Problem::TimeExceeded, moment);
            return Err(Reason::TtlExceeded);
        }
        let len = match usize::from(packet.offload.gso_size) {
            0 => ip.len(),
            gso_size => {
                // The UDP header is in the first fragment only, and IPv6 has a fragment header, as long, in all of them.
                let is_bare = packet.offload.fragments && !ip.is_v6();
                let segment = if is_bare { segment.saturating_sub(UDP_HEADER) } else { segment };
                ip.len().min(segment + gso_size)
            }
        };
        if len > usize::from(mtu) {
            if ip.dont_fragment {
                self.complain(packet, ip, Problem::TooBig { mtu }, moment);
            }
            return Err(Reason::TooBig);
        }
        Ok(())
    }

    /// The way of a packet to an address. If there is none, its source is told.
    fn route(&mut self, packet: &Packet<'_>, ip: &Ip, to: &IpAddr, moment: &mut Moment<'_>) -> Result<Way, Reason> {
        if let Some(way) = self.routes.way(to) {
            return Ok(way);
        }
        self.complain(packet, ip, Problem::HostUnreachable, moment);
        Err(Reason::NoRoute)
    }

    /// Sends a finished packet on its way to an address.
    #[inline]
    fn transmit(&mut self, packet: &mut Packet<'_>, way: Way, to: &IpAddr, moment: &mut Moment<'_>) -> Decision {
        if way == Way::Link {
            return self.resolve(packet, way, to, moment);
        }
        let family = usize::from(to.is_ipv6());
        if let Some((_, mac)) = self.gateways[family].get(self.neighbours.generation()) {
            return self.depart(packet, mac);
        }
        let decision = self.resolve(packet, way, to, moment)?;
        self.gateways[family] = self.hop(packet, decision, way);
        Ok(decision)
    }

    /// The way of a packet to a destination, as it was last time or found anew.
    #[inline(always)]
    fn route_to(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        destination: u32,
        to: &IpAddr,
        moment: &mut Moment<'_>,
    ) -> Result<Way, Reason> {
        match self.services.pool[destination as usize].hop.get(self.neighbours.generation()) {
            Some((way, _)) => Ok(way),
            None => self.route(packet, ip, to, moment),
        }
    }

    /// Sends a finished packet to a destination.
    #[inline(always)]
    fn transmit_to(
        &mut self,
        packet: &mut Packet<'_>,
        destination: u32,
        way: Way,
        to: &IpAddr,
        moment: &mut Moment<'_>,
    ) -> Decision {
        match self.services.pool[destination as usize].hop.get(self.neighbours.generation()) {
            Some((_, mac)) => self.depart(packet, mac),
            None => self.transmit_first(packet, destination, way, to, moment),
        }
    }

    /// Sends a finished packet to a destination to which the way is not known, and remembers it.
    #[cold]
    fn transmit_first(
        &mut self,
        packet: &mut Packet<'_>,
        destination: u32,
        way: Way,
        to: &IpAddr,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let decision = self.resolve(packet, way, to, moment)?;
        self.services.pool[destination as usize].hop = self.hop(packet, decision, way);
        Ok(decision)
    }

    /// What is to be remembered after a packet has been addressed, if it was.
    fn hop(&self, packet: &mut Packet<'_>, decision: Verdict, way: Way) -> Hop {
        match (decision, packet.ethernet().and_then(|ethernet| ethernet.first_chunk())) {
            (Verdict::Transmit, Some(mac)) => Hop::new(self.neighbours.generation(), way, *mac),
            _ => Hop::UNKNOWN,
        }
    }

    /// Addresses a finished packet to the neighbour at the beginning of its way.
    fn resolve(&mut self, packet: &mut Packet<'_>, way: Way, to: &IpAddr, moment: &mut Moment<'_>) -> Decision {
        let Moment { now, sink } = moment;
        let hop = self.routes.neighbour(way, to);
        let mut outlet = Outlet { routes: &self.routes, sink: &mut **sink, counters: &mut self.counters };
        match self.neighbours.resolve(hop, *now, &mut outlet) {
            Some(mac) => self.depart(packet, mac),
            // Both addresses stay as they are: whom the packet came from is told if it waits in vain.
            None => Ok(Verdict::Wait(NextHop(*hop))),
        }
    }

    /// Writes the Ethernet addresses of a frame whose header lies in two pieces.
    #[cold]
    fn depart_apart(&self, packet: &mut Packet<'_>, mac: Mac) -> Decision {
        let written = packet.with_ethernet(|ethernet| {
            ethernet[..6].copy_from_slice(&mac);
            ethernet[6..12].copy_from_slice(&self.config.mac);
        });
        written.map(|()| Verdict::Transmit).ok_or(Reason::Malformed)
    }

    /// Writes the Ethernet addresses.
    #[inline(always)]
    fn depart(&self, packet: &mut Packet<'_>, mac: Mac) -> Decision {
        let Some(ethernet) = packet.ethernet() else { return self.depart_apart(packet, mac) };
        ethernet[..6].copy_from_slice(&mac);
        ethernet[6..12].copy_from_slice(&self.config.mac);
        Ok(Verdict::Transmit)
    }
}

#[cfg(test)]
mod tests;
