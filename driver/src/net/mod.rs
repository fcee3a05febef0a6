//! The network device (virtio 1.3, section 5.1).
//!
//! [`Negotiation`] finds out what the device offers, agrees with it, and makes an [`AnyDevice`]: a [`Device`] with the kind of ring
//! that was agreed on. That is three parts, which can be used apart: [`Receive`] and [`Transmit`] own a queue each, and [`Control`] owns the transport and with it everything slow
//! (configuration changes, interrupt status, reset).
//!
//! When the device lies, a queue says so with a [`RingError`](crate::ring::RingError) and does nothing more. With RING_RESET that
//! queue can be reset alone, by [`Control::reset_receive`] or [`Control::reset_transmit`]. Otherwise the parts are put together
//! again, [`Device::close`] resets the device and frees every buffer, and a new [`Negotiation`] begins.

mod config;
mod control;
mod counters;
mod device;
mod header;
mod negotiation;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use config::Config;
pub use control::{Control, Interrupt};
pub use counters::{ReceiveCounters, TransmitCounters};
pub use device::{AnyDevice, CloseError, Device, Parts, ResetError, Settings};
pub use header::HeaderError;
pub use negotiation::{Negotiation, SetupError};
pub use receive::Receive;
pub use transmit::{Reason, Refused, Transmit};
