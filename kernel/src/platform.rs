//! What the portable kernel asks of the machine it runs on.

/// The machine, as the portable kernel sees it: a clock, a way to sleep, a console, and a few facts.
///
/// The image implements it over its `arch` module; tests implement it over plain memory. All methods take `&self`: there
/// is one caller, the loop of one vCPU.
pub trait Platform {
    /// Nanoseconds since the boot stub's first instruction. Never goes backwards.
    fn now_ns(&self) -> u64;

    /// Sleeps until an interrupt, or until [`now_ns`](Platform::now_ns) reaches `until` if that is given. May return early.
    ///
    /// An interrupt that has come since the caller last looked for work must end the sleep at once: otherwise it would be
    /// lost.
    fn idle(&self, until: Option<u64>);

    /// Writes `bytes` to the console, as few exits as it can. The portable kernel hands over whole lines, each ended
    /// by `\n`, and no line longer than [`MAX_CONSOLE_WRITE`].
    fn write_console(&self, bytes: &[u8]);

    /// Bits nobody outside can foresee: they seed TCP's sequence numbers. Need not be of cryptographic quality.
    fn random(&self) -> u64;

    /// How full the heap is.
    fn heap(&self) -> HeapUsage;

    /// Makes the fault of `kind` on purpose, for the tests of the machinery that reports it. Returns only if the machine
    /// cannot make that fault.
    fn crash(&self, kind: Crash);
}

/// The longest piece [`Platform::write_console`] is given at once, in bytes: what the block console takes.
pub const MAX_CONSOLE_WRITE: usize = 4096;

/// How full the heap is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeapUsage {
    /// Bytes handed out.
    pub used: u64,
    /// Bytes the heap has in all.
    pub total: u64,
}

/// A fault made on purpose (`crash=` on the command line).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// A Rust panic.
    Panic,
    /// A CPU exception.
    Exception,
    /// A stack overflow into the guard page.
    Stack,
    /// An allocation larger than the heap.
    Heap,
    /// A triple fault.
    Triple,
}

impl Crash {
    /// Every kind, with the name the command line gives it.
    pub const NAMES: [(&'static str, Crash); 5] = [
        ("panic", Crash::Panic),
        ("exception", Crash::Exception),
        ("stack", Crash::Stack),
        ("heap", Crash::Heap),
        ("triple", Crash::Triple),
    ];
}
