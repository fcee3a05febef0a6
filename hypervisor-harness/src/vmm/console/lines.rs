//! Cutting a stream of bytes into lines of bounded length.

/// The longest line in bytes; a longer one is cut into several.
pub const LINE_MAX: usize = 16 << 10;

/// An unfinished line.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes bytes and calls `line` for each line that they finish, without its line break.
    pub fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for part in piece.chunks(LINE_MAX) {
                if self.partial.len() + part.len() > LINE_MAX + 2 {
                    self.finish(&mut line);
                }
                self.partial.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                let end = self.partial.len() - 1;
                let text = &self.partial[..end];
                line(text.strip_suffix(b"\r").unwrap_or(text));
                self.partial.clear();
            }
        }
    }

    /// Gives out the unfinished line, if there is one.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_lines_are_cut() {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for _ in 0..3 {
            lines.feed(&[b'x'; LINE_MAX], |line| seen.push(line.len()));
        }
        lines.feed(b"y\n\n", |line| seen.push(line.len()));
        assert_eq!(seen, [LINE_MAX, LINE_MAX, LINE_MAX + 1, 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(chunks in prop::collection::vec(prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], 0..40), 0..20)) {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for chunk in &chunks {
                lines.feed(chunk, |line| seen.push(line.to_vec()));
            }
            lines.finish(|line| seen.push(line.to_vec()));
            let whole = chunks.concat();
            let mut wanted: Vec<_> = whole.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
            if wanted.last().is_some_and(Vec::is_empty) {
                wanted.pop();
            }
            prop_assert_eq!(seen, wanted);
        }
    }
}
