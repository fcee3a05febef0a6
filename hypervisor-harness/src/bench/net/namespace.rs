//! A network namespace: a host of its own, as far as networking goes.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow, bail};

use crate::bench::case::Missing;
use crate::bench::peers;

/// A network namespace without a name. It ends with the last one who holds it, and with this process at the latest.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<File>);

/// Takes the calling thread into a namespace.
fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: `setns` takes no pointers; the descriptor is a network namespace's, and only this thread moves.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Namespace {
    /// A namespace with nothing in it but `lo`, which is up, and settings that do not get in the way of a measurement.
    ///
    /// # Errors
    /// [`Missing`] without the right to make one.
    pub fn new() -> anyhow::Result<Self> {
        peers::need("ip")?;
        let made = thread::spawn(|| {
            // SAFETY: `unshare` takes no pointers; CLONE_NEWNET concerns this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().map_err(|_| anyhow!("a thread has panicked"))?;
        let file = match file {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return Err(Missing("it needs network namespaces: run this as root".to_owned()).into());
            }
            other => other.context("cannot make a network namespace")?,
        };
        let namespace = Self(Arc::new(file));
        namespace.ip("link set lo up")?;
        for (setting, value) in [
            // Nobody claims an address that somebody has, and IPv6 has nothing of its own to say.
            ("ipv6/conf/default/disable_ipv6", "1"),
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            // Many short connections to one address must not run out of ports.
            ("ipv4/ip_local_port_range", "1024 65535"),
            ("ipv4/tcp_max_syn_backlog", "16384"),
            ("core/somaxconn", "16384"),
        ] {
            namespace.set(setting, value)?;
        }
        Ok(namespace)
    }

    /// Runs `work` in the namespace, on a thread of its own. Sockets and interfaces that it makes stay there.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter(&self.0).context("cannot enter a network namespace")?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(anyhow!("the work in a network namespace has panicked")))
        })
    }

    /// As [`Namespace::run`], with a /sys that shows the namespace: else it shows the interfaces of the one in which it was mounted.
    ///
    /// # Errors
    /// As [`Namespace::run`].
    pub fn run_with_sys<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        self.run(|| {
            mount_sys().context("cannot mount /sys anew")?;
            work()
        })
    }

    /// Starts a thread that lives in the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> JoinHandle<anyhow::Result<T>> {
        let namespace = self.0.clone();
        thread::spawn(move || {
            enter(&namespace).context("cannot enter a network namespace")?;
            work()
        })
    }

    /// A command that will run in the namespace.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new(program);
        let namespace = self.0.clone();
        // SAFETY: between fork and exec only setns is called, which is a plain system call.
        unsafe { command.pre_exec(move || enter(&namespace)) };
        command
    }

    /// Runs a program in the namespace, with `input`, which must succeed. Returns what it says.
    ///
    /// # Errors
    /// [`Missing`] if it is not installed; or if it fails, with what it says then.
    pub fn tool(&self, program: &str, words: &str, input: &str) -> anyhow::Result<String> {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = self.command(&peers::need(program)?);
        command.args(words.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who does not read its input says why on standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!("{program} {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// As [`Namespace::tool`].
    pub fn ip(&self, words: &str) -> anyhow::Result<()> {
        self.tool("ip", words, "").map(drop)
    }

    /// Writes a setting of the namespace's, below /proc/sys/net.
    ///
    /// # Errors
    /// If there is none of that name, or it cannot be that.
    pub fn set(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{setting}");
        self.run(|| fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {path}")))
    }

    /// Joins this namespace with another one by a pair of interfaces: `here` is the name of this end, `there` of the other.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn join(&self, here: &str, other: &Self, there: &str) -> anyhow::Result<()> {
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {here} type veth peer name {there} netns {namespace}"))?;
        self.ip(&format!("link set {here} up"))?;
        other.ip(&format!("link set {there} up"))
    }

    /// Gives an interface an address with its prefix length.
    ///
    /// # Errors
    /// If it does not take it.
    pub fn address(&self, interface: &str, address: impl std::fmt::Display) -> anyhow::Result<()> {
        self.ip(&format!("address add {address} dev {interface}"))
    }

    /// Has what comes in by an interface handled by one processor (receive packet steering).
    ///
    /// # Errors
    /// If the kernel does not do that.
    pub fn steer(&self, interface: &str, cpu: usize) -> anyhow::Result<()> {
        // In groups of 32 processors, the last group first.
        let mask = format!("{:x}{}", 1_u32 << (cpu % 32), ",00000000".repeat(cpu / 32));
        let path = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
        self.run_with_sys(|| fs::write(&path, &mask).with_context(|| format!("cannot write {mask} to {path}")))
    }
}

/// Gives the calling thread a /sys of its network namespace, in a mount namespace of its own.
fn mount_sys() -> io::Result<()> {
    let done = |result| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let (none, nothing) = (c"none".as_ptr(), std::ptr::null());
    // SAFETY: `unshare` takes no pointers; CLONE_NEWNS concerns this thread only, as long as it lives.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: the strings end with a zero byte and live for ever; there are no data. What is mounted from here on stays in this
    // mount namespace.
    done(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, nothing) })?;
    // SAFETY: as before.
    done(unsafe { libc::mount(none, c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, nothing) })
}
