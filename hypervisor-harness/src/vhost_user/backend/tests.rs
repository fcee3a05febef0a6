//! The protocol, with frontends of these tests: a driver of a few lines, and hostile ones.

mod driver;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use self::driver::{Driver, FRONTEND, SIZE, memory, region};
use super::*;
use crate::backend::lan::{Config, Lan};

/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(60);

/// A backend in a thread, on the network `lan`.
struct Backend {
    path: PathBuf,
    device: Arc<Device>,
    stop: Arc<Stop>,
    news: Receiver<News>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    fn start(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringlet-vhost-{name}-{}", std::process::id()));
        Self::of(Source::listen(&path).unwrap(), path)
    }

    fn of(source: Source, path: PathBuf) -> Self {
        let (sender, news) = sync_channel(WAITING);
        let reporter = Reporter::new(sender);
        let (lan, _) = Lan::open(&Config::default()).unwrap();
        let device = Device::start(lan, Options::new(reporter.report())).unwrap();
        let stop = Arc::new(Stop::new().unwrap());
        let thread = socket::serve(source, device.clone(), stop.clone(), reporter).unwrap();
        Self { path, device, stop, news, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Waits until the frontend is gone. Returns what it did wrong, and what was complained of.
    fn gone(&self) -> (Option<String>, Vec<String>) {
        let mut complaints = Vec::new();
        loop {
            match self.news.recv_timeout(LONG).expect("news") {
                News::Gone(fault) => return (fault, complaints),
                // Of which other test's memory this is nobody knows.
                News::Complaint(text) if text.contains("memory of the guest is gone") => {}
                News::Complaint(text) => complaints.push(text),
                News::Over(error) => panic!("{error}"),
                News::Connected | News::Started(_) | News::Interrupted => {}
            }
        }
    }

    /// What becomes of a frontend that does this.
    fn fault(&self, work: impl FnOnce(&mut Driver)) -> String {
        let mut driver = Driver::new(self.connect());
        work(&mut driver);
        let fault = self.gone().0.expect("a fault");
        drop(driver);
        fault
    }

    /// What becomes of a frontend that sends these bytes with these descriptors, and waits then.
    fn raw(&self, bytes: &[u8], files: &[i32]) -> String {
        let mut stream = self.connect();
        if files.is_empty() {
            stream.write_all(bytes).unwrap();
        } else {
            stream.send_with_fds(&[bytes], files).unwrap();
        }
        // A frontend that waits for an answer gets the end of the connection.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
        self.gone().0.unwrap_or_default()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.device.stop();
        assert!(!self.path.exists(), "the socket is removed");
    }
}

fn message(request: u32, body: &[u8]) -> Vec<u8> {
    [&[request, 1, body.len() as u32].map(u32::to_ne_bytes).concat()[..], body].concat()
}

#[test]
fn one_frontend_after_the_other_is_served() {
    let backend = Backend::start("serve");
    for _ in 0..3 {
        let mut driver = Driver::new(backend.connect());
        driver.start(0);
        for nth in 0..40 {
            driver.ping(nth);
        }
        drop(driver);
        assert_eq!(backend.gone(), (None, vec![]));
    }
    assert_eq!(backend.device.counters().from_guest.frames, 120);
    assert_eq!(backend.device.counters().to_guest.frames, 120);
}

#[test]
fn a_ring_goes_on_where_it_stood() {
    let backend = Backend::start("base");
    let mut driver = Driver::new(backend.connect());
    // Indices wrap around soon.
    driver.start(0xfff0);
    for nth in 0..30 {
        driver.ping(nth);
        let [receive, transmit] = driver.stop();
        // As many as were used, and no buffer that only waits in the device's hands.
        assert_eq!([receive, transmit], [u32::from(0xfff0_u16.wrapping_add(nth + 1)); 2]);
        driver.resume(receive as u16, transmit as u16);
    }
    assert_eq!(backend.device.counters().faults, 0);
}

#[test]
fn memory_is_exchanged_under_a_running_device() {
    let backend = Backend::start("table");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    let other = memory();
    for nth in 0..20 {
        driver.ping(nth);
        let far = region(1 << 40, SIZE, FRONTEND << 1, 0, &other);
        match nth % 4 {
            0 => drop(driver.frontend.add_mem_region(&far).unwrap()),
            1 => driver.frontend.remove_mem_region(&far).unwrap(),
            2 => driver.set_table(&[region(1 << 40, SIZE, FRONTEND << 1, 0, &other)]),
            _ => driver.set_table(&[]),
        }
    }
    assert_eq!(backend.device.counters().faults, 0);
    assert_eq!(driver.frontend.get_max_mem_slots().unwrap(), 64);
    // Without the memory that the rings are in there is nothing to go on with.
    let gone = driver.region();
    assert!(driver.frontend.remove_mem_region(&gone).is_err());
    let fault = backend.gone().0.unwrap();
    assert!(fault.contains("REM_MEM_REG was refused: ring 0 has an area at the frontend's address"), "{fault}");
}

#[test]
fn a_disabled_ring_receives_nothing_and_loses_what_it_sends() {
    let backend = Backend::start("enable");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    for queue in [0, 1] {
        driver.frontend.set_vring_enable(queue, false).unwrap();
    }
    driver.send(1);
    driver.wait_sent(2);
    assert_eq!(driver.received(), 1);
    let counters = backend.device.counters();
    assert_eq!((counters.from_guest.frames, counters.from_guest.dropped), (1, 1));
    for queue in [0, 1] {
        driver.frontend.set_vring_enable(queue, true).unwrap();
    }
    driver.send(2);
    driver.wait_received(2);
}

#[test]
fn a_fault_in_a_ring_is_told_by_its_descriptor_and_over_with_the_next_start() {
    let backend = Backend::start("fault");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    driver.break_ring();
    driver.wait_error();
    driver.stop();
    driver.fresh_rings();
    driver.resume(0, 0);
    driver.ping(1);
    let counters = backend.device.counters();
    assert_eq!((counters.faults, counters.from_guest.frames), (1, 2));
    drop(driver);
    let (fault, complaints) = backend.gone();
    assert_eq!((fault, complaints.len()), (None, 1), "{complaints:?}");
    assert!(complaints[0].contains("the driver broke the rules"), "{complaints:?}");
}

#[test]
fn a_descriptor_exchanged_at_work_misses_no_interrupt() {
    let backend = Backend::start("call");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    for nth in 0..10 {
        driver.exchange_call();
        driver.ping_by_interrupt(nth);
    }
}

#[test]
fn a_frontend_that_makes_its_descriptors_wait_holds_nobody_up() {
    let backend = Backend::start("wait");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.make_events_wait();
    for nth in 0..10 {
        driver.ping(nth);
    }
    driver.fill_events();
    for nth in 10..20 {
        driver.ping(nth);
    }
    driver.exchange_call();
    driver.fill_events();
    driver.break_ring();
    driver.stop();
    driver.fresh_rings();
    driver.resume(0, 0);
    driver.ping(20);
    drop(driver);
    assert_eq!(backend.gone().0, None);
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
}

#[test]
fn nothing_of_a_frontend_is_kept_when_it_is_gone() {
    let backend = Backend::start("kept");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    assert_eq!(driver.events_elsewhere(), 6);
    // Its connection ends; its descriptors are still there.
    assert!(driver.frontend.set_vring_num(0, 8).is_err());
    backend.gone();
    assert_eq!(driver.events_elsewhere(), 0);
}

#[test]
fn addresses_of_a_ring_that_stands_still_may_be_out_of_date() {
    let backend = Backend::start("moved");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    let [receive, transmit] = driver.stop();
    let moved = region(0, SIZE, FRONTEND << 1, 0, &driver.memory);
    driver.frontend.set_mem_table(&[moved]).unwrap();
    driver.set_table(&[]);
    driver.resume(receive as u16, transmit as u16);
    driver.ping(1);
}

#[test]
fn a_frontend_whose_memory_vanishes_harms_nobody_else() {
    let backend = Backend::start("vanish");
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    driver.memory.set_len(0).unwrap();
    // The device looks at memory that is gone.
    driver.kick();
    let _ = driver.frontend.get_vring_base(1);
    let _ = driver.frontend.get_vring_base(0);
    drop(driver);
    let (_, complaints) = backend.gone();
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
    drop(complaints);
}

#[test]
fn what_a_frontend_may_not_do_ends_its_connection_with_a_reason() {
    let backend = Backend::start("rules");
    let file = memory();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    // A regular file, of a file system that may take its time.
    let procfs = std::fs::File::open("/proc/self/status").unwrap();
    type Work<'a> = Box<dyn FnOnce(&mut Driver) + 'a>;
    let cases: Vec<(&str, Work<'_>)> = vec![
        (
            "SET_FEATURES was refused: features that were not offered: mac",
            Box::new(|d| drop(d.accept(1 << 5 | 1 << 32))),
        ),
        ("legacy", Box::new(|d| drop(d.accept(0)))),
        ("features without others that they need: guest_tso4", Box::new(|d| drop(d.accept(1 << 7 | 1 << 32)))),
        ("regions 0 and 1 overlap", {
            let table = [region(0, SIZE, 0, 0, &file), region(SIZE - 16, SIZE, SIZE, 0, &file)];
            Box::new(move |d| drop(d.frontend.set_mem_table(&table)))
        }),
        ("needs 1048592 bytes of a file of 1048576", {
            let table = [region(0, SIZE, 0, 16, &file)];
            Box::new(move |d| drop(d.frontend.set_mem_table(&table)))
        }),
        ("is not in a file that can be shared and is in memory", {
            let table = [region(0, SIZE, 0, 0, &event)];
            Box::new(move |d| drop(d.frontend.set_mem_table(&table)))
        }),
        ("is not in a file that can be shared and is in memory", {
            let table = [region(0, SIZE, 0, 0, &procfs)];
            Box::new(move |d| drop(d.frontend.set_mem_table(&table)))
        }),
        (
            "ring 0 has no size",
            Box::new(|d| {
                d.accept(1 << 32).unwrap();
                d.set_addresses(0, FRONTEND).unwrap();
                drop(d.start_ring(0));
            }),
        ),
        (
            "ring 0 has an area at the frontend's address 0x10",
            Box::new(|d| {
                d.accept(1 << 32).unwrap();
                d.frontend.set_vring_num(0, 8).unwrap();
                d.set_addresses(0, 0x10).unwrap();
                drop(d.start_ring(0));
            }),
        ),
        (
            "ring 0 is in use",
            Box::new(|d| {
                d.start(0);
                drop(d.frontend.set_vring_num(0, 8));
            }),
        ),
        (
            "no memory region at 0x7",
            Box::new(|d| {
                let gone = region(7, SIZE, FRONTEND, 0, &d.memory);
                d.start(0);
                drop(d.frontend.remove_mem_region(&gone));
            }),
        ),
        (
            "regions 0 and 1 overlap",
            Box::new(|d| {
                d.start(0);
                let same = d.region();
                drop(d.frontend.add_mem_region(&same));
            }),
        ),
    ];
    for (part, work) in cases {
        let fault = backend.fault(work);
        assert!(fault.contains(part), "{part}: {fault}");
    }
    let null = std::fs::File::open("/dev/null").unwrap();
    for (part, bytes, files) in [
        (
            "SET_VRING_KICK was refused: the descriptor given with it is no eventfd",
            message(12, &[0; 8]),
            &[null.as_raw_fd()][..],
        ),
        (
            "SET_VRING_CALL was refused: the descriptor given with it is no eventfd",
            message(13, &[0; 8]),
            &[null.as_raw_fd()],
        ),
        ("SET_VRING_NUM was refused: there is no ring 2", message(8, &[2, 0, 0, 0, 1, 0, 0, 0]), &[]),
        ("SET_VRING_NUM was refused: a ring of 65536 descriptors", message(8, &[1, 0, 0, 0, 0, 0, 1, 0]), &[]),
        ("SET_VRING_NUM was refused: a ring of 0 descriptors", message(8, &[0; 8]), &[]),
        ("GET_VRING_BASE was refused: there is no ring 4294967295", message(11, &[0xff; 8]), &[]),
        ("to be polled for ever", message(12, &0x100_u64.to_ne_bytes()), &[]),
        ("there is no ring 7", message(12, &7_u64.to_ne_bytes()), &[event.as_raw_fd()]),
        ("SET_VRING_CALL was malformed", message(13, &[0; 8]), &[]),
        ("SET_VRING_ENABLE was refused: there is no ring 9", message(18, &[9, 0, 0, 0, 1, 0, 0, 0]), &[]),
        ("SET_VRING_ENABLE was malformed", message(18, &[0, 0, 0, 0, 2, 0, 0, 0]), &[]),
        (
            "SET_PROTOCOL_FEATURES was refused: protocol features that were not offered: 0x200",
            message(16, &0x200_u64.to_ne_bytes()),
            &[],
        ),
        ("GET_CONFIG failed", message(24, &[0; 12]), &[]),
        ("NET_SET_MTU was malformed, or is no request of a feature that was offered", message(20, &[0; 8]), &[]),
        ("SET_STATUS was malformed", message(39, &[0; 8]), &[]),
        ("GPU_SET_SOCKET", message(33, &[]), &[]),
        ("request 77 was malformed", message(77, &[]), &[]),
        ("GET_FEATURES was malformed", message(1, &[1]), &[]),
        ("SET_MEM_TABLE was malformed", message(5, &[0xff; 8]), &[]),
        ("SET_MEM_TABLE was malformed", message(5, &[1, 0, 0, 0, 0, 0, 0, 0]), &[event.as_raw_fd()]),
        ("SET_OWNER was malformed", [3_u32, 2, 0].map(u32::to_ne_bytes).concat(), &[]),
        ("SET_OWNER was malformed", [3_u32, 1, u32::MAX].map(u32::to_ne_bytes).concat(), &[]),
    ] {
        let fault = backend.raw(&bytes, files);
        assert!(fault.contains(part), "{part}: {fault}");
    }
    // Whoever comes afterwards is served.
    let mut driver = Driver::new(backend.connect());
    driver.start(0);
    driver.ping(0);
}

#[test]
fn an_end_comes_through_in_the_middle_of_a_message() {
    let backend = Backend::start("middle");
    let mut stream = backend.connect();
    assert!(matches!(backend.news.recv_timeout(LONG), Ok(News::Connected)));
    // The header promises eight bytes: they are waited for.
    stream.write_all(&message(2, &[0; 8])[..12]).unwrap();
    drop(backend);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    let backend = Backend::start("middle");
    backend.connect().write_all(&[3, 0]).unwrap();
    assert!(backend.gone().0.unwrap().contains("in the middle of a message"));
}

#[test]
fn a_socket_is_made_where_nobody_listens_and_nothing_else_is() {
    let path = std::env::temp_dir().join(format!("ringlet-vhost-listen-{}", std::process::id()));
    let error = |path| format!("{:#}", Source::listen(path).unwrap_err());
    std::fs::write(&path, "something").unwrap();
    assert!(error(&path).contains("no socket"));
    std::fs::remove_file(&path).unwrap();
    let held = Source::listen(&path).unwrap();
    assert!(error(&path).contains("somebody listens"));
    drop(held);
    assert!(!path.exists());
    // Left behind by a process that was killed.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Source::listen(&path).unwrap());
    assert!(!path.exists());
    assert!(error(std::path::Path::new("/nonexistent/socket")).contains("cannot make the socket"));
}

#[test]
fn frontends_that_listen_are_found_again_and_again() {
    let path = std::env::temp_dir().join(format!("ringlet-vhost-client-{}", std::process::id()));
    // Nobody is there yet.
    let backend = Backend::of(Source::connect(&path), path.clone());
    for _ in 0..2 {
        let listener = UnixListener::bind(&path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        let mut driver = Driver::new(stream);
        driver.start(0);
        driver.ping(0);
        drop(driver);
        assert_eq!(backend.gone(), (None, vec![]));
    }
}

#[test]
fn a_frontend_that_listens_and_has_no_room_is_not_waited_for() {
    let path = std::env::temp_dir().join(format!("ringlet-vhost-full-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: a call that takes no pointers; it makes the queue of those that wait as short as it can be.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let connect = crate::vhost_user::connect;
    let waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).collect();
    assert_eq!(connect(&path).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let backend = Backend::of(Source::connect(&path), path.clone());
    for _ in &waiting {
        drop(listener.accept().unwrap());
    }
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut driver = Driver::new(stream);
    driver.start(0);
    driver.ping(0);
    drop(driver);
    assert_eq!(backend.gone(), (None, vec![]));
    // Full again: it ends all the same.
    let _waiting: Vec<_> = std::iter::from_fn(|| connect(&path).ok()).collect();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_path_that_its_owner_spoils_is_tried_again() {
    let path = PathBuf::from("/dev/null/socket");
    let backend = Backend::of(Source::connect(&path), path);
    match backend.news.recv_timeout(LONG) {
        Ok(News::Complaint(text)) => assert!(text.contains("cannot connect to /dev/null/socket"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// One thing that a frontend does, sensible in itself, in whichever order.
fn act(driver: &mut Driver, others: &[File], what: u8, number: u8, ring: usize) -> vhost::Result<()> {
    let page = u64::from(number % 8) << 12;
    let far = |file: &File| region((1 << 40) + page, 0x1000, (FRONTEND << 1) + page, page, file);
    match what {
        0 => {
            let packed = if number < 64 { 1 << 34 } else { 0 };
            driver.frontend.set_features(1 << 30 | 1 << 32 | packed)?;
        }
        1 => drop(driver.frontend.set_mem_table(&[driver.region()])?),
        2 => drop(driver.frontend.set_mem_table(&[driver.region(), far(&others[usize::from(number) % 2])])?),
        3 => drop(driver.frontend.add_mem_region(&far(&others[usize::from(number) % 2]))?),
        4 => drop(driver.frontend.remove_mem_region(&far(&others[usize::from(number) % 2]))?),
        5 => driver.frontend.set_vring_num(ring, [8, 8, 4, 3, 1, 32768][usize::from(number) % 6])?,
        6 => driver.set_addresses(ring, FRONTEND + page + if number & 0x80 == 0 { 0 } else { 1 })?,
        7 => driver.frontend.set_vring_base(ring, u16::from(number) << 8 | u16::from(number))?,
        8 => drop(driver.frontend.get_vring_base(ring)?),
        9 => driver.start_ring(ring)?,
        10 => driver.frontend.set_vring_enable(ring, number < 128)?,
        11 => driver.exchange_call(),
        12 => driver.memory.set_len(if number < 64 { page } else { SIZE }).unwrap(),
        13 => driver.memory.write_all_at(&[number; 64], page.min(0x1000) + u64::from(number) * 16).unwrap(),
        14 if number < 128 => driver.make_events_wait(),
        14 => driver.fill_events(),
        15 => driver.fresh_rings(),
        _ => driver.kick(),
    }
    Ok(())
}

/// Runs a test with many cases, and one backend for all of them, which is gone afterwards.
fn with_cases<S: Strategy>(name: &str, cases: S, test: impl Fn(&Backend, S::Value)) {
    let backend = Backend::start(name);
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(200) };
    let result = TestRunner::new(config).run(&cases, |case| {
        test(&backend, case);
        Ok(())
    });
    drop(backend);
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Whatever a frontend does in whichever order, with descriptors and memory that it spoils meanwhile, the next one is served.
#[test]
fn any_order_of_requests_is_borne() {
    let acts = proptest::collection::vec((0_u8..20, any::<u8>(), 0_usize..2), 1..60);
    with_cases("order", (acts, any::<bool>()), |backend, (acts, started)| {
        let mut driver = Driver::new(backend.connect());
        let others = [memory(), memory()];
        if started {
            driver.start(0);
        } else {
            driver.accept(1 << 32).unwrap();
        }
        for (what, number, ring) in acts {
            if act(&mut driver, &others, what, number, ring).is_err() {
                break;
            }
        }
        drop(driver);
        backend.gone();
        let mut driver = Driver::new(backend.connect());
        driver.start(0);
        driver.ping(0);
        drop(driver);
        backend.gone();
    });
}

/// Whatever is sent, the next frontend is served.
#[test]
fn nonsense_ends_a_connection_and_nothing_else() {
    let body = proptest::collection::vec(any::<u8>(), 0..64);
    let messages = proptest::collection::vec((0_u32..50, body, any::<bool>(), any::<bool>()), 1..12);
    with_cases("nonsense", messages, |backend, messages| {
        let stream = backend.connect();
        let (file, event) = (memory(), EventFd::new(EFD_NONBLOCK).unwrap());
        for (request, mut body, whole, with_file) in messages {
            // Bodies of the right size get further.
            let size = if whole { [0, 8, 8, 40].get(body.len() % 4).copied().unwrap_or(0) } else { body.len() };
            body.resize(size, 0);
            let files = [file.as_raw_fd(), event.as_raw_fd()];
            let files = if with_file { &files[usize::from(request > 8)..][..1] } else { &[] };
            if stream.send_with_fds(&[&message(request, &body)[..]], files).is_err() {
                break;
            }
        }
        drop(stream);
        backend.gone();
        let mut driver = Driver::new(backend.connect());
        driver.start(0);
        driver.ping(0);
        drop(driver);
        backend.gone();
    });
}
