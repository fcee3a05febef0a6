//! The [`Platform`] of the portable kernel, by this machine.

use core::arch::x86_64::{__cpuid, _rdtsc};

use ringlet_kernel::platform::{Crash, HeapUsage, Platform};

use super::time::Clock;
use super::{console, heap, trap};

/// This machine: its clock; all else is reached by ports and static registers.
pub struct X86Platform {
    clock: Clock,
    has_rdrand: bool,
}

impl X86Platform {
    /// This machine, with `clock` telling its time.
    pub fn new(clock: Clock) -> Self {
        Self { clock, has_rdrand: __cpuid(1).ecx & (1 << 30) != 0 }
    }
}

impl Platform for X86Platform {
    fn now_ns(&self) -> u64 {
        self.clock.now()
    }

    fn idle(&self, until: Option<u64>) {
        self.clock.wait_until(until);
    }

    fn write_console(&self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn random(&self) -> u64 {
        let random = if self.has_rdrand { rdrand() } else { None };
        // The counter alone is what a machine without the instruction has: the time of its boot, to the cycle.
        // SAFETY: every x86_64 processor has the time stamp counter, and ring 3 may read it.
        mix(random.unwrap_or_default() ^ unsafe { _rdtsc() })
    }

    fn heap(&self) -> HeapUsage {
        let (used, total) = heap::HEAP.usage();
        HeapUsage { used: used as u64, total: total as u64 }
    }

    fn crash(&self, kind: Crash) {
        match kind {
            Crash::Panic => panic!("asked for by crash=panic"),
            Crash::Exception => undefined_instruction(),
            Crash::Stack => {
                core::hint::black_box(overflow(1));
            }
            Crash::Heap => {
                let (_, total) = heap::HEAP.usage();
                core::hint::black_box(alloc::vec::Vec::<u8>::with_capacity(total + 1));
            }
            Crash::Triple => {
                trap::forbid_reports();
                undefined_instruction();
            }
        }
    }
}

/// A number of the processor's random number generator; `None` if it has none ready after some tries.
fn rdrand() -> Option<u64> {
    (0..10).find_map(|_| {
        let (value, ready): (u64, u8);
        // SAFETY: the caller has checked that the instruction exists; it only writes the two registers.
        unsafe {
            core::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ready, options(nomem, nostack))
        };
        (ready != 0).then_some(value)
    })
}

/// Spreads the entropy of all bits over all bits (the finalizer of SplitMix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[inline(never)]
fn undefined_instruction() {
    // SAFETY: the exception this raises never comes back here.
    unsafe { core::arch::asm!("ud2", options(noreturn)) };
}

/// Recursion without an end, which the compiler cannot turn into a loop.
#[inline(never)]
#[allow(unconditional_recursion, reason = "to overflow the stack is its purpose")]
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    frame[(depth % 64) as usize] + overflow(depth + 1)
}
