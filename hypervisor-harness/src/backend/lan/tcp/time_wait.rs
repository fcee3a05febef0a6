//! Connections that are over on this side, whose last segments may still be under way (RFC 9293, section 3.6.1).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::device::{Header, RST, SYN};

/// How long they are remembered. Nothing here takes longer to arrive.
const LINGER: Duration = Duration::from_secs(10);
/// How many are remembered; beyond that the oldest goes.
const MOST: usize = 16_384;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// On the host that this is about.
    pub local: SocketAddr,
    /// On the other one.
    pub remote: SocketAddr,
}

/// What is remembered.
#[derive(Debug, Default)]
pub struct TimeWait {
    flows: HashMap<Flow, (u32, u32)>,
    ages: VecDeque<(Instant, Flow)>,
}

/// What to do about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The connection is not one that is remembered.
    Stranger,
    /// Say once more that everything arrived: these sequence and acknowledgment numbers.
    Acknowledge(u32, u32),
    /// Nothing.
    Ignore,
}

impl TimeWait {
    /// Remembers a connection with the numbers of its last acknowledgment.
    pub fn remember(&mut self, flow: Flow, sequence: u32, acknowledgment: u32, now: Instant) {
        self.forget(now);
        if self.flows.insert(flow, (sequence, acknowledgment)).is_none() {
            self.ages.push_back((now, flow));
        }
    }

    /// A segment came that belongs to no living connection.
    pub fn answer(&mut self, flow: &Flow, header: &Header, now: Instant) -> Answer {
        self.forget(now);
        let Some(&(sequence, acknowledgment)) = self.flows.get(flow) else { return Answer::Stranger };
        if header.is(RST) {
            return Answer::Ignore;
        }
        // A new connection with the same ends may begin with a higher number (RFC 9293, section 3.10.7.4).
        if header.is(SYN) && (header.sequence.wrapping_sub(acknowledgment) as i32) > 0 {
            self.flows.remove(flow);
            return Answer::Stranger;
        }
        Answer::Acknowledge(sequence, acknowledgment)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, flow)) = self.ages.front()
            && (self.ages.len() > MOST || now > *since + LINGER)
        {
            self.flows.remove(flow);
            self.ages.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow { local: ([10, 0, 0, 11], 80).into(), remote: ([10, 9, 0, 1], port).into() }
    }

    fn segment(flags: u8, sequence: u32) -> Header {
        Header { source: 1, destination: 80, sequence, acknowledgment: 0, flags, data_offset: 20, payload: 0 }
    }

    #[test]
    fn late_segments_are_acknowledged_until_it_is_over() {
        let (mut waiting, now) = (TimeWait::default(), Instant::now());
        waiting.remember(flow(1), 100, 200, now);
        assert_eq!(waiting.answer(&flow(1), &segment(17, 199), now), Answer::Acknowledge(100, 200));
        assert_eq!(waiting.answer(&flow(1), &segment(RST, 199), now), Answer::Ignore);
        assert_eq!(waiting.answer(&flow(2), &segment(17, 199), now), Answer::Stranger);
        assert_eq!(waiting.answer(&flow(1), &segment(SYN, 201), now), Answer::Stranger, "a new connection");
        waiting.remember(flow(3), 100, 200, now);
        assert_eq!(waiting.answer(&flow(3), &segment(17, 199), now + LINGER * 2), Answer::Stranger);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut waiting, now) = (TimeWait::default(), Instant::now());
        for port in 0..=u16::MAX {
            waiting.remember(flow(port), 0, 0, now);
        }
        assert!(waiting.flows.len() <= MOST + 1 && waiting.ages.len() <= MOST + 1);
    }
}
