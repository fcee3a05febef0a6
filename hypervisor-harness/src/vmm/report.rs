//! What a guest was doing when it fell over: its registers, with the places they point at named.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events};
use kvm_ioctls::VcpuFd;

use super::symbols::Symbols;

/// The state of a vCPU at its end.
#[derive(Clone)]
pub struct GuestState {
    registers: kvm_regs,
    system: kvm_sregs,
    events: kvm_vcpu_events,
    place: Option<String>,
}

impl GuestState {
    /// Reads the state of a vCPU. `None` if KVM does not give it.
    #[must_use]
    pub fn capture(vcpu: &VcpuFd, symbols: &Symbols) -> Option<Self> {
        let registers = vcpu.get_regs().ok()?;
        let system = vcpu.get_sregs().ok()?;
        let events = vcpu.get_vcpu_events().ok()?;
        let linear = registers.rip.wrapping_add(if system.efer & EFER_LMA == 0 { system.cs.base } else { 0 });
        Some(Self { registers, system, events, place: symbols.name(linear) })
    }

    /// The last exception: its vector and error code, where KVM still knows it.
    #[must_use]
    pub fn exception(&self) -> Option<(u8, Option<u32>)> {
        let exception = self.events.exception;
        let known = exception.injected != 0 || exception.pending != 0 || exception.nr != 0;
        known.then(|| (exception.nr, (exception.has_error_code != 0).then_some(exception.error_code)))
    }
}

const EFER_LMA: u64 = 1 << 10;

/// The name of an exception vector (Intel SDM volume 3, table 6-1).
#[must_use]
pub fn exception_name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        21 => "control protection exception",
        _ => "an exception without a name",
    }
}

impl fmt::Debug for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (r, s) = (&self.registers, &self.system);
        match self.exception() {
            Some((vector, code)) => {
                write!(f, "  last exception: {vector} ({})", exception_name(vector))?;
                if let Some(code) = code {
                    write!(f, ", error code {code:#x}")?;
                }
                writeln!(f)?;
            }
            None => writeln!(f, "  last exception: not known to KVM (cr2 below is the last page fault's address)")?,
        }
        let mode = match (s.cr0 & 1 != 0, s.efer & EFER_LMA != 0) {
            (_, true) => "64-bit",
            (true, false) => "32-bit",
            (false, false) => "real",
        };
        let place = self.place.as_deref().unwrap_or("no symbol");
        writeln!(f, "  rip {:016x} {place} ({mode} mode, ring {})", r.rip, s.cs.selector & 3)?;
        let rows = [
            [("rax", r.rax), ("rbx", r.rbx), ("rcx", r.rcx), ("rdx", r.rdx)],
            [("rsi", r.rsi), ("rdi", r.rdi), ("rbp", r.rbp), ("rsp", r.rsp)],
            [("r8 ", r.r8), ("r9 ", r.r9), ("r10", r.r10), ("r11", r.r11)],
            [("r12", r.r12), ("r13", r.r13), ("r14", r.r14), ("r15", r.r15)],
            [("cr0", s.cr0), ("cr2", s.cr2), ("cr3", s.cr3), ("cr4", s.cr4)],
            [("efl", r.rflags), ("efr", s.efer), ("gdt", s.gdt.base), ("idt", s.idt.base)],
        ];
        for row in rows {
            let row = row.map(|(name, value)| format!("{name} {value:016x}"));
            writeln!(f, "  {}", row.join("  "))?;
        }
        let selector = |name: &str, segment: &kvm_bindings::kvm_segment| format!("{name} {:04x}", segment.selector);
        let segments = [selector("cs", &s.cs), selector("ss", &s.ss), selector("ds", &s.ds), selector("tr", &s.tr)];
        write!(f, "  {}  idt limit {:#x}", segments.join("  "), s.idt.limit)
    }
}
