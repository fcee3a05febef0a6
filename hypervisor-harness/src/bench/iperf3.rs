//! iperf3 between Linux's TCP and the guest's own server, through a TAP interface, as a ratio to iperf3 between two network
//! namespaces of this host over a pair of veth interfaces: in turns, in the same measurement.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ringlet_driver::features::Features;
use serde_json::Value;

use super::guest::Guest;
use super::{Args, Measured};
use crate::backend::tap::Tap;

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Iperf3 {
    /// The guest sends; otherwise Linux does.
    pub reverse: bool,
    /// Offloads that the device does not offer.
    pub without: Features,
}

/// The interface that the guest is at.
const TAP: &str = "bench0";
/// The other namespace's address, and the guest's.
const NEIGHBOUR: &str = "10.1.0.2";
const GUEST: &str = "10.0.0.2";
/// How often a client tries to connect, and how long it waits in between, until there is a server.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Measures it, in a network namespace of its own.
///
/// # Errors
/// If there is no iperf3 or no right to make namespaces, or nothing can be measured.
pub fn iperf3(args: &Args, case: &Iperf3) -> anyhow::Result<Measured> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new_namespace()?;
            measure(args, case)
        });
        thread.join().unwrap_or_else(|_| Err(anyhow!("the measurement has panicked")))
    })
}

fn measure(args: &Args, case: &Iperf3) -> anyhow::Result<Measured> {
    let neighbour = neighbour()?;
    for words in [
        &format!("tuntap add dev {TAP} mode tap"),
        &format!("address add 10.0.0.1/24 dev {TAP}"),
        &format!("link set {TAP} up"),
        "link add veth0 type veth peer name veth1",
        &format!("link set veth1 netns /proc/{}/fd/{}", std::process::id(), neighbour.as_raw_fd()),
        "address add 10.1.0.1/24 dev veth0",
        "link set veth0 up",
    ] {
        ip(words)?;
    }
    let server = in_namespace(&neighbour, || {
        ip(&format!("address add {NEIGHBOUR}/24 dev veth1"))?;
        ip("link set veth1 up")?;
        Server::start()
    })?;
    let guest = Guest::boot(args, Tap::open(TAP)?, case.without, String::new())?;
    // Whole seconds are all that iperf3 knows.
    let seconds = args.time().as_secs().max(1);
    let run = |address: &str| client(address, seconds, case.reverse);
    let measured = (|| {
        let (mut host, mut own) = (0.0, 0.0);
        for _ in 0..2 {
            host += run(NEIGHBOUR)? / 2.0;
            own += run(GUEST)? / 2.0;
        }
        anyhow::Ok((host, own))
    })();
    let negotiated = guest.device.negotiated();
    guest.end()?;
    drop(server);
    let (host, own) = measured?;
    let remark = format!("  {:.2} Gbit/s, the veth pair {:.2}; {negotiated}", own / 1e9, host / 1e9);
    Ok(Measured { value: own / host, remark })
}

/// An iperf3 server. Ends when it is dropped.
struct Server(Child);

impl Server {
    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("iperf3");
        command.arg("-s").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Self).context("cannot run iperf3; install it (Debian: iperf3)")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if it has ended and was waited for, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client. Returns the bits a second that arrived.
fn client(address: &str, seconds: u64, reverse: bool) -> anyhow::Result<f64> {
    let mut arguments = format!("--json -c {address} -t {seconds}");
    if reverse {
        arguments += " -R";
    }
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let output = Command::new("iperf3").args(arguments.split_whitespace()).output();
        let output = output.context("cannot run iperf3; install it (Debian: iperf3)")?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 did not write JSON")?;
        match report["error"].as_str() {
            None => {
                let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
                return rate.filter(|rate| *rate > 0.0).context("iperf3 measured nothing");
            }
            // Not yet.
            Some(error) if error.contains("unable to connect") => error.clone_into(&mut said),
            Some(error) => bail!("iperf3 {arguments}: {error}"),
        }
        thread::sleep(PAUSE);
    }
    bail!("iperf3 {arguments}: {said}")
}

/// Runs `ip` with these words.
fn ip(words: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words.split_whitespace()).output();
    let output = output.context("cannot run ip; install it (Debian: iproute2)")?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Takes this thread into a network namespace of its own.
fn enter_new_namespace() -> anyhow::Result<()> {
    // SAFETY: `unshare` takes no pointers; CLONE_NEWNET concerns this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot make a network namespace; run this as root");
    }
    Ok(())
}

/// Another network namespace. It ends with this file, and what is in it.
fn neighbour() -> anyhow::Result<File> {
    let thread = thread::spawn(|| {
        enter_new_namespace()?;
        File::open("/proc/thread-self/ns/net").context("cannot open the network namespace of this thread")
    });
    thread.join().unwrap_or_else(|_| Err(anyhow!("no network namespace")))
}

/// Runs something in a network namespace.
fn in_namespace<T: Send>(namespace: &File, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let fd = namespace.as_raw_fd();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: `setns` takes no pointers; the descriptor is a network namespace's, and only this thread moves.
            if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error())
                    .context("cannot enter a network namespace; run this as root");
            }
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow!("the work in a network namespace has panicked")))
    })
}
