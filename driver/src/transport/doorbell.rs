//! The register by which a driver tells the device that a queue has new buffers.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

/// The doorbell of one queue (virtio 1.3, sections 4.1.5.2 and 4.2.3.3).
#[derive(Debug)]
pub struct Doorbell {
    register: NonNull<u8>,
    queue: u16,
    /// What is written to name the queue.
    name: u16,
    width: Width,
    data: bool,
}

/// How wide the register is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 16 bits: PCI.
    Bits16,
    /// 32 bits: MMIO.
    Bits32,
}

// SAFETY: the register may be written from any processor, in one store each (the promise of `new`).
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// A doorbell at `register`, into which the index of `queue` is written.
    ///
    /// # Safety
    /// `register` must be valid for volatile writes of `width`, aligned to it, for as long as the doorbell exists, from any
    /// thread; and such a write must have no effect on memory that Rust knows of.
    #[must_use]
    pub unsafe fn new(register: NonNull<u8>, queue: u16, width: Width) -> Self {
        Self { register, queue, name: queue, width, data: false }
    }

    /// The queue whose doorbell this is.
    #[must_use]
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// The same doorbell, which also says how far the queue has got if `data` (NOTIFICATION_DATA, section 2.9).
    ///
    /// # Panics
    /// If that does not fit into the register.
    #[must_use]
    pub fn with_data(self, data: bool) -> Self {
        assert!(!data || self.width == Width::Bits32, "a doorbell with data is 32 bits wide");
        Self { data, ..self }
    }

    /// The same doorbell, in which `name` stands for the queue instead of its index (NOTIF_CONFIG_DATA, section 4.1.5.2).
    #[must_use]
    pub fn with_name(self, name: u16) -> Self {
        Self { name, ..self }
    }

    /// Tells the device to look at the queue, whose next buffer will be at `position`
    /// ([`Virtqueue::position`](crate::ring::Virtqueue::position)). Everything published before is visible to it.
    #[inline]
    pub fn ring(&self, position: u16) {
        let data = if self.data { u32::from(position) << 16 } else { 0 };
        fence(Ordering::Release);
        // SAFETY: the promise of `new`.
        unsafe {
            match self.width {
                Width::Bits16 => self.register.cast::<u16>().as_ptr().write_volatile(self.name.to_le()),
                Width::Bits32 => {
                    self.register.cast::<u32>().as_ptr().write_volatile((data | u32::from(self.name)).to_le())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_queue_index_as_wide_as_the_register_and_the_position_if_that_was_agreed_on() {
        let mut word = [0xffff_ffff_u32; 1];
        let register = NonNull::from(&mut word).cast();
        // SAFETY: an aligned array of plain memory that outlives both doorbells.
        let (narrow, wide) =
            unsafe { (Doorbell::new(register, 1, Width::Bits16), Doorbell::new(register, 0x102, Width::Bits32)) };
        narrow.ring(7);
        // SAFETY: as above.
        assert_eq!(unsafe { register.cast::<u32>().as_ptr().read_volatile() }.to_le(), 0xffff_0001);
        wide.ring(7);
        // SAFETY: as above.
        assert_eq!(unsafe { register.cast::<u32>().as_ptr().read_volatile() }.to_le(), 0x102);
        assert_eq!((narrow.queue(), wide.queue()), (1, 0x102));
        let wide = wide.with_data(true);
        for position in [0, 7, 0x8001, 0xffff] {
            wide.ring(position);
            // SAFETY: as above.
            let value = unsafe { register.cast::<u32>().as_ptr().read_volatile() }.to_le();
            assert_eq!(value, u32::from(position) << 16 | 0x102);
        }
        wide.with_name(0xabcd).ring(3);
        // SAFETY: as above.
        assert_eq!(unsafe { register.cast::<u32>().as_ptr().read_volatile() }.to_le(), 0x0003_abcd);
    }
}
