//! What the host target's prebuilt `core` expects to be linked with: the memory functions, and the unwinding entry points
//! that nothing can reach, since the image aborts on panic.
//!
//! `rep movsb` and `rep stosb` are the fast way on current processors for all but short runs, and short runs are mostly
//! inlined by the compiler.

use core::arch::asm;

/// C's `memcpy`.
///
/// # Safety
/// As in C: `count` bytes readable at `from`, writable at `to`, not overlapping.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: copies exactly what the caller vouches for; the direction flag is clear by the ABI.
    unsafe {
        if count < 32 {
            short_forward(to, from, count);
        } else {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags));
        }
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C: `count` bytes readable at `from` and writable at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: the destination does not begin inside the source, so copying forward reads each byte before it is
        // overwritten.
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags))
        };
    } else {
        // SAFETY: backward, from the last byte on; the direction flag is cleared again as the ABI wants it.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
        }
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C: `count` bytes writable at `to`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: writes exactly what the caller vouches for.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8, options(nostack, preserves_flags))
    };
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C: `count` bytes readable at `a` and at `b`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    let mut at = 0;
    // SAFETY: every read lies inside the `count` bytes that the caller vouches for.
    unsafe {
        while at + 8 <= count {
            let (x, y) = (a.add(at).cast::<u64>().read_unaligned(), b.add(at).cast::<u64>().read_unaligned());
            if x != y {
                return if u64::from_be(x) < u64::from_be(y) { -1 } else { 1 };
            }
            at += 8;
        }
        while at < count {
            // Volatile, lest the compiler take this loop for the `memcmp` that it implements.
            let difference = i32::from(a.add(at).read_volatile()) - i32::from(b.add(at).read_volatile());
            if difference != 0 {
                return difference;
            }
            at += 1;
        }
    }
    0
}

/// BSD's `bcmp`, to which the compiler turns comparisons for equality.
///
/// # Safety
/// As `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, count) }
}

/// Fewer than 32 bytes, by at most four overlapping moves.
///
/// # Safety
/// As `memcpy`, with `count < 32`.
#[inline(always)]
unsafe fn short_forward(to: *mut u8, from: *const u8, count: usize) {
    // SAFETY: each pair of moves covers exactly `count` bytes from both ends; all reads precede the writes.
    unsafe {
        if count >= 16 {
            let (a, b) = (from.cast::<u128>().read_unaligned(), from.add(count - 16).cast::<u128>().read_unaligned());
            to.cast::<u128>().write_unaligned(a);
            to.add(count - 16).cast::<u128>().write_unaligned(b);
        } else if count >= 8 {
            let (a, b) = (from.cast::<u64>().read_unaligned(), from.add(count - 8).cast::<u64>().read_unaligned());
            to.cast::<u64>().write_unaligned(a);
            to.add(count - 8).cast::<u64>().write_unaligned(b);
        } else if count >= 4 {
            let (a, b) = (from.cast::<u32>().read_unaligned(), from.add(count - 4).cast::<u32>().read_unaligned());
            to.cast::<u32>().write_unaligned(a);
            to.add(count - 4).cast::<u32>().write_unaligned(b);
        } else if count > 0 {
            let (a, b, c) = (from.read(), from.add(count / 2).read(), from.add(count - 1).read());
            to.write(a);
            to.add(count / 2).write(b);
            to.add(count - 1).write(c);
        }
    }
}

/// Named by the unwinding tables of the prebuilt `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    super::exit::exit(ringlet_kernel::exit_code::PANIC)
}

/// Named by the landing pads of the prebuilt `core`; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    super::exit::exit(ringlet_kernel::exit_code::PANIC)
}
