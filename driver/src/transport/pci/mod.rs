//! Virtio over modern PCI (virtio 1.3, section 4.1), with an interrupt vector of its own for each queue by MSI-X.

mod capability;
mod msix;
mod registers;
#[cfg(test)]
mod tests;

pub use msix::Message;

use core::cell::Cell;
use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, Hal, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use self::msix::Vectors;
use self::registers::Registers;
use super::{Doorbell, NetTransport, QUEUE_RESET_PATIENCE, Refused, Width};
use crate::features::Features;
use crate::wire::pci::{DEVICE_MODERN_NETWORK, DEVICE_TRANSITIONAL_NETWORK, MSIX_NO_VECTOR, VENDOR, common};

/// Why a PCI function cannot be driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PciError {
    /// Not a virtio network device.
    #[error("not a virtio network device (vendor {vendor:#06x}, device {device:#06x})")]
    NotNetwork {
        /// The vendor it says it is from.
        vendor: u16,
        /// The device it says it is.
        device: u16,
    },
    /// A structure that every modern device has is missing: this is a legacy one.
    #[error("the device has no {0}: it is a legacy one (QEMU: do not set disable-modern=on)")]
    Missing(&'static str),
    /// A structure lies outside of its BAR, or in one that is not memory or has no address.
    #[error("the device's {0} lies in no usable memory BAR")]
    Bar(&'static str),
    /// The BAR of a structure cannot be reached by this machine.
    #[error("the device's registers at {address:#x} cannot be reached by this machine")]
    OutOfReach {
        /// The physical address of the registers.
        address: u64,
    },
    /// The device has no MSI-X, or the machine gave no vector for it.
    #[error("the device has no MSI-X interrupts (QEMU: do not set vectors=0)")]
    NoMsix,
}

/// Whether a PCI function is a virtio network device, transitional or modern.
#[must_use]
pub fn is_network(vendor: u16, device: u16) -> bool {
    vendor == VENDOR && (device == DEVICE_TRANSITIONAL_NETWORK || device == DEVICE_MODERN_NETWORK)
}

/// How often a device is asked whether its reset is over before it is taken for dead.
const RESET_PATIENCE: u32 = 1_000_000;

/// A modern virtio-net device on the PCI bus.
#[derive(Debug)]
pub struct PciTransport {
    function: DeviceFunction,
    common: Registers,
    notify: Registers,
    notify_multiplier: u32,
    isr: Registers,
    config: Registers,
    config_length: usize,
    vectors: Vectors,
    refused: Cell<Option<Refused>>,
}

impl PciTransport {
    /// The network device at `function`. Its BARs must have addresses; memory and bus mastering are switched on here.
    ///
    /// For each vector of the device's MSI-X table that is to be used, `message` is asked once, beginning with 0, which is for
    /// changes of the configuration and for every queue without a vector of its own; queue n has vector n + 1. When it gives
    /// `None` no more are used. `reachable` says whether registers at a physical address and of a length can be mapped by
    /// [`Hal::mmio_phys_to_virt`].
    ///
    /// # Errors
    /// See [`PciError`]. The function is left as it was found, except that it may have been enabled.
    pub fn new<H: Hal, C: ConfigurationAccess>(
        root: &mut PciRoot<C>,
        access: &mut C,
        function: DeviceFunction,
        reachable: impl Fn(u64, u64) -> bool,
        message: impl FnMut(u16) -> Option<Message>,
    ) -> core::result::Result<Self, PciError> {
        let id = access.read_word(function, 0);
        let (vendor, device) = (id as u16, (id >> 16) as u16);
        if !is_network(vendor, device) {
            return Err(PciError::NotNetwork { vendor, device });
        }
        let found = capability::find(root, access, function)?;
        let map = |place: &capability::Place, least: u64| {
            // SAFETY: `place` lies in a memory BAR of this function; the caller says that it can be mapped.
            unsafe { place.map::<H>(&reachable, least) }
        };
        let common = map(&found.common, common::MIN_LEN as u64)?;
        let notify = map(&found.notify, 2)?;
        let isr = map(&found.isr, 1)?;
        let config = map(&found.config, 8)?;
        let table = map(&found.msix_table, 16)?;
        let (_, command) = root.get_status_command(function);
        root.set_command(function, command | Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE);
        let vectors = Vectors::enable(access, function, found.msix, table, message).ok_or(PciError::NoMsix)?;
        Ok(Self {
            function,
            common,
            notify,
            notify_multiplier: found.notify_multiplier,
            isr,
            config,
            config_length: usize::try_from(found.config.length).unwrap_or(usize::MAX),
            vectors,
            refused: Cell::new(None),
        })
    }

    /// Where the device is on the bus.
    #[must_use]
    pub fn function(&self) -> DeviceFunction {
        self.function
    }

    fn select(&self, queue: u16) {
        self.common.write_u16(common::QUEUE_SELECT, queue);
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.common.write_u32(offset, value as u32);
        self.common.write_u32(offset + 4, (value >> 32) as u32);
    }
}

impl NetTransport for PciTransport {
    fn name(&self) -> &'static str {
        "pci"
    }

    /// Both need fields that not every device has.
    fn possible(&self) -> Features {
        let fields = Features::NOTIF_CONFIG_DATA | Features::RING_RESET;
        let there = self.common.at::<u16>(common::QUEUE_RESET).is_some();
        if there { Features::all() } else { Features::all() - fields }
    }

    fn reset_queue(&mut self, queue: u16) -> core::result::Result<(), Refused> {
        self.select(queue);
        self.common.write_u16(common::QUEUE_RESET, 1);
        // Section 4.1.4.3.2: the reset is over when this reads 0, and the queue is not enabled then.
        for _ in 0..QUEUE_RESET_PATIENCE {
            if self.common.read_u16(common::QUEUE_RESET) == 0 && self.common.read_u16(common::QUEUE_ENABLE) == 0 {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(Refused::Reset(queue))
    }

    fn doorbell(&mut self, queue: u16, features: Features) -> core::result::Result<Doorbell, Refused> {
        if let Some(refused) = self.refused.get() {
            return Err(refused);
        }
        self.select(queue);
        let offset = self.common.read_u16(common::QUEUE_NOTIFY_OFF);
        let offset = u64::from(offset) * u64::from(self.notify_multiplier);
        let offset = usize::try_from(offset).map_err(|_| Refused::Doorbell(queue))?;
        // With the position in it, it is wider (section 4.1.5.2).
        let with_data = features.contains(Features::NOTIFICATION_DATA);
        let (register, width) = if with_data {
            (self.notify.at::<u32>(offset).map(NonNull::cast), Width::Bits32)
        } else {
            (self.notify.at::<u16>(offset).map(NonNull::cast), Width::Bits16)
        };
        let register = register.ok_or(Refused::Doorbell(queue))?;
        // SAFETY: an aligned register inside the doorbell structure, mapped for good; all it does is to make the device look
        // at the queue.
        let doorbell = unsafe { Doorbell::new(register, queue, width) }.with_data(with_data);
        if features.contains(Features::NOTIF_CONFIG_DATA) {
            return Ok(doorbell.with_name(self.common.read_u16(common::QUEUE_NOTIF_CONFIG_DATA)));
        }
        Ok(doorbell)
    }

    fn acknowledge_used(&mut self) {}
}

impl Transport for PciTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select: u32| {
            self.common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read_u32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.common.write_u32(common::DRIVER_FEATURE_SELECT, select);
            self.common.write_u32(common::DRIVER_FEATURE, half);
        }
        // A reset has taken all vectors away.
        self.refused.set(None);
        self.common.write_u16(common::CONFIG_MSIX_VECTOR, 0);
        if self.common.read_u16(common::CONFIG_MSIX_VECTOR) == MSIX_NO_VECTOR {
            self.refused.set(Some(Refused::ConfigVector));
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.common.read_u16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        if let Ok(doorbell) = self.doorbell(queue, Features::empty()) {
            doorbell.ring(0);
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.common.read_u8(common::DEVICE_STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.common.write_u8(common::DEVICE_STATUS, status.bits() as u8);
        if status.is_empty() {
            // Section 4.1.4.3.2: the driver waits for the reset to be over.
            for _ in 0..RESET_PATIENCE {
                if self.get_status().is_empty() {
                    break;
                }
                core::hint::spin_loop();
            }
        }
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.select(queue);
        // Queue sizes have 16 bits on this transport, and `max_queue_size` has said so.
        self.common.write_u16(common::QUEUE_SIZE, u16::try_from(size).unwrap_or(u16::MAX));
        self.write_u64(common::QUEUE_DESC, descriptors);
        self.write_u64(common::QUEUE_DRIVER, driver);
        self.write_u64(common::QUEUE_DEVICE, device);
        self.common.write_u16(common::QUEUE_MSIX_VECTOR, self.vectors.of_queue(queue));
        if self.common.read_u16(common::QUEUE_MSIX_VECTOR) == MSIX_NO_VECTOR && self.refused.get().is_none() {
            self.refused.set(Some(Refused::Vector(queue)));
        }
        self.common.write_u16(common::QUEUE_ENABLE, 1);
    }

    /// Does nothing: without RING_RESET a queue ends with the reset of the device (section 4.1.4.3.2).
    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read_u16(common::QUEUE_ENABLE) == 1
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Reading acknowledges. With MSI-X the device need not set it, so this is for polling only.
        InterruptStatus::from_bits_retain(self.isr.read_u8(0).into())
    }

    fn read_config_generation(&self) -> u32 {
        self.common.read_u8(common::CONFIG_GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let mut value = T::new_zeroed();
        for (at, byte) in value.as_mut_bytes().iter_mut().enumerate() {
            let at = offset.checked_add(at).filter(|at| *at < self.config_length).ok_or(Error::ConfigSpaceTooSmall)?;
            *byte = self.config.read_u8(at);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        let bytes = value.as_bytes();
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.config_length) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        for (at, byte) in bytes.iter().enumerate() {
            self.config.write_u8(offset + at, *byte);
        }
        Ok(())
    }
}

impl Drop for PciTransport {
    fn drop(&mut self) {
        self.set_status(DeviceStatus::empty());
    }
}
