//! The memory of a split virtqueue (virtio 1.3, section 2.7).

use core::sync::atomic::Ordering;

use virtio_drivers::PhysAddr;

use crate::ring::area::Area;
use crate::wire::split::{
    self, AVAIL_ENTRY_LEN, DESC_LEN, Descriptor, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_ENTRY_LEN,
};

/// Alignment of the parts: a cache line, so that what the driver writes and what the device writes never share one.
const ALIGN: usize = 64;

/// Descriptor table, available ring, used ring and tables of indirect descriptors of one queue.
#[derive(Debug)]
pub(super) struct Memory<A> {
    area: A,
    size: u16,
    avail: usize,
    used: usize,
    indirect: usize,
    /// Descriptors in each indirect table; 0 if there are none.
    indirect_len: usize,
}

impl<A: Area> Memory<A> {
    /// Memory for `size` descriptors, a power of two, and as many tables of `indirect_len` descriptors. All zeros.
    pub(super) fn new(size: u16, indirect_len: usize) -> Option<Self> {
        assert!(size.is_power_of_two() && size <= split::MAX_QUEUE_SIZE, "the size of a split queue is a power of two");
        let avail = split::table_len(size).next_multiple_of(ALIGN);
        let used = (avail + split::avail_len(size)).next_multiple_of(ALIGN);
        let indirect = (used + split::used_len(size)).next_multiple_of(ALIGN);
        let total = indirect + indirect_len * DESC_LEN * usize::from(size);
        Some(Self { area: A::new(total)?, size, avail, used, indirect, indirect_len })
    }

    /// Makes the two rings and what both sides say of notifications as they were when new.
    pub(super) fn clear(&self) {
        for offset in (self.avail..self.avail + split::avail_len(self.size)).step_by(2) {
            self.area.store16(offset, 0, Ordering::Relaxed);
        }
        self.area.store16(self.used + RING_FLAGS, 0, Ordering::Relaxed);
        self.area.store16(self.used + RING_INDEX, 0, Ordering::Relaxed);
        self.area.store16(self.used + split::avail_event(self.size), 0, Ordering::Relaxed);
    }

    /// Addresses of descriptor area, driver area and device area.
    pub(super) fn areas(&self) -> [PhysAddr; 3] {
        [0, self.avail, self.used].map(|offset| self.area.address() + offset as u64)
    }

    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    pub(super) fn indirect_len(&self) -> usize {
        self.indirect_len
    }

    /// The address of the indirect table of descriptor `id`.
    #[inline]
    pub(super) fn indirect_table(&self, id: u16) -> PhysAddr {
        self.area.address() + self.indirect_offset(id) as u64
    }

    #[inline]
    fn indirect_offset(&self, id: u16) -> usize {
        self.indirect + usize::from(id) * self.indirect_len * DESC_LEN
    }

    #[inline]
    pub(super) fn write_descriptor(&self, id: u16, descriptor: Descriptor) {
        debug_assert!(id < self.size);
        self.store_descriptor(usize::from(id) * DESC_LEN, descriptor);
    }

    /// Writes the descriptor at `position` in the indirect table of descriptor `id`.
    #[inline]
    pub(super) fn write_indirect(&self, id: u16, position: usize, descriptor: Descriptor) {
        debug_assert!(id < self.size && position < self.indirect_len);
        self.store_descriptor(self.indirect_offset(id) + position * DESC_LEN, descriptor);
    }

    /// Puts `id` into the entry of the available ring that belongs to `index`.
    #[inline]
    pub(super) fn write_avail(&self, index: u16, id: u16) {
        let offset = self.avail + RING_ENTRIES + usize::from(index & (self.size - 1)) * AVAIL_ENTRY_LEN;
        // Where buffers come back in the order in which they were given, it is there already: then the line is not taken away from
        // the device, which reads it.
        if self.area.load16(offset, Ordering::Relaxed) != id {
            self.area.store16(offset, id, Ordering::Relaxed);
        }
    }

    /// Moves the available index on: everything written before is the device's.
    #[inline]
    pub(super) fn publish_avail(&self, index: u16) {
        self.area.store16(self.avail + RING_INDEX, index, Ordering::Release);
    }

    #[inline]
    pub(super) fn write_avail_flags(&self, flags: u16) {
        self.area.store16(self.avail + RING_FLAGS, flags, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn write_used_event(&self, index: u16) {
        self.area.store16(self.avail + split::used_event(self.size), index, Ordering::Relaxed);
    }

    /// The used index: what the device wrote into buffers before it moved it on can be seen.
    #[inline]
    pub(super) fn used_index(&self) -> u16 {
        self.area.load16(self.used + RING_INDEX, Ordering::Acquire)
    }

    #[inline]
    pub(super) fn used_flags(&self) -> u16 {
        self.area.load16(self.used + RING_FLAGS, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn avail_event(&self) -> u16 {
        self.area.load16(self.used + split::avail_event(self.size), Ordering::Relaxed)
    }

    /// Id and length in the entry of the used ring that belongs to `index`. Each is read once.
    #[inline]
    pub(super) fn used(&self, index: u16) -> (u32, u32) {
        let entry = self.used + RING_ENTRIES + usize::from(index & (self.size - 1)) * USED_ENTRY_LEN;
        (self.area.load32(entry, Ordering::Relaxed), self.area.load32(entry + 4, Ordering::Relaxed))
    }

    #[inline]
    fn store_descriptor(&self, offset: usize, descriptor: Descriptor) {
        let [low, high] = descriptor.to_words();
        self.area.store64(offset, low, Ordering::Relaxed);
        self.area.store64(offset + 8, high, Ordering::Relaxed);
    }
}
