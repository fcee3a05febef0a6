//! One TCP connection of one host: smoltcp's TCP, with a wire of its own, and what is done with the bytes.
//!
//! Each connection has its own smoltcp interface with a single socket in it, found by a hash of the packet's addresses and
//! ports. So the cost of a packet does not grow with the number of connections, as it would in one common interface, which
//! looks through all of its sockets each time.

use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::DeviceCapabilities;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Micros;
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint};

use super::super::fabric::Fabric;
use super::super::poll::Readiness;
use super::carry::{Answer, Carry, Knock};
use super::device::{Link, Wire, capabilities};
use super::time_wait::Flow;
use crate::backend::lan::http::Http;

/// Bytes of each of a connection's two buffers: also the window that it offers.
const BUFFER: usize = 256 << 10;
/// Packets sent in one go, so that all get their turn.
const BURST: usize = 64;
/// Silence of the other side until a connection with something outstanding is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for one that was never established.
const HALF_OPEN: Duration = Duration::from_secs(10);

/// A socket in the set that holds only it. It is used again, since its buffers are large.
pub struct Slot {
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Slot {
    /// A new socket.
    pub fn new() -> Self {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        // Whole turns are acknowledged at once, and what is written is sent: waiting would only cost time here.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { sockets, handle }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// What is done with a connection's bytes.
pub enum Role {
    /// A built-in server answers.
    Http(Http),
    /// They are carried from and to a socket of the host.
    Carry(Carry),
    /// A socket of the host is being connected; then they are carried.
    Knock(Knock),
}

/// How a connection stands after it was looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It wants to be looked after again at this time, or only when something happens.
    Lives(Option<Instant>),
    /// It has more to do as soon as there is room.
    Busy,
    /// It is over, and both sides know.
    Over,
    /// It is over on this side; the other may have missed the last acknowledgment.
    Lingers,
    /// The real server did not want it: the packet with its SYN is to be refused.
    Refused(Vec<u8>),
}

/// A connection.
pub struct Connection {
    /// Its ends.
    pub flow: Flow,
    /// What the wire knows of it.
    pub link: Link,
    /// What is done with its bytes.
    pub role: Role,
    /// Whether the guest opened it.
    pub passive: bool,
    /// Whether it waits to be looked after.
    pub queued: bool,
    /// When it is due, as far as the timers know.
    pub armed: Option<Instant>,
    slot: Slot,
    interface: Interface,
    capabilities: DeviceCapabilities,
    /// The state before the last packet came.
    before: State,
    /// When the other side was last heard, or when it began to owe something.
    heard: Instant,
    /// Whether the other side owes an acknowledgment.
    owed: bool,
}

impl Connection {
    /// A connection without a state yet: see [`Connection::connect`] and [`Connection::listen`].
    pub fn new(flow: Flow, link: Link, role: Role, slot: Slot, fabric: &mut Fabric, seed: u64, now: Instant) -> Self {
        let capabilities = capabilities(fabric.mode(), fabric.mtu, flow.remote.ip());
        let mut link = link;
        let wire = Wire { fabric, link: &mut link, inbound: None, capabilities: capabilities.clone(), now };
        let interface = interface(wire, &flow, seed);
        Self {
            flow,
            link,
            role,
            passive: false,
            queued: false,
            armed: None,
            slot,
            interface,
            capabilities,
            before: State::Closed,
            heard: now,
            owed: false,
        }
    }

    /// Begins a connection to the other end. False if the addresses do not allow it.
    pub fn connect(&mut self) -> bool {
        let Self { slot, interface, flow, .. } = self;
        slot.socket().connect(interface.context(), flow.remote, flow.local).is_ok()
    }

    /// Waits for the other end's SYN. False if the addresses do not allow it.
    pub fn listen(&mut self) -> bool {
        let endpoint = IpListenEndpoint { addr: Some(self.flow.local.ip().into()), port: self.flow.local.port() };
        self.slot.socket().listen(endpoint).is_ok()
    }

    /// The driver takes other frames than before.
    pub fn plug(&mut self, fabric: &mut Fabric, seed: u64, now: Instant) {
        self.capabilities = capabilities(fabric.mode(), fabric.mtu, self.flow.remote.ip());
        let capabilities = self.capabilities.clone();
        let wire = Wire { fabric, link: &mut self.link, inbound: None, capabilities, now };
        self.interface = interface(wire, &self.flow, seed);
    }

    /// Takes an IP packet that is for this connection.
    pub fn feed(&mut self, packet: &[u8], fabric: &mut Fabric, now: Instant, micros: Micros) {
        self.before = self.slot.socket().state();
        self.heard = now;
        let capabilities = self.capabilities.clone();
        let mut wire = Wire { fabric, link: &mut self.link, inbound: Some(packet), capabilities, now };
        self.interface.poll_ingress_single(micros, &mut wire, &mut self.slot.sockets);
        // A SYN that is none, or one that was taken back: smoltcp would listen on, for another connection than this.
        if self.slot.socket().state() == State::Listen {
            self.slot.socket().abort();
        }
    }

    /// The host's socket has news.
    pub fn ready(&mut self, readiness: Readiness) {
        match &mut self.role {
            Role::Carry(carry) => carry.ready(readiness),
            Role::Knock(knock) => knock.ready(readiness),
            Role::Http(_) => {}
        }
    }

    /// The other side cannot be reached. Only a connection that is not established believes that (RFC 5927).
    pub fn unreachable(&mut self) {
        if self.slot.socket().state() == State::SynSent {
            self.slot.socket().abort();
        }
    }

    /// Moves bytes, sends what is to be sent, and says how it stands.
    pub fn look_after(&mut self, fabric: &mut Fabric, now: Instant, micros: Micros) -> Standing {
        if let Role::Knock(knock) = &mut self.role {
            match knock.answer() {
                None => return Standing::Lives(None),
                Some(Answer::Refused(syn)) => return Standing::Refused(syn),
                Some(Answer::Opened(carry, syn)) => {
                    self.role = Role::Carry(carry);
                    self.feed(&syn, fabric, now, micros);
                }
            }
        }
        if self.owed && now >= self.heard + self.patience() {
            self.slot.socket().abort();
        }
        let socket = self.slot.sockets.get_mut::<Socket<'_>>(self.slot.handle);
        let done = match &mut self.role {
            Role::Http(http) => http.step(socket, now),
            Role::Carry(carry) => carry.step(socket),
            Role::Knock(_) => false,
        };
        let busy = self.transmit(fabric, now, micros);
        let socket = self.slot.sockets.get_mut::<Socket<'_>>(self.slot.handle);
        let state = socket.state();
        let graceful = matches!(self.before, State::LastAck | State::TimeWait | State::Closing);
        match state {
            // What came before the end is still to be passed on; the host's socket says when it takes more.
            State::TimeWait if !busy => return if done { Standing::Lingers } else { Standing::Lives(None) },
            State::Closed if socket.remote_endpoint().is_none() => {
                return if done || !graceful { Standing::Over } else { Standing::Lives(None) };
            }
            _ => {}
        }
        if busy {
            return Standing::Busy;
        }
        let owes = socket.send_queue() > 0
            || matches!(state, State::SynSent | State::SynReceived | State::FinWait1 | State::Closing | State::LastAck);
        if owes && !self.owed {
            self.heard = now;
        }
        self.owed = owes;
        let due = self.interface.poll_at(micros, &self.slot.sockets).map(|due| {
            // Never at once: what could be done now has been done.
            now + Duration::from_micros(due.total_micros().saturating_sub(micros.total_micros()).max(1000) as u64)
        });
        let patience = owes.then(|| self.heard + self.patience());
        let idle = match &self.role {
            Role::Http(http) => Some(http.deadline()),
            _ => None,
        };
        Standing::Lives([due, patience, idle].into_iter().flatten().min())
    }

    /// Sends what the socket has. Returns whether it had more than there was room for.
    fn transmit(&mut self, fabric: &mut Fabric, now: Instant, micros: Micros) -> bool {
        let capabilities = self.capabilities.clone();
        let mut wire = Wire { fabric, link: &mut self.link, inbound: None, capabilities, now };
        for _ in 0..BURST {
            if !wire.fabric.has_room() {
                return true;
            }
            if self.interface.poll_egress(micros, &mut wire, &mut self.slot.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    fn patience(&mut self) -> Duration {
        if self.slot.socket().state() == State::SynReceived { HALF_OPEN } else { PATIENCE }
    }

    /// Ends it: the host's socket is closed as the inside was, and the slot can be used again.
    pub fn end(mut self) -> Slot {
        let graceful = matches!(self.before, State::LastAck | State::TimeWait | State::Closing);
        let graceful = graceful || self.slot.socket().state() == State::TimeWait;
        if let Role::Carry(carry) = &self.role {
            carry.end(graceful);
        }
        self.slot.socket().abort();
        self.slot
    }
}

fn interface(mut wire: Wire<'_>, flow: &Flow, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut wire, Micros::ZERO);
    interface.update_ip_addrs(|addresses| {
        // A prefix of no bits: everybody is a neighbour. There is room for more than one address.
        let _ = addresses.push(IpCidr::new(flow.local.ip().into(), 0));
    });
    interface
}
