//! Echo replies (RFC 792, RFC 4443 section 4.2), made of the request as it lies and sent back to where it came from.
//!
//! smoltcp answers echo requests too, but asks for its neighbour's address once a minute if that is a gateway, and loses the
//! reply meanwhile: a ping a minute through a router, which looks like a fault of the balancer.

use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet,
    IpProtocol, Ipv4Packet, Ipv6Packet,
};

/// The hop limit of replies.
const HOP_LIMIT: u8 = 64;

/// Turns an echo request into its reply, whose length in bytes is returned. `None` if the frame is none, is damaged, or is
/// better left to the stack; it is unchanged then. Whether the frame is for us was seen to before.
pub(crate) fn reply(frame: &mut [u8], mac: [u8; 6]) -> Option<usize> {
    let mut ethernet = EthernetFrame::new_checked(frame).ok()?;
    let from = ethernet.src_addr();
    if !from.is_unicast() {
        return None;
    }
    let length = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => reply_v4(ethernet.payload_mut())?,
        EthernetProtocol::Ipv6 => reply_v6(ethernet.payload_mut())?,
        _ => return None,
    };
    ethernet.set_dst_addr(from);
    ethernet.set_src_addr(EthernetAddress(mac));
    Some(EthernetFrame::<&[u8]>::header_len() + length)
}

fn reply_v4(packet: &mut [u8]) -> Option<usize> {
    let mut ip = Ipv4Packet::new_checked(packet).ok()?;
    // Options, such as a route to record, are the stack's to understand.
    if ip.next_header() != IpProtocol::Icmp || ip.header_len() != 20 || ip.version() != 4 || !ip.verify_checksum() {
        return None;
    }
    let mut icmp = Icmpv4Packet::new_checked(ip.payload_mut()).ok()?;
    if icmp.msg_type() != Icmpv4Message::EchoRequest || icmp.msg_code() != 0 || !icmp.verify_checksum() {
        return None;
    }
    icmp.set_msg_type(Icmpv4Message::EchoReply);
    icmp.fill_checksum();
    let (source, target) = (ip.src_addr(), ip.dst_addr());
    ip.set_src_addr(target);
    ip.set_dst_addr(source);
    ip.set_hop_limit(HOP_LIMIT);
    ip.fill_checksum();
    Some(ip.total_len().into())
}

fn reply_v6(packet: &mut [u8]) -> Option<usize> {
    let mut ip = Ipv6Packet::new_checked(packet).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 || ip.version() != 6 {
        return None;
    }
    let (source, target) = (ip.src_addr(), ip.dst_addr());
    let length = ip.total_len();
    let mut icmp = Icmpv6Packet::new_checked(ip.payload_mut()).ok()?;
    if icmp.msg_type() != Icmpv6Message::EchoRequest || icmp.msg_code() != 0 || !icmp.verify_checksum(&source, &target)
    {
        return None;
    }
    icmp.set_msg_type(Icmpv6Message::EchoReply);
    icmp.fill_checksum(&target, &source);
    ip.set_src_addr(target);
    ip.set_dst_addr(source);
    ip.set_hop_limit(HOP_LIMIT);
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4Repr, Icmpv6Repr, Ipv4Repr, Ipv6Repr};
    use std::vec;
    use std::vec::Vec;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn ethernet(kind: EthernetProtocol, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; 14 + len];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_dst_addr(EthernetAddress(MAC));
        frame.set_src_addr(EthernetAddress(FROM));
        frame.set_ethertype(kind);
        bytes
    }

    fn request_v4(data: &[u8]) -> Vec<u8> {
        let icmp = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 9, data };
        let ip = Ipv4Repr {
            src_addr: [10, 9, 0, 5].into(),
            dst_addr: [10, 0, 0, 100].into(),
            next_header: IpProtocol::Icmp,
            payload_len: icmp.buffer_len(),
            hop_limit: 3,
        };
        let capabilities = ChecksumCapabilities::default();
        let mut bytes = ethernet(EthernetProtocol::Ipv4, 20 + icmp.buffer_len());
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
        ip.emit(&mut packet, &capabilities);
        icmp.emit(&mut Icmpv4Packet::new_unchecked(packet.payload_mut()), &capabilities);
        bytes
    }

    fn request_v6(data: &[u8]) -> Vec<u8> {
        let icmp = Icmpv6Repr::EchoRequest { ident: 7, seq_no: 9, data };
        let (source, target) = ("fd09::5".parse().unwrap(), "fd00::100".parse().unwrap());
        let ip = Ipv6Repr {
            src_addr: source,
            dst_addr: target,
            next_header: IpProtocol::Icmpv6,
            payload_len: icmp.buffer_len(),
            hop_limit: 3,
        };
        let mut bytes = ethernet(EthernetProtocol::Ipv6, 40 + icmp.buffer_len());
        let mut packet = Ipv6Packet::new_unchecked(&mut bytes[14..]);
        ip.emit(&mut packet);
        let mut icmp_packet = Icmpv6Packet::new_unchecked(packet.payload_mut());
        icmp.emit(&source, &target, &mut icmp_packet, &ChecksumCapabilities::default());
        bytes
    }

    proptest! {
        #[test]
        fn a_reply_is_the_request_turned_round(data in proptest::collection::vec(any::<u8>(), 0..100), padding in 0..20usize) {
            let capabilities = ChecksumCapabilities::default();
            let mut frame = request_v4(&data);
            let length = frame.len();
            frame.resize(length + padding, 0);
            prop_assert_eq!(reply(&mut frame, MAC), Some(length));
            prop_assert_eq!((&frame[..6], &frame[6..12]), (&FROM[..], &MAC[..]));
            let ip = Ipv4Packet::new_checked(&frame[14..length]).unwrap();
            let repr = Ipv4Repr::parse(&ip, &capabilities).unwrap();
            prop_assert_eq!((repr.src_addr, repr.dst_addr), ([10, 0, 0, 100].into(), [10, 9, 0, 5].into()));
            let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
            let expected = Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data: &data };
            prop_assert_eq!(Icmpv4Repr::parse(&icmp, &capabilities), Ok(expected));

            let mut frame = request_v6(&data);
            let length = frame.len();
            frame.resize(length + padding, 0);
            prop_assert_eq!(reply(&mut frame, MAC), Some(length));
            let ip = Ipv6Packet::new_checked(&frame[14..length]).unwrap();
            let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
            let expected = Icmpv6Repr::EchoReply { ident: 7, seq_no: 9, data: &data };
            prop_assert_eq!(Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &capabilities), Ok(expected));
        }

        #[test]
        fn a_damaged_request_is_left_as_it_is(at in 14..50usize, bit in 0..8u8, v6: bool) {
            let mut frame = if v6 { request_v6(b"12345678") } else { request_v4(b"12345678") };
            frame[at] ^= 1 << bit;
            let before = frame.clone();
            if reply(&mut frame, MAC).is_none() {
                prop_assert_eq!(frame, before);
            } else {
                // Not covered by a checksum: traffic class, flow label and hop limit of IPv6.
                prop_assert!(v6 && at < 22);
            }
        }

        #[test]
        fn no_frame_makes_it_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..100), v6: bool) {
            if frame.len() >= 14 {
                frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            let _ = reply(&mut frame, MAC);
        }
    }
}
