//! What the fake device knows, and how it works.

use std::vec::Vec;

use super::queue::{Chain, Queue};
use crate::features::Features;
use crate::ring::Access;
use crate::wire::config::NetConfig;
use crate::wire::status::{DRIVER_OK, INTERRUPT_QUEUE};
use crate::wire::{NetHdr, RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// Something that no device may do. It is done once, with the next buffer that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// Says that it used a buffer with this id.
    Id(u32),
    /// Says that it wrote so many bytes into a buffer.
    Length(u32),
    /// Gives the same buffer back twice.
    Replay,
    /// Says that it has used so many more buffers than it has: moves the used index further (split), or makes further descriptors
    /// used as they are (packed).
    Jump(u16),
    /// Says that a received frame lies in so many buffers.
    NumBuffers(u16),
    /// Stops half way through a frame that lies in several buffers: the rest is never used.
    Half,
}

/// A frame as it was sent, with its header.
pub(super) type Sent = (NetHdr, Vec<u8>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) offered: Features,
    pub(super) accepted: Features,
    /// Features that are not accepted although they are offered.
    pub(super) refused: Features,
    pub(super) status: u8,
    pub(super) config: NetConfig,
    pub(super) generation: u32,
    /// The generation changes whenever it is read.
    pub(super) unstable: bool,
    /// Writing 0 to the status does not reset.
    pub(super) stuck: bool,
    pub(super) queue_size: u16,
    pub(super) queues: [Option<Queue>; 2],
    pub(super) interrupt_status: u8,
    pub(super) interrupts: u64,
    pub(super) resets: u64,
    /// Sent frames wait; nothing is used.
    pub(super) paused: bool,
    /// Sent buffers are used in reverse order.
    pub(super) reversed: bool,
    /// With IN_ORDER: buffers are used several at a time.
    pub(super) batching: bool,
    pub(super) mischief: [Option<Mischief>; 2],
    pub(super) sent: Vec<Sent>,
}

impl State {
    pub(super) fn new(offered: Features, config: NetConfig) -> Self {
        Self {
            offered,
            accepted: Features::empty(),
            refused: Features::empty(),
            status: 0,
            config,
            generation: 0,
            unstable: false,
            stuck: false,
            queue_size: 256,
            queues: [None, None],
            interrupt_status: 0,
            interrupts: 0,
            resets: 0,
            paused: false,
            reversed: false,
            batching: true,
            mischief: [None; 2],
            sent: Vec::new(),
        }
    }

    /// Goes back to the beginning, but for what is offered and for what was sent.
    pub(super) fn reset(&mut self) {
        self.status = 0;
        self.accepted = Features::empty();
        self.queues = [None, None];
        self.interrupt_status = 0;
        self.mischief = [None; 2];
        self.resets += 1;
    }

    fn running(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// A queue that the driver has set up.
    pub(super) fn queue(&mut self, queue: u16) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(queue))?.as_mut()
    }

    fn interrupt(&mut self, queue: u16) {
        if self.queue(queue).is_some_and(Queue::publish) {
            self.interrupt_status |= INTERRUPT_QUEUE;
            self.interrupts += 1;
        }
    }

    /// Gives a buffer back, with the mischief that is due.
    fn give_back(&mut self, queue: u16, chain: &Chain, written: u32) {
        let mischief = self.mischief[usize::from(queue)].take();
        let Some(queue) = self.queue(queue) else { return };
        queue.hostile |= mischief.is_some();
        let id = u32::from(chain.id);
        match mischief {
            Some(Mischief::Id(wrong)) => queue.report(chain, wrong, written),
            Some(Mischief::Length(wrong)) => queue.report(chain, id, wrong),
            Some(Mischief::Replay) => {
                queue.report(chain, id, written);
                queue.report(chain, id, written);
            }
            Some(Mischief::Jump(count)) => {
                queue.give_back(chain, written);
                queue.jump(count);
            }
            Some(Mischief::NumBuffers(_) | Mischief::Half) | None => queue.give_back(chain, written),
        }
    }

    /// Sends what the driver has made available, if the doorbell was rung.
    pub(super) fn transmit(&mut self, rung: bool) {
        if !rung || self.paused || !self.running() {
            return;
        }
        loop {
            let Some(queue) = self.queues[usize::from(TRANSMIT_QUEUE)].as_mut() else { return };
            queue.want_doorbell(false);
            let mut chains = Vec::new();
            while let Some(chain) = queue.take(Access::DeviceReads) {
                let bytes = chain.read();
                match bytes.split_first_chunk::<{ NetHdr::LEN }>() {
                    Some((header, frame)) => self.sent.push((NetHdr::parse(header), frame.into())),
                    None => assert!(queue.hostile, "a frame without a header"),
                }
                chains.push(chain);
            }
            if self.reversed && !queue.in_order() {
                chains.reverse();
            }
            for chain in &chains {
                self.give_back(TRANSMIT_QUEUE, chain, 0);
            }
            self.interrupt(TRANSMIT_QUEUE);
            let Some(queue) = self.queue(TRANSMIT_QUEUE) else { return };
            queue.want_doorbell(true);
            if chains.is_empty() || !queue.is_available() {
                return;
            }
        }
    }

    /// Receives a frame. Whether there was room for it.
    pub(super) fn receive(&mut self, header: NetHdr, frame: &[u8]) -> bool {
        let (running, merge) = (self.running(), self.accepted.contains(Features::MRG_RXBUF));
        let mischief = self.mischief[usize::from(RECEIVE_QUEUE)];
        let Some(queue) = self.queue(RECEIVE_QUEUE).filter(|_| running) else { return false };
        let length = NetHdr::LEN + frame.len();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < length && (merge || chains.is_empty()) {
            let Some(chain) = queue.take(Access::DeviceWrites) else { break };
            room += chain.capacity();
            chains.push(chain);
        }
        if room < length {
            queue.untake(&chains);
            queue.want_doorbell(true);
            return false;
        }
        queue.want_doorbell(false);
        let mut num_buffers = chains.len() as u16;
        let mut used = chains.len();
        match mischief {
            Some(Mischief::NumBuffers(wrong)) => num_buffers = wrong,
            Some(Mischief::Half) => used = used.div_ceil(2),
            _ => {}
        }
        let mut bytes = Vec::from(NetHdr { num_buffers, ..header }.to_bytes());
        bytes.extend_from_slice(frame);
        let mut rest = &bytes[..];
        for chain in &chains[..used] {
            let written = chain.write(rest);
            rest = &rest[written..];
            self.give_back(RECEIVE_QUEUE, chain, written as u32);
        }
        self.interrupt(RECEIVE_QUEUE);
        true
    }
}
