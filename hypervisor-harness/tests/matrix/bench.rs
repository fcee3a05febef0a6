//! A guest in KVM whose network is the test: frames go in from a list, and what comes out lands in another.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ringlet::backend::{Backend, Counters, OFFLOADS, Received, Scatter, Sent};
use ringlet::image;
use ringlet::virtio::{self, Handle};
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;
use ringlet::vmm::{Machine, Outcome, Running};
use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::frames;

/// Longer than anything takes that works, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the device tells as its MTU: more than a guest takes for granted.
pub const MTU: u16 = 2000;

/// The Ethernet address of a host of the network.
pub const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, last]
}

#[derive(Debug, Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<frames::Sent>,
    /// Whom the guest's answer to an ARP question names.
    guest: Option<[u8; 6]>,
    /// What the backend was told.
    negotiated: Features,
    /// ICMP errors that the guest has sent.
    icmp_errors: u64,
}

#[derive(Debug, Default)]
struct Shared {
    wire: Mutex<Wire>,
    changed: Condvar,
}

impl Shared {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap()
    }
}

/// The network: everybody in it answers ARP and neighbour discovery, and whatever else the guest sends is kept.
struct Bench {
    shared: Arc<Shared>,
    wake: EventFd,
}

impl Bench {
    /// Takes a frame of the guest's. `true` if there is an answer to it.
    fn take(&self, header: NetHdr, frame: Vec<u8>) -> bool {
        let mut wire = self.shared.wire();
        let answer = match frame.get(12..14) {
            Some([8, 6]) => arp(&frame, &mut wire.guest),
            Some([0x86, 0xdd]) if frame.get(20) == Some(&58) => match frame.get(54) {
                Some(135) => advertisement(&frame),
                Some(1..=4) => {
                    wire.icmp_errors += 1;
                    None
                }
                _ => None,
            },
            Some([8, 0]) if frame.get(23) == Some(&1) => {
                wire.icmp_errors += 1;
                None
            }
            _ => {
                wire.from_guest.push_back((header, frame));
                None
            }
        };
        let answered = answer.is_some();
        if let Some(answer) = answer {
            wire.to_guest.push_back([&NetHdr::default().to_bytes()[..], &answer].concat());
        }
        drop(wire);
        self.shared.changed.notify_all();
        answered
    }
}

/// The answer to an ARP question for a host of the network, 10.0.0.x but the guest's own addresses. An answer of the guest
/// tells its Ethernet address.
fn arp(frame: &[u8], guest: &mut Option<[u8; 6]>) -> Option<Vec<u8>> {
    let arp = frame.get(14..42)?;
    let (from, target): ([u8; 6], [u8; 4]) = (arp[8..14].try_into().unwrap(), arp[24..28].try_into().unwrap());
    if arp[7] == 2 {
        *guest = Some(from);
        return None;
    }
    let [10, 0, 0, last] = target else { return None };
    if last == 2 || last >= 100 {
        return None;
    }
    let mut answer = [&from[..], &mac(last), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &mac(last), &target].concat();
    answer.extend(&arp[8..18]);
    Some(answer)
}

/// The answer to a neighbour solicitation for a host of the network, fd00::x but the guest's own addresses (RFC 4861).
fn advertisement(frame: &[u8]) -> Option<Vec<u8>> {
    let target: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
    let last = target[15];
    let source: [u8; 16] = frame[22..38].try_into().ok()?;
    if target[..2] != [0xfd, 0] || target[14] != 0 || last == 2 || source == [0; 16] {
        return None;
    }
    let mut answer = [&frame[6..12], &mac(last), &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]].concat();
    answer.extend(target);
    answer.extend(source);
    // Solicited, override; the target and its link-layer address.
    answer.extend([136, 0, 0, 0, 0x60, 0, 0, 0]);
    answer.extend(target);
    answer.extend([2, 1]);
    answer.extend(mac(last));
    let sum = !frames::sum(&answer[22..], 32 + 58);
    answer[56..58].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

impl Backend for Bench {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn offloads(&self) -> Features {
        OFFLOADS
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        self.shared.wire().negotiated = features;
        Ok(())
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let mut bytes = vec![0; frame.len()];
        assert_eq!(frame.read(0, &mut bytes), bytes.len());
        let (header, frame) = bytes.split_first_chunk::<{ NetHdr::LEN }>().expect("a header");
        if self.take(NetHdr::parse(header), frame.to_vec()) {
            self.wake.write(1)?;
        }
        Ok(Sent::Done)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let mut wire = self.shared.wire();
        let Some(frame) = wire.to_guest.front() else { return Ok(Received::Empty) };
        if room.len() < frame.len() {
            return Ok(Received::TooSmall(frame.len()));
        }
        let length = room.write(0, frame);
        wire.to_guest.pop_front();
        Ok(Received::Frame(length))
    }

    fn discard(&mut self) {
        self.shared.wire().to_guest.pop_front();
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        // Emptied before the look at the list: what is added after that leaves it readable.
        let _ = self.wake.read();
        (!self.shared.wire().to_guest.is_empty()).then_some(now)
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        fds.push(self.wake.as_raw_fd());
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// What the device offers on this network.
pub fn offer() -> Features {
    let bench = Bench { shared: Arc::default(), wake: EventFd::new(EFD_NONBLOCK).unwrap() };
    virtio::net::offered(&bench, Features::all())
}

/// A running guest.
pub struct Guest {
    shared: Arc<Shared>,
    wake: EventFd,
    device: Handle,
    running: Running,
    /// What the guest says that was agreed on.
    pub agreed: Features,
    /// How many descriptors it says that its receive queue has.
    pub queue_size: u64,
    /// What the guest has said.
    pub lines: Vec<String>,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    _said: Receiver<Said>,
}

/// How driver and device are to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub transport: virtio::Transport,
    /// What the device may offer.
    pub mask: Features,
    /// What the guest is told to leave alone, on its command line.
    pub without: Features,
    /// The most descriptors that the device lets a queue have.
    pub queue_size: u16,
}

impl Guest {
    /// Boots the image with these rules, and waits until it is up and its Ethernet address known.
    pub fn boot(setup: &Setup, rules: &str) -> Self {
        let (shared, wake) = (Arc::<Shared>::default(), EventFd::new(EFD_NONBLOCK).unwrap());
        let bench = Bench { shared: shared.clone(), wake: wake.try_clone().unwrap() };
        let mut machine = Machine::new(64).unwrap();
        let report = Box::new(|line: &str| eprintln!("the device: {line}"));
        let Setup { transport, mask, queue_size, .. } = *setup;
        let options = virtio::Options { transport, mask, queue_size, ..virtio::Options::new(report) };
        let device = virtio::attach(&mut machine, bench, options).unwrap();
        let mut command_line = format!(
            "ip=10.0.0.2/24 ip=fd00::2/64 gateway=10.0.0.1 gateway=fd00::1 {} console=ringlet status=60000 connections=4096",
            device.command_line()
        );
        if !setup.without.is_empty() {
            let names = setup.without.to_string().replace(',', ",-");
            command_line += &format!(" virtio_net.features=-{names}");
        }
        let (sender, said) = channel();
        let start = Start {
            image: image::EMBEDDED.into(),
            command_line,
            module: Some(rules.as_bytes().to_vec()),
            said: Box::new(move |said| drop(sender.send(said))),
            ended: Box::new(|_| ()),
        };
        let running = machine.start(start).unwrap();
        let (mut lines, mut agreed, mut queue_size) = (Vec::new(), None, 0);
        loop {
            match said.recv_timeout(PATIENCE) {
                Ok(Said::Record(Record::Boot(boot))) => {
                    agreed = Some(Features::from_bits_retain(boot.features));
                    queue_size = boot.queue_size;
                }
                Ok(Said::Record(Record::Ready(ready))) => {
                    assert_eq!(ready.rules_failed, 0, "{lines:#?}");
                    break;
                }
                Ok(Said::Record(_)) => {}
                Ok(Said::Line(line) | Said::Complaint(line)) => lines.push(line),
                Err(_) => panic!("the guest is not up: {lines:#?}"),
            }
        }
        let agreed = agreed.expect("a boot record");
        let mut guest = Self { shared, wake, device, running, agreed, queue_size, lines, mac: [0; 6], _said: said };
        // Who has 10.0.0.2? Tell 10.0.0.1.
        let question = [
            &[0xff; 6][..],
            &mac(1),
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &mac(1),
            &Ipv4Addr::new(10, 0, 0, 1).octets(),
            &[0; 6],
            &Ipv4Addr::new(10, 0, 0, 2).octets(),
        ];
        guest.inject([(NetHdr::default(), question.concat())]);
        guest.mac = guest.wait("an answer to ARP", |wire| wire.guest);
        guest
    }

    /// What the device offered.
    pub fn offered(&self) -> Features {
        self.device.offered()
    }

    /// What the device and its backend say that was agreed on.
    pub fn negotiated(&self) -> [Features; 2] {
        [self.device.negotiated(), self.shared.wire().negotiated]
    }

    /// ICMP errors so far.
    pub fn icmp_errors(&self) -> u64 {
        self.shared.wire().icmp_errors
    }

    /// Gives the guest frames.
    pub fn inject(&self, frames: impl IntoIterator<Item = frames::Sent>) {
        let frames = frames.into_iter().map(|(header, frame)| [&header.to_bytes()[..], &frame].concat());
        self.shared.wire().to_guest.extend(frames);
        self.wake.write(1).unwrap();
    }

    /// The next `count` frames that come out, or as many as come.
    pub fn take(&self, count: usize) -> Vec<frames::Sent> {
        let taken =
            self.try_wait(|wire| (wire.from_guest.len() >= count).then(|| wire.from_guest.drain(..count).collect()));
        taken.unwrap_or_else(|| self.shared.wire().from_guest.drain(..).collect())
    }

    /// Waits for an ICMP error more than there were.
    pub fn wait_for_icmp_error(&self, before: u64) {
        self.wait("an ICMP error", |wire| (wire.icmp_errors > before).then_some(()));
    }

    fn wait<T>(&self, what: &str, ready: impl FnMut(&mut Wire) -> Option<T>) -> T {
        self.try_wait(ready).unwrap_or_else(|| panic!("{what} did not come; the guest said {:#?}", self.lines))
    }

    fn try_wait<T>(&self, mut ready: impl FnMut(&mut Wire) -> Option<T>) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut wire = self.shared.wire();
        loop {
            if let Some(found) = ready(&mut wire) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            wire = self.shared.changed.wait_timeout(wire, left).unwrap().0;
        }
    }

    /// Stops the guest. Nothing may have come out that nobody asked for, and the device may have nothing to complain of.
    pub fn end(self) -> virtio::Counters {
        let rest: Vec<_> =
            self.shared.wire().from_guest.drain(..).map(|(header, frame)| (header, frame.len())).collect();
        self.running.stop();
        assert!(matches!(self.running.join(), Outcome::Stopped), "{:#?}", self.lines);
        self.device.stop();
        let counters = self.device.join();
        assert_eq!(rest, [], "frames that nobody has sent");
        assert_eq!((counters.faults, counters.misuses), (0, 0), "{counters:?}");
        assert_eq!((counters.from_guest.dropped, counters.to_guest.dropped), (0, 0), "{counters:?}");
        counters
    }
}

/// fd00::x.
pub fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)
}
