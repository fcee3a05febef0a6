//! Guest RAM: one region from guest-physical address 0 up.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// The size, and so the alignment, of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused the address space.
    #[error("the host refused {mib} MiB of address space for the guest's memory: {source}; try a smaller --memory")]
    Map {
        /// What was asked for, in MiB.
        mib: u32,
        /// Why it was refused.
        source: io::Error,
    },
    /// The host gave no file in memory to share.
    #[error("the host gave no {mib} MiB of memory to share with another process: {source}; try a smaller --memory")]
    File {
        /// What was asked for, in MiB.
        mib: u32,
        /// Why it was refused.
        source: io::Error,
    },
    /// `vm-memory` did not accept the mapping.
    #[error("the guest's memory cannot be described: {0}")]
    Describe(String),
}

/// An access to guest memory went outside of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("guest-physical address {address:#x} (+{length} bytes) is not in the guest's memory")]
pub struct OutOfRange {
    /// The first byte wanted.
    pub address: u64,
    /// How many bytes were wanted.
    pub length: usize,
}

/// The guest's memory, as the host sees it: aligned so that huge pages fit, and either private, anonymous and lazily filled
/// ([`GuestRam::new`]) or a file in memory that other processes map as well ([`GuestRam::shared`]).
///
/// Clones share the memory. The pages are given back to the host when the last one is dropped; the address range is
/// never unmapped, so that no copy of a handle, however it was come by, can dangle.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    reservation: Arc<Reservation>,
}

impl GuestRam {
    /// Reserves `mib` MiB of zeroed memory.
    ///
    /// # Errors
    /// Where the host has no address space left or limits it.
    pub fn new(mib: u32) -> Result<Self, Error> {
        let size = (mib as usize) << 20;
        let reservation = Reservation::private(size).map_err(|source| Error::Map { mib, source })?;
        Self::describe(reservation, PRIVATE)
    }

    /// As [`GuestRam::new`], as a file in memory ([`GuestRam::file`]) that another process can map. Its pages are there from
    /// the start: where the guest or the other process has to fault them in, one by one, that costs several times as much.
    ///
    /// # Errors
    /// Where the host has no address space or no memory left, or limits it.
    pub fn shared(mib: u32) -> Result<Self, Error> {
        let size = (mib as usize) << 20;
        let file = memory_file(size).map_err(|source| Error::File { mib, source })?;
        let reservation = Reservation::shared(size, file).map_err(|source| Error::Map { mib, source })?;
        Self::describe(reservation, SHARED)
    }

    /// Puts a reservation, which was mapped with these flags, into `vm-memory`'s terms.
    fn describe(reservation: Reservation, flags: i32) -> Result<Self, Error> {
        let mut builder = MmapRegionBuilder::new(reservation.size).with_mmap_prot(PROTECTION).with_mmap_flags(flags);
        if let Some(file) = &reservation.file {
            builder = builder.with_file_offset(FileOffset::from_arc(file.clone(), 0));
        }
        // SAFETY: the pointer is the start of a mapping of `size` bytes made with these very flags, which is never
        // unmapped (see `Reservation`).
        let builder = unsafe { builder.with_raw_mmap_pointer(reservation.start) };
        let describe = |error: &dyn std::fmt::Display| Error::Describe(error.to_string());
        let region = builder.build().map_err(|error| describe(&error))?;
        let region = GuestRegionMmap::new(region, GuestAddress(0)).ok_or_else(|| describe(&"it wraps around"))?;
        let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(|error| describe(&error))?;
        Ok(Self { memory, reservation: Arc::new(reservation) })
    }

    /// Bytes of memory; it lies at guest-physical 0 to here.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.reservation.size as u64
    }

    /// The file that the memory is, from its first byte to [`GuestRam::size`], if it is shared. It cannot be made shorter,
    /// not by another process either.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.reservation.file.as_deref()
    }

    /// The memory in `vm-memory`'s terms, for volatile access.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The host's address of guest-physical address 0. The whole of [`GuestRam::size`] bytes from there stays mapped as
    /// long as the process lives. The guest changes them at any time: never make a reference to them.
    #[must_use]
    pub fn host_start(&self) -> *mut u8 {
        self.reservation.start
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// If not all of them lie in the guest's memory; then nothing, or a part of them, has been written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.memory.write_slice(bytes, GuestAddress(address)).map_err(|_| OutOfRange { address, length: bytes.len() })
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// If not all of them lie in the guest's memory.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), OutOfRange> {
        let length = into.len();
        self.memory.read_slice(into, GuestAddress(address)).map_err(|_| OutOfRange { address, length })
    }

    /// Zeroes `from .. to`. Whole pages are given back to the host instead of being written, so that a large range costs
    /// nothing until it is used.
    ///
    /// # Errors
    /// If not all of the range lies in the guest's memory; then nothing has been zeroed.
    pub fn zero(&self, from: u64, to: u64) -> Result<(), OutOfRange> {
        if to <= from {
            return Ok(());
        }
        if to > self.size() {
            return Err(OutOfRange { address: from, length: (to - from) as usize });
        }
        let (first, last) = (from.next_multiple_of(PAGE).min(to), (to & !(PAGE - 1)).max(from));
        if first >= last {
            return self.write(from, &vec![0; (to - from) as usize]);
        }
        self.write(from, &vec![0; (first - from) as usize])?;
        self.write(last, &vec![0; (to - last) as usize])?;
        self.reservation.discard(first as usize, (last - first) as usize);
        Ok(())
    }
}

/// Makes a file of `size` bytes that lies in memory and has no name. Nobody can change its size any more: a process that
/// maps it, and makes it shorter, would let everybody else who maps it die of SIGBUS.
fn memory_file(size: usize) -> io::Result<File> {
    // SAFETY: the name ends with a NUL, and nothing else is passed.
    let fd = unsafe { libc::memfd_create(c"ringlet-ram".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size as u64)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a system call on an open descriptor, with an integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of a small page.
const PAGE: u64 = 4096;

const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// A range of host addresses that belongs to one guest for good; see [`GuestRam`].
#[derive(Debug)]
struct Reservation {
    start: *mut u8,
    size: usize,
    /// What is mapped there, where it is not private.
    file: Option<Arc<File>>,
}

// SAFETY: `start` is the address of a mapping that outlives the process' threads; nothing here is tied to one thread, and
// the bytes behind it are accessed only by volatile or raw copies.
unsafe impl Send for Reservation {}
// SAFETY: as above; shared access only reads the two fields.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Maps private memory.
    fn private(size: usize) -> io::Result<Self> {
        let reservation = Self::aligned(size)?;
        // A request, not a need: without huge pages everything works, only slower. The first pages, which hold the image,
        // its stacks and the boot structures, stay small: a huge page costs milliseconds to clear at its first touch.
        if let Some(rest) = size.checked_sub(SMALL_PAGES) {
            let start = reservation.start.wrapping_add(SMALL_PAGES);
            // SAFETY: the range lies in the reservation; the advice does not change what it holds.
            unsafe { libc::madvise(start.cast(), rest, libc::MADV_HUGEPAGE) };
        }
        Ok(reservation)
    }

    /// Maps a file of `size` bytes, and has the host find its pages.
    fn shared(size: usize, file: File) -> io::Result<Self> {
        let mut reservation = Self::aligned(size)?;
        let (start, fd) = (reservation.start.cast(), file.as_raw_fd());
        // SAFETY: this replaces the whole of the reservation, and nothing else; nothing refers to it yet.
        if unsafe { libc::mmap(start, size, PROTECTION, SHARED | libc::MAP_FIXED, fd, 0) } == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made; neither advice changes what it holds. Both are requests.
        unsafe {
            libc::madvise(start, size, libc::MADV_HUGEPAGE);
            libc::madvise(start, size, libc::MADV_POPULATE_WRITE);
        }
        reservation.file = Some(Arc::new(file));
        Ok(reservation)
    }

    /// Takes an aligned range of addresses, mapped as private memory.
    fn aligned(size: usize) -> io::Result<Self> {
        let span = size.checked_add(HUGE_PAGE).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), span, PROTECTION, PRIVATE, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = base.cast::<u8>();
        let before = base.align_offset(HUGE_PAGE);
        let start = base.wrapping_add(before);
        let after = HUGE_PAGE - before;
        // The parts before and after the aligned range go back. A refusal would only leave unused address space behind.
        // SAFETY: both ranges lie inside the mapping made above, outside `start .. start + size`, and nothing refers to them.
        unsafe {
            if before > 0 {
                libc::munmap(base.cast(), before);
            }
            if after > 0 {
                libc::munmap(start.wrapping_add(size).cast(), after);
            }
        }
        Ok(Self { start, size, file: None })
    }

    /// Gives whole pages back to the host: from now on they read as zeroes.
    fn discard(&self, offset: usize, length: usize) {
        // Of a file, a page that is only unmapped would come back as it was.
        let advice = if self.file.is_some() { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        // SAFETY: callers stay within the reservation, to which no reference exists; it stays mapped.
        unsafe { libc::madvise(self.start.wrapping_add(offset).cast(), length, advice) };
    }
}

/// Bytes at the start of guest memory for which no huge pages are asked.
const SMALL_PAGES: usize = 16 << 20;

impl Drop for Reservation {
    fn drop(&mut self) {
        self.discard(0, self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both kinds of memory.
    fn both() -> [GuestRam; 2] {
        [GuestRam::new(32).unwrap(), GuestRam::shared(32).unwrap()]
    }

    #[test]
    fn is_aligned_zeroed_and_bounded() {
        both().iter().for_each(check_bounds);
    }

    fn check_bounds(ram: &GuestRam) {
        assert_eq!(ram.size(), 32 << 20);
        assert_eq!(ram.host_start() as usize % HUGE_PAGE, 0);
        let mut bytes = [1; 4];
        ram.read((32 << 20) - 4, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 4]);
        ram.write(0, b"ring").unwrap();
        ram.read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ring");
        let error = OutOfRange { address: (32 << 20) - 3, length: 4 };
        assert_eq!(ram.read(error.address, &mut bytes), Err(error));
        assert_eq!(ram.write(error.address, &bytes), Err(error));
        assert_eq!(ram.write(u64::MAX, &bytes), Err(OutOfRange { address: u64::MAX, length: 4 }));
    }

    #[test]
    fn zeroes_any_range() {
        both().iter().for_each(check_zeroes);
    }

    fn check_zeroes(ram: &GuestRam) {
        for (from, to) in [(10, 20), (4090, 4100), (4096, 8192), (100, 16384), (5000, 5000), (4096, 4097)] {
            ram.write(0, &[0xff; 20000]).unwrap();
            ram.zero(from, to).unwrap();
            let mut bytes = [0; 20000];
            ram.read(0, &mut bytes).unwrap();
            for (index, byte) in bytes.iter().enumerate() {
                let inside = (from..to).contains(&(index as u64));
                assert_eq!(*byte, if inside { 0 } else { 0xff }, "{from}..{to} at {index}");
            }
        }
        assert!(ram.zero(0, ram.size() + 1).is_err());
    }

    #[test]
    fn a_leftover_handle_reads_zeroes() {
        for ram in both() {
            ram.write(8, b"data").unwrap();
            let leftover = ram.memory().clone();
            drop(ram);
            assert_eq!(leftover.read_obj::<u32>(GuestAddress(8)).unwrap(), 0);
        }
    }

    #[test]
    fn a_file_is_the_memory_and_keeps_its_size() {
        use std::os::unix::fs::FileExt;
        assert!(GuestRam::new(32).unwrap().file().is_none());
        let ram = GuestRam::shared(32).unwrap();
        let file = ram.file().unwrap();
        ram.write(4098, b"ring").unwrap();
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 4098).unwrap();
        assert_eq!(&bytes, b"ring");
        file.write_all_at(b"ping", ram.size() - 4).unwrap();
        ram.read(ram.size() - 4, &mut bytes).unwrap();
        assert_eq!(&bytes, b"ping");
        assert!(file.set_len(4096).is_err() && file.set_len(64 << 20).is_err());
        assert_eq!(file.metadata().unwrap().len(), ram.size());
    }
}
