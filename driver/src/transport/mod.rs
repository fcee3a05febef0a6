//! Virtio over MMIO and over modern PCI with MSI-X.
//!
//! Both are [`virtio_drivers::transport::Transport`]s, and more: a [`NetTransport`] also gives out its doorbells, so that the
//! halves of a device can ring them without the transport (and without a lock) in their hands.

mod doorbell;
mod mmio;
pub mod pci;

pub use doorbell::{Doorbell, Width};
pub use mmio::{MmioError, MmioTransport};
pub use pci::{Message, PciError, PciTransport};

use virtio_drivers::transport::Transport;

use crate::features::Features;

/// Something the device refused while its queues were set up, noticed by reading back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The device did not take a queue's MSI-X vector (virtio 1.3, section 4.1.5.1.2): it would never interrupt.
    #[error("the device has no interrupt vector left for queue {0}")]
    Vector(u16),
    /// The device did not take the vector for changes of its configuration.
    #[error("the device has no interrupt vector left for changes of its configuration")]
    ConfigVector,
    /// A queue's doorbell lies outside of the doorbell region.
    #[error("the doorbell of queue {0} lies outside of the device's doorbell region")]
    Doorbell(u16),
    /// A queue does not come out of its reset: the device may still use it.
    #[error("queue {0} does not reset")]
    Reset(u16),
}

/// How often a device is asked whether the reset of a queue is over before it is taken for dead. Each time is an exit to the
/// monitor at least.
const QUEUE_RESET_PATIENCE: u32 = 100_000;

/// What a network driver needs of a transport besides [`Transport`].
pub trait NetTransport: Transport {
    /// A short name for messages: `mmio` or `pci`.
    fn name(&self) -> &'static str;

    /// The features that can be had of this device over this transport, as far as it matters: those that are not there are not
    /// accepted, offered or not.
    fn possible(&self) -> Features {
        Features::all()
    }

    /// Resets `queue` alone (RING_RESET; virtio 1.3, section 2.6.1), and waits until that is done: the device uses neither the queue
    /// nor its buffers any more. [`Transport::queue_set`] brings it back.
    ///
    /// # Errors
    /// If it does not reset.
    fn reset_queue(&mut self, queue: u16) -> Result<(), Refused>;

    /// The doorbell of `queue`, as `features` make it (NOTIFICATION_DATA, NOTIF_CONFIG_DATA), to be called after [`Transport::queue_set`]. It stays
    /// good until the device is reset.
    ///
    /// # Errors
    /// Whatever the device refused of this queue since the last reset: its doorbell, or its interrupt vector.
    fn doorbell(&mut self, queue: u16, features: Features) -> Result<Doorbell, Refused>;

    /// Acknowledges an interrupt for used buffers without asking whether there was one, so with at most one register
    /// access. To be called after each wake-up, before the rings are looked at: a device whose interrupt is a level (virtio
    /// 1.3, section 4.2.3.4) raises no other one before that. With MSI-X there is nothing to do.
    fn acknowledge_used(&mut self);
}
