//! The network device in operation, and its negotiation.

use ringlet_driver::buffer::{Frame, Pool};
use ringlet_driver::features::Features;
use ringlet_driver::net::{
    AnyDevice, CloseError, Control, Device, Negotiation, Receive, ResetError, Settings, SetupError, Transmit,
};
use ringlet_driver::ring::{Packed, RingError, Split, Virtqueue};
use ringlet_driver::transport::NetTransport;
use virtio_drivers::Hal;

use crate::cmdline::Options;
use crate::console::Console;
use crate::{info, warn};

/// Why the device cannot go on as it is.
#[derive(Debug)]
pub enum LinkError {
    /// It lied in a queue.
    Ring(RingError),
    /// It says itself that it needs a reset, or cannot be read any more.
    Device(SetupError),
    /// A single queue cannot be reset.
    Queue(ResetError),
}

impl From<ResetError> for LinkError {
    fn from(error: ResetError) -> Self {
        LinkError::Queue(error)
    }
}

impl From<RingError> for LinkError {
    fn from(error: RingError) -> Self {
        LinkError::Ring(error)
    }
}

impl core::fmt::Display for LinkError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LinkError::Ring(error) => error.fmt(f),
            LinkError::Device(error) => error.fmt(f),
            LinkError::Queue(error) => error.fmt(f),
        }
    }
}

/// A device that works, in its parts.
pub struct Link<R, T: NetTransport> {
    /// Receiving.
    pub receive: Receive<R>,
    /// Transmitting.
    pub transmit: Transmit<R>,
    /// Everything else.
    pub control: Control<T>,
    /// What the device offered.
    pub offered: Features,
    /// What was agreed.
    pub features: Features,
}

/// A link with the kind of ring that was agreed on. Asked once for each start of the device; behind that nothing asks again.
pub enum AnyLink<H: Hal, T: NetTransport> {
    /// With split virtqueues.
    Split(Link<Split<H, Frame>, T>),
    /// With packed virtqueues.
    Packed(Link<Packed<H, Frame>, T>),
}

/// Evaluates an expression, compiled for each kind of ring, with the link that there is.
macro_rules! with_link {
    ($any:expr, $link:ident => $value:expr) => {
        match $any {
            AnyLink::Split($link) => $value,
            AnyLink::Packed($link) => $value,
        }
    };
}
pub(crate) use with_link;

/// What is wanted of a device: all that is implemented, as the command line changes it, and what the command line asks for
/// that there is no code for.
fn wanted(options: &Options) -> (Features, Features) {
    let asked = (Features::IMPLEMENTED | options.features_on) - options.features_off;
    (asked & Features::IMPLEMENTED, asked - Features::IMPLEMENTED)
}

impl<H: Hal, T: NetTransport> AnyLink<H, T> {
    /// Resets the device, agrees with it, and starts it. What the command line asks for and does not get is reported.
    ///
    /// # Errors
    /// If the device cannot be driven.
    pub fn start(transport: T, options: &Options, pool: &Pool, console: &Console<'_>) -> Result<Self, SetupError> {
        let (wanted, unknown) = wanted(options);
        if !unknown.is_empty() {
            warn!(console, "virtio_net.features: {unknown} is not implemented and stays off");
        }
        let negotiation = Negotiation::begin(transport)?;
        let offered = negotiation.offered();
        // Half of the buffers are for receiving at most: what is received lies in the transmit queue, waits for neighbours, or is
        // a copy of the stack, before it is free again.
        let settings = Settings { reserve: pool.capacity() / 2, ..Settings::default() };
        let link = match negotiation.accept::<H>(wanted, Features::empty(), pool, settings)? {
            AnyDevice::Split(device) => Self::Split(Link::new(device, offered)),
            AnyDevice::Packed(device) => Self::Packed(Link::new(device, offered)),
        };
        let features = with_link!(&link, link => link.features);
        info!(console, "device: offered {offered}");
        info!(console, "device: agreed on {features}");
        let refused = (wanted & offered) - features;
        if !refused.is_empty() {
            info!(console, "device: not agreed on, though offered, for want of what it needs: {refused}");
        }
        let missing = (options.features_on & Features::IMPLEMENTED) - offered;
        if !missing.is_empty() {
            warn!(console, "virtio_net.features: the device does not offer {missing}");
        }
        Ok(link)
    }

    /// Resets the device and takes everything back that it had.
    ///
    /// # Errors
    /// If it does not reset. Its buffers are lost then, since it may still write to them.
    pub fn close(self) -> Result<T, CloseError> {
        with_link!(self, link => link.close())
    }
}

impl<R: Virtqueue<Frame>, T: NetTransport> Link<R, T> {
    fn new(device: Device<R, T>, offered: Features) -> Self {
        let (mut receive, mut transmit, control) = device.split();
        // The loop asks for interrupts before it sleeps, and at no other time.
        receive.disarm_interrupt();
        transmit.disarm_interrupt();
        let features = control.features();
        Self { receive, transmit, control, offered, features }
    }

    /// Resets the queues that are broken, and no others; nothing of what they held is known. How many these were, and the frames
    /// that may not have been sent.
    ///
    /// # Errors
    /// If RING_RESET was not agreed on, or the device does not reset a queue.
    pub fn mend(&mut self) -> Result<(u64, u64), ResetError> {
        let (mut mended, mut lost) = (0, 0);
        if self.receive.broken().is_some() {
            self.control.reset_receive(&mut self.receive, drop)?;
            mended += 1;
        }
        if self.transmit.broken().is_some() {
            self.control.reset_transmit(&mut self.transmit, |_| lost += 1)?;
            mended += 1;
        }
        Ok((mended, lost))
    }

    fn close(self) -> Result<T, CloseError> {
        // The parts are of one device: they were made together and have not been apart.
        let Ok(device) = Device::join(self.receive, self.transmit, self.control) else {
            return Err(CloseError::Reset);
        };
        device.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_switches_features_within_what_is_implemented() {
        let options = Options {
            features_off: Features::MRG_RXBUF,
            features_on: Features::MQ | Features::CSUM,
            ..Options::default()
        };
        let (wanted, unknown) = wanted(&options);
        assert_eq!(wanted, Features::IMPLEMENTED - Features::MRG_RXBUF);
        assert_eq!(unknown, Features::MQ);
    }
}
