//! The packed virtqueue (virtio 1.3, section 2.8).

mod memory;

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use virtio_drivers::PhysAddr;

use self::memory::Memory;
use super::area::Area;
use super::slot::{Slot, capacity};
use super::{Access, RingError, Segment, Used, Virtqueue};
use crate::features::Features;
use crate::wire::packed::{
    DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_USED, DESC_F_WRITE, DESC_LEN, Descriptor, EVENT_DESC,
    EVENT_DISABLE, EVENT_ENABLE, Event, MAX_QUEUE_SIZE, Position,
};

/// The bits by which a descriptor says whose it is.
const OWNER: u16 = DESC_F_AVAIL | DESC_F_USED;

/// A packed virtqueue: one ring of descriptors, which both sides write.
///
/// The first descriptor of what is added is held back until [`Virtqueue::publish`]: the device goes round the ring in order, so
/// everything behind it can be written at once and shows with it, and what is published costs one ordered store.
#[derive(Debug)]
pub struct Ring<A, T> {
    memory: Memory<A>,
    /// By buffer id.
    slots: Box<[Slot<T>]>,
    /// The next id to be given out, if there is a free one. Ids are given out in the order in which they came back.
    free: u16,
    /// The id that was given back last.
    last_free: u16,
    /// Free descriptors; none once the ring is broken.
    room: u16,
    /// Where the next descriptor is made available.
    next: u16,
    /// The flags that make it so in this round. As wide as it is loaded, or the load would have to wait for the store to what
    /// lies beside it.
    available: u32,
    /// Descriptors added and not published yet.
    added: u16,
    /// Place and second half of the first of them, which is not written yet.
    held: (u16, u64),
    /// Where the next used descriptor is awaited.
    taken: u16,
    /// The flags by which it will say that it is used; [`BROKEN`] once the ring is broken.
    used: u16,
    outstanding: u16,
    /// With IN_ORDER: the buffer that the device has had for longest.
    oldest: u16,
    /// With IN_ORDER: how many buffers, from the oldest on, the device has used by a descriptor that was read already.
    batch: u16,
    /// What the device has written into the last of these.
    batch_written: u32,
    in_order: bool,
    event_idx: bool,
    interrupts: bool,
    broken: Option<RingError>,
}

/// Flags that no descriptor has, as far as [`OWNER`] goes.
const BROKEN: u16 = 1;

impl<A: Area, T> Ring<A, T> {
    /// Everything but the slots and the memory as when new.
    fn restart(&mut self) {
        let size = self.memory.size();
        (self.free, self.last_free, self.room) = (0, size - 1, size);
        (self.next, self.available, self.added) = (0, Position::START.available().into(), 0);
        (self.taken, self.used, self.outstanding) = (0, Position::START.used(), 0);
        (self.oldest, self.batch) = (0, 0);
        self.broken = None;
        self.interrupts = true;
        self.disable_interrupts();
    }

    /// The id after `id`, where they are given out in a circle.
    #[inline]
    fn after(&self, id: u16) -> u16 {
        if id + 1 == self.memory.size() { 0 } else { id + 1 }
    }

    /// Makes one descriptor available, or will when it is published.
    #[inline]
    fn write(&mut self, (address, length): Segment, id: u16, flags: u16) {
        let index = self.next;
        let tail = Descriptor { address: 0, length, id, flags: flags | self.available as u16 }.tail();
        self.memory.write_address(index, address);
        if self.added == 0 {
            self.held = (index, tail);
        } else {
            self.memory.write_tail(index, tail, Ordering::Relaxed);
        }
        self.added += 1;
        self.next = index + 1;
        if self.next == self.memory.size() {
            self.next = 0;
            self.available ^= u32::from(OWNER);
        }
    }

    /// Where the next used descriptor is awaited.
    fn awaited(&self) -> Position {
        Position { index: self.taken, wrap: self.used == Position::START.used() }
    }

    /// Takes an id for a buffer of `descriptors`, for which there must be room.
    #[inline]
    fn allocate(&mut self, descriptors: u16, capacity: u32, token: T) -> u16 {
        let id = self.free;
        let after = self.after(id);
        let slot = &mut self.slots[usize::from(id)];
        slot.token = Some(token);
        slot.capacity = capacity;
        slot.descriptors = descriptors;
        self.free = if self.in_order { after } else { slot.next };
        self.room -= descriptors;
        self.outstanding += 1;
        id
    }

    /// Puts the id of a buffer back and goes on behind its descriptors.
    #[inline]
    fn release(&mut self, id: u16, descriptors: u16) {
        if self.in_order {
            self.oldest = self.after(id);
        } else {
            if self.outstanding == self.memory.size() {
                self.free = id;
            } else {
                self.slots[usize::from(self.last_free)].next = id;
            }
            self.last_free = id;
        }
        self.room += descriptors;
        self.outstanding -= 1;
        self.taken += descriptors;
        if self.taken >= self.memory.size() {
            self.taken -= self.memory.size();
            self.used ^= OWNER;
        }
    }

    /// The device has used, by one descriptor, every buffer from the oldest up to `used.id` (section 2.8.9).
    #[inline]
    fn begin_batch(&mut self, used: Descriptor) -> Result<(), RingError> {
        let skipped = self.distance(used.id);
        if skipped >= self.outstanding {
            return Err(self.lie(RingError::NotOutstanding(used.id)));
        }
        let slot = &self.slots[usize::from(used.id)];
        if slot.is_exceeded_by(used.length) {
            let capacity = slot.capacity;
            return Err(self.lie(RingError::Length { written: used.length, capacity }));
        }
        (self.batch, self.batch_written) = (skipped + 1, used.length);
        Ok(())
    }

    /// How many buffers lie between the oldest and `id`, which must be below the size.
    #[inline]
    fn distance(&self, id: u16) -> u16 {
        if id >= self.oldest { id - self.oldest } else { id + (self.memory.size() - self.oldest) }
    }

    /// Takes the oldest buffer, which belongs to a batch.
    #[inline]
    fn take_of_batch(&mut self) -> Result<Option<Used<T>>, RingError> {
        let id = self.oldest;
        let slot = &mut self.slots[usize::from(id)];
        let Some(token) = slot.token.take() else {
            return Err(self.lie(RingError::NotOutstanding(id)));
        };
        // Those that were skipped were used completely, says the specification.
        let written = if self.batch == 1 { self.batch_written } else { slot.capacity };
        let descriptors = slot.descriptors;
        self.batch -= 1;
        self.release(id, descriptors);
        Ok(Some(Used { token, written }))
    }

    /// Whether the device has used more than `after` descriptors that were not taken yet, or lies about it.
    fn has_passed(&self, after: u16) -> bool {
        if self.broken.is_some() {
            return true;
        }
        let size = self.memory.size();
        let mut position = self.awaited();
        let mut oldest = self.oldest;
        let mut passed = 0;
        // Each round passes one buffer.
        let mut batch = self.batch;
        while passed <= after {
            if batch == 0 {
                let used = self.memory.tail(position.index);
                if !position.is_used(used.flags) {
                    return false;
                }
                if used.id >= size || self.slots[usize::from(used.id)].token.is_none() {
                    return true;
                }
                if self.in_order {
                    batch = (used.id + size - oldest) % size + 1;
                } else {
                    (oldest, batch) = (used.id, 1);
                }
            }
            let descriptors = self.slots[usize::from(oldest)].descriptors.clamp(1, size);
            batch -= 1;
            oldest = self.after(oldest);
            position = position.advanced(descriptors, size);
            passed += descriptors;
        }
        true
    }

    #[cold]
    fn lie(&mut self, error: RingError) -> RingError {
        self.used = BROKEN;
        self.room = 0;
        self.batch = 0;
        *self.broken.get_or_insert(error)
    }
}

impl<A: Area, T> Virtqueue<T> for Ring<A, T> {
    /// Anything up to 32768 (section 2.8.10.1).
    fn size_within(most: u16) -> Option<u16> {
        (most > 0).then_some(most.min(MAX_QUEUE_SIZE))
    }

    unsafe fn new(size: u16, max_segments: usize, features: Features) -> Option<Self> {
        // A chain must not be longer than the queue, not even an indirect one (section 2.8.19).
        let max_segments = max_segments.min(usize::from(size));
        let indirect = features.contains(Features::INDIRECT_DESC) && max_segments > 1;
        let mut ring = Self {
            memory: Memory::new(size, if indirect { max_segments } else { 0 })?,
            slots: Slot::all(size),
            free: 0,
            last_free: 0,
            room: 0,
            next: 0,
            available: 0,
            added: 0,
            held: (0, 0),
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

    /// Index and wrap counter of the next descriptor, see [`Position`].
    #[inline]
    fn position(&self) -> u16 {
        Position { index: self.next, wrap: self.available == Position::START.available().into() }.bits()
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
    unsafe fn add(&mut self, segment: Segment, access: Access, token: T) -> Result<(), T> {
        if self.room == 0 {
            return Err(token);
        }
        let id = self.allocate(1, capacity(access, segment.1.into()), token);
        self.write(segment, id, access_flags(access));
        Ok(())
    }

    unsafe fn add_chain(
        &mut self,
        segments: impl Iterator<Item = Segment>,
        count: usize,
        access: Access,
        token: T,
    ) -> Result<(), T> {
        let indirect = count <= self.memory.indirect_len();
        let descriptors = if indirect { 1 } else { count };
        if count == 0 || descriptors > usize::from(self.room) {
            return Err(token);
        }
        // Both fit: `count` is at most the size of the queue or of an indirect table.
        let (descriptors, count) = (descriptors as u16, count as u16);
        let id = self.allocate(descriptors, 0, token);
        let flags = access_flags(access);
        let mut length = 0;
        if indirect {
            for (position, (address, here)) in (0..usize::from(count)).zip(segments) {
                // In a table neither id nor NEXT means anything (section 2.8.7).
                self.memory.write_indirect(id, position, Descriptor { address, length: here, id: 0, flags });
                length += u64::from(here);
            }
            let table = (self.memory.indirect_table(id), u32::from(count) * DESC_LEN as u32);
            self.write(table, id, DESC_F_INDIRECT);
        } else {
            for (position, segment) in (1..=count).zip(segments) {
                let more = if position < count { DESC_F_NEXT } else { 0 };
                self.write(segment, id, flags | more);
                length += u64::from(segment.1);
            }
        }
        self.slots[usize::from(id)].capacity = capacity(access, length);
        Ok(())
    }

    #[inline]
    fn publish(&mut self) -> bool {
        let count = core::mem::take(&mut self.added);
        if count == 0 {
            return false;
        }
        let (index, tail) = self.held;
        self.memory.write_tail(index, tail, Ordering::Release);
        // Between the descriptor becoming visible and looking whether the device wants to hear of it: it says that it does, then
        // looks at the descriptor. Without a full fence on both sides each could miss the other, and a buffer would lie unseen.
        A::fence();
        let event = self.memory.device_event();
        event.is_due(Position::parse(self.position()), count, self.memory.size())
    }

    #[inline]
    fn take(&mut self) -> Result<Option<Used<T>>, RingError> {
        if self.batch > 0 {
            return self.take_of_batch();
        }
        let used = self.memory.tail(self.taken);
        if used.flags & OWNER != self.used {
            return self.broken.map_or(Ok(None), Err);
        }
        let Some(slot) = self.slots.get_mut(usize::from(used.id)) else {
            return Err(self.lie(RingError::Id(used.id.into())));
        };
        if self.in_order && used.id != self.oldest {
            self.begin_batch(used)?;
            return self.take_of_batch();
        }
        // The length counts even without DESC_F_WRITE: QEMU never sets that in a used descriptor.
        let written = used.length;
        if slot.is_exceeded_by(written) && slot.token.is_some() {
            let capacity = slot.capacity;
            return Err(self.lie(RingError::Length { written, capacity }));
        }
        let Some(token) = slot.token.take() else {
            return Err(self.lie(RingError::NotOutstanding(used.id)));
        };
        let descriptors = slot.descriptors;
        self.release(used.id, descriptors);
        Ok(Some(Used { token, written }))
    }

    fn enable_interrupts(&mut self, after: u16) -> bool {
        self.interrupts = true;
        let after = if self.event_idx { after.min(self.memory.size() - 1) } else { 0 };
        let position = self.awaited().advanced(after, self.memory.size());
        self.memory.write_event(Event { position, flags: if self.event_idx { EVENT_DESC } else { EVENT_ENABLE } });
        // The counterpart of the fence in `publish`: the device writes a used descriptor, then looks whether to interrupt.
        A::fence();
        self.has_passed(after)
    }

    #[inline]
    fn disable_interrupts(&mut self) {
        if self.interrupts {
            self.interrupts = false;
            self.memory.write_event(Event { position: Position::START, flags: EVENT_DISABLE });
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
