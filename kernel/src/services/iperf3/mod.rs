//! A server for esnet's iperf3, 3.1 and later: TCP and UDP, in either direction or both (`--reverse`, `--bidir`), up to
//! [`MOST_STREAMS`] streams each way (`--parallel`), results as the client wants them.
//!
//! One test at a time, as iperf3's own server: others are denied meanwhile. What the client wants and cannot have is refused
//! before it begins, with iperf3's own number for the reason; the client has a sentence for it.
//!
//! | file | what it is |
//! |---|---|
//! | `message` | bytes and numbers of the protocol |
//! | `conversation` | the control connection, without its socket |
//! | `parameters`, `results` | the JSON in it |
//! | `datagram`, `flow` | what is in a datagram; what is counted of a stream, and its pace |
//! | `tcp`, `udp` | the streams, with their sockets |
//! | `session` | one test from begin to end |
//!
//! Memory: a few small sockets always, and for a test at most what the server was given when it was made, in equal parts for its
//! streams. The data itself is not touched: what comes is counted where it lies, and what is sent lies in the buffers
//! before the test begins, unless the client wants something certain.

mod conversation;
mod datagram;
mod flow;
mod message;
mod parameters;
mod results;
mod session;
mod tcp;
mod udp;

use alloc::vec;
use alloc::vec::Vec;
use core::net::SocketAddr;

pub use self::conversation::{Conversation, Event, Phase};
use self::message::ACCESS_DENIED;
pub use self::message::Refusal;
pub use self::parameters::{Direction, MOST_STREAMS, Parameters, Protocol};
use self::session::{Outcome, Session};
use super::View;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;

/// The port where nothing else is asked for.
pub const DEFAULT_PORT: u16 = 5201;
/// The most memory for the streams of a test, in bytes.
const MOST_MEMORY: u64 = 16 << 20;

/// How many bytes of a heap with `free` bytes tests may have: no more than a quarter.
#[must_use]
pub fn memory(free: u64) -> u64 {
    (free / 4).min(MOST_MEMORY)
}

/// Sockets that listen at each address: one for a client, and one to turn others away meanwhile.
const DOORS: usize = 2;
/// Their buffers in bytes, each way.
const BUFFER: usize = 4 << 10;
/// How long a connection that is over may take to end, and one that is turned away, in nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
const FAREWELL: u64 = 1_000_000_000;
/// How often connections are looked after, in nanoseconds: smoltcp may end them quietly.
const LOOK_AFTER: u64 = 1_000_000_000;
/// Between two looks whether a client is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(15);

/// What is counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Tests that ended as they should.
    pub completed: u64,
    /// Tests that were refused, or did not come to their end.
    pub failed: u64,
    /// Connections turned away: while a test was on, or without its cookie.
    pub denied: u64,
    /// Payload received and sent, in bytes.
    pub received: u64,
    pub sent: u64,
}

/// One socket that clients find.
struct Door {
    endpoint: SocketAddr,
    handle: SocketHandle,
    /// When a connection that is turned away, or over, is given up; in nanoseconds.
    closing: Option<u64>,
}

/// The server.
pub(crate) struct Iperf3 {
    doors: Vec<Door>,
    /// The test, and which door its client came in by.
    session: Option<(usize, Session)>,
    /// Sockets that still have to tell the other side of their end.
    dying: Vec<SocketHandle>,
    memory: usize,
    counters: Counters,
    deadline: u64,
}

impl Iperf3 {
    /// Listens at these addresses; tests may take `memory` bytes.
    pub fn new(endpoints: impl Iterator<Item = SocketAddr>, memory: u64, sockets: &mut SocketSet<'static>) -> Self {
        let doors = endpoints.flat_map(|endpoint| [endpoint; DOORS]).map(|endpoint| {
            let buffer = || SocketBuffer::new(vec![0; BUFFER]);
            let mut socket = Socket::new(buffer(), buffer());
            socket.set_timeout(Some(SILENCE));
            socket.set_keep_alive(Some(KEEP_ALIVE));
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(None);
            Door { endpoint, handle: sockets.add(socket), closing: None }
        });
        let doors = doors.collect();
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let mut server =
            Self { doors, session: None, dying: Vec::new(), memory, counters: Counters::default(), deadline: u64::MAX };
        for nth in 0..server.doors.len() {
            server.open(nth, sockets);
        }
        server
    }

    fn open(&mut self, nth: usize, sockets: &mut SocketSet<'static>) {
        let door = &mut self.doors[nth];
        door.closing = None;
        // Can only fail for an open socket or port 0; this is neither.
        let _ = sockets.get_mut::<Socket<'_>>(door.handle).listen(door.endpoint);
    }

    /// Serves every connection once. Returns whether something was done, so that the stack has work.
    pub fn poll(&mut self, sockets: &mut SocketSet<'static>, view: &mut View<'_>) -> bool {
        let now = view.gauges.now_ns;
        self.deadline = u64::MAX;
        let mut worked = !self.dying.is_empty();
        // They have had their turn with the stack.
        self.dying.drain(..).for_each(|handle| drop(sockets.remove(handle)));
        let shut = self.is_shut();
        for nth in 0..self.doors.len() {
            worked |= self.look_after(nth, shut, sockets, now);
        }
        if let Some((nth, mut session)) = self.session.take() {
            let socket = self.doors[nth].handle;
            let outcome = session.poll(socket, sockets, view, self.memory, &mut self.counters, &mut self.dying);
            worked |= outcome.worked;
            self.deadline = self.deadline.min(outcome.deadline);
            if outcome.over {
                self.end(nth, session, sockets, &outcome, now);
                worked = true;
            } else {
                self.session = Some((nth, session));
            }
        }
        if self.is_shut() {
            for door in &self.doors {
                let socket = sockets.get_mut::<Socket<'_>>(door.handle);
                if socket.state() == State::Listen {
                    socket.abort();
                }
            }
        }
        if !self.dying.is_empty() {
            self.deadline = now;
        }
        worked
    }

    /// Whether nobody is let in: the streams of a TCP test come to the same port, and must find their own sockets.
    fn is_shut(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, session)| session.expects_streams())
    }

    /// One door. Returns whether something was done.
    fn look_after(&mut self, nth: usize, shut: bool, sockets: &mut SocketSet<'static>, now: u64) -> bool {
        let Door { handle, closing, .. } = &mut self.doors[nth];
        let socket = sockets.get_mut::<Socket<'_>>(*handle);
        let is_clients = self.session.as_ref().is_some_and(|(door, _)| *door == nth);
        match socket.state() {
            State::Listen => return false,
            // The session sees to its own end.
            _ if is_clients => return false,
            State::Closed | State::TimeWait => {
                if !shut {
                    socket.abort();
                    self.open(nth, sockets);
                }
                return false;
            }
            State::SynReceived => {
                self.deadline = self.deadline.min(now.saturating_add(LOOK_AFTER));
                return false;
            }
            _ => {}
        }
        if let Some(until) = *closing {
            if now < until {
                self.deadline = self.deadline.min(until).min(now.saturating_add(LOOK_AFTER));
                return false;
            }
            socket.abort();
            return true;
        }
        if self.session.is_some() {
            // There is always room for the first byte. Whatever the client says is not read.
            let _ = socket.send_slice(&[ACCESS_DENIED]);
            socket.close();
            *closing = Some(now.saturating_add(FAREWELL));
            self.deadline = self.deadline.min(now.saturating_add(LOOK_AFTER));
            self.counters.denied += 1;
            return true;
        }
        self.session = Some((nth, Session::new(now)));
        true
    }

    /// A test is over.
    fn end(&mut self, nth: usize, session: Session, sockets: &mut SocketSet<'static>, outcome: &Outcome, now: u64) {
        if outcome.completed {
            self.counters.completed += 1;
        } else {
            self.counters.failed += 1;
        }
        session.end(sockets, &mut self.dying);
        let door = &mut self.doors[nth];
        sockets.get_mut::<Socket<'_>>(door.handle).close();
        door.closing = Some(now.saturating_add(PATIENCE));
        self.deadline = now;
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When to call [`Iperf3::poll`] again at the latest, in nanoseconds.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }
}

#[cfg(test)]
mod tests;
