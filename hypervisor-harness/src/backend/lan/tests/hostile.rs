//! Guests that send anything at all.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::super::fabric::LONGEST;
use super::super::packet::{self, HEADROOM};
use super::super::plan;
use super::super::{Config, Lan};
use super::guest::with;
use crate::backend::{Backend, Received, Sent};

/// A frame that is right up to a certain layer, and anything from there on.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![packet::IPV4, packet::IPV6, packet::ARP, 0x88cc]);
    let protocol = prop::sample::select(vec![packet::TCP, packet::UDP, packet::ICMP, packet::ICMPV6, 99]);
    let to = prop::sample::select(vec![1_u8, 11, 12, 13, 99, 255]);
    let port = prop::sample::select(vec![7_u16, 80, 81, 40_001]);
    let body = prop::collection::vec(any::<u8>(), 0..200);
    let noise = prop::collection::vec((0..300_usize, any::<u8>()), 0..3);
    (any::<[u8; 12]>(), kind, protocol, to, port, body, (any::<bool>(), any::<bool>()), noise).prop_map(
        |(header, kind, protocol, to, port, mut body, (plain, sums), noise)| {
            if let Some(ports) = body.get_mut(2..4) {
                ports.copy_from_slice(&port.to_be_bytes());
            }
            let (source, destination) = match kind {
                packet::IPV6 => (plan::GUEST[1], plan::server(to)[1]),
                _ => (plan::GUEST[0], plan::server(to)[0]),
            };
            let mut frame = vec![0; HEADROOM];
            if matches!(kind, packet::IPV4 | packet::IPV6) {
                let mut packet = vec![0; packet::header_length(source)];
                packet.extend(body);
                packet::write_header(&mut packet, source, destination, protocol);
                if sums {
                    packet::write_checksum(&mut packet, false);
                }
                frame.extend(packet);
            } else {
                frame.extend([0, 1, 8, 0, 6, 4, 0, to % 3]);
                frame.extend(body);
            }
            if !plain {
                frame[..12].copy_from_slice(&header);
            }
            let mac = if to == 255 { [0xff; 6] } else { plan::mac(plan::server(to)[0]) };
            frame[12..18].copy_from_slice(&mac);
            frame[18..24].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 2]);
            frame[24..26].copy_from_slice(&kind.to_be_bytes());
            for (at, byte) in noise {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_a_guest_sends_is_harmful(frames in prop::collection::vec(frame(), 1..40), offloads: bool) {
        let (mut lan, _handle) = Lan::open(&Config::default()).expect("a network");
        lan.negotiated(if offloads { lan.offloads() } else { Features::empty() }).expect("negotiated");
        let mut now = Instant::now();
        let mut room = vec![0; LONGEST];
        for mut frame in frames {
            prop_assert_eq!(with(&mut frame, |frame| lan.send(frame)).expect("taken"), Sent::Done);
            lan.turn(now);
            now += Duration::from_millis(300);
            while let Received::Frame(length) = with(&mut room, |room| lan.receive(room)).expect("alive") {
                prop_assert!(length >= HEADROOM);
                let header = NetHdr::parse(room.first_chunk().expect("a header"));
                prop_assert!(offloads || header == NetHdr::default());
            }
        }
    }

    #[test]
    fn frames_of_any_length_are_taken(length in 0..LONGEST + 100, byte: u8) {
        let (mut lan, _handle) = Lan::open(&Config::default()).expect("a network");
        lan.negotiated(lan.offloads()).expect("negotiated");
        let mut frame = vec![byte; length];
        prop_assert_eq!(with(&mut frame, |frame| lan.send(frame)).expect("taken"), Sent::Done);
        lan.turn(Instant::now());
    }
}

#[test]
fn a_guest_that_never_takes_anything_fills_nothing() {
    let (mut lan, _handle) = Lan::open(&Config::default()).expect("a network");
    lan.negotiated(Features::empty()).expect("negotiated");
    let mut packet = vec![0; 20];
    packet.extend([8, 0, 0, 0, 0, 1, 0, 1]);
    packet::write_header(&mut packet, plan::GUEST[0], plan::GATEWAY[0], packet::ICMP);
    packet::write_checksum(&mut packet, false);
    let mut frame = vec![0; HEADROOM];
    frame.extend(packet);
    frame[12..18].copy_from_slice(&plan::mac(plan::GATEWAY[0]));
    frame[24..26].copy_from_slice(&packet::IPV4.to_be_bytes());
    // The gateway has to know where to answer.
    let mut arp = vec![0; HEADROOM];
    arp.extend([0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    arp[12..18].copy_from_slice(&[0xff; 6]);
    arp[24..26].copy_from_slice(&packet::ARP.to_be_bytes());
    with(&mut arp, |arp| lan.send(arp)).expect("taken");
    for _ in 0..10_000 {
        with(&mut frame, |frame| lan.send(frame)).expect("taken");
    }
    let mut room = vec![0; LONGEST];
    let mut count = 0;
    while let Received::Frame(_) = with(&mut room, |room| lan.receive(room)).expect("alive") {
        count += 1;
    }
    assert!((1000..5000).contains(&count), "{count} frames were kept");
    assert_eq!(lan.counters().to_guest.dropped + count, 10_001);
}

#[test]
fn nobody_answers_for_everybody() {
    let (mut lan, _handle) = Lan::open(&Config::default()).expect("a network");
    lan.negotiated(Features::empty()).expect("negotiated");
    let mut packet = vec![0; 20];
    packet.extend([8, 0, 0, 0, 0, 1, 0, 1]);
    let mut room = vec![0; LONGEST];
    // To a network's broadcast address, and to a host's address with everybody's Ethernet address.
    for (last, answers) in [(255, 0), (12, 1)] {
        packet::write_header(&mut packet, plan::GUEST[0], plan::server(last)[0], packet::ICMP);
        packet::write_checksum(&mut packet, false);
        let mut frame = vec![0; HEADROOM];
        frame.extend(&packet);
        frame[12..18].copy_from_slice(&[0xff; 6]);
        frame[24..26].copy_from_slice(&packet::IPV4.to_be_bytes());
        with(&mut frame, |frame| lan.send(frame)).expect("taken");
        // Each that wants to answer has to ask for the guest's Ethernet address first.
        let questions = std::iter::from_fn(|| match with(&mut room, |room| lan.receive(room)).expect("alive") {
            Received::Frame(length) => Some(length),
            _ => None,
        });
        assert_eq!(questions.count(), answers, "to 10.0.0.{last}");
    }
}
