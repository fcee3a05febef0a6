//! The assembly part: the PVH entry, the static page tables, ring 0. See `boot.s`.

use core::arch::global_asm;

global_asm!(include_str!("boot.s"));

/// Where free memory begins: above the image, its stacks and the page tables (`linker.ld`).
pub const FREE_MEMORY: u64 = 0xa0_0000;

/// Where memory ends that the page tables map as memory: device registers lie between here and 4 GiB.
pub const MEMORY_LIMIT: u64 = 0xc000_0000;

/// Physical addresses that the page tables map a second time, as device registers, at [`REGISTERS_AGAIN`].
pub const REGISTERS_BELOW: core::ops::Range<u64> = 0x8000_0000..MEMORY_LIMIT;

/// Where the second mapping of [`REGISTERS_BELOW`] begins.
pub const REGISTERS_AGAIN: u64 = 1 << 32;

/// The main stack, from its guard page up (`pt_stacks` in `boot.s`).
pub const MAIN_STACK: core::ops::Range<u64> = 0x80_1000..0x88_0000;

/// The stack on which exceptions are reported.
pub const FAULT_STACK: core::ops::Range<u64> = 0x89_1000..0x8a_0000;

/// The longest build id that is told, in bytes: a SHA-1's 20, with room to spare.
pub const BUILD_ID_MAX: usize = 32;

unsafe extern "C" {
    static __build_id_start: u8;
    static __build_id_end: u8;
}

/// The image's build id in hexadecimal, written into `text`; empty if the linker left none.
pub fn build_id(text: &mut [u8; 2 * BUILD_ID_MAX]) -> &str {
    /// An ELF note's header: three lengths; then the name `GNU\0`, then the id.
    const HEADER: usize = 16;
    let (start, end) = (&raw const __build_id_start, &raw const __build_id_end);
    let length = (end as usize).saturating_sub(start as usize);
    // SAFETY: `linker.ld` puts the two symbols around one note in read-only data, which is mapped and never changes.
    let note = unsafe { core::slice::from_raw_parts(start, length) };
    let id = note.get(HEADER..).unwrap_or_default();
    let id = &id[..id.len().min(BUILD_ID_MAX)];
    for (byte, digits) in id.iter().zip(text.chunks_exact_mut(2)) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 0xf)];
    }
    core::str::from_utf8(&text[..2 * id.len()]).unwrap_or_default()
}
