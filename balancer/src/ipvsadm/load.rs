//! Files of rules.

use alloc::vec::Vec;

use super::{Command, ParseError, Problem, parse};

/// The longest line of a file of rules in bytes, without its end.
pub const LINE_MAX: usize = 1024;

/// Reads a file of rules as `ipvsadm-save` writes it: a command a line, each as ipvsadm's command line would be, with or
/// without `ipvsadm` in front. Blank lines and what follows a word that begins with `#` are left out; a final run of NUL
/// bytes, with which a boot loader may have filled up a page, too.
///
/// Every line is told to one of the two, in order, with its number from 1: a command, or what is wrong with the line. No
/// bytes make it panic; a line of more than [`LINE_MAX`] bytes is refused whole.
pub fn load(text: &[u8], mut command: impl FnMut(usize, Command), mut error: impl FnMut(usize, ParseError)) {
    let end = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for (number, line) in text[..end].split(|&byte| byte == b'\n').enumerate() {
        match read(line) {
            Ok(Some(found)) => command(number + 1, found),
            Ok(None) => {}
            Err(wrong) => error(number + 1, wrong),
        }
    }
}

/// The command in a line, if there is one.
fn read(line: &[u8]) -> Result<Option<Command>, ParseError> {
    if line.len() > LINE_MAX {
        return Err(ParseError::new("", Problem::LongLine));
    }
    let line = match core::str::from_utf8(line) {
        Ok(line) => line,
        Err(_) => {
            let start = alloc::string::String::from_utf8_lossy(&line[..line.len().min(64)]);
            return Err(ParseError::new(start.trim(), Problem::NotText));
        }
    };
    let mut words: Vec<&str> = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#')).collect();
    if words.first() == Some(&"ipvsadm") {
        words.remove(0);
        if words.is_empty() {
            return Err(ParseError::new("ipvsadm", Problem::NoCommand));
        }
    }
    if words.is_empty() { Ok(None) } else { parse(&words).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec, vec::Vec};

    fn lines(text: &[u8]) -> (Vec<usize>, Vec<(usize, Problem)>) {
        let (mut good, mut bad) = (vec![], vec![]);
        load(text, |line, _| good.push(line), |line, error| bad.push((line, error.problem)));
        (good, bad)
    }

    #[test]
    fn a_file_is_read_line_by_line() {
        let text =
            b"# rules\r\n\r\n-A -t 10.0.0.100:80 -s wlc\r\n  ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.11 -m # one\n\
                     \t\n-A -t nowhere\n-C";
        assert_eq!(lines(text), (vec![3, 4, 7], vec![(6, Problem::ServiceAddress)]));
        assert_eq!(lines(b""), (vec![], vec![]));
        assert_eq!(lines(b"-C\0\0\0"), (vec![1], vec![]), "an initrd filled up to a page");
        assert_eq!(lines(b"ipvsadm"), (vec![], vec![(1, Problem::NoCommand)]));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert_eq!(lines(b"\xff\xfe\n-C"), (vec![2], vec![(1, Problem::NotText)]));
        assert_eq!(lines(&[b'x'; LINE_MAX + 1]), (vec![], vec![(1, Problem::LongLine)]));
        let mut message = None;
        load(b"\x1f\x8b\x08", |_, _| (), |_, error| message = Some(error.to_string()));
        assert!(message.unwrap().contains("not UTF-8 text"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (good, bad) = lines(&text);
            prop_assert!(good.len() + bad.len() <= text.iter().filter(|&&b| b == b'\n').count() + 1);
        }

        #[test]
        fn any_options_are_read(text in "(-[AEaedDCZLSRtufrspMogimwxyb6cn]{1,3}|--[a-z-]{1,12}|[0-9.:]{1,12}|rr|\\[::1\\]:80| |\n){0,20}") {
            lines(text.as_bytes());
        }
    }
}
