//! Any bytes on a control connection, in any pieces, and any bytes as a file of rules: no panic, no reply without bounds,
//! and every reply is a message that our own client can read.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringlet_balancer::control::{MAX_FRAME, OUTPUT_LIMIT, Session};
use ringlet_balancer::ipvsadm;
use ringlet_balancer::wire::message::{self, Generic, Header, Message};
use ringlet_balancer::wire::{Destination, FAMILY_ID, Service};
use ringlet_balancer::{Balancer, Config};

/// What is sent: bytes as they are, or a request of well-formed attributes, which random bytes hardly become.
#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Request {
        family: bool,
        command: u8,
        flags: u16,
        attributes: Vec<Nest>,
    },
    /// A line of the command language, carried out directly.
    Rules(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Nest {
    kind: u8,
    inside: Vec<(u8, Vec<u8>)>,
}

fn stream(piece: &Piece) -> Vec<u8> {
    match piece {
        Piece::Bytes(bytes) => bytes.clone(),
        Piece::Rules(_) => Vec::new(),
        Piece::Request { family, command, flags, attributes } => {
            let header = Header {
                kind: if *family { FAMILY_ID } else { 16 },
                flags: flags | message::flag::REQUEST,
                sequence: 1,
                ..Header::default()
            };
            let mut out = Vec::new();
            message::write_generic(
                &mut out,
                header,
                Generic { command: if *command < 24 { *command } else { 64 + command % 18 }, version: 1 },
                |w| {
                    for nest in attributes.iter().take(4) {
                        let kind = match nest.kind % 10 {
                            9 => 80,
                            own @ 7.. => 58 + u16::from(own),
                            linux => u16::from(linux),
                        };
                        w.nest(kind, |w| {
                            for (kind, payload) in nest.inside.iter().take(20) {
                                w.put(u16::from(kind % 20), &payload[..payload.len().min(64)]);
                            }
                        });
                    }
                },
            );
            out
        }
    }
}

/// Reads replies as a client does.
fn check(mut replies: &[u8]) {
    while let Some(length) = replies.first_chunk::<4>() {
        let end = 4 + u32::from_be_bytes(*length) as usize;
        assert!(end <= 4 + MAX_FRAME);
        let message = Message::read(&replies[4..end]).expect("a whole message");
        if let Some((_, attributes)) = message.generic().filter(|_| message.header.kind == FAMILY_ID) {
            for attribute in attributes {
                let _ = (Service::read(&attribute), Destination::read(&attribute));
            }
        }
        replies = &replies[end..];
    }
    assert!(replies.is_empty(), "half a message");
}

fuzz_target!(|pieces: Vec<Piece>| {
    let mut balancer = Balancer::new(Config { connections: 16, connections_v6: 16, ..Config::new([2; 6], [1, 2]) });
    let mut session = Session::new();
    for piece in &pieces {
        if let Piece::Rules(text) = piece {
            ipvsadm::load(
                text,
                |_, command| {
                    let line = command.to_string();
                    let words: Vec<&str> = line.split(' ').collect();
                    assert_eq!(ipvsadm::parse(&words).map(|c| c.to_string()), Ok(line.clone()), "{line}");
                    let _ = ipvsadm::apply(&command, &mut balancer);
                },
                |_, error| assert!(error.to_string().len() < 2000),
            );
        }
        let bytes = stream(piece);
        let mut rest = &bytes[..];
        loop {
            let Ok(taken) = session.receive(rest) else { return };
            rest = &rest[taken..];
            let Ok(ran) = session.run(&mut balancer) else { return };
            let output = session.output();
            assert!(output.len() < OUTPUT_LIMIT + 1024);
            check(output);
            let made = output.len();
            session.sent(made);
            if taken == 0 && !ran && made == 0 {
                break;
            }
        }
    }
});
