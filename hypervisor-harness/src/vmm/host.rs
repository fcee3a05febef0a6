//! `/dev/kvm`: opening it, and saying precisely why that did not work.

use std::fs;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";
/// The only KVM API version there has ever been since it was declared stable.
const API_VERSION: i32 = 12;

/// KVM cannot be used. The message says why and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `/dev/kvm`.
    #[error("{path} does not exist: {reason}")]
    Missing {
        /// What was looked for.
        path: String,
        /// What is known about the cause, and the remedy.
        reason: String,
    },
    /// It is there, and this user may not open it.
    #[error("no permission to open {path}: {remedy}")]
    Permission {
        /// What was opened.
        path: String,
        /// What to do.
        remedy: String,
    },
    /// It is no KVM.
    #[error("{path} is not a KVM device ({reason}); is something else mounted over it?")]
    NotKvm {
        /// What was opened.
        path: String,
        /// What it is instead.
        reason: String,
    },
    /// Opening it failed otherwise.
    #[error("{path} cannot be opened: {source}; is the KVM kernel module healthy (see dmesg)?")]
    Unusable {
        /// What was opened.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A KVM of another age.
    #[error("KVM's API version is {0}, and {API_VERSION} is wanted: the host's kernel is not a supported one")]
    ApiVersion(i32),
    /// It lacks something that there is no way around.
    #[error("KVM on this host lacks {}: a newer host kernel, or another hypervisor below it, is needed", .0.join(", "))]
    Lacks(Vec<&'static str>),
}

/// What the harness cannot do without.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::Irqchip, "an in-kernel interrupt controller (KVM_CAP_IRQCHIP)"),
    (Cap::UserMemory, "user memory (KVM_CAP_USER_MEMORY)"),
    (Cap::ExtCpuid, "CPUID control (KVM_CAP_EXT_CPUID)"),
    (Cap::Irqfd, "interrupts by eventfd (KVM_CAP_IRQFD)"),
    (Cap::Ioeventfd, "notifications by eventfd (KVM_CAP_IOEVENTFD)"),
    (Cap::SetTssAddr, "KVM_SET_TSS_ADDR"),
    (Cap::ImmediateExit, "a race-free way to stop a vCPU (KVM_CAP_IMMEDIATE_EXIT)"),
    (Cap::VcpuEvents, "the pending exceptions of a vCPU (KVM_CAP_VCPU_EVENTS)"),
];

/// Opens `/dev/kvm` and checks that all that is needed is there.
///
/// # Errors
/// Says what is in the way, and the remedy.
pub fn open() -> Result<Kvm, Error> {
    open_at(Path::new(DEVICE))
}

/// As [`open`], for a device elsewhere.
///
/// # Errors
/// As [`open`].
pub fn open_at(device: &Path) -> Result<Kvm, Error> {
    let path = device.display().to_string();
    let metadata = match fs::metadata(device) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                path,
                reason: why_missing(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::Permission { path, remedy: "a directory above it may not be entered".into() });
        }
        Err(source) => return Err(Error::Unusable { path, source }),
    };
    if !metadata.file_type().is_char_device() {
        return Err(Error::NotKvm { path, reason: "it is not a character device".into() });
    }
    let fd = match Kvm::open_with_cloexec_at(device_name(device), true) {
        Ok(fd) => fd,
        Err(error) => {
            let source = io::Error::from_raw_os_error(error.errno());
            return Err(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    Error::Permission { remedy: permission_remedy(&path, &metadata), path }
                }
                _ => Error::Unusable { path, source },
            });
        }
    };
    // SAFETY: the descriptor was opened just above and belongs to nobody else.
    let kvm = unsafe { Kvm::from_raw_fd(fd) };
    match kvm.get_api_version() {
        API_VERSION => {}
        -1 => return Err(Error::NotKvm { path, reason: "it does not answer KVM_GET_API_VERSION".into() }),
        other => return Err(Error::ApiVersion(other)),
    }
    let missing: Vec<_> =
        NEEDED.into_iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|(_, name)| name).collect();
    if missing.is_empty() { Ok(kvm) } else { Err(Error::Lacks(missing)) }
}

fn device_name(device: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    // A path that `fs::metadata` has accepted holds no NUL.
    std::ffi::CString::new(device.as_os_str().as_bytes()).unwrap_or_default()
}

/// Why `/dev/kvm` is not there, as far as `/proc/cpuinfo` tells.
fn why_missing(cpuinfo: &str) -> String {
    let has = |flag: &str| {
        cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|word| word == flag))
    };
    let module = if has("vmx") {
        "kvm_intel"
    } else if has("svm") {
        "kvm_amd"
    } else {
        let nested = if has("hypervisor") {
            "this host is itself a virtual machine: ask for nested virtualization, or use a host that has it"
        } else {
            "switch virtualization (VT-x or AMD-V) on in the firmware's setup"
        };
        return format!("the processor does not show hardware virtualization; {nested}");
    };
    format!(
        "the processor has hardware virtualization, and the kernel module is not loaded (sudo modprobe {module}); \
         in a container, pass the device in (--device /dev/kvm)"
    )
}

fn permission_remedy(path: &str, metadata: &fs::Metadata) -> String {
    let (gid, mode) = (metadata.gid(), metadata.permissions().mode() & 0o777);
    let group = group_name(gid, &fs::read_to_string("/etc/group").unwrap_or_default());
    if gid != 0 && mode & 0o060 == 0o060 {
        let group = group.unwrap_or_else(|| gid.to_string());
        format!(
            "it is open to the group \"{group}\" and you are not in it; \
             run `sudo usermod -aG {group} $USER` and log in again"
        )
    } else {
        format!(
            "its mode is {mode:03o} and it is owned by user {}; run `sudo chmod 666 {path}`, or use root",
            metadata.uid()
        )
    }
}

/// The name of a group, from the text of `/etc/group`.
fn group_name(gid: u32, groups: &str) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == gid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_in_the_way() {
        let message = |path: &str| open_at(Path::new(path)).unwrap_err().to_string();
        assert!(message("/nonexistent/kvm").starts_with("/nonexistent/kvm does not exist: "));
        assert!(message("/etc/hostname").contains("not a character device"));
        assert!(message("/dev/null").contains("KVM_GET_API_VERSION"), "{}", message("/dev/null"));
    }

    #[test]
    fn guesses_why_it_is_missing() {
        assert!(why_missing("flags\t\t: fpu vmx").contains("modprobe kvm_intel"));
        assert!(why_missing("flags\t\t: fpu svm").contains("modprobe kvm_amd"));
        assert!(why_missing("flags\t\t: fpu hypervisor").contains("nested"));
        assert!(why_missing("").contains("firmware"));
    }

    #[test]
    fn names_the_group() {
        assert_eq!(group_name(104, "root:x:0:\nkvm:x:104:me\n").as_deref(), Some("kvm"));
        assert_eq!(group_name(1, "root:x:0:\nbroken\nkvm:x:104:me\n"), None);
        let metadata = fs::metadata("/dev/null").unwrap();
        assert!(permission_remedy("/dev/null", &metadata).contains("chmod"), "root's device is not opened by a group");
    }
}
