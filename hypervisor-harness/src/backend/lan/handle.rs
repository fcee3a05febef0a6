//! What the rest of the program can ask of the network while the device's thread runs it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

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
    /// Frames from the guest whose IP, TCP, UDP or ICMP checksum was wrong, the unfinished ones included.
    pub bad_checksums: u64,
    /// TCP connections that exist now: those of clients and those of servers, so that one through the guest counts twice.
    pub connections: u64,
}

/// A handle to the network. It can be cloned and used from any thread.
#[derive(Clone)]
pub struct Handle {
    published: Arc<[Publish]>,
    orders: Sender<Order>,
    bell: Arc<EventFd>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("published", &self.published).finish_non_exhaustive()
    }
}

/// Something to do for the network.
#[derive(Debug)]
pub(super) enum Order {
    /// Ping an address, and say how long it took.
    Ping { address: IpAddr, patience: Duration, answer: SyncSender<Duration> },
}

/// The network's counters, copied at each turn.
#[derive(Debug, Default)]
struct Shared {
    bad_checksums: AtomicU64,
    connections: AtomicU64,
}

/// The network's end of its handles.
pub(super) struct Counter {
    orders: Receiver<Order>,
    /// Readable when there are orders.
    pub bell: Arc<EventFd>,
    shared: Arc<Shared>,
}

impl Counter {
    /// The next order.
    pub fn next(&self) -> Option<Order> {
        self.orders.try_recv().ok()
    }

    /// Shows the counters to the handles.
    pub fn show(&self, statistics: Statistics) {
        // Each number stands for itself.
        self.shared.bad_checksums.store(statistics.bad_checksums, Ordering::Relaxed);
        self.shared.connections.store(statistics.connections, Ordering::Relaxed);
    }
}

impl Handle {
    /// A handle and the network's end of it.
    pub(super) fn new(published: Vec<Publish>) -> io::Result<(Self, Counter)> {
        let (orders, receiver) = channel();
        let bell = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let shared = Arc::<Shared>::default();
        let counter = Counter { orders: receiver, bell: bell.clone(), shared: shared.clone() };
        Ok((Self { published: published.into(), orders, bell, shared }, counter))
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
    pub fn ping(&self, address: IpAddr, patience: Duration) -> Result<Duration, PingError> {
        let (answer, waiting) = sync_channel(1);
        self.orders.send(Order::Ping { address, patience, answer }).map_err(|_| PingError::Gone)?;
        // It fails only if the bell has rung 2^64 times unheard.
        let _ = self.bell.write(1);
        waiting.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => PingError::Timeout,
            // The network keeps the other end until the time is over, unless it is dropped.
            RecvTimeoutError::Disconnected => PingError::Gone,
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics {
            bad_checksums: self.shared.bad_checksums.load(Ordering::Relaxed),
            connections: self.shared.connections.load(Ordering::Relaxed),
        }
    }
}
