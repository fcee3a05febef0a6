//! `cargo xtask image`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use ringlet_image::{Output, Way, elf, toolchain};

use crate::sh;

/// The flags of `cargo xtask image`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How the image gets its `core`: build-std, debian or prebuilt; the best one there is if not given
    #[arg(long, value_parser = Way::from_name)]
    way: Option<Way>,
    /// Copy the image there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// With line tables, so that a profile (`ringlet bench --profile`) names functions that were inlined
    #[arg(long)]
    lines: bool,
}

/// Builds the image, checks it and says what it is.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let image = build(args.way, args.lines)?;
    if let Some(out) = &args.out {
        std::fs::copy(&image, out).with_context(|| format!("cannot write {}", out.display()))?;
        println!("copied to {}", out.display());
    }
    Ok(())
}

/// Builds the image in this way, or in the best one, and prints what came out. Returns its path.
pub fn build(way: Option<Way>, lines: bool) -> anyhow::Result<PathBuf> {
    let workspace = sh::workspace();
    let toolchain = toolchain::select(&workspace, way).map_err(|why| anyhow!("no way to build the image: {why}"))?;
    println!("image: {toolchain}");
    let began = Instant::now();
    let build = if lines { ringlet_image::build_with_lines } else { ringlet_image::build_with };
    let image = build(&workspace, &sh::target_directory(), toolchain, Output::Inherit)?;
    let report = &image.report;
    println!(
        "image: {} in {:.1} s: {} KiB, build id {}, entry {:#x}",
        image.path.display(),
        began.elapsed().as_secs_f64(),
        report.size / 1024,
        report.build_id,
        report.pvh_entry
    );
    for segment in report.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD) {
        let flag = |bit: u32, letter: char| if segment.flags & bit != 0 { letter } else { '-' };
        let (w, x) = (flag(elf::PF_W, 'w'), flag(elf::PF_X, 'x'));
        let range = segment.physical();
        println!("  {:#09x}..{:#09x} r{w}{x}  {} KiB in the file", range.start, range.end, segment.file_size / 1024);
    }
    Ok(image.path)
}
