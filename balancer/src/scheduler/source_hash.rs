//! sh: the client decides, by its address or by address and port.

use alloc::vec::Vec;

use super::hash::{BUCKETS, bucket, fold};
use super::{List, Request, table_of};
use crate::{Errno, ServiceFlags};

/// 256 buckets, of which each destination gets as many in a row as it has weight (but at least one), in the order of the
/// list and again from its start, until all are given.
///
/// With [`ServiceFlags::SCHEDULER_2`] (sh-port) the port counts too. A destination that can take nothing gives nothing,
/// unless [`ServiceFlags::SCHEDULER_1`] (sh-fallback) says to look further.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Places in the pool; empty without destinations.
    table: Vec<u32>,
}

/// The bucket of a client, moved on by `offset`.
fn hash(request: &Request, offset: usize) -> usize {
    let port = if request.flags.contains(ServiceFlags::SCHEDULER_2) { request.client_port } else { 0 };
    (offset + bucket(fold(&request.client).wrapping_add(port.into()))) % BUCKETS
}

impl State {
    pub fn new(list: List<'_>) -> Result<Self, Errno> {
        let mut state = State { table: table_of(BUCKETS)? };
        state.changed(list);
        Ok(state)
    }

    /// A destination came, went, or has another weight.
    pub fn changed(&mut self, list: List<'_>) {
        let share = |&place: &u32| core::iter::repeat_n(place, list.at(place).config.weight.max(1) as usize);
        self.table.clear();
        self.table.extend(list.order.iter().cycle().flat_map(share).take(BUCKETS));
    }

    pub fn choose(&self, list: List<'_>, request: &Request) -> Option<u32> {
        let first = hash(request, 0);
        let &place = self.table.get(first)?;
        if list.at(place).is_open() {
            return Some(place);
        }
        if !request.flags.contains(ServiceFlags::SCHEDULER_1) {
            return None;
        }
        let others = (0..BUCKETS).map(|offset| self.table[hash(request, (offset + first) % BUCKETS)]);
        others.into_iter().find(|&place| list.at(place).is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Fixture, request};
    use super::super::{Request, State as Any};
    use super::*;
    use crate::service::Scheduler;
    use proptest::prelude::*;

    fn from(last: u8, port: u16) -> Request {
        Request { client: [192, 0, 2, last].into(), client_port: port, ..request() }
    }

    fn start(f: &Fixture) -> Any {
        Any::new(Scheduler::SourceHash, f.list(), false, 0).unwrap()
    }

    #[test]
    fn buckets_go_by_weight_in_a_row() {
        let f = Fixture::new(&[3, 0, 2]);
        let state = State::new(f.list()).unwrap();
        assert_eq!(state.table.len(), 256);
        assert_eq!(state.table[..8], [0, 0, 0, 1, 2, 2, 0, 0], "weight 0 keeps one bucket");
        assert!(State::new(Fixture::new(&[]).list()).unwrap().table.is_empty());
        let heavy = State::new(Fixture::new(&[i32::MAX, 1]).list()).unwrap();
        assert_eq!(heavy.table, [0; 256]);
    }

    #[test]
    fn the_client_decides() {
        let f = Fixture::new(&[1; 64]);
        let mut state = start(&f);
        // hash_32 of 192.0.2.1 is 50.
        assert_eq!(state.choose(f.list(), &from(1, 1000)), Some(50));
        assert_eq!(state.choose(f.list(), &from(1, 2000)), Some(50), "its port does not");
        let with_port = |port| Request { flags: ServiceFlags::SCHEDULER_2, ..from(1, port) };
        let expected = (0xc000_0201u32 + 1000).wrapping_mul(0x61c8_8647) >> 24;
        assert_eq!(state.choose(f.list(), &with_port(1000)), Some(expected % 64));
    }

    #[test]
    fn a_drained_one_is_missed_unless_falling_back_is_allowed() {
        let mut f = Fixture::new(&[1; 64]);
        let mut state = start(&f);
        f.edit(50, 0, &mut state);
        assert_eq!(state.choose(f.list(), &from(1, 0)), None);
        let falling = Request { flags: ServiceFlags::SCHEDULER_1, ..from(1, 0) };
        // Offset 0 moves the bucket on by the first bucket itself: 50 + 50 = 100, of destination 36.
        assert_eq!(state.choose(f.list(), &falling), Some(36));
        f.pool[36].overloaded = true;
        assert_eq!(state.choose(f.list(), &falling), Some(37));
        (0..64).for_each(|place| f.pool[place].overloaded = true);
        assert_eq!(state.choose(f.list(), &falling), None);
    }

    proptest! {
        #[test]
        fn falling_back_finds_one_if_there_is_one(
            weights in proptest::collection::vec(0i32..3, 1..40), client in any::<u32>(), port in any::<u16>()
        ) {
            let f = Fixture::new(&weights);
            let mut state = start(&f);
            let flags = ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_2;
            let request = Request { client: core::net::Ipv4Addr::from_bits(client).into(), client_port: port, flags, ..request() };
            prop_assert_eq!(state.choose(f.list(), &request).is_some(), weights.iter().any(|&w| w > 0));
        }
    }
}
