//! The device behind the socket.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ringlet_driver::features::Features;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::backend::{Backend, Jack, Network};
use crate::virtio::memory::{Memory, Table};
use crate::virtio::net::{self, Activation, Net, QUEUES};
use crate::virtio::queue::Place;
use crate::virtio::registers::Control;
use crate::virtio::worker::{self, Remote};
use crate::virtio::{Counters, Interrupts, Options, Shared, event};

/// Features that are not the backend's: of the configuration space and of the doorbells, which are the frontend's, and of
/// an IOMMU, for which the frontend would have to translate addresses.
const FRONTENDS: Features = Features::MAC
    .union(Features::STATUS)
    .union(Features::MTU)
    .union(Features::NOTIFICATION_DATA)
    .union(Features::ACCESS_PLATFORM);

/// The device's interrupts: descriptors that the frontend has given us, and takes away or exchanges while the device works.
#[derive(Debug, Default)]
pub struct Calls {
    calls: [Slot; QUEUES],
    errors: [Slot; QUEUES],
    /// Interrupts that the kernel did not take.
    lost: AtomicU64,
}

/// A descriptor that may be there.
type Slot = Mutex<Option<EventFd>>;

/// Rings at a descriptor, if there is one. Returns false where the kernel does not.
fn rings(slot: &Slot) -> bool {
    slot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(event::ring)
}

fn put(slots: &[Slot], queue: u16, event: Option<EventFd>) {
    if let Some(slot) = slots.get(usize::from(queue)) {
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = event;
    }
}

impl Calls {
    /// What is written to when the driver is to be interrupted for a queue.
    ///
    /// It is written to at once: an interrupt may have gone to the one before. One too many does no harm.
    pub fn set_call(&self, queue: u16, event: Option<EventFd>) {
        put(&self.calls, queue, event);
        self.queue(queue);
    }

    /// What is written to when a queue is not served any more because of a fault.
    pub fn set_error(&self, queue: u16, event: Option<EventFd>) {
        put(&self.errors, queue, event);
    }

    /// How many interrupts the kernel did not take, for want of memory: a driver may wait for one of them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn signal(&self, slot: &Slot) {
        if !rings(slot) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Interrupts for Calls {
    fn queue(&self, queue: u16) {
        if let Some(slot) = self.calls.get(usize::from(queue)) {
            self.signal(slot);
        }
    }

    fn configuration(&self) {
        // The configuration space is the frontend's, so that all we can have to say is that the device does not work.
        self.errors.iter().for_each(|slot| self.signal(slot));
    }

    fn reset(&self) {}
}

/// The device, with its thread. It ends by [`Device::stop`].
#[derive(Debug)]
pub struct Device {
    remote: Mutex<Remote>,
    shared: Arc<Shared>,
    calls: Arc<Calls>,
    offered: Features,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where the network is plugged in.
struct Socket(Options);

impl Jack for Socket {
    type Plugged = io::Result<Arc<Device>>;

    fn plug<B: Backend + 'static>(self, backend: B) -> Self::Plugged {
        event::ready()?;
        let Options { mask, spin, report, .. } = self.0;
        let calls = Arc::new(Calls::default());
        let shared = Arc::new(Shared::new(calls.clone(), report));
        let offered = net::offered(&backend, mask) - FRONTENDS;
        let net = Net::new(Table::default().memory(), backend, shared.clone());
        let doorbells = [EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?];
        let (remote, thread) = worker::spawn(net, shared.clone(), doorbells, spin)?;
        let (remote, thread) = (Mutex::new(remote), Mutex::new(Some(thread)));
        Ok(Arc::new(Device { remote, shared, calls, offered, thread }))
    }
}

impl Device {
    /// Starts a device on this network. Its MAC address is the frontend's business.
    ///
    /// # Errors
    /// If there is no thread or no descriptor to be had.
    pub fn start(network: impl Network, options: Options) -> io::Result<Arc<Self>> {
        network.plug_into(Socket(options))
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    /// The descriptors that the device writes to.
    #[must_use]
    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    fn remote<T>(&self, work: impl FnOnce(&mut Remote) -> T) -> T {
        work(&mut self.remote.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to work with these features, with no queue yet. If it cannot, it needs a reset.
    pub fn begin(&self, features: Features) {
        self.shared.reset();
        self.remote(|remote| remote.start(Activation { features, queues: [None; QUEUES] }));
    }

    /// Whether it has met a fault, which was told of, and works only after [`Device::end`].
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.shared.needs_reset()
    }

    /// Ends the work with the features of [`Device::begin`], and all queues.
    pub fn end(&self) {
        self.remote(Control::reset);
        self.shared.reset();
    }

    /// Exchanges the memory, where the queues are. None is in use.
    pub fn set_memory(&self, memory: Memory) {
        self.remote(|remote| remote.set_memory(memory));
    }

    /// By what the driver tells that it has made chains available; `None` where there is no driver.
    pub fn set_doorbell(&self, queue: u16, event: Option<EventFd>) {
        self.remote(|remote| remote.set_doorbell(queue, event));
    }

    /// Whether frames of the driver's are thrown away.
    pub fn set_mute(&self, mute: bool) {
        self.remote(|remote| remote.set_mute(mute));
    }

    /// Begins to use a queue, from a position on. If it cannot, the device needs a reset.
    pub fn start_queue(&self, queue: u16, place: Place, position: u32) {
        self.remote(|remote| remote.start_queue(queue, place, Some(position)));
    }

    /// Ends the use of a queue. Returns its position, if it was in use.
    #[must_use]
    pub fn stop_queue(&self, queue: u16) -> Option<u32> {
        self.remote(|remote| remote.end_queue(queue))
    }

    /// Makes the thread end, and the network with it, and waits for that.
    ///
    /// # Panics
    /// If the thread has panicked, with its panic.
    pub fn stop(&self) {
        self.remote(|remote| remote.stop());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{FromRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn interrupts_that_the_kernel_does_not_take_are_counted() {
        let calls = Calls::default();
        calls.queue(0);
        calls.set_call(0, Some(EventFd::new(EFD_NONBLOCK).unwrap()));
        assert_eq!(calls.lost(), 0);
        // The kernel refuses what is no eventfd, as it refuses anything when it is out of memory.
        let file = File::open("/dev/null").unwrap();
        // SAFETY: the descriptor is nobody else's from here on; it is not read or written as an eventfd but by the kernel, which looks.
        let none = unsafe { EventFd::from_raw_fd(file.into_raw_fd()) };
        calls.set_call(1, Some(none));
        calls.queue(1);
        assert_eq!(calls.lost(), 2);
    }
}
