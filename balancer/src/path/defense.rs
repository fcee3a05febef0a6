//! The defence against floods: what is dropped before its time, and when.
//!
//! Follows update_defense_level, ip_vs_todrop and ip_vs_random_dropentry of Linux, with the connection table in the place
//! of the machine's memory: that is what a flood uses up here.

use core::time::Duration;

use crate::Balancer;
use crate::connection::{Entry, SctpState, State, Table, TcpState};
use crate::service::table::NOBODY;
use crate::sysctl::Sysctls;
use crate::time::Instant;

/// The level of the defence is looked at so often, while there is one.
pub(super) const PERIOD: Duration = Duration::from_secs(1);
/// With each look, one of so many places of the table is looked at.
const PART: u32 = 32;
/// A connection is spared that had a packet so recently.
const SPARED: u32 = 60;
/// Connections with more packets than this are spared.
const PACKETS: u8 = 8;
/// Connections in a page of memory.
const PER_PAGE: u32 = 4096 / 64;
/// Of a table, one of so many parts is free at least before it is scarce, whatever `amemthresh` says.
const SHARE: u32 = 4;

/// How high the defence is.
#[derive(Debug, Default)]
pub(crate) struct Defense {
    /// Of so many packets that begin a connection one is dropped; 0: none.
    drop_rate: i32,
    drop_counter: i32,
    /// By packets of a connection: how many of its kind are spared before the next goes.
    spare: [u8; PACKETS as usize + 1],
    is_dropping: bool,
    /// Places of the table still to be looked at, and the next one.
    pub scan: Scan,
}

/// A walk over the connection table, some places at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    next: u32,
    left: u32,
}

impl Scan {
    /// Of the whole table.
    pub fn begin(&mut self, places: u32) {
        *self = Scan { next: 0, left: places };
    }

    /// Whether places are left.
    pub fn is_under_way(&self) -> bool {
        self.left > 0
    }

    /// The next place of a table of so many, which is gone round.
    fn next(&mut self, places: u32) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let place = if self.next < places { self.next } else { 0 };
        self.next = place + 1;
        (place < places).then_some(place)
    }

    /// The next connection that may be ended, or template without connections; looks at no more places than `budget`.
    fn find(&mut self, table: &Table, budget: &mut usize) -> Option<u32> {
        while *budget > 0 && self.is_under_way() {
            *budget -= 1;
            if let Some(place) = self.next(table.places())
                && table.is_used(place)
                && !table.get(place).is_controlling()
            {
                return Some(place);
            }
        }
        None
    }
}

impl Defense {
    /// Whether there is anything to look at every second.
    pub fn is_on(knobs: &Sysctls) -> bool {
        knobs.drop_entry | knobs.drop_packet | knobs.secure_tcp != 0
    }

    /// Whether a packet that would begin a connection is to be dropped.
    pub fn drops_packet(&mut self) -> bool {
        if self.drop_rate == 0 {
            return false;
        }
        self.drop_counter = self.drop_counter.saturating_sub(1);
        if self.drop_counter > 0 {
            return false;
        }
        self.drop_counter = self.drop_rate;
        true
    }

    /// The look of every second. `free`: connections there is room for, in a table of `limit`. Returns whether TCP's states
    /// are to be those of the defence.
    fn update(&mut self, knobs: &mut Sysctls, free: u32, limit: u32) -> bool {
        let pages = i64::from(free / PER_PAGE);
        // A table smaller than the threshold, which is made for all the memory of a machine, would always be scarce.
        let least = i64::from(knobs.amemthresh).min(i64::from(limit / PER_PAGE / SHARE));
        let scarce = pages < least;
        for mode in [&mut knobs.drop_entry, &mut knobs.drop_packet, &mut knobs.secure_tcp] {
            if matches!(*mode, 1 | 2) {
                *mode = if scarce { 2 } else { 1 };
            }
        }
        self.is_dropping = knobs.drop_entry >= 2;
        match knobs.drop_packet {
            3 => self.drop_rate = knobs.am_droprate,
            2 => {
                self.drop_rate = (least / (least - pages)) as i32;
                self.drop_counter = self.drop_rate;
            }
            _ => self.drop_rate = 0,
        }
        knobs.secure_tcp >= 2
    }

    /// Whether a connection without a packet for `idle` seconds is dropped in its turn.
    fn drops_idle(&mut self, packets: u8, idle: u32) -> bool {
        if idle < SPARED || !(1..=PACKETS).contains(&packets) {
            return false;
        }
        let spare = &mut self.spare[usize::from(packets)];
        if *spare > 1 {
            *spare -= 1;
            return false;
        }
        *spare = packets;
        true
    }

    fn drops(&mut self, entry: &Entry, idle: u32) -> bool {
        if entry.is_template() {
            return !entry.is_assured();
        }
        match State::from_number(entry.protocol(), entry.state()) {
            State::Tcp(TcpState::SynReceived | TcpState::SynAck) => true,
            State::Sctp(SctpState::Init1 | SctpState::Init) => true,
            State::Tcp(TcpState::Established) | State::Sctp(SctpState::Established) | State::Only => {
                self.drops_idle(entry.in_packets(), idle)
            }
            _ => false,
        }
    }
}

impl Balancer {
    /// Looks at the level of the defence, and begins to drop connections if it says so.
    pub(crate) fn defend(&mut self) {
        let secure = self.defense.update(&mut self.sysctls, self.table.room(), self.table.limit());
        self.timers.set_secure(secure);
        if self.defense.is_dropping {
            self.defense.scan.left = self.table.places() / PART + 1;
        }
    }

    /// Goes on with dropping connections, for so many places.
    pub(super) fn drop_entries(&mut self, now: Instant, mut budget: usize) {
        while let Some(place) = self.defense.scan.find(&self.table, &mut budget) {
            let entry = self.table.get(place);
            let lasts = self.timers.seconds(entry.protocol(), entry.state());
            let idle = lasts.saturating_sub(self.table.remaining(place, now));
            if self.defense.drops(entry, idle) {
                self.end_with_template(place, false);
            }
        }
    }

    /// Goes on with ending connections whose destination was removed (`expire_nodest_conn`), for so many places.
    pub(super) fn end_orphans(&mut self, mut budget: usize) {
        while let Some(place) = self.orphans.find(&self.table, &mut budget) {
            let destination = self.table.get(place).destination;
            if destination != NOBODY && !self.services.pool[destination as usize].available {
                self.end_with_template(place, true);
            }
        }
    }

    /// A destination was removed: if its connections are not to outlive it, they are looked for with the next polls.
    pub(crate) fn destination_removed(&mut self) {
        if self.sysctls.expire_nodest_conn != 0 {
            self.orphans.begin(self.table.places());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(set: &[(&str, i32)]) -> Sysctls {
        let mut knobs = Sysctls::default();
        set.iter().for_each(|(name, value)| knobs.set(name, *value).unwrap());
        knobs
    }

    #[test]
    fn modes_follow_the_memory_between_1_and_2_and_3_is_always() {
        let mut defense = Defense::default();
        let mut on = knobs(&[("drop_entry", 1), ("secure_tcp", 2), ("drop_packet", 1), ("amemthresh", 4)]);
        assert!(defense.update(&mut on, 3 * 64, u32::MAX), "3 pages are less than 4");
        assert_eq!((on.drop_entry, on.secure_tcp, on.drop_packet), (2, 2, 2));
        assert_eq!((defense.is_dropping, defense.drop_rate), (true, 4), "4 of 4 - 3");
        assert!(!defense.update(&mut on, 4 * 64, u32::MAX));
        assert_eq!((on.drop_entry, on.secure_tcp, on.drop_packet), (1, 1, 1));
        assert_eq!((defense.is_dropping, defense.drop_rate), (false, 0));
        let mut always = knobs(&[("drop_entry", 3), ("secure_tcp", 3), ("drop_packet", 3)]);
        assert!(defense.update(&mut always, u32::MAX, u32::MAX));
        assert_eq!((defense.is_dropping, defense.drop_rate), (true, 10));
    }

    #[test]
    fn a_small_table_is_scarce_when_a_quarter_is_left() {
        let mut on = knobs(&[("drop_packet", 1)]);
        let mut rate = |free| {
            let mut defense = Defense::default();
            defense.update(&mut on, free, 4096);
            (on.drop_packet, defense.drop_rate)
        };
        assert_eq!([4096, 2048, 1024].map(&mut rate), [(1, 0); 3], "16 of 64 pages are enough");
        assert_eq!([1023, 512, 0].map(&mut rate), [(2, 16), (2, 2), (2, 1)]);
        let mut defense = Defense::default();
        defense.update(&mut on, 1023 * 64, 1 << 20);
        assert_eq!(defense.drop_rate, 1024, "a large one by amemthresh");
    }

    #[test]
    fn one_of_so_many_packets_is_dropped() {
        let mut defense = Defense::default();
        assert!(!defense.drops_packet());
        defense.drop_rate = 3;
        let dropped: [bool; 7] = core::array::from_fn(|_| defense.drops_packet());
        assert_eq!(dropped, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn idle_connections_go_the_rarer_the_more_packets_they_had() {
        let mut defense = Defense::default();
        assert!(!defense.drops_idle(1, 59) && !defense.drops_idle(0, 60) && !defense.drops_idle(9, 600));
        assert!(defense.drops_idle(1, 60) && defense.drops_idle(1, 60));
        let dropped: [bool; 7] = core::array::from_fn(|_| defense.drops_idle(3, 60));
        assert_eq!(dropped, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_scan_goes_round_and_ends() {
        let mut scan = Scan { next: 3, left: 4 };
        let places: [Option<u32>; 5] = core::array::from_fn(|_| scan.next(5));
        assert_eq!(places, [Some(3), Some(4), Some(0), Some(1), None]);
        scan.begin(2);
        assert!(scan.is_under_way());
        assert_eq!((scan.next(0), scan.next(0), scan.is_under_way()), (None, None, false));
    }
}
