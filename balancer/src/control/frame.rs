//! Messages on a stream: each behind its length, 32 bits in network order.

use alloc::vec::Vec;

use crate::wire::message;

/// The longest message a peer can send, without its length field: 64 KiB.
pub const MAX_FRAME: usize = 65536;
const LENGTH: usize = 4;

/// What came is no message: nothing behind it can be understood either, so the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length above [`MAX_FRAME`].
    #[error("a message of {0} bytes, above 65536: is it a 32-bit length in network order?")]
    TooLong(u32),
    /// A length below that of a netlink header.
    #[error("a message of {0} bytes, below the 16 of a netlink header")]
    TooShort(u32),
    /// The length in the netlink header is not that of the frame.
    #[error("a netlink message that does not fill its frame")]
    Malformed,
}

/// Collects one message from a stream. Memory grows with the bytes that came, not with the length they promise.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    bytes: Vec<u8>,
}

impl Framer {
    /// A framer at the start of a stream.
    pub const fn new() -> Self {
        Framer { bytes: Vec::new() }
    }

    /// How long the message is, once its length has come.
    fn length(&self) -> Result<Option<usize>, FrameError> {
        let Some(bytes) = self.bytes.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*bytes);
        match length as usize {
            ..message::HEADER => Err(FrameError::TooShort(length)),
            n if n > MAX_FRAME => Err(FrameError::TooLong(length)),
            n => Ok(Some(n)),
        }
    }

    /// Takes bytes up to the end of the message, and tells how many: 0 while a whole one waits to be taken off by
    /// [`Framer::clear`].
    ///
    /// # Errors
    /// [`FrameError::TooLong`], [`FrameError::TooShort`]; again at every call from then on.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let mut taken = 0;
        // First the length, then what it says.
        while let rest @ [_, ..] = &bytes[taken..] {
            let wanted = self.length()?.map_or(LENGTH, |length| LENGTH + length) - self.bytes.len();
            if wanted == 0 {
                break;
            }
            let part = &rest[..rest.len().min(wanted)];
            self.bytes.extend_from_slice(part);
            taken += part.len();
        }
        self.length()?;
        Ok(taken)
    }

    /// The message, once all of it has come.
    pub fn message(&self) -> Option<&[u8]> {
        let length = self.length().ok().flatten()?;
        self.bytes.get(LENGTH..LENGTH + length)
    }

    /// Whether the stream is between two messages.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the message, to begin the next. The memory of a large one is given back.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn framed(length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes().to_vec();
        bytes.resize(LENGTH + length, 0xaa);
        bytes
    }

    #[test]
    fn a_message_is_taken_and_no_more() {
        let mut framer = Framer::new();
        let stream = [framed(20), framed(16)].concat();
        assert_eq!(framer.push(&stream), Ok(24));
        assert_eq!(framer.push(&stream[24..]), Ok(0), "one waits");
        assert_eq!(framer.message().map(<[u8]>::len), Some(20));
        framer.clear();
        assert_eq!(framer.push(&stream[24..]), Ok(20));
        assert_eq!(framer.message().map(<[u8]>::len), Some(16));
    }

    #[test]
    fn lengths_have_limits() {
        assert_eq!(Framer::new().push(&framed(15)), Err(FrameError::TooShort(15)));
        assert_eq!(Framer::new().push(&framed(0)), Err(FrameError::TooShort(0)));
        assert_eq!(Framer::new().push(&[0, 1, 0, 1]), Err(FrameError::TooLong(65537)), "as soon as it is known");
        assert_eq!(Framer::new().push(&framed(MAX_FRAME)), Ok(LENGTH + MAX_FRAME));
        let mut framer = Framer::new();
        assert_eq!(framer.push(b"GET "), Err(FrameError::TooLong(0x4745_5420)));
        assert!(framer.push(b"/").is_err() && framer.message().is_none(), "and it stays so");
    }

    #[test]
    fn memory_follows_what_came() {
        let mut framer = Framer::new();
        framer.push(&[0, 1, 0, 0]).unwrap();
        assert!(framer.bytes.capacity() < 64);
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_messages(lengths in proptest::collection::vec(16usize..200, 1..5), piece in 1usize..70) {
            let stream: Vec<u8> = lengths.iter().flat_map(|&l| framed(l)).collect();
            let (mut framer, mut seen) = (Framer::new(), vec![]);
            for mut part in stream.chunks(piece) {
                while !part.is_empty() {
                    part = &part[framer.push(part).unwrap()..];
                    if let Some(message) = framer.message() {
                        seen.push(message.len());
                        framer.clear();
                    }
                }
            }
            prop_assert_eq!(seen, lengths);
            prop_assert!(framer.is_empty());
        }
    }
}
