//! `cargo xtask fuzz`: every fuzz target, each for a while.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::sh;

/// The flags of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only targets whose name contains this
    #[arg(default_value = "")]
    name: String,
    /// Seconds for each target
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Executions of each target, however long they take
    #[arg(long, conflicts_with = "seconds")]
    runs: Option<u64>,
}

/// The package that forbids unsafe code: there is nothing for a sanitizer to find, and without one it is several times as fast.
const SAFE: &str = "balancer";

/// Where fuzz targets are: packages in workspaces of their own.
pub const PACKAGES: [&str; 4] = ["driver", "balancer", "kernel", "hypervisor-harness"];

/// Runs the targets.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !sh::has("cargo-fuzz") {
        bail!("cargo-fuzz is not installed: `cargo install cargo-fuzz`, and `rustup toolchain install nightly`");
    }
    let mut ran = 0;
    for package in PACKAGES {
        let directory = sh::workspace().join(package);
        for target in targets(&directory.join("fuzz/fuzz_targets"))? {
            if !target.contains(&args.name) {
                continue;
            }
            let (extent, limit) = match args.runs {
                Some(runs) => (format!("{runs} executions"), format!("-runs={runs}")),
                None => (format!("{} s", args.seconds), format!("-max_total_time={}", args.seconds)),
            };
            println!("\n==== fuzz: {package}, {target}, {extent} ====");
            // Not the cargo that runs this: the sanitizers need a nightly one, which rustup finds by `+nightly`.
            let mut command = std::process::Command::new("cargo");
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").current_dir(&directory);
            command.args(["+nightly", "fuzz", "run"]);
            if package == SAFE {
                command.args(["--sanitizer", "none"]);
            }
            command.args([&target, "--", &limit]);
            sh::run(&mut command)?;
            ran += 1;
        }
    }
    if ran == 0 {
        bail!("no fuzz target has `{}` in its name", args.name);
    }
    Ok(())
}

/// The names of the targets in a directory, sorted; none where there is no such directory.
fn targets(directory: &Path) -> anyhow::Result<Vec<String>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let shown = directory.display();
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot list {shown}"))?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<_> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(stem)
        .collect();
    names.sort();
    Ok(names)
}
