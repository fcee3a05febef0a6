//! What is left to the device of a frame that smoltcp made: the transport checksum, and the cutting of large TCP segments.
//!
//! smoltcp may have been told of a larger MTU than there is ([`LinkFacts::capabilities`](super::device::LinkFacts)). Here it
//! is made good: the segment size we announce is that of the real MTU, and whatever exceeds what the wire or the peer takes
//! is marked to be cut to that. Where the device does not cut, [`Egress`](crate::dataplane) does.

use ringlet_driver::wire::NetHdr;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
    checksum,
};

use super::device::ETHERNET;
use super::peers::Peers;

/// Length of a TCP header without options, and of a UDP header.
const TCP: usize = 20;
const UDP: usize = 8;
/// Where the checksum lies in TCP's header and in UDP's.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Prepares a frame for a device that finishes checksums, and gives the header it is to be sent with (virtio 1.3, section
/// 5.1.6.2). The checksum field gets the sum of the pseudo-header, with the real length, as Linux does it. `mtu` is in bytes of
/// IP packet.
pub(crate) fn offload(frame: &mut [u8], mtu: u16, peers: &Peers) -> NetHdr {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    let ethertype = ethernet.ethertype();
    let payload = ethernet.payload_mut();
    let (source, target, protocol, header_len, gso_type): (IpAddress, IpAddress, _, usize, u8) = match ethertype {
        EthernetProtocol::Ipv4 => {
            let Ok(ip) = Ipv4Packet::new_checked(&*payload) else { return NetHdr::default() };
            let length = usize::from(ip.header_len());
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), length, NetHdr::GSO_TCPV4)
        }
        EthernetProtocol::Ipv6 => {
            let Ok(ip) = Ipv6Packet::new_checked(&*payload) else { return NetHdr::default() };
            (ip.src_addr().into(), ip.dst_addr().into(), ip.next_header(), ip.header_len(), NetHdr::GSO_TCPV6)
        }
        _ => return NetHdr::default(),
    };
    let segment = &mut payload[header_len..];
    let start = (ETHERNET + header_len) as u16;
    let sum = checksum::pseudo_header(&source, &target, protocol, segment.len() as u32);
    match protocol {
        IpProtocol::Udp if segment.len() >= UDP => {
            UdpPacket::new_unchecked(segment).set_checksum(sum);
            NetHdr::partial_checksum(start, UDP_CHECKSUM)
        }
        IpProtocol::Tcp if segment.len() >= TCP => {
            // What fits into a packet, however the peer would like it.
            let fits = usize::from(mtu).saturating_sub(header_len + TCP).max(1);
            let segment_len = segment.len();
            let mut tcp = TcpPacket::new_unchecked(&mut *segment);
            tcp.set_checksum(sum);
            let tcp_len = usize::from(tcp.header_len());
            let ends = (IpEndpoint::new(source, tcp.src_port()), IpEndpoint::new(target, tcp.dst_port()));
            if tcp.syn() {
                limit_announced(segment.get_mut(TCP..tcp_len).unwrap_or_default(), fits);
            }
            let mut header = NetHdr::partial_checksum(start, TCP_CHECKSUM);
            let data = segment_len.saturating_sub(tcp_len);
            // Options are part of what the peer counts (RFC 6691).
            let size = || fits.min(peers.mss(&ends).into()).saturating_sub(tcp_len - TCP).max(1);
            if data > 0 && tcp_len >= TCP && data > size() {
                header.gso_type = gso_type;
                header.gso_size = size() as u16;
                header.hdr_len = start + tcp_len as u16;
            }
            header
        }
        _ => NetHdr::default(),
    }
}

/// Lowers the maximum segment size in the options of a SYN to `most` bytes.
fn limit_announced(mut options: &mut [u8], most: usize) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    while let Some((&mut kind, rest)) = core::mem::take(&mut options).split_first_mut() {
        if kind == END {
            return;
        }
        if kind == NO_OPERATION {
            options = rest;
            continue;
        }
        let Some((&mut length, rest)) = rest.split_first_mut() else { return };
        let Some(length) = usize::from(length).checked_sub(2).filter(|length| *length <= rest.len()) else { return };
        let (value, rest) = rest.split_at_mut(length);
        if let (MAXIMUM_SEGMENT_SIZE, [high, low]) = (kind, value) {
            let limited = usize::from(u16::from_be_bytes([*high, *low])).min(most) as u16;
            [*high, *low] = limited.to_be_bytes();
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{EthernetAddress, Ipv4Repr, Ipv6Repr, TcpControl, TcpRepr, TcpSeqNumber, TcpTimestampRepr};
    use std::vec;
    use std::vec::Vec;

    fn segment(v6: bool, control: TcpControl, mss: Option<u16>, timestamps: bool, data: &[u8]) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: 5201,
            dst_port: 40000,
            control,
            seq_number: TcpSeqNumber(1),
            ack_number: Some(TcpSeqNumber(2)),
            window_len: 1000,
            window_scale: mss.map(|_| 7),
            max_seg_size: mss,
            sack_permitted: mss.is_some(),
            sack_ranges: [None; 3],
            timestamp: timestamps.then(|| TcpTimestampRepr::new(1, 2)),
            payload: data,
        };
        let mut bytes = vec![0; 14 + if v6 { 40 } else { 20 } + tcp.buffer_len()];
        let capabilities = ChecksumCapabilities::ignored();
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_dst_addr(EthernetAddress([2; 6]));
        let (source, target): (IpAddress, IpAddress) = if v6 {
            frame.set_ethertype(EthernetProtocol::Ipv6);
            let (src_addr, dst_addr) = ("fd00::2".parse().unwrap(), "fd00::9".parse().unwrap());
            let ip = Ipv6Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Tcp,
                payload_len: tcp.buffer_len(),
                hop_limit: 64,
            };
            ip.emit(&mut Ipv6Packet::new_unchecked(frame.payload_mut()));
            (src_addr.into(), dst_addr.into())
        } else {
            frame.set_ethertype(EthernetProtocol::Ipv4);
            let (src_addr, dst_addr) = ([10, 0, 0, 2].into(), [10, 0, 0, 9].into());
            let ip = Ipv4Repr {
                src_addr,
                dst_addr,
                next_header: IpProtocol::Tcp,
                payload_len: tcp.buffer_len(),
                hop_limit: 64,
            };
            ip.emit(&mut Ipv4Packet::new_unchecked(frame.payload_mut()), &ChecksumCapabilities::default());
            (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr))
        };
        let at = if v6 { 54 } else { 34 };
        tcp.emit(&mut TcpPacket::new_unchecked(&mut bytes[at..]), &source, &target, &capabilities);
        bytes
    }

    fn ends(v6: bool) -> super::super::peers::Ends {
        let (ours, peer): (core::net::IpAddr, core::net::IpAddr) = if v6 {
            ("fd00::2".parse().unwrap(), "fd00::9".parse().unwrap())
        } else {
            ("10.0.0.2".parse().unwrap(), "10.0.0.9".parse().unwrap())
        };
        (IpEndpoint::new(ours.into(), 5201), IpEndpoint::new(peer.into(), 40000))
    }

    #[test]
    fn segments_are_cut_to_what_the_wire_and_the_peer_take() {
        let data = vec![7; 20_000];
        for v6 in [false, true] {
            let fits = if v6 { 1440 } else { 1460 };
            for (announced, timestamps, size) in [
                (None, false, 536),
                (Some(1400), false, 1400),
                (Some(1400), true, 1388),
                (Some(8960), false, fits),
                (Some(8960), true, fits - 12),
            ] {
                let mut peers = Peers::new();
                peers.announced(ends(v6), announced, |_| true);
                let mut frame = segment(v6, TcpControl::None, None, timestamps, &data);
                let header = offload(&mut frame, 1500, &peers);
                let gso_type = if v6 { NetHdr::GSO_TCPV6 } else { NetHdr::GSO_TCPV4 };
                assert_eq!((header.gso_type, header.gso_size), (gso_type, size), "{v6} {announced:?} {timestamps}");
                assert_eq!(usize::from(header.hdr_len), frame.len() - data.len());
                assert_eq!((header.csum_start, header.csum_offset), (if v6 { 54 } else { 34 }, 16));
                // One that fits is left alone; one byte more is not.
                for (more, cut) in [(0, false), (1, true)] {
                    let mut frame = segment(v6, TcpControl::Psh, None, timestamps, &data[..usize::from(size) + more]);
                    assert_eq!(offload(&mut frame, 1500, &peers).is_gso(), cut);
                }
            }
        }
    }

    #[test]
    fn no_more_is_announced_than_the_real_mtu_has_room_for() {
        for (v6, mtu, announced, expected) in
            [(true, 1500, 65475, 1440), (false, 1500, 65495, 1460), (true, 9000, 65475, 8940), (true, 1500, 1000, 1000)]
        {
            let mut frame = segment(v6, TcpControl::Syn, Some(announced), true, &[]);
            assert!(!offload(&mut frame, mtu, &Peers::new()).is_gso());
            let tcp = TcpPacket::new_checked(&frame[if v6 { 54 } else { 34 }..]).unwrap();
            let (source, target) = ends(v6);
            let repr = TcpRepr::parse(&tcp, &source.addr, &target.addr, &ChecksumCapabilities::ignored()).unwrap();
            assert_eq!((repr.max_seg_size, repr.window_scale, repr.sack_permitted), (Some(expected), Some(7), true));
        }
    }

    proptest! {
        #[test]
        fn options_of_any_kind_are_passed_over(options in proptest::collection::vec(any::<u8>(), 0..40), most in 0..70_000usize) {
            let mut changed = options.clone();
            limit_announced(&mut changed, most);
            prop_assert_eq!(changed.len(), options.len());
        }

        #[test]
        fn any_frame_is_prepared_without_panic(mut frame in proptest::collection::vec(any::<u8>(), 14..200), kind in 0..3usize) {
            frame[12..14].copy_from_slice([[8, 0], [0x86, 0xdd], [8, 6]][kind].as_slice());
            // smoltcp makes whole headers; whatever follows is free.
            if frame.len() >= 74 {
                offload(&mut frame, 1500, &Peers::new());
            }
        }
    }
}
