//! What goes over the control connection besides JSON: single bytes that name a state, and the numbers of errors. They are
//! those of esnet's iperf3 (`iperf_api.h`), which has no specification other than its source.

/// `TEST_START`: the streams are there.
pub(crate) const TEST_START: u8 = 1;
/// `TEST_RUNNING`: data may flow.
pub(crate) const TEST_RUNNING: u8 = 2;
/// `TEST_END`: the client has had enough.
pub(crate) const TEST_END: u8 = 4;
/// `PARAM_EXCHANGE`: the client is to say what it wants.
pub(crate) const PARAM_EXCHANGE: u8 = 9;
/// `CREATE_STREAMS`: the client is to connect its streams.
pub(crate) const CREATE_STREAMS: u8 = 10;
/// `CLIENT_TERMINATE`: the client gives up.
pub(crate) const CLIENT_TERMINATE: u8 = 12;
/// `EXCHANGE_RESULTS`: the client is to tell its results, and is told ours.
pub(crate) const EXCHANGE_RESULTS: u8 = 13;
/// `DISPLAY_RESULTS`: the client has all it can get.
pub(crate) const DISPLAY_RESULTS: u8 = 14;
/// `IPERF_DONE`: good bye.
pub(crate) const IPERF_DONE: u8 = 16;
/// `ACCESS_DENIED` (-1): another client is being served.
pub(crate) const ACCESS_DENIED: u8 = 0xff;
/// `SERVER_ERROR` (-2), followed by [`Refusal::code`] and an errno, 32 bits big-endian each.
pub(crate) const SERVER_ERROR: u8 = 0xfe;

/// Length of the cookie with which a client begins each of its connections, in bytes: 36 characters and a NUL.
pub(crate) const COOKIE: usize = 37;

/// Why a test is not carried out, or not to its end. The client shows its own sentence for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would take too long (`IEDURATION`).
    Duration,
    /// Too many streams, or none (`IENUMSTREAMS`).
    Streams,
    /// Blocks of an impossible size (`IEBLOCKSIZE`).
    BlockSize,
    /// A window of an impossible size (`IEBUFSIZE`).
    Window,
    /// A segment size that is none (`IEMSS`).
    SegmentSize,
    /// Too much is to be omitted (`IEOMIT`).
    Omit,
    /// Bursts of an impossible length (`IEBURST`).
    Burst,
    /// There is no SCTP here (`IENOSCTP`).
    Sctp,
    /// Datagrams too small for their header, or so large that they would be fragmented (`IEUDPBLOCKSIZE`).
    DatagramSize,
    /// Both `--reverse` and `--bidir` (`IEREVERSEBIDIR`).
    BothReverseAndBidirectional,
    /// A state that is none, or not now (`IEMESSAGE`).
    Message,
    /// The parameters make no sense (`IERECVPARAMS`).
    Parameters,
    /// The client's results make no sense (`IERECVRESULTS`).
    Results,
    /// The type of service cannot be set (`IESETTOS`).
    TypeOfService,
    /// The flow label cannot be set (`IESETFLOW`).
    FlowLabel,
    /// Neither TCP nor UDP (`IEPROTOCOL`).
    Protocol,
    /// There is one processor, number 0 (`IEAFFINITY`).
    Affinity,
    /// There is no memory for such a window (`IESETBUF2`).
    WindowMemory,
    /// Nothing came for a long time (`IENOMSG`).
    Silence,
    /// It took longer than the client said (`IESERVERTESTDURATIONEXPIRED`).
    Overdue,
    /// There is no memory for the streams (`IECREATESTREAM`, with `ENOMEM`).
    Memory,
    /// The streams were not all connected in time (`IESTREAMACCEPT`).
    StreamsMissing,
    /// A stream ended before its time (`IESTREAMCLOSE`).
    StreamClosed,
}

impl Refusal {
    /// The number by which clients know it.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Refusal::Duration => 5,
            Refusal::Streams => 6,
            Refusal::BlockSize => 7,
            Refusal::Window => 8,
            Refusal::SegmentSize => 10,
            Refusal::Omit => 12,
            Refusal::Burst => 15,
            Refusal::Sctp => 17,
            Refusal::DatagramSize => 20,
            Refusal::BothReverseAndBidirectional => 25,
            Refusal::Message => 110,
            Refusal::Parameters => 114,
            Refusal::Results => 117,
            Refusal::TypeOfService => 125,
            Refusal::FlowLabel => 127,
            Refusal::Protocol => 131,
            Refusal::Affinity => 132,
            Refusal::WindowMemory => 141,
            Refusal::Silence => 144,
            Refusal::Overdue => 160,
            Refusal::Memory => 200,
            Refusal::StreamsMissing => 204,
            Refusal::StreamClosed => 207,
        }
    }

    /// The errno that goes with it; 0 for none. They are Linux's.
    #[must_use]
    pub fn errno(self) -> u32 {
        const ENOMEM: u32 = 12;
        const EOPNOTSUPP: u32 = 95;
        match self {
            Refusal::Memory => ENOMEM,
            Refusal::TypeOfService | Refusal::FlowLabel | Refusal::Affinity => EOPNOTSUPP,
            _ => 0,
        }
    }
}
