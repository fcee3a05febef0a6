//! Feature names: the specification's, in lower case and without their prefix.

use core::fmt;

use super::Features;

/// A name that no feature bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no virtio-net feature is called `{0}`")]
pub struct UnknownFeature<'a>(pub &'a str);

/// What is wrong with a list of switches such as `-mrg_rxbuf,+csum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError<'a> {
    /// A name that no feature bears.
    #[error("{0}")]
    Unknown(UnknownFeature<'a>),
    /// An item that begins with neither `+` nor `-`.
    #[error("`{0}` must begin with `+` (switch on) or `-` (switch off)")]
    NoSign(&'a str),
}

impl Features {
    /// The feature with the specification's name in lower case, for example `mrg_rxbuf` for `VIRTIO_NET_F_MRG_RXBUF` and
    /// `event_idx` for `VIRTIO_F_EVENT_IDX`.
    ///
    /// # Errors
    /// If there is no feature of that name.
    pub fn by_name(name: &str) -> Result<Self, UnknownFeature<'_>> {
        Self::all_named()
            .find(|(known, _)| !name.is_empty() && known.len() == name.len() && lower(known).eq(name.bytes()))
            .map(|(_, feature)| feature)
            .ok_or(UnknownFeature(name))
    }

    /// Applies a comma-separated list of switches to the set: `+name` adds a feature, `-name` removes it, from left to right.
    /// `all` names every feature there is. Spaces around items and empty items mean nothing.
    ///
    /// ```
    /// # use ringlet_driver::features::Features;
    /// let wanted = Features::IMPLEMENTED.switched("-mrg_rxbuf,-guest_tso4")?;
    /// assert_eq!(Features::IMPLEMENTED - wanted, Features::MRG_RXBUF | Features::GUEST_TSO4);
    /// # Ok::<(), ringlet_driver::features::SwitchError>(())
    /// ```
    ///
    /// # Errors
    /// The first item that is not understood; use [`Features::switch`] item by item to carry on after one.
    pub fn switched(mut self, list: &str) -> Result<Self, SwitchError<'_>> {
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            self = self.switch(item)?;
        }
        Ok(self)
    }

    /// Applies one switch, `+name` or `-name`, to the set.
    ///
    /// # Errors
    /// If the sign is missing or the name unknown.
    pub fn switch(self, item: &str) -> Result<Self, SwitchError<'_>> {
        let (on, name) = match (item.strip_prefix('+'), item.strip_prefix('-')) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ => return Err(SwitchError::NoSign(item)),
        };
        let feature = if name == "all" { Self::all() } else { Self::by_name(name).map_err(SwitchError::Unknown)? };
        Ok(if on { self | feature } else { self - feature })
    }

    /// Every feature that has a name, with that name in upper case, from the lowest bit up.
    fn all_named() -> impl Iterator<Item = (&'static str, Self)> {
        Self::all().iter_names()
    }
}

fn lower(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// The names in lower case, from the lowest bit up, with commas between them; bits without a name as `bit42`; `none` for an
/// empty set.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (nth, bit) in (0..64).filter(|bit| self.bits() >> bit & 1 == 1).enumerate() {
            if nth != 0 {
                f.write_str(",")?;
            }
            match Self::from_bits_retain(1 << bit).iter_names().next() {
                Some((name, _)) => lower(name).try_for_each(|byte| write!(f, "{}", char::from(byte)))?,
                None => write!(f, "bit{bit}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn names_are_the_specification_s() {
        for (name, feature) in
            [("csum", Features::CSUM), ("ring_packed", Features::RING_PACKED), ("speed_duplex", Features::SPEED_DUPLEX)]
        {
            assert_eq!(Features::by_name(name), Ok(feature));
            assert_eq!(feature.to_string(), name);
        }
        for wrong in ["", "CSUM", "csu", "csumm", "_", "all"] {
            assert_eq!(Features::by_name(wrong), Err(UnknownFeature(wrong)));
        }
        assert_eq!(Features::empty().to_string(), "none");
        assert_eq!(Features::from_bits_retain(1 << 45 | 1).to_string(), "csum,bit45");
    }

    #[test]
    fn every_name_finds_its_own_bit() {
        assert_eq!(Features::all_named().count(), 50);
        for (name, feature) in Features::all_named() {
            assert!(feature.is_single(), "{name}");
            assert_eq!(Features::by_name(&name.to_ascii_lowercase()), Ok(feature));
        }
    }

    #[test]
    fn switches_apply_from_left_to_right() {
        let set = Features::CSUM.switched(" +mac , -csum,, +csum,-mac,+mtu").unwrap();
        assert_eq!(set, Features::CSUM | Features::MTU);
        assert_eq!(Features::IMPLEMENTED.switched("-all,+version_1"), Ok(Features::VERSION_1));
        assert_eq!(Features::CSUM.switched("csum"), Err(SwitchError::NoSign("csum")));
        assert_eq!(Features::CSUM.switched("-csum,+lro"), Err(SwitchError::Unknown(UnknownFeature("lro"))));
    }

    proptest! {
        #[test]
        fn what_is_displayed_can_be_switched_on_again(bits: u64) {
            let named = Features::all_named().fold(Features::empty(), |all, (_, feature)| all | feature);
            let set = Features::from_bits_retain(bits) & named;
            let mut list = std::string::String::new();
            for name in set.to_string().split(',').filter(|name| *name != "none") {
                list.push_str(&std::format!("+{name},"));
            }
            prop_assert_eq!(Features::empty().switched(&list), Ok(set));
        }

        #[test]
        fn no_list_makes_it_panic(list in ".*") {
            let _ = Features::all().switched(&list);
        }
    }
}
