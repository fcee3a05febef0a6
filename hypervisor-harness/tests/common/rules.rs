//! Rule files for tests.

use std::path::PathBuf;

/// A file that is gone after the test.
pub struct File(PathBuf);

impl File {
    /// Writes it, somewhere temporary.
    pub fn new(name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let path = std::env::temp_dir().join(format!("ringlet-test-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a temporary file can be written");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("a path in text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The servers' numbers: alpha, beta and gamma.
pub const SERVERS: [u8; 3] = [11, 12, 13];

/// A service of the three servers: `flag` is -t or -u, `scheduler` as ipvsadm has it.
pub fn service(flag: &str, address: &str, server_port: u16, scheduler: &str) -> String {
    let mut rules = format!("-A {flag} {address} -s {scheduler}\n");
    for last in SERVERS {
        let server = if address.starts_with('[') { format!("[fd00::{last:x}]") } else { format!("10.0.0.{last}") };
        rules += &format!("-a {flag} {address} -r {server}:{server_port} -m -w 1\n");
    }
    rules
}
