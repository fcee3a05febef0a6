//! The streams of a test over TCP.

use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

use super::flow::{Flow, Pacer};
use super::message::{ACCESS_DENIED, COOKIE, Refusal};
use super::parameters::{Direction, Parameters};

/// How many sockets wait for a stream at a time: a client connects one after the other, and must not find the door closed.
const WAITING: usize = 2;
/// The most sockets that wait, or whose other side has not shown the cookie yet. If strangers have them all, the client has to
/// wait until they are gone.
pub(super) const GUESTS: usize = 4;
/// How long somebody who is turned away may take to end the connection, in nanoseconds.
const FAREWELL: u64 = 1_000_000_000;
/// How long somebody who has connected may take to show the cookie, in nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
/// How long the other side may leave data unacknowledged.
const SILENCE: Duration = Duration::from_secs(15);
/// Between two looks whether the other side is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The buffer of the direction in which nothing but the cookie goes, in bytes.
const SMALL: usize = 4 << 10;

/// Somebody who may be a stream.
struct Guest {
    handle: SocketHandle,
    cookie: [u8; COOKIE],
    taken: usize,
    /// When it is given up, in nanoseconds.
    deadline: u64,
}

/// The streams.
pub(crate) struct Streams {
    /// Our end of all of them.
    local: IpEndpoint,
    parameters: Parameters,
    /// Bytes of a buffer.
    window: usize,
    guests: Vec<Guest>,
    streams: Vec<(SocketHandle, Flow)>,
    pacer: Pacer,
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    /// Something was done, so that the stack has work.
    pub worked: bool,
    /// Bytes sent and received.
    pub sent: u64,
    pub received: u64,
    /// When to look again at the latest, in nanoseconds.
    pub deadline: u64,
    /// Strangers that were turned away.
    pub denied: u64,
}

impl Streams {
    /// Waits for streams at `local`.
    pub fn new(local: IpEndpoint, parameters: Parameters, window: usize) -> Self {
        let room = parameters.streams_in_all();
        Self {
            local,
            parameters,
            window,
            guests: Vec::with_capacity(GUESTS),
            streams: Vec::with_capacity(room),
            pacer: Pacer::new(0, 0),
        }
    }

    /// Whether all streams are there.
    pub fn is_complete(&self) -> bool {
        self.streams.len() == self.parameters.streams_in_all()
    }

    /// What is counted.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> + Clone {
        self.streams.iter().map(|(_, flow)| flow)
    }

    /// What was so far does not count.
    pub fn omit(&mut self) {
        self.streams.iter_mut().for_each(|(_, flow)| flow.omit());
    }

    /// Data may flow.
    pub fn start(&mut self, sockets: &mut SocketSet<'static>, now: u64, dying: &mut Vec<SocketHandle>) {
        self.pacer = Pacer::new(self.parameters.rate, now);
        for guest in self.guests.drain(..) {
            sockets.get_mut::<tcp::Socket<'_>>(guest.handle).abort();
            dying.push(guest.handle);
        }
    }

    /// Lets the client's streams in.
    ///
    /// # Errors
    /// If there is no memory for their buffers.
    pub fn gather(
        &mut self,
        sockets: &mut SocketSet<'static>,
        is_cookie: impl Fn(&[u8; COOKIE]) -> bool,
        now: u64,
        turn: &mut Turn,
    ) -> Result<(), Refusal> {
        let mut listening = 0;
        let mut nth = 0;
        while nth < self.guests.len() {
            let guest = &mut self.guests[nth];
            let socket = sockets.get_mut::<tcp::Socket<'_>>(guest.handle);
            match socket.state() {
                State::Listen => {
                    // Whoever was here before, and went after half a handshake, has left nothing.
                    (guest.taken, guest.deadline) = (0, u64::MAX);
                    listening += 1;
                }
                // Gone, or turned away.
                State::Closed | State::TimeWait => {
                    socket.abort();
                    (guest.taken, guest.deadline) = (0, u64::MAX);
                    // Can only fail for an open socket or port 0; this is neither.
                    let _ = socket.listen(self.local);
                    listening += 1;
                }
                _ => {
                    if guest.deadline == u64::MAX {
                        guest.deadline = now.saturating_add(PATIENCE);
                    }
                    let before = guest.taken;
                    if socket.can_recv() {
                        let rest = &mut guest.cookie[guest.taken..];
                        guest.taken += socket.recv_slice(rest).unwrap_or(0);
                    }
                    turn.worked |= guest.taken > before;
                    let complete = guest.taken == COOKIE;
                    if complete && is_cookie(&guest.cookie) && !Self::is_full(&self.parameters, &self.streams) {
                        let flow = Flow::new(self.streams.len(), self.parameters.sends(self.streams.len()));
                        self.streams.push((guest.handle, flow));
                        self.guests.swap_remove(nth);
                        turn.worked = true;
                        continue;
                    }
                    if complete && socket.may_send() {
                        // A stranger. There is always room for the first byte.
                        let _ = socket.send_slice(&[ACCESS_DENIED]);
                        socket.close();
                        guest.deadline = guest.deadline.min(now.saturating_add(FAREWELL));
                        turn.denied += 1;
                        turn.worked = true;
                    } else if now >= guest.deadline {
                        socket.abort();
                        turn.worked = true;
                    } else {
                        turn.deadline = turn.deadline.min(guest.deadline);
                    }
                }
            }
            nth += 1;
        }
        let missing = self.parameters.streams_in_all() - self.streams.len();
        while listening < WAITING.min(missing) && self.guests.len() < GUESTS {
            self.listen(sockets)?;
            listening += 1;
            turn.worked = true;
        }
        Ok(())
    }

    fn is_full(parameters: &Parameters, streams: &[(SocketHandle, Flow)]) -> bool {
        streams.len() >= parameters.streams_in_all()
    }

    fn listen(&mut self, sockets: &mut SocketSet<'static>) -> Result<(), Refusal> {
        let Self { window, parameters, .. } = self;
        // With both directions, which one a socket is for is known when its cookie has come.
        let (receive, transmit) = match parameters.direction {
            Direction::Forward => (*window, SMALL),
            Direction::Reverse => (SMALL, *window),
            Direction::Both => (*window, *window),
        };
        let mut socket = tcp::Socket::new(buffer(receive)?, buffer(transmit)?);
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        // One acknowledgement a turn is few enough.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Reno);
        let _ = socket.listen(self.local);
        let guest = Guest { handle: sockets.add(socket), cookie: [0; COOKIE], taken: 0, deadline: u64::MAX };
        self.guests.push(guest);
        Ok(())
    }

    /// Moves data.
    ///
    /// # Errors
    /// If a stream has ended.
    pub fn run(&mut self, sockets: &mut SocketSet<'static>, now: u64, turn: &mut Turn) -> Result<(), Refusal> {
        for (handle, flow) in &mut self.streams {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() || !(socket.may_recv() || socket.may_send()) {
                return Err(Refusal::StreamClosed);
            }
            let received = drain(socket);
            if !flow.sends {
                flow.moved(received);
                turn.received += received as u64;
            }
            turn.worked |= received > 0;
            if flow.sends {
                let sent = send(socket, flow, &self.parameters, &self.pacer, now, turn);
                flow.moved(sent);
                turn.sent += sent as u64;
                turn.worked |= sent > 0;
            }
        }
        Ok(())
    }

    /// No more is sent; what is in the buffers goes out, and what comes is not counted.
    pub fn finish(&mut self, sockets: &mut SocketSet<'static>) {
        self.streams.iter().for_each(|(handle, _)| sockets.get_mut::<tcp::Socket<'_>>(*handle).close());
    }

    /// Takes what comes when nothing counts any more, so that the client gets rid of it.
    pub fn discard(&mut self, sockets: &mut SocketSet<'static>, turn: &mut Turn) {
        for (handle, _) in &self.streams {
            turn.worked |= drain(sockets.get_mut::<tcp::Socket<'_>>(*handle)) > 0;
        }
    }

    /// Ends all connections.
    pub fn abort(self, sockets: &mut SocketSet<'static>, dying: &mut Vec<SocketHandle>) {
        let handles = self.streams.into_iter().map(|(handle, _)| handle);
        for handle in handles.chain(self.guests.into_iter().map(|guest| guest.handle)) {
            sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
            dying.push(handle);
        }
    }
}

/// Takes all that has come, without looking at it.
fn drain(socket: &mut tcp::Socket<'_>) -> usize {
    let mut received = 0;
    while socket.can_recv() {
        match socket.recv(|bytes| (bytes.len(), bytes.len())) {
            Ok(count @ 1..) => received += count,
            _ => break,
        }
    }
    received
}

/// Sends as much as there is room for and the pace allows.
fn send(
    socket: &mut tcp::Socket<'_>,
    flow: &Flow,
    parameters: &Parameters,
    pacer: &Pacer,
    now: u64,
    turn: &mut Turn,
) -> usize {
    let mut sent = 0;
    while socket.can_send() {
        let total = flow.total() + sent as u64;
        let allowed = pacer.allowance(now, total);
        // Not byte by byte: a segment at least.
        let least = parameters.block.min(1448);
        if allowed < least {
            turn.deadline = turn.deadline.min(pacer.next(now, total, least));
            break;
        }
        let result = socket.send(|room| {
            let count = room.len().min(allowed);
            if parameters.repeating_payload {
                digits(total, &mut room[..count]);
            }
            // Otherwise the buffer is full of what is to be sent already.
            (count, count)
        });
        match result {
            Ok(count @ 1..) => sent += count,
            _ => break,
        }
    }
    sent
}

/// `0123456789` over and over, from the byte numbered `at`.
fn digits(at: u64, room: &mut [u8]) {
    let mut digit = (at % 10) as u8;
    for byte in room {
        *byte = b'0' + digit;
        digit = if digit == 9 { 0 } else { digit + 1 };
    }
}

/// Nothing that compresses well.
static NOISE: [u8; 4096] = {
    let mut bytes = [0; 4096];
    let (mut state, mut at) = (0x2545_f491_4f6c_dd1d_u64, 0);
    while at < bytes.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[at] = (state >> 32) as u8;
        at += 1;
    }
    bytes
};

/// A socket's buffer of `length` bytes, full of [`NOISE`].
///
/// # Errors
/// If there is no memory.
fn buffer(length: usize) -> Result<tcp::SocketBuffer<'static>, Refusal> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| Refusal::Memory)?;
    while bytes.len() < length {
        let count = NOISE.len().min(length - bytes.len());
        bytes.extend_from_slice(&NOISE[..count]);
    }
    Ok(tcp::SocketBuffer::new(bytes))
}
