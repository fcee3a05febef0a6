//! Virtio over PCI (virtio 1.3, section 4.1): identities, capabilities, the common configuration structure, MSI-X.
//! Offsets are in bytes.

/// The PCI vendor of virtio devices.
pub const VENDOR: u16 = 0x1af4;
/// PCI device id of a transitional network device.
pub const DEVICE_TRANSITIONAL_NETWORK: u16 = 0x1000;
/// PCI device id of a modern network device: 0x1040 and the device type.
pub const DEVICE_MODERN_NETWORK: u16 = 0x1041;

/// Capability id "vendor-specific", which virtio's capabilities bear.
pub const CAPABILITY_VENDOR: u8 = 0x09;
/// Capability id of MSI-X.
pub const CAPABILITY_MSIX: u8 = 0x11;

/// `cfg_type`: common configuration.
pub const CFG_COMMON: u8 = 1;
/// `cfg_type`: doorbells.
pub const CFG_NOTIFY: u8 = 2;
/// `cfg_type`: interrupt status.
pub const CFG_ISR: u8 = 3;
/// `cfg_type`: device configuration, [`super::config`].
pub const CFG_DEVICE: u8 = 4;
/// `cfg_type`: access through PCI configuration space.
pub const CFG_PCI: u8 = 5;

/// Offsets within `virtio_pci_cap` (section 4.1.4).
pub mod capability {
    /// Length of the capability, 8 bits.
    pub const LENGTH: u8 = 2;
    /// `cfg_type`, 8 bits.
    pub const TYPE: u8 = 3;
    /// Which BAR, 8 bits.
    pub const BAR: u8 = 4;
    /// Offset in the BAR, 32 bits.
    pub const OFFSET: u8 = 8;
    /// Length of the structure, 32 bits.
    pub const REGION_LENGTH: u8 = 12;
    /// Multiplier of `queue_notify_off`, 32 bits; only in the doorbell capability.
    pub const NOTIFY_OFF_MULTIPLIER: u8 = 16;
}

/// Offsets within `virtio_pci_common_cfg` (section 4.1.4.3).
pub mod common {
    /// 32 bits.
    pub const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// 32 bits.
    pub const DEVICE_FEATURE: usize = 0x04;
    /// 32 bits.
    pub const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// 32 bits.
    pub const DRIVER_FEATURE: usize = 0x0c;
    /// 16 bits.
    pub const CONFIG_MSIX_VECTOR: usize = 0x10;
    /// 16 bits.
    pub const NUM_QUEUES: usize = 0x12;
    /// 8 bits.
    pub const DEVICE_STATUS: usize = 0x14;
    /// 8 bits.
    pub const CONFIG_GENERATION: usize = 0x15;
    /// 16 bits.
    pub const QUEUE_SELECT: usize = 0x16;
    /// 16 bits.
    pub const QUEUE_SIZE: usize = 0x18;
    /// 16 bits.
    pub const QUEUE_MSIX_VECTOR: usize = 0x1a;
    /// 16 bits.
    pub const QUEUE_ENABLE: usize = 0x1c;
    /// 16 bits.
    pub const QUEUE_NOTIFY_OFF: usize = 0x1e;
    /// 64 bits.
    pub const QUEUE_DESC: usize = 0x20;
    /// The high half of [`QUEUE_DESC`].
    pub const QUEUE_DESC_HIGH: usize = 0x24;
    /// 64 bits.
    pub const QUEUE_DRIVER: usize = 0x28;
    /// The high half of [`QUEUE_DRIVER`].
    pub const QUEUE_DRIVER_HIGH: usize = 0x2c;
    /// 64 bits.
    pub const QUEUE_DEVICE: usize = 0x30;
    /// The high half of [`QUEUE_DEVICE`].
    pub const QUEUE_DEVICE_HIGH: usize = 0x34;
    /// 16 bits.
    pub const QUEUE_NOTIF_CONFIG_DATA: usize = 0x38;
    /// 16 bits.
    pub const QUEUE_RESET: usize = 0x3a;
    /// Length up to and with `queue_device`: what every modern device has.
    pub const MIN_LEN: usize = 0x38;
    /// Length with the fields of NOTIF_CONFIG_DATA and RING_RESET.
    pub const LEN: usize = 0x3c;
}

/// "No vector", in the MSI-X vector fields.
pub const MSIX_NO_VECTOR: u16 = 0xffff;

/// Offsets within the MSI-X capability (PCI 3.0, section 6.8.2) and its table.
pub mod msix {
    /// Message control, 16 bits: [`TABLE_SIZE_MASK`], [`FUNCTION_MASK`], [`ENABLE`].
    pub const CONTROL: u8 = 2;
    /// Table offset in the BAR; the BAR's number is in the low 3 bits.
    pub const TABLE: u8 = 4;
    /// The number of table entries less one.
    pub const TABLE_SIZE_MASK: u16 = 0x7ff;
    /// Masks all vectors.
    pub const FUNCTION_MASK: u16 = 1 << 14;
    /// Enables MSI-X, which disables INTx.
    pub const ENABLE: u16 = 1 << 15;

    /// Length of a table entry.
    pub const ENTRY: usize = 16;
    /// In an entry: message address, low half.
    pub const ADDRESS_LOW: usize = 0;
    /// In an entry: message address, high half.
    pub const ADDRESS_HIGH: usize = 4;
    /// In an entry: message data.
    pub const DATA: usize = 8;
    /// In an entry: bit 0 masks the vector.
    pub const VECTOR_CONTROL: usize = 12;
}
