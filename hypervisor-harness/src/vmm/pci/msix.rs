//! MSI-X: interrupts as messages, each vector of which can be masked (PCI 3.0, section 6.8.2).
//!
//! Each source of interrupts in a device has an eventfd of its own for as long as the device exists, which the device, or
//! another process, writes. While the source's vector is enabled, KVM reads it and sends the vector's message; while it is
//! masked nobody does, so that what was written waits there: it is the pending bit. So neither the device's thread nor
//! another process needs to know of masks, and once a guest's write of a mask has ended no message comes any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::virtio::event;
use ringlet_driver::wire::pci::{MSIX_NO_VECTOR, msix as layout};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where messages to local APICs go (Intel SDM volume 3, section 11.11.1).
const APIC_MESSAGES: std::ops::Range<u64> = 0xfee0_0000..0xfef0_0000;

/// A message: what is written where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Message {
    /// The physical address.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

/// What a function's interrupts and doorbells are connected to: KVM, or a test.
pub trait Wiring: Send {
    /// Sets what each vector's message is, by vector; `None` for those that send none.
    ///
    /// # Errors
    /// If that is refused; then nothing has changed.
    fn route(&mut self, messages: &[Option<Message>]) -> io::Result<()>;

    /// From here on a vector's message is sent whenever `event` is written; and at once if it has been written and not been read
    /// before, without its being read by that.
    ///
    /// # Errors
    /// If that is refused.
    fn connect(&mut self, event: &EventFd, vector: u16) -> io::Result<()>;

    /// Ends [`Wiring::connect`]: when this returns no message is sent any more.
    ///
    /// # Errors
    /// If that is refused.
    fn disconnect(&mut self, event: &EventFd, vector: u16) -> io::Result<()>;

    /// From here on `event` is written whenever the guest writes to `address`, without an exit.
    ///
    /// # Errors
    /// If that is refused.
    fn listen(&mut self, event: &EventFd, address: u64) -> io::Result<()>;

    /// Ends [`Wiring::listen`].
    ///
    /// # Errors
    /// If that is refused.
    fn ignore(&mut self, event: &EventFd, address: u64) -> io::Result<()>;
}

/// The device's end: by it other threads raise interrupts.
#[derive(Debug)]
pub struct Signals {
    enabled: AtomicBool,
    sources: Vec<Signal>,
}

#[derive(Debug)]
struct Signal {
    event: EventFd,
    /// It has a vector, and MSI-X is enabled.
    live: AtomicBool,
}

impl Signals {
    /// Raises the interrupt of a source. Returns false if MSI-X is not enabled: then messages are not how this function
    /// interrupts.
    pub fn raise(&self, source: usize) -> bool {
        if let Some(signal) = self.sources.get(source)
            && signal.live.load(Ordering::SeqCst)
        {
            // Writing fails only when the counter is full, and then the interrupt is pending anyway.
            let _ = signal.event.write(1);
        }
        self.enabled.load(Ordering::SeqCst)
    }

    /// An eventfd that raises the interrupt of a source when it is written.
    ///
    /// # Errors
    /// If there is no such source, or the process has no descriptors left.
    pub fn event(&self, source: usize) -> io::Result<EventFd> {
        self.sources.get(source).ok_or(io::ErrorKind::NotFound)?.event.try_clone()
    }
}

/// One entry of the table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    message: Message,
    masked: bool,
}

/// The vector of one source, and the one that its eventfd is connected to now.
#[derive(Debug, Clone, Copy)]
struct Source {
    vector: u16,
    connected: Option<u16>,
}

/// The vCPU's end: the table, the pending bits, and who has which vector.
#[derive(Debug)]
pub struct Msix<W> {
    table: Vec<Entry>,
    enabled: bool,
    masked: bool,
    sources: Vec<Source>,
    signals: Arc<Signals>,
    /// What the vectors send, as far as the wiring knows.
    routed: Vec<Option<Message>>,
    wiring: W,
}

impl<W: Wiring> Msix<W> {
    /// MSI-X with that many vectors for that many sources, disabled, each vector masked, as after a reset of the function.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new(vectors: u16, sources: usize, wiring: W) -> io::Result<Self> {
        let signal = || Ok(Signal { event: EventFd::new(EFD_NONBLOCK)?, live: AtomicBool::new(false) });
        let signals = (0..sources).map(|_| signal()).collect::<io::Result<_>>()?;
        Ok(Self {
            table: vec![Entry { message: Message::default(), masked: true }; vectors.into()],
            enabled: false,
            masked: false,
            sources: vec![Source { vector: MSIX_NO_VECTOR, connected: None }; sources],
            signals: Arc::new(Signals { enabled: AtomicBool::new(false), sources: signals }),
            routed: vec![None; vectors.into()],
            wiring,
        })
    }

    /// The device's end.
    #[must_use]
    pub fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// What it is connected to.
    pub fn wiring(&mut self) -> &mut W {
        &mut self.wiring
    }

    /// The vector of a source; [`MSIX_NO_VECTOR`] if it has none.
    #[must_use]
    pub fn vector(&self, source: usize) -> u16 {
        self.sources.get(source).map_or(MSIX_NO_VECTOR, |source| source.vector)
    }

    /// Gives a source a vector, or none. One that does not exist is none.
    ///
    /// # Errors
    /// If the wiring refuses.
    pub fn set_vector(&mut self, source: usize, vector: u16) -> io::Result<()> {
        let exists = usize::from(vector) < self.table.len();
        if let Some(source) = self.sources.get_mut(source) {
            source.vector = if exists { vector } else { MSIX_NO_VECTOR };
        }
        self.apply()
    }

    /// Takes all vectors away: the device was reset. Interrupts that wait for the end of a mask are forgotten.
    ///
    /// # Errors
    /// If the wiring refuses.
    pub fn take_vectors(&mut self) -> io::Result<()> {
        self.sources.iter_mut().for_each(|source| source.vector = MSIX_NO_VECTOR);
        self.apply()
    }

    /// The guest has written the message control register.
    ///
    /// # Errors
    /// If the wiring refuses.
    pub fn control(&mut self, control: u16) -> io::Result<()> {
        self.enabled = control & layout::ENABLE != 0;
        self.masked = control & layout::FUNCTION_MASK != 0;
        self.apply()
    }

    /// The guest reads in the table. Only aligned double words and pairs of them can be.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        for (index, word) in data.chunks_exact_mut(4).enumerate() {
            let at = offset + 4 * index;
            let Some(entry) = self.table.get(at / layout::ENTRY) else { continue };
            let value = match at % layout::ENTRY {
                layout::ADDRESS_LOW => entry.message.address as u32,
                layout::ADDRESS_HIGH => (entry.message.address >> 32) as u32,
                layout::DATA => entry.message.data,
                _ => entry.masked.into(),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// The guest writes in the table.
    ///
    /// # Errors
    /// If the wiring refuses.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) -> io::Result<()> {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return Ok(());
        }
        for (index, word) in data.as_chunks::<4>().0.iter().enumerate() {
            let (at, value) = (offset + 4 * index, u32::from_le_bytes(*word));
            let Some(entry) = self.table.get_mut(at / layout::ENTRY) else { continue };
            let address = &mut entry.message.address;
            match at % layout::ENTRY {
                // The two lowest bits of the address are wired to zero.
                layout::ADDRESS_LOW => *address = *address & !0xffff_ffff | u64::from(value & !3),
                layout::ADDRESS_HIGH => *address = *address & 0xffff_ffff | u64::from(value) << 32,
                layout::DATA => entry.message.data = value,
                _ => entry.masked = value & 1 == 1,
            }
        }
        self.apply()
    }

    /// The guest reads the pending bits.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let bits = (0..self.table.len()).filter(|vector| self.is_pending(*vector));
        // A device has fewer than 64 vectors.
        let all = bits.fold(0_u64, |all, vector| all | 1 << (vector % 64)).to_le_bytes();
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = all.get(offset + index).copied().unwrap_or(0);
        }
    }

    fn is_pending(&self, vector: usize) -> bool {
        let waits = |(source, signal): (&Source, &Signal)| {
            usize::from(source.vector) == vector && source.connected.is_none() && readable(&signal.event)
        };
        self.enabled && self.sources.iter().zip(&self.signals.sources).any(waits)
    }

    /// What a vector sends now: nothing while it is masked, or where its message is none to a processor.
    fn message(&self, vector: u16) -> Option<Message> {
        let entry = self.table.get(usize::from(vector))?;
        let sends = self.enabled && !self.masked && !entry.masked && APIC_MESSAGES.contains(&entry.message.address);
        sends.then_some(entry.message)
    }

    /// Makes the wiring what the registers say. What it refuses stays undone, and the rest is done.
    fn apply(&mut self) -> io::Result<()> {
        let sends: Vec<_> = (0..self.table.len()).map(|vector| self.message(vector as u16)).collect();
        self.signals.enabled.store(self.enabled, Ordering::SeqCst);
        let mut result = Ok(());
        for (source, signal) in self.sources.iter_mut().zip(&self.signals.sources) {
            let live = self.enabled && source.vector != MSIX_NO_VECTOR;
            if !live {
                signal.live.store(false, Ordering::SeqCst);
            }
            let wanted =
                Some(source.vector).filter(|vector| sends.get(usize::from(*vector)).is_some_and(Option::is_some));
            if let Some(vector) = source.connected.filter(|_| source.connected != wanted) {
                match self.wiring.disconnect(&signal.event, vector) {
                    Ok(()) => source.connected = None,
                    Err(error) => result = Err(error),
                }
            }
            if live && !signal.live.load(Ordering::SeqCst) {
                // What was written while it led nowhere is of no interest any more; that there is nothing is no error. Read first:
                // from then on every write counts.
                event::drain(&signal.event);
                signal.live.store(true, Ordering::SeqCst);
            }
        }
        // A vector that sends nothing now keeps its route, which nothing uses: masks cost no change of the routes.
        let routed: Vec<_> = sends.iter().zip(&self.routed).map(|(new, old)| new.or(*old)).collect();
        if routed != self.routed {
            match self.wiring.route(&routed) {
                Ok(()) => self.routed = routed,
                Err(error) => result = Err(error),
            }
        }
        for (source, signal) in self.sources.iter_mut().zip(&self.signals.sources) {
            let message = sends.get(usize::from(source.vector)).copied().flatten();
            let routed = message.is_some() && self.routed.get(usize::from(source.vector)) == Some(&message);
            if source.connected.is_some() || !routed {
                continue;
            }
            match self.wiring.connect(&signal.event, source.vector) {
                Ok(()) => {
                    source.connected = Some(source.vector);
                    // What waited there was sent by that, and remained in the counter: it would be pending for ever. What has been
                    // written since was sent as well, and taken out of it.
                    event::drain(&signal.event);
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

/// Whether an eventfd has been written and not been read.
fn readable(event: &EventFd) -> bool {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd { fd: event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid entry, as the length says; a timeout of zero does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 }
}
