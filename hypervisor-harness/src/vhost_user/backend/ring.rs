//! What a frontend has said about one ring.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

use crate::virtio::memory::Table;
use crate::virtio::queue::Place;

/// A ring.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// The number of descriptors; none before the frontend has said it.
    pub(super) size: u16,
    /// Where the parts of the ring are, at the frontend's own addresses: descriptors, driver area, device area.
    pub(super) addresses: Option<[u64; 3]>,
    /// Where the device goes on.
    pub(super) base: u32,
    /// The frontend has given a descriptor for doorbells: from then on, until it asks for the base, the ring is started.
    pub(super) started: bool,
    /// A disabled ring receives no frames, and what it sends is thrown away.
    pub(super) enabled: bool,
    /// The device uses it.
    pub(super) running: bool,
}

/// A ring cannot be where the frontend says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misplaced {
    #[error("has no size: SET_VRING_NUM is missing")]
    NoSize,
    #[error("has an area at the frontend's address {0:#x}, which is in none of its memory regions")]
    Outside(u64),
}

impl Ring {
    /// Where the device goes on. Of a packed ring that is two positions, of what the driver makes available and of what the
    /// device has used, which are the same of a ring that stands still: this device keeps nothing in flight. QEMU gives both, dpdk
    /// the first one alone.
    pub(super) fn first(&self, packed: bool) -> u32 {
        if packed { self.base << 16 | self.base & 0xffff } else { self.base }
    }

    /// Where the ring is in guest memory; nothing if that has not been said yet.
    pub(super) fn place(&self, table: &Table) -> Result<Option<Place>, Misplaced> {
        let Some(addresses) = self.addresses else { return Ok(None) };
        if self.size == 0 {
            return Err(Misplaced::NoSize);
        }
        let at = |address| table.guest_address(address).ok_or(Misplaced::Outside(address));
        let [descriptors, driver, device] = addresses;
        Ok(Some(Place { size: self.size, descriptors: at(descriptors)?, driver: at(driver)?, device: at(device)? }))
    }
}

/// A descriptor of the frontend's is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("the descriptor given with it is no eventfd")]
pub(super) struct NoEvent;

/// Takes an eventfd from the frontend, which may do with it whatever it likes: see [`event`](crate::virtio::event). Nothing is asked of
/// the file but what it is: one of some file system's own would perhaps never answer.
pub(super) fn event(file: File) -> Result<EventFd, NoEvent> {
    let fd = file.as_raw_fd();
    let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|_| NoEvent)?;
    if name.as_os_str() != "anon_inode:[eventfd]" {
        return Err(NoEvent);
    }
    // SAFETY: the descriptor is an eventfd, and nobody else's from here on.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}
