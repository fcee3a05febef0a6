//! What few connections have: kept beside the table, found by the place of the connection.
//!
//! A pool of fixed size with a hash index of its own over places. Places are the table's choice and not the network's, so their
//! hash needs no secret. A connection that has something here says so by a flag of its own; the others never look.

use alloc::vec::Vec;

use super::Full;
use crate::Errno;

/// No place of the table: of slots that are free.
const NOWHERE: u32 = u32::MAX;

/// Something of type `T` for some connections.
#[derive(Debug)]
pub(crate) struct Annex<T> {
    slots: Vec<Slot<T>>,
    /// Where the chains begin: a power of two of them. Slot plus one, 0 for none.
    chains: Vec<u32>,
    /// Slots that were used and are free, slot plus one, linked through [`Slot::next`].
    free: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot<T> {
    /// Whose it is.
    place: u32,
    /// The next of the chain or of the free list; slot plus one, 0 for none.
    next: u32,
    value: T,
}

impl<T> Default for Annex<T> {
    fn default() -> Self {
        Annex { slots: Vec::new(), chains: Vec::new(), free: 0, len: 0 }
    }
}

impl<T: Copy> Annex<T> {
    /// Bytes [`Annex::reserve`] takes for each, but for rounding up to a power of two.
    pub const SIZE: usize = size_of::<Slot<T>>() + size_of::<u32>();

    /// Whether the memory was taken.
    pub fn is_reserved(&self) -> bool {
        !self.chains.is_empty()
    }

    /// How many connections have something.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether one more connection can have something.
    pub fn has_room(&self) -> bool {
        self.free != 0 || self.slots.len() < self.slots.capacity()
    }

    /// Takes the memory for so many. Once is enough: nothing happens after that.
    ///
    /// # Errors
    /// [`Errno::OutOfMemory`]; nothing is taken then.
    pub fn reserve(&mut self, count: usize) -> Result<(), Errno> {
        if self.is_reserved() || count == 0 {
            return Ok(());
        }
        let (mut slots, mut chains) = (Vec::new(), Vec::new());
        slots.try_reserve_exact(count).map_err(|_| Errno::OutOfMemory)?;
        let buckets = count.next_power_of_two();
        chains.try_reserve_exact(buckets).map_err(|_| Errno::OutOfMemory)?;
        chains.resize(buckets, 0);
        (self.slots, self.chains) = (slots, chains);
        Ok(())
    }

    /// Fibonacci hashing: neighbouring places go far apart.
    fn chain(&self, place: u32) -> usize {
        let hash = u64::from(place).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        hash as usize & (self.chains.len() - 1)
    }

    /// The slot of a connection.
    fn find(&self, place: u32) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut link = self.chains[self.chain(place)];
        while let Some(at) = link.checked_sub(1) {
            let slot = &self.slots[at as usize];
            if slot.place == place {
                return Some(at as usize);
            }
            link = slot.next;
        }
        None
    }

    /// What a connection has.
    pub fn get(&self, place: u32) -> Option<&T> {
        self.find(place).map(|at| &self.slots[at].value)
    }

    /// What connections have, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter(|slot| slot.place != NOWHERE).map(|slot| &slot.value)
    }

    /// How many more connections can have something.
    pub fn room(&self) -> u32 {
        self.slots.capacity() as u32 - self.len
    }

    /// What a connection has, to be changed.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.find(place).map(|at| &mut self.slots[at].value)
    }

    /// Gives a connection something, in place of what it had.
    ///
    /// # Errors
    /// [`Full`] if it had nothing and all there is room for is given away.
    pub fn insert(&mut self, place: u32, value: T) -> Result<(), Full> {
        if let Some(at) = self.find(place) {
            self.slots[at].value = value;
            return Ok(());
        }
        let at = match self.free.checked_sub(1) {
            Some(at) => {
                self.free = self.slots[at as usize].next;
                at
            }
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(Slot { place, next: 0, value });
                self.slots.len() as u32 - 1
            }
            None => return Err(Full),
        };
        let chain = self.chain(place);
        self.slots[at as usize] = Slot { place, next: self.chains[chain], value };
        self.chains[chain] = at + 1;
        self.len += 1;
        Ok(())
    }

    /// Takes away what a connection has.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        let at = self.find(place)?;
        let Slot { next, value, .. } = self.slots[at];
        let link = at as u32 + 1;
        let chain = self.chain(place);
        if self.chains[chain] == link {
            self.chains[chain] = next;
        } else {
            let mut before = self.chains[chain];
            while let Some(slot) = before.checked_sub(1).map(|before| &mut self.slots[before as usize]) {
                if slot.next == link {
                    slot.next = next;
                    break;
                }
                before = slot.next;
            }
        }
        self.slots[at].next = core::mem::replace(&mut self.free, link);
        self.slots[at].place = NOWHERE;
        self.len -= 1;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_memory_there_is_nothing_and_no_room() {
        let mut annex = Annex::<u32>::default();
        assert_eq!((annex.get(0).copied(), annex.remove(0), annex.insert(0, 1)), (None, None, Err(Full)));
        annex.reserve(0).unwrap();
        assert!(!annex.is_reserved());
        annex.reserve(1).unwrap();
        assert_eq!((annex.insert(0, 1), annex.insert(1, 1), annex.insert(0, 2)), (Ok(()), Err(Full), Ok(())));
        annex.reserve(100).unwrap();
        assert_eq!(annex.insert(1, 1), Err(Full), "once is enough");
    }

    proptest! {
        /// It is a map of bounded size.
        #[test]
        fn it_keeps_what_it_was_given(count in 1usize..20, steps in prop::collection::vec((any::<bool>(), 0u32..40, any::<u16>()), 0..400)) {
            let mut annex = Annex::default();
            annex.reserve(count).unwrap();
            let mut model = HashMap::new();
            for (inserts, place, value) in steps {
                if inserts {
                    let has_room = model.contains_key(&place) || model.len() < count;
                    prop_assert_eq!(annex.insert(place, value), if has_room { Ok(()) } else { Err(Full) });
                    if has_room {
                        model.insert(place, value);
                    }
                } else {
                    prop_assert_eq!(annex.remove(place), model.remove(&place));
                }
                prop_assert_eq!(annex.len() as usize, model.len());
                for place in 0..40 {
                    prop_assert_eq!(annex.get(place), model.get(&place));
                    prop_assert_eq!(annex.get_mut(place).copied(), model.get(&place).copied());
                }
            }
        }
    }
}
