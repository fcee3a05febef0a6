//! rr: each in turn.

use super::List;

/// The cursor stands on the last one chosen, counted from 1; 0 is the head of the list, before the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    cursor: usize,
}

impl State {
    /// The first available one after the cursor, going round once.
    pub fn choose(&mut self, list: List<'_>) -> Option<u32> {
        let available = |position: usize| {
            let d = list.get(position - 1);
            d.config.weight > 0 && !d.overloaded
        };
        let found = (self.cursor + 1..=list.len()).chain(1..=self.cursor).find(|&position| available(position))?;
        self.cursor = found;
        Some(list.order[found - 1])
    }

    /// One more at the head: the cursor stays on its destination.
    pub fn added(&mut self) {
        if self.cursor > 0 {
            self.cursor += 1;
        }
    }

    /// The cursor stays on its destination, or goes to the one before it if that is the one removed.
    pub fn removed(&mut self, position: usize) {
        if self.cursor > position {
            self.cursor -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State as Any;
    use super::super::tests::Fixture;
    use crate::service::Scheduler;

    fn start(weights: &[i32]) -> (Fixture, Any) {
        let f = Fixture::new(weights);
        let state = Any::new(Scheduler::RoundRobin, f.list(), false, 0).unwrap();
        (f, state)
    }

    #[test]
    fn the_newest_is_first_and_each_has_its_turn() {
        let (mut f, mut state) = start(&[]);
        for _ in 0..3 {
            f.add(1, &mut state);
        }
        assert_eq!(f.choices(&mut state, 5), [2, 1, 0, 2, 1]);
    }

    #[test]
    fn weight_zero_is_skipped_and_other_weights_make_no_difference() {
        let (f, mut state) = start(&[7, 0, 1]);
        assert_eq!(f.choices(&mut state, 4), [0, 2, 0, 2]);
    }

    #[test]
    fn deleting_the_cursor_moves_it_to_its_predecessor() {
        let (mut f, mut state) = start(&[1, 1, 1, 1]);
        assert_eq!(f.choices(&mut state, 3), [0, 1, 2]);
        f.remove(2, &mut state);
        assert_eq!(f.choices(&mut state, 2), [3, 0]);
        f.remove(0, &mut state);
        assert_eq!(f.choices(&mut state, 2), [1, 3], "the predecessor of the first is the head");
    }

    #[test]
    fn deleting_another_keeps_the_turn() {
        let (mut f, mut state) = start(&[1, 1, 1, 1]);
        assert_eq!(f.choices(&mut state, 2), [0, 1]);
        f.remove(0, &mut state);
        assert_eq!(f.choices(&mut state, 1), [2]);
        f.remove(3, &mut state);
        assert_eq!(f.choices(&mut state, 2), [1, 2]);
    }

    #[test]
    fn a_new_one_waits_for_the_next_round_and_an_edit_moves_nothing() {
        let (mut f, mut state) = start(&[1, 1]);
        assert_eq!(f.choices(&mut state, 1), [0]);
        f.add(1, &mut state);
        f.edit(0, 9, &mut state);
        assert_eq!(f.choices(&mut state, 4), [1, 2, 0, 1]);
    }

    #[test]
    fn the_last_chosen_is_chosen_again_if_it_is_the_only_one_left() {
        let (mut f, mut state) = start(&[1, 1]);
        assert_eq!(f.choices(&mut state, 1), [0]);
        f.pool[1].overloaded = true;
        assert_eq!(f.choices(&mut state, 2), [0, 0]);
    }
}
