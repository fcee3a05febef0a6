//! CRC32c, the checksum of SCTP (RFC 9260 appendix A): of a whole packet, and adjusted to what changes in it.
//!
//! A CRC is linear: what bits that change do to it depends on them and on how many bytes follow, not on what all the others are.
//! So a packet of which only the headers are at hand gets the right checksum, and one that was wrong stays wrong.

/// The polynomial of Castagnoli, its lowest power in the highest bit, as in all below.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The remainder by [`POLYNOMIAL`] of `a` times x.
const fn times_x(a: u32) -> u32 {
    a >> 1 ^ if a & 1 != 0 { POLYNOMIAL } else { 0 }
}

/// The remainder of a product.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 0);
    while bit < 32 {
        // The powers of `a` from the lowest on.
        let mask = (a << bit >> 31).wrapping_neg();
        product ^= b & mask;
        b = times_x(b);
        bit += 1;
    }
    product
}

/// 1, and what eight steps of the register multiply by: x to the eighth power.
const ONE: u32 = 1 << 31;
const BYTE: u32 = ONE >> 8;

/// The first 256 powers of `base`.
const fn powers(base: u32) -> [u32; 256] {
    let mut powers = [ONE; 256];
    let mut at = 1;
    while at < 256 {
        powers[at] = multiply(powers[at - 1], base);
        at += 1;
    }
    powers
}

/// What so many bytes, and so many times 256 bytes, multiply the register by.
static BYTES: [u32; 256] = powers(BYTE);
static BLOCKS: [u32; 256] = powers(multiply(powers(BYTE)[255], BYTE));

/// What eight steps make of the lowest byte of the register.
static STEPS: [u32; 256] = {
    let mut steps = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        steps[byte] = multiply(byte as u32, BYTE);
        byte += 1;
    }
    steps
};

/// The register after some bytes.
fn run(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |crc, byte| crc >> 8 ^ STEPS[usize::from(crc as u8 ^ byte)])
}

/// The register after so many bytes of zeros, fewer than 65536.
fn shift(register: u32, bytes: usize) -> u32 {
    let register = multiply(register, BYTES[bytes & 0xff]);
    multiply(register, BLOCKS[bytes >> 8 & 0xff])
}

/// The checksum of an SCTP packet, whose field may hold anything. It is stored with its lowest byte first.
///
/// `None` if there is no room for a field.
pub(crate) fn sctp(packet: &[u8]) -> Option<u32> {
    let (header, chunks) = packet.split_first_chunk::<12>()?;
    let register = run(run(!0, &header[..8]), &[0; 4]);
    Some(!run(register, chunks))
}

/// The checksum after four bytes have become others; `after` bytes, fewer than 65532, follow them.
pub(crate) fn adjust(checksum: u32, old: [u8; 4], new: [u8; 4], after: usize) -> u32 {
    let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    checksum ^ shift(change, after + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 9260 appendix A has it, bit by bit.
    fn naive(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn values_of_rfc_3720_appendix_b_4() {
        let ascending: std::vec::Vec<u8> = (0..32).collect();
        for (bytes, crc) in [(&[0; 32][..], 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&ascending, 0x46dd_794e)] {
            assert_eq!((!run(!0, bytes), naive(bytes)), (crc, crc));
        }
    }

    #[test]
    fn a_packet_without_room_for_a_checksum_has_none() {
        assert_eq!(sctp(&[0; 11]), None);
        assert_eq!(sctp(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), Some(naive(&[0; 12])));
    }

    proptest! {
        /// Any four bytes of a packet, of any length a packet can have.
        #[test]
        fn adjusting_is_computing_anew(
            length in prop_oneof![4usize..600, 4usize..65516], seed: u8, at: prop::sample::Index, new: [u8; 4], wrong: u32,
        ) {
            let mut packet: std::vec::Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(seed) ^ (i >> 8) as u8).collect();
            let at = at.index(length - 3);
            let (before, after) = (!run(!0, &packet), length - at - 4);
            let old = packet[at..at + 4].try_into().unwrap();
            packet[at..at + 4].copy_from_slice(&new);
            let anew = !run(!0, &packet);
            prop_assert_eq!(adjust(before, old, new, after), anew);
            prop_assert_eq!(adjust(before ^ wrong, old, new, after), anew ^ wrong, "as wrong as it was");
            prop_assert_eq!(adjust(adjust(before, old, new, after), new, old, after), before);
        }

        #[test]
        fn all_that_is_summed_is_as_bit_by_bit(bytes: std::vec::Vec<u8>) {
            prop_assert_eq!(!run(!0, &bytes), naive(&bytes));
        }
    }
}
