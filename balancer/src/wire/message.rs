//! Netlink messages: the headers, the error, and the end of a dump.
//!
//! linux/netlink.h `struct nlmsghdr` (16 bytes: length, type, flags, sequence, port) and linux/genetlink.h
//! `struct genlmsghdr` (4 bytes: command, version, reserved).

use alloc::vec::Vec;

use super::attribute::{Attributes, Writer, align};
use super::ipvs::{self, Command};

/// Bytes of a [`Header`].
pub const HEADER: usize = 16;
/// Bytes of a [`Generic`] header.
pub const GENERIC_HEADER: usize = 4;

/// NLMSG_ERROR: an error, or with number 0 an acknowledgement.
pub const ERROR: u16 = 2;
/// NLMSG_DONE: the end of a dump.
pub const DONE: u16 = 3;
/// NLMSG_MIN_TYPE: types below are of netlink itself.
pub const MIN_TYPE: u16 = 16;

/// Flags of a message.
pub mod flag {
    /// NLM_F_REQUEST: a request; what has it not is ignored.
    pub const REQUEST: u16 = 0x001;
    /// NLM_F_MULTI: one of several, the last of which is of type [`DONE`](super::DONE).
    pub const MULTI: u16 = 0x002;
    /// NLM_F_ACK: success is to be told too.
    pub const ACK: u16 = 0x004;
    /// NLM_F_CAPPED: an error that repeats only the header of its request.
    pub const CAPPED: u16 = 0x100;
    /// NLM_F_DUMP: all there are (both bits).
    pub const DUMP: u16 = 0x300;
}

/// The header of every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message, this header included.
    pub length: u32,
    /// A family's number, [`ERROR`], [`DONE`].
    pub kind: u16,
    /// [`flag`]s.
    pub flags: u16,
    /// The request's number, repeated in its replies.
    pub sequence: u32,
    /// Who asked: repeated in replies.
    pub port: u32,
}

impl Header {
    /// The header at the start of `bytes`, if there are enough.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let b = bytes.first_chunk::<HEADER>()?;
        Some(Header {
            length: u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            kind: u16::from_le_bytes([b[4], b[5]]),
            flags: u16::from_le_bytes([b[6], b[7]]),
            sequence: u32::from_le_bytes([b[8], b[9], b[10], b[11]]),
            port: u32::from_le_bytes([b[12], b[13], b[14], b[15]]),
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[0..4].copy_from_slice(&self.length.to_le_bytes());
        b[4..6].copy_from_slice(&self.kind.to_le_bytes());
        b[6..8].copy_from_slice(&self.flags.to_le_bytes());
        b[8..12].copy_from_slice(&self.sequence.to_le_bytes());
        b[12..16].copy_from_slice(&self.port.to_le_bytes());
        b
    }

    /// Whether all entries are asked for.
    pub const fn is_dump(&self) -> bool {
        self.flags & flag::DUMP == flag::DUMP
    }
}

/// The header of a generic-netlink message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generic {
    /// The command, within the family.
    pub command: u8,
    /// The version of the family.
    pub version: u8,
}

/// One message as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// What follows the header, up to the length in it.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message that fills `bytes`, up to padding to four. `None` if there is none, or more than one.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let header = Header::read(bytes)?;
        let length = usize::try_from(header.length).ok()?;
        let payload = bytes.get(HEADER..length)?;
        (bytes.len() <= align(length)).then_some(Message { header, payload })
    }

    /// The generic-netlink header and the attributes after it, if there is room for one.
    pub fn generic(&self) -> Option<(Generic, Attributes<'a>)> {
        let [command, version, _, _] = *self.payload.first_chunk::<GENERIC_HEADER>()?;
        Some((Generic { command, version }, Attributes::new(&self.payload[GENERIC_HEADER..])))
    }

    /// The number in an [`ERROR`] or [`DONE`] message: 0, or a negative number of Linux. `None` for another message,
    /// or without a number.
    pub fn error(&self) -> Option<i32> {
        if !matches!(self.header.kind, ERROR | DONE) {
            return None;
        }
        self.payload.first_chunk().copied().map(i32::from_le_bytes)
    }
}

/// Writes a message behind its length of 32 bits in network order, which is how messages are told apart on a stream.
/// The length in `header` is ignored: it is counted.
pub fn write(out: &mut Vec<u8>, header: Header, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    // Attributes pad the whole buffer to four bytes, so the message must begin at a multiple of four.
    let padding = align(start) - start;
    out.resize(out.len() + padding, 0);
    let message = out.len();
    out.extend_from_slice(&header.bytes());
    payload(out);
    let length = (out.len() - message) as u32;
    out[message..message + 4].copy_from_slice(&length.to_le_bytes());
    out.drain(start + 4..start + 4 + padding);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Writes a message of a generic-netlink family, framed as [`write()`] does.
pub fn write_generic(out: &mut Vec<u8>, header: Header, generic: Generic, attributes: impl FnOnce(&mut Writer<'_>)) {
    write(out, header, |out| {
        out.extend_from_slice(&[generic.command, generic.version, 0, 0]);
        attributes(&mut Writer::new(out));
    });
}

/// Writes a message of the "IPVS" family, framed as [`write()`] does.
pub fn write_ipvs(
    out: &mut Vec<u8>,
    command: Command,
    flags: u16,
    (sequence, port): (u32, u32),
    attributes: impl FnOnce(&mut Writer<'_>),
) {
    let header = Header { length: 0, kind: ipvs::FAMILY_ID, flags, sequence, port };
    write_generic(out, header, Generic { command: command as u8, version: ipvs::VERSION }, attributes);
}

/// Writes the answer to `request` that it failed with a number of Linux (negative), or that it is done (0). It repeats
/// the request's header and not its payload, as Linux does for a socket with NETLINK_CAP_ACK.
pub fn write_error(out: &mut Vec<u8>, request: &Header, number: i32) {
    let flags = if number == 0 { 0 } else { flag::CAPPED };
    let header = Header { length: 0, kind: ERROR, flags, sequence: request.sequence, port: request.port };
    write(out, header, |out| {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&request.bytes());
    });
}

/// Writes the end of the dump that `request` asked for.
pub fn write_done(out: &mut Vec<u8>, sequence: u32, port: u32) {
    let header = Header { length: 0, kind: DONE, flags: flag::MULTI, sequence, port };
    write(out, header, |out| out.extend_from_slice(&0i32.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn a_frame_is_a_length_and_a_message() {
        // Odd content in front does not disturb the padding of attributes.
        let mut out = vec![0xee; 3];
        write_ipvs(&mut out, Command::GetInfo, flag::REQUEST, (7, 9), |w| {
            w.u8(1, 5);
        });
        let expected =
            [0, 0, 0, 28, 28, 0, 0, 0, 0x1d, 0, 1, 0, 7, 0, 0, 0, 9, 0, 0, 0, 15, 1, 0, 0, 5, 0, 1, 0, 5, 0, 0, 0];
        assert_eq!(out[3..], expected);
        let message = Message::read(&out[7..]).unwrap();
        let (generic, mut attributes) = message.generic().unwrap();
        assert_eq!((generic.command, generic.version), (15, 1));
        assert_eq!(attributes.next().unwrap().u8(), Ok(5));
        assert_eq!(message.error(), None);
    }

    #[test]
    fn errors_and_ends_carry_a_number() {
        let request = Header { length: 20, kind: 0x1d, flags: 5, sequence: 3, port: 4 };
        let mut out = vec![];
        write_error(&mut out, &request, -17);
        let message = Message::read(&out[4..]).unwrap();
        assert_eq!((message.error(), message.header.sequence, message.header.port), (Some(-17), 3, 4));
        assert_eq!(Header::read(&message.payload[4..]), Some(request));
        out.clear();
        write_done(&mut out, 3, 4);
        let message = Message::read(&out[4..]).unwrap();
        assert_eq!((message.header.kind, message.error()), (DONE, Some(0)));
    }

    #[test]
    fn a_message_must_fill_its_frame() {
        let mut out = vec![];
        write(&mut out, Header { kind: 16, ..Header::default() }, |out| out.extend_from_slice(&[1, 2, 3]));
        let message = &out[4..];
        assert_eq!(Message::read(message).unwrap().payload, [1, 2, 3]);
        assert!(Message::read(message).unwrap().generic().is_none(), "no room for the header");
        assert!(Message::read(&message[..message.len() - 1]).is_none());
        assert!(Message::read(&[message, &[0]].concat()).is_some(), "padding");
        assert!(Message::read(&[message, &[0; 2]].concat()).is_none());
        assert!(Message::read(&[15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert!(Message::read(&[255; 20]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(message) = Message::read(&bytes) {
                let _ = (message.error(), message.generic().map(|(_, a)| a.count()));
            }
        }
    }
}
