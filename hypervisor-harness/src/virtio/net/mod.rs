//! The network device (virtio 1.3, section 5.1), without thread and registers: two queues, a backend, and what was
//! negotiated. The device's thread calls it turn by turn.

mod header;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringlet_driver::features::Features;
use ringlet_driver::wire::{self, NetConfig, config};

use self::receive::Receive;
use self::transmit::Transmit;
use super::Shared;
use super::memory::{Memory, Scratch};
use super::queue::{Direction, Fault, Misplaced, Mode, Place, Queue};
use crate::backend::{Backend, OFFLOADS};

/// The device has a receive queue and a transmit queue.
pub const QUEUES: usize = 2;
/// The greatest number of descriptors in a queue.
pub const MAX_QUEUE_SIZE: u16 = 1024;

/// The most frames that one direction moves in one turn, before the other direction has its turn.
const BURST: usize = 64;
/// How long the device sleeps at most while a frame waits for room in the backend, which has no way to say that there is
/// some, or for receive buffers of the guest.
const HELD: Duration = Duration::from_millis(1);

/// What the device itself offers, whatever stands behind it.
const OWN: Features = Features::VERSION_1
    .union(Features::EVENT_IDX)
    .union(Features::INDIRECT_DESC)
    .union(Features::MAC)
    .union(Features::STATUS)
    .union(Features::MTU)
    .union(Features::MRG_RXBUF)
    .union(Features::GUEST_HDRLEN);

/// What the device offers where nobody asks for more or less: all that it and its backend can do.
pub const DEFAULT_MASK: Features = Features::all();

/// What a device on this backend offers, when only features in `mask` may be: bits that lack what they need are left out.
/// VERSION_1 cannot be masked.
#[must_use]
pub fn offered(backend: &dyn Backend, mask: Features) -> Features {
    ((OWN | backend.offloads() & OFFLOADS) & (mask | Features::VERSION_1)).without_unmet()
}

/// The configuration space (section 5.1.4).
#[must_use]
pub fn configuration(mac: [u8; 6], mtu: u16, link: bool) -> NetConfig {
    NetConfig {
        mac,
        mtu,
        status: if link { config::LINK_UP } else { 0 },
        max_virtqueue_pairs: 1,
        ..NetConfig::default()
    }
}

/// What the device is to do from DRIVER_OK on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activation {
    /// What was negotiated.
    pub features: Features,
    /// Where the queues are, by index; `None` for one that the driver has not made ready.
    pub queues: [Option<Place>; QUEUES],
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Frames moved, in both directions.
    pub moved: usize,
    /// When the next turn is due even if nothing happens; `None` if only an event makes one necessary.
    pub deadline: Option<Instant>,
    /// A frame for the guest waits for receive buffers: only a doorbell helps, not the backend's descriptors.
    pub starved: bool,
}

/// The device.
pub struct Net {
    memory: Memory,
    backend: Box<dyn Backend>,
    shared: Arc<Shared>,
    /// What was negotiated, from DRIVER_OK on.
    features: Option<Features>,
    receive: Option<Receive>,
    transmit: Option<Transmit>,
    /// Where frames go that the guest cannot take; made when first needed.
    sink: Option<Scratch>,
    /// The network is gone for good.
    gone: bool,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("backend", &self.backend.name()).finish_non_exhaustive()
    }
}

impl Net {
    /// Makes the device, inactive.
    #[must_use]
    pub fn new(memory: Memory, backend: Box<dyn Backend>, shared: Arc<Shared>) -> Self {
        Self { memory, backend, shared, features: None, receive: None, transmit: None, sink: None, gone: false }
    }

    /// Whether there is a queue to work on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.receive.is_some() || self.transmit.is_some()
    }

    /// The network.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// DRIVER_OK. If that is impossible, the device needs a reset.
    pub fn start(&mut self, activation: &Activation) {
        self.reset();
        let Activation { features, queues } = *activation;
        if let Err(error) = self.backend.negotiated(features) {
            let name = self.backend.name();
            return self.shared.break_down(&format!("{name} cannot work with {features}: {error}"));
        }
        let mtu = self.backend.mtu();
        let queue = |index: u16, direction| -> Result<Option<Queue>, Misplaced> {
            let place = queues.get(usize::from(index)).copied().flatten();
            place.map(|place| Queue::new(&self.memory, &place, direction, Mode::from(features))).transpose()
        };
        let made = queue(wire::RECEIVE_QUEUE, Direction::ToGuest)
            .and_then(|receive| Ok((receive, queue(wire::TRANSMIT_QUEUE, Direction::FromGuest)?)));
        match made {
            Ok((receive, transmit)) => {
                self.receive = receive.map(|queue| Receive::new(queue, features, mtu));
                self.transmit = transmit.map(|queue| Transmit::new(queue, features, mtu));
                self.features = Some(features);
                self.shared.set_negotiated(features);
            }
            Err(error) => self.shared.break_down(&error.to_string()),
        }
    }

    /// Gives up all queues. The guest's memory is not touched after this returns.
    pub fn reset(&mut self) {
        (self.features, self.receive, self.transmit) = (None, None, None);
    }

    /// Gives up one queue.
    pub fn stop_queue(&mut self, index: u16) {
        match index {
            wire::RECEIVE_QUEUE => self.receive = None,
            wire::TRANSMIT_QUEUE => self.transmit = None,
            _ => {}
        }
    }

    /// Takes up a queue that was given up by [`Net::stop_queue`], at a place of the driver's choice, from index 0 on. Nothing
    /// happens if the device is not at work: it needs a reset then, or gets one.
    pub fn restart_queue(&mut self, index: u16, place: &Place) {
        let Some(features) = self.features else { return };
        let (mtu, mode) = (self.backend.mtu(), Mode::from(features));
        let queue = |direction| Queue::new(&self.memory, place, direction, mode);
        let made = match index {
            wire::RECEIVE_QUEUE => {
                queue(Direction::ToGuest).map(|queue| self.receive = Some(Receive::new(queue, features, mtu)))
            }
            wire::TRANSMIT_QUEUE => {
                queue(Direction::FromGuest).map(|queue| self.transmit = Some(Transmit::new(queue, features, mtu)))
            }
            _ => Ok(()),
        };
        if let Err(error) = made {
            self.shared.break_down(&error.to_string());
        }
    }

    /// Moves what there is to move, a bounded number of frames, and raises an interrupt if the driver wants one.
    pub fn turn(&mut self, now: Instant) -> Turn {
        match self.try_turn(now) {
            Ok(turn) => turn,
            Err(fault) => {
                self.fault(fault);
                Turn { moved: 0, deadline: None, starved: false }
            }
        }
    }

    fn try_turn(&mut self, now: Instant) -> Result<Turn, Fault> {
        let live = &self.shared.live;
        let (mut moved, mut lost, mut published) = (0, None, false);
        let mut interrupts = [false; QUEUES];
        let (mut held, mut starved) = (false, false);
        if let Some(transmit) = &mut self.transmit {
            let backend: &mut dyn Backend = &mut *self.backend;
            let burst = transmit.burst(if self.gone { None } else { Some(backend) }, live)?;
            (held, lost) = (burst.held, burst.lost);
            moved += burst.taken;
            published |= burst.taken != 0;
            interrupts[usize::from(wire::TRANSMIT_QUEUE)] = transmit.queue.interrupt_due();
        }
        let mut deadline = if self.gone { None } else { self.backend.turn(now) };
        if let Some(receive) = self.receive.as_mut().filter(|_| !self.gone && lost.is_none()) {
            let burst = receive.burst(&mut *self.backend, &mut self.sink, live, now)?;
            (starved, lost) = (burst.starved, burst.lost);
            moved += burst.moved;
            published |= burst.moved != 0;
            interrupts[usize::from(wire::RECEIVE_QUEUE)] = receive.queue.interrupt_due();
        }
        for (queue, _) in (0..).zip(interrupts).filter(|(_, due)| *due) {
            self.shared.interrupt_queue(queue);
        }
        if published && interrupts == [false; QUEUES] {
            live.spared.add(1);
        }
        if moved != 0 {
            live.set_backend(self.backend.counters());
        }
        if let Some(error) = lost {
            let name = self.backend.name();
            self.gone = true;
            self.shared.say(&format!("the network {name} is gone ({error}): the device's link goes down"));
            self.shared.link_lost();
        }
        if held || starved {
            deadline = Some(deadline.map_or(now + HELD, |at| if starved { now + HELD } else { at.min(now + HELD) }));
        }
        Ok(Turn { moved, deadline, starved })
    }

    /// Asks the guest for doorbells. Returns whether there is work already, for which none will come.
    pub fn listen(&mut self, starved: bool) -> bool {
        let receive = self.receive.as_mut().filter(|_| starved);
        let listened = self
            .transmit
            .as_mut()
            .map_or(Ok(false), Transmit::listen)
            .and_then(|transmit| Ok(receive.map_or(Ok(false), |receive| receive.queue.listen())? || transmit));
        match listened {
            Ok(work) => work,
            Err(fault) => {
                self.fault(fault);
                true
            }
        }
    }

    /// Tells the guest that no doorbells are needed.
    pub fn quieten(&mut self) {
        if let Some(receive) = &self.receive {
            receive.queue.quieten();
        }
        if let Some(transmit) = &self.transmit {
            transmit.queue.quieten();
        }
    }

    /// The guest has broken the rules: nothing of its memory is touched before it resets the device.
    fn fault(&mut self, fault: Fault) {
        self.reset();
        self.shared.break_down(&format!("the driver broke the rules: {fault}"));
    }
}
