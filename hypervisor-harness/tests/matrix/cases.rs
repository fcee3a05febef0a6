//! Which sets of features are tried.

use std::fmt;

use ringlet_driver::features::Features;

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
    kinds.push((Kind::Refused, both - Features::CSUM));
    let mut cases = Vec::new();
    for (_, transport) in TRANSPORTS {
        for &(kind, set) in &kinds {
            for by_guest in [false, true] {
                let set = set | Features::VERSION_1;
                // A combination is the same whoever leaves things out; that is tried feature by feature.
                let once = matches!(kind, Kind::All | Kind::Combination { .. });
                if once && by_guest || kind == Kind::Refused && !by_guest {
                    continue;
                }
                let (mask, without) = match by_guest {
                    false => (set, Features::empty()),
                    true => (Features::all(), both - set),
                };
                let offered = (offer & mask).without_unmet();
                let expected = (offered & (Features::IMPLEMENTED - without)).without_unmet();
                let setup = Setup { transport, mask, without };
                cases.push(Case { kind, by_guest, setup, offered, expected });
            }
        }
    }
    cases
}
