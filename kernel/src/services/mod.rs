//! The services: the status page and metrics ([`http`]) and [`control`] on the management address, [`iperf3`] on every
//! address of this machine's own.

pub mod control;
pub mod http;
pub mod iperf3;
mod server;

use core::net::{IpAddr, SocketAddr};

use ringlet_balancer::Balancer;
use smoltcp::iface::SocketSet;

use self::control::Control;
use self::http::Http;
use self::iperf3::Iperf3;
use self::server::Server;
use crate::status::{Facts, Gauges, ServiceCounters};

/// HTTP clients that are served at a time.
const HTTP_CLIENTS: usize = 12;
/// Control clients that are served at a time.
const CONTROL_CLIENTS: usize = 6;

/// What a service sees of the machine.
pub struct View<'a> {
    /// The balancer.
    pub balancer: &'a mut Balancer,
    /// What stays as it is.
    pub facts: &'a Facts,
    /// What is measured; the time of this call is in it.
    pub gauges: &'a Gauges,
}

/// All services of the machine.
pub struct Services {
    http: Server<Http>,
    control: Server<Control>,
    iperf3: Option<Iperf3>,
    /// What sessions counted that are over.
    past: ServiceCounters,
}

impl Services {
    /// Listens at the first of `addresses`, which is the management address, and with [`iperf3`] at all of them if it is to
    /// have a port and `memory` bytes. The sockets and their buffers are made here, and none later but those of iperf3's
    /// tests.
    pub fn new(
        management: IpAddr,
        addresses: impl Iterator<Item = IpAddr>,
        iperf3: Option<(u16, u64)>,
        sockets: &mut SocketSet<'static>,
    ) -> Self {
        let at = |port| SocketAddr::new(management, port);
        let iperf3 = iperf3.map(|(port, memory)| {
            Iperf3::new(addresses.map(|address| SocketAddr::new(address, port)), memory, sockets)
        });
        Self {
            iperf3,
            http: Server::new(at(http::PORT), HTTP_CLIENTS, sockets),
            control: Server::new(at(control::PORT), CONTROL_CLIENTS, sockets),
            past: ServiceCounters::default(),
        }
    }

    /// Goes on counting from here: for services that take over from others, whose device was reset.
    pub fn continue_from(&mut self, counters: ServiceCounters) {
        self.past = counters;
    }

    /// Serves every connection once. Returns whether something was done, so that the stack has work.
    pub fn poll(&mut self, sockets: &mut SocketSet<'static>, view: &mut View<'_>) -> bool {
        let http = self.http.poll(sockets, view);
        let control = self.control.poll(sockets, view);
        let iperf3 = self.iperf3.as_mut().is_some_and(|iperf3| iperf3.poll(sockets, view));
        http || control || iperf3
    }

    /// When to call [`Services::poll`] again at the latest, in nanoseconds.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        let iperf3 = self.iperf3.as_ref().map_or(u64::MAX, Iperf3::deadline);
        self.http.deadline().min(self.control.deadline()).min(iperf3)
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ServiceCounters {
        let (http, control) = (self.http.counters(), self.control.counters());
        let iperf3 = self.iperf3.as_ref().map(Iperf3::counters).unwrap_or_default();
        ServiceCounters {
            http_connections: self.past.http_connections + http.accepted,
            http_requests: self.past.http_requests + http.answered,
            control_connections: self.past.control_connections + control.accepted,
            control_messages: self.past.control_messages + control.answered,
            control_malformed: self.past.control_malformed + control.malformed,
            timeouts: self.past.timeouts + http.timeouts + control.timeouts,
            iperf3_completed: self.past.iperf3_completed + iperf3.completed,
            iperf3_failed: self.past.iperf3_failed + iperf3.failed,
            iperf3_denied: self.past.iperf3_denied + iperf3.denied,
            iperf3_received: self.past.iperf3_received + iperf3.received,
            iperf3_sent: self.past.iperf3_sent + iperf3.sent,
        }
    }
}
