//! The results, as JSON: ours (`send_results` in iperf3's source) and the client's.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::message::Refusal;
use super::parameters::{Parameters, Protocol};
use crate::status::VERSION;

/// What the streams were sent with.
pub(crate) const CONGESTION_CONTROL: &str = "reno";

/// Ours.
#[derive(Serialize)]
struct Document<'a> {
    /// Percent of a processor.
    cpu_util_total: f64,
    cpu_util_user: f64,
    cpu_util_system: f64,
    /// 0: they are not counted; -1: we send nothing.
    sender_has_retransmits: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    congestion_used: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_output_text: Option<&'a str>,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    id: u32,
    bytes: u64,
    /// -1: not known.
    retransmits: i32,
    jitter: f64,
    errors: u64,
    omitted_errors: u64,
    packets: u64,
    omitted_packets: u64,
    /// Seconds, from the end of what was omitted.
    start_time: f64,
    end_time: f64,
}

/// What there is to tell besides the streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary<'a> {
    /// What the client wanted.
    pub parameters: &'a Parameters,
    /// Seconds that count.
    pub seconds: f64,
    /// Percent of the time in which the processor was not asleep.
    pub busy: f64,
}

/// Our results.
pub(crate) fn document<'a>(summary: &Summary<'_>, flows: impl Iterator<Item = &'a Flow> + Clone) -> Vec<u8> {
    let Summary { parameters, seconds, busy } = *summary;
    let streams = flows.clone().map(|flow| {
        let ((packets, omitted_packets), (errors, omitted_errors)) = (flow.packets(), flow.lost());
        Stream {
            id: flow.id,
            bytes: flow.counted(),
            retransmits: -1,
            jitter: flow.jitter(),
            errors,
            omitted_errors,
            packets,
            omitted_packets,
            start_time: 0.0,
            end_time: seconds,
        }
    });
    let text = parameters.server_output.then(|| text(summary, flows.clone()));
    let sends = flows.clone().any(|flow| flow.sends);
    let document = Document {
        cpu_util_total: busy,
        // All of this machine's code is its user's.
        cpu_util_user: busy,
        cpu_util_system: 0.0,
        sender_has_retransmits: if sends { 0 } else { -1 },
        congestion_used: (parameters.protocol == Protocol::Tcp).then_some(CONGESTION_CONTROL),
        server_output_text: text.as_deref(),
        streams: streams.collect(),
    };
    // Numbers, and text without control characters: nothing in it cannot be written.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// What `--get-server-output` shows: a line for each stream.
fn text<'a>(summary: &Summary<'_>, flows: impl Iterator<Item = &'a Flow>) -> String {
    let Summary { parameters, seconds, busy } = *summary;
    let protocol = if parameters.protocol == Protocol::Tcp { "TCP" } else { "UDP" };
    let mut text = String::new();
    // A `String` takes all it is given.
    let _ = writeln!(
        text,
        "Ringlet {VERSION}: {protocol}, {} streams, processor {busy:.1}% busy",
        parameters.streams_in_all()
    );
    let _ = writeln!(text, "[ ID] Interval           Transfer     Bitrate");
    for flow in flows {
        let bytes = flow.counted() as f64;
        let rate = if seconds > 0.0 { bytes * 8.0 / seconds / 1e6 } else { 0.0 };
        let role = if flow.sends { "sender" } else { "receiver" };
        let _ = write!(
            text,
            "[{:3}] 0.00-{seconds:.2} sec  {:.2} MBytes  {rate:.1} Mbits/sec",
            flow.id,
            bytes / (1 << 20) as f64
        );
        if parameters.protocol == Protocol::Udp && !flow.sends {
            let ((packets, before), (lost, lost_before)) = (flow.packets(), flow.lost());
            let (lost, packets) = (lost.saturating_sub(lost_before), packets - before);
            let _ = write!(text, "  {:.3} ms  {lost}/{packets}", flow.jitter() * 1e3);
        }
        let _ = writeln!(text, "  {role}");
    }
    text
}

/// The client's, of which nothing is needed here.
#[derive(Deserialize)]
struct Theirs {}

/// Whether this is a client's results.
///
/// # Errors
/// If it is not a JSON object.
pub(crate) fn check(json: &[u8]) -> Result<(), Refusal> {
    serde_json::from_slice::<Theirs>(json).map(|_| ()).map_err(|_| Refusal::Results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_there_that_clients_insist_on() {
        let parameters =
            Parameters::parse(br#"{"udp":true,"bidirectional":true,"get_server_output":1}"#).expect("parameters");
        let mut flows = [Flow::new(0, false), Flow::new(1, true)];
        flows[0].moved(1_000_000);
        flows[1].moved(2_000_000);
        let summary = Summary { parameters: &parameters, seconds: 2.0, busy: 42.5 };
        let value: serde_json::Value = serde_json::from_slice(&document(&summary, flows.iter())).expect("JSON");
        assert_eq!(value["cpu_util_total"], 42.5);
        assert_eq!(value["sender_has_retransmits"], 0);
        assert_eq!(value.get("congestion_used"), None);
        assert_eq!(value["streams"][1]["id"], 3);
        assert_eq!(
            (&value["streams"][0]["bytes"], &value["streams"][1]["bytes"]),
            (&1_000_000.into(), &2_000_000.into())
        );
        for member in [
            "retransmits",
            "jitter",
            "errors",
            "omitted_errors",
            "packets",
            "omitted_packets",
            "start_time",
            "end_time",
        ] {
            assert!(value["streams"][0][member].is_number(), "{member}");
        }
        let text = value["server_output_text"].as_str().expect("text");
        assert!(text.contains("4.0 Mbits/sec") && text.contains("8.0 Mbits/sec  sender"), "{text}");
    }
}
