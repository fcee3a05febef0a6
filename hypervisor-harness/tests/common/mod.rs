//! What the end-to-end tests share.
#![allow(dead_code, reason = "each test program uses its own part of this")]

pub mod guest;
pub mod http;
pub mod netns;
pub mod ringlet;
pub mod rules;

/// Whether the tests that need KVM can run. Without KVM they fail, unless `RINGLET_TEST_NO_KVM=1` says that this is known;
/// then they say loudly that they did not run.
pub fn kvm() -> bool {
    match ::ringlet::vmm::host::open() {
        Ok(_) => true,
        Err(error) if std::env::var_os("RINGLET_TEST_NO_KVM").is_some_and(|value| value == "1") => {
            eprintln!("==== NOT RUN, for want of KVM (RINGLET_TEST_NO_KVM=1): {error} ====");
            false
        }
        Err(error) => panic!("{error}\nThese tests need KVM. Set RINGLET_TEST_NO_KVM=1 to go without them."),
    }
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
