//! Packets of connections that are known.

use super::{Decision, Moment, direct, nat};
use crate::Balancer;
use crate::connection::{Direction, Entry, SctpState, Seen, State, TcpState, is_active};
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Ip, is_group};
use crate::packet::{Packet, Reason};
use crate::route::Way;
use crate::service::Protocol;
use crate::stats::Stats;
use crate::time::Instant;

impl Balancer {
    /// A packet of a connection, not on the usual way here: it gets no copy of [`Balancer::flow`] of its own.
    #[cold]
    #[inline(never)]
    pub(super) fn flow_apart(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        found: (u32, Direction),
        moment: &mut Moment<'_>,
    ) -> Decision {
        self.flow(packet, ip, transport, found, moment)
    }

    /// A packet of a connection.
    #[inline(always)]
    pub(super) fn flow(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        (place, direction): (u32, Direction),
        moment: &mut Moment<'_>,
    ) -> Decision {
        // First of all: a packet that is not taken ends no connection.
        if is_group(packet.head) {
            return Err(Reason::NotToUs);
        }
        if self.table.is_over(place, moment.now) || self.begins_anew(place, direction, transport) {
            self.end(place);
            return self.unknown(packet, ip, transport, moment);
        }
        match direction {
            Direction::Inbound => self.inbound(packet, ip, transport, place, moment),
            Direction::Outbound => self.outbound(packet, ip, transport, place, moment),
        }
    }

    /// Whether a client uses the ports of a connection for a new one, and the old one is of no more use (sysctls
    /// `conn_reuse_mode` and `expire_nodest_conn`).
    fn begins_anew(&self, place: u32, direction: Direction, transport: &Transport) -> bool {
        if !transport.flags.contains(TcpFlags::SYN) || direction != Direction::Inbound {
            return false;
        }
        let (entry, mode) = (self.table.get(place), self.sysctls.conn_reuse_mode);
        let is_drained = self.services.pool[entry.destination as usize].config.weight == 0;
        if self.sysctls.expire_nodest_conn != 0 && is_drained {
            return true;
        }
        if entry.template().is_some() {
            return false;
        }
        match State::from_number(transport.protocol, entry.state()) {
            State::Tcp(TcpState::TimeWait | TcpState::Close) | State::Sctp(SctpState::Closed) => mode != 0,
            State::Tcp(TcpState::FinWait) => mode & 2 != 0 && entry.is_one_way(),
            _ => false,
        }
    }

    /// A packet of a connection whose destination was removed: dropped until the connection ends, or the connection ends
    /// now (sysctl `expire_nodest_conn`).
    #[cold]
    pub(super) fn orphan(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        if self.sysctls.expire_nodest_conn == 0 {
            return Err(Reason::DestinationGone);
        }
        self.end(place);
        self.unknown(packet, ip, transport, moment)
    }

    /// A packet of a connection that came by synchronization and goes to a server that is no destination here: it goes there as
    /// the connection says, and is not counted. By a tunnel it cannot, for of what kind that would be nobody has told.
    pub(super) fn unbound(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let entry = self.table.get(place);
        let (is_one_way, is_tunnel) = (entry.is_one_way(), entry.is_tunnel());
        if is_tunnel {
            return Err(Reason::DestinationGone);
        }
        let seen = if is_one_way { Seen::InputOnly } else { Seen::Input };
        self.track(place, seen, transport, moment.now);
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let (address, port) = self.table.server(place);
        let way = self.route(packet, ip, &address, moment)?;
        if is_one_way {
            direct(way)?;
            nat::decrement_hops(packet.head, ip)?;
        } else {
            nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)?;
        }
        self.resolve(packet, way, &address, moment)
    }

    /// From the client to its destination.
    pub(super) fn inbound(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let entry = self.table.get(place);
        let (is_one_way, is_tunnel, destination) = (entry.is_one_way(), entry.is_tunnel(), entry.destination);
        let is_special = entry.is_special();
        if !self.services.pool[destination as usize].usual {
            return self.unusual(packet, ip, transport, place, moment);
        }
        if is_special && let Some(decision) = self.while_opening(packet, ip, transport, place, moment) {
            return decision;
        }
        let bytes = ip.len() as u64;
        self.count(destination, |stats| {
            stats.in_packets += 1;
            stats.in_bytes += bytes;
        });
        let seen = if is_one_way { Seen::InputOnly } else { Seen::Input };
        self.track(place, seen, transport, moment.now);
        let headers = ip.payload - ETHERNET + transport.header;
        if is_one_way && transport.protocol == Protocol::Sctp {
            nat::complete_sctp(packet, ip)?;
        }
        if is_tunnel {
            return self.tunnel(packet, ip, headers, place, moment);
        }
        self.may_pass(packet, ip, headers, self.config.mtu, moment)?;
        let (address, port) = self.table.server(place);
        let way = self.route_to(packet, ip, destination, &address, moment)?;
        if is_one_way {
            direct(way)?;
            nat::decrement_hops(packet.head, ip)?;
        } else if is_special {
            return self.special_request(packet, ip, transport, (place, destination), way, moment);
        } else {
            nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)?;
        }
        self.transmit_to(packet, destination, way, &address, moment)
    }

    /// Sends a packet to the server of its connection, which is the one in the second place, where more is to be done than NAT.
    #[inline(never)]
    fn special_request(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        (place, destination): (u32, u32),
        way: Way,
        moment: &mut Moment<'_>,
    ) -> Decision {
        if !self.table.get(place).is_ftp() {
            return self.request_beyond(packet, ip, transport, (place, destination), way, moment);
        }
        self.ftp_request(packet, ip, transport, place, moment)?;
        let (address, _) = self.table.server(place);
        self.transmit_to(packet, destination, way, &address, moment)
    }

    /// From the destination to the client, under NAT. Linux forwards before it looks for the connection, so a packet that
    /// may not pass leaves no trace.
    fn outbound(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let entry = self.table.get(place);
        if entry.is_special() {
            return match entry.is_ftp() {
                true => self.ftp_reply(packet, ip, transport, place, moment),
                false => self.reply_beyond(packet, ip, transport, place, moment),
            };
        }
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &ip.destination, moment)?;
        self.replied(ip, transport, place, moment.now);
        let (address, port) = self.table.service(place);
        nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        self.transmit(packet, way, &ip.destination, moment)
    }

    /// Counts a packet from the destination, and lets the connection take its next state.
    #[inline(always)]
    pub(super) fn replied(&mut self, ip: &Ip, transport: &Transport, place: u32, now: Instant) {
        self.count_reply(ip, place);
        self.track(place, Seen::Output, transport, now);
    }

    /// Counts a packet from the destination.
    #[inline(always)]
    pub(super) fn count_reply(&mut self, ip: &Ip, place: u32) {
        let destination = self.table.get(place).destination;
        if self.services.pool[destination as usize].available {
            let bytes = ip.len() as u64;
            self.count(destination, |stats| {
                stats.out_packets += 1;
                stats.out_bytes += bytes;
            });
        }
    }

    /// Counts for a destination, its service, and the whole.
    #[inline]
    pub(super) fn count(&mut self, destination: u32, add: impl Fn(&mut Stats)) {
        let destination = &mut self.services.pool[destination as usize];
        add(&mut destination.meter.total);
        if let Some(Some(service)) = self.services.slots.get_mut(destination.service as usize) {
            add(&mut service.meter.total);
        }
        add(&mut self.total.total);
    }

    /// The next state of a connection, and the time it has from now on.
    #[inline(always)]
    pub(super) fn track(&mut self, place: u32, seen: Seen, transport: &Transport, now: Instant) {
        let entry = self.table.get(place);
        let (state, timeout) = self.timers.after(entry.state_of_connection(), seen, transport);
        let is_watched = entry.is_watched() | self.sync.is_telling;
        let active = is_active(transport.protocol, state);
        if active != entry.is_active() {
            let destination = &mut self.services.pool[entry.destination as usize];
            if active {
                destination.active += 1;
            } else {
                destination.active = destination.active.saturating_sub(1);
            }
            self.table.set_active(place, active);
        }
        let packets = u8::from(seen != Seen::Output);
        self.table.touch(place, state, packets, now, timeout);
        if is_watched {
            self.tracked(place, seen, now);
        }
    }

    /// A packet of a connection went through of which somebody wants to know: its template, or who synchronizes.
    #[cold]
    fn tracked(&mut self, place: u32, seen: Seen, now: Instant) {
        self.table.witness(place);
        if self.table.get(place).template().is_some() {
            self.assure(place, seen);
        }
        if self.sync.is_telling && seen != Seen::Output {
            self.tell(place, now);
        }
    }

    /// Ends a connection.
    pub(crate) fn end(&mut self, place: u32) {
        if self.table.get(place).is_ftp() && self.table.get(place).is_controlling() {
            return self.table.abandon(place);
        }
        let entry = self.table.remove(place);
        self.unbind(&entry);
    }

    /// Takes a connection or template that has ended off the counts of its destination.
    pub(super) fn unbind(&mut self, entry: &Entry) {
        let destination = &mut self.services.pool[entry.destination as usize];
        if entry.is_template() {
            destination.templates = destination.templates.saturating_sub(1);
        } else {
            destination.unbind(entry.is_active());
        }
    }
}
