//! `ringlet bench`: measures what Ringlet claims, beside what one would take instead.
//!
//! - [`mod@case`], [`cases`]: what is measured, and of whom.
//! - [`turns`]: the run. Sides take turns, round after round, so that whatever else the host does meanwhile hits all alike.
//! - [`statistics`], [`report`]: what is told of it, and how.
//! - [`peers`]: the programs of others. [`net`]: network namespaces, and traffic in them. [`guest`]: guests of our own.
//!
//! Numbers are of this host, on this day: a report begins with what was measured on. Nothing outside of namespaces that the
//! bench has made itself is changed.

pub mod args;
pub mod case;
pub mod cases;
pub mod facts;
pub mod guest;
pub mod net;
pub mod peers;
pub mod report;
mod rest;
pub mod statistics;
pub mod stop;
pub mod turns;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;

pub use self::args::Args;
use self::case::{Case, When};
use self::facts::Facts;
use self::report::markdown::{self, Markdown};
use self::report::{Report, Settings, html, json, text::Text};
use self::turns::Chosen;

/// Runs the benchmark with the arguments after `ringlet bench`. Returns the exit code of the process.
///
/// # Errors
/// If there is no such case, or nothing can be measured here at all, or a report cannot be written.
pub fn run(arguments: Vec<OsString>) -> anyhow::Result<u8> {
    let args = match Args::try_parse_from(std::iter::once("ringlet bench".into()).chain(arguments)) {
        Ok(args) => args,
        Err(error) => {
            error.print()?;
            return Ok(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if let Some(flows) = args.footprint {
        println!("{}", cases::footprint::of_this_process(&args, flows)?);
        return Ok(0);
    }
    if args.list {
        print!("{}", cases::list());
        return Ok(0);
    }
    args.pin.check()?;
    let report = if args.from.is_empty() { measure(&args)? } else { read(&args.from)? };
    tell(&args, &report)?;
    Ok(report.cases.iter().any(report::Told::failed).into())
}

/// Measures what is asked for.
fn measure(args: &Args) -> anyhow::Result<Report> {
    let began = Instant::now();
    let chosen = choose(args, cases::CASES)?;
    stop::on_interrupt().context("cannot catch Ctrl-C")?;
    let settings = Settings {
        transport: args.transport.to_string(),
        rounds: args.rounds(),
        seconds: args.time().as_secs_f64(),
        memory_mib: args.memory,
        pinned: [args.pin.vcpu, args.pin.device],
    };
    let facts = Facts::gather();
    if !args.json {
        for (name, value) in facts.lines(&settings) {
            println!("{name:12} {value}");
        }
    }
    let outcome = turns::run(args, &chosen, args.quick.then(|| began + args::QUICK));
    if let Some((path, profile)) = &args.profile {
        let image = crate::image::load(args.kernel.as_deref())?;
        fs::write(path, profile.folded(&image))
            .with_context(|| format!("cannot write the profile {}", path.display()))?;
    }
    Ok(Report { facts, settings, cases: outcome.cases, cut_short: outcome.cut_short })
}

/// The cases and sides that are wanted.
fn choose(args: &Args, cases: &'static [Case]) -> anyhow::Result<Vec<Chosen>> {
    let exact = |text: &String| cases.iter().any(|case| case.name == text);
    let named = |case: &Case| {
        args.only.iter().any(|text| if exact(text) { case.name == text } else { case.name.contains(text.as_str()) })
    };
    if let Some(text) = args.only.iter().find(|text| !cases.iter().any(|case| case.name.contains(text.as_str()))) {
        let names: Vec<_> = cases.iter().map(|case| case.name).collect();
        bail!("no case has {text} in its name; there are {}", names.join(", "));
    }
    let wanted = |case: &&Case| match args.only.is_empty() {
        true => !args.quick || case.when == When::Always,
        false => named(case),
    };
    let side = |(nth, side): (usize, &case::Side)| {
        let wanted =
            nth == 0 || args.against.is_empty() || args.against.iter().any(|text| side.name.contains(text.as_str()));
        wanted.then_some(nth)
    };
    let sides = |case: &Case| case.sides.iter().enumerate().filter_map(side).collect();
    Ok(cases.iter().filter(wanted).map(|case| Chosen { case, sides: sides(case) }).collect())
}

/// Tells a report in every form that is asked for.
fn tell(args: &Args, report: &Report) -> anyhow::Result<()> {
    let write =
        |path: &Path, text: String| fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    // Files first: what was measured must not be lost where nobody reads standard output.
    if let Some(path) = &args.html {
        write(path, html::write(report)?)?;
    }
    if let Some(path) = &args.markdown {
        let there = fs::read_to_string(path).unwrap_or_default();
        write(path, markdown::embed(&there, &Markdown(report).to_string()))?;
    }
    if args.json {
        println!("{}", json::write(report)?);
    } else {
        print!("{}", Text(report));
    }
    Ok(())
}

/// Reads reports back, and puts them together: facts and settings are the first one's. They may differ in rounds and
/// times.
fn read(files: &[std::path::PathBuf]) -> anyhow::Result<Report> {
    let mut all: Option<Report> = None;
    for path in files {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let report = json::read(&text).with_context(|| name.to_string())?;
        match &mut all {
            None => all = Some(report),
            Some(all) if all.facts != report.facts || !all.settings.agree(&report.settings) => {
                bail!("{name} is of another host, build or setting than {}", files[0].display())
            }
            Some(all) => {
                if let Some(case) =
                    report.cases.iter().find(|case| all.cases.iter().any(|known| known.name == case.name))
                {
                    bail!("{name} has the case {} once more", case.name);
                }
                all.cases.extend(report.cases);
                all.cut_short = all.cut_short.take().or(report.cut_short);
            }
        }
    }
    all.context("no file is given")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> anyhow::Result<Vec<&'static str>> {
        let args = Args::parse_from(std::iter::once("bench").chain(line.split_whitespace()));
        Ok(choose(&args, cases::CASES)?.iter().map(|chosen| chosen.case.name).collect())
    }

    #[test]
    fn cases_are_chosen_by_name() {
        assert_eq!(names("").unwrap().len(), cases::CASES.len());
        assert_eq!(names("--only boot").unwrap(), ["boot"]);
        assert!(names("--only nat").unwrap().len() > 2);
        let quick = names("--quick").unwrap();
        assert_eq!(
            quick,
            [
                "nat-10k-flows",
                "direct-10k-flows",
                "ipip-10k-flows",
                "frames",
                "rings",
                "super-tcp4",
                "connections",
                "connections-tap",
                "bulk-tap",
                "latency-idle",
                "boot",
                "http",
                "image",
                "idle"
            ],
            "two rounds of each take three quarters of a minute on two slow cores: measure before one is added"
        );
        assert_eq!(names("--quick --only nat-1m-flows").unwrap(), ["nat-1m-flows"]);
        assert!(names("--only no-such-case").unwrap_err().to_string().contains("nat-10k-flows"));
        let args = Args::parse_from(["bench", "--only", "nat-10k-flows", "--against", "nft"]);
        let chosen = choose(&args, cases::CASES).unwrap();
        let sides: Vec<_> = chosen[0].sides.iter().map(|side| chosen[0].case.sides[*side].name).collect();
        assert_eq!(sides, ["ringlet", "nftables"]);
    }

    #[test]
    fn names_are_unique_and_cases_are_whole() {
        for (nth, case) in cases::CASES.iter().enumerate() {
            assert!(cases::CASES[..nth].iter().all(|other| other.name != case.name), "{} twice", case.name);
            assert!(!case.sides.is_empty() && !case.values.is_empty() && !case.unit.is_empty(), "{}", case.name);
            for (nth, side) in case.sides.iter().enumerate() {
                assert!(case.sides[..nth].iter().all(|other| other.name != side.name), "{} twice", side.name);
            }
        }
    }
}
