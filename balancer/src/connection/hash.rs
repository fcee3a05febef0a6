//! The keyed hash of the connection table: SipHash-1-3 over whole words.
//!
//! Clients choose their addresses and ports, so an unkeyed hash would let them fill one chain. SipHash with a secret key
//! does not, and one round a word costs little.

/// A secret key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(pub [u64; 2]);

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn round(&mut self) {
        let [a, b, c, d] = &mut self.0;
        *a = a.wrapping_add(*b);
        *b = b.rotate_left(13) ^ *a;
        *a = a.rotate_left(32);
        *c = c.wrapping_add(*d);
        *d = d.rotate_left(16) ^ *c;
        *a = a.wrapping_add(*d);
        *d = d.rotate_left(21) ^ *a;
        *c = c.wrapping_add(*b);
        *b = b.rotate_left(17) ^ *c;
        *c = c.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }
}

impl Key {
    /// The hash of `words`, of which the last one's highest byte is zero. The number of words is part of it, so words of different
    /// number do not collide by design.
    #[inline]
    pub fn hash<const N: usize>(&self, words: [u64; N]) -> u32 {
        debug_assert!(words.last().is_some_and(|last| last >> 56 == 0));
        let [k0, k1] = self.0;
        let mut state = State([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ]);
        for (nth, word) in (1..).zip(words) {
            // The last block ends with the length of the whole in bytes: the message is one byte short of it.
            state.absorb(if nth == N { word | (8 * N as u64 - 1) << 56 } else { word });
        }
        state.0[2] ^= 0xff;
        (0..3).for_each(|_| state.round());
        let hash = state.0.iter().fold(0, |x, y| x ^ y);
        (hash ^ (hash >> 32)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    #[test]
    fn it_is_siphash_1_3() {
        // std's DefaultHasher is SipHash-1-3 with the key 0, 0.
        for words in [[0, 0], [u64::MAX, 1], [0x0123_4567_89ab_cdef, 42], [7, u64::MAX >> 8]] {
            let mut reference = std::collections::hash_map::DefaultHasher::new();
            reference.write(&words.map(u64::to_le_bytes).concat()[..15]);
            let expected = reference.finish();
            assert_eq!(Key([0, 0]).hash(words), (expected ^ (expected >> 32)) as u32);
        }
    }

    #[test]
    fn the_key_matters() {
        assert_ne!(Key([1, 2]).hash([1, 2]), Key([1, 3]).hash([1, 2]));
    }
}
