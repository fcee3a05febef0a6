//! Time: KVM's paravirtual clock where there is one, else the TSC, calibrated.

use core::arch::x86_64::{__cpuid, _rdtsc};
use core::cell::Cell;
use core::sync::atomic::{AtomicI8, AtomicU32, AtomicU64, Ordering, fence};

use x86_64::instructions::port::{Port, PortWriteOnly};
use x86_64::registers::model_specific::Msr;

use super::interrupt;

/// CPUID leaves of KVM (the kernel's Documentation/virt/kvm/x86/cpuid.rst).
const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// KVM_FEATURE_CLOCKSOURCE2.
const CLOCKSOURCE2: u32 = 1 << 3;
/// MSR_KVM_SYSTEM_TIME_NEW.
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// KVM's `pvclock_vcpu_time_info`, written by the host.
#[repr(C, align(64))]
struct PvClock {
    /// Odd while the host writes.
    version: AtomicU32,
    unused: u32,
    tsc_timestamp: AtomicU64,
    /// Nanoseconds at `tsc_timestamp`.
    system_time: AtomicU64,
    tsc_to_system_mul: AtomicU32,
    tsc_shift: AtomicI8,
    flags: u8,
    padding: [u8; 2],
}

static PV_CLOCK: PvClock = PvClock {
    version: AtomicU32::new(0),
    unused: 0,
    tsc_timestamp: AtomicU64::new(0),
    system_time: AtomicU64::new(0),
    tsc_to_system_mul: AtomicU32::new(0),
    tsc_shift: AtomicI8::new(0),
    flags: 0,
    padding: [0; 2],
};
const _: () = assert!(size_of::<PvClock>() == 64);

/// What the time is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The paravirtual clock of KVM.
    KvmClock,
    /// The time stamp counter, calibrated.
    Tsc,
}

/// The clock: nanoseconds since the boot stub's first instruction, never going back.
pub struct Clock {
    source: Source,
    /// TSC or system time at the boot stub's first instruction.
    start: u64,
    /// For `Source::Tsc`: nanoseconds are `ticks * multiplier >> 32`.
    multiplier: u64,
    /// The latest time told.
    last: Cell<u64>,
    /// Ticks of the APIC timer in 1,048,576 ns.
    apic_ticks_per_mebi_ns: u64,
}

impl Clock {
    /// Finds the best clock there is. To be called after [`interrupt::init`].
    pub fn new() -> Self {
        // The APIC timer of KVM runs at 1 GHz.
        let mut clock = Self {
            source: Source::KvmClock,
            start: 0,
            multiplier: 0,
            last: Cell::new(0),
            apic_ticks_per_mebi_ns: 1 << 20,
        };
        if kvm_clock_offered() {
            let address = &raw const PV_CLOCK as u64;
            // SAFETY: bit 0 starts the clock; the host then writes `PV_CLOCK`, a static of the layout that it wants, whose
            // fields it shares are atomics. Ring 0 allows ring 3 to write this MSR.
            unsafe { Msr::new(MSR_SYSTEM_TIME).write(address | 1) };
            if PV_CLOCK.version.load(Ordering::Acquire) != 0 {
                clock.start = pv_at(super::trap::boot_tsc);
                return clock;
            }
        }
        let (khz, apic_khz) = calibrate();
        clock.source = Source::Tsc;
        clock.multiplier = (1_000_000_u64 << 32) / u64::from(khz);
        clock.apic_ticks_per_mebi_ns = (u64::from(apic_khz) << 20) / 1_000_000;
        clock.start = super::trap::boot_tsc();
        clock
    }

    /// Nanoseconds since the boot stub's first instruction.
    #[inline]
    pub fn now(&self) -> u64 {
        let now = match self.source {
            Source::KvmClock => pv_at(tsc).saturating_sub(self.start),
            Source::Tsc => {
                let ticks = tsc().saturating_sub(self.start);
                ((u128::from(ticks) * u128::from(self.multiplier)) >> 32) as u64
            }
        };
        // The host may correct its clock a little when it moves the machine to another processor.
        let now = now.max(self.last.get());
        self.last.set(now);
        now
    }

    /// Sleeps until an interrupt, or until `deadline` (nanoseconds, as [`Clock::now`] counts). It may wake early.
    pub fn wait_until(&self, deadline: Option<u64>) {
        let Some(deadline) = deadline else {
            interrupt::start_timer(0);
            interrupt::wait();
            return;
        };
        let now = self.now();
        if deadline <= now {
            return;
        }
        // At most some seconds: the timer counts 32 bits, and an early wake-up does no harm.
        let wait = (deadline - now).min(2_000_000_000);
        let ticks = (wait * self.apic_ticks_per_mebi_ns) >> 20;
        interrupt::start_timer(ticks.clamp(1, u64::from(u32::MAX)) as u32);
        interrupt::wait();
    }
}

#[inline]
fn tsc() -> u64 {
    // SAFETY: every x86_64 processor has the time stamp counter, and CR4.TSD, which would forbid it to ring 3, is clear.
    unsafe { _rdtsc() }
}

/// KVM's time in nanoseconds when the time stamp counter is, or was, what `tsc` gives.
#[inline]
fn pv_at(tsc: impl Fn() -> u64) -> u64 {
    loop {
        let version = PV_CLOCK.version.load(Ordering::Acquire);
        let stamp = PV_CLOCK.tsc_timestamp.load(Ordering::Relaxed);
        let system_time = PV_CLOCK.system_time.load(Ordering::Relaxed);
        let multiplier = PV_CLOCK.tsc_to_system_mul.load(Ordering::Relaxed);
        let shift = PV_CLOCK.tsc_shift.load(Ordering::Relaxed);
        let now = tsc();
        fence(Ordering::Acquire);
        if version & 1 == 0 && PV_CLOCK.version.load(Ordering::Relaxed) == version {
            let ticks = now.abs_diff(stamp);
            let ticks = if shift >= 0 { ticks << (shift & 63) } else { ticks >> (shift.unsigned_abs() & 63) };
            let ns = ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64;
            return if now >= stamp { system_time.wrapping_add(ns) } else { system_time.saturating_sub(ns) };
        }
        core::hint::spin_loop();
    }
}

fn kvm_clock_offered() -> bool {
    let hypervisor_present = __cpuid(1).ecx & (1 << 31) != 0;
    let signature = __cpuid(KVM_SIGNATURE);
    hypervisor_present
        && signature.ebx.to_le_bytes() == *b"KVMK"
        && signature.ecx.to_le_bytes() == *b"VMKV"
        && signature.edx.to_le_bytes() == *b"M\0\0\0"
        && __cpuid(KVM_FEATURES).eax & CLOCKSOURCE2 != 0
}

/// The interval timer's frequency in Hz.
const PIT_HZ: u64 = 1_193_182;
/// Its counts in the 10 ms that calibration takes.
const CALIBRATION: u64 = PIT_HZ / 100;

/// Reads the count of the interval timer's channel 0, and the time stamps around that reading.
fn pit_sample() -> (u64, u16, u64) {
    let (mut data, mut command) = (Port::<u8>::new(0x40), PortWriteOnly::<u8>::new(0x43));
    // SAFETY: latching and reading a count changes nothing; interrupts of channel 0 go to PICs that `boot.s` has masked.
    unsafe {
        let before = tsc();
        command.write(0);
        let low = data.read();
        let after = tsc();
        (before, u16::from_le_bytes([low, data.read()]), after)
    }
}

/// The tightest of some samples: the processor may be taken away in the middle of one.
fn pit_best_sample() -> (u64, u16) {
    let samples = core::array::from_fn::<_, 8, _>(|_| pit_sample());
    let (before, count, after) =
        samples.into_iter().min_by_key(|(before, _, after)| after - before).unwrap_or_default();
    (before + (after - before) / 2, count)
}

/// Measures the TSC and the APIC timer against channel 0 of the interval timer (microvm has no gate for channel 2). Returns
/// both in kHz.
fn calibrate() -> (u32, u32) {
    let (mut data, mut command) = (PortWriteOnly::<u8>::new(0x40), PortWriteOnly::<u8>::new(0x43));
    // Mode 2: counts down from 65535 again and again.
    // SAFETY: the interval timer drives nothing: its interrupts are masked in the PICs and in the I/O APIC.
    unsafe {
        command.write(0b0011_0100);
        data.write(0xff);
        data.write(0xff);
    }
    interrupt::start_timer(u32::MAX);
    let (start, first) = pit_best_sample();
    let apic_start = interrupt::timer_left();
    let mut counts = 0_u64;
    let mut previous = first;
    let mut elapsed = 0;
    let mut apic = 0;
    // Where there is no timer its count stands still: give up after 2^30 ticks, some hundred milliseconds.
    while counts < CALIBRATION && elapsed < 1 << 30 {
        let (now, count) = pit_best_sample();
        let apic_now = interrupt::timer_left();
        let step = if count <= previous { previous - count } else { previous + (u16::MAX - count) };
        counts += u64::from(step);
        previous = count;
        elapsed = now - start;
        apic = apic_start - apic_now;
    }
    interrupt::start_timer(0);
    if counts < CALIBRATION {
        return (cpuid_tsc_khz().unwrap_or(1_000_000), 1_000_000);
    }
    let khz = elapsed * PIT_HZ / counts / 1000;
    let apic_khz = u64::from(apic) * PIT_HZ / counts / 1000;
    match (khz, apic_khz) {
        // Plausible: 100 MHz to 10 GHz, and the bus from 1 MHz to 10 GHz.
        (100_000..=10_000_000, 1_000..=10_000_000) => (khz as u32, apic_khz as u32),
        // No usable interval timer: what the processor says of itself, else the usual 1 GHz of emulators.
        _ => (cpuid_tsc_khz().unwrap_or(1_000_000), 1_000_000),
    }
}

/// The TSC's frequency by CPUID leaf 0x15, or leaf 0x16's base frequency.
fn cpuid_tsc_khz() -> Option<u32> {
    let leaves = __cpuid(0).eax;
    if leaves >= 0x15 {
        let ratio = __cpuid(0x15);
        if ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0 {
            let hz = u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax);
            return u32::try_from(hz / 1000).ok();
        }
    }
    let mhz = if leaves >= 0x16 { __cpuid(0x16).eax & 0xffff } else { 0 };
    (mhz != 0).then_some(mhz * 1000)
}
