//! What a backup makes of messages (ip_vs_proc_conn and around).

use core::net::IpAddr;

use super::message::{Fault, HEADER_V0, Message, Record, Sequence, flag};
use super::notice::Notice;
use super::{DaemonRole, Sync};
use crate::checksum::Sum;
use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::connection::{CALL_ID_MAX, Direction, Full, New, Tuple, ticks};
use crate::frame::transport::Transport;
use crate::frame::{Fragment, Ip, protocol};
use crate::packet::Packet;
use crate::path::Moment;
use crate::route::Way;
use crate::service::table::NOBODY;
use crate::service::{DestinationKey, Family, Forward, Protocol, ServiceKey};
use crate::{Balancer, Instant};

/// Seconds a template stays of which no time is told.
const TEMPLATE: u32 = 3 * 60;
/// In the state of a template: a connection of it came about. Nothing else is.
const ASSURED: u16 = 1;

/// What became of a connection in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Created,
    Updated,
    Ignored,
    Refused,
    Full,
}

impl Sync {
    /// Whether a datagram to an address and port may be for a daemon here.
    pub fn listens(&self, group: IpAddr, port: u16) -> bool {
        self.daemons().any(|daemon| {
            daemon.group() == group && usize::from(port.wrapping_sub(daemon.port)) < usize::from(self.ports)
        })
    }
}

impl Balancer {
    /// A datagram to a group: whether it is for the daemons, and then it was taken.
    #[cold]
    pub(crate) fn take_datagram(
        &mut self,
        packet: &Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        moment: &mut Moment<'_>,
    ) -> bool {
        let port = transport.destination_port;
        if transport.protocol != Protocol::Udp || !self.sync.listens(ip.destination, port) {
            return false;
        }
        // Our own that came back, and what claims to be.
        if self.routes.is_own(ip.source) {
            return true;
        }
        if ip.fragment != Fragment::Whole {
            self.sync.counters.malformed_messages += 1;
            return true;
        }
        let Some(datagram) = packet.head.get(ip.payload..ip.end) else {
            // Longer than what lies together.
            self.sync.counters.malformed_messages += 1;
            return true;
        };
        let is_trusted = packet.offload.partial.is_some() || packet.offload.data_valid || packet.offload.gso_size != 0;
        let is_intact = match datagram.get(6..8) {
            // Only over IPv4 there may be none.
            Some([0, 0]) => !ip.is_v6(),
            _ => {
                let length = datagram.len() as u32;
                Sum::pseudo_header(ip.source, ip.destination, protocol::UDP, length).bytes(datagram).is_intact()
            }
        };
        if !is_trusted && !is_intact {
            self.sync.counters.malformed_messages += 1;
            return true;
        }
        let length = usize::from(u16::from_be_bytes([datagram[4], datagram[5]]));
        let payload = match packet.offload.gso_size {
            0 => datagram.get(transport.header..length).unwrap_or_default(),
            _ => &datagram[transport.header..],
        };
        let size = match usize::from(packet.offload.gso_size) {
            0 => payload.len().max(1),
            size => size,
        };
        if payload.is_empty() {
            self.sync.counters.malformed_messages += 1;
        }
        let ends = (ip.source, transport.source_port, port);
        payload.chunks(size).for_each(|message| self.take_message(message, ends, moment.now));
        true
    }

    /// A part of a datagram to a group: if that was a message, it is none for us.
    pub(crate) fn miss_message(&mut self, ip: &Ip, transport: &Transport) {
        let is_one =
            transport.protocol == Protocol::Udp && self.sync.listens(ip.destination, transport.destination_port);
        if is_one && !self.routes.is_own(ip.source) {
            self.sync.counters.malformed_messages += 1;
        }
    }

    /// A packet to a group: somebody may ask who its members are.
    #[cold]
    pub(crate) fn hear_query(&mut self, packet: &Packet<'_>, ip: &Ip, now: Instant) {
        let message = packet.head.get(ip.payload..ip.end).unwrap_or_default();
        if ip.fragment == Fragment::Whole {
            let random = self.sync.random();
            self.sync.members.iter_mut().for_each(|member| member.hear(ip, message, random, now));
        }
    }

    /// A message from an address and port, to a port.
    pub(super) fn take_message(&mut self, bytes: &[u8], ends: (IpAddr, u16, u16), now: Instant) {
        let Some(message) = Message::read(bytes) else {
            self.sync.counters.malformed_messages += 1;
            return;
        };
        if let Some(notice) = Notice::read(&message) {
            return self.take_notice(notice, message.syncid, ends);
        }
        let Some(backup) = &mut self.sync.backup else { return };
        self.sync.counters.received_messages += 1;
        self.sync.counters.received_bytes += bytes.len() as u64;
        backup.peers.received(ends);
        if bytes.len() > usize::from(backup.daemon.max_len) || bytes.len() < HEADER_V0 {
            self.sync.counters.malformed_messages += 1;
            return;
        }
        if backup.daemon.syncid != 0 && backup.daemon.syncid != u32::from(message.syncid) {
            self.sync.counters.foreign_messages += 1;
            return;
        }
        for record in message.records() {
            let outcome = match record {
                Ok(record) => self.take_record(&record, now),
                Err(Fault::Connection) => Outcome::Refused,
                Err(Fault::Rest) => {
                    self.sync.counters.malformed_messages += 1;
                    return;
                }
            };
            let counters = &mut self.sync.counters;
            *match outcome {
                Outcome::Created => &mut counters.created_connections,
                Outcome::Updated => &mut counters.updated_connections,
                Outcome::Ignored => &mut counters.ignored_connections,
                Outcome::Refused => &mut counters.refused_connections,
                Outcome::Full => &mut counters.full_connections,
            } += 1;
        }
    }

    fn take_notice(&mut self, notice: Notice, syncid: u8, ends: (IpAddr, u16, u16)) {
        let concerns = |daemon: &super::Daemon| {
            let own = daemon.syncid as u8;
            own == syncid
                || match daemon.role {
                    // Who asks with 0 takes anything; who listens with 0 too.
                    DaemonRole::Master => syncid == 0,
                    DaemonRole::Backup => daemon.syncid == 0,
                }
        };
        match notice {
            Notice::Ask => {
                // It is much for a few bytes: not for who may be anywhere.
                let is_near = self.routes.way(&ends.0) == Some(Way::Link);
                if is_near && let Some(master) = self.sync.master.as_mut().filter(|master| concerns(&master.daemon)) {
                    // One that is under way has sent some already, and what nobody has asked for is not all.
                    master.again |= master.resync.is_none_or(|resync| resync.began.is_some() || !resync.is_asked);
                }
            }
            Notice::All => {
                if let Some(backup) = self.sync.backup.as_mut().filter(|backup| concerns(&backup.daemon)) {
                    backup.questions = 0;
                }
            }
            Notice::Report { incarnation, sent } => {
                if let Some(backup) = self.sync.backup.as_mut().filter(|backup| concerns(&backup.daemon)) {
                    self.sync.counters.lost_messages += backup.peers.reported(ends, incarnation, sent);
                }
            }
        }
    }

    /// Takes a connection or template in.
    fn take_record(&mut self, record: &Record<'_>, now: Instant) -> Outcome {
        let Some(protocol) = self.readable(record) else { return Outcome::Refused };
        let is_template = record.flags & flag::TEMPLATE != 0;
        let tuple = Tuple {
            protocol,
            source: record.client.0,
            source_port: record.client.1,
            destination: record.service.0,
            destination_port: record.service.1,
        };
        let call_id = match record.engine {
            Some((data, b"sip")) if is_template && data.len() <= CALL_ID_MAX => data,
            Some((_, b"sip")) if !is_template => &[],
            None => &[],
            Some(_) => return Outcome::Refused,
        };
        let state = if is_template { record.state & ASSURED } else { record.state } as u8;
        let timeout = match record.timeout {
            0 if is_template => ticks(TEMPLATE),
            0 => ticks(self.timers.seconds(protocol, state)),
            seconds => ticks(seconds),
        };
        let found = match is_template {
            true => self.table.find_template(&tuple, call_id),
            false => match self.table.find(&tuple) {
                Some((_, Direction::Outbound)) => return Outcome::Refused,
                found => found.map(|(place, _)| place),
            },
        };
        if found.is_some() && record.flags & flag::HEARSAY != 0 {
            // Whoever tells it knows no better: it may be long over, and another have its ports.
            return Outcome::Ignored;
        }
        let is_other = |place: u32| !is_template && self.table.server(place) != record.destination;
        if found.is_some_and(is_other) && record.flags & flag::INACTIVE != 0 {
            // It tells the end of a connection that was replaced here.
            return Outcome::Ignored;
        }
        let to = self.aim(record, protocol, call_id);
        let is_unbound = |place: u32| self.table.get(place).destination == NOBODY;
        let (place, outcome) = match (found, to) {
            (Some(place), _) if !is_other(place) && !is_unbound(place) => (place, Outcome::Updated),
            (Some(place), Some((NOBODY, _)) | None) if !is_other(place) => (place, Outcome::Updated),
            // Nothing ends for what cannot be.
            (_, None) => return Outcome::Refused,
            (found, Some(to)) => {
                let outcome =
                    if found.is_some_and(|place| !is_other(place)) { Outcome::Updated } else { Outcome::Created };
                if let Some(place) = found {
                    self.end(place);
                }
                match self.make(record, &tuple, to, call_id, now, timeout) {
                    Ok(place) => (place, outcome),
                    Err(Full) => return Outcome::Full,
                }
            }
        };
        if let Some([_, out]) = record.sequences
            && is_moved(out)
        {
            self.table.listen_to_ftp(place, out.initial);
            let Some(ftp) = self.table.ftp_mut(place) else {
                // Without its numbers, the connection would be of no use to its client.
                self.end(place);
                return Outcome::Full;
            };
            ftp.resume(out.initial, out.previous, out.delta);
        }
        if !is_template {
            self.activate(place, record.flags & flag::INACTIVE == 0);
        }
        let threshold = self.sysctls.sync_threshold as u32;
        self.table.take_over(place, state, threshold.min(u8::MAX.into()) as u8);
        self.table.renew(place, now, timeout.max(1));
        if let Some(master) = &mut self.sync.master {
            master.set(place, threshold, state);
        }
        outcome
    }

    /// Counts a connection as active or not.
    fn activate(&mut self, place: u32, active: bool) {
        let entry = self.table.get(place);
        if entry.is_active() == active {
            return;
        }
        let destination = &mut self.services.pool[entry.destination as usize];
        if active {
            destination.active += 1;
        } else {
            destination.active = destination.active.saturating_sub(1);
        }
        self.table.set_active(place, active);
    }

    /// The protocol of a connection, if it is one this balancer can have.
    fn readable(&self, record: &Record<'_>) -> Option<Protocol> {
        let host = |address: IpAddr| {
            let unicast = match address {
                IpAddr::V4(a) => is_unicast_v4(a) && !self.routes.is_broadcast(a),
                IpAddr::V6(a) => is_unicast_v6(a) && !a.is_unicast_link_local(),
            };
            unicast && !self.routes.is_own(address)
        };
        // What waits for its client's port belongs to a connection that messages do not name.
        if !host(record.destination.0) || record.flags & flag::NO_CLIENT_PORT != 0 {
            return None;
        }
        if let Some([to_server, to_client]) = record.sequences {
            // Numbers of the client are never moved here, and others only where FTP is spoken.
            let is_ftp = i32::from(record.service.1) == self.sysctls.ftp_port;
            if is_moved(to_server) || is_moved(to_client) && !is_ftp {
                return None;
            }
        }
        if record.flags & flag::TEMPLATE != 0 {
            let protocol = match record.protocol {
                0 => Protocol::Ip,
                number => Protocol::from_number(number.into()).ok()?,
            };
            return Some(protocol);
        }
        let protocol = Protocol::from_number(record.protocol.into()).ok()?;
        let is_state = usize::from(record.state) < self.timers.states(protocol);
        (is_state && host(record.client.0) && host(record.service.0)).then_some(protocol)
    }

    /// The destination a connection goes to, if there is one here (ip_vs_find_dest).
    fn destination_of(&self, record: &Record<'_>, protocol: Protocol) -> Option<u32> {
        let (address, port) = record.destination;
        let marked = match record.mark {
            0 => None,
            mark => self.services.find(&ServiceKey::Mark { family: Family::of(&address), mark }),
        };
        let service = marked.or_else(|| {
            self.services.lookup(&Tuple {
                protocol,
                source: record.client.0,
                source_port: record.client.1,
                destination: record.service.0,
                destination_port: record.service.1,
            })
        })?;
        // A mark's destinations have no port of their own, unless the packets are rewritten.
        let own = record.mark == 0 || record.flags & flag::FORWARD == 0;
        let ports = if own { [port, 0] } else { [0, port] };
        ports.into_iter().find_map(|port| self.services.destination(service, &DestinationKey { address, port }))
    }

    /// The destination of a record's connection or template and how it goes there, if there is none here too. `None` if it is one
    /// that cannot be.
    fn aim(&self, record: &Record<'_>, protocol: Protocol, call_id: &[u8]) -> Option<(u32, Forward)> {
        if !call_id.is_empty() && !self.table.has_call_ids() {
            return None;
        }
        if let Some(place) = self.destination_of(record, protocol) {
            return Some((place, self.services.pool[place as usize].config.forward));
        }
        let forward = Forward::from_flags(record.flags & flag::FORWARD).ok()?;
        (!matches!(forward, Forward::Local | Forward::Bypass)).then_some((NOBODY, forward))
    }

    /// Makes a connection or template of a record, bound to its destination if there is one.
    fn make(
        &mut self,
        record: &Record<'_>,
        tuple: &Tuple,
        (destination, forward): (u32, Forward),
        call_id: &[u8],
        now: Instant,
        timeout: u32,
    ) -> Result<u32, Full> {
        let is_template = record.flags & flag::TEMPLATE != 0;
        let new = New {
            protocol: tuple.protocol,
            client: tuple.source,
            client_port: tuple.source_port,
            virtual_address: tuple.destination,
            virtual_port: tuple.destination_port,
            address: record.destination.0,
            port: record.destination.1,
            forward,
            destination,
            template: is_template,
        };
        let place = self.insert(&new, None, call_id, now, timeout.max(1))?;
        if !is_template && self.speaks_ftp(&new) {
            self.table.speak_ftp(place);
        }
        self.table.set_synced(place);
        let destination = &mut self.services.pool[destination as usize];
        if is_template {
            destination.templates += 1;
        } else {
            destination.bind();
        }
        Ok(place)
    }
}

/// Whether numbers of a stream are not what its sender says.
fn is_moved(sequence: Sequence) -> bool {
    sequence.delta != 0 || sequence.previous != 0
}
