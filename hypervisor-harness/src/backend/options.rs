//! The values of `--net`, `--publish` and `--real`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Why an option's value cannot be used. The message names the part at fault and gives the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// `--net` names no network that exists.
    #[error(
        "no network is called `{0}`: expected `lan`, `tap=NAME[,threaded=keep]`, `xdp=NAME[,queue=NUMBER]` or `vhost-user=PATH[,server]`"
    )]
    Network(String),
    /// The interface's name is one that Linux does not take.
    #[error(
        "`{0}` cannot be an interface's name: expected 1 to 15 bytes without `/`, `:`, `%`, `,` or blanks, and not `.` or `..`"
    )]
    Interface(String),
    /// `--net tap=NAME,` is followed by something else than `threaded=auto` or `threaded=keep`.
    #[error(
        "cannot read `{0}`: expected tap=NAME, or tap=NAME,threaded=keep to leave /sys/class/net/NAME/threaded alone (the default is \
         threaded=auto)"
    )]
    Tap(String),
    /// `--net xdp=NAME,` is followed by something else than `queue=` and a number.
    #[error("cannot read `{0}`: expected xdp=NAME, or xdp=NAME,queue=NUMBER for an interface with several queues")]
    Xdp(String),
    /// `--net vhost-user=` has no path, or something else than `server` behind it.
    #[error(
        "cannot read `{0}`: expected vhost-user=PATH, or vhost-user=PATH,server to listen there for the other side"
    )]
    VhostUser(String),
    /// `--publish` has not the parts it must have.
    #[error(
        "cannot read `{0}`: expected [udp:][HOSTADDR:]PORT:ADDR:PORT, for example 8080:10.0.0.100:80 or udp:0.0.0.0:5353:[fd00::100]:53"
    )]
    Publish(String),
    /// `--real` has not the parts it must have.
    #[error("cannot read `{0}`: expected ADDR:PORT=HOSTADDR:PORT, for example 10.0.0.14:80=127.0.0.1:9001")]
    Real(String),
    /// An address is neither IPv4 nor bracketed IPv6.
    #[error("`{part}` in `{whole}` is no address: expected IPv4, or IPv6 in brackets")]
    Address {
        /// What stood where an address belongs.
        part: String,
        /// The whole value.
        whole: String,
    },
    /// A port is not a number from 0 (1 for a destination) to 65535.
    #[error("`{part}` in `{whole}` is no port: expected {least} to 65535")]
    Port {
        /// What stood where a port belongs.
        part: String,
        /// The whole value.
        whole: String,
        /// The smallest number allowed there.
        least: u16,
    },
}

/// The transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP: connections are carried in.
    Tcp,
    /// UDP: datagrams are, and the answers come back to the sender.
    Udp,
}

/// The network of the virtual machine: `--net`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Net {
    /// `lan`: the in-process network.
    #[default]
    Lan,
    /// `tap=NAME`: a TAP interface of the host.
    Tap(Interface),
    /// `xdp=NAME`: a queue of a network interface of the host.
    Xdp(Queue),
    /// `vhost-user=PATH`: another process serves the network device.
    VhostUser(VhostUser),
}

/// Whether something is done: `on` or `off`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    #[default]
    Off,
}

/// A TAP interface of the host, and what may be done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Who decides who takes on what is written to it.
    pub threaded: Threaded,
}

/// Who decides whether a thread of the kernel's own takes on what is written to a TAP interface:
/// `/sys/class/net/NAME/threaded`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Threaded {
    /// The load, where this process may write there, and nobody has switched it on beforehand.
    #[default]
    Auto,
    /// The user: nothing is written to `/sys`.
    Keep,
}

impl FromStr for Interface {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (name, threaded) = match text.split_once(',') {
            None => (text, Threaded::default()),
            Some((name, "threaded=auto")) => (name, Threaded::Auto),
            Some((name, "threaded=keep")) => (name, Threaded::Keep),
            Some(_) => return Err(OptionError::Tap(format!("tap={text}"))),
        };
        Ok(Self { name: interface(name)?, threaded })
    }
}

/// A name that Linux takes for an interface.
fn interface(name: &str) -> Result<String, OptionError> {
    let refused = |byte: u8| matches!(byte, b'/' | b':' | b'%' | 0) || byte.is_ascii_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.bytes().any(refused) {
        return Err(OptionError::Interface(name.into()));
    }
    Ok(name.into())
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keep = if self.threaded == Threaded::Keep { ",threaded=keep" } else { "" };
        write!(f, "tap={}{keep}", self.name)
    }
}

/// A queue of a network interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// The interface's name.
    pub name: String,
    /// The queue, counted from 0; none is named where the interface has only one.
    pub queue: Option<u32>,
}

impl FromStr for Queue {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let Some((name, rest)) = text.split_once(',') else {
            return Ok(Self { name: interface(text)?, queue: None });
        };
        let digits = rest.strip_prefix("queue=").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(queue) = digits.and_then(|digits| digits.parse().ok()) else {
            return Err(OptionError::Xdp(format!("xdp={text}")));
        };
        Ok(Self { name: interface(name)?, queue: Some(queue) })
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xdp={}", self.name)?;
        self.queue.map_or(Ok(()), |queue| write!(f, ",queue={queue}"))
    }
}

/// Where a process is that serves the network device by the protocol vhost-user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUser {
    /// The Unix socket.
    pub path: PathBuf,
    /// Whether we listen there and the other side connects.
    pub server: bool,
}

impl fmt::Display for VhostUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vhost-user={}{}", self.path.display(), if self.server { ",server" } else { "" })
    }
}

impl FromStr for Net {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match text.split_once('=') {
            None if text == "lan" => Ok(Self::Lan),
            Some(("tap", value)) => value.parse().map(Self::Tap),
            Some(("xdp", value)) => value.parse().map(Self::Xdp),
            Some(("vhost-user", value)) => match value.split_once(',') {
                None if !value.is_empty() => Ok(Self::VhostUser(VhostUser { path: value.into(), server: false })),
                Some((path, "server")) if !path.is_empty() => {
                    Ok(Self::VhostUser(VhostUser { path: path.into(), server: true }))
                }
                _ => Err(OptionError::VhostUser(text.into())),
            },
            _ => Err(OptionError::Network(text.into())),
        }
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lan => f.write_str("lan"),
            Self::Tap(interface) => interface.fmt(f),
            Self::Xdp(queue) => queue.fmt(f),
            Self::VhostUser(address) => address.fmt(f),
        }
    }
}

/// A port of the host behind which an address of the in-process network stands: `--publish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// TCP unless the value begins with `udp:`.
    pub protocol: Protocol,
    /// Where to listen on the host; 127.0.0.1 unless an address is given. Port 0 takes any free port.
    pub host: SocketAddr,
    /// Where the connections go, in the network of the virtual machine.
    pub target: SocketAddr,
}

impl FromStr for Publish {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (protocol, rest) = match (text.strip_prefix("udp:"), text.strip_prefix("tcp:")) {
            (Some(rest), _) => (Protocol::Udp, rest),
            (_, Some(rest)) => (Protocol::Tcp, rest),
            (None, None) => (Protocol::Tcp, text),
        };
        let parts = split(rest);
        let (host, port, target, target_port) = match parts[..] {
            [port, target, target_port] => (None, port, target, target_port),
            [host, port, target, target_port] => (Some(host), port, target, target_port),
            _ => return Err(OptionError::Publish(text.into())),
        };
        let host = host.map_or(Ok(Ipv4Addr::LOCALHOST.into()), |host| address(host, text))?;
        Ok(Self {
            protocol,
            host: SocketAddr::new(host, self::port(port, text, 0)?),
            target: SocketAddr::new(address(target, text)?, self::port(target_port, text, 1)?),
        })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.protocol == Protocol::Udp { "udp:" } else { "" };
        write!(f, "{prefix}{}:{}", self.host, self.target)
    }
}

/// A TCP server on the host that stands in the in-process network as a real server: `--real`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Real {
    /// Its address and port in the network of the virtual machine.
    pub address: SocketAddr,
    /// Where it really listens; 127.0.0.1 unless an address is given.
    pub host: SocketAddr,
}

impl FromStr for Real {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let bad = || OptionError::Real(text.into());
        let (inner, outer) = text.split_once('=').ok_or_else(bad)?;
        let [inner, inner_port] = split(inner)[..] else { return Err(bad()) };
        let (outer, outer_port) = match split(outer)[..] {
            [port] => (Ipv4Addr::LOCALHOST.into(), port),
            [host, port] => (address(host, text)?, port),
            _ => return Err(bad()),
        };
        Ok(Self {
            address: SocketAddr::new(address(inner, text)?, port(inner_port, text, 1)?),
            host: SocketAddr::new(outer, port(outer_port, text, 1)?),
        })
    }
}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.address, self.host)
    }
}

/// Splits at colons, except inside brackets.
fn split(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|letter| {
        match letter {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        letter == ':' && !inside
    })
    .collect()
}

fn address(part: &str, whole: &str) -> Result<IpAddr, OptionError> {
    let bracketed = part.strip_prefix('[').and_then(|part| part.strip_suffix(']'));
    let parsed = match bracketed {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => part.parse().map(IpAddr::V4).ok(),
    };
    parsed.ok_or_else(|| OptionError::Address { part: part.into(), whole: whole.into() })
}

fn port(part: &str, whole: &str, least: u16) -> Result<u16, OptionError> {
    let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = part.parse().ok().filter(|number| plain && *number >= least);
    number.ok_or_else(|| OptionError::Port { part: part.into(), whole: whole.into(), least })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address in a test")
    }

    #[test]
    fn networks() {
        assert_eq!("lan".parse(), Ok(Net::Lan));
        for (text, threaded, shown) in [
            ("tap=ringlet0", Threaded::Auto, "tap=ringlet0"),
            ("tap=ringlet0,threaded=auto", Threaded::Auto, "tap=ringlet0"),
            ("tap=ringlet0,threaded=keep", Threaded::Keep, "tap=ringlet0,threaded=keep"),
        ] {
            let net = Net::Tap(Interface { name: "ringlet0".into(), threaded });
            assert_eq!(net.to_string(), shown);
            assert_eq!(text.parse(), Ok(net));
        }
        for text in
            ["tap=t0,", "tap=t0,threaded", "tap=t0,threaded=off", "tap=t0,threaded=keep,threaded=auto", "tap=,x"]
        {
            assert_eq!(text.parse::<Net>(), Err(OptionError::Tap(text.into())));
        }
        assert_eq!("tap=,threaded=keep".parse::<Net>(), Err(OptionError::Interface(String::new())));
        assert_eq!("wan".parse::<Net>(), Err(OptionError::Network("wan".into())));
        assert_eq!("tap".parse::<Net>(), Err(OptionError::Network("tap".into())));
        assert_eq!("lan=x".parse::<Net>(), Err(OptionError::Network("lan=x".into())));
        for name in ["", "a/b", "sixteen-letters-", "a b", "..", "tap%d"] {
            assert_eq!(format!("tap={name}").parse::<Net>(), Err(OptionError::Interface(name.into())));
        }
        for (text, queue) in [("xdp=eth1", None), ("xdp=eth1,queue=0", Some(0)), ("xdp=eth1,queue=17", Some(17))] {
            let net = Net::Xdp(Queue { name: "eth1".into(), queue });
            assert_eq!(net.to_string(), text);
            assert_eq!(text.parse(), Ok(net));
        }
        for text in ["xdp=e,", "xdp=e,queue", "xdp=e,queue=", "xdp=e,queue=+1", "xdp=e,queue=4294967296", "xdp=e,1"] {
            assert_eq!(text.parse::<Net>(), Err(OptionError::Xdp(text.into())));
        }
        for text in ["xdp=", "xdp=,queue=1", "xdp=a/b"] {
            assert!(matches!(text.parse::<Net>(), Err(OptionError::Interface(_))), "{text}");
        }
        for (text, server) in [("vhost-user=/run/v.sock", false), ("vhost-user=/run/v.sock,server", true)] {
            let net = Net::VhostUser(VhostUser { path: "/run/v.sock".into(), server });
            assert_eq!(text.parse(), Ok(net.clone()));
            assert_eq!(net.to_string(), text);
        }
        for text in ["vhost-user=", "vhost-user=,server", "vhost-user=/run/v.sock,client", "vhost-user=a,server,b"] {
            assert_eq!(text.parse::<Net>(), Err(OptionError::VhostUser(text.into())));
        }
    }

    #[test]
    fn published_ports() {
        let tcp = |host, target| Ok(Publish { protocol: Protocol::Tcp, host: at(host), target: at(target) });
        assert_eq!("8080:10.0.0.100:80".parse(), tcp("127.0.0.1:8080", "10.0.0.100:80"));
        assert_eq!("tcp:0:10.0.0.100:80".parse(), tcp("127.0.0.1:0", "10.0.0.100:80"));
        assert_eq!("0.0.0.0:80:[fd00::100]:81".parse(), tcp("0.0.0.0:80", "[fd00::100]:81"));
        assert_eq!("[::1]:80:10.0.0.100:80".parse(), tcp("[::1]:80", "10.0.0.100:80"));
        let udp = "udp:53:[fd00::100]:5353".parse::<Publish>().expect("good");
        assert_eq!(udp.protocol, Protocol::Udp);
        assert_eq!(udp.to_string(), "udp:127.0.0.1:53:[fd00::100]:5353");
        assert_eq!(udp.to_string().parse(), Ok(udp));
    }

    #[test]
    fn bad_published_ports_name_the_part_at_fault() {
        let error = |text: &str| text.parse::<Publish>().expect_err(text).to_string();
        assert!(error("8080").starts_with("cannot read `8080`: expected [udp:]"));
        assert!(error("").contains("expected [udp:]"));
        assert!(error("8080:fd00::100:80").contains("expected [udp:]"));
        assert!(error("80:fd00:80").contains("`fd00` in `80:fd00:80` is no address"));
        assert!(error("eighty:10.0.0.100:80").contains("`eighty` in"));
        assert!(error("80:10.0.0.100:0").contains("expected 1 to 65535"));
        assert!(error("80:10.0.0.100:65536").contains("`65536`"));
        assert!(error("+80:10.0.0.100:80").contains("`+80`"));
        assert!(error("sctp:80:10.0.0.100:80").contains("`sctp`"));
        assert!(error("80:[10.0.0.100]:80").contains("is no address"));
    }

    #[test]
    fn real_servers() {
        let real = |address, host| Ok(Real { address: at(address), host: at(host) });
        assert_eq!("10.0.0.14:80=127.0.0.1:9001".parse(), real("10.0.0.14:80", "127.0.0.1:9001"));
        assert_eq!("[fd00::14]:80=[::1]:9001".parse(), real("[fd00::14]:80", "[::1]:9001"));
        assert_eq!("10.0.0.14:80=9001".parse(), real("10.0.0.14:80", "127.0.0.1:9001"));
        let error = |text: &str| text.parse::<Real>().expect_err(text).to_string();
        assert!(error("10.0.0.14:80").contains("expected ADDR:PORT=HOSTADDR:PORT"));
        assert!(error("10.0.0.14=127.0.0.1:9001").contains("expected ADDR:PORT=HOSTADDR:PORT"));
        assert!(error("10.0.0.14:80=here:9001").contains("`here` in"));
        assert!(error("10.0.0.14:80=127.0.0.1:0").contains("`0` in"));
    }
}
