//! Which feature needs which other one (virtio 1.3, section 5.1.3.1).

use super::Features;

/// A feature whose requirement is not in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("feature {feature} needs {}{needs}", if needs.is_single() { "" } else { "one of " })]
pub struct Unmet {
    /// The feature.
    pub feature: Features,
    /// What it needs: one of these bits.
    pub needs: Features,
}

/// Each feature, and the bits of which it needs at least one. Features with two requirements have two rows.
#[rustfmt::skip]
const REQUIREMENTS: &[(Features, Features)] = &[
    (Features::GUEST_TSO4, Features::GUEST_CSUM),
    (Features::GUEST_TSO6, Features::GUEST_CSUM),
    (Features::GUEST_UFO, Features::GUEST_CSUM),
    (Features::GUEST_USO4, Features::GUEST_CSUM),
    (Features::GUEST_USO6, Features::GUEST_CSUM),
    (Features::GUEST_ECN, Features::GUEST_TSO4.union(Features::GUEST_TSO6)),
    (Features::HOST_TSO4, Features::CSUM),
    (Features::HOST_TSO6, Features::CSUM),
    (Features::HOST_UFO, Features::CSUM),
    (Features::HOST_USO, Features::CSUM),
    (Features::HOST_ECN, Features::HOST_TSO4.union(Features::HOST_TSO6)),
    // Section 5.1.6.4 says that it implies GUEST_TSO4 or GUEST_TSO6 instead. Without these it is harmless: nothing is coalesced.
    (Features::RSC_EXT, Features::HOST_TSO4.union(Features::HOST_TSO6)),
    (Features::CTRL_GUEST_OFFLOADS, Features::CTRL_VQ),
    (Features::CTRL_RX, Features::CTRL_VQ),
    (Features::CTRL_RX_EXTRA, Features::CTRL_VQ),
    (Features::CTRL_VLAN, Features::CTRL_VQ),
    (Features::CTRL_MAC_ADDR, Features::CTRL_VQ),
    (Features::GUEST_ANNOUNCE, Features::CTRL_VQ),
    (Features::MQ, Features::CTRL_VQ),
    (Features::RSS, Features::CTRL_VQ),
    (Features::HASH_REPORT, Features::CTRL_VQ),
    (Features::NOTF_COAL, Features::CTRL_VQ),
    (Features::VQ_NOTF_COAL, Features::CTRL_VQ),
    (Features::DEVICE_STATS, Features::CTRL_VQ),
    (Features::HASH_TUNNEL, Features::CTRL_VQ),
    (Features::HASH_TUNNEL, Features::RSS.union(Features::HASH_REPORT)),
];

impl Features {
    /// Checks that every feature in the set has what it needs.
    ///
    /// # Errors
    /// The first feature that has not.
    pub fn check(self) -> Result<Self, Unmet> {
        match self.unmet().next() {
            Some(unmet) => Err(unmet),
            None => Ok(self),
        }
    }

    /// The features in the set that lack what they need, with what that is.
    pub fn unmet(self) -> impl Iterator<Item = Unmet> {
        REQUIREMENTS
            .iter()
            .filter(move |(feature, needs)| self.contains(*feature) && !self.intersects(*needs))
            .map(|&(feature, needs)| Unmet { feature, needs })
    }

    /// The set without the features that lack what they need, and without those that needed these in turn.
    #[must_use]
    pub fn without_unmet(mut self) -> Self {
        while let Some(unmet) = self.unmet().next() {
            self.remove(unmet.feature);
        }
        self
    }

    /// Whether exactly one bit is set.
    #[must_use]
    pub const fn is_single(self) -> bool {
        self.bits().is_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn names_what_is_missing() {
        let unmet = (Features::HOST_TSO4 | Features::VERSION_1).check().unwrap_err();
        assert_eq!(unmet.to_string(), "feature host_tso4 needs csum");
        let unmet = (Features::HOST_ECN | Features::CSUM).check().unwrap_err();
        assert_eq!(unmet.to_string(), "feature host_ecn needs one of host_tso4,host_tso6");
        assert!((Features::HOST_ECN | Features::HOST_TSO6 | Features::CSUM).check().is_ok());
        assert!((Features::HASH_TUNNEL | Features::CTRL_VQ).check().is_err(), "it has two requirements");
        assert!((Features::HASH_TUNNEL | Features::CTRL_VQ | Features::RSS).check().is_ok());
    }

    #[test]
    fn dependents_of_dependents_go_too() {
        let set = Features::HOST_ECN | Features::HOST_TSO4 | Features::MAC;
        assert_eq!(set.without_unmet(), Features::MAC);
    }

    /// Section 5.1.3.1, line by line.
    #[test]
    fn the_offloads_need_what_the_specification_says() {
        let cases = [
            ("guest_tso4", "guest_csum"),
            ("guest_tso6", "guest_csum"),
            ("guest_ecn", "guest_tso4,guest_tso6"),
            ("guest_ufo", "guest_csum"),
            ("guest_uso4", "guest_csum"),
            ("guest_uso6", "guest_csum"),
            ("host_tso4", "csum"),
            ("host_tso6", "csum"),
            ("host_ecn", "host_tso4,host_tso6"),
            ("host_ufo", "csum"),
            ("host_uso", "csum"),
            ("rsc_ext", "host_tso4,host_tso6"),
        ];
        for (feature, needs) in cases {
            let feature = Features::by_name(feature).unwrap();
            let needs = needs.split(',').map(|name| Features::by_name(name).unwrap());
            for need in needs.clone() {
                assert!((feature | need).unmet().all(|unmet| unmet.feature != feature), "{feature} with {need}");
            }
            let needs = needs.fold(Features::empty(), |all, one| all | one);
            assert_eq!(feature.check(), Err(Unmet { feature, needs }));
        }
        assert!((Features::GUEST_HDRLEN | Features::CSUM | Features::GUEST_CSUM).check().is_ok(), "these need nothing");
    }

    proptest! {
        #[test]
        fn pruning_gives_the_largest_sound_subset(bits: u64) {
            let set = Features::from_bits_retain(bits);
            let pruned = set.without_unmet();
            prop_assert!(set.contains(pruned));
            prop_assert!(pruned.check().is_ok());
            // No requirement speaks against a bit being there, so adding back any one removed bit must break the set.
            for removed in (set - pruned).iter() {
                prop_assert!((pruned | removed).check().is_err());
            }
        }
    }
}
