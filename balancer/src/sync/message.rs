//! What daemons send each other: messages, each a UDP payload, with connections in it.
//!
//! Versions 0 and 1 of Linux (net/netfilter/ipvs/ip_vs_sync.c). All numbers are in network order, but for the sequence
//! numbers of version 0, which are as they lie in the memory of x86. Version 0 is IPv4 alone, and tells no timeouts, marks
//! or data of persistence engines.
//!
//! | version 0 | bytes | version 1 | bytes |
//! |---|---|---|---|
//! | connections | 1 | 0 | 1 |
//! | syncid | 1 | syncid | 1 |
//! | size of the message | 2 | size of the message | 2 |
//! | | | connections, version 1, 0, 0 | 4 |
//!
//! What comes from the network is read by [`Message::read`]: total, bounded, and as strict as Linux about which fault
//! spoils one connection and which all that follows.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::CALL_ID_MAX;
use crate::wire::ipvs::NAME_MAX;

/// Bytes of the headers.
pub(super) const HEADER_V0: usize = 4;
pub(super) const HEADER_V1: usize = 8;
/// Bytes of a connection without anything optional.
const CONNECTION_V0: usize = 24;
const CONNECTION_V4: usize = 36;
const CONNECTION_V6: usize = 72;
/// Bytes of the sequence numbers of both directions.
const SEQUENCES: usize = 24;
/// Type and length of a parameter.
const PARAMETER: usize = 2;
/// The most bytes a connection takes.
pub(super) const CONNECTION_MAX: usize =
    CONNECTION_V6 + PARAMETER + SEQUENCES + PARAMETER + CALL_ID_MAX + PARAMETER + NAME_MAX + 1 + 3;

/// Types of parameters (IPVS_OPT_*).
mod parameter {
    pub const SEQUENCES: u8 = 1;
    pub const ENGINE_DATA: u8 = 2;
    pub const ENGINE_NAME: u8 = 3;
    /// This bit says of one that it may be stepped over by who does not know it.
    pub const OPTIONAL: u8 = 0x40;
}

/// IPv6, in the type of a connection.
const TYPE_V6: u8 = 1;
/// In a connection's size: the version of its form, which is 0.
const SIZE_MASK: u16 = 0x0fff;

/// Flags of connections (IP_VS_CONN_F_*).
pub(super) mod flag {
    /// The forwarding method.
    pub const FORWARD: u32 = 0x0007;
    /// Came by synchronization.
    pub const SYNC: u32 = 0x0020;
    /// Replies do not come by.
    pub const NO_OUTPUT: u32 = 0x0080;
    pub const INACTIVE: u32 = 0x0100;
    pub const SEQUENCES: u32 = 0x0600;
    /// Those of the server's stream.
    pub const SEQUENCES_OUT: u32 = 0x0400;
    /// The client's port is not known yet.
    pub const NO_CLIENT_PORT: u32 = 0x0800;
    pub const TEMPLATE: u32 = 0x1000;
    /// Not Linux's, which does not look at it in version 1: the sender has only heard of it, and seen no packet since.
    pub const HEARSAY: u32 = 0x8000_0000;
    /// What Linux looks at when it receives (IP_VS_CONN_F_BACKUP_MASK), and ours.
    pub const RECEIVED: u32 = FORWARD | NO_OUTPUT | INACTIVE | SEQUENCES | NO_CLIENT_PORT | TEMPLATE | HEARSAY;
}

/// How far the sequence numbers of a direction are moved (struct ip_vs_seq).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// From which number on.
    pub initial: u32,
    pub delta: u32,
    /// What it was before.
    pub previous: u32,
}

/// A connection or template as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// IP's number.
    pub protocol: u8,
    /// Of [`flag`].
    pub flags: u32,
    /// The protocol's number of the state; of a template 1 if a connection of it came about.
    pub state: u16,
    pub client: (IpAddr, u16),
    pub service: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    /// 0 if there is none, and in version 0.
    pub mark: u32,
    /// In seconds; 0 if it is not told, as in version 0.
    pub timeout: u32,
    /// From the client, and to it; they are there if a flag says so.
    pub sequences: Option<[Sequence; 2]>,
    /// What a persistence engine tells its templates apart by, and its name.
    pub engine: Option<(&'a [u8], &'a [u8])>,
}

impl Record<'_> {
    /// Bytes it takes, and whether that version can tell it.
    pub fn size(&self, version: u8) -> Option<usize> {
        let sequences = if self.sequences.is_some() { SEQUENCES } else { 0 };
        if version == 0 {
            return self.client.0.is_ipv4().then_some(CONNECTION_V0 + sequences);
        }
        let fixed = if self.client.0.is_ipv4() { CONNECTION_V4 } else { CONNECTION_V6 };
        let sequences = if sequences == 0 { 0 } else { sequences + PARAMETER };
        let engine = self.engine.map_or(0, |(data, name)| data.len() + name.len() + 2 * PARAMETER);
        Some(fixed + sequences + engine)
    }

    /// Appends it.
    pub fn write(&self, version: u8, out: &mut Vec<u8>) {
        if version == 0 { self.write_v0(out) } else { self.write_v1(out) }
    }

    fn ports(&self) -> [u16; 3] {
        [self.client.1, self.service.1, self.destination.1]
    }

    fn addresses(&self) -> [IpAddr; 3] {
        [self.client.0, self.service.0, self.destination.0]
    }

    fn write_v0(&self, out: &mut Vec<u8>) {
        out.extend([0, self.protocol]);
        self.ports().iter().for_each(|port| out.extend(port.to_be_bytes()));
        self.addresses().iter().for_each(|&address| write_address(address, out));
        out.extend((self.flags as u16).to_be_bytes());
        out.extend(self.state.to_be_bytes());
        for Sequence { initial, delta, previous } in self.sequences.into_iter().flatten() {
            [initial, delta, previous].iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
    }

    fn write_v1(&self, out: &mut Vec<u8>) {
        let size = self.size(1).unwrap_or_default() as u16 & SIZE_MASK;
        out.extend([if self.client.0.is_ipv4() { 0 } else { TYPE_V6 }, self.protocol]);
        out.extend(size.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend(self.state.to_be_bytes());
        self.ports().iter().for_each(|port| out.extend(port.to_be_bytes()));
        out.extend(self.mark.to_be_bytes());
        out.extend(self.timeout.to_be_bytes());
        self.addresses().iter().for_each(|&address| write_address(address, out));
        if let Some(sequences) = self.sequences {
            out.extend([parameter::SEQUENCES, SEQUENCES as u8]);
            for Sequence { initial, delta, previous } in sequences {
                [initial, delta, previous].iter().for_each(|number| out.extend(number.to_be_bytes()));
            }
        }
        if let Some((data, name)) = self.engine {
            for (kind, bytes) in [(parameter::ENGINE_DATA, data), (parameter::ENGINE_NAME, name)] {
                out.extend([kind, bytes.len() as u8]);
                out.extend(bytes);
            }
        }
    }
}

fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(a) => out.extend(a.octets()),
        IpAddr::V6(a) => out.extend(a.octets()),
    }
}

/// Why a message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This connection makes no sense, and those behind it may.
    Connection,
    /// Nothing more can be read.
    Rest,
}

/// A message as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub version: u8,
    pub syncid: u8,
    /// How many connections it says to have.
    count: u8,
    /// What is behind the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message in a datagram.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let &[count, syncid, a, b] = bytes.first_chunk()?;
        if usize::from(u16::from_be_bytes([a, b])) != bytes.len() {
            return None;
        }
        match bytes.split_first_chunk::<HEADER_V1>() {
            Some((&[0, _, _, _, count, 1, 0, 0], body)) => Some(Message { version: 1, syncid, count, body }),
            _ => Some(Message { version: 0, syncid, count, body: &bytes[HEADER_V0..] }),
        }
    }

    /// Its connections. A [`Fault::Rest`] is the last.
    pub fn records(&self) -> Records<'a> {
        Records { version: self.version, left: self.count, bytes: self.body }
    }
}

/// The connections of a message.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    version: u8,
    left: u8,
    bytes: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let read = if self.version == 0 { self.read_v0() } else { self.read_v1() };
        if read == Err(Fault::Rest) {
            self.left = 0;
        }
        Some(read)
    }
}

impl<'a> Records<'a> {
    fn read_v0(&mut self) -> Result<Record<'a>, Fault> {
        let (fixed, rest) = self.bytes.split_first_chunk::<CONNECTION_V0>().ok_or(Fault::Rest)?;
        self.bytes = rest;
        let short = |at| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let address = |at| address_v4(&fixed[at..at + 4]);
        let flags = u32::from(short(20));
        let mut sequences = None;
        if flags & flag::SEQUENCES != 0 {
            let (bytes, rest) = self.bytes.split_first_chunk::<SEQUENCES>().ok_or(Fault::Rest)?;
            self.bytes = rest;
            sequences = Some(read_sequences(bytes, u32::from_le_bytes));
        }
        Ok(Record {
            protocol: fixed[1],
            flags: flags & flag::RECEIVED,
            state: short(22),
            client: (address(8), short(2)),
            service: (address(12), short(4)),
            destination: (address(16), short(6)),
            mark: 0,
            timeout: 0,
            sequences,
            engine: None,
        })
    }

    fn read_v1(&mut self) -> Result<Record<'a>, Fault> {
        let fixed = self.bytes.first_chunk::<CONNECTION_V4>().ok_or(Fault::Rest)?;
        let short = |at| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let long = |at| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let size = usize::from(short(2) & SIZE_MASK);
        let bytes = self.bytes.get(..size).filter(|_| short(2) & !SIZE_MASK == 0).ok_or(Fault::Rest)?;
        self.bytes = self.bytes.get((size + 3) & !3..).unwrap_or_default();
        let (addresses, parameters) = match fixed[0] {
            kind if kind & TYPE_V6 != 0 => {
                let (fixed, rest) = bytes.split_first_chunk::<CONNECTION_V6>().ok_or(Fault::Rest)?;
                ([24, 40, 56].map(|at| address_v6(&fixed[at..at + 16])), rest)
            }
            0 => {
                let rest = bytes.get(CONNECTION_V4..).ok_or(Fault::Rest)?;
                ([24, 28, 32].map(|at| address_v4(&fixed[at..at + 4])), rest)
            }
            _ => return Err(Fault::Rest),
        };
        let (sequences, engine) = read_parameters(parameters)?;
        let [client, service, destination] = addresses;
        Ok(Record {
            protocol: fixed[1],
            flags: long(4) & flag::RECEIVED,
            state: short(8),
            client: (client, short(10)),
            service: (service, short(12)),
            destination: (destination, short(14)),
            mark: long(16),
            timeout: long(20),
            sequences,
            engine,
        })
    }
}

/// Sequence numbers, and data and name of an engine.
type Parameters<'a> = (Option<[Sequence; 2]>, Option<(&'a [u8], &'a [u8])>);

fn read_parameters(mut bytes: &[u8]) -> Result<Parameters<'_>, Fault> {
    let (mut sequences, mut data, mut name) = (None, None, None);
    while !bytes.is_empty() {
        let (&[kind, length], rest) = bytes.split_first_chunk().ok_or(Fault::Rest)?;
        let (value, rest) = rest.split_at_checked(length.into()).filter(|_| length != 0).ok_or(Fault::Rest)?;
        bytes = rest;
        let known = match kind & !parameter::OPTIONAL {
            parameter::SEQUENCES => {
                let value = value.try_into().map_err(|_| Fault::Rest)?;
                sequences.replace(read_sequences(value, u32::from_be_bytes)).is_some()
            }
            parameter::ENGINE_DATA => data.replace(value).is_some(),
            parameter::ENGINE_NAME if value.len() > NAME_MAX + 1 => true,
            parameter::ENGINE_NAME => name.replace(value).is_some(),
            _ if kind & parameter::OPTIONAL != 0 => false,
            _ => return Err(Fault::Connection),
        };
        if known {
            // There already, or too long.
            return Err(Fault::Rest);
        }
    }
    match (data, name) {
        (Some(data), Some(name)) => Ok((sequences, Some((data, name)))),
        (Some(_), None) => Err(Fault::Connection),
        (None, _) => Ok((sequences, None)),
    }
}

fn read_sequences(bytes: &[u8; SEQUENCES], number: impl Fn([u8; 4]) -> u32) -> [Sequence; 2] {
    let number = |at: usize| number([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [0, 12].map(|at| Sequence { initial: number(at), delta: number(at + 4), previous: number(at + 8) })
}

fn address_v4(bytes: &[u8]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default()))
}

fn address_v6(bytes: &[u8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()))
}

/// A message that is being made, in memory that is there.
#[derive(Debug)]
pub(super) struct Draft {
    bytes: Vec<u8>,
    pub version: u8,
    /// Bytes it may have.
    limit: usize,
}

impl Draft {
    /// A message without connections, in the memory of an old one. It may have `max_len` bytes, and more if the first connection,
    /// of `size` bytes, needs them.
    pub fn new(mut bytes: Vec<u8>, version: u8, syncid: u8, max_len: usize, size: usize) -> Self {
        bytes.clear();
        let header = if version == 0 { HEADER_V0 } else { HEADER_V1 };
        bytes.resize(header, 0);
        bytes[1] = syncid;
        if version != 0 {
            bytes[5] = version;
        }
        Draft { bytes, version, limit: max_len.max(header + size) }
    }

    fn count(&mut self) -> &mut u8 {
        &mut self.bytes[if self.version == 0 { 0 } else { 4 }]
    }

    /// Appends a connection, if it is of this version and there is room.
    pub fn push(&mut self, record: &Record<'_>, size: usize) -> bool {
        let padding = if self.version == 0 { 0 } else { self.bytes.len().wrapping_neg() & 3 };
        if self.bytes.len() + padding + size > self.limit || *self.count() == u8::MAX {
            return false;
        }
        self.bytes.resize(self.bytes.len() + padding, 0);
        record.write(self.version, &mut self.bytes);
        *self.count() += 1;
        true
    }

    /// The finished message, and how many connections it has.
    pub fn finish(mut self) -> (Vec<u8>, u8) {
        let size = self.bytes.len() as u16;
        self.bytes[2..4].copy_from_slice(&size.to_be_bytes());
        let count = *self.count();
        (self.bytes, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn record() -> Record<'static> {
        Record {
            protocol: 6,
            flags: 0x0100,
            state: 4,
            client: (ip("10.9.0.1"), 1000),
            service: (ip("10.0.0.100"), 80),
            destination: (ip("10.0.0.11"), 8080),
            mark: 0,
            timeout: 120,
            sequences: None,
            engine: None,
        }
    }

    fn message(version: u8, records: &[Record<'_>]) -> Vec<u8> {
        let mut draft = Draft::new(vec![1, 2, 3], version, 7, 1472, 0);
        for record in records {
            assert!(draft.push(record, record.size(version).unwrap()));
        }
        draft.finish().0
    }

    fn read(bytes: &[u8]) -> Vec<Result<Record<'_>, Fault>> {
        Message::read(bytes).unwrap().records().collect()
    }

    #[test]
    fn version_1_is_linux_s_byte_for_byte() {
        let bytes = message(1, &[record()]);
        let expected = [
            0, 7, 0, 44, 1, 1, 0, 0, // message
            0, 6, 0, 36, 0, 0, 1, 0, 0, 4, 3, 232, 0, 80, 31, 144, // connection
            0, 0, 0, 0, 0, 0, 0, 120, 10, 9, 0, 1, 10, 0, 0, 100, 10, 0, 0, 11,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(read(&bytes), [Ok(record())]);
    }

    #[test]
    fn version_0_is_linux_s_byte_for_byte() {
        let bytes = message(0, &[record()]);
        let expected = [
            1, 7, 0, 28, // message
            0, 6, 3, 232, 0, 80, 31, 144, 10, 9, 0, 1, 10, 0, 0, 100, 10, 0, 0, 11, 1, 0, 0, 4,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(read(&bytes), [Ok(Record { timeout: 0, ..record() })]);
        let v6 = Record { client: (ip("fd09::1"), 1), ..record() };
        assert_eq!(v6.size(0), None, "version 0 has no IPv6");
    }

    #[test]
    fn connections_are_padded_in_front_of_the_next() {
        let engine = Record { engine: Some((b"a@b", b"sip")), flags: 0x1100, ..record() };
        let bytes = message(1, &[engine, record()]);
        assert_eq!(engine.size(1), Some(46));
        assert_eq!(bytes.len(), 8 + 48 + 36);
        assert_eq!(read(&bytes), [Ok(engine), Ok(record())]);
    }

    #[test]
    fn a_fault_spoils_one_connection_or_all_that_follows_as_in_linux() {
        let two = message(1, &[record(), record()]);
        let with = |at: usize, byte: u8| {
            let mut bytes = two.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(read(&with(8, 2)), [Err(Fault::Rest)], "an unknown type");
        assert_eq!(read(&with(10, 0x10)), [Err(Fault::Rest)], "an unknown version");
        assert_eq!(read(&with(11, 35)), [Err(Fault::Rest)], "too short");
        assert_eq!(read(&with(4, 3))[2], Err(Fault::Rest), "more are said to be there than are");
        assert_eq!(Message::read(&two[..two.len() - 1]), None, "the size is another");
        let mut parameters = vec![0, 7, 0, 44 + 4, 1, 1, 0, 0];
        parameters.extend(&two[8..44]);
        parameters[11] = 40;
        for (parameter, fault) in [
            ([9, 2, 0, 0], Some(Fault::Connection)),
            ([0x49, 2, 0, 0], None),
            ([2, 2, 0, 0], Some(Fault::Connection)),
            ([2, 0, 0, 0], Some(Fault::Rest)),
            ([1, 2, 0, 0], Some(Fault::Rest)),
            ([3, 3, 0, 0], Some(Fault::Rest)),
        ] {
            let bytes = [&parameters[..], &parameter].concat();
            assert_eq!(read(&bytes)[0].err(), fault, "{parameter:?}");
        }
    }

    #[test]
    fn a_message_is_no_longer_than_it_may_be_but_for_its_only_connection() {
        let mut draft = Draft::new(Vec::new(), 1, 0, 100, 36);
        assert_eq!([(); 4].map(|()| draft.push(&record(), 36)), [true, true, false, false]);
        assert_eq!(draft.finish().1, 2);
        let mut draft = Draft::new(Vec::new(), 1, 0, 1, 36);
        assert_eq!([(); 2].map(|()| draft.push(&record(), 36)), [true, false]);
    }

    #[test]
    fn no_connection_takes_more_than_is_set_aside_for_one() {
        let longest = Record {
            client: (ip("fd09::1"), 1),
            sequences: Some([Sequence::default(); 2]),
            engine: Some((&[1; CALL_ID_MAX], &[b'x'; NAME_MAX + 1])),
            ..record()
        };
        assert!(longest.size(1).unwrap() <= CONNECTION_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(mut bytes in proptest::collection::vec(any::<u8>(), 4..200), v1: bool) {
            let size = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&size.to_be_bytes());
            if v1 && bytes.len() >= 8 {
                bytes[0] = 0;
                bytes[5..8].copy_from_slice(&[1, 0, 0]);
            }
            prop_assert!(read(&bytes).len() <= 255);
        }

        #[test]
        fn what_is_written_is_read(
            v6: bool, flags in 0u32..0x4000, state: u16, ports: [u16; 3], mark: u32, timeout: u32, numbers: [u32; 6],
            data in proptest::collection::vec(any::<u8>(), 1..=255), with_engine: bool,
        ) {
            let address = |last: u8| if v6 { ip(&std::format!("fd00::{last}")) } else { ip(&std::format!("10.0.0.{last}")) };
            let sequence = |at: usize| Sequence { initial: numbers[at], delta: numbers[at + 1], previous: numbers[at + 2] };
            let record = Record {
                protocol: 17, flags, state, mark, timeout,
                client: (address(1), ports[0]), service: (address(2), ports[1]), destination: (address(3), ports[2]),
                sequences: (flags & flag::SEQUENCES != 0).then(|| [sequence(0), sequence(3)]),
                engine: with_engine.then_some((&data[..], &b"sip"[..])),
            };
            let bytes = message(1, &[record, record]);
            // What no receiver looks at is not read.
            let told = Record { flags: flags & flag::RECEIVED, ..record };
            prop_assert_eq!(read(&bytes), [Ok(told), Ok(told)]);
            if !v6 {
                let old = Record { mark: 0, timeout: 0, engine: None, ..told };
                let bytes = message(0, &[record]);
                prop_assert_eq!(read(&bytes), [Ok(old)]);
            }
        }
    }
}
