//! QEMU, with the same image in its smallest machine.

use std::path::Path;

use anyhow::Context;

use super::{Process, Scratch, need};
use crate::bench::Args;
use crate::bench::net::Namespace;
use crate::image;

/// What a guest in QEMU is given.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The value of `-netdev`, whose identifier must be `net`.
    pub netdev: &'a str,
    /// The guest's command line.
    pub command_line: &'a str,
    /// The rules; empty for none.
    pub rules: &'a str,
    /// The namespace in which it runs; that of this process without one.
    pub namespace: Option<&'a Namespace>,
}

/// Boots the image in QEMU's `microvm`, by KVM.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) if QEMU is not installed; or if it cannot be started.
pub fn boot(args: &Args, scratch: &Scratch, plan: &Plan<'_>) -> anyhow::Result<Process> {
    let program = need("qemu-system-x86_64")?;
    let kernel = scratch.file("ringlet.elf", image::load(args.kernel.as_deref())?).context("the image for QEMU")?;
    let rules = match plan.rules {
        "" => None,
        rules => Some(scratch.file("rules", rules)?),
    };
    let mut command = match plan.namespace {
        Some(namespace) => namespace.command(&program),
        None => std::process::Command::new(&program),
    };
    command.args(arguments(args.memory, &kernel, rules.as_deref(), plan));
    Process::start("qemu-system-x86_64", &mut command)
}

fn arguments(memory: u32, kernel: &Path, rules: Option<&Path>, plan: &Plan<'_>) -> Vec<String> {
    let fixed = "-machine microvm,acpi=off -accel kvm -cpu host,-arch-capabilities -nodefaults -no-reboot -display none \
                 -serial none -global virtio-mmio.force-legacy=false -device virtio-net-device,netdev=net";
    let mut arguments: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let mut option = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
    option("-m", &memory.to_string());
    option("-kernel", &kernel.display().to_string());
    if let Some(rules) = rules {
        option("-initrd", &rules.display().to_string());
    }
    option("-append", plan.command_line);
    option("-netdev", plan.netdev);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_microvm() {
        let plan = Plan { netdev: "user,id=net", command_line: "ip=10.0.0.2/24", rules: "", namespace: None };
        let line = arguments(128, Path::new("/a b"), None, &plan).join("\n");
        for part in ["-machine\nmicrovm,acpi=off\n", "-kernel\n/a b\n", "-append\nip=10.0.0.2/24\n-netdev\nuser,id=net"]
        {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains("-initrd"));
        assert!(arguments(128, Path::new("/a"), Some(Path::new("/r")), &plan).join(" ").contains("-initrd /r"));
    }
}
