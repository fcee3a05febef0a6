//! The chores of the workspace: `cargo xtask --help` lists them.

mod fuzz;
mod image;
mod instructions;
mod oracle;
mod sh;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Every chore of the Ringlet workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Run every check and test there is, in order; this is what CI runs
    Test(test::Args),
    /// Build the unikernel image and say what it is
    Image(image::Args),
    /// Measure what Ringlet claims, beside what one would take instead (a release build of `ringlet bench`)
    Bench {
        /// Passed on to `ringlet bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Compare the balancer with Linux IPVS: the same rules and frames for both
    Oracle {
        /// Passed on to the oracle: parts of the names of cases, `--list`, `--verbose`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the fuzz targets, each for a while (needs cargo-fuzz and a nightly toolchain)
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Image(args) => image::run(&args),
        Chore::Bench { arguments } => bench(&arguments),
        Chore::Oracle { arguments } => oracle::run(&arguments),
        Chore::Fuzz(args) => fuzz::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let mut command = sh::cargo();
    command.args(["run", "--quiet", "--release", "--package", "ringlet", "--", "bench"]).args(arguments);
    sh::run(&mut command)
}
