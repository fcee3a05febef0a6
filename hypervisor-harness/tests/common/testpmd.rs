//! dpdk-testpmd, at its prompt, without huge pages and without anything that outlives it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::program::{PATIENCE, Program, there};

/// Whether it is there (see [`there`]).
pub fn is_there() -> bool {
    there(&[("dpdk-testpmd", "dpdk-dev")])
}

/// A directory that is gone after the test, with a name short enough for sockets in it.
pub struct Directory(PathBuf);

impl Directory {
    /// Makes it.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringlet-dpdk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary directory can be made");
        Self(path)
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in text").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// DPDK's own arguments: it finds memory and devices by nothing but these, and leaves nothing behind.
const ENVIRONMENT: [&str; 7] =
    ["--no-huge", "-m", "256", "--no-shconf", "--no-telemetry", "--no-pci", "--log-level=pmd.net.vhost:info"];
/// Testpmd's: a prompt; few buffers, since they are cleared one by one; what waits in a port when forwarding starts is
/// forwarded too.
const OWN: [&str; 5] = ["-i", "--total-num-mbufs=8192", "--no-lsc-interrupt", "--disable-link-check", "--no-flush-rx"];

/// A running testpmd. It ends when it is dropped, and, since its prompt then has nothing more to read, with this process.
pub struct Testpmd(Program);

impl Testpmd {
    /// Starts it with these virtual devices, as `--vdev` takes them, and waits for its prompt. `arguments` are testpmd's own.
    /// A socket that one of the devices will listen at must not exist.
    pub fn start(directory: &Directory, devices: &[&str], arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("--file-prefix=test{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // One core reads the prompt, the other one forwards without ever sleeping.
        let cores = match std::thread::available_parallelism() {
            Ok(cores) if cores.get() > 1 => "--lcores=0@0,1@1",
            _ => "--lcores=(0,1)@0",
        };
        // It would keep what it says to itself until there is a page of it.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", cores, &prefix]).args(ENVIRONMENT);
        for device in devices {
            command.args(["--vdev", device]);
        }
        command.arg("--").args(OWN).args(arguments);
        // What it would else leave in /var/run.
        command.env("RUNTIME_DIRECTORY", directory.path(""));
        let mut program = Program::start(&mut command);
        program.wait_for("Configuring Port 0");
        Self(program)
    }

    /// Waits until a driver has set its queues up.
    pub fn wait_for_driver(&mut self) {
        // Said by the library, and then, when frames are let through, by the port.
        self.0.wait_for("virtio is now ready for processing");
        self.0.wait_for(" created");
    }

    /// Forwards from now on, as said at the start. When this returns, what comes to a port is forwarded: a port that is just
    /// being started throws away what its driver finds in the rings.
    pub fn forward(&mut self) {
        self.0.say("start");
        self.0.wait_for(" packet forwarding - ");
    }

    /// Types a command.
    pub fn say(&mut self, command: &str) {
        self.0.say(command);
    }

    /// The packets that a port has received and sent.
    pub fn packets(&mut self, port: u16) -> (u64, u64) {
        self.0.say(&format!("show port stats {port}"));
        self.0.wait_for(&format!("NIC statistics for port {port} "));
        let number = |line: String| -> u64 {
            let number = line.split(':').nth(1).and_then(|rest| rest.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {line}"))
        };
        (number(self.0.wait_for("RX-packets:")), number(self.0.wait_for("TX-packets:")))
    }

    /// Waits until of a port's packets, received and sent, this holds.
    pub fn wait_for_packets(&mut self, port: u16, holds: impl Fn(u64, u64) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut last = (0, 0);
        while Instant::now() < until {
            last = self.packets(port);
            if holds(last.0, last.1) {
                return;
            }
        }
        panic!("port {port} has received {} and sent {}", last.0, last.1);
    }

    /// Ends it in order, so that everything it writes is written.
    pub fn quit(mut self) {
        self.0.say("quit");
        assert!(self.0.end().success());
    }
}

/// Writes frames to a file of libpcap's format.
pub fn write_pcap(path: impl AsRef<Path>, frames: &[Vec<u8>]) {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    // Microseconds, version 2.4, Ethernet.
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("a frame's length");
        file.extend(words(&[0, 0, length, length]));
        file.extend(frame);
    }
    fs::write(path, file).expect("a file can be written");
}

/// Reads the frames in such a file.
pub fn read_pcap(path: impl AsRef<Path>) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("the file is there");
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert!(matches!(word(0), 0xa1b2_c3d4 | 0xa1b2_3c4d), "{:#x}", word(0));
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let length = word(at + 8) as usize;
        assert_eq!(word(at + 12) as usize, length, "whole frames");
        frames.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}
