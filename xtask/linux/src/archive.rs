//! Archives that a kernel unpacks as its root file system.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A cpio archive of the kind "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// A file, with the directories in which it lies.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        let name = name.trim_start_matches('/');
        for (at, _) in name.match_indices('/') {
            self.entry(&name[..at], 0o040_755, &[]);
        }
        self.entry(name, 0o100_000 | mode, bytes);
    }

    /// A file of this host. A name that is there already is left as it is.
    pub fn copy(&mut self, name: &str, from: &Path) -> io::Result<()> {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
        let mode = fs::metadata(from).map_err(explain)?.permissions().mode() & 0o777;
        self.file(name, mode, &fs::read(from).map_err(explain)?);
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let fields = [self.names.len(), mode as usize, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive.
    pub fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_first_and_once() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", 0o755, b"12345");
        archive.file("a/b/d", 0o644, b"");
        let bytes = archive.end();
        let mut names = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |nth: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + nth * 8..at + 14 + nth * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let name = at + 110;
            names.push(String::from_utf8(bytes[name..name + field(11) - 1].to_vec()).unwrap());
            at = (name + field(11)).next_multiple_of(4) + field(6).next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "TRAILER!!!"]);
    }
}
