//! lc, wlc, sed and nq: the least loaded.

use super::List;
use crate::service::table::Destination;

/// lc: least load. Weight matters only in that 0 drains.
pub(crate) fn connections(list: List<'_>) -> Option<u32> {
    let mut best = None;
    for (place, d) in list.iter().filter(|(_, d)| d.is_open()) {
        let load = d.load();
        if best.is_none_or(|(least, _)| load < least) {
            best = Some((load, place));
        }
    }
    best.map(|(_, place)| place)
}

/// The least load per weight, compared by cross multiplication: of equal ones the first.
pub(super) fn least_per_weight<'a>(
    candidates: impl Iterator<Item = (u32, &'a Destination)>,
    load: impl Fn(&Destination) -> i64,
) -> Option<u32> {
    let mut best = None;
    for (place, d) in candidates {
        let (load, weight) = (load(d), i64::from(d.config.weight));
        if best.is_none_or(|(least, of, _)| least * weight > load * of) {
            best = Some((load, weight, place));
        }
    }
    best.map(|(_, _, place)| place)
}

/// wlc: least load per weight.
pub(crate) fn weighted_connections(list: List<'_>) -> Option<u32> {
    least_per_weight(list.iter().filter(|(_, d)| d.is_open()), |d| d.load().into())
}

/// What a destination would have to do: the connections that are active, and one more.
fn expected(d: &Destination) -> i64 {
    d.active.wrapping_add(1).into()
}

/// sed: the shortest delay to be expected.
pub(crate) fn expected_delay(list: List<'_>) -> Option<u32> {
    least_per_weight(list.iter().filter(|(_, d)| d.is_open()), expected)
}

/// nq: the first that is idle, or else as sed.
pub(crate) fn never_queue(list: List<'_>) -> Option<u32> {
    let idle = list.iter().find(|(_, d)| d.is_open() && d.active == 0);
    idle.map(|(place, _)| place).or_else(|| expected_delay(list))
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

    #[test]
    fn sed_counts_active_connections_and_one_more() {
        assert_eq!(expected_delay(fixture(&[(1, 0, 900), (3, 1, 1)]).list()), Some(1), "1/1 against 2/3");
        assert_eq!(expected_delay(fixture(&[(1, 0, 0), (2, 1, 1)]).list()), Some(0), "a tie: the first");
        assert_eq!(expected_delay(fixture(&[(0, 0, 0), (2, 9, 9)]).list()), Some(1));
    }

    #[test]
    fn nq_takes_the_first_idle_one_however_light() {
        assert_eq!(never_queue(fixture(&[(9, 1, 1), (1, 0, 500), (5, 0, 0)]).list()), Some(1));
        assert_eq!(never_queue(fixture(&[(0, 0, 0), (1, 1, 1), (5, 2, 2)]).list()), Some(2), "none idle: as sed");
        let mut f = fixture(&[(9, 0, 0), (1, 3, 3)]);
        f.pool[0].overloaded = true;
        assert_eq!(never_queue(f.list()), Some(1));
    }
}
