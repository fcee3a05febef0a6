//! The Internet checksum (RFC 1071), made anew and adjusted (RFC 1624).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A one's complement sum of 16-bit big-endian words that is still growing.
///
/// Addition is of 64 bits and folded at the end: with words of 32 bits, 2^32 of them fit before it could overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Nothing yet.
    pub const ZERO: Sum = Sum(0);

    /// The pseudo-header of a packet (RFC 793 section 3.1, RFC 8200 section 8.1). `length` is that of transport header
    /// and payload, in bytes.
    pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
        Sum::ZERO.address(source).address(destination).word(protocol.into()).long(length)
    }

    /// Adds a word, in host order.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word))
    }

    /// Adds two words, in host order.
    #[inline]
    #[must_use]
    pub fn long(self, long: u32) -> Sum {
        Sum(self.0 + u64::from(long))
    }

    /// Adds the words of an address.
    #[inline]
    #[must_use]
    pub fn address(self, address: IpAddr) -> Sum {
        match address {
            IpAddr::V4(a) => self.v4(a),
            IpAddr::V6(a) => self.v6(a),
        }
    }

    /// Adds the words of an IPv4 address.
    #[inline]
    #[must_use]
    pub fn v4(self, address: Ipv4Addr) -> Sum {
        self.long(address.to_bits())
    }

    /// Adds the words of an IPv6 address.
    #[inline]
    #[must_use]
    pub fn v6(self, address: Ipv6Addr) -> Sum {
        let bits = address.to_bits();
        self.long(bits as u32).long((bits >> 32) as u32).long((bits >> 64) as u32).long((bits >> 96) as u32)
    }

    /// Adds bytes that begin at an even place of what is summed. An odd last byte counts as the high half of a word, so
    /// that only the last piece may have one.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let mut sum = self.0;
        let (chunks, rest) = bytes.as_chunks::<16>();
        for chunk in chunks {
            let (longs, _) = chunk.as_chunks::<4>();
            sum += longs.iter().map(|long| u64::from(u32::from_be_bytes(*long))).sum::<u64>();
        }
        let (pairs, last) = rest.as_chunks::<2>();
        for &pair in pairs {
            sum += u64::from(u16::from_be_bytes(pair));
        }
        if let [byte] = last {
            sum += u64::from(*byte) << 8;
        }
        Sum(sum)
    }

    /// The sum in 16 bits.
    #[inline]
    pub fn fold(self) -> u16 {
        // Carries come in again at the other end, first those out of 32 bits, then those out of 16: a sum with its own halves
        // exchanged has in its upper half what both halves make, and the carry of the lower half.
        let (sum, carry) = (self.0 as u32).overflowing_add((self.0 >> 32) as u32);
        let sum = sum.wrapping_add(carry.into());
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The checksum that makes the sum of everything, itself included, all ones.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether this sum, of bytes that hold their checksum, is that of intact bytes.
    #[inline]
    pub fn is_intact(self) -> bool {
        self.fold() == 0xffff
    }
}

/// How a sum changes when words are replaced by others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta(Sum);

impl Delta {
    /// No change.
    pub const ZERO: Delta = Delta(Sum::ZERO);

    /// A word, in host order, becomes another.
    #[inline]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Delta {
        Delta(self.0.word(!old).word(new))
    }

    /// An address becomes another of the same family.
    #[inline]
    #[must_use]
    pub fn address(self, old: IpAddr, new: IpAddr) -> Delta {
        match (old, new) {
            (IpAddr::V4(old), IpAddr::V4(new)) => self.v4(old, new),
            (IpAddr::V6(old), IpAddr::V6(new)) => self.v6(old, new),
            (old, new) => {
                debug_assert!(false, "{old} cannot become {new}");
                self
            }
        }
    }

    /// An IPv4 address becomes another.
    #[inline]
    #[must_use]
    pub fn v4(self, old: Ipv4Addr, new: Ipv4Addr) -> Delta {
        Delta(self.0.long(!old.to_bits()).v4(new))
    }

    /// An IPv6 address becomes another.
    #[inline]
    #[must_use]
    pub fn v6(self, old: Ipv6Addr, new: Ipv6Addr) -> Delta {
        Delta(self.0.v6(Ipv6Addr::from_bits(!old.to_bits())).v6(new))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Delta) -> Delta {
        Delta(Sum(self.0.0 + other.0.0))
    }

    /// The checksum after the change, by RFC 1624, equation 3.
    #[inline]
    pub fn adjust(self, checksum: u16) -> u16 {
        self.0.word(!checksum).checksum()
    }

    /// The sum (not complemented) after the change: for what a checksum field holds that is to be completed later.
    #[inline]
    pub fn adjust_partial(self, sum: u16) -> u16 {
        self.0.word(sum).fold()
    }
}

/// What the checksum field of TCP or UDP becomes, given what it holds (host order).
///
/// A partial field (see [`Partial`](crate::Partial)) holds the sum of the pseudo-header: only the addresses change it,
/// the ports are summed when it is completed. A UDP datagram over IPv4 without a checksum (0) stays without (RFC 768);
/// over IPv6 such a one is to be dropped before this. Sums that come out as 0 are sent as 0xffff in UDP.
#[inline]
pub(crate) fn adjust_transport(field: u16, is_udp: bool, is_partial: bool, addresses: Delta, ports: Delta) -> u16 {
    if is_partial {
        return addresses.adjust_partial(field);
    }
    if !is_udp {
        return addresses.and(ports).adjust(field);
    }
    match field {
        0 => 0,
        _ => match addresses.and(ports).adjust(field) {
            0 => 0xffff,
            sum => sum,
        },
    }
}

/// Whether an IPv4 header with its checksum in it, a multiple of four bytes, is right. In which order the bytes of its words are
/// read does not matter for that (RFC 1071, section 2(B)).
#[inline]
pub(crate) fn is_header_intact(header: &[u8]) -> bool {
    let (longs, _) = header.as_chunks::<4>();
    Sum(longs.iter().map(|long| u64::from(u32::from_ne_bytes(*long))).sum()).is_intact()
}

/// The checksum of an IPv4 header, whose field may hold anything.
pub(crate) fn ipv4_header(header: &[u8]) -> u16 {
    match header.split_at_checked(10) {
        Some((front, [_, _, rest @ ..])) => Sum::ZERO.bytes(front).bytes(rest).checksum(),
        _ => Sum::ZERO.bytes(header).checksum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// As RFC 1071 section 4.1 has it.
    pub(crate) fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u32 = 0;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        let sum = Sum::ZERO.bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), 0xddf2);
    }

    #[test]
    fn example_of_rfc_1624_section_4() {
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).adjust(0xdd2f), 0x0000);
    }

    #[test]
    fn a_udp_checksum_is_never_made_zero_and_none_stays_none() {
        let ports = Delta::ZERO.word(0x5555, 0x3285);
        assert_eq!(adjust_transport(0xdd2f, true, false, Delta::ZERO, ports), 0xffff);
        assert_eq!(adjust_transport(0xdd2f, false, false, Delta::ZERO, ports), 0);
        assert_eq!(adjust_transport(0, true, false, Delta::ZERO, ports), 0);
        assert_eq!(adjust_transport(0x1234, true, true, Delta::ZERO, ports), 0x1234);
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|a| Ipv4Addr::from(a).into()),
            any::<u128>().prop_map(|a| Ipv6Addr::from(a).into())
        ]
    }

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }
    }

    proptest! {
        #[test]
        fn folding_is_the_remainder_by_all_ones(sum in prop_oneof![any::<u64>(), 0u64..0x3_0000, Just(u64::from(u32::MAX))]) {
            // Of the two zeros there are, only nothing at all makes the first.
            let expected = if sum == 0 { 0 } else { ((sum - 1) % 0xffff + 1) as u16 };
            prop_assert_eq!(Sum(sum).fold(), expected);
        }

        #[test]
        fn bytes_are_summed_as_word_by_word(bytes: Vec<u8>, split: prop::sample::Index) {
            let split = split.index(bytes.len() + 1) & !1;
            let sum = Sum::ZERO.bytes(&bytes[..split]).bytes(&bytes[split..]);
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }

        #[test]
        fn the_pseudo_header_is_summed_as_its_bytes(a in address(), b in address(), protocol: u8, length: u32) {
            let mut bytes = octets(a);
            bytes.extend(octets(b));
            bytes.extend([0, 0, 0, protocol]);
            bytes.extend(length.to_be_bytes());
            prop_assert_eq!(Sum::pseudo_header(a, b, protocol, length).checksum(), naive(&bytes));
        }

        /// A change of words at even places adjusts to what summing anew gives, but for the two zeros, which RFC 1624
        /// keeps apart only for data of zeros: the first word is none.
        #[test]
        fn adjusting_is_summing_anew(
            mut bytes in prop::collection::vec(any::<u8>(), 60..200), first in 1u8..,
            old_v4: u32, new_v4: u32, old_v6: u128, new_v6: u128, old: u16, new: u16,
        ) {
            bytes[0] = first;
            bytes[4..8].copy_from_slice(&old_v4.to_be_bytes());
            bytes[8..24].copy_from_slice(&old_v6.to_be_bytes());
            bytes[24..26].copy_from_slice(&old.to_be_bytes());
            let before = naive(&bytes);
            bytes[4..8].copy_from_slice(&new_v4.to_be_bytes());
            bytes[8..24].copy_from_slice(&new_v6.to_be_bytes());
            bytes[24..26].copy_from_slice(&new.to_be_bytes());
            let addresses = Delta::ZERO
                .address(Ipv4Addr::from(old_v4).into(), Ipv4Addr::from(new_v4).into())
                .address(Ipv6Addr::from(old_v6).into(), Ipv6Addr::from(new_v6).into());
            let ports = Delta::ZERO.word(old, new);
            let after = naive(&bytes);
            prop_assert_eq!(addresses.and(ports).adjust(before), after);
            prop_assert_eq!(addresses.and(ports).adjust_partial(!before), !after);
            prop_assert_eq!(adjust_transport(before, false, false, addresses, ports), after);
        }

        /// A partial checksum whose addresses are adjusted completes to the checksum of the changed packet.
        #[test]
        fn a_partial_checksum_completes_right(
            from: u32, to: u32, new_to: u32, payload in prop::collection::vec(any::<u8>(), 8..100), port: u16,
        ) {
            let [from, to, new_to] = [from, to, new_to].map(|a| IpAddr::from(Ipv4Addr::from(a)));
            let mut payload = payload;
            let length = payload.len() as u32;
            let field = Sum::pseudo_header(from, to, 6, length).fold();
            let ports = Delta::ZERO.word(u16::from_be_bytes([payload[2], payload[3]]), port);
            payload[2..4].copy_from_slice(&port.to_be_bytes());
            let field = adjust_transport(field, false, true, Delta::ZERO.address(to, new_to), ports);
            let complete = Sum::ZERO.word(field).bytes(&payload).checksum();
            prop_assert_eq!(complete, Sum::pseudo_header(from, new_to, 6, length).bytes(&payload).checksum());
        }

        #[test]
        fn an_ipv4_header_holding_its_checksum_is_intact(mut header in prop::collection::vec(any::<u8>(), 20..=60)) {
            header.truncate(header.len() & !3);
            header[0] = 0x45;
            let sum = ipv4_header(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            prop_assert!(Sum::ZERO.bytes(&header).is_intact() && is_header_intact(&header));
            header[5] ^= 0x10;
            prop_assert!(!is_header_intact(&header));
        }
    }
}
