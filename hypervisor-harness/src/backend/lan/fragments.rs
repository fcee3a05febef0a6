//! Datagrams that came in fragments (RFC 791, section 3.2; RFC 8200, section 4.5), put together again.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::wire::checksum;

/// Datagrams of which a part is missing, at a time. The oldest makes room.
const MOST: usize = 64;
/// Fragments of one datagram: enough for 64 KiB over the smallest MTU of IPv6, several times.
const MOST_PARTS: usize = 256;
/// How long the rest is waited for (RFC 8200, section 4.5, says 60 s, RFC 1122 60 to 120 s; here everybody is near).
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest IP packet, and the largest payload of one of IPv6.
const LARGEST: usize = 65_535;
/// The extension header of an IPv6 fragment, by its number.
const FRAGMENT: u8 = 44;
/// Its length.
const FRAGMENT_HEADER: usize = 8;
/// Length of an IPv6 header.
const IPV6: usize = 40;

/// What belongs together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

/// One fragment.
#[derive(Debug, Clone, Copy)]
struct Fragment<'p> {
    key: Key,
    /// The IP header of the whole, but for its lengths.
    header: &'p [u8],
    offset: usize,
    more: bool,
    body: &'p [u8],
}

#[derive(Debug)]
struct Datagram {
    key: Key,
    born: Instant,
    header: Vec<u8>,
    bytes: Vec<u8>,
    parts: Vec<(usize, usize)>,
    /// How long it is, once the last fragment is there.
    length: Option<usize>,
}

/// Datagrams of which a part is missing.
#[derive(Debug, Default)]
pub struct Fragments {
    waiting: VecDeque<Datagram>,
}

/// Whether an IP packet is a fragment.
pub fn is_fragment(packet: &[u8]) -> bool {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(6..8).is_some_and(|field| be16(field, 0) & 0x3fff != 0),
        Some(6) => packet.get(6) == Some(&FRAGMENT),
        _ => false,
    }
}

impl Fragments {
    /// Takes a fragment. Returns the whole packet if it was the last one missing.
    pub fn add(&mut self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        while self.waiting.front().is_some_and(|oldest| now > oldest.born + PATIENCE) {
            self.waiting.pop_front();
        }
        let fragment = Fragment::parse(packet)?;
        let at = match self.waiting.iter().position(|datagram| datagram.key == fragment.key) {
            Some(at) => at,
            None => {
                if self.waiting.len() >= MOST {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(Datagram::new(fragment.key, now));
                self.waiting.len() - 1
            }
        };
        match self.waiting[at].add(&fragment) {
            Ok(false) => None,
            Ok(true) => self.waiting.remove(at).map(Datagram::whole),
            Err(Contradiction) => {
                self.waiting.remove(at);
                None
            }
        }
    }
}

/// Fragments say different things of one datagram (RFC 5722): nothing of it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contradiction;

impl Datagram {
    fn new(key: Key, born: Instant) -> Self {
        Self { key, born, header: Vec::new(), bytes: Vec::new(), parts: Vec::new(), length: None }
    }

    /// Adds a part. Returns whether nothing is missing any more.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<bool, Contradiction> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.body.len());
        if self.parts.contains(&(start, end)) {
            // It came twice.
            return Ok(false);
        }
        let overlaps = self.parts.iter().any(|(from, to)| start < *to && *from < end);
        let beyond = self.length.is_some_and(|length| end > length || !fragment.more);
        let short = !fragment.more && self.parts.iter().any(|(_, to)| *to > end);
        if overlaps || beyond || short || self.parts.len() >= MOST_PARTS {
            return Err(Contradiction);
        }
        self.parts.push((start, end));
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(fragment.body);
        if start == 0 {
            self.header = fragment.header.to_vec();
        }
        if !fragment.more {
            self.length = Some(end);
        }
        let there: usize = self.parts.iter().map(|(from, to)| to - from).sum();
        Ok(self.length == Some(there))
    }

    /// The packet, of which nothing is missing.
    fn whole(mut self) -> Vec<u8> {
        let header = &mut self.header;
        if header[0] >> 4 == 4 {
            // `Fragment::parse` has seen to it that no part ends beyond the largest packet.
            let length = (header.len() + self.bytes.len()) as u16;
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[6..8].fill(0);
            header[10..12].fill(0);
            let sum = !checksum::data(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            header[4..6].copy_from_slice(&(self.bytes.len() as u16).to_be_bytes());
            header[6] = self.key.protocol;
        }
        self.header.append(&mut self.bytes);
        self.header
    }
}

impl<'p> Fragment<'p> {
    /// Reads a fragment. `None` if it contradicts itself.
    fn parse(packet: &'p [u8]) -> Option<Self> {
        let (fragment, counted) = match packet.first()? >> 4 {
            4 => Self::parse_v4(packet).map(|fragment| (fragment, fragment.header.len()))?,
            // IPv6 does not count its own header.
            6 => (Self::parse_v6(packet)?, 0),
            _ => return None,
        };
        // All but the last are multiples of eight bytes.
        let aligned = !fragment.more || fragment.body.len().is_multiple_of(8);
        let fits = counted + fragment.offset + fragment.body.len() <= LARGEST;
        (aligned && fits && !fragment.body.is_empty()).then_some(fragment)
    }

    fn parse_v4(packet: &'p [u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header = packet.get(..usize::from(fixed[0] & 15) * 4).filter(|header| header.len() >= 20)?;
        let body = packet.get(header.len()..usize::from(be16(fixed, 2)))?;
        if checksum::data(header) != 0xffff {
            return None;
        }
        let address = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (source, destination) = (address(12), address(16));
        let key = Key { source, destination, protocol: fixed[9], identification: be16(fixed, 4).into() };
        let field = be16(fixed, 6);
        Some(Self { key, header, offset: usize::from(field & 0x1fff) * 8, more: field & 0x2000 != 0, body })
    }

    fn parse_v6(packet: &'p [u8]) -> Option<Self> {
        let header: &[u8; IPV6] = packet.first_chunk()?;
        let rest = packet.get(IPV6..IPV6 + usize::from(be16(header, 4)))?;
        let (extension, body) = rest.split_first_chunk::<FRAGMENT_HEADER>()?;
        let address = |at: usize| header[at..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
        let identification = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
        let key = Key { source: address(8)?, destination: address(24)?, protocol: extension[0], identification };
        let field = be16(extension, 2);
        Some(Self { key, header, offset: usize::from(field & !7), more: field & 1 != 0, body })
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringlet_driver::offload::{Finish, Segmenter};
    use ringlet_driver::wire::NetHdr;

    use super::super::packet::{self, Packet};
    use super::*;

    /// A datagram with its Ethernet header, and its fragments without.
    fn fragments(v6: bool, payload: &[u8], size: u16, number: u32) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (source, destination): (IpAddr, IpAddr) = match v6 {
            true => ("fd00::2".parse().expect("an address"), "fd00::b".parse().expect("an address")),
            false => ([10, 0, 0, 2].into(), [10, 0, 0, 11].into()),
        };
        let header = packet::header_length(source);
        let mut frame = vec![0; 14 + header + 8 + payload.len()];
        frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        let ip = &mut frame[14..];
        packet::write_header(ip, source, destination, packet::UDP);
        ip[header..header + 4].copy_from_slice(&[1, 2, 3, 4]);
        ip[header + 4..header + 6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        ip[header + 8..].copy_from_slice(payload);
        let partial = packet::write_checksum(ip, true);
        let large = NetHdr { gso_type: NetHdr::GSO_UDP, gso_size: size, ..partial };
        let head = frame.len().min(128);
        let segmenter = Segmenter::new(&large, &frame[..head], &frame[..], Finish::Complete).expect("to be cut");
        let (mut segmenter, mut all) = (segmenter.identified(number), Vec::new());
        while let Some(length) = segmenter.next_len() {
            let mut fragment = vec![0; length];
            segmenter.write_next(&frame[..], &mut fragment[..]).expect("a fragment");
            all.push(fragment.split_off(14));
        }
        (frame.split_off(14), all)
    }

    /// Whether a packet is the datagram, with its checksum finished.
    fn is_whole(packet: &[u8], datagram: &[u8]) -> bool {
        let (Ok(packet), Ok(datagram)) = (Packet::parse(packet), Packet::parse(datagram)) else { return false };
        packet.verify(&NetHdr::default()) == Ok(())
            && (packet.source, packet.destination) == (datagram.source, datagram.destination)
            && packet.payload()[8..] == datagram.payload()[8..]
    }

    proptest! {
        #[test]
        fn fragments_are_the_datagram_again_in_whichever_order(
            v6: bool,
            payload in prop::collection::vec(any::<u8>(), 100..5000),
            size in 8_u16..180,
            order in any::<prop::sample::Index>(),
            twice in any::<prop::sample::Index>(),
            seed: u64,
        ) {
            let (datagram, mut all) = fragments(v6, &payload, size * 8, 7);
            prop_assert!(all.iter().all(|fragment| is_fragment(fragment)) || all.len() == 1);
            prop_assume!(all.len() > 1 && all.len() < MOST_PARTS);
            let again = all[twice.index(all.len())].clone();
            // Any order, by steps of a number that has no divisor in common with how many there are.
            let count = all.len();
            let step = (1..=count).map(|n| (n + order.index(count)) % count + 1).find(|n| gcd(*n, count) == 1).unwrap_or(1);
            all = (0..count).map(|nth| all[(nth * step + seed as usize % count) % count].clone()).collect();
            let (mut waiting, now) = (Fragments::default(), Instant::now());
            let last = all.pop().expect("two at least");
            for fragment in all.iter().chain([&again].into_iter().filter(|again| **again != last)) {
                prop_assert_eq!(waiting.add(fragment, now), None);
            }
            let whole = waiting.add(&last, now).expect("all of it");
            prop_assert!(is_whole(&whole, &datagram) && waiting.waiting.is_empty());
        }

        #[test]
        fn anything_can_be_taken(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
            spoilt in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..60, any::<u8>()), 0..20),
            v6: bool,
        ) {
            let (_, mut all) = fragments(v6, &[5; 3000], 512, 9);
            all.extend(packets);
            let count = all.len();
            for (which, at, value) in spoilt {
                if let Some(byte) = all[which.index(count)].get_mut(at) { *byte = value; }
            }
            let mut waiting = Fragments::default();
            for packet in &all {
                let _ = waiting.add(packet, Instant::now());
            }
            prop_assert!(waiting.waiting.len() <= MOST);
        }
    }

    fn gcd(a: usize, b: usize) -> usize {
        if b == 0 { a } else { gcd(b, a % b) }
    }

    #[test]
    fn contradictions_are_not_believed() {
        for v6 in [false, true] {
            let now = Instant::now();
            let (_, first) = fragments(v6, &[1; 3000], 1000, 7);
            let (datagram, second) = fragments(v6, &[2; 3000], 1016, 7);
            let mut waiting = Fragments::default();
            assert_eq!(waiting.add(&first[0], now), None);
            assert_eq!(waiting.add(&second[1], now), None);
            assert_eq!(waiting.add(&second[0], now), None, "it overlaps: all is forgotten");
            assert!(waiting.waiting.is_empty());
            let whole: Vec<_> = second.iter().filter_map(|fragment| waiting.add(fragment, now)).collect();
            assert!(whole.len() == 1 && is_whole(&whole[0], &datagram));
        }
    }

    #[test]
    fn nothing_waits_for_ever_and_not_everything_waits() {
        let now = Instant::now();
        let mut waiting = Fragments::default();
        let (_, old) = fragments(false, &[1; 3000], 1000, 1);
        waiting.add(&old[0], now);
        for number in 2..1000 {
            waiting.add(&fragments(true, &[1; 3000], 1000, number).1[0], now);
            assert!(waiting.waiting.len() <= MOST);
        }
        waiting.add(&old[0], now + PATIENCE + Duration::from_secs(1));
        assert_eq!(waiting.waiting.len(), 1);
    }
}
