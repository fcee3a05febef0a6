//! SYN cookies (RFC 4987, section 3.6): what there is to know of a SYN, in the number of its answer. Nothing is kept of it.

use core::net::IpAddr;

use crate::connection::Tuple;
use crate::connection::hash::Key;
use crate::time::Instant;

/// Segment sizes of clients that can be told from each other: the largest one that is not more than the client's is kept.
const SIZES: [u16; 8] = [88, 536, 1220, 1340, 1400, 1440, 1460, 8940];
/// How long one secret's period lasts: a cookie is good for one to two of them.
const PERIOD_SECS: u64 = 64;
/// Bits of a cookie that are the hash.
const HASH: u32 = 24;

/// Makes and checks cookies. A cookie is, from the top: five bits of the period it was made in, three of the client's segment
/// size, and 24 of a keyed hash of all that, the addresses, the ports and the number of the client's SYN. Who does not get the answer
/// has to send four million ACKs for one that is taken: two periods are good, and two numbers of the ACK.
#[derive(Debug)]
pub(crate) struct Cookies {
    key: Key,
    /// When the last one was made.
    last: Option<Instant>,
}

impl Cookies {
    /// None made yet.
    pub fn new(seed: [u64; 2]) -> Self {
        // A key of its own: what is told to everybody who asks tells nothing of other tables.
        Cookies { key: Key([seed[1] ^ 0x636f_6f6b_6965_7321, seed[0].rotate_left(23)]), last: None }
    }

    fn period(now: Instant) -> u64 {
        now.nanos() / (PERIOD_SECS * 1_000_000_000)
    }

    fn cookie(&self, tuple: &Tuple, first: u32, period: u64, size: usize) -> u32 {
        let halves = |address: IpAddr| {
            let bits = match address {
                IpAddr::V4(a) => u128::from(a.to_bits()),
                IpAddr::V6(a) => a.to_bits(),
            };
            [(bits >> 64) as u64, bits as u64]
        };
        let ([a, b], [c, d]) = (halves(tuple.source), halves(tuple.destination));
        let ports = u64::from(tuple.source_port) << 48 | u64::from(tuple.destination_port) << 32;
        let hash = self.key.hash([a, b, c, d, ports | u64::from(first), (period << 3 | size as u64) & (u64::MAX >> 8)]);
        (period as u32 & 31) << (HASH + 3) | (size as u32) << HASH | hash & ((1 << HASH) - 1)
    }

    /// The number with which a SYN is answered, whose own is `first` and whose sender takes segments of this size.
    pub fn make(&mut self, tuple: &Tuple, first: u32, size: u16, now: Instant) -> u32 {
        self.last = Some(now);
        let size = SIZES.iter().rposition(|known| *known <= size).unwrap_or(0);
        self.cookie(tuple, first, Self::period(now), size)
    }

    /// The segment size of a client that answers a cookie, if it is one of ours and not too old.
    pub fn check(&self, tuple: &Tuple, first: u32, cookie: u32, now: Instant) -> Option<u16> {
        let size = (cookie >> HASH & 7) as usize;
        let now = Self::period(now);
        let fits = |period: &u64| self.cookie(tuple, first, *period, size) == cookie;
        [now, now.wrapping_sub(1)].iter().any(fits).then(|| SIZES[size])
    }

    /// Whether any are under way that are good.
    pub fn are_out(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.since(last).as_secs() < 2 * PERIOD_SECS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;
    use proptest::prelude::*;

    fn tuple(port: u16) -> Tuple {
        Tuple {
            protocol: Protocol::Tcp,
            source: "10.9.0.1".parse().unwrap(),
            destination: "10.0.0.100".parse().unwrap(),
            source_port: port,
            destination_port: 80,
        }
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_own_syn_and_its_own_time(port: u16, first: u32, size: u16, at in 0u64..1 << 33, later in 0u64..300) {
            let mut cookies = Cookies::new([1, 2]);
            let now = Instant::from_secs(at);
            let cookie = cookies.make(&tuple(port), first, size, now);
            let check = |port, first, cookie, seconds| cookies.check(&tuple(port), first, cookie, Instant::from_secs(seconds));
            let found = check(port, first, cookie, at + later);
            if later < PERIOD_SECS {
                let found = found.unwrap();
                prop_assert!(found <= size.max(88) && SIZES.contains(&found));
                // The next larger one would have been too large.
                prop_assert!(SIZES.iter().all(|known| *known <= found || *known > size));
            }
            prop_assert!(later < 2 * PERIOD_SECS || found.is_none());
            prop_assert!(check(port.wrapping_add(1), first, cookie, at).is_none());
            prop_assert!(check(port, first.wrapping_add(1), cookie, at).is_none());
            prop_assert!((0..32).all(|bit| check(port, first, cookie ^ (1 << bit), at).is_none()));
            prop_assert!(Cookies::new([1, 3]).check(&tuple(port), first, cookie, now).is_none());
            prop_assert!(cookies.are_out(now) && !Cookies::new([1, 2]).are_out(now));
        }
    }
}
