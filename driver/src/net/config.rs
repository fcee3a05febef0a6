//! The configuration space, read whole (virtio 1.3, sections 2.5 and 5.1.4).

use virtio_drivers::transport::Transport;

use super::SetupError;
use crate::features::Features;
use crate::wire::config::{self, LINK_UP, MIN_MTU};

/// How often reading is tried again when the configuration changes meanwhile. A device that changes it faster than it can be
/// read is broken.
const ATTEMPTS: usize = 64;

/// What the device tells of itself. What it does not tell, because the feature is not there, is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// The MAC address.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet that it takes, in bytes.
    pub mtu: Option<u16>,
    /// Whether there is a carrier.
    pub link_up: Option<bool>,
}

impl Config {
    /// Reads the fields that `features` say are there, all of the same generation.
    pub(super) fn read<T: Transport>(transport: &T, features: Features) -> Result<Self, SetupError> {
        for _ in 0..ATTEMPTS {
            let generation = transport.read_config_generation();
            let config = Self::read_once(transport, features)?;
            if transport.read_config_generation() == generation {
                return Ok(config);
            }
        }
        Err(SetupError::ConfigUnstable)
    }

    fn read_once<T: Transport>(transport: &T, features: Features) -> Result<Self, SetupError> {
        let byte = |offset| transport.read_config_space::<u8>(offset).map_err(SetupError::Config);
        // A field of 16 bits is read as such (section 4.2.2.2).
        let word = |offset| transport.read_config_space::<u16>(offset).map(u16::from_le).map_err(SetupError::Config);
        let mut read = Self::default();
        if features.contains(Features::MAC) {
            let mut mac = [0; 6];
            for (offset, part) in (config::MAC..).zip(&mut mac) {
                *part = byte(offset)?;
            }
            read.mac = Some(mac);
        }
        if features.contains(Features::STATUS) {
            read.link_up = Some(word(config::STATUS)? & LINK_UP != 0);
        }
        if features.contains(Features::MTU) {
            read.mtu = Some(word(config::MTU)?);
        }
        Ok(read)
    }

    /// The offered features that go with this configuration: an MTU that no device may tell is as good as none (section
    /// 5.1.4.1), and so is a MAC address that no station may have.
    pub(super) fn plausible(&self, offered: Features) -> Features {
        let mut plausible = offered;
        if self.mtu.is_some_and(|mtu| mtu < MIN_MTU) {
            plausible -= Features::MTU;
        }
        if self.mac.is_some_and(|mac| mac == [0; 6] || mac[0] & 1 != 0) {
            plausible -= Features::MAC;
        }
        plausible
    }

    /// Without what was not agreed.
    pub(super) fn only(self, features: Features) -> Self {
        Self {
            mac: self.mac.filter(|_| features.contains(Features::MAC)),
            mtu: self.mtu.filter(|_| features.contains(Features::MTU)),
            link_up: self.link_up.filter(|_| features.contains(Features::STATUS)),
        }
    }
}
