//! The split ring against a model, against the letter of the specification, and against lies.

use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::buffer::Region;
use crate::fake::FakeHal;
use crate::fake::queue::{Chain, Queue};
use crate::features::Features;
use crate::wire::split::MAX_QUEUE_SIZE;

type Ring = Split<FakeHal, u32>;

/// A ring with both ends, and memory to point at.
struct Both {
    ring: Ring,
    device: Queue,
    memory: Region<FakeHal>,
    indirect: bool,
    event_idx: bool,
}

const SEGMENT: u32 = 16;

impl Both {
    fn new(size: u16, start: u16, features: Features) -> Self {
        // SAFETY: the device is dropped with the ring.
        let mut ring = unsafe { Ring::new(size, 8, features) }.unwrap();
        ring.start_at(start);
        let device = Queue::new(size, ring.areas());
        let indirect = features.contains(Features::INDIRECT_DESC);
        let event_idx = features.contains(Features::EVENT_IDX);
        Self { ring, device, memory: Region::new(65536).unwrap(), indirect, event_idx }
    }

    fn add(&mut self, token: u32, count: usize) -> bool {
        // The token is to be found again in the addresses of the segments.
        let at = |position: u32| (self.memory.physical() + u64::from(token % 256 * 128 + position * SEGMENT), SEGMENT);
        // SAFETY: the memory is shared, and nobody else uses it.
        let added = unsafe {
            match count {
                1 => self.ring.add(at(0), Access::DeviceWrites, token),
                _ => self.ring.add_chain((0..count as u32).map(at), count, Access::DeviceWrites, token),
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
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add(usize),
    Publish,
    /// The device takes up to so many buffers.
    Fetch(usize),
    /// The device uses the n-th of those it has.
    Use(usize),
    Show,
    Take,
    Interrupts(Option<u16>),
    Doorbells(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..=8_usize).prop_map(Step::Add),
        2 => Just(Step::Publish),
        2 => (1..5_usize).prop_map(Step::Fetch),
        4 => any::<usize>().prop_map(Step::Use),
        2 => Just(Step::Show),
        4 => Just(Step::Take),
        1 => proptest::option::of(0..4_u16).prop_map(Step::Interrupts),
        1 => any::<bool>().prop_map(Step::Doorbells),
    ]
}

fn run(size: u16, start: u16, features: Features, steps: &[Step]) {
    let mut both = Both::new(size, start, features);
    let (mut next, mut free) = (0, size);
    // Added; published; with the device; used; shown: token and number of segments, and what was written.
    let (mut added, mut published) = (VecDeque::new(), VecDeque::new());
    let (mut fetched, mut used, mut shown) = (Vec::new(), VecDeque::new(), VecDeque::new());
    // Notifications as the specification has them: by position.
    let (mut avail_index, mut used_index) = (start, start);
    let mut doorbell_at = both.event_idx.then_some(start);
    let mut doorbells = true;
    both.device.want_doorbell(true, both.event_idx);
    let mut interrupt_at: Option<u16> = None;
    for &step in steps {
        match step {
            Step::Add(count) => {
                let needed = if count == 1 || both.indirect && count <= usize::from(size) { 1 } else { count as u16 };
                let fits = needed <= free && count <= usize::from(size);
                assert_eq!(both.add(next, count), fits, "{count} segments, {free} free");
                if fits {
                    free -= needed;
                    added.push_back((next, count, needed));
                }
                next += 1;
            }
            Step::Publish => {
                let (old, new) = (avail_index, avail_index.wrapping_add(added.len() as u16));
                let passed = |event: u16| (0..added.len() as u16).any(|step| old.wrapping_add(step) == event);
                let expected = match doorbell_at {
                    _ if added.is_empty() => false,
                    Some(event) => passed(event),
                    None => doorbells,
                };
                assert_eq!(both.ring.publish(), expected);
                avail_index = new;
                published.append(&mut added);
            }
            Step::Fetch(count) => {
                for _ in 0..count {
                    let chain = both.device.take(true, both.indirect);
                    assert_eq!(chain.is_some(), !published.is_empty());
                    let (Some(chain), Some((token, count, needed))) = (chain, published.pop_front()) else { break };
                    both.check(&chain, token, count);
                    fetched.push((chain, token, count, needed));
                }
            }
            Step::Use(which) => {
                if !fetched.is_empty() {
                    let (chain, token, count, needed) = fetched.remove(which % fetched.len());
                    let written = which as u32 % (count as u32 * SEGMENT + 1);
                    both.device.give_back(u32::from(chain.id), written);
                    used.push_back((token, written, needed));
                }
            }
            Step::Show => {
                let (old, count) = (used_index, used.len() as u16);
                let expected = match interrupt_at {
                    Some(event) => (0..count).any(|step| old.wrapping_add(step) == event),
                    None => false,
                };
                let interrupt = both.device.publish(both.event_idx);
                if both.event_idx {
                    assert!(interrupt || !expected, "an interrupt is lost");
                    assert!(!interrupt || expected || interrupt_at.is_none(), "nobody asked for it");
                } else {
                    assert_eq!(interrupt, interrupt_at.is_some() && count > 0);
                }
                used_index = used_index.wrapping_add(count);
                shown.append(&mut used);
            }
            Step::Take => match both.ring.take().unwrap() {
                Some(taken) => {
                    let (token, written, needed) = shown.pop_front().expect("it was used");
                    assert_eq!((taken.token, taken.written), (token, written));
                    free += needed;
                }
                None => assert!(shown.is_empty()),
            },
            Step::Interrupts(Some(after)) => {
                let waiting = both.ring.enable_interrupts(after);
                let after = if both.event_idx { usize::from(after) } else { 0 };
                assert_eq!(waiting, shown.len() > after);
                interrupt_at = Some(used_index.wrapping_sub(shown.len() as u16).wrapping_add(after as u16));
            }
            Step::Interrupts(None) => {
                both.ring.disable_interrupts();
                interrupt_at = None;
            }
            Step::Doorbells(wanted) => {
                both.device.want_doorbell(wanted, both.event_idx);
                let taken = avail_index.wrapping_sub(published.len() as u16);
                doorbell_at = both.event_idx.then(|| if wanted { taken } else { taken.wrapping_sub(1) });
                doorbells = wanted;
            }
        }
        assert_eq!(both.ring.room(), free);
        assert_eq!(usize::from(both.ring.waiting()), shown.len());
        let with_device = added.len() + published.len() + fetched.len() + used.len() + shown.len();
        assert_eq!(usize::from(both.ring.outstanding()), with_device);
    }
}

fn features() -> impl Strategy<Value = Features> {
    any::<(bool, bool)>().prop_map(|(indirect, event)| {
        let mut features = Features::VERSION_1;
        features.set(Features::INDIRECT_DESC, indirect);
        features.set(Features::EVENT_IDX, event);
        features
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_ring_is_the_model(
        size in (0..6_u32).prop_map(|log| 1_u16 << log),
        start in prop_oneof![Just(0), 65500..=65535_u16, 32750..32770_u16, any::<u16>()],
        features in features(),
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        run(size, start, features, &steps);
    }

    /// Whatever lies in the used ring: no panic, no token that is not out there, none twice, and silence after the first lie.
    #[test]
    fn lies_are_found_out(
        features in features(),
        count in 1..16_u32,
        lies in proptest::collection::vec((0..150_usize, proptest::collection::vec(any::<u8>(), 1..12)), 1..10),
    ) {
        let mut both = Both::new(16, 65530, features);
        let mut out: Vec<u32> = (0..count).filter(|&token| both.add(token, 1)).collect();
        let _ = both.ring.publish();
        for (offset, bytes) in lies {
            both.device.scribble(offset, &bytes);
            for _ in 0..20 {
                match both.ring.take() {
                    Ok(Some(used)) => {
                        let position = out.iter().position(|&token| token == used.token);
                        out.remove(position.expect("a token that is out there"));
                        prop_assert!(used.written <= SEGMENT);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert_eq!(both.ring.broken(), Some(error));
                        prop_assert_eq!(both.ring.take().unwrap_err(), error);
                        prop_assert!(!both.add(99, 1));
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(usize::from(both.ring.outstanding()), out.len());
        }
    }
}

/// Ten thousand times around a small ring is more than twice around 16 bits.
#[test]
fn indices_wrap() {
    for features in [Features::VERSION_1, Features::VERSION_1 | Features::EVENT_IDX | Features::INDIRECT_DESC] {
        let mut both = Both::new(16, 0, features);
        both.device.want_doorbell(true, both.event_idx);
        for round in 0..10_000 {
            for position in 0..14 {
                assert!(both.add(round * 14 + position, 1));
            }
            assert!(both.ring.publish(), "round {round}: the device asked for the doorbell");
            assert!(!both.ring.enable_interrupts(13));
            for _ in 0..14 {
                let chain = both.device.take(true, both.indirect).unwrap();
                both.device.give_back(u32::from(chain.id), 3);
            }
            both.device.want_doorbell(true, both.event_idx);
            assert!(both.device.publish(both.event_idx), "round {round}: the driver asked for an interrupt");
            for position in 0..14 {
                assert_eq!(both.ring.take().unwrap().unwrap().token, round * 14 + position);
            }
            both.ring.disable_interrupts();
        }
    }
}

#[test]
fn each_lie_has_a_name() {
    let broken = |lie: fn(&mut Both)| {
        let mut both = Both::new(8, 0, Features::VERSION_1);
        assert!(both.add(1, 1) && both.add(2, 2));
        let _ = both.ring.publish();
        lie(&mut both);
        let _ = both.device.publish(false);
        core::iter::repeat_with(|| both.ring.take()).find_map(Result::err).unwrap()
    };
    assert_eq!(broken(|both| both.device.jump(3)), RingError::UsedIndex { claimed: 3, outstanding: 2 });
    assert_eq!(broken(|both| both.device.jump(65535)), RingError::UsedIndex { claimed: 65535, outstanding: 2 });
    assert_eq!(broken(|both| both.device.give_back(8, 0)), RingError::Id(8));
    assert_eq!(broken(|both| both.device.give_back(0x1_0000, 0)), RingError::Id(0x1_0000));
    assert_eq!(broken(|both| both.device.give_back(2, 0)), RingError::NotOutstanding(2), "the middle of a chain");
    assert_eq!(broken(|both| both.device.give_back(0, 17)), RingError::Length { written: 17, capacity: 16 });
    let twice = broken(|both| {
        both.device.give_back(0, 16);
        both.device.give_back(0, 16);
    });
    assert_eq!(twice, RingError::NotOutstanding(0));
}

#[test]
fn there_are_queues_of_any_power_of_two() {
    for size in [1, 2, 256, MAX_QUEUE_SIZE] {
        let mut both = Both::new(size, 0, Features::VERSION_1 | Features::INDIRECT_DESC);
        assert_eq!((both.ring.size(), both.ring.room()), (size, size));
        for token in 0..u32::from(size) {
            assert!(both.add(token, 1));
        }
        assert!(!both.add(0, 1) && !both.add(0, 2));
        let _ = both.ring.publish();
        for _ in 0..size {
            let chain = both.device.take(true, true).unwrap();
            both.device.give_back(u32::from(chain.id), 0);
        }
        let _ = both.device.publish(false);
        let tokens: Vec<u32> = core::iter::from_fn(|| both.ring.take().unwrap()).map(|used| used.token).collect();
        assert_eq!(tokens, (0..u32::from(size)).collect::<Vec<_>>());
    }
}

#[test]
fn parts_of_the_queue_are_aligned_and_apart() {
    for size in [1_u16, 4, 1024] {
        // SAFETY: no device is told of it.
        let ring = unsafe { Ring::new(size, 4, Features::VERSION_1) }.unwrap();
        let [descriptors, driver, device] = ring.areas();
        assert_eq!((descriptors % 64, driver % 64, device % 64), (0, 0, 0));
        assert!(driver >= descriptors + 16 * u64::from(size));
        assert!(device >= driver + 6 + 2 * u64::from(size));
    }
}
