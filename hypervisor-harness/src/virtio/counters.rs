//! What the device counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{self, Flow};

/// A counter with one writing thread and any number of readers.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only one thread may do so; then no locked instruction is needed.
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.set(self.0.load(Ordering::Relaxed).wrapping_add(count));
    }

    /// Sets it.
    #[inline]
    pub(super) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// Reads it.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One direction, live.
#[derive(Debug, Default)]
pub(super) struct LiveFlow {
    pub(super) frames: Counter,
    pub(super) bytes: Counter,
    pub(super) dropped: Counter,
}

impl LiveFlow {
    fn read(&self) -> Flow {
        Flow { frames: self.frames.get(), bytes: self.bytes.get(), dropped: self.dropped.get() }
    }

    fn set(&self, flow: Flow) {
        self.frames.set(flow.frames);
        self.bytes.set(flow.bytes);
        self.dropped.set(flow.dropped);
    }
}

/// The counters, live. The device's thread writes all but the last two, which are the vCPU's.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) from_guest: LiveFlow,
    pub(super) to_guest: LiveFlow,
    pub(super) backend_from_guest: LiveFlow,
    pub(super) backend_to_guest: LiveFlow,
    pub(super) interrupts: Counter,
    pub(super) spared: Counter,
    pub(super) sleeps: Counter,
    pub(super) starved: Counter,
    pub(super) faults: Counter,
    pub(super) resets: Counter,
    pub(super) misuses: Counter,
}

impl Live {
    /// Takes over the backend's own counters.
    pub(super) fn set_backend(&self, counters: backend::Counters) {
        self.backend_from_guest.set(counters.from_guest);
        self.backend_to_guest.set(counters.to_guest);
    }

    pub(super) fn read(&self) -> Counters {
        Counters {
            from_guest: self.from_guest.read(),
            to_guest: self.to_guest.read(),
            backend_from_guest: self.backend_from_guest.read(),
            backend_to_guest: self.backend_to_guest.read(),
            interrupts: self.interrupts.get(),
            spared: self.spared.get(),
            sleeps: self.sleeps.get(),
            starved: self.starved.get(),
            faults: self.faults.get(),
            resets: self.resets.get(),
            misuses: self.misuses.get(),
        }
    }
}

/// The counters of a device, as they were at one moment (each by itself; they are not read all at once).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// What the guest sent. Dropped: malformed, longer than the network takes, or with an offload that was not negotiated.
    pub from_guest: Flow,
    /// What the guest received. Dropped: larger than its buffers can hold.
    pub to_guest: Flow,
    /// What the backend says about the guest's frames; its drops come on top of the device's.
    pub backend_from_guest: Flow,
    /// What the backend says about frames for the guest.
    pub backend_to_guest: Flow,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Times that something was published and the driver wanted no interrupt.
    pub spared: u64,
    /// Times that the device's thread slept.
    pub sleeps: u64,
    /// Times that a frame had to wait for the guest to make receive buffers available.
    pub starved: u64,
    /// Times that the guest broke the rules of a ring, or the network failed, so that the device needs a reset.
    pub faults: u64,
    /// Resets.
    pub resets: u64,
    /// Register accesses that made no sense, and were ignored.
    pub misuses: u64,
}
