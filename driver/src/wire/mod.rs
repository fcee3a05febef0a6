//! What driver and device say to each other, as plain data: no pointers, no `unsafe`. Both a driver and a device model
//! (a virtual machine monitor's) can be written against it.
//!
//! Everything is little-endian, as virtio 1.0 and later lay down (virtio 1.3, section 1.4).

pub mod config;
pub mod header;
pub mod mmio;
pub mod packed;
pub mod pci;
pub mod split;
pub mod status;

pub use config::NetConfig;
pub use header::NetHdr;

/// The virtio device type of a network device (virtio 1.3, section 5).
pub const DEVICE_TYPE_NETWORK: u32 = 1;

/// Index of the first receive queue (virtio 1.3, section 5.1.2): receiveqN is `2 * (N - 1)`, transmitqN is one more.
pub const RECEIVE_QUEUE: u16 = 0;
/// Index of the first transmit queue.
pub const TRANSMIT_QUEUE: u16 = 1;

/// Length of an Ethernet header without VLAN tags, in bytes.
pub const ETHERNET_HEADER: usize = 14;
/// The largest frame that segmentation offload makes, Ethernet header included, in bytes (virtio 1.3, section 5.1.6.3.1, without
/// the 12 bytes of [`NetHdr`]): an IP packet of 65535 bytes behind 14 or 15 bytes.
pub const MAX_GSO_FRAME: usize = 65550;

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
