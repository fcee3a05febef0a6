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

/// "No buffer", in the links of [`Slot`].
const NONE: u32 = u32::MAX;

/// What is known about one buffer. It lies apart from the buffer, where the device cannot reach it.
///
/// The fields from `tail` on mean something in the first buffer of a frame only.
#[derive(Debug)]
#[repr(align(32))]
pub(super) struct Slot {
    /// The next buffer of the frame, or the next free one.
    pub(super) next: Cell<u32>,
    /// Where the data begins, from the start of the buffer.
    pub(super) start: Cell<u16>,
    /// How much data there is.
    pub(super) len: Cell<u16>,
    /// The last buffer of the frame.
    pub(super) tail: Cell<u32>,
    /// How many buffers the frame has.
    pub(super) segments: Cell<u32>,
    /// The frame's header.
    pub(super) header: Cell<NetHdr>,
}

/// What a pool and all of its frames share.
pub(super) struct Shared {
    base: NonNull<u8>,
    physical: PhysAddr,
    slots: Box<[Slot]>,
    /// The first free buffer, or [`NONE`].
    free: Cell<u32>,
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
        let count = u32::try_from(length / STRIDE).unwrap_or(NONE).min(NONE - 1);
        if count == 0 {
            return Err(PoolError::TooSmall);
        }
        let slot = |index| Slot {
            next: Cell::new(if index + 1 < count { index + 1 } else { NONE }),
            start: Cell::new(0),
            len: Cell::new(0),
            tail: Cell::new(index),
            segments: Cell::new(1),
            header: Cell::new(NetHdr::default()),
        };
        let shared = Box::new(Shared {
            base,
            physical,
            slots: (0..count).map(slot).collect(),
            free: Cell::new(0),
            available: Cell::new(count),
            handles: Cell::new(1),
            gone_at: Cell::new(NONE),
            _memory: memory,
        });
        Ok(Self { shared: NonNull::from(Box::leak(shared)) })
    }

    fn shared(&self) -> &Shared {
        // SAFETY: it is freed only when there is neither a handle nor a frame.
        unsafe { self.shared.as_ref() }
    }

    /// How many buffers there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared().slots.len()
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
        let shared = self.shared();
        let index = shared.take()?;
        let slot = shared.slot(index);
        slot.next.set(NONE);
        slot.start.set(start as u16);
        slot.len.set(0);
        slot.tail.set(index);
        slot.segments.set(1);
        slot.header.set(NetHdr::default());
        // SAFETY: the buffer was free, and is now the frame's.
        Some(unsafe { Frame::new(self.shared, index) })
    }

    /// A frame for the device to fill, of `buffers` buffers. It has no length until [`Frame::received`] gives it one.
    #[inline]
    pub(crate) fn blank(&self, buffers: usize) -> Option<Frame> {
        let mut frame = self.buffer(HEADROOM)?;
        for _ in 1..buffers {
            frame.append(self.buffer(DEVICE_START)?);
        }
        Some(frame)
    }
}

impl Shared {
    #[inline]
    pub(super) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    /// The first byte of a buffer.
    #[inline]
    pub(super) fn address(&self, index: u32) -> NonNull<u8> {
        debug_assert!((index as usize) < self.slots.len());
        // SAFETY: every buffer there is a slot for lies within the memory.
        unsafe { self.base.byte_add(index as usize * STRIDE) }
    }

    /// The same, as the device knows it.
    #[inline]
    pub(super) fn physical(&self, index: u32) -> PhysAddr {
        self.physical + u64::from(index) * STRIDE as u64
    }

    #[inline]
    fn take(&self) -> Option<u32> {
        let index = self.free.get();
        if index == NONE {
            return None;
        }
        self.free.set(self.slot(index).next.get());
        self.available.set(self.available.get() - 1);
        Some(index)
    }

    /// Another buffer for a frame, which begins at [`DEVICE_START`], with `len` bytes of data. The caller links it in.
    pub(super) fn take_further(&self, len: usize) -> Option<u32> {
        let index = self.take()?;
        let slot = self.slot(index);
        slot.next.set(NONE);
        slot.start.set(DEVICE_START as u16);
        slot.len.set(len as u16);
        Some(index)
    }

    /// Makes a chain of `count` buffers free, from `first` to `last`. Whether this was the last that kept the pool alive.
    #[inline]
    pub(super) fn put(&self, first: u32, last: u32, count: u32) -> bool {
        self.slot(last).next.set(self.free.get());
        self.free.set(first);
        let available = self.available.get() + count;
        self.available.set(available);
        available == self.gone_at.get()
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
            let count = shared.slots.len() as u32;
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

const _: () = assert!(size_of::<Slot>() == 32 && HEAD_CAPACITY <= u16::MAX as usize);
