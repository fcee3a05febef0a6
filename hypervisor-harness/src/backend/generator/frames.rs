//! The frames of a load for those who are no device: without virtio headers.

use ringlet_driver::wire::NetHdr;

use super::template::Template;
use super::{Error, Load};

/// The frames of a load, in the order in which the network gives them to a guest without offloads, for ever.
#[derive(Debug)]
pub struct Frames {
    template: Template,
    flows: u32,
    flow: u32,
    round: u32,
    nth: usize,
}

impl Frames {
    /// The frames of this load.
    ///
    /// # Errors
    /// If there can be no such load.
    pub fn new(load: &Load) -> Result<Self, Error> {
        load.check()?;
        Ok(Self { template: Template::new(load, false, false), flows: load.flows, flow: 0, round: 0, nth: 0 })
    }

    /// The next frame.
    pub fn next_frame(&mut self) -> &[u8] {
        let (flow, round, nth) = (self.flow, self.round, self.nth);
        self.nth += 1;
        if self.nth >= self.template.frames(round) {
            (self.nth, self.flow) = (0, self.flow + 1);
            if self.flow == self.flows {
                (self.flow, self.round) = (0, round.wrapping_add(1));
            }
        }
        self.template.fill(flow, round, nth);
        self.template.bytes(round, nth).get(NetHdr::LEN..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flow_has_its_turn() {
        let mut frames = Frames::new(&Load { flows: 3, ..Load::default() }).unwrap();
        let all: Vec<_> = (0..6).map(|_| frames.next_frame().to_vec()).collect();
        assert!(all.iter().all(|frame| frame.len() == super::super::LEAST_FRAME));
        let clients: Vec<_> = all.iter().map(|frame| frame[26..36].to_vec()).collect();
        assert_eq!(clients[..3], clients[3..]);
        assert!(clients[0] != clients[1] && clients[1] != clients[2]);
        // The rounds differ in their marks.
        assert_ne!(all[0], all[3]);
        assert!(Frames::new(&Load { flows: 0, ..Load::default() }).is_err());
    }
}
