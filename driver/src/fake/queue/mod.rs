//! The device's side of a virtqueue (virtio 1.3, section 2.6).

mod chain;
mod packed;
mod split;

use std::string::String;
use std::vec::Vec;

use virtio_drivers::PhysAddr;

pub(crate) use self::chain::Chain;
use self::packed::Packed;
use self::split::Split;
use crate::features::Features;
use crate::ring::Access;

/// What the device tells of a used buffer: what belongs into the ring, and what it really is.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The buffer.
    pub(crate) chain: Chain,
    /// The id that is told.
    pub(crate) id: u32,
    /// The number of written bytes that is told.
    pub(crate) written: u32,
    /// It is as it should be, and so need not be told if what comes behind it is.
    honest: bool,
}

/// A queue as the device sees it.
#[derive(Debug)]
pub(crate) struct Queue {
    format: Format,
    indirect: bool,
    event_idx: bool,
    in_order: bool,
    /// With IN_ORDER: one entry is written for as many buffers as can be.
    pub(crate) batching: bool,
    /// Buffers used and not shown yet.
    reports: Vec<Report>,
    /// The device has broken the rules itself, and must not complain any more.
    pub(crate) hostile: bool,
}

#[derive(Debug)]
enum Format {
    Split(Split),
    Packed(Packed),
}

macro_rules! either {
    ($self:expr, $queue:ident => $value:expr) => {
        match &$self.format {
            Format::Split($queue) => $value,
            Format::Packed($queue) => $value,
        }
    };
    (mut $self:expr, $queue:ident => $value:expr) => {
        match &mut $self.format {
            Format::Split($queue) => $value,
            Format::Packed($queue) => $value,
        }
    };
}

impl Queue {
    /// A queue of `size` whose areas the driver has told, as `features` make it.
    pub(crate) fn new(size: u16, areas: [PhysAddr; 3], features: Features) -> Self {
        let format = if features.contains(Features::RING_PACKED) {
            Format::Packed(Packed::new(size, areas))
        } else {
            Format::Split(Split::new(size, areas))
        };
        Self {
            format,
            indirect: features.contains(Features::INDIRECT_DESC),
            event_idx: features.contains(Features::EVENT_IDX),
            in_order: features.contains(Features::IN_ORDER),
            batching: true,
            reports: Vec::new(),
            hostile: false,
        }
    }

    /// Whether buffers must be used in the order in which they were made available.
    pub(crate) fn in_order(&self) -> bool {
        self.in_order
    }

    /// Whether there is a buffer to be taken.
    pub(crate) fn is_available(&self) -> bool {
        either!(self, queue => queue.is_available())
    }

    /// Takes the next available buffer, whose pieces must all be for the device to write, or all to read.
    ///
    /// # Panics
    /// If the driver broke a rule, unless the device did so first: then there is no buffer to be taken.
    pub(crate) fn take(&mut self, access: Access) -> Option<Chain> {
        if !self.is_available() {
            return None;
        }
        let indirect = self.indirect;
        match either!(self, queue => queue.look(access, indirect)) {
            // What it has overwritten itself may point anywhere.
            Ok(chain) if self.hostile && !chain.is_shared() => None,
            Ok(chain) => {
                either!(mut self, queue => queue.take(&chain));
                Some(chain)
            }
            Err(_) if self.hostile => None,
            Err(broken) => panic!("{broken}"),
        }
    }

    /// Takes back what was taken last: the frame did not fit after all.
    pub(crate) fn untake(&mut self, chains: &[Chain]) {
        if let Some(first) = chains.first() {
            either!(mut self, queue => queue.untake(first.position));
        }
    }

    /// Uses a buffer; [`Queue::publish`] shows it.
    pub(crate) fn give_back(&mut self, chain: &Chain, written: u32) {
        self.reports.push(Report { chain: chain.clone(), id: chain.id.into(), written, honest: true });
    }

    /// Uses a buffer, and tells of it whatever is wanted.
    pub(crate) fn report(&mut self, chain: &Chain, id: u32, written: u32) {
        self.reports.push(Report { chain: chain.clone(), id, written, honest: false });
    }

    /// Says that `count` more buffers were used than were.
    pub(crate) fn jump(&mut self, count: u16) {
        self.show();
        either!(mut self, queue => queue.jump(count));
    }

    /// Shows what was used. Whether the driver wants an interrupt.
    pub(crate) fn publish(&mut self) -> bool {
        self.show();
        let event_idx = self.event_idx;
        either!(mut self, queue => queue.interrupt_due(event_idx))
    }

    fn show(&mut self) {
        let mut rest = &core::mem::take(&mut self.reports)[..];
        // Split: entries. Packed: descriptors, the first of which is written last.
        let mut batches = Vec::new();
        while !rest.is_empty() {
            // A buffer may be skipped if it was used completely.
            let skipped = |report: &&Report| {
                self.in_order
                    && report.honest
                    && self.batching
                    && (!report.chain.writable || report.written as usize == report.chain.capacity())
            };
            let count = (rest.iter().take_while(skipped).count() + 1).min(rest.len());
            let (batch, behind) = rest.split_at(count);
            batches.push(batch);
            rest = behind;
        }
        either!(mut self, queue => queue.show(&batches));
    }

    /// Asks for a doorbell with the next buffer, or for none.
    pub(crate) fn want_doorbell(&mut self, wanted: bool) {
        let event_idx = self.event_idx;
        either!(mut self, queue => queue.want_doorbell(wanted, event_idx));
    }

    /// Checks what a doorbell told with NOTIFICATION_DATA: the place behind the last buffer that was available then.
    ///
    /// # Panics
    /// If no buffer that is available now ends there.
    pub(crate) fn check_position(&self, told: u16) {
        if !self.hostile {
            either!(self, queue => queue.check_position(told));
        }
    }

    /// Writes into the `nth` buffer that is available whatever is wanted, if there is one for the device to write.
    pub(crate) fn scribble_buffer(&mut self, nth: usize, bytes: &[u8]) {
        self.hostile = true;
        let mut chains = Vec::new();
        while chains.len() <= nth {
            match self.take(Access::DeviceWrites) {
                Some(chain) => chains.push(chain),
                None => break,
            }
        }
        if let Some(chain) = chains.get(nth) {
            chain.write(bytes);
        }
        self.untake(&chains);
    }

    /// Writes into what a device may write of the ring whatever is wanted, as far as it goes.
    pub(crate) fn scribble(&mut self, offset: usize, bytes: &[u8]) {
        self.hostile = true;
        either!(mut self, queue => queue.scribble(offset, bytes));
    }
}

/// What a driver did wrong.
type Broken = String;
