//! Virtio over MMIO (virtio 1.3, section 4.2): the transport of virtio-drivers, with its doorbells.

use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioTransport as Inner, MmioVersion, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Doorbell, NetTransport, QUEUE_RESET_PATIENCE, Refused, Width};
use crate::features::Features;
use crate::wire::mmio::{CONFIG, INTERRUPT_ACK, QUEUE_NOTIFY, QUEUE_READY, QUEUE_RESET, QUEUE_SEL};
use crate::wire::status::{INTERRUPT_CONFIG, INTERRUPT_QUEUE};

/// Why no network device is driven at an address.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MmioError {
    /// There is no virtio device, or not one this driver can talk to.
    #[error("{0}")]
    NoDevice(virtio_drivers::transport::mmio::MmioError),
    /// A legacy device (version 1), which this driver does not drive.
    #[error(
        "a legacy virtio device (version 1): give the monitor the option for modern ones (QEMU: force-legacy=false)"
    )]
    Legacy,
    /// Another kind of virtio device.
    #[error("a virtio device, but not a network device: {0:?}")]
    NotNetwork(DeviceType),
    /// The registers are not aligned, or fewer than the specification has.
    #[error("the register space is too small or not aligned to 4 bytes")]
    Registers,
}

/// A virtio-net device at a memory address.
#[derive(Debug)]
pub struct MmioTransport {
    inner: Inner<'static>,
    registers: NonNull<u8>,
}

// SAFETY: the registers can be reached from any processor, and whoever owns the transport is the only one to do so (but for
// the doorbells, each of which is written in one store).
unsafe impl Send for MmioTransport {}

impl MmioTransport {
    /// The network device whose `length` bytes of registers lie at `registers`.
    ///
    /// # Errors
    /// If there is no device, or a legacy one, or not a network device.
    ///
    /// # Safety
    /// `registers .. registers + length` must be mapped, uncached, for good, and be a virtio-mmio device's registers or such
    /// as can be read without harm; nothing else may use them.
    pub unsafe fn new(registers: NonNull<u8>, length: usize) -> core::result::Result<Self, MmioError> {
        if !registers.cast::<u32>().is_aligned() || length < CONFIG {
            return Err(MmioError::Registers);
        }
        // SAFETY: the caller's promise; alignment and length of the header were just checked.
        let inner = unsafe { Inner::new(registers.cast::<VirtIOHeader>(), length) }.map_err(MmioError::NoDevice)?;
        if inner.version() != MmioVersion::Modern {
            return Err(MmioError::Legacy);
        }
        match inner.device_type() {
            DeviceType::Network => Ok(Self { inner, registers }),
            other => Err(MmioError::NotNetwork(other)),
        }
    }

    /// Writes one of the registers of [`crate::wire::mmio`] below the configuration space.
    fn write(&mut self, register: usize, value: u32) {
        debug_assert!(register < CONFIG && register.is_multiple_of(4));
        // SAFETY: one of the registers that the caller of `new` has promised, 4-aligned. None has an effect on memory that Rust
        // knows of, but QueueReady and QueueNotify, which only `inner` and doorbells write.
        unsafe { self.registers.byte_add(register).cast::<u32>().as_ptr().write_volatile(value.to_le()) };
    }

    /// Reads one of these registers.
    fn read(&self, register: usize) -> u32 {
        debug_assert!(register < CONFIG && register.is_multiple_of(4));
        // SAFETY: as in `write`; reading has no effect.
        u32::from_le(unsafe { self.registers.byte_add(register).cast::<u32>().as_ptr().read_volatile() })
    }
}

impl NetTransport for MmioTransport {
    fn name(&self) -> &'static str {
        "mmio"
    }

    /// What names a queue in its doorbell can be told over PCI only.
    fn possible(&self) -> Features {
        Features::all() - Features::NOTIF_CONFIG_DATA
    }

    fn reset_queue(&mut self, queue: u16) -> core::result::Result<(), Refused> {
        self.write(QUEUE_SEL, queue.into());
        self.write(QUEUE_RESET, 1);
        for _ in 0..QUEUE_RESET_PATIENCE {
            if self.read(QUEUE_RESET) == 0 && self.read(QUEUE_READY) == 0 {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        Err(Refused::Reset(queue))
    }

    fn doorbell(&mut self, queue: u16, features: Features) -> core::result::Result<Doorbell, Refused> {
        // SAFETY: QueueNotify is one of the registers that the caller of `new` has promised, 4-aligned; all it does is to
        // make the device look at the queue.
        let doorbell = unsafe { Doorbell::new(self.registers.byte_add(QUEUE_NOTIFY), queue, Width::Bits32) };
        Ok(doorbell.with_data(features.contains(Features::NOTIFICATION_DATA)))
    }

    fn acknowledge_used(&mut self) {
        // Both reasons: an interrupt for a change of the configuration that nobody acknowledges would keep a level up as well.
        self.write(INTERRUPT_ACK, (INTERRUPT_QUEUE | INTERRUPT_CONFIG).into());
    }
}

impl Transport for MmioTransport {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }

    fn set_guest_page_size(&mut self, size: u32) {
        self.inner.set_guest_page_size(size);
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.inner.queue_set(queue, size, descriptors, driver, device);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.inner.queue_unset(queue);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        self.inner.write_config_space(offset, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mmio::{DEVICE_ID, MAGIC, MAGIC_VALUE, VERSION, VERSION_LEGACY, VERSION_MODERN};

    const WORDS: usize = 0x200 / 4;

    /// Registers that hold what is written, for good, of a device of that version and type.
    fn registers(version: u32, device: u32) -> NonNull<[u32; WORDS]> {
        let mut words = [0_u32; WORDS];
        for (offset, value) in [(MAGIC_VALUE, MAGIC), (VERSION, version), (DEVICE_ID, device)] {
            words[offset / 4] = value.to_le();
        }
        NonNull::from(std::boxed::Box::leak(std::boxed::Box::new(words)))
    }

    fn open(words: NonNull<[u32; WORDS]>) -> core::result::Result<MmioTransport, MmioError> {
        // SAFETY: aligned memory that is never freed, and reached by pointers only.
        unsafe { MmioTransport::new(words.cast(), 4 * WORDS) }
    }

    #[test]
    fn verify_4_2_2_used_buffers_are_acknowledged_with_one_write() {
        let words = registers(VERSION_MODERN, 1);
        let mut transport = open(words).unwrap();
        // SAFETY: as for `open`.
        let read = || unsafe { words.read_volatile() };
        let before = read();
        transport.acknowledge_used();
        let after = read();
        let changed: std::vec::Vec<_> = (0..WORDS).filter(|at| after[*at] != before[*at]).collect();
        assert_eq!(changed, [INTERRUPT_ACK / 4]);
        assert_eq!(u32::from_le(after[INTERRUPT_ACK / 4]), 3, "whatever the reason was");
    }

    #[test]
    fn a_queue_counts_as_reset_when_the_device_says_so() {
        // Registers that keep what is written: it is never over.
        let words = registers(VERSION_MODERN, 1);
        let mut transport = open(words).unwrap();
        assert_eq!(transport.reset_queue(1), Err(Refused::Reset(1)));
        // SAFETY: as for `open`.
        let after = unsafe { words.read_volatile() };
        assert_eq!((u32::from_le(after[QUEUE_SEL / 4]), u32::from_le(after[QUEUE_RESET / 4])), (1, 1));
    }

    #[test]
    fn what_is_no_modern_network_device_is_named() {
        assert_eq!(open(registers(VERSION_LEGACY, 1)).unwrap_err(), MmioError::Legacy);
        let block = registers(VERSION_MODERN, 2);
        assert!(matches!(open(block).unwrap_err(), MmioError::NotNetwork(DeviceType::Block)));
        assert!(matches!(open(registers(VERSION_MODERN, 0)).unwrap_err(), MmioError::NoDevice(_)));
    }
}
