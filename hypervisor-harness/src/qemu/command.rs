//! The command that boots the image in QEMU.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::backend::options::{Protocol, Publish};
use crate::cli::options::{Accel, QemuMachine};

/// The network in which QEMU's user networking (slirp) lives: its own address, which every published connection seems to
/// come from, and the guest's.
///
/// It is apart from the servers' network. Slirp answers ARP for its own address and delivers to it what it gets, so a
/// server that shared its segment and knew the client's address would answer past the balancer, untranslated.
pub const CLIENTS: &str = "10.8.0.0/24";
/// Slirp's address in [`CLIENTS`].
pub const CLIENT: &str = "10.8.0.1";
/// The guest's address in [`CLIENTS`].
pub const GUEST: &str = "10.8.0.2/24";

/// What QEMU is to boot, and as what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The program.
    pub qemu: PathBuf,
    /// The machine.
    pub machine: QemuMachine,
    /// What runs the guest.
    pub accel: Accel,
    /// Memory, in MiB.
    pub memory: u32,
    /// The guest's command line.
    pub command_line: String,
    /// The image.
    pub kernel: PathBuf,
    /// The rule file, if there is one.
    pub rules: Option<PathBuf>,
    /// The socket behind which the servers are, if there are any.
    pub servers: Option<PathBuf>,
    /// Ports of the host that lead in.
    pub publish: Vec<Publish>,
}

impl Plan {
    /// The arguments of the program.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut option = |name: &str, value: String| arguments.extend([format!("-{name}"), value]);
        let microvm = self.machine == QemuMachine::Microvm;
        option(
            "machine",
            match self.machine {
                QemuMachine::Pc => "pc".into(),
                QemuMachine::Q35 => "q35".into(),
                // Without ACPI, QEMU announces the devices on the guest's command line, which is how this guest finds them.
                QemuMachine::Microvm => "microvm,acpi=off".into(),
            },
        );
        let (accel, cpu) = match self.accel {
            // The one feature that QEMU offers and some hosts refuse.
            Accel::Kvm => ("kvm", "host,-arch-capabilities"),
            Accel::Tcg => ("tcg", "max"),
        };
        option("accel", accel.into());
        option("cpu", cpu.into());
        option("m", self.memory.to_string());
        option("kernel", text(&self.kernel));
        if let Some(rules) = &self.rules {
            option("initrd", text(rules));
        }
        option("append", self.command_line.clone());
        option("device", "isa-debug-exit,iobase=0xf4,iosize=4".into());

        let mut user = format!("user,id=clients,ipv6=off,net={CLIENTS},host={CLIENT}");
        for publish in &self.publish {
            let protocol = if publish.protocol == Protocol::Udp { "udp" } else { "tcp" };
            // Writing to a String does not fail.
            let _ = write!(user, ",hostfwd={protocol}:{}-{}", publish.host, publish.target);
        }
        let netdev = match &self.servers {
            None => {
                option("netdev", user);
                "clients"
            }
            // One network card, two networks on its wire. What the guest sends to a server, slirp sees too; `restrict`
            // keeps it from opening connections of its own.
            Some(socket) => {
                option("netdev", format!("{user},restrict=on"));
                let socket = escaped(socket);
                option("netdev", format!("stream,id=servers,server=off,addr.type=unix,addr.path={socket}"));
                option("netdev", "hubport,id=wire0,hubid=0".into());
                option("netdev", "hubport,id=wire1,hubid=0,netdev=clients".into());
                option("netdev", "hubport,id=wire2,hubid=0,netdev=servers".into());
                "wire0"
            }
        };
        // Both PCI device ids are used: 0x1000 (transitional) on pc, 0x1041 (modern only) on q35.
        let (device, more) = match self.machine {
            QemuMachine::Pc => ("virtio-net-pci", ""),
            QemuMachine::Q35 => ("virtio-net-pci", ",disable-legacy=on"),
            QemuMachine::Microvm => ("virtio-net-device", ""),
        };
        option("device", format!("{device},netdev={netdev},mac=52:54:00:12:34:02{more}"));
        if microvm {
            option("global", "virtio-mmio.force-legacy=false".into());
        }
        option("serial", "stdio".into());
        option("display", "none".into());
        if !microvm {
            option("vga", "none".into());
        }
        arguments.extend(["-nodefaults", "-no-reboot"].map(str::to_owned));
        arguments
    }

    /// The command as a shell takes it, an option on each line.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut line = quoted(&text(&self.qemu));
        for argument in self.arguments() {
            let separator = if argument.starts_with('-') { " \\\n  " } else { " " };
            line.push_str(separator);
            line.push_str(&quoted(&argument));
        }
        line
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path inside an option of QEMU's, where commas are doubled.
fn escaped(path: &Path) -> String {
    text(path).replace(',', ",,")
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+,.:/@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(machine: QemuMachine) -> Plan {
        Plan {
            qemu: "qemu-system-x86_64".into(),
            machine,
            accel: Accel::Tcg,
            memory: 128,
            command_line: "ip=10.0.0.2/24 status=1000".into(),
            kernel: "ringlet.elf".into(),
            rules: Some("it's.rules".into()),
            servers: Some("/tmp/a,b/servers".into()),
            publish: vec!["8080:10.0.0.100:80".parse().unwrap(), "udp:53:10.0.0.100:53".parse().unwrap()],
        }
    }

    #[test]
    fn each_machine_has_its_device() {
        for (machine, device) in [
            (QemuMachine::Pc, "virtio-net-pci,"),
            (QemuMachine::Q35, "virtio-net-pci,"),
            (QemuMachine::Microvm, "virtio-net-device,"),
        ] {
            let arguments = plan(machine).arguments();
            assert!(arguments.iter().any(|argument| argument.starts_with(device)), "{arguments:?}");
            let modern_only = arguments.iter().any(|argument| argument.ends_with(",disable-legacy=on"));
            assert_eq!(modern_only, machine == QemuMachine::Q35, "pc shows the other device id");
            let modern = arguments.iter().any(|argument| argument == "virtio-mmio.force-legacy=false");
            assert_eq!(modern, machine == QemuMachine::Microvm);
        }
    }

    #[test]
    fn the_command_can_be_copied() {
        let shown = plan(QemuMachine::Pc).shown();
        for part in [
            "qemu-system-x86_64 \\\n  -machine pc \\\n",
            "-append 'ip=10.0.0.2/24 status=1000'",
            r"-initrd 'it'\''s.rules'",
            "hostfwd=tcp:127.0.0.1:8080-10.0.0.100:80,hostfwd=udp:127.0.0.1:53-10.0.0.100:53,restrict=on",
            "addr.path=/tmp/a,,b/servers",
        ] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
        let alone = Plan { servers: None, ..plan(QemuMachine::Pc) }.shown();
        assert!(!alone.contains("hubport") && alone.contains("netdev=clients"), "{alone}");
    }
}
