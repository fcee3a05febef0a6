//! What the guest is told: its command line and its rules.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, bail};

use crate::backend::options::{Net, Real};
use crate::cli::GuestArgs;
use crate::cli::options::Cidr;

/// The guest's addresses in the network `lan`, where nothing else is asked for.
pub const ADDRESSES: [Cidr; 2] = [
    Cidr { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), prefix: 24 },
    Cidr { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)), prefix: 64 },
];
/// The routers of the network `lan`.
pub const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))];
/// The segment of the network `lan`.
const NETWORKS: [Cidr; 2] = [
    Cidr { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), prefix: 24 },
    Cidr { address: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), prefix: 64 },
];
/// The service of the demonstration.
pub const DEMO_SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100)), 80);
/// The servers of the demonstration.
pub const DEMO_SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12), Ipv4Addr::new(10, 0, 0, 13)];

/// The longest rule file that is taken, in bytes.
const MAX_RULES: u64 = 1 << 20;

/// What the guest starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its own addresses; the first is the management address.
    pub addresses: Vec<Cidr>,
    /// Its routers.
    pub gateways: Vec<IpAddr>,
    /// Its rules, in the form of `ipvsadm-save -n`; empty for none.
    pub rules: Vec<u8>,
    /// Whether the rules are the demonstration's.
    pub demo: bool,
    /// Switched features, as on the command line.
    features: Option<String>,
    /// More words.
    append: Vec<String>,
}

impl Guest {
    /// Puts together what the flags ask for on this network, with `real` as further servers of the demonstration.
    ///
    /// # Errors
    /// If the rule file cannot be read or has faults, or the network needs what was not given.
    pub fn new(args: &GuestArgs, net: &Net, real: &[Real]) -> anyhow::Result<Self> {
        let lan = *net == Net::Lan;
        let (addresses, gateways) = match (args.ips.is_empty(), lan) {
            (true, false) => bail!("--net {net} needs an address for the load balancer: --ip ADDRESS/PREFIX"),
            (true, true) if args.gateways.is_empty() => (ADDRESSES.to_vec(), GATEWAYS.to_vec()),
            (true, true) => (ADDRESSES.to_vec(), args.gateways.clone()),
            (false, true) if args.gateways.is_empty() => {
                // A router that none of its own networks contains would be of no use to the guest.
                let reachable = |gateway: &IpAddr| args.ips.iter().any(|cidr| contains(cidr, gateway));
                (args.ips.clone(), GATEWAYS.into_iter().filter(reachable).collect())
            }
            (false, _) => (args.ips.clone(), args.gateways.clone()),
        };
        for version in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            if gateways.iter().filter(|gateway| version(gateway)).count() > 1 {
                bail!("--gateway is given twice for the same version of IP; there is one default route each");
            }
        }
        if lan && !NETWORKS.iter().any(|network| contains(network, &addresses[0].address)) {
            let [v4, v6] = NETWORKS;
            bail!("{} is not an address of the network `lan`, which is {v4} and {v6}", addresses[0].address);
        }
        let demo = lan && args.rules.is_none();
        let rules = match &args.rules {
            None if demo => demo_rules(real).into_bytes(),
            None => Vec::new(),
            Some(path) => {
                let mut rules = Vec::new();
                fs::File::open(path)
                    .and_then(|file| file.take(MAX_RULES + 1).read_to_end(&mut rules))
                    .with_context(|| format!("cannot read the rule file {}", path.display()))?;
                if rules.len() as u64 > MAX_RULES {
                    bail!("the rule file {} is larger than {MAX_RULES} bytes", path.display());
                }
                super::rules::check(&path.display().to_string(), &rules).map_err(anyhow::Error::msg)?;
                rules
            }
        };
        let features = args.features.as_ref().map(ToString::to_string);
        Ok(Self { addresses, gateways, rules, demo, features, append: args.append.clone() })
    }

    /// The guest's command line. `machine` holds the words that depend on the machine it runs in.
    #[must_use]
    pub fn command_line(&self, machine: &[&str]) -> String {
        let mut line = String::new();
        let mut word = |word: std::fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let _ = write!(line, "{}{word}", if line.is_empty() { "" } else { " " });
        };
        self.addresses.iter().for_each(|cidr| word(format_args!("ip={cidr}")));
        self.gateways.iter().for_each(|gateway| word(format_args!("gateway={gateway}")));
        machine.iter().filter(|text| !text.is_empty()).for_each(|text| word(format_args!("{text}")));
        if let Some(features) = &self.features {
            word(format_args!("virtio_net.features={features}"));
        }
        self.append.iter().for_each(|text| word(format_args!("{text}")));
        line
    }

    /// Its addresses on the segment of the network `lan`.
    #[must_use]
    pub fn on_lan(&self) -> Vec<IpAddr> {
        let on_lan = |address: &IpAddr| NETWORKS.iter().any(|network| contains(network, address));
        self.addresses.iter().map(|cidr| cidr.address).filter(on_lan).collect()
    }

    /// The management address.
    #[must_use]
    pub fn management(&self) -> IpAddr {
        self.addresses[0].address
    }
}

/// The rules of the demonstration.
fn demo_rules(real: &[Real]) -> String {
    let service = DEMO_SERVICE;
    let mut rules = format!("-A -t {service} -s wlc\n");
    let built_in = DEMO_SERVERS.map(|address| SocketAddr::new(address.into(), 80));
    let more = real.iter().map(|real| real.address).filter(|address| address.is_ipv4() && !built_in.contains(address));
    for server in built_in.into_iter().chain(more) {
        // Writing to a String does not fail.
        let _ = writeln!(rules, "-a -t {service} -r {server} -m -w 1");
    }
    rules
}

/// Whether an address is in the network of a CIDR.
fn contains(cidr: &Cidr, address: &IpAddr) -> bool {
    let (ours, theirs, width) = match (cidr.address, address) {
        (IpAddr::V4(ours), IpAddr::V4(theirs)) => (u128::from(u32::from(ours)), u128::from(u32::from(*theirs)), 32),
        (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.into(), (*theirs).into(), 128),
        _ => return false,
    };
    let shift = width - u32::from(cidr.prefix);
    ours >> shift == theirs >> shift
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(args: &GuestArgs, net: &str, real: &[&str]) -> anyhow::Result<Guest> {
        let real: Vec<_> = real.iter().map(|real| real.parse().unwrap()).collect();
        Guest::new(args, &net.parse().unwrap(), &real)
    }

    #[test]
    fn the_demonstration_needs_no_flags() {
        let guest = guest(&GuestArgs::default(), "lan", &["10.0.0.14:81=9001", "[fd00::d]:80=9002"]).unwrap();
        assert_eq!(
            guest.command_line(&["console=ringlet"]),
            "ip=10.0.0.2/24 ip=fd00::2/64 gateway=10.0.0.1 gateway=fd00::1 console=ringlet"
        );
        assert_eq!(
            std::str::from_utf8(&guest.rules).unwrap(),
            "-A -t 10.0.0.100:80 -s wlc\n\
             -a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1\n\
             -a -t 10.0.0.100:80 -r 10.0.0.12:80 -m -w 1\n\
             -a -t 10.0.0.100:80 -r 10.0.0.13:80 -m -w 1\n\
             -a -t 10.0.0.100:80 -r 10.0.0.14:81 -m -w 1\n"
        );
        assert!(guest.demo);
    }

    #[test]
    fn a_tap_needs_an_address_and_has_no_demonstration() {
        assert!(guest(&GuestArgs::default(), "tap=t0", &[]).is_err());
        let args = GuestArgs {
            ips: vec!["192.0.2.2/24".parse().unwrap()],
            features: Some("-csum".parse().unwrap()),
            append: vec!["crash=panic".into()],
            ..Default::default()
        };
        let tap = guest(&args, "tap=t0", &[]).unwrap();
        assert_eq!(tap.command_line(&[]), "ip=192.0.2.2/24 virtio_net.features=-csum crash=panic");
        assert!(!tap.demo && tap.rules.is_empty());
        assert!(guest(&args, "lan", &[]).unwrap_err().to_string().contains("10.0.0.0/24 and fd00::/64"));
        // Of the routers of lan, those that its networks contain.
        let ips = ["10.0.0.50/24", "192.0.2.2/24"].map(|cidr| cidr.parse().unwrap()).into();
        let lan = guest(&GuestArgs { ips, ..args }, "lan", &[]).unwrap();
        assert_eq!(lan.gateways, [GATEWAYS[0]]);
        assert_eq!(lan.on_lan(), ["10.0.0.50".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn two_routers_of_a_kind_are_one_too_many() {
        let gateways = |list: &[&str]| GuestArgs {
            gateways: list.iter().map(|address| address.parse().unwrap()).collect(),
            ..Default::default()
        };
        assert!(guest(&gateways(&["10.0.0.1", "10.0.0.3"]), "lan", &[]).is_err());
        assert!(guest(&gateways(&["10.0.0.1", "fd00::1"]), "lan", &[]).is_ok());
    }

    #[test]
    fn networks_contain_their_own_addresses() {
        let contains = |cidr: &str, address: &str| contains(&cidr.parse().unwrap(), &address.parse().unwrap());
        assert!(contains("10.0.0.2/24", "10.0.0.1") && contains("fd00::2/64", "fd00::1"));
        assert!(!contains("10.0.0.2/24", "10.0.1.1") && !contains("10.0.0.2/24", "fd00::1"));
        assert!(contains("10.0.0.2/32", "10.0.0.2") && !contains("10.0.0.2/32", "10.0.0.3"));
    }
}
