//! Frames that are held until it is known where they go.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::packet::NextHop;

/// Bytes in front of a held frame, for the headers of a tunnel.
pub(crate) const ROOM: usize = 64;

/// Frames, each in a place of its own. Places are told by their number plus one; 0 is none.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: Vec<Slot>,
    /// Linked through [`Slot::next`].
    free: u32,
    /// Frames that are ready but for an Ethernet address, linked likewise.
    waiting: u32,
    /// How many places each share has: the frames of one source, or of few.
    used: Vec<u32>,
    /// How many each may have.
    most: u32,
}

#[derive(Debug)]
struct Slot {
    /// [`ROOM`], and a frame of as many bytes as may be.
    bytes: Box<[u8]>,
    len: usize,
    next: u32,
    /// Where the frame begins, and whose address it waits for.
    start: usize,
    hop: Option<NextHop>,
    /// If not 0: it is to be cut then, into IP fragments of so many bytes.
    piece: u16,
    /// Whose it is.
    share: u32,
}

impl Pool {
    /// Room for so many frames of up to `longest` bytes, of which each of so many shares may have a quarter.
    pub fn new(count: u32, longest: usize, shares: usize) -> Self {
        let slots = (0..count).map(|at| Slot {
            bytes: vec![0; ROOM + longest].into_boxed_slice(),
            len: 0,
            next: if at + 1 < count { at + 2 } else { 0 },
            start: ROOM,
            hop: None,
            piece: 0,
            share: 0,
        });
        Pool {
            slots: slots.collect(),
            free: u32::from(count != 0),
            waiting: 0,
            used: vec![0; shares],
            most: count.div_ceil(4),
        }
    }

    /// Whether a frame of so many bytes fits into a place.
    pub fn fits(&self, len: usize) -> bool {
        self.slots.first().is_some_and(|slot| ROOM + len <= slot.bytes.len())
    }

    pub fn is_full(&self) -> bool {
        self.free == 0
    }

    /// Whether a share has as many places as it may have.
    pub fn is_full_for(&self, share: u32) -> bool {
        self.used.get(share as usize).is_none_or(|&used| used >= self.most)
    }

    /// Copies a frame that [`Pool::fits`], of some share; in front of it lies the chain `next`. Where it is now: 0 if there was no
    /// room.
    pub fn put(&mut self, frame: &[u8], next: u32, share: u32) -> u32 {
        let place = self.free;
        let Some(slot) = place.checked_sub(1).and_then(|at| self.slots.get_mut(at as usize)) else { return 0 };
        let Some(room) = slot.bytes.get_mut(ROOM..ROOM + frame.len()) else { return 0 };
        let Some(used) = self.used.get_mut(share as usize) else { return 0 };
        *used += 1;
        room.copy_from_slice(frame);
        (slot.len, slot.start, slot.hop, slot.piece, slot.share) = (frame.len(), ROOM, None, 0, share);
        self.free = core::mem::replace(&mut slot.next, next);
        place
    }

    /// The frame after this one in its chain.
    pub fn next(&self, place: u32) -> u32 {
        place.checked_sub(1).map_or(0, |at| self.slots[at as usize].next)
    }

    /// Takes the memory of a frame out, to be worked on, and the length of the frame. [`Pool::give_back`] is to follow.
    pub fn take(&mut self, place: u32) -> (Box<[u8]>, usize) {
        match place.checked_sub(1) {
            Some(at) => {
                let slot = &mut self.slots[at as usize];
                (core::mem::take(&mut slot.bytes), slot.len)
            }
            None => Default::default(),
        }
    }

    /// Gives the memory back that was taken out.
    pub fn give_back(&mut self, place: u32, bytes: Box<[u8]>) {
        if let Some(at) = place.checked_sub(1) {
            self.slots[at as usize].bytes = bytes;
        }
    }

    /// The frame of a place now begins at `start`, in bytes from the start of its memory, and waits for a neighbour: once its chain
    /// is freed, it is kept among those that wait. If `piece` is not 0, it is to be cut then, into IP fragments of so many bytes.
    pub fn wait(&mut self, place: u32, start: usize, piece: u16, hop: NextHop) {
        if let Some(at) = place.checked_sub(1) {
            let slot = &mut self.slots[at as usize];
            (slot.start, slot.piece, slot.hop) = (start, piece, Some(hop));
        }
    }

    /// Gives up one that waits. Whether there was one.
    pub fn give_up_waiting(&mut self) -> bool {
        let place = self.waiting;
        self.waiting = self.next(place);
        self.settle(place);
        self.free(place);
        place != 0
    }

    /// Takes all that wait, as a chain.
    pub fn take_waiting(&mut self) -> u32 {
        core::mem::take(&mut self.waiting)
    }

    /// Whether frames wait.
    pub fn is_waiting(&self) -> bool {
        self.waiting != 0
    }

    /// A frame that waits, into what it is to be cut, and for whom it waits.
    pub fn waiting(&mut self, place: u32) -> Option<(&mut [u8], u16, NextHop)> {
        let slot = self.slots.get_mut(place.checked_sub(1)? as usize)?;
        Some((slot.bytes.get_mut(slot.start..ROOM + slot.len)?, slot.piece, slot.hop?))
    }

    /// A frame waits no more.
    pub fn settle(&mut self, place: u32) {
        if let Some(at) = place.checked_sub(1) {
            self.slots[at as usize].hop = None;
        }
    }

    /// Gives a place up, or keeps it among those that wait. The next of its chain.
    pub fn free(&mut self, place: u32) -> u32 {
        let Some(at) = place.checked_sub(1) else { return 0 };
        let slot = &mut self.slots[at as usize];
        if slot.hop.is_some() {
            return core::mem::replace(&mut slot.next, core::mem::replace(&mut self.waiting, place));
        }
        if let Some(used) = self.used.get_mut(slot.share as usize) {
            *used = used.saturating_sub(1);
        }
        core::mem::replace(&mut slot.next, core::mem::replace(&mut self.free, place))
    }

    /// How many places are free.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        core::iter::successors(Some(self.free), |&place| Some(self.next(place))).take_while(|&place| place != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_in_chains_and_come_back() {
        let mut pool = Pool::new(2, 10, 2);
        assert!(pool.fits(10) && !pool.fits(11) && pool.room() == 2);
        let first = pool.put(b"one", 0, 0);
        assert!(pool.is_full_for(0) && !pool.is_full_for(1));
        let second = pool.put(b"second", first, 1);
        assert!(pool.is_full() && pool.put(b"third", second, 1) == 0);
        assert_eq!(pool.next(second), first);
        let (bytes, len) = pool.take(second);
        assert_eq!(&bytes[ROOM..ROOM + len], b"second");
        pool.give_back(second, bytes);
        assert_eq!(pool.free(second), first);
        assert_eq!((pool.free(first), pool.room()), (0, 2));
        assert!(!pool.is_full_for(0) && !pool.is_full_for(1));
        assert!(pool.put(&[7; 11], 0, 0) == 0 && pool.put(&[7; 10], 0, 0) != 0);
        assert!(Pool::new(0, 10, 1).is_full());
        let mut pool = Pool::new(1, 10, 1);
        let (place, hop) = (pool.put(b"one", 0, 0), NextHop("10.0.0.1".parse().unwrap()));
        pool.wait(place, ROOM - 2, 8, hop);
        assert_eq!((pool.free(place), pool.room(), pool.is_waiting()), (0, 0, true));
        assert_eq!((pool.take_waiting(), pool.waiting(place).unwrap().2), (place, hop));
        assert_eq!(pool.waiting(place).unwrap().0, b"\0\0one");
        pool.settle(place);
        assert_eq!((pool.free(place), pool.room(), pool.is_waiting()), (0, 1, false));
        let place = pool.put(b"one", 0, 0);
        pool.wait(place, ROOM, 0, hop);
        pool.free(place);
        assert!(pool.is_full_for(0) && pool.give_up_waiting() && !pool.give_up_waiting());
        assert!(!pool.is_full_for(0) && !pool.is_waiting() && pool.room() == 1);
    }
}
