//! One connection to a backend: what is said on it, and in which order.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use ringlet_driver::features::Features;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures as Protocol};
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserVirtioFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::deadline::Deadline;
use crate::virtio::net::{Activation, QUEUES};
use crate::virtio::queue::Place;
use crate::vmm::GuestRam;

/// Features that are between the driver and the backend: they are offered if the backend offers them, and the backend is told
/// of them.
const PASSED: Features = Features::VERSION_1
    .union(Features::EVENT_IDX)
    .union(Features::INDIRECT_DESC)
    .union(Features::MRG_RXBUF)
    .union(Features::CSUM)
    .union(Features::GUEST_CSUM)
    .union(Features::HOST_TSO4)
    .union(Features::HOST_TSO6)
    .union(Features::HOST_ECN)
    .union(Features::HOST_UFO)
    .union(Features::HOST_USO)
    .union(Features::GUEST_TSO4)
    .union(Features::GUEST_TSO6)
    .union(Features::GUEST_ECN)
    .union(Features::GUEST_UFO)
    .union(Features::GUEST_USO4)
    .union(Features::GUEST_USO6)
    .union(Features::GUEST_HDRLEN)
    .union(Features::RSC_EXT)
    .union(Features::RING_PACKED)
    .union(Features::IN_ORDER)
    .union(Features::ORDER_PLATFORM);
/// Features that the registers have, and that this frontend honours whatever the backend. NOTIFICATION_DATA is not one: an
/// eventfd carries no data. Neither is what needs a control queue.
const OWN: Features = Features::MAC.union(Features::STATUS).union(Features::MTU).union(Features::RING_RESET);
/// The extensions of the protocol that are used where the backend has them.
const EXTENSIONS: Protocol = Protocol::REPLY_ACK.union(Protocol::MTU).union(Protocol::RESET_DEVICE);

/// VHOST_USER_SET_VRING_BASE and VHOST_USER_NET_SET_MTU, which are not to be had from the crate `vhost` as they are needed.
const SET_VRING_BASE: u32 = 10;
const NET_SET_MTU: u32 = 20;
/// The flags of a message's header: the protocol's version, "this is an answer", "answer this".
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// Where a packed ring begins: at its first descriptor, for the driver's side and the device's, with both wrap counters 1
/// (virtio 1.3, section 2.8.1).
const PACKED_BASE: u32 = 0x8000_8000;

/// The descriptors by which a backend and a driver wake each other.
#[derive(Debug)]
pub(super) struct Wakes<'a> {
    /// Written when the driver rings.
    pub(super) kick: &'a EventFd,
    /// Written to interrupt the driver.
    pub(super) call: &'a EventFd,
}

/// One connection to a backend.
pub(super) struct Session {
    frontend: Frontend,
    socket: Arc<UnixStream>,
    deadline: Deadline,
    patience: Duration,
    /// What the backend offers.
    features: u64,
    /// The extensions of the protocol that were agreed on.
    protocol: Protocol,
    /// The queues that the backend was given and has not given back.
    running: [bool; QUEUES],
}

impl Session {
    /// Begins: the backend's features, and the extensions of the protocol. No answer may take longer than `patience`.
    ///
    /// # Errors
    /// If the other side is no backend that can be used.
    pub(super) fn begin(socket: UnixStream, patience: Duration) -> Result<Self, Error> {
        let deadline = Deadline::new(&socket)?;
        let frontend = Frontend::from_stream(socket.try_clone()?, QUEUES as u64);
        let (protocol, running) = (Protocol::empty(), [false; QUEUES]);
        let socket = Arc::new(socket);
        let mut session = Self { frontend, socket, deadline, patience, features: 0, protocol, running };
        let _within = session.deadline.within(patience);
        session.features = session.call("GET_FEATURES", VhostBackend::get_features)?;
        if session.extensible() {
            let offered = session.call_mut("GET_PROTOCOL_FEATURES", VhostUserFrontend::get_protocol_features)?;
            let agreed = offered & EXTENSIONS;
            session.call_mut("SET_PROTOCOL_FEATURES", |frontend| frontend.set_protocol_features(agreed))?;
            session.protocol = agreed;
            if agreed.contains(Protocol::REPLY_ACK) {
                session.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        session.call("SET_OWNER", VhostBackend::set_owner)?;
        if !session.offered().contains(Features::VERSION_1) {
            return Err(Error::Legacy);
        }
        Ok(session)
    }

    /// What can be offered to the driver with this backend.
    pub(super) fn offered(&self) -> Features {
        Features::from_bits_retain(self.features) & PASSED | OWN
    }

    /// Whether it can do what the driver has accepted.
    ///
    /// # Errors
    /// What it lacks.
    pub(super) fn check(&self, accepted: Features) -> Result<(), Error> {
        let lacking = accepted - self.offered();
        if lacking.is_empty() { Ok(()) } else { Err(Error::Lacks(lacking)) }
    }

    /// Whether the backend knows rings that are enabled and disabled, and extensions of the protocol.
    fn extensible(&self) -> bool {
        self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }

    /// For somebody who wants to know when the connection ends.
    pub(super) fn socket(&self) -> Arc<UnixStream> {
        self.socket.clone()
    }

    /// Gives the backend the guest's memory and the queues. `wakes` are of the queue of that index.
    ///
    /// # Errors
    /// If it does not take them; it may have begun to work on some then.
    pub(super) fn start(
        &mut self,
        activation: &Activation,
        ram: &GuestRam,
        mtu: u16,
        wakes: &[Wakes<'_>; QUEUES],
    ) -> Result<(), Error> {
        let _within = self.deadline.within(self.patience);
        let Activation { features, queues } = activation;
        self.check(*features)?;
        let mut accepted = (*features & PASSED).bits();
        if self.extensible() {
            accepted |= VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        }
        self.call("SET_FEATURES", |frontend| frontend.set_features(accepted))?;
        if self.protocol.contains(Protocol::MTU) && features.contains(Features::MTU) {
            self.raw("NET_SET_MTU", NET_SET_MTU, &u64::from(mtu).to_ne_bytes())?;
        }
        let file = ram.file().ok_or(Error::PrivateMemory)?;
        let memory = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: ram.size(),
            userspace_addr: ram.host_start() as u64,
            mmap_offset: 0,
            mmap_handle: file.as_raw_fd(),
        };
        self.call("SET_MEM_TABLE", |frontend| frontend.set_mem_table(&[memory]))?;
        for (index, (place, wakes)) in queues.iter().zip(wakes).enumerate() {
            if let Some(place) = place {
                self.start_queue(index, place, features, ram, wakes)?;
            }
        }
        self.settle()
    }

    /// Gives the backend one queue, which begins at the beginning.
    fn start_queue(
        &mut self,
        index: usize,
        place: &Place,
        features: &Features,
        ram: &GuestRam,
        wakes: &Wakes<'_>,
    ) -> Result<(), Error> {
        // The protocol has addresses of ours there, not of the guest's.
        let host = |address: u64| ram.host_start() as u64 + address;
        let addresses = VringConfigData {
            queue_max_size: place.size,
            queue_size: place.size,
            flags: 0,
            desc_table_addr: host(place.descriptors),
            avail_ring_addr: host(place.driver),
            used_ring_addr: host(place.device),
            log_addr: None,
        };
        let base = if features.contains(Features::RING_PACKED) { PACKED_BASE } else { 0 };
        self.call("SET_VRING_NUM", |frontend| frontend.set_vring_num(index, place.size))?;
        // The crate sends 16 bits, which is half of where a packed ring is.
        let state = [index as u32, base].map(u32::to_ne_bytes).concat();
        self.raw("SET_VRING_BASE", SET_VRING_BASE, &state)?;
        self.call("SET_VRING_ADDR", |frontend| frontend.set_vring_addr(index, &addresses))?;
        self.running[index] = true;
        self.call("SET_VRING_KICK", |frontend| frontend.set_vring_kick(index, wakes.kick))?;
        self.call("SET_VRING_CALL", |frontend| frontend.set_vring_call(index, wakes.call))?;
        if self.extensible() {
            self.call_mut("SET_VRING_ENABLE", |frontend| frontend.set_vring_enable(index, true))?;
        }
        Ok(())
    }

    /// Brings one queue back that was stopped.
    ///
    /// # Errors
    /// If the backend does not take it.
    pub(super) fn restart_queue(
        &mut self,
        index: usize,
        place: &Place,
        features: &Features,
        ram: &GuestRam,
        wakes: &Wakes<'_>,
    ) -> Result<(), Error> {
        let _within = self.deadline.within(self.patience);
        self.start_queue(index, place, features, ram, wakes)?;
        self.settle()
    }

    /// Takes one queue back. When this returns without an error, the backend does not touch it any more.
    ///
    /// # Errors
    /// If the backend does not answer.
    pub(super) fn stop_queue(&mut self, index: usize) -> Result<(), Error> {
        let _within = self.deadline.within(self.patience);
        if std::mem::take(&mut self.running[index]) {
            // Where it was is of no interest: it begins at the beginning when it comes back.
            self.call("GET_VRING_BASE", |frontend| frontend.get_vring_base(index))?;
        }
        Ok(())
    }

    /// Takes all queues back. When this returns without an error, the backend does not touch the guest's memory any more.
    ///
    /// # Errors
    /// If the backend does not answer.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        let any = self.running.contains(&true);
        (0..QUEUES).try_for_each(|index| self.stop_queue(index))?;
        if any && self.protocol.contains(Protocol::RESET_DEVICE) {
            let _within = self.deadline.within(self.patience);
            self.call_mut("RESET_DEVICE", VhostUserFrontend::reset_device)?;
        }
        Ok(())
    }

    /// Waits until the backend has done all that it was told. Where each request was answered, it has.
    fn settle(&self) -> Result<(), Error> {
        if !self.protocol.contains(Protocol::REPLY_ACK) {
            self.call("GET_FEATURES", VhostBackend::get_features)?;
        }
        Ok(())
    }

    fn call<T>(&self, step: &'static str, request: impl FnOnce(&Frontend) -> vhost::Result<T>) -> Result<T, Error> {
        request(&self.frontend).map_err(|error| Error::of(step, &error, self.expired()))
    }

    fn call_mut<T>(
        &mut self,
        step: &'static str,
        request: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T, Error> {
        request(&mut self.frontend).map_err(|error| Error::of(step, &error, self.expired()))
    }

    /// The seconds after which the backend was found too slow, if it was.
    fn expired(&self) -> Option<u64> {
        self.deadline.expired().then_some(self.patience.as_secs())
    }

    /// Sends a request that has no descriptors, and reads the answer if one is due. In host byte order, as the protocol is.
    fn raw(&self, step: &'static str, request: u32, body: &[u8]) -> Result<(), Error> {
        let answered = self.protocol.contains(Protocol::REPLY_ACK);
        let flags = VERSION | if answered { NEED_REPLY } else { 0 };
        let header = |flags, length: usize| [request, flags, length as u32].map(u32::to_ne_bytes).concat();
        let mut socket = &*self.socket;
        let lost = |_| match self.expired() {
            Some(seconds) => Error::Silent { step, seconds },
            None => Error::HungUp { step },
        };
        socket.write_all(&[&header(flags, body.len()), body].concat()).map_err(lost)?;
        if !answered {
            return Ok(());
        }
        let mut answer = [0; 20];
        socket.read_exact(&mut answer).map_err(lost)?;
        if answer[..12] != header(VERSION | REPLY, 8) {
            return Err(Error::Nonsense { step, why: format!("its header is {:02x?}", &answer[..12]) });
        }
        if answer[12..] == [0; 8] { Ok(()) } else { Err(Error::Refused { step }) }
    }
}
