//! The daemon that tells others of connections.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::config::{Daemon, SyncCounters};
use super::message::{CONNECTION_MAX, Draft, HEADER_V1, Record};
use crate::service::Protocol;
use crate::{Errno, Instant, Sysctls};

/// A message goes when its first connection has waited so long (IPVS_SYNC_FLUSH_TIME).
const FLUSH: Duration = Duration::from_secs(2);
/// How often a master is looked after at least (IPVS_SYNC_CHECK_PERIOD).
pub(super) const CHECK: Duration = Duration::from_secs(1);
/// What is finished waits so long for more, or until there are as many (IPVS_SYNC_SEND_DELAY, IPVS_SYNC_WAKEUP_RATE).
const DELAY: Duration = Duration::from_millis(20);
const ENOUGH: usize = 8;
/// Time between two parts of what is too much for one.
pub(super) const BREATH: Duration = Duration::from_millis(2);
/// The most messages that can wait, whatever `sync_qlen_max` says later: memory for them is taken at the start.
const BUFFERS_MAX: usize = 4096;

/// Units of time in which Linux reckons here: 250 a second.
const HZ: u32 = 250;

/// An instant in those units. They wrap around.
pub(super) fn jiffies(now: Instant) -> u32 {
    (now.nanos() / (1_000_000_000 / u64::from(HZ))) as u32
}

/// TCP's states in which connections are told: ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT.
const TCP: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7;
const TCP_ESTABLISHED: u8 = 1;
/// SCTP's: ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECEIVED, SHUTDOWN_ACK_SENT, CLOSED.
const SCTP: u32 = 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13;
const SCTP_ESTABLISHED: u8 = 8;

/// What is told apart of a connection when it is asked whether it is to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub protocol: Protocol,
    pub is_template: bool,
    /// It comes from a template.
    pub is_persistent: bool,
    /// The protocol's number.
    pub state: u8,
    /// Seconds it has from now on.
    pub timeout: u32,
}

impl Case {
    /// Whether connections are told in this state at all.
    pub fn is_told(&self) -> bool {
        match self.protocol {
            _ if self.is_template => true,
            Protocol::Tcp => 1 << self.state & TCP != 0,
            Protocol::Sctp => 1 << self.state & SCTP != 0,
            _ => true,
        }
    }

    /// Whether a change to this state is told at once.
    fn is_urgent(&self) -> bool {
        match self.protocol {
            _ if self.is_template => false,
            Protocol::Tcp => self.state != TCP_ESTABLISHED,
            Protocol::Sctp => self.state != SCTP_ESTABLISHED,
            _ => false,
        }
    }
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Packets from the client; of a template, packets of its connections.
    packets: u32,
    /// When it was to end as it was told last; in the lowest two bits, how often that was said again.
    end: u32,
    /// The state in which it was told last.
    state: u8,
    /// Its packets are counted here.
    is_counted: bool,
}

/// Connections whose states lie together: filled in when the first of them is looked at, as all at once would take too long.
const PAGE: usize = 1024;

/// Messages to a port.
#[derive(Debug, Default)]
struct Port {
    /// What is being written, and since when.
    draft: Option<(Draft, Instant)>,
    /// What is finished, with its number of connections.
    queue: VecDeque<(Vec<u8>, u8)>,
    /// Messages sent.
    sent: u64,
    /// As many were sent when that was told last.
    reported: u64,
}

/// How far sending all connections has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resync {
    /// The place that is next, and where it ends.
    pub next: u32,
    pub places: u32,
    /// Somebody has asked.
    pub is_asked: bool,
    pub began: Option<Instant>,
    /// When it goes on.
    pub turn: Instant,
}

impl Resync {
    /// One that has not begun.
    pub fn new(places: u32, is_asked: bool) -> Self {
        Resync { next: 0, places, is_asked, began: None, turn: Instant::ZERO }
    }
}

/// A master.
#[derive(Debug)]
pub(super) struct Master {
    pub daemon: Daemon,
    /// By the place of a connection, in pages of [`PAGE`], each empty or full.
    states: Vec<Vec<State>>,
    /// When it began, in [`jiffies`].
    began: u32,
    /// Memory for messages.
    free: Vec<Vec<u8>>,
    ports: Vec<Port>,
    /// Messages that can wait for a port, by the memory there is.
    limit: usize,
    /// All connections are being sent.
    pub resync: Option<Resync>,
    /// They are to be sent again, because somebody has asked meanwhile.
    pub again: bool,
    /// Until when they are not sent again.
    pub resynced: Option<Instant>,
    /// Messages that were finished.
    pub filled: u64,
    /// Tells it from one that was started before.
    pub incarnation: u64,
    /// When the numbers of messages were told last.
    pub reported: Instant,
    /// Since when something finished waits.
    waits_since: Option<Instant>,
}

impl Master {
    /// One that has sent nothing, for a table of so many places. All memory is taken here.
    pub fn new(
        daemon: Daemon,
        places: u32,
        ports: usize,
        sysctls: &Sysctls,
        incarnation: u64,
        now: Instant,
    ) -> Result<Self, Errno> {
        let memory = |_| Errno::OutOfMemory;
        let mut states = Vec::new();
        let pages = (places as usize).div_ceil(PAGE);
        states.try_reserve_exact(pages).map_err(memory)?;
        for _ in 0..pages {
            let mut page = Vec::new();
            page.try_reserve_exact(PAGE).map_err(memory)?;
            states.push(page);
        }
        let waiting = (sysctls.sync_qlen_max.max(0) as usize).min(BUFFERS_MAX);
        let mut free = Vec::new();
        free.try_reserve_exact(waiting + ports).map_err(memory)?;
        for _ in 0..waiting + ports {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(usize::from(daemon.max_len).max(HEADER_V1 + CONNECTION_MAX)).map_err(memory)?;
            free.push(bytes);
        }
        let mut list = Vec::new();
        list.try_reserve_exact(ports).map_err(memory)?;
        for _ in 0..ports {
            let mut port = Port::default();
            port.queue.try_reserve_exact(waiting + 1).map_err(memory)?;
            list.push(port);
        }
        Ok(Master {
            daemon,
            states,
            began: jiffies(now) & !3,
            free,
            ports: list,
            limit: waiting,
            resync: None,
            again: false,
            resynced: None,
            filled: 0,
            incarnation,
            reported: Instant::ZERO,
            waits_since: None,
        })
    }

    /// What is remembered of the connection at a place.
    fn state(&mut self, place: u32) -> Option<&mut State> {
        let page = self.states.get_mut(place as usize / PAGE)?;
        if page.is_empty() {
            // There is memory for as many.
            page.resize(PAGE, State { end: self.began, ..State::default() });
        }
        page.get_mut(place as usize % PAGE)
    }

    /// A connection or template is new.
    pub fn begin(&mut self, place: u32, now: Instant) {
        if let Some(state) = self.state(place) {
            *state = State { packets: 0, end: jiffies(now) & !3, state: 0, is_counted: true };
        }
    }

    /// A connection or template is as a message of another master has it.
    pub fn set(&mut self, place: u32, packets: u32, number: u8) {
        if let Some(state) = self.state(place) {
            (state.packets, state.state, state.is_counted) = (packets, number, true);
        }
    }

    /// Counts a packet of a connection, and returns how many it has had. It had so many `before`, if it is older than the master.
    pub fn count(&mut self, place: u32, before: u32) -> u32 {
        self.state(place).map_or(0, |state| {
            if !state.is_counted {
                (state.packets, state.is_counted) = (before, true);
            }
            state.packets = state.packets.wrapping_add(1);
            state.packets
        })
    }

    /// Whether a connection is to be told now (ip_vs_sync_conn_needed).
    pub fn needs(&mut self, place: u32, case: &Case, packets: u32, sysctls: &Sysctls, now: Instant) -> bool {
        let Some(state) = self.state(place) else { return false };
        if !case.is_template && (sysctls.sync_persist_mode != 0 && case.is_persistent || !case.is_told()) {
            return false;
        }
        let (now, timeout) = (jiffies(now), case.timeout.saturating_mul(HZ));
        let mut end = now.wrapping_add(timeout) & !3;
        if state.state == case.state || !case.is_urgent() {
            let refresh = (sysctls.sync_refresh_period as u32).saturating_mul(HZ);
            if refresh > 0 {
                let difference = (end.wrapping_sub(state.end) as i32).unsigned_abs();
                if difference < refresh.min((timeout / 2).max(10 * HZ)) {
                    let retries = state.end & 3;
                    let next = state.end.wrapping_sub(timeout).wrapping_add(refresh / 8);
                    if retries >= sysctls.sync_retries as u32 || (now.wrapping_sub(next) as i32) < 0 {
                        return false;
                    }
                    end |= retries + 1;
                }
            }
            let (threshold, period) = (sysctls.sync_threshold as u32, sysctls.sync_period as u32);
            let is_counted = match period {
                0 => refresh > 0 || packets == threshold,
                period => case.is_template || packets % period == threshold,
            };
            if !is_counted {
                return false;
            }
        }
        (state.end, state.state) = (end, case.state);
        true
    }

    /// Puts a connection into the next message. What there is no room for is counted, and lost.
    pub fn push(&mut self, place: u32, record: &Record<'_>, sysctls: &Sysctls, now: Instant, count: &mut SyncCounters) {
        let version = u8::from(sysctls.sync_version != 0);
        let Some(size) = record.size(version) else { return };
        let at = place as usize & (self.ports.len() - 1);
        let port = &mut self.ports[at];
        let mut pushed = false;
        if let Some((draft, _)) = &mut port.draft {
            pushed = draft.version == version && draft.push(record, size);
            if !pushed && let Some((draft, _)) = port.draft.take() {
                let (bytes, connections) = draft.finish();
                self.filled += 1;
                if port.queue.len() < (sysctls.sync_qlen_max.max(0) as usize).min(self.limit) {
                    port.queue.push_back((bytes, connections));
                    self.waits_since.get_or_insert(now);
                } else {
                    count.unsent_connections += u64::from(connections);
                    self.free.push(bytes);
                }
            }
        }
        if pushed {
            return;
        }
        let Some(bytes) = self.free.pop() else {
            count.unsent_connections += 1;
            return;
        };
        let max_len = usize::from(self.daemon.max_len);
        let mut draft = Draft::new(bytes, version, self.daemon.syncid as u8, max_len, size);
        draft.push(record, size);
        port.draft = Some((draft, now));
    }

    /// Whether messages are finished.
    pub fn is_waiting(&self) -> bool {
        self.ports.iter().any(|port| !port.queue.is_empty())
    }

    /// Whether what is finished has waited long enough, or is much.
    pub fn is_due(&self, now: Instant) -> bool {
        self.waits_since.is_some_and(|since| now.since(since) >= DELAY || self.waiting() >= ENOUGH)
    }

    /// How many messages are finished.
    pub fn waiting(&self) -> usize {
        self.ports.iter().map(|port| port.queue.len()).sum()
    }

    /// Whether fewer messages wait than `most`, and than may wait for a port. If none may, whatever is told is lost.
    pub fn has_room(&self, most: usize, sysctls: &Sysctls) -> bool {
        let may_wait = (sysctls.sync_qlen_max.max(0) as usize).min(self.limit);
        may_wait == 0 || self.waiting() < most.min(may_wait)
    }

    /// Finishes messages that have waited long enough.
    pub fn flush(&mut self, now: Instant) {
        for port in &mut self.ports {
            // There is room for one beyond the limit.
            let has_room = port.queue.len() <= self.limit;
            if let Some((draft, _)) = port.draft.take_if(|(_, since)| has_room && now.since(*since) >= FLUSH) {
                port.queue.push_back(draft.finish());
                // It has waited already.
                self.waits_since = Some(Instant::ZERO);
            }
        }
    }

    /// When a message has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        let drafts = self.ports.iter().filter_map(|port| port.draft.as_ref()).map(|(_, since)| *since + FLUSH);
        drafts.chain(self.waits_since.map(|since| since + DELAY)).min()
    }

    /// The next message to be sent, the number of its port, and how many connections it has. It is to be given back.
    pub fn take(&mut self) -> Option<(u16, Vec<u8>, u8)> {
        let Some(number) = self.ports.iter().position(|port| !port.queue.is_empty()) else {
            self.waits_since = None;
            return None;
        };
        let port = &mut self.ports[number];
        let (bytes, connections) = port.queue.pop_front()?;
        port.sent += 1;
        Some((number as u16, bytes, connections))
    }

    /// Takes the memory of a message back.
    pub fn give_back(&mut self, bytes: Vec<u8>) {
        self.free.push(bytes);
    }

    /// The next port whose number of sent messages was not told, and that.
    pub fn report(&mut self) -> Option<(u16, u64)> {
        let number = self.ports.iter().position(|port| port.sent != port.reported)?;
        let port = &mut self.ports[number];
        port.reported = port.sent;
        Some((number as u16, port.sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DaemonRole;

    fn knobs(set: &[(&str, i32)]) -> Sysctls {
        let mut knobs = Sysctls::default();
        set.iter().for_each(|(name, value)| knobs.set(name, *value).unwrap());
        knobs
    }

    fn master() -> Master {
        let daemon = Daemon { max_len: 1472, ..Daemon::new(DaemonRole::Master) };
        let mut master = Master::new(daemon, 4, 1, &Sysctls::default(), 1, Instant::from_secs(1000)).unwrap();
        master.begin(0, Instant::from_secs(1000));
        master
    }

    fn tcp(state: u8) -> Case {
        Case { protocol: Protocol::Tcp, is_template: false, is_persistent: false, state, timeout: 900 }
    }

    /// Which of so many packets have the connection told.
    fn told(master: &mut Master, case: &Case, packets: u32, sysctls: &Sysctls) -> Vec<u32> {
        let now = Instant::from_secs(1000);
        (1..=packets).filter(|&packets| master.needs(0, case, packets, sysctls, now)).collect()
    }

    #[test]
    fn an_established_connection_is_told_by_threshold_and_period() {
        let mut m = master();
        assert_eq!(told(&mut m, &tcp(1), 110, &Sysctls::default()), [3, 53, 103]);
        assert_eq!(told(&mut m, &tcp(1), 20, &knobs(&[("sync_threshold", 0), ("sync_period", 7)])), [7, 14]);
        assert_eq!(told(&mut m, &tcp(1), 110, &knobs(&[("sync_period", 0)])), [3], "once");
        for state in [0, 2, 3, 8, 9, 10] {
            assert_eq!(told(&mut m, &tcp(state), 110, &Sysctls::default()), [], "state {state}");
        }
    }

    #[test]
    fn another_state_is_told_at_once_but_established() {
        let (mut m, now) = (master(), Instant::from_secs(1000));
        let knobs = Sysctls::default();
        for (state, is_told) in [(1, false), (4, true), (4, false), (5, true), (6, true), (1, false), (7, true)] {
            assert_eq!(m.needs(0, &tcp(state), 1, &knobs, now), is_told, "state {state}");
        }
    }

    #[test]
    fn a_template_is_told_with_every_packet_unless_it_is_refreshed() {
        let case = Case { is_template: true, timeout: 360, ..tcp(0) };
        let mut m = master();
        assert_eq!(told(&mut m, &case, 4, &Sysctls::default()), [1, 2, 3, 4]);
        assert_eq!(told(&mut m, &case, 4, &knobs(&[("sync_refresh_period", 10)])), [], "it was told just now");
        let persistent = Case { is_persistent: true, ..tcp(4) };
        assert_eq!(told(&mut m, &persistent, 4, &knobs(&[("sync_persist_mode", 1)])), []);
    }

    #[test]
    fn a_refresh_is_said_again_as_often_as_the_knob_says() {
        let knobs = knobs(&[("sync_refresh_period", 80), ("sync_retries", 2), ("sync_period", 0)]);
        let (mut m, case) = (master(), tcp(1));
        let mut said = Vec::new();
        for second in 0..100 {
            if m.needs(0, &case, 7, &knobs, Instant::from_secs(1000 + second)) {
                said.push(second);
            }
        }
        assert_eq!(said, [0, 10, 21], "an eighth of the period apart; Linux reckons the number of times in");
    }

    #[test]
    fn a_full_queue_counts_what_it_loses() {
        let knobs = knobs(&[("sync_qlen_max", 1)]);
        let daemon = Daemon { max_len: 1, ..Daemon::new(DaemonRole::Master) };
        let mut m = Master::new(daemon, 4, 1, &knobs, 1, Instant::ZERO).unwrap();
        let mut count = SyncCounters::default();
        let ip = |last| (core::net::IpAddr::from([10, 0, 0, last]), 80);
        let record = Record {
            protocol: 6,
            flags: 0,
            state: 1,
            client: ip(1),
            service: ip(2),
            destination: ip(3),
            mark: 0,
            timeout: 1,
            sequences: None,
            engine: None,
        };
        for _ in 0..4 {
            m.push(0, &record, &knobs, Instant::ZERO, &mut count);
        }
        assert_eq!((count.unsent_connections, m.waiting()), (2, 1), "one waits, one is being written");
        let (port, bytes, connections) = m.take().unwrap();
        assert_eq!((port, bytes.len(), connections), (0, 44, 1));
        m.give_back(bytes);
        assert_eq!(m.report(), Some((0, 1)));
        assert_eq!(m.report(), None);
        m.flush(Instant::from_secs(2));
        assert_eq!(m.waiting(), 1);
    }
}
