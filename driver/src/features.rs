//! The feature bits of a virtio-net device.

use bitflags::bitflags;

bitflags! {
    /// Feature bits of a virtio-net device: its own (virtio 1.3, section 5.1.3) and those of every device (section 6).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Features: u64 {
        /// The device finishes partial checksums of what the driver sends.
        const CSUM = 1 << 0;
        /// The driver takes frames with partial checksums.
        const GUEST_CSUM = 1 << 1;
    }
}
