//! A limit to how long the other side of a connection may keep us waiting.
//!
//! What waits for an answer is a blocking read inside of the crate `vhost`, which takes a read's timeout for a reason to read
//! again. So the limit is kept by a thread: when it is over the connection is shut down, and the read ends.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
struct State {
    /// When what is under way must be over; `None` while nothing is.
    until: Option<Instant>,
    /// It was not, and the connection is no more.
    expired: bool,
    /// The connection is not used any more.
    over: bool,
}

#[derive(Debug, Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is under the lock are three words that are right at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn run(&self, socket: &UnixStream) {
        let mut state = self.lock();
        while !state.over {
            let now = Instant::now();
            state = match state.until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) if until > now => {
                    self.changed.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    (state.until, state.expired) = (None, true);
                    // Fails only where there is no connection any more.
                    let _ = socket.shutdown(Shutdown::Both);
                    state
                }
            };
        }
    }
}

/// Keeps the limit of one connection.
#[derive(Debug)]
pub(super) struct Deadline {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

impl Deadline {
    /// For this connection.
    ///
    /// # Errors
    /// If there is no thread or no descriptor to be had.
    pub(super) fn new(socket: &UnixStream) -> io::Result<Self> {
        let (socket, watch) = (socket.try_clone()?, Arc::new(Watch::default()));
        let watched = watch.clone();
        let thread = std::thread::Builder::new().name("vhost-deadline".into()).spawn(move || watched.run(&socket))?;
        Ok(Self { watch, thread: Some(thread) })
    }

    /// From now until what is returned is dropped, no more than `patience` may pass.
    pub(super) fn within(&self, patience: Duration) -> Within {
        // The limit is a matter of seconds: an overflow cannot be.
        self.watch.set(|state| state.until = Some(Instant::now() + patience));
        Within(self.watch.clone())
    }

    /// Whether the limit was exceeded, which ended the connection.
    pub(super) fn expired(&self) -> bool {
        self.watch.lock().expired
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.watch.set(|state| state.over = true);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left for it to do.
            let _ = thread.join();
        }
    }
}

/// Something is under way that is limited in time.
#[derive(Debug)]
#[must_use]
pub(super) struct Within(Arc<Watch>);

impl Drop for Within {
    fn drop(&mut self) {
        self.0.set(|state| state.until = None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_read_that_takes_too_long_ends() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let deadline = Deadline::new(&ours).unwrap();
        let mut byte = [0];
        {
            let _within = deadline.within(Duration::from_secs(60));
            theirs.write_all(b"x").unwrap();
            assert_eq!(ours.read(&mut byte).unwrap(), 1);
        }
        assert!(!deadline.expired());
        let _within = deadline.within(Duration::from_millis(1));
        assert_eq!(ours.read(&mut byte).unwrap(), 0, "it ends without an answer");
        assert!(deadline.expired());
        assert_eq!(theirs.read(&mut byte).unwrap(), 0, "and the other side learns of it");
    }
}
