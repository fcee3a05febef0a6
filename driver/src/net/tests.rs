//! The device against the fake one.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::buffer::{Frame, Pool};
use crate::fake::{self, FakeHal, FakeTransport, Mischief};
use crate::features::{Features, NegotiationError};
use crate::ring::RingError;
use crate::wire::{NetHdr, RECEIVE_QUEUE, TRANSMIT_QUEUE, status};

const ALL: Features = Features::IMPLEMENTED;
const NONE: Features = Features::empty();
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

type Driven = Device<FakeHal, FakeTransport>;

struct Bench {
    fake: fake::Device,
    pool: Pool,
}

impl Bench {
    fn new(buffers: usize) -> Self {
        Self { fake: fake::Device::new(ALL, MAC, 1500), pool: Pool::allocate::<FakeHal>(buffers).unwrap() }
    }

    fn try_start(&self, wanted: Features) -> Result<Driven, SetupError> {
        Negotiation::begin(self.fake.transport())?.accept(wanted, NONE, &self.pool, Settings::default())
    }

    fn start(&self, without: Features) -> Driven {
        self.try_start(ALL - without).unwrap()
    }

    /// Nothing is lost: every buffer is back.
    fn end(self, device: Driven) {
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

/// Sets of features under which everything must work: with each kind of ring and each kind of receive buffer.
const SETS: [Features; 6] = [
    NONE,
    Features::EVENT_IDX,
    Features::INDIRECT_DESC,
    Features::MRG_RXBUF,
    Features::MRG_RXBUF.union(Features::INDIRECT_DESC),
    Features::EVENT_IDX.union(Features::INDIRECT_DESC).union(Features::MRG_RXBUF),
];

#[test]
fn frames_are_forwarded_as_they_came_whatever_was_agreed_on() {
    for without in SETS {
        let bench = Bench::new(2000);
        let mut device = bench.start(without);
        for round in 0..600 {
            for (header, length) in
                [(NetHdr::default(), 60), (NetHdr::default(), 1514), (tso4(), 65000), (tso4(), 4000)]
            {
                let frame = bytes(length);
                assert!(bench.fake.inject(header, &frame), "without {without}, round {round}");
                let received = device.receive().next().unwrap().unwrap();
                assert_eq!((received.len(), contents(&received)), (length, frame.clone()));
                device.transmit().push(received).unwrap();
                device.transmit().flush().unwrap();
                assert!(bench.fake.take_sent() == [(header, frame)], "without {without}, round {round}");
                device.transmit().reap().unwrap();
                device.receive().refill();
            }
        }
        assert_eq!(device.receive().counters().frames, 2400);
        assert_eq!(device.transmit().counters().frames, 2400);
        bench.end(device);
    }
}
