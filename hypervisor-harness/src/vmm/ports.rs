//! The port devices: COM1, the block console, the exit device, and PCI where there is any. Every other port reads as ones and swallows writes.

use vm_superio::Serial;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::EventFd;

use super::console::{Console, Source};
use super::layout;
use super::memory::GuestRam;
use super::pci::SharedHost;

/// Raises COM1's interrupt.
struct Interrupt(EventFd);

impl vm_superio::Trigger for Interrupt {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// The port devices of a guest.
pub struct Ports {
    serial: Serial<Interrupt, NoEvents, Vec<u8>>,
    ram: GuestRam,
    console: Console,
    pci: Option<SharedHost>,
    strays: u64,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("strays", &self.strays).finish_non_exhaustive()
    }
}

const SERIAL_LAST: u16 = layout::SERIAL + 7;

impl Ports {
    /// The devices, with `interrupt` wired to COM1's line and what the guest says going to `console`; the ports of `pci`,
    /// if there is such a bus.
    #[must_use]
    pub fn new(interrupt: EventFd, ram: GuestRam, console: Console, pci: Option<SharedHost>) -> Self {
        Self { serial: Serial::new(Interrupt(interrupt), Vec::new()), ram, console, pci, strays: 0 }
    }

    /// The guest writes to a port. Returns its exit code if that was the exit device.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Option<u8> {
        match port {
            layout::SERIAL..=SERIAL_LAST => {
                let register = (port - layout::SERIAL) as u8;
                for byte in data {
                    // What can fail is the interrupt's eventfd, which is never full: its reader is the kernel.
                    let _ = self.serial.write(register, *byte);
                }
                let said = self.serial.writer_mut();
                self.console.bytes(Source::Serial, said);
                said.clear();
            }
            layout::BLOCK_CONSOLE => {
                for address in data.as_chunks::<4>().0 {
                    self.block(u32::from_le_bytes(*address).into());
                }
            }
            layout::EXIT => return data.first().copied(),
            _ => match self.pci_at(port) {
                Some(pci) => pci.lock().write_port(port, data),
                None => self.strays += 1,
            },
        }
        None
    }

    /// The guest reads from a port.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            layout::SERIAL..=SERIAL_LAST => {
                let register = (port - layout::SERIAL) as u8;
                data.iter_mut().for_each(|byte| *byte = self.serial.read(register));
            }
            _ => match self.pci_at(port) {
                Some(pci) => pci.lock().read_port(port, data),
                None => self.strays += 1,
            },
        }
    }

    fn pci_at(&self, port: u16) -> Option<&SharedHost> {
        self.pci.as_ref().filter(|_| (layout::PCI_ADDRESS..=layout::PCI_DATA_LAST).contains(&port))
    }

    /// Accesses to ports behind which there is nothing.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays + self.pci.as_ref().map_or(0, |pci| pci.lock().strays())
    }

    /// The console, for what is said when the guest has ended.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// One message of the block console.
    fn block(&mut self, address: u64) {
        let mut length = [0; 4];
        let mut text = Vec::new();
        let result = self.ram.read(address, &mut length).map_err(|error| error.to_string()).and_then(|()| {
            let length = u32::from_le_bytes(length);
            if length > layout::BLOCK_CONSOLE_MAX {
                return Err(format!("a message of {length} bytes; at most {} are taken", layout::BLOCK_CONSOLE_MAX));
            }
            text.resize(length as usize, 0);
            self.ram.read(address + 4, &mut text).map_err(|error| error.to_string())
        });
        match result {
            Ok(()) => self.console.bytes(Source::Block, &text),
            Err(reason) => self.console.complaint(&format!("block console: {reason}")),
        }
    }
}
