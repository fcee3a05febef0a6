//! Both device's sides on the same rings, whatever the driver has put there: they take the same chains, give them back in the
//! same way, and say the same of notifications. Where ours finds fault with what theirs takes, that is on purpose, and said here.

use proptest::prelude::*;
use proptest::sample::select;
use ringlet_driver::wire::split::{
    self as layout, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, DESC_LEN, Descriptor, RING_INDEX,
};

use super::*;
use crate::virtio::memory::scatter;
use crate::virtio::testing::Ring;

/// An indirect table, which chains of every kind may refer to.
const TABLE: u64 = BUFFERS + 0x10_0000;
/// How far their used ring lies behind ours.
const THEIRS: u64 = 0x8000;

/// Something that driver or device does.
#[derive(Debug, Clone)]
enum Step {
    /// The driver writes a descriptor of the ring's table, or of the indirect one.
    Describe { indirect: bool, index: u16, descriptor: Descriptor },
    /// It makes a chain available.
    Offer(u16),
    /// It says when it wants an interrupt: so far from where the used ring stands.
    Event(u16),
    /// It moves the available index to where it should not be.
    Jump(u16),
    /// The device takes so many chains.
    Take(usize),
    /// It gives so many back, with what it has written.
    GiveBack(usize, u32),
    /// It asks for doorbells.
    Listen,
    /// It asks for none.
    Quieten,
}

/// Descriptors that mostly make sense in a queue that goes this way.
fn descriptor(writable: bool) -> impl Strategy<Value = Descriptor> {
    let good = if writable { DESC_F_WRITE } else { 0 };
    let flags = prop_oneof![
        12 => select(vec![good, good, good | DESC_F_NEXT]),
        3 => select(vec![DESC_F_INDIRECT, DESC_F_INDIRECT | good]),
        1 => 0_u16..8,
    ];
    let buffer = prop_oneof![
        12 => (BUFFERS..BUFFERS + 0x1000, 0_u32..2000),
        1 => (END - 100..END + 100, 0_u32..200),
        1 => any::<(u64, u32)>(),
    ];
    let table = (prop_oneof![8 => Just(TABLE), 1 => Just(TABLE + 4), 1 => Just(END - 32)], 0_u32..6).prop_flat_map(
        |(at, count)| {
            let length = count * DESC_LEN as u32;
            (Just(at), prop_oneof![8 => Just(length), 1 => Just(length + 8), 1 => Just(16 * 1024), 1 => Just(16 << 16)])
        },
    );
    (flags, buffer, table, 0_u16..9).prop_map(|(flags, buffer, table, next)| {
        let (address, length) = if flags & DESC_F_INDIRECT != 0 { table } else { buffer };
        Descriptor { address, length, flags, next }
    })
}

fn step(writable: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 0_u16..8, descriptor(writable))
            .prop_map(|(indirect, index, descriptor)| Step::Describe { indirect, index, descriptor }),
        8 => prop_oneof![20 => 0_u16..8, 1 => any::<u16>()].prop_map(Step::Offer),
        2 => (0_u16..12).prop_map(Step::Event),
        1 => prop_oneof![20 => Just(0), 1 => any::<u16>()].prop_map(Step::Jump),
        6 => (1_usize..9).prop_map(Step::Take),
        6 => (1_usize..9, any::<u32>()).prop_map(|(count, written)| Step::GiveBack(count, written)),
        1 => Just(Step::Listen),
        1 => Just(Step::Quieten),
    ]
}

/// Both queues, and what was taken of both and not given back.
struct Both {
    ram: GuestRam,
    ring: Ring,
    ours: SplitQueue,
    theirs: Queue,
    direction: Direction,
    taken: std::collections::VecDeque<Chain>,
}

impl Both {
    fn new(size: u16, direction: Direction, mode: Mode, start: u16) -> Self {
        let ram = GuestRam::new(32).unwrap();
        let mut ring = Ring::new(&ram, place(0, size));
        let mut ours = SplitQueue::new(&Memory::new(ram.clone()), &ring.place, direction, mode).unwrap();
        ours.start_at(start.into()).unwrap();
        let apart = Place { device: ring.place.device + THEIRS, ..ring.place };
        let mut theirs = their_queue(&apart, mode.event_idx, start);
        // As ours begins.
        theirs.disable_notification(ram.memory()).unwrap();
        ring.available = start;
        ring.set_available(start);
        // The used index is the driver's to look at from there on too.
        for device in [ring.place.device, apart.device] {
            ram.write(device + RING_INDEX as u64, &start.to_le_bytes()).unwrap();
        }
        Self { ram, ring, ours, theirs, direction, taken: std::collections::VecDeque::new() }
    }

    /// Takes a chain of both. False when there is none any more, for better or worse.
    fn take(&mut self) -> Result<bool, TestCaseError> {
        let mut pieces = Vec::new();
        let ours = self.ours.take(&mut pieces);
        if let Err(Fault::AvailableIndex { to, size, .. }) = ours {
            // Theirs looks at what was not taken yet. What was taken and not given back lies in the ring as well.
            let ahead = to.wrapping_sub(self.theirs.next_avail());
            prop_assert!(usize::from(ahead) + self.taken.len() > usize::from(size));
            prop_assert_eq!(self.theirs.iter(self.ram.memory()).is_err(), ahead > size);
            return Ok(false);
        }
        if self.theirs.iter(self.ram.memory()).is_err() {
            // Theirs reads the index each time, ours when it has taken what there was by the last reading: it finds out later.
            let later = (0..self.ring.place.size).find_map(|_| self.ours.take(&mut pieces).err());
            prop_assert!(ours.is_err() || later.is_some());
            return Ok(false);
        }
        let theirs = their_chain(&mut self.theirs, self.ram.memory());
        let Some((head, descriptors)) = theirs else {
            prop_assert_eq!(ours, Ok(None));
            return Ok(false);
        };
        let ends = descriptors.last().is_some_and(|last| !last.has_next());
        let known = |one: &TheirDescriptor| one.addr().0.checked_add(one.len().into()).is_some_and(|end| end <= END);
        let right = |one: &TheirDescriptor| one.is_write_only() == (self.direction == Direction::ToGuest);
        match ours {
            Ok(Some(chain)) => {
                prop_assert!(ends && descriptors.iter().all(|one| known(one) && right(one)), "{:?}", descriptors);
                let start = self.ram.host_start() as usize;
                let ours = scatter(&pieces);
                let ours = ours.pieces().iter().map(|piece| ((piece.iov_base as usize - start) as u64, piece.iov_len));
                // Ours leaves out those of no bytes.
                let theirs =
                    descriptors.iter().filter(|one| one.len() > 0).map(|one| (one.addr().0, one.len() as usize));
                prop_assert!(ours.clone().eq(theirs.clone()), "{:?}, {:?}", ours.collect::<Vec<_>>(), descriptors);
                prop_assert_eq!((chain.id, chain.pieces), (head, pieces.len()));
                prop_assert_eq!(chain.bytes, theirs.map(|(_, length)| length).sum::<usize>());
                self.taken.push_back(chain);
                return Ok(true);
            }
            Ok(None) => prop_assert!(false, "theirs has {head}: {:?}", descriptors),
            // Theirs ends such a chain where it goes wrong, without a word, and leaves it to the device to notice that NEXT is set.
            Err(Fault::DescriptorIndex { .. } | Fault::Endless(_)) => prop_assert!(!ends, "{:?}", descriptors),
            // Theirs gives addresses out unseen, and reads a table as far as there is memory.
            Err(Fault::Outside(_)) => prop_assert!(!ends || !descriptors.iter().all(known) || self.table_is_outside()),
            // Theirs lets the device ask for one direction and skips the other.
            Err(Fault::Direction) => prop_assert!(!ends || !descriptors.iter().all(right), "{:?}", descriptors),
            // Theirs does not know what was negotiated, takes INDIRECT together with NEXT (section 2.7.5.3.1 forbids it), and any
            // place and any length for a table; an empty one is an empty chain.
            Err(Fault::Indirect | Fault::IndirectUnaligned(_) | Fault::IndirectLength(_)) => {}
            Err(fault @ (Fault::AvailableIndex { .. } | Fault::Overrun(_) | Fault::ReceiveBuffer(_))) => {
                prop_assert!(false, "{fault}");
            }
        }
        Ok(false)
    }

    /// Whether an indirect table goes beyond the end of memory, of which theirs reads only what it follows.
    fn table_is_outside(&self) -> bool {
        let table = (0..self.ring.place.size).map(|index| {
            let mut bytes = [0; DESC_LEN];
            self.ram.read(self.ring.place.descriptors + DESC_LEN as u64 * u64::from(index), &mut bytes).unwrap();
            Descriptor::parse(&bytes)
        });
        table.filter(|one| one.flags & DESC_F_INDIRECT != 0).any(|one| one.address + u64::from(one.length) > END)
    }

    /// Both used rings as the driver sees them, flags and `avail_event` included.
    fn used_rings(&self) -> [Vec<u8>; 2] {
        [0, THEIRS].map(|behind| {
            let mut bytes = vec![0; layout::used_len(self.ring.place.size)];
            self.ram.read(self.ring.place.device + behind, &mut bytes).unwrap();
            bytes
        })
    }

    /// Does the same on both sides. False when it is over.
    fn run(&mut self, step: &Step, event_idx: bool) -> Result<bool, TestCaseError> {
        match *step {
            Step::Describe { indirect: true, index, descriptor } => self.ring.descriptor_at(TABLE, index, descriptor),
            Step::Describe { index, descriptor, .. } => {
                let index = index % self.ring.place.size;
                self.ring.descriptor(index, descriptor.address, descriptor.length, descriptor.flags, descriptor.next);
            }
            Step::Offer(head) => {
                // Not more than the ring holds: that is what jumps are for.
                let started = self.theirs.next_used();
                if self.ring.available.wrapping_sub(started) < self.ring.place.size {
                    self.ring.offer(head);
                }
            }
            Step::Event(ahead) => self.ring.set_used_event(self.theirs.next_used().wrapping_add(ahead).wrapping_sub(2)),
            Step::Jump(far) => {
                self.ring.available = self.ring.available.wrapping_add(far);
                self.ring.set_available(self.ring.available);
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let before = self.taken.len();
                    if !self.take()? {
                        // Nothing there, or a broken rule, after which ours is not to be used any more.
                        let again = self.ours.waiting();
                        return Ok(before == self.taken.len() && again == Ok(false));
                    }
                }
            }
            Step::GiveBack(count, written) => {
                for nth in 0..count.min(self.taken.len()) {
                    let Some(chain) = self.taken.pop_front() else { break };
                    let written = written.wrapping_mul(nth as u32 + 1);
                    self.theirs.add_used(self.ram.memory(), chain.id, written).unwrap();
                    self.ours.used(chain, written);
                }
                let published = self.ours.publish();
                let theirs = self.theirs.needs_notification(self.ram.memory()).unwrap();
                let ours = self.ours.interrupt_due();
                // Without EVENT_IDX theirs does not look at the driver's flag, which is never set here, nor at whether there was
                // anything at all.
                prop_assert_eq!(ours, theirs && (event_idx || published > 0));
            }
            Step::Listen => {
                let ahead = self.ring.available.wrapping_sub(self.theirs.next_avail());
                let theirs = self.theirs.enable_notification(self.ram.memory()).unwrap();
                match self.ours.listen() {
                    Ok(ours) => prop_assert_eq!(ours, theirs),
                    Err(_) => {
                        prop_assert!(usize::from(ahead) + self.taken.len() > usize::from(self.ring.place.size));
                        return Ok(false);
                    }
                }
            }
            Step::Quieten => {
                self.ours.quieten();
                self.theirs.disable_notification(self.ram.memory()).unwrap();
            }
        }
        let [ours, theirs] = self.used_rings();
        prop_assert_eq!(ours, theirs);
        let position = self.theirs.avail_idx(self.ram.memory(), Ordering::Relaxed).unwrap().0;
        prop_assert_eq!(position, self.ring.available);
        Ok(true)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_see_the_same_in_arbitrary_rings(
        (writable, steps) in any::<bool>().prop_flat_map(|writable| {
            (Just(writable), proptest::collection::vec(step(writable), 1..120))
        }),
        size in select(vec![1_u16, 2, 4, 8]),
        start in prop_oneof![Just(0_u16), 65520..=65535_u16, any::<u16>()],
        event_idx: bool,
        indirect in prop_oneof![4 => Just(true), 1 => Just(false)],
    ) {
        let direction = if writable { Direction::ToGuest } else { Direction::FromGuest };
        let mut both = Both::new(size, direction, Mode { event_idx, indirect, in_order: false }, start);
        // Chains of one buffer to begin with.
        let flags = if writable { DESC_F_WRITE } else { 0 };
        for index in 0..size {
            both.ring.descriptor(index, BUFFERS, 100 + u32::from(index), flags, 0);
        }
        for index in 0..8 {
            both.ring.descriptor_at(TABLE, index, Descriptor { address: BUFFERS, length: 10, flags, next: 0 });
        }
        for step in &steps {
            if !both.run(step, event_idx)? {
                break;
            }
        }
    }
}
