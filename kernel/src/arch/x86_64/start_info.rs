//! What the loader left: PVH's `hvm_start_info` (Xen's public/arch-x86/hvm/start_info.h).

use core::slice;

use ringlet_kernel::memory_map::{Kind, Region};

const MAGIC: u32 = 0x336e_c578;
/// Low memory that may hold what the loader left, mapped readable by `boot.s` below here and from free memory on.
const LOW_END: u64 = 0x10_0000;
/// Page 0 is not mapped where it lies, so that null pointers fault, but here: SeaBIOS leaves the memory map in it.
const PAGE_ZERO: u64 = 0x13_5000;
/// The most entries of the memory map that are read.
const MAX_MEMMAP: u32 = 128;
/// The longest command line that is read, in bytes.
const MAX_CMDLINE: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawStartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    // Version 1 and later:
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawModule {
    paddr: u64,
    size: u64,
    cmdline_paddr: u64,
    reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawMemmapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// The start information, checked: every address in it lies in memory that can be read.
#[derive(Clone, Copy)]
pub struct StartInfo(RawStartInfo);

/// Whether `size` bytes at `address` lie in memory that is mapped and holds nothing of ours.
fn readable(address: u64, size: u64) -> bool {
    let Some(end) = address.checked_add(size) else { return false };
    (0x1000 <= address && end <= LOW_END) || (super::boot::FREE_MEMORY <= address && end <= super::boot::MEMORY_LIMIT)
}

/// Reads a plain structure that a loader left.
fn read<T: Copy>(address: u64) -> Option<T> {
    let size = size_of::<T>() as u64;
    if address < 0x1000 && address + size <= 0x1000 {
        // SAFETY: `boot.s` maps page 0 there for reading; see below for the rest.
        return Some(unsafe { ((PAGE_ZERO + address) as *const T).read_unaligned() });
    }
    // SAFETY: the bytes are mapped and hold no Rust object (just checked), and the structures here are plain integers,
    // for which every bit pattern is valid.
    readable(address, size).then(|| unsafe { (address as *const T).read_unaligned() })
}

impl StartInfo {
    /// Reads the start information at `address`, as EBX gave it.
    ///
    /// # Errors
    /// A sentence for the console, where it is not what PVH promises.
    pub fn read(address: u64) -> Result<Self, &'static str> {
        let raw = read::<RawStartInfo>(address).ok_or("the loader gave no start information that can be read")?;
        if raw.magic != MAGIC {
            return Err("the start information has a wrong magic number: boot this image by PVH");
        }
        if raw.version < 1 || raw.memmap_entries == 0 {
            return Err("the start information has no memory map (PVH version 1 or later is needed)");
        }
        Ok(Self(raw))
    }

    /// The memory map, in the loader's order.
    pub fn memory_map(&self) -> impl Iterator<Item = Region> + Clone + '_ {
        (0..self.0.memmap_entries.min(MAX_MEMMAP)).filter_map(|entry| {
            let raw = read::<RawMemmapEntry>(self.0.memmap_paddr.checked_add(u64::from(entry) * 24)?)?;
            let kind = if raw.kind == 1 { Kind::Usable } else { Kind::Reserved };
            Some(Region { start: raw.addr, size: raw.size, kind })
        })
    }

    /// Where the loader says that ACPI's root pointer is; 0 if it does not say.
    pub fn root_pointer(&self) -> u64 {
        self.0.rsdp_paddr
    }

    /// A byte that the loader or the firmware left, where there can be one.
    pub fn left_behind(address: u64) -> Option<u8> {
        read(address)
    }

    /// The command line; empty if there is none, cut at 4096 bytes.
    pub fn command_line(&self) -> &'static [u8] {
        let start = self.0.cmdline_paddr;
        let is_text = |at: u64| readable(at, 1) && read::<u8>(at).is_some_and(|byte| byte != 0);
        let mut length = 0;
        while length < MAX_CMDLINE && start.checked_add(length as u64).is_some_and(is_text) {
            length += 1;
        }
        if length == 0 {
            return &[];
        }
        // SAFETY: each of the bytes was just read, so they are mapped; nothing writes there again (the heap and the pools
        // are carved from what `holes` leaves).
        unsafe { slice::from_raw_parts(start as *const u8, length) }
    }

    /// The first module (QEMU's `-initrd`, the harness's `--rules`), if there is one that can be read.
    pub fn module(&self) -> Option<&'static [u8]> {
        let raw = (self.0.nr_modules > 0).then(|| read::<RawModule>(self.0.modlist_paddr)).flatten()?;
        if raw.size == 0 || !readable(raw.paddr, raw.size) {
            return None;
        }
        // SAFETY: mapped (just checked), and kept free of the heap and the pools by `holes`.
        Some(unsafe { slice::from_raw_parts(raw.paddr as *const u8, raw.size as usize) })
    }

    /// What must not be given away as free memory: everything the loader left that may lie above 1 MiB.
    pub fn holes(&self) -> [Region; 6] {
        let hole = |start: u64, size: u64| Region { start, size, kind: Kind::Reserved };
        let module = self.module().map_or(hole(0, 0), |module| hole(module.as_ptr() as u64, module.len() as u64));
        [
            hole(0, super::boot::FREE_MEMORY),
            hole(super::boot::MEMORY_LIMIT, u64::MAX - super::boot::MEMORY_LIMIT),
            hole(self.0.cmdline_paddr, MAX_CMDLINE as u64),
            hole(self.0.memmap_paddr, u64::from(self.0.memmap_entries) * 24),
            // Read again once there is a heap.
            hole(self.0.modlist_paddr, u64::from(self.0.nr_modules) * size_of::<RawModule>() as u64),
            module,
        ]
    }
}
