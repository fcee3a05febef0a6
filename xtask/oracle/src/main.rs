//! `cargo xtask oracle`: the same rules and the same frames for Linux IPVS, in a virtual machine, and for the balancer; what comes out is
//! compared. docs/oracle.md tells how.

mod case;
mod compare;
mod guest;
mod known;
mod linux;
mod neighbour;
mod ours;
mod packet;
mod side;
mod snapshot;
mod suite;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Plays the same rules and frames into Linux IPVS and into the balancer, and compares
#[derive(Debug, Parser)]
#[command(name = "cargo xtask oracle", bin_name = "cargo xtask oracle", max_term_width = 110)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    args: suite::Args,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// What runs inside the virtual machine
    #[command(hide = true)]
    Agent,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.part {
        Some(Part::Agent) => guest::run().map(|()| true),
        None => suite::run(&cli.args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("oracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}
