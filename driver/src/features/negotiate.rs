//! From what is offered and what is wanted to what is agreed (virtio 1.3, section 2.2).

use super::{Features, Unmet};

/// Why driver and device cannot agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// The device does not offer VERSION_1: it is a legacy device, which this driver does not drive.
    #[error("the device is a legacy one: it does not offer version_1")]
    Legacy,
    /// VERSION_1 was switched off, without which there is no modern device.
    #[error("version_1 cannot be switched off")]
    Version1NotWanted,
    /// The wanted set contains features that this driver does not implement.
    #[error("this driver does not implement {0}")]
    NotImplemented(Features),
    /// A required feature is not offered by the device, was not wanted, or lacks a feature that it depends on.
    #[error("required, but not to be had: {0}")]
    Missing(Features),
    /// A required feature depends on one that is not to be had.
    #[error(transparent)]
    Unmet(#[from] Unmet),
}

impl Features {
    /// What to accept of `offered`: the wanted features, without those that depend on a feature that is not accepted.
    ///
    /// A wanted feature that is not offered, or that lacks what it needs, is left out quietly; compare the result with the
    /// wanted set to tell a user, or name the feature in `required`.
    ///
    /// # Errors
    /// If the device is a legacy one, if `wanted` has bits outside of [`Features::IMPLEMENTED`], or if one of `required`
    /// would not be in the result.
    pub fn negotiate(offered: Self, wanted: Self, required: Self) -> Result<Self, NegotiationError> {
        let foreign = wanted - Self::IMPLEMENTED;
        if !foreign.is_empty() {
            return Err(NegotiationError::NotImplemented(foreign));
        }
        if !wanted.contains(Self::VERSION_1) {
            return Err(NegotiationError::Version1NotWanted);
        }
        if !offered.contains(Self::VERSION_1) {
            return Err(NegotiationError::Legacy);
        }
        let candidates = offered & wanted;
        let agreed = candidates.without_unmet();
        let missing = required - agreed;
        if missing.is_empty() {
            return Ok(agreed);
        }
        match candidates.unmet().find(|unmet| missing.contains(unmet.feature)) {
            Some(unmet) => Err(unmet.into()),
            None => Err(NegotiationError::Missing(missing)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: Features = Features::empty();

    #[test]
    fn a_dependent_falls_with_what_it_needs() {
        let wanted = Features::IMPLEMENTED - Features::CSUM;
        let agreed = Features::negotiate(Features::all(), wanted, NONE).unwrap();
        let fallen = Features::HOST_TSO4
            | Features::HOST_TSO6
            | Features::HOST_ECN
            | Features::HOST_UFO
            | Features::HOST_USO
            | Features::RSC_EXT;
        assert_eq!(wanted - agreed, fallen);
    }

    #[test]
    fn the_legacy_segmentation_bit_is_never_agreed_on() {
        let all = Features::IMPLEMENTED;
        let agreed = Features::negotiate(all | Features::GSO, all, NONE).unwrap();
        assert_eq!(agreed, all);
        assert_eq!(
            Features::negotiate(all | Features::GSO, all | Features::GSO, NONE),
            Err(NegotiationError::NotImplemented(Features::GSO))
        );
    }

    #[test]
    fn each_refusal_says_why() {
        let all = Features::IMPLEMENTED;
        let negotiate = Features::negotiate;
        assert_eq!(negotiate(all - Features::VERSION_1, all, NONE), Err(NegotiationError::Legacy));
        assert_eq!(negotiate(all, Features::MAC, NONE), Err(NegotiationError::Version1NotWanted));
        assert_eq!(negotiate(all, all | Features::MQ, NONE), Err(NegotiationError::NotImplemented(Features::MQ)));
        assert_eq!(negotiate(all - Features::MAC, all, Features::MAC), Err(NegotiationError::Missing(Features::MAC)));
        assert_eq!(
            negotiate(all - Features::CSUM, all, Features::HOST_TSO6),
            Err(NegotiationError::Unmet(Unmet { feature: Features::HOST_TSO6, needs: Features::CSUM }))
        );
    }

    proptest! {
        #[test]
        fn what_is_agreed_was_offered_and_wanted_and_is_sound(offered: u64, switched_off: u64) {
            let offered = Features::from_bits_retain(offered) | Features::VERSION_1;
            let wanted = (Features::IMPLEMENTED - Features::from_bits_retain(switched_off)) | Features::VERSION_1;
            let agreed = Features::negotiate(offered, wanted, NONE).unwrap();
            prop_assert!(offered.contains(agreed) && wanted.contains(agreed) && agreed.check().is_ok());
            for feature in (offered & (wanted - agreed)).iter() {
                prop_assert!((agreed | feature).check().is_err());
            }
        }
    }
}
