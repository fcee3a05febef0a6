//! From the guest to the network.

use std::io;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::{BURST, header};
use crate::backend::{Backend, Sent};
use crate::virtio::counters::Live;
use crate::virtio::memory::{Piece, scatter};
use crate::virtio::queue::{Chain, Fault, Queue};

/// The transmit queue and the frame in hand.
#[derive(Debug)]
pub(super) struct Transmit {
    pub(super) queue: Queue,
    features: Features,
    mtu: u16,
    /// The device's own copy of the header: once it is checked, the guest cannot change it.
    header: Piece,
    /// The frame in hand: before `first` nothing that counts, then the header, then the guest's bytes.
    pieces: Vec<Piece>,
    first: usize,
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

impl Transmit {
    /// `header` is 12 bytes of the device's own.
    pub(super) fn new(queue: Queue, features: Features, mtu: u16, header: Piece) -> Self {
        Self { queue, features, mtu, header, pieces: Vec::new(), first: 0, held: None }
    }

    /// Asks for a doorbell, unless a frame waits for room: then more of them would not help.
    pub(super) fn listen(&mut self) -> Result<bool, Fault> {
        if self.held.is_some() { Ok(false) } else { self.queue.listen() }
    }

    /// Sends what the guest has made available, up to a bound. Without a backend everything is dropped.
    pub(super) fn burst(&mut self, mut backend: Option<&mut dyn Backend>, live: &Live) -> Result<Burst, Fault> {
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
            match backend.as_deref_mut().filter(|_| good) {
                None => dropped += 1,
                Some(backend) => match backend.send(&scatter(&self.pieces[self.first..])) {
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
        self.pieces.push(self.header);
        let Some(chain) = self.queue.take(&mut self.pieces)? else { return Ok(None) };
        let mut bytes = [0; NetHdr::LEN];
        if scatter(&self.pieces[1..]).read(0, &mut bytes) < NetHdr::LEN {
            return Ok(Some((chain, false)));
        }
        let length = chain.bytes - NetHdr::LEN;
        let Some(clean) = header::check(&NetHdr::parse(&bytes), length, self.features, self.mtu) else {
            return Ok(Some((chain, false)));
        };
        scatter(&[self.header]).write(0, &clean.to_bytes());
        // The guest's header is cut off, and the device's put in the place before the first byte of the frame.
        let (mut first, mut cut) = (0, NetHdr::LEN);
        while cut != 0 && first + 1 < self.pieces.len() {
            let piece = &mut self.pieces[first + 1];
            let here = cut.min(piece.len());
            *piece = piece.skip(here);
            cut -= here;
            if piece.is_empty() {
                first += 1;
            }
        }
        self.pieces[first] = self.header;
        self.first = first;
        Ok(Some((chain, true)))
    }
}
