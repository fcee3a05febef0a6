//! What lblc and lblcr remember of each destination address: a table of fixed size, hashed by a secret key.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::table_of;
use crate::Errno;
use crate::connection::hash::Key;
use crate::time::Instant;

/// More entries than this are thinned out (1,024 buckets times 16).
const MOST: usize = 16384;
/// No more entries than this are made.
pub(super) const LIMIT: usize = MOST / 2 * 3;
/// When there are too many, those go that were not used for this long.
const IDLE: Duration = Duration::from_secs(6 * 60);
/// Every so many looks, one a minute, all go that were not used for the time configured.
const FULL_LOOK: u32 = 30;

/// One address. Links are places plus one, 0 for none.
#[derive(Clone, Copy, Debug)]
struct Slot<T> {
    address: IpAddr,
    used: Instant,
    next: u32,
    /// `None` while the slot is free.
    value: Option<T>,
}

/// The table.
#[derive(Clone, Debug)]
pub(super) struct Cache<T> {
    key: Key,
    /// First slots of the chains; as many as a power of two.
    buckets: Vec<u32>,
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
    limit: usize,
    /// Looks since the last full one, and the bucket where the next partial one goes on.
    looks: u32,
    rover: usize,
}

impl<T: Copy> Cache<T> {
    /// An empty one for up to `limit` addresses, of which all memory is taken at once.
    pub fn new(limit: usize, seed: u64) -> Result<Self, Errno> {
        let mut buckets = table_of(limit.next_power_of_two())?;
        buckets.resize(limit.next_power_of_two(), 0);
        let slots = table_of(limit)?;
        Ok(Cache { key: Key([seed, !seed]), buckets, slots, free: 0, len: 0, limit, looks: 1, rover: 0 })
    }

    /// Bytes it takes.
    pub fn memory(&self) -> usize {
        self.buckets.len() * size_of::<u32>() + self.limit * size_of::<Slot<T>>()
    }

    fn bucket(&self, address: &IpAddr) -> usize {
        let bits = match address {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        };
        self.key.hash([(bits >> 64) as u64, bits as u64, 0]) as usize & (self.buckets.len() - 1)
    }

    /// What is remembered of an address; it counts as used now.
    pub fn get(&mut self, address: &IpAddr, now: Instant) -> Option<&mut T> {
        let mut at = self.buckets[self.bucket(address)];
        while let Some(place) = at.checked_sub(1) {
            if self.slots[place as usize].address == *address {
                let slot = &mut self.slots[place as usize];
                slot.used = now;
                return slot.value.as_mut();
            }
            at = self.slots[place as usize].next;
        }
        None
    }

    /// Remembers something of an address of which nothing is known. `false` if there is no room.
    pub fn insert(&mut self, address: IpAddr, value: T, now: Instant) -> bool {
        let bucket = self.bucket(&address);
        let slot = Slot { address, used: now, next: self.buckets[bucket], value: Some(value) };
        let place = match self.free.checked_sub(1) {
            Some(place) => {
                self.free = self.slots[place as usize].next;
                self.slots[place as usize] = slot;
                place
            }
            None if self.slots.len() < self.limit => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
            None => return false,
        };
        self.buckets[bucket] = place + 1;
        self.len += 1;
        true
    }

    /// Forgets, of a chain, what was last used before `idle` ago, but no more than `goal`. Returns how many.
    fn thin(&mut self, bucket: usize, idle: Duration, now: Instant, goal: usize, gone: &mut impl FnMut(T)) -> usize {
        let (mut before, mut at, mut count) = (None, self.buckets[bucket], 0);
        while let Some(place) = at.checked_sub(1) {
            let slot = self.slots[place as usize];
            at = slot.next;
            if count >= goal || now.since(slot.used) <= idle {
                before = Some(place);
                continue;
            }
            match before {
                None => self.buckets[bucket] = slot.next,
                Some(before) => self.slots[before as usize].next = slot.next,
            }
            slot.value.map(&mut *gone);
            self.slots[place as usize] = Slot { next: self.free, value: None, ..slot };
            self.free = place + 1;
            self.len -= 1;
            count += 1;
        }
        count
    }

    /// The look of every minute; each value that is forgotten is given to `gone`.
    pub fn look(&mut self, now: Instant, expiration: Duration, mut gone: impl FnMut(T)) {
        if self.looks.is_multiple_of(FULL_LOOK) {
            for bucket in 0..self.buckets.len() {
                self.thin(bucket, expiration, now, usize::MAX, &mut gone);
            }
            self.looks = 1;
            return;
        }
        if self.len <= MOST {
            self.looks += 1;
            return;
        }
        let mut goal = ((self.len - MOST) * 4 / 3).min(MOST / 2);
        for _ in 0..self.buckets.len() {
            self.rover = (self.rover + 1) % self.buckets.len();
            goal -= self.thin(self.rover, IDLE, now, goal, &mut gone);
            if goal == 0 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn address(number: u32) -> IpAddr {
        core::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut cache = Cache::new(2, 1).unwrap();
        assert!(cache.insert(address(1), 1, Instant::ZERO) && cache.insert(address(2), 2, Instant::ZERO));
        assert!(!cache.insert(address(3), 3, Instant::ZERO));
        assert_eq!(cache.get(&address(1), Instant::ZERO), Some(&mut 1));
        assert_eq!(cache.get(&address(3), Instant::ZERO), None);
        let v6 = "fd00::ffff:ffff:ffff:ffff".parse().unwrap();
        assert_eq!(cache.get(&v6, Instant::ZERO), None);
    }

    #[test]
    fn what_is_idle_for_long_goes_at_every_thirtieth_look() {
        let mut cache = Cache::new(8, 1).unwrap();
        cache.insert(address(1), 1, Instant::ZERO);
        cache.insert(address(2), 2, Instant::ZERO);
        let late = Instant::ZERO + DAY + Duration::from_secs(1);
        cache.get(&address(2), late);
        for _ in 0..29 {
            cache.look(late, DAY, |_| panic!("too early"));
        }
        let mut gone = alloc::vec![];
        cache.look(late, DAY, |value| gone.push(value));
        assert_eq!(gone, [1]);
        assert_eq!(cache.get(&address(1), late), None);
        assert_eq!(cache.get(&address(2), late), Some(&mut 2));
        assert!(cache.insert(address(3), 3, late));
    }

    #[test]
    fn too_many_are_thinned_by_those_idle_for_six_minutes() {
        let mut cache = Cache::new(LIMIT, 1).unwrap();
        for number in 0..MOST as u32 + 300 {
            assert!(cache.insert(address(number), number, Instant::ZERO));
        }
        let mut gone = 0;
        cache.look(Instant::ZERO + IDLE, DAY, |_| gone += 1);
        assert_eq!(gone, 0, "not idle for long enough");
        cache.look(Instant::ZERO + IDLE + Duration::from_secs(1), DAY, |_| gone += 1);
        assert_eq!((gone, cache.len), (400, MOST - 100));
    }

    proptest! {
        #[test]
        fn it_is_a_map_of_bounded_size(steps in proptest::collection::vec((0u32..20, any::<bool>(), 0u64..400), 1..200)) {
            let (mut cache, mut model, mut now) = (Cache::new(12, 3).unwrap(), BTreeMap::new(), Instant::ZERO);
            for (number, look, seconds) in steps {
                now = now + Duration::from_secs(seconds);
                if look {
                    cache.looks = FULL_LOOK;
                    let mut gone = alloc::vec![];
                    cache.look(now, IDLE, |value| gone.push(value));
                    gone.sort_unstable();
                    let idle: alloc::vec::Vec<u32> = model.extract_if(.., |_, used| now.since(*used) > IDLE).map(|(n, _)| n).collect();
                    prop_assert_eq!(gone, idle);
                } else if cache.get(&address(number), now).is_some() {
                    prop_assert!(model.insert(number, now).is_some());
                } else {
                    prop_assert!(!model.contains_key(&number));
                    prop_assert_eq!(cache.insert(address(number), number, now), model.len() < 12);
                    if model.len() < 12 {
                        model.insert(number, now);
                    }
                }
                prop_assert_eq!(cache.len, model.len());
            }
        }
    }
}
