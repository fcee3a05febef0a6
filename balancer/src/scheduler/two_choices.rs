//! twos: the better of two drawn at random (Mitzenmacher 2001).

use super::List;

/// Draws by weight. Linux draws from the kernel's pool of random numbers; here they follow from a seed, since nothing is
/// known of the outside.
#[derive(Clone, Debug)]
pub(crate) struct State {
    random: u64,
}

impl State {
    pub fn new(seed: u64) -> Self {
        State { random: seed }
    }

    /// SplitMix64 (Steele et al. 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to and with `most`.
    fn draw(&mut self, most: u64) -> i64 {
        ((u128::from(self.next()) * (u128::from(most) + 1)) >> 64) as i64
    }

    pub fn choose(&mut self, list: List<'_>) -> Option<u32> {
        let open = || list.iter().filter(|(_, d)| d.is_open());
        let total = open().map(|(_, d)| d.config.weight as u64).sum();
        let mut left = [self.draw(total), self.draw(total)];
        let mut drawn = [None; 2];
        for (place, d) in open() {
            for (left, drawn) in left.iter_mut().zip(&mut drawn) {
                *left -= i64::from(d.config.weight);
                if *left <= 0 && drawn.is_none() {
                    *drawn = Some((place, d.config.weight, d.load() as i32));
                }
            }
            if let [Some((first, weight, load)), Some((second, other_weight, other_load))] = drawn {
                // In 32 bits, as Linux has it.
                let is_better = other_weight.wrapping_mul(load) > weight.wrapping_mul(other_load);
                return Some(if is_better { second } else { first });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fixture;
    use super::*;
    use alloc::vec;

    fn counts(f: &Fixture, count: usize) -> vec::Vec<usize> {
        let mut state = State::new(7);
        let mut counts = vec![0; f.pool.len()];
        for _ in 0..count {
            counts[state.choose(f.list()).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn idle_ones_are_drawn_by_weight() {
        // 0 counts for the first: of 0 to 8, five fall to it, three to the second, one to the third.
        let counts = counts(&Fixture::new(&[4, 3, 1]), 90_000);
        for (count, expected) in counts.iter().zip([50_000, 30_000, 10_000]) {
            assert!(count.abs_diff(expected) < 1500, "{counts:?}");
        }
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let mut f = Fixture::new(&[1, 1]);
        f.pool[0].connections = 100;
        f.pool[1].connections = 1;
        // Of 0, 1 and 2 two fall to the first: it is taken if both draws are.
        let counts = counts(&f, 90_000);
        assert!(counts[0].abs_diff(40_000) < 1500, "{counts:?}");
    }

    #[test]
    fn there_is_always_one_if_one_is_open() {
        let mut f = Fixture::new(&[0, i32::MAX, i32::MAX]);
        f.pool[1].overloaded = true;
        assert_eq!(counts(&f, 100), [0, 0, 100]);
    }
}
