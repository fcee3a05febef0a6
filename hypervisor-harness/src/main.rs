//! The `ringlet` command.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    // First of all, since the boot time is counted from here.
    let started = Instant::now();
    ringlet::cli::main(started)
}
