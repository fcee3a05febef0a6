//! mh: the client decides, by Maglev hashing (Eisenbud et al., NSDI 2016), so that few clients move when servers come and
//! go.

use alloc::vec::Vec;

use super::hash::{fold, siphash_word};
use super::{List, Request, table_of};
use crate::service::DestinationKey;
use crate::service::table::Destination;
use crate::{Errno, ServiceFlags};

/// Slots of the table: a prime. That of Linux as Debian builds it (CONFIG_IP_VS_MH_TAB_INDEX 12).
pub(crate) const SLOTS: usize = 4093;
/// Bits of the table's size, halved: greater weights are scaled down to about so many turns.
const TURN_BITS: u32 = 6;
/// The keys of the two hashes; both halves of each are the same.
const KEYS: [u64; 2] = [2_654_435_761, 2_654_446_892];

/// A destination while the table is filled.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    place: u32,
    /// The next slot of its permutation.
    slot: u32,
    skip: u32,
    /// Slots it takes when it is its turn.
    turns: u32,
}

/// The table, and the room to fill it anew without allocating.
///
/// Weights that were set to 0 keep their slots: who lands there finds nobody, or, with [`ServiceFlags::SCHEDULER_1`]
/// (mh-fallback), somebody else. With [`ServiceFlags::SCHEDULER_2`] (mh-port) the client's port counts too.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Places in the pool; empty if no destination ever had a weight.
    table: Vec<u32>,
    candidates: Vec<Candidate>,
}

/// The hash of an address and port.
fn hash(key: u64, address: u32, port: u16, offset: usize) -> u32 {
    siphash_word(key, address.wrapping_add(port.into()).wrapping_add(offset as u32))
}

fn slot(request: &Request, offset: usize) -> usize {
    let port = if request.flags.contains(ServiceFlags::SCHEDULER_2) { request.client_port } else { 0 };
    hash(KEYS[0], fold(&request.client), port, offset) as usize % SLOTS
}

impl State {
    pub fn new(list: List<'_>) -> Result<Self, Errno> {
        let mut state = State { table: table_of(SLOTS)?, candidates: Vec::new() };
        state.reserve(list.len())?;
        state.changed(list);
        Ok(state)
    }

    /// Makes room for that many destinations.
    pub fn reserve(&mut self, destinations: usize) -> Result<(), Errno> {
        if destinations > SLOTS {
            return Err(Errno::Invalid);
        }
        self.candidates.clear();
        self.candidates.try_reserve_exact(destinations).map_err(|_| Errno::OutOfMemory)
    }

    /// A destination came, went, or has another weight.
    pub fn changed(&mut self, list: List<'_>) {
        let weights = || list.iter().map(|(_, d)| d.last_weight.max(0) as u32);
        let divisor = weights().fold(0, gcd);
        self.table.clear();
        self.candidates.clear();
        if divisor == 0 {
            return;
        }
        let greatest = weights().max().unwrap_or(0) / divisor;
        let shift = (u32::BITS - greatest.leading_zeros()).saturating_sub(TURN_BITS);
        let candidate = |(place, d): (u32, &Destination)| {
            let DestinationKey { address, port } = d.key;
            let weight = d.last_weight.max(0) as u32;
            Candidate {
                place,
                slot: hash(KEYS[0], fold(&address), port, 0) % SLOTS as u32,
                skip: hash(KEYS[1], fold(&address), port, 0) % (SLOTS as u32 - 1) + 1,
                turns: ((weight / divisor) >> shift).max(u32::from(weight != 0)),
            }
        };
        self.candidates.extend(list.iter().map(candidate).filter(|candidate| candidate.turns > 0));
        self.table.resize(SLOTS, u32::MAX);
        let mut left = SLOTS;
        while left > 0 {
            for candidate in &mut self.candidates {
                for _ in 0..(candidate.turns as usize).min(left) {
                    // A permutation of all slots, of which one is free.
                    while self.table[candidate.slot as usize] != u32::MAX {
                        candidate.slot = (candidate.slot + candidate.skip) % SLOTS as u32;
                    }
                    self.table[candidate.slot as usize] = candidate.place;
                    left -= 1;
                }
            }
        }
    }

    pub fn choose(&self, list: List<'_>, request: &Request) -> Option<u32> {
        let first = slot(request, 0);
        let &place = self.table.get(first)?;
        if list.at(place).is_open() {
            return Some(place);
        }
        // Without this look, a flood of clients would have the whole table searched for each of them in vain.
        if !request.flags.contains(ServiceFlags::SCHEDULER_1) || !list.iter().any(|(_, d)| d.is_open()) {
            return None;
        }
        let others = (0..SLOTS).map(|offset| self.table[slot(request, (offset + first) % SLOTS)]);
        others.into_iter().find(|&place| list.at(place).is_open())
    }
}

/// The greatest common divisor; of 0 and a number, the number.
fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, request};
    use super::super::{Request, State as Any};
    use super::*;
    use crate::service::Scheduler;

    /// Destinations 10.1.0.N:80 for each last octet and weight, head first.
    fn fixture(servers: &[(u8, i32)]) -> Fixture {
        let mut f = Fixture::new(&servers.iter().map(|s| s.1).collect::<Vec<_>>());
        for (d, &(last, _)) in f.pool.iter_mut().zip(servers) {
            d.key = DestinationKey { address: [10, 1, 0, last].into(), port: 80 };
        }
        f
    }

    fn from(last: u8) -> Request {
        Request { client: [192, 0, 2, last].into(), ..request() }
    }

    /// CRC-32 (IEEE), bit by bit.
    fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
        !bytes.fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
        })
    }

    #[test]
    fn the_table_is_that_of_linux() {
        let f = fixture(&[(3, 1), (2, 2), (1, 3)]);
        let state = State::new(f.list()).unwrap();
        let slots = |place| state.table.iter().filter(|&&p| p == place).count();
        assert_eq!([slots(0), slots(1), slots(2)], [683, 1364, 2046]);
        assert_eq!(crc32(state.table.iter().map(|&place| place as u8)), 0x5021_86a3);
        assert_eq!([1, 2, 3].map(|last| slot(&from(last), 0)), [2891, 746, 998]);
        assert_eq!([1, 2, 3].map(|last| state.choose(f.list(), &from(last))), [Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn great_weights_are_scaled_down() {
        let f = fixture(&[(1, 64_000), (2, 1)]);
        let state = State::new(f.list()).unwrap();
        let light = state.table.iter().filter(|&&p| p == 1).count();
        // 64000 has 16 bits, of which 10 are shifted away: 62 turns to 1.
        assert_eq!(light, SLOTS / 63);
    }

    #[test]
    fn a_drained_one_keeps_its_slots() {
        let mut f = fixture(&[(3, 1), (2, 2), (1, 3)]);
        let mut state = Any::new(Scheduler::Maglev, f.list(), false, 0).unwrap();
        f.edit(2, 0, &mut state);
        assert_eq!(state.choose(f.list(), &from(1)), None);
        assert_eq!(state.choose(f.list(), &from(2)), Some(1));
        let falling = Request { flags: ServiceFlags::SCHEDULER_1, ..from(1) };
        let found = state.choose(f.list(), &falling).unwrap();
        assert_ne!(found, 2);
        f.edit(2, 3, &mut state);
        assert_eq!(state.choose(f.list(), &falling), Some(2), "its clients come back");
        for place in 0..3 {
            f.edit(place, 0, &mut state);
        }
        assert_eq!(state.choose(f.list(), &falling), None);
    }

    #[test]
    fn one_that_never_had_a_weight_gets_no_slot() {
        let mut f = fixture(&[(1, 0), (2, 0)]);
        let mut state = State::new(f.list()).unwrap();
        assert!(state.table.is_empty());
        f.pool[1].config.weight = 5;
        f.pool[1].last_weight = 5;
        state.changed(f.list());
        assert!(state.table.iter().all(|&place| place == 1) && state.table.len() == SLOTS);
    }

    #[test]
    fn the_port_counts_if_told_so() {
        let f = fixture(&[(3, 1), (2, 2), (1, 3)]);
        let mut state = Any::new(Scheduler::Maglev, f.list(), false, 0).unwrap();
        let with_port = |client_port| Request { flags: ServiceFlags::SCHEDULER_2, client_port, ..from(1) };
        // A port is added to the address, so 192.0.2.1 with port 1 is as 192.0.2.2 without.
        assert_eq!(state.choose(f.list(), &with_port(1)), Some(1));
        assert_eq!(state.choose(f.list(), &Request { client_port: 1, ..from(1) }), Some(2));
    }

    #[test]
    fn few_clients_move_when_a_server_leaves() {
        let mut f = fixture(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        let mut state = State::new(f.list()).unwrap();
        let before = state.table.clone();
        f.order.remove(3);
        state.changed(f.list());
        let moved = before.iter().zip(&state.table).filter(|(a, b)| a != b && **a != 3).count();
        assert!(moved < SLOTS / 10, "{moved}");
    }

    #[test]
    fn more_destinations_than_slots_are_refused() {
        let f = Fixture::new(&[1; SLOTS + 1]);
        assert_eq!(State::new(f.list()).unwrap_err(), Errno::Invalid);
    }
}
