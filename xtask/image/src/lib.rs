//! Builds the Ringlet unikernel: one ELF64 image, made by a cargo of its own from the crates of this workspace.
//!
//! Who calls it: the build script of the harness (which embeds the image in `ringlet`) and `cargo xtask`. Neither needs
//! more than the stock toolchain: [`toolchain`] looks at what is there and picks one of three [`Way`]s, [`nested`] runs
//! that cargo in an environment that the outer one has not coloured, and [`elf`] refuses an image that some VMM would not
//! boot or that has memory both writable and executable.
//!
//! It has no dependencies, since everything else waits for it.

pub mod elf;
pub mod nested;
pub mod page_tables;
pub mod toolchain;

use std::fmt;
use std::path::{Path, PathBuf};

pub use nested::Output;
pub use toolchain::Way;

/// Largest image that is accepted, in bytes, symbols included.
pub const MAX_IMAGE_SIZE: usize = 2 << 20;

/// The same of an image with line tables.
const MAX_IMAGE_SIZE_WITH_LINES: usize = 16 << 20;

/// The environment variable that forces a [`Way`]: `build-std`, `debian` or `prebuilt`.
pub const FORCE_VARIABLE: &str = "RINGLET_IMAGE_BUILD";

/// What the image is made of, relative to the workspace: whoever caches an image must build it again when one of these
/// changes. Directories count with all they contain.
pub const SOURCES: [&str; 13] = [
    "kernel/src",
    "kernel/Cargo.toml",
    "kernel/build.rs",
    "driver/src",
    "driver/Cargo.toml",
    "balancer/src",
    "balancer/Cargo.toml",
    "xtask/image/src",
    ".cargo/config.toml",
    "Cargo.toml",
    "Cargo.lock",
    "x86_64-unikernel.json",
    "rust-toolchain.toml",
];

/// An image that was built and has passed every check of [`elf::check`].
#[derive(Debug, Clone)]
pub struct Image {
    /// Where it lies.
    pub path: PathBuf,
    /// What it was built with.
    pub toolchain: toolchain::Toolchain,
    /// What the checks read from it.
    pub report: elf::Report,
}

/// Why there is no image.
#[derive(Debug)]
pub enum Error {
    /// No toolchain here can build it, or not in the way that was asked for.
    Toolchain(String),
    /// The cargo that builds it could not be started.
    Start(PathBuf, std::io::Error),
    /// The build failed. Holds the command and, where [`Output::Capture`] was asked for, all it wrote to standard error.
    Build(String, String),
    /// The file could not be read after the build.
    Read(PathBuf, std::io::Error),
    /// The image was built but breaks its own rules: one line for each rule.
    Check(PathBuf, Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain(why) => write!(f, "no way to build the unikernel image: {why}"),
            Self::Start(program, error) => write!(f, "cannot start {}: {error}", program.display()),
            Self::Build(command, stderr) => {
                write!(f, "the unikernel image failed to build.\nThe command was: {command}")?;
                if stderr.is_empty() { Ok(()) } else { write!(f, "\nIt said:\n{}", stderr.trim_end()) }
            }
            Self::Read(path, error) => write!(f, "the image {} cannot be read: {error}", path.display()),
            Self::Check(path, broken) => {
                write!(f, "the image {} was built but is not usable:", path.display())?;
                broken.iter().try_for_each(|rule| write!(f, "\n  - {rule}"))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Builds the image of the workspace at `workspace` and checks it. `target` is the outer target directory: the nested
/// build keeps its own below it, so that neither waits for the other's lock and all callers share one cache.
///
/// # Errors
/// See [`Error`].
pub fn build(workspace: &Path, target: &Path, forced: Option<Way>, output: Output) -> Result<Image, Error> {
    let toolchain = toolchain::select(workspace, forced).map_err(Error::Toolchain)?;
    build_with(workspace, target, toolchain, output)
}

/// [`build`] with a toolchain already chosen.
///
/// # Errors
/// See [`Error`].
pub fn build_with(
    workspace: &Path,
    target: &Path,
    toolchain: toolchain::Toolchain,
    output: Output,
) -> Result<Image, Error> {
    finish(nested::run(workspace, target, &toolchain, nested::Action::Build, output)?, toolchain, MAX_IMAGE_SIZE)
}

/// [`build_with`], with line tables in the image: for profiles, in which functions that were inlined have their names then.
/// The code is the same.
///
/// # Errors
/// See [`Error`].
pub fn build_with_lines(
    workspace: &Path,
    target: &Path,
    toolchain: toolchain::Toolchain,
    output: Output,
) -> Result<Image, Error> {
    let path = nested::run(workspace, target, &toolchain, nested::Action::BuildWithLines, output)?;
    finish(path, toolchain, MAX_IMAGE_SIZE_WITH_LINES)
}

/// Checks an image that was built.
fn finish(path: PathBuf, toolchain: toolchain::Toolchain, limit: usize) -> Result<Image, Error> {
    let bytes = std::fs::read(&path).map_err(|error| Error::Read(path.clone(), error))?;
    let report = elf::check(&bytes, limit).map_err(|broken| Error::Check(path.clone(), broken))?;
    page_tables::check(&bytes, &report).map_err(|broken| Error::Check(path.clone(), broken))?;
    Ok(Image { path, toolchain, report })
}

/// Runs clippy over the image's own binary, which no ordinary `cargo clippy` sees, with every warning an error.
///
/// # Errors
/// See [`Error`].
pub fn clippy(workspace: &Path, target: &Path, output: Output) -> Result<(), Error> {
    let toolchain = toolchain::select(workspace, Some(Way::Prebuilt)).map_err(Error::Toolchain)?;
    nested::run(workspace, target, &toolchain, nested::Action::Clippy, output).map(drop)
}
