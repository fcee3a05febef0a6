//! Which ports of the host lead into the network `lan`, where the user has not said it all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use super::guest::{DEMO_SERVICE, Guest};
use crate::backend::options::{Protocol, Publish};
use crate::backend::{self, lan};

/// The demonstration's service is published here.
pub const DEMO_PORT: u16 = 8080;
/// The status page and the metrics, in the guest and on the host.
pub const STATUS_PORT: u16 = 9100;
/// The control service, in the guest and on the host.
pub const CONTROL_PORT: u16 = 9101;

/// The ports to publish: what was asked for, and the defaults for what was not. A default port for management gives way
/// (port 0 takes any) if somebody else has it; those that did are in the second list, with the port they wanted.
#[must_use]
pub fn choose(guest: &Guest, asked: &[Publish]) -> (Vec<Publish>, Vec<Publish>) {
    let mut all = asked.to_vec();
    let mut moved = Vec::new();
    let missing = |target: SocketAddr| !asked.iter().any(|p| p.target == target && p.protocol == Protocol::Tcp);
    if guest.demo && missing(DEMO_SERVICE) {
        all.insert(0, local(DEMO_PORT, DEMO_SERVICE));
    }
    for port in [STATUS_PORT, CONTROL_PORT] {
        let target = SocketAddr::new(guest.management(), port);
        if missing(target) {
            let wanted = local(port, target);
            let clash = asked.iter().any(|p| p.host.port() == port && p.protocol == Protocol::Tcp);
            if clash || !is_free(&wanted) {
                moved.push(wanted);
                all.push(local(0, target));
            } else {
                all.push(wanted);
            }
        }
    }
    (all, moved)
}

fn local(port: u16, target: SocketAddr) -> Publish {
    Publish { protocol: Protocol::Tcp, host: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port), target }
}

/// Whether the host would give this port now.
fn is_free(publish: &Publish) -> bool {
    match publish.protocol {
        Protocol::Tcp => TcpListener::bind(publish.host).is_ok(),
        Protocol::Udp => UdpSocket::bind(publish.host).is_ok(),
    }
}

/// What to do about a network that could not be set up.
#[must_use]
pub fn explain(error: backend::Error) -> anyhow::Error {
    match &error {
        backend::Error::Lan(lan::Error::Publish { publish, source }) => match refusal(publish, source) {
            Some(message) => anyhow::anyhow!(message),
            None => error.into(),
        },
        _ => error.into(),
    }
}

/// Puts real ports in the place of port 0, for a program that cannot choose.
///
/// # Errors
/// If one of the others is not to be had; says what to do about it.
pub fn fix(publish: &[Publish]) -> anyhow::Result<Vec<Publish>> {
    let fixed = |publish: &Publish| {
        let bound = match publish.protocol {
            Protocol::Tcp => TcpListener::bind(publish.host).and_then(|listener| listener.local_addr()),
            Protocol::Udp => UdpSocket::bind(publish.host).and_then(|socket| socket.local_addr()),
        };
        match bound {
            Ok(host) => Ok(Publish { host, ..*publish }),
            Err(source) => Err(anyhow::anyhow!(
                refusal(publish, &source).unwrap_or_else(|| format!("cannot publish {publish}: {source}"))
            )),
        }
    };
    publish.iter().map(fixed).collect()
}

/// Why the host does not give a port, and what to do, if that is known.
fn refusal(publish: &Publish, source: &io::Error) -> Option<String> {
    let host = publish.host;
    let other = |from: u16| {
        let another = |port: &u16| is_free(&Publish { host: SocketAddr::new(host.ip(), *port), ..*publish });
        let port = (from..from.saturating_add(100)).find(another).unwrap_or(0);
        Publish { host: SocketAddr::new(host.ip(), port), ..*publish }
    };
    Some(match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {} of {} is taken by another program: publish {} on another one, for example --publish {}",
            host.port(),
            host.ip(),
            publish.target,
            other(host.port().saturating_add(1)),
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {} of {} is not for ordinary users ({source}): publish {} on a higher one, for example --publish {}",
            host.port(),
            host.ip(),
            publish.target,
            other(DEMO_PORT),
        ),
        io::ErrorKind::AddrNotAvailable => format!("{} is not an address of this host", host.ip()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::options::Net;
    use crate::cli::GuestArgs;

    fn guest() -> Guest {
        Guest::new(&GuestArgs::default(), &Net::Lan, &[]).unwrap()
    }

    #[test]
    fn what_was_asked_for_is_not_published_twice() {
        let asked: Vec<Publish> =
            ["9009:10.0.0.100:80", "9010:10.0.0.2:9100", "9011:10.0.0.2:9101"].map(|text| text.parse().unwrap()).into();
        assert_eq!(choose(&guest(), &asked), (asked, Vec::new()));
    }

    #[test]
    fn management_gives_way_and_the_service_does_not() {
        // The service is asked for on the port that the status page would have.
        let asked = ["9100:10.0.0.100:80".parse().unwrap()];
        let (all, moved) = choose(&guest(), &asked);
        assert_eq!(all[0], asked[0]);
        assert_eq!((all[1].target.port(), all[1].host.port()), (9100, 0));
        assert_eq!(moved[0].to_string(), "127.0.0.1:9100:10.0.0.2:9100");
        let (all, _) = choose(&guest(), &[]);
        assert_eq!(all[0].to_string(), "127.0.0.1:8080:10.0.0.100:80");
    }

    #[test]
    fn a_port_that_is_taken_has_a_remedy_that_works() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let publish = Publish { host: listener.local_addr().unwrap(), ..local(0, DEMO_SERVICE) };
        let source = TcpListener::bind(publish.host).unwrap_err();
        let message = explain(lan::Error::Publish { publish, source }.into()).to_string();
        let remedy: Publish = message.rsplit_once("--publish ").unwrap().1.parse().unwrap();
        assert!(message.contains("is taken") && is_free(&remedy), "{message}");
        assert_eq!(remedy.target, DEMO_SERVICE);
    }
}
