//! From the options to a network: [`open`].

use std::net::IpAddr;
use std::path::PathBuf;

use super::coalesce::Coalesce;
use super::options::{Net, Publish, Real, Switch};
use super::{Backend, Jack, Network, lan, pcap, tap, xdp};

/// What chooses and furnishes a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Which network.
    pub net: Net,
    /// Ports of the host that lead into the in-process network.
    pub publish: Vec<Publish>,
    /// Servers of the host that stand in the in-process network.
    pub real: Vec<Real>,
    /// The guest's own addresses, for the servers of the in-process network, whose default route it is: the first of each
    /// version of IP counts. Without any, [`lan::Config`]'s.
    pub guest: Vec<IpAddr>,
    /// The guest's Ethernet address, if it is known.
    pub mac: Option<lan::plan::Mac>,
    /// Where each frame is written to, for wireshark.
    pub pcap: Option<PathBuf>,
    /// Whether TCP segments are put together for the guest ([`Coalesce`]); they are if this says so.
    pub coalesce: Option<Switch>,
}

/// Why a network cannot be had. The messages say what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The in-process network cannot be set up.
    #[error(transparent)]
    Lan(#[from] lan::Error),
    /// The TAP interface cannot be had.
    #[error(transparent)]
    Tap(#[from] tap::Error),
    /// The queue of a network interface cannot be had.
    #[error(transparent)]
    Xdp(#[from] xdp::Error),
    /// The capture file cannot be made.
    #[error(transparent)]
    Pcap(#[from] pcap::Error),
    /// `--publish` and `--real` furnish the in-process network, and another one was asked for.
    #[error("{0} is for `--net lan` only; with `--net {1}` the host's own routes and firewall do that")]
    OnlyLan(&'static str, Net),
    /// The guest is to have the Ethernet address of another host of the in-process network.
    #[error(
        "--mac {mac} is the address of {host} in `--net lan`, so that neither could be reached: choose another one, such as \
         52:54:00:12:34:02"
    )]
    Taken {
        /// The Ethernet address.
        mac: String,
        /// Whose it is.
        host: IpAddr,
    },
    /// Frames are to be written to a file, and do not come by here.
    #[error("--pcap sees no frame with `--net {0}`, whose other side has the guest's queues: capture there")]
    Unseen(Net),
    /// Segments are to be put together, or not, that do not come by here.
    #[error("--coalesce is nothing to `--net {0}`, whose other side has the guest's queues: switch it there")]
    NotHere(Net),
    /// The network is another process, which serves the device itself.
    #[error("`--net {0}` is no network of this process: its other side has the guest's queues")]
    Elsewhere(Net),
}

impl Options {
    /// Checks that nothing is asked for that this network does not have.
    ///
    /// # Errors
    /// What does not go together.
    pub fn check(&self) -> Result<(), Error> {
        if self.net != Net::Lan {
            for (used, option) in [(!self.publish.is_empty(), "--publish"), (!self.real.is_empty(), "--real")] {
                if used {
                    return Err(Error::OnlyLan(option, self.net.clone()));
                }
            }
        }
        if self.net == Net::Lan
            && let Some(mac) = self.mac
        {
            let built_in = lan::Config::default().servers.into_iter().flat_map(|server| server.addresses);
            let real = self.real.iter().map(|real| real.address.ip());
            let mut hosts = lan::plan::GATEWAY.into_iter().chain(built_in).chain(real);
            if let Some(host) = hosts.find(|host| lan::plan::mac(*host) == mac) {
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                return Err(Error::Taken { mac, host });
            }
        }
        match &self.net {
            net @ Net::VhostUser(_) if self.pcap.is_some() => Err(Error::Unseen(net.clone())),
            net @ Net::VhostUser(_) if self.coalesce.is_some() => Err(Error::NotHere(net.clone())),
            _ => Ok(()),
        }
    }
}

impl Options {
    fn coalesced<B: Backend>(&self, network: B) -> Coalesce<B> {
        Coalesce::new(network, self.coalesce.unwrap_or_default() == Switch::On)
    }
}

/// A network of one of the kinds that a command line can ask for.
pub enum Kind {
    /// In the process itself.
    Lan(Coalesce<lan::Lan>),
    /// A TAP interface of the host.
    Tap(Coalesce<tap::Tap>),
    /// A queue of a network interface of the host.
    Xdp(Coalesce<xdp::Xdp>),
    /// In the process itself, and written down.
    LanCapture(pcap::Capture<Coalesce<lan::Lan>>),
    /// A TAP interface of the host, and written down.
    TapCapture(pcap::Capture<Coalesce<tap::Tap>>),
    /// A queue of a network interface of the host, and written down.
    XdpCapture(pcap::Capture<Coalesce<xdp::Xdp>>),
}

impl Network for Kind {
    fn plug_into<J: Jack>(self, jack: J) -> J::Plugged {
        match self {
            Self::Lan(lan) => jack.plug(lan),
            Self::Tap(tap) => jack.plug(tap),
            Self::Xdp(xdp) => jack.plug(xdp),
            Self::LanCapture(capture) => jack.plug(capture),
            Self::TapCapture(capture) => jack.plug(capture),
            Self::XdpCapture(capture) => jack.plug(capture),
        }
    }
}

/// A network that is ready to be plugged in.
pub struct Opened {
    /// For the device.
    pub backend: Kind,
    /// For everybody else, where the network is `lan`.
    pub lan: Option<lan::Handle>,
}

/// Opens the network that `options` ask for.
///
/// # Errors
/// If the network cannot be had as asked for; nothing is left behind then.
pub fn open(options: &Options) -> Result<Opened, Error> {
    options.check()?;
    let capture = options.pcap.as_deref();
    match &options.net {
        Net::Lan => {
            let mut config =
                lan::Config { publish: options.publish.clone(), real: options.real.clone(), ..lan::Config::default() };
            if !options.guest.is_empty() {
                let first = |version: fn(&IpAddr) -> bool| options.guest.iter().copied().find(version);
                config.guest = [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)].into_iter().flatten().collect();
            }
            let (lan, handle) = lan::Lan::open(&config)?;
            let lan = options.coalesced(lan);
            let backend = match capture {
                Some(path) => Kind::LanCapture(pcap::Capture::create(path, lan)?),
                None => Kind::Lan(lan),
            };
            Ok(Opened { backend, lan: Some(handle) })
        }
        Net::Tap(interface) => {
            let tap = options.coalesced(tap::Tap::open_with(interface)?);
            let backend = match capture {
                Some(path) => Kind::TapCapture(pcap::Capture::create(path, tap)?),
                None => Kind::Tap(tap),
            };
            Ok(Opened { backend, lan: None })
        }
        Net::Xdp(queue) => {
            let xdp = options.coalesced(xdp::Xdp::open(queue)?);
            let backend = match capture {
                Some(path) => Kind::XdpCapture(pcap::Capture::create(path, xdp)?),
                None => Kind::Xdp(xdp),
            };
            Ok(Opened { backend, lan: None })
        }
        net @ Net::VhostUser(_) => Err(Error::Elsewhere(net.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_no_other_hosts_address() {
        let real = vec!["10.0.0.14:80=8000".parse().unwrap(), "[fd00::1:0:f]:80=8000".parse().unwrap()];
        let options = |net: Net, mac| Options { net, mac: Some(mac), real: real.clone(), ..Options::default() };
        for last in [0x01, 0x0b, 0x0c, 0x0d, 0x0e] {
            let error = options(Net::Lan, [0x52, 0x54, 0, 0x12, 0x34, last]).check().unwrap_err();
            assert!(matches!(error, Error::Taken { .. }), "{error}");
        }
        let error = options(Net::Lan, [0x52, 0x54, 2, 0, 0, 0x0f]).check().unwrap_err().to_string();
        assert!(error.starts_with("--mac 52:54:02:00:00:0f is the address of fd00::1:0:f in"), "{error}");
        for last in [0x02, 0x03, 0x0f] {
            options(Net::Lan, [0x52, 0x54, 0, 0x12, 0x34, last]).check().unwrap();
        }
        let tap =
            Options { real: Vec::new(), ..options("tap=tap0".parse().unwrap(), [0x52, 0x54, 0, 0x12, 0x34, 0x0b]) };
        tap.check().unwrap();
    }
}
