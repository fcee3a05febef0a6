//! lc and wlc: the least loaded.

use super::List;
use crate::service::table::Destination;

/// An active connection weighs 256 times an inactive one, and counts among all connections too (Linux 6.1.192).
fn load(d: &Destination) -> u32 {
    d.active.wrapping_mul(256).wrapping_add(d.connections)
}

/// lc: least load. Weight matters only in that 0 drains.
pub(crate) fn connections(list: List<'_>) -> Option<u32> {
    let mut best = None;
    for (place, d) in list.iter().filter(|(_, d)| d.config.weight > 0 && !d.overloaded) {
        let load = load(d);
        if best.is_none_or(|(least, _)| load < least) {
            best = Some((load, place));
        }
    }
    best.map(|(_, place)| place)
}

/// wlc: least load per weight, compared by cross multiplication.
pub(crate) fn weighted_connections(list: List<'_>) -> Option<u32> {
    let mut best = None;
    for (place, d) in list.iter().filter(|(_, d)| d.config.weight > 0 && !d.overloaded) {
        let (load, weight) = (i64::from(load(d)), i64::from(d.config.weight));
        if best.is_none_or(|(least, of, _)| least * weight > load * of) {
            best = Some((load, weight, place));
        }
    }
    best.map(|(_, _, place)| place)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;

    fn fixture(destinations: &[(i32, u32, u32)]) -> Fixture {
        let mut f = Fixture::new(&[]);
        for &(weight, active, connections) in destinations {
            let mut d = Destination::for_test(weight);
            (d.active, d.connections) = (active, connections);
            f.order.push(f.pool.len() as u32);
            f.pool.push(d);
        }
        f
    }

    #[test]
    fn lc_takes_the_least_load_whatever_the_weight() {
        assert_eq!(connections(fixture(&[(1, 2, 2), (1, 1, 3), (100, 1, 4)]).list()), Some(1));
        assert_eq!(connections(fixture(&[(1, 1, 1), (1, 0, 257)]).list()), Some(0), "257 each: the first");
        assert_eq!(connections(fixture(&[(1, 1, 2), (1, 0, 257)]).list()), Some(1));
    }

    #[test]
    fn a_tie_goes_to_the_first() {
        assert_eq!(connections(fixture(&[(1, 3, 3), (1, 3, 3)]).list()), Some(0));
        assert_eq!(weighted_connections(fixture(&[(1, 3, 3), (1, 3, 3)]).list()), Some(0));
        assert_eq!(weighted_connections(fixture(&[(1, 0, 0), (9, 0, 0)]).list()), Some(0));
    }

    #[test]
    fn wlc_takes_the_least_load_per_weight() {
        assert_eq!(weighted_connections(fixture(&[(1, 1, 1), (3, 2, 2)]).list()), Some(1));
        assert_eq!(weighted_connections(fixture(&[(2, 2, 2), (3, 3, 3), (4, 4, 4)]).list()), Some(0));
        assert_eq!(weighted_connections(fixture(&[(0, 0, 0), (3, 30, 30)]).list()), Some(1));
    }

    #[test]
    fn wlc_does_not_overflow() {
        let f = fixture(&[(i32::MAX, u32::MAX / 256, u32::MAX), (i32::MAX, 0, 0)]);
        assert_eq!(weighted_connections(f.list()), Some(1));
    }
}
