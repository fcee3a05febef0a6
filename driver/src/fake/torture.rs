//! A driver under a device that does anything at all.

use std::cell::Cell;
use std::vec;
use std::vec::Vec;

use super::{Device, FakeHal, FakeTransport, Mischief};
use crate::buffer::{Frame, Pool};
use crate::features::Features;
use crate::net::{self, AnyDevice, Negotiation, Settings};
use crate::ring::Virtqueue;
use crate::wire::{NetHdr, RECEIVE_QUEUE, TRANSMIT_QUEUE};

/// Buffers of the pool.
const BUFFERS: usize = 64;
/// Lives of a device in one script.
const ROUNDS: usize = 8;
/// The longest frame that is sent to the driver: longer than any that it may accept.
const LONGEST: usize = 70_000;

/// Lets `script` decide what device, driver and caller do, one after another, and checks that the driver bears it: every script
/// is a legal one. For property tests and fuzzers; what it needs is made once for each thread.
///
/// # Panics
/// If the driver panics, breaks the rules towards a device that keeps to them itself, gives out a buffer twice, or loses one.
pub fn torture(script: &[u8]) {
    std::thread_local! {
        static STAGE: Cell<Option<Stage>> = const { Cell::new(None) };
    }
    let mut stage = STAGE.take().unwrap_or_else(Stage::new);
    let mut script = Script { bytes: script };
    for _ in 0..ROUNDS {
        if script.bytes.is_empty() {
            break;
        }
        stage.round(&mut script);
    }
    stage.held.clear();
    assert_eq!(stage.pool.available(), stage.pool.capacity(), "a buffer is lost");
    // Not after a panic: then nobody knows what is left of it.
    STAGE.set(Some(stage));
}

/// What outlives a script.
struct Stage {
    fake: Device,
    pool: Pool,
    /// Frames that the caller has.
    held: Vec<Frame>,
    /// Where frames are made that come to the driver.
    frame: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        Self {
            fake: Device::new(Features::VERSION_1, [0; 6], 0),
            pool: Pool::allocate::<FakeHal>(BUFFERS).expect("memory"),
            held: Vec::with_capacity(BUFFERS),
            frame: vec![0xa5; LONGEST],
        }
    }

    /// One life of a device, from negotiation to reset.
    fn round(&mut self, script: &mut Script<'_>) {
        // Mostly what the driver knows; at times anything.
        let known = if script.byte() & 7 == 0 { u64::MAX } else { Features::IMPLEMENTED.bits() };
        let offered = Features::from_bits_retain(script.word64() & known) | Features::VERSION_1;
        let (mac, mtu) = ([script.byte() & 3, 0, 0, 0, 0, script.byte()], script.word16());
        self.fake.renew(offered, mac, mtu);
        self.fake.set_queue_size(u16::from(script.byte() % 40).max(1));
        let how = script.byte();
        self.fake.set_reversed(how & 1 != 0);
        self.fake.set_batching(how & 2 != 0);
        self.fake.set_unstable(how & 0xf0 == 0xf0);
        if how & 0xfc == 4 {
            self.fake.refuse(Features::from_bits_retain(script.word64()));
        }
        let settings = Settings { reserve: usize::from(script.byte() % 32), ..Settings::default() };
        let accepted = Negotiation::begin(self.fake.transport()).and_then(|begun| {
            begun.accept::<FakeHal>(Features::IMPLEMENTED, Features::VERSION_1, &self.pool, settings)
        });
        match accepted {
            Ok(AnyDevice::Split(device)) => self.life(script, device),
            Ok(AnyDevice::Packed(device)) => self.life(script, device),
            Err(_) => {}
        }
        let held: usize = self.held.iter().map(Frame::segment_count).sum();
        assert_eq!(self.pool.available() + held, self.pool.capacity(), "a buffer is lost");
    }

    /// From start to reset.
    fn life<R: Virtqueue<Frame>>(&mut self, script: &mut Script<'_>, mut device: net::Device<R, FakeTransport>) {
        while !script.bytes.is_empty() {
            let ends = self.step(script, &mut device).is_none();
            let broken = device.receive().broken().or(device.transmit().broken()).is_some();
            if ends || broken && !mend(script, &mut device) {
                break;
            }
        }
        check(&mut self.held);
        self.fake.set_stuck(false);
        device.close().expect("the device resets");
    }

    /// One action. Nothing if the life of the device ends.
    fn step<R: Virtqueue<Frame>>(
        &mut self,
        script: &mut Script<'_>,
        device: &mut net::Device<R, FakeTransport>,
    ) -> Option<()> {
        let Self { fake, pool, held, frame } = self;
        let choice = script.byte();
        let queue = if choice & 0x80 == 0 { RECEIVE_QUEUE } else { TRANSMIT_QUEUE };
        match choice % 16 {
            0 | 1 => {
                let header = header(script);
                let length = length(script);
                write_head(script, frame);
                fake.inject(header, &frame[..length]);
            }
            2 | 3 => {
                let mut frames = [const { None }; 4];
                if let Ok(count) = device.receive().burst(&mut frames) {
                    assert!(frames[count..].iter().all(Option::is_none));
                    held.extend(frames.into_iter().flatten());
                    check(held);
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
                let (offset, length) = (usize::from(script.word16()) % 700, usize::from(script.byte()) % 24);
                let mut bytes = [0; 24];
                bytes[..length].fill_with(|| script.byte());
                fake.scribble(queue, offset, &bytes[..length]);
            }
            10 => {
                let bytes: [u8; 16] = script.array();
                fake.scribble_buffer(RECEIVE_QUEUE, script.word16() % 40, &bytes);
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
                let transmit = device.transmit();
                let _ = if choice & 0x20 != 0 { transmit.arm_interrupt_for_next() } else { transmit.arm_interrupt() };
                let _ = (device.receive().arm_interrupt(), device.receive().is_short());
                device.receive().disarm_interrupt();
                if choice & 0x40 != 0 {
                    device.transmit().disarm_interrupt();
                }
            }
            13 => {
                if choice & 0x40 != 0
                    && let Some(mut made) = pool.frame(length(script).min(2000))
                {
                    write_head(script, frame);
                    made.copy_from_slice(frame);
                    held.push(made);
                }
                if let Some(frame) = held.last_mut() {
                    let _ = frame.prepend(usize::from(script.byte()));
                    frame.set_header(header(script));
                }
            }
            14 => {
                let (value, which) = (script.word16(), script.byte());
                match which % 8 {
                    0 => fake.change_config(|config| config.status = value),
                    1 => fake.change_config(|config| config.mac = [value as u8; 6]),
                    2 => fake.change_config(|config| (config.mtu, config.max_virtqueue_pairs) = (value, value)),
                    3 => fake.set_paused(value & 1 != 0),
                    4 => fake.set_batching(value & 1 != 0),
                    5 => fake.interrupt(value as u8),
                    6 => fake.set_unstable(value & 1 != 0),
                    _ => fake.fail(),
                }
                let _ = (device.control().acknowledge(), device.control().refresh());
            }
            _ => match script.byte() % 4 {
                0 | 1 => {
                    fake.set_stuck(choice & 0x70 == 0x70);
                    let _ = device.reset_receive(|frame| held.push(frame));
                }
                2 => {
                    fake.set_stuck(choice & 0x70 == 0x70);
                    let _ = device.reset_transmit(|frame| held.push(frame));
                }
                _ => return None,
            },
        }
        Some(())
    }
}

/// Resets the broken queues alone, if the script wants that and it can be done.
fn mend<R: Virtqueue<Frame>>(script: &mut Script<'_>, device: &mut net::Device<R, FakeTransport>) -> bool {
    script.byte() & 1 == 0
        && (device.receive().broken().is_none() || device.reset_receive(drop).is_ok())
        && (device.transmit().broken().is_none() || device.reset_transmit(drop).is_ok())
}

/// A header: often none, else anything.
fn header(script: &mut Script<'_>) -> NetHdr {
    match script.byte() {
        kind @ 0..0xc0 if kind & 1 == 0 => NetHdr::default(),
        kind @ 0..0xc0 => NetHdr {
            gso_type: [NetHdr::GSO_NONE, NetHdr::GSO_TCPV4, NetHdr::GSO_TCPV6, NetHdr::GSO_UDP_L4]
                [usize::from(kind >> 1 & 3)],
            gso_size: script.word16(),
            hdr_len: 54,
            ..NetHdr::partial_checksum(34, 16)
        },
        _ => NetHdr::parse(&script.array()),
    }
}

/// The length of a frame: mostly short, since long ones take long.
fn length(script: &mut Script<'_>) -> usize {
    match script.byte() {
        byte @ 0..240 => usize::from(byte) * 12,
        _ => usize::from(script.word16()) + usize::from(script.byte()) * 16,
    }
}

/// Writes the start of a TCP segment, with a few bytes of the script's.
fn write_head(script: &mut Script<'_>, frame: &mut [u8]) {
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 6]);
    (frame[46], frame[47]) = (0x50, 0x10);
    for _ in 0..script.byte() % 8 {
        frame[usize::from(script.byte() % 80)] = script.byte();
    }
}

/// No two frames have a byte in common, and each can be read and written.
fn check(held: &mut [Frame]) {
    let (mut ranges, mut count) = ([(0, 0); BUFFERS], 0);
    for frame in held {
        let mut length = 0;
        for segment in frame.segments_mut() {
            length += segment.len();
            if let [first, .., last] = segment {
                *first = first.wrapping_add(1);
                *last = last.wrapping_add(1);
                ranges[count] = (first as *const u8 as usize, last as *const u8 as usize);
                count += 1;
            }
        }
        assert_eq!(length, frame.len());
    }
    let ranges = &mut ranges[..count];
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
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn whatever_the_device_does_the_driver_bears_it(script in proptest::collection::vec(any::<u8>(), 0..400)) {
            torture(&script);
        }
    }
}
