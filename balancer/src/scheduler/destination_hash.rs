//! dh: the destination address decides.

use alloc::vec::Vec;

use super::hash::{BUCKETS, bucket, fold};
use super::{List, Request, table_of};
use crate::Errno;

/// 256 buckets, dealt out in turn in the order of the list, whatever the weights. A bucket whose destination can take
/// nothing gives nothing.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Places in the pool; empty without destinations.
    table: Vec<u32>,
}

impl State {
    pub fn new(list: List<'_>) -> Result<Self, Errno> {
        let mut state = State { table: table_of(BUCKETS)? };
        state.changed(list);
        Ok(state)
    }

    /// A destination came or went. An edit changes nothing.
    pub fn changed(&mut self, list: List<'_>) {
        self.table.clear();
        self.table.extend(list.order.iter().cycle().take(BUCKETS));
    }

    pub fn choose(&self, list: List<'_>, request: &Request) -> Option<u32> {
        let &place = self.table.get(bucket(fold(&request.destination)))?;
        list.at(place).is_open().then_some(place)
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

    #[test]
    fn buckets_are_dealt_out_in_turn() {
        let f = Fixture::new(&[1, 9, 1]);
        let mut state = Any::new(Scheduler::DestinationHash, f.list(), false, 0).unwrap();
        for last in 0..=255 {
            let bucket = (u32::from_be_bytes([10, 0, 0, last]).wrapping_mul(0x61c8_8647) >> 24) as usize;
            assert_eq!(state.choose(f.list(), &to(last)), Some(bucket as u32 % 3), "weights do not matter");
        }
    }

    #[test]
    fn who_is_drained_or_overloaded_leaves_its_buckets_empty() {
        let mut f = Fixture::new(&[1, 1]);
        let mut state = Any::new(Scheduler::DestinationHash, f.list(), false, 0).unwrap();
        let place = state.choose(f.list(), &to(1)).unwrap();
        f.edit(place, 0, &mut state);
        assert_eq!(state.choose(f.list(), &to(1)), None);
        f.edit(place, 1, &mut state);
        f.pool[place as usize].overloaded = true;
        assert_eq!(state.choose(f.list(), &to(1)), None);
        f.remove(place, &mut state);
        assert_eq!(state.choose(f.list(), &to(1)), Some(1 - place));
    }
}
