//! Whatever an iperf3 client says on its control connection, in pieces of any size: nothing panics, every byte is accounted
//! for, and what is accepted is within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringlet_kernel::services::iperf3::{Conversation, Event, MOST_STREAMS, Phase};

/// The longest that the server ever has to say: states, a refusal, and the results that are given here.
const MOST_OUTPUT: usize = 64;

fuzz_target!(|data: &[u8]| {
    // The first byte says how large the pieces are, and the second how much is ready made: a client that begins well.
    let [step, ready, rest @ ..] = data else { return };
    let cookie = [b'c'; 37];
    let document = br#"{"udp":true,"parallel":2,"bidirectional":true,"len":1400}"#;
    let parameters = [&(document.len() as u32).to_be_bytes()[..], document].concat();
    let mut input = Vec::new();
    if ready & 1 != 0 {
        input.extend(cookie);
    }
    if ready & 2 != 0 {
        input.extend(parameters);
    }
    if ready & 4 != 0 {
        input.push(4);
    }
    input.extend_from_slice(rest);

    let mut conversation = Conversation::new();
    for piece in input.chunks(usize::from(*step).max(1)) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (taken, outcome) = conversation.receive(rest);
            assert!(taken <= rest.len());
            rest = &rest[taken..];
            match outcome {
                Ok(Some(Event::Parameters(parameters))) => {
                    assert!((1..=MOST_STREAMS).contains(&parameters.streams));
                    assert!((1..=1 << 20).contains(&parameters.block) && parameters.seconds <= 86_400);
                    assert!(parameters.streams_in_all() <= 2 * MOST_STREAMS);
                    conversation.accept();
                    conversation.start();
                }
                Ok(Some(Event::Results)) => conversation.answer(b"{}"),
                Ok(Some(Event::Done | Event::Terminated)) => assert_eq!(conversation.phase(), Phase::Over),
                Ok(Some(Event::TestEnd)) => assert_eq!(conversation.phase(), Phase::Results),
                Err(refusal) => {
                    conversation.refuse(refusal);
                    assert_eq!(conversation.phase(), Phase::Over);
                }
                Ok(None) => assert!(rest.is_empty(), "bytes are left and nothing has happened"),
            }
            assert!(conversation.output().len() <= MOST_OUTPUT);
        }
    }
});
