//! The structured records on the console: lines that begin with 0x1e and hold one JSON object (docs/abi.md).

use serde::{Deserialize, Serialize};

use super::text::SafeText;

/// A record from the guest. Its numbers and texts are the guest's word, no more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// The guest runs and has found its device.
    Boot(Boot),
    /// The services are up and the rules are loaded.
    Ready(Ready),
    /// The configuration has changed: what is known of services and destinations is void, and so many follow.
    Configuration {
        /// Virtual services to come.
        #[serde(default)]
        services: u64,
        /// Destinations to come, of all services together.
        #[serde(default)]
        destinations: u64,
    },
    /// A virtual service.
    Service(Service),
    /// A destination of the service named last.
    Destination(Destination),
    /// Counters, every `status=` milliseconds.
    Status(Status),
    /// Frames in circulation, after each status with `roundtrip=`.
    Roundtrip(RoundTrip),
}

impl Record {
    /// Parses the text after the 0x1e.
    ///
    /// # Errors
    /// If it is not one of the objects above. Fields that are not known are ignored.
    pub fn parse(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }
}

/// What the guest is and what it has found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Boot {
    /// The image's build id, in hexadecimal.
    pub build_id: SafeText,
    /// The image's version.
    pub version: SafeText,
    /// Usable memory, in bytes.
    pub memory: u64,
    /// `mmio` or `pci`.
    pub transport: SafeText,
    /// The negotiated virtio features, bit by bit.
    pub features: u64,
    /// Entries of a virtqueue.
    pub queue_size: u64,
    /// The device's address.
    pub mac: SafeText,
    /// The guest's own addresses, with their prefix lengths.
    pub addresses: Vec<SafeText>,
}

/// The guest is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Ready {
    /// Nanoseconds since the boot stub began.
    pub ns: u64,
    /// Virtual services.
    #[serde(default)]
    pub services: u64,
    /// Destinations of all services together.
    #[serde(default)]
    pub destinations: u64,
    /// Lines of the rule file that could not be followed.
    #[serde(default)]
    pub rules_failed: u64,
}

/// What was balanced: by a service, or to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Traffic {
    /// Connections since the counters were zeroed.
    #[serde(default)]
    pub connections: u64,
    /// Packets from clients.
    #[serde(default)]
    pub in_packets: u64,
    /// Packets to clients.
    #[serde(default)]
    pub out_packets: u64,
    /// Bytes from clients.
    #[serde(default)]
    pub in_bytes: u64,
    /// Bytes to clients.
    #[serde(default)]
    pub out_bytes: u64,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Service {
    /// `tcp` or `udp`.
    #[serde(default)]
    pub protocol: SafeText,
    /// The virtual address.
    #[serde(default)]
    pub address: SafeText,
    /// The virtual port.
    #[serde(default)]
    pub port: u64,
    /// The scheduler's name.
    #[serde(default)]
    pub scheduler: SafeText,
    /// How many destinations it has.
    #[serde(default)]
    pub destinations: u64,
    /// What it has balanced.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// A destination of the service named last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Destination {
    /// The service's protocol.
    #[serde(default)]
    pub protocol: SafeText,
    /// The service's address.
    #[serde(default)]
    pub service_address: SafeText,
    /// The service's port.
    #[serde(default)]
    pub service_port: u64,
    /// The server's address.
    #[serde(default)]
    pub address: SafeText,
    /// The server's port.
    #[serde(default)]
    pub port: u64,
    /// How packets get there: `masq`, `direct`.
    #[serde(default)]
    pub forwarding: SafeText,
    /// Its weight.
    #[serde(default)]
    pub weight: u64,
    /// Connections that are established.
    #[serde(default)]
    pub active: u64,
    /// Connections that are not, or no more.
    #[serde(default)]
    pub inactive: u64,
    /// What went to it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Counters since boot, and gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Status {
    /// Nanoseconds since the boot stub began.
    #[serde(default)]
    pub ns: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Connections balanced since boot.
    pub connections: u64,
    /// Connections in the table now.
    pub active: u64,
    /// Frames dropped, for whatever reason.
    pub drops: u64,
}

/// Frames in circulation since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct RoundTrip {
    /// Nanoseconds since the boot stub began.
    pub ns: u64,
    /// Frames that came back, and were sent again.
    pub returned: u64,
    /// Frames put into circulation: at the start, and whenever none was left.
    pub injected: u64,
    /// Frames that came back changed.
    pub wrong: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_forms() {
        let boot = br#"{"type":"boot","build_id":"ab12","version":"0.1.0","memory":134217728,"transport":"mmio",
            "features":4294967296,"queue_size":256,"mac":"52:54:00:12:34:02","addresses":["10.0.0.2/24"],"new":[1]}"#;
        let Record::Boot(boot) = Record::parse(boot).unwrap() else { panic!("another record") };
        assert_eq!((boot.queue_size, &*boot.addresses[0]), (256, "10.0.0.2/24"));
        let status = br#"{"type":"status","rx_packets":1,"tx_packets":2,"rx_bytes":3,"tx_bytes":4,"connections":5,"active":6,"drops":7}"#;
        assert!(matches!(Record::parse(status), Ok(Record::Status(Status { connections: 5, drops: 7, .. }))));
    }

    #[test]
    fn refuses_the_rest() {
        let deep = "[".repeat(100_000);
        for bad in
            ["", "{}", "null", r#"{"type":"other"}"#, r#"{"type":"ready"}"#, r#"{"type":"ready","ns":-1}"#, &deep]
        {
            assert!(Record::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(40)]);
        }
    }

    #[test]
    fn escapes_in_json_do_not_smuggle_control_characters() {
        let boot = r#"{"type":"boot","build_id":"\u001b[2J","version":"","memory":0,"transport":"","features":0,"queue_size":0,"mac":"","addresses":[]}"#;
        let Record::Boot(boot) = Record::parse(boot.as_bytes()).unwrap() else { panic!("another record") };
        assert_eq!(&*boot.build_id, r"\x1b[2J");
    }
}
