//! A machine made of plain memory, for the tests of this crate.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use crate::platform::{Crash, HeapUsage, Platform};

/// A [`Platform`] whose clock stands still until a test (or `idle`) moves it.
#[derive(Default)]
pub struct TestPlatform {
    now: Cell<u64>,
    idles: Cell<u64>,
    written: RefCell<Vec<Vec<u8>>>,
    /// What the world does while the machine is asleep, once.
    meanwhile: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl TestPlatform {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn advance(&self, ns: u64) {
        self.now.set(self.now.get() + ns);
    }

    pub fn idles(&self) -> u64 {
        self.idles.get()
    }

    /// Does something when the machine sleeps next.
    pub fn when_asleep(&self, act: impl FnOnce() + 'static) {
        *self.meanwhile.borrow_mut() = Some(Box::new(act));
    }

    pub fn console(&self) -> String {
        String::from_utf8(self.written.borrow().concat()).unwrap()
    }

    pub fn console_writes(&self) -> usize {
        self.written.borrow().len()
    }
}

impl Platform for TestPlatform {
    fn now_ns(&self) -> u64 {
        self.now.get()
    }

    fn idle(&self, until: Option<u64>) {
        self.idles.set(self.idles.get() + 1);
        if let Some(act) = self.meanwhile.take() {
            act();
        }
        // Returns early, as an interrupt might make it: there is a world outside, which has its own timers.
        let early = self.now.get() + 100_000;
        self.now.set(until.map_or(early, |until| early.min(until.max(self.now.get()))));
    }

    fn write_console(&self, bytes: &[u8]) {
        self.written.borrow_mut().push(bytes.to_vec());
    }

    fn random(&self) -> u64 {
        0x1234_5678_9abc_def1
    }

    fn heap(&self) -> HeapUsage {
        HeapUsage { used: 1 << 20, total: 8 << 20 }
    }

    fn crash(&self, _kind: Crash) {}
}
