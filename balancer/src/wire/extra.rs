//! The attribute of what a service does that IPVS cannot: Ringlet's own. Which service, the service's attribute says beside it.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::extra as kind;
use super::service::{address, address_bytes};
use crate::{Errno, ExtraCounters, Extras, Family, LocalPool};

/// Writes what a service does, and what was counted if there is something to be counted.
pub fn write(extras: &Extras, counters: Option<&ExtraCounters>, w: &mut Writer<'_>) {
    if let Some(pool) = &extras.pool {
        w.put(kind::POOL_FIRST, &address_bytes(&pool.first))
            .put(kind::POOL_LAST, &address_bytes(&pool.last))
            .be16(kind::POOL_PORT_FIRST, pool.ports.0)
            .be16(kind::POOL_PORT_LAST, pool.ports.1);
    }
    if let Some(counters) = counters {
        w.u64(kind::POOL_EXHAUSTED, counters.exhausted);
    }
}

/// What a service of a family does, and what was counted, in a nest. What is missing, is not done.
///
/// # Errors
/// [`Errno::Invalid`] if something is torn, or half of a pool.
pub fn read(family: Family, nest: &Attribute<'_>) -> Result<(Extras, ExtraCounters), Errno> {
    let invalid = |_: Violation| Errno::Invalid;
    let (mut range, mut ports) = ([None; 2], LocalPool::PORTS);
    let mut counters = ExtraCounters::default();
    for attribute in nest.nested().map_err(invalid)? {
        match attribute.kind {
            kind::POOL_FIRST => range[0] = Some(attribute.binary().map_err(invalid)?),
            kind::POOL_LAST => range[1] = Some(attribute.binary().map_err(invalid)?),
            kind::POOL_PORT_FIRST => ports.0 = attribute.be16().map_err(invalid)?,
            kind::POOL_PORT_LAST => ports.1 = attribute.be16().map_err(invalid)?,
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
    Ok((Extras { pool }, counters))
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
            let extras = Extras { pool: Some(pool) };
            let counters = ExtraCounters { exhausted: 7 };
            for (extras, counters) in [(extras, Some(counters)), (extras, None), (Extras::default(), None)] {
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
