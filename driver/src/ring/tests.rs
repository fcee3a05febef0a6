//! Both rings against a model, against the letter of the specification, and against lies.

use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::buffer::Region;
use crate::fake::FakeHal;
use crate::fake::queue::{Chain, Queue};

/// A format of rings.
trait Kind: Virtqueue<u32> {
    const PACKED: bool;

    /// Lets the indices begin elsewhere, where that can be.
    fn start_at(&mut self, index: u16);
}

impl Kind for Split<FakeHal, u32> {
    const PACKED: bool = false;

    fn start_at(&mut self, index: u16) {
        split::Ring::start_at(self, index);
    }
}

impl Kind for Packed<FakeHal, u32> {
    const PACKED: bool = true;

    fn start_at(&mut self, _: u16) {}
}

/// A ring with both ends, and memory to point at.
struct Both<R> {
    ring: R,
    device: Queue,
    memory: Region<FakeHal>,
    indirect: bool,
    access: Access,
}

const SEGMENT: u32 = 16;

impl<R: Kind> Both<R> {
    fn new(size: u16, start: u16, features: Features, access: Access) -> Self {
        let features = if R::PACKED { features | Features::RING_PACKED } else { features };
        // SAFETY: the device is dropped with the ring.
        let mut ring = unsafe { R::new(size, 8, features) }.unwrap();
        ring.start_at(start);
        let device = Queue::new(size, ring.areas(), features);
        let indirect = features.contains(Features::INDIRECT_DESC);
        Self { ring, device, memory: Region::new(65536).unwrap(), indirect, access }
    }

    fn add(&mut self, token: u32, count: usize) -> bool {
        // The token is to be found again in the addresses of the segments.
        let at = |position: u32| (self.memory.physical() + u64::from(token % 256 * 128 + position * SEGMENT), SEGMENT);
        // SAFETY: the memory is shared, and nobody else uses it.
        let added = unsafe {
            match count {
                1 => self.ring.add(at(0), self.access, token),
                _ => self.ring.add_chain((0..count as u32).map(at), count, self.access, token),
            }
        };
        added.inspect_err(|&given_back| assert_eq!(given_back, token)).is_ok()
    }

    fn check(&self, chain: &Chain, token: u32, count: usize) {
        assert_eq!(chain.segments.len(), count);
        for (position, &(address, length)) in (0..).zip(&chain.segments) {
            let expected = self.memory.physical() + u64::from(token % 256 * 128 + position * SEGMENT);
            assert_eq!((address, length), (expected, SEGMENT));
        }
    }

    /// The device takes what there is.
    fn fetch(&mut self) -> Vec<Chain> {
        let (device, access) = (&mut self.device, self.access);
        core::iter::from_fn(|| device.take(access)).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add(usize),
    Publish,
    /// The device takes up to so many buffers.
    Fetch(usize),
    /// The device uses the n-th of those it has, or the first with IN_ORDER.
    Use(usize),
    Show,
    Take,
    Interrupts(Option<u16>),
    Doorbells(bool),
    /// The queue is reset, and set up again.
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        16 => (1..=8_usize).prop_map(Step::Add),
        8 => Just(Step::Publish),
        8 => (1..5_usize).prop_map(Step::Fetch),
        16 => any::<usize>().prop_map(Step::Use),
        8 => Just(Step::Show),
        16 => Just(Step::Take),
        4 => proptest::option::of(0..4_u16).prop_map(Step::Interrupts),
        4 => any::<bool>().prop_map(Step::Doorbells),
        1 => Just(Step::Reset),
    ]
}

/// A buffer of the model.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    token: u32,
    /// Pieces.
    count: usize,
    /// Descriptors of the queue.
    descriptors: u16,
    written: u32,
}

/// Positions as notifications know them: split, of buffers; packed, of descriptors in two rounds. They begin again at
/// `modulus`.
#[derive(Debug, Clone, Copy)]
struct Positions {
    packed: bool,
    modulus: u32,
}

impl Positions {
    /// How far buffers go.
    fn sum<'a>(self, buffers: impl IntoIterator<Item = &'a Buffer>) -> u32 {
        buffers.into_iter().map(|buffer| if self.packed { u32::from(buffer.descriptors) } else { 1 }).sum()
    }

    fn add(self, position: u32, count: u32) -> u32 {
        (position + count) % self.modulus
    }

    fn back(self, position: u32, count: u32) -> u32 {
        (position + self.modulus - count % self.modulus) % self.modulus
    }

    /// Whether one of the positions from `old` on, `count` in number, is `event`.
    fn passes(self, old: u32, count: u32, event: u32) -> bool {
        (0..count).any(|step| self.add(old, step) == event)
    }
}

fn run<R: Kind>(size: u16, start: u16, features: Features, access: Access, steps: &[Step]) {
    let mut both = Both::<R>::new(size, start, features, access);
    let (event_idx, in_order) = (features.contains(Features::EVENT_IDX), features.contains(Features::IN_ORDER));
    let positions = Positions { packed: R::PACKED, modulus: if R::PACKED { 2 * u32::from(size) } else { 0x1_0000 } };
    let (mut next, mut free) = (0, size);
    let (mut added, mut published) = (VecDeque::new(), VecDeque::<Buffer>::new());
    let (mut fetched, mut used) = (Vec::<(Chain, Buffer)>::new(), VecDeque::new());
    let mut shown = VecDeque::<Buffer>::new();
    // Notifications as the specification has them: by position.
    let start = if R::PACKED { 0 } else { u32::from(start) };
    let (mut available, mut is_used) = (start, start);
    let (mut doorbell_at, mut doorbells) = (event_idx.then_some(start), true);
    both.device.want_doorbell(true);
    let mut interrupt_at: Option<u32> = None;
    for &step in steps {
        match step {
            Step::Add(count) => {
                let descriptors =
                    if count == 1 || both.indirect && count <= usize::from(size) { 1 } else { count as u16 };
                let fits = descriptors <= free && count <= usize::from(size);
                assert_eq!(both.add(next, count), fits, "{count} segments, {free} free");
                if fits {
                    free -= descriptors;
                    added.push_back(Buffer { token: next, count, descriptors, written: 0 });
                }
                next += 1;
            }
            Step::Publish => {
                let count = positions.sum(&added);
                let expected = match doorbell_at {
                    _ if added.is_empty() => false,
                    _ if !doorbells && R::PACKED => false,
                    Some(event) => positions.passes(available, count, event),
                    None => doorbells,
                };
                assert_eq!(both.ring.publish(), expected);
                available = positions.add(available, count);
                published.append(&mut added);
                both.device.check_position(both.ring.position());
            }
            Step::Fetch(count) => {
                for _ in 0..count {
                    let chain = both.device.take(access);
                    assert_eq!(chain.is_some(), !published.is_empty());
                    let (Some(chain), Some(buffer)) = (chain, published.pop_front()) else { break };
                    both.check(&chain, buffer.token, buffer.count);
                    fetched.push((chain, buffer));
                }
            }
            Step::Use(which) => {
                if !fetched.is_empty() {
                    let (chain, mut buffer) = fetched.remove(if in_order { 0 } else { which % fetched.len() });
                    let capacity = buffer.count as u32 * SEGMENT;
                    // Often all of it, so that it may be skipped.
                    buffer.written = (which as u32 % (2 * capacity)).min(capacity);
                    both.device.give_back(&chain, buffer.written);
                    used.push_back(buffer);
                }
            }
            Step::Show => {
                let count = positions.sum(&used);
                let expected = interrupt_at.is_some_and(|event| positions.passes(is_used, count, event));
                both.device.batching = !both.device.batching;
                let interrupt = both.device.publish();
                if event_idx {
                    assert!(interrupt || !expected, "an interrupt is lost");
                    assert!(!interrupt || expected || interrupt_at.is_none(), "nobody asked for it");
                } else {
                    assert_eq!(interrupt, interrupt_at.is_some() && count > 0);
                }
                is_used = positions.add(is_used, count);
                shown.append(&mut used);
            }
            Step::Take => match both.ring.take().unwrap() {
                Some(taken) => {
                    let buffer = shown.pop_front().expect("it was used");
                    assert_eq!(taken.token, buffer.token);
                    assert!(taken.written == buffer.written || access == Access::DeviceReads);
                    free += buffer.descriptors;
                }
                None => assert!(shown.is_empty()),
            },
            Step::Interrupts(Some(after)) => {
                let waiting = both.ring.enable_interrupts(after);
                let after = if event_idx { u32::from(after) } else { 0 };
                let after = if R::PACKED { after.min(u32::from(size) - 1) } else { after };
                assert_eq!(waiting, positions.sum(&shown) > after);
                let taken = positions.back(is_used, positions.sum(&shown));
                interrupt_at = Some(positions.add(taken, after));
            }
            Step::Interrupts(None) => {
                both.ring.disable_interrupts();
                interrupt_at = None;
            }
            Step::Doorbells(wanted) => {
                both.device.want_doorbell(wanted);
                let taken = positions.back(available, positions.sum(&published));
                doorbell_at = event_idx.then(|| if wanted { taken } else { positions.back(taken, 1) });
                doorbells = wanted;
            }
            Step::Reset => {
                let mut tokens = Vec::new();
                // SAFETY: the device's side is dropped below, before it does anything.
                unsafe { both.ring.reset(|token| tokens.push(token)) };
                let fetched = fetched.drain(..).map(|(_, buffer)| buffer);
                let out = added.drain(..).chain(published.drain(..)).chain(fetched).chain(used.drain(..));
                let mut expected: Vec<u32> = out.chain(shown.drain(..)).map(|buffer| buffer.token).collect();
                tokens.sort_unstable();
                expected.sort_unstable();
                assert_eq!(tokens, expected);
                let all = if R::PACKED { features | Features::RING_PACKED } else { features };
                both.device = Queue::new(size, both.ring.areas(), all);
                both.device.want_doorbell(true);
                (available, is_used, free) = (0, 0, size);
                (doorbell_at, doorbells, interrupt_at) = (event_idx.then_some(0), true, None);
            }
        }
        assert_eq!(both.ring.room(), free);
        let with_device = added.len() + published.len() + fetched.len() + used.len() + shown.len();
        assert_eq!(usize::from(both.ring.outstanding()), with_device);
    }
}

fn features() -> impl Strategy<Value = Features> {
    any::<(bool, bool, bool)>().prop_map(|(indirect, event, in_order)| {
        let mut features = Features::VERSION_1;
        features.set(Features::INDIRECT_DESC, indirect);
        features.set(Features::EVENT_IDX, event);
        features.set(Features::IN_ORDER, in_order);
        features
    })
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::DeviceReads), Just(Access::DeviceWrites)]
}

/// Whatever lies in the ring: no panic, no token that is not out there, none twice, and silence after the first lie; and a reset
/// mends it.
fn lies<R: Kind>(size: u16, features: Features, count: u32, lies: &[(usize, Vec<u8>)]) {
    let mut both = Both::<R>::new(size, 65530, features, Access::DeviceWrites);
    let mut out: Vec<u32> = (0..count).filter(|&token| both.add(token, 1 + token as usize % 2)).collect();
    let _ = both.ring.publish();
    for (offset, bytes) in lies {
        both.device.scribble(*offset, bytes);
        let _ = both.ring.enable_interrupts(*offset as u16 % 8);
        for _ in 0..40 {
            match both.ring.take() {
                Ok(Some(used)) => {
                    let position = out.iter().position(|&token| token == used.token);
                    out.remove(position.expect("a token that is out there"));
                    assert!(used.written <= 2 * SEGMENT);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(both.ring.broken(), Some(error));
                    assert_eq!(both.ring.take().unwrap_err(), error);
                    assert!(!both.add(99, 1) && !both.add(99, 2));
                    assert_eq!(both.ring.room(), 0);
                    // SAFETY: the device does nothing any more.
                    unsafe { both.ring.reset(|token| out.retain(|&other| other != token)) };
                    assert!(out.is_empty() && both.ring.broken().is_none() && both.add(1, 1));
                    assert!(both.ring.take().unwrap().is_none());
                    return;
                }
            }
        }
        assert_eq!(usize::from(both.ring.outstanding()), out.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_split_ring_is_the_model(
        size in (0..6_u32).prop_map(|log| 1_u16 << log),
        start in prop_oneof![Just(0), 65500..=65535_u16, 32750..32770_u16, any::<u16>()],
        features in features(),
        access in access(),
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        run::<Split<FakeHal, u32>>(size, start, features, access, &steps);
    }

    #[test]
    fn the_packed_ring_is_the_model(
        size in 1..40_u16,
        features in features(),
        access in access(),
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        run::<Packed<FakeHal, u32>>(size, 0, features, access, &steps);
    }

    #[test]
    fn lies_are_found_out(
        features in features(),
        count in 1..16_u32,
        told in proptest::collection::vec((0..150_usize, proptest::collection::vec(any::<u8>(), 1..12)), 1..10),
    ) {
        lies::<Split<FakeHal, u32>>(16, features, count, &told);
    }

    #[test]
    fn lies_in_a_packed_ring_are_found_out(
        size in 1..17_u16,
        features in features(),
        count in 1..16_u32,
        told in proptest::collection::vec((0..280_usize, proptest::collection::vec(any::<u8>(), 1..12)), 1..10),
    ) {
        lies::<Packed<FakeHal, u32>>(size, features, count, &told);
    }
}

/// Ten thousand times around a small ring is more than twice around 16 bits.
fn wraps<R: Kind>(size: u16) {
    let all = Features::VERSION_1 | Features::EVENT_IDX | Features::INDIRECT_DESC;
    for features in [Features::VERSION_1, all, all | Features::IN_ORDER] {
        let mut both = Both::<R>::new(size, 0, features, Access::DeviceWrites);
        both.device.want_doorbell(true);
        for round in 0..10_000 {
            for position in 0..14 {
                assert!(both.add(round * 14 + position, 1));
            }
            assert!(both.ring.publish(), "round {round}: the device asked for the doorbell");
            assert!(!both.ring.enable_interrupts(13));
            for chain in both.fetch() {
                both.device.give_back(&chain, SEGMENT);
            }
            both.device.want_doorbell(true);
            assert!(both.device.publish(), "round {round}: the driver asked for an interrupt");
            for position in 0..14 {
                assert_eq!(both.ring.take().unwrap().unwrap().token, round * 14 + position);
            }
            both.ring.disable_interrupts();
        }
    }
}

#[test]
fn indices_wrap() {
    wraps::<Split<FakeHal, u32>>(16);
    wraps::<Packed<FakeHal, u32>>(14);
    wraps::<Packed<FakeHal, u32>>(15);
}

/// What the first lie is called when the device has two buffers, of one and of two descriptors.
fn broken<R: Kind>(features: Features, lie: fn(&mut Queue, &[Chain])) -> RingError {
    let mut both = Both::<R>::new(8, 0, Features::VERSION_1 | features, Access::DeviceWrites);
    assert!(both.add(1, 1) && both.add(2, 2));
    let _ = both.ring.publish();
    let chains = both.fetch();
    lie(&mut both.device, &chains);
    let _ = both.device.publish();
    core::iter::repeat_with(|| both.ring.take()).take(9).find_map(Result::err).unwrap()
}

#[test]
fn each_lie_has_a_name() {
    type S = Split<FakeHal, u32>;
    type P = Packed<FakeHal, u32>;
    const NONE: Features = Features::empty();
    const ORDER: Features = Features::IN_ORDER;
    let both = |features, lie| (broken::<S>(features, lie), broken::<P>(features, lie));
    let alike = |features, lie, error| assert_eq!(both(features, lie), (error, error));

    let index = |claimed| RingError::UsedIndex { claimed, outstanding: 2 };
    assert_eq!(broken::<S>(NONE, |device, _| device.jump(3)), index(3));
    assert_eq!(broken::<S>(ORDER, |device, _| device.jump(65535)), index(65535));
    // Two buffers lie there and seem to be used, and behind them nothing ever did.
    assert_eq!(broken::<P>(NONE, |device, _| device.jump(4)), RingError::NotOutstanding(0));

    for features in [NONE, ORDER] {
        alike(features, |device, chains| device.report(&chains[0], 8, 0), RingError::Id(8));
        alike(features, |device, chains| device.report(&chains[0], 5, 0), RingError::NotOutstanding(5));
        let length = RingError::Length { written: 17, capacity: 16 };
        alike(features, |device, chains| device.report(&chains[0], 0, 17), length);
    }
    let second = |device: &mut Queue, chains: &[Chain]| {
        device.give_back(&chains[0], 16);
        device.report(&chains[1], chains[1].id.into(), 33);
    };
    alike(ORDER, second, RingError::Length { written: 33, capacity: 32 });
    let twice = |device: &mut Queue, chains: &[Chain]| {
        device.give_back(&chains[0], 1);
        device.give_back(&chains[0], 1);
    };
    alike(NONE, twice, RingError::NotOutstanding(0));
    alike(ORDER, twice, RingError::NotOutstanding(0));
    assert_eq!(broken::<S>(NONE, |device, chains| device.report(&chains[0], 0x1_0000, 0)), RingError::Id(0x1_0000));
    // The middle of a chain.
    assert_eq!(broken::<S>(NONE, |device, chains| device.report(&chains[0], 2, 0)), RingError::NotOutstanding(2));
    // Further than the used index goes.
    assert_eq!(broken::<S>(ORDER, |device, chains| device.report(&chains[0], 1, 0)), RingError::NotOutstanding(1));
}

fn fills<R: Kind>(sizes: &[u16]) {
    for &size in sizes {
        for features in [Features::INDIRECT_DESC, Features::INDIRECT_DESC | Features::IN_ORDER] {
            let mut both = Both::<R>::new(size, 0, Features::VERSION_1 | features, Access::DeviceWrites);
            assert_eq!((both.ring.size(), both.ring.room()), (size, size));
            for token in 0..u32::from(size) {
                assert!(both.add(token, 1));
            }
            assert!(!both.add(0, 1) && !both.add(0, 2));
            let _ = both.ring.publish();
            let chains = both.fetch();
            assert_eq!(chains.len(), usize::from(size));
            for chain in chains {
                both.device.give_back(&chain, 0);
            }
            let _ = both.device.publish();
            let tokens: Vec<u32> = core::iter::from_fn(|| both.ring.take().unwrap()).map(|used| used.token).collect();
            assert_eq!(tokens, (0..u32::from(size)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn there_are_split_queues_of_any_power_of_two_and_packed_ones_of_any_size() {
    fills::<Split<FakeHal, u32>>(&[1, 2, 256, 32768]);
    fills::<Packed<FakeHal, u32>>(&[1, 2, 3, 255, 32767, 32768]);
    let split = <Split<FakeHal, u32> as Virtqueue<u32>>::size_within;
    let packed = <Packed<FakeHal, u32> as Virtqueue<u32>>::size_within;
    assert_eq!([0, 1, 300, 65535].map(split), [None, Some(1), Some(256), Some(32768)]);
    assert_eq!([0, 1, 300, 65535].map(packed), [None, Some(1), Some(300), Some(32768)]);
}

#[test]
fn parts_of_the_queue_are_aligned_and_apart() {
    for size in [1_u16, 4, 1024] {
        // SAFETY: no device is told of it.
        let areas = unsafe {
            [
                Split::<FakeHal, u32>::new(size, 4, Features::VERSION_1).unwrap().areas(),
                Packed::<FakeHal, u32>::new(size, 4, Features::VERSION_1).unwrap().areas(),
            ]
        };
        for ([descriptors, driver, device], driver_length) in areas.into_iter().zip([6 + 2 * u64::from(size), 4]) {
            assert_eq!((descriptors % 64, driver % 64, device % 64), (0, 0, 0));
            assert!(driver >= descriptors + 16 * u64::from(size));
            assert!(device >= driver + driver_length);
        }
    }
}
