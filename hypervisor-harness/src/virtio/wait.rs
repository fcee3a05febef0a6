//! Sleeping until a descriptor is readable.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// A set of descriptors to sleep on, reused from one sleep to the next.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    polled: Vec<libc::pollfd>,
}

impl Wait {
    /// Sleeps until one of `fds` is readable or in error, `timeout` has passed (`None`: never), or a signal came. Each is as
    /// good a reason to look again.
    ///
    /// # Errors
    /// If the kernel refuses the set: too many descriptors, or no memory.
    pub(crate) fn sleep(&mut self, fds: &[RawFd], timeout: Option<Duration>) -> io::Result<()> {
        self.polled.clear();
        self.polled.extend(fds.iter().map(|&fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }));
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array and its length belong together, and the time is a valid `timespec` or null; all live on.
        let count = unsafe { libc::ppoll(self.polled.as_mut_ptr(), self.polled.len() as _, timeout, std::ptr::null()) };
        if count >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;

    #[test]
    fn wakes_for_a_descriptor_and_for_the_time() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut wait = Wait::default();
        wait.sleep(&[event.as_raw_fd()], Some(Duration::from_millis(1))).unwrap();
        event.write(1).unwrap();
        wait.sleep(&[event.as_raw_fd()], None).unwrap();
        wait.sleep(&[], Some(Duration::ZERO)).unwrap();
    }
}
