//! What devices connect to in KVM while the guest runs: messages to its processor, and doorbells.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::pci::{Message, Wiring};

/// Pins of KVM's IOAPIC; interrupt numbers from here on are free for messages.
const IOAPIC_PINS: u32 = 24;
/// Pins of each of the two PICs.
const PIC_PINS: u32 = 8;

/// The interrupt routes of a machine: those of the lines, and the messages of all functions.
#[derive(Debug)]
pub struct Routes {
    vm: Arc<VmFd>,
    /// By interrupt number less [`IOAPIC_PINS`].
    messages: Mutex<Vec<Option<Message>>>,
}

impl Routes {
    /// The routes that KVM itself makes: the lines.
    #[must_use]
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, messages: Mutex::default() }
    }

    /// Puts the messages of one function, whose interrupt numbers begin at `first`, in the place of those it had before.
    fn set(&self, first: u32, own: &[Option<Message>]) -> io::Result<()> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = messages.clone();
        let first = (first - IOAPIC_PINS) as usize;
        new[first..first + own.len()].copy_from_slice(own);
        let entries: Vec<_> = lines()
            .chain((IOAPIC_PINS..).zip(&new).filter_map(|(gsi, message)| Some(to_processor(gsi, (*message)?))))
            .collect();
        let table = KvmIrqRouting::from_entries(&entries).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        self.vm.set_gsi_routing(&table).map_err(host_error)?;
        *messages = new;
        Ok(())
    }
}

fn host_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

/// The lines as KVM routes them by default: each to its pin of the IOAPIC, and the first sixteen to the PICs too.
fn lines() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let line = |gsi, irqchip, pin| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    (0..IOAPIC_PINS).flat_map(move |gsi| {
        let pic = match gsi / PIC_PINS {
            0 => Some(KVM_IRQCHIP_PIC_MASTER),
            1 => Some(KVM_IRQCHIP_PIC_SLAVE),
            _ => None,
        };
        [pic.map(|chip| line(gsi, chip, gsi % PIC_PINS)), Some(line(gsi, KVM_IRQCHIP_IOAPIC, gsi))]
            .into_iter()
            .flatten()
    })
}

fn to_processor(gsi: u32, message: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    entry
}

/// One function's connections to KVM.
#[derive(Debug)]
pub struct KvmWiring {
    routes: Arc<Routes>,
    /// The interrupt number of its first vector.
    first: u32,
}

impl KvmWiring {
    /// Connections for a function with that many vectors.
    #[must_use]
    pub fn new(routes: &Arc<Routes>, vectors: u16) -> Self {
        let mut messages = routes.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let first = IOAPIC_PINS + messages.len() as u32;
        messages.extend(std::iter::repeat_n(None, vectors.into()));
        Self { routes: routes.clone(), first }
    }
}

impl Wiring for KvmWiring {
    fn route(&mut self, messages: &[Option<Message>]) -> io::Result<()> {
        self.routes.set(self.first, messages)
    }

    fn connect(&mut self, event: &EventFd, vector: u16) -> io::Result<()> {
        self.routes.vm.register_irqfd(event, self.first + u32::from(vector)).map_err(host_error)
    }

    fn disconnect(&mut self, event: &EventFd, vector: u16) -> io::Result<()> {
        self.routes.vm.unregister_irqfd(event, self.first + u32::from(vector)).map_err(host_error)
    }

    fn listen(&mut self, event: &EventFd, address: u64) -> io::Result<()> {
        // Of any width and any value: what is written is the queue's index, which the address says too.
        self.routes.vm.register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch).map_err(host_error)
    }

    fn ignore(&mut self, event: &EventFd, address: u64) -> io::Result<()> {
        self.routes.vm.unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch).map_err(host_error)
    }
}
