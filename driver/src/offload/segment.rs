//! Cutting a super-frame into frames.

use super::bytes::{fold, sum, sum_slice};
use super::check::FRAGMENT_UNIT;
use super::check::check_exact_with;
use super::fragment::{self, FRAGMENT_HEADER, IPV4_HEADER};
use super::headers::{IPV6_HEADER, TCP_FLAGS};
use super::tunnel::Tunnel;
use super::{Bytes, BytesMut, Headers, Invalid, MAX_HEADERS, Network, Transport, finished};
use crate::wire::{ETHERNET_HEADER, NetHdr};

/// Why a super-frame cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsegmentable {
    /// Its header is not to be believed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is not to be segmented.
    #[error("the frame is not to be segmented")]
    NotGso,
    /// A segment would be larger than an IP packet can be.
    #[error("its segments would be too large for IP")]
    TooLarge,
}

/// What becomes of the transport checksums of the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// They are complete.
    Complete,
    /// They hold the pseudo-header's sum; the device completes them (CSUM was negotiated). Not so where UDP is cut into IP
    /// fragments: the checksum is that of the whole datagram, and complete.
    Partial,
}

/// The flags that only the last segment keeps: FIN and PSH.
const TCP_LAST_ONLY: u8 = 0x09;
/// The flag that only the first segment keeps: CWR (RFC 3168, section 6.1.2).
const TCP_FIRST_ONLY: u8 = 0x80;

/// How a super-frame is cut.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Into TCP segments or UDP datagrams.
    Segments(Finish),
    /// Into IP fragments of one datagram, of which the first has the checksum, if that is not there already.
    Fragments { checksum: Option<Completed> },
}

/// A checksum that was completed: where it lies, from the start of the frame, and what it is.
#[derive(Debug, Clone, Copy)]
struct Completed {
    field: usize,
    sum: u16,
}

/// Makes the segments, or the fragments, of one super-frame, first to last.
#[derive(Debug, Clone)]
pub struct Segmenter {
    /// What every piece begins with.
    template: [u8; MAX_HEADERS + FRAGMENT_HEADER],
    /// How long that is.
    prefix: usize,
    headers: Headers,
    /// The tunnel they are in.
    tunnel: Option<Tunnel>,
    manner: Manner,
    /// Where in the super-frame that begins which is cut up.
    start: usize,
    size: usize,
    total: usize,
    /// Bytes that have gone out.
    done: usize,
    index: u16,
}

impl Segmenter {
    /// Prepares to cut `frame`, whose first bytes are `head` with all headers in it.
    ///
    /// Where UDP is cut into IP fragments, [`Segmenter::identified`] is to be called too.
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
        // All is read from a copy: a hostile device may still write to where the frame lies.
        let mut template = [0; MAX_HEADERS + FRAGMENT_HEADER];
        let copied = head.len().min(MAX_HEADERS);
        template[..copied].copy_from_slice(&head[..copied]);
        let private = template;
        let head = &private[..copied];
        if header.gso_type == NetHdr::ENCAPSULATED {
            return Self::of_tunnel(header, template, copied, frame);
        }
        let (mut header, mut tunnel) = (*header, None);
        if header.gso_type & NetHdr::ENCAPSULATED == NetHdr::ENCAPSULATED {
            header.gso_type &= !NetHdr::ENCAPSULATED;
            tunnel = Some(Tunnel::parse(head).ok_or(Invalid::GsoHeaders)?);
        }
        let parse = |head: &[u8]| tunnel.map_or_else(|| Headers::parse(head), |tunnel| tunnel.headers(head));
        let headers = check_exact_with(&header, head, total, parse)?.ok_or(Unsegmentable::NotGso)?;
        let mut size = usize::from(header.gso_size);
        let (prefix, start, manner) = if header.gso_type == NetHdr::GSO_UDP {
            size = size / FRAGMENT_UNIT * FRAGMENT_UNIT;
            let checksum = super::finish_checksum(frame, header.csum_start, header.csum_offset);
            let prefix = fragment::prepare(&headers, head, &mut template);
            let field = headers.transport_start + usize::from(headers.transport.checksum_offset());
            (
                prefix,
                headers.payload_start(head),
                Manner::Fragments { checksum: Some(Completed { field, sum: checksum }) },
            )
        } else {
            (headers.length, headers.length, Manner::Segments(finish))
        };
        // IPv6 does not count its own header.
        let counted =
            if headers.network == Network::V6 { headers.network_start + IPV6_HEADER } else { headers.network_start };
        let counted = tunnel.map_or(counted, |tunnel| tunnel.uncounted().min(counted));
        if prefix - counted + size.min(total - start) > usize::from(u16::MAX) {
            return Err(Unsegmentable::TooLarge);
        }
        Ok(Self { template, prefix, headers, tunnel, manner, start, size, total, done: 0, index: 0 })
    }

    /// Prepares to cut the IPv4 packet of a tunnel into fragments, whatever it carries. `template` begins with `copied` bytes of it.
    fn of_tunnel(
        header: &NetHdr,
        template: [u8; MAX_HEADERS + FRAGMENT_HEADER],
        copied: usize,
        frame: &(impl Bytes + ?Sized),
    ) -> Result<Self, Unsegmentable> {
        let (total, start) = (frame.len(), ETHERNET_HEADER + IPV4_HEADER);
        let head = &template[..copied];
        let whole = copied > start && head[12..15] == [0x08, 0x00, 0x45] && get16(head, 20) == 0;
        if !whole {
            return Err(Invalid::GsoHeaders.into());
        }
        if usize::from(get16(head, 16)) != total - ETHERNET_HEADER {
            return Err(Invalid::Length.into());
        }
        let size = usize::from(header.gso_size) / FRAGMENT_UNIT * FRAGMENT_UNIT;
        if size == 0 {
            return Err(Invalid::GsoSize.into());
        }
        let mut checksum = None;
        if header.needs_csum() {
            let field = usize::from(header.csum_start) + usize::from(header.csum_offset);
            if usize::from(header.csum_start) < start || field + 2 > total.min(start + size) {
                return Err(Invalid::ChecksumRange.into());
            }
            let sum = super::finish_checksum(frame, header.csum_start, header.csum_offset);
            checksum = Some(Completed { field, sum });
        }
        let headers = Headers {
            network: Network::V4,
            network_start: ETHERNET_HEADER,
            // It is of no account what it carries.
            transport: Transport::Udp,
            transport_start: start,
            length: start,
        };
        let manner = Manner::Fragments { checksum };
        Ok(Self { template, prefix: start, headers, tunnel: None, manner, start, size, total, done: 0, index: 0 })
    }

    /// Gives a number to datagrams that are cut into IP fragments and have none of their own, which is to say IPv6, and IPv4
    /// with "don't fragment" set (RFC 6864, section 4.1): all fragments of the datagram get it. It should be hard to guess,
    /// and not be used again soon (RFC 7739). Does nothing to all else.
    #[must_use]
    pub fn identified(mut self, identification: u32) -> Self {
        if matches!(self.manner, Manner::Fragments { .. }) {
            fragment::identify(&self.headers, &mut self.template[..self.prefix], identification);
        }
        self
    }

    /// How many segments there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.total - self.start).div_ceil(self.size)
    }

    /// How many segments are still to be written.
    #[must_use]
    pub fn left(&self) -> usize {
        (self.total - self.start - self.done).div_ceil(self.size)
    }

    /// The length of the next segment in bytes, Ethernet header included; `None` when there are no more.
    #[must_use]
    pub fn next_len(&self) -> Option<usize> {
        let left = self.total - self.start - self.done;
        (left > 0).then(|| self.prefix + left.min(self.size))
    }

    /// Writes the next segment to the beginning of `into` and gives its length and the header it is to be sent with; `None`
    /// when there are no more, or `into` is shorter than [`Segmenter::next_len`] or does not begin with a piece that holds the
    /// headers.
    ///
    /// `frame` must be the frame that [`Segmenter::new`] was given.
    pub fn write_next(
        &mut self,
        frame: &(impl Bytes + ?Sized),
        into: &mut (impl BytesMut + ?Sized),
    ) -> Option<(usize, NetHdr)> {
        let length = self.next_len()?;
        if into.len() < length {
            return None;
        }
        into.head_mut().get_mut(..self.prefix)?.copy_from_slice(&self.template[..self.prefix]);
        let start = self.start + self.done;
        let mut at = self.prefix;
        frame.visit(start..start + length - self.prefix, &mut |piece| {
            into.put(at, piece);
            at += piece.len();
        });
        let (first, last) = (self.done == 0, start + length - self.prefix == self.total);
        let header = match self.manner {
            Manner::Segments(finish) => {
                let head = into.head_mut();
                self.network_header(head, length);
                self.transport_header(head, length, first, last);
                if let Some(tunnel) = &self.tunnel {
                    tunnel.finish_headers(head, length, self.index);
                }
                self.checksum(into, length, finish)
            }
            Manner::Fragments { checksum } => {
                fragment::finish(&self.headers, &mut into.head_mut()[..self.prefix], length, self.done, last);
                if let Some(Completed { field, sum }) = checksum.filter(|_| first) {
                    // `new` has seen to it that it lies in the first fragment.
                    into.put(field - self.start + self.prefix, &sum.to_be_bytes());
                }
                if let Some(tunnel) = &self.tunnel {
                    tunnel.finish_headers(into.head_mut(), length, self.index);
                    tunnel.finish_checksum(into, length, None);
                }
                NetHdr::default()
            }
        };
        self.done += length - self.prefix;
        self.index = self.index.wrapping_add(1);
        Some((length, header))
    }

    /// Sets lengths, the identification, and IPv4's own checksum.
    fn network_header(&self, head: &mut [u8], length: usize) {
        let at = self.headers.network_start;
        // `new` has made sure that it fits.
        match self.headers.network {
            Network::V4 => {
                put16(head, at + 2, (length - at) as u16);
                put16(head, at + 4, get16(head, at + 4).wrapping_add(self.index));
                finish_ipv4(head, at, self.headers.transport_start);
            }
            Network::V6 => put16(head, at + 4, (length - at - IPV6_HEADER) as u16),
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
                    head[at + TCP_FLAGS] &= !TCP_LAST_ONLY;
                }
                if !first {
                    head[at + TCP_FLAGS] &= !TCP_FIRST_ONLY;
                }
            }
            Transport::Udp => put16(head, at + 4, (length - at) as u16),
        }
    }

    /// Sets the transport checksum, and says how the segment is to be sent.
    fn checksum(&self, segment: &mut (impl BytesMut + ?Sized), length: usize, finish: Finish) -> NetHdr {
        let Headers { transport, transport_start, .. } = self.headers;
        let (start, offset) = (transport_start as u16, transport.checksum_offset());
        let pseudo = self.headers.pseudo_sum(segment.head_mut(), length - transport_start);
        let field = transport_start + usize::from(offset);
        put16(segment.head_mut(), field, pseudo);
        let remote = self.tunnel.is_some_and(|tunnel| tunnel.is_remote());
        let (header, partial) = match finish {
            // It is completed at the other end of the tunnel.
            _ if remote => (NetHdr::default(), None),
            Finish::Partial => (NetHdr::partial_checksum(start, offset), Some((transport_start, field))),
            Finish::Complete => {
                let sum = finished(sum(segment, transport_start..length), offset);
                put16(segment.head_mut(), field, sum);
                (NetHdr::default(), None)
            }
        };
        if let Some(tunnel) = &self.tunnel {
            tunnel.finish_checksum(segment, length, partial);
        }
        header
    }
}

/// Sets the checksum of the IPv4 header that lies from `at` to `end`.
pub(super) fn finish_ipv4(head: &mut [u8], at: usize, end: usize) {
    put16(head, at + 10, 0);
    let sum = !fold(sum_slice(&head[at..end]));
    put16(head, at + 10, sum);
}

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
