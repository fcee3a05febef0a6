//! Where the neighbours are kept: a fixed number of entries, found by a keyed hash.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Mac;
use crate::Instant;
use crate::connection::hash::Key;

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing, it is being asked for: `tries` requests went out, and at `at` it is time for more.
    Incomplete { tries: u8, at: Instant },
    /// It answered: its address is good until then, and [`State::Stale`] after.
    Reachable { until: Instant },
    /// It said something about itself, or answered long ago. Good for use, to be confirmed with the first use.
    Stale,
    /// In use and being confirmed.
    Probe { tries: u8, at: Instant },
}

/// A neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub address: IpAddr,
    /// Means nothing while [`State::Incomplete`].
    pub mac: Mac,
    pub state: State,
    /// Last time something was sent to it or heard from it.
    pub used: Instant,
    next: u16,
}

impl Entry {
    /// The Ethernet address if there is one.
    pub fn known(&self) -> Option<Mac> {
        match self.state {
            State::Incomplete { .. } => None,
            _ => Some(self.mac),
        }
    }

    fn is_stale(&self, now: Instant) -> bool {
        match self.state {
            State::Stale => true,
            State::Reachable { until } => until <= now,
            _ => false,
        }
    }
}

/// Who may have to leave when the table is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evict {
    /// The oldest stale entry or nobody.
    Stale,
    /// The oldest stale entry; if there is none, the oldest that has not answered; if there is none, the oldest.
    ///
    /// Neighbours answer within milliseconds, and those that were made up never do: a flood evicts itself.
    Any,
}

const NONE: u16 = u16::MAX;

/// Entries in chains by hash. Slots that are not in use form one more chain.
#[derive(Debug)]
pub(super) struct Table {
    key: Key,
    heads: Vec<u16>,
    slots: Vec<Entry>,
    used: Vec<bool>,
    free: u16,
    /// Slots found last, by the end of the address: a few neighbours have most of the traffic, and need no hash.
    recent: [u16; 16],
}

impl Table {
    /// A table of `capacity` entries, at least 1 and at most 65,534.
    pub fn new(capacity: u16, seed: [u64; 2]) -> Self {
        let capacity = capacity.clamp(1, NONE - 1);
        let blank = |next| Entry {
            address: IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED),
            mac: [0; 6],
            state: State::Stale,
            used: Instant::ZERO,
            next,
        };
        let slots = (0..capacity).map(|i| blank(if i + 1 < capacity { i + 1 } else { NONE })).collect();
        let heads = vec![NONE; usize::from(capacity).next_power_of_two()];
        Table { key: Key(seed), heads, slots, used: vec![false; capacity.into()], free: 0, recent: [0; 16] }
    }

    fn bucket(&self, address: &IpAddr) -> usize {
        let bits = match address {
            IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
            IpAddr::V6(a) => a.to_bits(),
        };
        self.key.hash([(bits >> 64) as u64, bits as u64, 0]) as usize & (self.heads.len() - 1)
    }

    fn position(&self, address: &IpAddr) -> Option<u16> {
        let mut at = self.heads[self.bucket(address)];
        while at != NONE {
            let entry = &self.slots[usize::from(at)];
            if entry.address == *address {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// The entry of an address.
    #[inline]
    pub fn get(&self, address: &IpAddr) -> Option<&Entry> {
        self.position(address).map(|at| &self.slots[usize::from(at)])
    }

    /// The entry of an address, to change anything but the address.
    #[inline]
    pub fn get_mut(&mut self, address: &IpAddr) -> Option<&mut Entry> {
        let last = match address {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(a) => a.octets()[15],
        };
        let recent = usize::from(last) % self.recent.len();
        let at = usize::from(self.recent[recent]);
        if self.used[at] && self.slots[at].address == *address {
            return Some(&mut self.slots[at]);
        }
        let at = self.position(address)?;
        self.recent[recent] = at;
        Some(&mut self.slots[usize::from(at)])
    }

    /// Adds an entry for an address that has none. Gives back whom it replaced, or `Err` if nobody may be.
    pub fn insert(
        &mut self,
        address: IpAddr,
        state: State,
        mac: Mac,
        now: Instant,
        evict: Evict,
    ) -> Result<Option<Entry>, ()> {
        debug_assert!(self.get(&address).is_none());
        let evicted = match self.free {
            NONE => Some(self.remove(self.victim(now, evict).ok_or(())?)),
            _ => None,
        };
        let at = self.free;
        let bucket = self.bucket(&address);
        let slot = &mut self.slots[usize::from(at)];
        self.free = slot.next;
        *slot = Entry { address, mac, state, used: now, next: self.heads[bucket] };
        self.heads[bucket] = at;
        self.used[usize::from(at)] = true;
        Ok(evicted)
    }

    fn victim(&self, now: Instant, evict: Evict) -> Option<usize> {
        let rank = |entry: &Entry| match entry.state {
            _ if entry.is_stale(now) => 0,
            State::Incomplete { .. } => 1,
            _ => 2,
        };
        let may_leave = |entry: &Entry| evict == Evict::Any || entry.is_stale(now);
        let candidates = (0..self.slots.len()).filter(|&at| self.used[at] && may_leave(&self.slots[at]));
        candidates.min_by_key(|&at| (rank(&self.slots[at]), self.slots[at].used))
    }

    /// How many slots there are, for [`Table::at`].
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// What is in a slot, to change anything but the address.
    pub fn at(&mut self, slot: usize) -> Option<&mut Entry> {
        if self.used[slot] { Some(&mut self.slots[slot]) } else { None }
    }

    /// Removes the entry in a slot that has one.
    pub fn remove(&mut self, slot: usize) -> Entry {
        let entry = self.slots[slot];
        let bucket = self.bucket(&entry.address);
        let mut at = self.heads[bucket];
        if usize::from(at) == slot {
            self.heads[bucket] = entry.next;
        } else {
            while usize::from(self.slots[usize::from(at)].next) != slot {
                at = self.slots[usize::from(at)].next;
            }
            self.slots[usize::from(at)].next = entry.next;
        }
        self.slots[slot].next = self.free;
        self.free = slot as u16;
        self.used[slot] = false;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ip(n: u32) -> IpAddr {
        core::net::Ipv4Addr::from(n).into()
    }

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn reachable(seconds: u64) -> State {
        State::Reachable { until: Instant::from_secs(seconds) }
    }

    #[test]
    fn stale_ones_leave_first_then_those_that_never_answered() {
        let mut table = Table::new(3, [1, 2]);
        let asked = State::Incomplete { tries: 1, at: Instant::from_secs(9) };
        let now = Instant::from_secs;
        for (n, state) in [(1, reachable(20)), (2, asked), (3, reachable(5))] {
            assert!(table.insert(ip(n), state, MAC, now(n.into()), Evict::Stale).unwrap().is_none());
        }
        assert!(table.insert(ip(4), State::Stale, MAC, now(4), Evict::Stale).is_err(), "none is stale yet");
        assert_eq!(table.insert(ip(4), reachable(40), MAC, now(6), Evict::Any).unwrap().unwrap().address, ip(3));
        assert_eq!(table.insert(ip(5), reachable(40), MAC, now(6), Evict::Any).unwrap().unwrap().address, ip(2));
        assert_eq!(table.insert(ip(6), reachable(40), MAC, now(6), Evict::Any).unwrap().unwrap().address, ip(1));
    }

    #[test]
    fn a_capacity_of_none_is_one() {
        let mut table = Table::new(0, [1, 2]);
        assert_eq!(table.capacity(), 1);
        assert!(table.insert(ip(1), State::Stale, MAC, Instant::ZERO, Evict::Any).unwrap().is_none());
        assert!(table.insert(ip(2), State::Stale, MAC, Instant::ZERO, Evict::Any).unwrap().is_some());
        assert!(table.get(&ip(1)).is_none() && table.get(&ip(2)).is_some());
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_bounded_size(capacity in 1u16..20, steps in prop::collection::vec((0u32..40, any::<bool>()), 1..400)) {
            let mut table = Table::new(capacity, [3, 4]);
            let mut model = BTreeMap::new();
            for (time, (n, insert)) in steps.into_iter().enumerate() {
                let now = Instant::from_secs(time as u64);
                let mac = [0, 0, 0, 0, (time >> 8) as u8, time as u8];
                match (table.get(&ip(n)).is_some(), insert) {
                    (false, true) => {
                        let full = model.len() == usize::from(capacity);
                        let evicted = table.insert(ip(n), State::Stale, mac, now, Evict::Stale).unwrap();
                        prop_assert_eq!(evicted.is_some(), full);
                        if let Some(entry) = evicted {
                            let oldest = model.iter().min_by_key(|(_, (_, used))| *used).map(|(address, _)| *address);
                            prop_assert_eq!(Some(entry.address), oldest);
                            model.remove(&entry.address);
                        }
                        model.insert(ip(n), (mac, now));
                    }
                    (true, false) => {
                        let slot = (0..table.capacity()).find(|&s| table.at(s).is_some_and(|e| e.address == ip(n)));
                        table.remove(slot.unwrap());
                        model.remove(&ip(n));
                    }
                    _ => {}
                }
                for n in 0..40 {
                    let found = table.get(&ip(n)).map(|e| (e.mac, e.used));
                    prop_assert_eq!(found, model.get(&ip(n)).copied());
                    prop_assert_eq!(table.get_mut(&ip(n)).map(|e| (e.mac, e.used)), found);
                }
            }
        }
    }
}
