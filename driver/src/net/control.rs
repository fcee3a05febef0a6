//! The slow half of a device: configuration, interrupt status, health.

use virtio_drivers::transport::{DeviceStatus, InterruptStatus};

use super::config::Config;
use super::device::tell;
use super::{Receive, ResetError, SetupError, Transmit};
use crate::buffer::Frame;
use crate::features::Features;
use crate::ring::Virtqueue;
use crate::transport::NetTransport;
use crate::wire::{RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// Owns the transport. Each method costs at least one exit to the monitor, unless it says otherwise.
#[derive(Debug)]
pub struct Control<T: NetTransport> {
    pub(super) transport: T,
    pub(super) device: u64,
    features: Features,
    config: Config,
}

/// Why the device has interrupted (virtio 1.3, sections 4.1.4.5 and 4.2.2). Both can be true, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interrupt {
    /// A queue has used buffers. Look at the queues rather than at this: with MSI-X it is never set.
    pub queue: bool,
    /// The configuration has changed: call [`Control::refresh`].
    pub config: bool,
}

impl<T: NetTransport> Control<T> {
    pub(super) fn new(transport: T, device: u64, features: Features, config: Config) -> Self {
        Self { transport, device, features, config }
    }

    /// What was agreed on. No exit.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// The configuration as it was last read. No exit.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// The MAC address, if the device has told one. No exit.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.config.mac
    }

    /// The largest IP packet that the device takes, in bytes, if it has told. No exit.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.config.mtu
    }

    /// Whether there was a carrier when the configuration was last read. A device that does not tell has one. No exit.
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.config.link_up.unwrap_or(true)
    }

    /// Acknowledges an interrupt, and tells why it came. Needed where interrupts are level-triggered.
    pub fn acknowledge(&mut self) -> Interrupt {
        let status = self.transport.ack_interrupt();
        Interrupt {
            queue: status.contains(InterruptStatus::QUEUE_INTERRUPT),
            config: status.contains(InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT),
        }
    }

    /// Acknowledges an interrupt for used buffers, whether or not there was one. To be called after a sleep, before the queues
    /// are looked at; costs one register access over MMIO, and nothing with MSI-X.
    pub fn acknowledge_used(&mut self) {
        self.transport.acknowledge_used();
    }

    /// Reads the configuration again. Whether it has changed.
    ///
    /// The MTU is the one thing that stays: the queues were set up for it, and a device must not change it (virtio 1.3, section
    /// 5.1.4.1).
    ///
    /// # Errors
    /// If it cannot be read, or if the device has met an error and is to be reset.
    pub fn refresh(&mut self) -> Result<bool, SetupError> {
        if self.needs_reset() {
            return Err(SetupError::NeedsReset);
        }
        let read = Config::read(&self.transport, self.features)?;
        let config = Config { mtu: self.config.mtu, ..read };
        let changed = config != self.config;
        self.config = config;
        Ok(changed)
    }

    /// Whether the device has met an error and is to be reset, or has been reset behind the driver's back.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        let status = self.transport.get_status();
        status.contains(DeviceStatus::DEVICE_NEEDS_RESET) || !status.contains(DeviceStatus::DRIVER_OK)
    }

    /// Resets the receive queue alone (RING_RESET; virtio 1.3, section 2.6.1) and brings it back, as it was when the device was
    /// started; it may be broken. `received` is given the frames that had come and were not taken yet, unless it is broken.
    /// The transmit queue goes on meanwhile. Interrupts are off afterwards.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub fn reset_receive<R: Virtqueue<Frame>>(
        &mut self,
        receive: &mut Receive<R>,
        received: impl FnMut(Frame),
    ) -> Result<(), ResetError> {
        self.check(receive.device)?;
        self.transport.reset_queue(RECEIVE_QUEUE)?;
        // SAFETY: the device has just said that it uses the queue no more.
        unsafe { receive.clear(received) };
        receive.doorbell = tell(&mut self.transport, RECEIVE_QUEUE, &*receive.ring, self.features)?;
        receive.refill();
        Ok(())
    }

    /// Resets the transmit queue alone (RING_RESET; virtio 1.3, section 2.6.1) and brings it back, as it was when the device was
    /// started; it may be broken. `unsent` is given the frames that the device says it has not sent, to be sent again or dropped,
    /// in no particular order; where the queue is broken it is not known which were sent. The receive queue goes on meanwhile.
    /// Interrupts are off afterwards.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub fn reset_transmit<R: Virtqueue<Frame>>(
        &mut self,
        transmit: &mut Transmit<R>,
        unsent: impl FnMut(Frame),
    ) -> Result<(), ResetError> {
        self.check(transmit.device)?;
        self.transport.reset_queue(TRANSMIT_QUEUE)?;
        // SAFETY: the device has just said that it uses the queue no more.
        unsafe { transmit.clear(unsent) };
        transmit.doorbell = tell(&mut self.transport, TRANSMIT_QUEUE, &*transmit.ring, self.features)?;
        Ok(())
    }

    /// Whether a queue of `device` can be reset alone through this.
    fn check(&self, device: u64) -> Result<(), ResetError> {
        if device != self.device {
            return Err(ResetError::Foreign);
        }
        if self.features.contains(Features::RING_RESET) { Ok(()) } else { Err(ResetError::NotAgreed) }
    }

    /// The transport, for what is not covered here. Changing the device's status or queues through it breaks the driver.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }
}
