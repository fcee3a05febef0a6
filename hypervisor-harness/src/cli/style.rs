//! Colour, where a person looks at it.

use std::io::IsTerminal;

/// How a part of the output is set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Colour on a terminal, unless `--no-color` or the environment (`NO_COLOR`, `TERM=dumb`) says no.
    #[must_use]
    pub fn new(no_colour: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: !no_colour && !set("NO_COLOR") && !dumb && std::io::stdout().is_terminal() }
    }

    /// No colour at all.
    #[must_use]
    pub fn plain() -> Self {
        Self { colour: false }
    }

    /// For headings and names.
    #[must_use]
    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// For what may be overlooked.
    #[must_use]
    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// For what must not be overlooked.
    #[must_use]
    pub fn warning(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
