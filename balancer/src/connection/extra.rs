//! What a connection has of which IPVS knows nothing.

use core::net::IpAddr;

use crate::Announce;

/// What lies beside a connection whose [`Entry::is_extra`](super::Entry::is_extra).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Full NAT: the address and port of ours that stand for the client's at the server.
    pub local: Option<(IpAddr, u16)>,
    /// What is different about its stream, if it is of TCP and anything is.
    pub splice: Option<Splice>,
    /// It counts as half open.
    pub is_half_open: bool,
    /// What the client acknowledges that gets what the server of a half-open connection says: from its first byte on to
    /// the last one it has sent so far.
    pub answered: Option<(u32, u32)>,
}

impl Extra {
    /// Notes what the server of a half-open connection has sent: a SYN-ACK, or what came behind it.
    pub fn hear(&mut self, is_first: bool, number: u32, length: u32) {
        let end = number.wrapping_add(length);
        match &mut self.answered {
            _ if is_first => self.answered = Some((number.wrapping_add(1), end)),
            Some((_, last)) if (end.wrapping_sub(*last) as i32) > 0 => *last = end,
            _ => {}
        }
    }

    /// Whether what a client acknowledges shows that it gets what is sent to it.
    pub fn is_shown(&self, acknowledged: u32) -> bool {
        self.answered.is_some_and(|(first, last)| acknowledged.wrapping_sub(first) <= last.wrapping_sub(first))
    }

    /// Whether there is nothing more to be done with its packets.
    pub fn is_plain(&self) -> bool {
        self.local.is_none() && self.splice.is_none() && !self.is_half_open
    }
}

/// What is different between the stream of a client and that of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Splice {
    /// The number of the client's first byte.
    pub start: u32,
    /// Bytes that the server gets in front of that.
    pub inserted: u8,
    /// How the server hears of its client.
    pub announce: Announce,
    /// It has not said that it did.
    pub is_pending: bool,
    /// It began with a cookie, so that the client counts what the server sends from another number.
    pub is_cookie: bool,
    /// What makes a number of the server one that the client knows.
    pub offset: u32,
    /// There is a client that has answered a cookie, and no server yet.
    pub opening: Option<Opening>,
}

/// A connection that is opened to a server for a client that has answered a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The number by which the client has been answered.
    pub cookie: u32,
    /// The window it had then.
    pub window: u16,
    /// The largest segment it takes.
    pub size: u16,
    /// The second in which the server was asked last.
    pub asked: Option<u64>,
}

impl Splice {
    /// Nothing is different yet about a stream that begins with this number.
    pub fn new(start: u32) -> Self {
        Splice {
            start,
            inserted: 0,
            announce: Announce::Nothing,
            is_pending: false,
            is_cookie: false,
            offset: 0,
            opening: None,
        }
    }

    /// The number of a byte of the client, or what comes after all of them, as the server counts. Once the server has what was put
    /// in, nothing can be in front of that: a stream may be longer than what can be told from what lies before.
    pub fn for_server(self, number: u32) -> u32 {
        let is_before = self.is_pending && (number.wrapping_sub(self.start) as i32) < 0;
        if is_before { number } else { number.wrapping_add(self.inserted.into()) }
    }

    /// What the server acknowledges, as the client counts: what was put in is nothing to it.
    pub fn for_client(self, number: u32) -> u32 {
        let distance = number.wrapping_sub(self.start);
        match self.is_pending {
            true if (distance as i32) <= 0 => number,
            true => self.start.wrapping_add(distance.saturating_sub(self.inserted.into())),
            false => number.wrapping_sub(self.inserted.into()),
        }
    }

    /// Whether bytes of the client, so many from this number on, would come to lie where the server expects what was put in.
    pub fn overlaps(self, number: u32, length: u32) -> bool {
        let before = self.start.wrapping_sub(number);
        self.is_pending && self.inserted > 0 && (before as i32) > 0 && length > before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What goes to the server and comes back is what it was, across the end of the numbers too.
        #[test]
        fn numbers_come_back(start: u32, inserted in 0u8..60, ahead in -100_000i32..100_000, far: u32) {
            let pending = Splice { inserted, announce: Announce::Proxy, is_pending: true, ..Splice::new(start) };
            let number = start.wrapping_add_signed(ahead);
            prop_assert_eq!(pending.for_client(pending.for_server(number)), number);
            // Of what was put in, the client has sent nothing.
            for within in 0..=u32::from(inserted) {
                prop_assert_eq!(pending.for_client(start.wrapping_add(within)), start);
            }
            // Later the distance is the same however long the stream becomes.
            let done = Splice { is_pending: false, ..pending };
            prop_assert_eq!(done.for_server(far), far.wrapping_add(inserted.into()));
            prop_assert_eq!(done.for_client(done.for_server(far)), far);
        }

        /// No byte of a client gets to where the server expects what was put in.
        #[test]
        fn what_was_put_in_cannot_be_written_over(start: u32, inserted in 1u8..60, before in 1u32..2000, length in 0u32..2000) {
            let splice = Splice { inserted, announce: Announce::Proxy, is_pending: true, ..Splice::new(start) };
            let number = start.wrapping_sub(before);
            prop_assert_eq!(splice.overlaps(number, length), length > before);
            prop_assert!(!splice.overlaps(start, length));
        }
    }
}
