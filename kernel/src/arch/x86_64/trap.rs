//! Exceptions, as ring 0 hands them to ring 3; and the page that both share.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{backtrace, console, exit};
use ringlet_kernel::exit_code;

/// The page that ring 0 and ring 3 share (`TRAP_PAGE` in `boot.s`).
#[repr(C)]
struct TrapPage {
    frame: Frame,
    unused: [u64; 0xe8 / 8 - 23],
    boot_tsc: u64,
    reporting: AtomicU64,
}

/// The registers at an exception, in the order in which `report` in `boot.s` pushes them.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    cr2: u64,
}

const _: () = {
    assert!(core::mem::offset_of!(TrapPage, boot_tsc) == 0xe8);
    assert!(core::mem::offset_of!(TrapPage, reporting) == 0xf0);
};

const TRAP_PAGE: *const TrapPage = 0x13_4000 as *const TrapPage;

/// The time stamp counter at the boot stub's first instruction.
pub fn boot_tsc() -> u64 {
    // SAFETY: `boot.s` maps this page for ring 3 for good and writes the field once, before any of this code runs.
    unsafe { (*TRAP_PAGE).boot_tsc }
}

/// Makes ring 0 believe that an exception is being reported, so that the next one is a triple fault.
pub fn forbid_reports() {
    // SAFETY: as for `boot_tsc`; ring 0 reads the field only while this code does not run.
    unsafe { (*TRAP_PAGE).reporting.store(1, Ordering::Relaxed) }
}

/// The names of the exceptions, by vector (Intel SDM volume 3, table 6-1).
const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack-segment fault",
    "general protection",
    "page fault",
    "reserved exception",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point error",
    "virtualization exception",
    "control protection exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception",
];

/// Where ring 0 sends an exception: reports it on the console, with a backtrace, and ends the virtual machine.
#[unsafe(no_mangle)]
extern "C" fn ring3_exception(frame: &Frame) -> ! {
    let mut out = console::Console::new();
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"unknown exception");
    let _ = writeln!(out, "\nringlet: exception {} ({name}), error code {:#x}", frame.vector, frame.error);
    if frame.vector == 14 {
        let access = match frame.error & 0x12 {
            0x10 => "execute",
            0x02 => "write",
            _ => "read",
        };
        let why = if frame.error & 1 != 0 { "its page forbids that" } else { "nothing is mapped there" };
        let _ = writeln!(out, "ringlet: tried to {access} at {:#018x}: {why}", frame.cr2);
        if super::boot::MAIN_STACK.start - 4096 <= frame.cr2 && frame.cr2 < super::boot::MAIN_STACK.start {
            let _ = writeln!(out, "ringlet: that is the guard page below the stack: the stack has overflowed");
        }
    }
    let _ = writeln!(out, "  rip {:016x} cs  {:04x} rflags {:08x}", frame.rip, frame.cs, frame.rflags);
    let _ = writeln!(out, "  rsp {:016x} ss  {:04x} cr2 {:016x}", frame.rsp, frame.ss, frame.cr2);
    let _ = writeln!(out, "  rax {:016x} rbx {:016x} rcx {:016x}", frame.rax, frame.rbx, frame.rcx);
    let _ = writeln!(out, "  rdx {:016x} rsi {:016x} rdi {:016x}", frame.rdx, frame.rsi, frame.rdi);
    let _ = writeln!(out, "  rbp {:016x} r8  {:016x} r9  {:016x}", frame.rbp, frame.r8, frame.r9);
    let _ = writeln!(out, "  r10 {:016x} r11 {:016x} r12 {:016x}", frame.r10, frame.r11, frame.r12);
    let _ = writeln!(out, "  r13 {:016x} r14 {:016x} r15 {:016x}", frame.r13, frame.r14, frame.r15);
    backtrace::print(&mut out, frame.rip, frame.rbp);
    drop(out);
    exit::exit(exit_code::EXCEPTION)
}
