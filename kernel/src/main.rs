//! The Ringlet unikernel.
fn main() {}
