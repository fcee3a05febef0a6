//! The device's configuration space (virtio 1.3, section 5.1.4). Offsets are in bytes from its start.

/// The MAC address, 6 bytes; with MAC.
pub const MAC: usize = 0;
/// Status, 16 bits: [`LINK_UP`] and [`ANNOUNCE`]; with STATUS.
pub const STATUS: usize = 6;
/// The greatest number of queue pairs, 16 bits; with MQ or RSS.
pub const MAX_VIRTQUEUE_PAIRS: usize = 8;
/// Maximum transmission unit (bytes of IP packet), 16 bits; with MTU.
pub const MTU: usize = 10;
/// Speed in Mbit/s, 32 bits, all ones if unknown; with SPEED_DUPLEX.
pub const SPEED: usize = 12;
/// 0 half, 1 full, 0xff unknown; with SPEED_DUPLEX.
pub const DUPLEX: usize = 16;
/// Greatest length of a hash key in bytes, 8 bits; with RSS or HASH_REPORT.
pub const RSS_MAX_KEY_SIZE: usize = 17;
/// Greatest number of entries of the indirection table, 16 bits; with RSS.
pub const RSS_MAX_INDIRECTION_TABLE_LENGTH: usize = 18;
/// Hash types that can be computed, 32 bits; with RSS or HASH_REPORT.
pub const SUPPORTED_HASH_TYPES: usize = 20;

/// Status bit: the link is up.
pub const LINK_UP: u16 = 1;
/// Status bit: the driver is to announce itself to the network.
pub const ANNOUNCE: u16 = 2;

/// The least maximum transmission unit that a device may tell (section 5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// `virtio_net_config`, as a device model fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetConfig {
    /// The MAC address.
    pub mac: [u8; 6],
    /// [`LINK_UP`] and [`ANNOUNCE`].
    pub status: u16,
    /// The greatest number of queue pairs.
    pub max_virtqueue_pairs: u16,
    /// Maximum transmission unit, in bytes of IP packet.
    pub mtu: u16,
    /// Speed in Mbit/s.
    pub speed: u32,
    /// 0 half, 1 full, 0xff unknown.
    pub duplex: u8,
    /// Greatest length of a hash key, in bytes.
    pub rss_max_key_size: u8,
    /// Greatest number of entries of the indirection table.
    pub rss_max_indirection_table_length: u16,
    /// Hash types that can be computed.
    pub supported_hash_types: u32,
}

impl NetConfig {
    /// Length in bytes.
    pub const LEN: usize = 24;

    /// Makes the bytes of the configuration space.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[MAC..STATUS].copy_from_slice(&self.mac);
        bytes[STATUS..MAX_VIRTQUEUE_PAIRS].copy_from_slice(&self.status.to_le_bytes());
        bytes[MAX_VIRTQUEUE_PAIRS..MTU].copy_from_slice(&self.max_virtqueue_pairs.to_le_bytes());
        bytes[MTU..SPEED].copy_from_slice(&self.mtu.to_le_bytes());
        bytes[SPEED..DUPLEX].copy_from_slice(&self.speed.to_le_bytes());
        bytes[DUPLEX] = self.duplex;
        bytes[RSS_MAX_KEY_SIZE] = self.rss_max_key_size;
        bytes[RSS_MAX_INDIRECTION_TABLE_LENGTH..SUPPORTED_HASH_TYPES]
            .copy_from_slice(&self.rss_max_indirection_table_length.to_le_bytes());
        bytes[SUPPORTED_HASH_TYPES..].copy_from_slice(&self.supported_hash_types.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_section_5_1_4_says() {
        let config = NetConfig {
            mac: [1, 2, 3, 4, 5, 6],
            status: 0x0807,
            max_virtqueue_pairs: 0x0a09,
            mtu: 0x0c0b,
            speed: 0x100f_0e0d,
            duplex: 0x11,
            rss_max_key_size: 0x12,
            rss_max_indirection_table_length: 0x1413,
            supported_hash_types: 0x1817_1615,
        };
        let expected: [u8; 24] = core::array::from_fn(|i| i as u8 + 1);
        assert_eq!(config.to_bytes(), expected);
    }
}
