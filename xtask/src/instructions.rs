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
    name: String,
    /// The most instructions for each frame: half as much again as it took when this was written, since compilers differ.
    most: f64,
    /// Frames in a count.
    frames: u32,
}

const BALANCER: (&str, &str) = ("ringlet-balancer", "balancer_instructions");
const DRIVER: (&str, &str) = ("ringlet-driver", "driver_instructions");

/// Ways of a frame, with [`Workload::most`].
const WAYS: [((&str, &str), &str, f64); 8] = [
    (BALANCER, "nat-udp", 1220.0),
    (BALANCER, "nat-tcp", 1280.0),
    (BALANCER, "direct-udp", 1045.0),
    (BALANCER, "ipip-udp", 1130.0),
    (BALANCER, "new-udp", 3460.0),
    (BALANCER, "again-tcp", 4050.0),
    (DRIVER, "split", 675.0),
    (DRIVER, "packed", 650.0),
];
const FRAMES: u32 = 32 * 500;

/// Destinations of which a scheduler chooses one for each frame.
const DESTINATIONS: [u32; 3] = [3, 100, 1000];
/// Schedulers, with [`Workload::most`] for each of [`DESTINATIONS`]. Those that compare all destinations take longer with more of
/// them, as in Linux; the others must not.
const SCHEDULERS: [(&str, [f64; 3]); 14] = [
    ("rr", [3350.0, 3360.0, 3530.0]),
    ("wrr", [3440.0, 3450.0, 3630.0]),
    ("lc", [3430.0, 6780.0, 37900.0]),
    ("wlc", [3430.0, 7070.0, 40900.0]),
    ("lblc", [3590.0, 3590.0, 3590.0]),
    ("lblcr", [3640.0, 3640.0, 3640.0]),
    ("dh", [3330.0, 3330.0, 3330.0]),
    ("sh", [3350.0, 3360.0, 3360.0]),
    ("sed", [3430.0, 6920.0, 39400.0]),
    ("nq", [3350.0, 3350.0, 3350.0]),
    ("fo", [3390.0, 5870.0, 28900.0]),
    ("ovf", [3400.0, 6170.0, 31900.0]),
    ("mh", [3460.0, 3480.0, 3590.0]),
    ("twos", [3570.0, 8540.0, 54700.0]),
];
const CHOICES: u32 = 32 * 50;

fn workloads() -> Vec<Workload> {
    let ways = WAYS.into_iter().map(|((package, example), name, most)| Workload {
        package,
        example,
        name: name.to_owned(),
        most,
        frames: FRAMES,
    });
    let schedulers = SCHEDULERS.into_iter().flat_map(|(scheduler, most)| {
        DESTINATIONS.into_iter().zip(most).map(move |(destinations, most)| Workload {
            package: BALANCER.0,
            example: BALANCER.1,
            name: format!("{scheduler}-{destinations}"),
            most,
            frames: CHOICES,
        })
    });
    ways.chain(schedulers).collect()
}

/// Counts, and fails where there are more instructions for a frame than there may be.
pub fn run() -> anyhow::Result<()> {
    if !sh::has("valgrind") {
        bail!("not installed: valgrind. Debian: `apt-get install valgrind`; Fedora: `dnf install valgrind`");
    }
    let mut long = Vec::new();
    for (package, example) in [BALANCER, DRIVER] {
        sh::run(sh::cargo().args(["build", "--quiet", "--release", "--package", package, "--example", example]))?;
    }
    for Workload { package, example, name, most, frames } in workloads() {
        let program = sh::target_directory().join("release/examples").join(example);
        let each = count(&program, &name, frames)? as f64 / f64::from(frames);
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

/// Instructions that a program takes for so many frames.
fn count(program: &Path, name: &str, frames: u32) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*measured*")
        .arg(program)
        .args([name, &frames.to_string()])
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
