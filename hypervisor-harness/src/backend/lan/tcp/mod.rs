//! All TCP connections of all hosts.

mod carry;
mod connection;
mod device;
mod time_wait;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use smoltcp::time::Instant as Micros;

use super::fabric::Fabric;
use super::http::{Http, Server};
use super::packet::{self, Packet};
use super::poll::{Poll, Readiness, Token};
use carry::{Carry, Knock};
use connection::{Connection, Role, Slot, Standing};
use device::{ACK, DEFAULT_MSS, FIN, Header, Link, RST, SYN, offered_mss};
use time_wait::{Answer, Flow, TimeWait};

/// Connections that may exist, both sides counted.
const MOST: usize = 8192;
/// How many of them may be opened by the guest: the rest is for published ports.
const MOST_PASSIVE: usize = MOST / 2;
/// Sockets kept for later.
const SPARE: usize = 64;

/// What listens at a port of a host.
#[derive(Debug, Clone)]
pub enum Service {
    /// A built-in server.
    Http(Arc<Server>),
    /// A server of the host's.
    Real(SocketAddr),
}

/// A connection's place, and which of the connections in that place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    at: u32,
    generation: u32,
}

/// The connections.
pub struct Tcp {
    places: Vec<(u32, Option<Box<Connection>>)>,
    free: Vec<u32>,
    flows: HashMap<Flow, Id>,
    over: TimeWait,
    /// Those that want to be looked after.
    queue: VecDeque<Id>,
    timers: BinaryHeap<Reverse<(Instant, Id)>>,
    spare: Vec<Slot>,
    /// By host, version of IP (4: true) and port.
    services: HashMap<(usize, bool, u16), Service>,
    /// Connections that the guest opened.
    passive: usize,
    epoch: Instant,
    random: RandomState,
    opened: u64,
}

impl Tcp {
    /// No connections.
    pub fn new(services: HashMap<(usize, bool, u16), Service>, now: Instant) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            flows: HashMap::new(),
            over: TimeWait::default(),
            queue: VecDeque::new(),
            timers: BinaryHeap::new(),
            spare: Vec::new(),
            services,
            passive: 0,
            epoch: now,
            random: RandomState::new(),
            opened: 0,
        }
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether a published port may open one more.
    pub fn has_room(&self) -> bool {
        self.flows.len() < MOST
    }

    /// Whether these two ends are connected already.
    pub fn is_connected(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.flows.contains_key(&Flow { local, remote })
    }

    fn micros(&self, now: Instant) -> Micros {
        Micros::from_micros(now.saturating_duration_since(self.epoch).as_micros() as i64)
    }

    fn get(&mut self, id: Id) -> Option<&mut Connection> {
        let (generation, connection) = self.places.get_mut(id.at as usize)?;
        connection.as_deref_mut().filter(|_| *generation == id.generation)
    }

    fn enqueue(&mut self, id: Id) {
        if let Some(connection) = self.get(id)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    fn add(&mut self, flow: Flow, link: Link, role: Role, fabric: &mut Fabric, now: Instant) -> Id {
        let slot = self.spare.pop().unwrap_or_else(Slot::new);
        // A number that no peer can guess: the first sequence number comes from it.
        let seed = self.random.hash_one(self.opened);
        self.opened += 1;
        let connection = Box::new(Connection::new(flow, link, role, slot, fabric, seed, now));
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[at as usize];
        place.1 = Some(connection);
        let id = Id { at, generation: place.0 };
        self.flows.insert(flow, id);
        id
    }

    fn remove(&mut self, id: Id) {
        let Some((generation, place)) = self.places.get_mut(id.at as usize) else { return };
        if *generation != id.generation {
            return;
        }
        let Some(connection) = place.take() else { return };
        // Tokens have 28 bits for it.
        *generation = (*generation + 1) & 0x0fff_ffff;
        self.free.push(id.at);
        self.flows.remove(&connection.flow);
        self.passive -= usize::from(connection.passive);
        let slot = connection.end();
        if self.spare.len() < SPARE {
            self.spare.push(slot);
        }
    }

    /// Carries a connection of the host's from `local`, an address behind host `at`, to `remote`.
    pub fn connect(
        &mut self,
        fabric: &mut Fabric,
        poll: &Poll,
        at: usize,
        (local, remote): (SocketAddr, SocketAddr),
        stream: TcpStream,
        now: Instant,
    ) {
        let link = Link { host: at, mss: DEFAULT_MSS, sent: 0, acknowledged: 0 };
        let id = self.add(Flow { local, remote }, link, Role::Carry(Carry::new(stream)), fabric, now);
        let Some(connection) = self.get(id) else { return };
        let connected = connection.connect();
        let watched = match &connection.role {
            Role::Carry(carry) => poll.watch(carry.stream(), Token::Connection(id.at, id.generation)).is_ok(),
            _ => false,
        };
        if connected && watched { self.enqueue(id) } else { self.remove(id) }
    }

    /// Host `at` takes a segment, whose checksum is right.
    pub fn input(&mut self, fabric: &mut Fabric, poll: &Poll, at: usize, packet: &Packet<'_>, now: Instant) {
        let Some(header) = Header::parse(packet.payload()) else { return };
        if packet.source.is_unspecified() || packet.source.is_multicast() || packet.destination.is_multicast() {
            return;
        }
        let flow = Flow {
            local: SocketAddr::new(packet.destination, header.destination),
            remote: SocketAddr::new(packet.source, header.source),
        };
        if let Some(&id) = self.flows.get(&flow) {
            return self.feed(fabric, id, packet, &header, now);
        }
        match self.over.answer(&flow, &header, now) {
            Answer::Acknowledge(sequence, acknowledgment) => {
                return reply(fabric, at, &flow, ACK, sequence, acknowledgment, now);
            }
            Answer::Ignore => return,
            Answer::Stranger => {}
        }
        let service = (header.flags & (SYN | ACK | RST | FIN) == SYN)
            .then(|| self.services.get(&(at, packet.destination.is_ipv4(), header.destination)))
            .flatten();
        match service.cloned() {
            // A flood of them: the last ones are not heard.
            Some(_) if self.passive >= MOST_PASSIVE || !self.has_room() => {}
            Some(service) => {
                if !self.accept(fabric, poll, at, flow, &service, packet, now) {
                    refuse(fabric, at, &flow, &header, now);
                }
            }
            None => refuse(fabric, at, &flow, &header, now),
        }
    }

    fn feed(&mut self, fabric: &mut Fabric, id: Id, packet: &Packet<'_>, header: &Header, now: Instant) {
        let micros = self.micros(now);
        let Some(connection) = self.get(id) else { return };
        if header.is(SYN) {
            connection.link.mss = offered_mss(packet.payload());
        }
        if matches!(connection.role, Role::Knock(_)) {
            // Its SYN again, or the client gives up.
            if header.is(RST) {
                self.remove(id);
            }
            return;
        }
        connection.feed(packet.bytes, fabric, now, micros);
        self.enqueue(id);
    }

    /// Takes a SYN for a service. False if it is to be refused.
    #[allow(clippy::too_many_arguments, reason = "the parts of one event")]
    fn accept(
        &mut self,
        fabric: &mut Fabric,
        poll: &Poll,
        at: usize,
        flow: Flow,
        service: &Service,
        packet: &Packet<'_>,
        now: Instant,
    ) -> bool {
        let role = match service {
            Service::Http(server) => Role::Http(Http::new(server.clone(), flow.remote, now)),
            Service::Real(host) => match Knock::new(*host, packet.bytes) {
                Ok(knock) => Role::Knock(knock),
                Err(_) => return false,
            },
        };
        let link = Link { host: at, mss: offered_mss(packet.payload()), sent: 0, acknowledged: 0 };
        let id = self.add(flow, link, role, fabric, now);
        self.passive += 1;
        let micros = self.micros(now);
        let Some(connection) = self.get(id) else { return false };
        connection.passive = true;
        let mut fine = connection.listen();
        match &connection.role {
            Role::Knock(knock) => {
                let token = Token::Connection(id.at, id.generation);
                fine &= knock.stream().is_some_and(|stream| poll.watch(stream, token).is_ok());
            }
            _ => connection.feed(packet.bytes, fabric, now, micros),
        }
        if fine {
            self.enqueue(id);
        } else {
            self.remove(id);
        }
        fine
    }

    /// A socket of the host's has news.
    pub fn ready(&mut self, at: u32, generation: u32, readiness: Readiness) {
        let id = Id { at, generation };
        if let Some(connection) = self.get(id) {
            connection.ready(readiness);
            self.enqueue(id);
        }
    }

    /// What was sent from `local` to `remote` cannot arrive.
    pub fn unreachable(&mut self, local: (IpAddr, u16), remote: (IpAddr, u16)) {
        if let Some(&id) = self.flows.get(&Flow { local: local.into(), remote: remote.into() })
            && let Some(connection) = self.get(id)
        {
            connection.unreachable();
            self.enqueue(id);
        }
    }

    /// The driver takes other frames than before.
    pub fn plug(&mut self, fabric: &mut Fabric, now: Instant) {
        for at in 0..self.places.len() {
            let seed = self.random.hash_one((at, self.opened));
            if let (generation, Some(connection)) = &mut self.places[at] {
                let id = Id { at: at as u32, generation: *generation };
                connection.plug(fabric, seed, now);
                self.enqueue(id);
            }
        }
    }

    /// Looks after all that want it, once. Returns whether something can be done at once, and when to come back else.
    pub fn turn(&mut self, fabric: &mut Fabric, now: Instant) -> (bool, Option<Instant>) {
        while let Some(&Reverse((due, id))) = self.timers.peek()
            && due <= now
        {
            self.timers.pop();
            if let Some(connection) = self.get(id)
                && connection.armed == Some(due)
            {
                connection.armed = None;
                self.enqueue(id);
            }
        }
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            self.look_after(fabric, id, now);
        }
        let due = self.timers.peek().map(|Reverse((due, _))| *due);
        (!self.queue.is_empty() && fabric.has_room(), due)
    }

    fn look_after(&mut self, fabric: &mut Fabric, id: Id, now: Instant) {
        let micros = self.micros(now);
        let Some(connection) = self.get(id) else { return };
        connection.queued = false;
        match connection.look_after(fabric, now, micros) {
            Standing::Lives(due) => {
                if let Some(due) = due
                    && connection.armed.is_none_or(|armed| due < armed)
                {
                    connection.armed = Some(due);
                    self.timers.push(Reverse((due, id)));
                }
            }
            Standing::Busy => self.enqueue(id),
            Standing::Over => self.remove(id),
            Standing::Lingers => {
                let (flow, link) = (connection.flow, connection.link);
                self.over.remember(flow, link.sent, link.acknowledged, now);
                self.remove(id);
            }
            Standing::Refused(syn) => {
                let (flow, link) = (connection.flow, connection.link);
                self.remove(id);
                if let Some(header) = Packet::parse(&syn).ok().and_then(|packet| Header::parse(packet.payload())) {
                    refuse(fabric, link.host, &flow, &header, now);
                }
            }
        }
    }
}

/// Answers a segment that nobody wants (RFC 9293, section 3.10.7.1).
fn refuse(fabric: &mut Fabric, at: usize, flow: &Flow, header: &Header, now: Instant) {
    if header.is(RST) {
        return;
    }
    if header.acknowledges() {
        reply(fabric, at, flow, RST, header.acknowledgment, 0, now);
    } else {
        reply(fabric, at, flow, RST | ACK, 0, header.sequence.wrapping_add(header.length()), now);
    }
}

/// Sends a segment without data.
fn reply(fabric: &mut Fabric, at: usize, flow: &Flow, flags: u8, sequence: u32, acknowledgment: u32, now: Instant) {
    let header = packet::header_length(flow.local.ip());
    let mut frame = fabric.frame(header + 20);
    let packet = frame.packet_mut();
    packet::write_header(packet, flow.local.ip(), flow.remote.ip(), packet::TCP);
    let segment = &mut packet[header..];
    segment[..2].copy_from_slice(&flow.local.port().to_be_bytes());
    segment[2..4].copy_from_slice(&flow.remote.port().to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    // A window: nothing of note may be sent, and nothing is refused either.
    segment[14..16].copy_from_slice(&if flags & RST == 0 { u16::MAX } else { 0 }.to_be_bytes());
    fabric.send(at, frame, None, now);
}
