//! Instruction counts of the packet path, as host code, under callgrind. Unlike times they hardly differ from run to run and
//! from machine to machine, so that a change which makes the path longer is noticed where nothing can be timed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::sh;

/// Something that is counted.
struct Workload {
    /// The package, and its example.
    package: &'static str,
    example: &'static str,
    /// The example's word for it.
    name: &'static str,
    /// The most instructions for each frame: half as much again as it took when this was written, since compilers differ.
    most: f64,
}

const BALANCER: (&str, &str) = ("ringlet-balancer", "balancer_instructions");
const DRIVER: (&str, &str) = ("ringlet-driver", "driver_instructions");

const fn workload((package, example): (&'static str, &'static str), name: &'static str, most: f64) -> Workload {
    Workload { package, example, name, most }
}

const WORKLOADS: [Workload; 7] = [
    workload(BALANCER, "nat-udp", 1220.0),
    workload(BALANCER, "nat-tcp", 1280.0),
    workload(BALANCER, "direct-udp", 1045.0),
    workload(BALANCER, "ipip-udp", 1130.0),
    workload(BALANCER, "new-udp", 3460.0),
    workload(DRIVER, "split", 675.0),
    workload(DRIVER, "packed", 650.0),
];

/// Frames in a count.
const FRAMES: u32 = 32 * 500;

/// Counts, and fails where there are more instructions for a frame than there may be.
pub fn run() -> anyhow::Result<()> {
    if !sh::has("valgrind") {
        bail!("not installed: valgrind. Debian: `apt-get install valgrind`; Fedora: `dnf install valgrind`");
    }
    let mut long = Vec::new();
    for (package, example) in [BALANCER, DRIVER] {
        sh::run(sh::cargo().args(["build", "--quiet", "--release", "--package", package, "--example", example]))?;
    }
    for Workload { package, example, name, most } in WORKLOADS {
        let program = sh::target_directory().join("release/examples").join(example);
        let each = count(&program, name)? as f64 / f64::from(FRAMES);
        println!("{package} {name}: {each:.1} instructions a frame, at most {most:.0}");
        if each > most {
            long.push(format!("{package} {name}"));
        }
    }
    if !long.is_empty() {
        bail!(
            "the packet path has become longer: {}. If that is as it should be, change xtask/src/instructions.rs",
            long.join(", ")
        );
    }
    Ok(())
}

/// Instructions that a program takes for [`FRAMES`] frames.
fn count(program: &Path, name: &str) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*measured*")
        .arg(program)
        .args([name, &FRAMES.to_string()])
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} {name}: {said}", program.display());
    }
    match collected(&said) {
        Some(count) if count > 0 => Ok(count),
        _ => bail!("callgrind has counted nothing: {said}"),
    }
}

/// The number in callgrind's line `==1== Collected : 123`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrind_says_what_it_has_counted() {
        assert_eq!(collected("==5== Events    : Ir\n==5== Collected : 123456\n"), Some(123_456));
        assert_eq!(collected("==5== nothing\n"), None);
    }
}
