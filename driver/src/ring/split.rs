//! The split virtqueue (virtio 1.3, section 2.7).

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::{Hal, PhysAddr};

use super::memory::Memory;
use super::{Access, RingError, Segment, Used, Virtqueue};
use crate::features::Features;
use crate::wire::split::{
    AVAIL_F_NO_INTERRUPT, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, USED_F_NO_NOTIFY,
    need_event,
};

/// What is known about one descriptor, out of the device's reach.
#[derive(Debug)]
struct Slot<T> {
    /// There while the device has the buffer of which this is the first descriptor.
    token: Option<T>,
    /// Bytes that the device may write into the buffer.
    capacity: u32,
    /// The next descriptor of the chain, or the next free one.
    next: u16,
    /// How many descriptors of the table the buffer takes.
    descriptors: u16,
}

/// A split virtqueue: descriptor table, available ring and used ring.
#[derive(Debug)]
pub struct Split<H: Hal, T> {
    memory: Memory<H>,
    slots: Box<[Slot<T>]>,
    /// The first free descriptor; means something only if there is one.
    free: u16,
    free_count: u16,
    /// The available index, with what is not published yet.
    avail: u16,
    /// The available index as the device sees it.
    published: u16,
    /// Up to where used buffers were taken.
    taken: u16,
    /// The used index as it was last read, and found to be possible.
    used: u16,
    outstanding: u16,
    event_idx: bool,
    interrupts: bool,
    broken: Option<RingError>,
}

impl<H: Hal, T> Split<H, T> {
    /// Sets where both indices begin, so that tests need not go all the way to see them wrap.
    #[cfg(any(test, feature = "fake"))]
    pub fn start_at(&mut self, index: u16) {
        assert_eq!((self.outstanding, self.published), (0, self.avail), "before anything is added");
        (self.avail, self.published, self.taken, self.used) = (index, index, index, index);
        self.memory.publish_avail(index);
        self.disable_interrupts();
    }

    /// Makes the buffer with first descriptor `id`, whose descriptors are written, available.
    #[inline]
    fn make_available(&mut self, id: u16, descriptors: u16, capacity: u32, token: T) {
        let slot = &mut self.slots[usize::from(id)];
        slot.token = Some(token);
        slot.capacity = capacity;
        slot.descriptors = descriptors;
        self.free_count -= descriptors;
        self.outstanding += 1;
        self.memory.write_avail(self.avail, id);
        self.avail = self.avail.wrapping_add(1);
    }

    /// Writes a chain into the descriptor table itself. Gives its capacity.
    fn write_direct(&mut self, segments: impl Iterator<Item = Segment>, count: u16, flags: u16) -> u64 {
        let mut capacity = 0;
        let mut id = self.free;
        for (position, (address, length)) in (1..=count).zip(segments) {
            let next = self.slots[usize::from(id)].next;
            let more = if position < count { DESC_F_NEXT } else { 0 };
            self.memory.write_descriptor(id, Descriptor { address, length, flags: flags | more, next });
            capacity += u64::from(length);
            id = next;
        }
        self.free = id;
        capacity
    }

    /// Writes a chain into the indirect table of the first free descriptor. Gives its capacity.
    fn write_indirect(&mut self, segments: impl Iterator<Item = Segment>, count: u16, flags: u16) -> u64 {
        let id = self.free;
        let mut capacity = 0;
        for (position, (address, length)) in (1..=count).zip(segments) {
            let more = if position < count { DESC_F_NEXT } else { 0 };
            let descriptor = Descriptor { address, length, flags: flags | more, next: position };
            self.memory.write_indirect(id, usize::from(position) - 1, descriptor);
            capacity += u64::from(length);
        }
        let table = Descriptor {
            address: self.memory.indirect_table(id),
            length: u32::from(count) * DESC_LEN as u32,
            flags: DESC_F_INDIRECT,
            next: 0,
        };
        self.memory.write_descriptor(id, table);
        self.free = self.slots[usize::from(id)].next;
        capacity
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
        let mut last = id;
        for _ in 1..descriptors {
            last = self.slots[usize::from(last)].next;
        }
        self.slots[usize::from(last)].next = self.free;
        self.free = id;
        self.free_count += descriptors;
        self.outstanding -= 1;
    }

    #[cold]
    fn lie(&mut self, error: RingError) -> RingError {
        *self.broken.get_or_insert(error)
    }
}

impl<H: Hal, T> Virtqueue<T> for Split<H, T> {
    /// A power of two (section 2.7).
    fn size_within(most: u16) -> Option<u16> {
        most.checked_ilog2().map(|log| 1 << log)
    }

    unsafe fn new(size: u16, max_segments: usize, features: Features) -> Option<Self> {
        // A chain must not be longer than the queue, not even an indirect one (section 2.7.5.3.1).
        let max_segments = max_segments.min(usize::from(size));
        let indirect = features.contains(Features::INDIRECT_DESC) && max_segments > 1;
        let memory = Memory::new(size, if indirect { max_segments } else { 0 })?;
        let slots =
            (0..size).map(|id| Slot { token: None, capacity: 0, next: (id + 1) % size, descriptors: 0 }).collect();
        let mut ring = Self {
            memory,
            slots,
            free: 0,
            free_count: size,
            avail: 0,
            published: 0,
            taken: 0,
            used: 0,
            outstanding: 0,
            event_idx: features.contains(Features::EVENT_IDX),
            interrupts: true,
            broken: None,
        };
        ring.disable_interrupts();
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
        self.free_count
    }

    #[inline]
    unsafe fn add(&mut self, (address, length): Segment, access: Access, token: T) -> Result<(), T> {
        if self.free_count == 0 || self.broken.is_some() {
            return Err(token);
        }
        let id = self.free;
        let (flags, capacity) = access_flags(access, length);
        self.memory.write_descriptor(id, Descriptor { address, length, flags, next: 0 });
        self.free = self.slots[usize::from(id)].next;
        self.make_available(id, 1, capacity, token);
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
        if count == 0 || descriptors > usize::from(self.free_count) || self.broken.is_some() {
            return Err(token);
        }
        // Both fit: `count` is at most the size of the queue or of an indirect table.
        let (descriptors, count) = (descriptors as u16, count as u16);
        let flags = access_flags(access, 0).0;
        let capacity = if indirect {
            self.write_indirect(segments, count, flags)
        } else {
            self.write_direct(segments, count, flags)
        };
        let capacity = access_flags(access, u32::try_from(capacity).unwrap_or(u32::MAX)).1;
        self.make_available(id, descriptors, capacity, token);
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
        fence(Ordering::SeqCst);
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
        let (id, written) = self.memory.used(self.taken);
        let Some(slot) = self.slots.get_mut(id as usize) else {
            self.used = self.taken;
            return Err(self.lie(RingError::Id(id)));
        };
        // At most the size of the queue, or there would be no slot.
        let id = id as u16;
        if written > slot.capacity && slot.token.is_some() {
            let capacity = slot.capacity;
            self.used = self.taken;
            return Err(self.lie(RingError::Length { written, capacity }));
        }
        let Some(token) = slot.token.take() else {
            self.used = self.taken;
            return Err(self.lie(RingError::NotOutstanding(id)));
        };
        let descriptors = slot.descriptors;
        self.release(id, descriptors);
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(Used { token, written }))
    }

    #[inline]
    fn waiting(&self) -> u16 {
        self.memory.used_index().wrapping_sub(self.taken)
    }

    fn enable_interrupts(&mut self, after: u16) -> bool {
        self.interrupts = true;
        if self.event_idx {
            self.memory.write_used_event(self.taken.wrapping_add(after));
        } else {
            self.memory.write_avail_flags(0);
        }
        // The counterpart of the fence in `publish`: the device moves the used index, then looks whether to interrupt.
        fence(Ordering::SeqCst);
        let waiting = self.waiting();
        if self.event_idx { waiting > after } else { waiting > 0 }
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
        self.used = self.taken;
    }
}

/// Descriptor flags, and how much the device may write, for a buffer of `length` bytes.
#[inline]
fn access_flags(access: Access, length: u32) -> (u16, u32) {
    match access {
        // A device that says it wrote there is wrong, but does no harm: the length is not used.
        Access::DeviceReads => (0, u32::MAX),
        Access::DeviceWrites => (DESC_F_WRITE, length),
    }
}
