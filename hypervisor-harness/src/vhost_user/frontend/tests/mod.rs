//! The device against backends that behave, and that do not.

mod peer;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::peer::{Manner, Peer, Request, Trouble};
use super::*;
use crate::virtio::Shared;
use crate::virtio::event::{self, hostile};
use crate::virtio::mmio::Line;
use crate::virtio::net::Activation;
use crate::virtio::queue::Place;
use crate::virtio::registers::Control;
use crate::vmm::GuestRam;

/// As long as a backend may take that says nothing.
const SHORT: Duration = Duration::from_millis(100);
/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);

/// A path for a socket, which is gone after the test.
struct Path(PathBuf);

impl Path {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringlet-vhost-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }

    fn address(&self, server: bool) -> VhostUser {
        VhostUser { path: self.0.clone(), server }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn begin(manner: Manner) -> (Result<Session, Error>, Peer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let silent = matches!(manner.trouble, Some((_, _, Trouble::Silence)));
    let peer = Peer::new(theirs, manner);
    (Session::begin(ours, if silent { SHORT } else { LONG }), peer)
}

/// A device without registers, its driver being the test.
struct Bench {
    device: Arc<Device>,
    remote: Remote,
    said: Receiver<String>,
    /// What the backend is given.
    shared: Vec<EventFd>,
}

impl Bench {
    fn new(session: Session) -> Self {
        let (sender, said) = channel();
        let report = Box::new(move |line: &str| drop(sender.send(line.to_owned())));
        let line = Arc::new(Line::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let shared = Arc::new(Shared::new(line, report));
        let doorbells = [0, 1].map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
        let given = doorbells.iter().map(|event| event.try_clone().unwrap()).collect();
        let ram = GuestRam::shared(32).unwrap();
        let device = Arc::new(Device::new(session, shared, ram, 1500, doorbells).unwrap());
        Self { remote: Remote(device.clone()), device, said, shared: given }
    }

    /// What it says next.
    fn said(&self) -> String {
        self.said.recv_timeout(LONG).expect("it has something to say")
    }

    /// Keeps the connection, on a thread.
    fn keep(&self, connector: Connector) -> JoinHandle<()> {
        let mut keeper = Keeper::new(self.device.clone(), connector, LONG);
        std::thread::spawn(move || keeper.run())
    }
}

const FEATURES: Features = Features::VERSION_1.union(Features::MRG_RXBUF).union(Features::MTU).union(Features::MAC);

fn activation(features: Features) -> Activation {
    let place = |at: u64, size| Place { size, descriptors: at, driver: at + 0x8000, device: at + 0x9000 };
    Activation { features, queues: [Some(place(0x10_0000, 256)), Some(place(0x20_0000, 512))] }
}

/// What a device is asked for from its start to its reset.
fn life(manner: Manner) -> (Vec<Request>, GuestRam) {
    let (session, peer) = begin(manner);
    let mut bench = Bench::new(session.unwrap());
    bench.remote.start(activation(FEATURES));
    bench.remote.reset();
    bench.device.end();
    let ram = bench.device.ram().clone();
    drop(bench);
    (peer.requests(), ram)
}

fn codes(requests: &[Request]) -> Vec<u32> {
    requests.iter().map(|request| request.code).collect()
}

#[test]
fn everything_is_said_in_its_order() {
    use peer::*;
    let (requests, ram) = life(Manner::default());
    let queue = [SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ENABLE];
    let mut expected = vec![GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_OWNER];
    expected.extend([SET_FEATURES, NET_SET_MTU, SET_MEM_TABLE]);
    expected.extend([queue, queue].concat());
    expected.extend([GET_VRING_BASE, GET_VRING_BASE, RESET_DEVICE]);
    assert_eq!(codes(&requests), expected);

    let body = |code, nth: usize| &requests.iter().filter(|request| request.code == code).nth(nth).unwrap().body;
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    assert_eq!(body(SET_PROTOCOL_FEATURES, 0)[..], halves(REPLY_ACK | MTU | RESET));
    // MAC and MTU are not the backend's business.
    let features = Features::VERSION_1 | Features::MRG_RXBUF;
    assert_eq!(body(SET_FEATURES, 0)[..], halves(features.bits() | EXTENSIONS));
    assert_eq!(body(NET_SET_MTU, 0)[..], [1500, 0]);
    let start = ram.host_start() as u64;
    let table = [1, 0, 0, 0, 32 << 20, 0, halves(start)[0], halves(start)[1], 0, 0];
    assert_eq!(body(SET_MEM_TABLE, 0)[..], table);
    for (index, at, size) in [(0, 0x10_0000, 256), (1, 0x20_0000, 512)] {
        let nth = index as usize;
        assert_eq!(body(SET_VRING_NUM, nth)[..], [index, size]);
        assert_eq!(body(SET_VRING_BASE, nth)[..], [index, 0]);
        let mut addresses = vec![index, 0];
        // Descriptors, used ring, available ring, log.
        addresses.extend([at, at + 0x9000, at + 0x8000].map(|at| halves(start + at)).concat());
        addresses.extend([0, 0]);
        assert_eq!(body(SET_VRING_ADDR, nth)[..], addresses);
        assert_eq!(body(SET_VRING_KICK, nth)[..], [index, 0]);
        assert_eq!(body(SET_VRING_CALL, nth)[..], [index, 0]);
        assert_eq!(body(SET_VRING_ENABLE, nth)[..], [index, 1]);
        assert_eq!(body(GET_VRING_BASE, nth)[0], index);
    }
}

#[test]
fn a_packed_ring_begins_with_both_wrap_counters_set() {
    let (session, peer) = begin(Manner::default());
    let mut session = session.unwrap();
    let ram = GuestRam::shared(32).unwrap();
    let [kick, call] = [0, 1].map(|_| EventFd::new(EFD_NONBLOCK).unwrap());
    let wakes = || session::Wakes { kick: &kick, call: &call };
    let activation = activation(FEATURES);
    session.start(&activation, &ram, 1500, &[wakes(), wakes()]).unwrap();
    let place = activation.queues[0].unwrap();
    session.restart_queue(0, &place, &(FEATURES | Features::RING_PACKED), &ram, &wakes()).unwrap();
    drop(session);
    let requests = peer.requests();
    let bases = requests.iter().filter(|request| request.code == peer::SET_VRING_BASE);
    let bases: Vec<_> = bases.map(|request| &request.body[..]).collect();
    assert_eq!(bases, [[0, 0], [1, 0], [0, 0x8000_8000]]);
}

#[test]
fn what_is_offered_is_what_both_can() {
    let (session, _peer) = begin(Manner::default());
    let offered = session.unwrap().offered();
    let expected = Features::VERSION_1
        | Features::MRG_RXBUF
        | Features::CSUM
        | Features::EVENT_IDX
        | Features::INDIRECT_DESC
        | Features::MAC
        | Features::MTU
        | Features::STATUS
        | Features::RING_RESET;
    assert_eq!(offered, expected);

    let legacy = Manner { features: EXTENSIONS_ONLY, ..Manner::default() };
    assert!(matches!(begin(legacy).0, Err(Error::Legacy)));
}

const EXTENSIONS_ONLY: u64 = peer::EXTENSIONS;

#[test]
fn a_backend_without_extensions_will_do() {
    use peer::*;
    // Nothing is answered but what is asked for: that all was done shows in the answer to one more question.
    let (requests, _) = life(Manner { extensions: 0, ..Manner::default() });
    let requests = codes(&requests);
    assert!(!requests.contains(&NET_SET_MTU) && !requests.contains(&RESET_DEVICE));
    assert_eq!(requests.iter().filter(|code| **code == GET_FEATURES).count(), 2);
    // Where there are no extensions at all, there is nothing that enables a queue either.
    let (requests, _) = life(Manner { features: Manner::default().features & !EXTENSIONS, ..Manner::default() });
    let requests = codes(&requests);
    assert!(!requests.contains(&GET_PROTOCOL_FEATURES) && !requests.contains(&SET_VRING_ENABLE));
    assert_eq!(requests[requests.len() - 3..], [GET_FEATURES, GET_VRING_BASE, GET_VRING_BASE]);
}

/// Whether the error is the one that this trouble must make, and names the request at which it happened.
fn is_told(error: &str, trouble: Trouble, step: &str) -> bool {
    let why = match trouble {
        Trouble::HangUp | Trouble::Half => "ended the connection at",
        Trouble::Silence => "did not answer",
        Trouble::No => "refused",
        Trouble::Another | Trouble::Version => "nonsense",
    };
    error.contains(why) && error.contains(step)
}

const TROUBLES: [Trouble; 6] =
    [Trouble::HangUp, Trouble::Silence, Trouble::No, Trouble::Another, Trouble::Half, Trouble::Version];

#[test]
fn trouble_at_the_beginning_is_told() {
    use peer::*;
    let steps =
        [(GET_FEATURES, "GET_FEATURES"), (GET_PROTOCOL_FEATURES, "GET_PROTOCOL_FEATURES"), (SET_OWNER, "SET_OWNER")];
    for (code, step) in steps {
        for trouble in TROUBLES {
            // Where a number is asked for, any will do.
            if trouble == Trouble::No && code != SET_OWNER {
                continue;
            }
            let (session, _peer) = begin(Manner { trouble: Some((code, 1, trouble)), ..Manner::default() });
            let error = session.err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| is_told(error, trouble, step)), "{step} {trouble:?}: {error:?}");
        }
    }
}

#[test]
fn trouble_later_costs_the_link() {
    use peer::*;
    let steps = [
        (SET_FEATURES, 1, "SET_FEATURES"),
        (NET_SET_MTU, 1, "NET_SET_MTU"),
        (SET_MEM_TABLE, 1, "SET_MEM_TABLE"),
        (SET_VRING_NUM, 1, "SET_VRING_NUM"),
        (SET_VRING_BASE, 2, "SET_VRING_BASE"),
        (SET_VRING_ADDR, 1, "SET_VRING_ADDR"),
        (SET_VRING_KICK, 2, "SET_VRING_KICK"),
        (SET_VRING_CALL, 1, "SET_VRING_CALL"),
        (SET_VRING_ENABLE, 2, "SET_VRING_ENABLE"),
        (GET_VRING_BASE, 2, "GET_VRING_BASE"),
        (RESET_DEVICE, 1, "RESET_DEVICE"),
    ];
    for (code, nth, step) in steps {
        for trouble in TROUBLES {
            if trouble == Trouble::No && code == GET_VRING_BASE {
                continue;
            }
            let (session, _peer) = begin(Manner { trouble: Some((code, nth, trouble)), ..Manner::default() });
            let mut bench = Bench::new(session.unwrap());
            bench.remote.start(activation(FEATURES));
            let late = matches!(code, GET_VRING_BASE | RESET_DEVICE);
            assert_eq!(bench.device.shared.link(), late, "{step} {trouble:?}");
            bench.remote.reset();
            assert!(!bench.device.shared.link(), "{step} {trouble:?}");
            let error = bench.said();
            assert!(is_told(&error, trouble, step), "{step} {trouble:?}: {error}");
            // Without a backend nothing more happens, and nothing more is said.
            bench.remote.start(activation(FEATURES));
            bench.remote.stop_queue(1);
            bench.remote.reset();
            assert!(bench.said.try_recv().is_err());
        }
    }
}

#[test]
fn the_driver_begins_anew_with_another_backend() {
    let path = Path::new();
    let listener = UnixListener::bind(&path.0).unwrap();
    let accept = |manner| Peer::new(listener.accept().unwrap().0, manner);
    let (session, peer) = begin(Manner::default());
    let mut bench = Bench::new(session.unwrap());
    let shared = bench.device.shared.clone();
    // The first backend ends the connection, by its own choice, after everything was set up.
    bench.remote.start(activation(FEATURES));
    assert!(shared.link() && !shared.needs_reset());
    let thread = bench.keep(Connector::new(path.address(false)).unwrap());
    {
        let state = bench.device.lock();
        // As good as the other side's: the socket is one.
        state.session.as_ref().unwrap().socket().shutdown(std::net::Shutdown::Both).unwrap();
    }
    assert!(bench.said().contains("has gone: the link is down"));
    drop(peer);

    // One that lacks what was agreed on does not do, however often it comes.
    let lacking = Manner { features: Manner::default().features & !Features::MRG_RXBUF.bits(), ..Manner::default() };
    let _poor = [accept(lacking), accept(lacking)];
    let error = bench.said();
    assert!(error.contains("lacks mrg_rxbuf"), "{error}");
    assert!(!shared.link() && !shared.needs_reset());

    let second = accept(Manner::default());
    assert!(bench.said().contains("is there again"));
    let reset = bench.said();
    assert!(reset.contains("needs a reset"), "{reset}");
    // What is written of a device is right as soon as nobody changes it.
    drop(bench.device.lock());
    assert!(shared.link() && shared.needs_reset());
    bench.remote.reset();
    shared.reset();
    bench.remote.start(activation(FEATURES));
    assert!(shared.link() && !shared.needs_reset());
    bench.device.end();
    thread.join().unwrap();
    drop(bench);
    let requests = codes(&second.requests());
    let queues = requests.iter().filter(|code| **code == peer::SET_VRING_KICK).count();
    let first = requests.iter().position(|code| *code == peer::SET_VRING_KICK);
    let back = requests.iter().position(|code| *code == peer::GET_VRING_BASE);
    assert!(queues == 2 && first < back, "the queues were the second one's only after the reset: {requests:?}");
}

#[test]
fn a_backend_that_makes_its_descriptors_wait_holds_nobody_up() {
    let (session, _peer) = begin(Manner::default());
    let mut bench = Bench::new(session.unwrap());
    bench.remote.start(activation(FEATURES));
    // What a backend is given is good for as long as it likes.
    let call = bench.device.shared.call(0).unwrap();
    bench.shared.iter().chain([&call]).for_each(hostile::fill);
    for queue in [0, 1] {
        bench.remote.doorbell(queue);
    }
    bench.device.shared.set_link(false);
    bench.device.shared.break_down("anything");
    for event in bench.shared.iter().chain([&call]) {
        assert!(event::drain(event));
        hostile::make_blocking(event);
    }
    bench.remote.doorbell(1);
    assert!(!event::drain(&bench.shared[0]) && event::drain(&bench.shared[1]));
    bench.device.shared.set_link(true);
    assert!(event::drain(&call));
    bench.remote.reset();
}

#[test]
fn queues_that_nobody_had_need_no_reset() {
    let path = Path::new();
    let (session, first) = begin(Manner::default());
    let mut bench = Bench::new(session.unwrap());
    let shared = bench.device.shared.clone();
    {
        let mut state = bench.device.lock();
        bench.device.lose(&mut state);
    }
    drop(first);
    // The driver comes up while there is no backend.
    bench.remote.start(activation(FEATURES));
    assert!(!shared.link());
    let thread = bench.keep(Connector::new(path.address(true)).unwrap());
    // This one connects to us.
    let peer = loop {
        match UnixStream::connect(&path.0) {
            Ok(socket) => break Peer::new(socket, Manner::default()),
            Err(_) => std::thread::yield_now(),
        }
    };
    assert!(bench.said().contains("is there again"));
    drop(bench.device.lock());
    assert!(shared.link() && !shared.needs_reset());
    bench.device.end();
    thread.join().unwrap();
    assert!(!path.0.exists(), "the socket goes with the one who listened");
    drop(bench);
    assert!(codes(&peer.requests()).contains(&peer::SET_VRING_ENABLE));
}

#[test]
fn a_queue_can_be_reset_alone() {
    use peer::*;
    let (session, peer) = begin(Manner::default());
    let mut bench = Bench::new(session.unwrap());
    let activation = activation(FEATURES);
    bench.remote.start(activation);
    bench.remote.stop_queue(1);
    bench.remote.stop_queue(1);
    bench.remote.restart_queue(1, activation.queues[0].unwrap());
    bench.remote.reset();
    bench.device.end();
    drop(bench);
    let requests = peer.requests();
    let after = requests.iter().position(|request| request.code == GET_VRING_BASE).unwrap();
    let queue = [SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ENABLE];
    let expected = [&[GET_VRING_BASE][..], &queue, &[GET_VRING_BASE, GET_VRING_BASE, RESET_DEVICE]].concat();
    assert_eq!(codes(&requests[after..]), expected);
    assert_eq!(requests[after].body[0], 1);
    assert_eq!(requests[after + 1].body, [1, 256]);
}

#[test]
fn waiting_ends_when_there_is_a_reason() {
    let path = Path::new();
    let mut looks = 0;
    let mut wait = || {
        looks += 1;
        looks < 3
    };
    assert!(connect(&path.address(false), SHORT, &mut wait).unwrap().is_none());
    assert_eq!(looks, 3);
    // Where nobody listens any more, somebody may listen again.
    drop(UnixListener::bind(&path.0).unwrap());
    assert!(connect(&path.address(false), SHORT, &mut || false).unwrap().is_none());
    // Nobody will ever listen where there is something else.
    fs::remove_file(&path.0).unwrap();
    fs::write(&path.0, "not a socket").unwrap();
    let refused = |address: &VhostUser| connect(address, SHORT, &mut || true).err().map(|error| error.to_string());
    let file = refused(&path.address(false));
    assert!(file.as_ref().is_some_and(|error| error.contains("not a socket")), "{file:?}");
    let file = refused(&path.address(true));
    assert!(file.as_ref().is_some_and(|error| error.contains("cannot listen at")), "{file:?}");
    let long = refused(&VhostUser { path: "x".repeat(200).into(), server: false });
    assert!(long.as_ref().is_some_and(|error| error.contains("1 to 107 bytes")), "{long:?}");
}

#[test]
fn a_socket_in_use_is_not_taken_over_and_a_stale_one_is() {
    let path = Path::new();
    let listener = UnixListener::bind(&path.0).unwrap();
    assert!(matches!(Connector::new(path.address(true)), Err(Error::Listen { .. })));
    drop(listener);
    assert!(path.0.exists());
    let connector = Connector::new(path.address(true)).unwrap();
    assert!(connector.attempt().unwrap().is_none());
    let _other = UnixStream::connect(&path.0).unwrap();
    assert!(connector.attempt().unwrap().is_some());
    drop(connector);
    assert!(!path.0.exists());
}
