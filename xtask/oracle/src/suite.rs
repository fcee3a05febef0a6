//! All cases, and what is made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::case::{self, Case};
use crate::compare::{self, Report};
use crate::known::{CHOICES, NOT_BUILT};
use crate::linux::Linux;
use crate::ours::Ours;

/// The flags of `cargo xtask oracle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only cases whose file or name contains one of these texts
    wanted: Vec<String>,
    /// Only tell the names of the cases
    #[arg(long)]
    list: bool,
    /// Tell every step and what came out on both sides
    #[arg(long, short)]
    verbose: bool,
}

/// Programs that have to be there, and their packages.
const PROGRAMS: [(&str, &str); 5] = [
    ("nft", "nftables"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("ipvsadm", "ipvsadm"),
];

/// Plays the cases. Whether all is as it should be.
pub fn run(args: &Args) -> anyhow::Result<bool> {
    let cases = wanted(all()?, &args.wanted)?;
    if args.list {
        for case in &cases {
            println!("{}: {}", case.file, case.name);
        }
        return Ok(true);
    }
    let kernel = kernel()?;
    let directory = Directory::new()?;
    let began = Instant::now();
    let mut linux = Linux::boot(&kernel, &directory.0)?;
    println!("Linux {} is up after {:.1} s", linux.version(), began.elapsed().as_secs_f64());
    let mut ours = Ours::new();
    let (mut failed, mut not_built, mut choices) = (0, 0, 0);
    for case in &cases {
        let known = NOT_BUILT.iter().find(|(name, _)| *name == case.name);
        let report = compare::play(case, &mut ours, &mut linux).with_context(|| format!("case `{}`", case.name))?;
        choices += report.choices.len();
        let is_same = report.differences.is_empty();
        match (is_same, known) {
            (true, None) => println!("same       {}", case.name),
            (false, Some((_, what))) if !report.is_wrong => {
                not_built += 1;
                println!("not built  {}: {what}", case.name);
            }
            (true, Some(_)) => {
                failed += 1;
                println!("SAME       {}: it is on the list of what is not built: take it off", case.name);
            }
            (false, _) => {
                failed += 1;
                println!("DIFFERENT  {}", case.name);
            }
        }
        if args.verbose || (!is_same && (known.is_none() || report.is_wrong)) {
            tell(case, &report, args.verbose);
        }
    }
    println!(
        "{} cases: {} the same, {not_built} not built, {failed} not as they should be; {choices} documented choices met with \
         ({:.0} s)",
        cases.len(),
        cases.len() - not_built - failed,
        began.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

fn tell(case: &Case, report: &Report, all: bool) {
    if all {
        for rule in &case.rules {
            println!("    {rule}");
        }
        for line in &report.story {
            println!("    {line}");
        }
    }
    for difference in &report.differences {
        println!("    {}:{}: {}", case.file, difference.line, difference.text);
    }
}

/// Every case there is.
fn all() -> anyhow::Result<Vec<Case>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        cases.extend(case::parse(&name, &fs::read_to_string(file)?)?);
    }
    check(&cases)?;
    Ok(cases)
}

/// Names are unique, and what is named elsewhere is there.
fn check(cases: &[Case]) -> anyhow::Result<()> {
    for (at, case) in cases.iter().enumerate() {
        if cases[..at].iter().any(|other| other.name == case.name) {
            bail!("two cases are called `{}`", case.name);
        }
        for choice in case.steps.iter().filter_map(|step| step.choice.as_ref()) {
            if !CHOICES.iter().any(|(name, _)| name == choice) {
                bail!("{}: `{}` names the choice `{choice}`, which there is not", case.file, case.name);
            }
        }
    }
    for (name, _) in NOT_BUILT {
        if !cases.iter().any(|case| case.name == *name) {
            bail!("the list of what is not built has `{name}`, and there is no such case");
        }
    }
    let is_met = |choice: &str| cases.iter().flat_map(|case| &case.steps).any(|s| s.choice.as_deref() == Some(choice));
    for (name, _) in CHOICES {
        if !is_met(name) {
            bail!("no case shows the choice `{name}`");
        }
    }
    Ok(())
}

fn wanted(mut cases: Vec<Case>, texts: &[String]) -> anyhow::Result<Vec<Case>> {
    if !texts.is_empty() {
        cases.retain(|case| texts.iter().any(|text| case.file.contains(text) || case.name.contains(text)));
    }
    if cases.is_empty() {
        bail!("there is no such case; `--list` tells them");
    }
    Ok(cases)
}

/// The kernel, if all that is needed is there.
fn kernel() -> anyhow::Result<ringlet_linux::Linux> {
    let kernel = ringlet_linux::Linux::find();
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| ringlet_linux::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if kernel.is_none() {
        missing.push(ringlet_linux::PACKAGE);
    }
    kernel.filter(|_| missing.is_empty()).with_context(|| {
        format!(
            "not installed: {0}. Debian: `apt-get install {0}`; the kernel may be unpacked instead (`dpkg -x`, `depmod -b`) and its \
             root named in {1}",
            missing.join(" "),
            ringlet_linux::VARIABLE
        )
    })
}

/// A directory that is gone at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("ringlet-oracle-{}", std::process::id()));
        // What a process of the same number left behind is of no use.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left behind at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_read_and_every_list_is_true() {
        assert!(all().unwrap().len() > 1);
    }
}
