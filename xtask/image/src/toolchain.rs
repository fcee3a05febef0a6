//! Which toolchain builds the image, and how.
//!
//! The image wants a `core` compiled for its own target (`x86_64-unikernel.json`). That takes the sources of the standard
//! library, which rustup installs on most machines because `rust-toolchain.toml` asks for them, but which are not
//! everywhere. The second choice, Debian's Rust packages, brings them along; the third links the `core` that every
//! toolchain has for `x86_64-unknown-linux-gnu`. That is sound here because all Rust code of the unikernel runs in ring 3:
//! SSE and a red zone are as harmless there as in any Linux process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target whose prebuilt `core` the image can be linked with.
pub const PREBUILT_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The oldest compiler that builds the workspace (`rust-version` in Cargo.toml).
const MINIMUM: (u32, u32) = (1, 91);

/// How the image gets its `core`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Compiled for `x86_64-unikernel.json` by the active toolchain, which has the sources (component `rust-src`).
    BuildStd,
    /// The same, by Debian's packages `rustc-web`, `cargo-web` and `rust-web-src`.
    Debian,
    /// The active toolchain's own `core` for [`PREBUILT_TARGET`].
    Prebuilt,
}

impl Way {
    /// Every way, in the order of preference.
    pub const ALL: [Self; 3] = [Self::BuildStd, Self::Debian, Self::Prebuilt];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::BuildStd => "build-std",
            Self::Debian => "debian",
            Self::Prebuilt => "prebuilt",
        }
    }

    /// The way with that [`name`](Self::name).
    ///
    /// # Errors
    /// A sentence that lists the names there are.
    pub fn from_name(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|way| way.name() == name).ok_or_else(|| {
            format!("'{name}' is not a way to build the image: it is one of {}", Self::ALL.map(Self::name).join(", "))
        })
    }

    /// The way that [`crate::FORCE_VARIABLE`] asks for, if it is set and not empty.
    ///
    /// # Errors
    /// As [`from_name`](Self::from_name), naming the variable.
    pub fn from_environment() -> Result<Option<Self>, String> {
        match std::env::var(crate::FORCE_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                Self::from_name(&name).map(Some).map_err(|why| format!("{}: {why}", crate::FORCE_VARIABLE))
            }
            _ => Ok(None),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuildStd => "own core (build-std)",
            Self::Debian => "own core (build-std, Debian's Rust)",
            Self::Prebuilt => "prebuilt core",
        })
    }
}

/// The linker that is called directly; no C compiler has a say in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linker {
    /// `rust-lld`, which comes with rustup's toolchains.
    RustLld,
    /// `ld` of the system, GNU's as a rule.
    Ld,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RustLld => "rust-lld",
            Self::Ld => "ld",
        })
    }
}

/// A way, with the programs to go it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// How `core` is had.
    pub way: Way,
    /// The cargo to run.
    pub cargo: PathBuf,
    /// The compiler it is to use.
    pub rustc: PathBuf,
    /// The compiler's version, like `1.95.0`.
    pub release: String,
    /// What links the image.
    pub linker: Linker,
    /// Whether this cargo wants `-Z json-target-spec` before it takes a target file.
    pub json_flag: bool,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, rustc {}, linked by {}", self.way, self.release, self.linker)
    }
}

/// What was found out about one pair of cargo and rustc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The cargo.
    pub cargo: PathBuf,
    /// The compiler.
    pub rustc: PathBuf,
    /// Its version, like `1.95.0`.
    pub release: String,
    /// Whether the sources of the standard library are where this compiler looks for them.
    pub sources: bool,
    /// Whether this compiler takes `x86_64-unikernel.json` (the format of such files is not stable).
    pub takes_target: bool,
    /// Whether `core` for [`PREBUILT_TARGET`] is installed.
    pub prebuilt: bool,
    /// The linker to use.
    pub linker: Linker,
    /// Whether this cargo knows `-Z json-target-spec`.
    pub json_flag: bool,
}

impl Found {
    /// Asks `rustc` and `cargo` and looks into the sysroot. `None` if they cannot be run.
    fn probe(workspace: &Path, cargo: PathBuf, rustc: PathBuf) -> Option<Self> {
        let foreign = rustc.starts_with("/usr/bin");
        let run = |program: &Path, arguments: &[&str]| run(program, workspace, arguments, foreign);
        let version = run(&rustc, &["-vV"])?;
        let release = version.lines().find_map(|line| line.strip_prefix("release: "))?.to_owned();
        let sysroot = PathBuf::from(run(&rustc, &["--print", "sysroot"])?.trim());
        let library = sysroot.join("lib/rustlib");
        let prebuilt = library.join(PREBUILT_TARGET).join("lib");
        let target = workspace.join("x86_64-unikernel.json");
        let target = target.to_str()?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        Some(Self {
            sources: library.join("src/rust/library/core/src/lib.rs").is_file(),
            takes_target: run(&rustc, &["-Zunstable-options", "--print=cfg", "--target", target]).is_some(),
            prebuilt: contains(&prebuilt, "libcore-"),
            linker: if library.join(host).join("bin/rust-lld").is_file() { Linker::RustLld } else { Linker::Ld },
            json_flag: run(&cargo, &["-Z", "help"]).is_some_and(|help| help.contains("json-target-spec")),
            cargo,
            rustc,
            release,
        })
    }

    fn into_toolchain(self, way: Way) -> Toolchain {
        let Self { cargo, rustc, release, linker, json_flag, .. } = self;
        Toolchain { way, cargo, rustc, release, linker, json_flag }
    }
}

/// Looks at what is installed and picks. `forced` is the caller's wish; without one, [`crate::FORCE_VARIABLE`] counts.
///
/// # Errors
/// A sentence saying what is missing and how to get it.
pub fn select(workspace: &Path, forced: Option<Way>) -> Result<Toolchain, String> {
    let forced = match forced {
        Some(way) => Some(way),
        None => Way::from_environment()?,
    };
    let variable =
        |name: &str| std::env::var_os(name).map_or_else(|| PathBuf::from(name.to_lowercase()), PathBuf::from);
    let active = Found::probe(workspace, variable("CARGO"), variable("RUSTC"));
    let debian = || Found::probe(workspace, "/usr/bin/cargo".into(), "/usr/bin/rustc".into());
    choose(active, debian, forced)
}

/// The choice itself, from what was found: the active toolchain, and Debian's (asked for only if it matters).
///
/// # Errors
/// A sentence saying what is missing and how to get it.
pub fn choose(
    active: Option<Found>,
    debian: impl FnOnce() -> Option<Found>,
    forced: Option<Way>,
) -> Result<Toolchain, String> {
    let own = |found: &Found| {
        if !recent(&found.release) {
            Err(format!("rustc {} is older than {}.{}", found.release, MINIMUM.0, MINIMUM.1))
        } else if !found.sources {
            Err("its rust-src is not installed (`rustup component add rust-src`)".to_owned())
        } else if !found.takes_target {
            Err(format!("rustc {} does not accept x86_64-unikernel.json", found.release))
        } else {
            Ok(())
        }
    };
    let wanted = |way: Way| forced.is_none() || forced == Some(way);
    let mut reasons = Vec::new();
    if wanted(Way::BuildStd) {
        match active.clone().map(|found| own(&found).map(|()| found)) {
            Some(Ok(found)) => return Ok(found.into_toolchain(Way::BuildStd)),
            Some(Err(why)) => reasons.push(format!("build-std with the active toolchain: {why}")),
            None => reasons.push("build-std: rustc or cargo cannot be run".to_owned()),
        }
    }
    if wanted(Way::Debian) {
        match debian().map(|found| own(&found).map(|()| found)) {
            Some(Ok(found)) => return Ok(found.into_toolchain(Way::Debian)),
            Some(Err(why)) => {
                reasons.push(format!("Debian's Rust: {why} (packages rustc-web, cargo-web, rust-web-src)"))
            }
            None => reasons
                .push("Debian's Rust is not installed (`apt-get install rustc-web cargo-web rust-web-src`)".to_owned()),
        }
    }
    if wanted(Way::Prebuilt) {
        match active {
            Some(found) if found.prebuilt => return Ok(found.into_toolchain(Way::Prebuilt)),
            Some(_) => {
                reasons.push(format!("prebuilt core: it is not installed (`rustup target add {PREBUILT_TARGET}`)"))
            }
            None => reasons.push("prebuilt core: rustc or cargo cannot be run".to_owned()),
        }
    }
    Err(reasons.join("; "))
}

/// Whether a version like `1.95.0` or `1.97.0-nightly` is new enough.
fn recent(release: &str) -> bool {
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= MINIMUM
}

/// What the program wrote, if it ran and succeeded.
fn run(program: &Path, directory: &Path, arguments: &[&str], foreign: bool) -> Option<String> {
    let mut command = Command::new(program);
    crate::nested::clean(&mut command, foreign);
    // Only questions are asked here, some of them about things that are not stable.
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(directory).args(arguments);
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the directory has a file whose name begins so.
fn contains(directory: &Path, prefix: &str) -> bool {
    std::fs::read_dir(directory).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str) -> Found {
        Found {
            cargo: format!("/{name}/cargo").into(),
            rustc: format!("/{name}/rustc").into(),
            release: "1.95.0".into(),
            sources: true,
            takes_target: true,
            prebuilt: true,
            linker: Linker::RustLld,
            json_flag: true,
        }
    }

    #[test]
    fn sources_of_the_active_toolchain_come_first() {
        let never = || panic!("Debian's Rust was looked for though it cannot matter");
        let chosen = choose(Some(found("active")), never, None).unwrap();
        assert_eq!((chosen.way, chosen.cargo), (Way::BuildStd, "/active/cargo".into()));
    }

    #[test]
    fn debian_comes_second() {
        let active = Found { sources: false, ..found("active") };
        let chosen = choose(Some(active), || Some(found("debian")), None).unwrap();
        assert_eq!((chosen.way, chosen.rustc), (Way::Debian, "/debian/rustc".into()));
    }

    #[test]
    fn prebuilt_core_comes_last_and_uses_the_active_toolchain() {
        let active = || Found { sources: false, ..found("active") };
        let incomplete = Found { sources: false, ..found("debian") };
        let ancient = Found { release: "1.85.0".into(), ..found("debian") };
        for debian in [None, Some(incomplete), Some(ancient)] {
            let chosen = choose(Some(active()), || debian, None).unwrap();
            assert_eq!((chosen.way, chosen.cargo), (Way::Prebuilt, "/active/cargo".into()));
        }
    }

    #[test]
    fn a_compiler_that_refuses_the_target_file_is_passed_over() {
        let active = Found { takes_target: false, ..found("active") };
        assert_eq!(choose(Some(active), || None, None).unwrap().way, Way::Prebuilt);
    }

    #[test]
    fn a_forced_way_is_taken_or_refused_but_never_replaced() {
        let chosen = choose(Some(found("active")), || Some(found("debian")), Some(Way::Prebuilt)).unwrap();
        assert_eq!(chosen.way, Way::Prebuilt);
        let without = Found { sources: false, ..found("active") };
        let error = choose(Some(without), || Some(found("debian")), Some(Way::BuildStd)).unwrap_err();
        assert!(error.contains("rustup component add rust-src"), "{error}");
        let error = choose(Some(found("active")), || None, Some(Way::Debian)).unwrap_err();
        assert!(error.contains("rust-web-src"), "{error}");
    }

    #[test]
    fn with_nothing_there_every_reason_is_given() {
        let active = Found { sources: false, prebuilt: false, ..found("active") };
        let error = choose(Some(active), || None, None).unwrap_err();
        for part in ["rustup component add rust-src", "apt-get install", "rustup target add"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, new_enough) in [
            ("1.91.0", true),
            ("1.100.0", true),
            ("1.97.0-nightly", true),
            ("2.0.0", true),
            ("1.90.9", false),
            ("1.9.0", false),
            ("", false),
        ] {
            assert_eq!(recent(release), new_enough, "{release}");
        }
    }

    #[test]
    fn ways_have_names_that_lead_back_to_them() {
        for way in Way::ALL {
            assert_eq!(Way::from_name(way.name()), Ok(way));
        }
        assert!(Way::from_name("fast").unwrap_err().contains("build-std, debian, prebuilt"));
    }

    #[test]
    fn the_toolchain_that_runs_this_test_is_found() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let chosen = select(&workspace, Some(Way::Prebuilt));
        if cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
            assert_eq!(chosen.unwrap().way, Way::Prebuilt);
        }
    }
}
