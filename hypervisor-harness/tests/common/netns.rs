//! Network namespaces for tests: traffic that never leaves them.

use std::fs::File;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` in a thread with a network namespace of its own, which ends with it. Threads and processes that `test` starts
/// are in it too.
pub fn inside(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: `unshare` takes no pointers; CLONE_NEWNET concerns this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = std::io::Error::last_os_error();
                panic!(
                    "cannot make a network namespace: {error}\nRun this test as root: sudo -E cargo xtask test netns"
                );
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The same, with a /sys that shows the namespace.
pub fn inside_with_sys(test: impl FnOnce() + Send) {
    inside(|| {
        let done = |result: libc::c_int| {
            let error = std::io::Error::last_os_error();
            assert_eq!(
                result, 0,
                "cannot mount a /sys of the network namespace: {error}\nRun this test as root: sudo -E cargo xtask test netns. A \
                 container has to be allowed to mount (docker run --privileged)."
            );
        };
        let (none, nothing) = (c"none".as_ptr(), std::ptr::null());
        // SAFETY: `unshare` takes no pointers; CLONE_NEWNS concerns this thread only, and what it starts.
        done(unsafe { libc::unshare(libc::CLONE_NEWNS) });
        // SAFETY: the strings end with a zero byte and live for ever; there are no data. What is mounted from here on stays in this
        // mount namespace.
        done(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, nothing) });
        // SAFETY: as before.
        done(unsafe { libc::mount(none, c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, nothing) });
        test();
    });
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    run("ip", words);
}

/// Waits until packets for `address`, which an interface of this thread's namespace was given, are taken. The kernel makes an
/// IPv6 address ready in a thread of its own, some time after the interface is up; what comes before that is lost.
pub fn ready(address: Ipv6Addr) {
    let route = format!("{:032x} 80 ", u128::from(address));
    let until = Instant::now() + PATIENCE;
    while !std::fs::read_to_string("/proc/thread-self/net/ipv6_route")
        .expect("/proc")
        .lines()
        .any(|line| line.starts_with(&route))
    {
        assert!(Instant::now() < until, "{address} does not become ready");
        thread::yield_now();
    }
}

/// Runs a program that must succeed.
pub fn run(program: &str, words: &str) {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{program}`: {error}\nInstall it (Debian: iproute2)."));
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Segments and datagrams with a wrong checksum that Linux has received in this thread's namespace.
pub fn checksum_errors() -> u64 {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("/proc");
    let (snmp, snmp6) = (read("snmp"), read("snmp6"));
    let mut errors = 0;
    // Pairs of lines: names, then values.
    let lines: Vec<_> = snmp.lines().collect();
    for pair in lines.chunks_exact(2) {
        let values = pair[0].split_whitespace().zip(pair[1].split_whitespace());
        errors += values.filter(|(name, _)| *name == "InCsumErrors").map(|(_, value)| number(value)).sum::<u64>();
    }
    let values = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    errors + values.filter(|(name, _)| name.ends_with("InCsumErrors")).map(|(_, value)| number(value)).sum::<u64>()
}

fn number(text: &str) -> u64 {
    text.trim().parse().expect("a number")
}

/// A host: another network namespace, beside that of [`inside`]. It ends with its last socket.
pub struct Host(File);

impl Host {
    /// A host without any interface but `lo`.
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            // SAFETY: as in `inside`.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
            File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
        });
        Self(file.join().expect("a namespace"))
    }

    /// Runs `work` in the host. Sockets that it makes stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let fd = self.0.as_raw_fd();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: `setns` takes no pointers; the descriptor is a network namespace's, and only this thread moves.
                assert_eq!(unsafe { libc::setns(fd, libc::CLONE_NEWNET) }, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes an interface over from the namespace of the caller.
    pub fn adopt(&self, interface: &str) {
        ip(&format!("link set {interface} netns /proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()));
    }

    /// Runs `ip` in the host.
    pub fn ip(&self, words: &str) {
        self.inside(|| ip(words));
    }

    /// Writes a setting of the host.
    pub fn write(&self, file: &str, value: &str) {
        self.inside(|| std::fs::write(file, value)).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// As [`checksum_offload`], in the host.
    pub fn checksum_offload(&self, interface: &str, on: bool) {
        self.inside(|| checksum_offload(interface, on));
    }
}

/// Lets an interface leave checksums unfinished, as it does by default, or has Linux finish them before it sends.
pub fn checksum_offload(interface: &str, on: bool) {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_STXCSUM: u32 = 0x17;
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let mut value = [ETHTOOL_STXCSUM, u32::from(on)];
    // SAFETY: `ifreq` is an array of characters and a union of integers and pointers: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(interface.len() < request.ifr_name.len());
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads one `ifreq`, whose data is an `ethtool_value`: two integers of 32 bits, which live longer.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    assert_eq!(answer, 0, "{interface}: {}", std::io::Error::last_os_error());
}
