//! The services on the management address: the status page and metrics ([`http`]), and [`control`].

pub mod control;
pub mod http;
mod server;

use core::net::{IpAddr, SocketAddr};

use ringlet_balancer::Balancer;
use smoltcp::iface::SocketSet;

use self::control::Control;
use self::http::Http;
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
    /// What sessions counted that are over.
    past: ServiceCounters,
}

impl Services {
    /// Listens on the management address. The sockets and their buffers are made here, and no more later.
    pub fn new(management: IpAddr, sockets: &mut SocketSet<'static>) -> Self {
        let at = |port| SocketAddr::new(management, port);
        Self {
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
        http || control
    }

    /// When to call [`Services::poll`] again at the latest, in nanoseconds.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        self.http.deadline().min(self.control.deadline())
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> ServiceCounters {
        let (http, control) = (self.http.counters(), self.control.counters());
        ServiceCounters {
            http_connections: self.past.http_connections + http.accepted,
            http_requests: self.past.http_requests + http.answered,
            control_connections: self.past.control_connections + control.accepted,
            control_messages: self.past.control_messages + control.answered,
            control_malformed: self.past.control_malformed + control.malformed,
            timeouts: self.past.timeouts + http.timeouts + control.timeouts,
        }
    }
}
