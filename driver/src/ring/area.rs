//! The memory of a ring, and every access to it.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use virtio_drivers::{Hal, PhysAddr};

use crate::buffer::Region;

/// Memory that a driver and a device use at the same time, seen as little-endian words that are accessed as a whole.
///
/// There are two: [`Dma`], and the one under the models that look for lost notifications in every order of accesses there is.
/// Offsets are in bytes from the start, are multiples of the width of the word, and do not reach beyond the length that was asked
/// for: the layouts of the rings see to that, and nothing else has access to this.
///
/// # Implementation safety
/// [`Area::address`] must be where a device finds this memory, which must be kept until the area is dropped and be used by
/// nothing else.
pub unsafe trait Area: Sized {
    /// At least `length` bytes of zeros, their start aligned to 64; nothing if there is no memory.
    fn new(length: usize) -> Option<Self>;

    /// The address by which the device knows the first byte.
    fn address(&self) -> PhysAddr;

    /// Reads 16 bits.
    fn load16(&self, offset: usize, order: Ordering) -> u16;

    /// Writes 16 bits.
    fn store16(&self, offset: usize, value: u16, order: Ordering);

    /// Reads 32 bits.
    fn load32(&self, offset: usize, order: Ordering) -> u32;

    /// Writes 32 bits.
    fn store32(&self, offset: usize, value: u32, order: Ordering);

    /// Reads 64 bits.
    fn load64(&self, offset: usize, order: Ordering) -> u64;

    /// Writes 64 bits.
    fn store64(&self, offset: usize, value: u64, order: Ordering);

    /// Puts everything before it before everything behind it, a store before a load in particular, which nothing else does.
    fn fence();
}

/// DMA memory from a [`Hal`]. Every access is atomic.
#[derive(Debug)]
pub struct Dma<H: Hal>(Region<H>);

// SAFETY: a region is DMA memory at the address that it tells, and frees it when dropped.
unsafe impl<H: Hal> Area for Dma<H> {
    fn new(length: usize) -> Option<Self> {
        Region::new(length).map(Self)
    }

    #[inline]
    fn address(&self) -> PhysAddr {
        self.0.physical()
    }

    #[inline]
    fn load16(&self, offset: usize, order: Ordering) -> u16 {
        u16::from_le(self.word16(offset).load(order))
    }

    #[inline]
    fn store16(&self, offset: usize, value: u16, order: Ordering) {
        self.word16(offset).store(value.to_le(), order);
    }

    #[inline]
    fn load32(&self, offset: usize, order: Ordering) -> u32 {
        u32::from_le(self.word32(offset).load(order))
    }

    #[inline]
    fn store32(&self, offset: usize, value: u32, order: Ordering) {
        self.word32(offset).store(value.to_le(), order);
    }

    #[inline]
    fn load64(&self, offset: usize, order: Ordering) -> u64 {
        u64::from_le(self.word64(offset).load(order))
    }

    #[inline]
    fn store64(&self, offset: usize, value: u64, order: Ordering) {
        self.word64(offset).store(value.to_le(), order);
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

impl<H: Hal> Dma<H> {
    #[inline]
    fn word16(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset.is_multiple_of(2) && offset + 2 <= self.0.len());
        // SAFETY: aligned, within the region (every offset is made from indices below the size that the region was made for), and
        // only ever accessed atomically.
        unsafe { AtomicU16::from_ptr(self.0.start().byte_add(offset).cast().as_ptr()) }
    }

    #[inline]
    fn word32(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= self.0.len());
        // SAFETY: as in `word16`.
        unsafe { AtomicU32::from_ptr(self.0.start().byte_add(offset).cast().as_ptr()) }
    }

    #[inline]
    fn word64(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset + 8 <= self.0.len());
        // SAFETY: as in `word16`.
        unsafe { AtomicU64::from_ptr(self.0.start().byte_add(offset).cast().as_ptr()) }
    }
}
