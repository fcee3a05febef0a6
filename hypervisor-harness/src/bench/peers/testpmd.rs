//! dpdk-testpmd, at its prompt, without huge pages and without anything that outlives it.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::process::leash;
use super::{Scratch, need};
use crate::bench::stop;

/// How long it has to answer. Without huge pages its memory is touched page by page at the start, and a machine that is
/// busy with other things takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often to look whether the user has had enough.
const LOOK: Duration = Duration::from_millis(100);
/// What it shows when it waits for a command.
const PROMPT: &str = "testpmd> ";
/// DPDK's own arguments: it finds memory and devices by nothing but these, and leaves nothing behind.
const ENVIRONMENT: [&str; 8] = [
    "--no-huge",
    "-m",
    "256",
    "--no-shconf",
    "--no-telemetry",
    "--no-pci",
    "--log-level=pmd.net.vhost:info",
    // As wide as the processor has them, where a driver is told to use vectors.
    "--force-max-simd-bitwidth=512",
];
/// Testpmd's: a prompt; what waits in a port when forwarding starts is forwarded too.
const OWN: [&str; 4] = ["-i", "--no-lsc-interrupt", "--disable-link-check", "--no-flush-rx"];
/// Lines that are kept for errors.
const KEPT: usize = 12;

/// A running testpmd. It ends when it is dropped, and with the thread that has started it.
#[derive(Debug)]
pub struct Testpmd {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it said last.
    last: VecDeque<String>,
}

/// What a port has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// When it said so.
    pub at: Instant,
}

impl Testpmd {
    /// Starts it and waits until its ports are being set up. `processors` are those of the thread that listens to commands and
    /// of the one that forwards, which never sleeps; `devices` are as `--vdev` takes them, and what is in `arguments` is
    /// testpmd's own. A socket at which a device is to listen must not exist.
    ///
    /// # Errors
    /// [`Missing`](crate::bench::case::Missing) if it is not installed; and if it does not come up.
    pub fn start(
        scratch: &Scratch,
        processors: [usize; 2],
        devices: &[&str],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (stdbuf, program) = (need("stdbuf")?, need("dpdk-testpmd")?);
        let prefix = format!("--file-prefix=ringlet{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let lcores = match processors {
            [one, other] if one == other => format!("--lcores=(0,1)@{one}"),
            [one, other] => format!("--lcores=0@{one},1@{other}"),
        };
        // Without a terminal it would keep what it says until there are 4 KiB of it.
        let mut command = Command::new(stdbuf);
        command.arg("-oL").arg(program).args([&lcores, &prefix]).args(ENVIRONMENT);
        for device in devices {
            command.args(["--vdev", device]);
        }
        command.arg("--").args(OWN).args(arguments);
        // What it would else leave in /var/run.
        command.env("RUNTIME_DIRECTORY", scratch.join(""));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = leash(&mut command).spawn().context("dpdk-testpmd cannot be started")?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("dpdk-testpmd has no input or output");
        };
        let (sender, lines) = channel();
        for pipe in [Box::new(output) as Box<dyn Read + Send>, Box::new(errors)] {
            let sender = sender.clone();
            // Ends with the process' output.
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let mut testpmd = Self { child, input, lines, last: VecDeque::new() };
        testpmd.wait_for("Configuring Port 0")?;
        Ok(testpmd)
    }

    /// Gives a command.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn say(&mut self, command: &str) -> anyhow::Result<()> {
        let said = writeln!(self.input, "{command}");
        said.with_context(|| format!("dpdk-testpmd has ended: {}", self.last()))
    }

    /// Forwards from now on, as said at the start. When this returns, what comes to a port is forwarded: a port that is just
    /// being started throws away what its driver finds in the rings.
    ///
    /// # Errors
    /// As [`Testpmd::wait_for`].
    pub fn forward(&mut self) -> anyhow::Result<()> {
        self.say("start")?;
        self.wait_for(" packet forwarding - ").map(drop)
    }

    fn last(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }

    /// The next line with `part` in it.
    ///
    /// # Errors
    /// If there is no such line in time, or the user has had enough.
    pub fn wait_for(&mut self, part: &str) -> anyhow::Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            stop::check()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let found = line.contains(part);
                    self.last.push_back(line.trim_start_matches(PROMPT).to_owned());
                    if self.last.len() > KEPT {
                        self.last.pop_front();
                    }
                    if found {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout) => bail!("dpdk-testpmd never said `{part}`, but: {}", self.last()),
                Err(RecvTimeoutError::Disconnected) => bail!("dpdk-testpmd has ended: {}", self.last()),
            }
        }
    }

    /// Waits until a driver has set a vhost port's queues up.
    ///
    /// # Errors
    /// As [`Testpmd::wait_for`].
    pub fn wait_for_driver(&mut self) -> anyhow::Result<()> {
        // Said by the library, and then, when frames are let through, by the port.
        self.wait_for("virtio is now ready for processing")?;
        self.wait_for(" created").map(drop)
    }

    /// What a port has counted.
    ///
    /// # Errors
    /// If it does not say.
    pub fn packets(&mut self, port: u16) -> anyhow::Result<Packets> {
        self.say(&format!("show port stats {port}"))?;
        self.wait_for(&format!("NIC statistics for port {port} "))?;
        let received = self.wait_for("RX-packets:")?;
        let at = Instant::now();
        let sent = self.wait_for("TX-packets:")?;
        let number = |line: &str| number(line).with_context(|| format!("dpdk-testpmd says: {line}"));
        Ok(Packets { received: number(&received)?, sent: number(&sent)?, at })
    }

    /// Ends it in order, so that everything it writes is written.
    ///
    /// # Errors
    /// If it fails.
    pub fn quit(mut self) -> anyhow::Result<()> {
        self.say("quit")?;
        // The pipes are closed then.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let status = self.child.wait().context("cannot wait for dpdk-testpmd")?;
        ensure!(status.success(), "dpdk-testpmd has ended: {status}");
        Ok(())
    }
}

/// The number in a line `RX-packets: 123  RX-missed: 0 ...`.
fn number(line: &str) -> Option<u64> {
    line.split_once("X-packets:")?.1.split_whitespace().next()?.parse().ok()
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

/// What DPDK's driver of virtio devices is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rings {
    /// Split virtqueues.
    Split,
    /// Packed virtqueues.
    Packed,
    /// Packed virtqueues, by its code for AVX-512: four descriptors at once.
    Vectors,
}

/// The port of DPDK's driver of virtio devices, on the backend that listens at `socket`.
#[must_use]
pub fn virtio_port(socket: &Path, rings: Rings) -> String {
    let (path, packed) = (socket.display(), u8::from(rings != Rings::Split));
    let vectors = u8::from(rings == Rings::Vectors);
    format!(
        "net_virtio_user0,path={path},queues=1,queue_size=1024,in_order=1,mrg_rxbuf=0,packed_vq={packed},vectorized={vectors}"
    )
}

/// Writes frames to a file of libpcap's format, which is what the port `net_pcap` reads.
///
/// # Errors
/// If the file cannot be written, or a frame is longer than 65535 bytes.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) -> io::Result<()> {
    // Microseconds, version 2.4, Ethernet.
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for frame in frames {
        let length = u16::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        file.extend(words(&[0, 0, length.into(), length.into()]));
        file.extend(frame);
    }
    fs::write(path, file)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_testpmd_says() {
        assert_eq!(number("  RX-packets: 948552     RX-missed: 0          RX-bytes:  60707328"), Some(948_552));
        assert_eq!(number("  TX-packets: 1"), Some(1));
        assert_eq!(number("  TX-errors: 1"), None);
    }

    #[test]
    fn captures_are_libpcap_s() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.join("frames.pcap");
        write_pcap(&path, &[vec![7; 60], vec![8; 3]]).unwrap();
        let file = fs::read(&path).unwrap();
        assert_eq!((file.len(), &file[..4]), (24 + 16 + 60 + 16 + 3, &[0xd4, 0xc3, 0xb2, 0xa1][..]));
        assert_eq!((file[24 + 8], file[24 + 16], file[24 + 16 + 60 + 8]), (60, 7, 3));
        assert!(write_pcap(&path, &[vec![0; 65_536]]).is_err());
    }
}
