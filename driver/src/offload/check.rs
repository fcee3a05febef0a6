//! Whether a frame's `virtio_net_hdr_v1` says something that makes sense.

use super::{Headers, Network, Transport};
use crate::wire::NetHdr;

/// Why a frame's header is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The checksum field does not lie in the frame.
    #[error("the checksum would lie outside of the frame")]
    ChecksumRange,
    /// A segmentation type that the specification does not have.
    #[error("unknown segmentation type {0:#x}")]
    GsoType(u8),
    /// The frame is to be segmented but no segment would hold a byte, or no fragment the headers and a multiple of 8 bytes.
    #[error("segments of no bytes, or fragments too short for the headers")]
    GsoSize,
    /// The frame is to be segmented, but its checksum is not partial (virtio 1.3, section 5.1.6.2).
    #[error("to be segmented, but without a partial checksum")]
    GsoWithoutChecksum,
    /// The frame is to be segmented, but its headers are not of the kind that the segmentation type says.
    #[error("its headers are not what its segmentation type says")]
    GsoHeaders,
    /// The frame is to be segmented, but is not as long as its IP header says.
    #[error("its IP packet is of another length than the frame")]
    Length,
    /// [`NetHdr::RSC_INFO`] on a frame that could not have been coalesced.
    #[error("coalescing counts for a frame that is neither TCP nor UDP")]
    Coalesced,
}

/// As [`check`], and the frame must end where its IP header says: else there would be bytes that are no payload.
///
/// # Errors
/// See [`Invalid`].
pub fn check_exact(header: &NetHdr, head: &[u8], length: usize) -> Result<Option<Headers>, Invalid> {
    check_exact_with(header, head, length, Headers::parse)
}

/// The same of a frame whose headers are read by `parse`.
pub(super) fn check_exact_with(
    header: &NetHdr,
    head: &[u8],
    length: usize,
    parse: impl FnOnce(&[u8]) -> Option<Headers>,
) -> Result<Option<Headers>, Invalid> {
    let headers = check_with(header, head, length, parse)?;
    match &headers {
        Some(headers) if headers.packet_end(head) != length => Err(Invalid::Length),
        _ => Ok(headers),
    }
}

/// Bytes that fragments other than the last hold a multiple of (RFC 791, section 3.2; RFC 8200, section 4.5).
pub(super) const FRAGMENT_UNIT: usize = 8;

/// Checks the header of a frame of `length` bytes that begins with `head`, as this side needs it before it believes any of
/// it. Gives the frame's own headers where it is to be segmented.
///
/// What the IP header says of the length is not looked at, see [`check_exact`]: some drivers leave it to the segmentation.
/// `hdr_len` is not looked at: it is a hint, and [`Headers`] tells better.
///
/// # Errors
/// See [`Invalid`].
pub fn check(header: &NetHdr, head: &[u8], length: usize) -> Result<Option<Headers>, Invalid> {
    check_with(header, head, length, Headers::parse)
}

fn check_with(
    header: &NetHdr,
    head: &[u8],
    length: usize,
    parse: impl FnOnce(&[u8]) -> Option<Headers>,
) -> Result<Option<Headers>, Invalid> {
    if header.needs_csum() {
        let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
        if field + 2 > length.min(head.len()) {
            return Err(Invalid::ChecksumRange);
        }
    }
    if !header.is_gso() {
        return Ok(None);
    }
    let (network, transport) = match header.gso_type {
        NetHdr::GSO_TCPV4 | NetHdr::GSO_TCPV4_ECN => (Some(Network::V4), Transport::Tcp),
        NetHdr::GSO_TCPV6 | NetHdr::GSO_TCPV6_ECN => (Some(Network::V6), Transport::Tcp),
        NetHdr::GSO_UDP_L4 | NetHdr::GSO_UDP => (None, Transport::Udp),
        // Tunnels too: their types are further bits beside these.
        _ => return Err(Invalid::GsoType(header.gso_type)),
    };
    if header.gso_size == 0 {
        return Err(Invalid::GsoSize);
    }
    if !header.needs_csum() {
        return Err(Invalid::GsoWithoutChecksum);
    }
    let headers = parse(head).ok_or(Invalid::GsoHeaders)?;
    let right_kind = network.is_none_or(|network| network == headers.network) && transport == headers.transport;
    let right_checksum =
        usize::from(header.csum_start) == headers.transport_start && header.csum_offset == transport.checksum_offset();
    if !right_kind || !right_checksum || length <= headers.length {
        return Err(Invalid::GsoHeaders);
    }
    if header.gso_type == NetHdr::GSO_UDP {
        let first = headers.length - headers.payload_start(head);
        let size = usize::from(header.gso_size) / FRAGMENT_UNIT * FRAGMENT_UNIT;
        // All headers must lie in the first fragment (RFC 7112).
        if size < first {
            return Err(Invalid::GsoSize);
        }
    }
    Ok(Some(headers))
}
