//! The operating system's part: memory, and who may reach it.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// What physical addresses are off by, so that the two kinds are not mixed up unnoticed.
const OFFSET: PhysAddr = 1 << 60;

/// Memory of the process, which devices know by other addresses than the driver does.
///
/// What is allocated or shared is written down, and a [`Device`](super::Device) reaches nothing else.
#[derive(Debug)]
pub struct FakeHal;

/// Start and length of what devices can reach.
static SHARED: Mutex<BTreeMap<PhysAddr, usize>> = Mutex::new(BTreeMap::new());

fn shared() -> MutexGuard<'static, BTreeMap<PhysAddr, usize>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter(pointer: NonNull<u8>, length: usize) -> PhysAddr {
    let physical = pointer.as_ptr().expose_provenance() as PhysAddr + OFFSET;
    shared().insert(physical, length);
    physical
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a number of pages that fits into memory")
}

// SAFETY: the memory is fresh from the allocator, zeroed and aligned to a page; there is no MMIO.
unsafe impl Hal for FakeHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = layout(pages.max(1));
        // SAFETY: the layout is not empty.
        let Some(pointer) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        (enter(pointer, layout.size()), pointer)
    }

    unsafe fn dma_dealloc(physical: PhysAddr, pointer: NonNull<u8>, pages: usize) -> i32 {
        shared().remove(&physical).expect("memory is freed once");
        // SAFETY: the caller promises that it came from `dma_alloc`, with as many pages.
        unsafe { dealloc(pointer.as_ptr(), layout(pages.max(1))) };
        0
    }

    unsafe fn mmio_phys_to_virt(_physical: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("the fake device has no registers in memory")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        enter(buffer.cast(), buffer.len())
    }

    unsafe fn unshare(physical: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {
        shared().remove(&physical);
    }
}

/// Whether `length` bytes from `physical` on are all shared with devices, in one piece.
fn is_within(shared: &BTreeMap<PhysAddr, usize>, physical: PhysAddr, length: usize) -> bool {
    shared.range(..=physical).next_back().is_some_and(|(&start, &size)| {
        usize::try_from(physical - start).is_ok_and(|offset| offset <= size && length <= size - offset)
    })
}

/// Whether a device can reach `length` bytes at `physical`.
pub(super) fn is_shared(physical: PhysAddr, length: usize) -> bool {
    is_within(&shared(), physical, length)
}

/// Runs `access` on the memory at `physical`.
///
/// # Panics
/// If it is not all shared with devices.
fn reach<R>(physical: PhysAddr, length: usize, access: impl FnOnce(*mut u8) -> R) -> R {
    let shared = shared();
    assert!(
        is_within(&shared, physical, length),
        "the driver gave the device {length} bytes at {physical:#x}, which are not shared with it"
    );
    access(core::ptr::with_exposed_provenance_mut((physical - OFFSET) as usize))
}

/// Where the driver sees what the device knows as `physical`.
#[cfg(test)]
pub(crate) fn pointer(physical: PhysAddr) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((physical - OFFSET) as usize)
}

/// Reads memory as a device does.
pub(crate) fn read(physical: PhysAddr, target: &mut [u8]) {
    reach(physical, target.len(), |pointer| {
        // SAFETY: the memory is live, for it is written down, and the driver does not access it now (one thread).
        unsafe { pointer.copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) };
    });
}

/// Writes memory as a device does.
pub(crate) fn write(physical: PhysAddr, source: &[u8]) {
    reach(physical, source.len(), |pointer| {
        // SAFETY: as in `read`.
        unsafe { pointer.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
    });
}
