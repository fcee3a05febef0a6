//! `calls`: a network that opens connections, for measurements. Each is one of TCP's shortest conversations, of which this
//! network is both ends, with the balancer in between:
//!
//! ```text
//!   client -> SYN -> server     server -> SYN|ACK -> client
//!   client -> ACK, request ->   <- ACK, answer <- server
//!   client -> FIN|ACK ->        <- FIN|ACK <- server           client -> ACK ->
//! ```
//!
//! Seven frames go through the balancer, of 64 bytes with their frame check sequence. So many conversations are under way at the
//! same time; where one ends another client begins. Clients come back after all others have had their turn, and find the
//! connection that they had before in its last state, which the balancer has to see as a new one (conn_reuse_mode).
//!
//! Every frame must be the next one of its conversation, with the numbers that TCP wants, and come to the server that was
//! chosen first; a sample is checked to the last byte.

mod segment;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::segment::{Address, End, Frame, LENGTH, MESSAGE, Segment, Step, address_of};
use super::{ANSWERS, Error, Load, QUESTION, SAMPLE, ethernet, resolve, shape};
use crate::backend::{Backend, Counters, Received, Scatter, Sent};

/// A conversation in which nothing happens for so long has lost a frame, and is given up.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often to look for such.
const LOOK: Duration = Duration::from_millis(50);

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Conversations that have ended as they should.
    pub done: u64,
    /// Conversations that were given up.
    pub lost: u64,
    /// Frames that were not what they should have been.
    pub wrong: u64,
    /// Frames that were checked to the last byte and found right.
    pub verified: u64,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicBool,
    done: AtomicU64,
    lost: AtomicU64,
    wrong: AtomicU64,
    verified: AtomicU64,
}

/// The measurement's end: starts and stops the calls, and reads what happened.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    wake: EventFd,
}

impl Meter {
    /// Begins to call.
    pub fn start(&self) {
        self.shared.running.store(true, Ordering::Release);
        // Full means that it is readable already.
        let _ = self.wake.write(1);
    }

    /// Begins no more conversations; those that are under way come to their end.
    pub fn stop(&self) {
        self.shared.running.store(false, Ordering::Relaxed);
    }

    /// What has happened so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { done, lost, wrong, verified, .. } = &*self.shared;
        Tally { done: load(done), lost: load(lost), wrong: load(wrong), verified: load(verified) }
    }
}

/// A place for a conversation.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The client that has it now, or had it last.
    flow: u32,
    /// The frame that is to come next from the balancer; none if there is no conversation.
    next: Option<Step>,
    /// The server, once one was chosen.
    server: usize,
    /// The client's first sequence number.
    isn: u32,
    /// When something happened last.
    since: Instant,
}

/// A server.
#[derive(Debug, Clone, Copy)]
struct Server {
    address: Address,
    ethernet: [u8; 6],
}

/// The network.
#[derive(Debug)]
pub struct Calls {
    load: Load,
    /// Those of the load, and its service and gateway, as frames have them.
    servers: Vec<Server>,
    service: Address,
    gateway: [u8; 6],
    slots: Vec<Slot>,
    /// Places where a conversation may begin.
    free: Vec<usize>,
    /// Frames to give to the guest: at most one for each place.
    ready: VecDeque<usize>,
    /// The frame that each place has made last for the guest.
    frames: Vec<Frame>,
    answers: VecDeque<Vec<u8>>,
    begun: u32,
    seen: u64,
    now: Instant,
    look: Instant,
    tally: Tally,
    counters: Counters,
    shared: Arc<Shared>,
    wake: EventFd,
}

impl Calls {
    /// Makes a network in which so many conversations are under way at the same time, of the clients and with the servers of
    /// `load`, whose frames are of no account. There are at least as many clients as conversations, and a multiple of them.
    ///
    /// # Errors
    /// If there are too few or too many clients, or no descriptor is left.
    pub fn new(load: Load, conversations: u32) -> Result<(Self, Meter), Error> {
        let whole = conversations > 0 && load.flows >= conversations && load.flows.is_multiple_of(conversations);
        let server =
            |server: &SocketAddr| address_of(server).map(|address| Server { address, ethernet: ethernet(server.ip()) });
        let servers = load.servers.iter().map(server).collect::<Option<Vec<_>>>().filter(|servers| !servers.is_empty());
        let (Some(servers), Some(service)) = (servers, address_of(&load.service)) else {
            return Err(Error::Flows(load.flows));
        };
        if !whole || load.flows > shape::MOST_FLOWS {
            return Err(Error::Flows(load.flows));
        }
        let (shared, wake) = (Arc::<Shared>::default(), EventFd::new(EFD_NONBLOCK)?);
        let meter = Meter { shared: shared.clone(), wake: wake.try_clone()? };
        let now = Instant::now();
        let slot = |flow| Slot { flow, next: None, server: 0, isn: 0, since: now };
        let slots: Vec<_> = (0..conversations).map(slot).collect();
        let calls = Self {
            free: (0..slots.len()).rev().collect(),
            ready: VecDeque::with_capacity(slots.len()),
            frames: vec![[[0; 8]; _]; slots.len()],
            slots,
            servers,
            service,
            gateway: ethernet(load.gateway),
            load,
            answers: VecDeque::with_capacity(ANSWERS),
            begun: 0,
            seen: 0,
            now,
            look: now,
            tally: Tally::default(),
            counters: Counters::default(),
            shared,
            wake,
        };
        Ok((calls, meter))
    }

    /// The next client of a place begins a conversation.
    fn begin(&mut self) -> Option<usize> {
        let nth = self.free.pop()?;
        let conversations = self.slots.len() as u32;
        let slot = &mut self.slots[nth];
        slot.flow = (slot.flow + conversations) % self.load.flows;
        self.begun = self.begun.wrapping_add(1);
        // Sequence numbers that grow by more than a conversation, and wrap.
        slot.isn = self.begun.wrapping_mul(0x9e37_79b1);
        slot.next = Some(Step::Syn);
        slot.since = self.now;
        self.prepare(nth, Step::Syn);
        Some(nth)
    }

    /// What this frame of a conversation looks like on its way to the guest.
    #[inline]
    fn segment(&self, nth: usize, step: Step) -> Segment {
        let slot = &self.slots[nth];
        let client = shape::client_v4(slot.flow);
        match step.from() {
            End::Client => step.segment(client, self.service, slot.isn),
            End::Server => step.segment(self.servers[slot.server].address, client, slot.isn),
        }
    }

    /// Makes that frame.
    #[inline]
    fn prepare(&mut self, nth: usize, step: Step) {
        let sender = match step.from() {
            End::Client => self.gateway,
            End::Server => self.servers[self.slots[nth].server].ethernet,
        };
        self.frames[nth] = self.segment(nth, step).emit(self.load.guest, sender);
    }

    /// Takes a frame of a conversation. Whether it was one.
    fn forwarded(&mut self, frame: &Scatter<'_>) -> bool {
        let mut bytes = [0; NetHdr::LEN + LENGTH];
        let length = frame.read(0, &mut bytes);
        let Some(segment) = bytes[..length].get(NetHdr::LEN..).and_then(Segment::parse) else { return false };
        let to_server = self.servers.iter().position(|server| server.address == segment.to);
        let client = if to_server.is_some() { segment.from } else { segment.to };
        if to_server.is_none() && segment.from != self.service {
            return false;
        }
        let Some(flow) = shape::flow_v4(client) else { return false };
        let nth = flow as usize % self.slots.len();
        let slot = self.slots[nth];
        let Some(step) = slot.next.filter(|_| slot.flow == flow) else {
            // Of a conversation that was given up.
            return true;
        };
        if let (Step::Syn, Some(server)) = (step, to_server) {
            self.slots[nth].server = server;
        }
        // What it must be: the frame as it was given to the guest, with the other end's address in the balancer's place.
        let mut expected = self.segment(nth, step);
        match step.from() {
            End::Client => expected.to = self.servers[self.slots[nth].server].address,
            End::Server => expected.from = self.service,
        }
        self.seen += 1;
        let sampled = self.seen.is_multiple_of(SAMPLE);
        let whole = !sampled || frame.len() == length && segment::is_whole(&bytes[..length]);
        if segment != expected || !whole {
            self.tally.wrong += 1;
            return true;
        }
        self.tally.verified += u64::from(sampled);
        self.slots[nth].next = step.next();
        self.slots[nth].since = self.now;
        match step.next() {
            Some(next) => {
                // Long before it is copied to the guest: it is written in words, and copied in larger pieces, for which a processor
                // would have to wait.
                self.prepare(nth, next);
                self.ready.push_back(nth);
            }
            None => {
                self.tally.done += 1;
                self.free.push(nth);
            }
        }
        true
    }

    /// Gives up what does not go on.
    fn give_up(&mut self) {
        for nth in 0..self.slots.len() {
            let slot = &mut self.slots[nth];
            // What waits to be given to the guest is not lost.
            let waits = || self.ready.contains(&nth);
            if slot.next.is_some() && self.now.saturating_duration_since(slot.since) > PATIENCE && !waits() {
                slot.next = None;
                self.tally.lost += 1;
                self.free.push(nth);
            }
        }
    }

    fn publish(&self) {
        let (shared, tally) = (&*self.shared, &self.tally);
        for (counter, value) in [
            (&shared.done, tally.done),
            (&shared.lost, tally.lost),
            (&shared.wrong, tally.wrong),
            (&shared.verified, tally.verified),
        ] {
            counter.store(value, Ordering::Relaxed);
        }
    }

    fn given(&mut self, length: usize) -> Received {
        self.counters.to_guest.frames += 1;
        self.counters.to_guest.bytes += (length - NetHdr::LEN) as u64;
        Received::Frame(length)
    }
}

impl Backend for Calls {
    fn name(&self) -> &'static str {
        "calls"
    }

    fn offloads(&self) -> Features {
        Features::empty()
    }

    fn negotiated(&mut self, _: Features) -> io::Result<()> {
        // Nothing is under way with a driver that has just come.
        self.ready.clear();
        self.free = (0..self.slots.len()).rev().collect();
        self.slots.iter_mut().for_each(|slot| slot.next = None);
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        self.counters.from_guest.frames += 1;
        self.counters.from_guest.bytes += (frame.len() - NetHdr::LEN.min(frame.len())) as u64;
        if self.forwarded(frame) {
            return Ok(Sent::Done);
        }
        let mut bytes = [0; NetHdr::LEN + QUESTION];
        let length = frame.read(0, &mut bytes);
        match bytes[..length].get(NetHdr::LEN..).and_then(|question| resolve::answer(question, &self.load)) {
            Some(answer) if self.answers.len() < ANSWERS => self.answers.push_back(answer),
            _ => self.counters.from_guest.dropped += 1,
        }
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        const LONGEST: usize = NetHdr::LEN + LENGTH;
        let running = self.shared.running.load(Ordering::Acquire);
        if self.answers.is_empty() && self.ready.is_empty() && (!running || self.free.is_empty()) {
            return Ok(Received::Empty);
        }
        if room.len() < LONGEST {
            return Ok(Received::TooSmall(LONGEST));
        }
        if let Some(answer) = self.answers.pop_front() {
            room.write(0, &answer);
            return Ok(self.given(answer.len()));
        }
        let next = match self.ready.pop_front() {
            None if running => self.begin(),
            next => next,
        };
        let Some(nth) = next else { return Ok(Received::Empty) };
        self.slots[nth].since = self.now;
        room.write(0, self.frames[nth].as_flattened());
        Ok(self.given(LONGEST))
    }

    fn discard(&mut self) {
        // Its conversation will be given up.
        if self.answers.pop_front().is_none() && self.ready.pop_front().is_none() {
            self.begin();
        }
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        self.now = now;
        if now >= self.look {
            self.look = now + LOOK;
            self.give_up();
        }
        self.publish();
        if !self.shared.running.load(Ordering::Acquire) {
            // Emptied before the last look at `running`: a start after that look leaves it readable, and ends the sleep.
            let _ = self.wake.read();
        }
        self.shared.running.load(Ordering::Acquire).then_some(self.look)
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.wake.as_raw_fd());
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// Bytes that a request has, and an answer.
const _: () = assert!(LENGTH == 14 + 20 + 20 + MESSAGE && LENGTH == super::LEAST_FRAME);

#[cfg(test)]
mod tests;
