//! What a client wants of a test: the JSON that it sends after its cookie (`send_parameters` in iperf3's source).

use serde::Deserialize;

use super::message::Refusal;

/// The most streams in each direction.
pub const MOST_STREAMS: usize = 64;
/// The longest test, and the longest time at its begin that does not count, in seconds: iperf3's own limits.
const LONGEST_TEST: f64 = 86_400.0;
const LONGEST_OMIT: f64 = 600.0;
/// The largest block of TCP, window and segment size, in bytes: iperf3's own limits.
const LARGEST_BLOCK: f64 = (1 << 20) as f64;
const LARGEST_WINDOW: f64 = (512 << 20) as f64;
const LARGEST_MSS: f64 = (9 << 10) as f64;
/// Datagrams: room for the header, and what fits into an IP packet.
const SMALLEST_DATAGRAM: f64 = 16.0;
const LARGEST_DATAGRAM: f64 = 65_507.0;
/// The longest burst in blocks: iperf3's own limit.
const LONGEST_BURST: f64 = 1000.0;
/// Payload of a datagram where the client does not say, in bytes (`DEFAULT_UDP_BLKSIZE`).
const DEFAULT_DATAGRAM: usize = 1460;
/// Bytes that iperf3 writes to TCP at a time.
const DEFAULT_BLOCK: usize = 128 << 10;

/// The protocol of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client.
    Forward,
    /// We do (`--reverse`).
    Reverse,
    /// Both (`--bidir`): the first half of the streams is the client's to send on.
    Both,
}

/// A test, as far as it concerns the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Of the streams.
    pub protocol: Protocol,
    /// Who sends.
    pub direction: Direction,
    /// Streams in each direction, 1 to [`MOST_STREAMS`].
    pub streams: usize,
    /// Seconds the test is to take after what is omitted; 0 if it ends by an amount of data.
    pub seconds: u64,
    /// Seconds at the beginning that do not count.
    pub omit: u64,
    /// Bytes of a datagram's payload, or of a block of TCP.
    pub block: usize,
    /// Bits a second at which each stream sends; 0 for as fast as it can.
    pub rate: u64,
    /// The size of a stream's buffer in bytes, if the client wants a certain one (`--window`).
    pub window: Option<usize>,
    /// Datagrams are numbered with 64 bits.
    pub wide_counters: bool,
    /// What is sent is to be `0123456789` over and over.
    pub repeating_payload: bool,
    /// The client wants to show what the server has to say.
    pub server_output: bool,
}

/// The document. All numbers are floating-point, as in cJSON, which writes large ones with an exponent.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Document {
    tcp: bool,
    udp: bool,
    sctp: bool,
    omit: f64,
    server_affinity: f64,
    time: f64,
    num: f64,
    blockcount: f64,
    #[serde(rename = "MSS")]
    mss: f64,
    parallel: Option<f64>,
    reverse: bool,
    bidirectional: bool,
    window: f64,
    len: f64,
    bandwidth: f64,
    fqrate: f64,
    burst: f64,
    #[serde(rename = "TOS")]
    tos: f64,
    flowlabel: f64,
    get_server_output: f64,
    udp_counters_64bit: f64,
    repeating_payload: f64,
}

/// A whole number from `least` to `most`.
fn whole(value: f64, least: f64, most: f64, refusal: Refusal) -> Result<u64, Refusal> {
    // Anything that is not a number fails this too.
    if (least..=most).contains(&value) { Ok(value as u64) } else { Err(refusal) }
}

impl Parameters {
    /// Reads them. What iperf3's own server takes note of and cannot be done here is refused; what it does not know is
    /// ignored, as it does.
    ///
    /// # Errors
    /// If they make no sense, or something is asked for that cannot be had.
    pub fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let document: Document = serde_json::from_slice(json).map_err(|_| Refusal::Parameters)?;
        if document.sctp {
            return Err(Refusal::Sctp);
        }
        let protocol = match (document.tcp, document.udp) {
            (_, true) => Protocol::Udp,
            (true, false) => Protocol::Tcp,
            (false, false) => return Err(Refusal::Protocol),
        };
        let direction = match (document.reverse, document.bidirectional) {
            (false, false) => Direction::Forward,
            (true, false) => Direction::Reverse,
            (false, true) => Direction::Both,
            (true, true) => return Err(Refusal::BothReverseAndBidirectional),
        };
        let streams = whole(document.parallel.unwrap_or(1.0), 1.0, MOST_STREAMS as f64, Refusal::Streams)?;
        whole(document.server_affinity, 0.0, 0.0, Refusal::Affinity)?;
        whole(document.tos, 0.0, 0.0, Refusal::TypeOfService)?;
        whole(document.flowlabel, 0.0, 0.0, Refusal::FlowLabel)?;
        // The client keeps its segments to it, and announces it to us.
        whole(document.mss, 0.0, LARGEST_MSS, Refusal::SegmentSize)?;
        whole(document.burst, 0.0, LONGEST_BURST, Refusal::Burst)?;
        // The client sees to these, and ends the test.
        whole(document.num, 0.0, f64::MAX, Refusal::Parameters)?;
        whole(document.blockcount, 0.0, f64::MAX, Refusal::Parameters)?;
        let block = match protocol {
            Protocol::Tcp => match whole(document.len, 0.0, LARGEST_BLOCK, Refusal::BlockSize)? {
                0 => DEFAULT_BLOCK,
                length => length as usize,
            },
            Protocol::Udp if document.len == 0.0 => DEFAULT_DATAGRAM,
            Protocol::Udp => whole(document.len, SMALLEST_DATAGRAM, LARGEST_DATAGRAM, Refusal::DatagramSize)? as usize,
        };
        let rate = whole(document.bandwidth, 0.0, f64::MAX, Refusal::Parameters)?;
        // `--fq-rate` is a rate too, that Linux would keep.
        let rate = match (rate, whole(document.fqrate, 0.0, f64::MAX, Refusal::Parameters)?) {
            (0, rate) | (rate, 0) => rate,
            (one, other) => one.min(other),
        };
        let window = match whole(document.window, 0.0, LARGEST_WINDOW, Refusal::Window)? {
            0 => None,
            window => Some(window as usize),
        };
        Ok(Self {
            protocol,
            direction,
            streams: streams as usize,
            seconds: whole(document.time, 0.0, LONGEST_TEST, Refusal::Duration)?,
            omit: whole(document.omit, 0.0, LONGEST_OMIT, Refusal::Omit)?,
            block,
            rate,
            window,
            wide_counters: document.udp_counters_64bit != 0.0,
            repeating_payload: document.repeating_payload != 0.0,
            server_output: document.get_server_output != 0.0,
        })
    }

    /// Streams in both directions together.
    #[must_use]
    pub fn streams_in_all(&self) -> usize {
        self.streams * if self.direction == Direction::Both { 2 } else { 1 }
    }

    /// Whether we send on the `nth` stream, counted from 0.
    #[must_use]
    pub fn sends(&self, nth: usize) -> bool {
        match self.direction {
            Direction::Forward => false,
            Direction::Reverse => true,
            Direction::Both => nth >= self.streams,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_iperf3_sends_is_understood() {
        // From the source of 3.12 and of 3.20, by `iperf3 -c HOST -u -P 3 --bidir -b 1G -w 512K` and by `iperf3 -c HOST -R`.
        let udp = Parameters::parse(
            br#"{"udp":true,"omit":1,"time":10,"num":0,"blockcount":0,"parallel":3,"bidirectional":true,"window":524288,
            "len":1448,"bandwidth":1000000000,"pacing_timer":1000,"gso":0,"udp_counters_64bit":1,"client_version":"3.20"}"#,
        );
        let expected = Parameters {
            protocol: Protocol::Udp,
            direction: Direction::Both,
            streams: 3,
            seconds: 10,
            omit: 1,
            block: 1448,
            rate: 1_000_000_000,
            window: Some(512 << 10),
            wide_counters: true,
            repeating_payload: false,
            server_output: false,
        };
        assert_eq!(udp, Ok(expected));
        assert_eq!((expected.streams_in_all(), expected.sends(2), expected.sends(3)), (6, false, true));
        let tcp = Parameters::parse(
            br#"{"tcp":true,"omit":0,"time":0,"num":1.23456789012346e+17,"blockcount":0,"parallel":1,"reverse":true,
            "len":131072,"pacing_timer":1000,"get_server_output":1,"repeating_payload":1,"title":"x","nodelay":true,
            "congestion":"bbr","authtoken":"AAA","client_version":"3.12"}"#,
        )
        .unwrap();
        assert_eq!(
            (tcp.protocol, tcp.direction, tcp.seconds, tcp.block),
            (Protocol::Tcp, Direction::Reverse, 0, 131_072)
        );
        assert!(tcp.repeating_payload && tcp.server_output && tcp.sends(0));
        let least = Parameters::parse(br#"{"tcp":true}"#).unwrap();
        assert_eq!((least.streams, least.rate, least.window), (1, 0, None));
        let paced = Parameters::parse(br#"{"tcp":true,"bandwidth":5e9,"fqrate":1e6}"#).unwrap();
        assert_eq!(paced.rate, 1_000_000);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_reason() {
        for (more, refusal) in [
            (r#""sctp":true"#, Refusal::Sctp),
            (r#""reverse":true,"bidirectional":true"#, Refusal::BothReverseAndBidirectional),
            (r#""parallel":65"#, Refusal::Streams),
            (r#""parallel":0"#, Refusal::Streams),
            (r#""parallel":-1"#, Refusal::Streams),
            (r#""time":86401"#, Refusal::Duration),
            (r#""omit":601"#, Refusal::Omit),
            (r#""len":1048577"#, Refusal::BlockSize),
            (r#""len":-1"#, Refusal::BlockSize),
            (r#""udp":true,"len":15"#, Refusal::DatagramSize),
            (r#""udp":true,"len":65508"#, Refusal::DatagramSize),
            (r#""window":1e12"#, Refusal::Window),
            (r#""MSS":10000"#, Refusal::SegmentSize),
            (r#""burst":1001"#, Refusal::Burst),
            (r#""TOS":16"#, Refusal::TypeOfService),
            (r#""flowlabel":7"#, Refusal::FlowLabel),
            (r#""server_affinity":1"#, Refusal::Affinity),
            (r#""num":-5"#, Refusal::Parameters),
            (r#""time":"ten""#, Refusal::Parameters),
            (r#""time":null"#, Refusal::Parameters),
            (r#""tcp":false"#, Refusal::Protocol),
        ] {
            let tcp = if more.contains("tcp") { "" } else { r#""tcp":true,"# };
            let json = std::format!("{{{tcp}{more}}}");
            assert_eq!(Parameters::parse(json.as_bytes()), Err(refusal), "{json}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_within_its_limits(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            numbers in proptest::array::uniform5(any::<f64>()),
        ) {
            let _ = Parameters::parse(&bytes);
            let [parallel, time, len, bandwidth, window] = numbers.map(|n| if n.is_finite() { n % 2e6 } else { 0.0 });
            let json = std::format!(
                r#"{{"udp":true,"parallel":{parallel},"time":{time},"len":{len},"bandwidth":{bandwidth},"window":{window}}}"#
            );
            if let Ok(parameters) = Parameters::parse(json.as_bytes()) {
                prop_assert!((1..=MOST_STREAMS).contains(&parameters.streams) && parameters.seconds <= 86_400);
                prop_assert!((16..=65_507).contains(&parameters.block));
            }
        }
    }
}
