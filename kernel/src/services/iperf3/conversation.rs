//! The control connection, without its socket: bytes in, bytes out, and what they mean for the test.

use alloc::vec::Vec;

use super::message::{
    CLIENT_TERMINATE, COOKIE, CREATE_STREAMS, DISPLAY_RESULTS, EXCHANGE_RESULTS, IPERF_DONE, PARAM_EXCHANGE, Refusal,
    SERVER_ERROR, TEST_END, TEST_RUNNING, TEST_START,
};
use super::parameters::Parameters;
use super::results;

/// The longest parameters that are read, in bytes: as in iperf3 itself (`MAX_PARAMS_JSON_STRING`).
const LONGEST_PARAMETERS: usize = 8 << 10;
/// The longest results that are read, in bytes: a client with 128 streams has less than half as much to say.
const LONGEST_RESULTS: usize = 64 << 10;

/// How far the conversation has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The client is to send its cookie.
    Cookie,
    /// The client is to send its parameters.
    Parameters,
    /// The client is to connect its streams.
    Streams,
    /// Data flows.
    Running,
    /// The client is to send its results.
    Results,
    /// The client has sent its results and is owed ours.
    Answering,
    /// The client is to say good bye.
    Displayed,
    /// Nothing more is expected.
    Over,
}

/// What the client said.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It wants this.
    Parameters(Parameters),
    /// It has had enough.
    TestEnd,
    /// It has told its results; [`Conversation::answer`] is due.
    Results,
    /// Good bye.
    Done,
    /// It gives up.
    Terminated,
}

/// One client's control connection.
#[derive(Debug)]
pub struct Conversation {
    phase: Phase,
    cookie: [u8; COOKIE],
    /// What has come of something that is not complete.
    partial: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

impl Conversation {
    /// The client has connected.
    #[must_use]
    pub fn new() -> Self {
        Self { phase: Phase::Cookie, cookie: [0; COOKIE], partial: Vec::new(), output: Vec::new(), sent: 0 }
    }

    /// How far it has got.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether this is the cookie of the client.
    #[must_use]
    pub fn is_cookie(&self, cookie: &[u8; COOKIE]) -> bool {
        self.phase != Phase::Cookie && self.cookie == *cookie
    }

    /// Takes bytes from the client, up to and including the first that mean something. Returns how many were taken, and what
    /// they mean; fewer than there are only if there is an event, or [`Conversation::answer`] is due.
    ///
    /// # Errors
    /// What to tell the client with [`Conversation::refuse`].
    pub fn receive(&mut self, bytes: &[u8]) -> (usize, Result<Option<Event>, Refusal>) {
        let mut taken = 0;
        while taken < bytes.len() && self.phase != Phase::Answering {
            let (count, outcome) = self.step(&bytes[taken..]);
            taken += count;
            if !matches!(outcome, Ok(None)) {
                return (taken, outcome);
            }
        }
        (taken, Ok(None))
    }

    fn step(&mut self, bytes: &[u8]) -> (usize, Result<Option<Event>, Refusal>) {
        match self.phase {
            Phase::Cookie => {
                let taken = self.fill(bytes, COOKIE);
                if let Ok(cookie) = self.partial.as_slice().try_into() {
                    self.cookie = cookie;
                    self.partial.clear();
                    self.output.push(PARAM_EXCHANGE);
                    self.phase = Phase::Parameters;
                }
                (taken, Ok(None))
            }
            Phase::Parameters => self.document(bytes, LONGEST_PARAMETERS, Refusal::Parameters, |conversation, json| {
                let parameters = Parameters::parse(json)?;
                conversation.phase = Phase::Streams;
                Ok(Event::Parameters(parameters))
            }),
            Phase::Results => self.document(bytes, LONGEST_RESULTS, Refusal::Results, |conversation, json| {
                results::check(json)?;
                conversation.phase = Phase::Answering;
                Ok(Event::Results)
            }),
            Phase::Streams | Phase::Running | Phase::Displayed => (1, self.state(bytes[0])),
            Phase::Answering | Phase::Over => (bytes.len(), Ok(None)),
        }
    }

    /// Takes what is missing of `length` bytes.
    fn fill(&mut self, bytes: &[u8], length: usize) -> usize {
        let count = length.saturating_sub(self.partial.len()).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..count]);
        count
    }

    /// Takes a JSON document behind its length (32 bits, big-endian). Memory is taken for what has come, not for what was
    /// announced.
    fn document(
        &mut self,
        bytes: &[u8],
        longest: usize,
        refusal: Refusal,
        read: impl FnOnce(&mut Self, &[u8]) -> Result<Event, Refusal>,
    ) -> (usize, Result<Option<Event>, Refusal>) {
        const PREFIX: usize = 4;
        let mut taken = self.fill(bytes, PREFIX);
        let Some(&prefix) = self.partial.first_chunk::<PREFIX>() else { return (taken, Ok(None)) };
        let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > longest {
            return (taken, Err(refusal));
        }
        taken += self.fill(&bytes[taken..], PREFIX + length);
        if self.partial.len() < PREFIX + length {
            return (taken, Ok(None));
        }
        let document = core::mem::take(&mut self.partial);
        let json = document[PREFIX..].trim_ascii_start();
        // An array would do for serde.
        if !json.starts_with(b"{") {
            return (taken, Err(refusal));
        }
        (taken, read(self, json).map(Some))
    }

    fn state(&mut self, state: u8) -> Result<Option<Event>, Refusal> {
        match state {
            // iperf3 itself takes it, and makes nothing of it.
            TEST_START => Ok(None),
            TEST_END if self.phase == Phase::Running => {
                self.phase = Phase::Results;
                self.output.push(EXCHANGE_RESULTS);
                Ok(Some(Event::TestEnd))
            }
            CLIENT_TERMINATE => {
                self.phase = Phase::Over;
                Ok(Some(Event::Terminated))
            }
            IPERF_DONE if self.phase == Phase::Displayed => {
                self.phase = Phase::Over;
                Ok(Some(Event::Done))
            }
            _ => Err(Refusal::Message),
        }
    }

    /// The parameters are accepted: the client is to connect its streams.
    pub fn accept(&mut self) {
        self.output.push(CREATE_STREAMS);
    }

    /// All streams are there: data may flow.
    pub fn start(&mut self) {
        self.phase = Phase::Running;
        self.output.extend([TEST_START, TEST_RUNNING]);
    }

    /// Tells our results.
    pub fn answer(&mut self, results: &[u8]) {
        self.phase = Phase::Displayed;
        // They are ours, and short.
        let length = u32::try_from(results.len()).unwrap_or(u32::MAX);
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(results);
        self.output.push(DISPLAY_RESULTS);
    }

    /// Tells why the test does not go on. Nothing more is expected then.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.phase = Phase::Over;
        self.partial = Vec::new();
        self.output.push(SERVER_ERROR);
        self.output.extend_from_slice(&refusal.code().to_be_bytes());
        self.output.extend_from_slice(&refusal.errno().to_be_bytes());
    }

    /// What is to be sent.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// So many bytes of [`Conversation::output`] have been sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.output.len());
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    const COOKIE_BYTES: &[u8; COOKIE] = b"abcdefghijklmnopqrstuvwxyz0123456789\0";

    fn document(json: &str) -> Vec<u8> {
        [&(json.len() as u32).to_be_bytes()[..], json.as_bytes()].concat()
    }

    /// Feeds bytes in pieces of `step` and returns all events, until one is an error.
    fn feed(conversation: &mut Conversation, bytes: &[u8], step: usize) -> Vec<Result<Event, Refusal>> {
        let mut events = Vec::new();
        for piece in bytes.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (taken, outcome) = conversation.receive(rest);
                match outcome {
                    Ok(Some(Event::Results)) => {
                        events.push(Ok(Event::Results));
                        conversation.answer(b"{}");
                    }
                    Ok(Some(Event::Parameters(parameters))) => {
                        events.push(Ok(Event::Parameters(parameters)));
                        conversation.accept();
                        conversation.start();
                    }
                    Ok(Some(event)) => events.push(Ok(event)),
                    Err(refusal) => {
                        events.push(Err(refusal));
                        return events;
                    }
                    Ok(None) => assert_eq!(taken, rest.len(), "all is taken where nothing has happened"),
                }
                rest = &rest[taken..];
            }
        }
        events
    }

    fn whole() -> Vec<u8> {
        let results = r#"{"cpu_util_total":1.5,"streams":[{"id":1,"bytes":1e6}]}"#;
        [
            &COOKIE_BYTES[..],
            &document(r#"{"tcp":true,"time":1}"#),
            &[TEST_START, TEST_END],
            &document(results),
            &[IPERF_DONE],
        ]
        .concat()
    }

    #[test]
    fn a_whole_test_in_pieces_of_any_size() {
        for step in 1..200 {
            let mut conversation = Conversation::new();
            let events = feed(&mut conversation, &whole(), step);
            assert!(
                matches!(
                    events[..],
                    [Ok(Event::Parameters(_)), Ok(Event::TestEnd), Ok(Event::Results), Ok(Event::Done)]
                ),
                "{events:?}"
            );
            assert!(conversation.is_cookie(COOKIE_BYTES) && !conversation.is_cookie(&[0; COOKIE]));
            let output = conversation.output().to_vec();
            assert_eq!(output, [&[9, 10, 1, 2, 13, 0, 0, 0, 2][..], b"{}", &[14]].concat());
            conversation.sent(3);
            assert_eq!(conversation.output(), &output[3..]);
            conversation.sent(output.len() - 3);
            assert!(conversation.output().is_empty());
            assert_eq!(conversation.phase(), Phase::Over);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let parameters = [&COOKIE_BYTES[..], &document(r#"{"tcp":true}"#)].concat();
        for (bytes, refusal) in [
            ([&COOKIE_BYTES[..], &[0, 0, 0, 0]].concat(), Refusal::Parameters),
            ([&COOKIE_BYTES[..], &[0, 0, 0x20, 1]].concat(), Refusal::Parameters),
            ([&COOKIE_BYTES[..], &[0xff; 4]].concat(), Refusal::Parameters),
            ([&COOKIE_BYTES[..], &document("{")].concat(), Refusal::Parameters),
            ([&COOKIE_BYTES[..], &document("[]")].concat(), Refusal::Parameters),
            ([&COOKIE_BYTES[..], &document(&"[".repeat(8000))].concat(), Refusal::Parameters),
            ([&parameters[..], &[99]].concat(), Refusal::Message),
            ([&parameters[..], &[TEST_END], &[0, 1, 0, 1]].concat(), Refusal::Results),
            ([&parameters[..], &[TEST_END], &document("{} x")].concat(), Refusal::Results),
        ] {
            let mut conversation = Conversation::new();
            let events = feed(&mut conversation, &bytes, 7);
            assert_eq!(events.last(), Some(&Err(refusal)), "{bytes:?}");
            conversation.sent(conversation.output().len());
            conversation.refuse(refusal);
            let expected = [&[0xfe][..], &refusal.code().to_be_bytes(), &[0; 4]].concat();
            assert_eq!(conversation.output(), expected);
            // Whatever else comes is of no interest.
            assert_eq!(conversation.receive(&[0; 1000]), (1000, Ok(None)));
        }
        // Before the streams are there, the test cannot end.
        let mut conversation = Conversation::new();
        let (taken, _) = conversation.receive(&parameters);
        assert_eq!((taken, conversation.phase()), (parameters.len(), Phase::Streams));
        assert_eq!(conversation.receive(&[TEST_END]), (1, Err(Refusal::Message)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hoard(
            prefix in 0..4usize,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            step in 1..50usize,
        ) {
            let whole = whole();
            let cut = [0, COOKIE, COOKIE + 4 + 21, whole.len() - 1][prefix].min(whole.len());
            let mut conversation = Conversation::new();
            let _ = feed(&mut conversation, &[&whole[..cut], &bytes].concat(), step);
            prop_assert!(conversation.partial.capacity() < 2 * (LONGEST_RESULTS + 4));
            prop_assert!(conversation.output().len() < 100);
        }

        #[test]
        fn a_long_document_is_not_paid_for_in_advance(length in 1..LONGEST_PARAMETERS as u32) {
            let mut conversation = Conversation::new();
            let _ = conversation.receive(COOKIE_BYTES);
            let _ = conversation.receive(&length.to_be_bytes());
            let _ = conversation.receive(b" ");
            prop_assert!(conversation.partial.capacity() <= 64, "{}", format!("{}", conversation.partial.capacity()));
        }
    }
}
