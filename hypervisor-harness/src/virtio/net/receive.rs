//! From the network to the guest.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::{ETHERNET_HEADER, MAX_GSO_FRAME, NetHdr};

use super::BURST;
use crate::backend::{Backend, Received, Scatter};
use crate::virtio::counters::Live;
use crate::virtio::memory::{Piece, scatter};
use crate::virtio::queue::{Chain, DeviceQueue, Fault, MAX_PIECES};

/// The largest frame that there can be, header included.
const LARGEST: usize = NetHdr::LEN + MAX_GSO_FRAME;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;
/// After a frame that did not fit, so many frames are offered room for the largest one.
const LARGE_SPELL: u32 = 1024;
/// A frame that waits so long for buffers large enough is given up: the guest may have none.
const PATIENCE: Duration = Duration::from_millis(100);

/// When chains are taken at all, it is so many at once, so that buffers are on their way into the cache before they are written.
const AHEAD: usize = 32;

/// The receive queue, and the chains taken from it that hold no frame yet.
#[derive(Debug)]
pub(super) struct Receive<Q> {
    pub(super) queue: Q,
    /// MRG_RXBUF: a frame may lie in several chains.
    mergeable: bool,
    /// Chains in hand, in order; their buffers are `pieces[first..]`, with `bytes` bytes in all.
    chains: VecDeque<Chain>,
    pieces: Vec<Piece>,
    first: usize,
    bytes: usize,
    /// Room for an ordinary frame, header included.
    ordinary: usize,
    /// For so many more frames, room for the largest one is offered.
    large: u32,
    /// When the frame that waits for buffers began to wait.
    since: Option<Instant>,
}

/// What a burst did.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// Frames written to the guest.
    pub(super) moved: usize,
    /// A frame waits for the guest to make buffers available.
    pub(super) starved: bool,
    /// The network is gone.
    pub(super) lost: Option<io::Error>,
}

impl<Q: DeviceQueue> Receive<Q> {
    pub(super) fn new(queue: Q, features: Features, mtu: u16) -> Self {
        Self {
            queue,
            mergeable: features.contains(Features::MRG_RXBUF),
            chains: VecDeque::new(),
            pieces: Vec::new(),
            first: 0,
            bytes: 0,
            ordinary: NetHdr::LEN + ETHERNET_HEADER + 4 + usize::from(mtu),
            large: 0,
            since: None,
        }
    }

    /// Writes frames that wait in the backend into the guest's buffers, up to a bound. A frame that the guest cannot take is
    /// thrown away.
    pub(super) fn burst(&mut self, backend: &mut impl Backend, live: &Live, now: Instant) -> Result<Burst, Fault> {
        let mut burst = Burst::default();
        let (mut bytes, mut dropped) = (0, 0);
        while burst.moved + dropped < BURST {
            let wanted = if self.large > 0 { LARGEST } else { self.ordinary };
            self.gather(wanted)?;
            let mut room = self.room(wanted);
            let offered = room.len();
            match backend.receive(&mut room) {
                Ok(Received::Empty) => break,
                Ok(Received::Frame(length)) => {
                    self.give_back(length);
                    burst.moved += 1;
                    bytes += length.saturating_sub(NetHdr::LEN) as u64;
                    self.large = self.large.saturating_sub(1);
                    self.since = None;
                }
                Ok(Received::TooSmall(length)) => {
                    if self.mergeable && offered < length && length <= LARGEST {
                        self.large = LARGE_SPELL;
                        self.gather(length)?;
                        if self.room(length).len() >= length {
                            continue;
                        }
                    }
                    if !self.hopeless(offered, length, now) {
                        burst.starved = true;
                        live.starved.add(1);
                        break;
                    }
                    backend.discard();
                    self.since = None;
                    dropped += 1;
                }
                Err(error) => burst.lost = Some(error),
            }
            if burst.lost.is_some() {
                break;
            }
        }
        self.queue.publish();
        if burst.moved != 0 || dropped != 0 {
            live.to_guest.frames.add(burst.moved as u64);
            live.to_guest.bytes.add(bytes);
            live.to_guest.dropped.add(dropped as u64);
        }
        Ok(burst)
    }

    /// Sees to it that there is room for `wanted` bytes, as far as there are chains: without MRG_RXBUF one of them is all that
    /// a frame can have. If it takes any, it takes some more.
    #[inline]
    fn gather(&mut self, wanted: usize) -> Result<(), Fault> {
        let enough = |this: &Self| if this.mergeable { this.bytes >= wanted } else { !this.chains.is_empty() };
        if enough(self) {
            return Ok(());
        }
        loop {
            let full = self.pieces.len() - self.first >= usize::from(MAX_PIECES);
            if full || self.chains.len() >= AHEAD && enough(self) {
                return Ok(());
            }
            if self.first != 0 && self.first * 2 >= self.pieces.len() {
                self.pieces.drain(..self.first);
                self.first = 0;
            }
            let before = self.pieces.len();
            let Some(chain) = self.queue.take(&mut self.pieces)? else { return Ok(()) };
            if let Some(piece) = self.pieces.get(before) {
                piece.prefetch_write();
            }
            // The header of a frame must lie in its first buffer, and any buffer can be the first.
            if chain.bytes < NetHdr::LEN {
                return Err(Fault::ReceiveBuffer(chain.bytes));
            }
            self.bytes += chain.bytes;
            self.chains.push_back(chain);
        }
    }

    /// Buffers in hand for a frame of `wanted` bytes, as many as a backend can take.
    #[inline]
    fn room(&self, wanted: usize) -> Scatter<'_> {
        let (mut count, mut bytes) = (0, 0);
        for chain in &self.chains {
            count += chain.pieces;
            bytes += chain.bytes;
            if bytes >= wanted || !self.mergeable {
                break;
            }
        }
        scatter(&self.pieces[self.first..self.first + count.min(usize::from(MAX_PIECES))])
    }

    /// Gives back the buffers that now hold a frame of `length` bytes.
    #[inline]
    fn give_back(&mut self, length: usize) {
        let mut count = 0;
        let mut covered = 0;
        while covered < length && count < self.chains.len() {
            covered += self.chains[count].bytes;
            count += 1;
        }
        // Written whether or not MRG_RXBUF was negotiated: the field is there, and its value is 1 then (section 5.1.6.4.1).
        self.room(NetHdr::LEN).write(NUM_BUFFERS, &(count as u16).to_le_bytes());
        let mut rest = length;
        for _ in 0..count {
            let Some(chain) = self.chains.pop_front() else { break };
            let here = rest.min(chain.bytes);
            rest -= here;
            self.first += chain.pieces;
            self.bytes -= chain.bytes;
            self.queue.used(chain, here as u32);
        }
        if self.first == self.pieces.len() {
            self.pieces.clear();
            self.first = 0;
        }
    }

    /// Whether no more buffers can come that would make room for a frame of `length` bytes, for which `offered` bytes were
    /// not enough.
    fn hopeless(&mut self, offered: usize, length: usize, now: Instant) -> bool {
        let full = match self.mergeable {
            true => self.chains.len() >= usize::from(self.queue.size()),
            false => !self.chains.is_empty(),
        };
        let pieces = self.pieces.len() - self.first >= usize::from(MAX_PIECES);
        let since = *self.since.get_or_insert(now);
        // A guest without any buffer is slow, perhaps; one that has too small ones for long has no better.
        let waited = !self.chains.is_empty() && now.saturating_duration_since(since) >= PATIENCE;
        full || pieces || waited || length > LARGEST || length <= offered
    }
}
