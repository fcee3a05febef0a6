//! Memory that another process has given us and taken away again.
//!
//! A frontend may make the file behind its guest's memory shorter after we have mapped it: the next access raises SIGBUS. That
//! must not end this process, which may serve others afterwards. Where the address is guest memory the handler puts zeroed
//! memory of our own in the place of all that was mapped together with it, and lets the access happen: the device reads zeroes, as
//! from a guest that is broken, and [`losses`] says what has happened. Any other SIGBUS does what it did before.
//!
//! All of it, and not the page alone: a process has room for some 65000 mappings, and a page in the midst of others takes two.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Where all guest memory is: set once, before anything is there.
static GROUND: OnceLock<Range<usize>> = OnceLock::new();
/// What is guarded now.
static GUARDED: Guarded = Guarded::new();
static LOSSES: AtomicU64 = AtomicU64::new(0);
/// What SIGBUS did before the handler was installed; an error's number if it could not be.
static BEFORE: OnceLock<Result<libc::sigaction, i32>> = OnceLock::new();

const PAGE: usize = 4096;

/// The most bytes that a ground can have: the number of its pages has 32 bits.
pub(super) const MOST: usize = PAGE << 32;

/// Ranges of the ground, which any thread may look for while others come and go, in a signal's handler in particular: without locks,
/// and never half of one range and half of another. Of such lists there is one for ever after another, so that there is
/// always a place; as many as there were ranges at the same time.
struct Guarded {
    /// The first page and the number of pages, in the ground, 32 bits each; 0 where there is none.
    places: [AtomicU64; 64],
    more: AtomicPtr<Guarded>,
}

impl Guarded {
    const fn new() -> Self {
        Self { places: [const { AtomicU64::new(0) }; 64], more: AtomicPtr::new(ptr::null_mut()) }
    }

    fn more(&self) -> Option<&'static Self> {
        // SAFETY: it is null, or was leaked before it was put there.
        unsafe { self.more.load(Ordering::Acquire).as_ref() }
    }

    /// All places that there are so far.
    fn places(&'static self) -> impl Iterator<Item = &'static AtomicU64> {
        std::iter::successors(Some(self), |list| list.more()).flat_map(|list| &list.places)
    }

    /// Puts something where there is nothing. Callers take turns.
    fn add(&'static self, range: u64) {
        loop {
            if let Some(place) = self.places().find(|place| place.load(Ordering::Relaxed) == 0) {
                return place.store(range, Ordering::Release);
            }
            let last = std::iter::successors(Some(self), |list| list.more()).last().unwrap_or(self);
            last.more.store(Box::leak(Box::new(Self::new())), Ordering::Release);
        }
    }

    fn remove(&'static self, range: u64) {
        if let Some(place) = self.places().find(|place| place.load(Ordering::Relaxed) == range) {
            place.store(0, Ordering::Release);
        }
    }
}

/// A range as it is in [`Guarded`].
fn packed(ground: &Range<usize>, range: &Range<usize>) -> u64 {
    let (first, count) = ((range.start - ground.start) / PAGE, range.len() / PAGE);
    (first as u64) << 32 | count as u64
}

fn unpacked(ground: &Range<usize>, range: u64) -> Range<usize> {
    let start = ground.start + (range >> 32) as usize * PAGE;
    start..start + (range & 0xffff_ffff) as usize * PAGE
}

/// Where guest memory is, from the first call on, and nothing else as long as the process lives: `make` says it, less than [`MOST`]
/// bytes at a page's start.
///
/// # Errors
/// If there is none to be had, or the kernel refuses the handler.
pub(super) fn ground(make: impl FnOnce() -> io::Result<Range<usize>>) -> io::Result<&'static Range<usize>> {
    BEFORE.get_or_init(install).map_err(io::Error::from_raw_os_error)?;
    match GROUND.get() {
        Some(ground) => Ok(ground),
        None => {
            let made = make()?;
            Ok(GROUND.get_or_init(|| made))
        }
    }
}

/// From here on a range of whole pages of the ground is replaced as a whole when something of it is lost. Callers take turns.
pub(super) fn guard(range: &Range<usize>) {
    if let Some(ground) = GROUND.get() {
        GUARDED.add(packed(ground, range));
    }
}

/// Ends [`guard`]. Callers take turns.
pub(super) fn release(range: &Range<usize>) {
    if let Some(ground) = GROUND.get() {
        GUARDED.remove(packed(ground, range));
    }
}

/// How often guest memory has vanished in this process' life.
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

/// Puts zeroed memory in the place of a guarded range. Returns whether that was done.
fn replace(range: &Range<usize>) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let at = ptr::without_provenance_mut(range.start);
    // SAFETY: the range is guest memory, or nothing, and no reference to it exists.
    unsafe { libc::mmap(at, range.len(), protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Only loads, stores and system calls: it may interrupt anything.
extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid `siginfo_t`; SIGBUS has an address in it.
    let address = unsafe { (*info).si_addr() }.addr();
    let lost = GROUND.get().filter(|ground| ground.contains(&address)).and_then(|ground| {
        let ranges = GUARDED.places().map(|place| unpacked(ground, place.load(Ordering::Acquire)));
        ranges.into_iter().find(|range| range.contains(&address))
    });
    // SAFETY: `__errno_location` gives this thread's `errno`, which the code that was interrupted may be about to read.
    let (errno, saved) = unsafe { (libc::__errno_location(), *libc::__errno_location()) };
    let replaced = lost.is_some_and(|range| {
        // The kernel may be unwilling to promise so much memory. Then it is the page that is replaced; of huge pages, the whole one.
        replace(&range)
            || [PAGE, 2 << 20, 1 << 30].iter().any(|&size: &usize| {
                let page = address & !(size - 1);
                page >= range.start && range.end - page >= size && replace(&(page..page + size))
            })
    });
    if replaced {
        LOSSES.fetch_add(1, Ordering::Relaxed);
    } else if let Some(Ok(before)) = BEFORE.get() {
        // The instruction is tried again, and then does what it would have done without us.
        // SAFETY: `before` is what the kernel gave us in `install`.
        unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) };
    } else {
        // Before `install` has returned nothing is guarded.
        // SAFETY: SIG_DFL is always a valid disposition.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_place() {
        let list: &'static Guarded = Box::leak(Box::new(Guarded::new()));
        let there = || list.places().map(|place| place.load(Ordering::Relaxed)).filter(|range| *range != 0).count();
        (1..=1000).for_each(|range| list.add(range));
        assert_eq!(there(), 1000);
        (1..=1000).step_by(2).for_each(|range| list.remove(range));
        list.remove(1);
        assert_eq!(there(), 500);
        let places = list.places().count();
        (1..=1000).step_by(2).for_each(|range| list.add(range));
        assert_eq!((there(), list.places().count()), (1000, places), "places are used again");
    }

    #[test]
    fn a_range_is_one_word() {
        let ground = 0x7000_0000_0000..0x7000_0000_0000 + MOST - PAGE;
        for range in [ground.start..ground.start + PAGE, ground.end - PAGE..ground.end, ground.clone()] {
            assert_eq!(unpacked(&ground, packed(&ground, &range)), range);
        }
        assert!(unpacked(&ground, 0).is_empty());
    }
}
