//! Which part of a datagram a fragment is (RFC 791 section 3.2, RFC 8200 section 4.5).

use super::{ETHERNET, Ip};
use crate::packet::Reason;

/// The most a datagram can hold behind its IP header.
const MOST: u32 = 65535;

/// A part of a datagram, in bytes of what is fragmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What fragments of one datagram have in common.
    pub identification: u32,
    /// IPv4: the protocol, which tells datagrams apart too. IPv6: 0.
    pub protocol: u8,
    pub start: u32,
    /// After `start`, and not more than 65535.
    pub end: u32,
    /// The last one: where it ends, the datagram does.
    pub is_last: bool,
}

/// Reads what a fragment with such headers says of itself.
///
/// # Errors
/// [`Reason::Malformed`] if it is empty, ends beyond what a datagram can hold, or is not the last and no multiple of eight bytes.
#[cold]
pub(crate) fn piece(head: &[u8], ip: &Ip) -> Result<Piece, Reason> {
    let read = if ip.is_v6() { piece_v6(head, ip) } else { piece_v4(head, ip) };
    let piece = read.ok_or(Reason::Malformed)?;
    let len = piece.end - piece.start;
    if len == 0 || piece.end > MOST || !piece.is_last && len % 8 != 0 {
        return Err(Reason::Malformed);
    }
    Ok(piece)
}

fn piece_v4(head: &[u8], ip: &Ip) -> Option<Piece> {
    let h = head.get(ETHERNET..)?.first_chunk::<20>()?;
    let field = u16::from_be_bytes([h[6], h[7]]);
    let start = u32::from(field & 0x1fff) * 8;
    Some(Piece {
        identification: u16::from_be_bytes([h[4], h[5]]).into(),
        protocol: h[9],
        start,
        end: start + (ip.end - ip.payload) as u32,
        is_last: field & 0x2000 == 0,
    })
}

fn piece_v6(head: &[u8], ip: &Ip) -> Option<Piece> {
    let mut next = *head.get(ETHERNET + 6)?;
    let mut at = ETHERNET + 40;
    // The headers were stepped over once already; each turn moves on.
    while at < ip.end {
        let h = head.get(at..)?.first_chunk::<8>()?;
        let size = match next {
            0 | 43 | 60 => 8 + 8 * usize::from(h[1]),
            51 => 8 + 4 * usize::from(h[1]),
            44 => {
                let field = u16::from_be_bytes([h[2], h[3]]);
                let start = u32::from(field & 0xfff8);
                return Some(Piece {
                    identification: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                    protocol: 0,
                    start,
                    end: start + ip.end.checked_sub(at + 8)? as u32,
                    is_last: field & 1 == 0,
                });
            }
            _ => return None,
        };
        next = h[0];
        at += size;
    }
    None
}
