//! What of a frame is compared.

use std::net::IpAddr;

use super::{protocol, view};
use crate::world;

/// A frame without what two hosts that do the same may do differently. A field is taken out only where the checksum over it is right:
///
/// - the identification of IPv4 packets made here, unless they are not to be fragmented, and of ICMP errors;
/// - the checksum of the TCP, UDP or SCTP packet that an ICMP error quotes: Linux leaves it as it was when it translates such a
///   packet, the balancer translates it too;
/// - the identification of IPv6 fragments, which Linux puts together and takes apart again;
/// - the source port of packets in a UDP tunnel, a hash with a secret of each host, and of messages to a group, and the source address of
///   those over IPv6: Linux has several to choose from.
pub fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_owned();
    let Some(seen) = view(frame) else { return bytes };
    let is_v4 = seen.source.is_ipv4();
    let payload = 14 + if is_v4 { usize::from(frame[14] & 15) * 4 } else { 40 };
    let own = |address: IpAddr| world::neighbours(2).contains(&address);
    let may_be_fragmented = is_v4 && frame[20] & 0x40 == 0;
    if is_v4 && seen.header_is_right && (seen.is_error() || own(seen.source) && may_be_fragmented) {
        bytes[18..20].fill(0);
        bytes[24..26].fill(0);
    }
    if seen.is_error() && seen.is_right() {
        bytes[payload + 2..payload + 4].fill(0);
        if let Some(about) = seen.about() {
            let quoted = payload + 8 + if is_v4 { usize::from(frame[payload + 8] & 15) * 4 } else { 40 };
            let field = match about.protocol {
                protocol::TCP => quoted + 16..quoted + 18,
                protocol::UDP => quoted + 6..quoted + 8,
                protocol::SCTP => quoted + 8..quoted + 12,
                _ => quoted..quoted,
            };
            if let Some(field) = bytes.get_mut(field) {
                field.fill(0);
            }
        }
    }
    if !is_v4 && frame[20] == protocol::FRAGMENT && bytes.len() >= 62 {
        bytes[58..62].fill(0);
    }
    let is_to_group = seen.destination.is_multicast();
    if is_to_group && !is_v4 && seen.protocol == protocol::UDP && seen.is_right() {
        bytes[22..38].fill(0);
    }
    if (own(seen.source) || is_to_group) && seen.protocol == protocol::UDP && seen.is_right() {
        bytes[payload..payload + 2].fill(0);
        let sum = &mut bytes[payload + 6..payload + 8];
        if sum != [0, 0] {
            sum.fill(0xff);
        }
    }
    bytes
}

/// Whether a frame is a message of synchronization without connections: what Ringlets say to each other, and Linux never does.
pub fn is_notice(frame: &[u8]) -> bool {
    view(frame).is_some_and(|seen| {
        let message = seen.payload.get(8..).unwrap_or_default();
        seen.destination.is_multicast()
            && seen.protocol == protocol::UDP
            && matches!(message, [0, _, _, _, 0, 1, 0, 0, ..])
    })
}

/// The same without the TTL and the header checksum of the packet that an ICMP error over IPv4 quotes.
pub fn without_hops(frame: &[u8]) -> Vec<u8> {
    let mut bytes = comparable(frame);
    if view(frame).is_some_and(|seen| seen.is_error() && seen.is_right() && seen.source.is_ipv4()) {
        let quoted = 14 + usize::from(frame[14] & 15) * 4 + 8;
        for at in [8, 10, 11] {
            bytes.get_mut(quoted + at).into_iter().for_each(|byte| *byte = 0);
        }
    }
    bytes
}

/// Where a fragment begins in its datagram, in bytes; 0 for what is none.
pub fn offset(frame: &[u8]) -> u16 {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => {
            frame.get(20..22).map_or(0, |field| (u16::from_be_bytes([field[0], field[1]]) & 0x1fff) * 8)
        }
        Some([0x86, 0xdd]) if frame.get(20) == Some(&protocol::FRAGMENT) => {
            frame.get(56..58).map_or(0, |field| u16::from_be_bytes([field[0], field[1]]) & 0xfff8)
        }
        _ => 0,
    }
}

/// The same without the checksum of an SCTP packet.
pub fn without_crc(frame: &[u8]) -> Vec<u8> {
    let mut bytes = comparable(frame);
    if view(frame).is_some_and(|seen| seen.protocol == protocol::SCTP) {
        let payload = if frame[12..14] == [0x08, 0x00] { 14 + usize::from(frame[14] & 15) * 4 } else { 54 };
        if let Some(field) = bytes.get_mut(payload + 8..payload + 12) {
            field.fill(0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{frame, parse};
    use super::*;

    #[test]
    fn only_what_is_named_is_taken_out_and_only_where_it_is_right() {
        let text = "icmp 10.9.0.1 > 10.0.0.11 3/3 id=5 : udp 10.0.0.11:1 > 10.9.0.1:2 len=9";
        let one = frame(&parse(text).unwrap());
        let other = frame(&parse(&text.replace("id=5", "id=6")).unwrap());
        assert!(one != other && comparable(&one) == comparable(&other));
        let mut wrong = other.clone();
        wrong[24] ^= 1;
        assert_ne!(comparable(&wrong), comparable(&one));
        let quoted = frame(&parse(&text.replace("len=9", "len=9 damaged")).unwrap());
        assert!(quoted != one && comparable(&quoted) == comparable(&one));
        let damaged = frame(&parse(&text.replace(" :", " damaged :")).unwrap());
        assert_ne!(comparable(&damaged), comparable(&one));
        let udp = frame(&parse("udp 10.9.0.1:1 > 10.0.0.11:2 len=9 id=3").unwrap());
        assert_eq!(comparable(&udp), udp);
    }
}
