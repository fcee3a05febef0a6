//! Frames in pieces, and the Internet checksum over them.

use core::ops::Range;

use crate::buffer::Frame;

/// The bytes of a frame, which may lie in several pieces.
pub trait Bytes {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows the bytes of `range`, piece by piece in order. What lies beyond the end is left out.
    fn visit(&self, range: Range<usize>, seen: &mut dyn FnMut(&[u8]));
}

/// The bytes of a frame that is being made.
pub trait BytesMut: Bytes {
    /// The first bytes, as many as lie together.
    fn head_mut(&mut self) -> &mut [u8];

    /// Copies `bytes` to position `at`. What lies beyond the end is left out.
    fn put(&mut self, at: usize, bytes: &[u8]);
}

impl BytesMut for [u8] {
    fn head_mut(&mut self) -> &mut [u8] {
        self
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let end = (at + bytes.len()).min(<[u8]>::len(self));
        if let Some(target) = self.get_mut(at..end) {
            target.copy_from_slice(&bytes[..end - at]);
        }
    }
}

impl BytesMut for Frame {
    fn head_mut(&mut self) -> &mut [u8] {
        Frame::head_mut(self)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        let (mut skip, mut rest) = (at, bytes);
        for piece in self.segments_mut() {
            let from = skip.min(piece.len());
            skip -= from;
            let count = rest.len().min(piece.len() - from);
            piece[from..from + count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
        }
    }
}

impl Bytes for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn visit(&self, range: Range<usize>, seen: &mut dyn FnMut(&[u8])) {
        let end = range.end.min(<[u8]>::len(self));
        if let Some(bytes) = self.get(range.start..end) {
            seen(bytes);
        }
    }
}

impl Bytes for [&[u8]] {
    fn len(&self) -> usize {
        self.iter().map(|piece| piece.len()).sum()
    }

    fn visit(&self, range: Range<usize>, seen: &mut dyn FnMut(&[u8])) {
        visit(self.iter().copied(), range, seen);
    }
}

impl Bytes for Frame {
    fn len(&self) -> usize {
        Frame::len(self)
    }

    fn visit(&self, range: Range<usize>, seen: &mut dyn FnMut(&[u8])) {
        visit(self.segments(), range, seen);
    }
}

/// Shows the bytes of `range` of the `pieces` together.
fn visit<'a>(pieces: impl Iterator<Item = &'a [u8]>, range: Range<usize>, seen: &mut dyn FnMut(&[u8])) {
    let mut start = 0;
    for piece in pieces {
        let end = start + piece.len();
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            seen(&piece[from - start..to - start]);
        }
        start = end;
    }
}

/// The ones' complement sum (RFC 1071) of a range of a frame, not folded: 16-bit words, big-endian, counted from the
/// beginning of the range wherever the pieces are cut.
pub(super) fn sum(frame: &(impl Bytes + ?Sized), range: Range<usize>) -> u64 {
    let mut total = 0_u64;
    let mut odd = false;
    frame.visit(range, &mut |piece| {
        let mut part = fold(sum_slice(piece));
        if odd {
            // This piece begins in the middle of a word.
            part = part.swap_bytes();
        }
        total += u64::from(part);
        odd ^= piece.len() % 2 == 1;
    });
    total
}

/// The sum of one contiguous piece, which begins with a whole word; a last odd byte is the high half of a word.
pub(super) fn sum_slice(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut total = 0_u64;
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let rest = match *words.remainder() {
        [] => 0,
        [a] => u32::from(a) << 24,
        [a, b] => u32::from_be_bytes([a, b, 0, 0]),
        [a, b, c, ..] => u32::from_be_bytes([a, b, c, 0]),
    };
    // Two halves of a 32-bit word are two 16-bit words to a ones' complement sum.
    total + u64::from(rest)
}

/// Folds a sum to 16 bits.
pub(super) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// RFC 1071 to the letter.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn a_frame_is_written_across_its_buffers() {
        let pool = crate::buffer::Pool::allocate::<crate::fake::FakeHal>(4).unwrap();
        let (length, at) = (5000, 1900);
        let mut frame = pool.frame(length).unwrap();
        let mut plain = std::vec![0; length];
        frame.copy_from_slice(&plain);
        assert!(frame.segment_count() > 1);
        let bytes: Vec<u8> = (0..4000_u32).map(|i| (i % 251) as u8).collect();
        frame.put(at, &bytes);
        plain.put(at, &bytes);
        assert_eq!(plain[at..], bytes[..length - at]);
        let mut copy = std::vec![0; length];
        frame.copy_to_slice(&mut copy);
        assert_eq!(copy, plain);
        frame.put(length + 1, &bytes);
        plain.put(length + 1, &bytes);
        frame.copy_to_slice(&mut copy);
        assert_eq!(copy, plain);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(0_usize..200, 0..6),
            from in 0_usize..220,
            to in 0_usize..220,
        ) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut last = 0;
            for cut in cuts {
                pieces.push(&bytes[last..cut]);
                last = cut;
            }
            pieces.push(&bytes[last..]);
            prop_assert_eq!(Bytes::len(&pieces[..]), bytes.len());
            let (to, range) = (to.min(bytes.len()), from..to);
            let expected = if from <= to { plain(&bytes[from..to]) } else { 0 };
            // 0 and 0xffff are one number in ones' complement.
            let same = |sum: u64| fold(sum) % 0xffff == expected % 0xffff;
            prop_assert!(same(sum(&pieces[..], range.clone())));
            prop_assert!(same(sum(&bytes[..], range)));
        }
    }
}
