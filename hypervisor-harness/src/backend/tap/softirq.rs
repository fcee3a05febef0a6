//! Who takes the guest's frames on into the host's network: the thread that writes them, or one of the kernel's own.
//!
//! A frame that is written to a TAP interface runs through the host's bridge, routing and TCP, up to the socket that waits for it,
//! before the system call returns: many times what the interface itself costs, and all of it on the device's thread. With NAPI
//! (IFF_NAPI) and `/sys/class/net/NAME/threaded` a thread of the kernel does that, by batches, on whichever processor is free.
//! That pays where there are many bytes: copying them and taking them on are then two processors' work. For a thread that has to
//! be woken for each few small frames it does not. So it is switched on and off by what the guest sends.
//!
//! What waits for that thread is the host's memory, and must not be the guest's to fill: the interface takes no more than
//! [`BOUND`], whoever has switched it on, and the device keeps what does not fit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::ioctl;

/// How often the load is looked at.
const PERIOD: Duration = Duration::from_millis(50);
/// The bytes a second above which the kernel's thread is worth its price, and below which it is not any more.
const MUCH: f64 = 250e6;
const LITTLE: f64 = 125e6;
/// The bytes of memory that what was written may take until it is somewhere (TUNSETSNDBUF): some milliseconds' worth.
pub(super) const BOUND: libc::c_int = 8 << 20;

/// The switch, and the load it follows.
#[derive(Debug)]
pub(super) struct Softirq<S = File> {
    /// `threaded`; nothing if it may not be written, or is not there.
    switch: Option<S>,
    on: bool,
    /// When the load was looked at last, and the bytes that had been sent by then.
    since: Option<Instant>,
    before: u64,
}

impl Softirq {
    /// For the interface `name` of this thread's network namespace. If `/sys` shows another namespace, or this process may not
    /// write there, or somebody has switched it on for good, everything stays as it is.
    pub(super) fn new(name: &str) -> Self {
        Self::with(open(Path::new("/sys/class/net"), name).ok())
    }
}

impl<S: Seek + Write> Softirq<S> {
    fn with(switch: Option<S>) -> Self {
        Self { switch, on: false, since: None, before: 0 }
    }

    /// Looks at the load if it is time: so many bytes have been sent so far.
    #[inline]
    pub(super) fn turn(&mut self, now: Instant, sent: u64) {
        let early = self.since.is_some_and(|since| now.saturating_duration_since(since) < PERIOD);
        if !early && self.switch.is_some() {
            self.look(now, sent);
        }
    }

    #[cold]
    fn look(&mut self, now: Instant, sent: u64) {
        let before = std::mem::replace(&mut self.before, sent);
        let Some(since) = self.since.replace(now) else { return };
        // The device's thread may have slept for long meanwhile.
        let rate = sent.saturating_sub(before) as f64 / now.saturating_duration_since(since).as_secs_f64();
        let wanted = rate > if self.on { LITTLE } else { MUCH };
        if wanted != self.on && self.set(wanted).is_err() {
            // Whoever may not once never may.
            self.switch = None;
        }
    }

    /// Switches it off again.
    pub(super) fn end(&mut self) {
        if self.on {
            // Where that fails there is no interface any more.
            let _ = self.set(false);
        }
    }

    /// Has the kernel's thread do it, or the one that writes.
    fn set(&mut self, on: bool) -> io::Result<()> {
        if let Some(switch) = &mut self.switch {
            switch.rewind()?;
            switch.write_all(if on { b"1" } else { b"0" })?;
            self.on = on;
        }
        Ok(())
    }
}

/// The switch of the interface `name`, if what `interfaces` shows is the one that this thread's network namespace has.
fn open(interfaces: &Path, name: &str) -> io::Result<File> {
    let interface = interfaces.join(name);
    let shown = |what| Ok::<_, io::Error>(fs::read_to_string(interface.join(what))?.trim().to_owned());
    let address = ioctl::address(name)?.map(|byte| format!("{byte:02x}")).join(":");
    if shown("ifindex")? != ioctl::index(name)?.to_string() || shown("address")? != address {
        return Err(io::ErrorKind::NotFound.into());
    }
    if shown("threaded")? != "0" {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    OpenOptions::new().write(true).open(interface.join("threaded"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const LONG: Duration = Duration::from_millis(210);

    #[test]
    fn it_follows_the_load() {
        let mut softirq = Softirq::with(Some(Cursor::new(Vec::new())));
        let (mut now, mut sent) = (Instant::now(), 0);
        // Turns every millisecond, with so many bytes sent a second. What the switch says then.
        let mut run = |time: Duration, bytes: u64| {
            for _ in 0..time.as_millis() {
                now += Duration::from_millis(1);
                sent += bytes / 1000;
                softirq.turn(now, sent);
            }
            softirq.switch.as_ref().unwrap().get_ref().clone()
        };
        assert_eq!(run(LONG, 200_000_000), b"");
        for _ in 0..2 {
            assert_eq!(run(LONG, 300_000_000), b"1");
            assert_eq!(run(LONG, 200_000_000), b"1", "a little less is still enough");
            assert_eq!(run(LONG, 100_000_000), b"0");
        }
        assert_eq!(run(LONG, 300_000_000), b"1");
        assert_eq!(run(LONG, 0), b"0");
    }

    #[test]
    fn who_may_not_does_not_try_again() {
        /// A file that cannot be written, and how often that was tried.
        struct Forbidden<'a>(&'a std::cell::Cell<u32>);
        impl Seek for Forbidden<'_> {
            fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
                Ok(0)
            }
        }
        impl Write for Forbidden<'_> {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0.set(self.0.get() + 1);
                Err(io::ErrorKind::PermissionDenied.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (tried, now) = (std::cell::Cell::new(0), Instant::now());
        let mut softirq = Softirq::with(Some(Forbidden(&tried)));
        (0..10).for_each(|turn| softirq.turn(now + PERIOD * turn, u64::from(turn) << 30));
        assert_eq!(tried.get(), 1);
    }

    #[test]
    fn only_the_interface_itself_is_switched() {
        let shown = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let lo = shown.as_path().join("lo");
        fs::create_dir(&lo).unwrap();
        let index = ioctl::index("lo").unwrap();
        for (number, address, threaded, ours) in [
            (index, "00:00:00:00:00:00", "0", true),
            (index, "00:00:00:00:00:00", "1", false),
            (index + 1, "00:00:00:00:00:00", "0", false),
            (index, "02:00:00:00:00:01", "0", false),
        ] {
            fs::write(lo.join("ifindex"), format!("{number}\n")).unwrap();
            fs::write(lo.join("address"), format!("{address}\n")).unwrap();
            fs::write(lo.join("threaded"), format!("{threaded}\n")).unwrap();
            assert_eq!(open(shown.as_path(), "lo").is_ok(), ours, "{number} {address} {threaded}");
        }
        assert!(open(shown.as_path(), "nobody").is_err());
    }
}
