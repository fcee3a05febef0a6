//! The split virtqueue (virtio 1.3, section 2.7).

mod memory;

use alloc::boxed::Box;

use virtio_drivers::PhysAddr;

use self::memory::Memory;
use super::area::Area;
use super::slot::{Slot, capacity};
use super::{Access, RingError, Segment, Used, Virtqueue};
use crate::features::Features;
use crate::wire::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, USED_F_NO_NOTIFY,
    need_event,
};

/// A split virtqueue: descriptor table, available ring and used ring.
#[derive(Debug)]
pub struct Ring<A, T> {
    memory: Memory<A>,
    /// By the first descriptor of a buffer.
    slots: Box<[Slot<T>]>,
    /// The next descriptor to be given out, if there is a free one. They are given out in the order in which they came back.
    free: u16,
    /// The descriptor that was given back last.
    last_free: u16,
    /// Free descriptors; none once the ring is broken.
    room: u16,
    /// The available index, with what is not published yet.
    avail: u16,
    /// The available index as the device sees it.
    published: u16,
    /// Up to where used buffers were taken.
    taken: u16,
    /// The used index as it was last read, and found to be possible.
    used: u16,
    outstanding: u16,
    /// With IN_ORDER: the first descriptor of the buffer that the device has had for longest.
    oldest: u16,
    /// With IN_ORDER: how many buffers, from the oldest on, the device has used by an entry that was read already.
    batch: u16,
    /// What the device has written into the last of these.
    batch_written: u32,
    in_order: bool,
    event_idx: bool,
    interrupts: bool,
    broken: Option<RingError>,
}

impl<A: Area, T> Ring<A, T> {
    /// Everything but the slots and the memory as when new.
    fn restart(&mut self) {
        let size = self.memory.size();
        (self.free, self.last_free, self.room) = (0, size - 1, size);
        (self.avail, self.published, self.taken, self.used) = (0, 0, 0, 0);
        (self.outstanding, self.oldest, self.batch) = (0, 0, 0);
        self.broken = None;
        self.interrupts = true;
        self.disable_interrupts();
    }

    /// Sets where both indices begin, so that tests need not go all the way to see them wrap.
    #[cfg(any(test, feature = "fake"))]
    pub fn start_at(&mut self, index: u16) {
        assert_eq!((self.outstanding, self.published), (0, self.avail), "before anything is added");
        (self.avail, self.published, self.taken, self.used) = (index, index, index, index);
        self.memory.publish_avail(index);
        self.disable_interrupts();
    }

    /// The descriptor after `id`, where they are given out in a circle.
    #[inline]
    fn after(&self, id: u16, count: u16) -> u16 {
        id.wrapping_add(count) & (self.memory.size() - 1)
    }

    /// Makes the buffer with first descriptor `id`, whose descriptors are written, available. `next` is the free descriptor after
    /// it.
    #[inline]
    fn make_available(&mut self, id: u16, next: u16, descriptors: u16, capacity: u32, token: T) {
        let slot = &mut self.slots[usize::from(id)];
        slot.token = Some(token);
        slot.capacity = capacity;
        slot.descriptors = descriptors;
        if self.in_order {
            slot.next = self.avail;
        }
        self.free = next;
        self.room -= descriptors;
        self.outstanding += 1;
        self.memory.write_avail(self.avail, id);
        self.avail = self.avail.wrapping_add(1);
    }

    /// The free descriptor to be used after `id`.
    #[inline]
    fn next_free(&self, id: u16) -> u16 {
        if self.in_order { self.after(id, 1) } else { self.slots[usize::from(id)].next }
    }

    /// Writes a chain into the descriptor table itself. Gives its length in bytes, and the next free descriptor.
    fn write_direct(&mut self, segments: impl Iterator<Item = Segment>, count: u16, flags: u16) -> (u64, u16) {
        let (mut total, mut id) = (0, self.free);
        for (position, (address, length)) in (1..=count).zip(segments) {
            let next = self.next_free(id);
            let more = if position < count { DESC_F_NEXT } else { 0 };
            self.memory.write_descriptor(id, Descriptor { address, length, flags: flags | more, next });
            total += u64::from(length);
            id = next;
        }
        (total, id)
    }

    /// Writes a chain into the indirect table of the first free descriptor. Gives its length in bytes, and the next free
    /// descriptor.
    fn write_indirect(&mut self, segments: impl Iterator<Item = Segment>, count: u16, flags: u16) -> (u64, u16) {
        let (mut total, id) = (0, self.free);
        for (position, (address, length)) in (1..=count).zip(segments) {
            let more = if position < count { DESC_F_NEXT } else { 0 };
            let descriptor = Descriptor { address, length, flags: flags | more, next: position };
            self.memory.write_indirect(id, usize::from(position) - 1, descriptor);
            total += u64::from(length);
        }
        let table = Descriptor {
            address: self.memory.indirect_table(id),
            length: u32::from(count) * DESC_LEN as u32,
            flags: DESC_F_INDIRECT,
            next: 0,
        };
        self.memory.write_descriptor(id, table);
        (total, self.next_free(id))
    }

    /// Reads the used index and checks it. Whether there is something to take.
    #[inline]
    fn look(&mut self) -> Result<bool, RingError> {
        let used = self.memory.used_index();
        let claimed = used.wrapping_sub(self.taken);
        if claimed > self.outstanding {
            return Err(self.lie(RingError::UsedIndex { claimed, outstanding: self.outstanding }));
        }
        self.used = used;
        Ok(claimed != 0)
    }

    /// Puts the descriptors of a buffer back.
    #[inline]
    fn release(&mut self, id: u16, descriptors: u16) {
        if self.in_order {
            self.oldest = self.after(id, descriptors);
        } else {
            if self.room == 0 {
                self.free = id;
            } else {
                self.slots[usize::from(self.last_free)].next = id;
            }
            let mut last = id;
            for _ in 1..descriptors {
                last = self.slots[usize::from(last)].next;
            }
            self.last_free = last;
        }
        self.room += descriptors;
        self.outstanding -= 1;
        self.taken = self.taken.wrapping_add(1);
    }

    /// Takes the oldest of the used buffers, of which there is one at least.
    #[inline]
    fn take_in_order(&mut self) -> Result<Option<Used<T>>, RingError> {
        let id = self.oldest;
        // What the device only reads needs no entry of the used ring: that it was used says all.
        if self.batch == 0 && !self.slots[usize::from(id)].is_read_only() {
            self.begin_batch()?;
        }
        let slot = &mut self.slots[usize::from(id)];
        let Some(token) = slot.token.take() else {
            return Err(self.lie(RingError::NotOutstanding(id)));
        };
        // Those that were skipped were used completely, says the specification.
        let written = if self.batch == 1 { self.batch_written } else { slot.capacity };
        let descriptors = slot.descriptors;
        self.batch = self.batch.saturating_sub(1);
        self.release(id, descriptors);
        Ok(Some(Used { token, written }))
    }

    /// Reads the entry of the used ring by which the device has used every buffer from the oldest up to the one that it tells
    /// (section 2.7.9).
    #[inline]
    fn begin_batch(&mut self) -> Result<(), RingError> {
        let (id, written) = self.memory.used(self.taken);
        let Some(slot) = self.slots.get(id as usize) else {
            return Err(self.lie(RingError::Id(id)));
        };
        let skipped = slot.next.wrapping_sub(self.taken);
        if slot.token.is_none() || skipped >= self.used.wrapping_sub(self.taken) {
            return Err(self.lie(RingError::NotOutstanding(id as u16)));
        }
        if slot.is_exceeded_by(written) {
            let capacity = slot.capacity;
            return Err(self.lie(RingError::Length { written, capacity }));
        }
        (self.batch, self.batch_written) = (skipped + 1, written);
        Ok(())
    }

    /// How many used buffers wait to be taken.
    #[inline]
    fn waiting(&self) -> u16 {
        self.memory.used_index().wrapping_sub(self.taken)
    }

    #[cold]
    fn lie(&mut self, error: RingError) -> RingError {
        (self.used, self.room, self.batch) = (self.taken, 0, 0);
        *self.broken.get_or_insert(error)
    }
}

impl<A: Area, T> Virtqueue<T> for Ring<A, T> {
    /// A power of two (section 2.7).
    fn size_within(most: u16) -> Option<u16> {
        most.checked_ilog2().map(|log| 1 << log)
    }

    unsafe fn new(size: u16, max_segments: usize, features: Features) -> Option<Self> {
        // A chain must not be longer than the queue, not even an indirect one (section 2.7.5.3.1).
        let max_segments = max_segments.min(usize::from(size));
        let indirect = features.contains(Features::INDIRECT_DESC) && max_segments > 1;
        let memory = Memory::new(size, if indirect { max_segments } else { 0 })?;
        let mut ring = Self {
            memory,
            slots: Slot::all(size),
            free: 0,
            last_free: 0,
            room: 0,
            avail: 0,
            published: 0,
            taken: 0,
            used: 0,
            outstanding: 0,
            oldest: 0,
            batch: 0,
            batch_written: 0,
            in_order: features.contains(Features::IN_ORDER),
            event_idx: features.contains(Features::EVENT_IDX),
            interrupts: true,
            broken: None,
        };
        ring.restart();
        Some(ring)
    }

    fn areas(&self) -> [PhysAddr; 3] {
        self.memory.areas()
    }

    /// The available index.
    #[inline]
    fn position(&self) -> u16 {
        self.avail
    }

    #[inline]
    fn size(&self) -> u16 {
        self.memory.size()
    }

    #[inline]
    fn outstanding(&self) -> u16 {
        self.outstanding
    }

    #[inline]
    fn room(&self) -> u16 {
        self.room
    }

    #[inline]
    unsafe fn add(&mut self, (address, length): Segment, access: Access, token: T) -> Result<(), T> {
        if self.room == 0 {
            return Err(token);
        }
        let id = self.free;
        let next = self.next_free(id);
        self.memory.write_descriptor(id, Descriptor { address, length, flags: access_flags(access), next: 0 });
        self.make_available(id, next, 1, capacity(access, length.into()), token);
        Ok(())
    }

    unsafe fn add_chain(
        &mut self,
        segments: impl Iterator<Item = Segment>,
        count: usize,
        access: Access,
        token: T,
    ) -> Result<(), T> {
        let id = self.free;
        let indirect = count <= self.memory.indirect_len();
        let descriptors = if indirect { 1 } else { count };
        if count == 0 || descriptors > usize::from(self.room) {
            return Err(token);
        }
        // Both fit: `count` is at most the size of the queue or of an indirect table.
        let (descriptors, count) = (descriptors as u16, count as u16);
        let flags = access_flags(access);
        let (length, next) = if indirect {
            self.write_indirect(segments, count, flags)
        } else {
            self.write_direct(segments, count, flags)
        };
        self.make_available(id, next, descriptors, capacity(access, length), token);
        Ok(())
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.avail);
        if old == new {
            return false;
        }
        self.memory.publish_avail(new);
        self.published = new;
        // Between the index becoming visible and looking whether the device wants to hear of it: it says that it does, then
        // looks at the index. Without a full fence on both sides each could miss the other, and a buffer would lie unseen.
        A::fence();
        if self.event_idx {
            need_event(self.memory.avail_event(), new, old)
        } else {
            self.memory.used_flags() & USED_F_NO_NOTIFY == 0
        }
    }

    #[inline]
    fn take(&mut self) -> Result<Option<Used<T>>, RingError> {
        if self.taken == self.used {
            if let Some(error) = self.broken {
                return Err(error);
            }
            if !self.look()? {
                return Ok(None);
            }
        }
        if self.in_order {
            return self.take_in_order();
        }
        let (id, written) = self.memory.used(self.taken);
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return Err(self.lie(RingError::Id(id)));
        };
        // At most the size of the queue, or there would be no slot.
        let id = id as u16;
        if slot.is_exceeded_by(written) && slot.token.is_some() {
            let capacity = slot.capacity;
            return Err(self.lie(RingError::Length { written, capacity }));
        }
        let Some(token) = slot.token.take() else {
            return Err(self.lie(RingError::NotOutstanding(id)));
        };
        let descriptors = slot.descriptors;
        self.release(id, descriptors);
        Ok(Some(Used { token, written }))
    }

    fn enable_interrupts(&mut self, after: u16) -> bool {
        self.interrupts = true;
        if self.event_idx {
            self.memory.write_used_event(self.taken.wrapping_add(after));
        } else {
            self.memory.write_avail_flags(0);
        }
        // The counterpart of the fence in `publish`: the device moves the used index, then looks whether to interrupt.
        A::fence();
        let waiting = self.waiting();
        self.broken.is_some() || waiting > if self.event_idx { after } else { 0 }
    }

    #[inline]
    fn disable_interrupts(&mut self) {
        if !self.interrupts {
            return;
        }
        self.interrupts = false;
        if self.event_idx {
            // As far ahead as can be. When the index gets there, after 65535 more buffers, there is one needless interrupt.
            self.memory.write_used_event(self.taken.wrapping_sub(1));
        } else {
            self.memory.write_avail_flags(AVAIL_F_NO_INTERRUPT);
        }
    }

    fn broken(&self) -> Option<RingError> {
        self.broken
    }

    fn break_by(&mut self, error: RingError) {
        self.lie(error);
    }

    unsafe fn reset(&mut self, give: impl FnMut(T)) {
        self.memory.clear();
        Slot::free_all(&mut self.slots, give);
        self.restart();
    }
}

/// Descriptor flags for a buffer.
#[inline]
fn access_flags(access: Access) -> u16 {
    match access {
        Access::DeviceReads => 0,
        Access::DeviceWrites => DESC_F_WRITE,
    }
}
