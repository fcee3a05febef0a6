//! The unikernel image inside this program, and images from files.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};

use crate::vmm::elf;

/// The image that was built together with this program.
pub const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unikernel"));

/// How the embedded image was built, for people: the way its `core` was had, the compiler and the linker.
pub const BUILT_WITH: &str = env!("RINGLET_IMAGE_BUILT_WITH");

/// The embedded image's build id, in hexadecimal.
pub const BUILD_ID: &str = env!("RINGLET_IMAGE_BUILD_ID");

/// Larger files are not looked at: the images of this project have less than 2 MiB.
const MAX_FILE: u64 = 64 << 20;

/// The image to boot: the file, if one is given, else the embedded one.
///
/// # Errors
/// If the file cannot be read or is no image that can be booted; says which.
pub fn load(file: Option<&Path>) -> anyhow::Result<Cow<'static, [u8]>> {
    let Some(path) = file else { return Ok(Cow::Borrowed(EMBEDDED)) };
    let shown = path.display();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read the image {shown}"))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{shown} is larger than {} MiB: that is no unikernel image", MAX_FILE >> 20);
    }
    elf::Image::parse(&bytes).with_context(|| format!("{shown} cannot be booted"))?;
    Ok(Cow::Owned(bytes))
}

/// What is known of the image that [`load`] gives: how it was built, or the file's name.
#[must_use]
pub fn describe(file: Option<&Path>) -> String {
    file.map_or_else(|| BUILT_WITH.to_owned(), |path| path.display().to_string())
}

/// Writes the embedded image to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path) -> anyhow::Result<()> {
    let image = load(None)?;
    fs::write(path, &image).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "{}: {} bytes, a PVH ELF64; boot it with `qemu-system-x86_64 -kernel`, for example",
        path.display(),
        image.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_image_can_be_booted() {
        assert!(elf::Image::parse(EMBEDDED).is_ok());
        assert!(!BUILD_ID.is_empty() && !BUILT_WITH.is_empty());
    }

    /// What the build has checked is what is embedded: read once more, from the bytes that will run.
    #[test]
    fn the_embedded_image_is_small_and_writes_nothing_that_it_executes() {
        assert!(EMBEDDED.len() <= 2 << 20, "{} bytes", EMBEDDED.len());
        let report = ringlet_image::elf::check(EMBEDDED, ringlet_image::MAX_IMAGE_SIZE).unwrap();
        assert_eq!(report.build_id, BUILD_ID);
        let mappings = ringlet_image::page_tables::check(EMBEDDED, &report).unwrap();
        let at = |address: u64| mappings.iter().find(|mapping| mapping.linear.contains(&address));
        let rights = |address: u64| at(address).map(|m| (m.user, m.writable, m.executable));
        let symbol = |name: &str| report.symbols[name];
        assert_eq!(rights(symbol("pvh_start")), Some((false, false, true)), "ring 0's text");
        assert_eq!(rights(symbol("pml4")), Some((false, true, false)), "the page tables");
        assert_eq!(rights(symbol("ring3_start")), Some((true, false, true)), "text");
        assert_eq!(rights(symbol("__rodata_start")), Some((true, false, false)), "read-only data");
        assert_eq!(rights(symbol("__data_start")), Some((true, true, false)), "data");
        assert_eq!(rights(0), None, "the null page");
        // The guard pages below and above ring 0's stack, and below both stacks of ring 3.
        for guard in [0x13_0000, 0x13_3000, 0x80_0000, 0x88_0000, 0x89_0000, 0x8a_0000] {
            assert_eq!(rights(guard), None, "guard page at {guard:#x}");
        }
    }

    #[test]
    fn a_bad_file_is_named_with_its_fault() {
        let message = |path: &str| format!("{:#}", load(Some(Path::new(path))).unwrap_err());
        assert!(message("/nonexistent/image").contains("cannot read the image /nonexistent/image"));
        assert!(
            message("/etc/hostname").starts_with("/etc/hostname cannot be booted: "),
            "{}",
            message("/etc/hostname")
        );
        assert!(message("/dev/zero").contains("larger than"));
    }
}
