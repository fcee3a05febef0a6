//! What stands behind the virtio-net device: the [`Backend`] trait, and the backends.
//!
//! A backend moves whole frames. Each frame is, on both sides of the seam, the 12 bytes of a `virtio_net_hdr_v1` (virtio 1.3,
//! section 5.1.6) followed by an Ethernet frame without its frame check sequence.

pub mod coalesce;
pub mod generator;
pub mod lan;
#[cfg(test)]
pub mod mirror;
mod open;
pub mod options;
pub mod pcap;
pub mod scatter;
pub mod tap;
pub mod xdp;

pub use open::{Error, Kind, Opened, Options, open};
pub use scatter::Scatter;

use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use ringlet_driver::features::Features;

/// The features that are a network's to offer: what it can take in frames from the guest, and give in frames to it. The
/// legacy GSO is not among them.
pub const OFFLOADS: Features = Features::CSUM
    .union(Features::GUEST_CSUM)
    .union(Features::GUEST_TSO4)
    .union(Features::GUEST_TSO6)
    .union(Features::GUEST_ECN)
    .union(Features::GUEST_UFO)
    .union(Features::GUEST_USO4)
    .union(Features::GUEST_USO6)
    .union(Features::HOST_TSO4)
    .union(Features::HOST_TSO6)
    .union(Features::HOST_ECN)
    .union(Features::HOST_UFO)
    .union(Features::HOST_USO)
    .union(Features::RSC_EXT);

/// What became of a frame that a backend was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The frame went out, or was counted as a drop by the backend: the guest gets its buffer back.
    Done,
    /// There is no room now. The device keeps the frame and offers it again when the backend is writable.
    Later,
}

/// What a backend had for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// One frame was written: this many bytes, the 12-byte header included. `num_buffers` is the device's to fill.
    Frame(usize),
    /// Nothing waits.
    Empty,
    /// A frame of this many bytes (header included) waits and the room offered was too small. It stays first in line, until room
    /// enough is offered or [`Backend::discard`] is called.
    TooSmall(usize),
}

/// Packet and byte counters of one direction, as seen by the backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Frames moved.
    pub frames: u64,
    /// Bytes moved, without the virtio header.
    pub bytes: u64,
    /// Frames given up: malformed, too long, or nobody to take them.
    pub dropped: u64,
}

/// The counters of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// From the guest to the network.
    pub from_guest: Flow,
    /// From the network to the guest.
    pub to_guest: Flow,
}

/// A network that a virtio-net device is plugged into.
///
/// One thread, the device's, calls everything here. The calls never block; what a backend waits for, it says by
/// [`Backend::wait_on`] and [`Backend::turn`].
pub trait Backend: Send {
    /// A short name for messages: `lan`, `tap`, `generator`.
    fn name(&self) -> &'static str;

    /// The bits of [`OFFLOADS`] that the backend can honour. The device offers no other ones.
    fn offloads(&self) -> Features;

    /// The maximum transmission unit of the network, in bytes of IP packet.
    fn mtu(&self) -> u16 {
        1500
    }

    /// The driver has set DRIVER_OK with these features: from now on frames obey them. Called again after each reset.
    ///
    /// # Errors
    /// Where the network cannot be put into that mode (a TUNSETOFFLOAD refused); the device then sets NEEDS_RESET.
    fn negotiated(&mut self, features: Features) -> io::Result<()>;

    /// No queue of the device is in use, and there are no turns until one is again. May be called more than once.
    fn rest(&mut self) {}

    /// Takes one frame from the guest.
    ///
    /// # Errors
    /// Only for a network that is gone for good (its interface removed). A frame that cannot be sent is a counted drop.
    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent>;

    /// Writes the next waiting frame into `room`. A frame larger than `room` is never truncated.
    ///
    /// # Errors
    /// Only for a network that is gone for good.
    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received>;

    /// Throws away the frame that [`Backend::receive`] has just reported as [`Received::TooSmall`], that one and no other. The
    /// device counts it as dropped; the backend does not count it as moved.
    fn discard(&mut self);

    /// Called once per turn of the device's loop, after what the guest sent was taken and before the guest's receive
    /// buffers are filled: timers and inner work of the network. Returns the time at which it next wants to be called even
    /// if no descriptor becomes ready; `None` when only descriptors matter. `Some(now)` or earlier means that there is
    /// something to do at once, so that the device does not sleep.
    fn turn(&mut self, now: Instant) -> Option<Instant>;

    /// The descriptors whose readability must wake the device's thread. Asked before each sleep, since they may change.
    fn wait_on(&self, fds: &mut Vec<RawFd>);

    /// The counters so far.
    fn counters(&self) -> Counters;
}

/// A network, of a kind that the compiler knows or of one that is known only when it runs: what can be plugged into a
/// [`Jack`]. Which kind it is is found out once, there; what moves frames is compiled for each kind, without virtual calls.
pub trait Network {
    /// Plugs it in.
    fn plug_into<J: Jack>(self, jack: J) -> J::Plugged;
}

impl<B: Backend + 'static> Network for B {
    fn plug_into<J: Jack>(self, jack: J) -> J::Plugged {
        jack.plug(self)
    }
}

/// What a [`Network`] of any kind can be plugged into.
pub trait Jack {
    /// What comes of it.
    type Plugged;

    /// Takes a network of a known kind.
    fn plug<B: Backend + 'static>(self, backend: B) -> Self::Plugged;
}
