//! wrr: each in turn, the heavier more often.

use super::List;

/// A level that starts at the greatest weight and sinks by the common divisor of the weights with every round; in each
/// round those have a turn whose weight reaches the level.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Stands on the last one chosen, counted from 1; 0 is the head of the list.
    cursor: usize,
    level: i32,
    top: i32,
    divisor: i32,
}

/// The greatest common divisor of the positive weights, 1 if there are none.
fn common_divisor(list: List<'_>) -> i32 {
    let mut divisor = 0;
    for (_, d) in list.iter().filter(|(_, d)| d.config.weight > 0) {
        let (mut a, mut b) = (d.config.weight, divisor);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        divisor = a;
    }
    divisor.max(1)
}

fn greatest_weight(list: List<'_>) -> i32 {
    list.iter().map(|(_, d)| d.config.weight).max().unwrap_or(0).max(0)
}

impl State {
    pub fn new(list: List<'_>) -> Self {
        let divisor = common_divisor(list);
        let top = greatest_weight(list) - (divisor - 1);
        State { cursor: 0, level: top, top, divisor }
    }

    /// Anything changed: the next round starts at the head, at the level it was on as far as that still is one.
    pub fn changed(&mut self, list: List<'_>) {
        self.cursor = 0;
        self.divisor = common_divisor(list);
        self.top = greatest_weight(list) - (self.divisor - 1);
        if self.level > self.top || self.level == 0 {
            self.level = self.top;
        } else if self.divisor > 1 {
            self.level = self.level / self.divisor * self.divisor + 1;
        }
    }

    /// Sinks to the first level at which somebody has a turn, or to the lowest. The rounds in between would find nobody,
    /// and with great weights there are very many of them.
    fn skip(&mut self, list: List<'_>) {
        let available = list.iter().filter(|(_, d)| !d.overloaded).map(|(_, d)| d.config.weight);
        let reached = available.max().unwrap_or(0).max(1);
        if self.level > reached {
            self.level -= ((self.level - reached - 1) / self.divisor + 1) * self.divisor;
        }
    }

    pub fn choose(&mut self, list: List<'_>) -> Option<u32> {
        if self.top <= 0 {
            return None;
        }
        let start = self.cursor;
        let mut position = start;
        let mut restarted = false;
        let mut last_pass = false;
        loop {
            while position < list.len() {
                position += 1;
                let d = list.get(position - 1);
                if !d.overloaded && d.config.weight >= self.level {
                    self.cursor = position;
                    return Some(list.order[position - 1]);
                }
                if last_pass && position == start {
                    return None;
                }
            }
            position = 0;
            self.level -= self.divisor;
            if self.level <= 0 {
                self.level = self.top;
                // Everything was asked at the lowest level, from the first to the last.
                if last_pass || start == 0 {
                    return None;
                }
                restarted = true;
            }
            self.skip(list);
            last_pass = restarted && self.level <= self.divisor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::super::{List, State as Any};
    use crate::service::Scheduler;
    use alloc::vec;
    use proptest::prelude::*;

    fn start(weights: &[i32]) -> (Fixture, Any) {
        let f = Fixture::new(weights);
        let state = Any::new(Scheduler::WeightedRoundRobin, f.list(), false, 0).unwrap();
        (f, state)
    }

    #[test]
    fn the_heaviest_goes_first_and_the_level_sinks() {
        let (f, mut state) = start(&[4, 3, 2]);
        assert_eq!(f.choices(&mut state, 10), [0, 0, 1, 0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn weights_with_a_common_divisor_are_as_their_quotients() {
        let (f, mut state) = start(&[40, 30, 20]);
        assert_eq!(f.choices(&mut state, 9), [0, 0, 1, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn equal_weights_are_round_robin() {
        let (f, mut state) = start(&[5, 5, 5]);
        assert_eq!(f.choices(&mut state, 5), [0, 1, 2, 0, 1]);
    }

    #[test]
    fn any_change_starts_over_at_the_head() {
        let (mut f, mut state) = start(&[2, 2, 2]);
        assert_eq!(f.choices(&mut state, 2), [0, 1]);
        f.edit(2, 2, &mut state);
        assert_eq!(f.choices(&mut state, 2), [0, 1]);
        f.remove(0, &mut state);
        assert_eq!(f.choices(&mut state, 2), [1, 2]);
        f.add(2, &mut state);
        assert_eq!(f.choices(&mut state, 3), [3, 1, 2]);
    }

    #[test]
    fn the_level_is_capped_when_the_heaviest_leaves() {
        let (mut f, mut state) = start(&[9, 2]);
        assert_eq!(f.choices(&mut state, 3), [0, 0, 0]);
        f.remove(0, &mut state);
        assert_eq!(f.choices(&mut state, 3), [1, 1, 1]);
    }

    #[test]
    fn a_drained_service_wakes_up_when_it_has_weight_again() {
        let (mut f, mut state) = start(&[0]);
        assert_eq!(f.choices(&mut state, 1), [u32::MAX]);
        f.edit(0, 3, &mut state);
        assert_eq!(f.choices(&mut state, 2), [0, 0]);
        f.edit(0, 0, &mut state);
        assert_eq!(f.choices(&mut state, 1), [u32::MAX]);
    }

    /// [`super::State::choose`] with every round gone through, level by level, as Linux does it.
    fn choose_slowly(state: &mut super::State, list: List<'_>) -> Option<u32> {
        let (start, mut position, mut restarted, mut last_pass) = (state.cursor, state.cursor, false, false);
        loop {
            while state.top > 0 && position < list.len() {
                position += 1;
                let d = list.get(position - 1);
                if !d.overloaded && d.config.weight >= state.level {
                    state.cursor = position;
                    return Some(list.order[position - 1]);
                }
                if last_pass && position == start {
                    return None;
                }
            }
            position = 0;
            state.level -= state.divisor;
            if state.top <= 0 {
                return None;
            }
            if state.level <= 0 {
                state.level = state.top;
                if last_pass || start == 0 {
                    return None;
                }
                restarted = true;
            }
            last_pass = restarted && state.level <= state.divisor;
        }
    }

    #[test]
    fn great_weights_that_are_overloaded_cost_no_more_than_small_ones() {
        let (mut f, mut state) = start(&[i32::MAX, 1]);
        f.pool[0].overloaded = true;
        // Level by level this would be two thousand million rounds for each choice.
        assert_eq!(f.choices(&mut state, 1000), [1; 1000]);
        f.pool[1].overloaded = true;
        assert_eq!(f.choices(&mut state, 1000), [u32::MAX; 1000]);
        f.pool[0].overloaded = false;
        assert_eq!(f.choices(&mut state, 2), [0, 0]);
    }

    proptest! {
        #[test]
        fn rounds_that_find_nobody_make_no_difference(
            weights in proptest::collection::vec(0i32..30, 1..6), factor in 1i32..4,
            steps in proptest::collection::vec((0usize..6, any::<bool>(), 1usize..20), 1..20)
        ) {
            let weights: vec::Vec<i32> = weights.iter().map(|w| w * factor).collect();
            let mut f = Fixture::new(&weights);
            let (mut fast, mut slow) = (super::State::new(f.list()), super::State::new(f.list()));
            for (which, overloaded, count) in steps {
                let which = which % weights.len();
                f.pool[which].overloaded = overloaded;
                for _ in 0..count {
                    prop_assert_eq!(fast.choose(f.list()), choose_slowly(&mut slow, f.list()));
                }
            }
        }

        #[test]
        fn a_full_round_gives_each_its_weight(weights in proptest::collection::vec(0i32..20, 1..8)) {
            let (f, mut state) = start(&weights);
            let divisor = weights.iter().filter(|&&w| w > 0).fold(0, |a, &b| {
                let (mut a, mut b) = (a, b);
                while b != 0 { (a, b) = (b, a % b); }
                a
            }).max(1);
            let round: i32 = weights.iter().map(|w| w / divisor).sum();
            let mut counts = vec![0; weights.len()];
            for choice in f.choices(&mut state, 3 * round as usize) {
                counts[choice as usize] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(*count, 3 * weight / divisor);
            }
        }

        #[test]
        fn one_that_is_available_is_always_found(
            weights in proptest::collection::vec((0i32..20, any::<bool>()), 1..8), skip in 0usize..30
        ) {
            let weights_only: vec::Vec<i32> = weights.iter().map(|w| w.0).collect();
            let (mut f, mut state) = start(&weights_only);
            f.choices(&mut state, skip);
            for (d, w) in f.pool.iter_mut().zip(&weights) {
                d.overloaded = w.1;
            }
            let any = weights.iter().any(|&(w, overloaded)| w > 0 && !overloaded);
            prop_assert_eq!(f.choices(&mut state, 1)[0] != u32::MAX, any);
        }
    }
}
