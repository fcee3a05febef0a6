//! The transport that the driver is given.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use std::boxed::Box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::queue::Queue;
use super::state::State;
use crate::features::Features;
use crate::transport::{Doorbell, NetTransport, Refused, Width};
use crate::wire::config::NetConfig;
use crate::wire::status::{FEATURES_OK, INTERRUPT_QUEUE};

/// The transport of a [`Device`](super::Device).
#[derive(Debug)]
pub struct FakeTransport {
    pub(super) shared: Arc<Shared>,
}

/// What device and transport share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    doorbells: &'static [AtomicU32; 2],
}

/// What lies in the place of a doorbell that was not rung.
const SILENT: u32 = u32::MAX;

/// Every doorbell there ever was: a driver may ring one after its device is gone.
static DOORBELLS: Mutex<Vec<&'static [AtomicU32; 2]>> = Mutex::new(Vec::new());

impl Shared {
    pub(super) fn new(state: State) -> Self {
        let doorbells: &'static [AtomicU32; 2] = Box::leak(Box::new([const { AtomicU32::new(SILENT) }; 2]));
        DOORBELLS.lock().unwrap_or_else(PoisonError::into_inner).push(doorbells);
        Self { state: Mutex::new(state), doorbells }
    }

    /// No doorbell was rung.
    pub(super) fn silence(&self) {
        self.doorbells.iter().for_each(|doorbell| doorbell.store(SILENT, Ordering::Relaxed));
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the doorbell of `queue` was rung since this was last asked.
    pub(super) fn rung(&self, queue: u16) -> bool {
        let value = self.doorbells[usize::from(queue)].swap(SILENT, Ordering::Relaxed);
        if value == SILENT {
            return false;
        }
        let mut state = self.state();
        assert_eq!(value as u16, queue, "doorbell {queue} was rung with {value:#x}");
        let (told, with_data) = ((value >> 16) as u16, state.accepted.contains(Features::NOTIFICATION_DATA));
        match state.queue(queue) {
            Some(queue) if with_data => queue.check_position(told),
            None => {}
            Some(_) => assert_eq!(told, 0, "doorbell {queue} was rung with {value:#x}"),
        }
        true
    }
}

impl NetTransport for FakeTransport {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn doorbell(&mut self, queue: u16, features: Features) -> core::result::Result<Doorbell, Refused> {
        let place = self.shared.doorbells.get(usize::from(queue)).ok_or(Refused::Doorbell(queue))?;
        // SAFETY: aligned memory that is never freed, and in which nothing is kept but what rings write.
        let doorbell = unsafe { Doorbell::new(NonNull::from(place).cast(), queue, Width::Bits32) };
        Ok(doorbell.with_data(features.contains(Features::NOTIFICATION_DATA)))
    }

    fn reset_queue(&mut self, queue: u16) -> core::result::Result<(), Refused> {
        let mut state = self.shared.state();
        assert!(state.accepted.contains(Features::RING_RESET), "a queue is reset alone, which was not agreed on");
        assert!(state.queue(queue).is_some(), "a queue is reset that is not in use");
        if state.stuck {
            return Err(Refused::Reset(queue));
        }
        state.queues[usize::from(queue)] = None;
        self.shared.doorbells[usize::from(queue)].store(SILENT, Ordering::Relaxed);
        Ok(())
    }

    fn acknowledge_used(&mut self) {
        self.shared.state().interrupt_status &= !INTERRUPT_QUEUE;
    }
}

impl Transport for FakeTransport {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        self.shared.state().offered.bits()
    }

    fn write_driver_features(&mut self, features: u64) {
        let mut state = self.shared.state();
        assert_eq!(state.status & FEATURES_OK, 0, "features are written before FEATURES_OK is");
        let features = Features::from_bits_retain(features);
        assert!(
            state.offered.contains(features),
            "the driver accepts what is not offered: {}",
            features - state.offered
        );
        features.check().expect("the driver accepts features without what they need");
        state.accepted = features;
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        let state = self.shared.state();
        if usize::from(queue) < state.queues.len() { u32::from(state.queue_size) } else { 0 }
    }

    fn notify(&mut self, queue: u16) {
        self.shared.doorbells[usize::from(queue)].store(u32::from(queue), Ordering::Relaxed);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(u32::from(self.shared.state().status))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut state = self.shared.state();
        let status = status.bits() as u8;
        if status == 0 {
            if !state.stuck {
                state.reset();
                drop(state);
                self.shared.silence();
            }
            return;
        }
        assert_eq!(state.status & !status, 0, "the driver clears bits of the status without a reset");
        let refused = state.accepted.intersects(state.refused);
        let new = if refused { status & !FEATURES_OK } else { status };
        state.status = new;
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let mut state = self.shared.state();
        assert!(state.status & FEATURES_OK != 0, "queues are set up after the features are agreed on");
        assert!(size <= u32::from(state.queue_size), "a queue of {size}, which is more than there is");
        let mut new = Queue::new(size as u16, [descriptors, driver, device], state.accepted);
        new.batching = state.batching;
        state.queues[usize::from(queue)] = Some(new);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.shared.state().queues[usize::from(queue)] = None;
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.shared.state().queue(queue).is_some()
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = core::mem::take(&mut self.shared.state().interrupt_status);
        InterruptStatus::from_bits_retain(u32::from(status))
    }

    fn read_config_generation(&self) -> u32 {
        let mut state = self.shared.state();
        if state.unstable {
            state.generation = state.generation.wrapping_add(1);
        }
        state.generation
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let bytes = self.shared.state().config.to_bytes();
        let field = offset.checked_add(size_of::<T>()).and_then(|end| bytes.get(offset..end));
        T::read_from_bytes(field.ok_or(Error::ConfigSpaceTooSmall)?).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<()> {
        let end = offset.saturating_add(value.as_bytes().len());
        if end > NetConfig::LEN {
            return Err(Error::ConfigSpaceTooSmall);
        }
        panic!("nothing in the configuration space is for a modern driver to write");
    }
}
