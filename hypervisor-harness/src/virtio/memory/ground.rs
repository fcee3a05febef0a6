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

use super::sigbus;

const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
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
}

/// Reserves the ground. Nothing can be read or written there yet.
fn reserve() -> io::Result<Range<usize>> {
    let mut size = GROUND;
    loop {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, NOTHING, -1, 0) };
        if base != libc::MAP_FAILED {
            let start = base.expose_provenance();
            return Ok(start..start + size);
        }
        let error = io::Error::last_os_error();
        size /= 2;
        if size < LEAST_GROUND {
            return Err(error);
        }
    }
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
        Ok(Self { start, size })
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
    pub(super) fn map(&self, offset: usize, size: usize, file: &File, from: u64) -> io::Result<()> {
        assert!(offset <= self.size && size <= self.size - offset, "a mapping outside of its lot");
        let from = libc::off_t::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let at = self.start().wrapping_add(offset).cast();
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the range lies in this lot, which belongs to guest memory alone and to which no reference exists.
        let mapped = unsafe { libc::mmap(at, size, PROTECTION, flags, file.as_raw_fd(), from) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Lot {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range is this lot's and is accessed by copies only, which find zeroes from now on.
        let done = unsafe { libc::mmap(self.start().cast(), self.size, PROTECTION, NOTHING | libc::MAP_FIXED, -1, 0) };
        // Where that was refused it stays what it is, guarded, and is not used again.
        if done != libc::MAP_FAILED {
            sigbus::release(&(self.start..self.start + self.size));
            if let Some(free) = &mut *free {
                put(free, self.start, self.size);
            }
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
    use super::*;

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
