//! A virtual machine: put together, started, stopped.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::bus::{MmioBus, MmioDevice, Taken};
use super::console::{Console, Sink};
use super::elf::{self, Image};
use super::memory::{self, GuestRam};
use super::pci::{Function, SharedHost, host::Full};
use super::ports::Ports;
use super::profile::{Profile, Sampler};
use super::symbols::Symbols;
use super::vcpu::{Kick, Outcome, Vcpu};
use super::wiring::{KvmWiring, Routes};
use super::{boot, cpuid, host, layout};
use crate::affinity;

/// A machine could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM is not usable.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// No memory for the guest.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] elf::Error),
    /// What the guest is to start with cannot be given to it.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// Two devices in one place.
    #[error(transparent)]
    Bus(#[from] Taken),
    /// Too many devices on PCI.
    #[error(transparent)]
    Pci(#[from] Full),
    /// KVM or the host refused a step.
    #[error("{step}: {source}")]
    Refused {
        /// The step, as the name of a system call or ioctl.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Names the step that KVM refused.
fn refused(step: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| Error::Refused { step, source: io::Error::from_raw_os_error(error.errno()) }
}

/// Names the step that the host refused.
fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Refused { step, source }
}

/// A machine that does not run yet: devices can be added.
#[derive(Debug)]
pub struct Machine {
    kvm: Kvm,
    vm: Arc<VmFd>,
    ram: GuestRam,
    bus: MmioBus,
    routes: Arc<Routes>,
    pci: Option<SharedHost>,
    profile: Option<Arc<Profile>>,
    cpu: Option<usize>,
}

/// What a machine is started with.
pub struct Start {
    /// The image: an ELF file.
    pub image: Cow<'static, [u8]>,
    /// The guest's command line.
    pub command_line: String,
    /// The first module ("initrd"): the rule file.
    pub module: Option<Vec<u8>>,
    /// Takes what the guest says. Called on the vCPU's thread.
    pub said: Sink,
    /// Called once, on the vCPU's thread, when the guest has ended; after the last call of `said`.
    pub ended: Box<dyn FnOnce(&Outcome) + Send>,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("command_line", &self.command_line).finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes a machine with `mib` MiB of memory and KVM's interrupt controllers.
    ///
    /// # Errors
    /// Where KVM is missing or refuses, or there is no memory.
    pub fn new(mib: u32) -> Result<Self, Error> {
        Self::with_ram(GuestRam::new(mib)?)
    }

    /// Makes a machine with this memory and KVM's interrupt controllers.
    ///
    /// # Errors
    /// Where KVM is missing or refuses.
    pub fn with_ram(ram: GuestRam) -> Result<Self, Error> {
        let kvm = host::open()?;
        let vm = loop {
            // The ioctl can be interrupted by a signal that is meant for somebody else.
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => break other.map_err(refused("KVM_CREATE_VM"))?,
            }
        };
        let region = kvm_userspace_memory_region {
            slot: 0,
            guest_phys_addr: 0,
            memory_size: ram.size(),
            userspace_addr: ram.host_start() as u64,
            flags: 0,
        };
        // SAFETY: the range is mapped, belongs to `ram`, and is never unmapped (see `GuestRam`).
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        vm.set_tss_address(layout::KVM_TSS).map_err(refused("KVM_SET_TSS_ADDR"))?;
        vm.set_identity_map_address(layout::KVM_IDENTITY_MAP).map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.create_irq_chip().map_err(refused("KVM_CREATE_IRQCHIP"))?;
        let vm = Arc::new(vm);
        let routes = Arc::new(Routes::new(vm.clone()));
        Ok(Self { kvm, vm, ram, bus: MmioBus::default(), routes, pci: None, profile: None, cpu: None })
    }

    /// The guest's memory.
    #[must_use]
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Keeps the vCPU's thread on this processor of the host.
    pub fn pin(&mut self, cpu: usize) {
        self.cpu = Some(cpu);
    }

    /// An eventfd that raises interrupt line `gsi` (a pin of the IOAPIC), edge triggered, each time it is written.
    ///
    /// # Errors
    /// If KVM refuses it.
    pub fn interrupt(&self, gsi: u32) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(failed("eventfd"))?;
        self.vm.register_irqfd(&event, gsi).map_err(refused("KVM_IRQFD"))?;
        Ok(event)
    }

    /// An eventfd that becomes readable when the guest writes the 32-bit `value` to `address`, or anything at all there
    /// without one; no exit to the vCPU's thread happens then.
    ///
    /// # Errors
    /// If KVM refuses it.
    pub fn notification(&self, address: u64, value: Option<u32>) -> Result<EventFd, Error> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(failed("eventfd"))?;
        let address = IoEventAddress::Mmio(address);
        match value {
            Some(value) => self.vm.register_ioevent(&event, &address, value),
            None => self.vm.register_ioevent(&event, &address, NoDatamatch),
        }
        .map_err(refused("KVM_IOEVENTFD"))?;
        Ok(event)
    }

    /// Puts a device on the memory bus.
    ///
    /// # Errors
    /// If its addresses are taken.
    pub fn add_device(&mut self, base: u64, size: u64, device: Box<dyn MmioDevice>) -> Result<(), Error> {
        Ok(self.bus.add(base, size, device)?)
    }

    /// Connections of a PCI function with that many interrupt vectors.
    #[must_use]
    pub fn wiring(&self, vectors: u16) -> KvmWiring {
        KvmWiring::new(&self.routes, vectors)
    }

    /// Puts a function on the PCI bus. With the first one the bus itself appears, and the ACPI tables that tell of it.
    ///
    /// # Errors
    /// If the bus is full, or something else is where it belongs.
    pub fn add_function(&mut self, function: Box<dyn Function>) -> Result<(), Error> {
        let pci = match &self.pci {
            Some(pci) => pci.clone(),
            None => {
                let pci = SharedHost::default();
                for (range, device) in [(layout::PCI_ECAM, pci.ecam()), (layout::PCI_WINDOW, pci.window())] {
                    self.bus.add(range.start, range.end - range.start, device)?;
                }
                self.pci.insert(pci).clone()
            }
        };
        pci.lock().add(function)?;
        Ok(())
    }

    /// The PCI bus, if there is one.
    #[must_use]
    pub fn pci(&self) -> Option<&SharedHost> {
        self.pci.as_ref()
    }

    /// Has the guest profiled, from its start to its end.
    pub fn set_profile(&mut self, profile: Arc<Profile>) {
        self.profile = Some(profile);
    }

    /// Loads the image and lets the guest run, on a thread of its own.
    ///
    /// # Errors
    /// If the image is not usable, or something does not fit, or KVM refuses a step.
    pub fn start(self, start: Start) -> Result<Running, Error> {
        let Start { image: file, command_line, module, said, ended } = start;
        let image = Image::parse(&file)?;
        image.load(&self.ram)?;
        boot::write(&self.ram, &image, &command_line, module.as_deref(), self.pci.is_some())?;
        let entry = image.entry();
        let symbols = Arc::new(Symbols::new(file));

        let vcpu = self.vm.create_vcpu(0).map_err(refused("KVM_CREATE_VCPU"))?;
        let cpuid = cpuid::table(&self.kvm, 0, vcpu.get_tsc_khz().ok()).map_err(refused("KVM_GET_SUPPORTED_CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))?;
        let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
        boot::system_registers(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;
        vcpu.set_regs(&boot::registers(entry)).map_err(refused("KVM_SET_REGS"))?;

        let stop = Arc::new(AtomicBool::new(false));
        let kick = Kick::new(&vcpu, stop.clone()).map_err(failed("preparing to stop the vCPU"))?;
        let console = Console::new(symbols.clone(), said);
        let ports = Ports::new(self.interrupt(layout::SERIAL_GSI)?, self.ram.clone(), console, self.pci.clone());
        let Self { vm, ram, bus, profile, cpu, .. } = self;
        let sampler = profile.map(|profile| Sampler::new(profile, ram.clone()));
        let mut vcpu = Vcpu { fd: vcpu, ports, bus, symbols, stop, sampler };
        let run = move || {
            let outcome = vcpu.run();
            ended(&outcome);
            outcome
        };
        let thread =
            std::thread::Builder::new().name("vcpu0".into()).spawn(run).map_err(failed("starting a thread"))?;
        let running = Running { thread, kick, _vm: vm, _ram: ram };
        if let Some(Err(error)) = cpu.map(|cpu| affinity::pin(&running.thread, cpu)) {
            running.stop();
            let _ = running.join();
            return Err(failed("keeping the vCPU on one processor")(error));
        }
        Ok(running)
    }
}

/// A machine that runs, or has ended by itself.
///
/// Dropping it leaves the vCPU's thread alone; call [`Running::stop`] and [`Running::join`].
#[derive(Debug)]
pub struct Running {
    thread: JoinHandle<Outcome>,
    kick: Kick,
    _vm: Arc<VmFd>,
    _ram: GuestRam,
}

impl Running {
    /// Makes the guest stop, soon. Has no effect if it has ended already.
    pub fn stop(&self) {
        self.kick.stop(&self.thread);
    }

    /// Waits for the guest's end.
    ///
    /// # Panics
    /// If the vCPU's thread has panicked, with its panic.
    #[must_use]
    pub fn join(self) -> Outcome {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
