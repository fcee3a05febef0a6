//! Netlink attributes: a 16-bit length (header included), a 16-bit type, the payload, padding to four bytes.
//!
//! linux/netlink.h `struct nlattr`; lib/nlattr.c for what is taken and what is refused.

use alloc::vec::Vec;

/// Bytes of an attribute's header.
pub const HEADER: usize = 4;
/// The bits of the type field that are the type: the others are NLA_F_NESTED and NLA_F_NET_BYTEORDER, which readers
/// of IPVS ignore.
pub const TYPE_MASK: u16 = 0x3fff;
/// NLA_F_NESTED: the payload is a list of attributes. libnl sets it in requests; Linux does not set it in replies here.
pub const NESTED: u16 = 0x8000;

/// `length` with its padding to four bytes.
pub const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// An attribute has not the form its type must have. In a nested list Linux says EINVAL whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Shorter, or longer, than the type allows (ERANGE).
    #[error("an attribute's length is out of range")]
    Length,
    /// A string without its closing NUL (EINVAL).
    #[error("a string attribute does not end in NUL")]
    Unterminated,
}

/// One attribute as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, flags masked out.
    pub kind: u16,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn array<const N: usize>(&self) -> Result<[u8; N], Violation> {
        self.payload.first_chunk().copied().ok_or(Violation::Length)
    }

    /// A number of 8 bits. Longer payloads are taken, as Linux takes them: their first bytes count.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is shorter.
    pub fn u8(&self) -> Result<u8, Violation> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A number of 16 bits, little endian.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is shorter.
    pub fn u16(&self) -> Result<u16, Violation> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of 16 bits in network order: a port.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is shorter.
    pub fn be16(&self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    /// A number of 32 bits, little endian.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is shorter.
    pub fn u32(&self) -> Result<u32, Violation> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 64 bits, little endian.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is shorter.
    pub fn u64(&self) -> Result<u64, Violation> {
        self.array().map(u64::from_le_bytes)
    }

    /// At most `N` bytes, filled up with zeroes (NLA_BINARY and `nla_memcpy`).
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is longer.
    pub fn binary<const N: usize>(&self) -> Result<[u8; N], Violation> {
        let mut bytes = [0; N];
        bytes.get_mut(..self.payload.len()).ok_or(Violation::Length)?.copy_from_slice(self.payload);
        Ok(bytes)
    }

    /// A string of at most `longest` bytes and a NUL (NLA_NUL_STRING); what follows the first NUL is ignored.
    ///
    /// # Errors
    /// [`Violation::Unterminated`] if there is no NUL within `longest + 1` bytes; [`Violation::Length`] if the payload
    /// is longer than that.
    pub fn string(&self, longest: usize) -> Result<&'a [u8], Violation> {
        let window = &self.payload[..self.payload.len().min(longest.saturating_add(1))];
        let end = window.iter().position(|&byte| byte == 0).ok_or(Violation::Unterminated)?;
        let unpadded = self.payload.len() - usize::from(self.payload.last() == Some(&0));
        if unpadded > longest { Err(Violation::Length) } else { Ok(&self.payload[..end]) }
    }

    /// The attributes inside.
    ///
    /// # Errors
    /// [`Violation::Length`] if the payload is too short for one attribute; an empty one is an empty list.
    pub fn nested(&self) -> Result<Attributes<'a>, Violation> {
        match self.payload.len() {
            1..HEADER => Err(Violation::Length),
            _ => Ok(Attributes::new(self.payload)),
        }
    }
}

/// A list of attributes, read one by one. It ends at the end of the bytes or at the first torn attribute.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The list in `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Attributes { rest: bytes }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let [a, b, c, d] = *self.rest.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_le_bytes([a, b]));
        let payload = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_le_bytes([c, d]) & TYPE_MASK, payload })
    }
}

/// Writes attributes to the end of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// A writer to the end of `bytes`, whose length should be a multiple of four.
    pub const fn new(bytes: &'a mut Vec<u8>) -> Self {
        Writer { bytes }
    }

    /// An attribute. A payload of more than 65,531 bytes cannot be said and is cut there; nothing here comes near.
    pub fn put(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let payload = &payload[..payload.len().min(usize::from(u16::MAX) - HEADER)];
        self.bytes.extend_from_slice(&((HEADER + payload.len()) as u16).to_le_bytes());
        self.bytes.extend_from_slice(&kind.to_le_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// A number of 8 bits.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// A number of 16 bits, little endian.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_le_bytes())
    }

    /// A number of 16 bits in network order: a port.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A number of 32 bits, little endian.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_le_bytes())
    }

    /// A number of 64 bits, little endian.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_le_bytes())
    }

    /// A string with its NUL.
    pub fn string(&mut self, kind: u16, text: &[u8]) -> &mut Self {
        let start = self.bytes.len();
        self.put(kind, text);
        self.bytes.truncate(start + HEADER + text.len().min(usize::from(u16::MAX) - HEADER - 1));
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// A list of attributes as an attribute; NLA_F_NESTED is set only if `kind` has it.
    pub fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.put(kind, &[]);
        inside(&mut Writer { bytes: self.bytes });
        self.close(start);
        self
    }

    /// Sets the length of the attribute that began at `start` to all that was written since, and pads it.
    fn close(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_le_bytes());
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = vec![];
        let mut writer = Writer::new(&mut bytes);
        writer.u8(1, 7).be16(2, 80).string(3, b"wlc").nest(NESTED | 4, |inner| {
            inner.u32(1, 0x0102_0304).u64(2, u64::MAX);
        });
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes[..8], [5, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(bytes[8..16], [6, 0, 2, 0, 0, 80, 0, 0]);
        assert_eq!(bytes[16..24], [8, 0, 3, 0, b'w', b'l', b'c', 0]);
        let list: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(list.len(), 4);
        assert_eq!((list[0].u8(), list[1].be16(), list[2].string(15)), (Ok(7), Ok(80), Ok(&b"wlc"[..])));
        assert_eq!(list[3].kind, 4, "flags are masked");
        let inner: Vec<_> = list[3].nested().unwrap().collect();
        assert_eq!((inner[0].u32(), inner[1].u64()), (Ok(0x0102_0304), Ok(u64::MAX)));
    }

    #[test]
    fn lengths_are_as_strict_as_linux_is() {
        let of = |payload| Attribute { kind: 1, payload };
        assert_eq!(of(&[1]).u16(), Err(Violation::Length));
        assert_eq!(of(&[1, 0, 0, 0]).u16(), Ok(1), "longer is taken");
        assert_eq!(of(&[10, 0, 0, 1]).binary::<16>().map(|b| b[..5].to_vec()), Ok(vec![10, 0, 0, 1, 0]));
        assert_eq!(of(&[0; 17]).binary::<16>(), Err(Violation::Length));
        assert_eq!(of(b"wlc").string(15), Err(Violation::Unterminated));
        assert_eq!(of(b"").string(15), Err(Violation::Unterminated));
        assert_eq!(of(b"a234567890123456").string(15), Err(Violation::Unterminated));
        assert_eq!(of(b"a2345678901234\0").string(15), Ok(&b"a2345678901234"[..]));
        assert_eq!(of(b"a23456789012345\0").string(15), Ok(&b"a23456789012345"[..]));
        assert_eq!(of(b"rr\0ignored\0").string(15), Ok(&b"rr"[..]));
        assert_eq!(of(b"rr\0and far too much\0").string(15), Err(Violation::Length));
        assert!(of(&[0; 3]).nested().is_err());
        assert_eq!(of(&[]).nested().map(Iterator::count), Ok(0));
    }

    #[test]
    fn a_torn_attribute_ends_the_list() {
        for torn in [&[4, 0][..], &[3, 0, 1, 0], &[0, 0, 1, 0], &[9, 0, 1, 0, 1, 2, 3, 4], &[255, 255, 1, 0]] {
            assert_eq!(Attributes::new(torn).next(), None, "{torn:?}");
        }
        // The padding of the last attribute may be missing.
        assert_eq!(Attributes::new(&[5, 0, 1, 0, 9]).map(|a| a.u8()).collect::<Vec<_>>(), [Ok(9)]);
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_finite_list(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut seen = 0;
            for attribute in Attributes::new(&bytes) {
                seen += HEADER + attribute.payload.len();
                let _ = (attribute.u8(), attribute.u16(), attribute.u32(), attribute.u64(), attribute.binary::<16>());
                let _ = (attribute.string(15), attribute.nested().map(Iterator::count));
            }
            prop_assert!(seen <= bytes.len());
        }

        #[test]
        fn any_list_comes_back(list in proptest::collection::vec((0..0x3fffu16, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut bytes = vec![];
            let mut writer = Writer::new(&mut bytes);
            for (kind, payload) in &list {
                writer.put(*kind, payload);
            }
            let back: Vec<_> = Attributes::new(&bytes).map(|a| (a.kind, a.payload.to_vec())).collect();
            prop_assert_eq!(back, list);
        }
    }
}
