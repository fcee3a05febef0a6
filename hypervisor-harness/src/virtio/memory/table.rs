//! A guest's memory as a vhost-user frontend describes it: regions of files, at guest-physical addresses, which the frontend
//! itself sees at addresses of its own.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::ground::Lot;
use super::{Memory, Window};

/// The most regions that a table takes.
pub const MOST_REGIONS: usize = 64;

const PAGE: u64 = 4096;
/// The type of hugetlbfs, as `statfs` gives it.
const HUGETLBFS: u64 = 0x9584_58f6;

/// One region of a guest's memory.
#[derive(Debug)]
pub struct Region {
    /// Guest-physical address of the first byte.
    pub guest: u64,
    /// How many bytes.
    pub size: u64,
    /// Address of the first byte in the frontend's process. Rings are given by such addresses.
    pub frontend: u64,
    /// Where in the file the first byte is.
    pub offset: u64,
    /// The file.
    pub file: File,
}

impl Region {
    /// Whether two regions have a byte in common, at guest-physical addresses or at the frontend's.
    fn overlaps(&self, other: &Self) -> bool {
        let both = |one: u64, two: u64| one < two + other.size && two < one + self.size;
        both(self.guest, other.guest) || both(self.frontend, other.frontend)
    }

    fn end(&self) -> u64 {
        self.guest + self.size
    }
}

/// A memory table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A region of no bytes, or one that goes beyond the end of an address space or of a file's offsets.
    #[error("memory region {0} is empty, or wraps around the end of an address space")]
    Wraps(usize),
    /// A region that is aligned otherwise in its file than for the guest: what the guest aligns would not be.
    #[error("memory region {0} is aligned to {ALIGN} bytes in its file and not for the guest, or the other way round")]
    Skewed(usize),
    /// Two regions have a byte in common.
    #[error("memory regions {0} and {1} overlap")]
    Overlap(usize, usize),
    /// Too many regions.
    #[error("{0} memory regions: {MOST_REGIONS} at most")]
    TooMany(usize),
    /// The descriptor of a region is no file in memory: a memfd, or a file on tmpfs or hugetlbfs.
    #[error(
        "memory region {0} is not in a file that can be shared and is in memory: memory-backend-memfd,share=on makes one in \
         QEMU, or memory-backend-file,share=on below /dev/shm or /dev/hugepages"
    )]
    NoMemory(usize),
    /// The file of a region is too short.
    #[error("memory region {region} needs {needed} bytes of a file of {length}")]
    Short {
        /// Which one.
        region: usize,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that there are.
        length: u64,
    },
    /// The host refused a mapping.
    #[error("memory region {region} cannot be mapped: {source}")]
    Map {
        /// Which one.
        region: usize,
        /// Why not.
        source: io::Error,
    },
}

/// A guest's memory, in regions.
#[derive(Debug, Default)]
pub struct Table {
    regions: Vec<Region>,
    lots: Arc<Vec<Lot>>,
    windows: Vec<Window>,
}

impl Table {
    /// Checks the regions and maps them. They are numbered from 0 in errors.
    ///
    /// Regions that follow each other in guest-physical memory do so in this process too, if their pages allow it: a buffer may
    /// lie across their border then.
    ///
    /// # Errors
    /// If they cannot be a guest's memory; nothing is mapped then.
    pub fn new(regions: Vec<Region>) -> Result<Self, TableError> {
        check(&regions)?;
        let mut order: Vec<_> = (0..regions.len()).collect();
        order.sort_by_key(|&index| regions[index].guest);
        let (mut lots, mut windows) = (Vec::new(), Vec::new());
        let mut rest = &order[..];
        while let Some(&first) = rest.first() {
            let count = neighbours(&regions, rest);
            let (lot, window) = map(&regions, &rest[..count]).map_err(|(region, source)| match source {
                Ok(source) => TableError::Map { region, source },
                Err(()) => TableError::Wraps(first),
            })?;
            lots.push(lot);
            windows.push(window);
            rest = &rest[count..];
        }
        // Most accesses go to the largest one.
        windows.sort_by_key(|window| std::cmp::Reverse(window.size));
        Ok(Self { regions, lots: Arc::new(lots), windows })
    }

    /// The regions, to make another table of.
    #[must_use]
    pub fn into_regions(self) -> Vec<Region> {
        self.regions
    }

    /// The regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The memory, as a device sees it. It stays mapped as long as a clone of it exists, whatever becomes of the table.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory::mapped(&self.windows, self.lots.clone())
    }

    /// The guest-physical address of what the frontend sees at `address`; `None` if that is no guest memory.
    #[must_use]
    pub fn guest_address(&self, address: u64) -> Option<u64> {
        let region = self.regions.iter().find(|region| address.wrapping_sub(region.frontend) < region.size)?;
        Some(region.guest + (address - region.frontend))
    }
}

/// The greatest alignment of anything in a ring: that of a descriptor table (virtio 1.3, section 2.7).
const ALIGN: u64 = 16;

/// Whether the regions can be a guest's memory.
fn check(regions: &[Region]) -> Result<(), TableError> {
    if regions.len() > MOST_REGIONS {
        return Err(TableError::TooMany(regions.len()));
    }
    for (index, region) in regions.iter().enumerate() {
        let ends = [region.guest, region.frontend, region.offset].map(|start| start.checked_add(region.size));
        let [Some(_), Some(_), Some(needed)] = ends else { return Err(TableError::Wraps(index)) };
        if region.size == 0 {
            return Err(TableError::Wraps(index));
        }
        // What is aligned for the guest has to be aligned here: rings are accessed word by word.
        if region.guest % ALIGN != region.offset % ALIGN {
            return Err(TableError::Skewed(index));
        }
        if !in_memory(&region.file) {
            return Err(TableError::NoMemory(index));
        }
        match region.file.metadata() {
            Ok(file) if file.len() < needed => {
                return Err(TableError::Short { region: index, needed, length: file.len() });
            }
            Ok(_) => {}
            Err(source) => return Err(TableError::Map { region: index, source }),
        }
        if let Some(other) = regions[..index].iter().position(|other| other.overlaps(region)) {
            return Err(TableError::Overlap(other, index));
        }
    }
    Ok(())
}

/// Whether a file is in memory: a memfd, or one on tmpfs or hugetlbfs, which alone have seals. On any other file system a page that is
/// touched may take long to come; on one of the frontend's own (FUSE) it need not come at all, and even the question how
/// long the file is need not be answered. So this comes before any other question to the file, and does not ask the file system.
fn in_memory(file: &File) -> bool {
    // SAFETY: a call that takes no pointers.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) >= 0 }
}

/// The size of the pages of a region's file.
fn page(region: &Region) -> u64 {
    // SAFETY: `statfs` is plain data, of which all zeroes is a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `about` is a `statfs` to be filled, and the descriptor is open.
    let huge =
        unsafe { libc::fstatfs(region.file.as_raw_fd(), &raw mut about) } == 0 && about.f_type as u64 == HUGETLBFS;
    match region.file.metadata() {
        Ok(file) if huge && file.blksize().is_power_of_two() => file.blksize().max(PAGE),
        _ => PAGE,
    }
}

/// How many of the first of `order` follow each other without a gap, and can be mapped so.
fn neighbours(regions: &[Region], order: &[usize]) -> usize {
    let base = &regions[order[0]];
    let page = page(base);
    let follows = |pair: &&[usize]| {
        let (one, two) = (&regions[pair[0]], &regions[pair[1]]);
        let whole = [two.guest - base.guest, two.offset, base.offset].iter().all(|start| start.is_multiple_of(page));
        one.end() == two.guest && whole && self::page(two) == page
    };
    1 + order.windows(2).take_while(follows).count()
}

/// Maps regions that follow each other. An error names the region; without a cause it is too large for this process.
fn map(regions: &[Region], order: &[usize]) -> Result<(Lot, Window), (usize, Result<io::Error, ()>)> {
    let first = order[0];
    let base = &regions[first];
    let align = page(base);
    // The file's page in which the region begins is mapped whole.
    let before = base.offset % align;
    let size = regions[order[order.len() - 1]].end() - base.guest;
    let fit = |value: u64| usize::try_from(value).map_err(|_| (first, Err(())));
    let whole = (before + size).checked_next_multiple_of(align).ok_or((first, Err(())))?;
    let mut lot = Lot::take(fit(whole)?, fit(align)?).map_err(|source| (first, Ok(source)))?;
    for &index in order {
        let region = &regions[index];
        let before = region.offset % align;
        let length = (before + region.size).next_multiple_of(align);
        // In the lot the first region begins after `before`; the others begin on a page.
        let at = if index == first { 0 } else { region.guest - base.guest };
        let from = region.offset - before;
        lot.map(fit(at)?, fit(length)?, &region.file, from).map_err(|source| (index, Ok(source)))?;
    }
    let host = lot.start().wrapping_add(fit(before)?);
    Ok((lot, Window { guest: base.guest, size, host }))
}

#[cfg(test)]
mod tests;
