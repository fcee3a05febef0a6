//! The registers of virtio over MMIO, version 2 (virtio 1.3, section 4.2).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ringlet_driver::wire::{self, mmio as register, status};
use vmm_sys_util::eventfd::EventFd;

use super::Interrupts;
use super::event;
use super::queue::Place;
use super::registers::{Control, Registers};
use crate::vmm::MmioDevice;

/// The vendor that the device names: "QEMU", as nearly every virtio-mmio device does.
const VENDOR: u32 = 0x554d_4551;

/// The interrupt line of a device on MMIO, and the InterruptStatus register that says why it was raised.
#[derive(Debug)]
pub struct Line {
    status: AtomicU32,
    event: EventFd,
    /// Others raise it too, so that whether buffers were used is not known here, and may have made writes to it wait.
    shared: AtomicBool,
}

impl Line {
    /// A line that is raised by writing to `event`.
    #[must_use]
    pub fn new(event: EventFd) -> Self {
        Self { status: AtomicU32::new(0), event, shared: AtomicBool::new(false) }
    }

    /// InterruptStatus.
    fn status(&self) -> u32 {
        let foreign = if self.shared.load(Ordering::SeqCst) { status::INTERRUPT_QUEUE } else { 0 };
        self.status.load(Ordering::SeqCst) | u32::from(foreign)
    }

    fn raise(&self, reason: u8) {
        self.status.fetch_or(reason.into(), Ordering::SeqCst);
        // Writing fails only when the counter is full, and then the interrupt is pending anyway. A driver that does not
        // acknowledge gets its interrupts all the same: they are edges.
        if self.shared.load(Ordering::SeqCst) {
            event::ring(&self.event);
        } else {
            let _ = self.event.write(1);
        }
    }
}

impl Interrupts for Line {
    fn queue(&self, _queue: u16) {
        self.raise(status::INTERRUPT_QUEUE);
    }

    fn configuration(&self) {
        self.raise(status::INTERRUPT_CONFIG);
    }

    fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    /// From here on InterruptStatus always says "used buffers": it is always worth a look.
    fn call(&self, _queue: u16) -> io::Result<EventFd> {
        self.shared.store(true, Ordering::SeqCst);
        self.event.try_clone()
    }
}

/// A device's registers on MMIO.
#[derive(Debug)]
pub struct Mmio<C> {
    /// What they mean.
    pub registers: Registers<C>,
    line: Arc<Line>,
}

impl<C: Control> Mmio<C> {
    /// The MMIO face of `registers`, whose [`Interrupts`] are this `line`.
    #[must_use]
    pub fn new(registers: Registers<C>, line: Arc<Line>) -> Self {
        Self { registers, line }
    }

    fn load(&mut self, offset: usize) -> u32 {
        let registers = &self.registers;
        match offset {
            register::MAGIC_VALUE => register::MAGIC,
            register::VERSION => register::VERSION_MODERN,
            register::DEVICE_ID => wire::DEVICE_TYPE_NETWORK,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => registers.device_features(),
            register::QUEUE_SIZE_MAX => registers.queue().map_or(0, |_| registers.queue_size_max().into()),
            register::QUEUE_READY => registers.queue().is_some_and(|queue| queue.ready).into(),
            register::INTERRUPT_STATUS => self.line.status(),
            register::STATUS => registers.status().into(),
            // No shared memory regions: their length reads as ones (section 4.2.2).
            register::SHM_LEN_LOW | register::SHM_LEN_HIGH | register::SHM_BASE_LOW | register::SHM_BASE_HIGH => !0,
            register::QUEUE_RESET => 0,
            register::CONFIG_GENERATION => registers.shared().generation(),
            _ => {
                registers.misuse(format_args!("a read at {offset:#x}"));
                0
            }
        }
    }

    fn store(&mut self, offset: usize, value: u32) {
        let registers = &mut self.registers;
        let low = |address: u64| address & !0xffff_ffff | u64::from(value);
        let high = |address: u64| address & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            register::DEVICE_FEATURES_SEL => registers.device_features_select = value,
            register::DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            register::DRIVER_FEATURES => registers.accept(value),
            register::QUEUE_SEL => registers.queue_select = value,
            register::QUEUE_READY if value & 1 == 1 => registers.enable_queue(),
            register::QUEUE_READY => registers.disable_queue(),
            register::QUEUE_NOTIFY => registers.doorbell(value),
            register::INTERRUPT_ACK => drop(self.line.status.fetch_and(!value, Ordering::SeqCst)),
            // The register has 8 bits of meaning; only a value of 0 in all of it is a reset.
            register::STATUS if value == 0 || value as u8 != 0 => registers.set_status(value as u8),
            register::STATUS => {}
            register::SHM_SEL => {}
            // A size that is too large for 16 bits is refused like any other bad one, when the queue is made ready.
            register::QUEUE_SIZE => registers.set_place(|place| place.size = u16::try_from(value).unwrap_or(0)),
            register::QUEUE_DESC_LOW => {
                registers.set_place(|place: &mut Place| place.descriptors = low(place.descriptors))
            }
            register::QUEUE_DESC_HIGH => registers.set_place(|place| place.descriptors = high(place.descriptors)),
            register::QUEUE_DRIVER_LOW => registers.set_place(|place| place.driver = low(place.driver)),
            register::QUEUE_DRIVER_HIGH => registers.set_place(|place| place.driver = high(place.driver)),
            register::QUEUE_DEVICE_LOW => registers.set_place(|place| place.device = low(place.device)),
            register::QUEUE_DEVICE_HIGH => registers.set_place(|place| place.device = high(place.device)),
            // Writing 0 does nothing (section 4.2.2).
            register::QUEUE_RESET if value & 1 == 1 => registers.reset_queue(),
            register::QUEUE_RESET => {}
            _ => registers.misuse(format_args!("a write of {value:#x} at {offset:#x}")),
        }
    }
}

impl<C: Control> MmioDevice for Mmio<C> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        if let Some(at) = offset.checked_sub(register::CONFIG) {
            self.registers.read_configuration(at, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data)
            && offset.is_multiple_of(4)
        {
            *data = self.load(offset).to_le_bytes();
        } else {
            self.registers.misuse(format_args!("a read of {} bytes at {offset:#x}", data.len()));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        match <[u8; 4]>::try_from(data) {
            Ok(data) if offset < register::CONFIG && offset.is_multiple_of(4) => {
                self.store(offset, u32::from_le_bytes(data));
            }
            // The configuration space of a modern network device cannot be written (section 5.1.4).
            _ => self.registers.misuse(format_args!("a write of {} bytes at {offset:#x}", data.len())),
        }
    }
}

#[cfg(test)]
mod tests;
