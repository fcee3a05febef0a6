//! From a packet to a frame.

use std::net::IpAddr;

use super::checksum::{crc32c, internet, pseudo_header};
use super::{Body, Packet, protocol};
use crate::world;

/// The frames in which a packet comes to the balancer: one, or its fragments.
pub fn frames(packet: &Packet) -> Vec<Vec<u8>> {
    let whole = frame(packet);
    if packet.cut.is_empty() {
        return vec![whole];
    }
    let (headers, payload) = whole.split_at(if packet.source.is_ipv4() { 34 } else { 54 });
    let cuts: Vec<_> = packet.cut.iter().copied().filter(|&at| at < payload.len()).collect();
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([payload.len()]);
    let fragments: Vec<_> = starts
        .zip(ends)
        .map(|(start, end)| fragment(headers, packet.id, start, &payload[start..end], end != payload.len()))
        .collect();
    if packet.order.is_empty() {
        return fragments;
    }
    packet.order.iter().filter_map(|&nth| fragments.get(nth.checked_sub(1)?).cloned()).collect()
}

/// A fragment that begins so many bytes after the start of what is cut.
fn fragment(headers: &[u8], id: u16, start: usize, payload: &[u8], more: bool) -> Vec<u8> {
    let mut fragment = headers.to_vec();
    if headers.len() == 34 {
        fragment[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        fragment[20..22].copy_from_slice(&((start / 8) as u16 | u16::from(more) << 13).to_be_bytes());
        fragment[24..26].fill(0);
        let sum = internet(&[&fragment[14..34]]);
        fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        fragment[18..20].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut fragment[20], protocol::FRAGMENT);
        fragment.extend([next, 0]);
        fragment.extend((start as u16 | u16::from(more)).to_be_bytes());
        fragment.extend(u32::from(id).to_be_bytes());
    }
    fragment.extend(payload);
    fragment
}

/// The frame in which a packet comes to the balancer, if it is whole.
pub fn frame(packet: &Packet) -> Vec<u8> {
    let mut bytes = [to(packet.destination), world::mac(packet.source)].concat();
    bytes.extend(if packet.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    bytes.extend(ip(packet));
    bytes
}

/// The Ethernet address of an address: the balancer's, or that of a group.
fn to(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) if group.is_multicast() => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
        _ => world::MAC,
    }
}

fn ip(packet: &Packet) -> Vec<u8> {
    let (number, payload) = transport(packet);
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45 + (packet.options / 4) as u8, packet.tos];
            header.extend((20 + packet.options as u16 + payload.len() as u16).to_be_bytes());
            header.extend(packet.id.to_be_bytes());
            header.extend([if packet.df { 0x40 } else { 0 }, 0, packet.ttl, number, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            // Of no operation.
            header.resize(20 + packet.options, 1);
            let sum = internet(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            [header, payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = (6 << 28 | u32::from(packet.tos) << 20).to_be_bytes().to_vec();
            let (number, payload) =
                packet.extensions.iter().rev().fold((number, payload), |(next, rest), &extension| {
                    let (number, header) = extension_header(extension, next);
                    (number, [header, rest].concat())
                });
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([number, packet.ttl]);
            header.extend(source.octets());
            header.extend(destination.octets());
            [header, payload].concat()
        }
        _ => unreachable!("the parser takes packets of one family only"),
    }
}

/// An extension header in front of what has the number `next`, and its number.
fn extension_header(extension: u8, next: u8) -> (u8, Vec<u8>) {
    match extension {
        // Segment routing of nothing, RFC 8754; of type 253, which nobody knows, with a segment left.
        43 => (43, vec![next, 0, 4, 0, 0, 0, 0, 0]),
        super::SEGMENT_LEFT => (43, vec![next, 0, 253, 1, 0, 0, 0, 0]),
        // A whole datagram (RFC 6946).
        protocol::FRAGMENT => (extension, vec![next, 0, 0, 0, 0, 0, 0, 1]),
        protocol::AH => (extension, vec![next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        // Options, of padding.
        _ => (extension, vec![next, 0, 1, 4, 0, 0, 0, 0]),
    }
}

fn transport(packet: &Packet) -> (u8, Vec<u8>) {
    let payload: Vec<u8> = match (&packet.say, &packet.payload[..]) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, []) => (0..packet.len).map(|at| b"ringlet "[at % 8]).collect(),
        (None, bytes) => bytes.to_vec(),
    };
    let is_v6 = packet.source.is_ipv6();
    let (number, at, mut bytes) = match &packet.body {
        Body::Tcp { ports: [source, destination], flags } => {
            let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            let [sequence, acknowledgement] = packet.numbers;
            bytes.extend(sequence.to_be_bytes());
            bytes.extend(if flags & super::flag::ACK != 0 { acknowledgement } else { 0 }.to_be_bytes());
            bytes.extend([0x50, *flags, 0x20, 0, 0, 0, 0, 0]);
            (protocol::TCP, 16, bytes)
        }
        Body::Udp { ports: [source, destination] } => {
            let length = (8 + payload.len() as u16).to_be_bytes();
            (protocol::UDP, 6, [source.to_be_bytes(), destination.to_be_bytes(), length, [0; 2]].concat())
        }
        Body::Sctp { ports: [source, destination], chunks } => {
            let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
            bytes.extend([0, 0, 0, 7, 0, 0, 0, 0]);
            for &kind in chunks {
                bytes.extend(chunk(kind));
            }
            let sum = crc32c(&[&bytes, &payload]) ^ u32::from(packet.damaged);
            bytes[8..12].copy_from_slice(&sum.to_le_bytes());
            return (protocol::SCTP, [bytes, payload].concat());
        }
        Body::Secured { protocol } => {
            let header: &[u8] = match *protocol {
                protocol::AH => &[59, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
                _ => &[0, 0, 0, 1, 0, 0, 0, 1],
            };
            return (*protocol, [header, &payload].concat());
        }
        Body::Echo { reply, id } => {
            let kind = match (is_v6, reply) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            (icmp(is_v6), 2, [[kind, 0], [0; 2], id.to_be_bytes(), [0, 1]].concat())
        }
        Body::Error { kind, code, rest, about } => {
            let mut bytes = vec![*kind, *code, 0, 0];
            bytes.extend(rest.to_be_bytes());
            bytes.extend(ip(about));
            (icmp(is_v6), 2, bytes)
        }
    };
    let with_pseudo_header = number != protocol::ICMP;
    bytes.extend(payload);
    let pseudo = pseudo_header(packet.source, packet.destination, number, bytes.len());
    let sum = internet(&[if with_pseudo_header { &pseudo } else { &[] }, &bytes]);
    let sum = if sum == 0 && number == protocol::UDP { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&(sum ^ u16::from(packet.damaged)).to_be_bytes());
    (number, bytes)
}

fn icmp(is_v6: bool) -> u8 {
    if is_v6 { protocol::ICMPV6 } else { protocol::ICMP }
}

/// A chunk of SCTP as small as its type may be (RFC 9260 section 3.3).
fn chunk(kind: u8) -> Vec<u8> {
    let length: u16 = match kind {
        // DATA, with four bytes.
        0 => 20,
        // INIT and INIT ACK, without parameters.
        1 | 2 => 20,
        // SACK.
        3 => 16,
        // COOKIE ECHO.
        10 => 8,
        // SHUTDOWN.
        7 => 8,
        _ => 4,
    };
    let mut bytes = vec![kind, if kind == 0 { 3 } else { 0 }];
    bytes.extend(length.to_be_bytes());
    bytes.resize(usize::from(length), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{offset, parse, view};
    use super::*;

    #[test]
    fn fragments_are_the_packet_in_two() {
        let text = "udp 10.9.0.1:1 > 10.0.0.100:2 len=100 nodf";
        let whole = frame(&parse(text).unwrap());
        let parts = frames(&parse(&format!("{text} cut=64")).unwrap());
        let payloads: Vec<_> = parts.iter().map(|part| view(part).unwrap().payload.to_vec()).collect();
        assert_eq!((payloads[0].len(), payloads.concat()), (64, view(&whole).unwrap().payload.to_vec()));
        assert_eq!((&parts[0][20..22], &parts[1][20..22]), (&[0x20, 0][..], &[0, 8][..]));
        assert!(parts.iter().all(|part| view(part).unwrap().header_is_right));
        assert_eq!(frames(&parse(text).unwrap()), [whole]);
        let three = frames(&parse(&format!("{text} cut=64,72 order=3,1")).unwrap());
        assert_eq!(three.iter().map(|part| offset(part)).collect::<Vec<_>>(), [72, 0]);
        let v6 = frames(&parse("udp [fd09::1]:1 > [fd00::1]:2 len=100 cut=64").unwrap());
        assert_eq!(v6.iter().map(|part| (part.len(), offset(part))).collect::<Vec<_>>(), [(126, 0), (106, 64)]);
    }
}
