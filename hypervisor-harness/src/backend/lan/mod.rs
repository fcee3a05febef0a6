//! The in-process network: a gateway with clients behind it and a few servers, on one Ethernet segment with the guest.
//! It needs no rights and no set-up.
//!
//! Everything on the far side of the guest's wire is real: Ethernet frames, ARP and neighbour discovery, IP, ICMP, UDP and
//! TCP with windows and retransmission. Only the hosts are not: they are parts of this process.
//!
//! | who | addresses |
//! |---|---|
//! | gateway | 10.0.0.1, fd00::1; clients 10.9.0.0/16 and fd09::/64 live behind it |
//! | guest | 10.0.0.2, fd00::2: the servers' default route |
//! | alpha, beta, gamma | 10.0.0.11 to .13, fd00::b to ::d: HTTP on TCP port 80, echo on UDP port 7 ([`http`]) |
//! | `--real` servers | anywhere in 10.0.0.0/24 and fd00::/64: TCP and UDP, carried to the host's sockets |
//!
//! A published port of the host leads to any address inside: each of the host's connections becomes one of a client of its
//! own. Servers also take packets for addresses that are not theirs, and answer those past the guest: so direct routing
//! can be tried.

mod fabric;
mod fragments;
mod handle;
pub mod http;
mod icmp;
mod mode;
mod neighbours;
mod packet;
pub(super) mod plan;
mod poll;
mod published;
mod resolve;
mod sys;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

pub use handle::{Handle, PingError, Statistics};

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::options::{Protocol, Publish, Real};
use super::{Backend, Counters, OFFLOADS, Received, Scatter, Sent};
use fabric::{Fabric, Frame, Host};
use fragments::{Fragments, is_fragment};
use handle::{Counter, Order};
use http::Server;
use mode::Mode;
use packet::{ETHERNET, HEADROOM, ICMP, ICMPV6, TCP, UDP};
use plan::Mac;
use poll::{Poll, Readiness, Token};
use published::Listener;
use tcp::{Service, Tcp};
use udp::Udp;

/// The gateway's place among the hosts.
const GATEWAY: usize = 0;
/// Frames between hosts that are looked at in one round.
const BURST: usize = 256;
/// Rounds in one turn: what one host sends to another, it answers in the next.
const ROUNDS: usize = 8;

/// A server that is part of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltIn {
    /// What it calls itself.
    pub name: String,
    /// Its addresses, each in 10.0.0.0/24 or fd00::/64.
    pub addresses: Vec<IpAddr>,
    /// TCP port of its HTTP server.
    pub http: u16,
    /// UDP port at which it sends everything back.
    pub echo: u16,
}

/// What stands in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Ports of the host that lead into it.
    pub publish: Vec<Publish>,
    /// Servers of the host that stand in it.
    pub real: Vec<Real>,
    /// Servers of its own.
    pub servers: Vec<BuiltIn>,
    /// The guest's addresses, one of each version of IP: the servers' default routes.
    pub guest: Vec<IpAddr>,
    /// The maximum transmission unit, in bytes of IP packet: 1280 to 9216.
    pub mtu: u16,
}

impl Default for Config {
    fn default() -> Self {
        let server = |(name, last): (&str, u8)| BuiltIn {
            name: name.to_owned(),
            addresses: plan::server(last).to_vec(),
            http: 80,
            echo: 7,
        };
        Self {
            publish: Vec::new(),
            real: Vec::new(),
            servers: [("alpha", 11), ("beta", 12), ("gamma", 13)].map(server).to_vec(),
            guest: plan::GUEST.to_vec(),
            mtu: 1500,
        }
    }
}

/// Why the network cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not give the port.
    #[error("cannot publish {publish}: {source}")]
    Publish {
        /// What was asked for.
        publish: Publish,
        /// What the host says.
        source: io::Error,
    },
    /// The address is not one of the segment's.
    #[error(
        "no server can stand at {0}: its address must be in 10.0.0.0/24 or fd00::/64, and neither the gateway's (.1) nor the guest's (.2)"
    )]
    Place(IpAddr),
    /// Two servers want the same port of the same host.
    #[error("two servers stand at port {1} of {0}")]
    Twice(IpAddr, u16),
    /// The maximum transmission unit is not one that Ethernet and IPv6 can have.
    #[error("the network cannot have an MTU of {0}: expected 1280 to 9216")]
    Mtu(u16),
    /// The host has no more descriptors.
    #[error("cannot set up the network: {0}")]
    Host(#[from] io::Error),
}

/// The network.
pub struct Lan {
    fabric: Fabric,
    tcp: Tcp,
    udp: Udp,
    pings: icmp::Pings,
    fragments: Fragments,
    listeners: Vec<Listener>,
    poll: Poll,
    counter: Counter,
    /// Clients so far.
    clients: u32,
    events: Vec<(Token, Readiness)>,
}

impl Lan {
    /// Sets the network up and binds the published ports.
    ///
    /// # Errors
    /// If the host refuses a port, or the configuration makes no sense.
    pub fn open(config: &Config) -> Result<(Self, Handle), Error> {
        if !(1280..=9216).contains(&config.mtu) {
            return Err(Error::Mtu(config.mtu));
        }
        sys::raise_descriptor_limit();
        let now = Instant::now();
        let mut hosts = Hosts::new(&config.guest);
        let mut echo = Vec::new();
        for server in &config.servers {
            let shared = Arc::new(Server::new(server.name.clone(), server.addresses.clone()));
            for address in &server.addresses {
                let at = hosts.serve(*address, server.http, Service::Http(shared.clone()))?;
                echo.push((at, server.echo));
            }
        }
        let mut relayed = HashMap::new();
        for real in &config.real {
            let at = hosts.serve(real.address.ip(), real.address.port(), Service::Real(real.host))?;
            relayed.insert((at, real.address.is_ipv4(), real.address.port()), real.host);
        }
        let poll = Poll::new()?;
        let (mut listeners, mut sockets, mut published) = (Vec::new(), Vec::new(), Vec::new());
        for publish in &config.publish {
            let fail = |source| Error::Publish { publish: *publish, source };
            let host = match publish.protocol {
                Protocol::Tcp => {
                    let socket = TcpListener::bind(publish.host).map_err(fail)?;
                    socket.set_nonblocking(true).map_err(fail)?;
                    let host = socket.local_addr().map_err(fail)?;
                    poll.watch(&socket, Token::Listener(listeners.len() as u32))?;
                    listeners.push(Listener::new(socket, publish.target));
                    host
                }
                Protocol::Udp => {
                    let socket = UdpSocket::bind(publish.host).map_err(fail)?;
                    socket.set_nonblocking(true).map_err(fail)?;
                    let host = socket.local_addr().map_err(fail)?;
                    poll.watch(&socket, Token::Published(sockets.len() as u32))?;
                    sockets.push((socket, publish.target));
                    host
                }
            };
            published.push(Publish { host, ..*publish });
        }
        let (handle, counter) = Handle::new(published)?;
        poll.watch(&*counter.bell, Token::Orders)?;
        let lan = Self {
            fabric: Fabric::new(hosts.hosts, config.guest.clone(), config.mtu),
            tcp: Tcp::new(hosts.services, now),
            udp: Udp::new(sockets, relayed, echo, now),
            pings: icmp::Pings::default(),
            fragments: Fragments::default(),
            listeners,
            poll,
            counter,
            clients: 0,
            events: Vec::new(),
        };
        Ok((lan, handle))
    }

    /// Takes a frame, from the guest or from a host.
    fn take(&mut self, to: std::ops::Range<usize>, frame: &Frame, now: Instant) {
        let (Some(header), Some(packet)) = (frame.bytes().first_chunk(), frame.bytes().get(HEADROOM..)) else { return };
        let header = NetHdr::parse(header);
        let kind = &frame.bytes()[NetHdr::LEN + ETHERNET - 2..HEADROOM];
        match u16::from_be_bytes([kind[0], kind[1]]) {
            packet::ARP => to.for_each(|at| resolve::arp_input(&mut self.fabric, at, packet, now)),
            packet::IPV4 | packet::IPV6 => {
                let direct = frame.bytes()[NetHdr::LEN] & 1 == 0;
                if !is_fragment(packet) {
                    to.for_each(|at| self.take_packet(at, &header, packet, direct, now));
                } else if let Some(whole) = self.fragments.add(packet, now) {
                    to.for_each(|at| self.take_packet(at, &NetHdr::default(), &whole, direct, now));
                }
            }
            _ => {}
        }
    }

    fn take_packet(&mut self, at: usize, header: &NetHdr, bytes: &[u8], direct: bool, now: Instant) {
        let Some(packet) = self.fabric.packet_for(at, header, bytes, direct) else { return };
        match (packet.protocol, packet.source.is_ipv4()) {
            (TCP, _) => self.tcp.input(&mut self.fabric, &self.poll, at, &packet, now),
            (UDP, _) => self.udp.input(&mut self.fabric, &self.poll, at, header, &packet, now),
            (ICMP, true) | (ICMPV6, false) => {
                let told = icmp::input(&mut self.fabric, &mut self.pings, at, &packet, now);
                if let icmp::Told::Unreachable { local, remote } = told {
                    self.tcp.unreachable(local, remote);
                }
            }
            _ => {}
        }
    }

    /// Asks the host what is new. Returns whether there may be more.
    fn listen(&mut self, now: Instant) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let more = self.poll.take(&mut events);
        for (token, readiness) in events.drain(..) {
            match token {
                Token::Orders => self.obey(now),
                Token::Listener(at) => {
                    if let Some(listener) = self.listeners.get_mut(at as usize) {
                        listener.ready();
                    }
                }
                Token::Published(at) => self.udp.published_ready(at),
                Token::Relay(number) => self.udp.relay_ready(number),
                Token::Connection(at, generation) => self.tcp.ready(at, generation, readiness),
            }
        }
        self.events = events;
        more
    }

    fn obey(&mut self, now: Instant) {
        // The bell is silenced before the orders are read, so that none is overlooked.
        let _ = self.counter.bell.read();
        while let Some(Order::Ping { address, patience, answer }) = self.counter.next() {
            let from = plan::client(self.clients, address.is_ipv6());
            self.clients = self.clients.wrapping_add(1);
            self.pings.send(&mut self.fabric, GATEWAY, (from, address), patience, answer, now);
        }
    }
}

/// The hosts while they are put together.
struct Hosts {
    hosts: Vec<Host>,
    services: HashMap<(usize, bool, u16), Service>,
    guest: Vec<IpAddr>,
}

impl Hosts {
    fn new(guest: &[IpAddr]) -> Self {
        let gateway = Host::new(plan::mac(plan::GATEWAY[0]), plan::GATEWAY.to_vec(), true);
        Self { hosts: vec![gateway], services: HashMap::new(), guest: guest.to_vec() }
    }

    /// Lets a service stand at a port of an address. Returns the host's place.
    fn serve(&mut self, address: IpAddr, port: u16, service: Service) -> Result<usize, Error> {
        if !plan::may_be_server(address) || self.guest.contains(&address) {
            return Err(Error::Place(address));
        }
        let mac: Mac = plan::mac(address);
        let at = self.hosts.iter().position(|host| host.mac == mac).unwrap_or_else(|| {
            self.hosts.push(Host::new(mac, Vec::new(), false));
            self.hosts.len() - 1
        });
        if !self.hosts[at].addresses.contains(&address) {
            self.hosts[at].addresses.push(address);
        }
        match self.services.insert((at, address.is_ipv4(), port), service) {
            None => Ok(at),
            Some(_) => Err(Error::Twice(address, port)),
        }
    }
}

impl Backend for Lan {
    fn name(&self) -> &'static str {
        "lan"
    }

    fn offloads(&self) -> Features {
        // Nobody here speaks ECN, so GUEST_ECN would be an empty promise; a guest's own super-frames may have it.
        OFFLOADS - Features::GUEST_ECN - Features::RSC_EXT
    }

    fn mtu(&self) -> u16 {
        self.fabric.mtu
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        let now = Instant::now();
        self.fabric.plug(Mode::from(features), now);
        self.tcp.plug(&mut self.fabric, now);
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let now = Instant::now();
        let Some(frame) = self.fabric.frame_from(frame) else {
            self.fabric.counters.from_guest.dropped += 1;
            return Ok(Sent::Done);
        };
        let flow = &mut self.fabric.counters.from_guest;
        flow.frames += 1;
        flow.bytes += (frame.bytes().len() - NetHdr::LEN) as u64;
        let to = frame.bytes()[NetHdr::LEN..].first_chunk().map_or(0..0, |mac| self.fabric.receivers(*mac));
        if to.is_empty() {
            self.fabric.counters.from_guest.dropped += 1;
        }
        self.take(to, &frame, now);
        self.fabric.recycle(frame);
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let Some(frame) = self.fabric.peek_guest() else { return Ok(Received::Empty) };
        let length = frame.bytes().len();
        if length > room.len() {
            return Ok(Received::TooSmall(length));
        }
        room.write(0, frame.bytes());
        self.fabric.pop_guest();
        Ok(Received::Frame(length))
    }

    fn discard(&mut self) {
        self.fabric.drop_guest();
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        let mut busy = false;
        let mut due = None;
        for _ in 0..ROUNDS {
            busy = self.listen(now);
            for _ in 0..BURST {
                let Some((host, frame)) = self.fabric.pop_host() else { break };
                self.take(host..host + 1, &frame, now);
                self.fabric.recycle(frame);
            }
            for listener in &mut self.listeners {
                let clients = &mut self.clients;
                busy |= listener.turn(&mut self.fabric, &mut self.tcp, &self.poll, GATEWAY, clients, now);
            }
            busy |= self.udp.turn(&mut self.fabric, GATEWAY, &mut self.clients, now);
            let (more, next) = self.tcp.turn(&mut self.fabric, now);
            due = next;
            busy |= more || self.fabric.hosts_wait();
            if !busy {
                break;
            }
        }
        let connections = self.tcp.len() as u64;
        self.counter.show(Statistics { bad_checksums: self.fabric.bad_checksums, connections });
        let others = [due, self.fabric.tick(now), self.udp.due()];
        let listeners = self.listeners.iter().map(Listener::due);
        let due = others.into_iter().chain(listeners).flatten().min();
        if busy { Some(now) } else { due }
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.poll.fd());
    }

    fn counters(&self) -> Counters {
        self.fabric.counters
    }
}
