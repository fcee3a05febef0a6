//! Interrupts as messages (PCI 3.0, section 6.8.2).

use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use super::registers::Registers;
use crate::wire::pci::msix;

/// A message: what the device writes where, to interrupt a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The physical address, 4-aligned.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// The vectors of a device that are in use.
#[derive(Debug)]
pub(super) struct Vectors {
    count: u16,
}

impl Vectors {
    /// Programs the table with as many messages as `message` gives and switches MSI-X on; `None` if it gives none.
    ///
    /// `capability` is where the capability lies in the configuration space.
    pub fn enable<C: ConfigurationAccess>(
        access: &mut C,
        function: DeviceFunction,
        capability: u8,
        table: Registers,
        mut message: impl FnMut(u16) -> Option<Message>,
    ) -> Option<Self> {
        let control = access.read_word(function, capability);
        let entries = (control >> 16) as u16 & msix::TABLE_SIZE_MASK;
        let with = |bits: u16| control & !(u32::from(msix::ENABLE | msix::FUNCTION_MASK) << 16) | u32::from(bits) << 16;
        // Enabled, so that the table can be written, but masked while it is.
        access.write_word(function, capability, with(msix::ENABLE | msix::FUNCTION_MASK));
        let mut count = 0;
        for vector in 0..=entries {
            let Some(message) = message(vector) else { break };
            let entry = usize::from(vector) * msix::ENTRY;
            table.write_u32(entry + msix::ADDRESS_LOW, message.address as u32);
            table.write_u32(entry + msix::ADDRESS_HIGH, (message.address >> 32) as u32);
            table.write_u32(entry + msix::DATA, message.data);
            table.write_u32(entry + msix::VECTOR_CONTROL, 0);
            count = vector + 1;
        }
        if count == 0 {
            access.write_word(function, capability, with(0));
            return None;
        }
        access.write_word(function, capability, with(msix::ENABLE));
        Some(Self { count })
    }

    /// The vector of a queue: one of its own if there are enough, else the shared first one.
    pub fn of_queue(&self, queue: u16) -> u16 {
        match queue.checked_add(1) {
            Some(vector) if vector < self.count => vector,
            _ => 0,
        }
    }
}
