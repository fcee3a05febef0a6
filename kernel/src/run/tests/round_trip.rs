//! Frames in circulation, with a mirror at the other end.

use super::*;

/// Lets the machine work for a while and sends every frame back, addresses exchanged, as `damage` leaves it.
fn mirror(world: &mut World, steps: usize, mut damage: impl FnMut(usize, &mut Vec<u8>) -> bool) -> usize {
    let mut seen = 0;
    for _ in 0..steps {
        world.platform.advance(100_000);
        let console = Console::new(&*world.platform, true);
        world.running.turn(&*world.platform, &console).unwrap();
        for (_, mut frame) in world.device.take_sent() {
            let (to, from) = (frame[..6].to_vec(), frame[6..12].to_vec());
            frame[..6].copy_from_slice(&from);
            frame[6..12].copy_from_slice(&to);
            if damage(seen, &mut frame) {
                world.device.inject(NetHdr::default(), &frame);
            }
            seen += 1;
        }
    }
    seen
}

fn told(world: &World) -> (u64, u64, u64) {
    let last = records(world, "roundtrip").pop().expect("a record after each status");
    let number = |name: &str| last[name].as_u64().unwrap();
    (number("returned"), number("injected"), number("wrong"))
}

fn circulating(options: &str) -> World {
    let device = Device::new(ALL, MAC, 1500);
    World::with(device, &format!("status=1 idle_spin=0 {options}"), "").unwrap_or_else(|(_, said)| panic!("{said}"))
}

#[test]
fn frames_circulate_for_ever() {
    let mut world = circulating("roundtrip=8,1514");
    let seen = mirror(&mut world, 400, |_, frame| {
        assert_eq!(frame.len(), 1514);
        true
    });
    let (returned, injected, wrong) = told(&world);
    assert_eq!((injected, wrong), (8, 0));
    assert!(returned > 1000 && seen as u64 > returned, "{seen} seen, {returned} returned");
    mirror(&mut world, 2, |_, _| false);
    world.assert_nothing_is_lost();
}

#[test]
fn lost_frames_are_replaced_and_changed_ones_counted() {
    let mut world = circulating("roundtrip=8");
    // One is lost on the way, which leaves seven; then all are.
    mirror(&mut world, 50, |nth, _| nth != 3);
    assert_eq!(told(&world).1, 8);
    mirror(&mut world, 5, |_, _| false);
    mirror(&mut world, 150, |_, _| true);
    let (returned, injected, wrong) = told(&world);
    assert_eq!((injected, wrong), (16, 0));
    // Length and mark of each are looked at, the rest of every 64th.
    mirror(&mut world, 5, |_, frame| {
        frame.truncate(60);
        true
    });
    mirror(&mut world, 150, |_, _| true);
    mirror(&mut world, 50, |_, frame| {
        frame[63] = 0xff;
        true
    });
    let after = told(&world);
    assert_eq!(after.1, 24, "after those that were cut, new ones came");
    assert!(after.2 > 8 && after.0 > returned, "{after:?}");
}

/// Lets the machine work, in front of a mirror that keeps what there is no room for.
fn patient_mirror(world: &mut World, steps: usize) {
    let mut kept = std::collections::VecDeque::new();
    for _ in 0..steps {
        world.platform.advance(100_000);
        world.turn();
        kept.extend(world.device.take_sent());
        while let Some((header, frame)) = kept.pop_front() {
            if !world.device.inject(header, &frame) {
                kept.push_front((header, frame));
                break;
            }
        }
    }
}

#[test]
fn more_frames_than_the_queues_hold_circulate_too() {
    let mut world = circulating("roundtrip=700");
    patient_mirror(&mut world, 400);
    let (returned, injected, wrong) = told(&world);
    assert_eq!((injected, wrong, world.counters().lost_in_all()), (700, 0, 0));
    assert!(returned > 10_000, "{returned}");
    assert!(!world.platform.console().contains("roundtrip=: only"));
}

#[test]
fn no_more_circulate_than_leave_buffers_to_receive_into() {
    let mut world = circulating("roundtrip=8192");
    patient_mirror(&mut world, 800);
    let (returned, injected, wrong) = told(&world);
    assert!(
        (800..1100).contains(&injected) && wrong == 0 && returned > 10_000,
        "{injected} put in, {returned} returned"
    );
    assert_eq!(world.counters().lost_in_all(), 0);
    assert!(world.platform.console().contains(&format!("roundtrip=: only {injected} ")));
}

#[test]
fn a_device_that_keeps_them_all_is_given_no_more() {
    // More than the queue holds, and fewer.
    for frames in [700, 100] {
        let mut world = circulating(&format!("roundtrip={frames}"));
        world.device.set_paused(true);
        let slept = world.platform.idles();
        mirror(&mut world, 1000, |_, _| false);
        assert_eq!((told(&world).1, world.counters().lost_in_all()), (frames, 0));
        assert!(world.platform.idles() - slept >= 900, "{frames}: it does not spin");
        world.device.set_paused(false);
        patient_mirror(&mut world, 400);
        let (returned, injected, wrong) = told(&world);
        assert_eq!((injected, wrong), (frames, 0));
        assert!(returned > 10_000, "{returned}");
    }
}

#[test]
fn frames_circulate_through_the_fewest_buffers() {
    for buffers in [64, 128, 512] {
        let mut world = circulating(&format!("buffers={buffers} roundtrip=8192"));
        patient_mirror(&mut world, 400);
        let (returned, injected, wrong) = told(&world);
        assert!(world.platform.console().contains(&format!("roundtrip=: only {injected} ")), "{injected} put in");
        assert!(injected >= buffers / 4 && wrong == 0 && returned > 1000, "{buffers}: {injected}, {returned} returned");
        assert_eq!(world.counters().lost_in_all(), 0);
        world.assert_nothing_is_lost();
    }
}
