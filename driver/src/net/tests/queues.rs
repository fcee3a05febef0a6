//! Frames through the queues, doorbells and interrupts.

use super::*;

on_every_ring!(
    frames_are_forwarded_as_they_came_whatever_was_agreed_on,
    a_full_queue_gives_frames_back_until_some_were_sent,
    a_full_queue_is_shown_to_the_device_before_frames_are_refused,
    a_lie_that_pushing_has_found_is_told_by_the_next_flush,
    want_of_buffers_is_told_and_the_next_sent_one_interrupts,
    one_doorbell_for_a_burst_and_none_while_the_device_is_awake,
    interrupts_come_when_asked_for_and_not_else,
    receiving_leaves_a_reserve_and_recovers_from_want,
    buffers_sent_in_another_order_find_their_frames,
    bursts_take_merged_frames_across_their_ends_and_skip_bad_ones,
);

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

fn a_full_queue_is_shown_to_the_device_before_frames_are_refused<R: Rings>() {
    for without in [NONE, Features::EVENT_IDX, Features::INDIRECT_DESC] {
        let bench = Bench::<R>::new(700);
        let mut device = bench.start(without);
        let frame = || bench.pool.frame_from(&bytes(60)).unwrap();
        let transmit = device.transmit();
        for _ in 0..R::SIZE {
            transmit.push(frame()).unwrap();
        }
        assert_eq!((transmit.room(), transmit.counters().doorbells), (0, 0));
        for _ in 0..3 {
            assert_eq!(transmit.push(frame()).unwrap_err().reason, Reason::Full);
            assert_eq!(transmit.counters().doorbells, 1, "once");
        }
        assert_eq!(bench.fake.take_sent().len(), usize::from(R::SIZE), "before it is flushed");
        // As much again, while the device takes what it is shown.
        let mut sent = 0;
        for _ in 0..3 * R::SIZE {
            let pushed = transmit.push(frame());
            if let Err(refused) = pushed {
                sent += bench.fake.take_sent().len();
                transmit.push(refused.frame).unwrap();
            }
        }
        transmit.flush().unwrap();
        assert_eq!(sent + bench.fake.take_sent().len(), 3 * usize::from(R::SIZE));
        bench.end(device);
    }
}

fn a_lie_that_pushing_has_found_is_told_by_the_next_flush<R: Rings>() {
    let bench = Bench::<R>::new(700);
    let mut device = bench.start(Features::INDIRECT_DESC);
    let large = || {
        let mut frame = bench.pool.frame_from(&segment(64_000)).unwrap();
        frame.set_header(tso4());
        frame
    };
    let transmit = device.transmit();
    let most = usize::from(R::SIZE) / large().segment_count();
    for _ in 0..most {
        transmit.push(large()).unwrap();
    }
    transmit.flush().unwrap();
    bench.fake.misbehave(TRANSMIT_QUEUE, Mischief::Replay);
    assert_eq!(bench.fake.take_sent().len(), most);
    // Too few are under way for flushing to look for sent ones by itself.
    let Reason::Broken(lie) = transmit.push(large()).unwrap_err().reason else { panic!("the device lies") };
    assert_eq!(transmit.flush(), Err(lie));
    device.reset_transmit(drop).unwrap();
    let transmit = device.transmit();
    transmit.push(large()).unwrap();
    transmit.flush().unwrap();
    assert_eq!((bench.fake.take_sent().len(), transmit.under_way()), (1, 1), "few again, which can wait");
    bench.end(device);
}

fn want_of_buffers_is_told_and_the_next_sent_one_interrupts<R: Rings>() {
    for without in SETS {
        let bench = Bench::<R>::new(300);
        let mut device = bench.start(without);
        assert!(!device.receive().is_short(), "all it can have, or all there are");
        // All that is not posted is under way, and then most of what was posted.
        bench.fake.set_paused(true);
        while bench.fake.inject(NetHdr::default(), &bytes(60)) {
            let frame = device.receive().take().unwrap().unwrap();
            device.transmit().push(frame).unwrap();
            device.receive().refill();
        }
        device.transmit().flush().unwrap();
        assert!(device.receive().is_short(), "without {without}");
        assert!(!device.transmit().arm_interrupt_for_next());
        let before = bench.fake.interrupts();
        bench.fake.set_paused(false);
        assert_eq!(bench.fake.interrupts(), before + 1);
        device.transmit().reap().unwrap();
        device.receive().refill();
        assert!(!device.receive().is_short());
        assert!(bench.fake.inject(NetHdr::default(), &bytes(60)));
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
