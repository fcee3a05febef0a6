//! Connections that are begun by SYN cookies: answered here, and opened to a server only when the client has shown that it gets
//! what is sent to it. From then on its server's numbers are moved to those that the cookie began with.

use core::net::IpAddr;

use super::schedule::Chosen;
use super::segment::Segment;
use super::sequence::{self, Options};
use super::{Decision, Moment, announce, nat, tuple};
use crate::connection::{Opening, Seen, Splice, Tuple};
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Ip};
use crate::neighbour::{Mac, Outlet};
use crate::packet::{Packet, Reason};
use crate::service::Protocol;
use crate::time::Instant;
use crate::{Announce, Balancer};

/// The kind of the option that tells of a segment size, and its length.
const SIZE: (u8, usize) = (2, 4);
/// What a client that says nothing takes (RFC 9293, section 3.7.1).
const LEAST_V4: u16 = 536;
const LEAST_V6: u16 = 1220;
/// Headers of IP and TCP.
const HEADERS_V4: u16 = 40;
const HEADERS_V6: u16 = 60;

/// The option that tells of a segment size.
fn size_option(size: u16) -> [u8; 4] {
    let [a, b] = size.to_be_bytes();
    [SIZE.0, SIZE.1 as u8, a, b]
}

/// The Ethernet address a frame came from.
fn from(packet: &Packet<'_>) -> Option<Mac> {
    let [_, _, _, _, _, _, a, b, c, d, e, f] = *packet.head.first_chunk()?;
    // Nobody's answer goes to a group.
    (a & 1 == 0).then_some([a, b, c, d, e, f])
}

/// The window in a TCP header.
fn window(packet: &Packet<'_>, ip: &Ip) -> u16 {
    let bytes = packet.head.get(ip.payload + 14..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

impl Balancer {
    /// Whether a packet that begins a connection of a service is to be answered by a cookie.
    pub(super) fn is_flooded(&self, service: u32, transport: &Transport) -> bool {
        transport.protocol == Protocol::Tcp
            && transport.flags & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN
            && self
                .services
                .service(service)
                .and_then(|service| service.extras.syn_cookies)
                .is_some_and(|n| self.table.half_open() >= n || self.table.are_extras_short())
    }

    /// Answers a SYN by a cookie. The window is closed: the client has to wait for the server with what it wants to say.
    #[cold]
    pub(super) fn answer(
        &mut self,
        service: u32,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let Some(mac) = from(packet) else { return Err(Reason::Malformed) };
        let header = packet.head.get(ip.payload..ip.payload + transport.header).unwrap_or_default();
        let said = Options::of(header).find(|(kind, at)| (*kind, at.len()) == SIZE);
        let size = said.map_or(if ip.is_v6() { LEAST_V6 } else { LEAST_V4 }, |(_, at)| {
            u16::from_be_bytes([header[at.start + 2], header[at.start + 3]])
        });
        let first = sequence::sequence(packet.head, ip);
        let cookie = self.cookies.make(&tuple(ip, transport), first, size, moment.now);
        let ours = self.config.mtu.saturating_sub(if ip.is_v6() { HEADERS_V6 } else { HEADERS_V4 });
        Segment {
            macs: [mac, self.config.mac],
            from: (ip.destination, transport.destination_port),
            to: (ip.source, transport.source_port),
            sequence: cookie,
            acknowledgement: first.wrapping_add(1),
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: 0,
            options: &size_option(ours),
            payload: &[],
        }
        .send(&mut *moment.sink);
        self.services.count_extra(Some(service), |counters| counters.cookies_sent += 1);
        Err(Reason::SynCookie)
    }

    /// Whether a packet of no connection may be the answer to a cookie.
    pub(super) fn may_redeem(&self, transport: &Transport, now: Instant) -> bool {
        let flags = TcpFlags::SYN | TcpFlags::RST | TcpFlags::FIN | TcpFlags::ACK;
        transport.protocol == Protocol::Tcp && transport.flags & flags == TcpFlags::ACK && self.cookies.are_out(now)
    }

    /// Begins the connection of a client that answers a cookie. `None` if it does not.
    #[cold]
    pub(super) fn redeem(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> Option<Decision> {
        let tuple = tuple(ip, transport);
        let service = self.services.marked(&tuple).or_else(|| self.services.lookup(&tuple))?;
        self.services.service(service)?.extras.syn_cookies?;
        let number = sequence::sequence(packet.head, ip);
        let cookie = sequence::acknowledgement(packet.head, ip).wrapping_sub(1);
        // Whose ACK was lost asks whether the window is still closed, with the number before its first byte.
        let firsts = [Some(number.wrapping_sub(1)), (sequence::payload(ip, transport) <= 1).then_some(number)];
        let check = |first: u32| Some((first, self.cookies.check(&tuple, first, cookie, moment.now)?));
        let Some((first, size)) = firsts.into_iter().flatten().find_map(check) else {
            self.services.count_extra(Some(service), |counters| counters.cookies_wrong += 1);
            return None;
        };
        if self.table.sources.is_reserved()
            && let Err(reason) = self.limit(service, packet, ip, transport, moment)
        {
            return Some(Err(reason));
        }
        let chosen = match self.schedule(service, &tuple, ip.destination, &[], moment) {
            Ok(chosen) => chosen,
            Err(reason) => {
                // It believes that it is connected.
                self.reset(packet, ip, transport, moment);
                return Some(Err(reason));
            }
        };
        let opening = Opening { cookie, window: window(packet, ip), size, asked: None };
        Some(Err(match self.begin_opening(&tuple, transport, (first, opening), &chosen, ip, moment) {
            Ok(()) => {
                self.services.count_extra(Some(service), |counters| counters.cookies_taken += 1);
                Reason::SynCookie
            }
            Err(reason) => {
                debug_assert_ne!(reason, Reason::NotOurs, "its beginning is known");
                self.reset(packet, ip, transport, moment);
                reason
            }
        }))
    }

    fn begin_opening(
        &mut self,
        tuple: &Tuple,
        transport: &Transport,
        (first, opening): (u32, Opening),
        chosen: &Chosen,
        ip: &Ip,
        moment: &mut Moment<'_>,
    ) -> Result<(), Reason> {
        let syn = Transport { flags: TcpFlags::SYN, ..*transport };
        let place = self.begin(tuple, Some((&syn, first)), chosen, moment)?;
        // The server is this machine, say: that opens no connections to itself.
        if !self.table.open_by_cookie(place, first.wrapping_add(1), opening) {
            self.end(place);
            return Err(Reason::NoDestination);
        }
        let bytes = ip.len() as u64;
        self.count(chosen.destination, |stats| {
            (stats.in_packets, stats.in_bytes) = (stats.in_packets + 1, stats.in_bytes + bytes)
        });
        self.track(place, Seen::Input, &syn, moment.now);
        self.ask(place, moment);
        self.openings.add(place, moment.now);
        Ok(())
    }

    /// A packet of a client who has not shown that it is there, or whose server has not answered: it is told to send that again by the server's answer, and is asked
    /// again now if that was a second ago. `None` if the server has.
    #[cold]
    pub(super) fn while_opening(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Option<Decision> {
        if self.table.half_open() != 0
            && transport.protocol == Protocol::Tcp
            && let Err(reason) = self.while_half_open(packet, ip, transport, place)
        {
            return Some(Err(reason));
        }
        let splice = self.table.splice(place)?;
        splice.opening?;
        if transport.flags.contains(TcpFlags::RST) && sequence::sequence(packet.head, ip) == splice.start {
            self.end(place);
        } else {
            self.ask(place, moment);
        }
        Some(Err(Reason::Opening))
    }

    /// Sends the SYN of a client that has answered a cookie to its server, at most once a second.
    pub(super) fn ask(&mut self, place: u32, moment: &mut Moment<'_>) {
        let second = moment.now.nanos() / 1_000_000_000;
        let Some(splice) = self.table.splice(place) else { return };
        let Some(opening) = splice.opening.filter(|opening| opening.asked != Some(second)) else { return };
        let server = self.table.server(place);
        let Some(mac) = self.mac_of(self.table.get(place).destination, &server.0, moment) else { return };
        if let Some(Splice { opening: Some(opening), .. }) = self.table.splice_mut(place) {
            opening.asked = Some(second);
        }
        Segment {
            macs: [mac, self.config.mac],
            from: self.table.local(place).unwrap_or(self.table.client(place)),
            to: server,
            sequence: splice.start.wrapping_sub(1),
            acknowledgement: 0,
            flags: TcpFlags::SYN,
            window: opening.window,
            options: &size_option(opening.size),
            payload: &[],
        }
        .send(&mut *moment.sink);
    }

    /// The Ethernet address on the way to a destination, if it is known; else it is asked for.
    fn mac_of(&mut self, destination: u32, to: &IpAddr, moment: &mut Moment<'_>) -> Option<Mac> {
        if let Some((_, mac)) = self.services.pool[destination as usize].hop.get(self.neighbours.generation()) {
            return Some(mac);
        }
        let way = self.routes.way(to)?;
        let hop = self.routes.neighbour(way, to);
        let Moment { now, sink } = moment;
        let mut outlet = Outlet { routes: &self.routes, sink: &mut **sink, counters: &mut self.counters };
        self.neighbours.resolve(hop, *now, &mut outlet)
    }

    /// What the server of a connection that is being opened says to that.
    #[cold]
    pub(super) fn opened(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        (splice, opening): (Splice, Opening),
        moment: &mut Moment<'_>,
    ) -> Decision {
        let has = |flag| transport.flags.contains(flag);
        let number = sequence::sequence(packet.head, ip);
        if !has(TcpFlags::ACK) || sequence::acknowledgement(packet.head, ip) != splice.start {
            return Err(Reason::Opening);
        }
        let (client, client_port) = self.table.client(place);
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &client, moment)?;
        let offset = match (has(TcpFlags::RST), has(TcpFlags::SYN)) {
            // It refuses, and so does the service.
            (true, _) => opening.cookie.wrapping_add(1).wrapping_sub(number),
            (false, true) => opening.cookie.wrapping_sub(number),
            (false, false) => return Err(Reason::Opening),
        };
        if let Some(splice) = self.table.splice_mut(place) {
            (splice.opening, splice.offset, splice.is_cookie) = (None, offset, true);
        }
        self.replied(ip, transport, place, moment.now);
        if !has(TcpFlags::RST) {
            self.acknowledge(packet, place, &splice, (number.wrapping_add(1), opening.window), moment);
            let ack = Transport { flags: TcpFlags::ACK, ..*transport };
            self.track(place, Seen::Input, &ack, moment.now);
        }
        let (address, port) = self.table.service(place);
        nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        if self.table.get(place).is_local() {
            nat::rewrite(packet, ip, transport, nat::End::Destination, client, client_port)?;
        }
        // To the client, which has had its SYN-ACK, it opens the window.
        sequence::edit(packet, ip, transport, |header| {
            if let Some(field) = header.get_mut(4..8) {
                field.copy_from_slice(&opening.cookie.wrapping_add(1).to_be_bytes());
            }
            if !has(TcpFlags::RST) {
                header[13] = TcpFlags::ACK.bits();
                header[20..].fill(1);
            }
        })?;
        self.transmit(packet, way, &client, moment)
    }

    /// Acknowledges the SYN-ACK of a server for its client, and tells it of that.
    pub(super) fn acknowledge(
        &mut self,
        packet: &Packet<'_>,
        place: u32,
        splice: &Splice,
        (acknowledgement, window): (u32, u16),
        moment: &mut Moment<'_>,
    ) {
        let Some(mac) = from(packet) else { return };
        let client = self.table.client(place);
        let made = Segment {
            macs: [mac, self.config.mac],
            from: self.table.local(place).unwrap_or(client),
            to: self.table.server(place),
            sequence: splice.start,
            acknowledgement,
            flags: TcpFlags::ACK,
            window,
            options: &[],
            payload: &[],
        };
        match splice.announce {
            Announce::Nothing => made.send(&mut *moment.sink),
            Announce::Toa => Segment { options: announce::toa(client).as_slice(), ..made }.send(&mut *moment.sink),
            Announce::Proxy => {
                let header = announce::proxy(client, self.table.service(place));
                let flags = TcpFlags::ACK | TcpFlags::PSH;
                Segment { payload: header.as_slice(), flags, ..made }.send(&mut *moment.sink);
            }
        }
    }
}
