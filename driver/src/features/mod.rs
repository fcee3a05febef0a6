//! The feature bits of a virtio-net device (virtio 1.3, sections 5.1.3 and 6), their names and their negotiation.

mod names;
mod negotiate;
mod requirements;

pub use names::{SwitchError, UnknownFeature};
pub use negotiate::NegotiationError;
pub use requirements::Unmet;

use bitflags::bitflags;

bitflags! {
    /// Feature bits of a virtio-net device: its own (virtio 1.3, section 5.1.3) and those of every device (section 6).
    ///
    /// `GUEST_` bits are about what the driver can receive, `HOST_` bits about what the device can be sent. Bits that this
    /// driver knows no name for are kept, not truncated, so that an offered set can be shown as it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Features: u64 {
        /// The device finishes partial checksums of what the driver sends.
        const CSUM = 1 << 0;
        /// The driver takes frames with partial checksums.
        const GUEST_CSUM = 1 << 1;
        /// The offloads of the receive side can be changed while the device runs.
        const CTRL_GUEST_OFFLOADS = 1 << 2;
        /// The device tells the maximum transmission unit.
        const MTU = 1 << 3;
        /// The device tells its MAC address.
        const MAC = 1 << 5;
        /// Legacy only: the device takes any segmentation type. Never negotiated by a modern driver.
        const GSO = 1 << 6;
        /// The driver takes TCP segments over IPv4 larger than the MTU.
        const GUEST_TSO4 = 1 << 7;
        /// The driver takes TCP segments over IPv6 larger than the MTU.
        const GUEST_TSO6 = 1 << 8;
        /// The driver takes large TCP segments with ECN.
        const GUEST_ECN = 1 << 9;
        /// The driver takes unfragmented large UDP datagrams.
        const GUEST_UFO = 1 << 10;
        /// The device segments TCP over IPv4.
        const HOST_TSO4 = 1 << 11;
        /// The device segments TCP over IPv6.
        const HOST_TSO6 = 1 << 12;
        /// The device segments TCP with ECN.
        const HOST_ECN = 1 << 13;
        /// The device fragments UDP.
        const HOST_UFO = 1 << 14;
        /// A received frame may lie in several buffers.
        const MRG_RXBUF = 1 << 15;
        /// The configuration space has a status field.
        const STATUS = 1 << 16;
        /// There is a control queue.
        const CTRL_VQ = 1 << 17;
        /// Receive modes can be set through the control queue.
        const CTRL_RX = 1 << 18;
        /// VLAN filters can be set through the control queue.
        const CTRL_VLAN = 1 << 19;
        /// More receive modes can be set through the control queue.
        const CTRL_RX_EXTRA = 1 << 20;
        /// The driver announces itself to the network when the device asks for it.
        const GUEST_ANNOUNCE = 1 << 21;
        /// Several queue pairs, with automatic receive steering.
        const MQ = 1 << 22;
        /// The MAC address can be set through the control queue.
        const CTRL_MAC_ADDR = 1 << 23;
        /// Legacy only: the device interrupts when the ring runs empty, even if suppressed.
        const NOTIFY_ON_EMPTY = 1 << 24;
        /// Legacy only: headers may lie anywhere. Implied by [`Features::VERSION_1`].
        const ANY_LAYOUT = 1 << 27;
        /// A descriptor may refer to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// Notifications are suppressed by ring index instead of by flag.
        const EVENT_IDX = 1 << 29;
        /// The device follows virtio 1.0 or later. Without it the device is a legacy one.
        const VERSION_1 = 1 << 32;
        /// What the device may reach of memory, and by which addresses, is the platform's affair (section 6.4). The driver tells it no
        /// addresses but those that the operating system's `Hal` gives, for queues and for buffers alike, so the bit asks nothing
        /// more of it; the `Hal` must give what the platform's devices understand. Without the bit these must be physical addresses.
        const ACCESS_PLATFORM = 1 << 33;
        /// Packed virtqueues.
        const RING_PACKED = 1 << 34;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << 35;
        /// The driver orders its accesses as the platform demands for real devices, not only for other processors (section 6.4).
        /// On x86-64 memory that is not write-combined is ordered for both alike, stores to a doorbell included, so nothing
        /// changes; on other architectures this driver does not implement it.
        const ORDER_PLATFORM = 1 << 36;
        /// Single root I/O virtualization.
        const SR_IOV = 1 << 37;
        /// A doorbell carries the ring position.
        const NOTIFICATION_DATA = 1 << 38;
        /// A doorbell carries a value chosen by the device.
        const NOTIF_CONFIG_DATA = 1 << 39;
        /// A single queue can be reset.
        const RING_RESET = 1 << 40;
        /// The device has administration virtqueues.
        const ADMIN_VQ = 1 << 41;
        /// The device counts, and tells its counters through the control queue.
        const DEVICE_STATS = 1 << 50;
        /// The device hashes the inner header of tunnelled packets.
        const HASH_TUNNEL = 1 << 51;
        /// Notification coalescing can be set for each queue.
        const VQ_NOTF_COAL = 1 << 52;
        /// Notification coalescing can be set.
        const NOTF_COAL = 1 << 53;
        /// The driver takes UDP over IPv4 that is to be segmented.
        const GUEST_USO4 = 1 << 54;
        /// The driver takes UDP over IPv6 that is to be segmented.
        const GUEST_USO6 = 1 << 55;
        /// The device segments UDP.
        const HOST_USO = 1 << 56;
        /// The device tells a hash of each received frame.
        const HASH_REPORT = 1 << 57;
        /// The driver tells the exact header length of what is to be segmented.
        const GUEST_HDRLEN = 1 << 59;
        /// Receive-side scaling.
        const RSS = 1 << 60;
        /// The device counts duplicated ACKs and coalesced segments.
        const RSC_EXT = 1 << 61;
        /// The device stands by for another one with the same MAC address.
        const STANDBY = 1 << 62;
        /// The device tells its speed and duplex mode.
        const SPEED_DUPLEX = 1 << 63;

        /// What has no name here is kept.
        const _ = !0;
    }
}

impl Features {
    /// ORDER_PLATFORM where nothing but the order among processors is needed.
    #[cfg(target_arch = "x86_64")]
    const PLATFORM_ORDERED: Self = Self::ORDER_PLATFORM;
    #[cfg(not(target_arch = "x86_64"))]
    const PLATFORM_ORDERED: Self = Self::empty();

    /// What this driver implements: everything else is never accepted.
    pub const IMPLEMENTED: Self = Self::VERSION_1
        .union(Self::EVENT_IDX)
        .union(Self::INDIRECT_DESC)
        .union(Self::RING_PACKED)
        .union(Self::IN_ORDER)
        .union(Self::NOTIFICATION_DATA)
        .union(Self::NOTIF_CONFIG_DATA)
        .union(Self::RING_RESET)
        .union(Self::ACCESS_PLATFORM)
        .union(Self::PLATFORM_ORDERED)
        .union(Self::MAC)
        .union(Self::STATUS)
        .union(Self::MTU)
        .union(Self::MRG_RXBUF)
        .union(Self::CSUM)
        .union(Self::GUEST_CSUM)
        .union(Self::HOST_TSO4)
        .union(Self::HOST_TSO6)
        .union(Self::HOST_ECN)
        .union(Self::HOST_UFO)
        .union(Self::HOST_USO)
        .union(Self::GUEST_TSO4)
        .union(Self::GUEST_TSO6)
        .union(Self::GUEST_ECN)
        .union(Self::GUEST_UFO)
        .union(Self::GUEST_USO4)
        .union(Self::GUEST_USO6)
        .union(Self::GUEST_HDRLEN)
        .union(Self::RSC_EXT);

    /// With one of these, frames may be received that are larger than the MTU.
    pub const GUEST_LARGE: Self =
        Self::GUEST_TSO4.union(Self::GUEST_TSO6).union(Self::GUEST_UFO).union(Self::GUEST_USO4).union(Self::GUEST_USO6);
}
