//! What does not go to a server elsewhere: to one that is this machine, or around the balancer.
//!
//! Follows ip_vs_nat_xmit and its like where the route is local, ip_vs_leave and ip_vs_bypass_xmit of Linux.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::schedule::Chosen;
use super::{Decision, Moment, nat, tuple};
use crate::Balancer;
use crate::connection::{Direction, Seen, Tuple};
use crate::frame::transport::Transport;
use crate::frame::{self, ETHERNET, Fragment, Headers, Ip, Kind, protocol};
use crate::icmp;
use crate::packet::{Packet, Verdict};
use crate::service::table::NOBODY;
use crate::service::{Protocol, ServiceKey};
use crate::time::Instant;

impl Balancer {
    /// A packet from the client to a destination that is no usual one: removed, this machine, or none at all.
    #[cold]
    pub(super) fn unusual(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let destination = self.table.get(place).destination;
        if destination == NOBODY {
            return match self.table.get(place).is_bypass() {
                true => self.go_around(packet, ip, transport, place, moment),
                false => self.unbound(packet, ip, transport, place, moment),
            };
        }
        if !self.services.pool[destination as usize].available {
            return self.orphan(packet, ip, transport, place, moment);
        }
        let bytes = ip.len() as u64;
        self.count(destination, |stats| {
            stats.in_packets += 1;
            stats.in_bytes += bytes;
        });
        // Whatever the method, what this machine answers is seen.
        self.track(place, Seen::Input, transport, moment.now);
        self.serves_itself = true;
        if !self.table.get(place).is_one_way() {
            let (address, port) = self.table.server(place);
            nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)?;
            // It stays here: that is no hop.
            nat::set_hops(packet.head, ip, ip.hops)?;
        }
        Ok(Verdict::Local)
    }

    /// Whether what begins a connection to a service without a destination is to go around the balancer (sysctl `cache_bypass`).
    pub(super) fn is_bypassed(&self, service: u32, ip: &Ip) -> bool {
        self.sysctls.cache_bypass != 0
            && self.services.service(service).is_some_and(|s| matches!(s.key, ServiceKey::Mark { .. }))
            && self.is_source(ip.destination)
    }

    /// Begins a connection around the balancer. It lasts one packet if the service's connections do.
    #[cold]
    pub(super) fn bypass(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        service: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let chosen = Chosen { destination: NOBODY, port: 0, template: None };
        let tuple = tuple(ip, transport);
        let place = self.begin(&tuple, Some((transport, 0)), &chosen, moment)?;
        let decision = self.go_around(packet, ip, transport, place, moment);
        if self.services.is_one_packet(service, transport.protocol) {
            self.note_one_packet(place, ip);
            self.end(place);
        }
        decision
    }

    /// Sends a packet of a connection around the balancer to where it is addressed. It is counted nowhere, as in Linux.
    fn go_around(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        self.track(place, Seen::Input, transport, moment.now);
        if transport.protocol == Protocol::Sctp {
            nat::complete_sctp(packet, ip)?;
        }
        self.pass(packet, ip, ip.payload - ETHERNET + transport.header, moment)
    }

    /// Sends a packet on to where it is addressed.
    pub(super) fn pass(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        headers: usize,
        moment: &mut Moment<'_>,
    ) -> Decision {
        self.may_pass(packet, ip, headers, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &ip.destination, moment)?;
        nat::decrement_hops(packet.head, ip)?;
        self.transmit(packet, way, &ip.destination, moment)
    }

    /// Looks at a packet of the local stack: one of a connection to this machine counts, and has the source that its client expects
    /// then.
    pub(crate) fn translate_own(&mut self, packet: &mut Packet<'_>, now: Instant) {
        let mut headers = Headers::NONE;
        let len = packet.len.max(packet.head.len());
        // It is not addressed to us.
        let Some(&to) = packet.head.first_chunk::<6>() else { return };
        match frame::parse_into(&mut headers, packet.head, len, &to) {
            Ok(Kind::Flow) => {}
            Ok(Kind::Other) => return self.translate_own_error(packet, &headers.ip, now),
            _ => return,
        }
        let Headers { ip, transport } = &headers;
        if ip.fragment != Fragment::Whole {
            return;
        }
        let Some(place) = self.find_own(&tuple(ip, transport)) else { return };
        let destination = self.table.get(place).destination;
        if self.table.is_over(place, now) || !self.services.pool[destination as usize].local {
            return;
        }
        let (address, port) = self.table.service(place);
        let rewritten = match (ip.source, transport.source_port) == (address, port) {
            true => Ok(()),
            false => nat::rewrite(packet, ip, transport, nat::End::Source, address, port)
                .and_then(|()| nat::set_hops(packet.head, ip, ip.hops)),
        };
        if rewritten.is_ok() {
            self.replied(ip, transport, place, now);
        }
    }

    /// An ICMP error of the local stack about a packet that was rewritten for it: the client is to know it as its own.
    #[cold]
    fn translate_own_error(&mut self, packet: &mut Packet<'_>, ip: &Ip, now: Instant) {
        let number = if ip.is_v6() { protocol::ICMPV6 } else { protocol::ICMP };
        if ip.protocol != number || ip.fragment != Fragment::Whole || packet.offload.partial.is_some() {
            return;
        }
        let Ok(Some(quote)) = icmp::parse(packet.head, ip) else { return };
        // What an answer to the quoted packet would look like.
        let answer = Tuple {
            protocol: quote.protocol,
            source: quote.destination,
            source_port: quote.destination_port,
            destination: quote.source,
            destination_port: quote.source_port,
        };
        let Some((place, Direction::Outbound)) = self.table.find(&answer) else { return };
        let destination = self.table.get(place).destination;
        let is_own = ip.destination == quote.source && self.services.pool[destination as usize].local;
        if !is_own || self.table.is_over(place, now) {
            return;
        }
        let (address, port) = self.table.service(place);
        if quote.for_client(packet.head, address, port).is_ok() && self.services.pool[destination as usize].available {
            let bytes = ip.len() as u64;
            self.count(destination, |stats| {
                stats.out_packets += 1;
                stats.out_bytes += bytes;
            });
        }
    }

    /// The connection of a packet of the local stack: it comes from the server, under NAT, or from the service.
    fn find_own(&self, sent: &Tuple) -> Option<u32> {
        let of_client = Tuple {
            protocol: sent.protocol,
            source: sent.destination,
            source_port: sent.destination_port,
            destination: sent.source,
            destination_port: sent.source_port,
        };
        match self.table.find(sent) {
            Some((place, Direction::Outbound)) => Some(place),
            _ => match self.table.find(&of_client) {
                Some((place, Direction::Inbound)) if self.table.get(place).is_one_way() => Some(place),
                _ => None,
            },
        }
    }
}

/// No address, in the family of another.
pub(super) fn no_address(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
