//! What a datagram of a UDP test begins with, and the datagrams by which client and server find each other.

/// What the sender put in front: when it sent it, by its clock, and how many it had sent with this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub seconds: u32,
    pub micros: u32,
    /// From 1.
    pub number: u64,
}

/// Bytes of a [`Stamp`] with a number of 64 bits; it is the longer one.
pub(crate) const LONGEST_STAMP: usize = 16;

impl Stamp {
    /// Reads it. `wide` says that the number has 64 bits (`--udp-counters-64bit`).
    pub fn parse(bytes: &[u8], wide: bool) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let number = if wide { u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?) } else { word(8)?.into() };
        Some(Self { seconds: word(0)?, micros: word(4)?, number })
    }

    /// Writes it to the beginning of a payload, which is at least [`LONGEST_STAMP`] long.
    pub fn emit(&self, payload: &mut [u8], wide: bool) {
        let mut bytes = [0; LONGEST_STAMP];
        bytes[..4].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.micros.to_be_bytes());
        let length = if wide {
            bytes[8..].copy_from_slice(&self.number.to_be_bytes());
            LONGEST_STAMP
        } else {
            // It wraps, as iperf3's does.
            bytes[8..12].copy_from_slice(&(self.number as u32).to_be_bytes());
            12
        };
        payload[..length].copy_from_slice(&bytes[..length]);
    }

    /// When it was sent, in seconds by the sender's clock.
    pub fn sent_at(&self) -> f64 {
        f64::from(self.seconds) + f64::from(self.micros) / 1e6
    }
}

/// A client's first datagram on a stream, "6789" (`UDP_CONNECT_MSG`), and the answer, "9876". They are sent in the byte order
/// of the machine.
const HELLO: u32 = 0x3637_3839;
const WELCOME: u32 = 0x3938_3736;
/// The same up to iperf3 3.10.
const OLD_HELLO: u32 = 123_456_789;
const OLD_WELCOME: u32 = 987_654_321;

/// The answer to a client's first datagram, in its version and its byte order; nothing if this is none.
pub(crate) fn welcome(datagram: &[u8]) -> Option<[u8; 4]> {
    let hello: [u8; 4] = datagram.try_into().ok()?;
    for (asked, answer) in [(HELLO, WELCOME), (OLD_HELLO, OLD_WELCOME)] {
        if hello == asked.to_le_bytes() {
            return Some(answer.to_le_bytes());
        }
        if hello == asked.to_be_bytes() {
            return Some(answer.to_be_bytes());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_versions_of_the_greeting_are_answered_in_the_clients_byte_order() {
        assert_eq!(welcome(b"9876"), Some(*b"6789"));
        assert_eq!(welcome(b"6789"), Some(*b"9876"));
        assert_eq!(welcome(&123_456_789_u32.to_le_bytes()), Some(987_654_321_u32.to_le_bytes()));
        assert_eq!(welcome(&123_456_789_u32.to_be_bytes()), Some(987_654_321_u32.to_be_bytes()));
        assert_eq!((welcome(b"987"), welcome(b"98765"), welcome(&[0; 4])), (None, None, None));
    }

    proptest! {
        #[test]
        fn a_stamp_is_read_as_it_was_written(seconds: u32, micros: u32, number: u64, wide: bool) {
            let number = if wide { number } else { number & 0xffff_ffff };
            let stamp = Stamp { seconds, micros, number };
            let mut bytes = [0xaa; 20];
            stamp.emit(&mut bytes, wide);
            prop_assert_eq!(Stamp::parse(&bytes, wide), Some(stamp));
            prop_assert_eq!(Stamp::parse(&bytes[..if wide { 15 } else { 11 }], wide), None);
            prop_assert_eq!(bytes[19], 0xaa);
        }
    }
}
