//! Guest memory as a device reaches it: every address is checked once, then kept as a host pointer.
//!
//! All of the device's `unsafe` code about memory is in this file and those below it. It rests on one fact: host addresses behind which a
//! guest's memory is, be it a [`GuestRam`] or a frontend's ([`Table`]), are mapped and hold guests' memory or nothing as
//! long as the process lives, and no Rust reference to their bytes is ever made (only to atomics, which may be shared with
//! a guest that runs meanwhile).

mod ground;
mod sigbus;
mod table;

pub use sigbus::{Losses, losses};
pub use table::{MOST_REGIONS, Region, Table, TableError};

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use self::ground::Lot;

use crate::backend::Scatter;
use crate::vmm::GuestRam;
use crate::vmm::memory::OutOfRange;

/// Bytes in a line of the processor's caches.
const CACHE_LINE: usize = 64;

/// A run of guest memory that has been checked to lie in RAM: one element of a descriptor chain.
///
/// It has the layout of an `iovec`, so that a slice of them goes to `readv` and `writev` as it is.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Piece(libc::iovec);

// SAFETY: the pointer goes to addresses that are guest memory for the life of the process and are accessed by copies only;
// nothing about it is tied to one thread.
unsafe impl Send for Piece {}

impl Piece {
    /// Bytes of the piece.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// The piece without its first bytes; empty if there are no more than `count`.
    #[must_use]
    pub fn skip(self, count: usize) -> Self {
        let count = count.min(self.0.iov_len);
        Self(libc::iovec { iov_base: self.0.iov_base.wrapping_byte_add(count), iov_len: self.0.iov_len - count })
    }

    /// Asks the processor for the first bytes, which will be read soon: headers, or a small frame as a whole.
    #[inline]
    pub fn prefetch(&self) {
        self.lines(|line| {
            // SAFETY: a hint, which touches no memory as far as the program can see, and faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) }
        });
    }

    /// The same, where they will be written.
    #[inline]
    pub fn prefetch_write(&self) {
        self.lines(|line| {
            // The intrinsic would become a prefetch for reading, since not every x86-64 has the other: those that do not take it for
            // a NOP. A line that is only there for reading has to be asked for once more when it is written.
            // SAFETY: as in `prefetch`.
            unsafe { core::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags, readonly)) }
        });
    }

    /// The first cache lines, two at most.
    #[inline]
    fn lines(&self, ask: impl Fn(*const i8)) {
        ask(self.0.iov_base.cast());
        if self.0.iov_len > CACHE_LINE {
            ask(self.0.iov_base.wrapping_byte_add(CACHE_LINE).cast());
        }
    }
}

/// The pieces as one frame that a backend can copy from and to.
#[must_use]
pub fn scatter(pieces: &[Piece]) -> Scatter<'_> {
    // SAFETY: `Piece` is a transparent wrapper of `iovec`, so the slices have the same layout.
    let vectors = unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast::<libc::iovec>(), pieces.len()) };
    // SAFETY: a piece is made only by `Memory::piece`, which has found it in guest RAM, and by cutting such pieces.
    unsafe { Scatter::new(vectors) }
}

/// Guest-physical addresses that lie side by side in this process too.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// The first of them.
    guest: u64,
    /// How many bytes.
    size: u64,
    /// The first byte's address in this process.
    host: *mut u8,
}

// SAFETY: as for `Piece`.
unsafe impl Send for Window {}
// SAFETY: as for `Piece`; shared access only reads the fields.
unsafe impl Sync for Window {}

impl Window {
    /// The host's address of `length` bytes at `address`, if all of them lie here.
    #[inline]
    fn find(&self, address: u64, length: u64) -> Option<*mut u8> {
        // Addresses below the window wrap around to offsets that are too large.
        let offset = address.wrapping_sub(self.guest);
        let inside = offset <= self.size && length <= self.size - offset;
        inside.then(|| self.host.wrapping_add(offset as usize))
    }
}

/// What keeps the memory there.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "held, not looked at")]
enum Backing {
    /// The machine's own.
    Ram(GuestRam),
    /// Files of another process'.
    Mapped(Arc<Vec<Lot>>),
}

/// The guest's memory, for one device.
#[derive(Debug, Clone)]
pub struct Memory {
    /// The only window, or the largest one.
    first: Window,
    /// The others.
    others: Arc<[Window]>,
    /// What the device has used is given back to the host only when the last clone of this is dropped.
    _backing: Backing,
}

impl Memory {
    /// Makes the device's view of `ram`.
    #[must_use]
    pub fn new(ram: GuestRam) -> Self {
        let first = Window { guest: 0, size: ram.size(), host: ram.host_start() };
        Self { first, others: Arc::default(), _backing: Backing::Ram(ram) }
    }

    /// Memory in several windows, the most important first, that are mapped as long as `lots` exists.
    fn mapped(windows: &[Window], lots: Arc<Vec<Lot>>) -> Self {
        let nothing = Window { guest: 0, size: 0, host: std::ptr::dangling_mut() };
        let (first, others) = windows.split_first().map_or((nothing, &[][..]), |(first, others)| (*first, others));
        Self { first, others: others.into(), _backing: Backing::Mapped(lots) }
    }

    /// Checks that `length` bytes at guest-physical `address` are RAM.
    ///
    /// # Errors
    /// If one of them is not.
    #[inline]
    pub fn piece(&self, address: u64, length: u32) -> Result<Piece, OutOfRange> {
        let base = match self.first.find(address, length.into()) {
            Some(base) => base,
            None => self.elsewhere(address, length)?,
        };
        Ok(Piece(libc::iovec { iov_base: base.cast(), iov_len: length as usize }))
    }

    /// The same, where it does not lie in the first window.
    #[cold]
    fn elsewhere(&self, address: u64, length: u32) -> Result<*mut u8, OutOfRange> {
        let found = self.others.iter().find_map(|window| window.find(address, length.into()));
        found.ok_or(OutOfRange { address, length: length as usize })
    }

    /// Checks a table that is to be accessed by words. The caller has checked that it is aligned to its widest word.
    ///
    /// # Errors
    /// If it is not wholly in RAM.
    pub fn area(&self, address: u64, length: usize) -> Result<Area, OutOfRange> {
        let refused = OutOfRange { address, length };
        let piece = self.piece(address, u32::try_from(length).map_err(|_| refused)?)?;
        Ok(Area { start: piece.0.iov_base.cast(), length })
    }
}

/// Little-endian words that driver and device use at the same time, each accessed as a whole.
///
/// There are two kinds: [`Area`], and the one under the models that go through every order of accesses there is. Offsets are in
/// bytes and multiples of the width of the word.
pub trait Words: Sized + Send {
    /// The `length` bytes at guest-physical `address`.
    ///
    /// # Errors
    /// If they are not wholly in RAM.
    fn find(memory: &Memory, address: u64, length: usize) -> Result<Self, OutOfRange>;

    /// Loads 16 bits.
    #[must_use]
    fn load16(&self, offset: usize, order: Ordering) -> u16;

    /// Stores 16 bits.
    fn store16(&self, offset: usize, value: u16, order: Ordering);

    /// Loads 32 bits.
    #[must_use]
    fn load32(&self, offset: usize, order: Ordering) -> u32;

    /// Stores 32 bits.
    fn store32(&self, offset: usize, value: u32, order: Ordering);

    /// Loads 64 bits.
    #[must_use]
    fn load64(&self, offset: usize, order: Ordering) -> u64;

    /// Stores 64 bits.
    fn store64(&self, offset: usize, value: u64, order: Ordering);

    /// Puts everything before it before everything behind it, a store before a load in particular, which nothing else does.
    fn fence();
}

/// A table in guest memory: a part of a virtqueue. The guest may change it at any time, so each access is one atomic
/// load or store, and what was loaded is never loaded again to be trusted.
///
/// Everything is little-endian (virtio 1.3, section 1.4).
#[derive(Debug)]
pub struct Area {
    start: *mut u8,
    length: usize,
}

// SAFETY: as for `Piece`; all accesses are atomic.
unsafe impl Send for Area {}

impl Area {
    /// Checks one access. Offsets come from masked ring indices, so a failure is a fault of this device, not of its guest.
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        assert!(offset <= self.length && size <= self.length - offset, "an access outside of a checked table");
        let pointer = self.start.wrapping_add(offset).cast::<T>();
        assert!(pointer.is_aligned(), "an access that is not aligned in a table that is");
        pointer
    }
}

impl Words for Area {
    fn find(memory: &Memory, address: u64, length: usize) -> Result<Self, OutOfRange> {
        memory.area(address, length)
    }

    #[inline]
    fn load16(&self, offset: usize, order: Ordering) -> u16 {
        // SAFETY: `at` gives an aligned pointer to two mapped bytes of guest RAM, to which there are no plain references.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.at(offset)) }.load(order))
    }

    #[inline]
    fn store16(&self, offset: usize, value: u16, order: Ordering) {
        // SAFETY: as in `load16`.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }.store(value.to_le(), order);
    }

    #[inline]
    fn load32(&self, offset: usize, order: Ordering) -> u32 {
        // SAFETY: as in `load16`, with four bytes.
        u32::from_le(unsafe { AtomicU32::from_ptr(self.at(offset)) }.load(order))
    }

    #[inline]
    fn store32(&self, offset: usize, value: u32, order: Ordering) {
        // SAFETY: as in `load16`, with four bytes.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }.store(value.to_le(), order);
    }

    #[inline]
    fn load64(&self, offset: usize, order: Ordering) -> u64 {
        // SAFETY: as in `load16`, with eight bytes.
        u64::from_le(unsafe { AtomicU64::from_ptr(self.at(offset)) }.load(order))
    }

    #[inline]
    fn store64(&self, offset: usize, value: u64, order: Ordering) {
        // SAFETY: as in `load16`, with eight bytes.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }.store(value.to_le(), order);
    }

    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Memory of the device's own that looks like guest memory to a backend: for frames that are thrown away, and for a header
/// that the guest must not change any more.
#[derive(Debug)]
pub struct Scratch {
    vector: libc::iovec,
}

// SAFETY: the bytes belong to this value alone; nothing about them is tied to one thread.
unsafe impl Send for Scratch {}

impl Scratch {
    /// Makes `length` zeroed bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let bytes = Box::into_raw(vec![0_u8; length].into_boxed_slice());
        Self { vector: libc::iovec { iov_base: bytes.cast(), iov_len: length } }
    }

    /// The bytes, as room for a frame.
    pub fn room(&mut self) -> Scatter<'_> {
        // SAFETY: the bytes live as long as `self`, and no reference to them exists.
        unsafe { Scatter::new(std::slice::from_ref(&self.vector)) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.vector.iov_base.cast::<u8>(), self.vector.iov_len);
        // SAFETY: this is the boxed slice of `new`, given up only here; what `room` gave out has ended, as it borrows.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

/// A frame of the guest's, with a header of the device's own before it: once the header is checked, the guest cannot change
/// it.
#[derive(Debug)]
pub struct Headed {
    header: Scratch,
    /// The header, then what remains of the guest's pieces.
    vectors: Vec<libc::iovec>,
}

// SAFETY: the pointers go to `header`, which belongs to this value, and to guest memory, as in `Piece`.
unsafe impl Send for Headed {}

impl Headed {
    /// A frame with a header of `length` bytes, and nothing behind it.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self { header: Scratch::new(length), vectors: Vec::new() }
    }

    /// Takes another frame: `header`, and in the guest's `pieces` what lies behind the first bytes, as many as the header has.
    #[inline]
    pub fn set(&mut self, header: &[u8], pieces: &[Piece]) {
        let mut cut = self.header.room().write(0, header);
        self.vectors.clear();
        self.vectors.push(self.header.vector);
        for piece in pieces {
            let here = cut.min(piece.len());
            cut -= here;
            if here < piece.len() {
                self.vectors.push(piece.skip(here).0);
            }
        }
    }

    /// The frame.
    #[must_use]
    #[inline]
    pub fn frame(&self) -> Scatter<'_> {
        // SAFETY: the first piece lives as long as `self`, and there is no reference to it; the others are guest memory.
        unsafe { Scatter::new(&self.vectors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> (GuestRam, Memory) {
        let ram = GuestRam::new(32).unwrap();
        (ram.clone(), Memory::new(ram))
    }

    fn memory() -> Memory {
        ram().1
    }

    #[test]
    fn only_ram_becomes_a_piece() {
        let memory = memory();
        let size = 32 << 20;
        for (address, length) in [(0, 0), (0, 32 << 20), (size, 0), (size - 1, 1)] {
            assert_eq!(memory.piece(address, length).unwrap().len(), length as usize);
        }
        for (address, length) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX, 0), (0, u32::MAX), (1 << 63, 4)] {
            let refused = OutOfRange { address, length: length as usize };
            assert_eq!(memory.piece(address, length).unwrap_err(), refused);
        }
    }

    #[test]
    fn pieces_are_guest_memory() {
        let (ram, memory) = ram();
        ram.write(0x1000, b"a ring of bells").unwrap();
        let pieces = [memory.piece(0x1002, 4).unwrap(), memory.piece(0x1006, 9).unwrap().skip(4)];
        let mut bytes = [0; 9];
        assert_eq!(scatter(&pieces).read(0, &mut bytes), 9);
        assert_eq!(&bytes, b"ringbells");
        assert!(pieces[0].skip(10).is_empty());
        let mut headed = Headed::new(6);
        headed.set(b"HEADER", &pieces);
        let mut bytes = [0; 20];
        assert_eq!((headed.frame().read(0, &mut bytes), headed.frame().pieces().len()), (9, 2));
        assert_eq!(&bytes[..9], b"HEADERlls");
        let mut scratch = Scratch::new(4);
        assert_eq!(scratch.room().write(0, b"header"), 4);
    }

    #[test]
    fn tables_are_little_endian_words() {
        let (ram, memory) = ram();
        let area = memory.area(0x2000, 16).unwrap();
        area.store16(0, 0x0201, Ordering::Relaxed);
        area.store32(4, 0x0807_0605, Ordering::Relaxed);
        let mut bytes = [0; 8];
        ram.read(0x2000, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 0, 0, 5, 6, 7, 8]);
        assert_eq!(
            (area.load16(4, Ordering::Acquire), area.load64(0, Ordering::Relaxed)),
            (0x0605, 0x0807_0605_0000_0201)
        );
        assert!(memory.area((32 << 20) - 8, 16).is_err());
    }

    #[test]
    #[should_panic(expected = "outside of a checked table")]
    fn an_access_beyond_a_table_is_a_bug() {
        memory().area(0, 16).unwrap().store32(13, 0, Ordering::Relaxed);
    }
}
