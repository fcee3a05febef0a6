//! Neighbour solicitations and advertisements (RFC 4861 sections 4.3 and 4.4).

use core::net::{IpAddr, Ipv6Addr};

use super::Mac;
use crate::Reason;
use crate::checksum::Sum;
use crate::frame::{ETHERNET, is_group, protocol};

const HEADER: usize = 40;
/// Bytes of a message without options.
const MESSAGE: usize = 24;
/// Bytes of a solicitation as made here, with its one option.
pub(super) const FRAME: usize = ETHERNET + HEADER + MESSAGE + 8;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// A message that is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Who has the target?
    Solicitation {
        /// `None` while the sender checks whether its address is free.
        source: Option<Ipv6Addr>,
        target: Ipv6Addr,
        /// The sender's Ethernet address.
        mac: Option<Mac>,
    },
    /// The target is here.
    Advertisement {
        target: Ipv6Addr,
        /// In answer to a solicitation.
        solicited: bool,
        /// To replace what is known.
        overriding: bool,
        /// The target's Ethernet address.
        mac: Option<Mac>,
    },
}

/// Reads a whole Ethernet frame, and validates it by RFC 4861 section 7.1.
pub(super) fn parse(frame: &[u8]) -> Result<Message, Reason> {
    let packet = frame.get(ETHERNET..).ok_or(Reason::Malformed)?;
    let header = packet.first_chunk::<HEADER>().ok_or(Reason::Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let body = packet.get(HEADER..HEADER + length).ok_or(Reason::Malformed)?;
    let message = body.first_chunk::<MESSAGE>().ok_or(Reason::Malformed)?;
    // A hop limit of 255 says that no router sent it on.
    if header[0] >> 4 != 6 || header[6] != protocol::ICMPV6 || header[7] != 255 || message[1] != 0 {
        return Err(Reason::Malformed);
    }
    let (source, destination) = (address(header, 8), address(header, 24));
    let pseudo = Sum::pseudo_header(source.into(), destination.into(), protocol::ICMPV6, length as u32);
    if !pseudo.bytes(body).is_intact() {
        return Err(Reason::BadChecksum);
    }
    let target = address(message, 8);
    if target.is_multicast() || source.is_multicast() {
        return Err(Reason::Malformed);
    }
    let options = &body[MESSAGE..];
    match message[0] {
        SOLICITATION => {
            let mac = link_address(options, SOURCE_LINK_ADDRESS)?;
            if source.is_unspecified() && (mac.is_some() || !is_solicited_node(destination)) {
                return Err(Reason::Malformed);
            }
            Ok(Message::Solicitation { source: Some(source).filter(|a| !a.is_unspecified()), target, mac })
        }
        ADVERTISEMENT => {
            let mac = link_address(options, TARGET_LINK_ADDRESS)?;
            let (solicited, overriding) = (message[4] & 0x40 != 0, message[4] & 0x20 != 0);
            if solicited && destination.is_multicast() {
                return Err(Reason::Malformed);
            }
            Ok(Message::Advertisement { target, solicited, overriding, mac })
        }
        _ => Err(Reason::Malformed),
    }
}

fn address<const N: usize>(bytes: &[u8; N], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}

/// The last link-layer address option of a kind. Every option must have a length.
fn link_address(mut options: &[u8], kind: u8) -> Result<Option<Mac>, Reason> {
    let mut found = None;
    while let [this, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).filter(|option| !option.is_empty()).ok_or(Reason::Malformed)?;
        if this == kind {
            let [_, _, mac @ ..] = *option.first_chunk::<8>().ok_or(Reason::Malformed)?;
            if is_group(&mac) || mac == [0; 6] || units != 1 {
                return Err(Reason::Malformed);
            }
            found = Some(mac);
        }
        options = &options[length..];
    }
    if options.is_empty() { Ok(found) } else { Err(Reason::Malformed) }
}

/// ff02::1:ff00:0/104 with the low 24 bits of an address (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let [h, l] = [u16::from_be_bytes([0xff, a]), u16::from_be_bytes([b, c])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, h, l)
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    solicited_node(address) == address
}

/// A solicitation for `target`, to all it may be or to the one that is believed to be it.
pub(super) fn solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr, to: Option<Mac>) -> [u8; FRAME] {
    let group = solicited_node(target);
    let [.., a, b, c, d] = group.octets();
    let (destination, ethernet) = match to {
        Some(to) => (target, to),
        None => (group, [0x33, 0x33, a, b, c, d]),
    };
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&ethernet);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    let packet = &mut frame[ETHERNET..];
    packet[0] = 0x60;
    packet[5] = (MESSAGE + 8) as u8;
    packet[6] = protocol::ICMPV6;
    packet[7] = 255;
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
    let message = &mut packet[HEADER..];
    message[0] = SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    message[24] = SOURCE_LINK_ADDRESS;
    message[25] = 1;
    message[26..32].copy_from_slice(&mac);
    let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
    let sum = Sum::pseudo_header(source, destination, protocol::ICMPV6, (MESSAGE + 8) as u32).bytes(message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    frame
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// An Ethernet frame around an ICMPv6 message whose checksum is filled in.
    pub(in super::super) fn frame(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
        let mut frame = [&[2; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, hops]].concat();
        frame.extend(source.octets());
        frame.extend(destination.octets());
        let mut message = message.to_vec();
        let sum = Sum::pseudo_header(source.into(), destination.into(), 58, message.len() as u32).bytes(&message);
        message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        frame.extend(message);
        frame
    }

    /// An advertisement of `target`, with flags as in its fifth byte.
    pub(in super::super) fn advertisement(target: Ipv6Addr, flags: u8, mac: Option<Mac>) -> Vec<u8> {
        let mut message = [&[136, 0, 0, 0, flags, 0, 0, 0][..], &target.octets()].concat();
        if let Some(mac) = mac {
            message.extend([2, 1]);
            message.extend(mac);
        }
        message
    }

    #[test]
    fn a_solicitation_is_read_back_and_goes_to_the_group_or_to_one() {
        let (a, b) = (ip("fd00::2"), ip("fd00::12:3456"));
        let expected = Message::Solicitation { source: Some(a), target: b, mac: Some(MAC) };
        let frame = solicitation(MAC, a, b, None);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!(frame[38..54], ip("ff02::1:ff12:3456").octets());
        assert_eq!(parse(&frame), Ok(expected));
        let frame = solicitation(MAC, a, b, Some([4; 6]));
        assert_eq!((&frame[..6], &frame[38..54]), (&[4; 6][..], &b.octets()[..]));
        assert_eq!(parse(&frame), Ok(expected));
    }

    #[test]
    fn verify_rfc_4861_7_1_1() {
        let (us, them) = (ip("fd00::2"), ip("fd00::9"));
        let solicit =
            |target: Ipv6Addr, option: &[u8]| [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], option].concat();
        let option = [1, 1, 2, 0, 0, 0, 0, 9];
        let good = frame(them, us, 255, &solicit(us, &option));
        assert!(parse(&good).is_ok());
        assert_eq!(parse(&frame(them, us, 254, &solicit(us, &option))), Err(Reason::Malformed), "hop limit");
        let mut bad = good.clone();
        bad[60] ^= 1;
        assert_eq!(parse(&bad), Err(Reason::BadChecksum));
        let mut code = solicit(us, &option);
        code[1] = 1;
        assert_eq!(parse(&frame(them, us, 255, &code)), Err(Reason::Malformed), "code");
        assert_eq!(parse(&frame(them, us, 255, &solicit(us, &option)[..16])), Err(Reason::Malformed), "length");
        assert_eq!(parse(&frame(them, us, 255, &solicit(ip("ff02::1"), &[]))), Err(Reason::Malformed), "multicast");
        assert_eq!(parse(&frame(them, us, 255, &solicit(us, &[1, 0, 0, 0, 0, 0, 0, 0]))), Err(Reason::Malformed));
        assert_eq!(parse(&frame(them, us, 255, &solicit(us, &[14, 2, 0, 0, 0, 0, 0, 0]))), Err(Reason::Malformed));
        let none = Ipv6Addr::UNSPECIFIED;
        let group = ip("ff02::1:ff00:2");
        let probe = Message::Solicitation { source: None, target: us, mac: None };
        assert_eq!(parse(&frame(none, group, 255, &solicit(us, &[]))), Ok(probe));
        assert_eq!(parse(&frame(none, group, 255, &solicit(us, &option))), Err(Reason::Malformed));
        assert_eq!(parse(&frame(none, us, 255, &solicit(us, &[]))), Err(Reason::Malformed));
    }

    #[test]
    fn verify_rfc_4861_7_1_2() {
        let (us, them) = (ip("fd00::2"), ip("fd00::9"));
        let expected = Message::Advertisement { target: them, solicited: true, overriding: true, mac: Some(MAC) };
        assert_eq!(parse(&frame(them, us, 255, &advertisement(them, 0x60, Some(MAC)))), Ok(expected));
        let to_all = |flags| parse(&frame(them, ip("ff02::1"), 255, &advertisement(them, flags, Some(MAC))));
        assert!(to_all(0x20).is_ok());
        assert_eq!(to_all(0x60), Err(Reason::Malformed), "solicited, yet to a group");
        let group = advertisement(them, 0x60, Some([1, 0, 0, 0, 0, 1]));
        assert_eq!(parse(&frame(them, us, 255, &group)), Err(Reason::Malformed), "a group's Ethernet address");
        let padded = [frame(them, us, 255, &advertisement(them, 0x60, None)), std::vec![7; 9]].concat();
        assert!(parse(&padded).is_ok(), "what follows the packet is Ethernet's padding");
    }

    proptest! {
        #[test]
        fn hostile_messages_do_no_harm(kind in 134u8..138, body in prop::collection::vec(any::<u8>(), 3..80), cut: prop::sample::Index) {
            let message = [&[kind, 0, 0, 0][..], &body].concat();
            let mut frame = frame(ip("fd00::9"), ip("fd00::2"), 255, &message);
            let _ = parse(&frame);
            frame.truncate(cut.index(frame.len()));
            prop_assert!(parse(&frame).is_err());
        }
    }
}
