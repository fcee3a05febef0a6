//! Packets from text.
//!
//!     tcp 10.9.0.1:1000 > 10.0.0.100:80 S len=10 ttl=3
//!     icmp 10.9.0.1 > 10.0.0.11 3/4 rest=1400 : tcp 10.0.0.11:80 > 10.9.0.1:1000 A

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};

use super::{Body, Packet, SEGMENT_LEFT, flag, protocol};

/// The chunks of SCTP by their names (RFC 9260 section 3.2).
const CHUNKS: [(&str, u8); 14] = [
    ("DATA", 0),
    ("INIT", 1),
    ("INIT-ACK", 2),
    ("SACK", 3),
    ("HEARTBEAT", 4),
    ("HEARTBEAT-ACK", 5),
    ("ABORT", 6),
    ("SHUTDOWN", 7),
    ("SHUTDOWN-ACK", 8),
    ("ERROR", 9),
    ("COOKIE-ECHO", 10),
    ("COOKIE-ACK", 11),
    ("ECNE", 12),
    ("SHUTDOWN-COMPLETE", 14),
];

/// The packet that a line names.
pub fn parse(line: &str) -> anyhow::Result<Packet> {
    let (line, about) = match line.split_once(" : ") {
        Some((line, about)) => (line, Some(parse(about)?)),
        None => (line, None),
    };
    let words: Vec<_> = line.split_whitespace().collect();
    let [kind, source, ">", destination, rest @ ..] = &words[..] else {
        bail!("`{line}`: should be KIND SOURCE > DESTINATION ...");
    };
    let (source, from) = end(source)?;
    let (destination, to) = end(destination)?;
    if source.is_ipv4() != destination.is_ipv4() {
        bail!("`{line}`: addresses of two families");
    }
    let ports = || from.zip(to).map(|(from, to)| [from, to]).with_context(|| format!("`{line}`: ports are missing"));
    let (body, options) = match (*kind, rest) {
        ("tcp", [letters, rest @ ..]) => (Body::Tcp { ports: ports()?, flags: flags(letters)? }, rest),
        ("udp", rest) => (Body::Udp { ports: ports()? }, rest),
        ("sctp", [chunks, rest @ ..]) => (Body::Sctp { ports: ports()?, chunks: self::chunks(chunks)? }, rest),
        ("esp", rest) => (Body::Secured { protocol: protocol::ESP }, rest),
        ("ah", rest) => (Body::Secured { protocol: protocol::AH }, rest),
        ("echo", rest) => (Body::Echo { reply: false, id: 1 }, rest),
        ("icmp", [numbers, rest @ ..]) => {
            let (kind, code) = numbers.split_once('/').with_context(|| format!("`{line}`: should be TYPE/CODE"))?;
            let about = Box::new(about.with_context(|| format!("`{line}`: ` : PACKET` is missing"))?);
            (Body::Error { kind: kind.parse()?, code: code.parse()?, rest: 0, about }, rest)
        }
        _ => bail!("`{line}`: no such kind of packet, or something is missing"),
    };
    let mut packet = Packet::new(source, destination, body);
    for option in options {
        apply(&mut packet, option)?;
    }
    Ok(packet)
}

/// Changes a packet as an option says.
pub fn apply(packet: &mut Packet, option: &str) -> anyhow::Result<()> {
    match option.split_once('=') {
        Some(("ttl", value)) => packet.ttl = value.parse()?,
        Some(("tos", value)) => packet.tos = value.parse()?,
        Some(("id", value)) => packet.id = value.parse()?,
        Some(("len", value)) => packet.len = value.parse()?,
        Some(("say", value)) => packet.say = Some(value.replace('_', " ").replace('~', "\r\n")),
        Some(("seq", value)) => packet.numbers[0] = value.parse()?,
        Some(("ack", value)) => packet.numbers[1] = value.parse()?,
        Some(("hex", value)) => {
            let digits: Vec<_> = value.bytes().filter(|&byte| byte != b'_').map(char::from).collect();
            let (pairs, rest) = digits.as_chunks::<2>();
            let byte = |pair: &[char; 2]| u8::from_str_radix(&String::from_iter(pair), 16);
            packet.payload = pairs.iter().map(byte).collect::<Result<_, _>>()?;
            if !rest.is_empty() || packet.payload.is_empty() {
                bail!("`{option}`: an even number of digits, and some");
            }
        }
        Some(("cut", value)) => {
            packet.cut = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            if packet.cut.iter().any(|at| !at.is_multiple_of(8)) || !packet.cut.is_sorted() {
                bail!("`{option}`: multiples of eight, in order");
            }
        }
        Some(("options", value)) => {
            packet.options = value.parse()?;
            if !packet.options.is_multiple_of(4) || packet.options > 40 || packet.source.is_ipv6() {
                bail!("`{option}`: a multiple of four up to 40, over IPv4");
            }
        }
        Some(("ext", value)) => {
            packet.extensions = value.split(',').map(extension).collect::<Result<_, _>>()?;
            if packet.source.is_ipv4() {
                bail!("`{option}`: over IPv6");
            }
        }
        Some(("order", value)) => packet.order = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
        Some(("rest", value)) => match &mut packet.body {
            Body::Error { rest, .. } => *rest = value.parse()?,
            _ => bail!("`{option}`: of ICMP errors only"),
        },
        None if option == "nodf" => packet.df = false,
        None if option == "damaged" => packet.damaged = true,
        _ => bail!("`{option}`: no such option"),
    }
    Ok(())
}

/// The number of an extension header.
fn extension(name: &str) -> anyhow::Result<u8> {
    Ok(match name {
        "hop" => 0,
        "routing" => 43,
        "segment-left" => SEGMENT_LEFT,
        "fragment" => protocol::FRAGMENT,
        "ah" => protocol::AH,
        "dest" => 60,
        _ => bail!("`{name}`: expected hop, routing, segment-left, fragment, ah or dest"),
    })
}

/// An address, with a port or without.
fn end(text: &str) -> anyhow::Result<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    let both: SocketAddr = text.parse().with_context(|| format!("`{text}` is no address"))?;
    Ok((both.ip(), Some(both.port())))
}

/// TCP flags by their letters; `.` for none.
pub fn flags(letters: &str) -> anyhow::Result<u8> {
    letters.chars().try_fold(0, |flags, letter| {
        Ok(flags
            | match letter {
                'S' => flag::SYN,
                'F' => flag::FIN,
                'R' => flag::RST,
                'P' => flag::PSH,
                'A' => flag::ACK,
                '.' => 0,
                _ => bail!("`{letter}` is no TCP flag"),
            })
    })
}

/// Chunks by their names, with commas.
pub fn chunks(names: &str) -> anyhow::Result<Vec<u8>> {
    let number = |name: &str| CHUNKS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    names.split(',').map(|name| number(name).with_context(|| format!("`{name}` is no SCTP chunk"))).collect()
}
