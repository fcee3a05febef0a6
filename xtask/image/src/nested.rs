//! The cargo inside the cargo.
//!
//! A build script, or a program started by `cargo run`, inherits dozens of variables that speak about the outer build:
//! compiler flags, wrappers such as clippy's or a cache's, profiles, the target directory. None of them may reach the image,
//! which would otherwise differ between `cargo build`, `cargo clippy` and `cargo install`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;
use crate::toolchain::{Linker, PREBUILT_TARGET, Toolchain, Way};

/// Where the nested cargo's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To this process's own standard error, as they come.
    Inherit,
    /// Into [`Error::Build`], if it fails.
    Capture,
}

/// What the nested cargo is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Build the image.
    Build,
    /// Build it with line tables, from which a profile gets the names of functions that were inlined.
    BuildWithLines,
    /// Check it with clippy, every warning an error.
    Clippy,
}

/// Runs it. Returns the path of the image, which [`Action::Clippy`] does not make.
pub(crate) fn run(
    workspace: &Path,
    target: &Path,
    toolchain: &Toolchain,
    action: Action,
    output: Output,
) -> Result<PathBuf, Error> {
    let (mut command, image) = command(workspace, target, toolchain, action);
    let line = line(&command);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = |error| Error::Start(toolchain.cargo.clone(), error);
    let (success, stderr) = match output {
        Output::Inherit => (command.status().map_err(start)?.success(), String::new()),
        Output::Capture => {
            let output = command.stderr(Stdio::piped()).output().map_err(start)?;
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    if success { Ok(image) } else { Err(Error::Build(line, stderr)) }
}

/// The command for `action`, and where the image will lie.
fn command(workspace: &Path, target: &Path, toolchain: &Toolchain, action: Action) -> (Command, PathBuf) {
    let mut command = Command::new(&toolchain.cargo);
    clean(&mut command, toolchain.way == Way::Debian);
    // In the workspace, so that its .cargo/config.toml counts (it sizes smoltcp), wherever the outer cargo was started.
    command.current_dir(workspace);
    command.env("RUSTC", &toolchain.rustc);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain, registry().as_deref()).join("\x1f"));
    command.arg(match action {
        Action::Build | Action::BuildWithLines => "build",
        Action::Clippy => "clippy",
    });
    command.args(["--package", "ringlet-kernel", "--bin", "ringlet-kernel", "--features", "image"]);
    let name = toolchain.way.name();
    // Apart, or each of the two would undo the other's work.
    let directory = if action == Action::BuildWithLines { format!("{name}-lines") } else { name.to_owned() };
    let directory = target.join("unikernel").join(directory);
    command.arg("--target-dir").arg(&directory);
    let triple = match toolchain.way {
        Way::Prebuilt => {
            command.args(["--target", PREBUILT_TARGET]);
            PREBUILT_TARGET
        }
        Way::BuildStd | Way::Debian => {
            // The unstable options are cargo's and reach only this build; the code itself needs nothing unstable.
            command.env("RUSTC_BOOTSTRAP", "1");
            command.arg("--target").arg(workspace.join("x86_64-unikernel.json"));
            command.args(["-Z", "build-std=core,alloc", "-Z", "build-std-features=compiler-builtins-mem"]);
            if toolchain.json_flag {
                command.args(["-Z", "json-target-spec"]);
            }
            "x86_64-unikernel"
        }
    };
    match action {
        Action::Build => command.args(["--profile", "image"]),
        Action::BuildWithLines => {
            command.args(["--profile", "image", "--config", "profile.image.debug='line-tables-only'"])
        }
        Action::Clippy => command.args(["--quiet", "--", "--deny", "warnings"]),
    };
    (command, directory.join(triple).join("image/ringlet-kernel"))
}

/// The compiler flags of the image. How it is laid out is said by `kernel/build.rs`, beside the linker script.
fn flags(toolchain: &Toolchain, registry: Option<&Path>) -> Vec<String> {
    let mut flags: Vec<String> = [
        // Every backtrace walks the frame pointers: there is no unwinder in the image.
        "-Cforce-frame-pointers=yes",
        // It lies where the linker script says, below 2 GiB, and nobody relocates it.
        "-Crelocation-model=static",
        "-Ccode-model=small",
        "-Crelro-level=off",
        // The same image for every CPU and every VMM.
        "-Ctarget-cpu=x86-64",
    ]
    .map(str::to_owned)
    .into();
    flags.extend(
        match toolchain.linker {
            Linker::RustLld => ["-Clinker=rust-lld", "-Clinker-flavor=ld.lld"],
            Linker::Ld => ["-Clinker=ld", "-Clinker-flavor=ld"],
        }
        .map(str::to_owned),
    );
    if toolchain.way == Way::Prebuilt {
        // The host target's core expects a C library to bring `memcpy` and its like, and an unwinder: the kernel does.
        flags.extend(["--cfg", "ringlet_mem"].map(str::to_owned));
    }
    if let Some(registry) = registry.and_then(Path::to_str) {
        // Panic messages name files; the image should not depend on whose home directory they lay in.
        flags.push(format!("--remap-path-prefix={registry}=crates"));
    }
    flags
}

/// Where cargo unpacks the crates that it downloads.
fn registry() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    Some(home.join("registry/src"))
}

/// Takes out of the command's environment all that the outer cargo, or a setting meant for it, put there. A `foreign`
/// toolchain must not load the outer one's libraries either, which cargo has put into `LD_LIBRARY_PATH`.
pub(crate) fn clean(command: &mut Command, foreign: bool) {
    if foreign {
        command.env_remove("LD_LIBRARY_PATH");
    }
    for (name, _) in std::env::vars_os() {
        if !stays(&name) {
            command.env_remove(name);
        }
    }
}

/// Whether a variable of the environment may reach the nested build.
fn stays(name: &OsStr) -> bool {
    // Not text: not cargo's.
    let Some(name) = name.to_str() else { return true };
    // How cargo reaches the network and the terminal, where it keeps its files, and how many jobs may run at once.
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_", "CARGO_MAKEFLAGS"];
    const OUTER: [&str; 6] = ["CARGO_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY_", "DEP_"];
    const OUTER_EXACT: [&str; 8] = ["CARGO", "OUT_DIR", "TARGET", "HOST", "PROFILE", "DEBUG", "OPT_LEVEL", "NUM_JOBS"];
    KEPT.iter().any(|kept| name.starts_with(kept))
        || !(OUTER.iter().any(|outer| name.starts_with(outer)) || OUTER_EXACT.contains(&name))
}

/// The command as a line for a human, without its environment.
fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toolchain(way: Way) -> Toolchain {
        let (cargo, rustc) = ("/t/cargo".into(), "/t/rustc".into());
        Toolchain { way, cargo, rustc, release: "1.95.0".into(), linker: Linker::RustLld, json_flag: true }
    }

    fn variable(command: &Command, name: &str) -> Option<String> {
        let (_, value) = command.get_envs().find(|(key, _)| *key == name)?;
        value.map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn the_outer_build_does_not_reach_the_image() {
        for outer in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_LINKER",
            "RUSTDOCFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_INCREMENTAL",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_CFG_TARGET_OS",
            "CARGO_FEATURE_STD",
            "CARGO_PKG_NAME",
            "CLIPPY_ARGS",
            "DEP_Z_ROOT",
            "OUT_DIR",
            "TARGET",
            "HOST",
            "PROFILE",
            "DEBUG",
            "OPT_LEVEL",
        ] {
            assert!(!stays(OsStr::new(outer)), "{outer}");
        }
    }

    #[test]
    fn the_way_to_the_network_and_the_toolchain_stays() {
        for kept in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "CARGO_REGISTRIES_MINE_TOKEN",
            "CARGO_TERM_COLOR",
            "CARGO_MAKEFLAGS",
            "https_proxy",
            "TARGETS",
        ] {
            assert!(stays(OsStr::new(kept)), "{kept}");
        }
    }

    #[test]
    fn each_way_has_its_own_directory_and_target() {
        let of = |way| command(Path::new("/w"), Path::new("/t"), &toolchain(way), Action::Build);
        let (prebuilt, image) = of(Way::Prebuilt);
        assert_eq!(image, Path::new("/t/unikernel/prebuilt/x86_64-unknown-linux-gnu/image/ringlet-kernel"));
        assert!(!line(&prebuilt).contains("-Z"), "the prebuilt way uses nothing unstable");
        assert_eq!(variable(&prebuilt, "RUSTC_BOOTSTRAP"), None);
        let (own, image) = of(Way::BuildStd);
        assert_eq!(image, Path::new("/t/unikernel/build-std/x86_64-unikernel/image/ringlet-kernel"));
        assert!(line(&own).contains("--target /w/x86_64-unikernel.json -Z build-std=core,alloc"), "{}", line(&own));
        assert_eq!(variable(&own, "RUSTC_BOOTSTRAP").as_deref(), Some("1"));
        assert_eq!(variable(&own, "RUSTC").as_deref(), Some("/t/rustc"));
    }

    #[test]
    fn the_flag_for_target_files_is_given_only_to_a_cargo_that_knows_it() {
        for json_flag in [true, false] {
            let toolchain = Toolchain { json_flag, ..toolchain(Way::Debian) };
            let (command, _) = command(Path::new("/w"), Path::new("/t"), &toolchain, Action::Build);
            assert_eq!(line(&command).contains("json-target-spec"), json_flag);
        }
    }

    #[test]
    fn the_image_keeps_frame_pointers_and_knows_no_home_directory() {
        let flags = flags(&toolchain(Way::Prebuilt), Some(Path::new("/home/x/.cargo/registry/src")));
        assert!(flags.contains(&"-Cforce-frame-pointers=yes".to_owned()));
        assert!(flags.contains(&"--remap-path-prefix=/home/x/.cargo/registry/src=crates".to_owned()));
    }
}
