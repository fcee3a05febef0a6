//! What is agreed on, and how a device begins and ends.

use super::*;

on_every_ring!(
    what_is_agreed_on_is_what_the_device_is_told,
    each_refusal_has_a_name,
    an_mtu_or_a_mac_that_cannot_be_counts_as_none,
    the_device_changes_its_mind,
    parts_go_together_only_with_their_own,
    a_device_that_does_not_reset_keeps_its_memory,
    a_queue_too_short_for_large_frames_goes_without,
);

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

fn a_queue_too_short_for_large_frames_goes_without<R: Rings>() {
    let large = Features::GUEST_LARGE | Features::GUEST_ECN;
    for (size, mtu, without, given_up) in [
        (16, 1500, Features::MRG_RXBUF, large),
        (32, 1500, Features::MRG_RXBUF, NONE),
        (1, 1500, NONE, large),
        (2, 9000, NONE, large | Features::MTU),
        (16, 1500, NONE, large),
        // Nearly all of a queue is with the device, but not always all.
        (32, 1500, NONE, large),
        (64, 1500, NONE, NONE),
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
