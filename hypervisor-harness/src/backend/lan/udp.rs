//! UDP: published ports, real servers, and the servers' echo.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ringlet_driver::wire::NetHdr;

use super::fabric::{Cut, Fabric};
use super::icmp;
use super::packet::{self, Packet};
use super::plan;
use super::poll::{Poll, Token};

/// How long nothing may come or go until a pair of peers is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// How often it is looked for such pairs.
const SWEEP: Duration = Duration::from_secs(5);
/// Peers of published ports that are remembered at a time.
const PEERS: usize = 4096;
/// Sockets to real servers at a time.
const RELAYS: usize = 1024;
/// Datagrams taken from one socket in one turn.
const BURST: usize = 64;
/// Length of the extension header of an IPv6 fragment.
const FRAGMENT_HEADER: usize = 8;
/// The first port that clients use.
const CLIENT_PORT: u16 = 40_001;

/// The address that a client has inside, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    /// The client, or the server that is real.
    local: SocketAddr,
    /// The other one.
    remote: SocketAddr,
}

#[derive(Debug)]
struct Published {
    socket: UdpSocket,
    target: SocketAddr,
    ready: bool,
}

#[derive(Debug)]
struct Peer {
    published: usize,
    address: SocketAddr,
    used: Instant,
}

#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    host: usize,
    pair: Pair,
    used: Instant,
}

/// All UDP of all hosts.
#[derive(Debug)]
pub struct Udp {
    published: Vec<Published>,
    peers: HashMap<Pair, Peer>,
    pairs: HashMap<(usize, SocketAddr), Pair>,
    /// Real servers, by host, version of IP (4: true) and port.
    reals: HashMap<(usize, bool, u16), SocketAddr>,
    relays: HashMap<u32, Relay>,
    relay_of: HashMap<Pair, u32>,
    next_relay: u32,
    ready_relays: Vec<u32>,
    /// Hosts and ports that send everything back.
    echo: HashSet<(usize, u16)>,
    swept: Instant,
    buffer: Vec<u8>,
    /// Datagrams of one flow that came one after the other.
    train: Train,
}

impl Udp {
    /// Nobody speaks yet. `published` are sockets that do not block, each with where it leads.
    pub fn new(
        published: Vec<(UdpSocket, SocketAddr)>,
        reals: HashMap<(usize, bool, u16), SocketAddr>,
        echo: impl IntoIterator<Item = (usize, u16)>,
        now: Instant,
    ) -> Self {
        let published =
            published.into_iter().map(|(socket, target)| Published { socket, target, ready: false }).collect();
        Self {
            published,
            peers: HashMap::new(),
            pairs: HashMap::new(),
            reals,
            relays: HashMap::new(),
            relay_of: HashMap::new(),
            next_relay: 0,
            ready_relays: Vec::new(),
            echo: echo.into_iter().collect(),
            swept: now,
            buffer: vec![0; 65_536],
            train: Train::default(),
        }
    }

    /// A published port has datagrams.
    pub fn published_ready(&mut self, at: u32) {
        if let Some(published) = self.published.get_mut(at as usize) {
            published.ready = true;
        }
    }

    /// A real server has answered.
    pub fn relay_ready(&mut self, number: u32) {
        if !self.ready_relays.contains(&number) {
            self.ready_relays.push(number);
        }
    }

    /// Carries in what came from the host. Returns whether there is more.
    pub fn turn(&mut self, fabric: &mut Fabric, gateway: usize, clients: &mut u32, now: Instant) -> bool {
        if now > self.swept + SWEEP {
            self.sweep(now);
        }
        let mut more = false;
        for at in 0..self.published.len() {
            more |= self.published[at].ready && self.carry_in(fabric, at, gateway, clients, now);
        }
        for number in std::mem::take(&mut self.ready_relays) {
            if self.carry_back(fabric, number, now) {
                self.ready_relays.push(number);
                more = true;
            }
        }
        more && fabric.has_room()
    }

    /// When pairs are to be looked through.
    pub fn due(&self) -> Option<Instant> {
        (!self.peers.is_empty() || !self.relays.is_empty()).then(|| self.swept + SWEEP + Duration::from_millis(1))
    }

    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        self.peers.retain(|_, peer| now < peer.used + IDLE);
        let peers = &self.peers;
        self.pairs.retain(|_, pair| peers.contains_key(pair));
        self.relays.retain(|_, relay| now < relay.used + IDLE);
        let relays = &self.relays;
        self.relay_of.retain(|_, number| relays.contains_key(number));
    }

    /// From the peers of a published port to its target. Returns whether there is more.
    fn carry_in(&mut self, fabric: &mut Fabric, at: usize, gateway: usize, clients: &mut u32, now: Instant) -> bool {
        for _ in 0..BURST {
            if !fabric.has_room() {
                break;
            }
            match self.published[at].socket.recv_from(&mut self.buffer) {
                Ok((length, address)) => {
                    if let Some(pair) = self.pair(at, address, clients, now) {
                        let (from, to) = (pair.local, pair.remote);
                        self.train.add(fabric, gateway, from, to, &self.buffer[..length], now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.train.send(fabric, now);
                    self.published[at].ready = false;
                    return false;
                }
                // An earlier answer could not be delivered. The next call has the next datagram.
                Err(_) => {}
            }
        }
        self.train.send(fabric, now);
        true
    }

    /// The pair of addresses inside for a peer outside.
    fn pair(&mut self, at: usize, address: SocketAddr, clients: &mut u32, now: Instant) -> Option<Pair> {
        if let Some(pair) = self.pairs.get(&(at, address)) {
            if let Some(peer) = self.peers.get_mut(pair) {
                peer.used = now;
            }
            return Some(*pair);
        }
        if self.peers.len() >= PEERS {
            // The one that was silent for longest makes room.
            let (oldest, peer) = self.peers.iter().min_by_key(|(_, peer)| peer.used)?;
            let (oldest, key) = (*oldest, (peer.published, peer.address));
            self.peers.remove(&oldest);
            self.pairs.remove(&key);
        }
        let remote = self.published[at].target;
        // More clients have addresses than are remembered: one is free soon.
        for _ in 0..=PEERS {
            let local = SocketAddr::new(plan::client(*clients, remote.is_ipv6()), CLIENT_PORT);
            *clients = clients.wrapping_add(1);
            let pair = Pair { local, remote };
            if let Entry::Vacant(vacant) = self.peers.entry(pair) {
                vacant.insert(Peer { published: at, address, used: now });
                self.pairs.insert((at, address), pair);
                return Some(pair);
            }
        }
        None
    }

    /// From a real server back to the client. Returns whether there is more.
    fn carry_back(&mut self, fabric: &mut Fabric, number: u32, now: Instant) -> bool {
        let Some(relay) = self.relays.get_mut(&number) else { return false };
        for _ in 0..BURST {
            if !fabric.has_room() {
                break;
            }
            match relay.socket.recv(&mut self.buffer) {
                Ok(length) => {
                    relay.used = now;
                    let (from, to) = (relay.pair.local, relay.pair.remote);
                    self.train.add(fabric, relay.host, from, to, &self.buffer[..length], now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.train.send(fabric, now);
                    return false;
                }
                // Nobody listened when a datagram came.
                Err(_) => {}
            }
        }
        self.train.send(fabric, now);
        true
    }

    /// Host `at` takes a datagram, or several of one flow in one frame, whose checksum is right.
    pub fn input(
        &mut self,
        fabric: &mut Fabric,
        poll: &Poll,
        at: usize,
        header: &NetHdr,
        packet: &Packet<'_>,
        now: Instant,
    ) {
        let Some(fixed) = packet.payload().first_chunk::<8>() else { return };
        let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let length = usize::from(port(4));
        // Of a frame that is to be cut, the length field is one that no datagram will have.
        let length = if header.is_gso() { packet.payload().len() } else { length };
        let Some(body) = packet.payload().get(8..length) else { return };
        let size = match header.gso_type {
            NetHdr::GSO_UDP_L4 => usize::from(header.gso_size).max(1),
            _ => body.len().max(1),
        };
        let source = SocketAddr::new(packet.source, port(0));
        let destination = SocketAddr::new(packet.destination, port(2));
        if source.port() == 0 || packet.source.is_multicast() || packet.source.is_unspecified() {
            return;
        }
        let pair = Pair { local: destination, remote: source };
        if self.echo.contains(&(at, destination.port())) {
            // Two of them would talk for ever.
            if source.port() != destination.port() && !packet.destination.is_multicast() {
                datagrams(fabric, at, destination, source, body, size, now);
            }
        } else if let Some(&host) = self.reals.get(&(at, packet.destination.is_ipv4(), destination.port())) {
            let mut told = true;
            for piece in pieces(body, size) {
                told &= self.relay(poll, at, pair, host, piece, now);
            }
            if !told {
                icmp::port_unreachable(fabric, at, packet, now);
            }
        } else if let Some(peer) = self.peers.get_mut(&pair) {
            peer.used = now;
            for piece in pieces(body, size) {
                // As with any network, what the host cannot take is lost.
                let _ = self.published[peer.published].socket.send_to(piece, peer.address);
            }
        } else {
            icmp::port_unreachable(fabric, at, packet, now);
        }
    }

    /// Passes a datagram on to a real server. False if nobody listens there.
    fn relay(&mut self, poll: &Poll, host: usize, pair: Pair, to: SocketAddr, body: &[u8], now: Instant) -> bool {
        let number = match self.relay_of.get(&pair) {
            Some(number) => *number,
            None if self.relays.len() >= RELAYS => return true,
            None => {
                let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let number = self.next_relay;
                let Ok(socket) = connected(any, to, poll, number) else { return true };
                self.next_relay = self.next_relay.wrapping_add(1);
                self.relays.insert(number, Relay { socket, host, pair, used: now });
                self.relay_of.insert(pair, number);
                number
            }
        };
        let Some(relay) = self.relays.get_mut(&number) else { return true };
        relay.used = now;
        // An error is about an earlier datagram: the server was not there then. This one is tried all the same.
        match relay.socket.send(body) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = relay.socket.send(body);
                false
            }
            _ => true,
        }
    }
}

/// A socket that speaks with `to` only, and does not block.
fn connected(any: IpAddr, to: SocketAddr, poll: &Poll, number: u32) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    poll.watch(&socket, Token::Relay(number))?;
    Ok(socket)
}

/// The datagrams of a frame that holds `body`, each of `size` bytes but the last. An empty one is one too.
fn pieces(body: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
    let empty = body.is_empty().then_some(body);
    empty.into_iter().chain(body.chunks(size))
}

/// The most datagrams in one frame, as in Linux (UDP_MAX_SEGMENTS).
const MOST_DATAGRAMS: usize = 64;

/// Datagrams of one flow, all of one size but the last, which can go in one frame to a guest that takes that.
#[derive(Debug, Default)]
struct Train {
    flow: Option<(usize, SocketAddr, SocketAddr)>,
    body: Vec<u8>,
    /// The size of the first.
    size: usize,
    /// The last was a shorter one: nothing can follow.
    closed: bool,
}

impl Train {
    /// Takes a datagram from host `at`, and sends those before it first if it cannot go with them.
    fn add(&mut self, fabric: &mut Fabric, at: usize, from: SocketAddr, to: SocketAddr, body: &[u8], now: Instant) {
        let headers = packet::header_length(from.ip()) + 8;
        let fits = self.flow == Some((at, from, to))
            && !self.closed
            && (1..=self.size).contains(&body.len())
            && self.body.len() + body.len() + headers <= usize::from(u16::MAX)
            && self.body.len() < self.size * MOST_DATAGRAMS;
        if !fits {
            self.send(fabric, now);
            self.flow = Some((at, from, to));
            self.size = body.len();
            let alone =
                !fabric.mode().takes_datagrams(from.is_ipv6()) || headers + body.len() > usize::from(fabric.mtu);
            self.closed = alone || body.is_empty();
        }
        self.closed |= body.len() < self.size;
        self.body.extend_from_slice(body);
        if self.closed {
            self.send(fabric, now);
        }
    }

    /// Sends what there is.
    fn send(&mut self, fabric: &mut Fabric, now: Instant) {
        if let Some((at, from, to)) = self.flow.take() {
            datagrams(fabric, at, from, to, &self.body, self.size.max(1), now);
            self.body.clear();
        }
    }
}

/// Sends from host `at` datagrams of `size` bytes each, of which the last may be shorter. One that is larger than the MTU
/// goes in fragments.
fn datagrams(fabric: &mut Fabric, at: usize, from: SocketAddr, to: SocketAddr, body: &[u8], size: usize, now: Instant) {
    let (header, mtu) = (packet::header_length(from.ip()), usize::from(fabric.mtu));
    let length = header + 8 + body.len();
    if length > usize::from(u16::MAX) {
        return;
    }
    let cut = if body.len() > size {
        // No more than the body has.
        Some(Cut::Datagrams(size as u16))
    } else if length > mtu {
        let extension = if from.is_ipv6() { FRAGMENT_HEADER } else { 0 };
        Some(Cut::Fragments(((mtu - header - extension) & !7) as u16))
    } else {
        None
    };
    let number = fabric.identification() as u16;
    let mut frame = fabric.frame(length);
    let packet = frame.packet_mut();
    packet::write_header(packet, from.ip(), to.ip(), packet::UDP);
    if let Some(Cut::Fragments(_)) = cut {
        packet::allow_fragments(packet, number);
    }
    let udp = &mut packet[header..];
    udp[..2].copy_from_slice(&from.port().to_be_bytes());
    udp[2..4].copy_from_slice(&to.port().to_be_bytes());
    udp[4..6].copy_from_slice(&((8 + body.len()) as u16).to_be_bytes());
    udp[6..8].fill(0);
    udp[8..].copy_from_slice(body);
    fabric.send(at, frame, cut, now);
}
