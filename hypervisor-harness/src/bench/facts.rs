//! What was measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::peers;
use super::report::Settings;

/// The host, how this program was built, and the programs it is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// This program's version, and the image's build id.
    pub version: String,
    /// The processor's name.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The host's kernel.
    pub kernel: String,
    /// The host's TCP congestion control, for connections that do not choose one; empty if it is not known.
    #[serde(default)]
    pub congestion_control: String,
    /// What KVM rests on.
    pub kvm: String,
    /// How the program and its device were built.
    pub build: String,
    /// How the embedded image was built.
    pub image: String,
    /// The device.
    pub device: String,
    /// Versions of the programs of others, by name; those that are not installed are not here.
    pub peers: BTreeMap<String, String>,
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
            version: format!("{}, image {}", env!("CARGO_PKG_VERSION"), crate::image::BUILD_ID),
            processor,
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            kvm: kvm().to_owned(),
            build: if cfg!(debug_assertions) { "debug: not fit for comparison" } else { "release" }.to_owned(),
            image: crate::image::BUILT_WITH.to_owned(),
            device: "one queue pair; 1 vCPU and 1 device thread".to_owned(),
            peers: peers::versions(),
        }
    }

    /// All of it with the settings, as names and values.
    #[must_use]
    pub fn lines(&self, settings: &Settings) -> Vec<(String, String)> {
        let Settings { transport, rounds, seconds, memory_mib, pinned } = settings;
        let pinned = match pinned {
            [None, None] => "threads not pinned".to_owned(),
            pinned => {
                let place =
                    |cpu: &Option<usize>| cpu.map_or("any processor".to_owned(), |cpu| format!("processor {cpu}"));
                format!("vCPU on {}, device on {}", place(&pinned[0]), place(&pinned[1]))
            }
        };
        let congestion_control = match &self.congestion_control[..] {
            "" => "congestion control unknown".to_owned(),
            name => format!("congestion control {name}"),
        };
        let mut lines: Vec<(String, String)> = [
            ("ringlet", self.version.clone()),
            ("machine", format!("{}, {} cores", self.processor, self.cores)),
            ("kernel", self.kernel.clone()),
            ("tcp", congestion_control),
            ("kvm", self.kvm.clone()),
            ("build", format!("{}; image: {}", self.build, self.image)),
            ("device", format!("virtio-net over {transport}, {}; {memory_mib} MiB of memory; {pinned}", self.device)),
            ("rounds", format!("{rounds}, sides in turn; a rate is measured for {seconds} s after a warm-up")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        lines.extend(self.peers.iter().map(|(name, version)| (name.clone(), version.clone())));
        lines
    }
}

/// What KVM rests on, by the module that is loaded.
fn kvm() -> &'static str {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    if !Path::new("/dev/kvm").exists() {
        "none"
    } else if loaded("kvm_pvm") {
        "pagetable KVM (kvm_pvm: no hardware virtualization; exits are dear)"
    } else if loaded("kvm_intel") {
        "VMX (kvm_intel)"
    } else if loaded("kvm_amd") {
        "SVM (kvm_amd)"
    } else {
        "unknown"
    }
}
