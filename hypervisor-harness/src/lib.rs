//! The Ringlet virtual machine monitor.
