//! Memory that another process has given us and taken away again.
//!
//! A frontend may make the file behind its guest's memory shorter after we have mapped it: the next access raises SIGBUS. That
//! must not end this process, which may serve others afterwards. Where the address is guest memory the handler puts zeroed
//! memory of our own in its place and lets the access happen: the device reads zeroes, as from a guest that is broken, and
//! [`losses`] says what has happened. Any other SIGBUS does what it did before.

use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The most ranges that are guarded. Ranges are used again and again (see `ground`), so that a few serve for ever.
const MOST: usize = 64;

/// Starts and ends of what is guarded; the first [`COUNT`] are valid, and never change.
static RANGES: [(AtomicUsize, AtomicUsize); MOST] = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; MOST];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static LOSSES: AtomicU64 = AtomicU64::new(0);
/// What SIGBUS did before the handler was installed; an error's number if it could not be.
static BEFORE: OnceLock<Result<libc::sigaction, i32>> = OnceLock::new();

/// Guards a range of addresses that is guest memory, or nothing, as long as the process lives. Callers take turns.
///
/// # Errors
/// If there are too many ranges, or the kernel refuses the handler.
pub(super) fn guard(start: usize, size: usize) -> io::Result<()> {
    BEFORE.get_or_init(install).map_err(io::Error::from_raw_os_error)?;
    let count = COUNT.load(Ordering::Relaxed);
    let Some((first, last)) = RANGES.get(count) else {
        return Err(io::Error::other("guest memory has been laid out in too many ways: start this program again"));
    };
    first.store(start, Ordering::Relaxed);
    last.store(start + size, Ordering::Relaxed);
    // Release: the range is there before the handler looks at it.
    COUNT.store(count + 1, Ordering::Release);
    Ok(())
}

/// How many pages of guest memory have vanished in this process' life.
#[must_use]
pub fn losses() -> u64 {
    LOSSES.load(Ordering::Relaxed)
}

fn install() -> Result<libc::sigaction, i32> {
    // SAFETY: `sigaction` is plain data, of which all zeroes is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut before = MaybeUninit::uninit();
    // SAFETY: the handler does only what is allowed in one (see there), and has the signature that SA_SIGINFO asks for.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, before.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL));
    }
    // SAFETY: the call has filled it.
    Ok(unsafe { before.assume_init() })
}

/// Only loads, stores and system calls: it may interrupt anything.
extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid `siginfo_t`; SIGBUS has an address in it.
    let address = unsafe { (*info).si_addr() }.addr();
    let count = COUNT.load(Ordering::Acquire);
    let inside = RANGES[..count].iter().find_map(|(first, last)| {
        let (first, last) = (first.load(Ordering::Relaxed), last.load(Ordering::Relaxed));
        (first..last).contains(&address).then_some((first, last))
    });
    // SAFETY: `__errno_location` gives this thread's `errno`, which the code that was interrupted may be about to read.
    let (errno, saved) = unsafe { (libc::__errno_location(), *libc::__errno_location()) };
    // Huge pages cannot be replaced in part.
    let replaced = inside.is_some_and(|(first, last)| {
        [4 << 10, 2 << 20, 1 << 30].iter().any(|&size: &usize| {
            let page = address & !(size - 1);
            if page < first || last - page < size {
                return false;
            }
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
            let at = std::ptr::without_provenance_mut(page);
            // SAFETY: the page lies in a range that is guest memory or nothing, and to which no reference exists.
            unsafe { libc::mmap(at, size, protection, flags, -1, 0) != libc::MAP_FAILED }
        })
    });
    if replaced {
        LOSSES.fetch_add(1, Ordering::Relaxed);
    } else if let Some(Ok(before)) = BEFORE.get() {
        // The instruction is tried again, and then does what it would have done without us.
        // SAFETY: `before` is what the kernel gave us in `install`.
        unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
    } else {
        // Before `install` has returned nothing is guarded.
        // SAFETY: SIG_DFL is always a valid disposition.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}
