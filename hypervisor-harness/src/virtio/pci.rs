//! The registers of virtio over PCI, modern only (virtio 1.3, section 4.1): one BAR for all structures, MSI-X with a vector
//! for each queue and one for configuration changes, and a doorbell for each queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ringlet_driver::wire::pci::{
    CAPABILITY_MSIX, CAPABILITY_VENDOR, CFG_COMMON, CFG_DEVICE, CFG_ISR, CFG_NOTIFY, CFG_PCI, DEVICE_MODERN_NETWORK,
    MSIX_NO_VECTOR, VENDOR, capability, common, msix,
};
use ringlet_driver::wire::{NetConfig, status};
use vmm_sys_util::eventfd::EventFd;

use super::Interrupts;
use super::net::QUEUES;
use super::registers::{Control, Registers};
use crate::vmm::layout;
use crate::vmm::pci::config::{self, Identity};
use crate::vmm::pci::{ConfigSpace, Function, Msix, Signals, Wiring};

/// MSI-X vectors: for configuration changes, and for each queue.
pub const VECTORS: u16 = QUEUES as u16 + 1;
/// Sources of interrupts: the queues by their index, then configuration changes.
const SOURCES: usize = QUEUES + 1;
const SOURCE_CONFIG: usize = QUEUES;

/// The BAR of all structures.
const BAR: u8 = 0;
/// Its size, and the distance between the structures in it: each has pages of its own.
pub const BAR_SIZE: u64 = 0x8000;
const PAGE: u64 = 0x1000;
const COMMON_AT: u64 = 0;
const ISR_AT: u64 = PAGE;
const CONFIG_AT: u64 = 2 * PAGE;
const NOTIFY_AT: u64 = 3 * PAGE;
const TABLE_AT: u64 = 4 * PAGE;
const PENDING_AT: u64 = 5 * PAGE;
/// Bytes between the doorbells of two queues.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Where the doorbell of a queue is in the BAR.
fn doorbell_at(queue: usize) -> u64 {
    NOTIFY_AT + u64::from(NOTIFY_MULTIPLIER) * queue as u64
}

/// The interrupts of a device on PCI: messages, or, as long as the driver has not enabled MSI-X, bits to poll for: the
/// function has no interrupt pin.
#[derive(Debug)]
pub struct Messages {
    signals: Arc<Signals>,
    isr: AtomicU8,
}

impl Interrupts for Messages {
    fn queue(&self, queue: u16) {
        if !self.signals.raise(queue.into()) {
            self.isr.fetch_or(status::INTERRUPT_QUEUE, Ordering::SeqCst);
        }
    }

    fn configuration(&self) {
        // In any case (section 4.1.4.5.1), and before the driver can look.
        self.isr.fetch_or(status::INTERRUPT_CONFIG, Ordering::SeqCst);
        self.signals.raise(SOURCE_CONFIG);
    }

    fn reset(&self) {
        self.isr.store(0, Ordering::SeqCst);
    }

    fn call(&self, queue: u16) -> io::Result<EventFd> {
        self.signals.event(queue.into())
    }
}

/// What a function is made of before it has registers, which want its interrupts.
#[derive(Debug)]
pub struct Parts<W> {
    config: ConfigSpace,
    capability_msix: usize,
    capability_access: usize,
    msix: Msix<W>,
    messages: Arc<Messages>,
    doorbells: [EventFd; QUEUES],
    /// Where the doorbells are heard without an exit: the address of the BAR.
    heard_at: Option<u64>,
}

impl<W: Wiring> Parts<W> {
    /// A function whose BAR is at `address`, with `doorbells` to be written when the guest rings them, by queue.
    ///
    /// # Errors
    /// If the wiring refuses, or the process has no descriptors left.
    pub fn new(address: u64, doorbells: [EventFd; QUEUES], wiring: W) -> io::Result<Self> {
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: DEVICE_MODERN_NETWORK,
            // Modern devices have 1 or more (section 4.1.2.1).
            revision: 1,
            class: [2, 0, 0],
            subsystem: [VENDOR, DEVICE_MODERN_NETWORK],
        });
        config.add_memory_bar(BAR, BAR_SIZE, address);
        let structure = |kind: u8, at: u64, length: u32, more: &[u8]| {
            let own = (capability::REGION_LENGTH as usize + 4 + more.len()) as u8;
            let mut body = vec![own, kind, BAR, 0, 0, 0];
            body.extend((at as u32).to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend(more);
            body
        };
        let mut add = |body: &[u8]| config.add_capability(CAPABILITY_VENDOR, body);
        add(&structure(CFG_COMMON, COMMON_AT, common::LEN as u32, &[]));
        let doorbells_length = NOTIFY_MULTIPLIER * QUEUES as u32;
        add(&structure(CFG_NOTIFY, NOTIFY_AT, doorbells_length, &NOTIFY_MULTIPLIER.to_le_bytes()));
        add(&structure(CFG_ISR, ISR_AT, 1, &[]));
        add(&structure(CFG_DEVICE, CONFIG_AT, NetConfig::LEN as u32, &[]));
        let access = add(&structure(CFG_PCI, 0, 0, &[0; 4]));
        config.allow(access + usize::from(capability::BAR), 0xff);
        (access + usize::from(capability::OFFSET)..access + ACCESS_DATA + 4).for_each(|at| config.allow(at, 0xff));
        let mut body = (VECTORS - 1).to_le_bytes().to_vec();
        body.extend((TABLE_AT as u32 | u32::from(BAR)).to_le_bytes());
        body.extend((PENDING_AT as u32 | u32::from(BAR)).to_le_bytes());
        let capability_msix = config.add_capability(CAPABILITY_MSIX, &body);
        config.allow(capability_msix + 3, ((msix::ENABLE | msix::FUNCTION_MASK) >> 8) as u8);

        let mut msix = Msix::new(VECTORS, SOURCES, wiring)?;
        for (queue, event) in doorbells.iter().enumerate() {
            msix.wiring().listen(event, address + doorbell_at(queue))?;
        }
        let messages = Arc::new(Messages { signals: msix.signals().clone(), isr: AtomicU8::new(0) });
        let heard_at = Some(address);
        Ok(Self { config, capability_msix, capability_access: access, msix, messages, doorbells, heard_at })
    }

    /// Its interrupts.
    #[must_use]
    pub fn interrupts(&self) -> &Arc<Messages> {
        &self.messages
    }
}

/// In the capability for access through configuration space: the data.
const ACCESS_DATA: usize = capability::NOTIFY_OFF_MULTIPLIER as usize;

/// A device's registers on PCI.
#[derive(Debug)]
pub struct Pci<C, W> {
    /// What they mean.
    pub registers: Registers<C>,
    parts: Parts<W>,
}

impl<C: Control, W: Wiring> Pci<C, W> {
    /// The PCI face of `registers`, whose [`Interrupts`] are those of `parts`.
    #[must_use]
    pub fn new(registers: Registers<C>, parts: Parts<W>) -> Self {
        Self { registers, parts }
    }

    /// What the function is connected to.
    pub fn wiring(&mut self) -> &mut W {
        self.parts.msix.wiring()
    }

    fn refused(&self, what: io::Result<()>) {
        if let Err(error) = what {
            self.registers
                .misuse(format_args!("what the driver wants of its interrupts or doorbells is refused: {error}"));
        }
    }

    /// Makes the doorbells be heard where the BAR is. It may be moved about as long as the device does not work, which is
    /// what a guest does to learn its size: doorbells come by exits then, if at all.
    fn move_doorbells(&mut self) {
        let Parts { config, msix, doorbells, heard_at, .. } = &mut self.parts;
        let at = config.bar(BAR);
        if self.registers.status() & status::DRIVER_OK == 0 || at == *heard_at {
            return;
        }
        let (mut old, mut result) = (heard_at.take(), Ok(()));
        if let Some(old) = old.take() {
            for (queue, event) in doorbells.iter().enumerate() {
                result = msix.wiring().ignore(event, old + doorbell_at(queue)).and(result);
            }
        }
        // Elsewhere than in the window the function cannot be reached.
        let reached = |at: &u64| layout::PCI_WINDOW.contains(at) && layout::PCI_WINDOW.end - at >= BAR_SIZE;
        if let Some(at) = at.filter(reached) {
            for (queue, event) in doorbells.iter().enumerate() {
                result = msix.wiring().listen(event, at + doorbell_at(queue)).and(result);
            }
            *heard_at = Some(at);
        }
        self.refused(result);
    }

    fn load(&mut self, offset: usize, length: usize) -> Option<u32> {
        let registers = &self.registers;
        let queue = registers.queue();
        let place = queue.map(|queue| queue.place).unwrap_or_default();
        let low = |address: u64| address as u32;
        let high = |address: u64| (address >> 32) as u32;
        let value = match (offset, length) {
            (common::DEVICE_FEATURE_SELECT, 4) => registers.device_features_select,
            (common::DEVICE_FEATURE, 4) => registers.device_features(),
            (common::DRIVER_FEATURE_SELECT, 4) => registers.driver_features_select,
            (common::DRIVER_FEATURE, 4) => registers.driver_features(),
            (common::CONFIG_MSIX_VECTOR, 2) => self.parts.msix.vector(SOURCE_CONFIG).into(),
            (common::NUM_QUEUES, 2) => QUEUES as u32,
            (common::DEVICE_STATUS, 1) => registers.status().into(),
            // The register has 8 bits of the generation.
            (common::CONFIG_GENERATION, 1) => registers.shared().generation() & 0xff,
            (common::QUEUE_SELECT, 2) => registers.queue_select,
            (common::QUEUE_SIZE, 2) => place.size.into(),
            (common::QUEUE_MSIX_VECTOR, 2) => match registers.queue_index() {
                Some(queue) => self.parts.msix.vector(queue.into()).into(),
                None => MSIX_NO_VECTOR.into(),
            },
            (common::QUEUE_ENABLE, 2) => queue.is_some_and(|queue| queue.ready).into(),
            (common::QUEUE_NOTIFY_OFF, 2) => registers.queue_index().unwrap_or(0).into(),
            (common::QUEUE_DESC, 4) => low(place.descriptors),
            (common::QUEUE_DESC_HIGH, 4) => high(place.descriptors),
            (common::QUEUE_DRIVER, 4) => low(place.driver),
            (common::QUEUE_DRIVER_HIGH, 4) => high(place.driver),
            (common::QUEUE_DEVICE, 4) => low(place.device),
            (common::QUEUE_DEVICE_HIGH, 4) => high(place.device),
            // Without NOTIF_CONFIG_DATA there is none; a reset is over when the write that asks for it is.
            (common::QUEUE_NOTIF_CONFIG_DATA | common::QUEUE_RESET, 2) => 0,
            _ => return None,
        };
        Some(value)
    }

    fn store(&mut self, offset: usize, length: usize, value: u32) {
        let registers = &mut self.registers;
        let low = |address: u64| address & !0xffff_ffff | u64::from(value);
        let high = |address: u64| address & 0xffff_ffff | u64::from(value) << 32;
        match (offset, length) {
            (common::DEVICE_FEATURE_SELECT, 4) => registers.device_features_select = value,
            (common::DRIVER_FEATURE_SELECT, 4) => registers.driver_features_select = value,
            (common::DRIVER_FEATURE, 4) => registers.accept(value),
            (common::CONFIG_MSIX_VECTOR, 2) => {
                let result = self.parts.msix.set_vector(SOURCE_CONFIG, value as u16);
                self.refused(result);
            }
            (common::DEVICE_STATUS, 1) => self.set_status(value as u8),
            (common::QUEUE_SELECT, 2) => registers.queue_select = value,
            (common::QUEUE_SIZE, 2) => registers.set_place(|place| place.size = value as u16),
            (common::QUEUE_MSIX_VECTOR, 2) => match registers.queue_index() {
                Some(queue) => {
                    let result = self.parts.msix.set_vector(queue.into(), value as u16);
                    self.refused(result);
                }
                None => registers.misuse(format_args!("a vector for a queue that does not exist")),
            },
            (common::QUEUE_ENABLE, 2) if value == 1 => registers.enable_queue(),
            (common::QUEUE_DESC, 4) => registers.set_place(|place| place.descriptors = low(place.descriptors)),
            (common::QUEUE_DESC_HIGH, 4) => registers.set_place(|place| place.descriptors = high(place.descriptors)),
            (common::QUEUE_DRIVER, 4) => registers.set_place(|place| place.driver = low(place.driver)),
            (common::QUEUE_DRIVER_HIGH, 4) => registers.set_place(|place| place.driver = high(place.driver)),
            (common::QUEUE_DEVICE, 4) => registers.set_place(|place| place.device = low(place.device)),
            (common::QUEUE_DEVICE_HIGH, 4) => registers.set_place(|place| place.device = high(place.device)),
            (common::QUEUE_RESET, 2) if value == 1 => {
                registers.reset_queue();
                // Its vector is part of what is forgotten.
                if let Some(queue) = registers.queue_index().filter(|_| registers.queue().is_some_and(|q| !q.ready)) {
                    let result = self.parts.msix.set_vector(queue.into(), MSIX_NO_VECTOR);
                    self.refused(result);
                }
            }
            // Writing 0 does nothing.
            (common::QUEUE_RESET, 2) => {}
            _ => registers.misuse(format_args!("a write of {length} bytes, {value:#x}, at {offset:#x} of common_cfg")),
        }
    }

    fn set_status(&mut self, value: u8) {
        // Before the driver can ring them.
        let starts = value & status::DRIVER_OK != 0;
        self.registers.set_status(value);
        if value == 0 {
            let result = self.parts.msix.take_vectors();
            self.refused(result);
        } else if starts {
            self.move_doorbells();
        }
    }

    /// The common configuration structure is read. Fields are read at their natural width, and halves of 64-bit fields.
    fn read_common(&mut self, offset: usize, data: &mut [u8]) {
        let length = data.len();
        if length == 8 && offset.is_multiple_of(8) {
            let (first, second) = data.split_at_mut(4);
            self.read_common(offset, first);
            return self.read_common(offset + 4, second);
        }
        match self.load(offset, length) {
            Some(value) => data.copy_from_slice(&value.to_le_bytes()[..length]),
            None => self.registers.misuse(format_args!("a read of {length} bytes at {offset:#x} of common_cfg")),
        }
    }

    fn write_common(&mut self, offset: usize, data: &[u8]) {
        match data.len() {
            8 if offset.is_multiple_of(8) => {
                self.write_common(offset, &data[..4]);
                self.write_common(offset + 4, &data[4..]);
            }
            length @ (1 | 2 | 4) => {
                let mut bytes = [0; 4];
                bytes[..length].copy_from_slice(data);
                self.store(offset, length, u32::from_le_bytes(bytes));
            }
            length => self.registers.misuse(format_args!("a write of {length} bytes at {offset:#x} of common_cfg")),
        }
    }

    /// What the capability for access through configuration space asks for (section 4.1.4.9): a place in the BAR and a
    /// length; `None` if that is no access the device has to make.
    fn indirect(&self) -> Option<(u64, usize)> {
        let at = self.parts.capability_access;
        let config = &self.parts.config;
        let bar = config.word(at + usize::from(capability::BAR)) as u8;
        let offset = u64::from(config.double_word(at + usize::from(capability::OFFSET)));
        let length = config.double_word(at + usize::from(capability::REGION_LENGTH)) as usize;
        let sound = bar == BAR && matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length as u64);
        (sound && offset + length as u64 <= BAR_SIZE).then_some((offset, length))
    }

    /// Whether an access to configuration space begins in the window of the access capability.
    fn is_indirect(&self, offset: usize) -> bool {
        let data = self.parts.capability_access + ACCESS_DATA;
        (data..data + 4).contains(&offset)
    }
}

impl<C: Control, W: Wiring> Function for Pci<C, W> {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.is_indirect(offset)
            && let Some((place, length)) = self.indirect()
        {
            let mut value = [0xff; 4];
            self.read_bar(BAR, place, &mut value[..length]);
            let window = self.parts.capability_access + ACCESS_DATA;
            self.parts.config.write(window, &value[..length]);
        }
        self.parts.config.set_interrupt_status(self.parts.messages.isr.load(Ordering::SeqCst) != 0);
        self.parts.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.parts.config.write(offset, data);
        if self.is_indirect(offset) {
            if let Some((place, length)) = self.indirect() {
                let mut value = [0; 4];
                self.parts.config.read(self.parts.capability_access + ACCESS_DATA, &mut value);
                self.write_bar(BAR, place, &value[..length]);
            }
            return;
        }
        // Accesses lie within a double word, so that one that touches a register lies in its double word.
        if offset / 4 == self.parts.capability_msix / 4 {
            let result = self.parts.msix.control(self.parts.config.word(self.parts.capability_msix + 2));
            self.refused(result);
        } else if (config::COMMAND..config::BAR0 + 8).contains(&offset) {
            self.move_doorbells();
        }
    }

    fn decode(&self, address: u64, length: usize) -> Option<(u8, u64)> {
        self.parts.config.decode(address, length)
    }

    fn read_bar(&mut self, _bar: u8, offset: u64, data: &mut [u8]) {
        let at = (offset % PAGE) as usize;
        match offset - offset % PAGE {
            COMMON_AT => self.read_common(at, data),
            // Reading acknowledges.
            ISR_AT if at == 0 => {
                if let Some(first) = data.first_mut() {
                    *first = self.parts.messages.isr.swap(0, Ordering::SeqCst);
                }
            }
            CONFIG_AT => self.registers.read_configuration(at, data),
            TABLE_AT => self.parts.msix.read_table(at, data),
            PENDING_AT => self.parts.msix.read_pending(at, data),
            _ => self.registers.misuse(format_args!("a read of {} bytes at {offset:#x} of the BAR", data.len())),
        }
    }

    fn write_bar(&mut self, _bar: u8, offset: u64, data: &[u8]) {
        let at = (offset % PAGE) as usize;
        match offset - offset % PAGE {
            COMMON_AT => self.write_common(at, data),
            // By its address: what is written is the queue's index too, or with NOTIFICATION_DATA more than that.
            NOTIFY_AT if at.is_multiple_of(NOTIFY_MULTIPLIER as usize) => {
                self.registers.doorbell(at as u32 / NOTIFY_MULTIPLIER);
            }
            TABLE_AT => {
                let result = self.parts.msix.write_table(at, data);
                self.refused(result);
            }
            // The configuration space of a modern network device cannot be written (section 5.1.4).
            _ => self.registers.misuse(format_args!("a write of {} bytes at {offset:#x} of the BAR", data.len())),
        }
    }
}

#[cfg(test)]
mod tests;
