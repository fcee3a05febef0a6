//! A device that runs, whole and in parts.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU64, Ordering};

use virtio_drivers::Hal;
use virtio_drivers::transport::DeviceStatus;

use super::config::Config;
use super::negotiation::{give_up, reset};
use super::receive::Posting;
use super::{Control, Receive, SetupError, Transmit};
use crate::buffer::{Frame, MAX_SEGMENTS, Pool};
use crate::features::Features;
use crate::ring::{Packed, Split, Virtqueue};
use crate::transport::{Doorbell, NetTransport, Refused};
use crate::wire::{RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// How a device is to be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The greatest size of the receive queue, in descriptors. Less if the device has less; rounded down to a power of
    /// two unless the queue is a packed one.
    pub receive_queue: u16,
    /// The greatest size of the transmit queue.
    pub transmit_queue: u16,
    /// Buffers of the pool that receiving leaves alone, so that there are some to transmit from.
    pub reserve: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { receive_queue: 1024, transmit_queue: 1024, reserve: 64 }
    }
}

/// Why a device was not closed. Its queues and their buffers are lost, since the device may still write to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// The device does not reset.
    #[error("the device does not reset")]
    Reset,
}

/// Why a single queue was not reset. The device is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    /// RING_RESET was not agreed on.
    #[error("resetting a single queue was not agreed on (ring_reset)")]
    NotAgreed,
    /// The queue is one of another device.
    #[error("the queue is one of another device")]
    Foreign,
    /// The device did not reset the queue, in which case its buffers stay where they are; or it did not take it again.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The parts of a [`Device`].
pub type Parts<R, T> = (Receive<R>, Transmit<R>, Control<T>);

/// A running device.
///
/// Dropped, or dropped in parts, without [`Device::close`] it keeps the memory of its queues and the buffers in them for good:
/// nobody has told the device to leave them alone.
#[derive(Debug)]
pub struct Device<R, T: NetTransport> {
    receive: Receive<R>,
    transmit: Transmit<R>,
    control: Control<T>,
}

/// A running device, whose kind of ring was found out when it was negotiated: the one place where that is asked. What handles
/// packets is best generic over the ring, and called from one `match` on this.
#[derive(Debug)]
pub enum AnyDevice<H: Hal, T: NetTransport> {
    /// With split virtqueues.
    Split(Device<Split<H, Frame>, T>),
    /// With packed virtqueues: RING_PACKED was agreed on.
    Packed(Device<Packed<H, Frame>, T>),
}

impl<R: Virtqueue<Frame>, T: NetTransport> Device<R, T> {
    /// The parts.
    #[must_use]
    pub fn split(self) -> Parts<R, T> {
        (self.receive, self.transmit, self.control)
    }

    /// The device again, from its parts.
    ///
    /// # Errors
    /// Gives the parts back if they are not of the same device.
    #[expect(clippy::result_large_err, reason = "the parts must not be lost, and there may be no heap to box them")]
    pub fn join(receive: Receive<R>, transmit: Transmit<R>, control: Control<T>) -> Result<Self, Parts<R, T>> {
        if receive.device == control.device && transmit.device == control.device {
            Ok(Self { receive, transmit, control })
        } else {
            Err((receive, transmit, control))
        }
    }

    /// Receiving.
    pub fn receive(&mut self) -> &mut Receive<R> {
        &mut self.receive
    }

    /// Transmitting.
    pub fn transmit(&mut self) -> &mut Transmit<R> {
        &mut self.transmit
    }

    /// Everything else.
    pub fn control(&mut self) -> &mut Control<T> {
        &mut self.control
    }

    /// Resets the receive queue alone; see [`Control::reset_receive`].
    ///
    /// # Errors
    /// See there.
    pub fn reset_receive(&mut self, received: impl FnMut(Frame)) -> Result<(), ResetError> {
        self.control.reset_receive(&mut self.receive, received)
    }

    /// Resets the transmit queue alone; see [`Control::reset_transmit`].
    ///
    /// # Errors
    /// See there.
    pub fn reset_transmit(&mut self, unsent: impl FnMut(Frame)) -> Result<(), ResetError> {
        self.control.reset_transmit(&mut self.transmit, unsent)
    }

    /// Resets the device, and frees its queues and every buffer in them. Frames not yet sent are lost. What is left is the
    /// transport, with which a [`Negotiation`](super::Negotiation) can begin again.
    ///
    /// # Errors
    /// If the device does not reset.
    pub fn close(self) -> Result<T, CloseError> {
        let Self { mut receive, mut transmit, mut control } = self;
        reset(&mut control.transport).map_err(|_| CloseError::Reset)?;
        // SAFETY: the device has been reset, so it uses the queues no more; both are dropped once, as their owners end here.
        unsafe {
            ManuallyDrop::drop(&mut receive.ring);
            ManuallyDrop::drop(&mut transmit.ring);
        }
        Ok(control.transport)
    }
}

/// Sets the queues up and sets the device going.
pub(super) fn start<R: Virtqueue<Frame>, T: NetTransport>(
    mut transport: T,
    features: Features,
    config: Config,
    pool: &Pool,
    settings: Settings,
) -> Result<Device<R, T>, SetupError> {
    let posting = Posting::new(features, config.mtu);
    let queues = make::<R, T>(&mut transport, RECEIVE_QUEUE, settings.receive_queue, posting.buffers(), features)
        .and_then(|receive| {
            let size = settings.transmit_queue;
            Ok((receive, make::<R, T>(&mut transport, TRANSMIT_QUEUE, size, MAX_SEGMENTS, features)?))
        });
    let ((receive, receive_doorbell), (transmit, transmit_doorbell)) = match queues {
        Ok(queues) => queues,
        Err(error) => return Err(give_up(&mut transport, error)),
    };
    let running =
        DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK | DeviceStatus::DRIVER_OK;
    transport.set_status(running);
    if transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
        return Err(give_up(&mut transport, SetupError::NeedsReset));
    }
    let device = next_device();
    let mut receive =
        Receive::new(receive, receive_doorbell, device, pool.clone(), settings.reserve, posting, features);
    receive.refill();
    Ok(Device {
        receive,
        transmit: Transmit::new(transmit, transmit_doorbell, device, features, config.mtu),
        control: Control::new(transport, device, features, config),
    })
}

/// Makes a queue and tells the device of it. It is never dropped unless the device has been reset: if setting up fails, a
/// few pages are lost.
fn make<R: Virtqueue<Frame>, T: NetTransport>(
    transport: &mut T,
    queue: u16,
    size: u16,
    segments: usize,
    features: Features,
) -> Result<(ManuallyDrop<R>, Doorbell), SetupError> {
    let size = queue_size::<R, T>(transport, queue, size)?;
    // SAFETY: it lies in a `ManuallyDrop`, which only `Device::close` drops, after the reset.
    let ring = unsafe { R::new(size, segments, features) }.ok_or(SetupError::NoMemory(queue))?;
    let ring = ManuallyDrop::new(ring);
    let doorbell = tell(transport, queue, &*ring, features)?;
    Ok((ring, doorbell))
}

/// Tells the device of a queue.
pub(super) fn tell<R: Virtqueue<Frame>, T: NetTransport>(
    transport: &mut T,
    queue: u16,
    ring: &R,
    features: Features,
) -> Result<Doorbell, Refused> {
    let [descriptors, driver, device] = ring.areas();
    transport.queue_set(queue, u32::from(ring.size()), descriptors, driver, device);
    transport.doorbell(queue, features)
}

/// The size of a queue: the greatest that its format can have and that neither device nor caller finds too large.
pub(super) fn queue_size<R: Virtqueue<Frame>, T: NetTransport>(
    transport: &mut T,
    queue: u16,
    most: u16,
) -> Result<u16, SetupError> {
    let most = u16::try_from(transport.max_queue_size(queue)).unwrap_or(u16::MAX).min(most);
    R::size_within(most).ok_or(SetupError::NoQueue(queue))
}

/// A number for each device, so that parts of different ones are not put together.
fn next_device() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
