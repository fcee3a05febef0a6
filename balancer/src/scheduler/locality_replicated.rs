//! lblcr: as lblc, but an address may have several destinations, as many as it needs.

use alloc::vec::Vec;
use core::time::Duration;

use super::cache::Cache;
use super::least::least_per_weight;
use super::locality::{addresses, is_strained};
use super::{Known, List, Request, least, table_of};
use crate::Errno;
use crate::service::table::Destination;
use crate::time::Instant;

/// Destinations a set can have on the average when all addresses are in use.
const SHARE: usize = 2;
/// Least room for destinations: a single address may need all there are.
const ROOM: usize = 1024;

/// The destinations of one address.
#[derive(Clone, Copy, Debug)]
struct Set {
    /// The newest; place in [`State::members`] plus one.
    first: u32,
    size: u32,
    modified: Instant,
}

/// A destination in a set, or a free place.
#[derive(Clone, Copy, Debug)]
struct Member {
    known: Known,
    next: u32,
}

/// The sets. Their members lie in one pool of fixed size; when that is used up, sets grow no more.
#[derive(Clone, Debug)]
pub(crate) struct State {
    cache: Cache<Set>,
    members: Members,
}

#[derive(Clone, Debug)]
struct Members {
    pool: Vec<Member>,
    free: u32,
}

impl Members {
    fn take(&mut self, known: Known, next: u32) -> Option<u32> {
        let member = Member { known, next };
        match self.free.checked_sub(1) {
            Some(place) => {
                self.free = self.pool[place as usize].next;
                self.pool[place as usize] = member;
                Some(place + 1)
            }
            None if self.pool.len() < self.pool.capacity() => {
                self.pool.push(member);
                Some(self.pool.len() as u32)
            }
            None => None,
        }
    }

    fn give_back(&mut self, link: u32) {
        if let Some(place) = link.checked_sub(1) {
            self.pool[place as usize].next = core::mem::replace(&mut self.free, link);
        }
    }

    /// The members of a set, newest first, with their links; those that are no more what they were, too.
    fn of(&self, set: &Set) -> impl Iterator<Item = (u32, Known)> + '_ {
        let mut at = set.first;
        core::iter::from_fn(move || {
            let member = self.pool.get(at.checked_sub(1)? as usize)?;
            Some((core::mem::replace(&mut at, member.next), member.known))
        })
    }

    /// Adds a destination to a set, unless it is in it: for one that is no more what it was, if there is one. A set that
    /// cannot grow stays.
    fn insert(&mut self, set: &mut Set, place: u32, list: List<'_>, now: Instant) {
        let known = Known::of(list, place);
        if self.of(set).any(|(_, member)| member == known) {
            return;
        }
        if let Some(link) = self.gone(set, list) {
            self.erase(set, link, now);
        }
        if let Some(link) = self.take(known, set.first) {
            *set = Set { first: link, size: set.size + 1, modified: now };
        }
    }

    fn erase(&mut self, set: &mut Set, link: u32, now: Instant) {
        let next = self.pool[link as usize - 1].next;
        let before = self.of(set).map(|(at, _)| at).find(|&at| self.pool[at as usize - 1].next == link);
        match before {
            Some(before) => self.pool[before as usize - 1].next = next,
            None => set.first = next,
        }
        self.give_back(link);
        *set = Set { size: set.size - 1, modified: now, ..*set };
    }

    fn clear(&mut self, set: Set) {
        let mut at = set.first;
        while let Some(place) = at.checked_sub(1) {
            let link = at;
            at = self.pool[place as usize].next;
            self.give_back(link);
        }
    }

    /// The member with the least load per weight of those that can take something.
    fn least<'a>(&self, set: &Set, list: List<'a>) -> Option<(u32, &'a Destination)> {
        let members = self.of(set).filter_map(|(_, known)| Some((known.place, known.get(list)?)));
        let open = members.filter(|(_, d)| d.available && d.is_open());
        least_per_weight(open, |d| d.load().into()).map(|place| (place, list.at(place)))
    }

    /// The link of a member that is no more what it was.
    fn gone(&self, set: &Set, list: List<'_>) -> Option<u32> {
        self.of(set).find(|(_, known)| known.get(list).is_none()).map(|(link, _)| link)
    }

    /// The link of the member with the most load per weight; one that is no more what it was before all others.
    fn most(&self, set: &Set, list: List<'_>) -> Option<u32> {
        self.gone(set, list).or_else(|| {
            let members = self.of(set).filter_map(|(link, known)| Some((link, known.get(list)?)));
            least_per_weight(members.filter(|(_, d)| d.config.weight > 0), |d| -i64::from(d.load()))
        })
    }
}

impl State {
    pub fn new(is_mark: bool, seed: u64) -> Result<Self, Errno> {
        let limit = addresses(is_mark);
        let pool = table_of((limit * SHARE).max(ROOM))?;
        Ok(State { cache: Cache::new(limit, seed)?, members: Members { pool, free: 0 } })
    }

    /// Bytes it takes.
    pub fn memory(&self) -> usize {
        self.cache.memory() + self.members.pool.capacity() * size_of::<Member>()
    }

    pub fn choose(&mut self, list: List<'_>, request: &Request) -> Option<u32> {
        let State { cache, members } = self;
        let Some(set) = cache.get(&request.destination, request.now) else {
            let place = least::weighted_connections(list)?;
            let mut set = Set { first: 0, size: 0, modified: request.now };
            members.insert(&mut set, place, list, request.now);
            if !cache.insert(request.destination, set, request.now) {
                members.clear(set);
            }
            return Some(place);
        };
        let found = members.least(set, list);
        // Long enough without a new one: the set is larger than it needs to be.
        if set.size > 1
            && request.now.since(set.modified) > request.expirations.lblcr
            && let Some(link) = members.most(set, list)
        {
            members.erase(set, link, request.now);
        }
        if let Some((place, d)) = found
            && !is_strained(d, list)
        {
            return Some(place);
        }
        let place = least::weighted_connections(list)?;
        members.insert(set, place, list, request.now);
        Some(place)
    }

    /// Due every minute.
    pub fn look(&mut self, now: Instant, expiration: Duration) {
        let State { cache, members } = self;
        cache.look(now, expiration, |set| members.clear(set));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, request};
    use super::super::{Expirations, Request, State as Any};
    use super::*;
    use crate::service::Scheduler;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn at(now: Instant) -> Request {
        Request { now, expirations: Expirations { lblcr: DAY, ..Expirations::default() }, ..request() }
    }

    fn start(f: &Fixture) -> Any {
        Any::new(Scheduler::LocalityReplicated, f.list(), false, 0).unwrap()
    }

    #[test]
    fn the_set_grows_when_it_is_strained_and_the_least_loaded_of_it_is_taken() {
        let mut f = Fixture::new(&[2, 2, 2]);
        let mut state = start(&f);
        let now = Instant::ZERO;
        assert_eq!(state.choose(f.list(), &at(now)), Some(0));
        (f.pool[0].active, f.pool[0].connections) = (2, 2);
        assert_eq!(state.choose(f.list(), &at(now)), Some(0), "as many as the weight is no strain");
        (f.pool[0].active, f.pool[0].connections) = (3, 3);
        assert_eq!(state.choose(f.list(), &at(now)), Some(1));
        (f.pool[1].active, f.pool[1].connections) = (1, 1);
        assert_eq!(state.choose(f.list(), &at(now)), Some(1), "the least loaded of the set, though 2 is idle");
        (f.pool[0].active, f.pool[0].connections) = (0, 0);
        assert_eq!(state.choose(f.list(), &at(now)), Some(0));
    }

    #[test]
    fn overloaded_and_drained_members_are_passed_over() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = start(&f);
        assert_eq!(state.choose(f.list(), &at(Instant::ZERO)), Some(0));
        f.pool[0].overloaded = true;
        assert_eq!(state.choose(f.list(), &at(Instant::ZERO)), Some(1));
        f.edit(1, 0, &mut state);
        assert_eq!(state.choose(f.list(), &at(Instant::ZERO)), None);
    }

    #[test]
    fn the_most_loaded_member_leaves_a_set_that_did_not_change_for_a_day() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = start(&f);
        let now = Instant::ZERO;
        state.choose(f.list(), &at(now));
        f.pool[0].overloaded = true;
        assert_eq!(state.choose(f.list(), &at(now)), Some(1));
        f.pool[0].overloaded = false;
        f.pool[1].connections = 9;
        let late = now + DAY + Duration::from_secs(1);
        assert_eq!(state.choose(f.list(), &at(now + DAY)), Some(0));
        assert_eq!(state.choose(f.list(), &at(late)), Some(0));
        f.pool[0].connections = 99;
        assert_eq!(state.choose(f.list(), &at(late)), Some(0), "1 is no member any more");
    }

    #[test]
    fn a_new_member_takes_the_room_of_one_that_is_gone() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = State::new(true, 1).unwrap();
        f.pool[0].overloaded = true;
        assert_eq!(state.choose(f.list(), &at(Instant::ZERO)), Some(1));
        f.pool[0].overloaded = false;
        f.pool[1].overloaded = true;
        for incarnation in 1..9 {
            // As when the first is removed, forgotten, and another comes in its place.
            f.pool[0].incarnation = incarnation;
            assert_eq!(state.choose(f.list(), &at(Instant::ZERO)), Some(0));
        }
        assert_eq!(state.members.pool.len(), 2);
        let set = *state.cache.get(&request().destination, Instant::ZERO).unwrap();
        let members: Vec<_> = state.members.of(&set).map(|(_, known)| known).collect();
        assert_eq!((set.size, members), (2, alloc::vec![Known::of(f.list(), 0), Known::of(f.list(), 1)]));
    }

    #[test]
    fn members_are_given_back_when_an_address_is_forgotten() {
        let f = Fixture::new(&[1; 3]);
        let mut state = State::new(true, 1).unwrap();
        for round in 0..3u64 {
            let now = Instant::ZERO + DAY * 2 * round as u32;
            for last in 0..200 {
                state.choose(f.list(), &Request { destination: [10, 0, 0, last].into(), ..at(now) });
            }
            let later = now + DAY + Duration::from_secs(1);
            (0..30).for_each(|_| state.look(later, DAY));
            assert_eq!(state.members.pool.len(), 200);
        }
        let free = core::iter::successors(state.members.free.checked_sub(1), |&at| {
            state.members.pool[at as usize].next.checked_sub(1)
        });
        assert_eq!(free.count(), 200);
    }
}
