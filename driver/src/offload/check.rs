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
    /// The frame is to be segmented but no segment would hold a byte.
    #[error("segments of no bytes")]
    GsoSize,
    /// The frame is to be segmented, but its checksum is not partial (virtio 1.3, section 5.1.6.2).
    #[error("to be segmented, but without a partial checksum")]
    GsoWithoutChecksum,
    /// The frame is to be segmented, but its headers are not of the kind that the segmentation type says.
    #[error("its headers are not what its segmentation type says")]
    GsoHeaders,
}

/// Checks the header of a frame of `length` bytes that begins with `head`, as this side needs it before it believes any of
/// it. Gives the frame's own headers where it is to be segmented.
///
/// `hdr_len` is not looked at: it is a hint, and [`Headers`] tells better.
///
/// # Errors
/// See [`Invalid`].
pub fn check(header: &NetHdr, head: &[u8], length: usize) -> Result<Option<Headers>, Invalid> {
    if header.needs_csum() {
        let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
        if field + 2 > length.min(head.len()) {
            return Err(Invalid::ChecksumRange);
        }
    }
    if !header.is_gso() {
        return Ok(None);
    }
    let kind = header.gso_type & !NetHdr::GSO_ECN;
    let (network, transport) = match kind {
        NetHdr::GSO_TCPV4 => (Some(Network::V4), Transport::Tcp),
        NetHdr::GSO_TCPV6 => (Some(Network::V6), Transport::Tcp),
        NetHdr::GSO_UDP_L4 | NetHdr::GSO_UDP => (None, Transport::Udp),
        _ => return Err(Invalid::GsoType(header.gso_type)),
    };
    if header.gso_size == 0 {
        return Err(Invalid::GsoSize);
    }
    if !header.needs_csum() {
        return Err(Invalid::GsoWithoutChecksum);
    }
    let headers = Headers::parse(head).ok_or(Invalid::GsoHeaders)?;
    let right_kind = network.is_none_or(|network| network == headers.network) && transport == headers.transport;
    let right_checksum =
        usize::from(header.csum_start) == headers.transport_start && header.csum_offset == transport.checksum_offset();
    if !right_kind || !right_checksum || length <= headers.length {
        return Err(Invalid::GsoHeaders);
    }
    Ok(Some(headers))
}
