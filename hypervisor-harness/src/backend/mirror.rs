//! A network for tests, in which every frame comes back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::{Backend, Counters, Received, Scatter, Sent};

/// Gives back what it is sent, header included, in that order; a header alone it refuses for now. Nothing happens in it by
/// itself, and it has nothing to wait on.
#[derive(Debug, Default)]
pub struct Mirror(VecDeque<Vec<u8>>);

impl Backend for Mirror {
    fn name(&self) -> &'static str {
        "mirror"
    }

    fn offloads(&self) -> Features {
        Features::empty()
    }

    fn negotiated(&mut self, _: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        if frame.len() <= NetHdr::LEN {
            return Ok(Sent::Later);
        }
        let mut bytes = vec![0; frame.len()];
        frame.read(0, &mut bytes);
        self.0.push_back(bytes);
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let Some(frame) = self.0.front() else { return Ok(Received::Empty) };
        if frame.len() > room.len() {
            return Ok(Received::TooSmall(frame.len()));
        }
        let length = room.write(0, frame);
        self.0.pop_front();
        Ok(Received::Frame(length))
    }

    fn discard(&mut self) {
        self.0.pop_front();
    }

    fn turn(&mut self, _: Instant) -> Option<Instant> {
        None
    }

    fn wait_on(&self, _: &mut Vec<RawFd>) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
