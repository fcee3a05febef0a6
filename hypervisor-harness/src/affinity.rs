//! Which processors of the host a thread may run on (sched_setaffinity(2)).

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

/// The processors that this thread may use, in order.
///
/// # Errors
/// If the kernel does not say, as on a host with more than 1024 of them.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: a set of processors is an array of integers: all zeroes is a value of it.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most as many bytes as said, all of them the set's.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: each number is below the set's size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// A set with one processor.
fn only(cpu: usize) -> io::Result<libc::cpu_set_t> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: as in `allowed`.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below the set's size, as was just seen.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    Ok(set)
}

/// Keeps a thread on one processor.
///
/// # Errors
/// If this process may not use that processor, or there is none of that number.
pub fn pin<T>(thread: &JoinHandle<T>, cpu: usize) -> io::Result<()> {
    let set = only(cpu)?;
    // SAFETY: the handle keeps the thread joinable, so that its identifier is valid; the set is read within its size.
    match unsafe { libc::pthread_setaffinity_np(thread.as_pthread_t(), size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Keeps the calling thread on one processor, and the threads that it starts from now on.
///
/// # Errors
/// As [`pin`].
pub fn pin_this(cpu: usize) -> io::Result<()> {
    let set = only(cpu)?;
    // SAFETY: the set is read within its size; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_pinned_thread_stays_where_it_is_put() {
        let before = allowed().unwrap();
        let last = *before.last().expect("this thread runs somewhere");
        let (go, wait) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            wait.recv().unwrap();
            allowed().unwrap()
        });
        pin(&other, last).unwrap();
        go.send(()).unwrap();
        assert_eq!(other.join().unwrap(), [last]);
        assert_eq!(allowed().unwrap(), before);
        let own = thread::spawn(move || {
            pin_this(last).unwrap();
            thread::spawn(|| allowed().unwrap()).join().unwrap()
        });
        assert_eq!(own.join().unwrap(), [last]);
        assert!(pin_this(libc::CPU_SETSIZE as usize).is_err());
    }
}
