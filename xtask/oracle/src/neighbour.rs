//! Questions for Ethernet addresses (ARP, RFC 826; neighbour discovery, RFC 4861), and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{self, protocol, view};
use crate::world;

/// The neighbour's answer to a question of the balancer's; `None` if the frame is none.
pub fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    match frame.get(12..14)? {
        [0x08, 0x06] => arp(frame),
        [0x86, 0xdd] => advertisement(frame),
        _ => None,
    }
}

/// Whether a frame is about the network itself: ARP, IGMP, and of ICMPv6 what is about neighbours, routers and groups. Two
/// hosts do not say the same there.
pub fn is_chatter(frame: &[u8]) -> bool {
    if frame.get(12..14) == Some(&[0x08, 0x06]) {
        return true;
    }
    // Reports of groups have a hop-by-hop header (0) before them.
    view(frame).is_some_and(|view| match view.icmp() {
        Some([kind, _]) => view.protocol == protocol::ICMPV6 && matches!(kind, 130..=137 | 143),
        None => matches!(view.protocol, 0 | protocol::IGMP),
    })
}

fn arp(frame: &[u8]) -> Option<Vec<u8>> {
    let arp = frame.get(14..42)?;
    if arp[6..8] != [0, 1] {
        return None;
    }
    let target = Ipv4Addr::new(arp[24], arp[25], arp[26], arp[27]);
    let mac = world::mac(IpAddr::V4(target));
    let mut answer = [&arp[8..14], &mac, &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2], &mac, &target.octets()].concat();
    answer.extend(&arp[8..18]);
    Some(answer)
}

fn advertisement(frame: &[u8]) -> Option<Vec<u8>> {
    let view = view(frame)?;
    if view.icmp()? != [135, 0] {
        return None;
    }
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(view.payload.get(8..24)?).ok()?);
    let mac = world::mac(IpAddr::V6(target));
    // Solicited, override; the target's Ethernet address as option 2.
    let mut message = [&[136, 0, 0, 0, 0x60, 0, 0, 0], &target.octets()[..], &[2, 1], &mac].concat();
    let sum = packet::internet_checksum(target.into(), view.source, protocol::ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let IpAddr::V6(asker) = view.source else { return None };
    let mut answer = [&world::MAC[..], &mac, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, protocol::ICMPV6, 255]].concat();
    answer.extend(target.octets());
    answer.extend(asker.octets());
    answer.extend(message);
    Some(answer)
}
