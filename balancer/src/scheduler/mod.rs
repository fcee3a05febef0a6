//! How the destination of a new connection is chosen.
//!
//! Every scheduler sees the destinations of a service in list order, which is the newest first, as Linux keeps them; a
//! tie goes to the first. A destination that is overloaded or has weight 0 is never chosen.
//!
//! | name | rule |
//! |------|------|
//! | rr   | the next one after the last chosen |
//! | wrr  | the next one whose weight reaches the current level; the level sinks by the common divisor each round |
//! | lc   | least load, load being 256 times the active connections plus all connections |
//! | wlc  | least load per weight |

mod least;
mod round_robin;
mod weighted_round_robin;

use crate::service::Scheduler;
use crate::service::table::Destination;

/// The destinations of a service in list order, by their places in the pool.
#[derive(Clone, Copy)]
pub(crate) struct List<'a> {
    /// Places in the pool, newest first.
    pub order: &'a [u32],
    /// Every destination there is.
    pub pool: &'a [Destination],
}

impl<'a> List<'a> {
    fn len(&self) -> usize {
        self.order.len()
    }

    /// The destination at a position of the list, from 0.
    fn get(&self, position: usize) -> &'a Destination {
        &self.pool[self.order[position] as usize]
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a Destination)> {
        let pool = self.pool;
        self.order.iter().map(move |&place| (place, &pool[place as usize]))
    }
}

/// What a scheduler remembers between two choices.
#[derive(Clone, Debug)]
pub(crate) enum State {
    RoundRobin(round_robin::State),
    WeightedRoundRobin(weighted_round_robin::State),
    LeastConnections,
    WeightedLeastConnections,
}

impl State {
    /// The state of a scheduler that is put to work on this list.
    pub fn new(scheduler: Scheduler, list: List<'_>) -> Self {
        match scheduler {
            Scheduler::RoundRobin => State::RoundRobin(round_robin::State::default()),
            Scheduler::WeightedRoundRobin => State::WeightedRoundRobin(weighted_round_robin::State::new(list)),
            Scheduler::LeastConnections => State::LeastConnections,
            Scheduler::WeightedLeastConnections => State::WeightedLeastConnections,
        }
    }

    /// The place of the destination for a new connection, if any is available.
    pub fn choose(&mut self, list: List<'_>) -> Option<u32> {
        match self {
            State::RoundRobin(state) => state.choose(list),
            State::WeightedRoundRobin(state) => state.choose(list),
            State::LeastConnections => least::connections(list),
            State::WeightedLeastConnections => least::weighted_connections(list),
        }
    }

    /// A destination was put at the head of the list.
    pub fn added(&mut self, list: List<'_>) {
        match self {
            State::RoundRobin(state) => state.added(),
            State::WeightedRoundRobin(state) => state.changed(list),
            State::LeastConnections | State::WeightedLeastConnections => {}
        }
    }

    /// The destination that was at `position` is no longer in the list.
    pub fn removed(&mut self, position: usize, list: List<'_>) {
        match self {
            State::RoundRobin(state) => state.removed(position),
            State::WeightedRoundRobin(state) => state.changed(list),
            State::LeastConnections | State::WeightedLeastConnections => {}
        }
    }

    /// A destination in the list has another configuration.
    pub fn edited(&mut self, list: List<'_>) {
        match self {
            State::WeightedRoundRobin(state) => state.changed(list),
            State::RoundRobin(_) | State::LeastConnections | State::WeightedLeastConnections => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// A list for tests of the schedulers: destinations named by their weight and load, head first.
    pub struct Fixture {
        pub pool: Vec<Destination>,
        pub order: Vec<u32>,
    }

    impl Fixture {
        pub fn new(weights: &[i32]) -> Self {
            let pool: Vec<_> = weights.iter().map(|&w| Destination::for_test(w)).collect();
            let order = (0..pool.len() as u32).collect();
            Fixture { pool, order }
        }

        pub fn list(&self) -> List<'_> {
            List { order: &self.order, pool: &self.pool }
        }

        /// Puts one more destination at the head; its place in the pool is the highest.
        pub fn add(&mut self, weight: i32, state: &mut State) {
            self.pool.push(Destination::for_test(weight));
            self.order.insert(0, self.pool.len() as u32 - 1);
            state.added(self.list());
        }

        pub fn remove(&mut self, place: u32, state: &mut State) {
            let position = self.order.iter().position(|&p| p == place).unwrap();
            self.order.remove(position);
            state.removed(position, self.list());
        }

        pub fn edit(&mut self, place: u32, weight: i32, state: &mut State) {
            self.pool[place as usize].config.weight = weight;
            state.edited(self.list());
        }

        /// The next `count` choices; `u32::MAX` where there was none.
        pub fn choices(&self, state: &mut State, count: usize) -> Vec<u32> {
            (0..count).map(|_| state.choose(self.list()).unwrap_or(u32::MAX)).collect()
        }
    }

    #[test]
    fn nothing_is_chosen_from_an_empty_list_or_from_drained_destinations() {
        for &scheduler in Scheduler::ALL {
            for weights in [&[][..], &[0, 0][..]] {
                let f = Fixture::new(weights);
                let mut state = State::new(scheduler, f.list());
                assert_eq!(f.choices(&mut state, 3), [u32::MAX; 3], "{scheduler:?} {weights:?}");
            }
        }
    }

    #[test]
    fn nothing_overloaded_is_chosen() {
        for &scheduler in Scheduler::ALL {
            let mut f = Fixture::new(&[5, 1, 3]);
            f.pool[0].overloaded = true;
            f.pool[2].overloaded = true;
            let mut state = State::new(scheduler, f.list());
            assert_eq!(f.choices(&mut state, 4), [1; 4], "{scheduler:?}");
            f.pool[1].overloaded = true;
            assert_eq!(f.choices(&mut state, 3), [u32::MAX; 3], "{scheduler:?}");
        }
    }
}
