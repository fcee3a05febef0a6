use proptest::prelude::*;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use super::*;
use crate::virtio::memory::{Words, losses, scatter};

/// A file in memory of so many bytes.
fn file(length: u64) -> File {
    // SAFETY: the name is a C string; the descriptor that comes back is new, and ours.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(length).unwrap();
    file
}

fn region(guest: u64, size: u64, frontend: u64, offset: u64, file: &File) -> Region {
    Region { guest, size, frontend, offset, file: file.try_clone().unwrap() }
}

fn read(memory: &Memory, address: u64, length: u32) -> Option<Vec<u8>> {
    let piece = memory.piece(address, length).ok()?;
    let mut bytes = vec![0; length as usize];
    scatter(&[piece]).read(0, &mut bytes);
    Some(bytes)
}

#[test]
fn regions_are_what_is_in_their_files() {
    let (low, high) = (file(0x10_0000), file(0x4000));
    low.write_at(b"low", 0x1000).unwrap();
    low.write_at(b"end", 0xf_fffd).unwrap();
    high.write_at(b"high", 0x2010).unwrap();
    let table = Table::new(vec![
        // In the middle of a page, and of an odd length.
        region(1 << 32, 0x123, 0x7000_0000, 0x2010, &high),
        region(0, 0x10_0000, 0x5000_0000, 0, &low),
    ])
    .unwrap();
    let memory = table.memory();
    assert_eq!(read(&memory, 0x1000, 3).unwrap(), b"low");
    assert_eq!(read(&memory, 0xf_fffd, 3).unwrap(), b"end");
    assert_eq!(read(&memory, 1 << 32, 4).unwrap(), b"high");
    for (address, length) in
        [(0xf_fffd, 4), (0x10_0000, 1), ((1 << 32) - 1, 2), ((1 << 32) + 0x122, 2), (u64::MAX, 1), (1 << 63, 1)]
    {
        assert!(memory.piece(address, length).is_err(), "{address:#x} {length}");
    }
    assert_eq!(table.guest_address(0x5000_0000), Some(0));
    assert_eq!(table.guest_address(0x7000_0122), Some((1 << 32) + 0x122));
    for address in [0, 0x4fff_ffff, 0x5010_0000, 0x7000_0123, u64::MAX] {
        assert_eq!(table.guest_address(address), None);
    }
    // What the device writes is in the file.
    memory.area(1 << 32, 8).unwrap().store16(4, 0x0102, Ordering::Relaxed);
    let mut bytes = [0; 2];
    high.read_at(&mut bytes, 0x2014).unwrap();
    assert_eq!(bytes, [2, 1]);
    // It stays as long as anybody has it.
    drop(table);
    assert_eq!(read(&memory, 0x1000, 3).unwrap(), b"low");
}

#[test]
fn a_buffer_may_lie_across_regions() {
    let (one, two) = (file(0x2000), file(0x3000));
    one.write_at(b"ring", 0x1ffc).unwrap();
    two.write_at(b"let", 0x1000).unwrap();
    let table = Table::new(vec![
        region(0x1000, 0x2000, 0x9000_0000, 0x1000, &two),
        region(0, 0x1000, 0x8000_0000, 0x1000, &one),
        region(0x3000, 0x1000, 0x8800_0000, 0, &one),
    ])
    .unwrap();
    let memory = table.memory();
    assert_eq!(read(&memory, 0xffc, 7).unwrap(), b"ringlet");
    assert!(read(&memory, 0, 0x4000).is_some() && read(&memory, 0, 0x4001).is_none());
    assert_eq!(table.guest_address(0x9000_0fff), Some(0x1fff));
    // Not on pages: each for itself.
    let table = Table::new(vec![region(0, 0x800, 0, 0, &one), region(0x800, 0x800, 0x10_0000, 0x800, &two)]).unwrap();
    assert!(read(&table.memory(), 0x400, 0x400).is_some() && read(&table.memory(), 0x400, 0x401).is_none());
}

#[test]
fn what_cannot_be_memory_is_refused() {
    let file = file(0x1_0000);
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(reader));
    let good = || region(0, 0x1000, 0x10_0000, 0, &file);
    let wraps = |region| matches!(Table::new(vec![good(), region]), Err(TableError::Wraps(1)));
    assert!(wraps(region(0x1000, 0, 0x20_0000, 0, &file)));
    assert!(wraps(region(u64::MAX, 2, 0x20_0000, 0, &file)));
    assert!(wraps(region(0x1000, 2, u64::MAX, 0, &file)));
    assert!(wraps(region(0x1000, 2, 0x20_0000, u64::MAX, &file)));
    for other in [region(0xff0, 0x20, 0x20_0000, 0, &file), region(0x1000, 2, 0x10_0fff, 0, &file)] {
        assert!(matches!(Table::new(vec![good(), other]), Err(TableError::Overlap(0, 1))));
    }
    for skewed in [region(0x1001, 0x100, 0x20_0000, 0, &file), region(0x1000, 0x100, 0x20_0000, 8, &file)] {
        assert!(matches!(Table::new(vec![good(), skewed]), Err(TableError::Skewed(1))));
    }
    let short = Table::new(vec![good(), region(0x1000, 0x1000, 0x20_0000, 0xf010, &file)]).unwrap_err();
    assert_eq!(short.to_string(), "memory region 1 needs 65552 bytes of a file of 65536");
    let huge = Table::new(vec![region(0, 1 << 62, 0, 0, &file)]).unwrap_err();
    assert!(matches!(huge, TableError::Short { .. }));
    file.set_len(1 << 62).unwrap();
    assert!(matches!(Table::new(vec![region(0, 1 << 62, 0, 0, &file)]), Err(TableError::Map { region: 0, .. })));
    let no_memory = |file: &File| matches!(Table::new(vec![region(0, 1, 0, 0, file)]), Err(TableError::NoMemory(0)));
    assert!(no_memory(&pipe) && no_memory(&File::options().read(true).write(true).open("/dev/zero").unwrap()));
    // A regular file of a file system that is not memory: not even its length is asked for.
    assert!(no_memory(&File::open("/proc/self/status").unwrap()));
    let many = (0..=MOST_REGIONS as u64).map(|nth| region(nth << 12, 1, nth << 12, 0, &file)).collect();
    assert!(matches!(Table::new(many), Err(TableError::TooMany(_))));
    // A file that may only be read.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let readable = File::open(path).unwrap();
    assert!(matches!(Table::new(vec![region(0, 1, 0, 0, &readable)]), Err(TableError::Map { region: 0, .. })));
    assert!(Table::new(Vec::new()).unwrap().memory().piece(0, 1).is_err());
}

#[test]
fn memory_that_vanishes_is_zeroes() {
    let file = file(0x4000);
    file.write_at(b"there", 0x2000).unwrap();
    let memory = Table::new(vec![region(0, 0x4000, 0, 0, &file)]).unwrap().memory();
    assert_eq!(read(&memory, 0x2000, 5).unwrap(), b"there");
    let before = losses();
    file.set_len(0x1000).unwrap();
    assert_eq!(read(&memory, 0x2000, 5).unwrap(), [0; 5]);
    assert!(losses().withdrawn > before.withdrawn);
    memory.area(0x3000, 2).unwrap().store16(0, 7, Ordering::Relaxed);
    assert_eq!(read(&memory, 0x3000, 1).unwrap(), [7]);
    // Beyond its end nothing comes back with the file's length.
    file.set_len(0x4000).unwrap();
    assert_eq!(read(&memory, 0x3000, 1).unwrap(), [7]);
}

#[test]
fn memory_that_vanishes_does_so_as_a_whole_however_much_it_is() {
    // Each second page, of more than twice as many as a process can have mappings.
    let pages = 150_000;
    let (kept, lost) = (file(0x2000), file(pages << 12));
    kept.write_at(b"kept", 0x1000).unwrap();
    let memory = Table::new(vec![region(0, 0x2000, 0, 0, &kept), region(1 << 40, pages << 12, 1 << 40, 0, &lost)])
        .unwrap()
        .memory();
    lost.set_len(0).unwrap();
    for page in (0..pages).step_by(2) {
        assert_eq!(read(&memory, (1 << 40) + (page << 12), 1).unwrap(), [0]);
    }
    assert_eq!(read(&memory, 0x1000, 4).unwrap(), b"kept", "another file's memory is still there");
}

#[test]
fn memory_that_lies_in_files_of_any_page_size_is_there() {
    // What QEMU and dpdk give: a memfd (above), a file on tmpfs, and huge pages of either kind where there are some.
    let path = std::path::PathBuf::from(format!("/dev/shm/ringlet-table-{}", std::process::id()));
    let shared = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    shared.set_len(0x3000).unwrap();
    shared.write_at(b"shared", 0x1000).unwrap();
    let memory = Table::new(vec![region(0, 0x3000, 0, 0, &shared)]).unwrap().memory();
    assert_eq!(read(&memory, 0x1000, 6).unwrap(), b"shared");
    // SAFETY: the name is a C string.
    let huge =
        unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) };
    if huge < 0 {
        // This kernel has no huge pages.
        return;
    }
    // SAFETY: the descriptor is new, and ours.
    let huge = unsafe { File::from_raw_fd(huge) };
    huge.set_len(2 << 20).unwrap();
    // None may be free: that is found by the mapping, so the file itself was good.
    match Table::new(vec![region(0, 2 << 20, 0, 0, &huge)]) {
        Ok(table) => assert_eq!(read(&table.memory(), 0x1000, 1).unwrap(), [0]),
        Err(error) => assert!(matches!(error, TableError::Map { region: 0, .. }), "{error}"),
    }
}

#[test]
fn as_many_guests_as_there_may_be_have_memory_at_the_same_time() {
    // Of different sizes, so that none fits where another was.
    let files: Vec<_> = (1..100).map(|nth| (nth, file(nth << 21))).collect();
    let table = |(nth, file): &(u64, File)| {
        file.write_at(&nth.to_le_bytes(), 0).unwrap();
        Table::new(vec![region(0, nth << 21, 0, 0, file)]).unwrap().memory()
    };
    let held: Vec<_> = files.iter().map(table).collect();
    for ((nth, _), memory) in files.iter().zip(&held) {
        assert_eq!(read(memory, 0, 8).unwrap(), nth.to_le_bytes());
    }
}

#[test]
fn a_leftover_address_reads_no_bytes_of_this_process() {
    let file = file(0x1000);
    file.write_at(b"secret", 0).unwrap();
    let memory = Table::new(vec![region(0, 0x1000, 0, 0, &file)]).unwrap().memory();
    let piece = memory.piece(0, 6).unwrap();
    drop(memory);
    let mut bytes = [1; 6];
    scatter(&[piece]).read(0, &mut bytes);
    assert_ne!(&bytes, b"secret");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any table that is accepted finds each byte where its file has it, and nothing else.
    #[test]
    fn tables_find_exactly_their_bytes(
        wanted in proptest::collection::vec((0_u64..16, 1_u64..5, any::<bool>(), 0_u64..4), 1..9),
        probes in proptest::collection::vec((0_u64..20 << 12, 0_u32..0x3000), 20),
    ) {
        let files: Vec<_> = (0..wanted.len()).map(|_| file(0x9000)).collect();
        let regions = wanted.iter().zip(&files).enumerate().map(|(nth, (&(page, pages, odd, offset), file))| {
            let odd = if odd { 0x10 } else { 0 };
            region(page << 12, (pages << 12) - odd, (nth as u64) << 32, (offset << 12) + odd, file)
        });
        if let Ok(table) = Table::new(regions.collect()) {
            for (nth, region) in table.regions().iter().enumerate() {
                region.file.write_all_at(&vec![nth as u8 + 1; region.size as usize], region.offset).unwrap();
                prop_assert_eq!(table.guest_address(region.frontend + region.size - 1), Some(region.end() - 1));
            }
            let memory = table.memory();
            let at = |address| table.regions().iter().position(|region| (region.guest..region.end()).contains(&address));
            for (address, length) in probes {
                match read(&memory, address, length) {
                    Some(bytes) => for (byte, address) in bytes.iter().zip(address..) {
                        prop_assert_eq!(Some(usize::from(*byte)), at(address).map(|nth| nth + 1));
                    },
                    // A gap, or a border of regions whose pages do not fit together.
                    None => {
                        let parts: Vec<_> = (address..address + u64::from(length)).map(at).collect();
                        prop_assert!(parts.is_empty() || parts.contains(&None) || parts.windows(2).any(|two| two[0] != two[1]));
                    }
                }
            }
        }
    }
}
