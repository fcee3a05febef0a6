//! The `ringlet` command.
fn main() {}
