//! The largest segment that each peer takes, as it announced it (RFC 9293, section 3.7.1).
//!
//! smoltcp is told of an MTU of 64 KiB where the device cuts segments over IPv6: 0.14 drops every IPv6 packet above the MTU,
//! even one that the device was to cut. What a wire and a peer can take is seen to at the device instead, for which it has to
//! be known there. See [`super::device`].

use alloc::vec::Vec;

use smoltcp::wire::IpEndpoint;

/// More than there are sockets at any time, so that everybody who has a connection has a place.
pub(crate) const CAPACITY: usize = 256;

/// The segment size of a peer that announces none, or that is not known any more (RFC 9293, section 3.7.1), in bytes.
const DEFAULT_MSS: u16 = 536;
/// The least segment size that is believed, in bytes: what smoltcp believes, and what is left of it with all options is still
/// more than nothing.
const LEAST_MSS: u16 = 48;

/// Both ends of a connection, ours first.
pub(crate) type Ends = (IpEndpoint, IpEndpoint);

#[derive(Debug)]
struct Peer {
    ends: Ends,
    mss: u16,
}

/// What was announced, by connection.
#[derive(Debug)]
pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    pub fn new() -> Self {
        Self(Vec::with_capacity(CAPACITY))
    }

    /// Remembers what the first segment of a connection announced: bytes of TCP payload, options counted in. `is_open` says
    /// which connections there are, and is asked only when room has to be made.
    pub fn announced(&mut self, ends: Ends, mss: Option<u16>, is_open: impl Fn(&Ends) -> bool) {
        // As smoltcp, and Linux, a size of 0 is none.
        let mss = mss.filter(|mss| *mss != 0).unwrap_or(DEFAULT_MSS).max(LEAST_MSS);
        if let Some(known) = self.0.iter_mut().find(|peer| peer.ends == ends) {
            known.mss = mss;
            return;
        }
        if self.0.len() == CAPACITY {
            self.0.retain(|peer| is_open(&peer.ends));
        }
        // Who finds no place is sent small segments.
        if self.0.len() < CAPACITY {
            self.0.push(Peer { ends, mss });
        }
    }

    /// The largest segment the peer takes, in bytes of TCP payload, options counted in.
    pub fn mss(&self, ends: &Ends) -> u16 {
        // The newest are those that work.
        self.0.iter().rev().find(|peer| peer.ends == *ends).map_or(DEFAULT_MSS, |peer| peer.mss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    fn ends(port: u16) -> Ends {
        let ours: SocketAddr = "[fd00::2]:5201".parse().unwrap();
        (ours.into(), SocketAddr::new("fd00::9".parse().unwrap(), port).into())
    }

    #[test]
    fn what_is_announced_is_believed_within_reason() {
        let mut peers = Peers::new();
        for (announced, believed) in
            [(None, 536), (Some(0), 536), (Some(1), 48), (Some(1440), 1440), (Some(9000), 9000)]
        {
            peers.announced(ends(1), announced, |_| true);
            assert_eq!(peers.mss(&ends(1)), believed, "{announced:?}");
        }
        assert_eq!(peers.mss(&ends(2)), 536);
    }

    #[test]
    fn room_is_made_by_forgetting_what_is_over_and_nothing_else() {
        let mut peers = Peers::new();
        for port in 0..CAPACITY as u16 {
            peers.announced(ends(port), Some(1000 + port), |_| false);
        }
        peers.announced(ends(999), Some(1400), |(_, peer)| peer.port < 10);
        assert_eq!(peers.mss(&ends(999)), 1400);
        assert_eq!((peers.mss(&ends(9)), peers.mss(&ends(10))), (1009, 536));
        for port in 1000..2000 {
            peers.announced(ends(port), Some(1300), |_| true);
        }
        // All places are taken by connections that are open.
        assert_eq!((peers.mss(&ends(999)), peers.mss(&ends(1999))), (1400, 536));
        assert!(peers.0.capacity() == CAPACITY);
    }
}
