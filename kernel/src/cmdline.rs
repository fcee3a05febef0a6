//! The command line: what the host asks of this unikernel.
//!
//! Words are separated by spaces; each is `name=value`. A word that is unknown or malformed is reported with its
//! remedy and otherwise skipped: boot goes on, nothing is ignored silently. Reading needs no heap.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use ringlet_driver::features::Features;

use crate::list::List;
use crate::platform::Crash;
use crate::services::{control, http, iperf3};

/// The most `ip=` options that are taken.
pub const MAX_ADDRESSES: usize = 7;
/// The most `virtio_mmio.device=` options that are taken.
pub const MAX_MMIO_DEVICES: usize = 8;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// `ip=`: our own addresses; the first is the management address.
    pub addresses: List<Cidr, MAX_ADDRESSES>,
    /// `gateway=` for IPv4.
    pub gateway_v4: Option<Ipv4Addr>,
    /// `gateway=` for IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// `virtio_mmio.device=`: where virtio-mmio devices are.
    pub mmio_devices: List<MmioDevice, MAX_MMIO_DEVICES>,
    /// `virtio_net.features=-name`: features not to negotiate even where the device offers them.
    pub features_off: Features,
    /// `virtio_net.features=+name`: features to negotiate although they are not wanted by default.
    pub features_on: Features,
    /// `console=`: where messages go.
    pub console: ConsoleKind,
    /// `status=`: milliseconds between two status records; 0 sends no records at all.
    pub status_ms: u64,
    /// `connections=`: entries of the connection table.
    pub connections: Option<usize>,
    /// `buffers=`: packet buffers.
    pub buffers: Option<usize>,
    /// `idle_spin=`: the longest time, in microseconds, the loop looks for work before it sleeps.
    pub idle_spin_us: u64,
    /// `iperf3=`: the port of the iperf3 server, if there is to be one.
    pub iperf3: Option<u16>,
    /// `crash=`: a fault to make on purpose after boot.
    pub crash: Option<Crash>,
    /// `reset_queues=`: milliseconds after which one of the device's queues is reset on purpose, again and again; 0 for never.
    pub reset_queues_ms: u64,
    /// `roundtrip=`: frames to circulate, instead of balancing.
    pub round_trip: Option<RoundTrip>,
}

/// Frames in circulation, to measure the device: `FRAMES[,BYTES]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// How many: 1 to [`RoundTrip::MOST`].
    pub frames: usize,
    /// How long each is, in bytes without frame check sequence: 60 to 1514.
    pub length: usize,
}

impl RoundTrip {
    /// The most frames that can be in circulation.
    pub const MOST: usize = 8192;
    /// The length of a frame if none is given, in bytes.
    pub const LENGTH: usize = 64;
}

/// The default of `idle_spin=`, in microseconds.
pub const DEFAULT_IDLE_SPIN_US: u64 = 1000;

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: List::new(),
            gateway_v4: None,
            gateway_v6: None,
            mmio_devices: List::new(),
            features_off: Features::empty(),
            features_on: Features::empty(),
            console: ConsoleKind::Serial,
            status_ms: 0,
            connections: None,
            buffers: None,
            idle_spin_us: DEFAULT_IDLE_SPIN_US,
            iperf3: Some(iperf3::DEFAULT_PORT),
            crash: None,
            reset_queues_ms: 0,
            round_trip: None,
        }
    }
}

/// An address of ours and the prefix of the network it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address: unicast, neither unspecified nor loopback nor the subnet's network or broadcast address.
    pub address: IpAddr,
    /// Leading bits that are the network's: 1..=32 or 1..=128.
    pub prefix: u8,
}

impl Default for Cidr {
    fn default() -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 32 }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A virtio-mmio device, `SIZE@BASE:IRQ[:ID]` as Linux writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MmioDevice {
    /// Physical address of the registers, 4-aligned.
    pub base: u64,
    /// Bytes of register space, at least [`MIN_MMIO_SIZE`].
    pub size: u64,
    /// Global interrupt number.
    pub irq: u32,
}

/// The least register space of a virtio-mmio device, in bytes: its registers end at 0x100, the configuration follows.
pub const MIN_MMIO_SIZE: u64 = 0x200;

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleKind {
    /// A 16550 at port 0x3f8 (`ttyS0`).
    Serial,
    /// Ringlet's own block console: a line per exit (`ringlet`).
    Block,
}

/// One word of the command line that could not be followed, and what to write instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic<'a> {
    /// The word, as it was given.
    pub word: &'a [u8],
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for Diagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 80;
        let shown = &self.word[..self.word.len().min(SHOWN)];
        let more = if shown.len() < self.word.len() { "..." } else { "" };
        write!(f, "command line: '{}{more}': {}", shown.escape_ascii(), self.problem)
    }
}

/// What is wrong with a word of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No option of that name.
    Unknown,
    /// The word is not text.
    NotText,
    /// `ip=` is not an address with a prefix length.
    Address,
    /// `ip=` is an address no host can have, or one of its subnet's two reserved ones.
    NotAHostAddress,
    /// `ip=` repeats an address.
    RepeatedAddress,
    /// `gateway=` is not an address of a host.
    Gateway,
    /// `virtio_mmio.device=` is not `SIZE@BASE:IRQ[:ID]`.
    MmioDevice,
    /// `virtio_net.features=` has an item that is not `-name` or `+name` of a feature.
    Feature,
    /// The value should be a number.
    Number,
    /// The number is out of its range.
    Range {
        /// The least that is taken.
        min: u64,
        /// The most that is taken.
        max: u64,
    },
    /// `console=` names no console.
    Console,
    /// `iperf3=` is neither a port that is free nor `off`.
    Iperf3,
    /// `crash=` names no fault.
    Crash,
    /// `roundtrip=` is not `FRAMES[,BYTES]`.
    RoundTrip,
    /// The option has been given before; the last one counts.
    Repeated,
    /// There are more of this option than are taken.
    TooMany {
        /// How many are taken.
        max: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unknown => f.write_str(
                "unknown option; known are ip, gateway, virtio_mmio.device, virtio_net.features, console, status, \
                 connections, buffers, idle_spin, iperf3, crash, reset_queues, roundtrip",
            ),
            Problem::NotText => f.write_str("not UTF-8 text"),
            Problem::Address => f.write_str("not an address with a prefix length; write for example ip=10.0.0.2/24"),
            Problem::NotAHostAddress => {
                f.write_str("not an address a host can have; give a unicast address that is not its subnet's first or last")
            }
            Problem::RepeatedAddress => f.write_str("this address has been given before; remove one of them"),
            Problem::Gateway => f.write_str("not the address of a host; write for example gateway=10.0.0.1"),
            Problem::MmioDevice => {
                f.write_str("not a virtio-mmio device; write SIZE@BASE:IRQ, for example virtio_mmio.device=4K@0xd0000000:5")
            }
            Problem::Feature => f.write_str(
                "not a list of features; write -name or +name with the names of the virtio specification in lower case, \
                 for example virtio_net.features=-mrg_rxbuf,-guest_tso4",
            ),
            Problem::Number => f.write_str("not a number; write decimal digits"),
            Problem::Range { min, max } => write!(f, "out of range; give a number from {min} to {max}"),
            Problem::Console => f.write_str("no such console; write console=ttyS0 or console=ringlet"),
            Problem::Iperf3 => f.write_str("not a port that is free; write iperf3=5201, or iperf3=off for no such server"),
            Problem::Crash => f.write_str("no such fault; one of panic, exception, stack, heap, triple"),
            Problem::RoundTrip => write!(
                f,
                "not a number of frames from 1 to {}, and perhaps their length from 60 to 1514; write for example \
                 roundtrip=512,64",
                RoundTrip::MOST
            ),
            Problem::Repeated => f.write_str("given before; the last one counts"),
            Problem::TooMany { max } => write!(f, "one too many; at most {max} are taken"),
        }
    }
}

/// Reads the command line and hands every word that could not be followed, in full or in part, to `report`.
///
/// Everything from the first NUL on is not part of the line. Of an option that may be given once the last one counts, and
/// the repetition is reported.
pub fn parse<'a>(line: &'a [u8], report: &mut dyn FnMut(Diagnostic<'a>)) -> Options {
    let line = line.split(|&b| b == 0).next().unwrap_or_default();
    let mut reader = Reader { options: Options::default(), seen: 0 };
    for word in line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()) {
        reader.word(word, &mut |problem| report(Diagnostic { word, problem }));
    }
    reader.options
}

/// Options that may be given once, for noticing repetitions: a bit each.
#[derive(Clone, Copy)]
enum Once {
    GatewayV4,
    GatewayV6,
    Console,
    Status,
    Connections,
    Buffers,
    IdleSpin,
    Iperf3,
    Crash,
    ResetQueues,
    RoundTrip,
}

struct Reader {
    options: Options,
    seen: u32,
}

impl Reader {
    fn word(&mut self, word: &[u8], report: &mut dyn FnMut(Problem)) {
        let Ok(text) = core::str::from_utf8(word) else { return report(Problem::NotText) };
        let Some((name, value)) = text.split_once('=') else { return report(Problem::Unknown) };
        let result = match name {
            "ip" => self.address(value),
            "gateway" => self.gateway(value, report),
            "virtio_mmio.device" => self.mmio_device(value),
            "virtio_net.features" => return self.features(value, report),
            "console" => match value {
                "ttyS0" => self.once(Once::Console, report, |o| o.console = ConsoleKind::Serial),
                "ringlet" => self.once(Once::Console, report, |o| o.console = ConsoleKind::Block),
                _ => Err(Problem::Console),
            },
            "status" => {
                number(value, 0, 3_600_000).and_then(|ms| self.once(Once::Status, report, |o| o.status_ms = ms))
            }
            "connections" => number(value, 64, 1 << 24)
                .and_then(|n| self.once(Once::Connections, report, |o| o.connections = usize::try_from(n).ok())),
            "buffers" => number(value, 64, 1 << 20)
                .and_then(|n| self.once(Once::Buffers, report, |o| o.buffers = usize::try_from(n).ok())),
            "idle_spin" => {
                number(value, 0, 1_000_000).and_then(|us| self.once(Once::IdleSpin, report, |o| o.idle_spin_us = us))
            }
            "iperf3" => match value {
                "off" => self.once(Once::Iperf3, report, |o| o.iperf3 = None),
                _ => match plain_number(value).and_then(|port| u16::try_from(port).ok()) {
                    None | Some(0 | http::PORT | control::PORT) => Err(Problem::Iperf3),
                    port => self.once(Once::Iperf3, report, |o| o.iperf3 = port),
                },
            },
            "reset_queues" => number(value, 0, 3_600_000)
                .and_then(|ms| self.once(Once::ResetQueues, report, |o| o.reset_queues_ms = ms)),
            "crash" => match Crash::NAMES.iter().find(|(name, _)| *name == value) {
                Some(&(_, kind)) => self.once(Once::Crash, report, |o| o.crash = Some(kind)),
                None => Err(Problem::Crash),
            },
            "roundtrip" => match round_trip(value) {
                Some(round_trip) => self.once(Once::RoundTrip, report, |o| o.round_trip = Some(round_trip)),
                None => Err(Problem::RoundTrip),
            },
            _ => Err(Problem::Unknown),
        };
        if let Err(problem) = result {
            report(problem);
        }
    }

    fn once(
        &mut self,
        what: Once,
        report: &mut dyn FnMut(Problem),
        set: impl FnOnce(&mut Options),
    ) -> Result<(), Problem> {
        let bit = 1 << what as u32;
        if self.seen & bit != 0 {
            report(Problem::Repeated);
        }
        self.seen |= bit;
        set(&mut self.options);
        Ok(())
    }

    fn address(&mut self, value: &str) -> Result<(), Problem> {
        let (address, prefix) = value.split_once('/').ok_or(Problem::Address)?;
        let address = IpAddr::from_str(address).map_err(|_| Problem::Address)?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = plain_number(prefix).ok_or(Problem::Address)?;
        let prefix = u8::try_from(prefix).ok().filter(|p| (1..=bits).contains(p)).ok_or(Problem::Address)?;
        if !is_host(address) || is_reserved_in_subnet(address, prefix) {
            return Err(Problem::NotAHostAddress);
        }
        if self.options.addresses.iter().any(|known| known.address == address) {
            return Err(Problem::RepeatedAddress);
        }
        self.options.addresses.push(Cidr { address, prefix }).map_err(|_| Problem::TooMany { max: MAX_ADDRESSES })
    }

    fn gateway(&mut self, value: &str, report: &mut dyn FnMut(Problem)) -> Result<(), Problem> {
        let address = IpAddr::from_str(value).ok().filter(|a| is_host(*a)).ok_or(Problem::Gateway)?;
        match address {
            IpAddr::V4(v4) => self.once(Once::GatewayV4, report, |o| o.gateway_v4 = Some(v4)),
            IpAddr::V6(v6) => self.once(Once::GatewayV6, report, |o| o.gateway_v6 = Some(v6)),
        }
    }

    fn mmio_device(&mut self, value: &str) -> Result<(), Problem> {
        let device = mmio_device(value).ok_or(Problem::MmioDevice)?;
        self.options.mmio_devices.push(device).map_err(|_| Problem::TooMany { max: MAX_MMIO_DEVICES })
    }

    fn features(&mut self, value: &str, report: &mut dyn FnMut(Problem)) {
        for item in value.split(',').filter(|item| !item.is_empty()) {
            let feature = item.get(1..).and_then(feature_by_name);
            match (item.as_bytes()[0], feature) {
                (b'-', Some(feature)) => {
                    self.options.features_off |= feature;
                    self.options.features_on -= feature;
                }
                (b'+', Some(feature)) => {
                    self.options.features_on |= feature;
                    self.options.features_off -= feature;
                }
                _ => report(Problem::Feature),
            }
        }
    }
}

/// The feature of that (lower-case) name.
fn feature_by_name(name: &str) -> Option<Features> {
    let mut upper = [0; 32];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name.as_bytes());
    if upper.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    upper.make_ascii_uppercase();
    Features::from_name(core::str::from_utf8(upper).ok()?)
}

/// Whether one host can have this address.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.octets()[0] == 0 || v4.octets()[0] >= 240 || v4.is_loopback() || v4.is_multicast()),
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.to_ipv4_mapped().is_some())
        }
    }
}

/// Whether this is its subnet's network or broadcast address (IPv4 only; a /31 or /32 has neither).
fn is_reserved_in_subnet(address: IpAddr, prefix: u8) -> bool {
    let IpAddr::V4(v4) = address else { return false };
    if prefix >= 31 {
        return false;
    }
    let host = u32::MAX >> prefix;
    let bits = v4.to_bits() & host;
    bits == 0 || bits == host
}

fn mmio_device(value: &str) -> Option<MmioDevice> {
    let (size, rest) = value.split_once('@')?;
    let mut rest = rest.split(':');
    let (base, irq, id) = (rest.next()?, rest.next()?, rest.next());
    if rest.next().is_some() || id.is_some_and(|id| plain_number(id).is_none()) {
        return None;
    }
    let (size, base) = (scaled(size)?, scaled(base)?);
    let irq = u32::try_from(plain_number(irq)?).ok()?;
    (size >= MIN_MMIO_SIZE && base % 4 == 0 && base.checked_add(size).is_some()).then_some(MmioDevice {
        base,
        size,
        irq,
    })
}

/// A number, decimal or `0x` hexadecimal, with an optional K, M or G (powers of 1024).
fn scaled(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'k' | b'K' => 10,
        b'm' | b'M' => 20,
        b'g' | b'G' => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok()?,
        Some(_) => return None,
        None => plain_number(digits)?,
    };
    value.checked_mul(1 << shift)
}

/// Decimal digits and nothing else (`str::parse` would take a sign).
fn plain_number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn round_trip(text: &str) -> Option<RoundTrip> {
    let (frames, length) = match text.split_once(',') {
        Some((frames, length)) => (frames, number(length, 60, 1514).ok()?),
        None => (text, RoundTrip::LENGTH as u64),
    };
    let frames = number(frames, 1, RoundTrip::MOST as u64).ok()?;
    Some(RoundTrip { frames: usize::try_from(frames).ok()?, length: usize::try_from(length).ok()? })
}

fn number(text: &str, min: u64, max: u64) -> Result<u64, Problem> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Problem::Number);
    }
    // Digits alone that are no number are one too large.
    let value = text.parse().unwrap_or(u64::MAX);
    if (min..=max).contains(&value) { Ok(value) } else { Err(Problem::Range { min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    fn read(line: &str) -> (Options, Vec<Problem>) {
        let mut problems = Vec::new();
        let options = parse(line.as_bytes(), &mut |diagnostic| problems.push(diagnostic.problem));
        (options, problems)
    }

    fn only_problem(line: &str) -> Problem {
        let (options, problems) = read(line);
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert_eq!(options, Options::default(), "{line}");
        problems[0]
    }

    #[test]
    fn every_option_is_understood() {
        let (options, problems) = read(
            "ip=10.0.0.2/24 ip=fd00::2/64  gateway=10.0.0.1 gateway=fd00::1 virtio_mmio.device=4K@0xd0000000:5 \
             virtio_mmio.device=512@3489660928:6:1 virtio_net.features=-csum,+guest_csum console=ringlet status=250 \
             connections=1000 buffers=512 idle_spin=0 reset_queues=7 crash=stack roundtrip=512,1514\0junk=",
        );
        assert_eq!(problems, []);
        assert_eq!(
            *options.addresses,
            [
                Cidr { address: "10.0.0.2".parse().unwrap(), prefix: 24 },
                Cidr { address: "fd00::2".parse().unwrap(), prefix: 64 }
            ]
        );
        assert_eq!(options.gateway_v4, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(options.gateway_v6, Some("fd00::1".parse().unwrap()));
        assert_eq!(
            *options.mmio_devices,
            [MmioDevice { base: 0xd000_0000, size: 4096, irq: 5 }, MmioDevice { base: 0xd000_0000, size: 512, irq: 6 }]
        );
        assert_eq!(options.features_off, Features::CSUM);
        assert_eq!(options.features_on, Features::GUEST_CSUM);
        assert_eq!(options.console, ConsoleKind::Block);
        assert_eq!(options.status_ms, 250);
        assert_eq!(options.connections, Some(1000));
        assert_eq!(options.buffers, Some(512));
        assert_eq!(options.idle_spin_us, 0);
        assert_eq!((options.crash, options.reset_queues_ms), (Some(Crash::Stack), 7));
        assert_eq!(options.round_trip, Some(RoundTrip { frames: 512, length: 1514 }));
        assert_eq!(read("roundtrip=1").0.round_trip, Some(RoundTrip { frames: 1, length: 64 }));
    }

    #[test]
    fn what_cannot_be_followed_is_reported_and_changes_nothing() {
        for word in ["quiet", "root=/dev/vda", "IP=10.0.0.2/24", "=", "ip"] {
            assert_eq!(only_problem(word), Problem::Unknown, "{word}");
        }
        for word in
            ["ip=", "ip=10.0.0.2", "ip=10.0.0.2/33", "ip=10.0.0.2/0", "ip=10.0.0.2/+8", "ip=10.0.0/8", "ip=::1:/64"]
        {
            assert_eq!(only_problem(word), Problem::Address, "{word}");
        }
        for word in [
            "ip=127.0.0.1/8",
            "ip=224.0.0.1/8",
            "ip=255.255.255.255/32",
            "ip=0.0.0.0/8",
            "ip=::/64",
            "ip=::1/64",
            "ip=ff02::1/64",
            "ip=10.0.0.0/24",
            "ip=10.0.0.255/24",
        ] {
            assert_eq!(only_problem(word), Problem::NotAHostAddress, "{word}");
        }
        for word in ["gateway=", "gateway=x", "gateway=0.0.0.0", "gateway=10.0.0.1/24", "gateway=ff02::1"] {
            assert_eq!(only_problem(word), Problem::Gateway, "{word}");
        }
        for word in [
            "virtio_mmio.device=",
            "virtio_mmio.device=4K",
            "virtio_mmio.device=4K@0xd0000000",
            "virtio_mmio.device=4K@0xd0000000:5:1:2",
            "virtio_mmio.device=4K@0xd0000000:5:x",
            "virtio_mmio.device=4K@0xd0000002:5",
            "virtio_mmio.device=16@0xd0000000:5",
            "virtio_mmio.device=4K@0xffffffffffffffff:5",
            "virtio_mmio.device=99999999999G@0:5",
            "virtio_mmio.device=4K@0x:5",
            "virtio_mmio.device=4K@0x+1:5",
            "virtio_mmio.device=4K@0xd0000000:-5",
        ] {
            assert_eq!(only_problem(word), Problem::MmioDevice, "{word}");
        }
        for word in [
            "virtio_net.features=csum",
            "virtio_net.features=-",
            "virtio_net.features=-CSUM",
            "virtio_net.features=+nope",
        ] {
            assert_eq!(only_problem(word), Problem::Feature, "{word}");
        }
        assert_eq!(only_problem("console=tty"), Problem::Console);
        assert_eq!(only_problem("crash=now"), Problem::Crash);
        for word in
            ["roundtrip=", "roundtrip=0", "roundtrip=8193", "roundtrip=1,59", "roundtrip=1,1515", "roundtrip=1,64,1"]
        {
            assert_eq!(only_problem(word), Problem::RoundTrip, "{word}");
        }
        assert_eq!(only_problem("status=fast"), Problem::Number);
        assert_eq!(only_problem("status="), Problem::Number);
        assert_eq!(only_problem("connections=1"), Problem::Range { min: 64, max: 1 << 24 });
        assert_eq!(only_problem("connections=99999999999999999999999"), Problem::Range { min: 64, max: 1 << 24 });
    }

    #[test]
    fn the_last_of_a_repeated_option_counts_and_repetition_is_reported() {
        let (options, problems) = read("status=1 status=2 gateway=10.0.0.1 gateway=fd00::1 gateway=10.0.0.3");
        assert_eq!(options.status_ms, 2);
        assert_eq!(options.gateway_v4, Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(problems, [Problem::Repeated, Problem::Repeated]);
        let (options, problems) = read("ip=10.0.0.2/24 ip=10.0.0.2/16");
        assert_eq!(options.addresses.len(), 1);
        assert_eq!(problems, [Problem::RepeatedAddress]);
    }

    #[test]
    fn addresses_beyond_the_most_are_reported() {
        let line: std::string::String = (1..=MAX_ADDRESSES + 2).map(|i| format!("ip=10.0.0.{i}/24 ")).collect();
        let (options, problems) = read(&line);
        assert_eq!(options.addresses.len(), MAX_ADDRESSES);
        assert_eq!(problems, [Problem::TooMany { max: MAX_ADDRESSES }; 2]);
    }

    #[test]
    fn a_later_feature_word_overrules_an_earlier_one() {
        let (options, problems) = read("virtio_net.features=-csum virtio_net.features=+csum");
        assert_eq!(problems, []);
        assert_eq!((options.features_off, options.features_on), (Features::empty(), Features::CSUM));
    }

    #[test]
    fn a_diagnostic_names_the_word_and_the_remedy_in_printable_text() {
        let mut shown = Vec::new();
        parse(b"ip=1.2.3.4 \x1b[2J\xff", &mut |diagnostic| shown.push(diagnostic.to_string()));
        assert_eq!(
            shown,
            [
                "command line: 'ip=1.2.3.4': not an address with a prefix length; write for example ip=10.0.0.2/24",
                "command line: '\\x1b[2J\\xff': not UTF-8 text"
            ]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_reported_printably(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut shown = Vec::new();
            parse(&line, &mut |diagnostic| shown.push(diagnostic.to_string()));
            for text in shown {
                prop_assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text}");
            }
        }

        #[test]
        fn near_misses_never_yield_an_address_no_host_has(
            words in proptest::collection::vec("(ip|gateway)=[0-9a-f.:/]{0,20}", 0..20),
        ) {
            let (options, _) = read(&words.join(" "));
            for cidr in options.addresses.iter() {
                prop_assert!(is_host(cidr.address));
                prop_assert!(cidr.prefix >= 1 && (cidr.prefix <= 32 || cidr.address.is_ipv6() && cidr.prefix <= 128));
            }
            prop_assert!(options.gateway_v4.is_none_or(|g| is_host(g.into())));
        }

        #[test]
        fn addresses_survive_the_way_through_text(bits in any::<u32>(), prefix in 1u8..=32) {
            let address = IpAddr::V4(Ipv4Addr::from_bits(bits));
            prop_assume!(is_host(address) && !is_reserved_in_subnet(address, prefix));
            let cidr = Cidr { address, prefix };
            let (options, problems) = read(&format!("ip={cidr}"));
            prop_assert_eq!(problems, []);
            prop_assert_eq!(&*options.addresses, &[cidr]);
        }

        #[test]
        fn mmio_devices_survive_the_way_through_text(base in any::<u32>(), size in 0x200u32.., irq in any::<u32>()) {
            let base = base & !3;
            let (options, problems) = read(&format!("virtio_mmio.device={size}@{base:#x}:{irq}"));
            prop_assert_eq!(problems, []);
            prop_assert_eq!(&*options.mmio_devices, &[MmioDevice { base: base.into(), size: size.into(), irq }]);
        }
    }
}
