//! What a test holds.

use std::sync::Arc;
use std::vec::Vec;

use super::state::{Mischief, Sent, State};
use super::transport::{FakeTransport, Shared};
use crate::features::Features;
use crate::wire::config::{self, NetConfig};
use crate::wire::status::{DEVICE_NEEDS_RESET, INTERRUPT_CONFIG, INTERRUPT_QUEUE};
use crate::wire::{NetHdr, TRANSMIT_QUEUE};

/// A network device in memory. Cloned, it is the same device.
#[derive(Debug, Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

impl Device {
    /// A device that offers `offered`. It has queues of 256 descriptors, its link is up.
    #[must_use]
    pub fn new(offered: Features, mac: [u8; 6], mtu: u16) -> Self {
        let config = NetConfig { mac, mtu, status: config::LINK_UP, max_virtqueue_pairs: 1, ..NetConfig::default() };
        Self { shared: Arc::new(Shared::new(State::new(offered, config))) }
    }

    /// Another device in the place of this one, as [`Device::new`] makes it. Its driver must be gone.
    pub(super) fn renew(&self, offered: Features, mac: [u8; 6], mtu: u16) {
        let config = NetConfig { mac, mtu, status: config::LINK_UP, max_virtqueue_pairs: 1, ..NetConfig::default() };
        *self.shared.state() = State::new(offered, config);
        self.shared.silence();
    }

    /// What a driver is given. One at a time.
    #[must_use]
    pub fn transport(&self) -> FakeTransport {
        FakeTransport { shared: Arc::clone(&self.shared) }
    }

    /// Sets how many descriptors the queues have at most. Before a driver sets them up.
    pub fn set_queue_size(&self, size: u16) {
        self.shared.state().queue_size = size;
    }

    /// What the driver has accepted.
    #[must_use]
    pub fn accepted(&self) -> Features {
        self.shared.state().accepted
    }

    /// The device status: bits of [`crate::wire::status`].
    #[must_use]
    pub fn status(&self) -> u8 {
        self.shared.state().status
    }

    /// How often the device was reset.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.shared.state().resets
    }

    /// Lets a frame arrive. `num_buffers` is set as it must be. Whether the driver had room for it; if not, it is lost.
    pub fn inject(&self, header: NetHdr, frame: &[u8]) -> bool {
        self.shared.state().receive(header, frame)
    }

    /// The frames sent since this was last asked. The driver must have rung the doorbell if it was to: until then the device
    /// sleeps.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Sent> {
        self.work();
        core::mem::take(&mut self.shared.state().sent)
    }

    /// Sends what there is to send, if the doorbell was rung.
    pub fn work(&self) {
        let rung = self.shared.rung(TRANSMIT_QUEUE);
        self.shared.state().transmit(rung);
    }

    /// How many interrupts there were since the device was made.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.shared.state().interrupts
    }

    /// While paused the device takes nothing that is to be sent. When that ends it looks by itself.
    pub fn set_paused(&self, paused: bool) {
        let mut state = self.shared.state();
        let ends = state.paused && !paused;
        state.paused = paused;
        if ends {
            state.transmit(true);
        }
    }

    /// Whether buffers that are sent together are given back in reverse order, unless IN_ORDER was agreed on.
    pub fn set_reversed(&self, reversed: bool) {
        self.shared.state().reversed = reversed;
    }

    /// Whether, with IN_ORDER, one entry of the ring is written for several buffers that were used, as it does from the start.
    pub fn set_batching(&self, batching: bool) {
        let mut state = self.shared.state();
        state.batching = batching;
        state.queues.iter_mut().flatten().for_each(|queue| queue.batching = batching);
    }

    /// Raises the interrupt for used buffers, although there are none.
    pub fn raise_interrupt(&self) {
        let mut state = self.shared.state();
        state.interrupt_status |= INTERRUPT_QUEUE;
        state.interrupts += 1;
    }

    /// Whether an interrupt for used buffers waits to be acknowledged: a device whose interrupt is a level (virtio 1.3, section
    /// 4.2.3.4) raises no other one meanwhile.
    #[must_use]
    pub fn interrupt_is_raised(&self) -> bool {
        self.shared.state().interrupt_status & INTERRUPT_QUEUE != 0
    }

    /// Changes the configuration, as [`NetConfig`] has it, and interrupts for it.
    pub fn change_config(&self, change: impl FnOnce(&mut NetConfig)) {
        let mut state = self.shared.state();
        change(&mut state.config);
        state.generation = state.generation.wrapping_add(1);
        state.interrupt_status |= INTERRUPT_CONFIG;
        state.interrupts += 1;
    }

    /// Says why it interrupts, whether that is so or not: bits of [`crate::wire::status`], and others.
    pub fn interrupt(&self, status: u8) {
        let mut state = self.shared.state();
        state.interrupt_status = status;
        state.interrupts += 1;
    }

    /// Takes the carrier away or brings it back.
    pub fn set_link(&self, up: bool) {
        self.change_config(|config| {
            config.status = if up { config.status | config::LINK_UP } else { config.status & !config::LINK_UP };
        });
    }

    /// Does something that no device may do, with the next buffer of `queue` that it uses.
    pub fn misbehave(&self, queue: u16, mischief: Mischief) {
        self.shared.state().mischief[usize::from(queue)] = Some(mischief);
    }

    /// Writes anything into the used ring (split) or the descriptor ring (packed) of `queue`, `offset` bytes from its start; what
    /// lies beyond its end is left out.
    pub fn scribble(&self, queue: u16, offset: usize, bytes: &[u8]) {
        if let Some(queue) = self.shared.state().queue(queue) {
            queue.scribble(offset, bytes);
        }
    }

    /// Writes anything into the `nth` of the buffers that the driver has made available, if there are so many.
    pub fn scribble_buffer(&self, queue: u16, nth: u16, bytes: &[u8]) {
        if let Some(queue) = self.shared.state().queue(queue) {
            queue.scribble_buffer(usize::from(nth), bytes);
        }
    }

    /// From now on the device does not accept these features, although it may offer them.
    pub fn refuse(&self, features: Features) {
        self.shared.state().refused = features;
    }

    /// Whether the configuration changes whenever it is looked at.
    pub fn set_unstable(&self, unstable: bool) {
        self.shared.state().unstable = unstable;
    }

    /// Whether the device does not reset.
    pub fn set_stuck(&self, stuck: bool) {
        self.shared.state().stuck = stuck;
    }

    /// Says that it has met an error and needs a reset.
    pub fn fail(&self) {
        let mut state = self.shared.state();
        state.status |= DEVICE_NEEDS_RESET;
        state.interrupt_status |= INTERRUPT_CONFIG;
        state.interrupts += 1;
    }
}
