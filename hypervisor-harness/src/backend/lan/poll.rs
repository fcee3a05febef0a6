//! The one descriptor that stands for all of the network's: an epoll instance.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Events taken in one go.
const BATCH: usize = 128;

/// Who owns a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// The rest of the program has an order.
    Orders,
    /// A published TCP port has connections.
    Listener(u32),
    /// A published UDP port has datagrams.
    Published(u32),
    /// A socket to a real UDP server has datagrams.
    Relay(u32),
    /// A TCP connection; the second number tells it from earlier ones in the same place.
    Connection(u32, u32),
}

impl Token {
    fn encode(self) -> u64 {
        let (kind, high, low) = match self {
            Self::Orders => (0, 0, 0),
            Self::Listener(at) => (1, 0, at),
            Self::Published(at) => (2, 0, at),
            Self::Relay(number) => (3, 0, number),
            Self::Connection(at, generation) => (4, generation & 0x0fff_ffff, at),
        };
        kind << 60 | u64::from(high) << 32 | u64::from(low)
    }

    fn decode(data: u64) -> Option<Self> {
        let low = data as u32;
        Some(match data >> 60 {
            0 => Self::Orders,
            1 => Self::Listener(low),
            2 => Self::Published(low),
            3 => Self::Relay(low),
            4 => Self::Connection(low, (data >> 32) as u32 & 0x0fff_ffff),
            _ => return None,
        })
    }
}

/// What a descriptor has become. Edges, not levels: whoever is told must read or write until nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// There may be something to read, the end included.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// It has failed.
    pub failed: bool,
}

/// The epoll instance.
#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poll {
    /// An empty one.
    ///
    /// # Errors
    /// If the process has no more descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, events: vec![EpollEvent::default(); BATCH] })
    }

    /// Watches a descriptor until it is closed.
    ///
    /// # Errors
    /// If the host is out of memory or has reached its limit.
    pub fn watch(&self, fd: &impl AsRawFd, token: Token) -> io::Result<()> {
        let mut interest = EventSet::IN | EventSet::EDGE_TRIGGERED;
        if matches!(token, Token::Connection(..)) {
            interest |= EventSet::OUT | EventSet::READ_HANG_UP;
        }
        self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(interest, token.encode()))
    }

    /// Whatever became ready, without waiting, into `into`. Returns whether there may be more.
    pub fn take(&mut self, into: &mut Vec<(Token, Readiness)>) -> bool {
        // A signal is no reason to complain: the next turn asks again.
        let count = self.epoll.wait(0, &mut self.events).unwrap_or(0);
        into.extend(self.events[..count].iter().filter_map(|event| {
            let set = event.event_set();
            let hung_up = set.intersects(EventSet::HANG_UP | EventSet::READ_HANG_UP | EventSet::ERROR);
            let readiness = Readiness {
                readable: set.contains(EventSet::IN) || hung_up,
                writable: set.intersects(EventSet::OUT | EventSet::HANG_UP),
                failed: set.contains(EventSet::ERROR),
            };
            Some((Token::decode(event.data())?, readiness))
        }));
        count == BATCH
    }

    /// The descriptor that is readable whenever any of the watched ones has news.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Orders,
            Token::Listener(7),
            Token::Published(u32::MAX),
            Token::Relay(1),
            Token::Connection(u32::MAX, 0x0fff_ffff),
            Token::Connection(3, 4),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
