//! A list of bounded length that needs no heap: the command line and the memory map are read before there is one.

use core::fmt;
use core::ops::{Deref, DerefMut};

/// At most `N` plain values, in the order they were pushed.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

/// The list holds `N` items already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<T: Copy + Default, const N: usize> List<T, N> {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self { items: [T::default(); N], len: 0 }
    }

    /// Appends `item`.
    ///
    /// # Errors
    /// [`Full`] when `N` items are there already; the list is unchanged.
    pub fn push(&mut self, item: T) -> Result<(), Full> {
        self.insert(self.len, item)
    }

    /// Puts `item` before the one at `at`, or at the end if `at` is the length.
    ///
    /// # Errors
    /// [`Full`] when `N` items are there already; the list is unchanged.
    ///
    /// # Panics
    /// If `at` is greater than the length.
    pub fn insert(&mut self, at: usize, item: T) -> Result<(), Full> {
        assert!(at <= self.len, "insert at {at} of {}", self.len);
        if self.len == N {
            return Err(Full);
        }
        self.items.copy_within(at..self.len, at + 1);
        self.items[at] = item;
        self.len += 1;
        Ok(())
    }

    /// Takes out the item at `at`; those after it move up.
    ///
    /// # Panics
    /// If there is no item at `at`.
    pub fn remove(&mut self, at: usize) -> T {
        assert!(at < self.len, "remove {at} of {}", self.len);
        let item = self.items[at];
        self.items.copy_within(at + 1..self.len, at);
        self.len -= 1;
        item
    }
}

impl<T: Copy + Default, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items[..self.len]
    }
}

impl<T, const N: usize> DerefMut for List<T, N> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items[..self.len]
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    use proptest::prelude::*;

    #[test]
    fn a_full_list_refuses_and_stays_as_it_was() {
        let mut list = List::<u8, 2>::new();
        assert_eq!(list.push(1), Ok(()));
        assert_eq!(list.insert(0, 2), Ok(()));
        assert_eq!(list.push(3), Err(Full));
        assert_eq!(*list, [2, 1]);
    }

    proptest! {
        #[test]
        fn behaves_as_a_vec(steps in proptest::collection::vec((any::<bool>(), any::<usize>(), any::<u16>()), 0..60)) {
            let mut list = List::<u16, 8>::new();
            let mut model = Vec::new();
            for (insert, at, item) in steps {
                if insert {
                    let at = at % (model.len() + 1);
                    if model.len() < 8 {
                        model.insert(at, item);
                        prop_assert_eq!(list.insert(at, item), Ok(()));
                    } else {
                        prop_assert_eq!(list.insert(at, item), Err(Full));
                    }
                } else if !model.is_empty() {
                    let at = at % model.len();
                    prop_assert_eq!(list.remove(at), model.remove(at));
                }
                prop_assert_eq!(&list[..], &model[..]);
            }
        }
    }
}
