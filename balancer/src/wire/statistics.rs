//! The nests of counters and rates: IPVS_*_ATTR_STATS (32 bits, low halves) and IPVS_*_ATTR_STATS64.

use super::attribute::{Attribute, Violation, Writer};
use super::ipvs::stats;
use crate::stats::{Rates, Stats};

/// Writes both nests, as Linux does.
pub(crate) fn write(writer: &mut Writer<'_>, short: u16, long: u16, counted: &Stats, rates: &Rates) {
    writer.nest(short, |w| {
        // Linux cuts off the upper half: the shown counters wrap.
        w.u32(stats::CONNS, counted.connections as u32)
            .u32(stats::INPKTS, counted.in_packets as u32)
            .u32(stats::OUTPKTS, counted.out_packets as u32)
            .u64(stats::INBYTES, counted.in_bytes)
            .u64(stats::OUTBYTES, counted.out_bytes)
            .u32(stats::CPS, rates.connections as u32)
            .u32(stats::INPPS, rates.in_packets as u32)
            .u32(stats::OUTPPS, rates.out_packets as u32)
            .u32(stats::INBPS, rates.in_bytes as u32)
            .u32(stats::OUTBPS, rates.out_bytes as u32);
    });
    writer.nest(long, |w| {
        w.u64(stats::CONNS, counted.connections)
            .u64(stats::INPKTS, counted.in_packets)
            .u64(stats::OUTPKTS, counted.out_packets)
            .u64(stats::INBYTES, counted.in_bytes)
            .u64(stats::OUTBYTES, counted.out_bytes)
            .u64(stats::CPS, rates.connections)
            .u64(stats::INPPS, rates.in_packets)
            .u64(stats::OUTPPS, rates.out_packets)
            .u64(stats::INBPS, rates.in_bytes)
            .u64(stats::OUTBPS, rates.out_bytes);
    });
}

/// The counters and rates in a nest, of 32 or 64 bits a value by the length of each. What is missing is 0.
///
/// # Errors
/// [`Violation::Length`] for a value shorter than 32 bits.
pub fn read(nest: &Attribute<'_>) -> Result<(Stats, Rates), Violation> {
    let (mut counted, mut rates) = (Stats::default(), Rates::default());
    for attribute in nest.nested()? {
        let slot = match attribute.kind {
            stats::CONNS => &mut counted.connections,
            stats::INPKTS => &mut counted.in_packets,
            stats::OUTPKTS => &mut counted.out_packets,
            stats::INBYTES => &mut counted.in_bytes,
            stats::OUTBYTES => &mut counted.out_bytes,
            stats::CPS => &mut rates.connections,
            stats::INPPS => &mut rates.in_packets,
            stats::OUTPPS => &mut rates.out_packets,
            stats::INBPS => &mut rates.in_bytes,
            stats::OUTBPS => &mut rates.out_bytes,
            _ => continue,
        };
        *slot = if attribute.payload.len() < 8 { attribute.u32()?.into() } else { attribute.u64()? };
    }
    Ok((counted, rates))
}

#[cfg(test)]
mod tests {
    use super::super::attribute::Attributes;
    use super::*;
    use std::vec;

    #[test]
    fn both_widths_are_written_and_read() {
        let counted =
            Stats { connections: (7 << 32) + 1, in_packets: 2, out_packets: 3, in_bytes: 1 << 40, out_bytes: 5 };
        let rates = Rates { connections: 6, in_packets: 7, out_packets: 8, in_bytes: (1 << 32) + 9, out_bytes: 10 };
        let mut bytes = vec![];
        write(&mut Writer::new(&mut bytes), 10, 12, &counted, &rates);
        let nests: vec::Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!((nests[0].kind, nests[1].kind), (10, 12));
        let cut = (Stats { connections: 1, ..counted }, Rates { in_bytes: 9, ..rates });
        assert_eq!(read(&nests[0]), Ok(cut));
        assert_eq!(read(&nests[1]), Ok((counted, rates)));
        assert_eq!(nests[1].nested().unwrap().count(), 10, "and no padding attribute, as on x86-64");
    }

    #[test]
    fn short_values_are_refused() {
        assert!(read(&Attribute { kind: 10, payload: &[6, 0, 1, 0, 1, 2, 0, 0] }).is_err());
        assert_eq!(read(&Attribute { kind: 10, payload: &[] }), Ok(Default::default()));
    }
}
