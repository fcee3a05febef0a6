//! The Linux driver: Debian's cloud kernel in QEMU, with a root file system of a few programs, in about three seconds without
//! KVM. It is found where Debian installs it, or under the directory in `RINGLET_LINUX`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::{Program, absent, find, there};

/// What a guest needs on this host.
const PROGRAMS: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("iperf3", "iperf3")];
/// Loaded in the guest, with what they need.
const MODULES: [&str; 3] = ["virtio_pci.ko", "virtio_mmio.ko", "virtio_net.ko"];

/// A kernel and its modules.
pub struct Linux {
    kernel: PathBuf,
    modules: PathBuf,
}

impl Linux {
    /// The newest one that there is. `None` where the test cannot run, which has been said then.
    pub fn find() -> Option<Self> {
        if !there(&PROGRAMS) {
            return None;
        }
        let root = std::env::var_os("RINGLET_LINUX").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let versions = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
        let mut found: Vec<_> = versions
            .map(|entry| Self {
                kernel: root.join("boot").join(format!("vmlinuz-{}", entry.file_name().to_string_lossy())),
                modules: entry.path(),
            })
            .filter(|linux| linux.kernel.ends_with_text("cloud-amd64") && linux.kernel.is_file())
            .collect();
        found.sort_by(|one, other| one.kernel.cmp(&other.kernel));
        found.pop().or_else(|| {
            absent("linux-image-cloud-amd64");
            None
        })
    }

    /// Boots it in QEMU, with these further arguments, and runs `script` (of busybox's shell) in it, with the modules loaded.
    /// The console is the program's output; the machine ends after the script.
    pub fn boot(&self, directory: &Path, script: &str, arguments: &[String]) -> Program {
        let root = directory.join("root.cpio");
        fs::write(&root, self.root(script)).expect("the root file system is written");
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        command.args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable random.trust_cpu=on"]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&root).args(arguments);
        Program::start(&mut command)
    }

    /// An archive that the kernel unpacks as its root file system.
    fn root(&self, script: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        for program in ["busybox", "iperf3"] {
            archive.program(&find(program).expect("it was found before"));
        }
        let mut order = Vec::new();
        let list = fs::read_to_string(self.modules.join("modules.dep")).expect("modules.dep");
        for module in MODULES {
            let line = list.lines().find(|line| line.split(':').next().is_some_and(|file| file.ends_with(module)));
            let line = line.unwrap_or_else(|| panic!("this kernel has no module {module}"));
            let (file, needs) = line.split_once(':').expect("a line of modules.dep");
            // The last one is needed by those before it.
            for file in needs.split_whitespace().rev().chain([file]) {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        }
        let mut load = String::new();
        for file in order {
            let name = Path::new(file).file_name().expect("a name").to_string_lossy();
            let bytes = fs::read(self.modules.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            archive.file(&format!("modules/{name}"), 0o644, &bytes);
            load += &format!("insmod /modules/{name} || echo \"LINUX: no module {name}\"\n");
        }
        let init = format!(
            "#!/bin/busybox sh\nexport PATH=/bin:/usr/bin\n/bin/busybox mkdir -p /proc /sys /dev /tmp\n\
             /bin/busybox --install -s /bin\nmount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n\
             mount -t tmpfs t /tmp\n{load}ip link set lo up\n{{\n{script}\n}} </dev/null 2>&1\necho LINUX: done\npoweroff -f\n"
        );
        archive.file("init", 0o755, init.as_bytes());
        archive.end()
    }
}

/// Whether a path ends with a text.
trait EndsWithText {
    fn ends_with_text(&self, text: &str) -> bool;
}

impl EndsWithText for PathBuf {
    fn ends_with_text(&self, text: &str) -> bool {
        self.to_string_lossy().ends_with(text)
    }
}

/// A cpio archive of the kind "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// A file, with the directories in which it lies.
    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        for (at, _) in name.match_indices('/') {
            self.entry(&name[..at], 0o040_755, &[]);
        }
        self.entry(name, 0o100_000 | mode, bytes);
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let fields = [self.names.len(), mode as usize, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A program of this host, with the libraries that it needs.
    fn program(&mut self, path: &Path) {
        let mode = |path: &Path| fs::metadata(path).map_or(0o755, |file| file.permissions().mode() & 0o777);
        let mut add = |to: &str, from: &Path| {
            let bytes = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            self.file(to.trim_start_matches('/'), mode(from), &bytes);
        };
        let name = path.file_name().expect("a name").to_string_lossy();
        add(&format!("bin/{name}"), path);
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", and the loader without an arrow; a static program has none.
        let output = Command::new("ldd").arg(path).output().expect("ldd runs");
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            add(word, Path::new(word));
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
