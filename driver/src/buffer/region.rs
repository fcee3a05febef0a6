//! Memory from the operating system for DMA.

use core::marker::PhantomData;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Zeroed pages that device and driver both see, given back when dropped.
#[derive(Debug)]
pub(crate) struct Region<H: Hal> {
    physical: PhysAddr,
    start: NonNull<u8>,
    pages: usize,
    hal: PhantomData<H>,
}

impl<H: Hal> Region<H> {
    /// At least `length` bytes, or nothing if the operating system has none.
    pub(crate) fn new(length: usize) -> Option<Self> {
        let pages = length.div_ceil(PAGE_SIZE).max(1);
        let (physical, start) = H::dma_alloc(pages, BufferDirection::Both);
        (physical != 0).then_some(Self { physical, start, pages, hal: PhantomData })
    }

    /// The address by which the device knows the first byte.
    pub(crate) fn physical(&self) -> PhysAddr {
        self.physical
    }

    /// The first byte, aligned to a page.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pages * PAGE_SIZE
    }
}

impl<H: Hal> Drop for Region<H> {
    fn drop(&mut self) {
        // SAFETY: these are the values that `dma_alloc` gave, and they are given back once. There is nothing to be done
        // about an error.
        let _ = unsafe { H::dma_dealloc(self.physical, self.start, self.pages) };
    }
}
