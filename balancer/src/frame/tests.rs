use super::*;
use crate::frame::transport::TcpFlags;
use crate::service::Protocol;
use alloc::vec::Vec;
use etherparse::PacketBuilder;
use proptest::prelude::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn udp(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 7).udp(1000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn tcp_v6(payload: &[u8]) -> Vec<u8> {
    let (source, destination) = ([0xfd; 16], [0xfe; 16]);
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC).ipv6(source, destination, 64).tcp(4000, 80, 1, 1024).syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A frame with `extensions` between its IPv6 and TCP headers; the first extension is of type `first`.
fn with_extensions(first: u8, extensions: &[u8]) -> Vec<u8> {
    let mut frame = tcp_v6(&[]);
    let tail = frame.split_off(ETHERNET + 40);
    frame[ETHERNET + 6] = first;
    let len = (tail.len() + extensions.len()) as u16;
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(extensions);
    frame.extend_from_slice(&tail);
    frame
}

fn whole(frame: &[u8]) -> Result<Content, Reason> {
    parse(frame, frame.len(), &MAC)
}

fn flow(frame: &[u8]) -> (Ip, Transport) {
    match whole(frame) {
        Ok(Content::Flow(ip, transport)) => (ip, transport),
        other => panic!("{other:?}"),
    }
}

#[test]
fn udp_over_ipv4_is_read() {
    let mut frame = udp(&[1, 2, 3]);
    frame.extend_from_slice(&[0; 15]);
    let (ip, transport) = flow(&frame);
    assert_eq!((ip.hops, ip.payload, ip.end, ip.len()), (7, 34, 45, 31), "padding is not part of the packet");
    assert_eq!(ip.source, "10.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!((transport.source_port, transport.destination_port), (1000, 53));
    assert_eq!((transport.protocol, transport.header), (Protocol::Udp, 8));
}

#[test]
fn tcp_over_ipv6_is_read() {
    let (ip, transport) = flow(&tcp_v6(b"hello"));
    assert!(ip.is_v6() && ip.dont_fragment);
    assert_eq!((ip.payload, transport.header, transport.flags), (54, 20, TcpFlags::SYN));
}

#[test]
fn options_and_extensions_are_stepped_over() {
    let (ip, transport) = flow(&with_extensions(0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]));
    assert_eq!((ip.payload, ip.protocol, transport.destination_port), (ETHERNET + 56, 6, 80));
    let (ip, _) = flow(&with_extensions(51, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(ip.payload, ETHERNET + 52, "the authentication header counts its length in words");

    let mut frame = udp(&[]);
    frame.splice(34..34, [1; 4]);
    frame[14] = 0x46;
    frame[17] += 4;
    let sum = 0x4600 - 0x4500 + 4 + 0x0202;
    let old = u16::from_be_bytes([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&(old - sum).to_be_bytes());
    assert_eq!(flow(&frame).0.payload, 38);
}

#[test]
fn a_routing_header_hides_the_last_destination() {
    let Ok(Content::Other(ip)) = whole(&with_extensions(43, &[6, 0, 4, 1, 0, 0, 0, 0])) else { panic!() };
    assert_eq!(ip.protocol, 43);
    assert_eq!(flow(&with_extensions(43, &[6, 0, 4, 0, 0, 0, 0, 0])).0.protocol, 6);
}

#[test]
fn fragments_are_told_apart() {
    for (field, fragment) in [(0u16, Fragment::Whole), (1, Fragment::First), (8, Fragment::Later), (9, Fragment::Later)]
    {
        let [a, b] = field.to_be_bytes();
        let content = whole(&with_extensions(44, &[6, 0, a, b, 0, 0, 0, 1])).unwrap();
        match content {
            Content::Flow(ip, _) => assert_eq!(ip.fragment, fragment),
            Content::Other(ip) => assert_eq!((ip.fragment, fragment), (Fragment::Later, Fragment::Later)),
            Content::Arp => panic!(),
        }
    }
    // One of the two would be believed here, and the other there.
    for field in [0, 1] {
        let twice = [44, 0, 0, field, 0, 0, 0, 1, 6, 0, 0, 9, 0, 0, 0, 2];
        assert_eq!(whole(&with_extensions(44, &twice)), Err(Reason::Malformed));
    }
}

#[test]
fn what_is_not_for_us_or_wrong_is_refused() {
    let good = udp(&[0; 8]);
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        whole(&frame)
    };
    assert_eq!(with(5, 9), Err(Reason::NotToUs));
    assert_eq!(with(12, 0x81), Err(Reason::EtherType));
    assert_eq!(with(22, 8), Err(Reason::BadHeaderChecksum));
    assert_eq!(with(14, 0x55), Err(Reason::Malformed));
    assert_eq!(with(14, 0x44), Err(Reason::Malformed));
    assert_eq!(with(17, 200), Err(Reason::Malformed));
    assert_eq!(with(39, 7), Err(Reason::Malformed), "a UDP length without room for the header");
    assert_eq!(parse(&good[..13], 13, &MAC), Err(Reason::Malformed));
    let mut arp = good.clone();
    arp[13] = 6;
    assert_eq!(whole(&arp), Ok(Content::Arp));
}

proptest! {
    #[test]
    fn no_frame_makes_it_read_beyond(
        mut frame in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(with_extensions(0, &[43, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0])),
            Just(udp(&[0; 20])),
        ],
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        extra in 0usize..100,
    ) {
        for (at, value) in changes {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = value;
            }
        }
        let head = &frame[..cut.index(frame.len() + 1)];
        let len = head.len() + extra;
        if let Ok(Content::Flow(ip, _) | Content::Other(ip)) = parse(head, len, &MAC) {
            prop_assert!(ip.payload <= ip.end && ip.end <= len);
        }
        if let Ok(Content::Flow(ip, transport)) = parse(head, len, &MAC) {
            prop_assert!(ip.payload + transport.header <= head.len().min(ip.end));
            prop_assert!(transport.checksum_offset() + 2 <= transport.header);
        }
    }
}
