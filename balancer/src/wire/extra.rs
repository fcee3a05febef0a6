//! The attribute of what a service does that IPVS cannot: Ringlet's own. Which service, the service's attribute says beside it.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::extra as kind;
use super::service::{address, address_bytes};
use crate::{Announce, Errno, ExtraCounters, Extras, Family, LocalPool, SourceLimits};

/// Writes what a service does, and what was counted if there is something to be counted.
pub fn write(extras: &Extras, counters: Option<&ExtraCounters>, w: &mut Writer<'_>) {
    if let Some(pool) = &extras.pool {
        w.put(kind::POOL_FIRST, &address_bytes(&pool.first))
            .put(kind::POOL_LAST, &address_bytes(&pool.last))
            .be16(kind::POOL_PORT_FIRST, pool.ports.0)
            .be16(kind::POOL_PORT_LAST, pool.ports.1);
    }
    if extras.announce != Announce::Nothing {
        w.u8(kind::ANNOUNCE, extras.announce as u8);
    }
    if let Some(threshold) = extras.syn_cookies {
        w.u32(kind::SYN_COOKIES, threshold);
    }
    let limits = &extras.limits;
    if !limits.is_none() {
        w.u32(kind::SOURCE_CONNECTIONS, limits.connections)
            .u32(kind::SOURCE_RATE, limits.rate)
            .u32(kind::SOURCE_BURST, limits.burst)
            .u8(kind::SOURCE_PREFIX_V4, limits.prefix_v4)
            .u8(kind::SOURCE_PREFIX_V6, limits.prefix_v6)
            .u8(kind::SOURCE_RESET, limits.reset.into());
    }
    if let Some(counters) = counters {
        w.u64(kind::POOL_EXHAUSTED, counters.exhausted)
            .u64(kind::SOURCE_LIMITED, counters.limited)
            .u64(kind::COOKIES_SENT, counters.cookies_sent)
            .u64(kind::COOKIES_TAKEN, counters.cookies_taken)
            .u64(kind::COOKIES_WRONG, counters.cookies_wrong);
    }
}

/// What a service of a family does, and what was counted, in a nest. What is missing, is not done.
///
/// # Errors
/// [`Errno::Invalid`] if something is torn, or half of a pool.
pub fn read(family: Family, nest: &Attribute<'_>) -> Result<(Extras, ExtraCounters), Errno> {
    let invalid = |_: Violation| Errno::Invalid;
    let (mut range, mut ports) = ([None; 2], LocalPool::PORTS);
    let (mut announce, mut syn_cookies) = (Announce::Nothing, None);
    let (mut counters, mut limits) = (ExtraCounters::default(), SourceLimits::default());
    for attribute in nest.nested().map_err(invalid)? {
        match attribute.kind {
            kind::POOL_FIRST => range[0] = Some(attribute.binary().map_err(invalid)?),
            kind::POOL_LAST => range[1] = Some(attribute.binary().map_err(invalid)?),
            kind::POOL_PORT_FIRST => ports.0 = attribute.be16().map_err(invalid)?,
            kind::POOL_PORT_LAST => ports.1 = attribute.be16().map_err(invalid)?,
            kind::ANNOUNCE => {
                let number = attribute.u8().map_err(invalid)?;
                announce = Announce::ALL.into_iter().find(|way| *way as u8 == number).ok_or(Errno::Invalid)?;
            }
            kind::SYN_COOKIES => syn_cookies = Some(attribute.u32().map_err(invalid)?),
            kind::COOKIES_SENT => counters.cookies_sent = attribute.u64().map_err(invalid)?,
            kind::COOKIES_TAKEN => counters.cookies_taken = attribute.u64().map_err(invalid)?,
            kind::COOKIES_WRONG => counters.cookies_wrong = attribute.u64().map_err(invalid)?,
            kind::SOURCE_CONNECTIONS => limits.connections = attribute.u32().map_err(invalid)?,
            kind::SOURCE_RATE => limits.rate = attribute.u32().map_err(invalid)?,
            kind::SOURCE_BURST => limits.burst = attribute.u32().map_err(invalid)?,
            kind::SOURCE_PREFIX_V4 => limits.prefix_v4 = attribute.u8().map_err(invalid)?,
            kind::SOURCE_PREFIX_V6 => limits.prefix_v6 = attribute.u8().map_err(invalid)?,
            kind::SOURCE_RESET => limits.reset = attribute.u8().map_err(invalid)? != 0,
            kind::SOURCE_LIMITED => counters.limited = attribute.u64().map_err(invalid)?,
            kind::POOL_EXHAUSTED => counters.exhausted = attribute.u64().map_err(invalid)?,
            _ => {}
        }
    }
    let pool = match range {
        [Some(first), Some(last)] => {
            Some(LocalPool { first: address(family, first), last: address(family, last), ports })
        }
        [None, None] => None,
        _ => return Err(Errno::Invalid),
    };
    Ok((Extras { pool, announce, syn_cookies, limits }, counters))
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::vec;

    #[test]
    fn extras_come_back() {
        for (family, first, last) in [(Family::V4, "10.0.0.200", "10.0.0.203"), (Family::V6, "fd00::200", "fd00::2ff")]
        {
            let pool = LocalPool { first: first.parse().unwrap(), last: last.parse().unwrap(), ports: (5000, 5999) };
            let limits = SourceLimits { connections: 9, rate: 8, burst: 7, prefix_v4: 24, prefix_v6: 48, reset: true };
            let limited = Extras { limits, ..Extras::default() };
            let extras = Extras { pool: Some(pool), announce: Announce::Proxy, syn_cookies: Some(5), ..limited };
            let counters =
                ExtraCounters { exhausted: 7, limited: 8, cookies_sent: 9, cookies_taken: 10, cookies_wrong: 11 };
            for (extras, counters) in
                [(limited, None), (extras, Some(counters)), (extras, None), (Extras::default(), None)]
            {
                let mut bytes = vec![];
                Writer::new(&mut bytes).nest(80, |w| write(&extras, counters.as_ref(), w));
                let read = read(family, &Attributes::new(&bytes).next().unwrap());
                assert_eq!(read, Ok((extras, counters.unwrap_or_default())));
            }
        }
    }

    #[test]
    fn half_a_pool_is_none() {
        for kind in [kind::POOL_FIRST, kind::POOL_LAST] {
            let mut bytes = vec![];
            Writer::new(&mut bytes).nest(80, |w| _ = w.put(kind, &[1; 16]));
            assert_eq!(read(Family::V4, &Attributes::new(&bytes).next().unwrap()), Err(Errno::Invalid));
        }
    }
}
