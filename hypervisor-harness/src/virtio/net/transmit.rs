//! From the guest to the network.

use std::collections::VecDeque;
use std::io;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::BURST;
use super::header::Rules;
use crate::backend::{Backend, Sent};
use crate::virtio::counters::Live;
use crate::virtio::memory::{Headed, Piece, scatter};
use crate::virtio::queue::{Chain, DeviceQueue, Fault};

/// So many chains are taken at once, so that their headers are on their way into the cache while the frames before them are
/// sent.
const AHEAD: usize = 32;

/// The transmit queue and the frames in hand.
#[derive(Debug)]
pub(super) struct Transmit<Q> {
    pub(super) queue: Q,
    rules: Rules,
    /// Chains taken and not given back, in order; their buffers are `pieces[first..]`, the guest's own headers among them.
    chains: VecDeque<Chain>,
    pieces: Vec<Piece>,
    first: usize,
    /// The first frame in hand, with the header that was checked, if it was refused for want of room and is offered again.
    frame: Headed,
    held: bool,
}

/// What a burst did.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// Chains taken and given back.
    pub(super) taken: usize,
    /// A frame waits for room in the backend.
    pub(super) held: bool,
    /// The network is gone.
    pub(super) lost: Option<io::Error>,
}

impl<Q: DeviceQueue> Transmit<Q> {
    pub(super) fn new(queue: Q, features: Features, mtu: u16) -> Self {
        Self {
            queue,
            rules: Rules::new(features, mtu),
            chains: VecDeque::with_capacity(AHEAD),
            pieces: Vec::new(),
            first: 0,
            frame: Headed::new(NetHdr::LEN),
            held: false,
        }
    }

    /// Asks for a doorbell, unless a frame waits for room: then more of them would not help.
    pub(super) fn listen(&mut self) -> Result<bool, Fault> {
        if self.held || !self.chains.is_empty() { Ok(!self.held) } else { self.queue.listen() }
    }

    /// Sends what the guest has made available, up to a bound. Without a backend everything is dropped.
    pub(super) fn burst(&mut self, mut backend: Option<&mut impl Backend>, live: &Live) -> Result<Burst, Fault> {
        let mut burst = Burst::default();
        let (mut frames, mut bytes, mut dropped) = (0, 0, 0);
        while burst.taken < BURST {
            if self.chains.is_empty() {
                self.take()?;
            }
            let Some(chain) = self.chains.front() else { break };
            let (count, length) = (chain.pieces, chain.bytes);
            let good = std::mem::take(&mut self.held) || self.check(count, length);
            match backend.as_mut().filter(|_| good) {
                None => dropped += 1,
                Some(backend) => match backend.send(&self.frame.frame()) {
                    Ok(Sent::Done) => {
                        frames += 1;
                        bytes += (length - NetHdr::LEN) as u64;
                    }
                    Ok(Sent::Later) => {
                        self.held = true;
                        burst.held = true;
                        break;
                    }
                    Err(error) => {
                        dropped += 1;
                        burst.lost = Some(error);
                    }
                },
            }
            self.first += count;
            let Some(chain) = self.chains.pop_front() else { break };
            self.queue.used(chain, 0);
            burst.taken += 1;
            if burst.lost.is_some() {
                break;
            }
        }
        self.queue.publish();
        if burst.taken != 0 {
            live.from_guest.frames.add(frames);
            live.from_guest.bytes.add(bytes);
            live.from_guest.dropped.add(dropped);
        }
        Ok(burst)
    }

    /// Takes the next chains in hand, when there are none left.
    #[inline]
    fn take(&mut self) -> Result<(), Fault> {
        self.pieces.clear();
        self.first = 0;
        while self.chains.len() < AHEAD {
            let before = self.pieces.len();
            let Some(chain) = self.queue.take(&mut self.pieces)? else { break };
            if let Some(piece) = self.pieces.get(before) {
                piece.prefetch();
            }
            self.chains.push_back(chain);
        }
        Ok(())
    }

    /// Makes the first frame in hand, of `count` pieces and `length` bytes, ready. Whether it can be sent.
    #[inline]
    fn check(&mut self, count: usize, length: usize) -> bool {
        let pieces = &self.pieces[self.first..self.first + count];
        let mut bytes = [0; NetHdr::LEN];
        if scatter(pieces).read(0, &mut bytes) < NetHdr::LEN {
            return false;
        }
        let head = |head: &mut [u8]| scatter(pieces).read(NetHdr::LEN, head);
        let checked = self.rules.check(&NetHdr::parse(&bytes), length - NetHdr::LEN, head);
        if let Some(clean) = checked {
            self.frame.set(&clean.to_bytes(), pieces);
        }
        checked.is_some()
    }
}
