//! The Linux driver: Debian's cloud kernel in QEMU, with a root file system of a few programs (see `ringlet_linux`).

use std::fs;
use std::path::Path;
use std::process::Command;

use ringlet_linux::{COMMAND_LINE, PACKAGE, Root};

use super::program::{Program, absent, there};

/// What a guest needs on this host.
const PROGRAMS: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("iperf3", "iperf3")];
/// Loaded in the guest, with what they need.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_mmio", "virtio_net"];

/// A kernel and its modules.
pub struct Linux {
    linux: ringlet_linux::Linux,
    /// Programs and modules beside those that every test has.
    programs: Vec<&'static str>,
    modules: Vec<&'static str>,
}

impl Linux {
    /// The newest one that there is. `None` where the test cannot run, which has been said then.
    pub fn find() -> Option<Self> {
        if !there(&PROGRAMS) {
            return None;
        }
        let found = ringlet_linux::Linux::find();
        if found.is_none() {
            absent(PACKAGE);
        }
        found.map(|linux| Self { linux, programs: Vec::new(), modules: Vec::new() })
    }

    /// With further programs of this host, each with its package, and further modules. `None` where a program is missing, which has
    /// been said then.
    pub fn with(mut self, programs: &[(&'static str, &'static str)], modules: &[&'static str]) -> Option<Self> {
        if !there(programs) {
            return None;
        }
        self.programs.extend(programs.iter().map(|(program, _)| *program));
        self.modules.extend_from_slice(modules);
        Some(self)
    }

    /// Boots it in QEMU, with these further arguments, and runs `script` (of busybox's shell) in it, with the modules loaded.
    /// The console is the program's output; the machine ends after the script.
    pub fn boot(&self, directory: &Path, script: &str, arguments: &[String]) -> Program {
        let mut root = Root::new(&self.linux).expect("busybox was found before");
        for program in ["iperf3"].iter().chain(&self.programs) {
            root.program(program).expect("it was found before");
        }
        for module in MODULES.iter().chain(&self.modules) {
            root.module(module).unwrap_or_else(|error| panic!("{module}: {error}"));
        }
        let file = directory.join("root.cpio");
        fs::write(&file, root.end(script)).expect("the root file system is written");
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-accel tcg -cpu max -nodefaults -no-reboot -display none -serial stdio".split(' '));
        command.arg("-append").arg(format!("{COMMAND_LINE} tsc=reliable"));
        command.arg("-kernel").arg(self.linux.kernel()).arg("-initrd").arg(&file).args(arguments);
        Program::start(&mut command)
    }
}
