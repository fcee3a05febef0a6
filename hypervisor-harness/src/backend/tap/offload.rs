//! What a TAP interface can be asked for with TUNSETOFFLOAD, and what that makes of the features.

use std::io;

use libc::c_uint;
use ringlet_driver::features::Features;

/// A request to the kernel, and the features of which it is a part.
struct Switch {
    flags: c_uint,
    /// What the driver must have negotiated, all of it.
    wanted: Features,
    /// What must have been switched on before, for the kernel to take it: one of these flags, unless there is none.
    needs: c_uint,
    /// What the guest may send to a kernel that knows the flags.
    accepts: Features,
}

/// The receive offloads (of the guest), in the order in which they depend on each other.
///
/// - The kernel switches USO for both versions of IP or for none. A driver that takes one of them gets neither: its datagrams
///   come one by one.
/// - TUN_F_UFO is taken by every kernel, and since Linux 4.14 no frame comes of it.
/// - A kernel that does not know the flags of USO (before Linux 6.2) does not know the segmentation type either, and refuses
///   such frames. All the other types it takes from the guest, whatever was switched.
const SWITCHES: [Switch; 6] = [
    Switch { flags: libc::TUN_F_CSUM, wanted: Features::GUEST_CSUM, needs: 0, accepts: Features::empty() },
    Switch {
        flags: libc::TUN_F_TSO4,
        wanted: Features::GUEST_TSO4,
        needs: libc::TUN_F_CSUM,
        accepts: Features::empty(),
    },
    Switch {
        flags: libc::TUN_F_TSO6,
        wanted: Features::GUEST_TSO6,
        needs: libc::TUN_F_CSUM,
        accepts: Features::empty(),
    },
    Switch {
        flags: libc::TUN_F_TSO_ECN,
        wanted: Features::GUEST_ECN,
        needs: libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
        accepts: Features::empty(),
    },
    Switch { flags: libc::TUN_F_UFO, wanted: Features::GUEST_UFO, needs: libc::TUN_F_CSUM, accepts: Features::empty() },
    Switch {
        flags: libc::TUN_F_USO4 | libc::TUN_F_USO6,
        wanted: Features::GUEST_USO4.union(Features::GUEST_USO6),
        needs: libc::TUN_F_CSUM,
        accepts: Features::HOST_USO,
    },
];

/// What the guest may send to any kernel that has TUN/TAP with virtio headers: it finishes and cuts what it does not pass on.
const ALWAYS: Features = Features::CSUM
    .union(Features::HOST_TSO4)
    .union(Features::HOST_TSO6)
    .union(Features::HOST_ECN)
    .union(Features::HOST_UFO);

/// Asks the kernel which offloads the interface can have, with `set` as TUNSETOFFLOAD. What is set afterwards is anything.
pub(super) fn probe(mut set: impl FnMut(c_uint) -> io::Result<()>) -> Features {
    let (mut offloads, mut on) = (ALWAYS, 0);
    for switch in &SWITCHES {
        // Each is tried on top of those before it.
        if switch.met(on) && set(on | switch.flags).is_ok() {
            on |= switch.flags;
            offloads |= switch.wanted | switch.accepts;
        }
    }
    offloads
}

/// What to ask of the kernel for a driver that negotiated `features`. Features that lack what they need mean nothing (virtio
/// 1.3, section 5.1.3.1), and the kernel would refuse them.
pub(super) fn flags(features: Features) -> c_uint {
    let on = |on, switch: &Switch| match features.contains(switch.wanted) && switch.met(on) {
        true => on | switch.flags,
        false => on,
    };
    SWITCHES.iter().fold(0, on)
}

impl Switch {
    fn met(&self, on: c_uint) -> bool {
        self.needs == 0 || self.needs & on != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that knows `known`, and its rules (Linux, drivers/net/tun.c, set_offload).
    fn kernel(known: c_uint, asked: c_uint) -> io::Result<()> {
        use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_UFO, TUN_F_USO4, TUN_F_USO6};
        let mut rest = asked;
        if rest & TUN_F_CSUM != 0 {
            rest &= !TUN_F_CSUM;
            if rest & (TUN_F_TSO4 | TUN_F_TSO6) != 0 {
                rest &= !(TUN_F_TSO_ECN | TUN_F_TSO4 | TUN_F_TSO6);
            }
            rest &= !TUN_F_UFO;
            if rest & TUN_F_USO4 != 0 && rest & TUN_F_USO6 != 0 {
                rest &= !(TUN_F_USO4 | TUN_F_USO6);
            }
        }
        if rest == 0 && asked & !known == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
    }

    #[test]
    fn what_the_kernel_does_not_know_is_not_offered() {
        let all = c_uint::MAX;
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let features = |known| probe(|flags| kernel(known, flags));
        let everything = crate::backend::OFFLOADS - Features::RSC_EXT;
        assert_eq!(features(all), everything);
        let without_uso = everything - Features::GUEST_USO4 - Features::GUEST_USO6 - Features::HOST_USO;
        assert_eq!(features(all - uso), without_uso);
        assert_eq!(features(all - libc::TUN_F_USO6), without_uso);
        assert_eq!(features(all - libc::TUN_F_UFO), everything - Features::GUEST_UFO);
        let tcp = Features::GUEST_TSO4 | Features::GUEST_TSO6 | Features::GUEST_ECN;
        assert_eq!(features(all - libc::TUN_F_TSO4 - libc::TUN_F_TSO6), everything - tcp);
        assert_eq!(features(0), ALWAYS);
    }

    #[test]
    fn the_kernel_takes_whatever_is_asked_of_it() {
        let guest = [
            Features::GUEST_CSUM,
            Features::GUEST_TSO4,
            Features::GUEST_TSO6,
            Features::GUEST_ECN,
            Features::GUEST_UFO,
            Features::GUEST_USO4,
            Features::GUEST_USO6,
        ];
        for chosen in 0_u32..1 << guest.len() {
            let features = (0..guest.len()).filter(|bit| chosen >> bit & 1 == 1).map(|bit| guest[bit]);
            let features = features.fold(Features::empty(), |all, one| all | one);
            let flags = flags(features);
            assert!(kernel(c_uint::MAX, flags).is_ok(), "{features:?}: {flags:#x}");
            let asked = |flag, wanted: Features| {
                assert_eq!(
                    flags & flag != 0,
                    features.contains(wanted | Features::GUEST_CSUM),
                    "{features:?}, {wanted}"
                );
            };
            asked(libc::TUN_F_CSUM, Features::GUEST_CSUM);
            asked(libc::TUN_F_TSO4, Features::GUEST_TSO4);
            asked(libc::TUN_F_TSO6, Features::GUEST_TSO6);
            asked(libc::TUN_F_UFO, Features::GUEST_UFO);
            let large = features.intersects(Features::GUEST_TSO4 | Features::GUEST_TSO6);
            let ecn = large && features.contains(Features::GUEST_ECN | Features::GUEST_CSUM);
            assert_eq!(flags & libc::TUN_F_TSO_ECN != 0, ecn, "{features:?}");
            asked(libc::TUN_F_USO4, Features::GUEST_USO4 | Features::GUEST_USO6);
            asked(libc::TUN_F_USO6, Features::GUEST_USO4 | Features::GUEST_USO6);
        }
    }
}
