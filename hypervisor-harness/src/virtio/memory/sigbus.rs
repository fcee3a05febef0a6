//! Memory that another process has given us and taken away again.
//!
//! A frontend may make the file behind its guest's memory shorter after we have mapped it: the next access raises SIGBUS. That
//! must not end this process, which may serve others afterwards. Where the address is guest memory the handler puts zeroed
//! memory of our own in the place of all that was mapped together with it, and lets the access happen: the device reads zeroes, as
//! from a guest that is broken, and [`losses`] says what has happened. Any other SIGBUS does what it did before.
//!
//! All of it, and not the page alone: a process has room for some 65000 mappings, and a page in the midst of others takes two.
//! And what takes its place is a file in memory of our own, shared and sparse, as large as the ground: memory of the private kind
//! has to be promised by the kernel as a whole where it promises no more than it has (vm.overcommit_memory=2), and a
//! refusal would come after what was there is gone.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Where all guest memory is: set once, before anything is there.
static GROUND: OnceLock<Ground> = OnceLock::new();
/// What is guarded now.
static GUARDED: Guarded = Guarded::new();
static WITHDRAWN: AtomicU64 = AtomicU64::new(0);
static BROKEN: AtomicU64 = AtomicU64::new(0);
/// What SIGBUS did before the handler was installed; an error's number if it could not be.
static BEFORE: OnceLock<Result<libc::sigaction, i32>> = OnceLock::new();

/// How guest memory can be accessed.
pub(super) const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;

const PAGE: usize = 4096;

/// `si_code` of a memory error of the hardware: at an access, or found beforehand.
const MCEERR_AR: i32 = 4;
const MCEERR_AO: i32 = 5;

/// The range of addresses, and what is put there in the place of memory that is lost.
struct Ground {
    range: Range<usize>,
    /// One page more than the range, and nothing in it but in that last page.
    zeroes: File,
}

impl Ground {
    fn new(range: Range<usize>) -> io::Result<Self> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"lost".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, and ours.
        let zeroes = unsafe { File::from_raw_fd(file) };
        zeroes.set_len((range.len() + PAGE) as u64)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a call that takes no pointers.
        if unsafe { libc::fcntl(zeroes.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let ground = Self { range, zeroes };
        // The last page is there from now on.
        if !ground.can_read(ptr::from_ref(&0_u8).addr()) {
            return Err(io::Error::last_os_error());
        }
        Ok(ground)
    }

    /// Puts zeroed memory in the place of a range. Returns whether that was done.
    fn replace(&self, range: &Range<usize>) -> bool {
        let at = ptr::without_provenance_mut(range.start);
        let (file, from) = (self.zeroes.as_raw_fd(), (range.start - self.range.start) as libc::off_t);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: the range is guest memory, or nothing, and no reference to it exists.
        unsafe { libc::mmap(at, range.len(), PROTECTION, flags, file, from) != libc::MAP_FAILED }
    }

    /// Whether the byte at an address can be read: asked without a signal, by having the kernel copy it into the last page.
    fn can_read(&self, address: usize) -> bool {
        let byte = ptr::without_provenance(address);
        // SAFETY: the kernel says EFAULT where there is nothing to be read.
        unsafe { libc::pwrite(self.zeroes.as_raw_fd(), byte, 1, self.range.len() as libc::off_t) == 1 }
    }
}

/// The most bytes of a ground for which this process may have a file (`ulimit -f`): to ask for more would end it.
pub(super) fn longest_file() -> usize {
    // SAFETY: `rlimit` is plain data, of which all zeroes is a value.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` is an `rlimit` to be filled.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } == 0;
    let bytes = if known { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { usize::MAX };
    bytes.saturating_sub(PAGE)
}

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
/// bytes at a page's start. Callers take turns.
///
/// # Errors
/// If there is none to be had, or the kernel refuses the handler.
pub(super) fn ground(make: impl FnOnce() -> io::Result<Range<usize>>) -> io::Result<&'static Range<usize>> {
    BEFORE.get_or_init(install).map_err(io::Error::from_raw_os_error)?;
    match GROUND.get() {
        Some(ground) => Ok(&ground.range),
        None => {
            let made = Ground::new(make()?)?;
            Ok(&GROUND.get_or_init(|| made).range)
        }
    }
}

/// Puts zeroed memory in the place of a range of the ground, and forgets what was written to such memory there before. Returns whether
/// that was done.
pub(super) fn blank(range: &Range<usize>) -> bool {
    let Some(ground) = GROUND.get() else { return false };
    let (from, length) = ((range.start - ground.range.start) as libc::off_t, range.len() as libc::off_t);
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    ground.replace(range)
        // SAFETY: a call that takes no pointers.
        && unsafe { libc::fallocate(ground.zeroes.as_raw_fd(), how, from, length) } == 0
}

/// From here on a range of whole pages of the ground is replaced as a whole when something of it is lost. Callers take turns.
pub(super) fn guard(range: &Range<usize>) {
    if let Some(ground) = GROUND.get() {
        GUARDED.add(packed(&ground.range, range));
    }
}

/// Ends [`guard`]. Callers take turns.
pub(super) fn release(range: &Range<usize>) {
    if let Some(ground) = GROUND.get() {
        GUARDED.remove(packed(&ground.range, range));
    }
}

/// How often guest memory was lost in this process' life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// What was to be in a file was not: it was made shorter, or its file system had no room.
    pub withdrawn: u64,
    /// The machine's memory had an error.
    pub broken: u64,
}

/// How often guest memory was lost in this process' life.
#[must_use]
pub fn losses() -> Losses {
    Losses { withdrawn: WITHDRAWN.load(Ordering::Relaxed), broken: BROKEN.load(Ordering::Relaxed) }
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
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid `siginfo_t`.
    let code = unsafe { (*info).si_code };
    // SAFETY: `__errno_location` gives this thread's `errno`, which the code that was interrupted may be about to read.
    let (errno, saved) = unsafe { (libc::__errno_location(), *libc::__errno_location()) };
    // SAFETY: if it comes from the kernel there is an address in it.
    let replaced = code > 0 && give_way(unsafe { (*info).si_addr() }.addr());
    if replaced {
        let losses = if matches!(code, MCEERR_AR | MCEERR_AO) { &BROKEN } else { &WITHDRAWN };
        losses.fetch_add(1, Ordering::Relaxed);
    } else if code > 0 && code != MCEERR_AO {
        // The instruction is tried again, and then does what it would have done without us.
        match BEFORE.get() {
            // SAFETY: `before` is what the kernel gave us in `install`.
            Some(Ok(before)) => unsafe { libc::sigaction(libc::SIGBUS, before, ptr::null_mut()) },
            // Before `install` has returned nothing is guarded.
            _ => default(),
        };
    } else if !BEFORE.get().is_some_and(|before| before.is_ok_and(|before| before.sa_sigaction == libc::SIG_IGN)) {
        // No instruction is to blame, so none would raise it again: somebody has sent it, who wants this process to end.
        default();
        // SAFETY: a call that takes no pointers. It takes effect when this handler returns.
        unsafe { libc::raise(libc::SIGBUS) };
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// SIGBUS ends this process from now on.
fn default() -> i32 {
    // SAFETY: SIG_DFL is always a valid disposition.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    0
}

/// Replaces the guarded range in which the address is. Returns whether it can be accessed now: there may be no more memory.
fn give_way(address: usize) -> bool {
    let Some(ground) = GROUND.get().filter(|ground| ground.range.contains(&address)) else { return false };
    let mut ranges = GUARDED.places().map(|place| unpacked(&ground.range, place.load(Ordering::Acquire)));
    ranges.find(|range| range.contains(&address)).is_some_and(|range| ground.replace(&range))
        && ground.can_read(address)
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

    #[test]
    fn a_signal_that_somebody_sends_ends_the_process() {
        BEFORE.get_or_init(install).unwrap();
        // SAFETY: the child does nothing but system calls, and ends by one.
        let status = unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                libc::prctl(libc::PR_SET_DUMPABLE, 0);
                libc::raise(libc::SIGBUS);
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status:#x}");
    }
}
