//! `ringlet qemu`: the same image in QEMU.
//!
//! QEMU's user networking brings the clients in (`hostfwd`), and the demonstration's servers are on a socket of this
//! process, both on the wire of the guest's one network card. User networking alone would not do: it has no servers whose
//! answers go back through the balancer.

pub mod command;
pub mod segment;

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};

use self::command::Plan;
use self::segment::Segment;
use crate::backend;
use crate::backend::options::Net;
use crate::cli::QemuArgs;
use crate::cli::options::Accel;
use crate::image;
use crate::run::events::Events;
use crate::run::guest::Guest;
use crate::run::view::{Facts, Json, Text, View};
use crate::run::{Watch, ports};
use crate::vmm::console::{Console, Source};
use crate::vmm::symbols::Symbols;
use crate::vmm::{Outcome, host};

/// The oldest QEMU that has `-netdev stream`.
const OLDEST: (u32, u32) = (7, 2);

/// Boots the image in QEMU. Returns the exit code of the process. `started` is when the process began.
///
/// # Errors
/// If QEMU cannot be started, or something that it is to be given cannot be read.
pub fn run(args: &QemuArgs, started: Instant) -> anyhow::Result<u8> {
    let mut guest = Guest::new(&args.guest, &Net::Lan, &args.real)?;
    guest.addresses.push(command::GUEST.parse().map_err(anyhow::Error::msg)?);
    let image = image::load(args.guest.kernel.as_deref())?;
    let interval = args.display.status_interval.unwrap_or(1.0);
    let command_line = guest.command_line(&[&format!("status={:.0}", interval * 1e3)]);
    let (publish, moved) = ports::choose(&guest, &args.publish);
    let mut plan = Plan {
        qemu: args.qemu.clone(),
        machine: args.machine,
        accel: args.accel.unwrap_or(if host::open().is_ok() { Accel::Kvm } else { Accel::Tcg }),
        memory: args.guest.memory,
        command_line,
        kernel: PathBuf::new(),
        rules: None,
        servers: None,
        publish: Vec::new(),
    };
    if args.print {
        // Whether the ports are free now says nothing about the day on which the command is used.
        plan.publish = ports::fix(&publish).unwrap_or(publish);
        print(args, &guest, plan);
        return Ok(0);
    }
    plan.publish = ports::fix(&publish)?;
    check_version(&args.qemu)?;

    let directory = Directory::new()?;
    plan.kernel = directory.file("ringlet.elf", &image)?;
    if !guest.rules.is_empty() {
        plan.rules = Some(directory.file("ringlet.rules", &guest.rules)?);
    }
    let socket = directory.0.join("servers");
    let listener = UnixListener::bind(&socket).with_context(|| format!("cannot make {}", socket.display()))?;
    plan.servers = Some(socket);
    let options = backend::Options {
        real: args.real.clone(),
        guest: guest.on_lan(),
        pcap: args.pcap.clone(),
        ..Default::default()
    };
    let network = backend::open(&options).map_err(ports::explain)?;
    let segment = Segment::start(listener, network.backend).context("cannot start the servers' network")?;

    let facts = Facts {
        image: format!(
            "{}, in QEMU ({:?}, {:?})",
            image::describe(args.guest.kernel.as_deref()),
            plan.machine,
            plan.accel
        )
        .to_lowercase(),
        image_size: image.len(),
        memory: plan.memory,
        net: Net::Lan,
        command_line: plan.command_line.clone(),
        published: plan.publish.clone(),
        management: guest.management(),
        demo: guest.demo,
    };
    let events = Events::default();
    events.on_interrupt().context("cannot catch Ctrl-C")?;
    let display = &args.display;
    let mut view: Box<dyn View> = match display.json {
        true => Box::new(Json::new(io::stdout().lock())),
        false => Box::new(Text::new(io::stdout().lock(), display.style(), display.is_live())),
    };
    if !display.json {
        eprintln!("{}\n", plan.shown());
    }
    let mut watch = Watch::new(events, &mut *view, &facts, started);
    watch.moved(&moved, &publish, &plan.publish);

    let mut child = spawn(&plan)?;
    let console = Console::new(Arc::new(Symbols::new(image)), watch.events().sink());
    let ended = watch.events().ended();
    let reader = read_console(&mut child, console, ended).inspect_err(|_| {
        // Nobody would hear it: it must not stay. It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    });
    let reader = reader?;
    let child = RefCell::new(child);
    let until = display.until(started);
    let stopped = watch.until_the_end(until, &|| {
        // Fails only if it has ended already.
        let _ = child.borrow_mut().kill();
    });
    let status = child.borrow_mut().wait().context("cannot wait for QEMU")?;
    if let Err(panic) = reader.join() {
        std::panic::resume_unwind(panic);
    }
    segment.stop();
    let outcome = outcome(status, stopped)?;
    watch.end(&outcome);
    drop(directory);
    Ok(outcome.exit_code())
}

/// Shows how to do the same by hand.
fn print(args: &QemuArgs, guest: &Guest, plan: Plan) {
    let mut plan = Plan { kernel: "ringlet.elf".into(), ..plan };
    match &args.guest.kernel {
        Some(kernel) => plan.kernel = kernel.clone(),
        None => println!("ringlet image --out ringlet.elf"),
    }
    if let Some(rules) = &args.guest.rules {
        plan.rules = Some(rules.clone());
    } else if !guest.rules.is_empty() {
        plan.rules = Some("ringlet.rules".into());
        print!("cat > ringlet.rules <<'END'\n{}END\n", String::from_utf8_lossy(&guest.rules));
    }
    println!("# The servers are not part of this: without them there is the status page, and the control service.");
    println!("{}", plan.shown());
}

/// Starts QEMU, with its console on a pipe. It ends when this process does.
fn spawn(plan: &Plan) -> anyhow::Result<Child> {
    let mut command = Command::new(&plan.qemu);
    command.args(plan.arguments()).stdin(Stdio::null()).stdout(Stdio::piped());
    // A Ctrl-C is for us: QEMU is ended after what it has said was read.
    command.process_group(0);
    // SAFETY: between fork and exec only prctl is called, which is a plain system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("cannot start {}", plan.qemu.display()))
}

/// Reads what the guest says until QEMU ends.
fn read_console(
    child: &mut Child,
    mut console: Console,
    ended: Box<dyn FnOnce(&()) + Send>,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let mut stdout = child.stdout.take().context("QEMU has no standard output")?;
    let read = move || {
        let mut bytes = [0; 4096];
        loop {
            match stdout.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => console.bytes(Source::Serial, &bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        console.finish();
        ended(&());
    };
    std::thread::Builder::new().name("console".into()).spawn(read).context("cannot start a thread")
}

/// What QEMU's exit status says of the guest: the exit device makes it twice the guest's code plus one, and
/// `-no-reboot` makes it 0 after a triple fault.
fn outcome(status: ExitStatus, stopped: bool) -> anyhow::Result<Outcome> {
    match (status.code(), stopped) {
        (_, true) => Ok(Outcome::Stopped),
        (Some(0), _) => Ok(Outcome::Shutdown(None)),
        (Some(code), _) if code % 2 == 1 && code > 1 => Ok(Outcome::Exit((code / 2) as u8)),
        (Some(code), _) => bail!("QEMU failed with status {code}: see what it said above"),
        (None, _) => bail!("QEMU was ended by signal {}", status.signal().unwrap_or_default()),
    }
}

/// Looks whether this QEMU is there, and new enough.
fn check_version(qemu: &Path) -> anyhow::Result<()> {
    let shown = qemu.display();
    let output = match Command::new(qemu).arg("--version").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "{shown} is not installed (Debian: `apt-get install qemu-system-x86`; Fedora: `dnf install qemu-system-x86-core`)"
            )
        }
        Err(error) => return Err(error).with_context(|| format!("cannot start {shown}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    match version(&text) {
        Some(found) if found < OLDEST => {
            bail!("{shown} is QEMU {}.{}; {}.{} is the oldest that serves here", found.0, found.1, OLDEST.0, OLDEST.1)
        }
        // What cannot be read may well do.
        _ => Ok(()),
    }
}

/// The version in `QEMU emulator version 7.2.22 (Debian ...)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A directory that only this user can read, gone when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Self> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("ringlet-{}-{attempt}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", path.display())),
            }
        }
        bail!("{} is full of directories of other runs", base.display())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_qemu_is_the_guests_code() {
        let of = |code: i32| outcome(ExitStatus::from_raw(code << 8), false);
        assert_eq!(of(35).unwrap().exit_code(), 0x11);
        assert_eq!(of(33).unwrap().exit_code(), 0);
        assert!(matches!(of(0).unwrap(), Outcome::Shutdown(None)));
        assert!(of(1).is_err() && of(2).is_err());
        assert!(outcome(ExitStatus::from_raw(9), false).unwrap_err().to_string().contains("signal 9"));
        assert!(matches!(outcome(ExitStatus::from_raw(9), true), Ok(Outcome::Stopped)));
    }

    #[test]
    fn versions_are_found() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2)\n"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.0"), Some((10, 0)));
        assert_eq!(version("something else"), None);
        assert!(check_version(Path::new("/nonexistent/qemu")).unwrap_err().to_string().contains("apt-get"));
    }

    #[test]
    fn a_directory_cleans_up_after_itself() {
        let directory = Directory::new().unwrap();
        let path = directory.file("a", b"b").unwrap();
        assert!(path.exists());
        drop(directory);
        assert!(!path.exists());
    }
}
