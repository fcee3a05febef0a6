//! Our driver's ring, served by their device's side: every buffer comes through as it was added, and each side hears of what it
//! asked to hear of.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr::NonNull;

use proptest::prelude::*;
use proptest::sample::select;
use ringlet_driver::features::Features;
use ringlet_driver::ring::{Access, Split, Virtqueue};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::*;

thread_local! {
    /// The memory that both see, and how much of it was given out.
    static RAM: GuestRam = GuestRam::new(32).unwrap();
    static GIVEN: Cell<usize> = const { Cell::new(PAGE_SIZE) };
}

/// Gives the driver memory of a guest.
struct GuestHal;

// SAFETY: the pages lie in memory that stays mapped as long as the process lives, are zeroed, and are given out once until
// `forget_memory`, which is called when nothing of them is left.
unsafe impl Hal for GuestHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let at = GIVEN.get();
        GIVEN.set(at + pages * PAGE_SIZE);
        RAM.with(|ram| {
            ram.zero(at as u64, GIVEN.get() as u64).expect("more memory than any ring takes");
            (at as PhysAddr, NonNull::new(ram.host_start().wrapping_add(at)).expect("not at address 0"))
        })
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there are no registers")
    }

    unsafe fn share(_: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        unreachable!("nothing is shared but what was allocated")
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// What one side does.
#[derive(Debug, Clone)]
enum Step {
    /// The driver adds a buffer of so many segments.
    Add(usize),
    /// It shows what it added.
    Publish,
    /// The device takes so many.
    Fetch(usize),
    /// It uses one of those that it has, with so many bytes written.
    Use(usize, u32),
    /// It asks for doorbells, or for none.
    Doorbells(bool),
    /// The driver takes all that was used.
    Take,
    /// It asks for an interrupt after so many more.
    Interrupts(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..6).prop_map(Step::Add),
        3 => Just(Step::Publish),
        4 => (1_usize..5).prop_map(Step::Fetch),
        5 => (any::<usize>(), any::<u32>()).prop_map(|(which, written)| Step::Use(which, written)),
        1 => any::<bool>().prop_map(Step::Doorbells),
        3 => Just(Step::Take),
        1 => (0_u16..6).prop_map(Step::Interrupts),
    ]
}

/// A buffer as the driver has added it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Added {
    token: u32,
    segments: Vec<(u64, u32)>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn their_device_serves_our_ring(
        size in select(vec![1_u16, 2, 4, 16]),
        event_idx: bool,
        indirect: bool,
        writes: bool,
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        GIVEN.set(PAGE_SIZE);
        let ram = RAM.with(GuestRam::clone);
        let memory = ram.memory();
        let mut features = Features::VERSION_1;
        features.set(Features::EVENT_IDX, event_idx);
        features.set(Features::INDIRECT_DESC, indirect);
        // SAFETY: nothing accesses it but this test's device, which ends with it.
        let mut ring = unsafe { <Split<GuestHal, u32> as Virtqueue<u32>>::new(size, 4, features) }.unwrap();
        let [descriptors, driver, device] = Virtqueue::<u32>::areas(&ring);
        let mut theirs = their_queue(&Place { size, descriptors, driver, device }, event_idx, 0);
        prop_assert!(theirs.is_valid(memory));
        let access = if writes { Access::DeviceWrites } else { Access::DeviceReads };
        let (mut tokens, mut added, mut shown) = (0_u32, VecDeque::new(), VecDeque::new());
        let (mut fetched, mut used) = (Vec::<(u16, Added)>::new(), VecDeque::new());
        // What each side was promised: a doorbell for the next buffer, an interrupt for this one of those that are used.
        let (mut doorbell, mut interrupt) = (false, None::<u64>);
        let (mut uses, mut takes) = (0_u64, 0_u64);
        theirs.disable_notification(memory).unwrap();
        for step in steps {
            match step {
                Step::Add(count) => {
                    tokens += 1;
                    let segments: Vec<(u64, u32)> =
                        (0..count as u64).map(|nth| (BUFFERS + 64 * u64::from(tokens) + nth, 8 + nth as u32)).collect();
                    let room = Virtqueue::<u32>::room(&ring);
                    // SAFETY: the device is this test, and it accesses no buffer.
                    let result = unsafe {
                        match segments[..] {
                            [one] => ring.add(one, access, tokens),
                            _ => ring.add_chain(segments.iter().copied(), count, access, tokens),
                        }
                    };
                    let descriptors = if indirect && (2..=4.min(size.into())).contains(&count) { 1 } else { count };
                    prop_assert_eq!(result.is_ok(), descriptors <= room.into(), "{} of {}", count, room);
                    if result.is_ok() {
                        added.push_back(Added { token: tokens, segments });
                    }
                }
                Step::Publish => {
                    let new = !added.is_empty();
                    let rings = Virtqueue::<u32>::publish(&mut ring);
                    shown.append(&mut added);
                    prop_assert!(!rings || new, "a doorbell for nothing");
                    prop_assert!(rings || !(new && doorbell), "the device has asked for this doorbell");
                    // It is rung once.
                    doorbell &= !new;
                }
                Step::Fetch(count) => {
                    for _ in 0..count.min(shown.len() + 1) {
                        let Some((head, chain)) = their_chain(&mut theirs, memory) else {
                            prop_assert!(shown.is_empty());
                            break;
                        };
                        let expected: Added = shown.pop_front().expect("one that was shown");
                        let segments: Vec<_> = chain.iter().map(|one| (one.addr().0, one.len())).collect();
                        prop_assert_eq!(&segments, &expected.segments);
                        prop_assert!(chain.iter().all(|one| one.is_write_only() == writes));
                        fetched.push((head, expected));
                    }
                }
                Step::Use(which, written) if !fetched.is_empty() => {
                    let (head, buffer) = fetched.swap_remove(which % fetched.len());
                    let capacity: u32 = buffer.segments.iter().map(|(_, length)| length).sum();
                    let written = if writes { written % (capacity + 1) } else { 0 };
                    theirs.add_used(memory, head, written).unwrap();
                    used.push_back((buffer.token, written));
                    uses += 1;
                    let due = theirs.needs_notification(memory).unwrap();
                    // Theirs knows nothing of the flag by which a driver without EVENT_IDX wants none.
                    if event_idx && interrupt == Some(uses) {
                        prop_assert!(due, "the driver has asked for this interrupt");
                        interrupt = None;
                    }
                }
                Step::Use(..) => {}
                Step::Doorbells(true) => {
                    let more = theirs.enable_notification(memory).unwrap();
                    prop_assert_eq!(more, !shown.is_empty());
                    doorbell = !more;
                }
                Step::Doorbells(false) => {
                    theirs.disable_notification(memory).unwrap();
                    doorbell = false;
                }
                Step::Take => {
                    while let Some(one) = Virtqueue::<u32>::take(&mut ring).unwrap() {
                        takes += 1;
                        prop_assert_eq!(Some((one.token, one.written)), used.pop_front());
                    }
                    prop_assert!(used.is_empty());
                }
                Step::Interrupts(after) => {
                    let passed = Virtqueue::<u32>::enable_interrupts(&mut ring, after);
                    let after = if event_idx { u64::from(after) } else { 0 };
                    prop_assert_eq!(passed, uses - takes > after);
                    interrupt = (!passed).then_some(takes + after + 1);
                }
            }
            let outstanding = added.len() + shown.len() + fetched.len() + used.len();
            prop_assert_eq!(usize::from(Virtqueue::<u32>::outstanding(&ring)), outstanding);
        }
    }
}
