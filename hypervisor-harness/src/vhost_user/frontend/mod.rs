//! The network device's queues are served by another process, the backend: dpdk-testpmd, OVS-DPDK, VPP. What is here is the
//! frontend of the protocol vhost-user (<https://qemu-project.gitlab.io/qemu/interop/vhost-user.html>).
//!
//! The registers are ours, and so are MAC address, MTU and link status. Everything else is between the guest's driver and the
//! backend: the guest's memory is a file that the backend maps, the doorbell of a queue is an eventfd that KVM writes and
//! the backend reads, its interrupt one that the backend writes and KVM reads. No frame and no notification passes through
//! this process.
//!
//! - [`connect()`] waits for the backend, [`attach()`] puts the device into a machine.
//! - `session`: one connection: what is said on it, and in which order.
//! - `device`: what the registers control.
//! - `keeper`: the thread that notices when the backend goes, and begins anew with the next one.
//!
//! # Trust
//! The backend can read and write all of the guest's memory, as any device can that has no IOMMU. It is not trusted beyond
//! that: what it answers is checked, and waited for no longer than [`PATIENCE`]. A backend that hangs, lies, or goes costs
//! the guest its link, and nothing else. What cannot be prevented: a backend that does not answer when it is told to stop
//! may still have the guest's memory, and write to it after the device was reset.

mod connect;
mod deadline;
mod device;
mod error;
mod keeper;
mod session;
#[cfg(test)]
mod tests;

pub use error::Error;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ringlet_driver::features::Features;

use self::connect::Connector;
use self::device::{Device, Remote};
use self::keeper::Keeper;
use self::session::Session;
use crate::backend::options::VhostUser;
use crate::virtio::registers::Identity;
use crate::virtio::{self, Options, Plugged, event};
use crate::vmm::Machine;

/// The longest time that a backend has for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The MTU that the device tells, in bytes of IP packet.
const MTU: u16 = 1500;

/// A connection to a backend, which no machine uses yet.
pub struct Link {
    connector: Connector,
    session: Session,
    patience: Duration,
}

impl Link {
    /// What the device can offer with this backend, when only features in `mask` may be; VERSION_1 in any case.
    #[must_use]
    pub fn offered(&self, mask: Features) -> Features {
        (self.session.offered() & (mask | Features::VERSION_1)).without_unmet()
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("address", self.connector.address()).finish_non_exhaustive()
    }
}

/// Waits for a backend at this address. As long as there is none, `wait` is called: it lets some time pass, and says
/// whether to go on. `None` if not.
///
/// # Errors
/// If what is there is no backend that can be used, or nobody can ever be there.
pub fn connect(address: &VhostUser, patience: Duration, wait: &mut dyn FnMut() -> bool) -> Result<Option<Link>, Error> {
    let connector = Connector::new(address.clone())?;
    loop {
        if let Some(socket) = connector.attempt()? {
            return Ok(Some(Link { session: Session::begin(socket, patience)?, connector, patience }));
        }
        if !wait() {
            return Ok(None);
        }
    }
}

/// A network device in a machine that another process serves.
///
/// Stop the machine first, then [`Handle::end`] the device.
pub struct Handle {
    plugged: Plugged,
    device: Arc<Device>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("plugged", &self.plugged).finish_non_exhaustive()
    }
}

impl Handle {
    /// What tells the guest of the device, on its command line.
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
        self.plugged.shared().negotiated()
    }

    /// The backend is to give everything back, and the connection ends. When this returns, a backend that obeys does not
    /// touch the guest's memory any more.
    ///
    /// # Panics
    /// If the connection's thread has panicked, with its panic.
    pub fn end(self) {
        self.device.end();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// Puts a network device into a machine, whose memory must be shared, with the backend of `link` behind it.
///
/// # Errors
/// If the machine does not take it, or there are no descriptors or threads to be had.
pub fn attach(machine: &mut Machine, link: Link, options: Options) -> Result<Handle, virtio::Error> {
    let ram = machine.ram().clone();
    if ram.file().is_none() {
        return Err(Error::PrivateMemory.into());
    }
    event::ready().map_err(Error::Kernel)?;
    let Options { transport, mac, mask, queue_size, report, .. } = options;
    let identity = Identity { offered: link.offered(mask), mac, mtu: MTU, queue_size };
    let Link { connector, session, patience } = link;
    let mut made = None;
    let plugged = virtio::plug(machine, transport, identity, report, |shared, doorbells, _| {
        let device = Device::new(session, shared.clone(), ram, MTU, doorbells).map_err(Error::Resources)?;
        let device = Arc::new(device);
        made = Some(device.clone());
        Ok(Remote(device))
    })?;
    let Some(device) = made else { unreachable!("a device is plugged in only with what serves it") };
    let mut keeper = Keeper::new(device.clone(), connector, patience);
    let run = move || keeper.run();
    let thread = std::thread::Builder::new().name("vhost-user".into()).spawn(run).map_err(Error::Resources)?;
    Ok(Handle { plugged, device, thread })
}
