//! The TCP states of IPVS: a watcher's view of a connection of which it may see one direction only.
//!
//! The transitions are those of Linux net/netfilter/ipvs/ip_vs_proto_tcp.c (`tcp_states` and `tcp_states_dos`).

use crate::frame::transport::TcpFlags;

/// A state of a TCP connection, numbered as in Linux (IP_VS_TCP_S_*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// No packet has gone by.
    #[default]
    None = 0,
    /// Both sides have agreed.
    Established = 1,
    /// The server was asked by a SYN from its own side.
    SynSent = 2,
    /// The client has sent a SYN.
    SynReceived = 3,
    /// One side has closed.
    FinWait = 4,
    /// Both sides have closed.
    TimeWait = 5,
    /// Reset, or nothing that makes sense.
    Close = 6,
    /// The client has closed.
    CloseWait = 7,
    /// The last acknowledgement is missing.
    LastAck = 8,
    /// Listening.
    Listen = 9,
    /// Under the defence against SYN floods only.
    SynAck = 10,
}

use TcpState::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI, None as NO,
    SynAck as SA, SynReceived as SR, SynSent as SS, TimeWait as TW,
};

/// How many states there are.
pub(crate) const STATES: usize = 11;

/// Which packets of a connection are seen, and which this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// From the client, of a connection of which both directions are seen.
    Input = 0,
    /// From the server.
    Output = 1,
    /// From the client, of a connection whose replies go another way.
    InputOnly = 2,
}

/// `table[seen][event][state]`; events are SYN, FIN, ACK, RST.
pub(crate) type States = [[[TcpState; STATES]; 4]; 3];

/// The usual transitions.
#[rustfmt::skip]
pub(crate) static TABLE: States = [
    // INPUT
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
    ],
    // OUTPUT
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ],
    // INPUT_ONLY
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
];

/// Those of the defence against SYN floods (sysctl `secure_tcp`): a client's SYN makes SYNACK of a connection that is not
/// known, and its ACK does not make that ESTABLISHED: the server's does.
#[rustfmt::skip]
pub(crate) static SECURE: States = [
    // INPUT
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
        [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
        [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
    // OUTPUT
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
        [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
        [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
    ],
    // INPUT_ONLY
    [//  NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
        [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
        [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
        [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
        [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
    ],
];

impl TcpState {
    /// Every state, in the order of the numbers.
    pub const ALL: [TcpState; STATES] = [NO, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA];

    /// The state of a number; NONE for numbers without one.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// The name `ipvsadm -Lc` shows.
    pub const fn name(self) -> &'static str {
        match self {
            NO => "NONE",
            ES => "ESTABLISHED",
            SS => "SYN_SENT",
            SR => "SYN_RECV",
            FW => "FIN_WAIT",
            TW => "TIME_WAIT",
            CL => "CLOSE",
            CW => "CLOSE_WAIT",
            LA => "LAST_ACK",
            LI => "LISTEN",
            SA => "SYNACK",
        }
    }

    /// Whether connections in this state count as active.
    pub const fn is_active(self) -> bool {
        matches!(self, ES | SS | SR | SA)
    }

    /// Seconds without a packet after which a connection in this state is forgotten.
    pub(crate) const fn timeout(self) -> u32 {
        match self {
            NO => 2,
            ES => 900,
            SS => 120,
            SR => 60,
            FW => 120,
            TW => 120,
            CL => 10,
            CW => 60,
            LA => 30,
            LI => 120,
            SA => 120,
        }
    }

    /// The state after a packet with these flags, by one of the tables.
    pub(crate) fn after(self, table: &States, seen: Seen, flags: TcpFlags) -> TcpState {
        let event = if flags.contains(TcpFlags::RST) {
            3
        } else if flags.contains(TcpFlags::SYN) {
            0
        } else if flags.contains(TcpFlags::FIN) {
            1
        } else if flags.contains(TcpFlags::ACK) {
            2
        } else {
            return CL;
        };
        table[seen as usize][event][self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN: TcpFlags = TcpFlags::FIN.union(TcpFlags::ACK);
    const RST: TcpFlags = TcpFlags::RST;

    fn walk(steps: &[(Seen, TcpFlags)]) -> alloc::vec::Vec<TcpState> {
        let mut state = NO;
        let step = |&(seen, flags): &(Seen, TcpFlags)| {
            state = state.after(&TABLE, seen, flags);
            state
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_connection_from_start_to_end_as_nat_sees_it() {
        use Seen::{Input, Output};
        let steps = [(Input, SYN), (Output, SYN | ACK), (Input, ACK), (Output, ACK)];
        assert_eq!(walk(&steps), [SR, SR, ES, ES]);
        let closed_by_client = [(Input, SYN), (Input, ACK), (Input, FIN), (Output, FIN), (Input, ACK)];
        assert_eq!(walk(&closed_by_client), [SR, ES, CW, TW, TW]);
        let closed_by_server = [(Input, SYN), (Input, ACK), (Output, FIN), (Input, FIN), (Output, ACK)];
        assert_eq!(walk(&closed_by_server), [SR, ES, FW, TW, TW]);
        assert_eq!(walk(&[(Input, SYN), (Output, RST)]), [SR, CL]);
        assert_eq!(walk(&[(Input, SYN), (Input, RST)]), [SR, SR], "a client cannot close before it was answered");
    }

    #[test]
    fn a_connection_as_direct_routing_sees_it() {
        use Seen::InputOnly;
        let steps = [(InputOnly, SYN), (InputOnly, ACK), (InputOnly, FIN), (InputOnly, ACK)];
        assert_eq!(walk(&steps), [SR, ES, FW, FW]);
        assert_eq!(walk(&[(InputOnly, SYN), (InputOnly, ACK), (InputOnly, RST)]), [SR, ES, CL]);
    }

    #[test]
    fn under_the_defence_the_server_has_to_agree() {
        use Seen::{Input, InputOnly, Output};
        let walk = |steps: &[(Seen, TcpFlags)]| {
            steps.iter().fold(NO, |state, &(seen, flags)| state.after(&SECURE, seen, flags))
        };
        assert_eq!(walk(&[(Input, SYN), (Input, ACK)]), SR, "whatever a client says");
        assert_eq!(walk(&[(Input, SYN), (Output, SYN | ACK)]), SA);
        assert_eq!(walk(&[(Input, SYN), (Output, SYN | ACK), (Input, ACK), (Input, FIN)]), SA);
        assert_eq!(walk(&[(Input, SYN), (Output, SYN | ACK), (Input, ACK), (Output, ACK)]), ES);
        assert_eq!(walk(&[(Input, SYN), (Output, SYN | ACK), (Input, RST)]), CL);
        assert_eq!(walk(&[(InputOnly, SYN), (InputOnly, ACK)]), ES, "where only the client is seen");
        // All else is as without it.
        let differences = |seen: Seen| {
            let all = TABLE[seen as usize].iter().flatten().zip(SECURE[seen as usize].iter().flatten());
            all.filter(|(a, b)| a != b).count()
        };
        assert_eq!([Input, Output, InputOnly].map(differences), [5, 2, 8]);
    }

    #[test]
    fn reset_counts_before_syn_before_fin_before_ack() {
        assert_eq!(ES.after(&TABLE, Seen::Input, RST | SYN | FIN), CL);
        assert_eq!(TW.after(&TABLE, Seen::Input, SYN | FIN), SR);
        assert_eq!(ES.after(&TABLE, Seen::Input, FIN), CW);
        assert_eq!(ES.after(&TABLE, Seen::Input, TcpFlags::empty()), CL, "nothing set makes no sense");
    }

    #[test]
    fn numbers_round_trip() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::from_number(state as u8), state);
        }
        assert_eq!(TcpState::from_number(11), NO);
    }
}
