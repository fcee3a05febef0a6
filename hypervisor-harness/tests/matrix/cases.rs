//! Which sets of features are tried.

use std::fmt;

use ringlet_driver::features::Features;

use ringlet::virtio::net::{DEFAULT_QUEUE_SIZE, MAX_QUEUE_SIZE};

use super::{Setup, TRANSPORTS};

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All that there is.
    All,
    /// Nothing but VERSION_1.
    Bare,
    /// One feature, and what it takes to see it at work.
    Alone(Features),
    /// All but one.
    Without(Features),
    /// Everything, of a group exactly these.
    Combination {
        /// The group.
        group: usize,
        /// What of it is on.
        on: Features,
    },
    /// Everything, on queues that may have so many descriptors.
    Sized(u16),
    /// The guest is to do without CSUM, and so without everything that needs it.
    Refused,
}

/// One way for driver and device to meet.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub kind: Kind,
    /// Whether the device leaves out what is missing, or the guest refuses it.
    pub by_guest: bool,
    pub setup: Setup,
    /// What the device must offer.
    pub offered: Features,
    /// What must be agreed on.
    pub expected: Features,
    /// How many descriptors the queues must have.
    pub size: u16,
}

impl Case {
    /// The name of its transport.
    pub fn transport(&self) -> &'static str {
        TRANSPORTS.iter().find(|(_, transport)| *transport == self.setup.transport).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.by_guest { "refused by the guest" } else { "not offered by the device" };
        match self.kind {
            Kind::All => write!(f, "everything")?,
            Kind::Bare => write!(f, "nothing ({by})")?,
            Kind::Alone(feature) => write!(f, "{feature} alone (the rest {by})")?,
            Kind::Without(feature) => write!(f, "without {feature} ({by})")?,
            Kind::Combination { on, .. } => write!(f, "combination {on} (the rest {by})")?,
            Kind::Sized(size) => write!(f, "queues of {size}, with {}", self.offered & RING)?,
            Kind::Refused => write!(f, "without csum, with what needs it")?,
        }
        write!(f, " over {}", self.transport())
    }
}

/// Features that have to do with each other, of which every combination is tried.
pub const GROUPS: [&[Features]; 3] = [
    &[Features::RING_PACKED, Features::IN_ORDER, Features::INDIRECT_DESC, Features::EVENT_IDX],
    &[Features::MRG_RXBUF, Features::GUEST_TSO4.union(Features::GUEST_TSO6), Features::RSC_EXT],
    &[Features::RING_PACKED, Features::NOTIFICATION_DATA, Features::EVENT_IDX],
];

/// What makes a difference to how the descriptors of a queue are used: every combination is tried with every size.
pub const RING: Features = Features::RING_PACKED.union(Features::MRG_RXBUF).union(Features::INDIRECT_DESC);

/// Sizes of queues that are tried: the smallest, those that are no powers of two, and more than a driver wants.
pub const SIZES: [u16; 8] = [1, 2, 3, 4, 16, 100, 1000, MAX_QUEUE_SIZE];

/// What a feature is tried with when it is tried alone: what it needs by the specification, and what brings frames on which
/// it shows.
pub fn companions(feature: Features) -> Features {
    let shown = match feature {
        Features::HOST_TSO4 | Features::RSC_EXT => Features::HOST_TSO4 | Features::GUEST_TSO4,
        Features::GUEST_HDRLEN => Features::HOST_TSO4 | Features::GUEST_TSO4,
        Features::MRG_RXBUF => Features::GUEST_TSO4,
        Features::CSUM => Features::GUEST_CSUM,
        Features::HOST_TSO6 => Features::GUEST_TSO6,
        Features::HOST_ECN => Features::HOST_TSO4 | Features::GUEST_TSO4 | Features::GUEST_ECN,
        Features::HOST_UFO => Features::GUEST_UFO,
        Features::HOST_USO => Features::GUEST_USO4,
        _ => Features::empty(),
    };
    closure(feature | shown) - feature - Features::VERSION_1
}

/// Buffers of the driver's that a frame of 64 KiB lies in.
const LARGEST_CHAIN: u16 = 32;

/// The least a receive queue of `size` must have for frames of 64 KiB. Without MRG_RXBUF each needs a chain, and none may be longer
/// than the queue; with it so many buffers must be there although a few may be missing before the driver gives new ones.
fn least_size(size: u16, features: Features) -> u16 {
    if features.contains(Features::MRG_RXBUF) { LARGEST_CHAIN + (size / 8).clamp(1, 32) - 1 } else { LARGEST_CHAIN }
}

/// How many descriptors a queue has that may have `most`, by what was agreed on. The guest wants no more than the device has by
/// default.
fn taken_of(most: u16, features: Features) -> u16 {
    let most = most.min(DEFAULT_QUEUE_SIZE);
    if features.contains(Features::RING_PACKED) { most } else { 1 << most.ilog2() }
}

/// Every set of features of `set`.
fn powerset(set: Features) -> impl Iterator<Item = Features> {
    let parts: Vec<Features> = set.iter().collect();
    (0..1_u32 << parts.len()).map(move |chosen| {
        let on = parts.iter().zip(0..).filter(|(_, nth)| chosen >> nth & 1 != 0);
        on.fold(Features::empty(), |all, (&part, _)| all | part)
    })
}

/// The set with all that its features need.
fn closure(mut set: Features) -> Features {
    set |= Features::VERSION_1;
    while let Some(unmet) = set.unmet().next() {
        // Of several that would do, the first.
        set |= unmet.needs.iter().next().expect("it needs something");
    }
    set
}

/// All cases. `offer` is what the device offers if it may offer anything.
pub fn cases(offer: Features) -> Vec<Case> {
    let both = offer & Features::IMPLEMENTED;
    let mut kinds = vec![(Kind::All, both), (Kind::Bare, Features::empty())];
    for feature in (both - Features::VERSION_1).iter() {
        kinds.push((Kind::Alone(feature), feature | companions(feature)));
        kinds.push((Kind::Without(feature), both - feature));
    }
    for (group, parts) in GROUPS.into_iter().enumerate() {
        let parts: Vec<Features> = parts.iter().map(|&part| part & both).filter(|part| !part.is_empty()).collect();
        let whole = parts.iter().fold(Features::empty(), |all, &part| all | part);
        for chosen in 0..1_u32 << parts.len() {
            let on = parts.iter().zip(0..).filter(|(_, nth)| chosen >> nth & 1 != 0);
            let on = on.fold(Features::empty(), |all, (&part, _)| all | part);
            kinds.push((Kind::Combination { group, on }, (both - whole) | on));
        }
    }
    for size in SIZES {
        for chosen in powerset(RING & both) {
            // A split ring has a power of two, and takes the one below: that is shown with one size.
            if chosen.contains(Features::RING_PACKED) || size.is_power_of_two() || size == 100 {
                kinds.push((Kind::Sized(size), (both - RING) | chosen));
            }
        }
    }
    kinds.push((Kind::Refused, both - Features::CSUM));
    let mut cases = Vec::new();
    for (_, transport) in TRANSPORTS {
        for &(kind, set) in &kinds {
            for by_guest in [false, true] {
                let set = set | Features::VERSION_1;
                // A combination is the same whoever leaves things out; that is tried feature by feature.
                let once = matches!(kind, Kind::All | Kind::Combination { .. } | Kind::Sized(_));
                if once && by_guest || kind == Kind::Refused && !by_guest {
                    continue;
                }
                let (mask, without) = match by_guest {
                    false => (set, Features::empty()),
                    true => (Features::all(), both - set),
                };
                let offered = (offer & mask).without_unmet();
                let mut expected = (offered & (Features::IMPLEMENTED - without)).without_unmet();
                let queue_size = if let Kind::Sized(size) = kind { size } else { DEFAULT_QUEUE_SIZE };
                let size = taken_of(queue_size, expected);
                if size < least_size(size, expected) {
                    expected = (expected - Features::GUEST_LARGE).without_unmet();
                }
                let setup = Setup { transport, mask, without, queue_size };
                cases.push(Case { kind, by_guest, setup, offered, expected, size });
            }
        }
    }
    cases
}
