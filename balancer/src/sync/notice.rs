//! What Ringlets tell each other besides, and Linux does not know: messages of version 1 without connections.
//!
//! Linux (and whoever follows it) reads the header, finds that there are no connections, and looks no further. Behind the
//! header are 24 bytes: "RLSY", kind, version 1, two zeros, then two numbers of 64 bits in network order.
//!
//! - A backup that begins asks (kind 1, both numbers 0): a master of its syncid sends all it has.
//! - A master that does so says that first (kind 3, both numbers 0): who has asked need not ask again.
//! - A master tells now and then (kind 2) how many messages it has sent to a port since it began, and a number that is another
//!   each time it begins. From that a backup knows how many it has missed.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::message::{HEADER_V1, Message};

const MAGIC: [u8; 4] = *b"RLSY";
const VERSION: u8 = 1;
const BODY: usize = 24;

/// Such a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// Who hears this and is a master is to send all it has.
    Ask,
    /// Everything is sent from here on.
    All,
    /// So many messages were sent.
    Report {
        /// Another one each time a master begins.
        incarnation: u64,
        sent: u64,
    },
}

impl Notice {
    /// The notice in a message, if it is one.
    pub fn read(message: &Message<'_>) -> Option<Self> {
        let body = message.body.first_chunk::<BODY>().filter(|_| message.version == 1)?;
        if message.records().next().is_some() || body[..4] != MAGIC || body[5] != VERSION {
            return None;
        }
        let number = |at: usize| body[at..at + 8].try_into().map(u64::from_be_bytes).unwrap_or_default();
        match body[4] {
            1 => Some(Notice::Ask),
            3 => Some(Notice::All),
            2 => Some(Notice::Report { incarnation: number(8), sent: number(16) }),
            _ => None,
        }
    }

    /// The message it is.
    pub fn write(self, syncid: u8, out: &mut Vec<u8>) {
        let (kind, incarnation, sent) = match self {
            Notice::Ask => (1, 0, 0),
            Notice::All => (3, 0, 0),
            Notice::Report { incarnation, sent } => (2, incarnation, sent),
        };
        out.clear();
        out.extend([0, syncid, 0, (HEADER_V1 + BODY) as u8, 0, 1, 0, 0]);
        out.extend(MAGIC);
        out.extend([kind, VERSION, 0, 0]);
        out.extend(incarnation.to_be_bytes());
        out.extend(sent.to_be_bytes());
    }
}

/// Masters that are listened to. More than so many at a time are not told apart.
const PEERS: usize = 64;

/// A port of a master, as far as its reports tell of it.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Where it sends from and to.
    ends: (IpAddr, u16, u16),
    incarnation: u64,
    /// What its first report said.
    first: u64,
    /// Messages that have come since.
    received: u64,
    lost: u64,
}

/// What has come from whom.
#[derive(Debug, Default)]
pub(super) struct Peers(Vec<Peer>);

impl Peers {
    /// Takes the memory.
    pub fn reserve(&mut self) -> bool {
        self.0.try_reserve_exact(PEERS).is_ok()
    }

    /// A message with connections has come.
    pub fn received(&mut self, ends: (IpAddr, u16, u16)) {
        if let Some(peer) = self.0.iter_mut().find(|peer| peer.ends == ends) {
            peer.received += 1;
        }
    }

    /// A report has come. Returns how many messages are known to be lost by it that were not before.
    pub fn reported(&mut self, ends: (IpAddr, u16, u16), incarnation: u64, sent: u64) -> u64 {
        let new = Peer { ends, incarnation, first: sent, received: 0, lost: 0 };
        match self.0.iter_mut().find(|peer| peer.ends == ends) {
            Some(peer) if peer.incarnation == incarnation && sent >= peer.first => {
                // What is late is not lost: the difference is looked at, not the sum of differences.
                let missing = (sent - peer.first).saturating_sub(peer.received);
                let more = missing.saturating_sub(peer.lost);
                peer.lost += more;
                more
            }
            Some(peer) => {
                *peer = new;
                0
            }
            None => {
                if self.0.len() >= PEERS {
                    self.0.remove(0);
                }
                self.0.push(new);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: (IpAddr, u16, u16) = (IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 3)), 1, 8848);

    #[test]
    fn a_notice_comes_back_and_is_a_message_without_connections() {
        for notice in [Notice::Ask, Notice::All, Notice::Report { incarnation: 3, sent: u64::MAX }] {
            let mut bytes = Vec::new();
            notice.write(9, &mut bytes);
            let message = Message::read(&bytes).unwrap();
            assert_eq!((message.syncid, message.records().count()), (9, 0));
            assert_eq!(Notice::read(&message), Some(notice));
        }
        assert_eq!(Notice::read(&Message::read(&[0, 9, 0, 8, 0, 1, 0, 0]).unwrap()), None);
    }

    #[test]
    fn what_was_sent_since_the_first_report_and_has_not_come_is_lost() {
        let mut peers = Peers::default();
        assert_eq!(peers.reported(ENDS, 1, 100), 0, "what was before is not known");
        (0..3).for_each(|_| peers.received(ENDS));
        assert_eq!(peers.reported(ENDS, 1, 105), 2);
        peers.received(ENDS);
        assert_eq!(peers.reported(ENDS, 1, 105), 0, "one was late");
        assert_eq!(peers.reported(ENDS, 1, 107), 1);
        assert_eq!(peers.reported(ENDS, 2, 50), 0, "it has begun again");
        assert_eq!(peers.reported(ENDS, 2, 51), 1);
    }

    #[test]
    fn there_is_an_end_to_peers() {
        let mut peers = Peers::default();
        assert!(peers.reserve());
        (0..1000).for_each(|port| assert_eq!(peers.reported((ENDS.0, port, 1), 1, 1), 0));
        assert_eq!(peers.0.len(), PEERS);
    }
}
