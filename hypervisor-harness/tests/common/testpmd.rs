//! dpdk-testpmd, as the bench drives it, for tests: whatever goes wrong fails the test.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ringlet::bench::peers::{Scratch, testpmd};

use super::program::{PATIENCE, there};

/// Whether it is there (see [`there`]).
pub fn is_there() -> bool {
    there(&[("dpdk-testpmd", "dpdk-dev"), ("stdbuf", "coreutils")])
}

/// A directory that is gone after the test, with a name short enough for sockets in it.
pub struct Directory(Scratch);

impl Directory {
    /// Makes a new one, with nothing in it: those that a process of the same number has left behind are passed over.
    pub fn new() -> Self {
        let mut made = (0..1000).map(|_| Scratch::new());
        let first = made.find(|made| !made.as_ref().is_err_and(exists)).expect("a name that is free");
        Self(first.expect("a temporary directory can be made"))
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in text").to_owned()
    }
}

/// Whether that is why there is no directory.
fn exists(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::AlreadyExists)
}

/// A running testpmd. It ends when it is dropped, and with the thread that has started it.
pub struct Testpmd(testpmd::Testpmd);

impl Testpmd {
    /// Starts it with these virtual devices, as `--vdev` takes them, and waits until its ports are being set up. `arguments` are
    /// testpmd's own. A socket that one of the devices will listen at must not exist.
    pub fn start(directory: &Directory, devices: &[&str], arguments: &[&str]) -> Self {
        // One core reads the prompt, the other one forwards without ever sleeping.
        let processors = match std::thread::available_parallelism() {
            Ok(cores) if cores.get() > 1 => [0, 1],
            _ => [0, 0],
        };
        // Few buffers, since they are cleared one by one.
        let arguments = [&["--total-num-mbufs=8192"], arguments].concat();
        Self(testpmd::Testpmd::start(&directory.0, processors, devices, &arguments).expect("testpmd starts"))
    }

    /// Waits until a driver has set its queues up.
    pub fn wait_for_driver(&mut self) {
        self.0.wait_for_driver().expect("a driver comes");
    }

    /// Forwards from now on, as said at the start. When this returns, what comes to a port is forwarded: a port that is just
    /// being started throws away what its driver finds in the rings.
    pub fn forward(&mut self) {
        self.0.forward().expect("testpmd forwards");
    }

    /// Types a command.
    pub fn say(&mut self, command: &str) {
        self.0.say(command).expect("testpmd listens");
    }

    /// The packets that a port has received and sent.
    pub fn packets(&mut self, port: u16) -> (u64, u64) {
        let packets = self.0.packets(port).expect("testpmd counts");
        (packets.received, packets.sent)
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
    pub fn quit(self) {
        self.0.quit().expect("testpmd ends in order");
    }
}

/// Writes frames to a file of libpcap's format.
pub fn write_pcap(path: impl AsRef<Path>, frames: &[Vec<u8>]) {
    testpmd::write_pcap(path.as_ref(), frames).expect("a file can be written");
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
