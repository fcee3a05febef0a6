//! What the vCPU's thread, the device's thread and the status line share: atomics and the interrupts.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use ringlet_driver::features::Features;
use vmm_sys_util::eventfd::EventFd;

use super::counters::{Counters, Live};

/// Takes the device's one-line messages for people. Called from the vCPU's thread and the device's; must not block.
pub type Report = Box<dyn Fn(&str) + Send + Sync>;

/// A guest that breaks the rules again and again, with resets between, fills no terminal: so many faults are told of.
const SAID: u64 = 8;

/// How a device interrupts its driver: each transport has its own way. Called from the device's thread and the vCPU's; must
/// not block.
pub trait Interrupts: std::fmt::Debug + Send + Sync {
    /// Buffers of this queue were used, and the driver wants to know.
    fn queue(&self, queue: u16);
    /// The configuration space has changed, or the device needs a reset.
    fn configuration(&self);
    /// The device was reset: what was said of interrupts before is forgotten.
    fn reset(&self);
    /// An eventfd that does what [`Interrupts::queue`] does, for another process to write to. It stays good as long as the
    /// device exists; where it leads, and whether it is masked, follows what the driver sets.
    ///
    /// # Errors
    /// If this kind of interrupt has none, or the process has no descriptors left.
    fn call(&self, queue: u16) -> io::Result<EventFd> {
        let _ = queue;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The state of a device that more than one thread sees.
pub struct Shared {
    pub(super) live: Live,
    generation: AtomicU32,
    link: AtomicBool,
    needs_reset: AtomicBool,
    negotiated: AtomicU64,
    interrupts: Arc<dyn Interrupts>,
    report: Report,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("live", &self.live).finish_non_exhaustive()
    }
}

impl Shared {
    /// Makes the state of a device whose link is up.
    #[must_use]
    pub fn new(interrupts: Arc<dyn Interrupts>, report: Report) -> Self {
        Self {
            live: Live::default(),
            generation: AtomicU32::new(0),
            link: AtomicBool::new(true),
            needs_reset: AtomicBool::new(false),
            negotiated: AtomicU64::new(0),
            interrupts,
            report,
        }
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.live.read()
    }

    /// What was negotiated; nothing as long as the driver has not set DRIVER_OK.
    #[must_use]
    pub fn negotiated(&self) -> Features {
        Features::from_bits_retain(self.negotiated.load(Ordering::Relaxed))
    }

    pub(crate) fn set_negotiated(&self, features: Features) {
        self.negotiated.store(features.bits(), Ordering::Relaxed);
    }

    /// Says one line.
    pub(crate) fn say(&self, line: &str) {
        (self.report)(line);
    }

    /// Raises an interrupt: buffers of this queue were used.
    pub(super) fn interrupt_queue(&self, queue: u16) {
        self.live.interrupts.add(1);
        self.interrupts.queue(queue);
    }

    /// An eventfd by which another process interrupts the driver for this queue. Such interrupts are not counted.
    ///
    /// # Errors
    /// If the transport has none, or the process has no descriptors left.
    pub fn call(&self, queue: u16) -> io::Result<EventFd> {
        self.interrupts.call(queue)
    }

    /// ConfigGeneration.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Whether the link is up.
    #[must_use]
    pub fn link(&self) -> bool {
        self.link.load(Ordering::SeqCst)
    }

    /// The link goes down, since the network is gone, or comes up again. The driver is told by a configuration change.
    pub(crate) fn set_link(&self, up: bool) {
        if self.link.swap(up, Ordering::SeqCst) != up {
            self.generation.fetch_add(1, Ordering::SeqCst);
            self.interrupts.configuration();
        }
    }

    /// Whether DEVICE_NEEDS_RESET is set.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// The device cannot go on before it is reset. Says why, once, and tells the driver by a configuration change
    /// interrupt (virtio 1.3, section 2.1.2).
    pub(crate) fn break_down(&self, why: &str) {
        self.live.faults.add(1);
        if !self.needs_reset.swap(true, Ordering::SeqCst) {
            match self.live.faults.get() {
                1..SAID => self.say(&format!("the network device needs a reset: {why}")),
                SAID => self.say(&format!("the network device needs a reset: {why} (more of this is only counted)")),
                _ => {}
            }
            self.interrupts.configuration();
        }
    }

    /// The device was reset.
    pub(crate) fn reset(&self) {
        self.live.resets.add(1);
        self.needs_reset.store(false, Ordering::SeqCst);
        self.interrupts.reset();
        self.set_negotiated(Features::empty());
    }
}
