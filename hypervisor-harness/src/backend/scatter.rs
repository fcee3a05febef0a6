//! A run of guest memory in pieces, as a descriptor chain describes it.

use std::marker::PhantomData;

/// Guest memory of one frame, in the order of its descriptors. It is shared with a running guest, which may change it at
/// any time: bytes are copied in and out, never borrowed.
#[derive(Debug)]
pub struct Scatter<'m> {
    pieces: &'m [libc::iovec],
    length: usize,
    memory: PhantomData<&'m ()>,
}

impl<'m> Scatter<'m> {
    /// Describes `pieces`.
    ///
    /// # Safety
    /// Each piece lies wholly inside memory that is mapped readable and writable for `'m`, and to which no Rust
    /// reference exists (guest RAM; or, in tests, a buffer that nothing else touches meanwhile).
    #[must_use]
    pub unsafe fn new(pieces: &'m [libc::iovec]) -> Self {
        Self { pieces, length: pieces.iter().map(|piece| piece.iov_len).sum(), memory: PhantomData }
    }

    /// The number of bytes in all pieces together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no byte at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces, for `readv` and `writev`.
    #[must_use]
    pub fn pieces(&self) -> &[libc::iovec] {
        self.pieces
    }

    /// Copies bytes out, from `offset` on. Returns how many there were, at most `into.len()`.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> usize {
        self.visit(offset, into.len(), |guest, done, count| {
            // SAFETY: `guest` points at `count` mapped bytes (the promise of `new`, with the bounds kept by `visit`), and
            // `into` has `count` bytes from `done` on. Nothing in Rust refers to guest memory, so they cannot overlap.
            unsafe { std::ptr::copy_nonoverlapping(guest, into[done..done + count].as_mut_ptr(), count) }
        })
    }

    /// Copies bytes in, from `offset` on. Returns how many found room, at most `from.len()`.
    pub fn write(&mut self, offset: usize, from: &[u8]) -> usize {
        self.visit(offset, from.len(), |guest, done, count| {
            // SAFETY: as in `read`, with the direction turned round; `&mut self` and the promise of `new` allow writing.
            unsafe { std::ptr::copy_nonoverlapping(from[done..done + count].as_ptr(), guest, count) }
        })
    }

    /// Calls `copy(guest, done, count)` for each contiguous part of `offset .. offset + wanted`.
    fn visit(&self, mut offset: usize, wanted: usize, mut copy: impl FnMut(*mut u8, usize, usize)) -> usize {
        let mut done = 0;
        for piece in self.pieces {
            if done == wanted {
                break;
            }
            if offset >= piece.iov_len {
                offset -= piece.iov_len;
                continue;
            }
            let count = (piece.iov_len - offset).min(wanted - done);
            copy(piece.iov_base.cast::<u8>().wrapping_add(offset), done, count);
            done += count;
            offset = 0;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_across_pieces() {
        let (mut a, mut b) = ([0_u8; 3], [0_u8; 5]);
        let pieces = [
            libc::iovec { iov_base: a.as_mut_ptr().cast(), iov_len: a.len() },
            libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() },
        ];
        // SAFETY: the pieces are the two arrays above, touched only through `scatter` while it lives.
        let mut scatter = unsafe { Scatter::new(&pieces) };
        assert_eq!((scatter.len(), scatter.is_empty()), (8, false));
        assert_eq!(scatter.write(1, &[1, 2, 3, 4]), 4);
        let mut back = [9; 8];
        assert_eq!(scatter.read(0, &mut back), 8);
        assert_eq!(back, [0, 1, 2, 3, 4, 0, 0, 0]);
        assert_eq!(scatter.write(6, &[7, 7, 7, 7]), 2, "what finds no room is not written");
        assert_eq!(scatter.read(8, &mut back), 0);
        assert_eq!((a, b), ([0, 1, 2], [3, 4, 0, 7, 7]));
    }
}
