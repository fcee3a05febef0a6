//! The device against the fake one, with every kind of ring.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::buffer::{Frame, Pool};
use crate::fake::{self, FakeHal, FakeTransport, Mischief};
use crate::features::{Features, NegotiationError};
use crate::offload::Invalid;
use crate::ring::{Packed, RingError, Split, Virtqueue};
use crate::transport::Refused;
use crate::wire::{NetHdr, RECEIVE_QUEUE, TRANSMIT_QUEUE, status};

const NONE: Features = Features::empty();
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What the rings of a device are.
trait Rings {
    type Ring: Virtqueue<Frame> + core::fmt::Debug;
    /// Everything that is implemented and goes with these rings.
    const ALL: Features;
    /// Descriptors of each queue.
    const SIZE: u16;
    /// What a device can say that is not so, and what that is called, where rings differ.
    const LIES: &'static [(u16, Mischief, RingError)];

    /// The device, which must have these rings.
    fn only(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<Self>;
}

type Driven<R> = Device<<R as Rings>::Ring, FakeTransport>;

struct SplitRings;
struct SplitInOrder;
struct PackedRings;
struct PackedInOrder;

fn split(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<SplitRings> {
    match any {
        AnyDevice::Split(device) => device,
        AnyDevice::Packed(_) => panic!("packed rings were not wanted"),
    }
}

fn packed(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<PackedRings> {
    match any {
        AnyDevice::Split(_) => panic!("split rings were not wanted"),
        AnyDevice::Packed(device) => device,
    }
}

impl Rings for SplitRings {
    type Ring = Split<FakeHal, Frame>;
    const ALL: Features = Features::IMPLEMENTED.difference(Features::RING_PACKED).difference(Features::IN_ORDER);
    const SIZE: u16 = 256;
    const LIES: &'static [(u16, Mischief, RingError)] = &[
        (RECEIVE_QUEUE, Mischief::Id(u32::MAX), RingError::Id(u32::MAX)),
        (RECEIVE_QUEUE, Mischief::Jump(300), RingError::UsedIndex { claimed: 302, outstanding: 255 }),
        (TRANSMIT_QUEUE, Mischief::Id(3), RingError::NotOutstanding(3)),
        (TRANSMIT_QUEUE, Mischief::Replay, RingError::UsedIndex { claimed: 2, outstanding: 1 }),
        (TRANSMIT_QUEUE, Mischief::Jump(1), RingError::UsedIndex { claimed: 2, outstanding: 1 }),
    ];

    fn only(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<Self> {
        split(any)
    }
}

impl Rings for SplitInOrder {
    type Ring = Split<FakeHal, Frame>;
    const ALL: Features = Features::IMPLEMENTED.difference(Features::RING_PACKED);
    const SIZE: u16 = 256;
    // Which of the sent buffers it has used the device need not say, so nobody looks.
    const LIES: &'static [(u16, Mischief, RingError)] = &[
        (RECEIVE_QUEUE, Mischief::Jump(300), RingError::UsedIndex { claimed: 302, outstanding: 255 }),
        (RECEIVE_QUEUE, Mischief::Id(5), RingError::NotOutstanding(5)),
        (TRANSMIT_QUEUE, Mischief::Replay, RingError::UsedIndex { claimed: 2, outstanding: 1 }),
        (TRANSMIT_QUEUE, Mischief::Jump(1), RingError::UsedIndex { claimed: 2, outstanding: 1 }),
    ];

    fn only(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<Self> {
        split(any)
    }
}

/// The same for both ways of using packed rings.
const PACKED_LIES: &[(u16, Mischief, RingError)] = &[
    (RECEIVE_QUEUE, Mischief::Id(u32::MAX), RingError::Id(65535)),
    (TRANSMIT_QUEUE, Mischief::Id(3), RingError::NotOutstanding(3)),
    (TRANSMIT_QUEUE, Mischief::Replay, RingError::NotOutstanding(0)),
    (TRANSMIT_QUEUE, Mischief::Jump(1), RingError::NotOutstanding(0)),
];

impl Rings for PackedRings {
    type Ring = Packed<FakeHal, Frame>;
    const ALL: Features = Features::IMPLEMENTED.difference(Features::IN_ORDER);
    const SIZE: u16 = 251;
    const LIES: &'static [(u16, Mischief, RingError)] = PACKED_LIES;

    fn only(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<Self> {
        packed(any)
    }
}

impl Rings for PackedInOrder {
    type Ring = Packed<FakeHal, Frame>;
    const ALL: Features = Features::IMPLEMENTED;
    const SIZE: u16 = 255;
    const LIES: &'static [(u16, Mischief, RingError)] = PACKED_LIES;

    fn only(any: AnyDevice<FakeHal, FakeTransport>) -> Driven<Self> {
        packed(any)
    }
}

/// Makes tests of functions that are generic over the [`Rings`].
macro_rules! on_every_ring {
    ($($name:ident),* $(,)?) => {
        mod split {
            $(#[test] fn $name() { super::$name::<super::SplitRings>(); })*
        }
        mod split_in_order {
            $(#[test] fn $name() { super::$name::<super::SplitInOrder>(); })*
        }
        mod packed {
            $(#[test] fn $name() { super::$name::<super::PackedRings>(); })*
        }
        mod packed_in_order {
            $(#[test] fn $name() { super::$name::<super::PackedInOrder>(); })*
        }
    };
}

mod chains;
mod headers;
mod lies;
mod negotiation;
mod queues;

struct Bench<R> {
    fake: fake::Device,
    pool: Pool,
    rings: core::marker::PhantomData<R>,
}

impl<R: Rings> Bench<R> {
    fn new(buffers: usize) -> Self {
        let fake = fake::Device::new(R::ALL, MAC, 1500);
        fake.set_queue_size(R::SIZE);
        Self { fake, pool: Pool::allocate::<FakeHal>(buffers).unwrap(), rings: core::marker::PhantomData }
    }

    fn try_start(&self, wanted: Features) -> Result<Driven<R>, SetupError> {
        let begun = Negotiation::begin(self.fake.transport())?;
        begun.accept(wanted, NONE, &self.pool, Settings::default()).map(R::only)
    }

    fn start(&self, without: Features) -> Driven<R> {
        self.try_start(R::ALL - without).unwrap()
    }

    /// Nothing is lost: every buffer is back.
    fn end(self, device: Driven<R>) {
        device.close().unwrap();
        assert_eq!(self.pool.available(), self.pool.capacity());
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
}

fn contents(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; frame.len()];
    assert_eq!(frame.copy_to_slice(&mut bytes), frame.len());
    bytes
}

fn tso4() -> NetHdr {
    NetHdr { gso_type: NetHdr::GSO_TCPV4, gso_size: 1460, hdr_len: 54, ..NetHdr::partial_checksum(34, 16) }
}

/// A TCP segment of `length` bytes that [`tso4`] tells the truth about. Its checksums are whatever they are.
fn segment(length: usize) -> Vec<u8> {
    let mut frame = bytes(length);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
    (frame[20], frame[21], frame[23]) = (0x40, 0, 6);
    (frame[46], frame[47]) = (0x50, 0x10);
    frame
}

/// Sets of features under which everything must work: with each kind of ring and each kind of receive buffer.
const SETS: [Features; 6] = [
    NONE,
    Features::EVENT_IDX,
    Features::INDIRECT_DESC,
    Features::MRG_RXBUF,
    Features::MRG_RXBUF.union(Features::INDIRECT_DESC),
    Features::EVENT_IDX.union(Features::INDIRECT_DESC).union(Features::MRG_RXBUF),
];
