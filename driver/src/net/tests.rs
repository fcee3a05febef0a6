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

on_every_ring!(
    frames_are_forwarded_as_they_came_whatever_was_agreed_on,
    what_is_agreed_on_is_what_the_device_is_told,
    each_refusal_has_a_name,
    an_mtu_or_a_mac_that_cannot_be_counts_as_none,
    the_device_changes_its_mind,
    a_header_with_what_was_not_agreed_on_is_counted_and_dropped,
    data_valid_is_told_only_where_it_was_agreed_on,
    a_frame_that_needs_what_was_not_agreed_on_comes_back,
    the_header_of_a_super_frame_is_exact_whoever_made_it,
    what_the_device_coalesced_is_counted_and_forwarded_as_any_super_frame,
    a_full_queue_gives_frames_back_until_some_were_sent,
    one_doorbell_for_a_burst_and_none_while_the_device_is_awake,
    interrupts_come_when_asked_for_and_not_else,
    receiving_leaves_a_reserve_and_recovers_from_want,
    every_lie_breaks_the_queue_and_a_reset_mends_it,
    a_broken_queue_is_mended_alone,
    a_queue_is_reset_under_load_and_nothing_is_lost,
    a_queue_is_not_reset_alone_where_that_cannot_be,
    parts_go_together_only_with_their_own,
    a_device_that_does_not_reset_keeps_its_memory,
    buffers_sent_in_another_order_find_their_frames,
    a_queue_too_short_for_large_frames_goes_without,
    bursts_take_merged_frames_across_their_ends_and_skip_bad_ones,
);

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

fn frames_are_forwarded_as_they_came_whatever_was_agreed_on<R: Rings>() {
    for without in SETS {
        let bench = Bench::<R>::new(2000);
        let mut device = bench.start(without);
        for round in 0..600 {
            for (header, length) in
                [(NetHdr::default(), 60), (NetHdr::default(), 1514), (tso4(), 65000), (tso4(), 4000)]
            {
                let frame = segment(length);
                assert!(bench.fake.inject(header, &frame), "without {without}, round {round}");
                let received = device.receive().take().unwrap().unwrap();
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

fn what_is_agreed_on_is_what_the_device_is_told<R: Rings>() {
    let bench = Bench::<R>::new(600);
    let mut device = bench.start(Features::EVENT_IDX);
    assert_eq!(bench.fake.accepted(), R::ALL - Features::EVENT_IDX);
    assert_eq!(device.control().features(), R::ALL - Features::EVENT_IDX);
    assert_eq!(device.control().config(), Config { mac: Some(MAC), mtu: Some(1500), link_up: Some(true) });
    let running = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
    assert_eq!(bench.fake.status(), running);
    bench.end(device);

    let bench = Bench::<R>::new(600);
    let mut device = bench.start(Features::MAC | Features::MTU | Features::STATUS);
    assert_eq!(device.control().config(), Config::default(), "what was not agreed on is not there");
    assert!(device.control().link_up());
    bench.end(device);
}

fn each_refusal_has_a_name<R: Rings>() {
    let bench = Bench::<R>::new(10);
    bench.fake.refuse(Features::MRG_RXBUF);
    assert_eq!(bench.try_start(R::ALL).unwrap_err(), SetupError::FeaturesRefused(R::ALL));
    assert!(bench.fake.status() & status::FAILED != 0);
    bench.try_start(R::ALL - Features::MRG_RXBUF).unwrap().close().unwrap();

    bench.fake.refuse(NONE);
    bench.fake.set_unstable(true);
    assert_eq!(bench.try_start(R::ALL).unwrap_err(), SetupError::ConfigUnstable);
    bench.fake.set_unstable(false);
    assert_eq!(
        bench.try_start(R::ALL | Features::MQ).unwrap_err(),
        SetupError::Features(NegotiationError::NotImplemented(Features::MQ))
    );
    bench.fake.set_queue_size(0);
    assert_eq!(bench.try_start(R::ALL).unwrap_err(), SetupError::NoQueue(RECEIVE_QUEUE));
    bench.fake.set_queue_size(300);
    bench.try_start(R::ALL).unwrap().close().unwrap();
    bench.fake.set_stuck(true);
    assert_eq!(bench.try_start(R::ALL).map(drop), Ok(()), "it has been reset already");
    assert_eq!(bench.try_start(R::ALL).unwrap_err(), SetupError::Reset);
}

fn an_mtu_or_a_mac_that_cannot_be_counts_as_none<R: Rings>() {
    let fake = fake::Device::new(R::ALL, [1, 0, 0, 0, 0, 1], 67);
    let pool = Pool::allocate::<FakeHal>(100).unwrap();
    let begun = Negotiation::begin(fake.transport()).unwrap();
    assert_eq!(begun.config().mtu, Some(67));
    let mut device = R::only(begun.accept(R::ALL, NONE, &pool, Settings::default()).unwrap());
    assert_eq!(device.control().features(), R::ALL - Features::MTU - Features::MAC);
    assert_eq!((device.control().mtu(), device.control().mac()), (None, None));
    device.close().unwrap();
}

fn the_device_changes_its_mind<R: Rings>() {
    let bench = Bench::<R>::new(100);
    let mut device = bench.start(NONE);
    let control = device.control();
    assert_eq!(control.refresh(), Ok(false));
    bench.fake.set_link(false);
    assert_eq!(control.acknowledge(), Interrupt { queue: false, config: true });
    assert_eq!(control.acknowledge(), Interrupt::default());
    assert!(control.link_up());
    assert_eq!(control.refresh(), Ok(true));
    assert!(!control.link_up());
    bench.fake.change_config(|config| {
        config.mtu = 9000;
        config.mac[5] = 9;
    });
    assert_eq!(control.refresh(), Ok(true));
    assert_eq!((control.mtu(), control.mac()), (Some(1500), Some([2, 0, 0, 0, 0, 9])));
    bench.fake.fail();
    assert!(control.needs_reset());
    assert_eq!(control.refresh(), Err(SetupError::NeedsReset));
    bench.end(device);
}

fn a_header_with_what_was_not_agreed_on_is_counted_and_dropped<R: Rings>() {
    let checksum = NetHdr::partial_checksum(34, 16);
    let cases = [
        (Features::GUEST_UFO, NetHdr { gso_type: NetHdr::GSO_UDP, ..tso4() }),
        (Features::GUEST_ECN, NetHdr { gso_type: NetHdr::GSO_TCPV4_ECN, ..tso4() }),
        (Features::GUEST_USO4 | Features::GUEST_USO6, NetHdr { gso_type: NetHdr::GSO_UDP_L4, ..tso4() }),
        (NONE, NetHdr { gso_type: 77, ..tso4() }),
        (NONE, NetHdr { gso_size: 0, ..tso4() }),
        (NONE, NetHdr { csum_start: 99, ..checksum }),
        (NONE, NetHdr { csum_start: u16::MAX, csum_offset: u16::MAX, ..checksum }),
        (Features::GUEST_TSO4, tso4()),
        (Features::GUEST_TSO6, NetHdr { gso_type: NetHdr::GSO_TCPV6, ..tso4() }),
        (Features::GUEST_CSUM, checksum),
    ];
    for (without, header) in cases {
        let bench = Bench::<R>::new(600);
        let mut device = bench.start(without);
        assert!(bench.fake.inject(header, &bytes(100)));
        assert!(bench.fake.inject(NetHdr::default(), &bytes(13)), "shorter than an Ethernet header");
        assert!(bench.fake.inject(NetHdr::default(), &bytes(14)));
        let frame = device.receive().take().unwrap().unwrap();
        assert_eq!(contents(&frame), bytes(14));
        let counters = device.receive().counters();
        assert_eq!((counters.bad_headers, counters.bad_lengths, counters.frames), (1, 1, 1), "{header:?}");
        drop(frame);
        bench.end(device);
    }
}

fn data_valid_is_told_only_where_it_was_agreed_on<R: Rings>() {
    let valid = NetHdr { flags: NetHdr::DATA_VALID, ..NetHdr::default() };
    for (without, flags) in [(NONE, NetHdr::DATA_VALID), (Features::GUEST_CSUM | Features::RSC_EXT, 0)] {
        let bench = Bench::<R>::new(600);
        let mut device = bench.start(without);
        let counted = if without.is_empty() { 0 } else { NetHdr::RSC_INFO };
        assert!(bench.fake.inject(NetHdr { flags: valid.flags | counted | 0x80, hdr_len: 99, ..valid }, &bytes(60)));
        let frame = device.receive().take().unwrap().unwrap();
        assert_eq!(frame.header(), NetHdr { flags, ..NetHdr::default() });
        // Forwarded, it must not be there: it is for devices to say.
        device.transmit().push(frame).unwrap();
        device.transmit().flush().unwrap();
        assert_eq!(bench.fake.take_sent()[0].0.flags, 0);
        bench.end(device);
    }
}

fn a_frame_that_needs_what_was_not_agreed_on_comes_back<R: Rings>() {
    let checksum = NetHdr::partial_checksum(34, 16);
    let refused = |without: Features, header: NetHdr, length: usize| {
        let bench = Bench::<R>::new(600);
        let mut device = bench.start(without);
        let contents_before = if header.is_gso() && length < 65000 { segment(length) } else { bytes(length) };
        let mut frame = bench.pool.frame_from(&contents_before).unwrap();
        frame.set_header(header);
        let refused = device.transmit().push(frame).unwrap_err();
        assert_eq!((refused.frame.header(), contents(&refused.frame)), (header, contents_before));
        assert_eq!(device.transmit().counters().refused, 1);
        let reason = refused.reason;
        drop(refused);
        bench.end(device);
        reason
    };
    assert_eq!(refused(Features::CSUM, checksum, 60), Reason::Header(HeaderError::Checksum));
    assert_eq!(refused(Features::HOST_TSO4, tso4(), 4000), Reason::Header(HeaderError::Segmentation(1)));
    let invalid = |invalid| Reason::Header(HeaderError::Invalid(invalid));
    assert_eq!(refused(NONE, NetHdr { gso_type: NetHdr::GSO_TCPV6, ..tso4() }, 4000), invalid(Invalid::GsoHeaders));
    assert_eq!(
        refused(NONE, NetHdr { gso_type: NetHdr::GSO_ECN, ..tso4() }, 4000),
        Reason::Header(HeaderError::Segmentation(0x80))
    );
    assert_eq!(refused(NONE, checksum, 51), Reason::Header(HeaderError::ChecksumPosition));
    assert_eq!(refused(NONE, NetHdr::default(), 1500 + 14 + 4 + 1), Reason::TooLong);
    assert_eq!(refused(Features::MTU, NetHdr::default(), 65555), Reason::TooLong);
    assert_eq!(refused(NONE, tso4(), 65555), invalid(Invalid::GsoHeaders), "IPv4 cannot tell that length");
    assert_eq!(refused(NONE, NetHdr::default(), 13), Reason::TooShort);
}

fn the_header_of_a_super_frame_is_exact_whoever_made_it<R: Rings>() {
    let bench = Bench::<R>::new(600);
    let mut device = bench.start(NONE);
    // The device's own hint is wrong, and it has not told of CWR.
    let mut frame = segment(4000);
    (frame[46], frame[47]) = (0x80, 0x90);
    assert!(bench.fake.inject(NetHdr { hdr_len: 3, ..tso4() }, &frame));
    let received = device.receive().take().unwrap().unwrap();
    assert_eq!(received.header().hdr_len, 0);
    device.transmit().push(received).unwrap();
    device.transmit().flush().unwrap();
    let exact = NetHdr { hdr_len: 14 + 20 + 32, gso_type: NetHdr::GSO_TCPV4_ECN, ..tso4() };
    assert!(bench.fake.take_sent() == [(exact, frame.clone())]);
    bench.end(device);
    // Without HOST_ECN it comes back as it was.
    let bench = Bench::<R>::new(600);
    let mut device = bench.start(Features::HOST_ECN);
    let mut given = bench.pool.frame_from(&frame).unwrap();
    given.set_header(tso4());
    let refused = device.transmit().push(given).unwrap_err();
    assert_eq!(refused.reason, Reason::Header(HeaderError::Segmentation(NetHdr::GSO_TCPV4_ECN)));
    drop(refused);
    bench.end(device);
}

fn what_the_device_coalesced_is_counted_and_forwarded_as_any_super_frame<R: Rings>() {
    let counted = NetHdr { flags: NetHdr::NEEDS_CSUM | NetHdr::RSC_INFO, csum_start: 3, csum_offset: 0, ..tso4() };
    for without in [NONE, Features::MRG_RXBUF] {
        let bench = Bench::<R>::new(600);
        let mut device = bench.start(without);
        let frame = segment(4000);
        assert!(bench.fake.inject(counted, &frame));
        // Stands for three.
        let acks =
            NetHdr { flags: NetHdr::DATA_VALID | NetHdr::RSC_INFO, csum_start: 1, csum_offset: 2, ..NetHdr::default() };
        assert!(bench.fake.inject(acks, &segment(60)));
        // Neither TCP nor UDP.
        assert!(bench.fake.inject(counted, &bytes(4000)));
        let received = device.receive().take().unwrap().unwrap();
        let expected = NetHdr { hdr_len: 0, ..tso4() };
        assert_eq!(received.header(), expected);
        device.transmit().push(received).unwrap();
        let repeated = device.receive().take().unwrap().unwrap();
        assert_eq!((repeated.header(), repeated.header().duplicate_acks()), (acks, 2));
        device.transmit().push(repeated).unwrap();
        device.transmit().flush().unwrap();
        let sent = bench.fake.take_sent();
        assert_eq!((sent[0].0, sent[1].0), (tso4(), NetHdr::default()));
        assert_eq!(sent[0].1[..50], frame[..50]);
        assert!(sent[0].1[52..] == frame[52..], "but for the checksum");
        assert!(device.receive().take().unwrap().is_none());
        let counters = device.receive().counters();
        assert_eq!((counters.coalesced_frames, counters.coalesced_segments, counters.duplicate_acks), (1, 3, 2));
        assert_eq!((counters.frames, counters.bad_headers), (2, 1));
        bench.end(device);
    }
}

fn a_full_queue_gives_frames_back_until_some_were_sent<R: Rings>() {
    for without in [NONE, Features::EVENT_IDX, Features::INDIRECT_DESC] {
        let bench = Bench::<R>::new(700);
        bench.fake.set_paused(true);
        let mut device = bench.start(without);
        let frame = || bench.pool.frame_from(&bytes(60)).unwrap();
        let transmit = device.transmit();
        for _ in 0..R::SIZE {
            transmit.push(frame()).unwrap();
        }
        let refused = transmit.push(frame()).unwrap_err();
        assert_eq!((refused.reason, transmit.counters().full, transmit.room()), (Reason::Full, 1, 0));
        transmit.flush().unwrap();
        assert_eq!((bench.fake.take_sent().len(), transmit.under_way()), (0, usize::from(R::SIZE)));
        assert!(!transmit.arm_interrupt());
        let before = bench.fake.interrupts();
        bench.fake.set_paused(false);
        assert_eq!(bench.fake.interrupts(), before + 1, "it was asked for");
        assert!(transmit.arm_interrupt(), "they are sent already");
        transmit.disarm_interrupt();
        transmit.push(refused.frame).unwrap();
        assert_eq!(transmit.under_way(), 1, "the sent ones were found");
        transmit.flush().unwrap();
        assert_eq!(bench.fake.take_sent().len(), usize::from(R::SIZE) + 1);
        bench.end(device);
    }
}

fn one_doorbell_for_a_burst_and_none_while_the_device_is_awake<R: Rings>() {
    for without in [NONE, Features::EVENT_IDX] {
        let bench = Bench::<R>::new(700);
        let mut device = bench.start(without);
        let transmit = device.transmit();
        for burst in 1..=5 {
            for _ in 0..20 {
                transmit.push(bench.pool.frame_from(&bytes(60)).unwrap()).unwrap();
            }
            transmit.flush().unwrap();
            transmit.flush().unwrap();
            assert_eq!(transmit.counters().doorbells, burst, "one, and none for nothing");
            assert_eq!(bench.fake.take_sent().len(), 20);
        }
        bench.end(device);
    }
}

fn interrupts_come_when_asked_for_and_not_else<R: Rings>() {
    for without in [NONE, Features::EVENT_IDX] {
        let bench = Bench::<R>::new(700);
        let mut device = bench.start(without);
        let fake = &bench.fake;
        let receive = device.receive();
        assert!(fake.inject(NetHdr::default(), &bytes(60)));
        assert_eq!(fake.interrupts(), 0);
        assert!(receive.arm_interrupt(), "there is a frame already");
        receive.disarm_interrupt();
        assert!(receive.take().unwrap().is_some());
        assert!(!receive.arm_interrupt());
        assert!(fake.inject(NetHdr::default(), &bytes(60)));
        assert_eq!(fake.interrupts(), 1);
        receive.disarm_interrupt();
        for _ in 0..100 {
            assert!(fake.inject(NetHdr::default(), &bytes(60)));
        }
        assert_eq!(fake.interrupts(), 1);
        let mut frames = [const { None }; 64];
        assert_eq!(receive.burst(&mut frames), Ok(64));
        assert_eq!(receive.burst(&mut frames), Ok(37));
        assert!(frames[37].is_some(), "the places behind are left as they are");
        assert_eq!(receive.burst(&mut frames), Ok(0));
        drop(frames);
        bench.end(device);
    }
}

fn receiving_leaves_a_reserve_and_recovers_from_want<R: Rings>() {
    let bench = Bench::<R>::new(100);
    let mut device = bench.start(NONE);
    let receive = device.receive();
    let capacity = bench.pool.capacity();
    assert_eq!((receive.posted(), bench.pool.available()), (capacity - 64, 64));
    let missing = receive.counters().buffers_missing;
    assert_eq!(missing, 1);
    let posted = receive.posted();
    for _ in 0..posted {
        assert!(bench.fake.inject(NetHdr::default(), &bytes(60)));
    }
    assert!(!bench.fake.inject(NetHdr::default(), &bytes(60)), "there is no room");
    let frames: Vec<Frame> = core::iter::from_fn(|| receive.take().unwrap()).collect();
    assert_eq!(frames.len(), posted);
    receive.refill();
    assert_eq!(receive.posted(), 0, "the reserve is not touched");
    drop(frames);
    let doorbells = receive.counters().doorbells;
    receive.refill();
    assert_eq!((receive.posted(), receive.counters().doorbells), (posted, doorbells + 1), "the device waited for it");
    assert!(bench.fake.inject(NetHdr::default(), &bytes(60)));
    bench.end(device);
}

fn every_lie_breaks_the_queue_and_a_reset_mends_it<R: Rings>() {
    let mut cases = std::vec![
        (RECEIVE_QUEUE, Mischief::Id(256), RingError::Id(256)),
        (RECEIVE_QUEUE, Mischief::Length(2061), RingError::Length { written: 2061, capacity: 2060 }),
        (RECEIVE_QUEUE, Mischief::Length(11), RingError::Runt(11)),
        (RECEIVE_QUEUE, Mischief::NumBuffers(0), RingError::NumBuffers { claimed: 0, given: 0 }),
        (RECEIVE_QUEUE, Mischief::NumBuffers(9), RingError::NumBuffers { claimed: 9, given: 2 }),
        (RECEIVE_QUEUE, Mischief::NumBuffers(65535), RingError::NumBuffers { claimed: 65535, given: 2 }),
        (RECEIVE_QUEUE, Mischief::Half, RingError::NumBuffers { claimed: 2, given: 1 }),
    ];
    cases.extend_from_slice(R::LIES);
    let bench = Bench::<R>::new(700);
    let mut device = bench.start(NONE);
    for (queue, mischief, expected) in cases {
        bench.fake.misbehave(queue, mischief);
        if queue == RECEIVE_QUEUE {
            assert!(bench.fake.inject(NetHdr::default(), &bytes(3000)));
            let receive = device.receive();
            let error = core::iter::repeat_with(|| receive.take()).take(300).find_map(Result::err);
            assert_eq!(error, Some(expected), "{mischief:?}");
            assert_eq!((receive.broken(), receive.counters().device_errors), (error, 1));
            let mut frames = [const { None }; 4];
            assert_eq!(receive.burst(&mut frames), Err(expected), "it stays broken");
            receive.refill();
        } else {
            let transmit = device.transmit();
            transmit.push(bench.pool.frame_from(&bytes(60)).unwrap()).unwrap();
            transmit.flush().unwrap();
            bench.fake.work();
            assert_eq!(transmit.reap(), Err(expected), "{mischief:?}");
            assert_eq!((transmit.broken(), transmit.counters().device_errors), (Some(expected), 1));
            let refused = transmit.push(bench.pool.frame_from(&bytes(60)).unwrap()).unwrap_err();
            assert_eq!(refused.reason, Reason::Broken(expected));
        }
        let transport = device.close().unwrap();
        assert_eq!(bench.pool.available(), bench.pool.capacity());
        let _ = bench.fake.take_sent();
        let begun = Negotiation::begin(transport).unwrap();
        device = R::only(begun.accept(R::ALL, NONE, &bench.pool, Settings::default()).unwrap());
        assert!(bench.fake.inject(NetHdr::default(), &bytes(60)));
        assert!(device.receive().take().unwrap().is_some(), "it works again");
    }
    bench.end(device);
}

fn a_broken_queue_is_mended_alone<R: Rings>() {
    let bench = Bench::<R>::new(700);
    let mut device = bench.start(NONE);
    for round in 1..=3 {
        let frame = || bench.pool.frame_from(&bytes(60)).unwrap();
        device.transmit().push(frame()).unwrap();
        device.transmit().flush().unwrap();
        bench.fake.misbehave(RECEIVE_QUEUE, Mischief::Id(40_000));
        assert!(bench.fake.inject(NetHdr::default(), &bytes(60)));
        assert_eq!(device.receive().take().map(drop), Err(RingError::Id(40_000)));
        device.reset_receive(|_| panic!("nobody knows what had come")).unwrap();
        let counters = device.receive().counters();
        assert_eq!((counters.device_errors, counters.resets), (round, round));
        assert!(bench.fake.inject(NetHdr::default(), &bytes(99)));
        assert_eq!(device.receive().take().unwrap().unwrap().len(), 99);
        // The other queue has noticed nothing.
        assert_eq!(bench.fake.take_sent().len(), 1);
        assert_eq!(device.transmit().reap(), Ok(1));

        bench.fake.misbehave(TRANSMIT_QUEUE, Mischief::Jump(1));
        device.transmit().push(frame()).unwrap();
        device.transmit().push(frame()).unwrap();
        device.transmit().flush().unwrap();
        bench.fake.work();
        assert!(device.transmit().reap().is_err() || R::ALL.contains(Features::RING_PACKED));
        device.reset_transmit(drop).unwrap();
        assert_eq!(device.transmit().room(), usize::from(R::SIZE));
        device.transmit().push(frame()).unwrap();
        device.transmit().flush().unwrap();
        assert_eq!(bench.fake.take_sent().len(), 3);
        assert_eq!(device.transmit().reap(), Ok(1));
    }
    assert_eq!(bench.fake.resets(), 1, "the device itself was reset only at the start");
    bench.end(device);
}

fn a_queue_is_reset_under_load_and_nothing_is_lost<R: Rings>() {
    let bench = Bench::<R>::new(1500);
    let mut device = bench.start(NONE);
    let (mut received, mut sent) = (0, 0);
    for round in 0..50 {
        for i in 0..20 {
            assert!(bench.fake.inject(NetHdr::default(), &bytes(60 + i)));
            device.transmit().push(bench.pool.frame_from(&bytes(100 + i)).unwrap()).unwrap();
        }
        device.transmit().flush().unwrap();
        // The device has sent everything, or nothing, and in between the driver has found out or not.
        if round % 3 > 0 {
            sent += bench.fake.take_sent().len();
        }
        if round % 3 > 1 {
            device.transmit().reap().unwrap();
        }
        let mut unsent = Vec::new();
        device.reset_transmit(|frame| unsent.push(frame)).unwrap();
        assert_eq!(unsent.len(), if round % 3 > 0 { 0 } else { 20 });
        for frame in unsent {
            device.transmit().push(frame).unwrap();
        }
        device.transmit().flush().unwrap();
        sent += bench.fake.take_sent().len();

        received += usize::from(device.receive().take().unwrap().is_some());
        let mut lengths = Vec::new();
        device.reset_receive(|frame| lengths.push(frame.len())).unwrap();
        assert_eq!(lengths, (61..80).collect::<Vec<_>>());
        received += lengths.len();
        assert_eq!((received, sent), (20 * (round + 1), 20 * (round + 1)));
    }
    bench.end(device);
}

fn a_queue_is_not_reset_alone_where_that_cannot_be<R: Rings>() {
    let (one, other) = (Bench::<R>::new(600), Bench::<R>::new(600));
    let mut device = one.start(Features::RING_RESET);
    assert_eq!(device.reset_receive(drop), Err(ResetError::NotAgreed));
    assert_eq!(device.reset_transmit(drop), Err(ResetError::NotAgreed));
    let mut stranger = other.start(NONE);
    assert_eq!(stranger.control().reset_receive(device.receive(), drop), Err(ResetError::Foreign));
    assert_eq!(stranger.control().reset_transmit(device.transmit(), drop), Err(ResetError::Foreign));
    one.end(device);
    other.fake.set_stuck(true);
    let posted = stranger.receive().posted();
    let refused = |queue| Err(ResetError::Refused(Refused::Reset(queue)));
    assert_eq!(stranger.reset_receive(drop), refused(RECEIVE_QUEUE));
    assert_eq!(stranger.reset_transmit(drop), refused(TRANSMIT_QUEUE));
    assert_eq!(stranger.receive().posted(), posted, "its buffers stay with the device");
    other.fake.set_stuck(false);
    other.end(stranger);
}

fn parts_go_together_only_with_their_own<R: Rings>() {
    let (one, other) = (Bench::<R>::new(200), Bench::<R>::new(200));
    let (receive, transmit, control) = one.start(NONE).split();
    let (other_receive, other_transmit, other_control) = other.start(NONE).split();
    let (receive, other_transmit, control) = Device::join(receive, other_transmit, control).unwrap_err();
    one.end(Device::join(receive, transmit, control).unwrap());
    other.end(Device::join(other_receive, other_transmit, other_control).unwrap());
}

fn a_device_that_does_not_reset_keeps_its_memory<R: Rings>() {
    let bench = Bench::<R>::new(200);
    let device = bench.start(NONE);
    bench.fake.set_stuck(true);
    assert_eq!(device.close().map(drop), Err(CloseError::Reset));
    assert!(bench.pool.available() < bench.pool.capacity());
}

fn buffers_sent_in_another_order_find_their_frames<R: Rings>() {
    let bench = Bench::<R>::new(700);
    bench.fake.set_reversed(true);
    let mut device = bench.start(Features::INDIRECT_DESC);
    for _ in 0..100 {
        for length in [60, 5000, 14, 60000, 1514] {
            let contents = if length > 1514 { segment(length) } else { bytes(length) };
            let mut frame = bench.pool.frame_from(&contents).unwrap();
            if length > 1514 {
                frame.set_header(tso4());
            }
            device.transmit().push(frame).unwrap();
        }
        device.transmit().flush().unwrap();
        let sent = bench.fake.take_sent();
        let lengths: Vec<usize> = sent.iter().map(|(_, frame)| frame.len()).collect();
        assert_eq!(lengths, [60, 5000, 14, 60000, 1514]);
        let expected = |length| if length > 1514 { segment(length) } else { bytes(length) };
        assert!(sent.iter().all(|(_, frame)| *frame == expected(frame.len())));
        assert_eq!(device.transmit().reap(), Ok(5));
    }
    bench.end(device);
}

fn a_queue_too_short_for_large_frames_goes_without<R: Rings>() {
    let large = Features::GUEST_LARGE | Features::GUEST_ECN;
    for (size, mtu, without, given_up) in [
        (16, 1500, Features::MRG_RXBUF, large),
        (32, 1500, Features::MRG_RXBUF, NONE),
        (16, 1500, NONE, NONE),
        (1, 1500, Features::MRG_RXBUF, large),
        (1, 9000, Features::MRG_RXBUF, large | Features::MTU),
    ] {
        let fake = fake::Device::new(R::ALL, MAC, mtu);
        fake.set_queue_size(size);
        let pool = Pool::allocate::<FakeHal>(1200).unwrap();
        let begun = Negotiation::begin(fake.transport()).unwrap();
        let mut device = R::only(begun.accept(R::ALL - without, NONE, &pool, Settings::default()).unwrap());
        assert_eq!(fake.accepted(), R::ALL - without - given_up);
        assert!(device.receive().posted() > 0);
        assert!(fake.inject(NetHdr::default(), &bytes(1514)));
        assert_eq!(device.receive().take().unwrap().unwrap().len(), 1514);
        let mut frame = pool.frame_from(&segment(65000)).unwrap();
        frame.set_header(tso4());
        match device.transmit().push(frame) {
            Ok(()) => assert!(size >= 32),
            Err(refused) => assert_eq!(refused.reason, Reason::TooManySegments),
        }
        device.close().unwrap();
    }
}

fn bursts_take_merged_frames_across_their_ends_and_skip_bad_ones<R: Rings>() {
    let bench = Bench::<R>::new(700);
    let mut device = bench.start(NONE);
    for round in 0..40 {
        let lengths = [60, 9000, 1514, 65000, 100];
        for length in lengths {
            let header = if length > 1514 { tso4() } else { NetHdr::default() };
            assert!(bench.fake.inject(header, &bytes(length)));
            assert!(bench.fake.inject(NetHdr { gso_type: 99, ..header }, &bytes(length)));
        }
        let mut got = Vec::new();
        let mut frames = [const { None }; 7];
        for _ in 0..30 {
            let count = device.receive().burst(&mut frames[..1 + round % 7]).unwrap();
            for frame in frames.iter_mut().take(count) {
                let frame = frame.take().unwrap();
                assert!(contents(&frame) == bytes(frame.len()));
                got.push(frame.len());
            }
            assert!(frames.iter().all(Option::is_none));
        }
        assert_eq!(got, lengths);
        device.receive().refill();
    }
    bench.end(device);
}
