//! smoltcp's view of the network device: one received frame at a time in, frames with their checksum work marked out.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use smoltcp::phy::{self, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, checksum,
};

use super::admit::checksums;
use super::echo;

/// The longest frame the stack makes, in bytes with the Ethernet header: the IPv4 total length ends at 65,535.
pub(crate) const LONGEST_FRAME: usize = 14 + 65_535;

/// Length of an Ethernet header.
const ETHERNET: usize = EthernetFrame::<&[u8]>::header_len();

/// Where the stack's frames go.
pub trait Outlet {
    /// Whether a frame can be taken now. While it cannot, the stack makes none.
    fn is_ready(&mut self) -> bool;

    /// Takes a copy of a whole Ethernet frame. What cannot be sent is dropped and counted.
    fn send(&mut self, frame: &[u8], header: NetHdr);
}

/// What the stack must know of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkFacts {
    /// Our Ethernet address.
    pub mac: [u8; 6],
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// The device finishes transport checksums (CSUM).
    pub checksum: bool,
    /// The device cuts large TCP segments over IPv4 (HOST_TSO4).
    pub segmentation_v4: bool,
}

impl LinkFacts {
    /// From what was negotiated.
    #[must_use]
    pub fn new(features: Features, mac: [u8; 6], mtu: u16) -> Self {
        let checksum = features.contains(Features::CSUM);
        Self { mac, mtu, checksum, segmentation_v4: checksum && features.contains(Features::HOST_TSO4) }
    }

    /// In smoltcp's words. Segmentation over IPv6 stays off: smoltcp 0.14 drops every IPv6 packet above the MTU, whatever the
    /// device can do.
    pub(crate) fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = ETHERNET + usize::from(self.mtu);
        capabilities.checksum = checksums(self.checksum);
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST_FRAME).filter(|_| self.segmentation_v4);
        capabilities
    }
}

/// Room for one frame in the making.
#[derive(Debug)]
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    pub fn new() -> Self {
        Self(vec![0; LONGEST_FRAME])
    }

    /// The bytes.
    pub fn frame(&self) -> &[u8] {
        &self.0
    }

    /// Makes the reply to an echo request here, if `frame` is one, and gives its length.
    pub fn echo(&mut self, frame: &[u8], mac: [u8; 6]) -> Option<usize> {
        if !may_be_echo(frame) {
            return None;
        }
        let copy = self.0.get_mut(..frame.len())?;
        copy.copy_from_slice(frame);
        echo::reply(copy, mac)
    }
}

/// Whether a frame carries ICMP at all, so that others need not be copied.
fn may_be_echo(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23) == Some(&1),
        Some([0x86, 0xdd]) => frame.get(20) == Some(&58),
        _ => false,
    }
}

/// The device for one call into smoltcp.
pub(crate) struct Device<'a, O> {
    /// The frame to be received, if one is.
    pub received: Option<&'a [u8]>,
    pub facts: &'a LinkFacts,
    pub scratch: &'a mut Scratch,
    pub outlet: &'a mut O,
}

impl<O: Outlet> phy::Device for Device<'_, O> {
    type RxToken<'t>
        = RxToken<'t>
    where
        Self: 't;
    type TxToken<'t>
        = TxToken<'t, O>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // Received whether or not the answer can be sent: an outlet that is full drops it, as a wire would.
        let frame = self.received.take()?;
        let token = TxToken { facts: self.facts, scratch: self.scratch, outlet: self.outlet, gso_size: 0 };
        Some((RxToken(frame), token))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.outlet.is_ready().then_some(TxToken {
            facts: self.facts,
            scratch: self.scratch,
            outlet: self.outlet,
            gso_size: 0,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.facts.capabilities()
    }
}

/// Lends a received frame.
pub(crate) struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Takes a frame to be sent.
pub(crate) struct TxToken<'a, O> {
    facts: &'a LinkFacts,
    scratch: &'a mut Scratch,
    outlet: &'a mut O,
    gso_size: u16,
}

impl<O: Outlet> phy::TxToken for TxToken<'_, O> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(frame) = self.scratch.0.get_mut(..len) else {
            // Longer than anything smoltcp was told it may make; the closure must run all the same.
            return f(&mut vec![0; len]);
        };
        let result = f(frame);
        let header = if self.facts.checksum { offload(frame, self.gso_size) } else { NetHdr::default() };
        self.outlet.send(frame, header);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.gso_size = meta.segmentation_offload_size.map_or(0, Into::into);
    }
}

/// Leaves the checksum of a TCP segment, and its segmentation if `gso_size` is not 0, to the device (virtio 1.3, section
/// 5.1.6.2): the field gets the sum of the pseudo-header, with the real length, as Linux does it.
fn offload(frame: &mut [u8], gso_size: u16) -> NetHdr {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    let ethertype = ethernet.ethertype();
    let payload = ethernet.payload_mut();
    let (source, target, header_len, gso_type): (IpAddress, IpAddress, usize, u8) = match ethertype {
        EthernetProtocol::Ipv4 => {
            let Ok(ip) = Ipv4Packet::new_checked(&*payload) else { return NetHdr::default() };
            if ip.next_header() != IpProtocol::Tcp {
                return NetHdr::default();
            }
            (ip.src_addr().into(), ip.dst_addr().into(), usize::from(ip.header_len()), NetHdr::GSO_TCPV4)
        }
        EthernetProtocol::Ipv6 => {
            let Ok(ip) = Ipv6Packet::new_checked(&*payload) else { return NetHdr::default() };
            if ip.next_header() != IpProtocol::Tcp {
                return NetHdr::default();
            }
            (ip.src_addr().into(), ip.dst_addr().into(), ip.header_len(), NetHdr::GSO_TCPV6)
        }
        _ => return NetHdr::default(),
    };
    let segment = &mut payload[header_len..];
    let segment_len = segment.len();
    let sum = checksum::pseudo_header(&source, &target, IpProtocol::Tcp, segment_len as u32);
    let mut tcp = TcpPacket::new_unchecked(segment);
    tcp.set_checksum(sum);
    let start = ETHERNET + header_len;
    let mut header = NetHdr::partial_checksum(start as u16, 16);
    if gso_size != 0 {
        header.gso_type = gso_type;
        header.gso_size = gso_size;
        header.hdr_len = (start + usize::from(tcp.header_len())) as u16;
    }
    header
}
