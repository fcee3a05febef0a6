//! fo and ovf: the heaviest, as long as it can.

use super::List;
use crate::service::table::Destination;

/// The heaviest of the candidates; of equal ones the first.
fn heaviest<'a>(candidates: impl Iterator<Item = (u32, &'a Destination)>) -> Option<u32> {
    let mut best = None;
    for (place, d) in candidates {
        if best.is_none_or(|(most, _)| d.config.weight > most) {
            best = Some((d.config.weight, place));
        }
    }
    best.map(|(_, place)| place)
}

/// fo: the heaviest takes everything.
pub(crate) fn failover(list: List<'_>) -> Option<u32> {
    heaviest(list.iter().filter(|(_, d)| d.is_open()))
}

/// ovf: the heaviest that has not more active connections than weight.
pub(crate) fn overflow(list: List<'_>) -> Option<u32> {
    heaviest(list.iter().filter(|(_, d)| d.is_open() && i64::from(d.active) <= i64::from(d.config.weight)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;

    #[test]
    fn fo_takes_the_heaviest_until_it_fails() {
        let mut f = Fixture::new(&[2, 9, 5, 9]);
        f.pool[1].active = 1000;
        assert_eq!(failover(f.list()), Some(1), "the first of two, whatever its load");
        f.pool[1].overloaded = true;
        f.pool[3].config.weight = 0;
        assert_eq!(failover(f.list()), Some(2));
    }

    #[test]
    fn ovf_goes_on_when_there_are_more_connections_than_weight() {
        let mut f = Fixture::new(&[2, 9, 5]);
        f.pool[1].active = 9;
        assert_eq!(overflow(f.list()), Some(1), "as many are not more");
        f.pool[1].active = 10;
        assert_eq!(overflow(f.list()), Some(2));
        f.pool[2].active = 6;
        f.pool[0].active = 3;
        assert_eq!(overflow(f.list()), None);
    }
}
