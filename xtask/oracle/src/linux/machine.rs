//! The virtual machine: QEMU by translation, with a clock that counts instructions.
//!
//! With `-icount sleep=off` the guest's clock goes on by one nanosecond an instruction, and leaps to the next timer where the
//! guest idles. So time passes only where a case lets it pass, an hour of it costs a few seconds, and it makes no difference how busy
//! the host is.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use ringlet_linux::{COMMAND_LINE, Linux, Root};

use crate::guest::protocol::{Answer, PORT, Request};
use crate::world;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(600);

/// Loaded in the guest, with what they need.
const MODULES: [&str; 20] = [
    "nf_tables",
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_lc",
    "ip_vs_wlc",
    "ip_vs_lblc",
    "ip_vs_lblcr",
    "ip_vs_dh",
    "ip_vs_sh",
    "ip_vs_sed",
    "ip_vs_nq",
    "ip_vs_fo",
    "ip_vs_ovf",
    "ip_vs_mh",
    "ip_vs_ftp",
    "ip_vs_pe_sip",
];

/// Programs besides busybox that the guest has.
const PROGRAMS: [&str; 3] = ["ip", "ipvsadm", "nft"];

/// A running machine. It ends when this is dropped.
pub(super) struct Machine {
    _qemu: Guard,
    port: BufReader<UnixStream>,
    wire: UnixDatagram,
    /// Where frames for the guest go.
    guest: PathBuf,
    console: Arc<Mutex<String>>,
}

impl Machine {
    /// Boots, up to where the agent listens. Sockets and files are made in `directory`.
    pub fn boot(linux: &Linux, directory: &Path) -> anyhow::Result<Self> {
        let root = directory.join("root.cpio");
        fs::write(&root, make_root(linux)?)?;
        let file = |name: &str| directory.join(name);
        let listener = UnixListener::bind(file("port"))?;
        let wire = UnixDatagram::bind(file("host"))?;
        wire.set_read_timeout(Some(PATIENCE))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-machine pc -accel tcg,thread=single -icount shift=0,sleep=off -cpu max -m 256".split(' '));
        command.args("-nodefaults -no-reboot -display none -vga none -serial stdio".split(' '));
        command.arg("-kernel").arg(linux.kernel()).arg("-initrd").arg(&root).arg("-append").arg(COMMAND_LINE);
        let mac = world::mac_text(world::MAC);
        for argument in [
            "-device virtio-serial-pci".to_owned(),
            format!("-chardev socket,id=port,path={}", file("port").display()),
            format!("-device virtserialport,chardev=port,name={PORT}"),
            format!(
                "-netdev dgram,id=wire,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                file("guest").display(),
                file("host").display()
            ),
            format!("-device virtio-net-pci,netdev=wire,mac={mac},romfile="),
        ] {
            command.args(argument.split(' '));
        }
        end_with_us(&mut command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64 cannot be started (Debian: `apt-get install qemu-system-x86`)")?;
        let mut qemu = Guard(child);
        let console = Arc::new(Mutex::new(String::new()));
        for pipe in [
            qemu.0.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
            qemu.0.stderr.take().map(|p| Box::new(p) as _),
        ] {
            collect(pipe.expect("it is a pipe"), console.clone());
        }
        let port = accept(&listener, &mut qemu.0)
            .map_err(|error| anyhow!("{error:#}; it said:\n{}", console.lock().expect("no panic").trim_end()))?;
        port.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { _qemu: qemu, port: BufReader::new(port), wire, guest: file("guest"), console })
    }

    /// Lets the agent do something.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        let mut exchange = || -> anyhow::Result<Answer> {
            self.port.get_mut().write_all(&text)?;
            let mut line = String::new();
            self.port.read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        };
        match exchange() {
            Ok(Answer::Failed(why)) => bail!("in the guest: {why}"),
            Ok(answer) => Ok(answer),
            Err(error) => bail!("the guest does not answer ({error}); its console:\n{}", self.console()),
        }
    }

    /// Gives the guest a frame.
    pub fn send(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        self.wire.send_to(frame, &self.guest).with_context(|| format!("QEMU takes no frames; {}", self.console()))?;
        Ok(())
    }

    /// The next frame of the guest.
    pub fn receive(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut buffer = vec![0; 65536];
        let length =
            self.wire.recv(&mut buffer).with_context(|| format!("no frame comes; the console:\n{}", self.console()))?;
        buffer.truncate(length);
        Ok(buffer)
    }

    fn console(&self) -> String {
        self.console.lock().expect("no panic").clone()
    }
}

/// QEMU, which ends when this is dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets a program be killed when this one is: it would run on for good, at full speed.
fn end_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which takes numbers alone and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

fn make_root(linux: &Linux) -> anyhow::Result<Vec<u8>> {
    let mut root = Root::new(linux)?;
    for program in PROGRAMS {
        root.program(program)?;
    }
    let ourselves = std::env::current_exe()?;
    root.program(&ourselves)?;
    for module in MODULES {
        root.module(module)?;
    }
    let name = ourselves.file_name().context("this program has no name")?.to_string_lossy().into_owned();
    Ok(root.end(&format!("{name} agent")))
}

/// Keeps what comes, for the case that something goes wrong.
fn collect(mut pipe: Box<dyn Read + Send>, console: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            console.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
}

/// The connection that QEMU makes when it starts.
fn accept(listener: &UnixListener, qemu: &mut Child) -> anyhow::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU ended ({status})");
        }
        if Instant::now() > until {
            bail!("QEMU does not start");
        }
        // QEMU cannot be waited for together with a socket; it takes some milliseconds to start.
        thread::sleep(Duration::from_millis(5));
    }
}
