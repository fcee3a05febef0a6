//! Frames that the device has coalesced (RSC_EXT; virtio 1.3, section 5.1.6.4).

use super::bytes::sum_slice;
use super::segment::put16;
use super::{Headers, Invalid, Network, Transport, finished};
use crate::wire::NetHdr;

/// A frame that was coalesced, as a driver can use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalesced {
    /// The header to go on with. Without [`NetHdr::RSC_INFO`] its checksum fields mean what they always do. With it the frame, whose
    /// checksum is complete, stands for itself and [`NetHdr::duplicate_acks`] copies.
    pub header: NetHdr,
    /// How long the frame is without what lies behind its IP packet.
    pub length: usize,
    /// How many TCP segments were put together.
    pub segments: u16,
    /// How many duplicate ACKs were left out.
    pub duplicate_acks: u16,
}

/// Makes an ordinary super-frame with a partial checksum of one that carries counts where the place of its checksum should be:
/// finds the place, and puts the sum of the pseudo-header there. Linux does the same for what it has put together itself
/// (`tcp_gro_complete`). Who coalesces vouches for the checksums of what he has coalesced: these are gone.
///
/// `head` are the first bytes of the frame, with all headers in it; `length` is that of the frame.
///
/// A frame that is not to be segmented is left as it is. If it is a TCP segment without data, and duplicates of it were left out,
/// the header goes on telling so, which leaves no place for a partial checksum: where it was to be segmented all the same (QEMU
/// says that of all it has coalesced), the checksum is completed.
///
/// # Errors
/// If the frame is not what its header says.
pub fn coalesced(header: &NetHdr, head: &mut [u8], length: usize) -> Result<Coalesced, Invalid> {
    let (segments, duplicate_acks) = (header.csum_start, header.csum_offset);
    let mut clean = NetHdr { flags: header.flags & !NetHdr::RSC_INFO, csum_start: 0, csum_offset: 0, ..*header };
    let found = Headers::parse(head).map(|headers| (headers, headers.packet_end(head)));
    // Where data comes along, to send it again would be to say something else.
    let is_ack = |(headers, end): (Headers, usize)| headers.transport == Transport::Tcp && end == headers.length;
    let again = duplicate_acks > 0 && found.is_some_and(is_ack);
    let counted = (header.flags & !NetHdr::NEEDS_CSUM, segments, duplicate_acks);
    if !header.is_gso() && !header.needs_csum() {
        if again {
            (clean.flags, clean.csum_start, clean.csum_offset) = counted;
        }
        return Ok(Coalesced { header: clean, length, segments, duplicate_acks });
    }
    let (headers, end) = found.ok_or(Invalid::Coalesced)?;
    if !(headers.length..=length).contains(&end) {
        return Err(Invalid::Length);
    }
    let kind = match (header.gso_type & !NetHdr::GSO_ECN, headers.network, headers.transport) {
        (NetHdr::GSO_NONE, ..) => NetHdr::GSO_NONE,
        (NetHdr::GSO_TCPV4, Network::V4, Transport::Tcp)
        | (NetHdr::GSO_TCPV6, Network::V6, Transport::Tcp)
        | (NetHdr::GSO_UDP | NetHdr::GSO_UDP_L4, _, Transport::Udp) => header.gso_type,
        _ => return Err(Invalid::GsoHeaders),
    };
    (clean.gso_type, clean.gso_size) = match end - headers.length {
        // Pure ACKs: there is nothing to segment.
        0 => (NetHdr::GSO_NONE, 0),
        _ if kind == NetHdr::GSO_NONE => (NetHdr::GSO_NONE, 0),
        // A device may leave out how long the segments were (QEMU does). All but the last were of one length, so what comes out
        // here is no longer than that, and fits where they have fitted.
        payload if header.gso_size == 0 => match segments {
            0 => return Err(Invalid::GsoSize),
            _ => (kind, payload.div_ceil(usize::from(segments)) as u16),
        },
        _ => (kind, header.gso_size),
    };
    let (start, offset) = (headers.transport_start, headers.transport.checksum_offset());
    let field = start + usize::from(offset);
    let sum = headers.pseudo_sum(head, end - start);
    put16(head, field, sum);
    if again {
        // It ends with its headers, which are all here.
        let sum = finished(sum_slice(&head[start..end]), offset);
        put16(head, field, sum);
        (clean.flags, clean.csum_start, clean.csum_offset) = counted;
    } else {
        // At most 256 bytes of headers.
        (clean.csum_start, clean.csum_offset) = (start as u16, offset);
        clean.flags |= NetHdr::NEEDS_CSUM;
    }
    Ok(Coalesced { header: clean, length: end, segments, duplicate_acks })
}
