//! How many connections each source has, and how fast it makes new ones: a table of fixed size, in which nobody gets rid of what
//! he has on his account.
//!
//! A source is a client, or a network of clients, of one service or of all. It lies in one of [`WAYS`] places of a set, which
//! is found by a hash with a secret. A place is given to another source only when nothing is to be remembered: it has no
//! connection, and was idle for so long that it may have all of its burst again. Sources for which there is no such place
//! share one account in each set: who fills the table makes it tighter, for himself too, and frees nobody.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use crate::Errno;
use crate::connection::hash::Key;
use crate::time::Instant;

/// Places of a set, besides the one that is shared.
const WAYS: usize = 8;
/// All of a set.
const SET: usize = WAYS + 1;

/// What a source may do. Nothing is limited by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connections it may have at the same time; 0 for any number.
    pub connections: u32,
    /// New connections a second in the long run; 0 for any number.
    pub rate: u32,
    /// New connections at once, at least 1, if there is a `rate`.
    pub burst: u32,
    /// Leading bits of an IPv4 address that tell one source from another, 1 to 32.
    pub prefix_v4: u8,
    /// Those of an IPv6 address, 1 to 128.
    pub prefix_v6: u8,
    /// Whoever is over a limit is told: by a reset (TCP) or an ICMP error. Otherwise what is over it vanishes.
    pub reset: bool,
}

impl Default for SourceLimits {
    fn default() -> Self {
        SourceLimits { connections: 0, rate: 0, burst: 1, prefix_v4: 32, prefix_v6: 64, reset: false }
    }
}

impl SourceLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.connections == 0 && self.rate == 0
    }

    pub(crate) fn check(&self) -> Result<(), Errno> {
        let is_right = (1..=32).contains(&self.prefix_v4) && (1..=128).contains(&self.prefix_v6) && self.burst > 0;
        // The time for which a burst is remembered has to fit.
        if is_right && self.burst <= 1_000_000 { Ok(()) } else { Err(Errno::Invalid) }
    }

    /// The source that an address belongs to, as a number.
    fn source(&self, address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_v4.min(32))).unwrap_or(0);
                // As IPv6 writes IPv4 addresses: no client's own (RFC 4291, section 2.5.5.2).
                u128::from(Ipv6Addr::from_bits(0xffff_0000_0000)) | u128::from(a.to_bits() & mask)
            }
            IpAddr::V6(a) => a.to_bits() & u128::MAX.checked_shl(128 - u32::from(self.prefix_v6.min(128))).unwrap_or(0),
        }
    }

    /// Nanoseconds between two connections in the long run.
    fn interval(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }
}

/// Whose accounts they are: those of one service, by its number, or of all.
pub(crate) type Scope = u32;

/// The accounts that go for all services.
pub(crate) const ALL: Scope = 0;

/// An account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    source: u128,
    /// When it would have all of its burst again, in nanoseconds of the balancer's clock (the theoretical arrival time of the
    /// generic cell rate algorithm, ITU-T I.371).
    due: u64,
    scope: Scope,
    connections: u32,
}

impl Account {
    /// Whether there is nothing to be remembered of it.
    fn is_idle(&self, now: u64) -> bool {
        self.connections == 0 && self.due <= now
    }

    fn admits(&self, limits: &SourceLimits, now: u64) -> bool {
        let tolerance = limits.interval() * u64::from(limits.burst.saturating_sub(1));
        (limits.connections == 0 || self.connections < limits.connections)
            && (limits.rate == 0 || self.due.saturating_sub(now) <= tolerance)
    }
}

/// The accounts of all sources.
#[derive(Debug)]
pub(crate) struct Sources {
    key: Key,
    /// Sets of [`SET`], a power of two of them.
    accounts: Vec<Account>,
}

impl Sources {
    /// Bytes a source takes, its part of the shared account included.
    pub const SIZE: usize = size_of::<Account>() * SET / WAYS;

    /// No accounts, and no memory for any.
    pub fn new(seed: [u64; 2]) -> Self {
        // Not the key of the connection table: what can be learnt of one tells nothing of the other.
        Sources { key: Key([seed[0] ^ 0x736f_7572_6365_7321, seed[1].rotate_left(29)]), accounts: Vec::new() }
    }

    /// Whether the memory was taken.
    pub fn is_reserved(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// Takes the memory for at most so many sources. Once is enough. How many bytes it took.
    ///
    /// # Errors
    /// [`Errno::OutOfMemory`] if that is less than one set.
    pub fn reserve(&mut self, count: usize) -> Result<usize, Errno> {
        let sets = (count / WAYS).checked_ilog2().map(|bits| 1usize << bits).ok_or(Errno::OutOfMemory)?;
        self.accounts.try_reserve_exact(sets * SET).map_err(|_| Errno::OutOfMemory)?;
        self.accounts.resize(sets * SET, Account::default());
        Ok(sets * SET * size_of::<Account>())
    }

    /// Where the set of a source begins.
    fn set(&self, scope: Scope, source: u128) -> usize {
        let hash = self.key.hash([(source >> 64) as u64, source as u64, u64::from(scope)]);
        (hash as usize & (self.accounts.len() / SET - 1)) * SET
    }

    /// The place of the account of a source: its own, one that it can have, or the shared one.
    fn find(&self, scope: Scope, source: u128, now: u64) -> Option<usize> {
        if self.accounts.is_empty() {
            return None;
        }
        let first = self.set(scope, source);
        let own = &self.accounts[first..first + WAYS];
        let is_its = |account: &Account| (account.scope, account.source) == (scope, source) && !account.is_idle(now);
        let place = own.iter().position(is_its).or_else(|| own.iter().position(|account| account.is_idle(now)));
        Some(first + place.unwrap_or(WAYS))
    }

    /// Whether a source may have another connection.
    pub fn admits(&self, scope: Scope, address: IpAddr, limits: &SourceLimits, now: Instant) -> bool {
        let now = now.nanos();
        let place = self.find(scope, limits.source(address), now);
        place.is_none_or(|place| {
            // One that belonged to somebody else is as good as new: it has no connection, and is not due.
            self.accounts[place].admits(limits, now)
        })
    }

    /// Puts a connection on the account of its source. Returns where that is, for [`Sources::release`]; 0 if there are no accounts.
    pub fn take(&mut self, scope: Scope, address: IpAddr, limits: &SourceLimits, now: Instant) -> u32 {
        let (now, source) = (now.nanos(), limits.source(address));
        let Some(place) = self.find(scope, source, now) else { return 0 };
        let account = &mut self.accounts[place];
        if account.is_idle(now) {
            *account = Account { source, scope, due: now, connections: 0 };
        }
        account.connections += 1;
        if limits.rate > 0 {
            account.due = account.due.max(now) + limits.interval();
        }
        place as u32 + 1
    }

    /// A connection has ended that was put on the account there.
    pub fn release(&mut self, link: u32) {
        if let Some(account) = link.checked_sub(1).and_then(|place| self.accounts.get_mut(place as usize)) {
            debug_assert!(account.connections > 0);
            account.connections = account.connections.saturating_sub(1);
        }
    }

    /// How many connections are on accounts.
    #[cfg(test)]
    pub fn connections(&self) -> u32 {
        self.accounts.iter().map(|account| account.connections).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    fn sources(count: usize) -> Sources {
        let mut sources = Sources::new([1, 2]);
        sources.reserve(count).unwrap();
        sources
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Takes a connection if it may be.
    fn connect(sources: &mut Sources, address: IpAddr, limits: &SourceLimits, ms: u64) -> Option<u32> {
        let now = Instant::from_millis(ms);
        sources.admits(ALL, address, limits, now).then(|| sources.take(ALL, address, limits, now))
    }

    #[test]
    fn a_source_has_so_many_connections_and_gets_them_back() {
        let mut sources = sources(64);
        let limits = SourceLimits { connections: 2, ..SourceLimits::default() };
        let [a, b] = [ip("10.9.0.1"), ip("10.9.0.2")];
        let first = connect(&mut sources, a, &limits, 5).unwrap();
        assert!(connect(&mut sources, a, &limits, 5).is_some());
        assert!(connect(&mut sources, a, &limits, 500_000).is_none(), "time frees nobody");
        assert!(connect(&mut sources, b, &limits, 5).is_some());
        sources.release(first);
        assert!(connect(&mut sources, a, &limits, 5).is_some());
        assert!(connect(&mut sources, a, &limits, 5).is_none());
        assert!(sources.admits(7, a, &limits, Instant::from_millis(5)), "of another service");
    }

    #[test]
    fn networks_count_as_one() {
        let mut sources = sources(64);
        let limits = SourceLimits { connections: 1, prefix_v4: 24, prefix_v6: 48, ..SourceLimits::default() };
        for (one, same, other) in [("10.9.0.1", "10.9.0.200", "10.9.1.1"), ("fd09::1", "fd09:0:0:7::2", "fd09:0:1::1")]
        {
            assert!(connect(&mut sources, ip(one), &limits, 5).is_some());
            assert!(connect(&mut sources, ip(same), &limits, 5).is_none());
            assert!(connect(&mut sources, ip(other), &limits, 5).is_some());
        }
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let mut sources = sources(64);
        let limits = SourceLimits { rate: 10, burst: 3, ..SourceLimits::default() };
        let mut pass = |ms| (0..10).filter_map(|_| connect(&mut sources, ip("10.9.0.1"), &limits, ms)).count();
        assert_eq!([pass(5), pass(104), pass(105), pass(305), pass(100_000)], [3, 0, 1, 2, 3]);
    }

    #[test]
    fn who_finds_no_place_shares_one_and_nobody_is_pushed_out() {
        let mut sources = sources(WAYS);
        let limits = SourceLimits { connections: 2, ..SourceLimits::default() };
        let address = |n: u32| ip(&std::format!("10.9.0.{n}"));
        let links: Vec<_> = (0..8).map(|n| connect(&mut sources, address(n), &limits, 5).unwrap()).collect();
        let shared = connect(&mut sources, address(8), &limits, 5).unwrap();
        assert!(connect(&mut sources, address(9), &limits, 5).is_some(), "two of the account all others share");
        assert!(connect(&mut sources, address(10), &limits, 5).is_none());
        assert!(connect(&mut sources, address(8), &limits, 5).is_none());
        for n in 0..8 {
            assert!(connect(&mut sources, address(n), &limits, 5).is_some(), "{n} has its account still");
            assert!(connect(&mut sources, address(n), &limits, 5).is_none());
        }
        sources.release(links[0]);
        assert!(connect(&mut sources, address(10), &limits, 5).is_none(), "it has another connection");
        sources.release(shared);
        assert!(connect(&mut sources, address(10), &limits, 5).is_some());
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let good = SourceLimits::default();
        assert_eq!(good.check(), Ok(()));
        for bad in [
            SourceLimits { prefix_v4: 0, ..good },
            SourceLimits { prefix_v4: 33, ..good },
            SourceLimits { prefix_v6: 0, ..good },
            SourceLimits { prefix_v6: 129, ..good },
            SourceLimits { burst: 0, ..good },
            SourceLimits { burst: 1_000_001, ..good },
        ] {
            assert_eq!(bad.check(), Err(Errno::Invalid));
        }
        assert_eq!(Sources::new([1, 2]).reserve(7), Err(Errno::OutOfMemory));
    }

    proptest! {
        /// Whatever happens, no source with an account of its own is above its limits, and all is given back.
        #[test]
        fn nobody_is_above_his_limits(connections in 0u32..4, rate in 0u32..20, burst in 1u32..4, steps in prop::collection::vec((0u8..20, 0u64..300, any::<bool>()), 0..300)) {
            let mut sources = sources(16);
            let limits = SourceLimits { connections, rate, burst, ..SourceLimits::default() };
            let (mut now, mut open, mut made) = (5, Vec::new(), BTreeMap::<u8, u64>::new());
            for (source, step, ends) in steps {
                now += step;
                if ends && !open.is_empty() {
                    let (_, link) = open.swap_remove(usize::from(source) % open.len());
                    sources.release(link);
                } else if let Some(link) = connect(&mut sources, ip(&std::format!("10.9.0.{source}")), &limits, now) {
                    open.push((source, link));
                    *made.entry(source).or_default() += 1;
                }
                let of = |source| open.iter().filter(|(other, _)| *other == source).count();
                prop_assert!(connections == 0 || (0..20).all(|source| of(source) <= 2 * connections as usize), "its own and what is shared");
                prop_assert_eq!(sources.connections() as usize, open.len());
                let most = u64::from(burst) + (now * u64::from(rate)).div_ceil(1000) + 1;
                prop_assert!(rate == 0 || made.values().all(|&made| made <= 2 * most));
            }
            open.drain(..).for_each(|(_, link)| sources.release(link));
            prop_assert_eq!(sources.connections(), 0);
        }
    }
}
