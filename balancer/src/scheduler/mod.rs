//! How the destination of a new connection is chosen.
//!
//! Every scheduler sees the destinations of a service in list order, which is the newest first, as Linux keeps them; a
//! tie goes to the first. A destination that is overloaded or has weight 0 is never chosen (but see lblc).
//!
//! | name  | rule |
//! |-------|------|
//! | rr    | the next one after the last chosen |
//! | wrr   | the next one whose weight reaches the current level; the level sinks by the common divisor each round |
//! | lc    | least load, load being 256 times the active connections plus all connections |
//! | wlc   | least load per weight |
//! | lblc  | one destination for each address asked for, until it is strained; then wlc. An address stays with one that is overloaded |
//! | lblcr | a set of destinations for each address asked for, of them wlc; the set grows when it is strained |
//! | dh    | by a hash of the address asked for |
//! | sh    | by a hash of the client's address, sh-port: and port; sh-fallback: another one instead of one that can take nothing |
//! | sed   | least active connections, one more counted, per weight |
//! | nq    | the first that has no active connection, or else sed |
//! | fo    | greatest weight |
//! | ovf   | greatest weight among those that have not more active connections than weight |
//! | mh    | by Maglev hashing of the client's address; mh-port and mh-fallback as with sh |
//! | twos  | of two drawn at random by weight, the one with less load per weight |
//!
//! What a scheduler needs of memory it takes when the service gets it or gets one more destination: dh and sh a kilobyte,
//! mh 16, lblc and lblcr 9 to 12 and, for a mark, which may have any number of addresses, some 2 MiB.

mod cache;
mod destination_hash;
mod failover;
mod hash;
mod least;
mod locality;
mod locality_replicated;
mod maglev;
mod round_robin;
mod source_hash;
mod two_choices;
mod weighted_round_robin;

use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use crate::service::table::Destination;
use crate::service::{Scheduler, ServiceFlags};
use crate::{Errno, Instant};

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
        self.at(self.order[position])
    }

    /// The destination at a place in the pool.
    fn at(&self, place: u32) -> &'a Destination {
        &self.pool[place as usize]
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &'a Destination)> {
        let pool = self.pool;
        self.order.iter().map(move |&place| (place, &pool[place as usize]))
    }
}

/// A destination that is remembered: it may have gone, and its place may be another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    place: u32,
    incarnation: u32,
}

impl Known {
    fn of(list: List<'_>, place: u32) -> Self {
        Known { place, incarnation: list.at(place).incarnation }
    }

    /// The destination, in its service or in the trash, if it is still the same.
    fn get(self, list: List<'_>) -> Option<&Destination> {
        list.pool.get(self.place as usize).filter(|d| d.incarnation == self.incarnation)
    }
}

/// An empty table with room for so many, which can be had or not.
fn table_of<T>(room: usize) -> Result<Vec<T>, Errno> {
    let mut table = Vec::new();
    table.try_reserve_exact(room).map_err(|_| Errno::OutOfMemory)?;
    Ok(table)
}

/// After which time lblc forgets an address that nobody asks for, and lblcr shrinks a set (sysctls `lblc_expiration` and
/// `lblcr_expiration`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expirations {
    pub lblc: Duration,
    pub lblcr: Duration,
}

impl Default for Expirations {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Expirations { lblc: day, lblcr: day }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub client: IpAddr,
    pub client_port: u16,
    /// The address the client sends to.
    pub destination: IpAddr,
    /// Those of the service.
    pub flags: ServiceFlags,
    pub now: Instant,
    pub expirations: Expirations,
}

/// What a scheduler remembers between two choices.
#[derive(Clone, Debug)]
pub(crate) enum State {
    RoundRobin(round_robin::State),
    WeightedRoundRobin(weighted_round_robin::State),
    /// Nothing: the list tells all.
    Look(for<'a> fn(List<'a>) -> Option<u32>),
    Locality(locality::State),
    LocalityReplicated(locality_replicated::State),
    DestinationHash(destination_hash::State),
    SourceHash(source_hash::State),
    Maglev(maglev::State),
    TwoChoices(two_choices::State),
}

impl State {
    /// The state of a scheduler that is put to work on this list. `is_mark`: packets for any address may ask. `seed`: a
    /// secret.
    ///
    /// # Errors
    /// [`Errno::OutOfMemory`]; [`Errno::Invalid`] if it cannot have so many destinations.
    pub fn new(scheduler: Scheduler, list: List<'_>, is_mark: bool, seed: u64) -> Result<Self, Errno> {
        Ok(match scheduler {
            Scheduler::RoundRobin => State::RoundRobin(round_robin::State::default()),
            Scheduler::WeightedRoundRobin => State::WeightedRoundRobin(weighted_round_robin::State::new(list)),
            Scheduler::LeastConnections => State::Look(least::connections),
            Scheduler::WeightedLeastConnections => State::Look(least::weighted_connections),
            Scheduler::LocalityLeastConnections => State::Locality(locality::State::new(is_mark, seed)?),
            Scheduler::LocalityReplicated => State::LocalityReplicated(locality_replicated::State::new(is_mark, seed)?),
            Scheduler::DestinationHash => State::DestinationHash(destination_hash::State::new(list)?),
            Scheduler::SourceHash => State::SourceHash(source_hash::State::new(list)?),
            Scheduler::ShortestExpectedDelay => State::Look(least::expected_delay),
            Scheduler::NeverQueue => State::Look(least::never_queue),
            Scheduler::Failover => State::Look(failover::failover),
            Scheduler::Overflow => State::Look(failover::overflow),
            Scheduler::Maglev => State::Maglev(maglev::State::new(list)?),
            Scheduler::TwoChoices => State::TwoChoices(two_choices::State::new(seed)),
        })
    }

    /// The place of the destination for a new connection, if any is available.
    pub fn choose(&mut self, list: List<'_>, request: &Request) -> Option<u32> {
        match self {
            State::RoundRobin(state) => state.choose(list),
            State::WeightedRoundRobin(state) => state.choose(list),
            State::Look(choose) => choose(list),
            State::Locality(state) => state.choose(list, request),
            State::LocalityReplicated(state) => state.choose(list, request),
            State::DestinationHash(state) => state.choose(list, request),
            State::SourceHash(state) => state.choose(list, request),
            State::Maglev(state) => state.choose(list, request),
            State::TwoChoices(state) => state.choose(list),
        }
    }

    /// Bytes its tables take, but for what goes with the number of destinations.
    pub fn memory(&self) -> usize {
        match self {
            State::DestinationHash(_) | State::SourceHash(_) => hash::BUCKETS * size_of::<u32>(),
            State::Maglev(_) => maglev::SLOTS * size_of::<u32>(),
            State::Locality(state) => state.memory(),
            State::LocalityReplicated(state) => state.memory(),
            State::RoundRobin(_) | State::WeightedRoundRobin(_) | State::Look(_) | State::TwoChoices(_) => 0,
        }
    }

    /// Makes sure that there can be so many destinations.
    ///
    /// # Errors
    /// [`Errno::OutOfMemory`]; [`Errno::Invalid`] if it cannot have so many.
    pub fn reserve(&mut self, destinations: usize) -> Result<(), Errno> {
        match self {
            State::Maglev(state) => state.reserve(destinations),
            _ => Ok(()),
        }
    }

    /// A destination was put at the head of the list.
    pub fn added(&mut self, list: List<'_>) {
        match self {
            State::RoundRobin(state) => state.added(),
            State::DestinationHash(state) => state.changed(list),
            _ => self.edited(list),
        }
    }

    /// The destination that was at `position` is no longer in the list.
    pub fn removed(&mut self, position: usize, list: List<'_>) {
        match self {
            State::RoundRobin(state) => state.removed(position),
            State::DestinationHash(state) => state.changed(list),
            _ => self.edited(list),
        }
    }

    /// A destination in the list has another configuration.
    pub fn edited(&mut self, list: List<'_>) {
        match self {
            State::WeightedRoundRobin(state) => state.changed(list),
            State::SourceHash(state) => state.changed(list),
            State::Maglev(state) => state.changed(list),
            State::RoundRobin(_)
            | State::Look(_)
            | State::Locality(_)
            | State::LocalityReplicated(_)
            | State::DestinationHash(_)
            | State::TwoChoices(_) => {}
        }
    }

    /// Forgets what is old. Due every minute.
    pub fn look(&mut self, now: Instant, expirations: &Expirations) {
        match self {
            State::Locality(state) => state.look(now, expirations.lblc),
            State::LocalityReplicated(state) => state.look(now, expirations.lblcr),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::DestinationConfig;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// A client, a service, no flags.
    pub fn request() -> Request {
        Request {
            client: [192, 0, 2, 1].into(),
            client_port: 1000,
            destination: [10, 0, 0, 100].into(),
            flags: ServiceFlags::empty(),
            now: Instant::ZERO,
            expirations: Expirations::default(),
        }
    }

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
            self.pool[place as usize].available = false;
            state.removed(position, self.list());
        }

        pub fn edit(&mut self, place: u32, weight: i32, state: &mut State) {
            let d = &mut self.pool[place as usize];
            d.configure(DestinationConfig { weight, ..d.config });
            state.edited(self.list());
        }

        /// The next `count` choices; `u32::MAX` where there was none.
        pub fn choices(&self, state: &mut State, count: usize) -> Vec<u32> {
            (0..count).map(|_| state.choose(self.list(), &request()).unwrap_or(u32::MAX)).collect()
        }
    }

    const HASHES: [Scheduler; 3] = [Scheduler::DestinationHash, Scheduler::SourceHash, Scheduler::Maglev];

    #[test]
    fn nothing_is_chosen_from_an_empty_list_or_from_drained_destinations() {
        for &scheduler in Scheduler::ALL {
            for weights in [&[][..], &[0, 0][..]] {
                let f = Fixture::new(weights);
                let mut state = State::new(scheduler, f.list(), false, 1).unwrap();
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
            let mut state = State::new(scheduler, f.list(), false, 1).unwrap();
            if !HASHES.contains(&scheduler) {
                assert_eq!(f.choices(&mut state, 4), [1; 4], "{scheduler:?}");
            }
            f.pool[1].overloaded = true;
            if scheduler != Scheduler::LocalityLeastConnections {
                assert_eq!(f.choices(&mut state, 3), [u32::MAX; 3], "{scheduler:?}");
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(i32),
        Remove(usize),
        Edit(usize, i32),
        Load(usize, u32, u32, bool),
        Choose(u8, u8),
        Look(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0i32..9).prop_map(Step::Add),
            any::<usize>().prop_map(Step::Remove),
            (any::<usize>(), 0i32..9).prop_map(|(which, weight)| Step::Edit(which, weight)),
            (any::<usize>(), 0u32..12, 0u32..12, any::<bool>()).prop_map(|(w, a, c, o)| Step::Load(w, a, a + c, o)),
            (any::<u8>(), any::<u8>()).prop_map(|(client, to)| Step::Choose(client, to % 4)),
            (0u64..100_000).prop_map(Step::Look),
        ]
    }

    proptest! {
        #[test]
        fn whatever_changes_only_who_is_in_the_list_and_open_is_chosen(
            which in 0..Scheduler::ALL.len(), bits in 0u32..4, steps in proptest::collection::vec(step(), 1..120)
        ) {
            let scheduler = Scheduler::ALL[which];
            let flags = ServiceFlags::from_bits_retain(bits << 3);
            let (mut f, mut now) = (Fixture::new(&[]), Instant::ZERO);
            let mut state = State::new(scheduler, f.list(), true, 1).unwrap();
            for step in steps {
                let len = f.order.len();
                match step {
                    Step::Add(weight) => {
                        state.reserve(len + 1).unwrap();
                        f.add(weight, &mut state);
                    }
                    Step::Remove(at) if len > 0 => f.remove(f.order[at % len], &mut state),
                    Step::Edit(at, weight) if len > 0 => f.edit(f.order[at % len], weight, &mut state),
                    Step::Load(at, active, connections, overloaded) if len > 0 => {
                        let d = &mut f.pool[f.order[at % len] as usize];
                        (d.active, d.connections, d.overloaded) = (active, connections, overloaded);
                    }
                    Step::Look(seconds) => {
                        now = now + Duration::from_secs(seconds);
                        state.look(now, &Expirations::default());
                    }
                    Step::Choose(client, to) => {
                        let client = [192, 0, 2, client].into();
                        let request = Request { client, destination: [10, 0, 0, to].into(), flags, now, ..request() };
                        let open = f.list().iter().any(|(_, d)| d.is_open());
                        let chosen = state.choose(f.list(), &request);
                        match chosen {
                            Some(place) => {
                                prop_assert!(f.order.contains(&place), "{scheduler:?}: {place} left");
                                let d = &f.pool[place as usize];
                                let overloaded = d.overloaded && scheduler != Scheduler::LocalityLeastConnections;
                                prop_assert!(d.config.weight > 0 && !overloaded, "{scheduler:?}: {place} is not open");
                            }
                            // A table may point to one that is not open; ovf finds all of them too busy.
                            None if open => prop_assert!(HASHES.contains(&scheduler) || scheduler == Scheduler::Overflow),
                            None => {}
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
