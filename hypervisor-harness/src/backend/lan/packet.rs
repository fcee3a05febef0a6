//! IP packets: reading them distrustfully, and writing the headers of those that are not smoltcp's.

use std::net::IpAddr;

use ringlet_driver::wire::NetHdr;
use smoltcp::wire::{IpProtocol, checksum};

/// Length of an Ethernet header.
pub const ETHERNET: usize = ringlet_driver::wire::ETHERNET_HEADER;
/// Where the IP packet begins in a frame with its virtio header.
pub const HEADROOM: usize = NetHdr::LEN + ETHERNET;

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// Why a packet is not looked at any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is shorter than it says, or its fields contradict each other.
    Malformed,
    /// A checksum is wrong.
    Checksum,
    /// It is a fragment: [`Fragments`](super::fragments::Fragments) comes first.
    Fragment,
}

/// A packet whose IP header has been checked.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Who sent it.
    pub source: IpAddr,
    /// Who is to have it.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: u8,
    /// The whole packet, without what Ethernet padded it with.
    pub bytes: &'a [u8],
    /// Length of its IP header.
    pub header: usize,
}

impl<'a> Packet<'a> {
    /// Reads the IP header at the start of `bytes` and checks what it says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(Flaw::Malformed),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let fixed: &[u8; 20] = bytes.first_chunk().ok_or(Flaw::Malformed)?;
        let header = usize::from(fixed[0] & 15) * 4;
        let total = usize::from(be16(fixed, 2));
        if header < 20 || total < header || bytes.len() < total {
            return Err(Flaw::Malformed);
        }
        if checksum::data(&bytes[..header]) != 0xffff {
            return Err(Flaw::Checksum);
        }
        // More fragments, or an offset.
        if be16(fixed, 6) & 0x3fff != 0 {
            return Err(Flaw::Fragment);
        }
        let address = |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        Ok(Self { source: address(12), destination: address(16), protocol: fixed[9], bytes: &bytes[..total], header })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let fixed: &[u8; 40] = bytes.first_chunk().ok_or(Flaw::Malformed)?;
        let total = 40 + usize::from(be16(fixed, 4));
        if bytes.len() < total {
            return Err(Flaw::Malformed);
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::from(octets)
        };
        Ok(Self {
            source: address(8),
            destination: address(24),
            protocol: fixed[6],
            bytes: &bytes[..total],
            header: 40,
        })
    }

    /// What follows the IP header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    /// Checks the transport's checksum, or, where it is still to be finished, that finishing it will make it right: that the
    /// field holds the sum of the pseudo-header and that the header's offsets point at it (virtio 1.3, section 5.1.6.2).
    pub fn verify(&self, header: &NetHdr) -> Result<(), Flaw> {
        let payload = self.payload();
        let (field, least) = match self.protocol {
            TCP => (16, 20),
            UDP => (6, 8),
            ICMP if self.source.is_ipv4() => (2, 8),
            ICMPV6 if self.source.is_ipv6() => (2, 8),
            _ => return Ok(()),
        };
        if payload.len() < least {
            return Err(Flaw::Malformed);
        }
        let found = be16(payload, field);
        if header.needs_csum() {
            let start = usize::from(header.csum_start);
            if start != ETHERNET + self.header || usize::from(header.csum_offset) != field || self.protocol == ICMP {
                return Err(Flaw::Checksum);
            }
            // With segmentation some systems leave the length out, since it is not any segment's.
            let lengths = [payload.len(), 0];
            let lengths = if header.is_gso() { &lengths[..] } else { &lengths[..1] };
            let right = lengths.iter().any(|length| same(found, self.pseudo_header(*length)));
            return if right { Ok(()) } else { Err(Flaw::Checksum) };
        }
        if self.protocol == UDP && found == 0 {
            // Not used over IPv4, forbidden over IPv6 (RFC 8200, section 8.1).
            return if self.source.is_ipv4() { Ok(()) } else { Err(Flaw::Checksum) };
        }
        let pseudo = if self.protocol == ICMP { 0 } else { self.pseudo_header(payload.len()) };
        let right = checksum::combine(&[pseudo, checksum::data(payload)]) == 0xffff;
        if right { Ok(()) } else { Err(Flaw::Checksum) }
    }

    fn pseudo_header(&self, length: usize) -> u16 {
        pseudo_header(self.source, self.destination, self.protocol, length)
    }
}

/// Whether two sums mean the same: zero has two forms.
fn same(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The sum of the pseudo-header, not complemented.
fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    checksum::pseudo_header(&source.into(), &destination.into(), IpProtocol::from(protocol), length as u32)
}

/// Length of the IP header that [`write_header`] writes for an address of this version.
#[must_use]
pub fn header_length(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// Writes the IP header at the start of `packet`, whose length counts. The two addresses are of one version.
pub fn write_header(packet: &mut [u8], source: IpAddr, destination: IpAddr, protocol: u8) {
    let length = packet.len();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = &mut packet[..20];
            header.fill(0);
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            // Do not fragment.
            header[6] = 0x40;
            header[8] = 64;
            header[9] = protocol;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = !checksum::data(header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = &mut packet[..40];
            header.fill(0);
            header[0] = 0x60;
            header[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            header[6] = protocol;
            header[7] = if protocol == ICMPV6 { 255 } else { 64 };
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
        }
        _ => debug_assert!(false, "a packet with addresses of two versions"),
    }
}

/// Lets an IPv4 packet, whose header is written, be cut into fragments: all of them have this number.
pub fn allow_fragments(packet: &mut [u8], identification: u16) {
    if let Some(header) = packet.first_chunk_mut::<20>().filter(|header| header[0] == 0x45) {
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6] &= !0x40;
        header[10..12].fill(0);
        let sum = !checksum::data(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Puts the checksum into a packet of ours. With `partial`, TCP and UDP get the sum of the pseudo-header only, and the answer
/// is the virtio header that asks for the rest.
pub fn write_checksum(packet: &mut [u8], partial: bool) -> NetHdr {
    let Ok(view) = Packet::parse(packet) else { return NetHdr::default() };
    let (source, destination, protocol, header) = (view.source, view.destination, view.protocol, view.header);
    let (field, pseudo) = match protocol {
        TCP => (16, true),
        UDP => (6, true),
        ICMP => (2, false),
        ICMPV6 => (2, true),
        _ => return NetHdr::default(),
    };
    let transport = &mut packet[header..];
    if transport.len() < field + 2 {
        return NetHdr::default();
    }
    let pseudo = if pseudo { pseudo_header(source, destination, protocol, transport.len()) } else { 0 };
    if partial && matches!(protocol, TCP | UDP) {
        transport[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        return NetHdr::partial_checksum((ETHERNET + header) as u16, field as u16);
    }
    transport[field..field + 2].fill(0);
    let sum = match !checksum::combine(&[pseudo, checksum::data(transport)]) {
        // "No checksum" is not what is meant.
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    NetHdr::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let source: IpAddr = source.parse().expect("an address");
        let mut packet = vec![0; header_length(source)];
        packet.extend_from_slice(payload);
        write_header(&mut packet, source, destination.parse().expect("an address"), protocol);
        packet
    }

    #[test]
    fn checksums_agree_with_etherparse() {
        let builder = etherparse::PacketBuilder::ipv4([10, 9, 0, 1], [10, 0, 0, 100], 64).udp(4000, 53);
        let mut expected = Vec::new();
        builder.write(&mut expected, b"hello").expect("written");
        let mut ours = datagram("10.9.0.1", "10.0.0.100", UDP, &expected[20..]);
        ours[26..28].fill(0);
        assert_eq!(write_checksum(&mut ours, false), NetHdr::default());
        assert_eq!(ours[20..], expected[20..]);
        let builder = etherparse::PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4);
        let mut expected = Vec::new();
        builder.write(&mut expected, b"odd").expect("written");
        let packet = Packet::parse(&expected).expect("well-formed");
        assert_eq!(packet.verify(&NetHdr::default()), Ok(()));
    }

    #[test]
    fn partial_checksums_are_checked_too() {
        let mut packet = datagram("fd09::1", "fd00::64", UDP, &[1, 2, 3, 4, 0, 12, 0, 0, 9, 9, 9, 9]);
        let header = write_checksum(&mut packet, true);
        assert_eq!((header.csum_start, header.csum_offset), (14 + 40, 6));
        let verify = |packet: &[u8], header: &NetHdr| Packet::parse(packet).expect("well-formed").verify(header);
        assert_eq!(verify(&packet, &header), Ok(()));
        assert_eq!(verify(&packet, &NetHdr { csum_offset: 16, ..header }), Err(Flaw::Checksum));
        assert_eq!(verify(&packet, &NetHdr::default()), Err(Flaw::Checksum));
        packet[46] ^= 1;
        assert_eq!(verify(&packet, &header), Err(Flaw::Checksum));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let good = datagram("10.9.0.1", "10.0.0.100", 99, &[0; 30]);
        assert!(Packet::parse(&good).is_ok());
        assert_eq!(Packet::parse(&good[..49]).err(), Some(Flaw::Malformed));
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            Packet::parse(&bad).err()
        };
        assert_eq!(with(0, 0x44), Some(Flaw::Malformed));
        assert_eq!(with(0, 0x55), Some(Flaw::Malformed));
        assert_eq!(with(8, 63), Some(Flaw::Checksum));
        assert_eq!(Packet::parse(&[]).err(), Some(Flaw::Malformed));
    }

    proptest! {
        #[test]
        fn our_checksums_are_right(v6: bool, tcp: bool, partial: bool, mut payload in prop::collection::vec(any::<u8>(), 20..200)) {
            let protocol = if tcp { TCP } else { UDP };
            if !tcp { payload[6] = 0; payload[7] = 0; }
            let (source, destination) = if v6 { ("fd09::1", "fd00::64") } else { ("10.9.0.1", "10.0.0.100") };
            let mut packet = datagram(source, destination, protocol, &payload);
            let header = write_checksum(&mut packet, partial);
            prop_assert_eq!(Packet::parse(&packet).expect("well-formed").verify(&header), Ok(()));
        }

        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..128), header: [u8; 12], version in prop::sample::select(vec![0x45_u8, 0x60])) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = version; }
            if let Ok(packet) = Packet::parse(&bytes) {
                let _ = packet.verify(&NetHdr::parse(&header));
            }
        }
    }
}
