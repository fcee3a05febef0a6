//! Lays out the image: hands the linker script to the linker, which is called directly (see `ringlet-image`).

fn main() {
    let script = "src/arch/x86_64/linker.ld";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={script}");
    // Set by `ringlet-image` where the image has to bring the memory functions itself.
    println!("cargo::rustc-check-cfg=cfg(ringlet_mem)");
    // Without the feature this is an ordinary library for the host's tests, linked as usual.
    if std::env::var_os("CARGO_FEATURE_IMAGE").is_none() {
        return;
    }
    // A copy beside what is built: cargo keeps the arguments, and goes on to use them in another checkout with the same target
    // directory, where the path of this one may lead nowhere.
    let directory = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let copy = format!("{directory}/linker.ld");
    std::fs::read(script)
        .and_then(|text| std::fs::write(&copy, text))
        .unwrap_or_else(|error| panic!("cannot copy {script} to {copy}: {error}"));
    for argument in [
        &format!("--script={copy}"),
        "-static",
        // Segments begin at 4 KiB pages in the file too; none is padded to the linker's idea of a large page.
        "-zmax-page-size=4096",
        "-znoexecstack",
        "--build-id=sha1",
        "--no-eh-frame-hdr",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // Unless line tables were asked for (`cargo xtask image --lines`), the prebuilt core's go. The symbols stay, for backtraces.
    if std::env::var("DEBUG").is_ok_and(|debug| debug == "false") {
        println!("cargo::rustc-link-arg-bins=--strip-debug");
    }
}
