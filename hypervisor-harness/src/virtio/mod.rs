//! The virtio-net device: register file, rings, and the thread that moves frames between a guest and a
//! [`Backend`](crate::backend::Backend).
//!
//! From the guest inwards:
//! - [`mmio`], [`pci`]: how a guest reaches the registers (virtio 1.3, sections 4.2 and 4.1), on the vCPU's thread.
//! - [`registers`]: what the registers mean, whatever the transport.
//! - [`worker`]: the device's thread, which owns everything that moves frames.
//! - [`net`]: the network device: receive and transmit paths, without a thread of their own.
//! - [`queue`]: the device's side of a virtqueue.
//! - [`memory`]: guest memory, checked.
//!
//! [`attach()`] puts a device into a machine. No guest can make it panic, hang or reach beyond the guest's memory: what
//! breaks the rules is counted, said once, and answered with DEVICE_NEEDS_RESET.
//!
//! # For those who write drivers
//! The device's interrupt is edge triggered and does not wait for an acknowledgement. A driver that looks at its rings
//! whenever it is interrupted needs to read the InterruptStatus register only to learn of configuration changes: that costs
//! an exit to the vCPU's thread, ten times as much as a doorbell. It need not write InterruptACK either; if it does, to
//! acknowledge used buffers alone, that costs no more than a doorbell, and changes nothing.

mod attach;
mod counters;
pub(crate) mod event;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod registers;
mod shared;
#[cfg(test)]
mod testing;
mod wait;
pub mod worker;

pub use attach::{Error, Handle, Options, Plugged, Transport, attach, plug};
pub use counters::Counters;
pub use shared::{Interrupts, Report, Shared};
pub(crate) use wait::Wait;
