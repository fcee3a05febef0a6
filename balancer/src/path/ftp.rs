//! FTP: the connections over which it is spoken are listened in to, so that its data connections find their way under NAT.
//!
//! Follows ip_vs_ftp and ip_vs_app of Linux, with conntrack's sequence adjustment. What Linux does not do: it finds commands and
//! replies behind others in a segment too, and commands in pieces, and changes a reply again that comes again. What Linux does and
//! this does not: let a client or server name others than themselves, or ports that are not theirs to give. A reply is read only where
//! a line of the server begins, which a client cannot make up: for that the server's bytes have to come by in order.

use core::net::IpAddr;
use core::ops::Range;

use super::sequence;
use super::{Decision, Moment, nat, tuple};
use crate::Balancer;
use crate::checksum::{Delta, Sum};
use crate::connection::{Direction, Full, New, TcpState, Tuple};
use crate::frame::transport::{TcpFlags, Transport};
use crate::frame::{ETHERNET, Fragment, Ip, is_group};
use crate::ftp::{self, Command, LINE_MAX, Mode, Text};
use crate::packet::{Packet, Reason};
use crate::service::table::UNPRIVILEGED;
use crate::service::{Forward, Protocol, ServiceKey};
use crate::time::Instant;

/// The offset of the checksum in a TCP header.
const CHECKSUM: usize = 16;

/// Which bytes of the frame are payload, as far as they lie in its head.
fn payload(packet: &Packet<'_>, ip: &Ip, transport: &Transport) -> Range<usize> {
    let end = ip.end.min(packet.head.len());
    (ip.payload + transport.header).min(end)..end
}

/// The sum of bytes that lie at an offset from an even place.
fn sum_at(offset: usize, bytes: &[u8]) -> u16 {
    let sum = Sum::ZERO.bytes(bytes).fold();
    if offset.is_multiple_of(2) { sum } else { sum.swap_bytes() }
}

impl Balancer {
    /// Whether a new connection is one over which FTP is spoken, and is to be listened in to.
    pub(crate) fn speaks_ftp(&self, new: &New) -> bool {
        i32::from(new.virtual_port) == self.sysctls.ftp_port
            && new.protocol == Protocol::Tcp
            && new.forward == Forward::Masquerade
            && self.services.pool[new.destination as usize].usual
    }

    /// A packet of a client over a connection of FTP: commands are looked for, and it is rewritten for the server.
    #[cold]
    pub(super) fn ftp_request(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Result<(), Reason> {
        let (address, port) = self.table.server(place);
        let Some(&adjusted) = self.table.ftp(place) else {
            return nat::rewrite(packet, ip, transport, nat::End::Destination, address, port);
        };
        if self.listens(place) && transport.flags & (TcpFlags::SYN | TcpFlags::RST) == TcpFlags::empty() {
            self.listen_to_client(packet, ip, transport, place, moment.now)?;
        }
        if !adjusted.is_unchanged() {
            sequence::map(packet, ip, transport, |number| number, |number| adjusted.for_server(number))?;
        }
        nat::rewrite(packet, ip, transport, nat::End::Destination, address, port)
    }

    /// A packet of a server over a connection of FTP: a reply that tells an address is changed.
    #[cold]
    pub(super) fn ftp_reply(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        moment: &mut Moment<'_>,
    ) -> Decision {
        self.may_pass(packet, ip, ip.payload - ETHERNET + transport.header, self.config.mtu, moment)?;
        let way = self.route(packet, ip, &ip.destination, moment)?;
        let listens = self.listens(place);
        let (address, port) = self.table.service(place);
        let change = match listens {
            true => self.listen_to_server(packet, ip, transport, place, moment.now)?,
            false => {
                if let Some(ftp) = self.table.ftp_mut(place) {
                    ftp.lose();
                }
                None
            }
        };
        let adjusted = self.table.ftp(place).copied();
        self.replied(ip, transport, place, moment.now);
        if let Some(adjusted) = adjusted.filter(|ftp| !ftp.is_unchanged()) {
            sequence::map(packet, ip, transport, |number| adjusted.for_client(number), |number| number)?;
        }
        nat::rewrite(packet, ip, transport, nat::End::Source, address, port)?;
        if let Some(Change { at, mode, number, text }) = change {
            let by = text.bytes().len().wrapping_sub(at.len()) as u32;
            splice(packet, ip, transport, at, text.bytes(), self.config.mtu)?;
            let destination = self.table.get(place).destination;
            if self.services.pool[destination as usize].available {
                // What is sent is counted, not what came.
                let by = i64::from(by as i32) as u64;
                self.count(destination, |stats| stats.out_bytes = stats.out_bytes.wrapping_add(by));
            }
            if let Some(ftp) = self.table.ftp_mut(place) {
                ftp.change(mode, number, by);
            }
        }
        self.transmit(packet, way, &ip.destination, moment)
    }

    /// Whether what a packet of a connection says is listened to. What is said in the first of several IP fragments is not: what
    /// follows it could not be moved.
    fn listens(&self, place: u32) -> bool {
        self.table.get(place).state() == TcpState::Established as u8 && !self.fragments.is_deciding
    }

    /// Reads what a client says, line by line.
    fn listen_to_client(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        now: Instant,
    ) -> Result<(), Reason> {
        let range = payload(packet, ip, transport);
        let mut number = sequence::sequence(packet.head, ip);
        let mut rest = packet.head.get(range).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        // A line that began in the segment before, and what comes of it in this one.
        let mut whole = [0; LINE_MAX];
        let begun = self.table.ftp_mut(place).map_or(0, |ftp| ftp.take_line(number, &mut whole));
        if begun > 0 {
            let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
            let (more, after) = rest.split_at(end);
            (rest, number) = (after, number.wrapping_add(end as u32));
            if let Some(room) = whole.get_mut(begun..begun + more.len()) {
                room.copy_from_slice(more);
                if self.hear(&whole[..begun + more.len()], number, ip, place, now)? {
                    return Ok(());
                }
            }
        }
        for line in rest.split_inclusive(|&byte| byte == b'\n') {
            number = number.wrapping_add(line.len() as u32);
            // One address a segment: no client has use for more.
            if self.hear(line, number, ip, place, now)? {
                break;
            }
        }
        Ok(())
    }

    /// A line of a client, or the beginning of one. More of it comes at a number. Whether it told an address.
    fn hear(&mut self, line: &[u8], next: u32, ip: &Ip, place: u32, now: Instant) -> Result<bool, Reason> {
        let Some(ftp) = self.table.ftp_mut(place) else { return Ok(false) };
        if line.last() != Some(&b'\n') {
            ftp.keep_line(line, next);
            return Ok(false);
        }
        match ftp::command(line, ip.is_v6()) {
            None => Ok(false),
            Some(Command::Open(mode)) => {
                ftp.mode = mode;
                Ok(false)
            }
            Some(Command::Listen(address, port)) => {
                ftp.mode = Mode::Active;
                // Nobody names somebody else.
                if address == ip.source {
                    self.expect_from_server(place, address, port, now).map_err(|Full| Reason::TableFull)?;
                }
                Ok(true)
            }
        }
    }

    /// Reads what a server says, line by line: what is to be changed of it.
    fn listen_to_server(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        place: u32,
        now: Instant,
    ) -> Result<Option<Change>, Reason> {
        let (range, len) = (payload(packet, ip, transport), sequence::payload(ip, transport));
        let mut number = sequence::sequence(packet.head, ip);
        if len == 0 {
            return Ok(None);
        }
        self.table.listen_to_ftp(place, number);
        let bytes = packet.head.get(range.clone()).unwrap_or_default();
        let ends_line = bytes.len() == len as usize && bytes.last() == Some(&b'\n');
        let Some(ftp) = self.table.ftp_mut(place) else { return Ok(None) };
        // What comes out of order comes again.
        let mut begins_line = ftp.says(number, len, ends_line).ok_or(Reason::OutOfOrder)?;
        let ftp = *ftp;
        let mut at = range.start;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let again = ftp.changed_at(number);
            let mode = again.or(begins_line.then_some(ftp.mode)).unwrap_or_default();
            if let Some((told_at, told)) = ftp::reply(line, mode, ip.is_v6())
                && told.address.is_none_or(|address| address == ip.source)
                && (again.is_some() || self.may_open(place, told.port))
            {
                if again.is_none() {
                    self.expect_from_client(place, ip.source, told.port, now).map_err(|Full| Reason::TableFull)?;
                }
                let (address, _) = self.table.service(place);
                let at = at + told_at.start..at + told_at.end;
                return Ok(Some(Change { at, mode, number, text: Text::new(mode, address, told.port) }));
            }
            number = number.wrapping_add(line.len() as u32);
            at += line.len();
            begins_line = true;
        }
        Ok(None)
    }

    /// Whether a server may have a port of its service for data: it is not privileged, and no other service's.
    fn may_open(&self, place: u32, port: u16) -> bool {
        let parts = self.table.parts(place);
        let named = ServiceKey::Address { protocol: Protocol::Tcp, address: parts.virtual_address, port };
        let request = Tuple {
            protocol: Protocol::Tcp,
            source: parts.client,
            source_port: parts.client_port,
            destination: parts.virtual_address,
            destination_port: port,
        };
        let own = self.services.pool[parts.destination as usize].service;
        port >= UNPRIVILEGED
            && self.services.find(&named).is_none()
            && self.services.marked(&request).is_none_or(|service| service == own)
    }

    /// The server will open a data connection to this address of the client: from the port before its own, and so the service's.
    fn expect_from_server(&mut self, control: u32, client: IpAddr, client_port: u16, now: Instant) -> Result<(), Full> {
        let parts = self.table.parts(control);
        let new = New {
            client,
            client_port,
            virtual_port: parts.virtual_port.wrapping_sub(1),
            port: parts.port.wrapping_sub(1),
            ..parts
        };
        let request = Tuple {
            protocol: Protocol::Tcp,
            source: client,
            source_port: client_port,
            destination: new.virtual_address,
            destination_port: new.virtual_port,
        };
        match self.table.find(&request) {
            Some((place, Direction::Inbound)) if self.table.get(place).template() == Some(control) => {
                self.wait_for(place, now);
            }
            // Somebody else's, or of something else.
            Some(_) => {}
            None => {
                let place = self.expect(control, &new, now)?;
                self.wait_for(place, now);
            }
        }
        Ok(())
    }

    /// The client will open a data connection to this port of the server, from any of its own.
    fn expect_from_client(&mut self, control: u32, address: IpAddr, port: u16, now: Instant) -> Result<(), Full> {
        let parts = self.table.parts(control);
        let reply = Tuple {
            protocol: Protocol::Tcp,
            source: address,
            source_port: port,
            destination: parts.client,
            destination_port: 0,
        };
        match self.table.find_open(&reply) {
            Some((place, Direction::Outbound)) if self.table.get(place).template() == Some(control) => {
                self.wait_for(place, now);
            }
            Some(_) => {}
            None => {
                let new = New { client_port: 0, virtual_port: port, address, port, ..parts };
                let place = self.expect(control, &new, now)?;
                self.table.open(place);
                self.wait_for(place, now);
            }
        }
        Ok(())
    }

    /// Puts a data connection into the table that its control connection outlives. It is scheduled by nobody, and so is counted among
    /// those of the destination only as long as it is there. One that was announced before and has not begun goes.
    fn expect(&mut self, control: u32, new: &New, now: Instant) -> Result<u32, Full> {
        if let Some(old) = self.table.ftp(control).and_then(|ftp| ftp.expected) {
            let entry = self.table.get(old);
            // The place may be another's by now.
            if entry.template() == Some(control) && entry.state() == TcpState::Listen as u8 {
                self.end(old);
            }
        }
        let service = self.services.pool[new.destination as usize].service;
        let accounts = match self.table.sources.is_reserved() {
            true => self.account(service, new.client, now)?,
            false => [0; 2],
        };
        // Not over within this very tick.
        let place = match self.insert(new, None, &[], now, 1) {
            Ok(place) => place,
            Err(Full) => {
                accounts.into_iter().for_each(|account| self.table.sources.release(account));
                return Err(Full);
            }
        };
        if accounts != [0; 2] {
            self.table.count_on(place, accounts);
        }
        self.services.pool[new.destination as usize].bind();
        self.table.set_control(place, control);
        if let Some(ftp) = self.table.ftp_mut(control) {
            ftp.expected = Some(place);
        }
        Ok(place)
    }

    /// A data connection waits for its first packet.
    fn wait_for(&mut self, place: u32, now: Instant) {
        let entry = self.table.get(place);
        if entry.is_active() {
            let destination = &mut self.services.pool[entry.destination as usize];
            destination.active = destination.active.saturating_sub(1);
            self.table.set_active(place, false);
        }
        let (state, timeout) = self.timers.listen();
        self.table.touch(place, state, 0, now, timeout);
    }

    /// Whether a packet of no connection is the first of a data connection that waits for one from any port of a client: then it is of
    /// that from now on.
    #[cold]
    pub(super) fn is_awaited(&mut self, packet: &Packet<'_>, ip: &Ip, transport: &Transport) -> Option<u32> {
        let begins = transport.protocol == Protocol::Tcp
            && transport.flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN) == TcpFlags::SYN
            && transport.source_port != 0;
        if !begins || ip.fragment != Fragment::Whole || is_group(packet.head) {
            return None;
        }
        let from_any = Tuple { source_port: 0, ..tuple(ip, transport) };
        let Some((place, Direction::Inbound)) = self.table.find_open(&from_any) else { return None };
        self.table.close(place, transport.source_port);
        Some(place)
    }
}

/// What a reply is to become.
struct Change {
    /// The bytes of the frame that are replaced.
    at: Range<usize>,
    mode: Mode,
    /// The number at which the line begins.
    number: u32,
    text: Text,
}

/// Replaces bytes of the payload. What lies before them moves, headers included, so that what lies behind them need not: where the
/// frame begins is changed. Its headers are to be complete: they cannot be reached any more.
///
/// The checksum is adjusted without reading what lies behind: one that was wrong stays wrong.
fn splice(
    packet: &mut Packet<'_>,
    ip: &Ip,
    transport: &Transport,
    at: Range<usize>,
    new: &[u8],
    mtu: u16,
) -> Result<(), Reason> {
    let is_partial = nat::is_partial(packet, ip, transport)?;
    let len = ip.len() + new.len() - at.len();
    let (more, less) = (new.len().saturating_sub(at.len()), at.len().saturating_sub(new.len()));
    if packet.offload.gso_size == 0 && len > usize::from(mtu).max(ip.len()) || len > u16::MAX.into() {
        return Err(Reason::TooBig);
    }
    let Some(room) = packet.room.len().checked_sub(more) else { return Err(Reason::NoRoom) };
    let (old_len, new_len) = (ip.end - ip.payload, len + ETHERNET - ip.payload);
    let head = packet.head.get_mut(..at.end).filter(|_| at.start >= ip.payload + transport.header);
    let Some(head) = head else { return Err(Reason::Malformed) };
    let field = ip.payload + CHECKSUM;
    let checksum = u16::from_be_bytes([head[field], head[field + 1]]);
    let checksum = if is_partial {
        Delta::ZERO.word(old_len as u16, new_len as u16).adjust_partial(checksum)
    } else {
        head[field..field + 2].fill(0);
        let pseudo = |len: usize| {
            Sum::pseudo_header(address(head, true, ip), address(head, false, ip), ip.protocol, len as u32).fold()
        };
        let before = sum_at(0, &head[ip.payload..at.start]);
        let offset = at.start - ip.payload;
        let known = [pseudo(old_len), before, sum_at(offset, &head[at.clone()])];
        let rest = known.into_iter().fold(Sum::ZERO.word(!checksum), |sum, part| sum.word(!part)).fold();
        let rest = if (more + less).is_multiple_of(2) { rest } else { rest.swap_bytes() };
        let sum = Sum::ZERO.word(pseudo(new_len)).word(before).word(sum_at(offset, new)).word(rest);
        !sum.fold()
    };
    head[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    let length = ETHERNET + if ip.is_v6() { 4 } else { 2 };
    let old = u16::from_be_bytes([head[length], head[length + 1]]);
    let changed = old.wrapping_add(new.len() as u16).wrapping_sub(at.len() as u16);
    head[length..length + 2].copy_from_slice(&changed.to_be_bytes());
    if !ip.is_v6() {
        let field = ETHERNET + 10;
        let sum = Delta::ZERO.word(old, changed).adjust(u16::from_be_bytes([head[field], head[field + 1]]));
        head[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if more > 0 {
        packet.room[room..].copy_from_slice(&head[..more]);
        head.copy_within(more..at.start, 0);
    } else {
        head.copy_within(..at.start, less);
    }
    head[at.end - new.len().min(at.end)..].copy_from_slice(new);
    packet.start = less as i16 - more as i16;
    Ok(())
}

/// The source or destination of a frame as it is now.
fn address(head: &[u8], is_source: bool, ip: &Ip) -> IpAddr {
    if ip.is_v6() {
        let at = ETHERNET + if is_source { 8 } else { 24 };
        let mut octets = [0; 16];
        octets.copy_from_slice(&head[at..at + 16]);
        octets.into()
    } else {
        let at = ETHERNET + if is_source { 12 } else { 16 };
        let mut octets = [0; 4];
        octets.copy_from_slice(&head[at..at + 4]);
        octets.into()
    }
}
