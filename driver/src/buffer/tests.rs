//! Frames against vectors of bytes.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::fake::FakeHal;

fn contents(frame: &Frame) -> Vec<u8> {
    let bytes: Vec<u8> = frame.segments().flatten().copied().collect();
    assert_eq!(bytes.len(), frame.len());
    assert_eq!(frame.segments().count(), frame.segment_count());
    bytes
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| (i / 256) as u8 ^ i as u8 ^ seed).collect()
}

#[test]
fn a_frame_is_what_was_put_into_it() {
    let pool = Pool::allocate::<FakeHal>(64).unwrap();
    for length in [0, 1, 14, HEAD_CAPACITY, HEAD_CAPACITY + 1, HEAD_CAPACITY + DEVICE_CAPACITY, 65549] {
        let expected = bytes(length, 1);
        let mut frame = pool.frame_from(&expected).unwrap();
        assert_eq!(contents(&frame), expected);
        assert_eq!(frame.head().len(), length.min(HEAD_CAPACITY));
        assert_eq!(frame.header(), NetHdr::default());
        let mut copy = vec![0; length + 5];
        assert_eq!(frame.copy_to_slice(&mut copy), length);
        assert_eq!(copy[..length], expected);
        assert_eq!(frame.copy_from_slice(&bytes(length + 9, 2)), length);
        assert_eq!(contents(&frame), bytes(length, 2));
    }
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn headers_of_tunnels_fit_in_front() {
    let pool = Pool::allocate::<FakeHal>(4).unwrap();
    let mut frame = pool.frame_from(&bytes(100, 3)).unwrap();
    assert_eq!(frame.prepend(HEADROOM - NetHdr::LEN + 1), Err(Full));
    frame.prepend(40).unwrap();
    frame.head_mut()[..40].fill(9);
    assert_eq!(contents(&frame), [vec![9; 40], bytes(100, 3)].concat());
    frame.prepend(HEADROOM - NetHdr::LEN - 40).unwrap();
    frame.write_header(&frame.header());
    assert_eq!(frame.prepend(1), Err(Full), "the header needs its room");
    assert_eq!(frame.trim_front(HEADROOM - NetHdr::LEN), HEADROOM - NetHdr::LEN);
    assert_eq!(contents(&frame), bytes(100, 3));
    assert_eq!(frame.trim_front(200), 100);
    assert!(frame.is_empty() && frame.head().is_empty());
}

#[test]
fn a_copy_is_the_same_in_fewer_buffers() {
    let pool = Pool::allocate::<FakeHal>(64).unwrap();
    let mut frame = pool.frame_from(&bytes(30, 1)).unwrap();
    for seed in 2..40 {
        frame.append(pool.frame_from(&bytes(100, seed)).unwrap());
    }
    frame.set_header(NetHdr::partial_checksum(1, 2));
    let copy = pool.copy_of(&frame).unwrap();
    assert_eq!((contents(&copy), copy.header()), (contents(&frame), frame.header()));
    assert_eq!((frame.segment_count(), copy.segment_count()), (39, 2));
}

#[test]
fn an_empty_pool_says_so_and_loses_nothing() {
    let pool = Pool::allocate::<FakeHal>(4).unwrap();
    assert!(pool.frame(pool.capacity() * STRIDE).is_none());
    assert_eq!(pool.available(), pool.capacity());
    let mut all: Vec<Frame> = core::iter::from_fn(|| pool.frame_from(&[1; 60])).collect();
    assert_eq!((all.len(), pool.available()), (pool.capacity(), 0));
    assert!(pool.frame(1).is_none());
    let last = all.last_mut().unwrap();
    assert_eq!(last.extend_from_slice(&[2; STRIDE]), Err(Full));
    assert_eq!(contents(last), [1; 60], "it is as it was");
    all.pop();
    assert_eq!(pool.available(), 1);
}

#[test]
fn frames_outlive_the_handles() {
    let pool = Pool::allocate::<FakeHal>(4).unwrap();
    let other = pool.clone();
    let frame = pool.frame_from(&[7; 3000]).unwrap();
    drop(pool);
    let more = other.frame_from(&[8; 10]).unwrap();
    drop(other);
    assert_eq!(contents(&frame), [7; 3000]);
    drop(frame);
    assert_eq!(contents(&more), [8; 10]);
}

#[test]
fn memory_from_elsewhere_is_cut_up() {
    let memory = vec![0_u8; 10 * STRIDE + 64].leak();
    let pool = Pool::new::<FakeHal>(memory).unwrap();
    assert_eq!(pool.capacity(), 10);
    let frame = pool.frame(100).unwrap();
    assert_eq!((frame.head().as_ptr() as usize - NetHdr::LEN) % 64, 0, "their headers begin at a cache line");
    assert_eq!(Pool::new::<FakeHal>(vec![0; STRIDE - 1].leak()).unwrap_err(), PoolError::TooSmall);
}

#[test]
fn what_a_device_fills_becomes_a_frame() {
    let pool = Pool::allocate::<FakeHal>(40).unwrap();
    let mut frame = pool.blank(33).unwrap();
    let free = pool.available();
    let capacity: u32 = frame.blank_segments().map(|(_, length)| length).sum();
    assert!(capacity as usize >= 65562, "section 5.1.6.3.1");
    let header = NetHdr { gso_size: 1000, num_buffers: 1, ..NetHdr::partial_checksum(34, 16) };
    let mut filling = Vec::from(header.to_bytes());
    filling.extend(bytes(5000, 4));
    for ((physical, length), part) in frame.blank_segments().zip(filling.chunks(DEVICE_CAPACITY)) {
        assert_eq!(length as usize, DEVICE_CAPACITY);
        crate::fake::write(physical, part);
    }
    assert_eq!(frame.received(filling.len()), header);
    assert_eq!((contents(&frame), frame.segment_count()), (bytes(5000, 4), 3));
    assert_eq!(pool.available(), free + 30);

    frame.write_header(&header);
    let mut sent = vec![];
    for (physical, length) in frame.filled_segments() {
        let mut part = vec![0; length as usize];
        crate::fake::read(physical, &mut part);
        sent.extend(part);
    }
    assert_eq!(sent[..NetHdr::LEN], NetHdr { num_buffers: 0, ..header }.to_bytes());
    assert_eq!(sent[NetHdr::LEN..], bytes(5000, 4));
}

#[derive(Debug, Clone)]
enum Change {
    Grow(usize),
    Truncate(usize),
    Extend(Vec<u8>),
    Prepend(usize),
    TrimFront(usize),
    Append(Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let data = || proptest::collection::vec(any::<u8>(), 0..5000);
    prop_oneof![
        (0..9000_usize).prop_map(Change::Grow),
        (0..9000_usize).prop_map(Change::Truncate),
        data().prop_map(Change::Extend),
        (0..100_usize).prop_map(Change::Prepend),
        (0..3000_usize).prop_map(Change::TrimFront),
        data().prop_map(Change::Append),
    ]
}

proptest! {
    #[test]
    fn a_frame_is_a_vector(changes in proptest::collection::vec(change(), 0..20)) {
        let pool = Pool::allocate::<FakeHal>(16).unwrap();
        let mut frame = pool.frame(0).unwrap();
        let mut model: Vec<u8> = vec![];
        for change in changes {
            match change {
                Change::Grow(length) => {
                    let _ = frame.grow(length);
                    prop_assert!(frame.len() >= model.len());
                    let grown = contents(&frame);
                    prop_assert_eq!(&grown[..model.len()], &model[..]);
                    model = grown;
                }
                Change::Truncate(length) => {
                    frame.truncate(length);
                    model.truncate(length);
                }
                Change::Extend(data) => {
                    if frame.extend_from_slice(&data).is_ok() {
                        model.extend(data);
                    }
                }
                Change::Prepend(count) => {
                    if frame.prepend(count).is_ok() {
                        frame.head_mut()[..count].fill(0xee);
                        model.splice(..0, vec![0xee; count]);
                    }
                }
                Change::TrimFront(count) => {
                    let head = frame.head().len();
                    let count = frame.trim_front(count);
                    prop_assert!(count <= head);
                    model.drain(..count);
                }
                Change::Append(data) => {
                    if let Some(other) = pool.frame_from(&data) {
                        frame.append(other);
                        model.extend(data);
                    }
                }
            }
            prop_assert_eq!(&contents(&frame), &model);
            prop_assert_eq!(pool.available() + frame.segment_count(), pool.capacity());
        }
        drop(frame);
        prop_assert_eq!(pool.available(), pool.capacity());
    }
}
