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
use super::memory::Memory;
use super::queue::{DeviceQueue, Direction, Fault, Misplaced, Mode, PackedQueue, Place, SplitQueue};
use crate::backend::{Backend, OFFLOADS};

/// The device has a receive queue and a transmit queue.
pub const QUEUES: usize = 2;
/// The greatest number of descriptors in a queue where nothing else is asked for.
pub const DEFAULT_QUEUE_SIZE: u16 = 1024;
/// The most that can be asked for (virtio 1.3, sections 2.6 and 2.8).
pub const MAX_QUEUE_SIZE: u16 = 32768;

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
    .union(Features::GUEST_HDRLEN)
    .union(Features::RING_PACKED)
    .union(Features::IN_ORDER)
    .union(Features::RING_RESET)
    .union(Features::NOTIFICATION_DATA);

/// What the device offers where nobody asks for more or less: all that it and its backend can do.
pub const DEFAULT_MASK: Features = Features::all();

/// What a device on this backend offers, when only features in `mask` may be: bits that lack what they need are left out.
/// VERSION_1 cannot be masked.
#[must_use]
pub fn offered(backend: &impl Backend, mask: Features) -> Features {
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

/// The queues of a device, with rings of one format.
#[derive(Debug)]
struct Pair<Q> {
    receive: Option<Receive<Q>>,
    transmit: Option<Transmit<Q>>,
}

/// The queues of a device, with rings of the format that was negotiated. Which one it is is looked up once in a turn; what
/// moves frames is compiled for each of them.
#[derive(Debug)]
enum Rings {
    Split(Pair<SplitQueue>),
    Packed(Pair<PackedQueue>),
}

/// Does the same with the queues of either format.
macro_rules! with_pair {
    ($rings:expr, $pair:ident => $what:expr) => {
        match $rings {
            Rings::Split($pair) => $what,
            Rings::Packed($pair) => $what,
        }
    };
}

/// The device, on a network of one kind.
pub struct Net<B> {
    memory: Memory,
    plugged: Plugged<B>,
    shared: Arc<Shared>,
    rings: Rings,
    /// What was negotiated, from DRIVER_OK on.
    features: Option<Features>,
}

/// The network that a device is plugged into.
struct Plugged<B> {
    backend: B,
    /// The network is gone for good.
    gone: bool,
    /// What the guest sends is thrown away.
    mute: bool,
}

impl<B: Backend> std::fmt::Debug for Net<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("backend", &self.backend().name()).finish_non_exhaustive()
    }
}

impl<B: Backend> Net<B> {
    /// Makes the device, inactive.
    #[must_use]
    pub fn new(memory: Memory, backend: B, shared: Arc<Shared>) -> Self {
        let plugged = Plugged { backend, gone: false, mute: false };
        Self { memory, plugged, shared, rings: Rings::none(Features::empty()), features: None }
    }

    /// Whether there is a queue to work on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        with_pair!(&self.rings, pair => pair.receive.is_some() || pair.transmit.is_some())
    }

    /// The network.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.plugged.backend
    }

    /// DRIVER_OK. If that is impossible, the device needs a reset.
    pub fn start(&mut self, activation: &Activation) {
        self.reset();
        let Activation { features, queues } = *activation;
        let backend = &mut self.plugged.backend;
        if let Err(error) = backend.negotiated(features) {
            let name = backend.name();
            return self.shared.break_down(&format!("{name} cannot work with {features}: {error}"));
        }
        (self.features, self.rings) = (Some(features), Rings::none(features));
        for (index, place) in (0..).zip(queues) {
            if let Some(place) = place
                && !self.start_queue(index, &place, None)
            {
                return;
            }
        }
        self.shared.set_negotiated(features);
    }

    /// Begins to use one queue of a device that was started, whether that queue has been used before or not: at its first
    /// position, or at one that [`Net::stop_queue`] has returned. Returns whether it can be used; if not, the device needs a
    /// reset, now or since before.
    pub fn start_queue(&mut self, index: u16, place: &Place, position: Option<u32>) -> bool {
        let Some(features) = self.features else { return false };
        let mtu = self.plugged.backend.mtu();
        let started =
            with_pair!(&mut self.rings, pair => pair.start(index, &self.memory, place, position, features, mtu));
        if let Err(error) = &started {
            self.reset();
            self.shared.break_down(&error.to_string());
        }
        started.is_ok()
    }

    /// Works with another memory from now on. No queue is in use: each keeps the memory that it began with.
    pub fn set_memory(&mut self, memory: Memory) {
        self.memory = memory;
    }

    /// Takes what the guest sends and throws it away, or does so no more: a vhost-user frontend can wish that.
    pub fn set_mute(&mut self, mute: bool) {
        self.plugged.mute = mute;
    }

    /// Gives up all queues. The guest's memory is not touched after this returns.
    pub fn reset(&mut self) {
        (self.features, self.rings) = (None, Rings::none(Features::empty()));
        self.plugged.backend.rest();
    }

    /// Gives up one queue, and returns where it stood ([`DeviceQueue::position`]): nothing if it was not in use. Its memory
    /// is not touched after this returns. A frame in hand is not lost if the queue goes on at that position.
    pub fn stop_queue(&mut self, index: u16) -> Option<u32> {
        let position = with_pair!(&mut self.rings, pair => pair.stop(index));
        if !self.is_active() {
            self.plugged.backend.rest();
        }
        position
    }

    /// Moves what there is to move, a bounded number of frames, and raises an interrupt if the driver wants one.
    pub fn turn(&mut self, now: Instant) -> Turn {
        let turned = with_pair!(&mut self.rings, pair => pair.turn(&mut self.plugged, &self.shared, now));
        match turned {
            Ok(turn) => turn,
            Err(fault) => {
                self.fault(fault);
                Turn { moved: 0, deadline: None, starved: false }
            }
        }
    }

    /// Asks the guest for doorbells. Returns whether there is work already, for which none will come.
    pub fn listen(&mut self, starved: bool) -> bool {
        match with_pair!(&mut self.rings, pair => pair.listen(starved)) {
            Ok(work) => work,
            Err(fault) => {
                self.fault(fault);
                true
            }
        }
    }

    /// Tells the guest that no doorbells are needed.
    pub fn quieten(&mut self) {
        with_pair!(&mut self.rings, pair => pair.quieten());
    }

    /// The guest has broken the rules: nothing of its memory is touched before it resets the device.
    fn fault(&mut self, fault: Fault) {
        self.reset();
        self.shared.break_down(&format!("the driver broke the rules: {fault}"));
    }
}

impl Rings {
    /// No queues yet, of the format that was negotiated.
    fn none(features: Features) -> Self {
        if features.contains(Features::RING_PACKED) {
            Self::Packed(Pair { receive: None, transmit: None })
        } else {
            Self::Split(Pair { receive: None, transmit: None })
        }
    }
}

impl<Q: DeviceQueue> Pair<Q> {
    fn start(
        &mut self,
        index: u16,
        memory: &Memory,
        place: &Place,
        position: Option<u32>,
        features: Features,
        mtu: u16,
    ) -> Result<(), Misplaced> {
        let queue = |direction| -> Result<Q, Misplaced> {
            let mut queue = Q::new(memory, place, direction, Mode::from(features))?;
            if let Some(position) = position {
                queue.start_at(position)?;
            }
            Ok(queue)
        };
        match index {
            wire::RECEIVE_QUEUE => self.receive = Some(Receive::new(queue(Direction::ToGuest)?, features, mtu)),
            wire::TRANSMIT_QUEUE => self.transmit = Some(Transmit::new(queue(Direction::FromGuest)?, features, mtu)),
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, index: u16) -> Option<u32> {
        match index {
            wire::RECEIVE_QUEUE => self.receive.take().map(|receive| receive.queue.position()),
            wire::TRANSMIT_QUEUE => self.transmit.take().map(|transmit| transmit.queue.position()),
            _ => None,
        }
    }

    fn turn<B: Backend>(&mut self, plugged: &mut Plugged<B>, shared: &Shared, now: Instant) -> Result<Turn, Fault> {
        let live = &shared.live;
        let Plugged { backend, gone, mute } = plugged;
        let (mut moved, mut lost, mut published) = (0, None, false);
        let mut interrupts = [false; QUEUES];
        let (mut held, mut starved) = (false, false);
        if let Some(transmit) = &mut self.transmit {
            let burst = transmit.burst(if *gone || *mute { None } else { Some(&mut *backend) }, live)?;
            (held, lost) = (burst.held, burst.lost);
            moved += burst.taken;
            published |= burst.taken != 0;
        }
        let mut deadline = if *gone { None } else { backend.turn(now) };
        if self.receive.is_none() {
            // What the network has at once is for a queue that there is not: the thread would ask for it again and again.
            deadline = deadline.filter(|at| *at > now);
        }
        if let Some(receive) = self.receive.as_mut().filter(|_| !*gone && lost.is_none()) {
            let burst = receive.burst(backend, live, now)?;
            (starved, lost) = (burst.starved, burst.lost);
            moved += burst.moved;
            published |= burst.moved != 0;
        }
        // Asked of both at last: what must be visible before a wish is read has had the time to become so.
        if let Some(transmit) = &mut self.transmit {
            interrupts[usize::from(wire::TRANSMIT_QUEUE)] = transmit.queue.interrupt_due();
        }
        if let Some(receive) = &mut self.receive {
            interrupts[usize::from(wire::RECEIVE_QUEUE)] = receive.queue.interrupt_due();
        }
        for (queue, _) in (0..).zip(interrupts).filter(|(_, due)| *due) {
            shared.interrupt_queue(queue);
        }
        if published && interrupts == [false; QUEUES] {
            live.spared.add(1);
        }
        if moved != 0 {
            live.set_backend(backend.counters());
        }
        if let Some(error) = lost {
            let name = backend.name();
            *gone = true;
            shared.say(&format!("the network {name} is gone ({error}): the device's link goes down"));
            shared.set_link(false);
        }
        if held || starved {
            deadline = Some(deadline.map_or(now + HELD, |at| if starved { now + HELD } else { at.min(now + HELD) }));
        }
        Ok(Turn { moved, deadline, starved })
    }

    fn listen(&mut self, starved: bool) -> Result<bool, Fault> {
        let transmit = self.transmit.as_mut().map_or(Ok(false), Transmit::listen)?;
        let receive = self.receive.as_mut().filter(|_| starved);
        Ok(receive.map_or(Ok(false), |receive| receive.queue.listen())? || transmit)
    }

    fn quieten(&mut self) {
        if let Some(receive) = &mut self.receive {
            receive.queue.quieten();
        }
        if let Some(transmit) = &mut self.transmit {
            transmit.queue.quieten();
        }
    }
}
