//! A Linux for tests to boot in QEMU: Debian's cloud kernel, with a root file system made of programs of this host. It takes about
//! three seconds to boot without KVM.
//!
//! The kernel is found where Debian installs it, or under the directory in `RINGLET_LINUX`, where the package may be unpacked
//! (and `depmod -b` run).

mod archive;

use std::io::{self, Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use archive::Archive;

/// The package that has the kernel.
pub const PACKAGE: &str = "linux-image-cloud-amd64";

/// Names another root under which the kernel is looked for.
pub const VARIABLE: &str = "RINGLET_LINUX";

/// What is to be on the kernel's command line, besides what a test wants there.
pub const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on";

/// A kernel and its modules.
#[derive(Debug)]
pub struct Linux {
    kernel: PathBuf,
    modules: PathBuf,
}

impl Linux {
    /// The newest one there is; `None` if [`PACKAGE`] is neither installed nor unpacked.
    pub fn find() -> Option<Self> {
        let root = env::var_os(VARIABLE).map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let versions = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
        versions
            .filter(|entry| entry.file_name().to_string_lossy().ends_with("cloud-amd64"))
            .map(|entry| Self {
                kernel: root.join("boot").join(format!("vmlinuz-{}", entry.file_name().to_string_lossy())),
                modules: entry.path(),
            })
            .filter(|linux| linux.kernel.is_file())
            .max_by(|one, other| one.kernel.cmp(&other.kernel))
    }

    /// The file for QEMU's `-kernel`.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The version, as `uname -r` says it.
    pub fn version(&self) -> String {
        self.modules.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Where a program is: in `PATH`, or where Debian keeps what only root needs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

/// A root file system in the making: busybox is its shell, and first of all the modules are loaded.
#[derive(Debug)]
pub struct Root<'a> {
    linux: &'a Linux,
    archive: Archive,
    /// Modules in the order in which they are loaded, by their files.
    modules: Vec<String>,
}

impl<'a> Root<'a> {
    /// With busybox and nothing else.
    ///
    /// # Errors
    /// There is no busybox, or it cannot be read.
    pub fn new(linux: &'a Linux) -> io::Result<Self> {
        let mut root = Self { linux, archive: Archive::default(), modules: Vec::new() };
        root.program("busybox")?;
        Ok(root)
    }

    /// Adds a program of this host to `/bin`, by name or by path, with the libraries that it needs.
    ///
    /// # Errors
    /// It is not there, or a file of it cannot be read.
    pub fn program(&mut self, program: impl AsRef<Path>) -> io::Result<()> {
        let program = program.as_ref();
        let path = match program.parent() {
            Some(directory) if directory.as_os_str().is_empty() => find(&program.to_string_lossy()),
            _ => Some(program.to_owned()),
        };
        let missing = || Error::new(ErrorKind::NotFound, format!("{} is not installed", program.display()));
        let path = path.ok_or_else(missing)?;
        let name = path.file_name().ok_or_else(missing)?.to_string_lossy();
        self.archive.copy(&format!("bin/{name}"), &path)?;
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", and the loader without an arrow; a static program has none.
        let output = Command::new("ldd").arg(&path).output()?;
        for word in String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            self.archive.copy(word, Path::new(word))?;
        }
        Ok(())
    }

    /// Lets a module be loaded, after those that it needs.
    ///
    /// # Errors
    /// This kernel has no such module, or it cannot be read.
    pub fn module(&mut self, name: &str) -> io::Result<()> {
        let file = self.linux.modules.join("modules.dep");
        let list = fs::read_to_string(&file).map_err(|error| {
            Error::new(error.kind(), format!("{}: {error}; `depmod -b ROOT VERSION` makes it", file.display()))
        })?;
        let is_it = |line: &&str| {
            let file = line.split(':').next().unwrap_or_default();
            // Compressed or not.
            Path::new(file).file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}.ko")))
        };
        let line = list.lines().find(is_it);
        let Some((file, needs)) = line.and_then(|line| line.split_once(':')) else {
            return Err(Error::new(ErrorKind::NotFound, format!("this kernel has no module {name}")));
        };
        // The last one is needed by those before it.
        for file in needs.split_whitespace().rev().chain([file]) {
            if !self.modules.iter().any(|known| known == file) {
                self.archive.copy(&in_root(file), &self.linux.modules.join(file))?;
                self.modules.push(file.to_owned());
            }
        }
        Ok(())
    }

    /// The archive for QEMU's `-initrd`. The guest loads the modules, runs `script` (of busybox's shell), says `LINUX: done`, and
    /// ends.
    pub fn end(mut self, script: &str) -> Vec<u8> {
        let mut load = String::new();
        for file in &self.modules {
            let file = in_root(file);
            load += &format!("insmod /{file} || echo \"LINUX: no module {file}\"\n");
        }
        let init = format!(
            "#!/bin/busybox sh\nexport PATH=/bin:/usr/bin\n/bin/busybox mkdir -p /proc /sys /dev /tmp\n\
             /bin/busybox --install -s /bin\nmount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev\n\
             mount -t tmpfs t /tmp\n{load}/bin/busybox ip link set lo up\n{{\n{script}\n}} </dev/null 2>&1\n\
             echo LINUX: done\npoweroff -f\n"
        );
        self.archive.file("init", 0o755, init.as_bytes());
        self.archive.end()
    }
}

/// Where a module lies in the guest.
fn in_root(module: &str) -> String {
    let name = Path::new(module).file_name().unwrap_or_default();
    format!("modules/{}", name.to_string_lossy())
}
