//! The SIP persistence engine: what it looks for in a message (RFC 3261).

use crate::connection::CALL_ID_MAX;

/// Names of the header, in long and compact form (RFC 3261 section 20.8), in lower case.
const NAMES: [&[u8]; 2] = [b"call-id", b"i"];

/// The Call-ID of a SIP message, if it has one: at most [`CALL_ID_MAX`] bytes, in a line that ends within the message.
pub(crate) fn call_id(message: &[u8]) -> Option<&[u8]> {
    // The first line is the request's or status's. Lines may end with CR, LF or both (RFC 2543).
    let mut rest = message;
    loop {
        let end = rest.iter().position(is_end)?;
        rest = &rest[end + 1..];
        let Some(value) = NAMES.iter().find_map(|name| value_of(rest, name)) else { continue };
        let length = length(value);
        if length == 0 {
            continue;
        }
        let found = value.get(..length).filter(|_| length <= CALL_ID_MAX)?;
        return value.get(length).is_some_and(is_end).then_some(found);
    }
}

fn is_end(byte: &u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// What stands after the name of a header and its colon at the start of a line.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    skip_blanks(skip_blanks(rest).strip_prefix(b":")?).into()
}

/// Without leading spaces and tabs.
fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &bytes[blanks..]
}

/// The length of `word [ "@" word ]` (RFC 3261 section 25.1, callid).
fn length(value: &[u8]) -> usize {
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~()<>:\\\"/[]?{}".contains(byte);
    let word = |bytes: &[u8]| bytes.iter().take_while(is_word).count();
    let first = word(value);
    match value.get(first) {
        Some(b'@') => match word(&value[first + 1..]) {
            0 => 0,
            second => first + 1 + second,
        },
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_call_id_is_found_in_every_form() {
        for (message, expected) in [
            (
                &b"INVITE sip:a@b SIP/2.0\r\nTo: x\r\nCall-ID: f81d4fae@foo.bar\r\n\r\n"[..],
                Some(&b"f81d4fae@foo.bar"[..]),
            ),
            (b"OPTIONS sip:a SIP/2.0\r\ni:1\r\n", Some(b"1")),
            (b"x\nCALL-ID \t: \t a-b.c\n", Some(b"a-b.c")),
            (b"x\rcall-id: (weird)<id>@{h}\rX: y\r", Some(b"(weird)<id>@{h}")),
            (b"Call-ID: first-line\r\n", None),
            (b"x\r\nCall-ID: unfinished", None),
            (b"x\r\nCall-ID: two words\r\n", None),
            (b"x\r\nCall-ID: a@\r\nCall-ID: b\r\n", Some(b"b")),
            (b"x\r\nid: 1\r\nCall-Info: 2\r\n", None),
            (b"", None),
        ] {
            assert_eq!(call_id(message), expected, "{}", std::string::String::from_utf8_lossy(message));
        }
    }

    #[test]
    fn one_that_is_too_long_is_none() {
        let message = |length: usize| [&b"x\r\nCall-ID: "[..], &std::vec![b'a'; length], b"\r\n"].concat();
        assert_eq!(call_id(&message(255)).map(<[u8]>::len), Some(255));
        assert_eq!(call_id(&message(256)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'i'), Just(b':'), Just(b'\n')], 0..200)) {
            if let Some(found) = call_id(&bytes) {
                prop_assert!(!found.is_empty() && found.len() <= CALL_ID_MAX);
            }
        }
    }
}
