//! What is known of the guest, from its records.

use crate::vmm::console::Record;
use crate::vmm::console::record::{Boot, Destination, Ready, Service, Status};

/// Rows that are kept; a guest that lists more is not believed.
const MOST_ROWS: usize = 1 << 16;

/// A virtual service and its destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The service.
    pub service: Service,
    /// Its destinations.
    pub destinations: Vec<Destination>,
}

/// What has become known by a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing to show.
    None,
    /// Everything is up: the picture is complete.
    Ready,
    /// Another configuration is complete.
    Services,
    /// New counters.
    Status,
}

/// What is known of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// What it has found when it started.
    pub boot: Boot,
    /// The services, in the order in which the guest names them.
    pub services: Vec<Row>,
    /// Set when it is ready.
    pub ready: Option<Ready>,
    /// The last counters.
    pub status: Status,
    /// The counters before.
    before: Status,
    rows: usize,
    expected: Option<u64>,
}

/// How fast packets went between the last two statuses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Packets received a second.
    pub rx_packets: f64,
    /// Packets sent a second.
    pub tx_packets: f64,
    /// Bits received a second.
    pub rx_bits: f64,
    /// Bits sent a second.
    pub tx_bits: f64,
    /// Connections scheduled a second.
    pub connections: f64,
}

impl Picture {
    /// Takes a record.
    pub fn take(&mut self, record: Record) -> Change {
        match record {
            Record::Boot(boot) => self.boot = boot,
            Record::Ready(ready) => {
                self.ready = Some(ready);
                return Change::Ready;
            }
            Record::Configuration { services, destinations } => {
                self.services.clear();
                self.rows = 0;
                self.expected = Some(services.saturating_add(destinations));
                return self.complete();
            }
            Record::Service(service) if self.rows < MOST_ROWS => {
                self.services.push(Row { service, destinations: Vec::new() });
                self.rows += 1;
                return self.complete();
            }
            Record::Destination(destination) if self.rows < MOST_ROWS => {
                if let Some(row) = self.services.last_mut() {
                    row.destinations.push(destination);
                    self.rows += 1;
                }
                return self.complete();
            }
            Record::Status(status) => {
                self.before = std::mem::replace(&mut self.status, status);
                return Change::Status;
            }
            // Of frames in circulation the status tells enough; who measures takes the record itself.
            Record::Service(_) | Record::Destination(_) | Record::Roundtrip(_) => {}
        }
        Change::None
    }

    /// How fast it went lately.
    #[must_use]
    pub fn rates(&self) -> Rates {
        let (now, before) = (&self.status, &self.before);
        let seconds = now.ns.saturating_sub(before.ns) as f64 / 1e9;
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            rx_packets: rate(now.rx_packets, before.rx_packets),
            tx_packets: rate(now.tx_packets, before.tx_packets),
            rx_bits: 8.0 * rate(now.rx_bytes, before.rx_bytes),
            tx_bits: 8.0 * rate(now.tx_bytes, before.tx_bytes),
            connections: rate(now.connections, before.connections),
        }
    }

    fn complete(&mut self) -> Change {
        if self.ready.is_some() && self.expected == Some(self.rows as u64) {
            self.expected = None;
            return Change::Services;
        }
        Change::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(picture: &mut Picture, json: &str) -> Change {
        picture.take(Record::parse(json.as_bytes()).unwrap())
    }

    #[test]
    fn a_configuration_is_shown_when_it_is_whole() {
        let mut picture = Picture::default();
        assert_eq!(take(&mut picture, r#"{"type":"service","address":"10.0.0.100","port":80}"#), Change::None);
        assert_eq!(take(&mut picture, r#"{"type":"destination","address":"10.0.0.11","port":80}"#), Change::None);
        assert_eq!(take(&mut picture, r#"{"type":"ready","ns":5,"services":1,"destinations":1}"#), Change::Ready);
        assert_eq!((picture.services.len(), picture.services[0].destinations.len()), (1, 1));
        assert_eq!(take(&mut picture, r#"{"type":"configuration","services":1,"destinations":1}"#), Change::None);
        assert_eq!(take(&mut picture, r#"{"type":"service","address":"10.0.0.100","port":81}"#), Change::None);
        assert_eq!(take(&mut picture, r#"{"type":"destination","address":"10.0.0.11","port":80}"#), Change::Services);
        assert_eq!(picture.services[0].service.port, 81);
        assert_eq!(take(&mut picture, r#"{"type":"configuration","services":0,"destinations":0}"#), Change::Services);
        assert!(picture.services.is_empty());
        assert_eq!(take(&mut picture, r#"{"type":"destination"}"#), Change::None, "of no service");
    }

    #[test]
    fn rates_are_of_the_last_two() {
        let mut picture = Picture::default();
        let status = |ns, packets| {
            format!(
                r#"{{"type":"status","ns":{ns},"rx_packets":{packets},"tx_packets":0,"rx_bytes":0,"tx_bytes":0,"connections":0,"active":0,"drops":0}}"#
            )
        };
        take(&mut picture, &status(1_000_000_000_u64, 100));
        take(&mut picture, &status(3_000_000_000, 300));
        assert!((picture.rates().rx_packets - 100.0).abs() < 1e-6);
        // A guest whose clock or counters go backwards makes no nonsense.
        take(&mut picture, &status(2_000_000_000, 0));
        assert_eq!(picture.rates(), Rates::default());
    }
}
