//! Packets of no connection: new ones are scheduled, the rest is the local stack's or nobody's.

use core::net::IpAddr;

use super::around::no_address;
use super::{Decision, Moment, sequence, tuple};
use crate::Balancer;
use crate::connection::{Direction, Extra, Full, New, Seen, Table, Tuple, ticks};
use crate::frame::sctp::Event;
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Ip, is_group};
use crate::icmp::Problem;
use crate::packet::{Packet, Reason, Verdict};
use crate::scheduler::Request;
use crate::service::table::{FTP_DATA, NOBODY, Service};
use crate::service::{Forward, Protocol, ServiceConfig, ServiceFlags};
use crate::time::Instant;

/// Timers looked at to make room in a full table.
const ROOM: usize = 64;

/// Seconds a connection has of which no packet was seen yet.
const UNSEEN: u32 = 3;

/// Where a new connection goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    /// Place in the pool.
    pub destination: u32,
    /// Port there.
    pub port: u16,
    /// The template it comes from.
    pub template: Option<u32>,
}

impl Balancer {
    /// A TCP, UDP or SCTP packet of no connection.
    pub(super) fn unknown(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Decision {
        if self.sysctls.nat_icmp_send != 0 && self.is_stray(packet, ip, transport) {
            return self.refuse_stray(packet, ip, transport, moment);
        }
        if self.table.open_count() != 0
            && let Some(place) = self.is_awaited(packet, ip, transport)
        {
            return self.flow_apart(packet, ip, transport, (place, Direction::Inbound), moment);
        }
        let is_ours = self.is_ours(ip.destination);
        let begins = match transport.protocol {
            Protocol::Tcp if self.sysctls.sloppy_tcp != 0 => !transport.flags.contains(TcpFlags::RST),
            Protocol::Tcp => transport.flags & (TcpFlags::SYN | TcpFlags::RST) == TcpFlags::SYN,
            Protocol::Sctp if self.sysctls.sloppy_sctp != 0 => {
                !transport.flags.contains(TcpFlags::RST) && transport.event != Event::Nothing
            }
            Protocol::Sctp => transport.event == Event::Init,
            _ => true,
        };
        let begins = begins && transport.source_port != FTP_DATA;
        let may_redeem = !self.fragments.is_deciding && self.may_redeem(transport, moment.now);
        if !(is_ours || begins || may_redeem) {
            return Err(Reason::NotOurs);
        }
        if is_group(packet.head) {
            let is_taken = self.sync.is_on() && self.take_datagram(packet, ip, transport, moment);
            return if is_taken { Ok(Verdict::Taken) } else { Err(Reason::NotToUs) };
        }
        if !self.is_source(ip.source) {
            return Err(Reason::BadSource);
        }
        if may_redeem && let Some(decision) = self.redeem(packet, ip, transport, moment) {
            return decision;
        }
        if !begins {
            if !is_ours {
                return Err(Reason::NotOurs);
            }
            // What says nothing at all is not the local stack's either, in Linux.
            let is_empty = transport.protocol == Protocol::Sctp && transport.event == Event::Nothing;
            return if is_empty { Err(Reason::Malformed) } else { Ok(Verdict::Local) };
        }
        // Rules may be many: they are asked last.
        let tuple = tuple(ip, transport);
        let marked = self.services.marked(&tuple);
        if !is_ours && marked.is_none() {
            return Err(Reason::NotOurs);
        }
        let Some(service) = marked.or_else(|| self.services.lookup(&tuple)) else { return Ok(Verdict::Local) };
        if self.defense.drops_packet() {
            return Err(Reason::Defense);
        }
        if self.table.sources.is_reserved() {
            self.limit(service, packet, ip, transport, moment)?;
        }
        if self.is_flooded(service, transport) {
            return self.answer(service, packet, ip, transport, moment);
        }
        let end = packet.head.len().min(ETHERNET + ip.len());
        let payload = packet.head.get(ip.payload + transport.header..end).unwrap_or_default();
        match self.schedule(service, &tuple, ip.destination, payload, moment) {
            Ok(chosen) => {
                let first = sequence::sequence(packet.head, ip);
                let place = self.begin(&tuple, Some((transport, first)), &chosen, moment)?;
                let decision = self.inbound(packet, ip, transport, place, moment);
                if self.services.is_one_packet(service, transport.protocol) {
                    self.note_one_packet(place, ip);
                    self.end(place);
                }
                decision
            }
            Err(Reason::NoDestination) if self.is_bypassed(service, ip) => {
                self.bypass(packet, ip, transport, service, moment)
            }
            Err(Reason::NoDestination) if self.services.is_ftp_data(service, &tuple) => Ok(Verdict::Local),
            Err(reason) => {
                if reason == Reason::NoDestination {
                    self.complain(packet, ip, Problem::PortUnreachable, moment);
                }
                Err(reason)
            }
        }
    }

    /// Chooses where a new connection goes. `destination` is where the packet goes that begins it.
    pub(super) fn schedule(
        &mut self,
        service: u32,
        tuple: &Tuple,
        destination: IpAddr,
        payload: &[u8],
        moment: &mut Moment<'_>,
    ) -> Result<Chosen, Reason> {
        let Some(Service { key, config: ServiceConfig { flags, .. }, .. }) = self.services.service(service) else {
            return Err(Reason::NoDestination);
        };
        let (flags, is_other_port) = (*flags, key.other_port(tuple.destination_port).is_some());
        let request = Request {
            client: tuple.source,
            client_port: tuple.source_port,
            destination,
            flags,
            now: moment.now,
            expirations: self.expirations(),
        };
        if flags.contains(ServiceFlags::PERSISTENT) {
            return self.persist(service, tuple, payload, &request, moment);
        }
        if is_other_port {
            return Err(Reason::NoDestination);
        }
        let destination = self.services.choose(service, &request).ok_or(Reason::NoDestination)?;
        let port = self.services.pool[destination as usize].key.port;
        let port = if port == 0 { tuple.destination_port } else { port };
        Ok(Chosen { destination, port, template: None })
    }

    /// Puts a connection or, for a Call-ID or nothing, a template into the table. If that is full, what is over is taken out
    /// first.
    pub(crate) fn insert(
        &mut self,
        new: &New,
        extra: Option<Extra>,
        call_id: &[u8],
        now: Instant,
        timeout: u32,
    ) -> Result<u32, Full> {
        let insert = |table: &mut Table| match new.template {
            true => table.insert_template(new, call_id, now, timeout),
            false => table.insert_with(new, extra, now, timeout),
        };
        let place = insert(&mut self.table).or_else(|Full| {
            self.expire(now, ROOM);
            insert(&mut self.table)
        })?;
        if self.sync.is_telling {
            self.sync.begin(place, now);
        }
        Ok(place)
    }

    /// Puts a connection into the table and binds it to its destination. `transport` is the header of the packet that begins it, and
    /// the number of its first byte, if there is one; an error about a packet has none.
    pub(super) fn begin(
        &mut self,
        tuple: &Tuple,
        transport: Option<(&Transport, u32)>,
        chosen: &Chosen,
        moment: &mut Moment<'_>,
    ) -> Result<u32, Reason> {
        let &Chosen { destination, port, template } = chosen;
        let first = transport.filter(|(transport, _)| transport.flags.contains(TcpFlags::SYN)).map(|(_, first)| first);
        let extra = self.extra(tuple, first, destination, port)?;
        let to = &self.services.pool[destination as usize];
        let service = to.service;
        let new = New {
            protocol: tuple.protocol,
            client: tuple.source,
            client_port: tuple.source_port,
            virtual_address: tuple.destination,
            virtual_port: tuple.destination_port,
            address: if destination == NOBODY { no_address(tuple.source) } else { to.key.address },
            port,
            forward: to.config.forward,
            destination,
            template: false,
        };
        let seen =
            if matches!(new.forward, Forward::Masquerade | Forward::Bypass) { Seen::Input } else { Seen::InputOnly };
        let timeout = match transport {
            Some((transport, _)) => self.timers.after(0, seen, transport).1,
            None => ticks(UNSEEN),
        };
        // A template that is over must not be taken out to make room for its own connection: it has the time it was given
        // just now.
        let is_limited = self.table.sources.is_reserved();
        let accounts = match is_limited {
            true => self.account(service, tuple.source, moment.now).map_err(|Full| Reason::TableFull)?,
            false => [0; 2],
        };
        let place = match self.insert(&new, extra, &[], moment.now, timeout) {
            Ok(place) => place,
            Err(Full) => {
                accounts.into_iter().for_each(|account| self.table.sources.release(account));
                return Err(Reason::TableFull);
            }
        };
        if accounts != [0; 2] {
            self.table.count_on(place, accounts);
        }
        if self.speaks_ftp(&new) && extra.is_none() {
            self.table.speak_ftp(place);
        }
        if let Some(template) = template {
            self.table.set_template(place, template);
        }
        self.services.pool[destination as usize].bind();
        if destination != NOBODY {
            self.count(destination, |stats| stats.connections += 1);
        }
        Ok(place)
    }
}
