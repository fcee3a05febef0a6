//! From the guest to the network.

use std::io;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::BURST;
use super::header::Rules;
use crate::backend::{Backend, Sent};
use crate::virtio::counters::Live;
use crate::virtio::memory::{Headed, Piece, scatter};
use crate::virtio::queue::{Chain, DeviceQueue, Fault};

/// The transmit queue and the frame in hand.
#[derive(Debug)]
pub(super) struct Transmit<Q> {
    pub(super) queue: Q,
    rules: Rules,
    /// The guest's buffers of the frame in hand, its own header among them.
    pieces: Vec<Piece>,
    /// The frame in hand, with the header that was checked.
    frame: Headed,
    /// The frame in hand was refused for want of room, and is offered again.
    held: Option<Chain>,
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
        let rules = Rules::new(features, mtu);
        Self { queue, rules, pieces: Vec::new(), frame: Headed::new(NetHdr::LEN), held: None }
    }

    /// Asks for a doorbell, unless a frame waits for room: then more of them would not help.
    pub(super) fn listen(&mut self) -> Result<bool, Fault> {
        if self.held.is_some() { Ok(false) } else { self.queue.listen() }
    }

    /// Sends what the guest has made available, up to a bound. Without a backend everything is dropped.
    pub(super) fn burst(&mut self, mut backend: Option<&mut impl Backend>, live: &Live) -> Result<Burst, Fault> {
        let mut burst = Burst::default();
        let (mut frames, mut bytes, mut dropped) = (0, 0, 0);
        while burst.taken < BURST {
            let (chain, good) = match self.held.take() {
                Some(chain) => (chain, true),
                None => match self.take()? {
                    Some(taken) => taken,
                    None => break,
                },
            };
            match backend.as_mut().filter(|_| good) {
                None => dropped += 1,
                Some(backend) => match backend.send(&self.frame.frame()) {
                    Ok(Sent::Done) => {
                        frames += 1;
                        bytes += (chain.bytes - NetHdr::LEN) as u64;
                    }
                    Ok(Sent::Later) => {
                        self.held = Some(chain);
                        burst.held = true;
                        break;
                    }
                    Err(error) => {
                        dropped += 1;
                        burst.lost = Some(error);
                    }
                },
            }
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

    /// Takes a frame in hand. The second value says whether it can be sent.
    #[inline]
    fn take(&mut self) -> Result<Option<(Chain, bool)>, Fault> {
        self.pieces.clear();
        let Some(chain) = self.queue.take(&mut self.pieces)? else { return Ok(None) };
        let mut bytes = [0; NetHdr::LEN];
        if scatter(&self.pieces).read(0, &mut bytes) < NetHdr::LEN {
            return Ok(Some((chain, false)));
        }
        let length = chain.bytes - NetHdr::LEN;
        let head = |head: &mut [u8]| scatter(&self.pieces).read(NetHdr::LEN, head);
        let checked = self.rules.check(&NetHdr::parse(&bytes), length, head);
        if let Some(clean) = checked {
            self.frame.set(&clean.to_bytes(), &self.pieces);
        }
        Ok(Some((chain, checked.is_some())))
    }
}
