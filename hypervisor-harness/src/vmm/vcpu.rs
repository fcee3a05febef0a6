//! Running a vCPU until the guest ends, fails, or is stopped.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::bus::MmioBus;
use super::ports::Ports;
use super::profile::Sampler;
use super::report::GuestState;
use super::symbols::Symbols;

/// The guest's code for success; docs/abi.md has the others.
pub const GUEST_SUCCESS: u8 = 0x10;
/// The exit code for a triple fault.
pub const EXIT_SHUTDOWN: u8 = 0x20;

/// How a guest ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The guest wrote this to its exit device.
    Exit(u8),
    /// A triple fault: the guest could not handle an exception, nor the exception that this raised.
    Shutdown(Option<Box<GuestState>>),
    /// The harness stopped it.
    Stopped,
    /// KVM could not go on.
    Failed(Failure),
}

/// Why KVM could not go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What KVM said, in words.
    pub reason: String,
    /// The vCPU's state, where KVM gave it.
    pub state: Option<Box<GuestState>>,
}

impl Outcome {
    /// The exit code of the process that ran the guest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exit(GUEST_SUCCESS) | Self::Stopped => 0,
            // A guest that writes 0 has not followed the protocol.
            Self::Exit(0) | Self::Failed(_) => 1,
            Self::Exit(code) => *code,
            Self::Shutdown(_) => EXIT_SHUTDOWN,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let meaning = |code: &u8| match code {
            0x10 => "finished",
            0x11 => "panicked",
            0x12 => "met an exception that it could not handle",
            0x13 => "ran out of heap",
            0x14 => "found its configuration unusable (its last lines say why)",
            0x15 => "could not drive its network device",
            _ => "ended with a code that has no meaning",
        };
        let state = |f: &mut std::fmt::Formatter<'_>, state: &Option<Box<GuestState>>| match state {
            Some(state) => write!(f, "\n{state}"),
            None => Ok(()),
        };
        match self {
            Self::Exit(GUEST_SUCCESS) => write!(f, "the guest finished"),
            Self::Exit(code) => write!(f, "the guest {} (exit code {code:#x})", meaning(code)),
            Self::Shutdown(at) => {
                write!(f, "the guest shut down by a triple fault: an exception, and no working handler for it")?;
                state(f, at)
            }
            Self::Stopped => write!(f, "stopped"),
            Self::Failed(failure) => {
                write!(f, "KVM could not go on: {}", failure.reason)?;
                state(f, &failure.state)
            }
        }
    }
}

/// A vCPU and what it reaches.
#[derive(Debug)]
pub struct Vcpu {
    /// KVM's vCPU.
    pub fd: VcpuFd,
    /// The port devices.
    pub ports: Ports,
    /// The memory-mapped devices.
    pub bus: MmioBus,
    /// For naming places in reports.
    pub symbols: Arc<Symbols>,
    /// Set when the vCPU is to stop.
    pub stop: Arc<AtomicBool>,
    /// Profiles the guest, if that is wanted.
    pub sampler: Option<Arc<Sampler>>,
}

impl Vcpu {
    /// Runs the guest until it ends.
    pub fn run(&mut self) -> Outcome {
        let asking = self.sampler.as_ref().map(Sampler::begin);
        if let Some(Err(error)) = &asking {
            self.ports.console().complaint(&format!("no profile is taken: {error}"));
        }
        let outcome = loop {
            if let Some(outcome) = self.turn() {
                break outcome;
            }
        };
        if let (Some(sampler), Some(Ok(asking))) = (&self.sampler, asking) {
            sampler.end();
            // It does nothing that could panic.
            let _ = asking.join();
        }
        self.ports.console().finish();
        let strays = self.ports.strays() + self.bus.strays();
        if strays > 0 {
            self.ports
                .console()
                .complaint(&format!("{strays} accesses to ports and addresses with nothing behind them"));
        }
        outcome
    }

    /// Runs the guest until it needs something, and serves it.
    fn turn(&mut self) -> Option<Outcome> {
        if self.stop.load(Ordering::Acquire) {
            return Some(Outcome::Stopped);
        }
        if let Some(sampler) = &self.sampler {
            sampler.forget();
        }
        let reason = match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => return self.ports.write(port, data).map(Outcome::Exit),
            Ok(VcpuExit::IoIn(port, data)) => {
                self.ports.read(port, data);
                return None;
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.bus.read(address, data);
                return None;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.bus.write(address, data);
                return None;
            }
            Ok(VcpuExit::Intr) => {
                self.sample();
                return None;
            }
            Ok(VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_)) => return None,
            Ok(VcpuExit::Shutdown) => {
                return Some(Outcome::Shutdown(self.state()));
            }
            // A guest that halts is woken inside KVM; this exit comes only where no interrupt could ever end it.
            Ok(VcpuExit::Hlt) => "the guest halted, and no interrupt can wake it".into(),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                format!("the processor refused the guest's state (hardware reason {reason:#x}, host CPU {cpu})")
            }
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
                format!("guest-physical memory {gpa:#x} (+{size:#x}) cannot be reached; is the host out of memory?")
            }
            Ok(other) => format!("an exit that nothing asked for: {other:?}"),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                self.sample();
                return None;
            }
            Err(error) => format!("KVM_RUN: {}", io::Error::from_raw_os_error(error.errno())),
        };
        Some(Outcome::Failed(Failure { reason, state: self.state() }))
    }

    /// A signal has ended a stay in the guest.
    fn sample(&self) {
        if let Some(sampler) = &self.sampler {
            sampler.sample(&self.fd);
        }
    }

    fn state(&self) -> Option<Box<GuestState>> {
        GuestState::capture(&self.fd, &self.symbols).map(Box::new)
    }

    fn internal_error(&mut self) -> String {
        // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, for which the kernel fills this member; any bytes are valid for it.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        match suberror {
            1 => "the guest ran an instruction that KVM does not emulate".into(),
            2 => "simultaneous exceptions in the guest".into(),
            3 => "KVM could not deliver an event to the guest".into(),
            4 => "the processor left the guest for a reason unknown to KVM".into(),
            other => format!("internal error {other} in KVM"),
        }
    }
}

/// Makes a vCPU leave the guest, from another thread and at any moment.
#[derive(Debug)]
pub struct Kick {
    /// A mapping of the vCPU's shared page of our own, so that it lives as long as this does.
    page: *mut kvm_run,
    stop: Arc<AtomicBool>,
}

// SAFETY: the mapping belongs to this value; its only use is one atomic store.
unsafe impl Send for Kick {}
// SAFETY: as above.
unsafe impl Sync for Kick {}

impl Kick {
    /// Prepares kicking a vCPU. Also installs, once per process, the handler of the signal that is used.
    ///
    /// # Errors
    /// If the mapping or the handler is refused.
    pub fn new(vcpu: &VcpuFd, stop: Arc<AtomicBool>) -> io::Result<Self> {
        extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), nothing).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        let (size, protection) = (size_of::<kvm_run>(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { page: page.cast(), stop })
    }

    /// Tells the vCPU that runs on `thread` to stop. It does, even if it was just about to enter the guest: the flag in
    /// the shared page is looked at after that point, and the signal ends a stay in the guest.
    pub fn stop<T>(&self, thread: &std::thread::JoinHandle<T>) {
        use std::os::unix::thread::JoinHandleExt;
        self.stop.store(true, Ordering::Release);
        // SAFETY: the page is mapped as long as `self` lives, and the field is one byte that the kernel reads; nobody else
        // in this process writes it.
        let immediate_exit = unsafe { AtomicU8::from_ptr(&raw mut (*self.page).immediate_exit) };
        immediate_exit.store(1, Ordering::SeqCst);
        // SAFETY: the thread has been neither joined nor detached, since its handle exists: the id is valid.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
    }
}

impl Drop for Kick {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size, and nothing refers to it any more.
        unsafe { libc::munmap(self.page.cast(), size_of::<kvm_run>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let failed = Outcome::Failed(Failure { reason: "so".into(), state: None });
        let codes = [
            Outcome::Exit(0x10),
            Outcome::Exit(0),
            Outcome::Exit(0x11),
            Outcome::Shutdown(None),
            Outcome::Stopped,
            failed,
        ];
        assert_eq!(codes.map(|outcome| outcome.exit_code()), [0, 1, 0x11, 0x20, 0, 1]);
        assert_eq!(Outcome::Exit(0x13).to_string(), "the guest ran out of heap (exit code 0x13)");
    }
}
