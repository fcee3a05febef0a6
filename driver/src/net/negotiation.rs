//! From a transport to a device (virtio 1.3, section 3.1.1).

use virtio_drivers::Hal;
use virtio_drivers::transport::{DeviceStatus, DeviceType};

use super::config::Config;
use super::device::{self, AnyDevice, Device, Settings};
use super::receive::Posting;
use crate::buffer::{Frame, Pool};
use crate::features::{Features, NegotiationError};
use crate::ring::Virtqueue;
use crate::transport::{NetTransport, Refused};
use crate::wire::RECEIVE_QUEUE;

/// How often the status is read before a reset counts as failed. Each read is an exit to the monitor at least.
const RESET_ATTEMPTS: usize = 100_000;

/// Why a device cannot be driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// It is not a network device.
    #[error("the device is not a network device")]
    NotNetwork,
    /// The device did not come out of its reset.
    #[error("the device does not reset")]
    Reset,
    /// The configuration space cannot be read.
    #[error("the configuration space cannot be read: {0}")]
    Config(virtio_drivers::Error),
    /// The configuration space changes all the time.
    #[error("the configuration space changes faster than it can be read")]
    ConfigUnstable,
    /// Driver and device cannot agree.
    #[error(transparent)]
    Features(#[from] NegotiationError),
    /// The device does not accept the features that were chosen from its own.
    #[error("the device does not accept the features {0}, which it offered")]
    FeaturesRefused(Features),
    /// The device does not have a queue that it must have.
    #[error("the device does not have queue {0}")]
    NoQueue(u16),
    /// There is no DMA memory for a queue.
    #[error("there is no memory for queue {0}")]
    NoMemory(u16),
    /// The device refused something of a queue.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The device has met an error while it was set up.
    #[error("the device needs a reset before it has done anything")]
    NeedsReset,
}

/// A device that was reset and has told what it offers, but with which nothing is agreed yet.
#[derive(Debug)]
pub struct Negotiation<T: NetTransport> {
    transport: T,
    offered: Features,
    config: Config,
}

impl<T: NetTransport> Negotiation<T> {
    /// Resets the device, says hello, and reads what it offers.
    ///
    /// # Errors
    /// If it is no network device, does not reset, or has a configuration space that cannot be read.
    pub fn begin(mut transport: T) -> Result<Self, SetupError> {
        if transport.device_type() != DeviceType::Network {
            return Err(SetupError::NotNetwork);
        }
        reset(&mut transport)?;
        transport.set_status(DeviceStatus::ACKNOWLEDGE);
        transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
        let offered = Features::from_bits_retain(transport.read_device_features());
        let config = match Config::read(&transport, offered) {
            Ok(config) => config,
            Err(error) => return Err(give_up(&mut transport, error)),
        };
        Ok(Self { transport, offered, config })
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// What the device tells of itself, going by what it offers.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Agrees on what of `wanted` is offered and has what it needs, and starts the device. `wanted` must lie within
    /// [`Features::IMPLEMENTED`]; every bit of `required` must be in the result. The device receives into buffers of `pool`.
    ///
    /// What the transport does not carry counts as not offered. An MTU below 68 and a MAC address that is all zeros or a multicast one count as not offered; so do GUEST_TSO,
    /// GUEST_USO, GUEST_UFO and MTU where the receive queue is too short for them.
    ///
    /// # Errors
    /// If there is no agreement, if the device refuses what it offered, or if there is no memory for its queues. The device is
    /// told that the driver has given up.
    pub fn accept<H: Hal>(
        self,
        wanted: Features,
        required: Features,
        pool: &Pool,
        settings: Settings,
    ) -> Result<AnyDevice<H, T>, SetupError> {
        let packed = (self.offered & self.transport.possible() & wanted).contains(Features::RING_PACKED);
        if packed {
            self.accept_as(wanted, required, pool, settings).map(AnyDevice::Packed)
        } else {
            self.accept_as(wanted, required, pool, settings).map(AnyDevice::Split)
        }
    }

    pub(super) fn accept_as<R: Virtqueue<Frame>>(
        self,
        wanted: Features,
        required: Features,
        pool: &Pool,
        settings: Settings,
    ) -> Result<Device<R, T>, SetupError> {
        let Self { mut transport, offered, config } = self;
        let size = device::queue_size::<R, T>(&mut transport, RECEIVE_QUEUE, settings.receive_queue)
            .map_err(|error| give_up(&mut transport, error))?;
        let possible = feasible(config.plausible(offered & transport.possible()), wanted, config.mtu, size);
        let agreed = Features::negotiate(possible, wanted, required)
            .map_err(SetupError::from)
            .and_then(|features| agree(&mut transport, features));
        let features = agreed.map_err(|error| give_up(&mut transport, error))?;
        device::start(transport, features, config.only(features), pool, settings)
    }
}

/// The offered features without those for which a receive queue of `size` is too short, see [`Posting::fits`].
fn feasible(offered: Features, wanted: Features, mtu: Option<u16>, size: u16) -> Features {
    let fits = |features: Features| Posting::new(features & wanted, mtu).fits(size);
    let large = Features::GUEST_LARGE;
    let all = [offered, offered - large, offered - large - Features::MTU];
    all.into_iter().find(|&features| fits(features)).unwrap_or(all[2])
}

/// Writes the features and sees whether the device takes them.
fn agree<T: NetTransport>(transport: &mut T, features: Features) -> Result<Features, SetupError> {
    transport.write_driver_features(features.bits());
    let status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    transport.set_status(status);
    if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(SetupError::FeaturesRefused(features));
    }
    Ok(features)
}

/// Resets the device and waits until it is: only then it leaves memory alone (sections 2.4 and 4.1.4.3.2).
pub(super) fn reset<T: NetTransport>(transport: &mut T) -> Result<(), SetupError> {
    transport.set_status(DeviceStatus::empty());
    for _ in 0..RESET_ATTEMPTS {
        if transport.get_status() == DeviceStatus::empty() {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(SetupError::Reset)
}

/// Tells the device that it will not be driven.
pub(super) fn give_up<T: NetTransport>(transport: &mut T, error: SetupError) -> SetupError {
    let status = transport.get_status();
    transport.set_status(status | DeviceStatus::FAILED);
    error
}
