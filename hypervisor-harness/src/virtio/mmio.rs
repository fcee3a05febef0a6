//! The registers of virtio over MMIO, version 2 (virtio 1.3, section 4.2), and the device's status (section 2.1).
//!
//! They live on the vCPU's thread. What moves frames is elsewhere, behind [`Control`]; a register write that starts or
//! stops it returns only when that is done.

use std::sync::Arc;

use ringlet_driver::features::Features;
use ringlet_driver::wire::{self, mmio as register, status};

use super::Shared;
use super::memory::Memory;
use super::net::{self, Activation, MAX_QUEUE_SIZE, QUEUES};
use super::queue::Place;
use crate::vmm::MmioDevice;

/// The vendor that the device names: "QEMU", as nearly every virtio-mmio device does.
const VENDOR: u32 = 0x554d_4551;

/// What the driver may set in the status register.
const DRIVER_BITS: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK | status::FAILED;

/// What the registers do to the part of the device that moves frames.
pub trait Control: Send {
    /// DRIVER_OK. When this returns, the device works, or needs a reset.
    fn start(&mut self, activation: Activation);
    /// When this returns, the device does not touch that queue any more.
    fn stop_queue(&mut self, queue: u16);
    /// When this returns, the device does not touch the guest's memory any more.
    fn reset(&mut self);
    /// A doorbell that did not come by an eventfd.
    fn doorbell(&mut self, queue: u16);
}

/// One queue's registers.
#[derive(Debug, Clone, Copy, Default)]
struct QueueRegisters {
    place: Place,
    ready: bool,
}

/// The registers.
#[derive(Debug)]
pub struct Registers<C> {
    control: C,
    shared: Arc<Shared>,
    memory: Memory,
    offered: Features,
    mac: [u8; 6],
    mtu: u16,
    status: u8,
    device_features_select: u32,
    driver_features_select: u32,
    accepted: u64,
    queue_select: u32,
    queues: [QueueRegisters; QUEUES],
}

impl<C: Control> Registers<C> {
    /// The registers of a device that has just been reset.
    #[must_use]
    pub fn new(control: C, shared: Arc<Shared>, memory: Memory, offered: Features, mac: [u8; 6], mtu: u16) -> Self {
        Self {
            control,
            shared,
            memory,
            offered,
            mac,
            mtu,
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            accepted: 0,
            queue_select: 0,
            queues: Default::default(),
        }
    }

    /// The part of the device that moves frames.
    pub fn control(&mut self) -> &mut C {
        &mut self.control
    }

    fn has(&self, bits: u8) -> bool {
        self.status & bits == bits
    }

    /// The selected queue, if there is one.
    fn queue(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(self.queue_select as usize)
    }

    /// An access that the driver should not have made.
    fn misuse(&self, why: std::fmt::Arguments<'_>) {
        // The first one is said, so that whoever writes a driver can find it; the others are only counted.
        if self.shared.live.misuses.get() == 0 {
            self.shared.say(&format!("the network device's registers were misused: {why}"));
        }
        self.shared.live.misuses.add(1);
    }

    fn load(&mut self, offset: usize) -> u32 {
        match offset {
            register::MAGIC_VALUE => register::MAGIC,
            register::VERSION => register::VERSION_MODERN,
            register::DEVICE_ID => wire::DEVICE_TYPE_NETWORK,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered.bits(), self.device_features_select),
            register::QUEUE_SIZE_MAX => self.queue().map_or(0, |_| MAX_QUEUE_SIZE.into()),
            register::QUEUE_READY => self.queue().is_some_and(|queue| queue.ready).into(),
            register::INTERRUPT_STATUS => self.shared.interrupt_status(),
            register::STATUS => {
                let broken = if self.shared.needs_reset() { status::DEVICE_NEEDS_RESET } else { 0 };
                (self.status | broken).into()
            }
            // No shared memory regions: their length reads as ones (section 4.2.2).
            register::SHM_LEN_LOW | register::SHM_LEN_HIGH | register::SHM_BASE_LOW | register::SHM_BASE_HIGH => !0,
            register::QUEUE_RESET => 0,
            register::CONFIG_GENERATION => self.shared.generation(),
            _ => {
                self.misuse(format_args!("a read at {offset:#x}"));
                0
            }
        }
    }

    fn store(&mut self, offset: usize, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_select = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::DRIVER_FEATURES => self.accept(value),
            register::QUEUE_SEL => self.queue_select = value,
            register::QUEUE_READY => self.set_ready(value),
            register::QUEUE_NOTIFY => match u16::try_from(value) {
                Ok(queue) if usize::from(queue) < QUEUES => self.control.doorbell(queue),
                _ => self.misuse(format_args!("a doorbell for queue {value}")),
            },
            register::INTERRUPT_ACK => self.shared.acknowledge(value),
            register::STATUS => self.set_status(value),
            register::SHM_SEL => {}
            register::QUEUE_SIZE
            | register::QUEUE_DESC_LOW
            | register::QUEUE_DESC_HIGH
            | register::QUEUE_DRIVER_LOW
            | register::QUEUE_DRIVER_HIGH
            | register::QUEUE_DEVICE_LOW
            | register::QUEUE_DEVICE_HIGH => self.set_place(offset, value),
            _ => self.misuse(format_args!("a write of {value:#x} at {offset:#x}")),
        }
    }

    /// DriverFeatures: half of the accepted features. They are fixed by FEATURES_OK.
    fn accept(&mut self, value: u32) {
        if !self.has(status::DRIVER) || self.has(status::FEATURES_OK) {
            return self.misuse(format_args!("features written outside of their negotiation"));
        }
        self.accepted = match self.driver_features_select {
            0 => self.accepted & !0xffff_ffff | u64::from(value),
            1 => self.accepted & 0xffff_ffff | u64::from(value) << 32,
            _ => {
                return if value != 0 {
                    self.misuse(format_args!("features beyond bit 63"))
                };
            }
        };
    }

    /// Size and addresses of the selected queue, which can be set while it is not ready.
    fn set_place(&mut self, offset: usize, value: u32) {
        let Some(queue) = self.queue().filter(|queue| !queue.ready) else {
            return self.misuse(format_args!("a queue was placed that does not exist, or is in use"));
        };
        let place = &mut queue.place;
        let low = |address: &mut u64| *address = *address & !0xffff_ffff | u64::from(value);
        let high = |address: &mut u64| *address = *address & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            // A size that is too large for 16 bits is refused like any other bad one, when the queue is made ready.
            register::QUEUE_SIZE => place.size = u16::try_from(value).unwrap_or(0),
            register::QUEUE_DESC_LOW => low(&mut place.descriptors),
            register::QUEUE_DESC_HIGH => high(&mut place.descriptors),
            register::QUEUE_DRIVER_LOW => low(&mut place.driver),
            register::QUEUE_DRIVER_HIGH => high(&mut place.driver),
            register::QUEUE_DEVICE_LOW => low(&mut place.device),
            register::QUEUE_DEVICE_HIGH => high(&mut place.device),
            _ => {}
        }
    }

    /// QueueReady: 1 begins to use the selected queue, 0 ends that, at once.
    fn set_ready(&mut self, value: u32) {
        let index = self.queue_select as u16;
        let (running, ready) = (self.has(status::DRIVER_OK), value & 1 == 1);
        let negotiated = self.has(status::FEATURES_OK);
        let memory = self.memory.clone();
        let Some(queue) = self.queue() else {
            return self.misuse(format_args!("there is no such queue"));
        };
        if queue.ready == ready {
            return;
        }
        if !ready {
            queue.ready = false;
            if running {
                self.control.stop_queue(index);
            }
            return;
        }
        if running || !negotiated {
            return self.misuse(format_args!("queues are made ready between FEATURES_OK and DRIVER_OK"));
        }
        match queue.place.check(&memory, MAX_QUEUE_SIZE) {
            Ok(()) => queue.ready = true,
            Err(error) => {
                let name = if index == wire::RECEIVE_QUEUE { "receive" } else { "transmit" };
                self.misuse(format_args!("the {name} queue cannot be used: {error}"));
            }
        }
    }

    /// Status: 0 resets the device; everything else adds bits.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // The register has 8 bits of meaning; DEVICE_NEEDS_RESET is the device's, and is written back by drivers.
        let mut new = value as u8 & DRIVER_BITS & !self.status;
        if new & status::FEATURES_OK != 0 && !self.features_ok(self.status | new) {
            new &= !status::FEATURES_OK;
        }
        if new & status::DRIVER_OK != 0 && (self.status | new) & status::FEATURES_OK == 0 {
            self.misuse(format_args!("DRIVER_OK without FEATURES_OK"));
            new &= !status::DRIVER_OK;
        }
        self.status |= new;
        if new & status::FAILED != 0 {
            // The driver has given up; its memory is left alone from here on.
            self.control.reset();
            self.shared.set_negotiated(Features::empty());
        } else if new & status::DRIVER_OK != 0 && !self.has(status::FAILED) {
            let features = Features::from_bits_retain(self.accepted);
            let queues = self.queues.map(|queue| queue.ready.then_some(queue.place));
            self.control.start(Activation { features, queues });
        }
    }

    /// Whether the device can work with what the driver has accepted (section 3.1.1, step 5).
    fn features_ok(&self, status: u8) -> bool {
        let accepted = Features::from_bits_retain(self.accepted);
        let foreign = accepted - self.offered;
        if status & status::DRIVER == 0 {
            self.misuse(format_args!("FEATURES_OK without DRIVER"));
        } else if !foreign.is_empty() {
            self.misuse(format_args!("features accepted that were not offered: {foreign}"));
        } else if !accepted.contains(Features::VERSION_1) {
            self.misuse(format_args!("version_1 was not accepted: this is not a legacy device"));
        } else if let Err(unmet) = accepted.check() {
            self.misuse(format_args!("features accepted that do not go together: {unmet}"));
        } else {
            return true;
        }
        false
    }

    fn reset(&mut self) {
        self.control.reset();
        self.status = 0;
        self.accepted = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.queues = Default::default();
        self.shared.reset();
    }
}

impl<C: Control> MmioDevice for Registers<C> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        if let Some(at) = offset.checked_sub(register::CONFIG) {
            let space = net::configuration(self.mac, self.mtu, self.shared.link()).to_bytes();
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = space.get(at + index).copied().unwrap_or(0);
            }
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(&mut *data)
            && offset.is_multiple_of(4)
        {
            *data = self.load(offset).to_le_bytes();
        } else {
            self.misuse(format_args!("a read of {} bytes at {offset:#x}", data.len()));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        match <[u8; 4]>::try_from(data) {
            Ok(data) if offset < register::CONFIG && offset.is_multiple_of(4) => {
                self.store(offset, u32::from_le_bytes(data));
            }
            // The configuration space of a modern network device cannot be written (section 5.1.4).
            _ => self.misuse(format_args!("a write of {} bytes at {offset:#x}", data.len())),
        }
    }
}

/// Half of a 64-bit set, by its select register.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
