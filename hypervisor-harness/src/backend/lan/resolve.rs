//! Address resolution: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861), both sides of each.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::fabric::{Fabric, Frame};
use super::packet::{self, ARP, HEADROOM, ICMPV6, IPV6, Packet};
use super::plan::{BROADCAST, Mac};

/// Length of an ARP packet for Ethernet and IPv4.
const ARP_LENGTH: usize = 28;
/// The fixed part of one: Ethernet, IPv4, and the lengths of their addresses.
const ARP_FIXED: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// ICMPv6 neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// All nodes of the segment.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The Ethernet address of an IPv6 multicast address (RFC 2464, section 7).
pub fn multicast(address: Ipv6Addr) -> Mac {
    let [.., c, d, e, f] = address.octets();
    [0x33, 0x33, c, d, e, f]
}

/// The question who has `wanted`, from `own` at `mac`: where it goes, its EtherType, and the frame.
pub fn question(mac: Mac, own: IpAddr, wanted: IpAddr) -> (Mac, u16, Frame) {
    match (own, wanted) {
        (IpAddr::V4(own), IpAddr::V4(wanted)) => (BROADCAST, ARP, arp(1, mac, own.octets(), [0; 6], wanted.octets())),
        (IpAddr::V6(own), IpAddr::V6(wanted)) => {
            // The solicited-node address (RFC 4291, section 2.7.1).
            let [.., low] = wanted.segments();
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(wanted.octets()[13]), low);
            (multicast(group), IPV6, neighbour(SOLICITATION, 0, own, group, wanted, mac))
        }
        _ => (BROADCAST, ARP, Frame::small(HEADROOM)),
    }
}

fn arp(operation: u8, mac: Mac, own: [u8; 4], their_mac: Mac, their: [u8; 4]) -> Frame {
    // Ethernet frames have at least 60 bytes.
    let mut frame = Frame::small(HEADROOM + 46);
    let body = &mut frame.packet_mut()[..ARP_LENGTH];
    body[..6].copy_from_slice(&ARP_FIXED);
    body[7] = operation;
    body[8..14].copy_from_slice(&mac);
    body[14..18].copy_from_slice(&own);
    body[18..24].copy_from_slice(&their_mac);
    body[24..28].copy_from_slice(&their);
    frame
}

/// A solicitation or an advertisement about `target`, with the sender's Ethernet address as its option.
fn neighbour(kind: u8, flags: u8, from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Frame {
    let mut frame = Frame::small(HEADROOM + 40 + 32);
    let packet = frame.packet_mut();
    let body = &mut packet[40..];
    body[0] = kind;
    body[4] = flags;
    body[8..24].copy_from_slice(&target.octets());
    // Source link-layer address with a solicitation, target link-layer address with an advertisement; in units of 8 bytes.
    body[24] = if kind == SOLICITATION { 1 } else { 2 };
    body[25] = 1;
    body[26..32].copy_from_slice(&mac);
    packet::write_header(packet, from.into(), to.into(), ICMPV6);
    packet::write_checksum(packet, false);
    frame
}

/// Host `at` takes an ARP packet.
pub fn arp_input(fabric: &mut Fabric, at: usize, body: &[u8], now: Instant) {
    let Some(body) = body.first_chunk::<ARP_LENGTH>() else { return };
    let operation = body[7];
    if body[..6] != ARP_FIXED || body[6] != 0 || !matches!(operation, 1 | 2) {
        return;
    }
    let ipv4 = |at: usize| [body[at], body[at + 1], body[at + 2], body[at + 3]];
    let mut mac = [0; 6];
    mac.copy_from_slice(&body[8..14]);
    let (sender, target) = (ipv4(14), ipv4(24));
    let host = &fabric.hosts[at];
    let (own_mac, mine) = (host.mac, host.addresses.contains(&IpAddr::from(target)));
    if sender != [0; 4] {
        fabric.heard(at, sender.into(), mac, mine, now);
    }
    if operation == 1 && mine && mac[0] & 1 == 0 {
        fabric.transmit(at, mac, ARP, arp(2, own_mac, target, mac, sender));
    }
}

/// Host `at` takes a neighbour solicitation or advertisement, whose checksum is right.
pub fn neighbour_input(fabric: &mut Fabric, at: usize, packet: &Packet<'_>, now: Instant) {
    let body = packet.payload();
    // A hop limit of 255 shows that no router brought it (RFC 4861, section 7.1).
    let (Some(24..), 255, IpAddr::V6(source)) = (Some(body.len()), packet.bytes[7], packet.source) else { return };
    let mut target = [0; 16];
    target.copy_from_slice(&body[8..24]);
    let target = Ipv6Addr::from(target);
    let mine = fabric.hosts[at].addresses.contains(&target.into());
    match body[0] {
        SOLICITATION if mine => {
            let mac = link_layer_option(&body[24..], 1);
            // Somebody who looks whether the address is taken has none yet.
            let to = if source.is_unspecified() { ALL_NODES } else { source };
            if let (Some(mac), false) = (mac, source.is_unspecified()) {
                fabric.heard(at, source.into(), mac, true, now);
            }
            let router = if fabric.hosts[at].gateway { 0x80 } else { 0 };
            let solicited = if source.is_unspecified() { 0 } else { 0x40 };
            let own = fabric.hosts[at].mac;
            let frame = neighbour(ADVERTISEMENT, router | solicited | 0x20, target, to, target, own);
            let destination = mac.filter(|mac| mac[0] & 1 == 0 && !source.is_unspecified());
            fabric.transmit(at, destination.unwrap_or_else(|| multicast(ALL_NODES)), IPV6, frame);
        }
        ADVERTISEMENT if !target.is_multicast() => {
            if let Some(mac) = link_layer_option(&body[24..], 2) {
                fabric.heard(at, target.into(), mac, false, now);
            }
        }
        _ => {}
    }
}

/// The Ethernet address in the option of this kind (RFC 4861, section 4.6.1).
fn link_layer_option(mut options: &[u8], kind: u8) -> Option<Mac> {
    while let [found, length, ..] = options {
        let (option, rest) = options.split_at_checked(usize::from(*length) * 8)?;
        if *found == kind {
            return option.get(2..)?.first_chunk().copied();
        }
        if option.is_empty() {
            return None;
        }
        options = rest;
    }
    None
}
