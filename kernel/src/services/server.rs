//! A TCP server over smoltcp: a few sockets that listen at one port, each with the session of its client.
//!
//! A socket of smoltcp is one connection, there is no backlog: as many clients are served at once as there are sockets, and
//! a client that says nothing must not hold one for ever.

use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Duration;

use super::View;

/// What a session wants of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Go on, and give up at this time (nanoseconds) if nothing has come about by then.
    Until(u64),
    /// Send what is in the buffer, then end the connection in an orderly way.
    Close,
    /// End it at once.
    Abort,
}

/// The conversation with one client.
pub(crate) trait Session {
    /// Bytes of the receive buffer.
    const RECEIVE: usize;
    /// Bytes of the transmit buffer.
    const TRANSMIT: usize;

    /// A client has connected.
    fn new(now_ns: u64) -> Self;

    /// Takes what has come and makes what there is room for.
    fn drive(&mut self, socket: &mut tcp::Socket<'_>, view: &mut View<'_>) -> Next;

    /// Requests answered since the last time this was asked.
    fn take_answered(&mut self) -> u64;

    /// Whether the session ends because what came made no sense.
    fn is_malformed(&self) -> bool {
        false
    }
}

/// What a server counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ServerCounters {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Connections ended because what came over them made no sense.
    pub malformed: u64,
    /// Connections given up because nothing came about.
    pub timeouts: u64,
}

/// How long the other side may take to acknowledge anything at all, or to end a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// One socket.
struct Slot<S> {
    handle: SocketHandle,
    session: Option<S>,
    /// When the connection is given up, in nanoseconds.
    deadline: u64,
    /// The session is over; what is in the buffers still goes out.
    closing: bool,
    /// The connection is over on both sides.
    resting: bool,
}

/// All sockets of one port.
pub(crate) struct Server<S> {
    endpoint: SocketAddr,
    slots: Vec<Slot<S>>,
    counters: ServerCounters,
    /// When to look again at the latest, in nanoseconds.
    deadline: u64,
}

/// How often connections are looked after that have no session, in nanoseconds: smoltcp may end them quietly.
const LOOK_AFTER: u64 = 1_000_000_000;

impl<S: Session> Server<S> {
    /// Listens at `endpoint` with `count` sockets.
    pub fn new(endpoint: SocketAddr, count: usize, sockets: &mut SocketSet<'static>) -> Self {
        let slots = (0..count).map(|_| {
            let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
            let mut socket = tcp::Socket::new(buffer(S::RECEIVE), buffer(S::TRANSMIT));
            socket.set_timeout(Some(PATIENCE));
            // Answers are written in large pieces: waiting to fill a segment would only delay the last one.
            socket.set_nagle_enabled(false);
            Slot { handle: sockets.add(socket), session: None, deadline: u64::MAX, closing: false, resting: false }
        });
        let mut server =
            Self { endpoint, slots: slots.collect(), counters: ServerCounters::default(), deadline: u64::MAX };
        for slot in &mut server.slots {
            Self::listen(server.endpoint, slot, sockets);
        }
        server
    }

    fn listen(endpoint: SocketAddr, slot: &mut Slot<S>, sockets: &mut SocketSet<'static>) {
        (slot.session, slot.deadline, slot.closing, slot.resting) = (None, u64::MAX, false, false);
        // Can only fail for an open socket or port 0; this is neither.
        let _ = sockets.get_mut::<tcp::Socket<'_>>(slot.handle).listen(endpoint);
    }

    /// Serves every connection once. Returns whether something was done, so that the stack has work.
    pub fn poll(&mut self, sockets: &mut SocketSet<'static>, view: &mut View<'_>) -> bool {
        let now = view.gauges.now_ns;
        let mut worked = false;
        self.deadline = u64::MAX;
        for slot in &mut self.slots {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(slot.handle);
            match socket.state() {
                State::Listen => continue,
                State::SynReceived => {
                    self.deadline = self.deadline.min(now.saturating_add(LOOK_AFTER));
                    continue;
                }
                // The stack still has to acknowledge the end; the next time will do.
                State::TimeWait if !slot.resting => {
                    slot.resting = true;
                    self.deadline = now;
                    worked = true;
                    continue;
                }
                // What is left to wait for is only of use to a client that reuses its port at once.
                State::Closed | State::TimeWait => {
                    socket.abort();
                    Self::listen(self.endpoint, slot, sockets);
                    continue;
                }
                _ => {}
            }
            if !slot.closing {
                let before = (socket.recv_queue(), socket.send_queue());
                let session = slot.session.get_or_insert_with(|| {
                    self.counters.accepted += 1;
                    S::new(now)
                });
                let next = session.drive(socket, view);
                self.counters.answered += session.take_answered();
                self.counters.malformed += u64::from(session.is_malformed());
                match next {
                    Next::Until(deadline) => slot.deadline = deadline,
                    Next::Close => {
                        socket.close();
                        (slot.closing, slot.deadline) = (true, now.saturating_add(PATIENCE.total_micros() * 1000));
                    }
                    Next::Abort => socket.abort(),
                }
                worked |= slot.closing || before != (socket.recv_queue(), socket.send_queue());
            }
            if now >= slot.deadline {
                socket.abort();
                self.counters.timeouts += 1;
                slot.deadline = u64::MAX;
                worked = true;
            }
            self.deadline = self.deadline.min(slot.deadline).min(now.saturating_add(LOOK_AFTER));
        }
        worked
    }

    /// What was counted.
    pub fn counters(&self) -> ServerCounters {
        self.counters
    }

    /// When to call [`Server::poll`] again at the latest, in nanoseconds.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }
}
