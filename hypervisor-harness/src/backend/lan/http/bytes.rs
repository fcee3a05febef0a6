//! The bytes of large transfers: a pattern that both ends can make, and a hash that both can compute.

/// After so many bytes the pattern begins again. A prime, so that no power of two divides it and a piece that is missing,
/// doubled or in the wrong place does not look right.
pub const PERIOD: usize = 251;

/// Fills `room` with the pattern of `/bytes/N` from `offset` on: byte number `i` is `i % 251`.
pub fn pattern(offset: u64, room: &mut [u8]) {
    let mut next = (offset % PERIOD as u64) as usize;
    for piece in room.chunks_mut(TABLE.len() - PERIOD) {
        piece.copy_from_slice(&TABLE[next..next + piece.len()]);
        next = (next + piece.len()) % PERIOD;
    }
}

/// Many periods, to be copied from.
static TABLE: [u8; PERIOD * 33] = {
    let mut table = [0; PERIOD * 33];
    let mut at = 0;
    while at < table.len() {
        table[at] = (at % PERIOD) as u8;
        at += 1;
    }
    table
};

/// The hash with which `/sink` replies: FNV-1a of 64 bits, taken over the body's 8-byte little-endian words instead of its
/// bytes, the last word filled up with zeroes, and then over the body's length as one more word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash {
    state: u64,
    /// Bytes of a word that is not complete, in its low end.
    partial: u64,
    length: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325, partial: 0, length: 0 }
    }
}

impl Hash {
    /// Takes in more of the body.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !self.length.is_multiple_of(8) || bytes.len() < 8 {
            let Some((byte, rest)) = bytes.split_first() else { return };
            self.partial |= u64::from(*byte) << (self.length % 8 * 8);
            self.length += 1;
            bytes = rest;
            if self.length.is_multiple_of(8) {
                let word = std::mem::take(&mut self.partial);
                self.word(word);
            }
        }
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        self.length += words.len() as u64 * 8;
        self.update(rest);
    }

    fn word(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// The bytes taken in so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The hash of all that was taken in.
    #[must_use]
    pub fn finish(mut self) -> u64 {
        if !self.length.is_multiple_of(8) {
            let word = self.partial;
            self.word(word);
        }
        self.word(self.length);
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pattern_goes_on_where_it_stopped() {
        let mut whole = vec![0; 20_000];
        pattern(0, &mut whole);
        assert!(whole.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % PERIOD));
        let mut piece = vec![0; 9000];
        pattern(1234, &mut piece);
        assert_eq!(piece, whole[1234..10_234]);
    }

    proptest! {
        #[test]
        fn the_hash_does_not_depend_on_the_pieces(body: Vec<u8>, cuts in prop::collection::vec(0..100_usize, 0..5)) {
            let mut whole = Hash::default();
            whole.update(&body);
            let (mut pieces, mut rest) = (Hash::default(), &body[..]);
            for cut in cuts {
                let (piece, others) = rest.split_at(cut.min(rest.len()));
                pieces.update(piece);
                rest = others;
            }
            pieces.update(rest);
            prop_assert_eq!(pieces.finish(), whole.finish());
            prop_assert_eq!(pieces.length(), body.len() as u64);
        }
    }
}
