//! The memory of a split virtqueue (virtio 1.3, section 2.7), and every access to it.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use virtio_drivers::{Hal, PhysAddr};

use crate::buffer::Region;
use crate::wire::split::{
    self, AVAIL_ENTRY_LEN, DESC_LEN, Descriptor, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_ENTRY_LEN,
};

/// Alignment of the parts: a cache line, so that what the driver writes and what the device writes never share one.
const ALIGN: usize = 64;

/// Descriptor table, available ring, used ring and tables of indirect descriptors of one queue.
///
/// Every access is atomic, since the device accesses the same memory at the same time.
#[derive(Debug)]
pub(super) struct Memory<H: Hal> {
    region: Region<H>,
    size: u16,
    avail: usize,
    used: usize,
    indirect: usize,
    /// Descriptors in each indirect table; 0 if there are none.
    indirect_len: usize,
}

impl<H: Hal> Memory<H> {
    /// Memory for `size` descriptors, a power of two, and as many tables of `indirect_len` descriptors. All zeros.
    pub(super) fn new(size: u16, indirect_len: usize) -> Option<Self> {
        assert!(size.is_power_of_two() && size <= split::MAX_QUEUE_SIZE, "the size of a split queue is a power of two");
        let avail = split::table_len(size).next_multiple_of(ALIGN);
        let used = (avail + split::avail_len(size)).next_multiple_of(ALIGN);
        let indirect = (used + split::used_len(size)).next_multiple_of(ALIGN);
        let total = indirect + indirect_len * DESC_LEN * usize::from(size);
        Some(Self { region: Region::new(total)?, size, avail, used, indirect, indirect_len })
    }

    /// Addresses of descriptor area, driver area and device area.
    pub(super) fn areas(&self) -> [PhysAddr; 3] {
        [0, self.avail, self.used].map(|offset| self.region.physical() + offset as u64)
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn indirect_len(&self) -> usize {
        self.indirect_len
    }

    /// The address of the indirect table of descriptor `id`.
    #[inline]
    pub(super) fn indirect_table(&self, id: u16) -> PhysAddr {
        self.region.physical() + self.indirect_offset(id) as u64
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
        let entry = usize::from(index & (self.size - 1));
        self.word16(self.avail + RING_ENTRIES + entry * AVAIL_ENTRY_LEN).store(id.to_le(), Ordering::Relaxed);
    }

    /// Moves the available index on: everything written before is the device's.
    #[inline]
    pub(super) fn publish_avail(&self, index: u16) {
        self.word16(self.avail + RING_INDEX).store(index.to_le(), Ordering::Release);
    }

    #[inline]
    pub(super) fn write_avail_flags(&self, flags: u16) {
        self.word16(self.avail + RING_FLAGS).store(flags.to_le(), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn write_used_event(&self, index: u16) {
        self.word16(self.avail + split::used_event(self.size)).store(index.to_le(), Ordering::Relaxed);
    }

    /// The used index: what the device wrote into buffers before it moved it on can be seen.
    #[inline]
    pub(super) fn used_index(&self) -> u16 {
        u16::from_le(self.word16(self.used + RING_INDEX).load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn used_flags(&self) -> u16 {
        u16::from_le(self.word16(self.used + RING_FLAGS).load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn avail_event(&self) -> u16 {
        u16::from_le(self.word16(self.used + split::avail_event(self.size)).load(Ordering::Relaxed))
    }

    /// Id and length in the entry of the used ring that belongs to `index`. Each is read once.
    #[inline]
    pub(super) fn used(&self, index: u16) -> (u32, u32) {
        let entry = self.used + RING_ENTRIES + usize::from(index & (self.size - 1)) * USED_ENTRY_LEN;
        let [id, length] = [entry, entry + 4].map(|offset| u32::from_le(self.word32(offset).load(Ordering::Relaxed)));
        (id, length)
    }

    #[inline]
    fn store_descriptor(&self, offset: usize, descriptor: Descriptor) {
        let [low, high] = descriptor.to_words();
        self.word64(offset).store(low.to_le(), Ordering::Relaxed);
        self.word64(offset + 8).store(high.to_le(), Ordering::Relaxed);
    }

    #[inline]
    fn word16(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset + 2 <= self.region.len());
        // SAFETY: aligned, within the region (every offset is made from indices below `size`), and only ever accessed
        // atomically.
        unsafe { AtomicU16::from_ptr(self.region.start().byte_add(offset).cast().as_ptr()) }
    }

    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= self.region.len());
        // SAFETY: as in `word16`.
        unsafe { AtomicU32::from_ptr(self.region.start().byte_add(offset).cast().as_ptr()) }
    }

    #[inline]
    fn word64(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= self.region.len());
        // SAFETY: as in `word16`.
        unsafe { AtomicU64::from_ptr(self.region.start().byte_add(offset).cast().as_ptr()) }
    }
}
