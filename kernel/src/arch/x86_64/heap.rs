//! The heap: `linked_list_allocator` behind a spin lock. Control path only; nothing on the packet path allocates.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

/// The allocator of the image.
#[global_allocator]
pub static HEAP: KernelHeap =
    KernelHeap { heap: Mutex::new(linked_list_allocator::Heap::empty()), failed: AtomicUsize::new(0) };

/// A heap that remembers the allocation it could not serve, so that the panic that follows can name it.
pub struct KernelHeap {
    heap: Mutex<linked_list_allocator::Heap>,
    failed: AtomicUsize,
}

impl KernelHeap {
    /// Gives the heap its memory.
    ///
    /// # Safety
    /// `start .. start + size` must be free, mapped memory that nothing else uses from now on. To be called once.
    pub unsafe fn init(&self, start: u64, size: usize) {
        // SAFETY: the caller's promise is the one `Heap::init` asks for.
        unsafe { self.heap.lock().init(start as *mut u8, size) }
    }

    /// Bytes in use and bytes in all.
    pub fn usage(&self) -> (usize, usize) {
        let heap = self.heap.lock();
        (heap.used(), heap.size())
    }

    /// The size in bytes of the last allocation that found no room; 0 if there was none.
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }
}

// SAFETY: `allocate_first_fit` returns blocks that fit the layout and do not overlap, and the lock serializes its
// state; `deallocate` gets back exactly what it gave, by the contract of `GlobalAlloc`.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.heap.lock().allocate_first_fit(layout) {
            Ok(block) => block.as_ptr(),
            Err(()) => {
                self.failed.store(layout.size(), Ordering::Relaxed);
                core::ptr::null_mut()
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `alloc` with this layout, so it is not null and belongs to this heap.
        unsafe { self.heap.lock().deallocate(NonNull::new_unchecked(block), layout) }
    }
}
