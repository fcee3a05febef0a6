//! Backtraces by the chain of frame pointers. The image carries its symbol table; who reads the console resolves the
//! addresses (the harness does so on its own).

use core::fmt::Write;

use super::boot::{FAULT_STACK, MAIN_STACK};

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

/// The most frames that are printed.
const DEPTH: usize = 48;
/// How often the same return address is printed in a row.
const MOST_REPEATED: u32 = 4;

/// Prints `rip` and the return addresses found from `rbp` on, each as a line `  at 0x<16 hexadecimal digits>`.
pub fn print(out: &mut impl Write, rip: u64, mut rbp: u64) {
    let text = (&raw const __text_start) as u64..(&raw const __text_end) as u64;
    let _ = writeln!(out, "backtrace:");
    let _ = writeln!(out, "  at {rip:#018x}");
    let (mut last, mut repeated) = (0, 0);
    for _ in 0..DEPTH {
        let on_stack = |stack: &core::ops::Range<u64>| stack.start <= rbp && rbp <= stack.end - 16;
        if !rbp.is_multiple_of(8) || !(on_stack(&MAIN_STACK) || on_stack(&FAULT_STACK)) {
            return;
        }
        // SAFETY: both words lie inside a stack, which `boot.s` keeps mapped, and are aligned: just checked.
        let (next, back) = unsafe { ((rbp as *const u64).read(), (rbp as *const u64).add(1).read()) };
        if !text.contains(&back) {
            return;
        }
        // Recursion without an end tells nothing new.
        repeated = if back == last { repeated + 1 } else { 0 };
        last = back;
        if repeated == MOST_REPEATED {
            let _ = writeln!(out, "  (and so on)");
            return;
        }
        // The call, not the instruction after it: that one may already belong to the next function.
        let _ = writeln!(out, "  at {:#018x}", back - 1);
        if next <= rbp {
            return;
        }
        rbp = next;
    }
}

/// The frame pointer of the caller.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let rbp: u64;
    // SAFETY: reading a register has no effect.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}
