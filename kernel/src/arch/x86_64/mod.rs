//! x86_64: boot, traps, memory, time, interrupts and buses.
//!
//! Ring 0 is `boot.s` and nothing else; every line of Rust runs in ring 3, with interrupts off. Waiting is `hlt`, which ring 0
//! carries out on our behalf.

pub mod backtrace;
pub mod boot;
pub mod console;
pub mod exit;
pub mod hal;
pub mod heap;
pub mod interrupt;
pub mod pci;
pub mod platform;
#[cfg(ringlet_mem)]
mod runtime;
pub mod start_info;
pub mod time;
pub mod trap;
