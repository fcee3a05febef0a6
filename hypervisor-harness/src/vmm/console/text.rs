//! Making text from the guest harmless: it may end up on a terminal, which obeys control characters.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Text from the guest in which nothing can steer a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(from = "String")]
pub struct SafeText(String);

impl From<String> for SafeText {
    fn from(text: String) -> Self {
        Self(safe(text.as_bytes()))
    }
}

impl std::ops::Deref for SafeText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SafeText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// Decodes UTF-8 (what is none becomes U+FFFD) and writes out control characters other than the tabulator, and those that
/// turn the direction of writing, as escapes.
#[must_use]
pub fn safe(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let turning = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        // Writing to a String does not fail.
        let _ = match character {
            '\t' => write!(out, "\t"),
            _ if !turning && !character.is_control() => write!(out, "{character}"),
            '\0'..='\x7f' => write!(out, "\\x{:02x}", character as u32),
            _ => write!(out, "\\u{{{:x}}}", character as u32),
        };
    }
    out
}
