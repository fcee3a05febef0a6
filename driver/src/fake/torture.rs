//! A driver under a device that does anything at all.

use std::vec::Vec;

use super::{Device, FakeHal, FakeTransport, Mischief};
use crate::buffer::{Frame, Pool};
use crate::features::Features;
use crate::net::{self, AnyDevice, Negotiation, Settings};
use crate::ring::Virtqueue;
use crate::wire::{NetHdr, RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// Lets `script` decide what device, driver and caller do, one after another, and checks that the driver bears it: every script
/// is a legal one. For property tests and fuzzers.
///
/// # Panics
/// If the driver panics, breaks the rules towards a device that keeps to them itself, gives out a buffer twice, or loses one.
pub fn torture(script: &[u8]) {
    let mut script = Script { bytes: script };
    let pool = Pool::allocate::<FakeHal>(64).expect("memory");
    let mut held = Vec::new();
    let mut rounds = 0;
    while !script.bytes.is_empty() && rounds < 8 {
        rounds += 1;
        round(&mut script, &pool, &mut held);
    }
    drop(held);
    assert_eq!(pool.available(), pool.capacity(), "a buffer is lost");
}

/// One life of a device, from negotiation to reset.
fn round(script: &mut Script<'_>, pool: &Pool, held: &mut Vec<Frame>) {
    let offered = Features::from_bits_retain(script.word64() & Features::IMPLEMENTED.bits()) | Features::VERSION_1;
    let fake = Device::new(offered, [2, 0, 0, 0, 0, script.byte()], script.word16());
    fake.set_queue_size(u16::from(script.byte() % 40).max(1));
    let how = script.byte();
    fake.set_reversed(how & 1 != 0);
    fake.set_batching(how & 2 != 0);
    let settings = Settings { reserve: usize::from(script.byte() % 32), ..Settings::default() };
    let begun = Negotiation::begin(fake.transport()).expect("the device is a network device");
    match begun.accept::<FakeHal>(Features::IMPLEMENTED, Features::VERSION_1, pool, settings) {
        Ok(AnyDevice::Split(device)) => life(script, &fake, device, held),
        Ok(AnyDevice::Packed(device)) => life(script, &fake, device, held),
        Err(_) => {}
    }
    let segments: usize = held.iter().map(Frame::segment_count).sum();
    assert_eq!(pool.available() + segments, pool.capacity(), "a buffer is lost");
}

/// From start to reset.
fn life<R: Virtqueue<Frame>>(
    script: &mut Script<'_>,
    fake: &Device,
    mut device: net::Device<R, FakeTransport>,
    held: &mut Vec<Frame>,
) {
    while !script.bytes.is_empty() {
        let ends = step(script, fake, &mut device, held).is_none();
        check(held);
        if ends || device.receive().broken().or(device.transmit().broken()).is_some() {
            break;
        }
    }
    device.close().expect("the device resets");
}

/// One action. Nothing if the life of the device ends.
fn step<R: Virtqueue<Frame>>(
    script: &mut Script<'_>,
    fake: &Device,
    device: &mut net::Device<R, FakeTransport>,
    held: &mut Vec<Frame>,
) -> Option<()> {
    let queue = if script.byte() & 1 == 0 { RECEIVE_QUEUE } else { TRANSMIT_QUEUE };
    match script.byte() % 14 {
        0 | 1 => {
            let header = NetHdr::parse(&script.array());
            let frame = [0xa5; 70000];
            fake.inject(header, &frame[..usize::from(script.word16())]);
        }
        2 | 3 => {
            let mut frames = [const { None }; 4];
            if let Ok(count) = device.receive().burst(&mut frames) {
                assert!(frames[count..].iter().all(Option::is_none));
                held.extend(frames.into_iter().flatten());
            }
        }
        4 | 5 => {
            if let Some(frame) = held.pop()
                && let Err(refused) = device.transmit().push(frame)
                && script.byte() & 1 == 0
            {
                held.push(refused.frame);
            }
        }
        6 => {
            let _ = device.transmit().flush();
            fake.work();
        }
        7 => {
            let _ = device.transmit().reap();
        }
        8 => device.receive().refill(),
        9 => {
            let (offset, length) = (usize::from(script.word16()) % 300, usize::from(script.byte()) % 24);
            let bytes: Vec<u8> = (0..length).map(|_| script.byte()).collect();
            fake.scribble(queue, offset, &bytes);
        }
        10 => {
            let bytes: [u8; 16] = script.array();
            fake.scribble_buffer(queue, script.word16() % 64, &bytes);
        }
        11 => {
            let value = script.word16();
            let mischief = match script.byte() % 6 {
                0 => Mischief::Id(u32::from(value) << (script.byte() % 17)),
                1 => Mischief::Length(u32::from(value) << (script.byte() % 17)),
                2 => Mischief::Replay,
                3 => Mischief::Jump(value),
                4 => Mischief::NumBuffers(value),
                _ => Mischief::Half,
            };
            fake.misbehave(queue, mischief);
        }
        12 => {
            let _ = (device.receive().arm_interrupt(), device.transmit().arm_interrupt());
            if let Some(frame) = held.last_mut() {
                let _ = frame.prepend(usize::from(script.byte()));
                frame.set_header(NetHdr::parse(&script.array()));
            }
            device.receive().disarm_interrupt();
        }
        _ => {
            let value = script.word16();
            match script.byte() % 4 {
                0 => fake.change_config(|config| config.status = value),
                1 => fake.set_paused(value & 1 != 0),
                2 => fake.fail(),
                _ => return None,
            }
            let _ = (device.control().acknowledge(), device.control().refresh());
        }
    }
    Some(())
}

/// No two frames have a byte in common, and each can be read and written.
fn check(held: &mut [Frame]) {
    let mut ranges = Vec::new();
    for frame in held {
        let mut length = 0;
        for segment in frame.segments_mut() {
            length += segment.len();
            if let [first, .., last] = segment {
                *first = first.wrapping_add(1);
                *last = last.wrapping_add(1);
                ranges.push((first as *const u8 as usize, last as *const u8 as usize));
            }
        }
        assert_eq!(length, frame.len());
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "a buffer was given out twice");
}

/// Where decisions come from. When it is used up they are all zeros.
struct Script<'a> {
    bytes: &'a [u8],
}

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        byte
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    fn word16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn word64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

#[cfg(test)]
mod tests {
    use super::torture;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_the_device_does_the_driver_bears_it(script in proptest::collection::vec(any::<u8>(), 0..400)) {
            torture(&script);
        }
    }
}
