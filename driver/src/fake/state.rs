//! What the fake device knows, and how it works.

use std::vec::Vec;

use super::queue::{Chain, Queue};
use crate::features::Features;
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
    /// Moves the used index further than it has used buffers, by this number.
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
    pub(super) queues: [Queue; 2],
    pub(super) interrupt_status: u8,
    pub(super) interrupts: u64,
    pub(super) resets: u64,
    /// Sent frames wait; nothing is used.
    pub(super) paused: bool,
    /// Sent buffers are used in reverse order.
    pub(super) reversed: bool,
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
            queues: Default::default(),
            interrupt_status: 0,
            interrupts: 0,
            resets: 0,
            paused: false,
            reversed: false,
            mischief: [None; 2],
            sent: Vec::new(),
        }
    }

    /// Goes back to the beginning, but for what is offered and for what was sent.
    pub(super) fn reset(&mut self) {
        self.status = 0;
        self.accepted = Features::empty();
        self.queues = Default::default();
        self.interrupt_status = 0;
        self.mischief = [None; 2];
        self.resets += 1;
    }

    fn event_idx(&self) -> bool {
        self.accepted.contains(Features::EVENT_IDX)
    }

    fn indirect(&self) -> bool {
        self.accepted.contains(Features::INDIRECT_DESC)
    }

    fn running(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    fn interrupt(&mut self, queue: u16) {
        let event_idx = self.event_idx();
        if self.queues[usize::from(queue)].publish(event_idx) {
            self.interrupt_status |= INTERRUPT_QUEUE;
            self.interrupts += 1;
        }
    }

    /// Gives a buffer back, with the mischief that is due.
    fn give_back(&mut self, queue: u16, chain: &Chain, written: u32) {
        let mischief = self.mischief[usize::from(queue)].take();
        let queue = &mut self.queues[usize::from(queue)];
        queue.hostile |= mischief.is_some();
        let id = u32::from(chain.id);
        match mischief {
            Some(Mischief::Id(wrong)) => queue.give_back(wrong, written),
            Some(Mischief::Length(wrong)) => queue.give_back(id, wrong),
            Some(Mischief::Replay) => {
                queue.give_back(id, written);
                queue.give_back(id, written);
            }
            Some(Mischief::Jump(count)) => {
                queue.give_back(id, written);
                queue.jump(count);
            }
            Some(Mischief::NumBuffers(_) | Mischief::Half) | None => queue.give_back(id, written),
        }
    }

    /// Sends what the driver has made available, if the doorbell was rung.
    pub(super) fn transmit(&mut self, rung: bool) {
        let (event_idx, indirect) = (self.event_idx(), self.indirect());
        let at = usize::from(TRANSMIT_QUEUE);
        if !rung || self.paused || !self.running() || !self.queues[at].ready() {
            return;
        }
        loop {
            self.queues[at].want_doorbell(false, event_idx);
            let mut chains = Vec::new();
            while let Some(chain) = self.queues[at].take(false, indirect) {
                let bytes = chain.read();
                match bytes.split_first_chunk::<{ NetHdr::LEN }>() {
                    Some((header, frame)) => self.sent.push((NetHdr::parse(header), frame.into())),
                    None => assert!(self.queues[at].hostile, "a frame without a header"),
                }
                chains.push(chain);
            }
            if self.reversed {
                chains.reverse();
            }
            for chain in &chains {
                self.give_back(TRANSMIT_QUEUE, chain, 0);
            }
            self.interrupt(TRANSMIT_QUEUE);
            self.queues[at].want_doorbell(true, event_idx);
            if chains.is_empty() || self.queues[at].available() == 0 {
                return;
            }
        }
    }

    /// Receives a frame. Whether there was room for it.
    pub(super) fn receive(&mut self, header: NetHdr, frame: &[u8]) -> bool {
        let at = usize::from(RECEIVE_QUEUE);
        if !self.running() || !self.queues[at].ready() {
            return false;
        }
        let (event_idx, indirect) = (self.event_idx(), self.indirect());
        let merge = self.accepted.contains(Features::MRG_RXBUF);
        let length = NetHdr::LEN + frame.len();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < length && (merge || chains.is_empty()) {
            let Some(chain) = self.queues[at].take(true, indirect) else { break };
            room += chain.capacity();
            chains.push(chain);
        }
        if room < length {
            self.queues[at].untake(chains.len() as u16);
            self.queues[at].want_doorbell(true, event_idx);
            return false;
        }
        self.queues[at].want_doorbell(false, event_idx);
        let mut num_buffers = chains.len() as u16;
        let mut used = chains.len();
        match self.mischief[at] {
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
