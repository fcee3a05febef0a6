//! PCI configuration space by ports 0xcf8 and 0xcfc ("configuration mechanism 1").

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use x86_64::instructions::port::{Port, PortWriteOnly};

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
