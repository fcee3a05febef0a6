//! Segments that are being put together.

use ringlet_driver::offload::{Headers, Network, finish_checksum};
use ringlet_driver::wire::{MAX_GSO_FRAME, NetHdr};

use super::segment::{Flow, Kind, Segment, pseudo_header};

/// The largest IP packet.
const LARGEST: usize = 65_535;
/// Where the TCP checksum lies in its header.
const CHECKSUM: usize = 16;
/// Where the flags lie.
const FLAGS: usize = 13;
const PSH: u8 = 0x08;

/// How IPv4's identifications follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// There is but one yet.
    Unknown,
    /// Each is the one after that before it.
    Counted,
    /// All are the same, and "don't fragment" says that they mean nothing.
    Fixed,
}

/// What came of an attempt to add a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It does not belong here.
    Not,
    /// It was added, and others may follow.
    More,
    /// It was added, and is the last.
    Full,
}

/// Segments of one connection in one frame, or an acknowledgment and how often it was repeated.
#[derive(Debug)]
pub(super) struct Pending {
    flow: Flow,
    kind: Kind,
    headers: Headers,
    /// The first segment's virtio header and frame, and the other ones' payload.
    bytes: Vec<u8>,
    /// The first segment's payload in bytes: that of all but the last.
    size: usize,
    /// The sequence number that is to come next.
    next: u32,
    identification: u16,
    numbers: Numbers,
    cwr: bool,
    partial: bool,
    segments: u16,
    duplicates: u16,
    born: u64,
}

impl Pending {
    /// Begins with a segment, whose bytes are to be given to [`Pending::with`]. `None` if nothing may follow it.
    pub(super) fn new(flow: Flow, segment: &Segment<'_>, born: u64) -> Option<Self> {
        let size = segment.payload().len();
        (!segment.is_last()).then(|| Self {
            flow,
            kind: segment.kind(),
            headers: segment.headers(),
            bytes: Vec::new(),
            size,
            next: segment.sequence().wrapping_add(size as u32),
            identification: segment.identification(),
            numbers: Numbers::Unknown,
            cwr: segment.has_cwr(),
            partial: segment.is_partial(),
            segments: 1,
            duplicates: 0,
            born,
        })
    }

    /// Takes the bytes of the first segment, virtio header first.
    pub(super) fn with(mut self, bytes: Vec<u8>) -> Self {
        self.bytes = bytes;
        self
    }

    /// Whose it is.
    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// How many frames the network had given when it was begun.
    pub(super) fn born(&self) -> u64 {
        self.born
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> u16 {
        self.segments
    }

    /// How many acknowledgments were left out.
    pub(super) fn duplicates(&self) -> u16 {
        self.duplicates
    }

    /// Adds a segment of the same flow if it may stand behind those that are here.
    pub(super) fn add(&mut self, segment: &Segment<'_>) -> Added {
        let first = &self.bytes[NetHdr::LEN..];
        if self.kind != segment.kind() {
            return Added::Not;
        }
        if self.kind == Kind::Acknowledgment {
            if segment.is_partial() != self.partial
                || !segment.repeats(first, &self.headers)
                || self.duplicates == u16::MAX
            {
                return Added::Not;
            }
            self.duplicates += 1;
            return Added::More;
        }
        let payload = segment.payload();
        let length = first.len() + payload.len();
        let fits = length <= MAX_GSO_FRAME && length - self.headers.network_start <= LARGEST;
        let numbers = self.numbers(segment);
        if !fits
            || payload.len() > self.size
            || segment.sequence() != self.next
            || segment.has_cwr()
            || numbers == Numbers::Unknown
            || !segment.continues(first, &self.headers)
        {
            return Added::Not;
        }
        (self.numbers, self.identification) = (numbers, segment.identification());
        self.bytes.extend_from_slice(payload);
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.segments += 1;
        if segment.is_last() {
            self.bytes[NetHdr::LEN + self.headers.transport_start + FLAGS] |= PSH;
        }
        if segment.is_last() || payload.len() < self.size { Added::Full } else { Added::More }
    }

    /// How the identifications follow each other with one more; unknown if not in a way that segmentation could make again.
    fn numbers(&self, segment: &Segment<'_>) -> Numbers {
        if self.headers.network == Network::V6 {
            return Numbers::Counted;
        }
        let found = match segment.identification().wrapping_sub(self.identification) {
            1 => Numbers::Counted,
            0 if segment.is_atomic() => Numbers::Fixed,
            _ => return Numbers::Unknown,
        };
        if self.numbers == Numbers::Unknown || self.numbers == found { found } else { Numbers::Unknown }
    }

    /// The frame that came of it, virtio header first. A segment that remained alone is as it came.
    pub(super) fn finish(mut self, rsc: bool) -> Vec<u8> {
        if self.duplicates > 0 {
            self.finish_acknowledgment();
        } else if self.segments > 1 {
            self.finish_data(rsc);
        }
        self.bytes
    }

    fn finish_data(&mut self, rsc: bool) {
        let Headers { network, network_start, transport_start, length, .. } = self.headers;
        let frame = &mut self.bytes[NetHdr::LEN..];
        // At most 65535, as `add` has made sure.
        let packet = frame.len() - network_start;
        let gso_type = match network {
            Network::V4 => {
                put16(frame, network_start + 2, packet as u16);
                put16(frame, network_start + 10, 0);
                let sum = finish_checksum(&frame[..transport_start], network_start as u16, 10);
                put16(frame, network_start + 10, sum);
                NetHdr::GSO_TCPV4
            }
            Network::V6 => {
                put16(frame, network_start + 4, (packet - 40) as u16);
                NetHdr::GSO_TCPV6
            }
        };
        // Every segment's checksum was right; they are made anew where the frame is cut, if it is.
        let pseudo = pseudo_header(frame, &self.headers);
        put16(frame, transport_start + CHECKSUM, pseudo);
        let partial = NetHdr::partial_checksum(transport_start as u16, CHECKSUM as u16);
        let mut header = NetHdr {
            gso_type: gso_type | if self.cwr { NetHdr::GSO_ECN } else { 0 },
            gso_size: self.size as u16,
            hdr_len: length as u16,
            ..partial
        };
        if rsc {
            header.flags |= NetHdr::RSC_INFO;
            (header.csum_start, header.csum_offset) = (self.segments, 0);
        }
        self.bytes[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
    }

    fn finish_acknowledgment(&mut self) {
        let Headers { transport_start, length, .. } = self.headers;
        if self.partial {
            // The place that tells where the checksum is has the counts.
            let sum = finish_checksum(
                &self.bytes[NetHdr::LEN..NetHdr::LEN + length],
                transport_start as u16,
                CHECKSUM as u16,
            );
            put16(&mut self.bytes[NetHdr::LEN..], transport_start + CHECKSUM, sum);
        }
        let flags = NetHdr::DATA_VALID | NetHdr::RSC_INFO;
        let header = NetHdr { flags, csum_start: 1, csum_offset: self.duplicates, ..NetHdr::default() };
        self.bytes[..NetHdr::LEN].copy_from_slice(&header.to_bytes());
    }
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
