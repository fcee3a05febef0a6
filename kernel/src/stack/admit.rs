//! What the stack is shown of the frames the balancer left to it, and what is answered before it.
//!
//! smoltcp runs with "any IP" on, because it has room for eight addresses only and there can be any number of virtual
//! ones: it then takes whatever it is shown for its own. So this is the place where a frame is held against our addresses,
//! and where sources are refused that could make smoltcp's assertions fail.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress,
    IpEndpoint, IpProtocol, Ipv4Packet, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, TcpOption, TcpPacket,
    UdpPacket,
};

use super::peers::Ends;

/// Every address that is ours.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Those of this machine: smoltcp knows them.
    own: Vec<IpAddr>,
    /// Those of services, in order: smoltcp does not know them.
    services: Vec<IpAddr>,
}

impl Addresses {
    /// Only our own.
    pub fn new(own: Vec<IpAddr>) -> Self {
        Self { own, services: Vec::new() }
    }

    /// Replaces those of services.
    pub fn set_services(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.services.clear();
        self.services.extend(addresses);
        self.services.sort_unstable();
    }

    fn is_own(&self, address: &IpAddr) -> bool {
        self.own.contains(address)
    }

    /// Whether an address is one of ours, of either kind.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.is_own(address) || self.services.binary_search(address).is_ok()
    }
}

/// Length of a neighbour advertisement with its one option, as an Ethernet frame.
pub(crate) const ADVERTISEMENT_LEN: usize = 14 + 40 + 24 + 8;

/// What is to become of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The stack may see it.
    Admit,
    /// It is answered with this frame and not shown.
    Answer([u8; ADVERTISEMENT_LEN]),
    /// It is not for us, or not fit to be seen.
    Refuse,
}

/// Judges a frame. `checked` says that the device has verified the transport checksum, or that there is none yet because the
/// frame never left the host.
pub(crate) fn admit(frame: &[u8], checked: bool, addresses: &Addresses, mac: [u8; 6]) -> Admission {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return Admission::Refuse };
    let admitted = match ethernet.ethertype() {
        EthernetProtocol::Arp => admit_arp(ethernet.payload(), addresses),
        EthernetProtocol::Ipv4 => admit_ipv4(ethernet.payload(), checked, addresses),
        EthernetProtocol::Ipv6 => return judge_ipv6(&ethernet, checked, addresses, mac).unwrap_or(Admission::Refuse),
        _ => None,
    };
    admitted.map_or(Admission::Refuse, |()| Admission::Admit)
}

/// An ARP packet that asks for, or answers to, one of our addresses.
fn admit_arp(payload: &[u8], addresses: &Addresses) -> Option<()> {
    let arp = ArpPacket::new_checked(payload).ok()?;
    let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
    let source: [u8; 4] = arp.source_protocol_addr().try_into().ok()?;
    let ours = |address: [u8; 4]| addresses.contains(&IpAddr::from(address));
    (ours(target) && is_source_v4(source.into()) && !ours(source)).then_some(())
}

fn admit_ipv4(payload: &[u8], checked: bool, addresses: &Addresses) -> Option<()> {
    let packet = Ipv4Packet::new_checked(payload).ok()?;
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    // smoltcp is built without reassembly and would take a fragment for a whole packet.
    let whole = !packet.more_frags() && packet.frag_offset() == 0;
    let addressed =
        is_source_v4(source) && !addresses.contains(&IpAddr::V4(source)) && addresses.contains(&IpAddr::V4(target));
    if !whole || !addressed {
        return None;
    }
    if !checked {
        verify(packet.next_header(), packet.payload(), source.into(), target.into())?;
    }
    Some(())
}

fn judge_ipv6(
    ethernet: &EthernetFrame<&[u8]>,
    checked: bool,
    addresses: &Addresses,
    mac: [u8; 6],
) -> Option<Admission> {
    let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    if source.is_multicast() || source.is_loopback() || addresses.contains(&IpAddr::V6(source)) {
        return None;
    }
    if packet.next_header() == IpProtocol::Icmpv6 && packet.hop_limit() == 255 {
        let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
        if icmp.msg_type() == Icmpv6Message::NeighborSolicit {
            return judge_solicitation(ethernet, &packet, &icmp, addresses, mac);
        }
        if icmp.msg_type() == Icmpv6Message::NeighborAdvert && target.is_multicast() {
            return (!source.is_unspecified()).then_some(Admission::Admit);
        }
    }
    if source.is_unspecified() || !addresses.contains(&IpAddr::V6(target)) {
        return None;
    }
    if !checked {
        verify(packet.next_header(), packet.payload(), source.into(), target.into())?;
    }
    Some(Admission::Admit)
}

/// A neighbour solicitation (RFC 4861, section 7.2.3). smoltcp answers for the addresses it knows; for those of services,
/// and where somebody probes for duplicates, the answer is made here.
fn judge_solicitation(
    ethernet: &EthernetFrame<&[u8]>,
    packet: &Ipv6Packet<&[u8]>,
    icmp: &Icmpv6Packet<&[u8]>,
    addresses: &Addresses,
    mac: [u8; 6],
) -> Option<Admission> {
    let (source, group) = (packet.src_addr(), packet.dst_addr());
    let capabilities = ChecksumCapabilities::default();
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) =
        Icmpv6Repr::parse(&source, &group, icmp, &capabilities).ok()?
    else {
        return None;
    };
    let probe = source.is_unspecified();
    let asked = IpAddr::V6(target_addr);
    if !addresses.contains(&asked) || !(group.is_multicast() || group == target_addr) || (probe && lladdr.is_some()) {
        return None;
    }
    if !probe && addresses.is_own(&asked) {
        return Some(Admission::Admit);
    }
    let (to, to_mac, flags) = if probe {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        (all_nodes, EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), NdiscNeighborFlags::OVERRIDE)
    } else {
        (source, ethernet.src_addr(), NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED)
    };
    let advertisement =
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr: Some(EthernetAddress(mac).into()) });
    let ip = Ipv6Repr {
        src_addr: target_addr,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: advertisement.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = [0; ADVERTISEMENT_LEN];
    let mut answer = EthernetFrame::new_unchecked(&mut bytes[..]);
    answer.set_dst_addr(to_mac);
    answer.set_src_addr(EthernetAddress(mac));
    answer.set_ethertype(EthernetProtocol::Ipv6);
    let mut answer = Ipv6Packet::new_unchecked(answer.payload_mut());
    ip.emit(&mut answer);
    advertisement.emit(&target_addr, &to, &mut Icmpv6Packet::new_unchecked(answer.payload_mut()), &capabilities);
    Some(Admission::Answer(bytes))
}

/// The checksum of a TCP segment or UDP datagram, in software: smoltcp is told not to look at it.
fn verify(protocol: IpProtocol, payload: &[u8], source: IpAddr, target: IpAddr) -> Option<()> {
    let sound = match protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(payload).ok()?.verify_checksum(&source.into(), &target.into()),
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            match udp.checksum() {
                // None was made, which IPv6 does not allow (RFC 8200, section 8.1).
                0 => source.is_ipv4(),
                _ => udp.verify_checksum(&source.into(), &target.into()),
            }
        }
        _ => true,
    };
    sound.then_some(())
}

/// The first segment of a connection, from either side.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The connection, our end first.
    pub ends: Ends,
    /// Whether it answers a request of ours; otherwise it is one.
    pub answer: bool,
    /// The largest segment the peer takes, if it says so.
    pub mss: Option<u16>,
}

/// Reads a TCP segment with SYN.
pub(crate) fn opening(frame: &[u8]) -> Option<Opening> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let payload = ethernet.payload();
    let (protocol, source, target, segment) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(payload).ok()?;
            let (source, target) = (packet.src_addr(), packet.dst_addr());
            (packet.next_header(), IpAddress::from(source), IpAddress::from(target), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(payload).ok()?;
            let (source, target) = (packet.src_addr(), packet.dst_addr());
            (packet.next_header(), IpAddress::from(source), IpAddress::from(target), packet.payload())
        }
        _ => return None,
    };
    if protocol != IpProtocol::Tcp {
        return None;
    }
    let tcp = TcpPacket::new_checked(segment).ok().filter(|tcp| tcp.syn() && !tcp.rst() && !tcp.fin())?;
    let mut options = tcp.options();
    let mut mss = None;
    while !options.is_empty() {
        let Ok((rest, option)) = TcpOption::parse(options) else { break };
        match option {
            TcpOption::EndOfList => break,
            TcpOption::MaxSegmentSize(announced) => mss = Some(announced),
            _ => {}
        }
        options = rest;
    }
    let ends = (IpEndpoint::new(target, tcp.dst_port()), IpEndpoint::new(source, tcp.src_port()));
    Some(Opening { ends, answer: tcp.ack(), mss })
}

/// Whether a packet can come from there: not "this network", loopback, multicast, reserved or broadcast.
fn is_source_v4(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// What smoltcp computes and checks itself. It checks no checksum of TCP and UDP, since [`admit`] did, and computes none if
/// the device does (`offload`).
pub(crate) fn checksums(offload: bool) -> ChecksumCapabilities {
    let mut capabilities = ChecksumCapabilities::default();
    let transport = || if offload { Checksum::None } else { Checksum::Tx };
    (capabilities.tcp, capabilities.udp) = (transport(), transport());
    capabilities
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];

    fn addresses() -> Addresses {
        let mut addresses = Addresses::new(vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        addresses.set_services(["fd00::100", "10.0.0.100"].iter().map(|a| a.parse().unwrap()));
        addresses
    }

    /// A neighbour solicitation from `source` for `target`.
    fn solicitation(source: &str, target: &str) -> Vec<u8> {
        let (source, target): (Ipv6Addr, Ipv6Addr) = (source.parse().unwrap(), target.parse().unwrap());
        let octets = target.octets();
        let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, octets[13], octets[14], octets[15]]);
        let lladdr = (!source.is_unspecified()).then(|| EthernetAddress([2, 0, 0, 0, 0, 1]).into());
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: target, lladdr });
        let ip = Ipv6Repr {
            src_addr: source,
            dst_addr: group,
            next_header: IpProtocol::Icmpv6,
            payload_len: repr.buffer_len(),
            hop_limit: 255,
        };
        let mut bytes = vec![0; 54 + repr.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
        frame.set_ethertype(EthernetProtocol::Ipv6);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        ip.emit(&mut packet);
        let mut icmp = Icmpv6Packet::new_unchecked(packet.payload_mut());
        repr.emit(&source, &group, &mut icmp, &ChecksumCapabilities::default());
        bytes
    }

    #[test]
    fn solicitations_for_services_are_answered_here_and_for_ourselves_by_the_stack() {
        let judge = |source, target| admit(&solicitation(source, target), false, &addresses(), MAC);
        assert_eq!(judge("fd00::1", "fd00::2"), Admission::Admit);
        assert_eq!(judge("fd00::1", "fd00::3"), Admission::Refuse);
        assert_eq!(judge("ff02::1", "fd00::100"), Admission::Refuse);
        let Admission::Answer(answer) = judge("fd00::1", "fd00::100") else { panic!("no answer") };
        let frame = EthernetFrame::new_checked(&answer[..]).unwrap();
        assert_eq!((frame.dst_addr().0, frame.src_addr().0), ([2, 0, 0, 0, 0, 1], MAC));
        let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
        assert_eq!((packet.src_addr(), packet.hop_limit()), ("fd00::100".parse().unwrap(), 255));
        let icmp = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        let repr = Icmpv6Repr::parse(&packet.src_addr(), &packet.dst_addr(), &icmp, &ChecksumCapabilities::default());
        let Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr })) = repr else { panic!() };
        assert_eq!(target_addr, packet.src_addr());
        assert_eq!(lladdr, Some(EthernetAddress(MAC).into()));
        assert!(flags.contains(NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE));
    }

    #[test]
    fn a_probe_for_duplicates_is_answered_to_everybody() {
        for target in ["fd00::2", "fd00::100"] {
            let answer = admit(&solicitation("::", target), false, &addresses(), MAC);
            let Admission::Answer(answer) = answer else { panic!("no answer") };
            assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        }
    }

    #[test]
    fn a_damaged_solicitation_is_refused() {
        for i in 54..86 {
            let mut frame = solicitation("fd00::1", "fd00::100");
            frame[i] ^= 0x10;
            assert_eq!(admit(&frame, false, &addresses(), MAC), Admission::Refuse, "byte {i}");
        }
    }

    fn ipv4(source: [u8; 4], target: [u8; 4], fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[17] = 28;
        frame[20..22].copy_from_slice(&fragment.to_be_bytes());
        frame[22] = 64;
        frame[23] = 1;
        frame[26..30].copy_from_slice(&source);
        frame[30..34].copy_from_slice(&target);
        frame
    }

    #[test]
    fn what_is_not_for_us_or_cannot_be_from_anywhere_is_refused() {
        let judge = |source, target, fragment| admit(&ipv4(source, target, fragment), false, &addresses(), MAC);
        assert_eq!(judge([10, 0, 0, 1], [10, 0, 0, 2], 0), Admission::Admit);
        assert_eq!(judge([10, 0, 0, 1], [10, 0, 0, 100], 0x4000), Admission::Admit, "don't fragment");
        for source in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [10, 0, 0, 2], [10, 0, 0, 100]] {
            assert_eq!(judge(source, [10, 0, 0, 2], 0), Admission::Refuse, "{source:?}");
        }
        for target in [[10, 0, 0, 3], [10, 0, 0, 255], [255; 4], [224, 0, 0, 1]] {
            assert_eq!(judge([10, 0, 0, 1], target, 0), Admission::Refuse, "{target:?}");
        }
        for fragment in [0x2000, 0x0001] {
            assert_eq!(judge([10, 0, 0, 1], [10, 0, 0, 2], fragment), Admission::Refuse, "fragment");
        }
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..4usize) {
            let kinds = [[8, 0], [8, 6], [0x86, 0xdd], [1, 2]];
            if frame.len() >= 14 {
                frame[12..14].copy_from_slice(&kinds[kind]);
            }
            let _ = admit(&frame, false, &addresses(), MAC);
        }
    }
}
