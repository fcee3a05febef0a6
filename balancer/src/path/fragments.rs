//! IP fragments: the first of a datagram is decided on as the whole would be, and the others follow it.
//!
//! Each fragment goes on as it came, but for its addresses: it is not put together with the others, as Linux does before it balances
//! and undoes afterwards. What is counted is the datagram: one packet, with as many bytes as it would have had as a whole.

use super::{Decision, Moment, direct, nat, tuple};
use crate::Balancer;
use crate::checksum::ipv4_header;
use crate::config::Config;
use crate::connection::{Direction, Tuple};
use crate::fragment::{Fate, Follow, Key, Noted, Pool, ROOM, Table};
use crate::frame::fragment::{Piece, piece};
use crate::frame::transport::Transport;
use crate::frame::{self, ETHERNET, Fragment, Headers, Ip, is_group, protocol};
use crate::packet::{Offload, Packet, Reason, Sink, Verdict};
use crate::service::Protocol;
use crate::service::table::NOBODY;
use crate::time::Instant;

/// Bytes of an IPv6 fragment header, which a whole datagram does not have.
const HEADER_V6: u64 = 8;

/// The datagrams that come in fragments.
#[derive(Debug)]
pub(crate) struct Fragments {
    table: Table,
    pool: Pool,
    /// A first fragment is being decided on.
    pub(super) is_deciding: bool,
    /// Where its datagram goes if it is of one-packet scheduling: the connection has ended by then.
    one_packet: Option<Follow>,
}

/// What a fragment has in common with others of its datagram.
fn key(ip: &Ip, piece: &Piece) -> Key {
    Key {
        source: ip.source,
        destination: ip.destination,
        identification: piece.identification,
        protocol: piece.protocol,
    }
}

/// Sends a frame, in IP fragments of `size` bytes of payload if that is not 0: of IPv4 without options then, as a tunnel makes it,
/// that is in no fragments yet. Each is made where it lies, over the end of the one before it, which has gone.
fn send(frame: &mut [u8], size: u16, sink: &mut dyn Sink) {
    let (size, len) = (usize::from(size), frame.len());
    let Some(&header) = frame.first_chunk::<{ ETHERNET + 20 }>().filter(|_| size != 0) else {
        return sink.transmit(frame);
    };
    for from in (0..len.saturating_sub(header.len())).step_by(size) {
        let end = (from + size + header.len()).min(len);
        let Some(piece) = frame.get_mut(from..end) else { return };
        let Some((head, _)) = piece.split_first_chunk_mut() else { return };
        *head = header;
        let field = (from / 8) as u16 | u16::from(end != len) << 13;
        head[16..18].copy_from_slice(&((end - from - ETHERNET) as u16).to_be_bytes());
        head[20..22].copy_from_slice(&field.to_be_bytes());
        head[24..26].fill(0);
        let sum = ipv4_header(&head[ETHERNET..]);
        head[24..26].copy_from_slice(&sum.to_be_bytes());
        sink.transmit(piece);
    }
}

impl Fragments {
    /// With the sizes of a configuration.
    pub fn new(config: &Config) -> Self {
        let table = Table::new(config.fragments, config.seed);
        Fragments {
            pool: Pool::new(config.held_fragments, ETHERNET + usize::from(config.mtu), table.shares()),
            table,
            is_deciding: false,
            one_packet: None,
        }
    }

    /// When something is to be forgotten next.
    pub fn deadline(&self) -> Option<Instant> {
        self.table.deadline()
    }
}

impl Balancer {
    /// Whether a later fragment is to follow its first: it may be of something with ports, and is not for us alone.
    pub(super) fn is_followed(&self, ip: &Ip) -> bool {
        let may_have_ports = match ip.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => true,
            // Extension headers that may stand behind the fragment header: hop-by-hop, routing, authentication, destination.
            0 | 43 | 51 | 60 => ip.is_v6(),
            _ => false,
        };
        may_have_ports && (self.services.is_virtual(&ip.destination) || !self.routes.is_own(ip.destination))
    }

    /// A fragment of a datagram with ports, which the first one, with `transport`, has.
    #[cold]
    pub(super) fn fragment(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: Option<&Transport>,
        moment: &mut Moment<'_>,
    ) -> Decision {
        if packet.offload != (Offload { data_valid: packet.offload.data_valid, ..Offload::default() }) {
            // No device can complete the checksum of a part.
            return Err(Reason::Malformed);
        }
        if is_group(packet.head) {
            if let Some(transport) = transport {
                self.miss_message(ip, transport);
            }
            return Err(Reason::NotToUs);
        }
        // Of packets that would not be taken, nothing is kept.
        if !self.is_source(ip.source) {
            return Err(Reason::BadSource);
        }
        let piece = piece(packet.head, ip)?;
        self.forget_fragments(moment.now);
        let key = key(ip, &piece);
        if let Some(other) = self.fragments.table.in_the_way_of(&key) {
            self.forget(other);
        }
        let noted = match self.fragments.table.note(&key, &piece, moment.now) {
            Ok(noted) => noted,
            Err((reason, held)) => {
                self.drop_held(held, reason);
                return Err(reason);
            }
        };
        self.drop_held(noted.stale, Reason::Fragment);
        let decision = match noted.fate {
            Fate::Follow(follow) => self.follow_first(packet, ip, &follow, &piece, moment),
            Fate::Local => Ok(Verdict::Local),
            Fate::Refused(reason) => Err(reason),
            Fate::Unknown => self.undecided(packet, (ip, &piece), transport, &noted, moment),
        };
        if self.fragments.table.is_whole(noted.place) && self.fragments.table.held(noted.place) == 0 {
            self.fragments.table.remove(noted.place);
        }
        decision
    }

    /// A fragment of a datagram that is not decided on yet.
    fn undecided(
        &mut self,
        packet: &mut Packet<'_>,
        (ip, piece): (&Ip, &Piece),
        transport: Option<&Transport>,
        noted: &Noted,
        moment: &mut Moment<'_>,
    ) -> Decision {
        let is_ready = match transport {
            Some(transport) => {
                transport.protocol != Protocol::Sctp
                    || noted.len.is_some()
                    || self.stays_as_it_is(&tuple(ip, transport))
            }
            None => noted.has_first && noted.len.is_some(),
        };
        if !is_ready {
            return self.hold(packet, ip, piece, noted);
        }
        let Some(transport) = transport else {
            // The last one of what was held for its sake.
            let held = self.fragments.table.held(noted.place);
            let fate = self.release_first(held, noted, moment);
            let held = self.fragments.table.decide(noted.place, fate);
            self.release(held, fate, moment);
            return match fate {
                Fate::Follow(follow) => self.follow_first(packet, ip, &follow, piece, moment),
                Fate::Refused(reason) => Err(reason),
                Fate::Local | Fate::Unknown => Ok(Verdict::Local),
            };
        };
        let (decision, fate) = self.decide_first(packet, ip, transport, noted, moment);
        let held = self.fragments.table.decide(noted.place, fate);
        self.release(held, fate, moment);
        decision
    }

    /// Whether packets of a connection go on with the ports they have, and so with the checksum.
    fn stays_as_it_is(&self, tuple: &Tuple) -> bool {
        self.table.find(tuple).is_some_and(|(place, _)| self.table.get(place).is_one_way())
    }

    /// Decides on a first fragment as if it were all of its datagram. What is to become of the others, too.
    fn decide_first(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        transport: &Transport,
        noted: &Noted,
        moment: &mut Moment<'_>,
    ) -> (Decision, Fate) {
        let whole = Ip { fragment: Fragment::Whole, ..*ip };
        let tuple = tuple(ip, transport);
        let at_first = nat::field::<12>(packet.head, ip.payload).map(|header| *header);
        (self.fragments.is_deciding, self.fragments.one_packet) = (true, None);
        let mut decision = match self.table.find(&tuple) {
            Some(found) => self.flow_apart(packet, &whole, transport, found, moment),
            // It was held for the sake of a connection that has ended.
            None if self.is_passive() => Err(Reason::NotOurs),
            None => self.unknown(packet, &whole, transport, moment),
        };
        self.fragments.is_deciding = false;
        if let (Protocol::Sctp, Ok([a, b, c, d, _, _, _, _, checksum @ ..]), Some(len), true) =
            (transport.protocol, at_first, noted.len, packet.start == 0 && decision.is_ok())
        {
            // It was taken for all of its packet.
            decision = nat::adjust_sctp(packet.head, ip, [a, b, c, d], checksum, len).and(decision);
        }
        if let (Protocol::Sctp, None, 0, Ok(before), Ok(after)) = (
            transport.protocol,
            noted.len,
            packet.start,
            at_first.map(|header| [header[0], header[1], header[2], header[3]]),
            nat::field::<4>(packet.head, ip.payload),
        ) && before != *after
        {
            // Its connection was found to have ended, and another has other ports: its checksum cannot be told any more.
            decision = Err(Reason::Fragment);
        }
        let found = self.table.find(&tuple).map(|(place, direction)| self.follow_of(place, direction, ip));
        let mut follow = self.fragments.one_packet.take().or(found);
        // Whatever was rewritten is to be of the others too. In a tunnel, nothing was.
        if let (Some(follow), 0, Some(ends)) = (&mut follow, packet.start, nat::ends(packet.head, ip)) {
            follow.ends = ends;
        }
        let fate = match (decision, follow) {
            (Ok(Verdict::Transmit | Verdict::Wait(_)), Some(follow)) => Fate::Follow(follow),
            (Ok(Verdict::Transmit | Verdict::Wait(_) | Verdict::Held | Verdict::Taken), _) => {
                Fate::Refused(Reason::Fragment)
            }
            (Ok(Verdict::Local), Some(follow)) if follow.is_local => Fate::Follow(follow),
            (Ok(Verdict::Local), _) => Fate::Local,
            (Ok(Verdict::Drop(reason)) | Err(reason), _) => Fate::Refused(reason),
        };
        (decision, fate)
    }

    /// How the fragments of a datagram go on that is of a connection, if nothing is rewritten.
    pub(super) fn follow_of(&self, place: u32, direction: Direction, ip: &Ip) -> Follow {
        let entry = self.table.get(place);
        let destination = &self.services.pool[entry.destination as usize];
        Follow {
            direction,
            is_tunnel: entry.is_tunnel(),
            is_bypass: entry.is_bypass(),
            destination: entry.destination,
            server: if entry.destination == NOBODY { self.table.server(place).0 } else { destination.key.address },
            ends: (ip.source, ip.destination),
            is_local: destination.local && direction == Direction::Inbound,
            hash: entry.hashes[0],
        }
    }

    /// A connection of one-packet scheduling is about to end, and may have been that of a first fragment.
    pub(super) fn note_one_packet(&mut self, place: u32, ip: &Ip) {
        if self.fragments.is_deciding {
            self.fragments.one_packet = Some(self.follow_of(place, Direction::Inbound, ip));
        }
    }

    /// Sends a later fragment where its first went.
    fn follow_first(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        follow: &Follow,
        piece: &Piece,
        moment: &mut Moment<'_>,
    ) -> Decision {
        // All of them make one packet with one header, and none for fragments. The first was counted with all it had.
        let mut bytes = u64::from(piece.end - piece.start);
        if ip.is_v6() && piece.is_last {
            bytes = bytes.wrapping_sub(HEADER_V6);
        }
        self.follow(packet, ip, follow, (0, bytes), moment)
    }

    /// Sends a packet whose ports are not to be seen where its connection goes. It counts as so many packets and bytes.
    pub(super) fn follow(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        follow: &Follow,
        (packets, bytes): (u64, u64),
        moment: &mut Moment<'_>,
    ) -> Decision {
        if follow.is_bypass {
            return self.pass(packet, ip, ip.len(), moment);
        }
        let destination = &self.services.pool[follow.destination as usize];
        let is_there = destination.available && destination.key.address == follow.server;
        let (len, hops, (_, to)) = (ip.len(), ip.hops.saturating_sub(1), follow.ends);
        if follow.direction == Direction::Outbound {
            self.may_pass(packet, ip, len, self.config.mtu, moment)?;
            let way = self.route(packet, ip, &to, moment)?;
            if is_there {
                self.count(follow.destination, |stats| {
                    stats.out_packets += packets;
                    stats.out_bytes = stats.out_bytes.wrapping_add(bytes);
                });
            }
            nat::readdress(packet.head, ip, follow.ends, hops)?;
            return self.transmit(packet, way, &to, moment);
        }
        let is_unbound = follow.destination == NOBODY && !follow.is_tunnel;
        if !is_there && !is_unbound {
            return Err(Reason::DestinationGone);
        }
        if is_unbound {
            return self.follow_unbound(packet, ip, follow, moment);
        }
        self.count(follow.destination, |stats| {
            stats.in_packets += packets;
            stats.in_bytes = stats.in_bytes.wrapping_add(bytes);
        });
        if follow.is_local {
            // It stays here: that is no hop.
            nat::readdress(packet.head, ip, follow.ends, ip.hops)?;
            return Ok(Verdict::Local);
        }
        if follow.is_tunnel {
            return self.tunnel_to(packet, ip, len, (follow.destination as usize, follow.hash), moment);
        }
        self.may_pass(packet, ip, len, self.config.mtu, moment)?;
        let way = self.route_to(packet, ip, follow.destination, &follow.server, moment)?;
        if to == ip.destination {
            direct(way)?;
        }
        nat::readdress(packet.head, ip, follow.ends, hops)?;
        self.transmit_to(packet, follow.destination, way, &follow.server, moment)
    }

    /// Sends a packet of a connection that came by synchronization to its server, which is no destination here. It counts for nobody.
    #[cold]
    fn follow_unbound(
        &mut self,
        packet: &mut Packet<'_>,
        ip: &Ip,
        follow: &Follow,
        moment: &mut Moment<'_>,
    ) -> Decision {
        self.may_pass(packet, ip, ip.len(), self.config.mtu, moment)?;
        let way = self.route(packet, ip, &follow.server, moment)?;
        if follow.ends.1 == ip.destination {
            direct(way)?;
        }
        nat::readdress(packet.head, ip, follow.ends, ip.hops.saturating_sub(1))?;
        self.resolve(packet, way, &follow.server, moment)
    }

    /// Keeps a fragment that is not to go on yet.
    fn hold(&mut self, packet: &Packet<'_>, ip: &Ip, piece: &Piece, noted: &Noted) -> Decision {
        let Some(frame) = packet.head.get(..ip.end) else { return self.refuse(noted, Reason::Fragment) };
        if !self.fragments.pool.fits(frame.len()) {
            return self.refuse(noted, Reason::Fragment);
        }
        let share = self.fragments.table.share(ip.source);
        loop {
            // Who has its share has only that to give up. What waits for a neighbour is given up only if nothing else is there.
            let oldest = if self.fragments.pool.is_full_for(share) {
                self.fragments.table.oldest_holding_of(share).unwrap_or(noted.place)
            } else if !self.fragments.pool.is_full() {
                break;
            } else if let Some(oldest) = self.fragments.table.oldest_holding() {
                oldest
            } else if self.fragments.pool.give_up_waiting() {
                self.counters.held = self.counters.held.saturating_sub(1);
                self.counters.dropped[Reason::FragmentLost as usize] += 1;
                continue;
            } else {
                break;
            };
            if oldest == noted.place {
                return self.refuse(noted, Reason::FragmentLost);
            }
            self.forget(oldest);
        }
        let held = self.fragments.pool.put(frame, self.fragments.table.held(noted.place), share);
        if held == 0 {
            return self.refuse(noted, Reason::FragmentLost);
        }
        self.fragments.table.hold(noted.place, held, piece.start == 0);
        Ok(Verdict::Held)
    }

    /// Refuses a datagram with all its fragments.
    fn refuse(&mut self, noted: &Noted, reason: Reason) -> Decision {
        let held = self.fragments.table.decide(noted.place, Fate::Refused(reason));
        self.drop_held(held, reason);
        Err(reason)
    }

    /// Sends the first fragment on that is among those held. What is to become of the others.
    fn release_first(&mut self, held: u32, noted: &Noted, moment: &mut Moment<'_>) -> Fate {
        let mut fate = Fate::Refused(Reason::Fragment);
        let mut link = held;
        while link != 0 {
            self.with_held(link, moment, |this, packet, headers, moment| {
                if headers.ip.fragment != Fragment::First {
                    return None;
                }
                let decision;
                (decision, fate) = this.decide_first(packet, &headers.ip, &headers.transport, noted, moment);
                Some(decision)
            });
            link = self.fragments.pool.next(link);
        }
        fate
    }

    /// Sends on or drops what was held of a datagram that has been decided on, but for its first fragment.
    fn release(&mut self, held: u32, fate: Fate, moment: &mut Moment<'_>) {
        let mut link = held;
        while link != 0 {
            self.with_held(link, moment, |this, packet, headers, moment| {
                if headers.ip.fragment == Fragment::First {
                    return None;
                }
                Some(match fate {
                    Fate::Follow(follow) => match piece(packet.head, &headers.ip) {
                        Ok(piece) => this.follow_first(packet, &headers.ip, &follow, &piece, moment),
                        Err(reason) => Err(reason),
                    },
                    Fate::Refused(reason) => Err(reason),
                    // The local stack takes only what comes to it.
                    Fate::Local | Fate::Unknown => Err(Reason::FragmentLost),
                })
            });
            link = self.fragments.pool.free(link);
        }
    }

    /// Works on a frame that is held, and sends it or counts why it is not, unless the work says nothing.
    fn with_held(
        &mut self,
        place: u32,
        moment: &mut Moment<'_>,
        work: impl FnOnce(&mut Self, &mut Packet<'_>, &Headers, &mut Moment<'_>) -> Option<Decision>,
    ) {
        let (mut bytes, len) = self.fragments.pool.take(place);
        let whole = bytes.get_mut(..ROOM + len).unwrap_or_default();
        if let Some((room, head)) = whole.split_at_mut_checked(ROOM) {
            let mut headers = Headers::NONE;
            let kind = frame::parse_into(&mut headers, head, len, &self.config.mac);
            let mut packet = Packet::with_room(room, head);
            let decision = match kind {
                Ok(_) => work(self, &mut packet, &headers, moment),
                Err(reason) => Some(Err(reason)),
            };
            let (start, size) = (ROOM as isize + isize::from(packet.start), packet.fragment);
            if let Some(decision) = decision {
                let start = usize::try_from(start).unwrap_or(ROOM);
                let dropped = match decision {
                    Ok(Verdict::Transmit) => {
                        self.counters.held = self.counters.held.saturating_sub(1);
                        self.counters.forwarded += 1;
                        send(bytes.get_mut(start..ROOM + len).unwrap_or_default(), size, moment.sink);
                        None
                    }
                    Ok(Verdict::Wait(hop)) => {
                        self.fragments.pool.wait(place, start, size, hop);
                        None
                    }
                    Ok(Verdict::Drop(reason)) | Err(reason) => Some(reason),
                    Ok(Verdict::Local | Verdict::Held | Verdict::Taken) => Some(Reason::FragmentLost),
                };
                if let Some(reason) = dropped {
                    self.counters.held = self.counters.held.saturating_sub(1);
                    self.counters.dropped[reason as usize] += 1;
                }
            }
        }
        self.fragments.pool.give_back(place, bytes);
    }

    /// A neighbour may have answered, or been given up: what was held and now waits for it goes on.
    pub(super) fn resume_fragments(&mut self, moment: &mut Moment<'_>) {
        if !self.fragments.pool.is_waiting() {
            return;
        }
        let mut link = self.fragments.pool.take_waiting();
        while link != 0 {
            let Some((frame, size, hop)) = self.fragments.pool.waiting(link) else { break };
            let mac = self.neighbours.get(hop);
            let is_pending = mac.is_none() && self.neighbours.is_pending(hop);
            if !is_pending {
                match (mac, frame.first_chunk_mut::<12>()) {
                    (Some(mac), Some(addresses)) => {
                        addresses[..6].copy_from_slice(&mac);
                        addresses[6..].copy_from_slice(&self.config.mac);
                        self.counters.forwarded += 1;
                        send(frame, size, moment.sink);
                    }
                    _ => self.counters.dropped[Reason::Unreachable as usize] += 1,
                }
                self.counters.held = self.counters.held.saturating_sub(1);
                self.fragments.pool.settle(link);
            }
            link = self.fragments.pool.free(link);
        }
    }

    /// Forgets datagrams whose time is over.
    pub(super) fn forget_fragments(&mut self, now: Instant) {
        while let Some(place) = self.fragments.table.over(now) {
            self.forget(place);
        }
    }

    /// Forgets a datagram.
    fn forget(&mut self, place: u32) {
        let held = self.fragments.table.remove(place);
        self.drop_held(held, Reason::FragmentLost);
    }

    /// Drops frames that were held.
    fn drop_held(&mut self, mut held: u32, reason: Reason) {
        while held != 0 {
            held = self.fragments.pool.free(held);
            self.counters.held = self.counters.held.saturating_sub(1);
            self.counters.dropped[reason as usize] += 1;
        }
    }
}
