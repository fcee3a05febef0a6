//! Who has which Ethernet address: ARP (RFC 826) and neighbour discovery (RFC 4861), the answering side.

use std::net::{IpAddr, Ipv4Addr};

use ringlet_driver::wire::NetHdr;

use super::shape::{IP, add, address, fold};
use super::{LEAST_FRAME, Load, ethernet};

/// Where an ICMPv6 message begins.
const MESSAGE: usize = IP + 40;
/// ICMPv6's number.
const ICMPV6: u8 = 58;
/// A neighbour solicitation.
const SOLICITATION: u8 = 135;
/// A neighbour advertisement.
const ADVERTISEMENT: u8 = 136;

/// The answer to a frame that asks for one of the network's own addresses, with its virtio header.
pub(super) fn answer(question: &[u8], load: &Load) -> Option<Vec<u8>> {
    let mut answer = match question.get(12..14)? {
        [0x08, 0x06] => arp(question, load),
        [0x86, 0xdd] => neighbour(question, load),
        _ => None,
    }?;
    // One buffer.
    answer[10] = 1;
    Some(answer)
}

/// Whether an address is the gateway's or a server's.
fn is_own(address: IpAddr, load: &Load) -> bool {
    address == load.gateway || load.servers.iter().any(|server| server.ip() == address)
}

fn arp(question: &[u8], load: &Load) -> Option<Vec<u8>> {
    // Hardware Ethernet, protocol IPv4, lengths 6 and 4, operation 1.
    if question.get(14..22)? != [0, 1, 8, 0, 6, 4, 0, 1] {
        return None;
    }
    let (asker, asked) = (question.get(22..32)?, question.get(38..42)?);
    let target = address(asked).filter(|target| is_own(*target, load))?;
    Some(reply(ethernet(target), asked, asker))
}

/// ARP's answer, with its virtio header: who has this address, told to somebody of whom the Ethernet and the IPv4 address are
/// known, one after the other.
fn reply(own: [u8; 6], asked: &[u8], asker: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; NetHdr::LEN + LEAST_FRAME];
    let arp = &mut frame[NetHdr::LEN..];
    arp[..6].copy_from_slice(&asker[..6]);
    arp[6..12].copy_from_slice(&own);
    arp[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
    arp[22..28].copy_from_slice(&own);
    arp[28..32].copy_from_slice(asked);
    arp[32..42].copy_from_slice(asker);
    frame
}

/// The same without having been asked.
pub(super) fn announcement(address: Ipv4Addr, ethernet_of_guest: [u8; 6], guest: Ipv4Addr) -> Vec<u8> {
    let mut asker = [0; 10];
    asker[..6].copy_from_slice(&ethernet_of_guest);
    asker[6..].copy_from_slice(&guest.octets());
    reply(ethernet(address.into()), &address.octets(), &asker)
}

fn neighbour(question: &[u8], load: &Load) -> Option<Vec<u8>> {
    let ip = question.get(IP..MESSAGE)?;
    let message = question.get(MESSAGE..MESSAGE + 24)?;
    // A hop limit of 255 shows that no router brought it. Who has no address yet is not answered.
    if ip[6] != ICMPV6 || ip[7] != 255 || message[0] != SOLICITATION || ip[8..24] == [0; 16] {
        return None;
    }
    let target = address(&message[8..24]).filter(|target| is_own(*target, load))?;
    let own = ethernet(target);
    let mut frame = vec![0; NetHdr::LEN + MESSAGE + 32];
    let out = &mut frame[NetHdr::LEN..];
    out[..6].copy_from_slice(&question[6..12]);
    out[6..12].copy_from_slice(&own);
    out[12..14].copy_from_slice(&[0x86, 0xdd]);
    out[IP] = 0x60;
    out[IP + 4..IP + 8].copy_from_slice(&[0, 32, ICMPV6, 255]);
    out[IP + 8..IP + 24].copy_from_slice(&message[8..24]);
    out[IP + 24..IP + 40].copy_from_slice(&ip[8..24]);
    let reply = &mut out[MESSAGE..];
    // Solicited, and it replaces what was known.
    (reply[0], reply[4]) = (ADVERTISEMENT, 0x60);
    reply[8..24].copy_from_slice(&message[8..24]);
    // The target's link-layer address, in units of eight bytes.
    reply[24..26].copy_from_slice(&[2, 1]);
    reply[26..32].copy_from_slice(&own);
    let sum = add(add(u32::from(ICMPV6) + 32, &out[IP + 8..IP + 40]), &out[MESSAGE..]);
    out[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&(!fold(sum)).to_be_bytes());
    Some(frame)
}
