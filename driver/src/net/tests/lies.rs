//! Devices that lie, and queues that are reset alone.

use super::*;

on_every_ring!(
    every_lie_breaks_the_queue_and_a_reset_mends_it,
    a_broken_queue_is_mended_alone,
    a_queue_is_reset_under_load_and_nothing_is_lost,
    a_queue_is_not_reset_alone_where_that_cannot_be,
);

fn every_lie_breaks_the_queue_and_a_reset_mends_it<R: Rings>() {
    let mut cases = std::vec![
        (RECEIVE_QUEUE, Mischief::Id(256), RingError::Id(256)),
        (RECEIVE_QUEUE, Mischief::Length(2113), RingError::Length { written: 2113, capacity: 2112 }),
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
