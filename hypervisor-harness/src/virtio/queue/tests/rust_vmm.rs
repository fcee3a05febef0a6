//! The split virtqueue against another implementation of its device's side, rust-vmm's `virtio-queue`: first the device's queue
//! of this house beside it, on the same rings, then the driver's ring of this house in front of it.

mod device;
mod driver;

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor as TheirDescriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::*;

/// Their queue, at `place` and with both indices at `start`.
fn their_queue(place: &Place, event_idx: bool, start: u16) -> Queue {
    let mut queue = Queue::new(place.size).unwrap();
    let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
    let ((low, high), driver, device) = (halves(place.descriptors), halves(place.driver), halves(place.device));
    queue.set_desc_table_address(low, high);
    queue.set_avail_ring_address(driver.0, driver.1);
    queue.set_used_ring_address(device.0, device.1);
    queue.set_event_idx(event_idx);
    queue.set_next_avail(start);
    queue.set_next_used(start);
    queue.set_ready(true);
    queue
}

/// Their next chain: its head, and its descriptors as far as they follow it.
fn their_chain(queue: &mut Queue, memory: &GuestMemoryMmap) -> Option<(u16, Vec<TheirDescriptor>)> {
    let chain: DescriptorChain<&GuestMemoryMmap> = queue.iter(memory).unwrap().next()?;
    Some((chain.head_index(), chain.collect()))
}
