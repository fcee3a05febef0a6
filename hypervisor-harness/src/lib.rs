//! The Ringlet virtual machine monitor: boots the unikernel in KVM, gives it a virtio-net device and a network.

mod affinity;
pub mod backend;
pub mod bench;
pub mod cli;
pub mod image;
pub mod ipvsadm;
pub mod qemu;
pub mod run;
pub mod vhost_user;
pub mod virtio;
pub mod vmm;
