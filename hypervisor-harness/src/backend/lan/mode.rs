//! What the guest has agreed to take.

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

/// What the guest has agreed to take; by default, nothing that is not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mode {
    /// Checksums may be left to it.
    pub partial: bool,
    /// Large TCP segments over IPv4 may be sent.
    pub tso4: bool,
    /// Large TCP segments over IPv6 may be sent.
    pub tso6: bool,
    /// Datagrams over IPv4 may be sent in one frame with others of their flow.
    pub uso4: bool,
    /// Datagrams over IPv6 may.
    pub uso6: bool,
    /// Datagrams may be sent that are larger than the MTU.
    pub ufo: bool,
}

impl From<Features> for Mode {
    fn from(features: Features) -> Self {
        // Without GUEST_CSUM the others mean nothing (virtio 1.3, section 5.1.3.1).
        let partial = features.contains(Features::GUEST_CSUM);
        let has = |feature| partial && features.contains(feature);
        Self {
            partial,
            tso4: has(Features::GUEST_TSO4),
            tso6: has(Features::GUEST_TSO6),
            uso4: has(Features::GUEST_USO4),
            uso6: has(Features::GUEST_USO6),
            ufo: has(Features::GUEST_UFO),
        }
    }
}

impl Mode {
    /// Whether a frame with this header may be sent; `v6` tells that it is IPv6.
    pub fn takes(self, header: &NetHdr, v6: bool) -> bool {
        let large = match header.gso_type {
            NetHdr::GSO_NONE => true,
            NetHdr::GSO_TCPV4 => self.tso4,
            NetHdr::GSO_TCPV6 => self.tso6,
            NetHdr::GSO_UDP_L4 => self.takes_datagrams(v6),
            NetHdr::GSO_UDP => self.ufo,
            _ => false,
        };
        large && (self.partial || !header.needs_csum())
    }

    /// Whether datagrams over this version of IP may be sent together.
    pub fn takes_datagrams(self, v6: bool) -> bool {
        if v6 { self.uso6 } else { self.uso4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_needs_its_feature() {
        let partial = NetHdr::partial_checksum(34, 16);
        for (gso_type, v6, feature) in [
            (NetHdr::GSO_NONE, false, Features::empty()),
            (NetHdr::GSO_TCPV4, false, Features::GUEST_TSO4),
            (NetHdr::GSO_TCPV6, true, Features::GUEST_TSO6),
            (NetHdr::GSO_UDP_L4, false, Features::GUEST_USO4),
            (NetHdr::GSO_UDP_L4, true, Features::GUEST_USO6),
            (NetHdr::GSO_UDP, false, Features::GUEST_UFO),
            (NetHdr::GSO_UDP, true, Features::GUEST_UFO),
        ] {
            let header = NetHdr { gso_type, ..partial };
            let takes = |features| Mode::from(features).takes(&header, v6);
            assert!(takes(feature | Features::GUEST_CSUM) && !takes(feature), "{gso_type:#x}");
            assert!(feature.is_empty() || !takes(Features::all() - feature), "{gso_type:#x}");
        }
        let ecn = NetHdr { gso_type: NetHdr::GSO_TCPV4 | NetHdr::GSO_ECN, ..partial };
        assert!(!Mode::from(Features::all()).takes(&ecn, false), "nobody here speaks ECN");
        assert!(Mode::default().takes(&NetHdr::default(), false));
    }
}
