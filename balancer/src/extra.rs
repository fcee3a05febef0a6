//! What a service can do that IPVS cannot: off by default, and apart from ipvsadm's language.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{is_unicast_v4, is_unicast_v6};
use crate::service::{Family, ServiceKey};
use crate::source::SourceLimits;
use crate::{Announce, Errno};

/// The most addresses of a [`LocalPool`].
pub const POOL_MAX: u32 = 1024;
/// The most addresses of all pools together, those included that were of a service whose connections still have them.
pub const POOLS_MAX: u32 = 4096;

/// What a service does beyond IPVS. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Full NAT: the client's address and port are rewritten too, to some of these, so that a server's replies come back here
    /// whatever its routes are.
    pub pool: Option<LocalPool>,
    /// How servers hear of their clients' addresses: over TCP only.
    pub announce: Announce,
    /// From so many half-open connections on, of all services that have this, SYNs are answered by cookies: over TCP only.
    pub syn_cookies: Option<u32>,
    /// What each source may do.
    pub limits: SourceLimits,
}

impl Extras {
    /// Whether there is nothing.
    pub fn is_none(&self) -> bool {
        *self == Extras::default()
    }

    /// Whether a service of this name can have them, as far as names tell.
    ///
    /// # Errors
    /// [`Errno::Invalid`].
    pub(crate) fn check(&self, service: &ServiceKey) -> Result<(), Errno> {
        self.limits.check()?;
        self.pool.map_or(Ok(()), |pool| pool.check(service.family()))
    }

    /// Whether they go with NAT only, and with connections that last.
    pub(crate) fn needs_nat(&self) -> bool {
        self.pool.is_some() || self.needs_tcp()
    }

    /// Whether they are about the stream of TCP.
    pub(crate) fn needs_tcp(&self) -> bool {
        self.announce != Announce::Nothing || self.syn_cookies.is_some()
    }

    /// The same, said in the only way: what goes with nothing has its default.
    pub(crate) fn normal(mut self) -> Self {
        let Extras { limits, .. } = &mut self;
        if limits.is_none() {
            *limits = SourceLimits::default();
        } else if limits.rate == 0 {
            limits.burst = 1;
        }
        self
    }
}

/// Addresses and ports of ours that stand for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPool {
    /// The first address.
    pub first: IpAddr,
    /// The last one, of the same family.
    pub last: IpAddr,
    /// First and last port, in host order.
    pub ports: (u16, u16),
}

impl LocalPool {
    /// The ports of a pool for which none are given: those any program may have (RFC 6056, section 3.2).
    pub const PORTS: (u16, u16) = (1024, u16::MAX);

    fn bounds(&self) -> Option<(u128, u128)> {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits().into(), last.to_bits().into())),
            (IpAddr::V6(first), IpAddr::V6(last)) => Some((first.to_bits(), last.to_bits())),
            _ => None,
        }
    }

    fn check(&self, family: Family) -> Result<(), Errno> {
        let (first, last) = self.bounds().filter(|_| Family::of(&self.first) == family).ok_or(Errno::Invalid)?;
        let count = last.checked_sub(first).filter(|&more| more < POOL_MAX.into()).ok_or(Errno::Invalid)?;
        let is_unicast = |address| match address {
            IpAddr::V4(a) => is_unicast_v4(a),
            IpAddr::V6(a) => is_unicast_v6(a) && !a.is_unicast_link_local(),
        };
        let (low, high) = self.ports;
        if low == 0 || low > high || !(0..=count as u32).all(|nth| is_unicast(self.address(nth))) {
            return Err(Errno::Invalid);
        }
        Ok(())
    }

    /// Whether an address is one of them.
    pub fn contains(&self, address: &IpAddr) -> bool {
        let at = match address {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        };
        let is_same = address.is_ipv4() == self.first.is_ipv4();
        self.bounds().is_some_and(|(first, last)| is_same && (first..=last).contains(&at))
    }

    /// How many addresses there are.
    pub fn len(&self) -> u32 {
        // More than there may be is told from what may be, and not how much.
        let more = self.bounds().and_then(|(first, last)| last.checked_sub(first));
        more.map_or(0, |more| more.min(POOL_MAX.into()) as u32 + 1)
    }

    /// Whether there are none: a pool that no service can have.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The address after `nth` others.
    fn address(&self, nth: u32) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(nth))),
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(nth.into()))),
        }
    }

    /// Every address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..self.len()).map(|nth| self.address(nth))
    }

    /// How many pairs of an address and a port there are.
    fn pairs(&self) -> u32 {
        let (low, high) = self.ports;
        self.len() * (u32::from(high) - u32::from(low) + 1)
    }

    /// The pair that a counter stands for. Counters that follow one another name every pair once before one comes again, in an
    /// order that only who knows `secret` can foretell: an encryption of the counter (a Feistel network of four rounds over
    /// the next power of four) that is repeated until it is one of as many as there are (Black and Rogaway 2002).
    pub(crate) fn pair(&self, counter: u64, secret: u64) -> (IpAddr, u16) {
        let pairs = self.pairs().max(1);
        let half = (u32::BITS - (pairs - 1).leading_zeros()).div_ceil(2).max(1);
        let mask = (1u32 << half) - 1;
        let mut at = (counter % u64::from(pairs)) as u32;
        // Four times as many numbers at most as there are pairs, and no walk is long: the bound is for the reader.
        for _ in 0..1 << (2 * half) {
            let (mut left, mut right) = (at >> half, at & mask);
            for round in 0..4u64 {
                let mixed = mix(secret ^ (round << 32 | u64::from(right)));
                (left, right) = (right, left ^ mixed as u32 & mask);
            }
            at = left << half | right;
            if at < pairs {
                break;
            }
        }
        let ports = self.pairs() / self.len().max(1);
        (self.address(at / ports.max(1)), self.ports.0 + (at % ports.max(1)) as u16)
    }
}

/// Every bit of a number depends on every bit of `x` (the finalizer of SplitMix64).
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What was counted of a service's [`Extras`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtraCounters {
    /// Connections that were refused because no address and port of the pool was free.
    pub exhausted: u64,
    /// Connections that were refused because their sources were over a limit.
    pub limited: u64,
    /// SYNs that were answered by a cookie.
    pub cookies_sent: u64,
    /// Connections that began by a cookie that came back.
    pub cookies_taken: u64,
    /// ACKs that brought no cookie of ours, or too old a one.
    pub cookies_wrong: u64,
}

/// The [`Extras`] of a service, or of all, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraInfo {
    /// The service; `None` for all.
    pub service: Option<ServiceKey>,
    /// What it does.
    pub extras: Extras,
    /// What was counted.
    pub counters: ExtraCounters,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pool(first: &str, last: &str, ports: (u16, u16)) -> LocalPool {
        LocalPool { first: first.parse().unwrap(), last: last.parse().unwrap(), ports }
    }

    #[test]
    fn a_pool_is_of_unicast_addresses_in_order_and_not_too_many() {
        let check = |first, last, ports| pool(first, last, ports).check(Family::V4);
        assert_eq!(check("10.0.0.200", "10.0.0.203", (1024, 65535)), Ok(()));
        assert_eq!(check("10.0.0.0", "10.0.3.255", (1, 1)), Ok(()));
        for (first, last, ports) in [
            ("10.0.0.201", "10.0.0.200", (1, 2)),
            ("10.0.0.0", "10.0.4.0", (1, 2)),
            ("10.0.0.1", "fd00::1", (1, 2)),
            ("fd00::1", "fd00::2", (1, 2)),
            ("223.255.255.255", "224.0.0.0", (1, 2)),
            ("127.0.0.1", "127.0.0.1", (1, 2)),
            ("10.0.0.1", "10.0.0.1", (0, 2)),
            ("10.0.0.1", "10.0.0.1", (3, 2)),
        ] {
            assert_eq!(check(first, last, ports), Err(Errno::Invalid), "{first} {last} {ports:?}");
        }
        assert_eq!(pool("fd00::ffff", "fd00::1:3", (1, 2)).check(Family::V6), Ok(()));
        assert_eq!(pool("fd00::ffff", "fd00::1:3", (1, 2)).addresses().count(), 5);
        assert_eq!(pool("fe80::1", "fe80::2", (1, 2)).check(Family::V6), Err(Errno::Invalid));
    }

    proptest! {
        #[test]
        fn every_pair_comes_once_before_one_comes_again(count in 1u8..6, low in 1u16..5, more in 0u16..300, start: u64, secret: u64) {
            let pool = pool("10.0.0.250", &std::format!("10.0.{}.{}", (249 + u32::from(count)) / 256, (249 + u32::from(count)) % 256), (low, low + more));
            let total = u64::from(count) * (u64::from(more) + 1);
            let start = start % (u64::MAX - 2 * total) / total * total;
            let pairs: BTreeSet<_> = (start..start + total).map(|counter| pool.pair(counter, secret)).collect();
            prop_assert_eq!(pairs.len() as u64, total);
            for (address, port) in pairs {
                prop_assert!(pool.addresses().any(|a| a == address) && (low..=low + more).contains(&port));
            }
        }
    }

    #[test]
    fn who_does_not_know_the_secret_cannot_tell_the_next() {
        let pool = pool("10.0.0.200", "10.0.0.200", LocalPool::PORTS);
        let step = |counter, secret| {
            let at = |counter| u32::from(pool.pair(counter, secret).1);
            at(counter + 1).wrapping_sub(at(counter))
        };
        let steps: BTreeSet<_> = (0..1000).map(|counter| step(counter, 7)).collect();
        assert!(steps.len() > 950, "{}", steps.len());
        let same = (0..1000).filter(|&counter| pool.pair(counter, 7) == pool.pair(counter, 8)).count();
        assert!(same < 5, "{same}");
    }
}
