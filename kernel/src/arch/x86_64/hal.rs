//! DMA memory for the driver: memory is mapped one to one, so a pointer is an address.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The [`Hal`] of an identity map.
#[derive(Debug)]
pub struct IdentityHal;

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: `dma_alloc` gives pages of the heap, page-aligned, zeroed and not shared with anything else until they are given back;
// they are mapped one to one, so that their address is their physical address.
unsafe impl Hal for IdentityHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let none = (0, NonNull::dangling());
        let Some(layout) = layout(pages).filter(|layout| layout.size() > 0) else { return none };
        // SAFETY: the layout is not empty: just checked.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(memory) => (memory.as_ptr() as PhysAddr, memory),
            None => none,
        }
    }

    unsafe fn dma_dealloc(_address: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        let Some(layout) = layout(pages) else { return -1 };
        // SAFETY: by the contract of this function `memory` came from `dma_alloc` with as many pages, so with this layout.
        unsafe { dealloc(memory.as_ptr(), layout) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        // Device registers are mapped, uncached, between 3 and 4 GiB. A device elsewhere cannot be reached, and there is no
        // way to say so here but to stop.
        let end = address.checked_add(size as u64);
        assert!(
            address >= super::boot::MEMORY_LIMIT && end.is_some_and(|end| end <= 1 << 32),
            "device registers at {address:#x} are outside of 3 to 4 GiB"
        );
        // SAFETY: not null: at least 3 GiB.
        unsafe { NonNull::new_unchecked(address as *mut u8) }
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_address: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}
