//! One test, from its client's connection to its end.

use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::Socket;
use smoltcp::wire::IpEndpoint;

use super::conversation::{Conversation, Event, Phase};
use super::message::Refusal;
use super::parameters::{Direction, Parameters, Protocol};
use super::results::{self, Summary};
use super::tcp::Turn;
use super::{Counters, tcp, udp};
use crate::services::View;

const SECOND: u64 = 1_000_000_000;
/// How long a client may take for what it is to say, in nanoseconds.
const PATIENCE: u64 = 10 * SECOND;
/// How long it may take to connect its streams, in nanoseconds.
const GATHERING: u64 = 30 * SECOND;
/// How long a test may go on without any data, in nanoseconds: iperf3's own default.
const SILENCE: u64 = 120 * SECOND;
/// How long a test may take longer than its client said, in nanoseconds: iperf3's own.
const GRACE: u64 = 40 * SECOND;
/// The largest buffer of a stream unless the client asks for another, and the smallest that is of use, in bytes.
const LARGEST_WINDOW: usize = 1 << 20;
const SMALLEST_WINDOW: usize = 4 << 10;
/// Bytes of a packet's IP and UDP headers.
const HEADERS_V4: usize = 28;
const HEADERS_V6: usize = 48;

/// The sockets of a test.
enum Streams {
    None,
    Tcp(tcp::Streams),
    Udp(udp::Streams),
}

/// One test.
pub(super) struct Session {
    conversation: Conversation,
    parameters: Option<Parameters>,
    streams: Streams,
    /// When it is given up, in nanoseconds.
    deadline: u64,
    /// When data began to count, and how long the processor had been asleep by then; in nanoseconds.
    started: u64,
    idle: u64,
    /// How long data counted, and how much of it the processor was asleep; in nanoseconds.
    took: (u64, u64),
    /// When what was to be omitted is over, if it is not yet; in nanoseconds.
    omits_until: Option<u64>,
    /// When it has to be over, in nanoseconds.
    ends_by: u64,
    completed: bool,
}

/// What came of a turn.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Something was done, so that the stack has work.
    pub worked: bool,
    /// It is over; and whether it came to its proper end.
    pub over: bool,
    pub completed: bool,
    /// When to look again at the latest, in nanoseconds.
    pub deadline: u64,
}

impl Session {
    /// A client has connected.
    pub fn new(now: u64) -> Self {
        Self {
            conversation: Conversation::new(),
            parameters: None,
            streams: Streams::None,
            deadline: now.saturating_add(PATIENCE),
            started: now,
            idle: 0,
            took: (0, 0),
            omits_until: None,
            ends_by: u64::MAX,
            completed: false,
        }
    }

    /// Whether connections to the server's port are this test's streams now.
    pub fn expects_streams(&self) -> bool {
        self.conversation.phase() == Phase::Streams && matches!(self.streams, Streams::Tcp(_))
    }

    /// Does what there is to do.
    pub fn poll(
        &mut self,
        control: SocketHandle,
        sockets: &mut SocketSet<'static>,
        view: &View<'_>,
        memory: usize,
        counters: &mut Counters,
        dying: &mut Vec<SocketHandle>,
    ) -> Outcome {
        let now = view.gauges.now_ns;
        let mut turn = Turn { deadline: u64::MAX, ..Turn::default() };
        // Data first: what came before the client's word belongs to the test that it ends.
        let mut result = self.move_data(sockets, view, &mut turn, dying);
        if result.is_ok() {
            result = self.listen(control, sockets, view, memory, &mut turn, dying);
        }
        if result.is_ok() && now >= self.deadline.min(self.ends_by) {
            result = Err(match self.conversation.phase() {
                Phase::Running if now >= self.ends_by => Refusal::Overdue,
                Phase::Running => Refusal::Silence,
                Phase::Streams => Refusal::StreamsMissing,
                _ => Refusal::Message,
            });
        }
        if let Err(refusal) = result {
            self.conversation.refuse(refusal);
            turn.worked = true;
        }
        counters.received += turn.received;
        counters.sent += turn.sent;
        counters.denied += turn.denied;
        let socket = sockets.get_mut::<Socket<'_>>(control);
        while !self.conversation.output().is_empty() && socket.can_send() {
            match socket.send_slice(self.conversation.output()) {
                Ok(count @ 1..) => {
                    self.conversation.sent(count);
                    turn.worked = true;
                }
                _ => break,
            }
        }
        let said = self.conversation.phase() == Phase::Over && self.conversation.output().is_empty();
        // Gone without a word, or deaf.
        let gone = !socket.may_recv() || !socket.may_send() || (now >= self.deadline && !said);
        let over = said || gone;
        let completed = self.completed;
        let deadline = turn.deadline.min(self.deadline).min(self.ends_by).min(self.omits_until.unwrap_or(u64::MAX));
        Outcome { worked: turn.worked, over, completed, deadline }
    }

    /// Takes what the client says.
    fn listen(
        &mut self,
        control: SocketHandle,
        sockets: &mut SocketSet<'static>,
        view: &View<'_>,
        memory: usize,
        turn: &mut Turn,
        dying: &mut Vec<SocketHandle>,
    ) -> Result<(), Refusal> {
        let now = view.gauges.now_ns;
        loop {
            let socket = sockets.get_mut::<Socket<'_>>(control);
            if !socket.can_recv() {
                return Ok(());
            }
            let conversation = &mut self.conversation;
            let Ok((taken, result)) = socket.recv(|bytes| {
                let (taken, result) = conversation.receive(bytes);
                (taken, (taken, result))
            }) else {
                return Ok(());
            };
            let local = socket.local_endpoint();
            turn.worked |= taken > 0;
            match result? {
                Some(Event::Parameters(parameters)) => {
                    let local = local.ok_or(Refusal::Message)?;
                    self.prepare(parameters, local, sockets, view, memory)?;
                    self.conversation.accept();
                    self.deadline = now.saturating_add(GATHERING);
                    // The client comes as soon as it has heard: its sockets have to be there before.
                    self.gather(sockets, view, turn, dying)?;
                }
                Some(Event::TestEnd) => {
                    if let Streams::Tcp(streams) = &mut self.streams {
                        streams.finish(sockets);
                    }
                    (self.omits_until, self.ends_by) = (None, u64::MAX);
                    self.deadline = now.saturating_add(PATIENCE);
                    let idle = view.gauges.idle_ns.saturating_sub(self.idle);
                    self.took = (now.saturating_sub(self.started), idle);
                }
                Some(Event::Results) => {
                    self.answer();
                    self.deadline = now.saturating_add(PATIENCE);
                }
                Some(Event::Done) => self.completed = true,
                Some(Event::Terminated) => {}
                None if taken == 0 => return Ok(()),
                None => {}
            }
        }
    }

    /// Makes sockets for what the client wants.
    fn prepare(
        &mut self,
        parameters: Parameters,
        local: IpEndpoint,
        sockets: &mut SocketSet<'static>,
        view: &View<'_>,
        memory: usize,
    ) -> Result<(), Refusal> {
        self.streams = match parameters.protocol {
            Protocol::Tcp => {
                // Where both directions are used each has a buffer; and strangers may have sockets too for a while.
                let sockets = parameters.streams_in_all() + tcp::GUESTS;
                let share = memory / if parameters.direction == Direction::Both { 2 * sockets } else { sockets };
                let window = match parameters.window {
                    Some(window) if window > share => return Err(Refusal::WindowMemory),
                    Some(window) => window.max(SMALLEST_WINDOW),
                    None => share.min(LARGEST_WINDOW),
                };
                if window < SMALLEST_WINDOW {
                    return Err(Refusal::Memory);
                }
                Streams::Tcp(tcp::Streams::new(local, parameters, window))
            }
            Protocol::Udp => {
                let headers = match local.addr {
                    smoltcp::wire::IpAddress::Ipv4(_) => HEADERS_V4,
                    smoltcp::wire::IpAddress::Ipv6(_) => HEADERS_V6,
                };
                // Nothing here puts fragments together.
                if parameters.block + headers > usize::from(view.facts.mtu) {
                    return Err(Refusal::DatagramSize);
                }
                let room = (memory / 4).min(LARGEST_WINDOW);
                if room < parameters.block {
                    return Err(Refusal::Memory);
                }
                Streams::Udp(udp::Streams::new(sockets, local, parameters, room)?)
            }
        };
        self.parameters = Some(parameters);
        Ok(())
    }

    fn move_data(
        &mut self,
        sockets: &mut SocketSet<'static>,
        view: &View<'_>,
        turn: &mut Turn,
        dying: &mut Vec<SocketHandle>,
    ) -> Result<(), Refusal> {
        let now = view.gauges.now_ns;
        let phase = self.conversation.phase();
        if self.omits_until.is_some_and(|until| now >= until) {
            self.omits_until = None;
            (self.started, self.idle) = (now, view.gauges.idle_ns);
            match &mut self.streams {
                Streams::None => {}
                Streams::Tcp(streams) => streams.omit(),
                Streams::Udp(streams) => streams.omit(),
            }
        }
        match (&mut self.streams, phase) {
            (_, Phase::Streams) => self.gather(sockets, view, turn, dying)?,
            (Streams::Tcp(streams), Phase::Running) => streams.run(sockets, now, turn)?,
            (Streams::Udp(streams), Phase::Running) => streams.run(sockets, now, turn),
            (Streams::Tcp(streams), _) => streams.discard(sockets, turn),
            _ => {}
        }
        if phase == Phase::Running && turn.sent + turn.received > 0 {
            self.deadline = now.saturating_add(SILENCE);
        }
        Ok(())
    }

    /// Lets streams in, and begins when all are there.
    fn gather(
        &mut self,
        sockets: &mut SocketSet<'static>,
        view: &View<'_>,
        turn: &mut Turn,
        dying: &mut Vec<SocketHandle>,
    ) -> Result<(), Refusal> {
        let (now, conversation) = (view.gauges.now_ns, &self.conversation);
        let complete = match &mut self.streams {
            Streams::None => false,
            Streams::Tcp(streams) => {
                streams.gather(sockets, |cookie| conversation.is_cookie(cookie), now, turn)?;
                if streams.is_complete() {
                    streams.start(sockets, now, dying);
                }
                streams.is_complete()
            }
            Streams::Udp(streams) => {
                streams.gather(sockets, turn);
                if streams.is_complete() {
                    streams.start(now);
                }
                streams.is_complete()
            }
        };
        if complete {
            self.start(view);
            turn.worked = true;
        }
        Ok(())
    }

    /// All streams are there.
    fn start(&mut self, view: &View<'_>) {
        let now = view.gauges.now_ns;
        self.conversation.start();
        (self.started, self.idle) = (now, view.gauges.idle_ns);
        self.deadline = now.saturating_add(SILENCE);
        if let Some(Parameters { seconds, omit, .. }) = self.parameters {
            self.omits_until = (omit > 0).then(|| now.saturating_add(omit * SECOND));
            if seconds > 0 {
                self.ends_by = now.saturating_add((seconds + omit) * SECOND + GRACE);
            }
        }
    }

    fn answer(&mut self) {
        let Some(parameters) = &self.parameters else { return };
        let (elapsed, idle) = self.took;
        let busy = if elapsed == 0 { 0.0 } else { elapsed.saturating_sub(idle) as f64 * 100.0 / elapsed as f64 };
        let summary = Summary { parameters, seconds: elapsed as f64 / SECOND as f64, busy };
        let document = match &self.streams {
            Streams::None => results::document(&summary, core::iter::empty()),
            Streams::Tcp(streams) => results::document(&summary, streams.flows()),
            Streams::Udp(streams) => results::document(&summary, streams.flows()),
        };
        self.conversation.answer(&document);
    }

    /// Ends whatever there still is.
    pub fn end(self, sockets: &mut SocketSet<'static>, dying: &mut Vec<SocketHandle>) {
        match self.streams {
            Streams::None => {}
            Streams::Tcp(streams) => streams.abort(sockets, dying),
            Streams::Udp(streams) => streams.remove(sockets),
        }
    }
}
