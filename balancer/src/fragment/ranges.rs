//! Which parts of a datagram have come.

/// How many parts with gaps between them may have come of a datagram at one time. Every other one of the largest datagram there is
/// is 27 over links of IPv6's least MTU, 1280.
pub(super) const MOST: usize = 32;

/// Parts of a datagram, in order, none touching another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Start and end, in bytes.
    parts: [(u16, u16); MOST],
    len: u8,
}

/// What a further part is to those that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// It was missing.
    New,
    /// All of it has come before.
    Again,
    /// Some of it has come before and some has not. No honest sender's network makes such (RFC 5722).
    Wrong,
    /// It would leave more gaps than can be remembered. It may come again later.
    TooMany,
}

impl Ranges {
    /// Takes a part that is not empty.
    pub fn add(&mut self, start: u16, end: u16) -> Added {
        let parts = &self.parts[..self.len.into()];
        // The first that reaches as far as this one begins.
        let at = parts.iter().position(|&(_, to)| to >= start).unwrap_or(parts.len());
        let (mut low, mut high, mut joined) = (start, end, 0);
        for &(from, to) in &parts[at..] {
            if from > end {
                break;
            }
            if from <= start && end <= to {
                return Added::Again;
            }
            if from < end && start < to {
                return Added::Wrong;
            }
            (low, high, joined) = (low.min(from), high.max(to), joined + 1);
        }
        let len = usize::from(self.len);
        if joined == 0 {
            if len == MOST {
                return Added::TooMany;
            }
            self.parts.copy_within(at..len, at + 1);
        } else {
            self.parts.copy_within(at + joined..len, at + 1);
        }
        self.parts[at] = (low, high);
        self.len = (len + 1 - joined) as u8;
        Added::New
    }

    /// Where the last of them ends; 0 if nothing has come.
    pub fn end(&self) -> u16 {
        self.len.checked_sub(1).map_or(0, |last| self.parts[usize::from(last)].1)
    }

    /// Whether all has come up to a place.
    pub fn is_whole(&self, end: u16) -> bool {
        self.len == 1 && self.parts[0] == (0, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_grow_together() {
        let mut ranges = Ranges::default();
        assert_eq!([ranges.add(16, 24), ranges.add(0, 8), ranges.add(8, 16)], [Added::New; 3]);
        assert_eq!((ranges.len, ranges.end(), ranges.is_whole(24), ranges.is_whole(32)), (1, 24, true, false));
        assert_eq!([ranges.add(0, 24), ranges.add(8, 16)], [Added::Again; 2]);
        assert_eq!([ranges.add(16, 32), ranges.add(0, 32)], [Added::Wrong; 2]);
    }

    proptest! {
        /// As a list of bytes would say it, up to the limit of gaps.
        #[test]
        fn it_is_as_byte_by_byte(pieces in proptest::collection::vec((0u16..120, 1u16..4), 0..90)) {
            let (mut ranges, mut bytes) = (Ranges::default(), [false; 140]);
            for (start, len) in pieces {
                let (start, end) = (start, start + len);
                let there = (start..end).filter(|&at| bytes[usize::from(at)]).count();
                let before = ranges;
                let gaps = |bytes: &[bool]| bytes.windows(2).filter(|w| w[1] && !w[0]).count() + usize::from(bytes[0]);
                let added = ranges.add(start, end);
                if there == usize::from(len) {
                    prop_assert_eq!((added, ranges), (Added::Again, before));
                } else if there != 0 {
                    prop_assert_eq!((added, ranges), (Added::Wrong, before));
                } else {
                    let mut after = bytes;
                    (start..end).for_each(|at| after[usize::from(at)] = true);
                    if gaps(&after) > MOST {
                        prop_assert_eq!((added, ranges), (Added::TooMany, before));
                    } else {
                        prop_assert_eq!(added, Added::New);
                        bytes = after;
                    }
                }
                prop_assert_eq!(usize::from(ranges.len), gaps(&bytes));
                prop_assert_eq!(usize::from(ranges.end()), bytes.iter().rposition(|&b| b).map_or(0, |at| at + 1));
                let whole = bytes.iter().position(|&b| !b).unwrap_or(140) == usize::from(ranges.end());
                prop_assert_eq!(ranges.is_whole(ranges.end()), whole && ranges.end() != 0);
            }
        }
    }
}
