//! The state of a connection, whichever protocol it is of.

use super::{SctpState, TcpState};
use crate::service::Protocol;

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Of a TCP connection.
    Tcp(TcpState),
    /// Of an SCTP association.
    Sctp(SctpState),
    /// Of UDP, which has no other, and of templates of marks.
    Only,
}

impl State {
    /// The state of a number, as Linux numbers those of the protocol. Numbers without a state are NONE.
    pub fn from_number(protocol: Protocol, number: u8) -> Self {
        match protocol {
            Protocol::Tcp => State::Tcp(TcpState::from_number(number)),
            Protocol::Sctp => State::Sctp(SctpState::from_number(number)),
            Protocol::Udp | Protocol::Ip => State::Only,
        }
    }

    /// Its number among those of the protocol.
    pub const fn number(self) -> u8 {
        match self {
            State::Tcp(state) => state as u8,
            State::Sctp(state) => state as u8,
            State::Only => 0,
        }
    }

    /// Whether connections in this state count as active.
    pub const fn is_active(self) -> bool {
        match self {
            State::Tcp(state) => state.is_active(),
            State::Sctp(state) => state.is_active(),
            State::Only => false,
        }
    }
}

/// States as a set, by their numbers.
macro_rules! active {
    ($states:expr) => {{
        let (mut set, mut at) = (0u16, 0);
        while at < $states.len() {
            set |= ($states[at].is_active() as u16) << $states[at] as u8;
            at += 1;
        }
        set
    }};
}

const TCP: u16 = active!(TcpState::ALL);
const SCTP: u16 = active!(SctpState::ALL);

/// Whether connections of a protocol in the state of a number count as active: [`State::is_active`] without a detour.
#[inline(always)]
pub(crate) fn is_active(protocol: Protocol, number: u8) -> bool {
    let set = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Sctp => SCTP,
        Protocol::Udp | Protocol::Ip => 0,
    };
    set >> (number & 15) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_tell_the_same_of_activity_and_numbers_round_trip() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Ip] {
            for number in 0..14 {
                let state = State::from_number(protocol, number);
                assert!(state.number() == number || state.number() == 0);
                assert_eq!(is_active(protocol, state.number()), state.is_active());
            }
        }
        assert!(State::Tcp(TcpState::SynAck).is_active() && State::Sctp(SctpState::Established).is_active());
    }
}
