//! The memory of a packed virtqueue (virtio 1.3, section 2.8).

use core::sync::atomic::Ordering;

use virtio_drivers::PhysAddr;

use crate::ring::area::Area;
use crate::wire::packed::{self, DESC_LEN, DESC_LENGTH, Descriptor, EVENT_LEN, Event};

/// Alignment of the parts: a cache line, so that the ring and what each side says of notifications are apart.
const ALIGN: usize = 64;

/// Descriptor ring, event suppression structures and tables of indirect descriptors of one queue.
#[derive(Debug)]
pub(super) struct Memory<A> {
    area: A,
    size: u16,
    driver: usize,
    device: usize,
    indirect: usize,
    /// Descriptors in each indirect table; 0 if there are none.
    indirect_len: usize,
}

impl<A: Area> Memory<A> {
    /// Memory for `size` descriptors and as many tables of `indirect_len` descriptors. All zeros.
    pub(super) fn new(size: u16, indirect_len: usize) -> Option<Self> {
        assert!((1..=packed::MAX_QUEUE_SIZE).contains(&size), "a packed queue has 1 to 32768 descriptors");
        let driver = packed::ring_len(size).next_multiple_of(ALIGN);
        let device = (driver + EVENT_LEN).next_multiple_of(ALIGN);
        let indirect = (device + EVENT_LEN).next_multiple_of(ALIGN);
        let total = indirect + indirect_len * DESC_LEN * usize::from(size);
        Some(Self { area: A::new(total)?, size, driver, device, indirect, indirect_len })
    }

    /// Makes the ring and what both sides say of notifications as they were when new.
    pub(super) fn clear(&self) {
        for index in 0..self.size {
            self.write_tail(index, 0, Ordering::Relaxed);
        }
        self.area.store32(self.driver, 0, Ordering::Relaxed);
        self.area.store32(self.device, 0, Ordering::Relaxed);
    }

    /// Addresses of descriptor area, driver area and device area.
    pub(super) fn areas(&self) -> [PhysAddr; 3] {
        [0, self.driver, self.device].map(|offset| self.area.address() + offset as u64)
    }

    #[inline]
    pub(super) fn size(&self) -> u16 {
        self.size
    }

    #[inline]
    pub(super) fn indirect_len(&self) -> usize {
        self.indirect_len
    }

    /// Writes the address of the descriptor at `index`.
    #[inline]
    pub(super) fn write_address(&self, index: u16, address: PhysAddr) {
        debug_assert!(index < self.size);
        self.area.store64(usize::from(index) * DESC_LEN, address, Ordering::Relaxed);
    }

    /// Writes the rest of the descriptor at `index`, in one store; see [`Descriptor::tail`].
    #[inline]
    pub(super) fn write_tail(&self, index: u16, tail: u64, order: Ordering) {
        debug_assert!(index < self.size);
        self.area.store64(usize::from(index) * DESC_LEN + DESC_LENGTH, tail, order);
    }

    /// Length, id and flags of the descriptor at `index`, read once and together. If the flags say that it is used, then what
    /// the device wrote into the buffer can be seen.
    #[inline]
    pub(super) fn tail(&self, index: u16) -> Descriptor {
        debug_assert!(index < self.size);
        Descriptor::from_words(0, self.area.load64(usize::from(index) * DESC_LEN + DESC_LENGTH, Ordering::Acquire))
    }

    /// The address of the indirect table of the buffer `id`. Not of a place in the ring: that is used again while the buffers
    /// that lay there may still be with the device, if it uses them in another order.
    #[inline]
    pub(super) fn indirect_table(&self, id: u16) -> PhysAddr {
        self.area.address() + self.indirect_offset(id) as u64
    }

    #[inline]
    fn indirect_offset(&self, id: u16) -> usize {
        self.indirect + usize::from(id) * self.indirect_len * DESC_LEN
    }

    /// Writes the descriptor at `position` in the indirect table of the buffer `id`.
    #[inline]
    pub(super) fn write_indirect(&self, id: u16, position: usize, descriptor: Descriptor) {
        debug_assert!(id < self.size && position < self.indirect_len);
        let offset = self.indirect_offset(id) + position * DESC_LEN;
        self.area.store64(offset, descriptor.address, Ordering::Relaxed);
        self.area.store64(offset + DESC_LENGTH, descriptor.tail(), Ordering::Relaxed);
    }

    /// Says when this side wants to be interrupted.
    #[inline]
    pub(super) fn write_event(&self, event: Event) {
        self.area.store32(self.driver, event.word(), Ordering::Relaxed);
    }

    /// When the device wants its doorbell to be rung.
    #[inline]
    pub(super) fn device_event(&self) -> Event {
        Event::parse(self.area.load32(self.device, Ordering::Relaxed))
    }
}
