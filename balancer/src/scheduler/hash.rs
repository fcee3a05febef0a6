//! The hashes of Linux that decide where a client or a service lands: they are to be the same bit for bit, so they have
//! fixed keys or none, and whoever knows the rules knows who gets where. What is to withstand clients that choose their
//! addresses is hashed by [`connection::hash`](crate::connection::hash).

use core::net::IpAddr;

/// Buckets of the tables of dh and sh (IP_VS_DH_TAB_SIZE, IP_VS_SH_TAB_SIZE).
pub(super) const BUCKETS: usize = 1 << BITS;
const BITS: u32 = 8;

/// An address as one number in host order: the four words of an IPv6 address by exclusive or.
pub(super) fn fold(address: &IpAddr) -> u32 {
    match address {
        IpAddr::V4(a) => a.to_bits(),
        IpAddr::V6(a) => {
            let bits = a.to_bits();
            (0..4).fold(0, |folded, word| folded ^ (bits >> (32 * word)) as u32)
        }
    }
}

/// The bucket of a number: hash_32 of include/linux/hash.h with 8 bits.
pub(super) fn bucket(number: u32) -> usize {
    (number.wrapping_mul(0x61c8_8647) >> (32 - BITS)) as usize
}

/// hsiphash of one word on a 64-bit kernel: SipHash-1-3 of a final block of four bytes, and of that the low half.
pub(super) fn siphash_word(key: u64, word: u32) -> u32 {
    // Both halves of the key are the same.
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    let block = 4 << 56 | u64::from(word);
    v[3] ^= block;
    round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

fn round([a, b, c, d]: &mut [u64; 4]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_folded_in_host_order() {
        assert_eq!(fold(&"192.0.2.1".parse().unwrap()), 0xc000_0201);
        assert_eq!(
            fold(&"2001:db8:0:1:2:3:4:5".parse().unwrap()),
            0x2001_0db8 ^ 0x0000_0001 ^ 0x0002_0003 ^ 0x0004_0005
        );
    }

    #[test]
    fn buckets_are_those_of_hash_32() {
        assert_eq!(bucket(fold(&"192.0.2.1".parse().unwrap())), 50);
        assert_eq!(bucket(0), 0);
    }

    #[test]
    fn one_word_is_hashed_as_linux_does() {
        // Of 10.0.0.1 and port 0, with the two keys of Maglev hashing.
        assert_eq!(siphash_word(2_654_435_761, 0x0a00_0001), 0x0308_0ce4);
        assert_eq!(siphash_word(2_654_446_892, 0x0a00_0001), 0x48f9_d0c1);
    }

    #[test]
    fn it_is_siphash_1_3() {
        use std::hash::Hasher;
        let mut reference = std::collections::hash_map::DefaultHasher::new();
        reference.write_u32(0x1234_5678);
        assert_eq!(siphash_word(0, 0x1234_5678), reference.finish() as u32);
    }
}
