//! Headers rewritten in place, their checksums adjusted (RFC 1624).

use core::net::IpAddr;

use crate::checksum::{Delta, adjust_transport};
use crate::crc32c;
use crate::frame::sctp::CHECKSUM;
use crate::frame::transport::Transport;
use crate::frame::{ETHERNET, Ip};
use crate::packet::{Packet, Reason};
use crate::service::Protocol;

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Source address and port.
    Source,
    /// Destination address and port.
    Destination,
}

/// A field of `N` bytes.
pub(super) fn field<const N: usize>(head: &mut [u8], at: usize) -> Result<&mut [u8; N], Reason> {
    head.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut()).ok_or(Reason::Malformed)
}

/// Whether the transport checksum of a packet is not complete. A partial checksum that starts elsewhere is one of an inner packet;
/// ours is whole then.
#[inline(always)]
pub(super) fn is_partial(packet: &Packet<'_>, ip: &Ip, transport: &Transport) -> Result<bool, Reason> {
    match packet.offload.partial {
        Some(partial) if usize::from(partial.start) == ip.payload => {
            if usize::from(partial.offset) == transport.checksum_offset() { Ok(true) } else { Err(Reason::Malformed) }
        }
        _ => Ok(false),
    }
}

/// Replaces one end of a packet and takes a hop off it. Addresses of another family than the packet's are refused.
///
/// The transport checksum is adjusted in whichever form the frame has it: whole, partial, or (UDP) none.
pub(super) fn rewrite(
    packet: &mut Packet<'_>,
    ip: &Ip,
    transport: &Transport,
    end: End,
    address: IpAddr,
    port: u16,
) -> Result<(), Reason> {
    let is_udp = transport.protocol == Protocol::Udp;
    let is_partial = is_partial(packet, ip, transport)?;
    let (old_address, old_port) = match end {
        End::Source => (ip.source, transport.source_port),
        End::Destination => (ip.destination, transport.destination_port),
    };
    let cut = packet.head.get_mut(ETHERNET..).and_then(|head| head.split_at_mut_checked(ip.payload - ETHERNET));
    let Some((header, segment)) = cut else { return Err(Reason::Malformed) };
    let addresses = match (old_address, address) {
        (IpAddr::V4(old), IpAddr::V4(new)) => {
            let addresses = Delta::ZERO.v4(old, new);
            let Some(header) = header.first_chunk_mut::<20>() else { return Err(Reason::Malformed) };
            let at = if end == End::Source { 12 } else { 16 };
            header[at..at + 4].copy_from_slice(&new.octets());
            set_hops_v4(header, ip.hops.saturating_sub(1), addresses);
            addresses
        }
        (IpAddr::V6(old), IpAddr::V6(new)) => {
            let Some(header) = header.first_chunk_mut::<40>() else { return Err(Reason::Malformed) };
            let at = if end == End::Source { 8 } else { 24 };
            header[at..at + 16].copy_from_slice(&new.octets());
            header[7] = ip.hops.saturating_sub(1);
            Delta::ZERO.v6(old, new)
        }
        _ => return Err(Reason::Malformed),
    };
    let port_at = if end == End::Source { 0 } else { 2 };
    if transport.protocol == Protocol::Sctp {
        set_sctp_port(segment, port_at, port, ip.end - ip.payload)?;
        return complete_sctp(packet, ip);
    }
    let ports = Delta::ZERO.word(old_port, port);
    *field(segment, port_at)? = port.to_be_bytes();
    let checksum = field(segment, transport.checksum_offset())?;
    *checksum = adjust_transport(u16::from_be_bytes(*checksum), is_udp, is_partial, addresses, ports).to_be_bytes();
    Ok(())
}

/// Gives a packet without a transport header, a later fragment, other addresses of its family, and other hops.
pub(super) fn readdress(head: &mut [u8], ip: &Ip, ends: (IpAddr, IpAddr), hops: u8) -> Result<(), Reason> {
    match (ip.source, ip.destination, ends) {
        (IpAddr::V4(from), IpAddr::V4(to), (IpAddr::V4(source), IpAddr::V4(destination))) => {
            *field(head, ETHERNET + 12)? = source.octets();
            *field(head, ETHERNET + 16)? = destination.octets();
            let changed = Delta::ZERO.v4(from, source).v4(to, destination);
            set_hops_v4(field(head, ETHERNET)?, hops, changed);
        }
        (IpAddr::V6(_), IpAddr::V6(_), (IpAddr::V6(source), IpAddr::V6(destination))) => {
            *field(head, ETHERNET + 7)? = [hops];
            *field(head, ETHERNET + 8)? = source.octets();
            *field(head, ETHERNET + 24)? = destination.octets();
        }
        _ => return Err(Reason::Malformed),
    }
    Ok(())
}

/// The addresses a packet has now, which had others.
pub(super) fn ends(head: &[u8], was: &Ip) -> Option<(IpAddr, IpAddr)> {
    let packet = head.get(ETHERNET..)?;
    if was.is_v6() {
        let [source, destination] = [8, 24].map(|at| packet.get(at..).and_then(|bytes| bytes.first_chunk::<16>()));
        Some(((*source?).into(), (*destination?).into()))
    } else {
        let [source, destination] = [12, 16].map(|at| packet.get(at..).and_then(|bytes| bytes.first_chunk::<4>()));
        Some(((*source?).into(), (*destination?).into()))
    }
}

/// Adjusts the checksum of the first fragment of an SCTP packet of `len` bytes in all, whose ports were `old`.
pub(super) fn adjust_sctp(head: &mut [u8], ip: &Ip, old: [u8; 4], checksum: [u8; 4], len: usize) -> Result<(), Reason> {
    let new = *field(head, ip.payload)?;
    let sum = crc32c::adjust(u32::from_le_bytes(checksum), old, new, len.saturating_sub(4));
    *field(head, ip.payload + CHECKSUM)? = sum.to_le_bytes();
    Ok(())
}

/// Gives an SCTP packet of `len` bytes, of which at least the header is in `segment`, another port.
#[cold]
fn set_sctp_port(segment: &mut [u8], at: usize, port: u16, len: usize) -> Result<(), Reason> {
    let old = *field(segment, 0)?;
    *field(segment, at)? = port.to_be_bytes();
    let new = *field(segment, 0)?;
    let checksum = field(segment, CHECKSUM)?;
    *checksum = crc32c::adjust(u32::from_le_bytes(*checksum), old, new, len.saturating_sub(4)).to_le_bytes();
    Ok(())
}

/// Completes the checksum of an SCTP packet that is left to who sends it on: no device that is only known to sum words can
/// (`VIRTIO_NET_HDR_F_NEEDS_CSUM` over a CRC comes from hosts whose own interfaces can).
///
/// # Errors
/// [`Reason::PartialChecksum`] if not all of the packet is in the head; [`Reason::Malformed`] for a super-frame, which virtio
/// has none of SCTP, or a field elsewhere.
pub(super) fn complete_sctp(packet: &mut Packet<'_>, ip: &Ip) -> Result<(), Reason> {
    if packet.offload.gso_size != 0 {
        return Err(Reason::Malformed);
    }
    let Some(partial) = packet.offload.partial else { return Ok(()) };
    if usize::from(partial.start) != ip.payload || usize::from(partial.offset) != CHECKSUM {
        return Err(Reason::Malformed);
    }
    let bytes = packet.head.get_mut(ip.payload..ip.end).ok_or(Reason::PartialChecksum)?;
    let checksum = crc32c::sctp(bytes).ok_or(Reason::Malformed)?;
    *field(bytes, CHECKSUM)? = checksum.to_le_bytes();
    packet.offload.partial = None;
    Ok(())
}

/// Takes a hop off a packet that stays as it is otherwise.
pub(super) fn decrement_hops(head: &mut [u8], ip: &Ip) -> Result<(), Reason> {
    set_hops(head, ip, ip.hops.saturating_sub(1))
}

/// Gives a packet another number of hops.
pub(super) fn set_hops(head: &mut [u8], ip: &Ip, hops: u8) -> Result<(), Reason> {
    if ip.is_v6() {
        *field(head, ETHERNET + 7)? = [hops];
    } else {
        set_hops_v4(field(head, ETHERNET)?, hops, Delta::ZERO);
    }
    Ok(())
}

/// Writes the hops of an IPv4 header and adjusts its checksum to that and to what else has changed.
pub(super) fn set_hops_v4(header: &mut [u8; 20], hops: u8, changed: Delta) {
    let old = u16::from_be_bytes([header[8], header[9]]);
    header[8] = hops;
    let new = u16::from_be_bytes([header[8], header[9]]);
    let checksum = changed.word(old, new).adjust(u16::from_be_bytes([header[10], header[11]]));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
