//! Builds the unikernel image, with a cargo of its own, and leaves it where `src/image.rs` embeds it from.

use std::env;
use std::path::{Path, PathBuf};

use ringlet_image::{Output, SOURCES, elf, toolchain};

fn main() {
    let variable = |name: &str| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")));
    let manifest = variable("CARGO_MANIFEST_DIR");
    let workspace = manifest.parent().expect("the harness lies in the workspace");
    let out = variable("OUT_DIR");

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={}", ringlet_image::FORCE_VARIABLE);
    for source in SOURCES {
        // Relative to this package: checkouts that share a target directory share what is printed here.
        println!("cargo::rerun-if-changed=../{source}");
    }

    if let Err(message) = build(workspace, &out) {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn build(workspace: &Path, out: &Path) -> Result<(), String> {
    let toolchain = toolchain::select(workspace, None).map_err(|why| format!("no way to build the image: {why}"))?;
    let built_with = toolchain.to_string();
    let image = ringlet_image::build_with(workspace, &target(out), toolchain, Output::Capture)
        .map_err(|error| error.to_string())?;
    // A copy: the nested build's own file may be replaced while this crate is compiled.
    std::fs::copy(&image.path, out.join("unikernel"))
        .map_err(|error| format!("cannot copy {}: {error}", image.path.display()))?;
    let elf::Report { build_id, .. } = image.report;
    println!("cargo::rustc-env=RINGLET_IMAGE_BUILT_WITH={built_with}");
    println!("cargo::rustc-env=RINGLET_IMAGE_BUILD_ID={build_id}");
    Ok(())
}

/// The outer build's target directory: OUT_DIR is `TARGET/[TRIPLE/]PROFILE/build/PACKAGE-HASH/out`. All profiles share the
/// image that is built below it.
fn target(out: &Path) -> PathBuf {
    let profile = out.ancestors().nth(3);
    // Cargo marks the directory; a build for a named target has one level more.
    let marked =
        profile.into_iter().flat_map(Path::ancestors).find(|directory| directory.join("CACHEDIR.TAG").is_file());
    // Where nothing is marked, inside OUT_DIR: slower, never wrong.
    marked.unwrap_or(out).to_owned()
}
