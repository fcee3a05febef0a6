//! What the templates of a persistence engine are told apart by, besides their clients: the Call-IDs of SIP.

use alloc::vec::Vec;

use super::Full;
use super::hash::Key;
use crate::Errno;

/// The longest that is kept (IP_VS_PEDATA_MAXLEN).
pub(crate) const CALL_ID_MAX: usize = 255;

/// A pool of fixed size, of which memory is taken when the first service needs it.
#[derive(Debug, Default)]
pub(crate) struct CallIds {
    slots: Vec<Slot>,
    /// Place plus one, linked through [`Slot::next`]; 0 for none.
    free: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    bytes: [u8; CALL_ID_MAX],
    length: u8,
    next: u32,
}

/// Bytes one takes.
pub(crate) const CALL_ID_SIZE: usize = size_of::<Slot>();

impl CallIds {
    /// Whether the memory was taken.
    pub fn is_reserved(&self) -> bool {
        self.slots.capacity() > 0
    }

    /// Takes the memory for so many. Once is enough.
    pub fn reserve(&mut self, count: usize) -> Result<(), Errno> {
        self.slots.try_reserve_exact(count).map_err(|_| Errno::OutOfMemory)
    }

    /// Keeps one; returns its place plus one.
    pub fn insert(&mut self, call_id: &[u8]) -> Result<u32, Full> {
        let mut slot = Slot { bytes: [0; CALL_ID_MAX], length: call_id.len() as u8, next: 0 };
        slot.bytes.get_mut(..call_id.len()).ok_or(Full)?.copy_from_slice(call_id);
        match self.free.checked_sub(1) {
            Some(place) => {
                self.free = self.slots[place as usize].next;
                self.slots[place as usize] = slot;
                Ok(place + 1)
            }
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(slot);
                Ok(self.slots.len() as u32)
            }
            None => Err(Full),
        }
    }

    /// The one at a place plus one; empty for 0.
    pub fn get(&self, link: u32) -> &[u8] {
        let slot = link.checked_sub(1).and_then(|place| self.slots.get(place as usize));
        slot.map_or(&[], |slot| &slot.bytes[..usize::from(slot.length)])
    }

    /// Gives a place plus one back; nothing for 0.
    pub fn remove(&mut self, link: u32) {
        if let Some(slot) = link.checked_sub(1).and_then(|place| self.slots.get_mut(place as usize)) {
            slot.next = core::mem::replace(&mut self.free, link);
        }
    }
}

/// A keyed hash of any bytes.
pub(crate) fn hash(key: &Key, bytes: &[u8]) -> u32 {
    bytes.chunks(8).fold(0, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        key.hash([u64::from_le_bytes(word), u64::from(hash) << 8 | chunk.len() as u64])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_given_back() {
        let mut ids = CallIds::default();
        assert_eq!(ids.insert(b"early"), Err(Full), "no memory was taken");
        ids.reserve(2).unwrap();
        let (a, b) = (ids.insert(b"a").unwrap(), ids.insert(&[b'b'; 255]).unwrap());
        assert_eq!((ids.get(a), ids.get(b), ids.get(0)), (&b"a"[..], &[b'b'; 255][..], &b""[..]));
        assert_eq!((ids.insert(b"c"), ids.insert(&[b'd'; 256])), (Err(Full), Err(Full)));
        ids.remove(a);
        assert_eq!(ids.insert(b"c"), Ok(a));
        ids.remove(0);
    }

    #[test]
    fn the_hash_is_of_all_bytes_and_of_how_many_there_are() {
        let hash = |bytes: &[u8]| hash(&Key([1, 2]), bytes);
        assert_ne!(hash(b"12345678a"), hash(b"12345678b"));
        assert_ne!(hash(b"a"), hash(b"a\0"));
        assert_ne!(hash(b"a2345678b"), hash(b"b2345678b"));
    }
}
