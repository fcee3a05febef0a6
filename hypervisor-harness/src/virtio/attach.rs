//! Putting a network device into a machine.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ringlet_driver::features::Features;
use ringlet_driver::wire::mmio::INTERRUPT_ACK;
use ringlet_driver::wire::{RECEIVE_QUEUE, TRANSMIT_QUEUE, status};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Counters;
use super::memory::Memory;
use super::mmio::{Line, Mmio};
use super::net::{self, Net, QUEUES};
use super::pci::{self, Parts, Pci};
use super::registers::{Control, Identity, Registers};
use super::shared::{Report, Shared};
use super::worker::{self, DEFAULT_SPIN, Remote};
use crate::affinity;
use crate::backend::{Backend, Jack, Network};
use crate::vhost_user;
use crate::vmm::{self, Machine, layout};

/// A network device could not be put into a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine did not take it.
    #[error(transparent)]
    Machine(#[from] vmm::Error),
    /// KVM does not connect it, or there is no descriptor to be had.
    #[error("the network device cannot be connected to the guest: {0}")]
    Wiring(io::Error),
    /// There is no thread or no descriptor to be had.
    #[error("the network device's thread cannot be started: {0}")]
    Thread(io::Error),
    /// Another process is to serve it, and cannot.
    #[error(transparent)]
    VhostUser(#[from] vhost_user::frontend::Error),
}

/// How a guest reaches a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Transport {
    /// Virtio over MMIO, told on the guest's command line.
    #[default]
    Mmio,
    /// Virtio over PCI, with MSI-X; the guest finds it by ACPI's MCFG table or by ports 0xcf8 and 0xcfc.
    Pci,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mmio => "mmio",
            Self::Pci => "pci",
        })
    }
}

/// How a network device is to be.
pub struct Options {
    /// How the guest reaches it.
    pub transport: Transport,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The features that it may offer; VERSION_1 it offers in any case.
    pub mask: Features,
    /// The greatest number of descriptors in its queues, [`net::MAX_QUEUE_SIZE`] at most.
    pub queue_size: u16,
    /// The longest time for which its thread looks for more to do before it sleeps.
    pub spin: Duration,
    /// The processor of the host that its thread stays on.
    pub cpu: Option<usize>,
    /// Takes its messages for people.
    pub report: Report,
}

impl Options {
    /// On MMIO, the MAC address of the demonstration network's guest, [`net::DEFAULT_MASK`], [`net::DEFAULT_QUEUE_SIZE`],
    /// [`DEFAULT_SPIN`]; on a host with a single processor, where looking for more work keeps the guest from making any, no
    /// time at all.
    #[must_use]
    pub fn new(report: Report) -> Self {
        let alone = std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1);
        let spin = if alone { Duration::ZERO } else { DEFAULT_SPIN };
        Self {
            transport: Transport::default(),
            mac: [0x52, 0x54, 0, 0x12, 0x34, 2],
            mask: net::DEFAULT_MASK,
            queue_size: net::DEFAULT_QUEUE_SIZE,
            spin,
            cpu: None,
            report,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("transport", &self.transport)
            .field("mac", &self.mac)
            .field("mask", &self.mask)
            .finish_non_exhaustive()
    }
}

/// The registers of a device in a machine, whatever moves its frames.
#[derive(Debug)]
pub struct Plugged {
    shared: Arc<Shared>,
    offered: Features,
    transport: Transport,
    /// On MMIO, written by KVM when the driver acknowledges an interrupt for used buffers; never read.
    _acknowledged: Option<EventFd>,
}

impl Plugged {
    /// What tells the guest of the device, on its command line; empty for one that it finds by itself.
    #[must_use]
    pub fn command_line(&self) -> String {
        if self.transport == Transport::Pci {
            return String::new();
        }
        let size = layout::NET_SIZE >> 10;
        format!("virtio_mmio.device={size}K@{:#x}:{}", layout::NET_BASE, layout::NET_GSI)
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// The state that the device's threads share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Puts the registers of a network device into a machine. `control` makes what moves the frames, given the shared state,
/// the eventfds that the guest's doorbells write, by queue, and the guest's memory. Over MMIO, a device that offers
/// NOTIFICATION_DATA has one eventfd for both queues: that is for a `control` whose one thread looks at both.
///
/// # Errors
/// If the machine does not take the device, or `control` fails. What `control` has made is dropped then.
pub fn plug<C: Control + 'static>(
    machine: &mut Machine,
    transport: Transport,
    identity: Identity,
    report: Report,
    control: impl FnOnce(&Arc<Shared>, [EventFd; QUEUES], &Memory) -> Result<C, Error>,
) -> Result<Plugged, Error> {
    let memory = Memory::new(machine.ram().clone());
    let (shared, acknowledged) = match transport {
        Transport::Mmio => {
            let doorbell = |value: Option<u16>| {
                machine.notification(layout::NET_BASE + layout::QUEUE_NOTIFY, value.map(u32::from))
            };
            let doorbells = if identity.offered.contains(Features::NOTIFICATION_DATA) {
                // What the driver writes also says how far the queue has got, so that no value is known beforehand: one
                // eventfd hears everything. Whoever listens looks at both queues, whichever it is for.
                let both = doorbell(None)?;
                [both.try_clone().map_err(Error::Thread)?, both]
            } else {
                [doorbell(Some(RECEIVE_QUEUE))?, doorbell(Some(TRANSMIT_QUEUE))?]
            };
            // A driver that acknowledges whatever there is after each sleep need not leave the guest for that: the interrupt is an
            // edge, so that the device has nothing to do then. InterruptStatus goes on to say "used buffers", which is always
            // worth a look.
            let acknowledgement = layout::NET_BASE + INTERRUPT_ACK as u64;
            let acknowledged = machine
                .notification(acknowledgement, Some((status::INTERRUPT_QUEUE | status::INTERRUPT_CONFIG).into()))?;
            let line = Arc::new(Line::new(machine.interrupt(layout::NET_GSI)?));
            let shared = Arc::new(Shared::new(line.clone(), report));
            let control = control(&shared, doorbells, &memory)?;
            let registers = Registers::new(control, shared.clone(), memory, identity);
            machine.add_device(layout::NET_BASE, layout::NET_SIZE, Box::new(Mmio::new(registers, line)))?;
            (shared, Some(acknowledged))
        }
        Transport::Pci => {
            let doorbells = || Ok([EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?]);
            let made = doorbells().and_then(|[receive, transmit]: [EventFd; QUEUES]| {
                let heard = [receive.try_clone()?, transmit.try_clone()?];
                Ok((Parts::new(layout::PCI_WINDOW.start, heard, machine.wiring(pci::VECTORS))?, [receive, transmit]))
            });
            let (parts, doorbells) = made.map_err(Error::Wiring)?;
            let shared = Arc::new(Shared::new(parts.interrupts().clone(), report));
            let control = control(&shared, doorbells, &memory)?;
            let registers = Registers::new(control, shared.clone(), memory, identity);
            machine.add_function(Box::new(Pci::new(registers, parts)))?;
            (shared, None)
        }
    };
    Ok(Plugged { shared, offered: identity.offered, transport, _acknowledged: acknowledged })
}

/// A network device in a machine, whose frames are moved by a thread of this process.
///
/// Stop the machine first, then [`Handle::stop`] the device. A handle that is dropped leaves the device running for as
/// long as the machine exists.
#[derive(Debug)]
pub struct Handle {
    plugged: Plugged,
    remote: Remote,
    thread: JoinHandle<()>,
}

impl Handle {
    /// What tells the guest of the device, on its command line; empty for one that it finds by itself.
    #[must_use]
    pub fn command_line(&self) -> String {
        self.plugged.command_line()
    }

    /// What the device offers.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.plugged.offered()
    }

    /// What was negotiated; nothing as long as the guest's driver is not up.
    #[must_use]
    pub fn negotiated(&self) -> Features {
        self.plugged.shared.negotiated()
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.plugged.shared.counters()
    }

    /// The state shared with the device: counters and what was negotiated, for a thread that does not own the handle.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        self.plugged.shared.clone()
    }

    /// Makes the device's thread end, and the backend with it. Waits until it does not touch the guest's memory any more.
    pub fn stop(&self) {
        self.remote.stop();
    }

    /// Waits for the end of the device's thread, which [`Handle::stop`] brings about. Returns the last counters.
    ///
    /// # Panics
    /// If the device's thread has panicked, with its panic.
    pub fn join(self) -> Counters {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.plugged.shared.counters()
    }
}

/// Puts a network device into a machine, with `network` behind it and a thread of its own.
///
/// # Errors
/// If the machine does not take it, or there is no thread to be had.
pub fn attach(machine: &mut Machine, network: impl Network, options: Options) -> Result<Handle, Error> {
    network.plug_into(Slot { machine, options })
}

/// Where the network of a new device is plugged in.
struct Slot<'m> {
    machine: &'m mut Machine,
    options: Options,
}

impl Jack for Slot<'_> {
    type Plugged = Result<Handle, Error>;

    fn plug<B: Backend + 'static>(self, backend: B) -> Self::Plugged {
        attach_backend(self.machine, backend, self.options)
    }
}

fn attach_backend<B: Backend + 'static>(machine: &mut Machine, backend: B, options: Options) -> Result<Handle, Error> {
    let Options { transport, mac, mask, queue_size, spin, cpu, report } = options;
    let identity = Identity { offered: net::offered(&backend, mask), mac, mtu: backend.mtu(), queue_size };
    let mut spawned = None;
    let plugged = plug(machine, transport, identity, report, |shared, doorbells, memory| {
        let net = Net::new(memory.clone(), backend, shared.clone());
        let (remote, thread) = worker::spawn(net, shared.clone(), doorbells, spin).map_err(Error::Thread)?;
        if let Some(Err(error)) = cpu.map(|cpu| affinity::pin(&thread, cpu)) {
            remote.stop();
            return Err(Error::Thread(error));
        }
        let control = remote.try_clone().map_err(Error::Thread);
        spawned = Some((remote, thread));
        control
    });
    match (plugged, spawned) {
        (Ok(plugged), Some((remote, thread))) => Ok(Handle { plugged, remote, thread }),
        (Err(error), spawned) => {
            // A thread without a device would sleep for ever.
            spawned.inspect(|(remote, _)| remote.stop());
            Err(error)
        }
        (Ok(_), None) => unreachable!("a device is plugged in only with what moves its frames"),
    }
}
