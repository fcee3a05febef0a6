//! Any messages of a vhost-user frontend, well made and not, with any descriptors, while the rings' memory holds anything, grows
//! shorter, and the eventfds are made to block: no panic, no wait without end, and the next frontend is served.
//!
//! The connection is a pair of sockets in this thread; the device has its own, as it has in the program.

#![no_main]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use ringlet::backend::{Backend, Counters, Received, Scatter, Sent};
use ringlet::vhost_user::backend::device::Device;
use ringlet::vhost_user::backend::socket::{Answered, Conversation};
use ringlet::vhost_user::backend::{News, Reporter};
use ringlet::virtio::Options;
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The requests of the protocol that the acts below make, by number.
const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;

/// Bytes of the file that the rings are in, of which the others have half.
const SIZE: u64 = 0x1_0000;
/// Where the guest's memory is for the frontend.
const FRONTEND: u64 = 0x7000_0000_0000;
/// Where a ring's parts are, from the start of its page.
const DRIVER: u64 = 0x400;
const DEVICE: u64 = 0x800;
/// Where buffers are.
const BUFFERS: u64 = 0x8000;
/// Descriptors of a ring.
const RING: u16 = 8;
/// Longer than anything takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A region of memory, by pages, and a little beside them.
#[derive(Arbitrary, Debug)]
struct Place {
    guest: u8,
    frontend: u8,
    pages: u8,
    offset: u8,
    beside: i8,
    file: u8,
}

/// One thing that a frontend, its guest or the network does.
#[derive(Arbitrary, Debug)]
enum Act {
    /// Any message, with any of the descriptors.
    Message {
        code: u8,
        flags: u8,
        words: Vec<u32>,
        files: Vec<u8>,
    },
    /// Bytes that are no whole message, and the end.
    Bytes(Vec<u8>),
    /// All that there is to do until the rings work.
    Start {
        packed: bool,
        extended: bool,
    },
    Features(u64),
    Protocol(u8),
    Table(Vec<Place>),
    Add(Place),
    Remove(Place),
    Size {
        ring: bool,
        size: u16,
    },
    Addresses {
        ring: bool,
        at: [u16; 3],
    },
    Base {
        ring: bool,
        base: u32,
    },
    Stop(bool),
    /// A doorbell, an interrupt or an error's descriptor: any file, or none.
    Event {
        ring: bool,
        which: u8,
        file: Option<u8>,
    },
    Enable {
        ring: bool,
        on: bool,
    },
    /// An eventfd is rung; made to block; made to block and filled.
    Ring(u8),
    Block(u8),
    Fill(u8),
    Shrink {
        file: u8,
        pages: u8,
    },
    Poke {
        at: u16,
        value: u64,
    },
    Descriptor {
        ring: bool,
        index: u8,
        address: u16,
        length: u16,
        flags: u16,
        next: u8,
    },
    Offer {
        ring: bool,
        index: u16,
    },
    Arrive(u16),
    /// The device's thread has time for something.
    Yield,
}

/// A network that reads all it is sent, and writes what it is told to.
struct Wire(Arc<Mutex<VecDeque<usize>>>);

static PATTERN: [u8; 0x1_0000 + NetHdr::LEN] = [0xa5; 0x1_0000 + NetHdr::LEN];

impl Backend for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn offloads(&self) -> Features {
        Features::all()
    }

    fn negotiated(&mut self, _features: Features) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.read(0, &mut bytes), bytes.len());
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let mut waiting = self.0.lock().unwrap();
        match waiting.front().copied() {
            None => Ok(Received::Empty),
            Some(length) if length > room.len() => Ok(Received::TooSmall(length)),
            Some(length) => {
                waiting.pop_front();
                assert_eq!(room.write(0, &PATTERN[..length]), length);
                Ok(Received::Frame(length))
            }
        }
    }

    fn discard(&mut self) {
        self.0.lock().unwrap().pop_front().expect("a frame that was too large");
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        Some(now + Duration::from_millis(1))
    }

    fn wait_on(&self, _fds: &mut Vec<RawFd>) {}

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// What lives as long as the process.
struct World {
    device: Arc<Device>,
    reporter: Reporter,
    news: Mutex<Receiver<News>>,
    waiting: Arc<Mutex<VecDeque<usize>>>,
}

/// Counts inputs, so that one that does not end is found.
static NTH: AtomicU64 = AtomicU64::new(0);

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (sender, news) = sync_channel(4096);
        let (reporter, waiting) = (Reporter::new(sender), Arc::<Mutex<VecDeque<usize>>>::default());
        let device = Device::start(Wire(waiting.clone()), Options::new(reporter.report())).unwrap();
        std::thread::spawn(|| {
            let mut before = 0;
            loop {
                std::thread::sleep(PATIENCE);
                let now = NTH.load(Ordering::Relaxed);
                // An even number is between two inputs.
                assert!(now != before || now.is_multiple_of(2), "an input does not come to its end");
                before = now;
            }
        });
        World { device, reporter, news: Mutex::new(news), waiting }
    })
}

fn memory(size: u64) -> File {
    // SAFETY: the name is a C string; the descriptor that comes back is new, and ours.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC)) };
    file.set_len(size).unwrap();
    file
}

/// A frontend, and the backend's end of its connection.
struct Frontend {
    stream: UnixStream,
    conversation: Conversation,
    memory: [File; 2],
    /// For the rings, in the order of doorbell, interrupt and error.
    events: [EventFd; 6],
    other: File,
    over: bool,
}

impl Frontend {
    fn new(world: &World) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let conversation = Conversation::new(theirs, &world.device, &world.reporter).unwrap();
        Self {
            stream,
            conversation,
            memory: [memory(SIZE), memory(SIZE / 2)],
            events: std::array::from_fn(|_| EventFd::new(EFD_NONBLOCK).unwrap()),
            other: File::open("/dev/null").unwrap(),
            over: false,
        }
    }

    fn file(&self, which: u8) -> RawFd {
        match usize::from(which) % 9 {
            which @ 0..=5 => self.events[which].as_raw_fd(),
            which @ 6..=7 => self.memory[which - 6].as_raw_fd(),
            _ => self.other.as_raw_fd(),
        }
    }

    /// Sends a message, and lets it be answered. Returns whether the connection goes on.
    fn say(&mut self, code: u32, flags: u32, body: &[u8], files: &[RawFd]) -> bool {
        let message = [&[code, flags, body.len() as u32].map(u32::to_ne_bytes).concat()[..], body].concat();
        let sent = match files {
            [] => self.stream.write_all(&message).is_ok(),
            _ => self.stream.send_with_fds(&[&message[..]], files).is_ok(),
        };
        if !sent {
            self.over = true;
            return false;
        }
        if body.len() > 0x1000 || files.len() > 32 {
            // More than is read at once: what it is taken for may be something longer than what there is.
            self.end();
            return false;
        }
        self.answer()
    }

    fn answer(&mut self) -> bool {
        self.over |= self.conversation.answer() != Answered::Request;
        // Nobody is interested in what it says; but there must be room for more.
        self.stream.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        while matches!((&self.stream).read(&mut bytes), Ok(1..)) {}
        self.stream.set_nonblocking(false).unwrap();
        !self.over
    }

    fn end(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        while self.answer() {}
    }

    fn state(&mut self, code: u32, ring: bool, value: u32) -> bool {
        self.say(code, 1, &[u32::from(ring), value].map(u32::to_ne_bytes).concat(), &[])
    }

    fn number(&mut self, code: u32, value: u64) -> bool {
        self.say(code, 1, &value.to_ne_bytes(), &[])
    }

    fn addresses(&mut self, ring: bool, at: [u64; 3]) -> bool {
        let [descriptors, driver, device] = at.map(|at| FRONTEND + at);
        // The protocol has the device's area before the driver's.
        let rest = [descriptors, device, driver, 0].map(u64::to_ne_bytes).concat();
        self.say(SET_VRING_ADDR, 1, &[&u64::from(ring).to_ne_bytes()[..], &rest].concat(), &[])
    }

    fn event(&mut self, ring: bool, which: u8, file: Option<u8>) -> bool {
        let which = which % 3;
        let (flag, file) = match file {
            Some(file) => (0, vec![self.file(file)]),
            None => (0x100, vec![]),
        };
        self.say(SET_VRING_KICK + u32::from(which), 1, &(u64::from(ring) | flag).to_ne_bytes(), &file)
    }

    fn start(&mut self, packed: bool, extended: bool) -> bool {
        let packed = if packed { Features::RING_PACKED } else { Features::empty() };
        let extensions = u64::from(extended) << 30;
        let whole = Place { guest: 0, frontend: 0, pages: (SIZE >> 12) as u8, offset: 0, beside: 0, file: 6 };
        let mut good = self.number(SET_FEATURES, (Features::VERSION_1 | packed).bits() | extensions);
        good = good && self.table(&[whole]);
        for ring in [false, true] {
            let page = u64::from(ring) << 12;
            let base = if packed.is_empty() { 0 } else { 0x8000 };
            good = good
                && self.state(SET_VRING_NUM, ring, RING.into())
                && self.state(SET_VRING_BASE, ring, base)
                && self.addresses(ring, [page, page + DRIVER, page + DEVICE])
                && (0..3).all(|which| self.event(ring, 2 - which, Some(u8::from(ring) * 3 + 2 - which)))
                && (!extended || self.state(SET_VRING_ENABLE, ring, 1));
        }
        good
    }

    fn region(place: &Place) -> Vec<u8> {
        let beside = i64::from(place.beside / 16) as u64;
        let page = |number: u8| u64::from(number) << 12;
        let bytes = [page(place.guest), page(place.pages).wrapping_add(beside), FRONTEND + page(place.frontend)];
        [&bytes.map(u64::to_ne_bytes).concat()[..], &page(place.offset).to_ne_bytes()].concat()
    }

    fn table(&mut self, places: &[Place]) -> bool {
        let places = &places[..places.len().min(32)];
        let regions: Vec<u8> = places.iter().flat_map(Self::region).collect();
        let files: Vec<_> = places.iter().map(|place| self.file(place.file)).collect();
        self.say(SET_MEM_TABLE, 1, &[&(places.len() as u64).to_ne_bytes()[..], &regions].concat(), &files)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory[0].write_all_at(bytes, at).unwrap();
    }

    fn descriptor(&self, ring: bool, index: u8, address: u64, length: u32, flags: u16, next: u16) {
        let ends = [&flags.to_le_bytes()[..], &next.to_le_bytes()].concat();
        let bytes = [&address.to_le_bytes()[..], &length.to_le_bytes(), &ends].concat();
        self.put((u64::from(ring) << 12) + u64::from(index) % u64::from(RING) * 16, &bytes);
    }
}

fn act(world: &World, frontend: &mut Frontend, act: Act) {
    match act {
        Act::Message { code, flags, words, files } => {
            let body: Vec<u8> = words.iter().take(300).flat_map(|word| word.to_ne_bytes()).collect();
            let files: Vec<_> = files.iter().take(40).map(|file| frontend.file(*file)).collect();
            // The version is nearly always the right one.
            let flags = if flags & 0xf0 == 0xf0 { flags.into() } else { u32::from(flags & 0x8) | 1 };
            frontend.say(u32::from(code) % 64, flags, &body, &files);
        }
        Act::Bytes(bytes) => {
            let _ = frontend.stream.write_all(&bytes[..bytes.len().min(1000)]);
            frontend.end();
        }
        Act::Start { packed, extended } => drop(frontend.start(packed, extended)),
        Act::Features(bits) => {
            let bits = bits & (world.device.offered().bits() | 1 << 30) | Features::VERSION_1.bits();
            frontend.number(SET_FEATURES, bits);
        }
        Act::Protocol(bits) => drop(frontend.number(SET_PROTOCOL_FEATURES, u64::from(bits & 0x9) | 1 << 15)),
        Act::Table(places) => drop(frontend.table(&places)),
        Act::Add(place) => {
            let file = frontend.file(place.file);
            frontend.say(ADD_MEM_REG, 1, &[&[0; 8][..], &Frontend::region(&place)].concat(), &[file]);
        }
        Act::Remove(place) => {
            frontend.say(REM_MEM_REG, 1, &[&[0; 8][..], &Frontend::region(&place)].concat(), &[]);
        }
        Act::Size { ring, size } => drop(frontend.state(SET_VRING_NUM, ring, size.into())),
        Act::Addresses { ring, at } => drop(frontend.addresses(ring, at.map(u64::from))),
        Act::Base { ring, base } => drop(frontend.state(SET_VRING_BASE, ring, base)),
        Act::Stop(ring) => drop(frontend.state(GET_VRING_BASE, ring, 0)),
        Act::Event { ring, which, file } => drop(frontend.event(ring, which, file)),
        Act::Enable { ring, on } => drop(frontend.state(SET_VRING_ENABLE, ring, on.into())),
        // One that is full and blocks would hold us up, as it is our own.
        Act::Ring(which) => {
            let event = &frontend.events[usize::from(which) % 6];
            blocking(event, false);
            let _ = event.write(1);
        }
        Act::Block(which) => blocking(&frontend.events[usize::from(which) % 6], true),
        Act::Fill(which) => {
            let event = &frontend.events[usize::from(which) % 6];
            blocking(event, false);
            let _ = event.write(u64::MAX - 1).or_else(|_| event.read().map(drop));
            blocking(event, true);
        }
        Act::Shrink { file, pages } => {
            frontend.memory[usize::from(file) % 2].set_len(u64::from(pages % 17) << 12).unwrap();
        }
        Act::Poke { at, value } => frontend.put(at.into(), &value.to_le_bytes()),
        Act::Descriptor { ring, index, address, length, flags, next } => {
            frontend.descriptor(ring, index, address.into(), length.into(), flags, next.into());
        }
        Act::Offer { ring, index } => {
            frontend.put((u64::from(ring) << 12) + DRIVER + 2, &index.to_le_bytes());
        }
        Act::Arrive(length) => {
            let mut waiting = world.waiting.lock().unwrap();
            if waiting.len() < 16 {
                waiting.push_back(NetHdr::LEN + 14 + usize::from(length));
            }
        }
        Act::Yield => std::thread::yield_now(),
    }
}

fn blocking(event: &EventFd, blocks: bool) {
    // SAFETY: neither call takes a pointer.
    unsafe {
        let flags = libc::fcntl(event.as_raw_fd(), libc::F_GETFL) & !libc::O_NONBLOCK;
        libc::fcntl(event.as_raw_fd(), libc::F_SETFL, if blocks { flags } else { flags | libc::O_NONBLOCK });
    }
}

/// A frontend that behaves: one frame goes out, and its buffer comes back.
fn good(world: &World) {
    let mut frontend = Frontend::new(world);
    frontend.put(BUFFERS, &[0; 100]);
    frontend.descriptor(true, 0, BUFFERS, 100, 0, 0);
    frontend.put(0x1000 + DRIVER + 2, &1_u16.to_le_bytes());
    assert!(frontend.start(false, false), "the next frontend is not served");
    frontend.events[3].write(1).unwrap();
    let until = Instant::now() + PATIENCE;
    let mut used = [0; 2];
    while used == [0; 2] {
        assert!(Instant::now() < until, "the next frontend's frame does not go out");
        std::thread::yield_now();
        frontend.memory[0].read_exact_at(&mut used, 0x1000 + DEVICE + 2).unwrap();
    }
    assert_eq!(used, 1_u16.to_le_bytes());
}

fuzz_target!(|acts: Vec<Act>| {
    let world = world();
    NTH.fetch_add(1, Ordering::Relaxed);
    let mut frontend = Frontend::new(world);
    for next in acts.into_iter().take(200) {
        act(world, &mut frontend, next);
        if frontend.over {
            break;
        }
    }
    drop(frontend);
    world.waiting.lock().unwrap().clear();
    good(world);
    while world.news.lock().unwrap().try_recv().is_ok() {}
    NTH.fetch_add(1, Ordering::Relaxed);
});
