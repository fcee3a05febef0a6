//! What was measured on.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// The host, and how this program was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The host's kernel.
    pub kernel: String,
    /// What KVM rests on.
    pub kvm: &'static str,
    /// How the program and its device were built.
    pub build: &'static str,
    /// How the embedded image was built.
    pub image: &'static str,
    /// The device and its transport.
    pub device: &'static str,
}

impl Facts {
    /// Looks around.
    #[must_use]
    pub fn gather() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
            .unwrap_or_else(|| "unknown".to_owned());
        Self {
            processor,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            kvm: kvm(),
            build: if cfg!(debug_assertions) { "debug: not fit for comparison" } else { "release" },
            image: crate::image::BUILT_WITH,
            device: "virtio-mmio, one queue pair, 1 vCPU and 1 device thread",
        }
    }
}

/// What KVM rests on, by the module that is loaded.
fn kvm() -> &'static str {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    if loaded("kvm_pvm") {
        "pagetable KVM (kvm_pvm: no hardware virtualization; exits are dear)"
    } else if loaded("kvm_intel") {
        "VMX (kvm_intel)"
    } else if loaded("kvm_amd") {
        "SVM (kvm_amd)"
    } else {
        "unknown"
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine  {}, {} cores", self.processor, self.cores)?;
        writeln!(f, "kernel   {}", self.kernel)?;
        writeln!(f, "kvm      {}", self.kvm)?;
        writeln!(f, "build    {}; image: {}", self.build, self.image)?;
        writeln!(f, "device   {}", self.device)
    }
}
