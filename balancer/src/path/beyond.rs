//! Packets of connections that do what IPVS cannot: see [`Extras`](crate::Extras).

use core::net::IpAddr;

use super::segment::Segment;
use super::{Decision, Moment, announce, nat, sequence};
use crate::connection::{Extra, Splice, TcpState, Tuple, ticks};
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Fragment, Ip};
use crate::packet::{Packet, Reason, Verdict};
use crate::route::Way;
use crate::service::Protocol;
use crate::service::table::FTP;
use crate::time::Instant;
use crate::{Announce, Balancer, Extras, LocalPool};

/// How many addresses and ports of a pool are looked at for a connection. Of a pool of which nine in ten are in use by
/// connections to the same server, one connection in 800 finds none.
const TRIES: usize = 64;

impl Balancer {
    /// What lies beside a new connection, by what its service does; `None` if that is nothing, and if the server is this machine,
    /// to which every way leads back.
    ///
    /// `first` is the number of the SYN that begins it, if one does.
    pub(super) fn extra(
        &mut self,
        tuple: &Tuple,
        first: Option<u32>,
        destination: u32,
        port: u16,
    ) -> Result<Option<Extra>, Reason> {
        let to = &self.services.pool[destination as usize];
        let service = self.services.service(to.service).filter(|service| !to.local && service.extras.needs_nat());
        let Some(service) = service else { return Ok(None) };
        // Of a service of a mark, or of every port: what the names of others are refused for.
        let is_ftp = tuple.protocol == Protocol::Tcp && tuple.destination_port == FTP;
        if tuple.protocol == Protocol::Sctp || is_ftp {
            return Ok(None);
        }
        self.extra_of(service.extras, tuple, first, (destination, port)).map(Some)
    }

    #[cold]
    fn extra_of(
        &mut self,
        extras: Extras,
        tuple: &Tuple,
        first: Option<u32>,
        (destination, port): (u32, u16),
    ) -> Result<Extra, Reason> {
        let splice = match extras.announce {
            Announce::Nothing => None,
            _ if tuple.protocol != Protocol::Tcp => None,
            announce => Some(Splice {
                // Where the stream begins is known of its SYN only.
                inserted: if announce == Announce::Proxy { announce::proxy_length(&tuple.source) } else { 0 },
                announce,
                is_pending: true,
                ..Splice::new(first.ok_or(Reason::NotOurs)?.wrapping_add(1))
            }),
        };
        let local = match &extras.pool {
            None => None,
            Some(pool) => Some(self.local(pool, tuple, destination, port).ok_or_else(|| {
                let service = self.services.pool[destination as usize].service;
                self.services.count_extra(Some(service), |counters| counters.exhausted += 1);
                Reason::PoolExhausted
            })?),
        };
        Ok(Extra {
            local,
            splice,
            is_half_open: extras.syn_cookies.is_some() && first.is_some() && tuple.protocol == Protocol::Tcp,
            answered: None,
        })
    }

    /// An address and port of a pool from which no connection goes to this server, by what the table says: what is in its last
    /// state is not free yet. Every pair has its turn before one comes again.
    fn local(&mut self, pool: &LocalPool, tuple: &Tuple, destination: u32, port: u16) -> Option<(IpAddr, u16)> {
        let to = &mut self.services.pool[destination as usize];
        let [a, b] = self.config.seed;
        let secret = a.rotate_left(17) ^ b ^ u64::from(to.incarnation).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..TRIES {
            let pair = pool.pair(to.locals, secret);
            to.locals = to.locals.wrapping_add(1);
            let reply = Tuple {
                protocol: tuple.protocol,
                source: to.key.address,
                source_port: port,
                destination: pair.0,
                destination_port: pair.1,
            };
            if self.table.find(&reply).is_none() {
                return Some(pair);
            }
        }
        None
    }

    /// Sends a packet to the server of its connection, which is the one in the second place.
    #[inline(never)]
    pub(super) fn request_beyond(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        (place, destination): (u32, u32),
        way: Way,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let (address, port) = self.table.server(place);
        nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)?;
        if let Some((address, port)) = self.table.local(place) {
            nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        }
        let spliced = self.table.splice(place).filter(|_| transport.protocol == Protocol::Tcp);
        self.keep_local(place, moment.now);
        let Some(splice) = spliced else { return self.transmit_to(packet, destination, way, &address, moment) };
        let number = sequence::sequence(packet.head, ip);
        // Whoever means harm puts his own in front of what is put in, or in its place; what is in other fragments is not seen.
        let is_whole = ip.fragment == Fragment::Whole && !self.fragments.is_deciding;
        let has_data = sequence::payload(ip, transport) > 0;
        if !is_whole || splice.overlaps(number, sequence::payload(ip, transport)) {
            return Err(if is_whole { Reason::EarlyData } else { Reason::Fragment });
        }
        if splice.announce == Announce::Toa {
            announce::blank(packet, ip, transport)?;
        }
        if transport.flags.contains(TcpFlags::SYN) {
            // That of a client that has begun anew a server answers by an ACK, and that the client by a reset. Where the stream begins, the server's SYN-ACK says: of two SYNs it takes one.
            // Of data in a SYN a server makes a connection before it has heard anything.
            let is_early = splice.announce != Announce::Nothing && has_data;
            return if is_early {
                Err(Reason::EarlyData)
            } else {
                self.transmit_to(packet, destination, way, &address, moment)
            };
        }
        let acknowledged = |number: u32| number.wrapping_sub(splice.offset);
        sequence::map(packet, ip, transport, |number| splice.for_server(number), acknowledged)?;
        let decision = self.transmit_to(packet, destination, way, &address, moment)?;
        if splice.is_pending && splice.announce != Announce::Nothing {
            let is_told = transport.flags & (TcpFlags::ACK | TcpFlags::RST) == TcpFlags::ACK;
            if decision != Verdict::Transmit {
                // By itself, and later, it would make a connection of which the server has heard nothing. Who is not
                // acknowledged repeats that; for an ACK the server does.
                return if is_told { Err(Reason::Opening) } else { Ok(decision) };
            }
            return Ok(self.announce(packet, ip, transport, place, &splice, number, moment));
        }
        Ok(decision)
    }

    /// Tells a server of its client, beside a segment that is ready to go and had this number. What becomes of the segment.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "all that is known of the segment")]
    fn announce(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        splice: &Splice,
        number: u32,
        moment: &mut Moment<'_>,
    ) -> Verdict {
        let client = self.table.client(place);
        let header = packet.head.get(ip.payload..ip.payload + transport.header).unwrap_or_default();
        let (Some(&[a, b, c, d, e, f]), Some(window)) = (packet.head.first_chunk(), header.get(14..16)) else {
            return Verdict::Transmit;
        };
        let made = Segment {
            macs: [[a, b, c, d, e, f], self.config.mac],
            from: self.table.local(place).unwrap_or(client),
            to: self.table.server(place),
            sequence: splice.start,
            acknowledgement: sequence::acknowledgement(packet.head, ip),
            flags: TcpFlags::ACK,
            window: u16::from_be_bytes([window[0], window[1]]),
            options: &[],
            payload: &[],
        };
        match splice.announce {
            Announce::Nothing => {}
            Announce::Proxy => {
                let has = |flag| transport.flags.contains(flag);
                if has(TcpFlags::RST) {
                    // Whether the server has got what was put in is not known: one of both is the number it waits for.
                    if splice.for_server(number) != number {
                        let flags = transport.flags & (TcpFlags::RST | TcpFlags::ACK);
                        Segment { sequence: number, flags, ..made }.send(&mut *moment.sink);
                    }
                } else if number == splice.start && has(TcpFlags::ACK) {
                    // What comes first has to be repeated as long as the client repeats what comes behind it. An ACK without anything goes
                    // in this form only: were this lost and that not, the server would have a connection, and nobody
                    // anything to repeat. So it has none, and asks again.
                    let options = announce::with_timestamp(announce::nothing(), header);
                    let payload = announce::proxy(client, self.table.service(place));
                    Segment {
                        options: options.as_slice(),
                        payload: payload.as_slice(),
                        flags: TcpFlags::ACK | TcpFlags::PSH,
                        ..made
                    }
                    .send(&mut *moment.sink);
                    if sequence::payload(ip, transport) == 0 && !has(TcpFlags::FIN) {
                        return Verdict::Drop(Reason::Replaced);
                    }
                }
            }
            Announce::Toa if transport.flags.contains(TcpFlags::RST) || !transport.flags.contains(TcpFlags::ACK) => {}
            Announce::Toa => {
                let option = announce::toa(client);
                if let Some(frame) = announce::with_option(packet, ip, transport, option.as_slice(), self.config.mtu) {
                    moment.sink.transmit(frame.as_slice());
                    return Verdict::Drop(Reason::Replaced);
                }
                // There is no room in it: it says so in front of it.
                let options = announce::with_timestamp(option, header);
                Segment { options: options.as_slice(), sequence: number, ..made }.send(&mut *moment.sink);
            }
        }
        Verdict::Transmit
    }

    /// From the destination to the client.
    #[inline(never)]
    pub(super) fn reply_beyond(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let (client, client_port) = self.table.client(place);
        if let Some(splice) = self.table.splice(place).filter(|splice| splice.is_cookie || splice.opening.is_some()) {
            if let Some(opening) = splice.opening {
                return self.opened(packet, ip, transport, place, (splice, opening), moment);
            }
            if transport.flags.contains(TcpFlags::SYN) && sequence::acknowledgement(packet.head, ip) != splice.start {
                if !transport.flags.contains(TcpFlags::ACK) {
                    return Err(Reason::Opening);
                }
                // It had forgotten the connection, and its client begins another one: without a cookie.
                if let Some(splice) = self.table.splice_mut(place) {
                    (splice.is_cookie, splice.offset) = (false, 0);
                }
            } else if transport.flags.contains(TcpFlags::SYN) {
                // It has not heard that it was acknowledged. The client has, and has its window since.
                let numbers = (sequence::sequence(packet.head, ip).wrapping_add(1), 0);
                self.acknowledge(packet, place, &splice, numbers, moment);
                return Err(Reason::Opening);
            }
        }
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &client, moment)?;
        self.heard(packet, ip, transport, place, moment.now);
        let (address, port) = self.table.service(place);
        nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        if self.table.get(place).is_local() {
            nat::rewrite(packet, ip, transport, nat::End::Destination, client, client_port)?;
        }
        if let Some(splice) = self.table.splice(place).filter(|_| transport.protocol == Protocol::Tcp) {
            let has = |flag| transport.flags.contains(flag);
            let acknowledged = sequence::acknowledgement(packet.head, ip);
            if has(TcpFlags::ACK) && (splice.is_pending || has(TcpFlags::SYN)) {
                let end = splice.start.wrapping_add(splice.inserted.into());
                if let Some(splice) = self.table.splice_mut(place) {
                    if has(TcpFlags::SYN) {
                        (splice.start, splice.is_pending) = (acknowledged, true);
                    } else {
                        // A server that has no connection yet acknowledges the SYN alone, whatever else comes.
                        let is_begun = sequence::is_after(acknowledged, splice.start);
                        splice.is_pending = !is_begun || sequence::is_after(end, acknowledged);
                    }
                }
            }
            if !has(TcpFlags::SYN) {
                let sequence = |number: u32| number.wrapping_add(splice.offset);
                sequence::map(packet, ip, transport, sequence, |number| splice.for_client(number))?;
            }
        }
        self.keep_local(place, moment.now);
        self.transmit(packet, way, &client, moment)
    }

    /// Counts a packet from the destination. While its connection is half open, only what begins or refuses it gives that another
    /// state: the rest may be what a server says to somebody who is not there.
    fn heard(&mut self, packet: &Packet<'_>, ip: &Ip, transport: &Transport, place: u32, now: Instant) {
        let Some(extra) = self.table.half_open_mut(place).filter(|_| transport.protocol == Protocol::Tcp) else {
            return self.replied(ip, transport, place, now);
        };
        let has = |flag| transport.flags.contains(flag);
        let length = sequence::payload(ip, transport) + u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
        extra.hear(has(TcpFlags::SYN | TcpFlags::ACK), sequence::sequence(packet.head, ip), length);
        if has(TcpFlags::SYN) || has(TcpFlags::RST) {
            self.replied(ip, transport, place, now);
        } else {
            self.count_reply(ip, place);
        }
        // Who was refused waits for nothing. A reset of the client says nothing: anybody can send it.
        if has(TcpFlags::RST) {
            self.table.settle(place);
        }
    }

    /// A segment of a client whose connection is half open: it comes about when the client acknowledges what only who gets the server's
    /// answers knows. Until then nothing of it passes but SYN and RST, by which it does not.
    #[cold]
    pub(super) fn while_half_open(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
    ) -> Result<(), Reason> {
        let has = |flag| transport.flags.contains(flag);
        let is_shown = |extra: &Extra| extra.is_shown(sequence::acknowledgement(packet.head, ip));
        match self.table.half_open_mut(place).map(|extra| is_shown(extra)) {
            None => Ok(()),
            _ if has(TcpFlags::SYN) || has(TcpFlags::RST) => Ok(()),
            Some(true) if has(TcpFlags::ACK) => {
                self.table.settle(place);
                Ok(())
            }
            Some(_) => Err(Reason::Opening),
        }
    }

    /// A reset that its server has not taken ends nothing there: nobody else is to have a port of a pool so soon.
    fn keep_local(&mut self, place: u32, now: Instant) {
        let entry = self.table.get(place);
        if entry.is_local() && entry.protocol() == Protocol::Tcp && entry.state() == TcpState::Close as u8 {
            self.table.renew(place, now, ticks(TcpState::TimeWait.timeout()));
        }
    }
}
