//! A pool of buffers.

use alloc::boxed::Box;
use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use super::{DEVICE_START, Frame, HEAD_CAPACITY, HEADROOM, Region, STRIDE};
use crate::wire::NetHdr;

/// Why there is no pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The memory does not hold a single buffer.
    #[error("the memory for packet buffers does not hold one buffer")]
    TooSmall,
    /// The operating system gave no memory.
    #[error("there is no DMA memory for packet buffers")]
    NoMemory,
}

/// A number of buffers that there never is.
const NEVER: u32 = u32::MAX;

/// What is known about one buffer: one cache line. It lies apart from the buffer, where the device cannot reach it.
///
/// A [`Frame`] is a pointer to the slot of its first buffer and nothing else: it travels in a register. With a length or an
/// index beside the pointer it would travel through memory, be written in parts and read as a whole, for which a processor
/// has to wait until the parts have reached the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    /// The pool's.
    pub(super) shared: NonNull<Shared>,
    /// The first byte of the buffer.
    pub(super) address: NonNull<u8>,
    /// The same, as the device knows it.
    pub(super) physical: PhysAddr,
    /// The next buffer of the frame, or the next free one.
    pub(super) next: Cell<Option<NonNull<Slot>>>,
    /// The last buffer of the frame, in its first one; else the buffer itself.
    pub(super) tail: Cell<NonNull<Slot>>,
    /// The frame's header, in its first buffer.
    pub(super) header: Cell<NetHdr>,
    /// Bytes of the frame, in its first buffer.
    pub(super) len: Cell<u32>,
    /// Where the data begins, from the start of the buffer.
    pub(super) start: Cell<u16>,
    /// How much data is in this buffer.
    pub(super) filled: Cell<u16>,
    /// How many buffers the frame has, in its first one; else 1.
    pub(super) segments: Cell<u16>,
}

/// The most buffers a frame can have.
pub(super) const MAX_BUFFERS: u16 = u16::MAX;

impl Slot {
    /// The slot behind it in the list that it is in: of a frame's buffers or of the free ones.
    #[inline]
    pub(super) fn following(&self) -> Option<&Slot> {
        // SAFETY: only slots of the same pool are linked, and all of them live as long as each of them.
        self.next.get().map(|next| unsafe { next.as_ref() })
    }

    /// Makes it the slot of a buffer that is a frame by itself, or none: as all are that do not begin a longer one.
    #[inline]
    pub(super) fn stand_alone(&self) {
        self.tail.set(NonNull::from(self));
        self.segments.set(1);
    }
}

/// What a pool and all of its frames share.
pub(super) struct Shared {
    /// From a box; dropped with this.
    slots: NonNull<[Slot]>,
    /// The first free buffer.
    free: Cell<Option<NonNull<Slot>>>,
    available: Cell<u32>,
    handles: Cell<u32>,
    /// The pool goes when this many buffers are free: all of them, once there is no handle left; before that, never.
    gone_at: Cell<u32>,
    /// Frees the memory when dropped, if it was allocated.
    _memory: Option<Box<dyn Any>>,
}

/// Memory cut into buffers of [`STRIDE`] bytes. Cloning makes another handle to the same buffers.
///
/// The memory is kept until the last handle and the last frame are gone.
pub struct Pool {
    shared: NonNull<Shared>,
}

impl Pool {
    /// Cuts `memory` into buffers and shares it with the device, for good.
    ///
    /// [`Hal::share`] is asked once, for everything and both directions: it must map memory (or do nothing), not copy it.
    ///
    /// # Errors
    /// If `memory` does not hold one buffer.
    pub fn new<H: Hal>(memory: &'static mut [u8]) -> Result<Self, PoolError> {
        let skip = memory.as_ptr().align_offset(64);
        let memory = memory.get_mut(skip..).filter(|memory| memory.len() >= STRIDE).ok_or(PoolError::TooSmall)?;
        let slice = NonNull::from(&mut *memory);
        // SAFETY: a valid slice, not empty, which nobody else can reach.
        let physical = unsafe { H::share(slice, BufferDirection::Both) };
        // SAFETY: the slice lives for good and belongs to the pool now.
        unsafe { Self::build(slice.cast(), physical, slice.len(), None) }
    }

    /// Allocates memory for at least `buffers` buffers with [`Hal::dma_alloc`].
    ///
    /// # Errors
    /// If there is no such memory.
    pub fn allocate<H: Hal + 'static>(buffers: usize) -> Result<Self, PoolError> {
        let length = buffers.max(1).checked_mul(STRIDE).ok_or(PoolError::NoMemory)?;
        let region = Region::<H>::new(length).ok_or(PoolError::NoMemory)?;
        let (start, physical, length) = (region.start(), region.physical(), region.len());
        // SAFETY: the region is valid, zeroed, and kept as long as the buffers are.
        unsafe { Self::build(start, physical, length, Some(Box::new(region))) }
    }

    /// # Safety
    /// `base .. base + length` must be initialised memory that is valid until `memory` is dropped and is used by nobody else.
    unsafe fn build(
        base: NonNull<u8>,
        physical: PhysAddr,
        length: usize,
        memory: Option<Box<dyn Any>>,
    ) -> Result<Self, PoolError> {
        let count = u32::try_from(length / STRIDE).unwrap_or(NEVER).min(NEVER - 1);
        if count == 0 {
            return Err(PoolError::TooSmall);
        }
        let shared = NonNull::from(Box::leak(Box::new(Shared {
            slots: NonNull::from(&mut []),
            free: Cell::new(None),
            available: Cell::new(count),
            handles: Cell::new(1),
            gone_at: Cell::new(NEVER),
            _memory: memory,
        })));
        let slot = |index: u32| {
            let offset = index as usize * STRIDE;
            Slot {
                shared,
                // SAFETY: every buffer there is a slot for lies within the memory.
                address: unsafe { base.byte_add(offset) },
                physical: physical + offset as PhysAddr,
                next: Cell::new(None),
                // Until it is known where the slot lies.
                tail: Cell::new(NonNull::dangling()),
                header: Cell::new(NetHdr::default()),
                len: Cell::new(0),
                start: Cell::new(0),
                filled: Cell::new(0),
                segments: Cell::new(1),
            }
        };
        let slots = NonNull::from(Box::leak((0..count).map(slot).collect::<Box<[Slot]>>()));
        let mut next = None;
        // SAFETY: just made, and never referred to in another way than this.
        for slot in unsafe { slots.as_ref() }.iter().rev() {
            slot.stand_alone();
            slot.next.set(next);
            next = Some(NonNull::from(slot));
        }
        // SAFETY: it was made above, and nobody else knows of it.
        let begun = unsafe { &mut *shared.as_ptr() };
        (begun.slots, begun.free) = (slots, Cell::new(next));
        Ok(Self { shared })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is freed only when there is neither a handle nor a frame.
        unsafe { self.shared.as_ref() }
    }

    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared().slots().len()
    }

    /// How many buffers are free.
    #[must_use]
    #[inline]
    pub fn available(&self) -> usize {
        self.shared().available.get() as usize
    }

    /// A frame of `len` bytes whose contents are whatever was there before; its header is all zeros. Nothing if there are too
    /// few free buffers.
    #[must_use]
    pub fn frame(&self, len: usize) -> Option<Frame> {
        let mut frame = self.buffer(HEADROOM)?;
        frame.grow(len).ok().map(|()| frame)
    }

    /// A frame with a copy of `bytes`; its header is all zeros. Nothing if there are too few free buffers.
    #[must_use]
    pub fn frame_from(&self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.frame(bytes.len())?;
        frame.copy_from_slice(bytes);
        Some(frame)
    }

    /// A copy of a frame, header included, in as few buffers as can be. Nothing if there are too few free buffers.
    #[must_use]
    pub fn copy_of(&self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.frame(0)?;
        for segment in frame.segments() {
            copy.extend_from_slice(segment).ok()?;
        }
        copy.set_header(frame.header());
        Some(copy)
    }

    /// A frame of one buffer, of length 0, whose data begins at `start`.
    #[inline]
    pub(super) fn buffer(&self, start: usize) -> Option<Frame> {
        let slot = self.shared().take()?;
        slot.start.set(start as u16);
        slot.filled.set(0);
        slot.len.set(0);
        slot.header.set(NetHdr::default());
        // SAFETY: the buffer was free, and is now the frame's.
        Some(unsafe { Frame::new(slot) })
    }

    /// A frame for the device to fill, of `buffers` buffers. It has neither length nor header until [`Frame::received`] gives
    /// it them.
    #[inline]
    pub(crate) fn blank(&self, buffers: usize) -> Option<Frame> {
        // SAFETY: the buffer was free, and is now the frame's.
        let mut frame = unsafe { Frame::new(self.shared().take()?) };
        if buffers > 1 {
            self.add_blank(&mut frame, buffers - 1)?;
        }
        Some(frame)
    }

    #[cold]
    fn add_blank(&self, frame: &mut Frame, buffers: usize) -> Option<()> {
        frame.clear(HEADROOM);
        for _ in 0..buffers {
            frame.append(self.buffer(DEVICE_START)?);
        }
        Some(())
    }
}

impl Shared {
    #[inline]
    fn slots(&self) -> &[Slot] {
        // SAFETY: they are freed with this, and there are only shared references to them.
        unsafe { self.slots.as_ref() }
    }

    #[inline]
    fn take(&self) -> Option<&Slot> {
        // SAFETY: what is free is one of the slots, which live as long as this.
        let slot = unsafe { self.free.get()?.as_ref() };
        self.free.set(slot.next.get());
        self.available.set(self.available.get() - 1);
        Some(slot)
    }

    /// Another buffer for a frame, which begins at [`DEVICE_START`], with `filled` bytes of data. The caller links it in.
    pub(super) fn take_further(&self, filled: usize) -> Option<&Slot> {
        let slot = self.take()?;
        slot.start.set(DEVICE_START as u16);
        slot.filled.set(filled as u16);
        Some(slot)
    }

    /// Makes a chain of `count` buffers free, from `first` to `last`, of which each [stands alone](Slot::stand_alone). Whether
    /// this was the last that kept the pool alive.
    #[inline]
    pub(super) fn put(&self, first: &Slot, last: &Slot, count: u16) -> bool {
        last.next.set(self.free.get());
        self.free.set(Some(NonNull::from(first)));
        let available = self.available.get() + u32::from(count);
        self.available.set(available);
        available == self.gone_at.get()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: they came from a box, and whoever drops this promises that there is no frame left.
        drop(unsafe { Box::from_raw(self.slots.as_ptr()) });
    }
}

impl Clone for Pool {
    fn clone(&self) -> Self {
        let handles = &self.shared().handles;
        // More than 2^32 handles do not fit into memory unless they are forgotten; then the pool just stays.
        handles.set(handles.get().saturating_add(1));
        Self { shared: self.shared }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let shared = self.shared();
        let handles = shared.handles.get();
        if handles == u32::MAX {
            return;
        }
        shared.handles.set(handles - 1);
        if handles == 1 {
            let count = shared.slots().len() as u32;
            shared.gone_at.set(count);
            if shared.available.get() == count {
                // SAFETY: this was the last handle, and every buffer is free: there is no frame.
                unsafe { free(self.shared) };
            }
        }
    }
}

/// Frees a pool.
///
/// # Safety
/// There must be no handle and no frame left.
#[cold]
pub(super) unsafe fn free(shared: NonNull<Shared>) {
    // SAFETY: it came from a box, and the caller promises that nobody uses it any more.
    drop(unsafe { Box::from_raw(shared.as_ptr()) });
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} buffers free)", self.available(), self.capacity())
    }
}

const _: () = assert!(size_of::<Slot>() == 64 && HEAD_CAPACITY <= u16::MAX as usize);
