//! A driver of a few lines, and its frontend: split rings of eight descriptors in a file of one mebibyte.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::LONG;
use crate::virtio::Wait;
use crate::virtio::event::hostile;

/// Bytes of the guest's memory.
pub const SIZE: u64 = 1 << 20;
/// Where it is for the guest.
const GUEST: u64 = 0x4000_0000;
/// Where it is for the frontend.
pub const FRONTEND: u64 = 0x7f12_3450_0000;

/// Descriptors of a ring.
const RING: u16 = 8;
/// Offsets of a ring's parts from its start, which is the ring's number in pages.
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;
/// Offset of the buffers, each of them 2 KiB: first those of the receive ring.
const BUFFERS: u64 = 0x8000;
const BUFFER: u64 = 2048;
/// Bytes of the header before a frame.
const HEADER: usize = 12;

/// A file for a guest's memory.
pub fn memory() -> File {
    // SAFETY: the name is a C string; the descriptor that comes back is new, and ours.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(SIZE).unwrap();
    file
}

/// A region of a memory table.
pub fn region(guest: u64, size: u64, frontend: u64, offset: u64, file: &impl AsRawFd) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: guest,
        memory_size: size,
        userspace_addr: frontend,
        mmap_offset: offset,
        mmap_handle: file.as_raw_fd(),
    }
}

pub struct Driver {
    pub frontend: Frontend,
    pub memory: File,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
    errors: [EventFd; 2],
    /// The rings' available indices.
    available: [u16; 2],
    /// The used indices when the rings were last started.
    first: [u16; 2],
    sent: u16,
    got: u16,
}

impl Driver {
    pub fn new(stream: UnixStream) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let frontend = Frontend::from_stream(stream, 3);
        Self {
            frontend,
            memory: memory(),
            kicks: [event(), event()],
            calls: [event(), event()],
            errors: [event(), event()],
            available: [0; 2],
            first: [0; 2],
            sent: 0,
            got: 0,
        }
    }

    /// Accepts features of the device, and the protocol's.
    pub fn accept(&mut self, features: u64) -> vhost::Result<()> {
        self.frontend.set_owner().unwrap();
        let offered = self.frontend.get_features().unwrap();
        let protocol = self.frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ));
        self.frontend.set_protocol_features(protocol).unwrap();
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(self.frontend.get_queue_num().unwrap(), 2);
        self.frontend.set_features(features | offered & 1 << 30)
    }

    pub fn region(&self) -> VhostUserMemoryRegionInfo {
        region(GUEST, SIZE, FRONTEND, 0, &self.memory)
    }

    /// The guest's memory, and more.
    pub fn set_table(&mut self, more: &[VhostUserMemoryRegionInfo]) {
        let mut table = vec![self.region()];
        for more in more {
            table.push(VhostUserMemoryRegionInfo { ..*more });
        }
        self.frontend.set_mem_table(&table).unwrap();
    }

    pub fn set_addresses(&mut self, queue: usize, start: u64) -> vhost::Result<()> {
        let config = VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: start,
            used_ring_addr: start + USED,
            avail_ring_addr: start + AVAILABLE,
            log_addr: None,
        };
        self.frontend.set_vring_addr(queue, &config)
    }

    /// From the beginning to rings that work, whose indices begin at `base`.
    pub fn start(&mut self, base: u16) {
        self.accept(1 << 32).unwrap();
        self.set_table(&[]);
        self.fresh_rings();
        for ring in 0..2 {
            self.available[ring] = base;
            self.write16(ring as u64 * 0x1000 + AVAILABLE + 2, base);
            self.write16(ring as u64 * 0x1000 + USED + 2, base);
        }
        for _ in 0..4 {
            self.offer_buffer();
        }
        self.resume(base, base);
    }

    /// Rings as they are before anything has happened.
    pub fn fresh_rings(&mut self) {
        self.memory.write_all_at(&[0; 0x2000], 0).unwrap();
        (self.available, self.sent, self.got) = ([0; 2], 0, 0);
        for ring in 0..2_u64 {
            for slot in 0..u64::from(RING) {
                let address = GUEST + BUFFERS + (ring * u64::from(RING) + slot) * BUFFER;
                let writable = if ring == 0 { 2_u32 } else { 0 };
                let length = if ring == 0 { BUFFER as u32 } else { (HEADER + 42) as u32 };
                let bytes = [&address.to_le_bytes()[..], &length.to_le_bytes(), &writable.to_le_bytes()].concat();
                self.memory.write_all_at(&bytes, ring * 0x1000 + slot * 16).unwrap();
            }
        }
    }

    pub fn resume(&mut self, receive: u16, transmit: u16) {
        if self.available[0] == receive {
            self.offer_buffer();
        }
        for (ring, base) in [receive, transmit].into_iter().enumerate() {
            self.first[ring] = base;
            self.frontend.set_vring_num(ring, RING).unwrap();
            self.frontend.set_vring_base(ring, base).unwrap();
            self.set_addresses(ring, FRONTEND + ring as u64 * 0x1000).unwrap();
            self.frontend.set_vring_call(ring, &self.calls[ring]).unwrap();
            self.frontend.set_vring_err(ring, &self.errors[ring]).unwrap();
            self.frontend.set_vring_kick(ring, &self.kicks[ring]).unwrap();
            self.frontend.set_vring_enable(ring, true).unwrap();
        }
        (self.sent, self.got) = (0, 0);
    }

    /// Stops the rings. Returns their bases.
    pub fn stop(&mut self) -> [u32; 2] {
        [0, 1].map(|ring| self.frontend.get_vring_base(ring).unwrap())
    }

    fn read16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn write16(&self, at: u64, value: u16) {
        self.memory.write_all_at(&value.to_le_bytes(), at).unwrap();
    }

    /// Makes the descriptor available whose turn it is.
    fn offer(&mut self, ring: usize) {
        let (start, index) = (ring as u64 * 0x1000 + AVAILABLE, self.available[ring]);
        self.write16(start + 4 + u64::from(index % RING) * 2, index % RING);
        self.available[ring] = index.wrapping_add(1);
        self.write16(start + 2, self.available[ring]);
    }

    fn offer_buffer(&mut self) {
        self.offer(0);
    }

    pub fn kick(&self) {
        for kick in &self.kicks {
            kick.write(1).unwrap();
        }
    }

    /// Asks who has 10.0.0.1, from an address of its own each time.
    pub fn send(&mut self, nth: u16) {
        let [high, low] = nth.to_be_bytes();
        let me = [2, 0, 0, 0, high, low];
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let parts =
            [&[0; HEADER][..], &[0xff; 6], &me, &[8, 6], &request, &me, &[10, 0, 0, 77], &[0; 6], &[10, 0, 0, 1]];
        let slot = u64::from(RING + self.available[1] % RING);
        self.memory.write_all_at(&parts.concat(), BUFFERS + slot * BUFFER).unwrap();
        self.offer(1);
        self.kick();
    }

    fn used(&self, ring: usize) -> u16 {
        self.read16(ring as u64 * 0x1000 + USED + 2).wrapping_sub(self.first[ring])
    }

    /// Frames received since the rings were started.
    pub fn received(&self) -> u16 {
        self.used(0)
    }

    fn wait(&self, what: &str, there: impl Fn() -> bool) {
        let until = Instant::now() + LONG;
        while !there() {
            assert!(Instant::now() < until, "{what}");
            std::thread::yield_now();
        }
    }

    pub fn wait_sent(&self, count: u16) {
        self.wait("sent", || self.used(1) == count);
    }

    pub fn wait_received(&self, count: u16) {
        self.wait("received", || self.used(0) == count);
    }

    /// Sends a question, and checks the answer.
    pub fn ping(&mut self, nth: u16) {
        self.send(nth);
        (self.sent, self.got) = (self.sent + 1, self.got + 1);
        self.wait_sent(self.sent);
        self.wait_received(self.got);
        self.check(nth);
        self.offer_buffer();
        self.kick();
    }

    /// The same, by interrupt: nothing is looked at before it comes.
    pub fn ping_by_interrupt(&mut self, nth: u16) {
        self.send(nth);
        (self.sent, self.got) = (self.sent + 1, self.got + 1);
        while self.used(0) != self.got {
            Wait::default().sleep(&[self.calls[0].as_raw_fd()], Some(LONG)).unwrap();
            self.calls[0].read().expect("an interrupt");
        }
        self.check(nth);
        self.offer_buffer();
        self.kick();
    }

    /// The answer in the buffer that was used last.
    fn check(&self, nth: u16) {
        let index = self.first[0].wrapping_add(self.got - 1);
        let entry = USED + 4 + u64::from(index % RING) * 8;
        let mut frame = [0; HEADER + 42];
        let slot = u64::from(self.read16(entry));
        // The network fills short frames up.
        assert_eq!(usize::from(self.read16(entry + 4)), HEADER + 60);
        self.memory.read_exact_at(&mut frame, BUFFERS + slot * BUFFER).unwrap();
        let [high, low] = nth.to_be_bytes();
        assert_eq!(frame[HEADER..HEADER + 6], [2, 0, 0, 0, high, low]);
        assert_eq!(frame[HEADER + 12..HEADER + 14], [8, 6]);
        assert_eq!((frame[HEADER + 21], &frame[HEADER + 28..HEADER + 32]), (2, &[10, 0, 0, 1][..]));
    }

    /// Another descriptor for interrupts, in the place of the one that there is.
    pub fn exchange_call(&mut self) {
        self.calls[0] = EventFd::new(EFD_NONBLOCK).unwrap();
        self.frontend.set_vring_call(0, &self.calls[0]).unwrap();
    }

    /// Clears O_NONBLOCK on all descriptors that the device has been given.
    pub fn make_events_wait(&self) {
        [&self.kicks, &self.calls, &self.errors].into_iter().flatten().for_each(hostile::make_blocking);
    }

    /// The same, and leaves no room in the counters of those that the device writes.
    pub fn fill_events(&self) {
        [&self.calls, &self.errors].into_iter().flatten().for_each(hostile::fill);
    }

    /// In how many places this process has the descriptors that the device was given, besides these.
    pub fn events_elsewhere(&self) -> usize {
        let number = |path: std::path::PathBuf| {
            let about = std::fs::read_to_string(path).ok()?;
            about.lines().find(|line| line.starts_with("eventfd-id")).map(str::to_owned)
        };
        let all = std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
        let all: Vec<_> = all.filter_map(|entry| number(entry.path())).collect();
        let ours = [&self.kicks, &self.calls, &self.errors].into_iter().flatten();
        let count = |event: &EventFd| {
            let own = number(format!("/proc/self/fdinfo/{}", event.as_raw_fd()).into()).expect("Linux 5.2");
            all.iter().filter(|other| **other == own).count() - 1
        };
        ours.map(count).sum()
    }

    /// Says that the rings are served from here on, as they were described.
    pub fn start_ring(&mut self, ring: usize) -> vhost::Result<()> {
        self.frontend.set_vring_kick(ring, &self.kicks[ring])?;
        self.frontend.set_vring_enable(ring, true)
    }

    /// Says that more is available than the ring holds.
    pub fn break_ring(&mut self) {
        self.write16(0x1000 + AVAILABLE + 2, self.available[1].wrapping_add(100));
        self.kick();
    }

    pub fn wait_error(&self) {
        Wait::default().sleep(&[self.errors[1].as_raw_fd()], Some(LONG)).unwrap();
        self.errors[1].read().expect("the error is told");
    }
}
