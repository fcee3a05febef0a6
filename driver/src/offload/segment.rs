//! Cutting a super-frame into frames.

use super::bytes::{fold, sum_slice};
use super::{Bytes, Headers, Invalid, MAX_HEADERS, Network, Transport, check};
use crate::wire::NetHdr;

/// Why a super-frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsegmentable {
    /// Its header is not to be believed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is not to be segmented.
    #[error("the frame is not to be segmented")]
    NotGso,
    /// UDP that is to be cut into IP fragments, which is not done here.
    #[error("UDP fragmentation is not done in software")]
    Fragmentation,
    /// A segment would be larger than an IP packet can be.
    #[error("its segments would be too large for IP")]
    TooLarge,
}

/// What becomes of the transport checksums of the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// They are complete.
    Complete,
    /// They hold the pseudo-header's sum; the device completes them (CSUM was negotiated).
    Partial,
}

/// The flags that only the last segment keeps: FIN and PSH.
const TCP_LAST_ONLY: u8 = 0x09;
/// The flag that only the first segment keeps: CWR (RFC 3168, section 6.1.2).
const TCP_FIRST_ONLY: u8 = 0x80;

/// Makes the segments of one super-frame, first to last.
#[derive(Debug, Clone)]
pub struct Segmenter {
    template: [u8; MAX_HEADERS],
    headers: Headers,
    size: usize,
    total: usize,
    finish: Finish,
    /// Payload bytes that have gone out.
    done: usize,
    index: u16,
}

impl Segmenter {
    /// Prepares to cut `frame`, whose first bytes are `head` with all headers in it.
    ///
    /// # Errors
    /// See [`Unsegmentable`].
    pub fn new(
        header: &NetHdr,
        head: &[u8],
        frame: &(impl Bytes + ?Sized),
        finish: Finish,
    ) -> Result<Self, Unsegmentable> {
        let total = frame.len();
        let headers = check(header, head, total)?.ok_or(Unsegmentable::NotGso)?;
        if header.gso_type & !NetHdr::GSO_ECN == NetHdr::GSO_UDP {
            return Err(Unsegmentable::Fragmentation);
        }
        let size = usize::from(header.gso_size);
        if headers.length - headers.network_start + size > usize::from(u16::MAX) {
            return Err(Unsegmentable::TooLarge);
        }
        let mut template = [0; MAX_HEADERS];
        template[..headers.length].copy_from_slice(&head[..headers.length]);
        Ok(Self { template, headers, size, total, finish, done: 0, index: 0 })
    }

    /// How many segments there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.total - self.headers.length).div_ceil(self.size)
    }

    /// The length of the next segment in bytes, Ethernet header included; `None` when there are no more.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        let left = self.total - self.headers.length - self.done;
        (left > 0).then(|| self.headers.length + left.min(self.size))
    }

    /// Writes the next segment to the beginning of `into` and gives its length and the header it is to be sent with; `None`
    /// when there are no more, or `into` is shorter than [`Segmenter::next_len`].
    ///
    /// `frame` must be the frame that [`Segmenter::new`] was given.
    pub fn write_next(&mut self, frame: &(impl Bytes + ?Sized), into: &mut [u8]) -> Option<(usize, NetHdr)> {
        let length = self.next_len()?;
        let segment = into.get_mut(..length)?;
        let (head, payload) = segment.split_at_mut(self.headers.length);
        head.copy_from_slice(&self.template[..self.headers.length]);
        let start = self.headers.length + self.done;
        let mut at = 0;
        frame.visit(start..start + payload.len(), &mut |piece| {
            payload[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        });
        let (first, last) = (self.done == 0, start + payload.len() == self.total);
        self.network_header(head, length);
        self.transport_header(head, length, first, last);
        let header = self.checksum(segment);
        self.done += length - self.headers.length;
        self.index = self.index.wrapping_add(1);
        Some((length, header))
    }

    /// Sets lengths, the identification, and IPv4's own checksum.
    fn network_header(&self, head: &mut [u8], length: usize) {
        let at = self.headers.network_start;
        // `new` has made sure that it fits.
        let packet = (length - at) as u16;
        match self.headers.network {
            Network::V4 => {
                put16(head, at + 2, packet);
                put16(head, at + 4, get16(head, at + 4).wrapping_add(self.index));
                put16(head, at + 10, 0);
                let sum = !fold(sum_slice(&head[at..at + usize::from(head[at] & 0xf) * 4]));
                put16(head, at + 10, sum);
            }
            Network::V6 => put16(head, at + 4, packet - 40),
        }
    }

    /// Sets sequence number and flags (TCP) or the length (UDP).
    fn transport_header(&self, head: &mut [u8], length: usize, first: bool, last: bool) {
        let at = self.headers.transport_start;
        match self.headers.transport {
            Transport::Tcp => {
                let sequence = u32::from_be_bytes([head[at + 4], head[at + 5], head[at + 6], head[at + 7]]);
                // The payload is at most 64 KiB.
                let sequence = sequence.wrapping_add(self.done as u32);
                head[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
                if !last {
                    head[at + 13] &= !TCP_LAST_ONLY;
                }
                if !first {
                    head[at + 13] &= !TCP_FIRST_ONLY;
                }
            }
            Transport::Udp => put16(head, at + 4, (length - at) as u16),
        }
    }

    /// Sets the transport checksum, and says how the segment is to be sent.
    fn checksum(&self, segment: &mut [u8]) -> NetHdr {
        let Headers { network, network_start, transport, transport_start, .. } = self.headers;
        let (start, offset) = (transport_start as u16, transport.checksum_offset());
        let addresses = match network {
            Network::V4 => &segment[network_start + 12..network_start + 20],
            Network::V6 => &segment[network_start + 8..network_start + 40],
        };
        let length = (segment.len() - transport_start) as u64;
        let pseudo = fold(sum_slice(addresses) + length + u64::from(transport.number()));
        let field = transport_start + usize::from(offset);
        put16(segment, field, pseudo);
        match self.finish {
            Finish::Partial => NetHdr::partial_checksum(start, offset),
            Finish::Complete => {
                let sum = super::finish_checksum(&*segment, start, offset);
                put16(segment, field, sum);
                NetHdr::default()
            }
        }
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
