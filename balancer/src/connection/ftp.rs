//! What the connections have over which FTP is spoken: kept beside the table.

use crate::ftp::{LINE_MAX, Mode};

/// Of a control connection: what was said, and how the server's stream was changed on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ftp {
    /// How the client wants its next data connection, if the server is to answer that.
    pub mode: Mode,
    /// The change made last: to what mode, and the number at which its line begins in the server's stream.
    changed: Option<(Mode, u32)>,
    /// What is added to the server's numbers up to there, and from there on, modulo 2<sup>32</sup>.
    before: u32,
    after: u32,
    /// How many data connections there are.
    pub controls: u32,
    /// The data connection that was announced last: its place, of meaning only while it waits and is of this connection.
    pub expected: Option<u32>,
    /// The number of what the server says next, and whether a line begins there.
    said: u32,
    at_start: bool,
    is_lost: bool,
    /// The beginning of a line of the client, and the number of what comes next.
    line: [u8; LINE_MAX],
    len: u8,
    next: u32,
}

/// Whether number `a` comes after `b` (RFC 9293, section 3.4).
fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl Ftp {
    /// Nothing was listened to before this number of the server's stream, where a line may or may not begin.
    pub const fn new(said: u32) -> Self {
        Ftp {
            mode: Mode::Active,
            changed: None,
            before: 0,
            after: 0,
            controls: 0,
            expected: None,
            said,
            at_start: false,
            is_lost: false,
            line: [0; LINE_MAX],
            len: 0,
            next: 0,
        }
    }

    /// Says that bytes of the server went by that nobody took note of.
    pub fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Takes note of so many bytes of the server at a number, the last of which ends a line if `ends_line` says so. Whether the first
    /// of them begins one; `None` if some before them are missing.
    pub fn says(&mut self, number: u32, len: u32, ends_line: bool) -> Option<bool> {
        if core::mem::take(&mut self.is_lost) {
            (self.said, self.at_start) = (number, false);
        }
        if is_after(number, self.said) {
            return None;
        }
        if number != self.said {
            // It was said before. Of what is new behind it nothing is known but its end.
            if is_after(number.wrapping_add(len), self.said) {
                (self.said, self.at_start) = (number.wrapping_add(len), ends_line);
            }
            return Some(false);
        }
        let begins_line = self.at_start;
        (self.said, self.at_start) = (number.wrapping_add(len), ends_line);
        Some(begins_line)
    }

    /// From which number on the server's stream was changed last, and what is added up to there and from there on; `None` if nothing is.
    pub fn moved(&self) -> Option<(u32, u32, u32)> {
        self.changed.filter(|_| !self.is_unchanged()).map(|(_, at)| (at, self.before, self.after))
    }

    /// Goes on from what another balancer has moved, as [`Ftp::moved`] has it. In which mode its last line was read is not known.
    pub fn resume(&mut self, at: u32, before: u32, after: u32) {
        (self.changed, self.before, self.after) = (Some((Mode::Active, at)), before, after);
    }

    /// Whether numbers stay as they are.
    pub fn is_unchanged(&self) -> bool {
        self.before == 0 && self.after == 0
    }

    /// A number of the server's stream as the client knows it.
    pub fn for_client(&self, number: u32) -> u32 {
        let is_behind = self.changed.is_some_and(|(_, at)| is_after(number, at));
        number.wrapping_add(if is_behind { self.after } else { self.before })
    }

    /// A number of the server's stream, as the client knows it, as the server does.
    pub fn for_server(&self, number: u32) -> u32 {
        let is_behind = self.changed.is_some_and(|(_, at)| is_after(number.wrapping_sub(self.before), at));
        number.wrapping_sub(if is_behind { self.after } else { self.before })
    }

    /// The mode in which the server's line beginning at a number was read, if it was changed then and comes again.
    pub fn changed_at(&self, number: u32) -> Option<Mode> {
        self.changed.filter(|&(_, at)| at == number).map(|(mode, _)| mode)
    }

    /// Says that the line beginning at a number became so much longer.
    pub fn change(&mut self, mode: Mode, at: u32, by: u32) {
        if self.changed.is_none_or(|(_, last)| is_after(at, last)) {
            (self.changed, self.before) = (Some((mode, at)), self.after);
            self.after = self.after.wrapping_add(by);
        }
        self.mode = Mode::Active;
    }

    /// Puts the beginning of a line in front of what comes at a number: `into` has room for it. How long it is.
    pub fn take_line(&mut self, number: u32, into: &mut [u8; LINE_MAX]) -> usize {
        let len = if self.next == number { usize::from(self.len) } else { 0 };
        into[..len].copy_from_slice(&self.line[..len]);
        self.len = 0;
        len
    }

    /// Keeps the beginning of a line, of which more comes at a number. One that is too long is none that is looked for.
    pub fn keep_line(&mut self, line: &[u8], number: u32) {
        if let Some(room) = self.line.get_mut(..line.len()) {
            room.copy_from_slice(line);
            (self.len, self.next) = (line.len() as u8, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_before_a_change_and_behind_it() {
        let mut ftp = Ftp::new(0);
        let start = u32::MAX - 50;
        assert_eq!((ftp.for_client(5), ftp.for_server(5), ftp.is_unchanged()), (5, 5, true));
        ftp.mode = Mode::Passive;
        ftp.change(Mode::Passive, start, 3);
        assert_eq!((ftp.mode, ftp.is_unchanged()), (Mode::Active, false));
        assert_eq!((ftp.for_client(start), ftp.for_client(start.wrapping_add(60))), (start, start.wrapping_add(63)));
        assert_eq!((ftp.for_server(start), ftp.for_server(start.wrapping_add(63))), (start, start.wrapping_add(60)));
        assert_eq!((ftp.changed_at(start), ftp.changed_at(start.wrapping_add(1))), (Some(Mode::Passive), None));
        // The same again changes nothing; the next adds up.
        ftp.change(Mode::Passive, start, 3);
        let next = start.wrapping_add(100);
        ftp.change(Mode::Extended, next, (-5i32) as u32);
        assert_eq!(ftp.for_client(next), next.wrapping_add(3));
        assert_eq!(ftp.for_client(next.wrapping_add(40)), next.wrapping_add(38));
        assert_eq!(ftp.for_server(next.wrapping_add(38)), next.wrapping_add(40));
        assert_eq!(ftp.for_server(next.wrapping_add(3)), next);
    }

    #[test]
    fn a_line_begins_where_one_has_ended_and_nothing_is_missing() {
        let mut ftp = Ftp::new(u32::MAX - 4);
        assert_eq!(ftp.says(u32::MAX - 4, 10, true), Some(false), "who knows what was before");
        assert_eq!((ftp.says(5, 5, false), ftp.says(10, 5, true)), (Some(true), Some(false)));
        assert_eq!(ftp.says(16, 5, true), None);
        assert_eq!((ftp.says(10, 5, true), ftp.says(15, 1, true)), (Some(false), Some(true)));
        assert_eq!(
            (ftp.says(15, 4, false), ftp.says(19, 4, true), ftp.says(23, 1, true)),
            (Some(false), Some(false), Some(true))
        );
    }

    #[test]
    fn a_line_goes_on_only_where_it_was_left() {
        let (mut ftp, mut into) = (Ftp::new(0), [0; LINE_MAX]);
        ftp.keep_line(b"PO", 12);
        assert_eq!((ftp.take_line(12, &mut into), &into[..2]), (2, &b"PO"[..]));
        assert_eq!(ftp.take_line(12, &mut into), 0, "it was taken");
        ftp.keep_line(b"PO", 12);
        assert_eq!(ftp.take_line(13, &mut into), 0);
        ftp.keep_line(&[b'x'; LINE_MAX + 1], 12);
        assert_eq!(ftp.take_line(12, &mut into), 0);
    }
}
