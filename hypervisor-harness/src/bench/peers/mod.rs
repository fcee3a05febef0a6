//! The programs of others: where they are, what they are called in a package manager, and how they are run.

pub mod haproxy;
pub mod nftables;
pub mod nginx;
pub mod process;
pub mod qemu;
pub mod scratch;
pub mod testpmd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::case::Missing;

pub use process::Process;
pub use scratch::Scratch;

/// A program: its name, the packages of Debian that it comes in, and the words that make it say its version.
const PROGRAMS: [(&str, &str, &[&str]); 9] = [
    ("dpdk-testpmd", "dpdk-dev", &["-v", "--help"]),
    ("haproxy", "haproxy", &["-v"]),
    ("ip", "iproute2", &["-V"]),
    ("iperf3", "iperf3", &["--version"]),
    ("ipvsadm", "ipvsadm", &[]),
    ("nft", "nftables", &["--version"]),
    ("nginx", "nginx-light libnginx-mod-stream", &["-v"]),
    ("qemu-system-x86_64", "qemu-system-x86", &["--version"]),
    ("stdbuf", "coreutils", &[]),
];

/// Where a program is.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// Where a program is that something cannot do without.
///
/// # Errors
/// [`Missing`] if it is not installed.
pub fn need(program: &str) -> Result<PathBuf, Missing> {
    find(program).ok_or_else(|| {
        let known = PROGRAMS.iter().find(|(name, ..)| *name == program);
        let packages = known.map_or(program, |(_, packages, _)| packages);
        Missing(format!("{program} is not installed (Debian: apt-get install {packages})"))
    })
}

/// The versions of the programs that are installed.
#[must_use]
pub fn versions() -> BTreeMap<String, String> {
    let asked = PROGRAMS.iter().filter(|(_, _, words)| !words.is_empty());
    asked.filter_map(|(name, _, words)| Some(((*name).to_owned(), version(name, words)?))).collect()
}

/// The line in which a program says its version, on whichever output.
fn version(name: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(find(name)?).args(words).stdin(Stdio::null()).output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Some(version_in(&said).unwrap_or("unknown").to_owned())
}

/// The first line with a number that has a point in it; one that speaks of a version goes before all others.
fn version_in(said: &str) -> Option<&str> {
    let dotted = |word: &str| word.contains('.') && word.contains(|letter: char| letter.is_ascii_digit());
    let numbered = || said.lines().filter(|line| line.split_whitespace().any(dotted));
    let named = numbered().find(|line| line.to_lowercase().contains("version"));
    named.or_else(|| numbered().next()).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_is_said() {
        let dpdk = "The format is <c1>[-c2][,c3[-c4],...]\nEAL: Detected CPU lcores: 2\nEAL: RTE Version: 'DPDK 22.11.11'\n\nUsage: x\n";
        assert_eq!(version_in(dpdk), Some("EAL: RTE Version: 'DPDK 22.11.11'"));
        assert_eq!(version_in("nginx version: nginx/1.22.1\n"), Some("nginx version: nginx/1.22.1"));
        assert_eq!(version_in("ip utility, iproute2-6.1.0\n"), Some("ip utility, iproute2-6.1.0"));
        assert_eq!(version_in("none\n"), None);
    }

    #[test]
    fn what_is_missing_can_be_installed() {
        assert!(find("sh").is_some());
        let missing = need("no-such-program-at-all").unwrap_err().to_string();
        assert_eq!(missing, "no-such-program-at-all is not installed (Debian: apt-get install no-such-program-at-all)");
    }
}
