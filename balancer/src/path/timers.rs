//! What happens by itself: connections end, rates are estimated, the trash is swept.

use core::time::Duration;

use super::Moment;
use super::defense::{Defense, PERIOD};
use crate::Balancer;
use crate::connection::{Over, SCTP_STATES, SECURE, STATES, SctpState, Seen, States, TABLE, TcpState, seconds, ticks};
use crate::frame::transport::Transport;
use crate::neighbour::Outlet;
use crate::service::{Protocol, Timeouts};
use crate::stats::ESTIMATOR_PERIOD_SECS;
use crate::time::Instant;

/// Timers looked at in one call, so that no call takes long.
const BUDGET: usize = 4096;
const ESTIMATOR_PERIOD: Duration = Duration::from_secs(ESTIMATOR_PERIOD_SECS);
/// Linux looks at removed destinations this often.
const SWEEP_PERIOD: Duration = Duration::from_secs(60);

/// How long connections last in each state, and when what is periodic is due.
#[derive(Debug)]
pub(crate) struct Timers {
    /// By TCP state, in ticks.
    tcp: [u32; STATES],
    /// By SCTP state, in ticks.
    sctp: [u32; SCTP_STATES],
    /// In ticks.
    udp: u32,
    /// TCP's transitions: the usual ones, or those of the defence.
    transitions: &'static States,
    defense: Option<Instant>,
    estimate: Option<Instant>,
    sweep: Option<Instant>,
}

impl Timers {
    pub fn new(timeouts: &Timeouts) -> Self {
        let mut timers = Timers {
            tcp: [0; STATES],
            sctp: SctpState::ALL.map(|state| ticks(state.timeout())),
            udp: 0,
            transitions: &TABLE,
            defense: None,
            estimate: None,
            sweep: None,
        };
        timers.set(timeouts);
        timers
    }

    /// Takes the timeouts an operator may change; the others are fixed.
    pub fn set(&mut self, timeouts: &Timeouts) {
        self.tcp = TcpState::ALL.map(|state| {
            ticks(match state {
                TcpState::Established => timeouts.tcp,
                TcpState::FinWait => timeouts.tcp_fin,
                _ => state.timeout(),
            })
        });
        self.udp = ticks(timeouts.udp);
    }

    /// The state of a TCP connection that waits for its first packet, and the ticks it lasts.
    pub fn listen(&self) -> (u8, u32) {
        (TcpState::Listen as u8, self.tcp[TcpState::Listen as usize])
    }

    /// Whether TCP's states are those of the defence.
    pub fn set_secure(&mut self, secure: bool) {
        self.transitions = if secure { &SECURE } else { &TABLE };
    }

    /// Ticks a UDP connection lasts.
    pub fn udp(&self) -> u32 {
        self.udp
    }

    /// How many states connections of a protocol have; 0 for a protocol that is not balanced.
    pub fn states(&self, protocol: Protocol) -> usize {
        match protocol {
            Protocol::Tcp => STATES,
            Protocol::Udp => 1,
            Protocol::Sctp => SCTP_STATES,
            Protocol::Ip => 0,
        }
    }

    /// Whole seconds a connection in this state lasts.
    pub fn seconds(&self, protocol: Protocol, state: u8) -> u32 {
        let ticks = match protocol {
            Protocol::Tcp => self.tcp[TcpState::from_number(state) as usize],
            Protocol::Sctp => self.sctp[SctpState::from_number(state) as usize],
            _ => self.udp,
        };
        seconds(ticks, 0)
    }

    /// The state after a packet, and the ticks it lasts. States are numbers, of the protocol's states.
    #[inline]
    pub fn after(&self, state: u8, seen: Seen, transport: &Transport) -> (u8, u32) {
        match transport.protocol {
            Protocol::Tcp => {
                let state = TcpState::from_number(state).after(self.transitions, seen, transport.flags);
                (state as u8, self.tcp[state as usize])
            }
            Protocol::Sctp => self.after_sctp(state, seen, transport),
            _ => (0, self.udp),
        }
    }

    #[cold]
    fn after_sctp(&self, state: u8, seen: Seen, transport: &Transport) -> (u8, u32) {
        let state = SctpState::from_number(state).after(seen, transport.event);
        (state as u8, self.sctp[state as usize])
    }
}

/// Whether something periodic is due; it is then set for the next time. It starts with the first look.
fn is_due(timer: &mut Option<Instant>, period: Duration, now: Instant) -> bool {
    let due = match *timer {
        Some(at) if at > now => return false,
        at => at,
    };
    // Without a look for long, the periods that were missed are not made up for.
    let next = due.map(|at| at + period).filter(|&next| next > now).unwrap_or(now + period);
    *timer = Some(next);
    due.is_some()
}

impl Balancer {
    /// Runs what is due; returns when something is due next.
    pub(crate) fn tick(&mut self, moment: &mut Moment<'_>) -> Instant {
        let now = moment.now;
        self.expire(now, BUDGET);
        if Defense::is_on(&self.sysctls) {
            if is_due(&mut self.timers.defense, PERIOD, now) {
                self.defend();
            }
        } else {
            self.timers.defense = None;
        }
        self.drop_entries(now, BUDGET);
        self.end_orphans(BUDGET);
        if is_due(&mut self.timers.estimate, ESTIMATOR_PERIOD, now) && self.sysctls.run_estimation != 0 {
            self.services.estimate();
            self.total.estimate();
        }
        if is_due(&mut self.timers.sweep, SWEEP_PERIOD, now) {
            self.services.sweep_trash(now);
            self.release_pools();
            self.services.look(now, &self.expirations());
        }
        let Moment { sink, .. } = moment;
        let mut outlet = Outlet { routes: &self.routes, sink: &mut **sink, counters: &mut self.counters };
        let neighbours = self.neighbours.poll(now, &mut outlet);
        self.forget_fragments(now);
        self.resume_fragments(moment);
        self.ask_again(moment);
        let sync = self.poll_sync(moment);
        let unfinished = self.orphans.is_under_way() || self.defense.scan.is_under_way();
        let deadlines = [
            self.timers.estimate,
            self.timers.sweep,
            self.timers.defense,
            self.table.deadline(),
            self.fragments.deadline(),
            self.openings.deadline(),
            neighbours,
            sync,
            unfinished.then_some(now),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(now + ESTIMATOR_PERIOD)
    }

    /// Ends connections whose time is over.
    pub(super) fn expire(&mut self, now: Instant, mut budget: usize) {
        while let Some(over) = self.table.expire(now, &mut budget) {
            match over {
                Over::Ended(entry) => self.unbind(&entry),
                Over::Stays(template) if self.sync.is_telling => self.tell_kept(template, now),
                Over::Stays(_) => {}
            }
        }
    }
}
