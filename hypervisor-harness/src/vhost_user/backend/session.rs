//! One frontend's session: what it has said so far, message by message, and what follows from it for the device.
//!
//! The rings of the device follow what is wanted: after each message that may have changed that, the session stops the rings
//! that are not to run any more, or not as they do, and starts those that are. A ring that is stopped says where it stands,
//! and goes on from there; frames in its hands are taken again.

use std::fs::File;
use std::io;
use std::sync::Arc;

use ringlet_driver::features::Features;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg, VhostUserSingleMemoryRegion,
    VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error, GpuBackend, Result, VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vmm_sys_util::eventfd::EventFd;

use super::device::Device;
use super::ring::{self, Ring};
use super::{News, Reporter, because};
use crate::virtio::memory::{Losses, MOST_REGIONS, Region, Table, losses};
use crate::virtio::net::QUEUES;

/// The feature bit by which a frontend says that it knows protocol features: rings begin disabled then.
const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// The protocol features that are honoured. REPLY_ACK is the crate's.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// The greatest size of a ring in the virtio specification.
const MOST_DESCRIPTORS: u32 = 32768;

/// A request is refused: this ends the connection, and its reason is said.
fn refuse(why: impl std::fmt::Display) -> Error {
    Error::ReqHandlerError(io::Error::other(why.to_string()))
}

/// A request that belongs to a feature which was not offered.
fn not_offered<T>() -> Result<T> {
    Err(refuse("it belongs to a feature that was not offered"))
}

/// One frontend's session. The device is unused again when it is dropped.
#[derive(Debug)]
pub struct Session {
    device: Arc<Device>,
    reporter: Reporter,
    /// What the frontend has accepted, with its own bits.
    features: Option<u64>,
    protocol: u64,
    table: Table,
    rings: [Ring; QUEUES],
    /// The device works with `features`.
    begun: bool,
    /// What had been lost when that was last looked at.
    losses: Losses,
    /// The same of interrupts; that some are lost is said once in a session.
    lost_calls: u64,
}

impl Session {
    /// A session with a frontend that has not said anything yet.
    #[must_use]
    pub fn new(device: Arc<Device>, reporter: Reporter) -> Self {
        Self {
            lost_calls: device.calls().lost(),
            device,
            reporter,
            features: None,
            protocol: 0,
            table: Table::default(),
            rings: Default::default(),
            begun: false,
            losses: losses(),
        }
    }

    /// Whether the frontend has accepted features.
    pub(super) fn has_features(&self) -> bool {
        self.features.is_some()
    }

    /// Whether the frontend may ask for the acknowledgement of any request.
    pub(super) fn acknowledges(&self) -> bool {
        self.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
    }

    /// Memory of the guest may have been lost: that was noticed, perhaps.
    pub(super) fn look_after_memory(&mut self) {
        let (before, now) = (self.losses, losses());
        self.losses = now;
        if now.withdrawn != before.withdrawn {
            let text = "memory of the guest is gone: the frontend has made its file shorter, or the file system on which that is \
                        has no more room or huge pages; give it more (df, /proc/meminfo), or see to the frontend";
            self.reporter.tell(News::Complaint(text.into()));
        }
        if now.broken != before.broken {
            let text = "memory of the guest is gone: this machine's memory has an error, see the kernel's log (dmesg)";
            self.reporter.tell(News::Complaint(text.into()));
        }
    }

    /// The kernel may not have passed on an interrupt.
    pub(super) fn look_after_calls(&mut self) {
        if self.device.calls().lost() > self.lost_calls {
            self.lost_calls = u64::MAX;
            let text = "the kernel does not pass on interrupts, for want of memory: the driver may wait for one; see to the \
                        memory of this machine and of this process' cgroup";
            self.reporter.tell(News::Complaint(text.into()));
        }
    }

    fn ring(&mut self, index: u32) -> Result<(u16, &mut Ring)> {
        let known = usize::try_from(index).ok().and_then(|place| self.rings.get_mut(place));
        let ring = known.ok_or_else(|| refuse(format!("there is no ring {index}: this device has {QUEUES}")))?;
        Ok((index as u16, ring))
    }

    /// A ring of which something is to change that cannot change while it is in use.
    fn still_ring(&mut self, index: u32) -> Result<&mut Ring> {
        let (_, ring) = self.ring(index)?;
        if ring.running {
            return Err(refuse(format!("ring {index} is in use: GET_VRING_BASE stops it")));
        }
        Ok(ring)
    }

    /// Ends the use of a ring, and remembers where it stood. After a fault that is where it stood when it was started.
    fn stop(&mut self, index: usize) {
        let ring = &mut self.rings[index];
        if std::mem::take(&mut ring.running)
            && let Some(position) = self.device.stop_queue(index as u16)
        {
            ring.base = position;
        }
    }

    fn stop_all(&mut self) {
        for index in 0..QUEUES {
            self.stop(index);
        }
    }

    /// Brings the device in line with what is wanted.
    fn follow(&mut self) -> Result<()> {
        let Some(features) = self.features else { return Ok(()) };
        self.look_after_memory();
        self.look_after_calls();
        let enabled = |ring: &Ring| ring.enabled || features & PROTOCOL_FEATURES == 0;
        for index in 0..QUEUES {
            let ring = &self.rings[index];
            // What a disabled ring sends is taken and thrown away.
            let sends = index % 2 == 1;
            if sends && ring.started {
                self.device.set_mute(!enabled(ring));
            }
            // Where a ring is that is not wanted is of no interest: its addresses may be those of a table before this one.
            let wanted = match ring.started && (sends || enabled(ring)) {
                true => ring.place(&self.table).map_err(|error| refuse(format!("ring {index} {error}")))?,
                false => None,
            };
            match wanted {
                None => self.stop(index),
                Some(_) if ring.running => {}
                Some(place) => {
                    let accepted = Features::from_bits_retain(features & !PROTOCOL_FEATURES);
                    let base = ring.first(accepted.contains(Features::RING_PACKED));
                    self.begin(accepted);
                    // After a fault, of which the device has told, it does nothing before its driver starts again.
                    if !self.device.needs_reset() {
                        self.device.start_queue(index as u16, place, base);
                        self.rings[index].running = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes the device work with these features, unless it does.
    fn begin(&mut self, features: Features) {
        if !std::mem::replace(&mut self.begun, true) {
            self.device.begin(features);
            if !self.device.needs_reset() {
                self.reporter.tell(News::Started(features));
            }
        }
    }

    /// The device is not to work any more as it does.
    fn end(&mut self) {
        self.stop_all();
        if std::mem::take(&mut self.begun) {
            self.device.end();
        }
    }

    /// Another memory table: the old one's mappings end with the last queue that used them.
    fn set_table(&mut self, regions: Vec<Region>) -> Result<()> {
        self.stop_all();
        self.table = Table::default();
        self.device.set_memory(self.table.memory());
        self.table = Table::new(regions).map_err(|error| refuse(because(&error)))?;
        self.device.set_memory(self.table.memory());
        self.follow()
    }
}

/// An eventfd that comes with a message, if one does.
fn event(file: Option<File>) -> Result<Option<EventFd>> {
    file.map(ring::event).transpose().map_err(refuse)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
        self.device.set_memory(Table::default().memory());
        // Nothing of this frontend's is left to the next one, nor is anything of it looked at any more.
        for queue in 0..QUEUES as u16 {
            self.device.set_doorbell(queue, None);
            self.device.calls().set_call(queue, None);
            self.device.calls().set_error(queue, None);
        }
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.end();
        self.rings = Default::default();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.offered().bits() | PROTOCOL_FEATURES)
    }

    fn set_features(&mut self, bits: u64) -> Result<()> {
        let features = Features::from_bits_retain(bits & !PROTOCOL_FEATURES);
        let beyond = features - self.device.offered();
        if !beyond.is_empty() {
            return Err(refuse(format!("features that were not offered: {beyond}")));
        }
        if !features.contains(Features::VERSION_1) {
            return Err(refuse(
                "the driver is a legacy one (no VIRTIO_F_VERSION_1); disable-legacy=on in QEMU keeps such drivers away",
            ));
        }
        let unmet = features - features.without_unmet();
        if !unmet.is_empty() {
            return Err(refuse(format!("features without others that they need: {unmet}")));
        }
        if self.features.replace(bits) != Some(bits) {
            self.end();
        }
        self.follow()
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<u64>>> {
        self.set_table(regions.iter().zip(files).map(|(region, file)| mapped(region, file)).collect())?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|_| (1..=MOST_DESCRIPTORS).contains(&num));
        self.still_ring(index)?.size =
            size.ok_or_else(|| refuse(format!("a ring of {num} descriptors: 1 to {MOST_DESCRIPTORS} can be")))?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return Err(refuse("the log of used buffers was not offered"));
        }
        self.still_ring(index)?.addresses = Some([descriptor, available, used]);
        self.follow()
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.still_ring(index)?.base = base;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (queue, _) = self.ring(index)?;
        self.stop(usize::from(queue));
        let ring = &mut self.rings[usize::from(queue)];
        ring.started = false;
        let base = ring.base;
        if self.rings.iter().all(|ring| !ring.running) {
            // The driver was reset, perhaps: a fault that there was is forgotten.
            self.end();
        }
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let Some(event) = event(file)? else {
            return Err(refuse("a ring without a descriptor for doorbells (to be polled for ever) is not served"));
        };
        let (queue, ring) = self.ring(index.into())?;
        ring.started = true;
        self.device.set_doorbell(queue, Some(event));
        self.follow()
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let event = event(file)?;
        let (queue, _) = self.ring(index.into())?;
        self.device.calls().set_call(queue, event);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let event = event(file)?;
        let (queue, _) = self.ring(index.into())?;
        self.device.calls().set_error(queue, event);
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, bits: u64) -> Result<()> {
        match bits & !PROTOCOL.bits() {
            0 => {
                self.protocol = bits;
                Ok(())
            }
            beyond => Err(refuse(format!("protocol features that were not offered: {beyond:#x}"))),
        }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        // Rings, as the specification says. QEMU takes it for pairs: it asks for two of them only if told to (queues=2), and hears
        // then that there is no ring 2.
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.1.enabled = enable;
        self.follow()
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        not_offered()
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        not_offered()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        not_offered()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        not_offered()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        not_offered()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        not_offered()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MOST_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> Result<Option<u64>> {
        self.stop_all();
        let mut regions = std::mem::take(&mut self.table).into_regions();
        regions.push(mapped(region, file));
        self.set_table(regions)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, gone: &VhostUserSingleMemoryRegion) -> Result<()> {
        let (guest, frontend, size) = (gone.guest_phys_addr, gone.user_addr, gone.memory_size);
        let same = |region: &Region| (region.guest, region.frontend, region.size) == (guest, frontend, size);
        let place = self.table.regions().iter().position(same);
        let place = place.ok_or_else(|| refuse(format!("there is no memory region at {guest:#x} like that")))?;
        self.stop_all();
        let mut regions = std::mem::take(&mut self.table).into_regions();
        regions.remove(place);
        self.set_table(regions)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        not_offered()
    }

    fn check_device_state(&mut self) -> Result<()> {
        not_offered()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        not_offered()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        not_offered()
    }
}

/// A region as the table takes it.
fn mapped(region: &VhostUserMemoryRegion, file: File) -> Region {
    Region {
        guest: region.guest_phys_addr,
        size: region.memory_size,
        frontend: region.user_addr,
        offset: region.mmap_offset,
        file,
    }
}
