//! What headers may say, and what becomes of them.

use super::*;

on_every_ring!(
    a_header_with_what_was_not_agreed_on_is_counted_and_dropped,
    data_valid_is_told_only_where_it_was_agreed_on,
    a_frame_that_needs_what_was_not_agreed_on_comes_back,
    the_header_of_a_super_frame_is_exact_whoever_made_it,
    super_frames_of_every_kind_leave_as_they_came,
    what_the_device_coalesced_is_counted_and_forwarded_as_any_super_frame,
);

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

/// A super-frame of 4000 bytes, and the header that tells the truth about it.
fn super_frame(gso_type: u8, v6: bool) -> (NetHdr, Vec<u8>) {
    let tcp = matches!(gso_type, NetHdr::GSO_TCPV4 | NetHdr::GSO_TCPV6);
    let (start, offset, length) = if v6 { (54, 16, 20) } else { (34, 16, 20) };
    let (offset, length) = if tcp { (offset, length) } else { (6, 8) };
    let mut frame = segment(4000);
    if v6 {
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        frame[18..20].copy_from_slice(&(4000_u16 - 54).to_be_bytes());
    }
    frame[if v6 { 20 } else { 23 }] = if tcp { 6 } else { 17 };
    if tcp {
        (frame[start + 12], frame[start + 13]) = (0x50, 0x10);
    }
    let partial = NetHdr::partial_checksum(start as u16, offset);
    (NetHdr { gso_type, gso_size: 1400, hdr_len: start as u16 + length, ..partial }, frame)
}

fn super_frames_of_every_kind_leave_as_they_came<R: Rings>() {
    let bench = Bench::<R>::new(600);
    let mut device = bench.start(NONE);
    for (gso_type, v6) in [
        (NetHdr::GSO_TCPV4, false),
        (NetHdr::GSO_TCPV6, true),
        (NetHdr::GSO_UDP, false),
        (NetHdr::GSO_UDP, true),
        (NetHdr::GSO_UDP_L4, false),
        (NetHdr::GSO_UDP_L4, true),
    ] {
        let (header, frame) = super_frame(gso_type, v6);
        assert!(bench.fake.inject(NetHdr { hdr_len: 0, ..header }, &frame));
        let received = device.receive().take().unwrap().unwrap();
        device.transmit().push(received).unwrap();
        device.transmit().flush().unwrap();
        assert!(bench.fake.take_sent() == [(header, frame)], "{header:?}");
    }
    bench.end(device);
}

fn what_the_device_coalesced_is_counted_and_forwarded_as_any_super_frame<R: Rings>() {
    let counted = NetHdr { flags: NetHdr::NEEDS_CSUM | NetHdr::RSC_INFO, csum_start: 3, csum_offset: 0, ..tso4() };
    for without in [NONE, Features::MRG_RXBUF] {
        let bench = Bench::<R>::new(600);
        let mut device = bench.start(without);
        let frame = segment(4000);
        assert!(bench.fake.inject(counted, &frame));
        // Stands for three; and so does the next, which comes with a type although it has nothing to be segmented.
        let acks =
            NetHdr { flags: NetHdr::DATA_VALID | NetHdr::RSC_INFO, csum_start: 1, csum_offset: 2, ..NetHdr::default() };
        let typed = NetHdr { gso_type: NetHdr::GSO_TCPV4, ..acks };
        assert!(bench.fake.inject(acks, &segment(54)));
        assert!(bench.fake.inject(typed, &segment(54)));
        // Neither TCP nor UDP.
        assert!(bench.fake.inject(counted, &bytes(4000)));
        let received = device.receive().take().unwrap().unwrap();
        let expected = NetHdr { hdr_len: 0, ..tso4() };
        assert_eq!(received.header(), expected);
        device.transmit().push(received).unwrap();
        for _ in 0..2 {
            let repeated = device.receive().take().unwrap().unwrap();
            assert_eq!((repeated.header(), repeated.header().duplicate_acks()), (acks, 2));
            device.transmit().push(repeated).unwrap();
        }
        device.transmit().flush().unwrap();
        let sent = bench.fake.take_sent();
        assert_eq!((sent[0].0, sent[1].0, sent[2].0), (tso4(), NetHdr::default(), NetHdr::default()));
        assert_eq!(sent[0].1[..50], frame[..50]);
        assert!(sent[0].1[52..] == frame[52..], "but for the checksum");
        assert!(device.receive().take().unwrap().is_none());
        let counters = device.receive().counters();
        assert_eq!((counters.coalesced_frames, counters.coalesced_segments, counters.duplicate_acks), (1, 3, 4));
        assert_eq!((counters.frames, counters.bad_headers), (3, 1));
        bench.end(device);
    }
}
