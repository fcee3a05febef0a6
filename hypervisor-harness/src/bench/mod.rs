//! `ringlet bench`: how fast it forwards, how fast it boots, how many connections it carries.
//!
//! The cases take turns, round after round, so that whatever else the host does meanwhile hits all of them alike; what is
//! told of each is the median of its rounds and their spread. Numbers are of this host, on this day: the first thing
//! printed is what was measured on.

mod boot;
mod cases;
mod facts;
mod forward;
mod guest;
mod http;
mod iperf3;
mod round_trip;
mod samples;
mod testpmd;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;

use self::cases::{CASES, Case, PRIVILEGED};
use self::facts::Facts;
use self::samples::Samples;
use crate::virtio::Transport;
use crate::vmm::layout;
use crate::vmm::profile::Profile;

/// Measures forwarding rate, boot time and connections a second.
///
/// Each round boots guests of its own. A case whose frames or answers are found wrong, or that forwards nothing, fails,
/// and so does the command.
#[derive(Debug, Clone, Parser)]
#[command(name = "ringlet bench", max_term_width = 110, after_help = cases::help())]
pub struct Args {
    /// Three short rounds: seconds instead of minutes, for a look rather than for a comparison
    #[arg(long)]
    pub quick: bool,
    /// Only cases whose names contain this; several may be given
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// The results as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Rounds, in each of which every case is measured once (default 7; with --quick 3)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Seconds that each measurement of a rate takes (default 1; with --quick 0.3)
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Another image than the one in this program
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Write to this file where the guests spend their time, as "folded" stacks for flame graphs, all cases together. Inlined
    /// functions are named if the image has line tables (`cargo xtask image --lines --out FILE` and --kernel FILE)
    #[arg(long, value_name = "FILE", value_parser = profile)]
    pub profile: Option<(PathBuf, Arc<Profile>)>,
    /// How guests reach their network device
    #[arg(long, value_enum, default_value_t)]
    pub transport: Transport,
    /// The guest's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = layout::DEFAULT_MEMORY_MIB,
        value_parser = clap::value_parser!(u32).range(i64::from(*layout::MEMORY_MIB.start())..=i64::from(*layout::MEMORY_MIB.end())))]
    pub memory: u32,
}

impl Args {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 })
    }

    /// How long a rate is measured.
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.3 } else { 1.0 }))
    }
}

fn profile(text: &str) -> Result<(PathBuf, Arc<Profile>), std::convert::Infallible> {
    Ok((text.into(), Arc::default()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let good = |seconds: &f64| (0.05..=3600.0).contains(seconds);
    text.parse().ok().filter(good).ok_or_else(|| "expected 0.05 to 3600".to_owned())
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The value, in the unit of its case.
    pub value: f64,
    /// What there is to say about it: losses, what was negotiated.
    pub remark: String,
}

/// What a case is compared with is not installed: it cannot be measured here, which is no failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);

/// Runs the benchmark with the arguments after `ringlet bench`. Returns the exit code of the process.
///
/// # Errors
/// If there is no such case, or nothing can be measured here at all.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let args = match Args::try_parse_from(std::iter::once("ringlet bench".into()).chain(arguments)) {
        Ok(args) => args,
        Err(error) => {
            error.print()?;
            return Ok(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let named = |case: &&Case| args.only.iter().any(|text| case.name.contains(text.as_str()));
    let ordinary = CASES.iter().filter(|case| args.only.is_empty() || named(case));
    let chosen: Vec<&Case> = ordinary.chain(PRIVILEGED.iter().filter(named)).collect();
    if chosen.is_empty() {
        anyhow::bail!("no case has {} in its name; there are {}", args.only.join(" or "), cases::names());
    }
    let facts = Facts::gather();
    if !args.json {
        print!("{facts}");
        println!("device   over {}", args.transport);
        println!("rounds   {} of {:.1} s each, cases in turn\n", args.rounds(), args.time().as_secs_f64());
    }
    let shown = !args.json && std::io::stderr().is_terminal();
    let mut results: Vec<(&Case, Samples)> = chosen.into_iter().map(|case| (case, Samples::default())).collect();
    for round in 0..args.rounds() {
        for (case, samples) in &mut results {
            if shown {
                eprint!("\r\x1b[Kround {} of {}: {}", round + 1, args.rounds(), case.name);
                let _ = std::io::stderr().flush();
            }
            match (case.measure)(&args) {
                Ok(measured) => samples.add(measured),
                Err(error) => match error.downcast::<Missing>() {
                    Ok(Missing(what)) => samples.skip(what),
                    Err(error) => samples.fail(format!("{error:#}")),
                },
            }
        }
    }
    if let Some((path, profile)) = &args.profile {
        let image = crate::image::load(args.kernel.as_deref())?;
        std::fs::write(path, profile.folded(&image))
            .with_context(|| format!("writing the profile {}", path.display()))?;
    }
    if args.json {
        println!("{}", samples::json(&facts, &args, &results));
    } else {
        if shown {
            eprint!("\r\x1b[K");
        }
        print!("{}", samples::Table(&results));
    }
    Ok(results.iter().any(|(_, samples)| samples.failed()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
        let args = |line: &str| Args::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        let quick = args("--quick --only forward --json").unwrap();
        assert_eq!((quick.rounds(), quick.time()), (3, Duration::from_millis(300)));
        assert_eq!(args("--rounds 9 --seconds 2").unwrap().rounds(), 9);
        for bad in ["--seconds 0", "--seconds nan", "--rounds 0", "--memory 1", "more"] {
            assert!(args(bad).is_err(), "{bad}");
        }
        assert!(run(vec!["--only".into(), "no-such-case".into()]).is_err());
    }
}
