//! lblc: packets for one address go to one destination, as long as it bears them. For caches, which several destinations
//! with the same content would be a waste of.

use core::time::Duration;

use super::cache::{self, Cache};
use super::{Known, List, Request, least};
use crate::service::table::Destination;
use crate::{Errno, Instant};

/// Which destination each address has.
#[derive(Clone, Debug)]
pub(crate) struct State {
    cache: Cache<Known>,
}

/// Whether a destination has more active connections than weight while another has less than half of its weight.
pub(super) fn is_strained(d: &Destination, list: List<'_>) -> bool {
    let is_idle = |other: &Destination| i64::from(other.active) * 2 < i64::from(other.config.weight);
    i64::from(d.active) > i64::from(d.config.weight) && list.iter().any(|(_, other)| is_idle(other))
}

/// How many addresses are remembered: a service of an address has one, a mark has many.
pub(super) const fn addresses(is_mark: bool) -> usize {
    if is_mark { cache::LIMIT } else { 1 }
}

impl State {
    pub fn new(is_mark: bool, seed: u64) -> Result<Self, Errno> {
        Ok(State { cache: Cache::new(addresses(is_mark), seed)? })
    }

    /// Bytes it takes.
    pub fn memory(&self) -> usize {
        self.cache.memory()
    }

    pub fn choose(&mut self, list: List<'_>, request: &Request) -> Option<u32> {
        let known = self.cache.get(&request.destination, request.now);
        if let Some(known) = &known
            && let Some(d) = known.get(list)
            && d.available
            && d.config.weight > 0
            && !is_strained(d, list)
        {
            return Some(known.place);
        }
        let place = least::weighted_connections(list)?;
        let new = Known::of(list, place);
        match known {
            Some(known) => *known = new,
            None => _ = self.cache.insert(request.destination, new, request.now),
        }
        Some(place)
    }

    /// Due every minute.
    pub fn look(&mut self, now: Instant, expiration: Duration) {
        self.cache.look(now, expiration, |_| {});
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, request};
    use super::super::{Request, State as Any};
    use crate::service::Scheduler;

    fn to(last: u8) -> Request {
        Request { destination: [10, 0, 0, last].into(), ..request() }
    }

    fn start(f: &Fixture) -> Any {
        Any::new(Scheduler::LocalityLeastConnections, f.list(), true, 0).unwrap()
    }

    #[test]
    fn an_address_stays_where_it_is() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = start(&f);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0));
        f.pool[0].connections = 5;
        assert_eq!(state.choose(f.list(), &to(1)), Some(0), "though the other has less to do");
        assert_eq!(state.choose(f.list(), &to(2)), Some(1), "which gets the next address");
        f.pool[0].overloaded = true;
        assert_eq!(state.choose(f.list(), &to(1)), Some(0), "thresholds matter to new addresses only");
    }

    #[test]
    fn it_moves_when_its_destination_is_strained_and_another_is_not() {
        let mut f = Fixture::new(&[2, 2]);
        let mut state = start(&f);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0));
        (f.pool[0].active, f.pool[0].connections) = (3, 3);
        (f.pool[1].active, f.pool[1].connections) = (1, 1);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0), "half of the weight is not less than half");
        (f.pool[1].active, f.pool[1].connections) = (0, 1);
        assert_eq!(state.choose(f.list(), &to(1)), Some(1));
        (f.pool[0].active, f.pool[0].connections) = (0, 0);
        assert_eq!(state.choose(f.list(), &to(1)), Some(1), "and stays there");
    }

    #[test]
    fn it_moves_when_its_destination_is_drained_or_gone_and_goes_back_only_if_nobody_asked() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = start(&f);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0));
        f.remove(0, &mut state);
        f.pool[0].available = true;
        f.order.insert(0, 0);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0), "back before anybody noticed");
        f.edit(0, 0, &mut state);
        assert_eq!(state.choose(f.list(), &to(1)), Some(1));
        f.edit(0, 1, &mut state);
        assert_eq!(state.choose(f.list(), &to(1)), Some(1));
    }

    #[test]
    fn another_destination_at_the_same_place_is_not_taken_for_the_old_one() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = start(&f);
        assert_eq!(state.choose(f.list(), &to(1)), Some(0));
        f.pool[0].incarnation += 1;
        f.pool[0].connections = 9;
        assert_eq!(state.choose(f.list(), &to(1)), Some(1));
    }
}
