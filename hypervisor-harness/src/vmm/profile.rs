//! Where a guest spends its time: a statistical profile, taken from outside.
//!
//! A thread of the monitor interrupts the vCPU a thousand times a second and notes where it is, with the frame pointers' chain
//! of callers. The guest does not take part, and where no profile is asked for nothing is there that could cost anything.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use addr2line::{Context, gimli};
use kvm_ioctls::VcpuFd;
use object::{Object, ObjectSection};
use vmm_sys_util::signal::SIGRTMIN;

use super::memory::GuestRam;
use super::symbols::Symbols;

/// The time between two samples: a prime number of microseconds, so that it does not keep step with what the guest does.
const PERIOD: Duration = Duration::from_micros(997);
/// Callers that are noted at most.
const DEPTH: usize = 32;

/// Samples of one guest, or of several that run the same image one after the other.
#[derive(Debug, Default)]
pub struct Profile {
    /// How often each stack was met: addresses, the innermost first.
    stacks: Mutex<HashMap<Vec<u64>, u64>>,
}

impl Profile {
    fn stacks(&self) -> MutexGuard<'_, HashMap<Vec<u64>, u64>> {
        // A count is whole even if somebody panicked beside it.
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples taken.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.stacks().values().sum()
    }

    /// The stacks in the "folded" form of flame graphs: a line for each, functions from the outermost to the innermost with `;`
    /// between them, and how often it was met. Functions that were inlined are named if the image has line tables.
    #[must_use]
    pub fn folded(&self, image: &[u8]) -> String {
        let names = Names::new(image);
        let mut lines = BTreeMap::<String, u64>::new();
        for (stack, count) in &*self.stacks() {
            let mut line = String::new();
            for (depth, &address) in stack.iter().enumerate().rev() {
                // A return address is behind the call.
                names.push(if depth == 0 { address } else { address.wrapping_sub(1) }, &mut line);
            }
            *lines.entry(line).or_default() += count;
        }
        lines.into_iter().fold(String::new(), |mut text, (line, count)| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{line} {count}");
            text
        })
    }
}

/// Names of functions by address, those that were inlined too.
struct Names<'a> {
    symbols: Symbols,
    lines: Option<Context<gimli::EndianSlice<'a, gimli::LittleEndian>>>,
}

impl<'a> Names<'a> {
    fn new(image: &'a [u8]) -> Self {
        let lines = object::File::parse(image).ok().and_then(|object| {
            let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
                let data =
                    object.section_by_name(id.name()).and_then(|section| section.data().ok()).unwrap_or_default();
                Ok(gimli::EndianSlice::new(data, gimli::LittleEndian))
            };
            Context::from_dwarf(gimli::Dwarf::load(section).ok()?).ok()
        });
        Self { symbols: Symbols::new(Cow::Owned(image.to_vec())), lines }
    }

    /// Appends the functions that an address lies in, the outermost first.
    fn push(&self, address: u64, line: &mut String) {
        let mut functions = Vec::new();
        // It adds to addresses without looking.
        if let Some(lines) = self.lines.as_ref().filter(|_| address < u64::MAX / 2)
            && let Ok(mut frames) = lines.find_frames(address).skip_all_loads()
        {
            while let Ok(Some(frame)) = frames.next() {
                let Some(name) = frame.function else { continue };
                functions.extend(name.demangle().ok().map(|name| short(&name).into_owned()));
            }
        }
        if functions.is_empty() {
            let name = self.symbols.name(address).unwrap_or_else(|| format!("{address:#x}"));
            functions.push(name.rsplit_once('+').map_or(&*name, |(name, _)| name).to_owned());
        }
        for function in functions.iter().rev() {
            if !line.is_empty() {
                line.push(';');
            }
            line.push_str(function);
        }
    }
}

/// A demangled name without its hash.
fn short(name: &str) -> Cow<'_, str> {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 => Cow::Borrowed(path),
        _ => Cow::Borrowed(name),
    }
}

/// What profiles one vCPU: the vCPU's thread notes, another thread asks it to.
#[derive(Debug)]
pub struct Sampler {
    profile: Arc<Profile>,
    ram: GuestRam,
    /// The vCPU's thread, from its start to its end; else 0.
    thread: AtomicI32,
    wanted: AtomicBool,
    ended: AtomicBool,
}

impl Sampler {
    /// Prepares to profile a vCPU of a machine with this memory.
    #[must_use]
    pub fn new(profile: Arc<Profile>, ram: GuestRam) -> Arc<Self> {
        let (wanted, ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { profile, ram, thread: AtomicI32::new(0), wanted, ended })
    }

    /// Begins: to be called on the vCPU's thread, where the handler of the signal is installed ([`super::vcpu::Kick`]).
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn begin(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        // SAFETY: no arguments, and it cannot fail.
        self.thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        let sampler = self.clone();
        std::thread::Builder::new().name("profile".into()).spawn(move || {
            while !sampler.ended.load(Ordering::SeqCst) {
                std::thread::sleep(PERIOD);
                sampler.wanted.store(true, Ordering::SeqCst);
                // SAFETY: numbers only. The handler does nothing, whichever thread of this process has that number by now.
                unsafe {
                    libc::syscall(libc::SYS_tgkill, libc::getpid(), sampler.thread.load(Ordering::SeqCst), SIGRTMIN())
                };
            }
        })
    }

    /// Ends the other thread, soon.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// The guest is about to be entered: whatever was asked for outside of it is not what it spends its time with.
    pub fn forget(&self) {
        self.wanted.store(false, Ordering::SeqCst);
    }

    /// A signal has made the vCPU leave the guest: notes where it is, if this was asked for. To be called on its thread.
    pub fn sample(&self, vcpu: &VcpuFd) {
        if !self.wanted.swap(false, Ordering::SeqCst) {
            return;
        }
        let Ok(registers) = vcpu.get_regs() else { return };
        let mut stack = vec![registers.rip];
        let mut frame = registers.rbp;
        while stack.len() < DEPTH {
            // The image's memory is where its addresses say. Whatever is no frame ends the chain.
            let mut bytes = [0; 16];
            if frame % 8 != 0 || frame == 0 || self.ram.read(frame, &mut bytes).is_err() {
                break;
            }
            let value = u128::from_le_bytes(bytes);
            let (next, address) = (value as u64, (value >> 64) as u64);
            if next <= frame || address == 0 {
                break;
            }
            stack.push(address);
            frame = next;
        }
        *self.profile.stacks().entry(stack).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_folded_by_name() {
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let object = object::File::parse(&*image).unwrap();
        use object::ObjectSymbol;
        let main = object.symbols().find(|symbol| symbol.name() == Ok("main")).unwrap().address();
        let profile = Profile::default();
        profile.stacks().insert(vec![main, main + 1], 2);
        profile.stacks().insert(vec![main + 1, main + 1], 3);
        profile.stacks().insert(vec![u64::MAX], 1);
        assert_eq!(profile.folded(&image), "0xffffffffffffffff 1\nmain;main 5\n");
        assert_eq!(profile.samples(), 6);
        assert_eq!(profile.folded(b"nonsense").lines().count(), 3);
    }

    #[test]
    fn hashes_are_left_out() {
        assert_eq!(short("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(short("a::help"), "a::help");
    }
}
