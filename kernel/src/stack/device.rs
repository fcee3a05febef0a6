//! smoltcp's view of the network device: one received frame at a time in, frames with their checksum work marked out.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use smoltcp::phy::{self, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use smoltcp::wire::EthernetFrame;

use super::admit::checksums;
use super::echo;
use super::peers::Peers;
use super::transmit;

/// The longest frame the stack makes, in bytes with the Ethernet header: the IPv4 total length ends at 65,535.
pub(crate) const LONGEST_FRAME: usize = 14 + 65_535;

/// Length of an Ethernet header.
pub(crate) const ETHERNET: usize = EthernetFrame::<&[u8]>::header_len();

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
    /// The device cuts large TCP segments over IPv6 (HOST_TSO6).
    pub segmentation_v6: bool,
}

impl LinkFacts {
    /// From what was negotiated.
    #[must_use]
    pub fn new(features: Features, mac: [u8; 6], mtu: u16) -> Self {
        let checksum = features.contains(Features::CSUM);
        let segmentation = |feature| checksum && features.contains(feature);
        Self {
            mac,
            mtu,
            checksum,
            segmentation_v4: segmentation(Features::HOST_TSO4),
            segmentation_v6: segmentation(Features::HOST_TSO6),
        }
    }

    /// In smoltcp's words. Where the device cuts segments over IPv6 the MTU is said to be 64 KiB, since smoltcp 0.14 drops
    /// every IPv6 packet above it, whatever the device can do: [`transmit`] has the real one kept.
    pub(crate) fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit =
            if self.segmentation_v6 { LONGEST_FRAME } else { ETHERNET + usize::from(self.mtu) };
        capabilities.checksum = checksums(self.checksum);
        let longest = NonZeroUsize::new(LONGEST_FRAME);
        capabilities.segmentation.tcpv4 = longest.filter(|_| self.segmentation_v4);
        capabilities.segmentation.tcpv6 = longest.filter(|_| self.segmentation_v6);
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
    pub peers: &'a Peers,
    pub scratch: &'a mut Scratch,
    pub outlet: &'a mut O,
    /// Bytes that may still be sent. The frame that exceeds it is the last.
    pub budget: &'a mut usize,
}

impl<'a, O: Outlet> Device<'a, O> {
    fn token(&mut self) -> TxToken<'_, O> {
        TxToken {
            facts: self.facts,
            peers: self.peers,
            scratch: self.scratch,
            outlet: self.outlet,
            budget: self.budget,
        }
    }
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
        Some((RxToken(frame), self.token()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        (*self.budget > 0 && self.outlet.is_ready()).then(|| self.token())
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
    peers: &'a Peers,
    scratch: &'a mut Scratch,
    outlet: &'a mut O,
    budget: &'a mut usize,
}

impl<O: Outlet> phy::TxToken for TxToken<'_, O> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(frame) = self.scratch.0.get_mut(..len) else {
            // Longer than anything smoltcp was told it may make; the closure must run all the same.
            return f(&mut vec![0; len]);
        };
        let result = f(frame);
        let header =
            if self.facts.checksum { transmit::offload(frame, self.facts.mtu, self.peers) } else { NetHdr::default() };
        *self.budget = self.budget.saturating_sub(len);
        self.outlet.send(frame, header);
        result
    }

    // Says how segments over IPv4 are to be cut, but nothing of IPv6. See `transmit`, which sees to both.
    fn set_meta(&mut self, _: PacketMeta) {}
}
