//! Host addresses at which the memory of other processes is mapped.
//!
//! All of them lie in one range, the ground, which is reserved once, empty, far larger than any guest's memory. What is
//! there never becomes anything else in this process: a [`Lot`] that is given up reads as zeroes, and serves the next one that
//! fits. So a pointer into guest memory that outlives its guest, by whatever mistake, can reach another guest's memory at
//! worst, and never this process' own; and a frontend that sends one memory table after the other uses nothing up.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use super::sigbus::{self, PROTECTION};

const NOTHING: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Bytes of the ground: half of what can be guarded, which is a sixteenth of a process' addresses. Where these are limited
/// (`ulimit -v`) it is smaller, down to the least.
const GROUND: usize = sigbus::MOST / 2;
const LEAST_GROUND: usize = 1 << 30;

/// Free ranges of the ground, by address, `(start, size)`; no two of them touch. `None` before there is a ground.
static FREE: Mutex<Option<Vec<(usize, usize)>>> = Mutex::new(None);

/// A range of host addresses for guest memory.
#[derive(Debug)]
pub(super) struct Lot {
    start: usize,
    size: usize,
    /// Nobody else can have anything here.
    whole: bool,
}

/// Reserves the ground. Nothing can be read or written there yet.
fn reserve() -> io::Result<Range<usize>> {
    let mut size = GROUND;
    while size > sigbus::longest_file() {
        size /= 2;
    }
    loop {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, NOTHING, -1, 0) };
        if base != libc::MAP_FAILED {
            let start = base.expose_provenance();
            if size < GROUND {
                return Ok(start..start + leave_room(start, size));
            }
            return Ok(start..start + size);
        }
        let error = io::Error::last_os_error();
        size /= 2;
        if size < LEAST_GROUND {
            return Err(error);
        }
    }
}

/// Gives half of a ground back, as long as that leaves enough: where addresses are scarce the rest of the process needs some too.
/// Returns how much is left.
fn leave_room(start: usize, size: usize) -> usize {
    let half = size / 2;
    if half < LEAST_GROUND {
        return size;
    }
    // SAFETY: what is unmapped was mapped by `reserve`, and nobody has heard of it yet.
    unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(start + half), half) };
    half
}

/// Reserves a range of the ground of which the kernel may have made a hole. Returns false if something is there: what was there
/// before, or what another thread has got from the kernel meanwhile, and then it is not ours any more.
fn plug(start: *mut libc::c_void, size: usize) -> bool {
    let flags = NOTHING | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: such a mapping replaces nothing.
    unsafe { libc::mmap(start, size, libc::PROT_NONE, flags, -1, 0) == start }
}

impl Lot {
    /// Takes `size` bytes at a multiple of `align`, to be mapped: until then they may not be touched. `size` is a multiple of the
    /// page's size and not 0, and `align` a power of two that is one too.
    ///
    /// # Errors
    /// If there is no room left in the ground.
    pub(super) fn take(size: usize, align: usize) -> io::Result<Self> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let free = match &mut *free {
            Some(free) => free,
            none => {
                let ground = sigbus::ground(reserve)?;
                none.insert(vec![(ground.start, ground.len())])
            }
        };
        let start = cut(free, size, align).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        sigbus::guard(&(start..start + size));
        Ok(Self { start, size, whole: true })
    }

    /// The first byte.
    pub(super) fn start(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.start)
    }

    /// Maps `size` bytes of a file, from `from` on, at `offset` of the lot.
    ///
    /// # Errors
    /// If the kernel refuses it: no regular file, not open for reading and writing, or not aligned.
    ///
    /// # Panics
    /// If it is not wholly in the lot: a fault of the caller.
    pub(super) fn map(&mut self, offset: usize, size: usize, file: &File, from: u64) -> io::Result<()> {
        assert!(offset <= self.size && size <= self.size - offset, "a mapping outside of its lot");
        let from = libc::off_t::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let at: *mut libc::c_void = self.start().wrapping_add(offset).cast();
        let file = file.as_raw_fd();
        // To map a file in the place of something else is to unmap that first: if the file refuses then, there is a hole, which any
        // thread's next mapping may fill. So it is asked where nothing is lost, and then moved, which does not ask it again.
        // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
        let first = unsafe { libc::mmap(std::ptr::null_mut(), size, PROTECTION, libc::MAP_SHARED, file, from) };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the target lies in this lot, which belongs to guest memory alone and to which no reference exists; nobody has heard of
        // the mapping that moves.
        if unsafe { libc::mremap(first, size, size, flags, at) } != libc::MAP_FAILED {
            return Ok(());
        }
        let mut done = Err(io::Error::last_os_error());
        self.whole = plug(at, size);
        if self.whole && done.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            // Huge pages can be moved since Linux 5.16. The file has no reason to refuse what it has just accepted.
            let flags = libc::MAP_SHARED | libc::MAP_FIXED;
            // SAFETY: as above.
            let mapped = unsafe { libc::mmap(at, size, PROTECTION, flags, file, from) };
            done = if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) };
            self.whole = done.is_ok() || plug(at, size);
        }
        // SAFETY: nobody has heard of this mapping.
        unsafe { libc::munmap(first, size) };
        done
    }
}

impl Drop for Lot {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let range = self.start..self.start + self.size;
        if self.whole && sigbus::blank(&range) {
            sigbus::release(&range);
            if let Some(free) = &mut *free {
                put(free, self.start, self.size);
            }
        } else {
            // Not all of it is ours, perhaps: nothing is put there any more.
            sigbus::release(&range);
            plug(self.start().cast(), self.size);
        }
    }
}

/// Takes the first range that fits out of `free`.
fn cut(free: &mut Vec<(usize, usize)>, size: usize, align: usize) -> Option<usize> {
    let (place, start) = free.iter().enumerate().find_map(|(place, &(start, length))| {
        let aligned = start.checked_next_multiple_of(align)?;
        (size <= length.checked_sub(aligned - start)?).then_some((place, aligned))
    })?;
    let (begin, length) = free.remove(place);
    let end = begin + length;
    if start + size < end {
        free.insert(place, (start + size, end - start - size));
    }
    if begin < start {
        free.insert(place, (begin, start - begin));
    }
    Some(start)
}

/// Puts a range back.
fn put(free: &mut Vec<(usize, usize)>, start: usize, size: usize) {
    let place = free.partition_point(|&(other, _)| other < start);
    free.insert(place, (start, size));
    if place + 1 < free.len() && start + size == free[place + 1].0 {
        free[place].1 += free.remove(place + 1).1;
    }
    if place > 0 && free[place - 1].0 + free[place - 1].1 == start {
        free[place - 1].1 += free.remove(place).1;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn memfd(flags: libc::c_uint, length: usize) -> Option<File> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | flags) };
        // SAFETY: the descriptor is new, and ours.
        let file = (file >= 0).then(|| unsafe { File::from_raw_fd(file) })?;
        file.set_len(length as u64).unwrap();
        Some(file)
    }

    /// Files that refuse to be mapped, some of them only after the kernel has unmapped what was there, and how many bytes of them.
    fn refusing() -> Vec<(File, usize)> {
        let sealed = memfd(libc::MFD_ALLOW_SEALING, 1 << 21).unwrap();
        // SAFETY: a call that takes no pointers.
        assert_eq!(unsafe { libc::fcntl(sealed.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) }, 0);
        // More huge pages than there are.
        let huge = memfd(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, 1 << 40);
        [Some((sealed, 1 << 21)), huge.map(|file| (file, 1 << 40))].into_iter().flatten().collect()
    }

    #[test]
    fn a_refused_mapping_leaves_no_hole() {
        for (file, size) in refusing() {
            let mut lot = Lot::take(size, 1 << 21).unwrap();
            let error = lot.map(0, size, &file, 0).unwrap_err();
            assert!(lot.whole, "{error}");
            assert!(!plug(lot.start().cast(), size), "{error}: a hole of {size:#x} bytes");
        }
    }

    #[test]
    fn what_takes_the_place_of_lost_memory_is_promised_by_nobody_and_forgotten_afterwards() {
        let file = memfd(0, 0x4000).unwrap();
        let mut lot = Lot::take(0x4000, 0x1000).unwrap();
        lot.map(0, 0x4000, &file, 0).unwrap();
        file.set_len(0).unwrap();
        let byte = lot.start().wrapping_add(0x2000);
        // SAFETY: the lot is mapped, and lives longer.
        unsafe {
            assert_eq!(byte.read_volatile(), 0);
            byte.write_volatile(7);
            assert_eq!(byte.read_volatile(), 7);
        }
        // A private mapping would be accounted as a whole under vm.overcommit_memory=2, and refused.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let holds = |line: &&str| {
            let mut ends = line.split([' ', '-']).map(|end| usize::from_str_radix(end, 16).unwrap_or(0));
            let (start, end) = (ends.next().unwrap(), ends.next().unwrap());
            (start..end).contains(&byte.addr())
        };
        let line = maps.lines().find(holds).unwrap();
        assert!(line.contains(" rw-s "), "{line}");
        assert!(sigbus::blank(&(lot.start..lot.start + lot.size)));
        // SAFETY: as above.
        assert_eq!(unsafe { byte.read_volatile() }, 0);
    }

    #[test]
    fn where_addresses_are_scarce_some_are_left() {
        let size = 4 * LEAST_GROUND;
        // SAFETY: a mapping at an address of the kernel's choice, which is unmapped here only.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, NOTHING, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        let start = base.expose_provenance();
        assert_eq!(leave_room(start, size), size / 2);
        assert_eq!(leave_room(start, size / 2), LEAST_GROUND);
        assert_eq!(leave_room(start, LEAST_GROUND), LEAST_GROUND);
        // SAFETY: as above.
        unsafe { libc::munmap(base, LEAST_GROUND) };
    }

    #[test]
    fn ranges_are_cut_and_join_again() {
        let mut free = vec![(0x1000, 0x1000), (0x10_3000, 0x40_0000)];
        assert_eq!(cut(&mut free, 0x20_0000, 0x20_0000), Some(0x20_0000));
        assert_eq!(free, [(0x1000, 0x1000), (0x10_3000, 0xf_d000), (0x40_0000, 0x10_3000)]);
        assert_eq!(cut(&mut free, 0x20_0000, 0x1000), None);
        assert_eq!(cut(&mut free, 0x1000, 0x1000), Some(0x1000));
        assert_eq!(cut(&mut free, usize::MAX, 0x1000), None);
        put(&mut free, 0x20_0000, 0x20_0000);
        assert_eq!(free, [(0x10_3000, 0x40_0000)]);
        put(&mut free, 0x50_3000, 0x1000);
        put(&mut free, 0x10_2000, 0x1000);
        put(&mut free, 0x1000, 0x1000);
        assert_eq!(free, [(0x1000, 0x1000), (0x10_2000, 0x40_2000)]);
    }
}
