//! Memory shared with the kernel for an AF_XDP socket (Linux, Documentation/networking/af_xdp.rst): the area that frames lie in, and
//! the four rings through which their places go back and forth.
//!
//! The kernel is the other side, and it is trusted as it is in any system call; what it writes is nevertheless kept within bounds.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::Scatter;

/// Places in each ring; a power of two.
pub const RING: u32 = 2048;
/// Bytes for each frame: a page, as all drivers take it.
pub const CHUNK: usize = 4096;
/// As many chunks are filled by the kernel, and as many by us.
pub const CHUNKS: u32 = 2 * RING;
/// What a driver keeps free in front of a frame (XDP_PACKET_HEADROOM), in bytes.
const HEADROOM: usize = 256;
/// The longest frame that a chunk holds whatever driver writes it, in bytes.
pub const LONGEST: usize = CHUNK - HEADROOM;

/// Mapped memory.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to its owner alone, and the kernel, on whichever thread it is used.
unsafe impl Send for Region {}

impl Region {
    /// Maps memory of nobody's, or a part of a socket's.
    fn new(length: usize, of: Option<(&impl AsRawFd, libc::off_t)>) -> io::Result<Self> {
        let (flags, fd, offset) = match of {
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Some((socket, offset)) => (libc::MAP_SHARED | libc::MAP_POPULATE, socket.as_raw_fd(), offset),
        };
        // SAFETY: the kernel chooses a place where nothing is mapped.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and whoever looked into it borrowed it from here.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The area that frames lie in (UMEM), in chunks.
#[derive(Debug)]
pub struct Area(Region);

impl Area {
    /// An area of [`CHUNKS`] chunks.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new() -> io::Result<Self> {
        let nobody: Option<(&std::fs::File, libc::off_t)> = None;
        Region::new(CHUNKS as usize * CHUNK, nobody).map(Self)
    }

    /// How the kernel is told of it.
    pub fn registration(&self) -> libc::xdp_umem_reg_v1 {
        libc::xdp_umem_reg_v1 {
            addr: self.0.start.as_ptr() as u64,
            len: self.0.length as u64,
            chunk_size: CHUNK as u32,
            headroom: 0,
        }
    }

    /// The bytes of a frame that the kernel has handed out; none if they are not within one chunk.
    fn bytes(&self, place: Descriptor) -> Option<NonNull<[u8]>> {
        let (start, length) = (usize::try_from(place.address).ok()?, place.length as usize);
        let fits = start < self.0.length && start % CHUNK + length <= CHUNK;
        // SAFETY: the bytes lie within one chunk, and chunks within the region.
        fits.then(|| NonNull::slice_from_raw_parts(unsafe { self.0.start.add(start) }, length))
    }

    /// Copies a received frame to `room`, from `offset` on. Returns how much of it found room.
    pub fn take(&self, place: Descriptor, room: &mut Scatter<'_>, offset: usize) -> usize {
        // SAFETY: the kernel has handed the chunk out by the ring of received frames, and does not write to it before it is given
        // back by the fill ring.
        self.bytes(place).map_or(0, |bytes| room.write(offset, unsafe { bytes.as_ref() }))
    }

    /// Copies a frame into a chunk of ours, without the first `offset` bytes of `frame`. Returns where it lies.
    pub fn put(&mut self, chunk: u64, frame: &Scatter<'_>, offset: usize) -> Descriptor {
        let length = frame.len().saturating_sub(offset).min(CHUNK) as u32;
        let place = Descriptor { address: chunk, length, options: 0 };
        if let Some(mut bytes) = self.bytes(place) {
            // SAFETY: the chunk is ours: it was never given to the kernel, or came back by the completion ring.
            frame.read(offset, unsafe { bytes.as_mut() });
        }
        place
    }
}

/// Where a frame lies, as the kernel and we tell each other (`xdp_desc`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// From the beginning of the area, in bytes.
    pub address: u64,
    /// In bytes.
    pub length: u32,
    /// None of them is used.
    pub options: u32,
}

/// What rings are made of: plain data, of which every pattern of bits is a value.
pub trait Item: Copy {}
impl Item for u64 {}
impl Item for Descriptor {}

/// A ring, seen from neither end.
#[derive(Debug)]
struct Ring<T> {
    region: Region,
    offsets: libc::xdp_ring_offset,
    items: PhantomData<T>,
}

impl<T: Item> Ring<T> {
    fn map(socket: &impl AsRawFd, offset: libc::off_t, offsets: libc::xdp_ring_offset) -> io::Result<Self> {
        let length = usize::try_from(offsets.desc).map_err(io::Error::other)? + RING as usize * size_of::<T>();
        let region = Region::new(length, Some((socket, offset)))?;
        let numbers = [offsets.producer, offsets.consumer, offsets.flags];
        if numbers.iter().any(|at| !at.is_multiple_of(4) || *at + 4 > length as u64) || !offsets.desc.is_multiple_of(8)
        {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        Ok(Self { region, offsets, items: PhantomData })
    }

    /// One of the numbers at the ring's beginning.
    fn number(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: `map` has looked at all three: they lie within the region, in their alignment, and both sides use atomic accesses
        // only. The region lives as long as the borrow.
        unsafe { self.region.start.add(offset as usize).cast().as_ref() }
    }

    fn item(&self, position: u32) -> NonNull<T> {
        // SAFETY: a masked position is one of the ring's places, which lie within the region, aligned to eight bytes.
        unsafe { self.region.start.add(self.offsets.desc as usize).cast::<T>().add((position & (RING - 1)) as usize) }
    }

    /// Whether the kernel waits to be called (XDP_RING_NEED_WAKEUP).
    fn wants_call(&self) -> bool {
        self.number(self.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// A ring that we fill.
#[derive(Debug)]
pub struct Producer<T> {
    ring: Ring<T>,
    next: u32,
    /// Up to here the kernel has taken what there was, when it was last looked.
    taken: u32,
}

impl<T: Item> Producer<T> {
    /// Maps a ring of a socket.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn map(socket: &impl AsRawFd, offset: libc::off_t, offsets: libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, offset, offsets)?, next: 0, taken: 0 })
    }

    /// Puts something in, for [`Producer::publish`] to show. Whether there was room.
    pub fn push(&mut self, item: T) -> bool {
        if self.next.wrapping_sub(self.taken) >= RING && self.under_way() >= RING {
            return false;
        }
        // SAFETY: the kernel does not look at this place before it is published, and nobody else has the ring.
        unsafe { self.ring.item(self.next).write(item) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel what was put in.
    pub fn publish(&mut self) {
        self.ring.number(self.ring.offsets.producer).store(self.next, Ordering::Release);
    }

    /// How much of it the kernel has not taken yet.
    pub fn under_way(&mut self) -> u32 {
        self.taken = self.ring.number(self.ring.offsets.consumer).load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    /// Whether the kernel waits to be called before it takes more.
    pub fn wants_call(&self) -> bool {
        self.ring.wants_call()
    }
}

/// A ring that the kernel fills.
#[derive(Debug)]
pub struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
    /// So far there was something when it was last looked.
    filled: u32,
}

impl<T: Item> Consumer<T> {
    /// Maps a ring of a socket.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn map(socket: &impl AsRawFd, offset: libc::off_t, offsets: libc::xdp_ring_offset) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, offset, offsets)?, next: 0, filled: 0 })
    }

    /// Whether all is taken that there was when it was last looked.
    pub fn is_empty(&self) -> bool {
        self.next == self.filled
    }

    /// What is next in line.
    pub fn peek(&mut self) -> Option<T> {
        if self.is_empty() {
            // What was taken is given back before more is asked for.
            self.ring.number(self.ring.offsets.consumer).store(self.next, Ordering::Release);
            self.filled = self.ring.number(self.ring.offsets.producer).load(Ordering::Acquire);
            if self.is_empty() {
                return None;
            }
        }
        // SAFETY: the kernel has written this place and shown it, and writes to it again only once it was taken.
        Some(unsafe { self.ring.item(self.next).read() })
    }

    /// Takes what is next in line, which [`Consumer::peek`] has shown.
    pub fn advance(&mut self) {
        if !self.is_empty() {
            self.next = self.next.wrapping_add(1);
        }
    }
}
