//! The assembly part: the PVH entry, the static page tables, ring 0. See `boot.s`.

use core::arch::global_asm;

global_asm!(include_str!("boot.s"));

/// Where free memory begins: above the image, its stacks and the page tables (`linker.ld`).
pub const FREE_MEMORY: u64 = 0xa0_0000;

/// Where memory ends that the page tables map as memory: device registers lie between here and 4 GiB.
pub const MEMORY_LIMIT: u64 = 0xc000_0000;

/// The main stack, from its guard page up (`pt_stacks` in `boot.s`).
pub const MAIN_STACK: core::ops::Range<u64> = 0x80_1000..0x88_0000;

/// The stack on which exceptions are reported.
pub const FAULT_STACK: core::ops::Range<u64> = 0x89_1000..0x8a_0000;
