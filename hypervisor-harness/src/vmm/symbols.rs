//! Turning the guest's addresses into names, by the symbol table of its image.

use std::borrow::Cow;
use std::sync::OnceLock;

use object::{Object, ObjectSymbol, SymbolKind};

/// The functions (and other named places) of an image, by address. The table is read when the first name is wanted, which
/// for most guests is never.
#[derive(Debug, Default)]
pub struct Symbols {
    file: Cow<'static, [u8]>,
    /// Sorted by address.
    entries: OnceLock<Vec<Entry>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    address: u64,
    /// Zero where the symbol does not say; then it reaches to the next one.
    size: u64,
    name: String,
}

/// How far beyond a symbol without a size an address may lie to be named after it, in bytes.
const REACH: u64 = 64 << 10;
/// The longest name that is shown, in bytes.
const NAME_MAX: usize = 512;

impl Symbols {
    /// The symbols of an ELF file. A file without a symbol table, or with a damaged one, gives no names.
    #[must_use]
    pub fn new(file: Cow<'static, [u8]>) -> Self {
        Self { file, entries: OnceLock::new() }
    }

    /// The name of the place that `address` lies in, and how far into it, as `name+0x1f`.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        let entries = self.entries.get_or_init(|| read(&self.file));
        let after = entries.partition_point(|entry| entry.address <= address);
        let entry = entries[..after].last()?;
        let offset = address - entry.address;
        let reach = if entry.size == 0 { REACH } else { entry.size };
        (offset < reach).then(|| format!("{}+{offset:#x}", entry.name))
    }
}

/// Reads the symbol table of an ELF file, sorted by address.
fn read(file: &[u8]) -> Vec<Entry> {
    let Ok(object) = object::File::parse(file) else { return Vec::new() };
    let named = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
    let mut entries: Vec<_> = object
        .symbols()
        .filter(|symbol| symbol.is_definition() && named(symbol.kind()))
        .filter_map(|symbol| {
            let raw = symbol.name().ok().filter(|name| !name.is_empty())?;
            let mut name = format!("{:#}", rustc_demangle::demangle(raw));
            let end = (0..=NAME_MAX.min(name.len())).rev().find(|&end| name.is_char_boundary(end))?;
            name.truncate(end);
            Some(Entry { address: symbol.address(), size: symbol.size(), name })
        })
        .collect();
    entries.sort_by_key(|entry| (entry.address, entry.size));
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_lies_inside_only() {
        let entry = |address, size, name: &str| Entry { address, size, name: name.into() };
        let entries = vec![entry(0x100, 0x10, "a"), entry(0x200, 0, "b")];
        let symbols = Symbols { file: Cow::default(), entries: OnceLock::from(entries) };
        assert_eq!(symbols.name(0xff), None);
        assert_eq!(symbols.name(0x10f).as_deref(), Some("a+0xf"));
        assert_eq!(symbols.name(0x110), None, "past the end of a symbol with a size");
        assert_eq!(symbols.name(0x2ff).as_deref(), Some("b+0xff"));
        assert_eq!(symbols.name(u64::MAX), None);
    }

    #[test]
    fn damaged_files_give_no_names() {
        assert_eq!(Symbols::new(Cow::Borrowed(b"\x7fELF")).name(0), None);
    }

    #[test]
    fn reads_this_very_program() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(read(&file).iter().any(|entry| entry.name.contains("reads_this_very_program")));
    }
}
