//! What the registers of every virtio transport mean: features, status, queue places, reset, the configuration space
//! (virtio 1.3, chapters 2 and 3). How a guest reaches them is the business of the faces: [`super::mmio`] and
//! [`super::pci`].
//!
//! They live on the vCPU's thread. What moves frames is elsewhere, behind [`Control`]; a register write that starts or
//! stops it returns only when that is done.

use std::sync::Arc;

use ringlet_driver::features::Features;
use ringlet_driver::wire::{self, status};

use super::Shared;
use super::memory::Memory;
use super::net::{self, Activation, QUEUES};
use super::queue::Place;

/// What the driver may set in the status register.
const DRIVER_BITS: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK | status::FAILED;

/// What the registers do to the part of the device that moves frames.
pub trait Control: Send {
    /// DRIVER_OK. When this returns, the device works, or needs a reset.
    fn start(&mut self, activation: Activation);
    /// When this returns, the device does not touch that queue any more.
    fn stop_queue(&mut self, queue: u16);
    /// Brings a queue back that [`Control::stop_queue`] has ended, at `place`, which has been checked, with its indices at
    /// zero (RING_RESET; virtio 1.3, section 2.6.1.2). When this returns, the device uses it, or needs a reset.
    fn restart_queue(&mut self, queue: u16, place: Place);
    /// When this returns, the device does not touch the guest's memory any more.
    fn reset(&mut self);
    /// A doorbell that did not come by an eventfd.
    fn doorbell(&mut self, queue: u16);
}

/// One queue's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Where the driver wants it; its size is the greatest there can be until the driver has set one.
    pub place: Place,
    /// Whether it is in use.
    pub ready: bool,
}

impl QueueRegisters {
    /// As a reset leaves them.
    fn fresh(size: u16) -> Self {
        Self { place: Place { size, ..Place::default() }, ready: false }
    }
}

/// Bits that say what a device is: they do not change as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// What it offers.
    pub offered: Features,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The greatest IP packet that it takes and gives, in bytes.
    pub mtu: u16,
    /// The greatest number of descriptors in a queue; with split rings, the greatest power of two in it.
    pub queue_size: u16,
}

/// The registers.
#[derive(Debug)]
pub struct Registers<C> {
    control: C,
    shared: Arc<Shared>,
    memory: Memory,
    identity: Identity,
    status: u8,
    accepted: u64,
    queues: [QueueRegisters; QUEUES],
    /// Which half of the offered features the driver reads.
    pub device_features_select: u32,
    /// Which half of the accepted features the driver writes.
    pub driver_features_select: u32,
    /// Which queue the driver speaks of.
    pub queue_select: u32,
}

impl<C: Control> Registers<C> {
    /// The registers of a device that has just been reset.
    #[must_use]
    pub fn new(control: C, shared: Arc<Shared>, memory: Memory, identity: Identity) -> Self {
        Self {
            control,
            shared,
            memory,
            identity,
            status: 0,
            accepted: 0,
            queues: [QueueRegisters::fresh(split(identity.queue_size)); QUEUES],
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        }
    }

    /// The part of the device that moves frames.
    pub fn control(&mut self) -> &mut C {
        &mut self.control
    }

    /// What other threads see of the device.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn has(&self, bits: u8) -> bool {
        self.status & bits == bits
    }

    fn accepted_features(&self) -> Features {
        Features::from_bits_retain(self.accepted)
    }

    /// An access that the driver should not have made.
    pub fn misuse(&self, why: std::fmt::Arguments<'_>) {
        // The first one is said, so that whoever writes a driver can find it; the others are only counted.
        if self.shared.live.misuses.get() == 0 {
            self.shared.say(&format!("the network device's registers were misused: {why}"));
        }
        self.shared.live.misuses.add(1);
    }

    /// The selected half of the offered features.
    #[must_use]
    pub fn device_features(&self) -> u32 {
        half(self.identity.offered.bits(), self.device_features_select)
    }

    /// The selected half of the accepted features.
    #[must_use]
    pub fn driver_features(&self) -> u32 {
        half(self.accepted, self.driver_features_select)
    }

    /// The driver accepts the selected half of the features. They are fixed by FEATURES_OK.
    pub fn accept(&mut self, value: u32) {
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

    /// The greatest size of a queue, with rings of the format that was negotiated.
    #[must_use]
    pub fn queue_size_max(&self) -> u16 {
        let packed = self.has(status::FEATURES_OK) && self.accepted_features().contains(Features::RING_PACKED);
        if packed { self.identity.queue_size } else { split(self.identity.queue_size) }
    }

    /// The selected queue, if there is one.
    #[must_use]
    pub fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }

    /// The index of the selected queue, if there is one.
    #[must_use]
    pub fn queue_index(&self) -> Option<u16> {
        u16::try_from(self.queue_select).ok().filter(|queue| usize::from(*queue) < QUEUES)
    }

    /// Changes size or addresses of the selected queue, which is possible while it is not in use.
    pub fn set_place(&mut self, change: impl FnOnce(&mut Place)) {
        match self.queues.get_mut(self.queue_select as usize).filter(|queue| !queue.ready) {
            Some(queue) => change(&mut queue.place),
            None => self.misuse(format_args!("a queue was placed that does not exist, or is in use")),
        }
    }

    /// Begins to use the selected queue: between FEATURES_OK and DRIVER_OK, or, with RING_RESET, after its reset.
    pub fn enable_queue(&mut self) {
        let Some(index) = self.queue_index() else { return self.misuse(format_args!("there is no such queue")) };
        let QueueRegisters { place, ready } = self.queues[usize::from(index)];
        if ready {
            return;
        }
        let running = self.has(status::DRIVER_OK);
        let resettable = self.accepted_features().contains(Features::RING_RESET);
        if !self.has(status::FEATURES_OK) || self.has(status::FAILED) || running && !resettable {
            return self.misuse(format_args!("queues are made ready between FEATURES_OK and DRIVER_OK"));
        }
        let packed = self.accepted_features().contains(Features::RING_PACKED);
        match place.check(&self.memory, self.queue_size_max(), packed) {
            Ok(()) => {
                self.queues[usize::from(index)].ready = true;
                if running {
                    self.control.restart_queue(index, place);
                }
            }
            Err(error) => {
                let name = if index == wire::RECEIVE_QUEUE { "receive" } else { "transmit" };
                self.misuse(format_args!("the {name} queue cannot be used: {error}"));
            }
        }
    }

    /// Ends the use of the selected queue, at once.
    pub fn disable_queue(&mut self) {
        let Some(index) = self.queue_index() else { return self.misuse(format_args!("there is no such queue")) };
        let queue = &mut self.queues[usize::from(index)];
        if std::mem::take(&mut queue.ready) && self.has(status::DRIVER_OK) {
            self.control.stop_queue(index);
        }
    }

    /// Resets the selected queue (virtio 1.3, section 2.6.1): it ends at once, and everything that the driver set of it is
    /// forgotten. That this is over when it returns is why the reset never reads as one in progress.
    pub fn reset_queue(&mut self) {
        if !self.accepted_features().contains(Features::RING_RESET) || !self.has(status::FEATURES_OK) {
            return self.misuse(format_args!("a queue was reset without ring_reset"));
        }
        self.disable_queue();
        let size = self.queue_size_max();
        if let Some(queue) = self.queues.get_mut(self.queue_select as usize) {
            *queue = QueueRegisters::fresh(size);
        }
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u8 {
        let broken = if self.shared.needs_reset() { status::DEVICE_NEEDS_RESET } else { 0 };
        self.status | broken
    }

    /// Writes the status register: 0 resets the device; everything else adds bits.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        // DEVICE_NEEDS_RESET is the device's, and is written back by drivers.
        let mut new = value & DRIVER_BITS & !self.status;
        if new & status::FEATURES_OK != 0 && !self.features_ok(self.status | new) {
            new &= !status::FEATURES_OK;
        }
        if new & status::DRIVER_OK != 0 && (self.status | new) & status::FEATURES_OK == 0 {
            self.misuse(format_args!("DRIVER_OK without FEATURES_OK"));
            new &= !status::DRIVER_OK;
        }
        self.status |= new;
        if new & status::FEATURES_OK != 0 {
            // The format of the rings is known now, and with it the greatest size.
            let size = self.queue_size_max();
            self.queues.iter_mut().for_each(|queue| queue.place.size = size);
        }
        if new & status::FAILED != 0 {
            // The driver has given up; its memory is left alone from here on.
            self.control.reset();
            self.shared.set_negotiated(Features::empty());
        } else if new & status::DRIVER_OK != 0 && !self.has(status::FAILED) {
            let features = self.accepted_features();
            let queues = self.queues.map(|queue| queue.ready.then_some(queue.place));
            self.control.start(Activation { features, queues });
        }
    }

    /// Whether the device can work with what the driver has accepted (section 3.1.1, step 5).
    fn features_ok(&self, status: u8) -> bool {
        let accepted = self.accepted_features();
        let foreign = accepted - self.identity.offered;
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
        self.queues = [QueueRegisters::fresh(split(self.identity.queue_size)); QUEUES];
        self.shared.reset();
    }

    /// A doorbell that did not come by an eventfd, for the queue of this index; with NOTIFICATION_DATA it says in its upper half
    /// how far the queue has got, which the device sees in the queue itself (virtio 1.3, section 2.9).
    pub fn doorbell(&mut self, queue: u32) {
        let data = self.accepted_features().contains(Features::NOTIFICATION_DATA);
        match u16::try_from(if data { queue & 0xffff } else { queue }) {
            Ok(queue) if usize::from(queue) < QUEUES => self.control.doorbell(queue),
            _ => self.misuse(format_args!("a doorbell for queue {queue}")),
        }
    }

    /// Reads the device's configuration space from the byte `at` on; beyond its end there are zeros.
    pub fn read_configuration(&self, at: usize, data: &mut [u8]) {
        let Identity { mac, mtu, .. } = self.identity;
        let space = net::configuration(mac, mtu, self.shared.link()).to_bytes();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = at.checked_add(index).and_then(|at| space.get(at)).copied().unwrap_or(0);
        }
    }
}

/// The greatest size of a split ring, where queues may have `size` descriptors.
fn split(size: u16) -> u16 {
    size.checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

/// Half of a 64-bit set, by its select register.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
