//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use super::Mac;
use crate::Reason;
use crate::frame::{ETHERNET, is_group};

/// Bytes of a whole frame; Ethernet's padding is the device's business.
pub(super) const FRAME: usize = ETHERNET + 28;

const BROADCAST: Mac = [0xff; 6];
/// Hardware Ethernet, protocol IPv4, their lengths.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// What an ARP packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
}

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub operation: Operation,
    pub sender_mac: Mac,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

/// Reads an ARP frame. A sender whose Ethernet address is a group's or zero is not believed (RFC 1812 section 3.3.2).
pub(super) fn parse(frame: &[u8]) -> Result<Arp, Reason> {
    let Some(arp) = frame.get(ETHERNET..).and_then(|arp| arp.first_chunk::<28>()) else {
        return Err(Reason::Malformed);
    };
    let operation = match (&arp[..6] == KIND.as_slice(), arp[6], arp[7]) {
        (true, 0, 1) => Operation::Request,
        (true, 0, 2) => Operation::Reply,
        _ => return Err(Reason::Malformed),
    };
    let sender_mac = [arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]];
    if is_group(&sender_mac) || sender_mac == [0; 6] {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
    Ok(Arp { operation, sender_mac, sender: address(14), target: address(24) })
}

/// A request for `target`, to everybody or to the one that is believed to have it.
pub(super) fn request(mac: Mac, source: Ipv4Addr, target: Ipv4Addr, to: Option<Mac>) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&to.unwrap_or(BROADCAST));
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    frame[14..20].copy_from_slice(&KIND);
    frame[21] = 1;
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&source.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [0x52, 0x54, 0, 1, 2, 3];

    #[test]
    fn a_request_is_read_back_and_goes_to_everybody_or_to_one() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 11));
        let frame = request(MAC, a, b, None);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(parse(&frame), Ok(Arp { operation: Operation::Request, sender_mac: MAC, sender: a, target: b }));
        assert_eq!(request(MAC, a, b, Some([4; 6]))[..6], [4; 6]);
        let slices = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
        assert!(matches!(slices.net, Some(etherparse::NetHeaders::Arp(_))));
    }

    #[test]
    fn other_kinds_and_impossible_senders_are_refused() {
        let good = request(MAC, Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 11), None);
        for (at, value) in [(14, 1), (15, 6), (16, 0), (17, 1), (18, 8), (19, 6), (20, 1), (21, 0), (21, 3), (22, 1)] {
            let mut frame = good;
            frame[at] = value;
            assert_eq!(parse(&frame), Err(Reason::Malformed), "byte {at}");
        }
        let mut frame = good;
        frame[22..28].fill(0);
        assert_eq!(parse(&frame), Err(Reason::Malformed));
        assert_eq!(parse(&good[..FRAME - 1]), Err(Reason::Malformed));
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
