//! Packets, and what becomes of them on the wire, built from nothing by another implementation (etherparse): what a test
//! injects, and what it expects at the other end, to the last byte.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader, UdpHeader};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

/// TCP's flag CWR, in its byte.
pub const CWR: u8 = 0x80;
/// ACK and PSH.
pub const DATA: u8 = 0x18;
/// SYN.
pub const SYN: u8 = 0x02;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// What IP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP: sequence number, flags, words of options.
    Tcp { sequence: u32, flags: u8, options: usize },
    /// UDP, with a checksum or (over IPv4) without.
    Udp { checksum: bool },
}

/// One packet in an Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4's.
    pub identification: u16,
    pub dont_fragment: bool,
    /// IPv4 options: one that belongs into every fragment, and one that does not.
    pub options: bool,
    pub transport: Transport,
    pub payload: Vec<u8>,
}

/// A frame as it is on one side of the device: with its header.
pub type Sent = (NetHdr, Vec<u8>);

/// The ones' complement sum of words (RFC 1071), and of what else there is.
pub fn sum(words: &[u8], rest: u32) -> u16 {
    let words = words.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + rest;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Packet {
    pub fn is_v6(&self) -> bool {
        self.from.is_ipv6()
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self.transport, Transport::Tcp { .. })
    }

    /// Where the transport header begins.
    pub fn transport_start(&self) -> usize {
        ETHERNET + if self.is_v6() { 40 } else { 20 + if self.options { 8 } else { 0 } }
    }

    /// Where the payload begins.
    pub fn headers(&self) -> usize {
        self.transport_start()
            + match self.transport {
                Transport::Tcp { options, .. } => 20 + 4 * options,
                Transport::Udp { .. } => 8,
            }
    }

    /// Where the checksum lies in the transport header.
    fn checksum_offset(&self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// The frame, with every checksum in place.
    pub fn bytes(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        let (from_port, to_port) = (self.from.port(), self.to.port());
        let length = self.headers() - self.transport_start() + self.payload.len();
        let (number, ipv4, ipv6) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let number = if self.is_tcp() { IpNumber::TCP } else { IpNumber::UDP };
                let mut header = Ipv4Header::new(length as u16, self.hops, number, from.octets(), to.octets()).unwrap();
                (header.identification, header.dont_fragment) = (self.identification, self.dont_fragment);
                if self.options {
                    // Router alert, which is copied into fragments; a timestamp with no room, which is not; the end.
                    header.options = Ipv4Options::from([0x94, 4, 0, 0, 0x44, 3, 5, 0]);
                    header.set_payload_len(length).unwrap();
                }
                header.header_checksum = header.calc_header_checksum();
                (number, Some(header), None)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let number = if self.is_tcp() { IpNumber::TCP } else { IpNumber::UDP };
                let header = Ipv6Header {
                    payload_length: length as u16,
                    next_header: number,
                    hop_limit: self.hops,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                (number, None, Some(header))
            }
            _ => panic!("two versions of IP in one packet"),
        };
        match self.transport {
            Transport::Tcp { sequence, flags, options } => {
                let mut header = TcpHeader::new(from_port, to_port, sequence, 1000);
                header.acknowledgment_number = 77;
                (header.fin, header.syn, header.psh) = (flags & 1 != 0, flags & SYN != 0, flags & 8 != 0);
                (header.ack, header.cwr) = (flags & 0x10 != 0, flags & CWR != 0);
                header.set_options_raw(&vec![1; 4 * options]).unwrap();
                header.checksum = match (&ipv4, &ipv6) {
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, &self.payload).unwrap(),
                    (_, ip) => header.calc_checksum_ipv6(ip.as_ref().unwrap(), &self.payload).unwrap(),
                };
                header.write(&mut transport).unwrap();
            }
            Transport::Udp { checksum } => {
                let mut header = UdpHeader::without_ipv4_checksum(from_port, to_port, self.payload.len()).unwrap();
                header.checksum = match (&ipv4, &ipv6) {
                    _ if !checksum => 0,
                    (Some(ip), _) => header.calc_checksum_ipv4(ip, &self.payload).unwrap(),
                    (_, ip) => header.calc_checksum_ipv6(ip.as_ref().unwrap(), &self.payload).unwrap(),
                };
                header.write(&mut transport).unwrap();
            }
        }
        debug_assert!(number == IpNumber::TCP || number == IpNumber::UDP);
        let mut frame = [self.to_mac, self.from_mac].concat();
        match (ipv4, ipv6) {
            (Some(ip), _) => {
                frame.extend([8, 0]);
                ip.write(&mut frame).unwrap();
            }
            (_, ip) => {
                frame.extend([0x86, 0xdd]);
                ip.unwrap().write(&mut frame).unwrap();
            }
        }
        frame.extend(transport);
        frame.extend(&self.payload);
        frame
    }

    /// The frame with the sum of the pseudo-header where its checksum will be, and the header that says so.
    pub fn partial(&self) -> Sent {
        let mut frame = self.bytes();
        let start = self.transport_start();
        let addresses = if self.is_v6() { 22..54 } else { 26..34 };
        let rest = (frame.len() - start) as u32 + if self.is_tcp() { 6 } else { 17 };
        let sum = sum(&frame[addresses], rest);
        let field = start + self.checksum_offset();
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        (NetHdr::partial_checksum(start as u16, self.checksum_offset() as u16), frame)
    }

    /// The segments or datagrams that a super-frame stands for.
    fn segments(&self, size: usize) -> Vec<Packet> {
        let count = self.payload.chunks(size).count();
        let pieces = self.payload.chunks(size).enumerate().map(|(nth, payload)| {
            let transport = match self.transport {
                Transport::Tcp { sequence, flags, options } => {
                    let mut flags = flags;
                    if nth > 0 {
                        flags &= !CWR;
                    }
                    if nth + 1 < count {
                        flags &= !0x09;
                    }
                    Transport::Tcp { sequence: sequence.wrapping_add((nth * size) as u32), flags, options }
                }
                udp => udp,
            };
            let identification = self.identification.wrapping_add(nth as u16);
            Packet { identification, transport, payload: payload.to_vec(), ..self.clone() }
        });
        pieces.collect()
    }

    /// The fragments of a datagram, with `size` bytes of IP payload in each; IPv6's get this identification.
    fn fragments(&self, size: usize, identification: u32) -> Vec<Vec<u8>> {
        let whole = self.bytes();
        let (head, rest) = whole.split_at(self.transport_start());
        let count = rest.chunks(size).count();
        let pieces = rest.chunks(size).enumerate().map(|(nth, piece)| {
            let (offset, more) = (nth * size, nth + 1 < count);
            let mut frame = head.to_vec();
            if self.is_v6() {
                frame[18..20].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
                frame[20] = 44;
                frame.extend([17, 0]);
                frame.extend((offset as u16 | u16::from(more)).to_be_bytes());
                frame.extend(identification.to_be_bytes());
            } else {
                let (mut ip, _) = Ipv4Header::from_slice(&head[ETHERNET..]).unwrap();
                ip.set_payload_len(piece.len()).unwrap();
                (ip.dont_fragment, ip.more_fragments) = (false, more);
                ip.fragment_offset = ((offset / 8) as u16).try_into().unwrap();
                if self.options && nth > 0 {
                    ip.options = Ipv4Options::from([0x94, 4, 0, 0, 1, 1, 1, 0]);
                }
                ip.header_checksum = ip.calc_header_checksum();
                frame.truncate(ETHERNET);
                ip.write(&mut frame).unwrap();
            }
            frame.extend(piece);
            frame
        });
        pieces.collect()
    }
}

/// How a packet is given to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// With its checksum.
    Whole,
    /// With its checksum, which the device has verified.
    Verified,
    /// With its checksum left to be finished.
    Partial,
    /// As a super-frame, cut at so many bytes of payload.
    Super(u16),
    /// As one datagram that is to be cut into fragments of so many bytes.
    Datagram(u16),
    /// An ACK that stands for itself and so many duplicates, which the device has left out.
    Repeated(u16),
}

/// Whether each feature of one list is agreed on, when there are these.
fn all(features: Features, needed: &[Features]) -> bool {
    needed.iter().all(|&feature| features.contains(feature))
}

impl Form {
    /// The segmentation type of a packet in this form.
    pub fn gso_type(self, packet: &Packet) -> u8 {
        let ecn = match packet.transport {
            Transport::Tcp { flags, .. } if flags & CWR != 0 => NetHdr::GSO_ECN,
            _ => 0,
        };
        match self {
            Form::Super(_) if !packet.is_tcp() => NetHdr::GSO_UDP_L4,
            Form::Super(_) if packet.is_v6() => NetHdr::GSO_TCPV6 | ecn,
            Form::Super(_) => NetHdr::GSO_TCPV4 | ecn,
            Form::Datagram(_) => NetHdr::GSO_UDP,
            Form::Whole | Form::Verified | Form::Partial | Form::Repeated(_) => NetHdr::GSO_NONE,
        }
    }

    /// Whether a device may give a packet to a guest in this form.
    pub fn may_be_received(self, packet: &Packet, features: Features) -> bool {
        let v6 = packet.is_v6();
        let kind = match self.gso_type(packet) {
            NetHdr::GSO_NONE if self == Form::Whole => return true,
            NetHdr::GSO_NONE if matches!(self, Form::Repeated(_)) => Features::RSC_EXT,
            NetHdr::GSO_NONE => Features::empty(),
            NetHdr::GSO_UDP => Features::GUEST_UFO,
            NetHdr::GSO_UDP_L4 if v6 => Features::GUEST_USO6,
            NetHdr::GSO_UDP_L4 => Features::GUEST_USO4,
            tcp => {
                let ecn = if tcp & NetHdr::GSO_ECN != 0 { Features::GUEST_ECN } else { Features::empty() };
                ecn | if v6 { Features::GUEST_TSO6 } else { Features::GUEST_TSO4 }
            }
        };
        all(features, &[Features::GUEST_CSUM, kind])
    }

    /// Whether a guest may send a packet in this form.
    fn may_be_sent(self, packet: &Packet, features: Features) -> bool {
        let kind = match self.gso_type(packet) {
            NetHdr::GSO_NONE if self == Form::Whole => return true,
            NetHdr::GSO_NONE => Features::empty(),
            NetHdr::GSO_UDP => Features::HOST_UFO,
            NetHdr::GSO_UDP_L4 => Features::HOST_USO,
            tcp => {
                let ecn = if tcp & NetHdr::GSO_ECN != 0 { Features::HOST_ECN } else { Features::empty() };
                ecn | if packet.is_v6() { Features::HOST_TSO6 } else { Features::HOST_TSO4 }
            }
        };
        all(features, &[Features::CSUM, kind])
    }

    /// The frame as the guest is given it. The device's `hdr_len` is a hint that may be wrong, and is.
    pub fn received(self, packet: &Packet, features: Features) -> Sent {
        let (partial, frame) = packet.partial();
        match self {
            Form::Whole => (NetHdr::default(), packet.bytes()),
            Form::Verified => (NetHdr { flags: NetHdr::DATA_VALID, ..NetHdr::default() }, packet.bytes()),
            Form::Partial => (partial, frame),
            Form::Repeated(count) => {
                let flags = NetHdr::DATA_VALID | NetHdr::RSC_INFO;
                (NetHdr { flags, csum_start: 1, csum_offset: count, ..NetHdr::default() }, packet.bytes())
            }
            Form::Super(gso_size) | Form::Datagram(gso_size) => {
                let mut header = NetHdr { gso_type: self.gso_type(packet), gso_size, hdr_len: 3, ..partial };
                if features.contains(Features::RSC_EXT) {
                    // Counts stand where the place of the checksum would be (virtio 1.3, section 5.1.6.4.1).
                    header.flags |= NetHdr::RSC_INFO;
                    let cut = if let Form::Super(_) = self { packet.headers() } else { packet.transport_start() };
                    let pieces = (frame.len() - cut).div_ceil(gso_size.into());
                    (header.csum_start, header.csum_offset) = (pieces as u16, 0);
                }
                (header, frame)
            }
        }
    }

    /// The frames that must come out of the guest for `packet`, which is as the balancer has rewritten it. `first` is the
    /// first frame that came out: what it says of its identification, where that is the guest's to choose, is taken from it.
    pub fn expected(self, packet: &Packet, features: Features, first: &[u8]) -> Vec<Sent> {
        let finished = |packet: &Packet| match all(features, &[Features::CSUM]) {
            true => packet.partial(),
            false => (NetHdr::default(), packet.bytes()),
        };
        let (gso_size, datagram) = match self {
            Form::Whole | Form::Verified => return vec![(NetHdr::default(), packet.bytes())],
            Form::Partial => return vec![finished(packet)],
            Form::Repeated(count) => return vec![(NetHdr::default(), packet.bytes()); 1 + usize::from(count)],
            Form::Super(size) => (size, false),
            Form::Datagram(size) => (size, true),
        };
        if self.may_be_sent(packet, features) {
            let (partial, frame) = packet.partial();
            let hdr_len = packet.headers() as u16;
            return vec![(NetHdr { gso_type: self.gso_type(packet), gso_size, hdr_len, ..partial }, frame)];
        }
        if !datagram {
            return packet.segments(gso_size.into()).iter().map(finished).collect();
        }
        let mut packet = packet.clone();
        let at = |range: std::ops::Range<usize>| first.get(range).unwrap_or_default().to_vec();
        if packet.dont_fragment && !packet.is_v6() {
            packet.identification = at(18..20).try_into().map_or(0, u16::from_be_bytes);
        }
        let identification = at(58..62).try_into().map_or(0, u32::from_be_bytes);
        let fragments = packet.fragments(gso_size.into(), identification);
        fragments.into_iter().map(|frame| (NetHdr::default(), frame)).collect()
    }
}
