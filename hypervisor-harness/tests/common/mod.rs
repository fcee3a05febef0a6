//! What the end-to-end tests share.
#![allow(dead_code, reason = "each test program uses its own part of this")]

pub mod guest;
pub mod http;
pub mod iperf3;
pub mod linux;
pub mod msix;
pub mod netns;
pub mod ovs;
pub mod packets;
pub mod ping;
pub mod plug;
pub mod program;
pub mod ringlet;
pub mod rules;
pub mod scratch;
pub mod testpmd;
pub mod traffic;

/// Whether there is KVM. Without it this fails, unless `RINGLET_TEST_NO_KVM=1` says that this is known.
fn has_kvm() -> bool {
    match ::ringlet::vmm::host::open() {
        Ok(_) => true,
        Err(_) if std::env::var_os("RINGLET_TEST_NO_KVM").is_some_and(|value| value == "1") => false,
        Err(error) => panic!("{error}\nThese tests need KVM. Set RINGLET_TEST_NO_KVM=1 to go without."),
    }
}

/// Whether the tests that concern KVM itself, or devices that only our own monitor has, can run. They say loudly when they do
/// not.
pub fn kvm() -> bool {
    let there = has_kvm();
    if !there {
        eprintln!("==== NOT RUN, for want of KVM (RINGLET_TEST_NO_KVM=1) ====");
    }
    there
}

/// Whether `ringlet run` has to be tested as `ringlet qemu --accel tcg`, because there is no KVM.
pub fn emulated() -> bool {
    !has_kvm()
}

/// How a guest can reach its device: the values of `--transport`.
pub const TRANSPORTS: [&str; 2] = ["mmio", "pci"];

/// What to start instead of `ringlet ARGUMENTS`: the same, except where there is no KVM to run it in.
pub fn runnable(arguments: &[&str]) -> Vec<String> {
    let own = match arguments {
        ["run", rest @ ..] => Some(rest),
        [flag, ..] if flag.starts_with('-') => Some(arguments),
        _ => None,
    };
    let words = match own.filter(|_| emulated()) {
        Some(rest) => {
            eprintln!("==== IN QEMU BY TRANSLATION (TCG), for want of KVM (RINGLET_TEST_NO_KVM=1) ====");
            // QEMU's machines have one transport each.
            let at = rest.iter().position(|word| *word == "--transport");
            let machine = if at.is_some_and(|at| rest.get(at + 1) == Some(&"pci")) { "q35" } else { "microvm" };
            let (before, after) =
                at.map_or((rest, &[][..]), |at| (&rest[..at], rest.get(at + 2..).unwrap_or_default()));
            [&["qemu", "--machine", machine, "--accel", "tcg"][..], before, after].concat()
        }
        None => arguments.to_vec(),
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Returns from the test where there is no KVM.
#[macro_export]
macro_rules! needs_kvm {
    () => {
        if !common::kvm() {
            return;
        }
    };
}
