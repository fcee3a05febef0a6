//! The split virtqueue (virtio 1.3, section 2.7), as the device sees it.

use std::sync::atomic::Ordering;

use ringlet_driver::wire::split as layout;

use super::chain::Walker;
use super::{Chain, DeviceQueue, Direction, Fault, Misplaced, Mode, Place};
use crate::virtio::memory::{Area, Memory, Piece, Words};

/// A split virtqueue in use, in guest memory.
pub type SplitQueue = Split<Area>;

/// A split virtqueue in use, in memory of any kind.
#[derive(Debug)]
pub struct Split<A> {
    walker: Walker<A>,
    available: A,
    used: A,
    /// Position in the available ring of the next chain to take.
    next: u16,
    /// The available index as it was last read: chains up to here can be taken without reading it again.
    seen: u16,
    /// Position in the used ring of the next entry to write.
    written: u16,
    /// The used index as the driver sees it.
    published: u16,
    /// With IN_ORDER, the chain given back last.
    last: u16,
    /// The used index when an interrupt was last decided upon.
    decided: u16,
}

impl<A: Words> Split<A> {
    /// The place of a position in a ring.
    #[inline]
    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size() - 1))
    }

    /// Writes an entry of the used ring.
    #[inline]
    fn write(&self, position: u16, id: u16, written: u32) {
        let at = layout::RING_ENTRIES + layout::USED_ENTRY_LEN * self.slot(position);
        self.used.store32(at, u32::from(id), Ordering::Relaxed);
        self.used.store32(at + 4, written, Ordering::Relaxed);
    }
}

impl<A: Words> DeviceQueue for Split<A> {
    fn new(memory: &Memory, place: &Place, direction: Direction, mode: Mode) -> Result<Self, Misplaced> {
        place.check(memory, layout::MAX_QUEUE_SIZE, false)?;
        let area = |name, address, length| {
            A::find(memory, address, length).map_err(|source| Misplaced::Outside { area: name, source })
        };
        let table = area("descriptor table", place.descriptors, layout::table_len(place.size))?;
        let mut queue = Self {
            walker: Walker { memory: memory.clone(), table, size: place.size, direction, mode },
            available: area("available ring", place.driver, layout::avail_len(place.size))?,
            used: area("used ring", place.device, layout::used_len(place.size))?,
            next: 0,
            seen: 0,
            written: 0,
            published: 0,
            last: 0,
            decided: 0,
        };
        queue.quieten();
        Ok(queue)
    }

    fn size(&self) -> u16 {
        self.walker.size
    }

    #[inline]
    fn waiting(&mut self) -> Result<bool, Fault> {
        if self.next == self.seen {
            // Acquire: the entries and descriptors were written before the index.
            let index = self.available.load16(layout::RING_INDEX, Ordering::Acquire);
            if index.wrapping_sub(self.published) > self.size() {
                return Err(Fault::AvailableIndex { from: self.seen, to: index, size: self.size() });
            }
            self.seen = index;
        }
        Ok(self.next != self.seen)
    }

    // Always: a chain that is returned through memory is written in parts and read as a whole, which takes longer than all else.
    #[inline(always)]
    fn take(&mut self, pieces: &mut Vec<Piece>) -> Result<Option<Chain>, Fault> {
        if !self.waiting()? {
            return Ok(None);
        }
        let at = layout::RING_ENTRIES + layout::AVAIL_ENTRY_LEN * self.slot(self.next);
        let head = self.available.load16(at, Ordering::Relaxed);
        let (pieces_taken, bytes) = self.walker.walk(head, pieces)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(Chain { id: head, descriptors: 1, pieces: pieces_taken, bytes }))
    }

    #[inline]
    fn used(&mut self, chain: Chain, written: u32) {
        if self.walker.batches() {
            self.last = chain.id;
        } else {
            self.write(self.written, chain.id, written);
        }
        self.written = self.written.wrapping_add(1);
    }

    #[inline]
    fn publish(&mut self) -> u16 {
        let new = self.written.wrapping_sub(self.published);
        if new != 0 {
            if self.walker.batches() {
                // The last chain stands for all of them, at the place of the first (section 2.7.9). Nothing was written.
                self.write(self.published, self.last, 0);
            }
            self.published = self.written;
            // Release: the entries, and the buffers' bytes, are there before the index says so.
            self.used.store16(layout::RING_INDEX, self.published, Ordering::Release);
        }
        new
    }

    #[inline]
    fn interrupt_due(&mut self) -> bool {
        let (old, new) = (self.decided, self.published);
        if old == new {
            return false;
        }
        self.decided = new;
        // The index must be visible before the driver's wish is read, or both sides could miss the other's last word.
        A::fence();
        if self.walker.mode.event_idx {
            layout::need_event(self.available.load16(layout::used_event(self.size()), Ordering::Relaxed), new, old)
        } else {
            let flags = self.available.load16(layout::RING_FLAGS, Ordering::Relaxed);
            flags & layout::AVAIL_F_NO_INTERRUPT == 0
        }
    }

    fn listen(&mut self) -> Result<bool, Fault> {
        if self.walker.mode.event_idx {
            self.used.store16(layout::avail_event(self.size()), self.next, Ordering::Relaxed);
        } else {
            self.used.store16(layout::RING_FLAGS, 0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is read; see `interrupt_due`.
        A::fence();
        self.waiting()
    }

    #[inline]
    fn quieten(&mut self) {
        // With EVENT_IDX nothing is to be done: the event index stays where it was, and is passed again only after 2^16 chains.
        if !self.walker.mode.event_idx {
            self.used.store16(layout::RING_FLAGS, layout::USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    fn position(&self) -> u32 {
        // Chains are given back in the order in which they were taken, so that the used index is the available index of
        // the first chain that the device still has.
        self.published.into()
    }

    fn start_at(&mut self, position: u32) -> Result<(), Misplaced> {
        let index = position as u16;
        (self.next, self.seen, self.written, self.published, self.decided) = (index, index, index, index, index);
        Ok(())
    }
}
