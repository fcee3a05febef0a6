//! Eventfds that another process has too, and may mean harm with.
//!
//! Whether a read or a write of an eventfd waits is said by O_NONBLOCK, which belongs to the open file and not to a descriptor of
//! it: whoever has been given the eventfd, or has given it to us, can clear the flag at any time, after any check. A read of an
//! empty one then waits for ever, and so does a write to one whose counter the other side keeps full. What is here never waits,
//! whatever the flag says:
//!
//! - [`drain`] reads with RWF_NOWAIT, which stands above the flag (Linux 5.8).
//! - [`ring`] does not write: the kernel knows no RWF_NOWAIT for writes to eventfds, and to look for room before a write is a
//!   race that the other side can win. Instead an asynchronous read of no bytes, from a file of our own, is submitted with
//!   IOCB_FLAG_RESFD (io_submit(2)): it has ended when the call returns, and at its end the kernel signals the eventfd as KVM
//!   signals an ioeventfd. The counter grows by one, or stays where it is if it is full, and whoever sleeps on it is woken.
//!
//! [`ready`] says whether this kernel has both. Eventfds of this process' own need none of it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Asynchronous reads that may have ended without our having heard of it.
const MOST: usize = 64;

/// `IOCB_FLAG_RESFD` and the read among the operations, from `linux/aio_abi.h`.
const RESULT_TO_EVENTFD: u32 = 1;
const READ: u16 = 0;

/// What the kernel says of a read that has ended (`struct io_event`): nothing that we need.
type Ended = [u64; 4];

/// Reads of no bytes.
#[derive(Debug)]
struct Reads {
    context: libc::c_ulong,
    file: OwnedFd,
    /// How many have ended since that was last heard.
    ended: usize,
}

/// Those of this process, made when first needed; an error's number if they cannot be.
static READS: OnceLock<Result<Mutex<Reads>, i32>> = OnceLock::new();

/// Takes what was written to an eventfd. Returns whether there was anything. Never waits.
pub(crate) fn drain(event: &EventFd) -> bool {
    match read_now(event) {
        // A kernel on which `ready` has said no: there are only eventfds of our own, which do not block.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => event.read().is_ok(),
        read => read.is_ok(),
    }
}

/// Adds one to an eventfd's counter, unless that is full: it is readable in any case. Never waits. Returns false where that cannot
/// be done: the kernel is out of memory, or [`ready`] has said no.
pub(crate) fn ring(event: &EventFd) -> bool {
    let Ok(reads) = READS.get_or_init(|| Reads::new().map(Mutex::new)) else { return false };
    reads.lock().unwrap_or_else(PoisonError::into_inner).signal(event.as_raw_fd())
}

/// Whether eventfds of other processes can be used here without ever waiting for those.
///
/// # Errors
/// If not, with the reason and the remedy.
pub(crate) fn ready() -> io::Result<()> {
    if let Err(number) = READS.get_or_init(|| Reads::new().map(Mutex::new)) {
        let why = io::Error::from_raw_os_error(*number);
        let text = format!(
            "this kernel gives us no asynchronous reads ({why}), by which other processes are interrupted: raise \
             /proc/sys/fs/aio-max-nr, or allow the system call io_submit"
        );
        return Err(io::Error::new(why.kind(), text));
    }
    let event = EventFd::new(EFD_NONBLOCK)?;
    // Each of the two calls may be forbidden though the other one is not, so both are tried.
    if !ring(&event) {
        let why = io::Error::last_os_error();
        let text = format!("this kernel lets us interrupt no other process ({why}): allow the system call io_submit");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let works = read_now(&event).is_ok_and(|count| count == 1);
    match read_now(&event) {
        Err(error) if works && error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        result => {
            let why = result.err().map_or_else(String::new, |error| format!(" ({error})"));
            let text = format!(
                "this kernel cannot read an eventfd without waiting{why}: Linux 5.8 or newer can, where the system call \
                 preadv2 is allowed"
            );
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
    }
}

/// Takes the counter of an eventfd, without waiting for one.
fn read_now(event: &EventFd) -> io::Result<u64> {
    let mut count = 0_u64;
    let piece = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: size_of::<u64>() };
    // SAFETY: one piece, of eight bytes, that lives longer than the call.
    let read = unsafe { libc::preadv2(event.as_raw_fd(), &raw const piece, 1, -1, libc::RWF_NOWAIT) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(count) }
}

impl Reads {
    fn new() -> Result<Self, i32> {
        let number = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"nothing".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(number());
        }
        // SAFETY: the descriptor is new, and ours.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let mut context: libc::c_ulong = 0;
        // SAFETY: the second argument is where the context's number goes, which is zero before, as io_setup(2) wants it.
        if unsafe { libc::syscall(libc::SYS_io_setup, MOST, &raw mut context) } != 0 {
            return Err(number());
        }
        Ok(Self { context, file, ended: 0 })
    }

    /// Reads no bytes, with a signal to `event` when that has ended, which is at once.
    fn signal(&mut self, event: RawFd) -> bool {
        // SAFETY: an `iocb` is plain data, of which all zeroes is a value.
        let mut read: libc::iocb = unsafe { std::mem::zeroed() };
        read.aio_lio_opcode = READ;
        read.aio_fildes = self.file.as_raw_fd() as u32;
        read.aio_flags = RESULT_TO_EVENTFD;
        read.aio_resfd = event as u32;
        let mut list = [&raw mut read];
        for _ in 0..2 {
            if self.ended >= MOST / 2 {
                self.hear();
            }
            // SAFETY: one `iocb`, which asks for no bytes, in a list of one, for a context that exists; both outlive the call, and
            // the kernel looks at neither afterwards.
            if unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1_usize, list.as_mut_ptr()) } == 1 {
                self.ended += 1;
                return true;
            }
            // There was no room, perhaps.
            self.ended = MOST;
        }
        false
    }

    /// Hears of all that have ended, without waiting for more, so that there is room for others.
    fn hear(&mut self) {
        let mut ended = [Ended::default(); MOST];
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for as many as is said; the time is a valid one; both outlive the call.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0_usize,
                ended.len(),
                ended.as_mut_ptr(),
                &raw const now,
            )
        };
        self.ended = 0;
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        // SAFETY: the context is ours, and nobody uses it any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// What a hostile owner of an eventfd can do to it.
#[cfg(test)]
pub(crate) mod hostile {
    use super::*;

    /// Makes reads and writes of an eventfd wait, for everybody who has it.
    pub(crate) fn make_blocking(event: &EventFd) {
        set_flags(event, |flags| flags & !libc::O_NONBLOCK);
    }

    fn set_flags(event: &EventFd, change: impl FnOnce(i32) -> i32) {
        // SAFETY: neither call takes a pointer.
        let set = unsafe {
            let flags = libc::fcntl(event.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(event.as_raw_fd(), libc::F_SETFL, change(flags))
        };
        assert_eq!(set, 0);
    }

    /// The same, with a counter that is full, whoever writes it or reads it meanwhile.
    pub(crate) fn fill(event: &EventFd) {
        set_flags(event, |flags| flags | libc::O_NONBLOCK);
        while event.write(u64::MAX - 1).is_err() {
            drain(event);
        }
        make_blocking(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_for_a_peer() {
        ready().unwrap();
        for flags in [0, EFD_NONBLOCK] {
            let event = EventFd::new(flags).unwrap();
            assert!(!drain(&event));
            event.write(3).unwrap();
            assert!(drain(&event) && !drain(&event));
            hostile::fill(&event);
            assert!(ring(&event), "the counter is full");
            assert!(drain(&event) && !drain(&event));
        }
    }

    #[test]
    fn every_ring_counts_however_many() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let ringers = 4;
        std::thread::scope(|scope| {
            for _ in 0..ringers {
                scope.spawn(|| (0..10 * MOST).for_each(|_| assert!(ring(&event))));
            }
        });
        assert_eq!(event.read().unwrap(), (ringers * 10 * MOST) as u64);
    }

    #[test]
    fn what_is_no_eventfd_is_not_rung() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut reads = Reads::new().unwrap();
        assert!(!reads.signal(file.as_raw_fd()) && !reads.signal(-1));
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        assert!(reads.signal(event.as_raw_fd()));
    }
}
