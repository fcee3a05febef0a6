//! The flags of `ringlet run`, `ringlet qemu` and `ringlet vhost-user-backend`, and the values they take.

use std::fmt;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use ringlet_driver::features::Features;

use super::{Pin, Style};
use crate::backend::options::{Net, Publish, Real, Switch};
use crate::virtio::{Transport, net};
use crate::vmm::layout;

/// What the guest is given, in whichever machine it runs.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestArgs {
    /// Rules to load at boot, as `ipvsadm-save -n` writes them; without this, the demonstration's
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// An address of the load balancer itself, with its prefix length; several may be given, the first is the management
    /// address (ports 9100 and 9101)
    #[arg(long = "ip", value_name = "ADDRESS/PREFIX")]
    pub ips: Vec<Cidr>,
    /// The router through which everything else is reached; one for IPv4 and one for IPv6
    #[arg(long = "gateway", value_name = "ADDRESS")]
    pub gateways: Vec<IpAddr>,
    /// Memory of the virtual machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = layout::DEFAULT_MEMORY_MIB,
          value_parser = clap::value_parser!(u32).range(*layout::MEMORY_MIB.start() as i64..=*layout::MEMORY_MIB.end() as i64))]
    pub memory: u32,
    /// Processors of the virtual machine
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    pub cpus: u8,
    /// Features of the network device to leave out (-name) or to ask for (+name), with commas between them; the names are
    /// the virtio specification's in lower case, such as -mrg_rxbuf,-guest_tso4
    #[arg(long, value_name = "-NAME,+NAME", allow_hyphen_values = true)]
    pub features: Option<FeatureSwitches>,
    /// Boot this PVH image instead of the one inside this program
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// More words for the guest's command line; several may be given
    #[arg(long, value_name = "TEXT")]
    pub append: Vec<String>,
}

/// What is shown, and for how long.
#[derive(Debug, Clone, Default, Args)]
pub struct DisplayArgs {
    /// End after so many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Seconds between two lines of status
    #[arg(long, value_name = "SECONDS", value_parser = interval)]
    pub status_interval: Option<f64>,
    /// Everything as JSON, one object a line (docs/command.md, docs/vhost-user.md)
    #[arg(long)]
    pub json: bool,
    /// No colour, even on a terminal
    #[arg(long)]
    pub no_color: bool,
}

impl DisplayArgs {
    /// When to end; `None` if nothing but the user ends it. `started` is when the process began.
    #[must_use]
    pub fn until(&self, started: Instant) -> Option<Instant> {
        self.seconds.map(|seconds| started + Duration::from_secs_f64(seconds))
    }

    /// Whether a person looks on: the last line may be written over then.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    /// The time between two lines of status.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let often = self.json || self.is_live();
        Duration::from_secs_f64(self.status_interval.unwrap_or(if often { 1.0 } else { 5.0 }))
    }

    /// How parts of the output are set off.
    #[must_use]
    pub fn style(&self) -> Style {
        Style::new(self.no_color)
    }
}

/// The flags of `ringlet run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// What the guest is given
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The network: `lan` (inside this process, needs no rights), `tap=NAME[,threaded=keep]` (a TAP interface of this host;
    /// where the guest sends much, /sys/class/net/NAME/threaded is switched on, unless it is to be kept as it is),
    /// `xdp=NAME[,queue=NUMBER]` (all that comes by a queue of a network interface, by AF_XDP; as root) or
    /// `vhost-user=PATH[,server]` (another process, such as OVS-DPDK, that serves the guest's queues itself)
    #[arg(long, value_name = "NETWORK", default_value_t)]
    pub net: Net,
    /// How the guest reaches its network device
    #[arg(long, value_enum, default_value_t)]
    pub transport: Transport,
    /// The MAC address of the network device; 52:54:00:12:34:02 without this, which is for one guest in a network
    #[arg(long, value_name = "XX:XX:XX:XX:XX:XX")]
    pub mac: Option<Mac>,
    /// Features that the network device does not offer (-name), or does although it would not (+name), with commas between
    /// them; `--features` is the driver's side of the same
    #[arg(long, value_name = "-NAME,+NAME", allow_hyphen_values = true)]
    pub device_features: Option<FeatureSwitches>,
    /// The most descriptors that a queue of the network device may have; with split rings, the power of two in it
    #[arg(long, value_name = "NUMBER", default_value_t = net::DEFAULT_QUEUE_SIZE,
          value_parser = clap::value_parser!(u16).range(2..=i64::from(net::MAX_QUEUE_SIZE)))]
    pub queue_size: u16,
    /// A port of this host that leads to an address in the network `lan`: `[udp:][HOSTADDR:]PORT:ADDR:PORT`; several may be
    /// given. One for the service at port 80 of the demonstration is there without asking
    #[arg(long = "publish", value_name = "PUBLISH")]
    pub publish: Vec<Publish>,
    /// A server of this host, TCP and UDP, that stands in the network `lan`: ADDR:PORT=HOSTADDR:PORT; several may be given
    #[arg(long = "real", value_name = "REAL")]
    pub real: Vec<Real>,
    /// Whether TCP segments of one connection that follow each other come to the guest as one frame, where it takes such
    /// frames: fewer frames for the guest, more work for the device's thread. They do not by default
    #[arg(long, value_enum, value_name = "on|off")]
    pub coalesce: Option<Switch>,
    /// Where the guest's and the device's threads run
    #[command(flatten)]
    pub pin: Pin,
    /// Write every frame to this file, for wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// What is shown, and for how long
    #[command(flatten)]
    pub display: DisplayArgs,
}

/// The flags of `ringlet qemu`.
#[derive(Debug, Clone, Args)]
pub struct QemuArgs {
    /// What the guest is given
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The machine that QEMU is to be
    #[arg(long, value_enum, default_value_t)]
    pub machine: QemuMachine,
    /// What runs the guest's instructions: `kvm`, or `tcg` (QEMU itself, slower, everywhere); kvm where it is usable
    #[arg(long, value_enum)]
    pub accel: Option<Accel>,
    /// A port of this host that leads to an address of the guest: `[HOSTADDR:]PORT:ADDR:PORT`; several may be given
    #[arg(long = "publish", value_name = "PUBLISH", visible_alias = "hostfwd")]
    pub publish: Vec<Publish>,
    /// A server of this host, TCP and UDP, that stands among the demonstration's: ADDR:PORT=HOSTADDR:PORT; several may be given
    #[arg(long = "real", value_name = "REAL")]
    pub real: Vec<Real>,
    /// Write every frame of the servers' side to this file, for wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// The QEMU to run
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
    /// What is shown, and for how long
    #[command(flatten)]
    pub display: DisplayArgs,
    /// Only show how to do it by hand
    #[arg(long)]
    pub print: bool,
}

/// The flags of `ringlet vhost-user-backend`.
#[derive(Debug, Clone, Args)]
pub struct VhostUserBackendArgs {
    /// The socket: it is made there, and removed at the end
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Connect to the socket, at which the frontend listens (`server=on` in QEMU, `server=1` in dpdk), again and again
    #[arg(long)]
    pub client: bool,
    /// The network: `lan` (inside this process, needs no rights), `tap=NAME[,threaded=keep]` (a TAP interface of
    /// this host; where the guest sends much, /sys/class/net/NAME/threaded is switched on, unless it is to be kept as it is)
    /// or `xdp=NAME[,queue=NUMBER]` (all that comes by a queue of a network interface, by AF_XDP; as root)
    #[arg(long, value_name = "NETWORK", default_value_t)]
    pub net: Net,
    /// Features that the network device does not offer (-name), or does although it would not (+name), with commas between
    /// them
    #[arg(long, value_name = "-NAME,+NAME", allow_hyphen_values = true)]
    pub device_features: Option<FeatureSwitches>,
    /// A port of this host that leads to an address in the network `lan`: `[udp:][HOSTADDR:]PORT:ADDR:PORT`; several may be
    /// given
    #[arg(long = "publish", value_name = "PUBLISH")]
    pub publish: Vec<Publish>,
    /// A server of this host, TCP and UDP, that stands in the network `lan`: ADDR:PORT=HOSTADDR:PORT; several may be given
    #[arg(long = "real", value_name = "REAL")]
    pub real: Vec<Real>,
    /// Write every frame to this file, for wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// What is shown, and for how long
    #[command(flatten)]
    pub display: DisplayArgs,
}

/// A machine of QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum QemuMachine {
    /// A PC of 1996; the network device is on PCI.
    Pc,
    /// A PC of 2009; the network device is on PCI Express.
    Q35,
    /// A machine made for micro virtual machines; the network device is on virtio-mmio.
    #[default]
    Microvm,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// An address and its prefix length, `10.0.0.2/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Leading bits that are the network's.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no address with a prefix length, such as 10.0.0.2/24 or fd00::2/64");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| plain && (1..=most).contains(prefix)).ok_or_else(bad)?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An Ethernet address that one station can have, `52:54:00:12:34:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no MAC address, such as 52:54:00:12:34:02");
        let byte = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(part, 16).ok()).flatten().ok_or_else(bad)
        };
        let bytes: Vec<u8> = text.split(':').map(byte).collect::<Result<_, _>>()?;
        let mac: [u8; 6] = bytes.try_into().map_err(|_| bad())?;
        // The lowest bit of the first byte is set in a group's address (IEEE 802).
        match mac {
            [0, 0, 0, 0, 0, 0] => Err(format!("`{text}` is nobody's MAC address")),
            [first, ..] if first & 1 != 0 => {
                Err(format!("`{text}` is the MAC address of a group: the first byte has to be even"))
            }
            _ => Ok(Self(mac)),
        }
    }
}

/// A list of features to switch on and off, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureSwitches(String);

impl FeatureSwitches {
    /// What they make of a set of features.
    #[must_use]
    pub fn applied_to(&self, features: Features) -> Features {
        // They were checked when they were read.
        features.switched(&self.0).unwrap_or(features)
    }
}

impl FromStr for FeatureSwitches {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Features::IMPLEMENTED.switched(text).map_err(|error| error.to_string())?;
        // Spaces would end the word on the guest's command line.
        Ok(Self(text.chars().filter(|letter| !letter.is_whitespace()).collect()))
    }
}

impl fmt::Display for FeatureSwitches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A length of time in seconds: a year at most, since it is added to the time of day somewhere.
fn seconds(text: &str) -> Result<f64, String> {
    const YEAR: f64 = 366.0 * 86_400.0;
    let seconds = text.parse().ok().filter(|seconds| (0.0..=YEAR).contains(seconds));
    seconds.ok_or_else(|| "expected a number of seconds, such as 10 or 0.5".to_owned())
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = seconds(text)?;
    // What the guest takes: milliseconds, an hour of them at most.
    if (0.01..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("expected 0.01 to 3600 seconds".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_prefix_that_fits() {
        for good in ["10.0.0.2/24", "fd00::2/64", "10.0.0.2/32", "::1/128"] {
            assert_eq!(good.parse::<Cidr>().unwrap().to_string(), good);
        }
        for bad in ["10.0.0.2", "10.0.0.2/", "10.0.0.2/0", "10.0.0.2/33", "fd00::2/129", "x/24", "10.0.0.2/+24"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_addresses_are_those_of_one_station() {
        assert_eq!("52:54:00:aB:34:03".parse(), Ok(Mac([0x52, 0x54, 0, 0xab, 0x34, 3])));
        for bad in
            ["", "52:54:00:12:34", "52:54:00:12:34:02:", "52:54:00:12:34:2", "52-54-00-12-34-02", "52:54:00:12:34:+2"]
        {
            assert!(bad.parse::<Mac>().unwrap_err().contains("such as"), "{bad}");
        }
        assert!("53:54:00:12:34:02".parse::<Mac>().unwrap_err().contains("group"));
        assert!("00:00:00:00:00:00".parse::<Mac>().unwrap_err().contains("nobody"));
    }

    #[test]
    fn features_are_checked_before_the_guest_sees_them() {
        assert_eq!("-mrg_rxbuf, +csum".parse::<FeatureSwitches>().unwrap().to_string(), "-mrg_rxbuf,+csum");
        let switches: FeatureSwitches = "-mrg_rxbuf,+csum".parse().unwrap();
        assert_eq!(switches.applied_to(Features::MRG_RXBUF | Features::MAC), Features::CSUM | Features::MAC);
        assert!("mrg_rxbuf".parse::<FeatureSwitches>().is_err());
        assert!("-warp".parse::<FeatureSwitches>().unwrap_err().contains("warp"));
    }
}
