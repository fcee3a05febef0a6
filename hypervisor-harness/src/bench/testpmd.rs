//! dpdk-testpmd, as the other end of a guest's rings and as what a guest's driver is compared with.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::Missing;

/// The program.
const PROGRAM: &str = "dpdk-testpmd";
/// How long one has to answer. Without huge pages its memory is touched page by page at the start.
const PATIENCE: Duration = Duration::from_secs(20);
/// What it shows when it waits for a command.
const PROMPT: &str = "testpmd> ";

/// Fails with [`Missing`] if the program is not there.
fn installed() -> Result<(), Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(PROGRAM).is_file());
    if found { Ok(()) } else { Err(Missing(format!("{PROGRAM} is not installed (Debian: apt-get install dpdk-dev)"))) }
}

/// A directory for sockets, which goes with it.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new one.
    ///
    /// # Errors
    /// If there cannot be one.
    pub fn new() -> anyhow::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringlet-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self(path))
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is a few sockets in a directory for temporary things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running testpmd with one port.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it said last, for errors.
    last: Vec<String>,
}

/// What the port has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub received: u64,
    /// When it was asked.
    pub at: Instant,
}

impl Testpmd {
    /// Starts it on one processor, with the port `vdev`, and forwarding in `mode` (`io`, `macswap`).
    ///
    /// # Errors
    /// [`Missing`] if it is not installed; and if it does not come up.
    pub fn start(vdev: &str, mode: &str, processor: usize) -> anyhow::Result<Self> {
        installed()?;
        // Two of its threads, the one that listens to commands and the one that forwards, share the processor: the first sleeps.
        let lcores = format!("0@{processor},1@{processor}");
        let dpdk = [
            "--no-huge",
            "-m",
            "256",
            "--no-pci",
            "--no-shconf",
            "--no-telemetry",
            "--lcores",
            &lcores,
            "--vdev",
            vdev,
        ];
        let mode = format!("--forward-mode={mode}");
        let own = ["--", "-i", &mode, "--nb-cores=1", "--total-num-mbufs=16384", "--rxd=1024", "--txd=1024"];
        // Without a terminal it would keep what it says until there are 4 KiB of it.
        let mut child = Command::new("stdbuf")
            .args(["--output=L", PROGRAM])
            .args(dpdk)
            .args(own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{PROGRAM} cannot be started"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{PROGRAM} has no input or output");
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the process' output.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut testpmd = Self { child, input, lines, last: Vec::new() };
        testpmd.stats()?;
        Ok(testpmd)
    }

    /// Gives a command.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn say(&mut self, command: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{command}").with_context(|| format!("{PROGRAM} has ended: {}", self.last.join("; ")))
    }

    /// Gives a command and waits for a line with `sign` in it.
    ///
    /// # Errors
    /// If there is no such line in time.
    fn ask(&mut self, command: &str, sign: &str) -> anyhow::Result<String> {
        self.say(command)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(sign) => return Ok(line),
                Ok(line) => {
                    self.last.push(line.trim_start_matches(PROMPT).to_owned());
                    if self.last.len() > 8 {
                        self.last.remove(0);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("{PROGRAM} does not answer: {}", self.last.join("; ")),
                Err(RecvTimeoutError::Disconnected) => bail!("{PROGRAM} has ended: {}", self.last.join("; ")),
            }
        }
    }

    /// Begins to forward.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn forward(&mut self) -> anyhow::Result<()> {
        self.say("start")
    }

    /// Begins to forward with so many bursts of 32 packets of its own.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn forward_first(&mut self, bursts: usize) -> anyhow::Result<()> {
        self.say(&format!("start tx_first {bursts}"))
    }

    /// What the port has counted.
    ///
    /// # Errors
    /// If it does not say.
    pub fn stats(&mut self) -> anyhow::Result<Stats> {
        let line = self.ask("show port stats 0", "RX-packets:")?;
        let at = Instant::now();
        Ok(Stats { received: received(&line).with_context(|| format!("{PROGRAM} says: {line}"))?, at })
    }
}

/// The number in a line `RX-packets: 123  RX-missed: 0 ...`.
fn received(line: &str) -> Option<u64> {
    line.split_once("RX-packets:")?.1.split_whitespace().next()?.parse().ok()
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port of a vhost-user backend that listens at `socket`.
#[must_use]
pub fn vhost_port(socket: &Path) -> String {
    format!("net_vhost0,iface={},queues=1", socket.display())
}

/// The port of DPDK's driver of virtio devices, on the backend that listens at `socket`.
#[must_use]
pub fn virtio_port(socket: &Path, packed: bool) -> String {
    let path = socket.display();
    format!(
        "net_virtio_user0,path={path},queues=1,queue_size=1024,in_order=1,mrg_rxbuf=0,packed_vq={}",
        u8::from(packed)
    )
}

/// Two processors that this process may use: for the two ends.
///
/// # Errors
/// If there is only one.
pub fn processors() -> anyhow::Result<[usize; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let all: Vec<usize> = list.trim().split(',').flat_map(range).take(2).collect();
    ensure!(all.len() == 2, "each end of the rings needs a processor of its own, and there is only one");
    Ok([all[0], all[1]])
}

/// The processors of `3` or `0-7`.
fn range(text: &str) -> std::ops::Range<usize> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => first..last + 1,
        _ => 0..0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_testpmd_says() {
        assert_eq!(received("  RX-packets: 948552     RX-missed: 0          RX-bytes:  60707328"), Some(948_552));
        assert_eq!(received("  TX-packets: 1"), None);
        assert_eq!(range("3").chain(range("5-6")).chain(range("x")).collect::<Vec<_>>(), [3, 5, 6]);
    }
}
