//! Who takes the guest's frames on into the host's network: the thread that writes them, or one of the kernel's own.
//!
//! A frame that is written to a TAP interface runs through the host's bridge, routing and TCP, up to the socket that waits for it,
//! before the system call returns: many times what the interface itself costs, and all of it on the device's thread. With NAPI
//! (IFF_NAPI) and `/sys/class/net/NAME/threaded` a thread of the kernel does that, by batches, on whichever processor is free.
//! That pays where there are many bytes: copying them and taking them on are then two processors' work. For a thread that has to
//! be woken for each few small frames it does not. So it is switched on and off by what the guest sends; but not often, whatever
//! that is: each time the kernel takes a lock that is there once for the whole host, and makes a thread or ends one.
//!
//! A process that is killed leaves on what it has switched on, and who comes next cannot know that it was no user: that is said.
//!
//! What waits for that thread is the host's memory, and must not be the guest's to fill: the interface takes no more than
//! [`BOUND`], whoever has switched it on, and the device keeps what does not fit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::ioctl;

/// Where the kernel shows interfaces, and their switches.
const INTERFACES: &str = "/sys/class/net";
/// How often the load is looked at.
const PERIOD: Duration = Duration::from_millis(50);
/// For how long there must have been little before it is switched off; and the least time from one switching to the next.
const DWELL: Duration = Duration::from_secs(2);
/// The bytes a second above which the kernel's thread is worth its price, and below which it is not any more.
const MUCH: f64 = 250e6;
const LITTLE: f64 = 125e6;
/// The bytes of memory that what was written may take until it is somewhere (TUNSETSNDBUF): some milliseconds' worth.
pub(super) const BOUND: libc::c_int = 8 << 20;

/// The switch, and the load it follows.
#[derive(Debug)]
pub(super) struct Softirq<S = File> {
    /// `threaded`; nothing if it may not be written, or is not there, or is the user's.
    switch: Option<S>,
    on: bool,
    /// When the load was looked at last, and the bytes that had been sent by then.
    since: Option<Instant>,
    before: u64,
    /// When there was more than little last.
    busy: Option<Instant>,
    /// When it was switched last, or that failed.
    switched: Option<Instant>,
}

impl Softirq {
    /// For the interface `name` of this thread's network namespace, to which `file` is attached. If `/sys` shows another
    /// namespace, or this process may not write there, or it is switched on already, everything stays as it is.
    pub(super) fn new(file: &File, name: &str) -> Self {
        let switch = ioctl::flags(file).and_then(|flags| open(Path::new(INTERFACES), name, flags));
        if switch.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            eprintln!(
                "ringlet: {name}: threaded is already on and stays so; `echo 0 > {INTERFACES}/{name}/threaded` before the next \
                 start lets ringlet decide"
            );
        }
        Self::with(switch.ok())
    }

    /// One that does nothing.
    pub(super) fn idle() -> Self {
        Self::with(None)
    }
}

impl<S: Seek + Write> Softirq<S> {
    fn with(switch: Option<S>) -> Self {
        Self { switch, on: false, since: None, before: 0, busy: None, switched: None }
    }

    /// Looks at the load if it is time: so many bytes have been sent so far. Returns when that is to be done next even if nothing
    /// is sent: while it is on, so that it does not stay so.
    #[inline]
    pub(super) fn turn(&mut self, now: Instant, sent: u64) -> Option<Instant> {
        let early = self.since.is_some_and(|since| now.saturating_duration_since(since) < PERIOD);
        if !early && self.switch.is_some() {
            self.look(now, sent);
        }
        if self.on { self.since.map(|since| since + PERIOD) } else { None }
    }

    #[cold]
    fn look(&mut self, now: Instant, sent: u64) {
        let before = std::mem::replace(&mut self.before, sent);
        let Some(since) = self.since.replace(now) else { return };
        // The device's thread may have slept for long meanwhile.
        let rate = sent.saturating_sub(before) as f64 / now.saturating_duration_since(since).as_secs_f64();
        if rate > LITTLE {
            self.busy = Some(now);
        }
        let long_ago = |then: Option<Instant>| then.is_none_or(|then| now.saturating_duration_since(then) >= DWELL);
        let wanted = if self.on { !long_ago(self.busy) } else { rate > MUCH };
        if wanted != self.on && long_ago(self.switched) {
            self.switched = Some(now);
            // Whoever may not switch it on never may. Off it has to be, sooner or later.
            if self.set(wanted).is_err() && wanted {
                self.switch = None;
            }
        }
    }

    /// Switches it off again: nothing is sent for now, and nobody looks.
    pub(super) fn end(&mut self) {
        if self.on {
            self.switched = self.since;
            // Where that fails at the end there is no interface any more; before that it is tried again.
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

/// The switch of the interface `name`, which has these flags, if what `interfaces` shows is the one that this thread's network
/// namespace has: an interface of the same name, number, Ethernet address and flags in another namespace looks the same.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if it is this one's and switched on; others if it is not to be had.
fn open(interfaces: &Path, name: &str, flags: u16) -> io::Result<File> {
    let interface = interfaces.join(name);
    let shown = |what| Ok::<_, io::Error>(fs::read_to_string(interface.join(what))?.trim().to_owned());
    let address = ioctl::address(name)?.map(|byte| format!("{byte:02x}")).join(":");
    let expected =
        [("ifindex", ioctl::index(name)?.to_string()), ("address", address), ("tun_flags", format!("{flags:#x}"))];
    for (what, expected) in expected {
        if shown(what)? != expected {
            return Err(io::ErrorKind::NotFound.into());
        }
    }
    let switch = OpenOptions::new().write(true).open(interface.join("threaded"))?;
    if shown("threaded")? == "0" { Ok(switch) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A switch that keeps what is written to it, and refuses some of it.
    #[derive(Default)]
    struct Shown {
        written: Vec<u8>,
        tried: u32,
        refused: &'static [u8],
    }

    impl Seek for Shown {
        fn seek(&mut self, _: io::SeekFrom) -> io::Result<u64> {
            Ok(0)
        }
    }

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.tried += 1;
            if bytes == self.refused {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A switch, the time, and the bytes that were sent by then.
    struct Bench {
        softirq: Softirq<Shown>,
        now: Instant,
        sent: u64,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self { softirq: Softirq::with(Some(Shown::default())), now: Instant::now(), sent: 0 };
            // The first look has nothing to compare with.
            assert_eq!(bench.softirq.turn(bench.now, 0), None);
            bench
        }

        fn shown(&mut self) -> &mut Shown {
            self.softirq.switch.as_mut().unwrap()
        }

        /// Turns every ten milliseconds, with so many bytes sent a second. All that was written to the switch so far.
        fn run(&mut self, time: Duration, bytes: u64) -> String {
            for _ in 0..time.as_millis() / 10 {
                self.now += Duration::from_millis(10);
                self.sent += bytes / 100;
                self.softirq.turn(self.now, self.sent);
            }
            String::from_utf8(self.shown().written.clone()).unwrap()
        }
    }

    const SHORT: Duration = Duration::from_millis(210);
    const LONG: Duration = Duration::from_millis(2_210);

    #[test]
    fn it_follows_the_load() {
        let mut bench = Bench::new();
        assert_eq!(bench.run(LONG, 200_000_000), "");
        assert_eq!(bench.run(SHORT, 300_000_000), "1");
        assert_eq!(bench.run(LONG, 200_000_000), "1", "a little less is still enough");
        assert_eq!(bench.run(SHORT, 100_000_000), "1", "a pause is no end");
        assert_eq!(bench.run(LONG, 100_000_000), "10");
        assert_eq!(bench.run(LONG, 300_000_000), "101");
        assert_eq!(bench.run(LONG, 0), "1010");
    }

    #[test]
    fn it_goes_off_by_itself() {
        let mut bench = Bench::new();
        bench.run(SHORT, 300_000_000);
        // As the device's thread does where nothing happens but that the time comes.
        let mut looks = 0;
        while let Some(due) = bench.softirq.turn(bench.now, bench.sent) {
            assert!(due > bench.now, "there is something to sleep for");
            bench.now = due;
            looks += 1;
            assert!(looks <= 50, "it stays on");
        }
        assert_eq!(bench.shown().written, b"10");
    }

    #[test]
    fn what_cannot_be_switched_off_is_tried_again() {
        let mut bench = Bench::new();
        bench.run(SHORT, 300_000_000);
        bench.shown().refused = b"0";
        assert_eq!(bench.run(LONG * 3, 0), "1");
        assert!((3..=4).contains(&bench.shown().tried), "{}", bench.shown().tried);
        bench.shown().refused = b"";
        assert_eq!(bench.run(LONG, 0), "10");
    }

    #[test]
    fn who_may_not_does_not_try_again() {
        let mut bench = Bench::new();
        bench.shown().refused = b"1";
        let mut tried = Vec::new();
        for _ in 0..100 {
            bench.now += PERIOD;
            bench.sent += 1 << 30;
            tried.extend(bench.softirq.switch.as_ref().map(|shown| shown.tried));
            assert_eq!(bench.softirq.turn(bench.now, bench.sent), None);
        }
        assert_eq!(tried, [0], "once");
    }

    #[test]
    fn it_is_off_while_the_device_is_not_used() {
        let mut bench = Bench::new();
        bench.run(SHORT, 300_000_000);
        for _ in 0..2 {
            bench.softirq.end();
            assert_eq!(bench.shown().written, b"10");
        }
        assert_eq!(
            bench.run(Duration::from_secs(1), 300_000_000),
            "10",
            "a guest that resets it has it switched no more often"
        );
        assert_eq!(bench.run(LONG, 300_000_000), "101");
    }

    proptest! {
        #[test]
        fn no_load_has_it_switched_often(load in prop::collection::vec((1_u64..60, 0_u64..30_000_000), 1..400)) {
            let mut bench = Bench::new();
            let mut last: Option<Instant> = None;
            for (time, bytes) in load {
                bench.now += Duration::from_millis(time);
                bench.sent += bytes;
                let before = bench.shown().tried;
                bench.softirq.turn(bench.now, bench.sent);
                if bench.shown().tried != before {
                    prop_assert_eq!(bench.shown().tried, before + 1);
                    prop_assert!(last.is_none_or(|last| bench.now - last >= DWELL));
                    last = Some(bench.now);
                }
            }
        }
    }

    #[test]
    fn by_turns_much_and_nothing_is_much() {
        let mut bench = Bench::new();
        for _ in 0..200 {
            bench.run(PERIOD, 260_000_000);
            bench.run(PERIOD, 0);
        }
        assert_eq!(bench.shown().written, b"1");
    }

    #[test]
    fn only_the_interface_itself_is_switched() {
        let shown = vmm_sys_util::tempdir::TempDir::new().unwrap();
        let lo = shown.as_path().join("lo");
        fs::create_dir(&lo).unwrap();
        let index = ioctl::index("lo").unwrap();
        let (none, flags) = ("00:00:00:00:00:00", 0x5012);
        for (number, address, flag, threaded, refused) in [
            (index, none, "0x5012", "0", None),
            (index, none, "0x5012", "1", Some(io::ErrorKind::AlreadyExists)),
            (index, none, "0x5812", "1", Some(io::ErrorKind::NotFound)),
            (index + 1, none, "0x5012", "0", Some(io::ErrorKind::NotFound)),
            (index, "02:00:00:00:00:01", "0x5012", "0", Some(io::ErrorKind::NotFound)),
        ] {
            let number = number.to_string();
            for (what, text) in
                [("ifindex", &number[..]), ("address", address), ("tun_flags", flag), ("threaded", threaded)]
            {
                fs::write(lo.join(what), format!("{text}\n")).unwrap();
            }
            let opened = open(shown.as_path(), "lo", flags);
            assert_eq!(opened.err().map(|error| error.kind()), refused, "{number} {address} {flag} {threaded}");
        }
        assert!(open(shown.as_path(), "nobody", flags).is_err());
    }
}
