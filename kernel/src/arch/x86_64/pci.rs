//! PCI configuration space: by memory ("ECAM") where the machine tells of it, else by ports 0xcf8 and 0xcfc
//! ("configuration mechanism 1"), which takes two accesses instead of one.

use core::ptr::NonNull;

use ringlet_kernel::acpi::{ECAM_BUS, Ecam};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86_64::instructions::port::{Port, PortWriteOnly};

use super::boot;

/// Access to the configuration spaces of bus 0.
pub enum Access {
    /// By memory.
    Memory(MemoryAccess),
    /// By ports.
    Ports(PortAccess),
}

impl ConfigurationAccess for Access {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        match self {
            Self::Memory(memory) => memory.read_word(function, register),
            Self::Ports(ports) => ports.read_word(function, register),
        }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        match self {
            Self::Memory(memory) => memory.write_word(function, register, value),
            Self::Ports(ports) => ports.write_word(function, register, value),
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        match self {
            Self::Memory(memory) => Self::Memory(MemoryAccess(memory.0)),
            // SAFETY: the caller promises the same for either.
            Self::Ports(ports) => Self::Ports(unsafe { ports.unsafe_clone() }),
        }
    }
}

/// Access by memory, to bus 0 only: where nothing more is known to be mapped.
pub struct MemoryAccess(NonNull<u8>);

impl MemoryAccess {
    /// The configuration spaces at `ecam`; `None` where they cannot be reached, uncached, by the page tables of `boot.s`.
    ///
    /// # Safety
    /// What lies there must be configuration spaces, and nothing else may be using them.
    pub unsafe fn new(ecam: &Ecam) -> Option<Self> {
        let end = ecam.base.checked_add(ECAM_BUS)?;
        let below = boot::REGISTERS_BELOW;
        let linear = if boot::MEMORY_LIMIT <= ecam.base && end <= 1 << 32 {
            ecam.base
        } else if below.start <= ecam.base && end <= below.end {
            ecam.base - below.start + boot::REGISTERS_AGAIN
        } else {
            return None;
        };
        NonNull::new(linear as *mut u8).map(Self)
    }

    /// Where a register is, if it is on bus 0 (device and function then have 5 and 3 bits).
    fn register(&self, function: DeviceFunction, register: u8) -> Option<*mut u32> {
        let number = usize::from(function.device & 31) << 3 | usize::from(function.function & 7);
        let offset = number << 12 | usize::from(register & 0xfc);
        (function.bus == 0).then(|| self.0.as_ptr().wrapping_byte_add(offset).cast())
    }
}

impl ConfigurationAccess for MemoryAccess {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        // SAFETY: a register of configuration space (the promise of `new`), inside of bus 0's, aligned; reading has no side
        // effects, and where no device answers it gives all ones.
        self.register(function, register).map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        if let Some(register) = self.register(function, register) {
            // SAFETY: as for reading; the caller, the PCI code of virtio-drivers, writes command, BAR and capability registers
            // of devices that this kernel owns.
            unsafe { register.write_volatile(value) };
        }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0)
    }
}

/// Access by the two ports. Only one processor may use it at a time.
pub struct PortAccess {
    address: PortWriteOnly<u32>,
    data: Port<u32>,
}

impl PortAccess {
    /// The one access of this machine.
    ///
    /// # Safety
    /// No second one may be in use at the same time: address and data are written apart.
    pub unsafe fn new() -> Self {
        Self { address: PortWriteOnly::new(0xcf8), data: Port::new(0xcfc) }
    }

    fn select(&mut self, function: DeviceFunction, register: u8) {
        let address = 1 << 31
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(register & 0xfc);
        // SAFETY: the address register only selects what the data register shows.
        unsafe { self.address.write(address) };
    }
}

impl ConfigurationAccess for PortAccess {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        // SAFETY: used within this call only, so `self` is not in use meanwhile.
        let mut access = unsafe { Self::new() };
        access.select(function, register);
        // SAFETY: reading configuration space has no side effects; where no device answers it gives all ones.
        unsafe { access.data.read() }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, value: u32) {
        self.select(function, register);
        // SAFETY: the caller, the PCI code of virtio-drivers, writes command, BAR and capability registers of devices
        // that this kernel owns.
        unsafe { self.data.write(value) };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        // SAFETY: the caller promises the same that `new` asks for.
        unsafe { Self::new() }
    }
}
