//! What FTP says about its data connections (RFC 959; RFC 2428 for IPv6): read in passing, as ip_vs_ftp of Linux does.

use core::fmt::Write;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;
use core::str;

/// The longest line of a client that is read: an `EPRT` with all digits an address and a port can have has 57 bytes.
pub(crate) const LINE_MAX: usize = 60;
/// The longest text a reply's address is replaced by.
const TEXT_MAX: usize = 24;

/// How a client wants its next data connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The server opens it, or there is nothing more to be heard of it.
    #[default]
    Active,
    /// `PASV`: the server will tell an address and a port, IPv4 only.
    Passive,
    /// `EPSV`: the server will tell a port.
    Extended,
}

/// What a client says about data connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// It will open one.
    Open(Mode),
    /// The server is to open one to this address and port.
    Listen(IpAddr, u16),
}

/// The command in a line of a client. Addresses are of the connection's own family.
pub(crate) fn command(line: &[u8], is_v6: bool) -> Option<Command> {
    let line = line.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line))?;
    let (name, rest) = line.split_at_checked(4)?;
    let own = if is_v6 { b'2' } else { b'1' };
    if name.eq_ignore_ascii_case(b"PASV") && rest.is_empty() && !is_v6 {
        return Some(Command::Open(Mode::Passive));
    }
    if name.eq_ignore_ascii_case(b"EPSV") && (rest.is_empty() || rest == [b' ', own]) {
        return Some(Command::Open(Mode::Extended));
    }
    let rest = rest.strip_prefix(b" ")?.trim_ascii_start();
    let told = match () {
        () if name.eq_ignore_ascii_case(b"PORT") && !is_v6 => numbers(rest)?,
        () if name.eq_ignore_ascii_case(b"EPRT") => extended(rest, is_v6)?,
        () => return None,
    };
    told.address.map(|address| Command::Listen(address, told.port))
}

/// An address and a port in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Not in an extended form that leaves it out: it is the server's own then.
    pub address: Option<IpAddr>,
    pub port: u16,
    /// Bytes of the text they take.
    pub len: usize,
}

/// Where a server tells an address and a port in a line, if it is the answer to this mode.
pub(crate) fn reply(line: &[u8], mode: Mode, is_v6: bool) -> Option<(Range<usize>, Told)> {
    let (code, rest) = line.split_at_checked(4)?;
    let (start, told) = match mode {
        Mode::Passive if code == b"227 " && !is_v6 => {
            // The parenthesis is no must (RFC 1123 section 4.1.2.6).
            let digit = rest.iter().position(u8::is_ascii_digit)?;
            (digit, numbers(&rest[digit..])?)
        }
        Mode::Extended if code == b"229 " => {
            let open = rest.iter().position(|&byte| byte == b'(')? + 1;
            (open, extended(&rest[open..], is_v6)?)
        }
        _ => return None,
    };
    let start = 4 + start;
    Some((start..start + told.len, told))
}

/// `h1,h2,h3,h4,p1,p2`, and something behind it.
fn numbers(text: &[u8]) -> Option<Told> {
    let (mut parts, mut part, mut digits) = ([0; 6], 0, 0);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' if digits < 3 => {
                parts[part] = parts[part] * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b',' if digits > 0 && part < 5 => (part, digits) = (part + 1, 0),
            _ if part < 5 || digits == 0 || byte.is_ascii_digit() => return None,
            _ => return told(parts, at),
        }
    }
    // A command ends with its line, which is cut off.
    (part == 5 && digits > 0).then(|| told(parts, text.len())).flatten()
}

fn told(parts: [u32; 6], len: usize) -> Option<Told> {
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = u8::try_from(part).ok()?;
    }
    let [a, b, c, d, high, low] = bytes;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some(Told { address: Some(Ipv4Addr::new(a, b, c, d).into()), port, len })
}

/// `|1|10.0.0.1|5000|`, or `|||5000|`, with any delimiter (RFC 2428 section 2).
fn extended(text: &[u8], is_v6: bool) -> Option<Told> {
    let &delimiter = text.first().filter(|byte| byte.is_ascii_graphic())?;
    let mut fields = text[1..].splitn(4, |&byte| byte == delimiter);
    let [family, address, port, _] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    let len = 4 + family.len() + address.len() + port.len();
    let address = match (family, is_v6) {
        (b"", _) if address.is_empty() => None,
        (b"1", false) => Some(str::from_utf8(address).ok()?.parse::<Ipv4Addr>().ok()?.into()),
        (b"2", true) => Some(str::from_utf8(address).ok()?.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let is_number = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let port = str::from_utf8(port).ok().filter(|_| is_number)?.parse().ok().filter(|&port| port != 0)?;
    Some(Told { address, port, len })
}

/// A short text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Text {
    bytes: [u8; TEXT_MAX],
    len: usize,
}

impl Text {
    /// What a server that answers to a mode should have told. An extended answer has no address: the client knows it.
    pub fn new(mode: Mode, address: IpAddr, port: u16) -> Self {
        let mut text = Text::default();
        // There is room for the longest.
        let _ = match (mode, address) {
            (Mode::Passive, IpAddr::V4(address)) => {
                let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
                write!(text, "{a},{b},{c},{d},{high},{low}")
            }
            _ => write!(text, "|||{port}|"),
        };
        text
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(core::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    fn listen(address: &str, port: u16) -> Option<Command> {
        Some(Command::Listen(address.parse().unwrap(), port))
    }

    #[test]
    fn commands_of_either_family_are_understood() {
        for (line, is_v6, expected) in [
            (&b"PASV\r\n"[..], false, Some(Command::Open(Mode::Passive))),
            (b"pasv\n", false, Some(Command::Open(Mode::Passive))),
            (b"PASV\r\n", true, None),
            (b"PASV x\r\n", false, None),
            (b"EPSV\r\n", true, Some(Command::Open(Mode::Extended))),
            (b"EPSV 1\r\n", false, Some(Command::Open(Mode::Extended))),
            (b"EPSV 2\r\n", true, Some(Command::Open(Mode::Extended))),
            (b"EPSV 2\r\n", false, None),
            (b"EPSV ALL\r\n", false, None),
            (b"PORT 10,9,0,1,4,1\r\n", false, listen("10.9.0.1", 1025)),
            (b"port  255,255,255,255,255,255\r\n", false, listen("255.255.255.255", 65535)),
            (b"PORT 10,9,0,1,4,1\r\n", true, None),
            (b"PORT 10,9,0,1,4\r\n", false, None),
            (b"PORT 10,9,0,1,4,1,5\r\n", false, listen("10.9.0.1", 1025)),
            (b"PORT 10,9,0,256,4,1\r\n", false, None),
            (b"PORT 10,9,0,1,0,0\r\n", false, None),
            (b"PORT 10,9,,1,4,1\r\n", false, None),
            (b"PORT 0010,9,0,1,4,1\r\n", false, None),
            (b"EPRT |1|10.9.0.1|1025|\r\n", false, listen("10.9.0.1", 1025)),
            (b"EPRT !2!fd09::1!1025!\r\n", true, listen("fd09::1", 1025)),
            (b"EPRT |2|fd09::1|1025|\r\n", false, None),
            (b"EPRT |||1025|\r\n", false, None),
            (b"EPRT |1|10.9.0.1|+25|\r\n", false, None),
            (b"EPRT |1|10.9.0.1|65536|\r\n", false, None),
            (b"EPRT |1|10.9.0.1|1025\r\n", false, None),
            (b"PASV", false, None),
            (b"", false, None),
        ] {
            assert_eq!(command(line, is_v6), expected, "{}", std::string::String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn replies_tell_an_address_and_where_it_stands() {
        let line = b"227 Entering Passive Mode (10,0,0,11,19,136).\r\n";
        let (range, told) = reply(line, Mode::Passive, false).unwrap();
        assert_eq!((&line[range], told.address, told.port), (&b"10,0,0,11,19,136"[..], "10.0.0.11".parse().ok(), 5000));
        let line = b"229 Extended (|||5000|)\r\n";
        let (range, told) = reply(line, Mode::Extended, true).unwrap();
        assert_eq!((&line[range], told.address, told.port), (&b"|||5000|"[..], None, 5000));
        let line = b"229 Extended (|1|10.0.0.11|5000|)\r\n";
        let (range, told) = reply(line, Mode::Extended, false).unwrap();
        assert_eq!((&line[range], told.address), (&b"|1|10.0.0.11|5000|"[..], "10.0.0.11".parse().ok()));
        assert!(reply(b"227 =1,2,3,4,5,6\r\n", Mode::Passive, false).is_some());
        for (line, mode, is_v6) in [
            (&b"227 Entering Passive Mode (10,0,0,11,19,136"[..9], Mode::Passive, false),
            (b"227 (10,0,0,11,19)\r\n", Mode::Passive, false),
            (b"227 (10,0,0,11,19,136)\r\n", Mode::Active, false),
            (b"227 (10,0,0,11,19,136)\r\n", Mode::Extended, false),
            (b"227 (10,0,0,11,19,136)\r\n", Mode::Passive, true),
            (b"227-(10,0,0,11,19,136)\r\n", Mode::Passive, false),
            (b"229 |||5000|\r\n", Mode::Extended, false),
            (b"229 (|||5000", Mode::Extended, false),
            (b"229 (|||0|)", Mode::Extended, false),
        ] {
            assert_eq!(reply(line, mode, is_v6), None, "{}", std::string::String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn texts_are_those_of_servers() {
        let text = |mode, address: &str, port| {
            std::string::String::from_utf8(Text::new(mode, address.parse().unwrap(), port).bytes().to_vec()).unwrap()
        };
        assert_eq!(text(Mode::Passive, "10.0.0.100", 5000), "10,0,0,100,19,136");
        assert_eq!(text(Mode::Passive, "255.255.255.255", 65535), "255,255,255,255,255,255");
        assert_eq!(text(Mode::Extended, "fd00::100", 65535), "|||65535|");
    }

    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let start = prop::sample::select(&["227 ", "229 (", "PORT ", "EPRT |2|", ""]);
        let byte = prop_oneof![any::<u8>(), Just(b','), Just(b'|'), b'0'..=b'9', Just(b'\n')];
        (start, prop::collection::vec(byte, 0..80)).prop_map(|(start, rest)| [start.as_bytes(), &rest[..]].concat())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(line in noise(), is_v6: bool, extended: bool) {
            let _ = command(&line, is_v6);
            let mode = if extended { Mode::Extended } else { Mode::Passive };
            if let Some((range, told)) = reply(&line, mode, is_v6) {
                prop_assert!(range.end <= line.len() && told.port != 0 && !range.is_empty());
            }
        }

        /// What is written is what is read.
        #[test]
        fn a_text_tells_what_it_was_made_of(address: u32, port in 1u16.., extended: bool) {
            let address = IpAddr::from(Ipv4Addr::from_bits(address));
            let (code, mode) = if extended { ("229", Mode::Extended) } else { ("227", Mode::Passive) };
            let line = [format!("{code} (").as_bytes(), Text::new(mode, address, port).bytes(), b")\r\n"].concat();
            let (_, told) = reply(&line, mode, false).unwrap();
            prop_assert_eq!((told.address, told.port), (Some(address).filter(|_| !extended), port));
        }
    }
}
