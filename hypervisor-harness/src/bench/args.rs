//! The flags of `ringlet bench`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use super::cases;
use crate::cli::Pin;
use crate::virtio::Transport;
use crate::vmm::layout;
use crate::vmm::profile::Profile;

/// Measures what Ringlet claims, beside what one would take instead.
///
/// Each case has sides, which take turns, round after round; a side that needs what is not installed says what to install, and
/// is left out. Ctrl-C leaves what was measured so far. Guests are booted anew for each measurement. Where frames or answers
/// are found wrong, or nothing arrives, the case fails, and so does the command.
#[derive(Debug, Clone, Parser)]
#[command(name = "ringlet bench", max_term_width = 110, after_help = cases::help())]
pub struct Args {
    /// Less than a minute, for a look rather than for a comparison: two short rounds, and only the cases for which --list
    /// does not say otherwise
    #[arg(long)]
    pub quick: bool,
    /// The cases there are, and their sides
    #[arg(long)]
    pub list: bool,
    /// Only this case, or those whose names contain this if none is called so; several may be given
    #[arg(long, value_name = "CASE")]
    pub only: Vec<String>,
    /// Only sides whose names contain this, beside the first of each case; several may be given
    #[arg(long, value_name = "SIDE")]
    pub against: Vec<String>,
    /// The report as one JSON object, on standard output
    #[arg(long)]
    pub json: bool,
    /// The report as a page with pictures, in this file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The report as tables in Markdown, in this file; if it is there and has the lines `<!-- bench -->` and
    /// `<!-- /bench -->`, between these
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Measure nothing: tell what this file holds, which `--json` has written. Several are put together
    #[arg(long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// Rounds, in each of which every side of every case is measured once (default 5; with --quick 2)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Seconds that each measurement of a rate takes (default 1; with --quick 0.2)
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
    /// The guest's memory in MiB; cases with many connections take what these need
    #[arg(long, value_name = "MIB", default_value_t = layout::DEFAULT_MEMORY_MIB,
        value_parser = clap::value_parser!(u32).range(i64::from(*layout::MEMORY_MIB.start())..=i64::from(*layout::MEMORY_MIB.end())))]
    pub memory: u32,
    /// Where the guest's and the device's threads run
    #[command(flatten)]
    pub pin: Pin,
    /// Boot a guest, forward a frame of each of so many flows, and print the bytes of memory that this process has then
    #[arg(long, value_name = "FLOWS", hide = true)]
    pub footprint: Option<u32>,
}

/// A run with `--quick` is over by then, whatever is left.
pub const QUICK: Duration = Duration::from_secs(58);

impl Args {
    /// How often each side has its turn.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// How long a rate is measured.
    #[must_use]
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.2 } else { 1.0 }))
    }
}

fn profile(text: &str) -> Result<(PathBuf, Arc<Profile>), std::convert::Infallible> {
    Ok((text.into(), Arc::default()))
}

fn seconds(text: &str) -> Result<f64, String> {
    let good = |seconds: &f64| (0.05..=3600.0).contains(seconds);
    text.parse().ok().filter(good).ok_or_else(|| "expected 0.05 to 3600".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent() {
        Args::command().debug_assert();
        let args = |line: &str| Args::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        let quick =
            args("--quick --only nat --json --html a.html --markdown b.md --pin-vcpu 0 --pin-device 1").unwrap();
        assert_eq!((quick.rounds(), quick.time()), (2, Duration::from_millis(200)));
        assert_eq!((quick.pin.vcpu, quick.pin.device), (Some(0), Some(1)));
        assert_eq!(args("--rounds 9 --seconds 2").unwrap().rounds(), 9);
        for bad in ["--seconds 0", "--seconds nan", "--rounds 0", "--memory 1", "--pin-vcpu x", "more"] {
            assert!(args(bad).is_err(), "{bad}");
        }
    }
}
