//! The SCTP states of IPVS: an association as the server is in, as far as packets tell.
//!
//! The transitions and timeouts are those of Linux net/netfilter/ipvs/ip_vs_proto_sctp.c.

use super::tcp::Seen;
use crate::frame::sctp::Event;

/// A state of an SCTP association, numbered as in Linux (IP_VS_SCTP_S_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SctpState {
    /// No packet has gone by.
    #[default]
    None = 0,
    /// The client has sent its first INIT.
    Init1 = 1,
    /// The client has sent another INIT.
    Init = 2,
    /// The server has sent INIT ACK.
    CookieSent = 3,
    /// The client has sent COOKIE ECHO.
    CookieReplied = 4,
    /// The server has sent INIT.
    CookieWait = 5,
    /// The client has sent INIT ACK.
    Cookie = 6,
    /// The server has sent COOKIE ECHO.
    CookieEchoed = 7,
    /// Both sides have agreed.
    Established = 8,
    /// The server has sent SHUTDOWN.
    ShutdownSent = 9,
    /// The client has sent SHUTDOWN.
    ShutdownReceived = 10,
    /// The server has sent SHUTDOWN ACK.
    ShutdownAckSent = 11,
    /// The server has refused an INIT.
    Rejected = 12,
    /// Ended, by agreement or not.
    Closed = 13,
}

use SctpState::{
    Closed as CL, Cookie as CO, CookieEchoed as CE, CookieReplied as CR, CookieSent as CS, CookieWait as CW,
    Established as ES, Init as IN, Init1 as I1, None as NO, Rejected as RJ, ShutdownAckSent as SA,
    ShutdownReceived as SR, ShutdownSent as SS,
};

/// How many states there are.
pub(crate) const STATES: usize = 14;

/// The transitions, `TABLE[seen][event][state]`. Events are in the order of [`Event`].
#[rustfmt::skip]
static TABLE: [[[SctpState; STATES]; 10]; 3] = [
    // INPUT
    [//  NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // DATA
        [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN], // INIT
        [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL], // INIT ACK
        [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL], // COOKIE ECHO
        [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL], // COOKIE ACK
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL], // SHUTDOWN
        [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL], // SHUTDOWN ACK
        [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL], // SHUTDOWN COMPLETE
        [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL], // ERROR
        [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL], // ABORT
    ],
    // OUTPUT
    [//  NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
        [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
        [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
        [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
        [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
    ],
    // INPUT_ONLY
    [//  NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
        [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
        [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
        [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
        [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
        [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
        [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
        [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
        [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
        [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
        [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
    ],
];

impl SctpState {
    /// Every state, in the order of the numbers.
    pub const ALL: [SctpState; STATES] = [NO, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL];

    /// The state of a number; NONE for numbers without one.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The name `ipvsadm -Lc` shows.
    pub const fn name(self) -> &'static str {
        match self {
            NO => "NONE",
            I1 => "INIT1",
            IN => "INIT",
            CS => "C-SENT",
            CR => "C-REPLIED",
            CW => "C-WAIT",
            CO => "COOKIE",
            CE => "C-ECHOED",
            ES => "ESTABLISHED",
            SS => "S-SENT",
            SR => "S-RECEIVED",
            SA => "S-ACK-SENT",
            RJ => "REJECTED",
            CL => "CLOSED",
        }
    }

    /// Whether associations in this state count as active.
    pub const fn is_active(self) -> bool {
        matches!(self, ES)
    }

    /// Seconds without a packet after which an association in this state is forgotten: no command changes them.
    pub(crate) const fn timeout(self) -> u32 {
        match self {
            NO => 2,
            // Three seconds for the other side to answer, and one.
            I1 | RJ => 4,
            ES => 900,
            // The most time between two tries (RFC 9260 section 16), and one second.
            _ => 61,
        }
    }

    /// The state after a packet.
    pub(crate) fn after(self, seen: Seen, event: Event) -> SctpState {
        let events = &TABLE[seen as usize];
        events.get(event as usize).map_or(self, |states| states[self as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::*;
    use Seen::{Input, InputOnly, Output};

    fn walk(steps: &[(Seen, Event)]) -> alloc::vec::Vec<SctpState> {
        let mut state = NO;
        let step = |&(seen, event): &(Seen, Event)| {
            state = state.after(seen, event);
            state
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn an_association_from_start_to_end_as_nat_sees_it() {
        let setup = [(Input, Init), (Output, InitAck), (Input, CookieEcho), (Output, CookieAck), (Input, Data)];
        assert_eq!(walk(&setup), [I1, CS, CR, ES, ES]);
        let ends = [(Input, Shutdown), (Output, ShutdownAck), (Input, ShutdownComplete)];
        assert_eq!(walk(&[&setup[..], &ends].concat())[5..], [SR, SA, CL]);
        let server_ends = [(Output, Shutdown), (Input, ShutdownAck), (Output, ShutdownComplete)];
        assert_eq!(walk(&[&setup[..], &server_ends].concat())[5..], [SS, CL, CL]);
        let server_begins = [(Output, Init), (Input, InitAck), (Output, CookieEcho), (Input, CookieAck)];
        assert_eq!(walk(&server_begins), [CW, CO, CE, ES]);
        assert_eq!(walk(&[(Input, Init), (Output, Abort), (Input, Init)]), [I1, RJ, IN]);
    }

    #[test]
    fn an_association_as_direct_routing_sees_it() {
        let steps = [(InputOnly, Init), (InputOnly, CookieEcho), (InputOnly, Data), (InputOnly, Shutdown)];
        assert_eq!(walk(&steps), [I1, ES, ES, SR]);
    }

    #[test]
    fn a_packet_without_a_chunk_says_nothing() {
        for state in SctpState::ALL {
            assert!([Input, Output, InputOnly].iter().all(|&seen| state.after(seen, Nothing) == state));
        }
    }

    #[test]
    fn numbers_round_trip_and_names_are_one_each() {
        for state in SctpState::ALL {
            assert_eq!(SctpState::from_number(state as u8), state);
            assert_eq!(SctpState::ALL.iter().filter(|other| other.name() == state.name()).count(), 1);
        }
        assert_eq!(SctpState::from_number(14), NO);
    }

    #[test]
    fn any_state_can_be_reached_and_an_abort_ends_any() {
        let events =
            [Data, Init, InitAck, CookieEcho, CookieAck, Shutdown, ShutdownAck, ShutdownComplete, Error, Abort];
        let mut reached = alloc::vec![NO];
        let mut at = 0;
        while at < reached.len() {
            for (seen, event) in [Input, Output, InputOnly].iter().flat_map(|s| events.iter().map(move |e| (*s, *e))) {
                let next = reached[at].after(seen, event);
                if !reached.contains(&next) {
                    reached.push(next);
                }
            }
            at += 1;
        }
        assert_eq!(reached.len(), STATES);
        for state in SctpState::ALL {
            assert!([Input, Output, InputOnly].iter().all(|&seen| matches!(state.after(seen, Abort), CL | RJ)));
        }
    }
}
