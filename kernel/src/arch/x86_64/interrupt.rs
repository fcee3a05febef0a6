//! The local APIC, its timer, the I/O APIC, and waiting.
//!
//! Ring 3 runs with interrupts off. An interrupt only ends [`wait`]; who waited then looks for itself what there is to do.

use core::sync::atomic::{AtomicU8, Ordering};

use x86_64::registers::model_specific::Msr;

/// The local APIC's registers (Intel SDM volume 3, table 11-1), at their architectural address.
const LAPIC: usize = 0xfee0_0000;
/// The first I/O APIC: interrupts 0 to 23.
const IO_APIC: usize = 0xfec0_0000;
/// QEMU's microvm has a second one: interrupts 24 to 47.
const IO_APIC_2: usize = 0xfec1_0000;
/// Redirection entries of an I/O APIC.
const IO_APIC_PINS: u32 = 24;

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const SPURIOUS: usize = 0xf0;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

const MASKED: u32 = 1 << 16;
const APIC_ENABLE: u32 = 1 << 8;
const SPURIOUS_VECTOR: u32 = 0xff;
const DIVIDE_BY_1: u32 = 0b1011;

const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLED: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// The vectors that `boot.s` treats as interrupts begin here; the timer has the first.
const TIMER_VECTOR: u8 = 32;
/// One past the last of them that is given away: the highest is the spurious one.
const VECTOR_END: u8 = 0xf0;

static NEXT_VECTOR: AtomicU8 = AtomicU8::new(TIMER_VECTOR + 1);

fn lapic(register: usize) -> *mut u32 {
    (LAPIC + register) as *mut u32
}

fn read(register: usize) -> u32 {
    // SAFETY: `register` is one of the constants above, and `boot.s` maps the local APIC's page, uncached, for ring 3.
    unsafe { lapic(register).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as for `read`. None of the registers written here lets the processor touch memory.
    unsafe { lapic(register).write_volatile(value) }
}

/// Turns the local APIC on.
///
/// # Errors
/// A sentence for the console, where the local APIC is not to be had at its usual place.
pub fn init() -> Result<(), &'static str> {
    // SAFETY: this MSR exists wherever there is an APIC, and ring 0 allows ring 3 to read it.
    let base = unsafe { Msr::new(MSR_APIC_BASE).read() };
    if base & APIC_BASE_ENABLED == 0 {
        return Err("the local APIC is switched off");
    }
    if base & APIC_BASE_X2APIC != 0 || base & 0xf_ffff_f000 != LAPIC as u64 {
        return Err("the local APIC is not at 0xfee00000 in xAPIC mode");
    }
    // First of all: while the APIC is disabled by software, every entry of the local vector table stays masked whatever is
    // written to it (Intel SDM volume 3, section 11.4.7.2).
    write(SPURIOUS, APIC_ENABLE | SPURIOUS_VECTOR);
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, u32::from(TIMER_VECTOR));
    Ok(())
}

/// This processor's APIC id.
pub fn apic_id() -> u8 {
    (read(ID) >> 24) as u8
}

/// A vector of its own for one interrupt source; `None` when all are taken.
pub fn allocate_vector() -> Option<u8> {
    NEXT_VECTOR.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < VECTOR_END).then_some(next + 1)).ok()
}

/// Routes the interrupt line `gsi`, edge-triggered and active high, to `vector` on this processor.
///
/// # Errors
/// A sentence for the console, where no I/O APIC has such a line.
pub fn route(gsi: u32, vector: u8) -> Result<(), &'static str> {
    let (base, pin) = match gsi {
        0..IO_APIC_PINS => (IO_APIC, gsi),
        IO_APIC_PINS..48 => (IO_APIC_2, gsi - IO_APIC_PINS),
        _ => return Err("the interrupt number is beyond the I/O APICs' 48 lines"),
    };
    let (select, window) = (base as *mut u32, (base + 0x10) as *mut u32);
    // SAFETY: both registers lie in the part of the address space that `boot.s` maps uncached for devices. The entry
    // written sends `vector`, for which there is a handler, to this processor.
    unsafe {
        select.write_volatile(0x11 + 2 * pin);
        window.write_volatile(u32::from(apic_id()) << 24);
        select.write_volatile(0x10 + 2 * pin);
        window.write_volatile(u32::from(vector));
    }
    Ok(())
}

/// Where a device writes a message-signalled interrupt for `vector` on this processor: address and data.
pub fn message(vector: u8) -> (u64, u32) {
    (LAPIC as u64 | u64::from(apic_id()) << 12, u32::from(vector))
}

/// Starts the timer: it interrupts once, after `ticks` of the APIC's clock. 0 stops it.
pub fn start_timer(ticks: u32) {
    write(INITIAL_COUNT, ticks);
}

/// The ticks that are left until the timer interrupts.
pub fn timer_left() -> u32 {
    read(CURRENT_COUNT)
}

/// Sleeps until an interrupt. One that has come since interrupts were last taken ends this at once.
pub fn wait() {
    x86_64::instructions::hlt();
}
