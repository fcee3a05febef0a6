//! A frame: a chain of buffers, owned.

use core::fmt;
use core::ptr::NonNull;

use virtio_drivers::PhysAddr;

use super::pool::{MAX_BUFFERS, Shared, Slot, free};
use super::{DEVICE_CAPACITY, DEVICE_START, HEADROOM, STRIDE};
use crate::wire::NetHdr;

/// There are too few free buffers, or there is too little room in front of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room")]
pub struct Full;

/// One Ethernet frame (without preamble and frame check sequence) in one buffer or a chain of them, with its
/// [`NetHdr`].
///
/// It belongs to whoever has it. Dropped, its buffers go back to their pool.
#[repr(transparent)]
pub struct Frame {
    /// Of the first buffer.
    slot: NonNull<Slot>,
}

impl Frame {
    /// # Safety
    /// The slot must be that of a buffer that was free and belongs to nothing else now.
    #[inline]
    pub(super) unsafe fn new(slot: &Slot) -> Self {
        Self { slot: NonNull::from(slot) }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        // SAFETY: the pool is freed only after the last frame.
        unsafe { self.slot.as_ref() }
    }

    #[inline]
    fn shared(&self) -> &Shared {
        // SAFETY: as above.
        unsafe { self.slot().shared.as_ref() }
    }

    /// The slot of the last buffer.
    #[inline]
    fn tail(&self) -> &Slot {
        // SAFETY: as above.
        unsafe { self.slot().tail.get().as_ref() }
    }

    /// Makes a frame of one buffer empty, with data that begins at `start`.
    pub(super) fn clear(&mut self, start: usize) {
        let slot = self.slot();
        slot.start.set(start as u16);
        slot.filled.set(0);
        slot.len.set(0);
    }

    /// Bytes of the frame, Ethernet header included.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.slot().len.get() as usize
    }

    /// Whether there is nothing in it.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slot().len.get() == 0
    }

    /// How many buffers the frame lies in.
    #[inline]
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.slot().segments.get().into()
    }

    /// The header: as the device gave it, checked, or as [`Frame::set_header`] set it. `num_buffers` means nothing.
    #[inline]
    #[must_use]
    pub fn header(&self) -> NetHdr {
        self.slot().header.get()
    }

    /// Sets the header that the frame is to be transmitted with. `num_buffers` is ignored.
    #[inline]
    pub fn set_header(&mut self, header: NetHdr) {
        self.slot().header.set(header);
    }

    /// The first bytes, as many as lie together: the whole frame or at least the first 2000 bytes, if the device fills its
    /// buffers as all do.
    #[inline]
    #[must_use]
    pub fn head(&self) -> &[u8] {
        let slot = self.slot();
        // SAFETY: `start .. start + filled` lies in the buffer, which is initialised and belongs to this frame.
        unsafe { core::slice::from_raw_parts(data(slot).cast_const(), usize::from(slot.filled.get())) }
    }

    /// The same bytes, to be changed.
    #[inline]
    #[must_use]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let slot = self.slot();
        // SAFETY: as in `head`, and `self` is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(data(slot), usize::from(slot.filled.get())) }
    }

    /// The room in front of the frame, which [`Frame::prepend`] makes part of it from its end on, and the first bytes of the
    /// frame, as [`Frame::head_mut`].
    #[inline]
    #[must_use]
    pub fn room_and_head_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let slot = self.slot();
        let (start, filled) = (usize::from(slot.start.get()), usize::from(slot.filled.get()));
        let room = start.saturating_sub(NetHdr::LEN);
        // SAFETY: `start - room .. start + filled` lies in the buffer, which is initialised and belongs to this frame, and `self` is
        // borrowed mutably.
        let bytes = unsafe { core::slice::from_raw_parts_mut(data(slot).sub(room), room + filled) };
        bytes.split_at_mut(room)
    }

    /// All pieces of the frame, in order.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.slots().map(|slot| {
            // SAFETY: `start .. start + filled` lies in the buffer, which is initialised and belongs to this frame.
            unsafe { core::slice::from_raw_parts(data(slot).cast_const(), usize::from(slot.filled.get())) }
        })
    }

    /// All pieces of the frame, in order, to be changed.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.slots().map(|slot| {
            // SAFETY: as in `segments`; the frame is borrowed mutably, and each buffer comes up once.
            unsafe { core::slice::from_raw_parts_mut(data(slot), usize::from(slot.filled.get())) }
        })
    }

    /// Copies the frame, as much of it as `target` holds. How many bytes that were.
    pub fn copy_to_slice(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.segments() {
            let length = segment.len().min(target.len() - done);
            target[done..done + length].copy_from_slice(&segment[..length]);
            done += length;
        }
        done
    }

    /// Overwrites the frame from its start with `source`, as far as both go. How many bytes that were.
    pub fn copy_from_slice(&mut self, source: &[u8]) -> usize {
        let mut done = 0;
        for segment in self.segments_mut() {
            let length = segment.len().min(source.len() - done);
            segment[..length].copy_from_slice(&source[done..done + length]);
            done += length;
        }
        done
    }

    /// Cuts the frame to `len` bytes; buffers that are not needed for them become free. Does nothing if it is not longer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.cut(len);
        }
    }

    /// Puts `count` bytes in front of the frame, whose contents are whatever was there before: room for another header.
    /// Offsets in the header are not changed.
    ///
    /// # Errors
    /// If there is less room than that; a frame as it is received or made has 128 bytes.
    pub fn prepend(&mut self, count: usize) -> Result<(), Full> {
        let slot = self.slot();
        let start = usize::from(slot.start.get());
        if count > start.saturating_sub(NetHdr::LEN) {
            return Err(Full);
        }
        slot.start.set((start - count) as u16);
        slot.filled.set(slot.filled.get() + count as u16);
        slot.len.set(slot.len.get() + count as u32);
        Ok(())
    }

    /// Takes up to `count` bytes away from the front of the frame, at most those that lie in its first buffer. How many that
    /// were. Offsets in the header are not changed.
    pub fn trim_front(&mut self, count: usize) -> usize {
        let slot = self.slot();
        let count = count.min(usize::from(slot.filled.get()));
        slot.start.set(slot.start.get() + count as u16);
        slot.filled.set(slot.filled.get() - count as u16);
        slot.len.set(slot.len.get() - count as u32);
        count
    }

    /// Makes the frame `len` bytes long, if it is shorter; what is added is whatever was there before.
    ///
    /// # Errors
    /// If there are too few free buffers; the frame is longer then than it was, but not as long as it should be.
    pub fn grow(&mut self, len: usize) -> Result<(), Full> {
        let head = self.slot();
        while self.len() < len {
            let missing = len - self.len();
            let tail = self.tail();
            let room = STRIDE - usize::from(tail.start.get()) - usize::from(tail.filled.get());
            let added = if room > 0 {
                let added = room.min(missing);
                tail.filled.set(tail.filled.get() + added as u16);
                added
            } else if head.segments.get() < MAX_BUFFERS {
                let added = missing.min(DEVICE_CAPACITY);
                let further = NonNull::from(self.shared().take_further(added).ok_or(Full)?);
                tail.next.set(Some(further));
                head.tail.set(further);
                head.segments.set(head.segments.get() + 1);
                added
            } else {
                return Err(Full);
            };
            head.len.set(head.len.get() + added as u32);
        }
        Ok(())
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Errors
    /// If there are too few free buffers; the frame is as it was.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let before = self.len();
        if let Err(full) = self.grow(before + bytes.len()) {
            self.truncate(before);
            return Err(full);
        }
        let mut skip = before;
        let mut rest = bytes;
        for segment in self.segments_mut() {
            let from = skip.min(segment.len());
            skip -= from;
            let count = rest.len().min(segment.len() - from);
            segment[from..from + count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Chains the buffers of `other`, which must be of the same pool, behind this frame's; the header of `other` is lost. There
    /// must be no more than [`MAX_BUFFERS`] in all.
    #[inline]
    pub(crate) fn append(&mut self, other: Frame) {
        debug_assert_eq!(self.slot().shared, other.slot().shared);
        let (head, further) = (self.slot(), other.slot());
        self.tail().next.set(Some(other.slot));
        head.tail.set(further.tail.get());
        head.segments.set(head.segments.get() + further.segments.get());
        head.len.set(head.len.get() + further.len.get());
        further.stand_alone();
        // Its buffers are this frame's now.
        core::mem::forget(other);
    }

    /// The first buffers, and the bytes of the frame, that lie before position `len`; everything else becomes free.
    #[cold]
    fn cut(&mut self, len: usize) {
        let head = self.slot();
        let (mut kept, mut left) = (0, len);
        for slot in self.slots() {
            kept += 1;
            let here = usize::from(slot.filled.get());
            if left <= here || kept == head.segments.get() {
                slot.filled.set(left.min(here) as u16);
                let (tail, surplus) = (self.tail(), head.segments.get() - kept);
                head.tail.set(NonNull::from(slot));
                head.segments.set(kept);
                if surplus > 0
                    && let Some(first) = slot.following()
                {
                    // This frame still has a buffer, so the pool cannot be gone by this.
                    self.shared().put(first, tail, surplus);
                }
                break;
            }
            left -= here;
        }
        head.len.set(len as u32);
    }

    /// The slots of the buffers, in order.
    #[inline]
    fn slots(&self) -> impl Iterator<Item = &Slot> {
        let first = (self.slot(), self.slot().segments.get());
        core::iter::successors(Some(first), |&(slot, left)| {
            let next = if left > 1 { slot.following() } else { None };
            next.map(|next| (next, left - 1))
        })
        .map(|(slot, _)| slot)
    }
}

/// The first byte of data in a buffer.
#[inline]
fn data(slot: &Slot) -> *mut u8 {
    // SAFETY: `start` is at most the length of a buffer.
    unsafe { slot.address.as_ptr().add(usize::from(slot.start.get())) }
}

/// What the device sees of a frame.
impl Frame {
    /// What is to be posted so that the device fills the frame: address and length of each buffer, header included.
    #[inline]
    pub(crate) fn blank_segments(&self) -> impl Iterator<Item = (PhysAddr, u32)> + '_ {
        self.slots().map(|slot| (slot.physical + DEVICE_START as u64, DEVICE_CAPACITY as u32))
    }

    /// Address and length for the first buffer alone.
    #[inline]
    pub(crate) fn blank_segment(&self) -> (PhysAddr, u32) {
        (self.slot().physical + DEVICE_START as u64, DEVICE_CAPACITY as u32)
    }

    /// The device has written `written` bytes into the buffers of a [`Pool::blank`](super::Pool::blank), in order, beginning
    /// with the header. Gives the frame its length, and returns the header, for the caller to check and to set; buffers without
    /// data become free.
    ///
    /// `written` must be at least [`NetHdr::LEN`] and at most the capacity of the buffers.
    #[inline]
    pub(crate) fn received(&mut self, written: usize) -> NetHdr {
        debug_assert!((NetHdr::LEN..=self.segment_count() * DEVICE_CAPACITY).contains(&written));
        // SAFETY: the header lies at the front of what the device was given of the first buffer, 4-aligned, and the buffer is
        // the frame's again. Each word is read once, and only the copy is used: the device may still be writing there,
        // though it must not.
        let words = unsafe {
            let words = self.slot().address.byte_add(DEVICE_START).cast::<u32>().as_ptr();
            [words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile()]
        };
        let [a, b, c] = words.map(u32::to_ne_bytes);
        let bytes = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]];
        let header = NetHdr::parse(&bytes);
        let slot = self.slot();
        slot.start.set(HEADROOM as u16);
        let length = written - NetHdr::LEN;
        if slot.segments.get() == 1 {
            slot.filled.set(length as u16);
            slot.len.set(length as u32);
        } else {
            self.received_chain(length);
        }
        header
    }

    fn received_chain(&mut self, length: usize) {
        let mut capacity = 0;
        for slot in self.slots() {
            slot.filled.set((STRIDE - usize::from(slot.start.get())) as u16);
            capacity += u32::from(slot.filled.get());
        }
        self.slot().len.set(capacity);
        self.truncate(length);
    }

    /// Keeps what the device says it wrote as the frame's length, until [`Frame::received`] is told.
    #[inline]
    pub(crate) fn set_written(&mut self, written: u32) {
        self.slot().len.set(written);
    }

    /// Has the processor fetch the line that the device wrote first: the header and the frame's headers.
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let address = self.slot().address.as_ptr().cast::<i8>().cast_const();
            // SAFETY: prefetching accesses nothing; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.add(DEVICE_START)) };
        }
    }

    /// The device has written as many bytes into this buffer as the frame's length says; it continues a frame that began in
    /// another one.
    #[inline]
    pub(crate) fn received_further(&mut self) {
        let slot = self.slot();
        let written = slot.len.get().min(DEVICE_CAPACITY as u32);
        slot.start.set(DEVICE_START as u16);
        slot.filled.set(written as u16);
        slot.len.set(written);
    }

    /// Writes a header in front of the frame, for the device to read; `num_buffers` as zero.
    #[inline]
    pub(crate) fn write_header(&mut self, header: &NetHdr) {
        debug_assert!(usize::from(self.slot().start.get()) >= NetHdr::LEN);
        // SAFETY: a frame never begins in the first 12 bytes of a buffer: `prepend` sees to it, and all else begins later.
        let place = unsafe { data(self.slot()).sub(NetHdr::LEN) };
        let (first, rest) = if header.is_plain() { (0, 0) } else { NetHdr { num_buffers: 0, ..*header }.to_words() };
        // SAFETY: as above. In words, since byte by byte it would be a dozen stores to memory that another processor has.
        unsafe {
            place.cast::<u64>().write_unaligned(first);
            place.add(size_of::<u64>()).cast::<u32>().write_unaligned(rest);
        }
    }

    /// What is to be posted for the device to send the frame: address and length of each buffer, header included.
    #[inline]
    pub(crate) fn filled_segments(&self) -> impl Iterator<Item = (PhysAddr, u32)> + '_ {
        self.slots().enumerate().map(|(nth, slot)| filled(slot, if nth == 0 { NetHdr::LEN as u32 } else { 0 }))
    }

    /// Address and length for the first buffer alone.
    #[inline]
    pub(crate) fn filled_segment(&self) -> (PhysAddr, u32) {
        filled(self.slot(), NetHdr::LEN as u32)
    }
}

/// Address and length of the data in a buffer, and of `before` bytes in front of it.
#[inline]
fn filled(slot: &Slot, before: u32) -> (PhysAddr, u32) {
    (slot.physical + u64::from(slot.start.get()) - u64::from(before), u32::from(slot.filled.get()) + before)
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        let slot = self.slot();
        let (tail, segments) = (self.tail(), slot.segments.get());
        if segments > 1 {
            slot.stand_alone();
        }
        if self.shared().put(slot, tail, segments) {
            // SAFETY: `put` says that there is no handle any more, and that every buffer is free: this was the last frame.
            unsafe { free(slot.shared) };
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len())
            .field("segments", &self.segment_count())
            .field("header", &self.header())
            .finish()
    }
}

const _: () = assert!(size_of::<Option<Frame>>() == size_of::<usize>());
